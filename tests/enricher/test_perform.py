from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from enricher.operations import Stop
from enricher.perform import MemoryBudget, StopSwitch

LONG_SECONDS = 60.0  # a wait that is not ended early fails the test by its length


@contextmanager
def in_a_thread(stop: StopSwitch) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=stop.wait, args=(LONG_SECONDS,), daemon=True)
    thread.start()
    yield thread
    thread.join(LONG_SECONDS / 2)
    assert not thread.is_alive()


def test_a_stop_wakes_everyone_who_waits() -> None:
    stop = StopSwitch()
    with in_a_thread(stop), in_a_thread(stop):
        stop.drain()
    assert stop.stop is Stop.DRAIN


def test_a_drain_sleeps_as_before_and_is_woken_by_a_stop_that_does_not_wait_for_it() -> None:
    stop = StopSwitch()
    stop.drain()
    stop.wait(0.001)
    with in_a_thread(stop), in_a_thread(stop):
        stop.now()
    stop.drain()
    assert stop.stop is Stop.NOW


def test_a_signal_that_interrupts_the_wait_ends_it() -> None:
    stop = StopSwitch()
    before = signal.signal(signal.SIGUSR1, lambda *_: stop.now())
    sender = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
    try:
        sender.start()
        stop.wait(LONG_SECONDS)
        assert stop.stop is Stop.NOW
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, before)


def test_the_memory_budget_is_one_for_all_partitions() -> None:
    budget = MemoryBudget(100)

    assert not budget.hold(1, 60)
    assert budget.hold(2, 40)
    assert not budget.hold(1, 0)
    assert budget.hold(2, 100)
    budget.release(2)
    assert not budget.hold(1, 99)
