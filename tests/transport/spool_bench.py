"""A spool in a directory of the test's own, with clocks that the test sets."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from pathlib import Path

from settings import KiB
from transport.log import Fetched, Message
from transport.spool import SpoolConfig, SpoolReader, SpoolWriter

BOOT = uuid.UUID(int=1)


@dataclass
class Bench:
    """Makes writers and readers of one spool; `time_us` and `seconds` are its clocks."""

    directory: Path
    time_us: int = 1_000_000
    seconds: float = 0.0
    boot_id: uuid.UUID = BOOT
    opened: list[SpoolWriter] = field(default_factory=list)

    def writer(
        self, *, max_bytes: int = 64 * KiB, segment_bytes: int = 4 * KiB, fsync_seconds: float = 1e9
    ) -> SpoolWriter:
        """An open writer, closed at the end of the test."""
        writer = SpoolWriter(
            SpoolConfig(self.directory, max_bytes, segment_bytes, fsync_seconds),
            clock_us=lambda: self.time_us,
            monotonic_seconds=lambda: self.seconds,
            boot_id=lambda: self.boot_id,
        )
        writer.open()
        self.opened.append(writer)
        return writer

    def reader(self) -> SpoolReader:
        return SpoolReader(self.directory)

    def segments(self) -> list[Path]:
        return sorted(self.directory.glob("*.segment"))

    def used_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.segments())


def read_to_end(reader: SpoolReader, first: int = 0, max_bytes: int = 1 << 20) -> Fetched:
    """Everything from `first` on, read in pieces."""
    messages: list[Message] = []
    corrupt: list[int] = []
    while True:
        fetched = reader.read(first, stop_before=None, appended_before_us=None, max_bytes=max_bytes)
        messages += fetched.messages
        corrupt += fetched.corrupt
        if fetched.next_offset == first:
            return Fetched(messages, first, corrupt)
        first = fetched.next_offset
