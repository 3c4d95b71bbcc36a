"""A store and a log in memory, and a performer whose clock the test holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from enricher.perform import MemoryBudget, Performer, StopSwitch
from enricher.rows import Rejected
from lake.ranges import Done
from lake.store import ObjectExists, ObjectInfo, ObjectMissing
from transport.log import Fetched, LogIdentity, Message, OffsetsLost

SECOND_US = 1_000_000


@dataclass
class MemoryStore:
    objects: dict[str, bytes] = field(default_factory=dict)

    def put_if_absent(self, key: str, body: bytes) -> None:
        if key in self.objects:
            raise ObjectExists(key)
        self.objects[key] = body

    def put(self, key: str, body: bytes) -> None:
        self.objects[key] = body

    def get(self, key: str) -> bytes:
        if key not in self.objects:
            raise ObjectMissing(key)
        return self.objects[key]

    def list(self, prefix: str, start_after: str = "") -> Iterator[ObjectInfo]:
        for key in sorted(self.objects):
            if key.startswith(prefix) and key > start_after:
                yield ObjectInfo(key, len(self.objects[key]))

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)


@dataclass
class MemoryLog:
    """messages: by offset; None where the bytes failed their checksum."""

    messages: list[Message | None] = field(default_factory=list)
    first: int = 0
    uuid: str = "uuid"
    committed: int | None = None
    partition: int = 0

    def append(self, value: bytes, append_time_us: int = 0) -> None:
        self.messages.append(Message(len(self.messages), append_time_us, b"host", value))

    def identity(self) -> LogIdentity:
        return LogIdentity("spool", "spool", self.uuid, self.partition)

    def bounds(self) -> tuple[int, int]:
        return self.first, len(self.messages)

    def read(self, first: int, *, stop_before: int | None, appended_before_us: int | None, max_bytes: int) -> Fetched:
        if first < self.first:
            raise OffsetsLost(first, self.first)
        taken: list[Message] = []
        corrupt: list[int] = []
        offset = first
        for offset in range(first, min(len(self.messages), stop_before or len(self.messages))):
            message = self.messages[offset]
            if message is None:
                corrupt.append(offset)
                continue
            late = appended_before_us is not None and message.append_time_us >= appended_before_us
            if late or (taken and sum(len(m.value) for m in [*taken, message]) > max_bytes):
                return Fetched(taken, offset, corrupt)
            taken.append(message)
        return Fetched(taken, max(first, min(len(self.messages), stop_before or len(self.messages))), corrupt)

    def commit(self, next_offset: int) -> None:
        self.committed = next_offset


@dataclass
class Heard:
    """What the protocol told."""

    done: list[Done] = field(default_factory=list)
    rejections: list[Rejected] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def finished(self, done: Done) -> None:
        self.done.append(done)

    def rejected(self, rejected: tuple[Rejected, ...]) -> None:
        self.rejections.extend(rejected)

    def warned(self, line: str) -> None:
        self.lines.append(line)


class Clock:
    """Time passes only while the protocol waits. on_wait is called with the time then, in seconds."""

    def __init__(self, seconds: float = 1000.0) -> None:
        self.seconds = seconds
        self.on_wait: Callable[[float], None] = lambda _: None

    def us(self) -> int:
        return int(self.seconds * SECOND_US)


class HeldStop(StopSwitch):
    """A stop whose waiting moves the clock instead."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def wait(self, seconds: float) -> None:
        self._clock.seconds += seconds
        self._clock.on_wait(self._clock.seconds)


def performer(store: MemoryStore, log: MemoryLog, clock: Clock, budget_bytes: int = 1 << 30) -> tuple[Performer, Heard]:
    heard = Heard()
    stop = HeldStop(clock)
    return Performer(store, log, stop, MemoryBudget(budget_bytes), heard, clock.us, clock.us), heard
