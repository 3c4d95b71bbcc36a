"""Steps 4 and 5: what is read, and when a range is closed."""

from __future__ import annotations

import pytest
from memory_world import SECOND_US, Clock, MemoryLog, MemoryStore, performer
from one_partition import EAGER, chain, intents, log_with, rows_in, run
from toy_rows import ToyRows, batch

from enricher.gather import GatherConfig
from enricher.partition import partition
from enricher.range_writer import PartitionConfig


def test_messages_younger_than_the_settle_delay_are_not_read_and_a_drain_waits_for_them() -> None:
    log, store, clock = MemoryLog(), MemoryStore(), Clock(1000)
    log.append(batch("a", 0, 7), 960 * SECOND_US)
    log.append(batch("a", 1, 7), 995 * SECOND_US)
    config = PartitionConfig(GatherConfig(settle_seconds=30, range_seconds=0, range_bytes=1 << 20))
    world, _ = performer(store, log, clock)
    seen: list[tuple[float, int]] = []
    clock.on_wait = lambda seconds: seen.append((seconds, len(rows_in(store))))
    world.stop.drain()

    world.run(partition(log.identity(), ToyRows("R"), config, "lake"))

    assert {rows for seconds, rows in seen if seconds < 1025} == {1}
    assert len(rows_in(store)) == 2
    assert clock.seconds == pytest.approx(1025.5)


def test_a_range_is_closed_by_the_age_of_its_first_message() -> None:
    log, store, clock = MemoryLog(), MemoryStore(), Clock(1000)
    log.append(batch("a", 0, 7), 999 * SECOND_US)
    config = PartitionConfig(GatherConfig(settle_seconds=0, range_seconds=60, range_bytes=1 << 20))
    world, heard = performer(store, log, clock)

    def wait(seconds: float) -> None:
        if seconds == 1030:
            log.append(batch("a", 1, 7), 1030 * SECOND_US)
        assert bool(heard.done) == (seconds > 1059)
        if heard.done:
            world.stop.now()

    clock.on_wait = wait
    world.run(partition(log.identity(), ToyRows("R"), config, "lake"))

    assert [(done.first, done.next) for done in heard.done] == [(0, 2)]


def test_a_backlog_is_cut_by_bytes_and_not_by_its_age() -> None:
    log, store = MemoryLog(), MemoryStore()
    for number in range(10):
        log.append(batch("a", number, 7), number)
    size = len(batch("a", 0, 7))
    config = PartitionConfig(GatherConfig(settle_seconds=0, range_seconds=60, range_bytes=4 * size))

    run(store, log, config)

    assert [(done.first, done.next) for done in chain(store)] == [(0, 4), (4, 8), (8, 10)]


def test_a_spent_memory_budget_closes_the_range() -> None:
    log, store = log_with(*(batch("a", number, 7) for number in range(4))), MemoryStore()
    size = len(batch("a", 0, 7))
    config = PartitionConfig(GatherConfig(settle_seconds=0, range_seconds=60, range_bytes=2 * size + 1))

    run(store, log, config, budget_bytes=2 * size)

    assert [(done.first, done.next) for done in chain(store)] == [(0, 2), (2, 4)]


def test_what_retention_took_before_it_was_read_is_a_gap_in_the_chain_said_loudly() -> None:
    log, store = log_with(*(batch("a", number, 7) for number in range(4))), MemoryStore()
    log.messages = log.messages[:1]
    run(store, log)
    for number in range(1, 4):
        log.append(batch("a", number, 7))
    log.first = 3

    heard = run(store, log)

    assert [(i.first, i.next, i.gap) for i in intents(store)] == [(0, 1, False), (1, 3, True), (3, 4, False)]
    assert [done.expired_offsets for done in chain(store)] == [0, 2, 0]
    assert chain(store)[2].missing_batches == 2
    assert "lost offsets 1 to 2" in heard.lines[0]


def test_a_log_that_is_shorter_than_the_chain_is_waited_for_and_nothing_is_written() -> None:
    log, store = log_with(batch("a", 0, 7)), MemoryStore()
    run(store, log)
    before, message = dict(store.objects), log.messages.pop()
    world, heard = performer(store, log, clock := Clock())
    world.stop.drain()
    clock.on_wait = lambda _: log.messages.append(message)

    world.run(partition(log.identity(), ToyRows("R"), EAGER, "lake"))

    assert store.objects == before
    assert "the log ends at offset 0, though the lake has reached 1" in heard.lines[0]


def test_a_corrupt_message_is_pinned_counted_and_does_not_hold_up_the_others() -> None:
    log, store = log_with(batch("a", 0, 7), b"", batch("a", 2, 7)), MemoryStore()
    log.messages[1] = None
    wide = PartitionConfig(GatherConfig(settle_seconds=0, range_seconds=0, range_bytes=1 << 20))

    run(store, log, wide)

    assert [(intent.messages, intent.corrupt) for intent in intents(store)] == [(2, (1,))]
    assert [(done.corrupt, done.missing_batches) for done in chain(store)] == [(1, 1)]


def test_corrupt_messages_alone_are_a_range_too() -> None:
    log, store = MemoryLog([None, None]), MemoryStore()

    run(store, log)

    assert [(done.first, done.next, done.corrupt, done.files) for done in chain(store)] == [(0, 2, 2, ())]
