"""Walking over the records of an open segment file, past damaged bytes, while it may still be written.

Everything is read with pread: a mapping would end in SIGBUS when the writer cuts off a torn tail.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from transport.segment import (
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    RecordHeader,
    SegmentHeader,
    find_record_header,
    payload_crc,
    unpack_record_header,
    unpack_segment_header,
)

_SEARCH_BYTES = 1 << 20


def read_segment_header(fd: int) -> SegmentHeader | None:
    """None where it is damaged."""
    return unpack_segment_header(os.pread(fd, SEGMENT_HEADER_BYTES, 0))


def walk(fd: int, seed: int, position: int, lowest_offset: int) -> Iterator[tuple[int, RecordHeader]]:
    """(position, header) of each record from `position` on whose bytes are all in the file; the payload is unchecked.

    Offsets rise from lowest_offset; where one is missing between two of them, its header was damaged. What follows the
    last one is a record still being written, or a damaged tail: nobody but the writer can tell.
    """
    size = os.fstat(fd).st_size
    while True:
        raw = os.pread(fd, RECORD_HEADER_BYTES, position)
        if len(raw) < RECORD_HEADER_BYTES:
            return
        header = unpack_record_header(raw, seed)
        if header is None or header.offset < lowest_offset:
            found = _search(fd, seed, position + 1, lowest_offset)
            if found is None:
                return
            position, header = found
        end = position + header.record_bytes
        if end > size:
            size = os.fstat(fd).st_size
            if end > size:
                return
        yield position, header
        position = end
        lowest_offset = header.offset + 1


def read_payload(fd: int, position: int, header: RecordHeader) -> tuple[bytes, bytes] | None:
    """(key, value) of the record at position, each copied once; None where they fail their checksum."""
    key_position = position + RECORD_HEADER_BYTES
    key = os.pread(fd, header.key_bytes, key_position)
    value = os.pread(fd, header.value_bytes, key_position + header.key_bytes)
    if len(key) != header.key_bytes or len(value) != header.value_bytes:
        return None
    return (key, value) if payload_crc(key, value) == header.payload_crc else None


def _search(fd: int, seed: int, position: int, lowest_offset: int) -> tuple[int, RecordHeader] | None:
    while True:
        raw = os.pread(fd, _SEARCH_BYTES, position)
        found = find_record_header(raw, seed, lowest_offset)
        if found is not None:
            return position + found[0], found[1]
        if len(raw) < _SEARCH_BYTES:
            return None
        position += _SEARCH_BYTES - RECORD_HEADER_BYTES + 1  # a header may lie across the border
