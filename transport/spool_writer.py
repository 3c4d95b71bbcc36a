"""The writing end of a spool: appends records to segments, keeps the bound, repairs what a crash left.

How safe: append returns when write(2) has taken the record, so a killed process loses nothing that it was told is kept.
fsync comes when a segment is closed, and on an append more than fsync_seconds after the last one: that much is lost at
most when the machine loses power (with 0 nothing is). A segment has its name only once its header is synced.

Offsets are never given twice, also not when power loss took records that a reader has already seen: where the end of
the log is in doubt, it goes on in a new segment, at an offset that cannot have been used.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from transport.config import SpoolConfig
from transport.log import Appended, Evicted, LogError
from transport.segment import (
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    SEGMENT_OFFSETS,
    RecordHeader,
    SegmentHeader,
    checksum_seed,
    pack_record_header,
    pack_segment_header,
    payload_crc,
)
from transport.segment_walk import walk
from transport.spool_directory import (
    NEW_SUFFIX,
    explained,
    lock_for_writing,
    read_committed,
    read_identity,
    segment_bases,
    segment_path,
    sync_directory,
    write_identity,
    write_whole,
)
from transport.spool_survey import KeptSegment, survey


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What was cut off the end of the log when it was opened: records that a crash left unfinished or unsynced.

    lost_records: records that were begun there, as far as their headers tell.
    """

    cut_bytes: int = 0
    lost_records: int = 0


def now_us() -> int:
    """Microseconds UTC."""
    return time.time_ns() // 1000


def this_boot() -> uuid.UUID:
    """Source: random(4), boot_id is made anew at every boot."""
    return uuid.UUID(Path("/proc/sys/kernel/random/boot_id").read_text().strip())


class SpoolWriter:
    """LogWriter on a directory. One at a time: the lock is held from open to close.

    with SpoolWriter(config) as writer:
        writer.append(key, value, weight)
    """

    def __init__(
        self,
        config: SpoolConfig,
        *,
        clock_us: Callable[[], int] = now_us,
        monotonic_seconds: Callable[[], float] = time.monotonic,
        boot_id: Callable[[], uuid.UUID] = this_boot,
    ) -> None:
        self.config = config
        self.repaired = RepairReport()
        self._directory = config.directory
        self._clock_us = clock_us
        self._monotonic_seconds = monotonic_seconds
        self._boot_id_of_kernel = boot_id
        self._lock_fd = -1
        self._fd = -1
        self._segments: list[KeptSegment] = []
        self._evicted: list[Evicted] = []

    def __enter__(self) -> SpoolWriter:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> RepairReport:
        """Take the lock, make the spool where there is none, repair its end. Raises LogError."""
        with explained("open", self._directory):
            self._directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            with contextlib.suppress(PermissionError):  # what lies above may be closed to us
                sync_directory(self._directory.parent)
            self._lock_fd = lock_for_writing(self._directory)
            try:
                self._open_locked()
            except BaseException:
                self._give_back()
                raise
        return self.repaired

    def close(self) -> None:
        """Sync, and give the lock back. Raises LogError where the sync failed; the lock is given back all the same."""
        if self._lock_fd < 0:
            return
        try:
            if not self._in_doubt:
                self.sync()
        finally:
            self._give_back()

    def append(self, key: bytes, value: bytes, weight: int) -> Appended:
        """See LogWriter. Raises LogError: where the disk is full or broken; the next append tries again."""
        record_bytes = RECORD_HEADER_BYTES + len(key) + len(value)
        if record_bytes + 2 * SEGMENT_HEADER_BYTES > self.config.max_bytes:
            raise LogError(f"a message of {record_bytes} bytes does not fit the spool; raise FLOWLAKE_SPOOL_MAX_BYTES")
        with explained("append to", self._directory):
            self._cut_partial_record()
            if self._must_roll(record_bytes):
                self._roll()
            self._make_room(record_bytes)
            offset = self._write(key, value, weight)
            if self._monotonic_seconds() - self._synced_at >= self.config.fsync_seconds:
                self._sync()
        evicted, self._evicted = self._evicted, []
        return Appended(offset, evicted)

    def sync(self) -> None:
        """fsync now what is not yet; for a writer that falls idle. Raises LogError."""
        with explained("sync", self._directory):
            self._sync()

    def trim(self) -> None:
        """Delete the segments that a reader has said are kept elsewhere (also done whenever a segment is closed)."""
        with explained("trim", self._directory):
            self._trim()

    def _open_locked(self) -> None:
        for leftover in self._directory.glob("*.segment" + NEW_SUFFIX):
            leftover.unlink()
        self._boot_id = self._boot_id_of_kernel()
        self._in_doubt = (
            False  # an fsync failed: the kernel has dropped the error, and what of the file is on disk is unknown
        )
        self._unsynced = True  # what a killed process wrote is in the page cache only
        self._synced_at = self._monotonic_seconds()
        bases = segment_bases(self._directory)
        spool = read_identity(self._directory)
        if spool is None and bases:
            raise LogError(
                f"{self._directory} holds segments but no spool.json; move them away, and the sidecar makes a new spool"
            )
        if spool is None or not bases:
            # Without segments nobody knows which offsets were used: another log, which counts from 0.
            spool = uuid.uuid4()
            write_identity(self._directory, spool)
        self._spool = spool
        self._seed = checksum_seed(spool)
        self._segments = survey(self._directory, spool, bases)
        self._total_bytes = sum(segment.size_bytes for segment in self._segments)
        if not self._segments:
            self._begin_segment(base_offset=0)
        else:
            self._continue_last()

    def _continue_last(self) -> None:
        last = self._segments[-1]
        path = segment_path(self._directory, last.base_offset)
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        cut_bytes = max(0, path.stat().st_size - last.size_bytes)
        self.repaired = RepairReport(cut_bytes, last.lost_records)
        if cut_bytes:
            os.ftruncate(self._fd, last.size_bytes)
        if cut_bytes or last.boot_id != self._boot_id:
            self._sync()
            self._begin_segment(base_offset=last.base_offset + SEGMENT_OFFSETS)

    def _must_roll(self, record_bytes: int) -> bool:
        active = self._segments[-1]
        full = (
            active.size_bytes + record_bytes > self.config.segment_bytes
            or active.next_offset == active.base_offset + SEGMENT_OFFSETS
        )
        return (full and active.next_offset > active.base_offset) or self._in_doubt

    def _roll(self) -> None:
        if not self._in_doubt:
            self._sync()
        self._begin_segment(self._segments[-1].next_offset)
        self._trim()

    def _begin_segment(self, base_offset: int) -> None:
        """Close the active segment and begin the next, whose header is on disk before anybody can see it."""
        previous_next, weight = 0, 0
        if self._segments:
            before = self._segments[-1]
            previous_next, weight = before.next_offset, before.weight_after
            base_offset = max(base_offset, before.base_offset + 1)  # an empty segment in doubt keeps its name
        header = SegmentHeader(self._spool, self._boot_id, base_offset, previous_next, weight)
        path = segment_path(self._directory, base_offset)
        write_whole(path, pack_segment_header(header))
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        self._in_doubt = False
        self._unsynced = False
        self._segments.append(
            KeptSegment(base_offset, base_offset, SEGMENT_HEADER_BYTES, weight, weight, self._boot_id)
        )
        self._total_bytes += SEGMENT_HEADER_BYTES

    def _make_room(self, record_bytes: int) -> None:
        while self._total_bytes + record_bytes > self.config.max_bytes:
            if len(self._segments) == 1:
                self._roll()
            committed = read_committed(self._directory, self._spool, self._segments[-1].next_offset)
            oldest = self._segments[0]
            first = max(oldest.base_offset, committed)
            weight = oldest.weight_after - self._weight_before(oldest, first)
            self._delete_oldest()
            if first < oldest.next_offset:
                self._evicted.append(Evicted(first, oldest.next_offset, oldest.next_offset - first, weight))

    def _weight_before(self, segment: KeptSegment, offset: int) -> int:
        """The running total of weights at an offset of a segment."""
        if offset <= segment.base_offset:
            return segment.weight_before
        fd = os.open(segment_path(self._directory, segment.base_offset), os.O_RDONLY | os.O_CLOEXEC)
        try:
            for _, header in walk(fd, self._seed, SEGMENT_HEADER_BYTES, segment.base_offset):
                if header.offset >= offset:
                    return header.weight_before
        finally:
            os.close(fd)
        return segment.weight_after

    def _trim(self) -> None:
        committed = read_committed(self._directory, self._spool, self._segments[-1].next_offset)
        while len(self._segments) > 1 and self._segments[0].next_offset <= committed:
            self._delete_oldest()

    def _delete_oldest(self) -> None:
        oldest = self._segments[0]
        segment_path(self._directory, oldest.base_offset).unlink(missing_ok=True)
        # Or a power loss brings it back, and what it held is counted as dropped once more.
        del self._segments[0]
        self._total_bytes -= oldest.size_bytes
        sync_directory(self._directory)

    def _write(self, key: bytes, value: bytes, weight: int) -> int:
        active = self._segments[-1]
        header = RecordHeader(
            offset=active.next_offset,
            append_time_us=self._clock_us(),
            weight=weight,
            weight_before=active.weight_after,
            key_bytes=len(key),
            value_bytes=len(value),
            payload_crc=payload_crc(key, value),
        )
        self._unsynced = True
        end = active.size_bytes
        parts = [memoryview(part) for part in (pack_record_header(header, self._seed), key, value) if part]
        try:
            while parts:
                written = os.pwritev(self._fd, parts, end)
                end += written
                parts = _rest(parts, written)
        except OSError:
            with contextlib.suppress(OSError):
                self._cut_partial_record()
            raise
        active.next_offset += 1
        active.weight_after += weight
        active.size_bytes = end
        self._total_bytes += header.record_bytes
        return header.offset

    def _cut_partial_record(self) -> None:
        """Cut what a failed write left after the last whole record."""
        if os.fstat(self._fd).st_size > self._segments[-1].size_bytes:
            os.ftruncate(self._fd, self._segments[-1].size_bytes)

    def _sync(self) -> None:
        if self._unsynced:
            try:
                os.fdatasync(self._fd)
            except OSError:
                self._in_doubt = True
                raise
        self._unsynced = False
        self._synced_at = self._monotonic_seconds()

    def _give_back(self) -> None:
        for fd in (self._fd, self._lock_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._lock_fd = -1


def _rest(parts: list[memoryview], written: int) -> list[memoryview]:
    """What is left to write of parts."""
    while parts and written >= len(parts[0]):
        written -= len(parts[0])
        parts = parts[1:]
    return [parts[0][written:], *parts[1:]] if parts else []
