"""What a writer finds when it opens a spool: its segments, where each ends and what each weighs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from transport.log import LogError
from transport.segment import SEGMENT_HEADER_BYTES, SegmentHeader, checksum_seed
from transport.segment_walk import read_payload, read_segment_header, walk
from transport.spool_directory import segment_path


@dataclass(slots=True)
class KeptSegment:
    """A segment as its writer knows it."""

    base_offset: int
    next_offset: int
    size_bytes: int  # up to the end of the last whole record; the file may be longer where a write failed
    weight_before: int  # running totals of the weights, at its ends
    weight_after: int
    boot_id: UUID
    lost_records: int = 0  # begun after the last whole one


def survey(directory: Path, spool: UUID, bases: Sequence[int]) -> list[KeptSegment]:
    """The segments of a spool, of which only the last is read through. Raises LogError, OSError.

    A segment ends where the header of the next one says so; where that is damaged, the segment is read through instead.
    """
    kept: list[KeptSegment] = []
    seed = checksum_seed(spool)
    headers = [_header_of(directory, spool, base) for base in bases]
    for index, base in enumerate(bases):
        header = headers[index]
        next_header = headers[index + 1] if index + 1 < len(bases) else None
        fd = os.open(segment_path(directory, base), os.O_RDONLY | os.O_CLOEXEC)
        try:
            if header is not None and next_header is not None:
                segment = KeptSegment(
                    base_offset=base,
                    next_offset=next_header.previous_next,
                    size_bytes=os.fstat(fd).st_size,
                    weight_before=header.weight_before,
                    weight_after=next_header.weight_before,
                    boot_id=header.boot_id,
                )
            else:
                before = header.weight_before if header else kept[-1].weight_after if kept else None
                segment = _read_through(fd, seed, base, before)
                segment.boot_id = header.boot_id if header else UUID(int=0)  # of no kernel: its end is in doubt
                if index + 1 < len(bases):
                    segment.size_bytes = os.fstat(fd).st_size
        finally:
            os.close(fd)
        kept.append(segment)
    return kept


def _header_of(directory: Path, spool: UUID, base_offset: int) -> SegmentHeader | None:
    """The header of a segment; None where it is damaged."""
    path = segment_path(directory, base_offset)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        header = read_segment_header(fd)
    finally:
        os.close(fd)
    if header is not None and (header.spool != spool or header.base_offset != base_offset):
        raise LogError(f"{path} belongs to another spool; move it out of {directory}")
    return header


def _read_through(fd: int, seed: int, base_offset: int, weight_before: int | None) -> KeptSegment:
    """A segment by its records. Where weight_before is not known, the first record tells."""
    found = KeptSegment(
        base_offset, base_offset, SEGMENT_HEADER_BYTES, weight_before or 0, weight_before or 0, UUID(int=0)
    )
    begun_end = SEGMENT_HEADER_BYTES
    for position, header in walk(fd, seed, SEGMENT_HEADER_BYTES, base_offset):
        if weight_before is None:
            found.weight_before = weight_before = header.weight_before
        begun_end = position + header.record_bytes
        if read_payload(fd, position, header) is None:
            found.lost_records += 1
            continue
        found.lost_records = 0
        found.next_offset = header.offset + 1
        found.weight_after = header.weight_before + header.weight
        found.size_bytes = begun_end
    if os.fstat(fd).st_size > begun_end:
        found.lost_records += 1
    return found
