"""Runs the protocol of a partition against a real store, log and clock."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from enricher.operations import (
    Bounds,
    Buffered,
    Commit,
    Finished,
    Get,
    Instant,
    List,
    Now,
    Operation,
    PublishRejected,
    Put,
    PutIfAbsent,
    Read,
    Steps,
    Stop,
    Wait,
    Warn,
)
from enricher.rows import Rejected
from lake.ranges import Done
from lake.store import Store
from transport.log import LogReader


class MemoryBudget:
    """Bytes of messages that all partitions of the process may hold together. Shared between threads."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held: dict[int, int] = {}
        self._lock = threading.Lock()

    def hold(self, holder: int, held_bytes: int) -> bool:
        """`holder`, a number of its own, now holds so many bytes in all. True when the budget is spent."""
        with self._lock:
            self._held[holder] = held_bytes
            return sum(self._held.values()) >= self._limit_bytes

    def release(self, holder: int) -> None:
        """`holder` is gone."""
        with self._lock:
            self._held.pop(holder, None)


class StopSwitch:
    """Asked from a signal handler or another thread, seen by every partition between two operations.

    Not a threading.Event: its lock may be held by the very thread that a signal handler interrupts. SimpleQueue.put is
    reentrant for that purpose (docs.python.org, queue). A token put once wakes every waiter, since each puts it back.
    """

    def __init__(self) -> None:
        self._stop = Stop.GO_ON
        self._drain: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._now: queue.SimpleQueue[None] = queue.SimpleQueue()

    @property
    def stop(self) -> Stop:
        """What was asked so far."""
        return self._stop

    def drain(self) -> None:
        """Write what the logs hold by now, then end."""
        if self._stop is Stop.GO_ON:
            self._stop = Stop.DRAIN
        self._drain.put(None)

    def now(self) -> None:
        """End before the next range."""
        self._stop = Stop.NOW
        self._drain.put(None)
        self._now.put(None)

    def wait(self, seconds: float) -> None:
        """Sleep, until the next thing is asked: a stop, or a stop that does not wait for the drain."""
        asked = self._drain if self._stop is Stop.GO_ON else self._now
        try:
            asked.get(timeout=seconds)
        except queue.Empty:
            return
        asked.put(None)


class Listener(Protocol):
    """Told what happened, for metrics and for people. Called in the partition's thread; must not raise."""

    def finished(self, done: Done) -> None: ...

    def rejected(self, rejected: tuple[Rejected, ...]) -> None: ...

    def warned(self, line: str) -> None: ...


def boottime_us() -> int:
    """CLOCK_BOOTTIME in microseconds: it goes on while the process or the machine is suspended."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def wall_us() -> int:
    """Microseconds UTC."""
    return time.time_ns() // 1000


@dataclass(slots=True)
class Performer:
    """What one partition's operations are performed on."""

    store: Store
    reader: LogReader
    stop: StopSwitch
    budget: MemoryBudget
    listener: Listener
    wall_us: Callable[[], int] = wall_us
    boottime_us: Callable[[], int] = boottime_us

    def run(self, steps: Steps[None]) -> None:
        """Perform every operation until the partition ends. Raises what the protocol raises."""
        try:
            operation = next(steps)
            while True:
                try:
                    result = self.perform(operation)
                except Exception as error:  # whatever it is, it is the protocol's to judge
                    operation = steps.throw(error)
                else:
                    operation = steps.send(result)
        except StopIteration:
            return
        finally:
            steps.close()
            self.budget.release(id(self))

    def perform(self, operation: Operation[Any]) -> Any:
        """One operation: its result, or the error of the store or the log."""
        match operation:
            case PutIfAbsent(key, body):
                return self.store.put_if_absent(key, body)
            case Put(key, body):
                return self.store.put(key, body)
            case Get(key):
                return self.store.get(key)
            case List(prefix, start_after, limit):
                return tuple(found.key for found in itertools.islice(self.store.list(prefix, start_after), limit))
            case Read(first, stop_before, appended_before_us, max_bytes):
                return self.reader.read(
                    first, stop_before=stop_before, appended_before_us=appended_before_us, max_bytes=max_bytes
                )
            case Bounds():
                return self.reader.bounds()
            case Commit(next_offset):
                return self.reader.commit(next_offset)
            case PublishRejected(rejected):
                # A spool has no topic beside it: what could not be read is counted, here and in its range's done.
                return self.listener.rejected(rejected)
            case Now():
                return Instant(self.wall_us(), self.boottime_us(), self.stop.stop)
            case Wait(seconds):
                return self.stop.wait(seconds)
            case Buffered(held_bytes):
                return self.budget.hold(id(self), held_bytes)
            case Finished(done):
                return self.listener.finished(done)
            case Warn(line):
                return self.listener.warned(line)
        raise TypeError(f"no such operation: {operation!r}")
