"""What the protocol of a partition asks of the world, one small object for each operation.

partition.py is a generator that yields these and is sent their results, or thrown their errors. So the same code runs
against a real store (perform.py), and against a model that stops it anywhere (tests/enricher/test_protocol_model.py).
`result = yield from Get(key)` yields the operation and has the result's type.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeAlias, TypeVar

from enricher.rows import Rejected
from lake.ranges import Done
from transport.log import Fetched

R = TypeVar("R")


class Operation(Generic[R]):
    """One thing to do, with a result of type R."""

    __slots__ = ()

    def __iter__(self) -> Generator[Operation[Any], Any, R]:
        result: R = yield self
        return result


Steps: TypeAlias = Generator[Operation[Any], Any, R]


class Stop(Enum):
    """Whether the partition is to go on."""

    GO_ON = "go on"
    DRAIN = "drain"  # write what the log holds by now, then end
    NOW = "now"  # end before the next range: whatever is unwritten is read again by the next process


@dataclass(frozen=True, slots=True)
class Instant:
    wall_us: int  # microseconds UTC, comparable with append times
    boottime_us: int  # CLOCK_BOOTTIME: goes on while the process, or the whole machine, is suspended
    stop: Stop


@dataclass(frozen=True, slots=True)
class PutIfAbsent(Operation[None]):
    """Store.put_if_absent. Raises ObjectExists, StoreUnavailable."""

    key: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Put(Operation[None]):
    """Store.put, for hints only. Raises StoreUnavailable."""

    key: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Get(Operation[bytes]):
    """Store.get. Raises ObjectMissing, StoreUnavailable."""

    key: str


@dataclass(frozen=True, slots=True)
class List(Operation[tuple[str, ...]]):
    """The keys of Store.list, at most `limit` of them. Raises StoreUnavailable."""

    prefix: str
    start_after: str = ""
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Read(Operation[Fetched]):
    """LogReader.read. Raises OffsetsLost, LogError."""

    first: int
    stop_before: int | None
    appended_before_us: int | None
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Bounds(Operation[tuple[int, int]]):
    """LogReader.bounds: first offset kept, offset of the next message. Raises LogError."""


@dataclass(frozen=True, slots=True)
class Commit(Operation[None]):
    """LogReader.commit: a hint that everything below is in the lake. Raises LogError."""

    next_offset: int


@dataclass(frozen=True, slots=True)
class PublishRejected(Operation[None]):
    """Keep what could not be read where people can look at it, at least once. Raises LogError."""

    rejected: tuple[Rejected, ...]


@dataclass(frozen=True, slots=True)
class Now(Operation[Instant]):
    """The clocks, and whether someone asked to stop."""


@dataclass(frozen=True, slots=True)
class Wait(Operation[None]):
    """Sleep; shorter when someone asks to stop."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Buffered(Operation[bool]):
    """This partition holds so many bytes of messages. True: the process's memory budget is spent, close the range."""

    bytes: int


@dataclass(frozen=True, slots=True)
class Finished(Operation[None]):
    """The chain grew by a finished range, by whoever; told once for each since the start. For counting."""

    done: Done


@dataclass(frozen=True, slots=True)
class Warn(Operation[None]):
    """Say one line loudly."""

    line: str
