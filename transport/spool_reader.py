"""The reading end of a spool: any number of them, in other processes, while it is written and before it exists.

The writer alone decides what a damaged end means. So a reader takes bytes after the last valid record for one still
being written, until a valid one or another segment follows: then they are corrupt, and it says which offsets they held.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from transport.log import Fetched, LogError, LogIdentity, Message, OffsetsLost
from transport.segment import SEGMENT_HEADER_BYTES, SEGMENT_OFFSETS, SegmentHeader, checksum_seed
from transport.segment_walk import read_payload, read_segment_header, walk
from transport.spool_directory import explained, read_identity, segment_bases, segment_path, write_committed

# The writer deletes segments between our listing them and opening them; each attempt fails only if it did so again.
_ATTEMPTS = 10

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the files an offset is, or will be."""

    offset: int
    base_offset: int
    position: int


@dataclass(slots=True)
class _Reading:
    """One read, as far as it has come."""

    next_offset: int
    stop_before: int | None
    messages: list[Message] = field(default_factory=list)
    value_bytes: int = 0
    corrupt: list[int] = field(default_factory=list)
    stopped: bool = False

    def pass_over(self, end: int, *, lost: bool) -> None:
        """Go on to offset `end`, but not past where to stop; what lies between was lost, or was never given away."""
        if self.stop_before is not None and end >= self.stop_before:
            end, self.stopped = self.stop_before, True
        if lost:
            self.corrupt.extend(range(self.next_offset, end))
        self.next_offset = max(self.next_offset, end)


class SpoolReader:
    """LogReader on a spool's directory. Not for several threads at once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._spool: UUID | None = None
        self._seed = 0
        self._read_place: _Place | None = None  # of the offset after the last message given: reading on needs no search
        self._end_place: _Place | None = None

    def identity(self) -> LogIdentity:
        """Raises LogError where there is no spool yet."""
        with explained("read", self._directory):
            spool = read_identity(self._directory)
        if spool is None:
            raise LogError(
                f"there is no spool in {self._directory} yet; start the sidecar, or set FLOWLAKE_SPOOL to its directory"
            )
        return LogIdentity(kind="spool", name="spool", uuid=str(spool), partition=0)

    def bounds(self) -> tuple[int, int]:
        """(first offset kept, offset that the next message will get at least); (0, 0) before there is a spool."""
        return self._retrying(self._bounds)

    def read(self, first: int, *, stop_before: int | None, appended_before_us: int | None, max_bytes: int) -> Fetched:
        """See LogReader. Before there is a spool, nothing. Reading stops at the first message not appended before
        appended_before_us, although a clock set back may have made a later one older.
        """
        return self._retrying(lambda: self._read(first, stop_before, appended_before_us, max_bytes))

    def commit(self, next_offset: int) -> None:
        """Tell the writer that everything below next_offset may be deleted. One reader of a spool does so."""
        with explained("commit to", self._directory):
            if self._known():
                assert self._spool is not None
                write_committed(self._directory, self._spool, next_offset)

    def weight_from(self, first: int) -> int:
        """The weights (of batches: flows) of all messages kept from `first` on, corrupt ones included."""
        return self._retrying(lambda: self._weight_from(first))

    def _bounds(self) -> tuple[int, int]:
        bases = self._bases()
        if not bases:
            return 0, 0
        last = bases[-1]
        place = self._end_place
        if place is None or place.base_offset != last:
            place = _Place(last, last, SEGMENT_HEADER_BYTES)
        with self._opened(last) as (fd, _):
            for position, header in walk(fd, self._seed, place.position, place.offset):
                place = _Place(header.offset + 1, last, position + header.record_bytes)
        self._end_place = place
        return bases[0], place.offset

    def _read(self, first: int, stop_before: int | None, appended_before_us: int | None, max_bytes: int) -> Fetched:
        reading = _Reading(first, stop_before)
        bases = self._bases()
        if not bases or (stop_before is not None and first >= stop_before):
            return Fetched((), first)
        if first < bases[0]:
            raise OffsetsLost(first, bases[0])
        # All but the last segment of this listing are closed: only because they were listed before they are read.
        for index in range(bisect_right(bases, first) - 1, len(bases)):
            next_base = bases[index + 1] if index + 1 < len(bases) else None
            self._read_segment(reading, bases[index], appended_before_us, max_bytes)
            if next_base is None or reading.stopped:
                break
            reading.pass_over(self._end_of(bases[index], next_base), lost=True)
            reading.pass_over(next_base, lost=False)
            if reading.stopped:
                break
        return Fetched(reading.messages, reading.next_offset, reading.corrupt)

    def _end_of(self, base_offset: int, next_base: int) -> int:
        """Where a closed segment ended, or as near as can be told: no offset from there to next_base was given away."""
        with self._opened(next_base) as (_, next_header):
            if next_header is not None:
                return next_header.previous_next
        # Its header is damaged. So long a stretch is a writer's leap over an end in doubt, not a million messages.
        return base_offset if next_base == base_offset + SEGMENT_OFFSETS else next_base

    def _read_segment(
        self, reading: _Reading, base_offset: int, appended_before_us: int | None, max_bytes: int
    ) -> None:
        place = self._read_place
        if place is None or place.offset != reading.next_offset or place.base_offset != base_offset:
            place = _Place(base_offset, base_offset, SEGMENT_HEADER_BYTES)
        with self._opened(base_offset) as (fd, _):
            for position, header in walk(fd, self._seed, place.position, place.offset):
                if header.offset < reading.next_offset:
                    continue
                if reading.stop_before is not None and header.offset >= reading.stop_before:
                    reading.pass_over(reading.stop_before, lost=True)
                    return
                late = appended_before_us is not None and header.append_time_us >= appended_before_us
                full = reading.messages and reading.value_bytes + header.value_bytes > max_bytes
                if late or full:
                    reading.stopped = True
                    return
                payload = read_payload(fd, position, header)
                if payload is None:
                    continue  # corrupt, once something valid follows
                reading.pass_over(header.offset, lost=True)
                reading.messages.append(Message(header.offset, header.append_time_us, *payload))
                reading.value_bytes += header.value_bytes
                reading.pass_over(header.offset + 1, lost=False)
                self._read_place = _Place(reading.next_offset, base_offset, position + header.record_bytes)
                if reading.stopped:
                    return

    def _weight_from(self, first: int) -> int:
        bases = self._bases()
        if not bases:
            return 0
        end = self._weight_at(bases[-1], None)
        for base in bases[max(0, bisect_right(bases, first) - 1) :]:
            start = self._weight_at(base, first)
            if start is not None and end is not None:
                return end - start
        return 0

    def _weight_at(self, base_offset: int, first: int | None) -> int | None:
        """The running total of weights at the first record from `first` on; None where the segment has none.

        With None for first: at the segment's end.
        """
        with self._opened(base_offset) as (fd, header):
            end = header.weight_before if header is not None else None
            for _, record in walk(fd, self._seed, SEGMENT_HEADER_BYTES, base_offset):
                if first is not None and record.offset >= first:
                    return record.weight_before
                end = record.weight_before + record.weight
        return end if first is None else None

    def _bases(self) -> list[int]:
        return segment_bases(self._directory) if self._known() else []

    def _known(self) -> bool:
        """Whether there is a spool."""
        if self._spool is None:
            self._spool = read_identity(self._directory)
            if self._spool is not None:
                self._seed = checksum_seed(self._spool)
        return self._spool is not None

    @contextmanager
    def _opened(self, base_offset: int) -> Iterator[tuple[int, SegmentHeader | None]]:
        """(file descriptor, header or None where it is damaged) of a segment."""
        fd = os.open(segment_path(self._directory, base_offset), os.O_RDONLY | os.O_CLOEXEC)
        try:
            header = read_segment_header(fd)
            if header is not None and header.spool != self._spool:
                raise LogError(
                    f"the spool in {self._directory} was made anew, with other offsets; start this process again"
                )
            yield fd, header
        finally:
            os.close(fd)

    def _retrying(self, work: Callable[[], Result]) -> Result:
        with explained("read", self._directory):
            for _ in range(_ATTEMPTS):
                try:
                    return work()
                except FileNotFoundError:
                    continue
            return work()
