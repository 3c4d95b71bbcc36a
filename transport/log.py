"""The log between the processes: messages with offsets. A spool directory is one, a Kafka partition is one.

The writer (sidecar) appends and gets an offset; the reader (enricher, tail) reads on from an offset that it chose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from settings.errors import FlowlakeError


class LogError(FlowlakeError):
    """The log cannot be read or written now; one line that says what to do."""


class OffsetsLost(LogError):
    """The log no longer holds the offset that was asked for: retention or the spool's bound overtook the reader."""

    def __init__(self, wanted: int, first_available: int) -> None:
        super().__init__(f"offset {wanted} is gone from the log, which now begins at {first_available}")
        self.wanted = wanted
        self.first_available = first_available


@dataclass(frozen=True, slots=True)
class LogIdentity:
    """What a log is. A topic or a spool made anew is another log: its offsets begin again."""

    kind: str  # "spool" or "kafka"
    name: str  # what people call it: the topic; "spool" for a directory
    uuid: str  # the spool's UUID; for Kafka "<cluster id>/<topic id>"
    partition: int


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it was appended."""

    offset: int
    append_time_us: int  # by the clock of who keeps the log (broker, or the spool's writer); microseconds UTC
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one read gave.

    messages: in order of their offsets, none of them older than asked for. Offsets may have holes (Kafka's control
        records; spooled batches whose checksum failed, which are counted in `corrupt`).
    next_offset: where to read on; past the holes.
    corrupt: offsets in [asked, next_offset) whose bytes failed their checksum.
    """

    messages: Sequence[Message]
    next_offset: int
    corrupt: Sequence[int] = ()


class LogReader(Protocol):
    """One partition of a log, read by offset. Reading changes nothing; `commit` is a hint that lets the log trim."""

    def identity(self) -> LogIdentity: ...

    def bounds(self) -> tuple[int, int]:
        """(first offset kept, offset that the next message will get)."""
        ...

    def read(self, first: int, *, stop_before: int | None, appended_before_us: int | None, max_bytes: int) -> Fetched:
        """Messages from `first` on: offsets below stop_before, appended before appended_before_us, and about
        max_bytes of values (always one message, however large). Does not wait. Raises OffsetsLost, LogError.
        """
        ...

    def commit(self, next_offset: int) -> None:
        """Everything below next_offset is kept elsewhere for good. May be lost; never to be trusted as the truth."""
        ...


@dataclass(frozen=True, slots=True)
class Evicted:
    """Messages that a full log dropped before any reader said that it had them. Whole, oldest first.

    messages: how many offsets in [first, next_offset) held one.
    weight: the sum of their weights, which for batches is their number of flows.
    """

    first: int
    next_offset: int
    messages: int
    weight: int


@dataclass(frozen=True, slots=True)
class Appended:
    """The offset of the message, and what had to go to make room (since the last append that told)."""

    offset: int
    evicted: Sequence[Evicted] = ()


class LogWriter(Protocol):
    def append(self, key: bytes, value: bytes, weight: int) -> Appended:
        """Add a message, once it is as safe as this log makes it. Raises LogError.

        weight: what is counted of the message if it has to be dropped: for a batch, its flows.
        After a LogError the message may be in the log all the same, as after a lost answer: append the same again.
        """
        ...
