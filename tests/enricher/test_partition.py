"""Steps 3 and 6 to 10, errors and stops. Every interleaving of them is in test_protocol_model.py."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections import Counter
from pathlib import Path

import pytest
from memory_world import SECOND_US, Clock, Heard, MemoryLog, MemoryStore, performer
from one_partition import EAGER, KEYS, Dies, begin, chain, die_at, intents, log_with, rows_in, run
from protocol_invariants import check_always, check_end
from toy_rows import ToyRows, batch

from enricher.chain import PartitionStopped
from enricher.gather import GatherConfig
from enricher.partition import partition
from enricher.perform import MemoryBudget, Performer, StopSwitch
from enricher.range_writer import PartitionConfig
from lake.local_store import LocalStore
from lake.store import StoreUnavailable
from transport.config import SpoolConfig
from transport.log import LogError, Message
from transport.spool_reader import SpoolReader
from transport.spool_writer import SpoolWriter

# Step 3


def test_a_range_is_adopted_with_its_own_bounds_and_settings_whatever_ours_are() -> None:
    log, store = log_with(*(batch("a", number, 7) for number in range(3))), MemoryStore()
    wide = PartitionConfig(GatherConfig(settle_seconds=0, range_seconds=0, range_bytes=1 << 20))
    with pytest.raises(Dies):
        run(die_at(store, ".parquet"), log, wide, ToyRows("A", unit=2))

    run(store, log, EAGER, ToyRows("B", unit=1))

    assert [(done.first, done.next) for done in chain(store)] == [(0, 3)]
    assert set(rows_in(store).values()) == {2}  # what the pinned setting gives, though ours says 1


def test_messages_that_expired_after_their_range_was_begun_are_written_down_as_expired() -> None:
    log, store = log_with(batch("a", 0, 7, 8), batch("a", 1, 7)), MemoryStore()
    wide = PartitionConfig(GatherConfig(settle_seconds=0, range_seconds=0, range_bytes=1 << 20))
    begin(store, log, ".parquet", wide)
    log.first = 1

    heard = run(store, log, wide)

    [done] = chain(store)
    assert (done.expired_offsets, done.expired_records, done.written_records) == (1, 2, 1)
    assert rows_in(store) == {"a/1/0": 1}
    assert {entry.rows for entry in done.files} == {0, 1}  # the hour that nothing is left of has its file too
    assert "lost its messages below 1" in heard.lines[0]


def test_rows_stored_before_their_messages_expired_are_kept_and_counted() -> None:
    log, store = log_with(batch("a", 0, 7, 8)), MemoryStore()
    with pytest.raises(Dies):
        run(die_at(store, KEYS.done(0)), log)
    log.first = 1

    run(store, log)

    [done] = chain(store)
    assert (done.expired_offsets, done.expired_records, done.written_records) == (1, 0, 2)
    assert rows_in(store) == {"a/0/0": 1, "a/0/1": 1}


def test_a_batch_lost_with_its_range_is_not_written_when_it_is_repeated_later() -> None:
    log, store = log_with(batch("a", 0, 7), batch("a", 0, 7)), MemoryStore()
    begin(store, log, ".parquet")
    log.first = 1

    run(store, log)

    assert rows_in(store) == {}
    assert [(done.expired_records, done.repeated_batches) for done in chain(store)] == [(1, 0), (0, 1)]


def test_other_messages_under_the_same_offsets_stop_the_partition() -> None:
    log, store = log_with(batch("a", 0, 7)), MemoryStore()
    begin(store, log, ".parquet")
    log.messages[0] = Message(0, 0, b"host", batch("b", 0, 7))

    with pytest.raises(PartitionStopped, match="does not hold the messages that the range at offset 0 was begun with"):
        run(store, log)
    assert chain(store) == []


def test_a_range_of_another_row_layout_is_left_to_the_version_that_began_it() -> None:
    log, store = log_with(batch("a", 0, 7)), MemoryStore()
    begin(store, log, ".parquet")

    with pytest.raises(PartitionStopped, match="row layout 1, this version makes 2"):
        run(store, log, rows=ToyRows("R", layout_version=2))


# Steps 6 to 9


def test_an_unreadable_message_is_handed_on_and_counted_in_the_done() -> None:
    log, store = log_with(b"nonsense", batch("a", 0, 7)), MemoryStore()

    heard = run(store, log)

    assert [(rejected.offset, rejected.value) for rejected in heard.rejections] == [(0, b"nonsense")]
    assert [done.rejected for done in chain(store)] == [{"unreadable": 1}, {}]
    assert rows_in(store) == {"a/0/0": 1}


def test_a_file_with_other_rows_under_the_same_key_stops_the_partition_and_is_left_there() -> None:
    log, store = log_with(batch("a", 0, 7)), MemoryStore()
    begin(store, log, ".done.json")
    [key] = [key for key in store.objects if key.startswith("flows/")]
    stored = json.loads(store.objects[key])
    stored["identity"]["digest"] = "another"
    store.objects[key] = json.dumps(stored).encode()

    with pytest.raises(PartitionStopped, match="is there with other rows"):
        run(store, log)
    assert json.loads(store.objects[key]) == stored
    assert chain(store) == []


@pytest.mark.parametrize("broken", ["store", "log"])
def test_a_store_or_log_that_comes_back_loses_nothing(broken: str) -> None:
    log, store = log_with(*(batch("a", number, 7) for number in range(3))), MemoryStore()
    world, heard = performer(store, log, Clock())
    perform, calls = world.perform, Counter[str]()

    class Flaky(Performer):
        __slots__ = ()

        def perform(self, operation: object) -> object:
            name = type(operation).__name__
            calls[name] += 1
            if broken == "store" and name in ("Get", "PutIfAbsent", "Put", "List") and calls[name] % 5 == 2:
                perform(operation)  # type: ignore[arg-type]
                raise StoreUnavailable("the answer is lost")
            if broken == "log" and name in ("Read", "Bounds", "Commit") and calls[name] % 3 == 2:
                raise LogError("no answer")
            return perform(operation)  # type: ignore[arg-type]

    world.stop.drain()
    flaky = Flaky(*(getattr(world, field.name) for field in dataclasses.fields(world)))
    flaky.run(partition(log.identity(), ToyRows("R"), EAGER, "lake"))

    check_always(store.objects)
    check_end(store.objects, [m for m in log.messages if m is not None], 0, 3)
    assert [done.index for done in heard.done] == [0, 1, 2]  # each told once
    assert all(line.endswith("; trying again") for line in heard.lines)
    assert heard.lines


def test_a_stop_that_does_not_wait_leaves_what_is_gathered_to_the_next_process() -> None:
    log, store, clock = MemoryLog(), MemoryStore(), Clock(1000)
    log.append(batch("a", 0, 7), 999 * SECOND_US)
    world, _ = performer(store, log, clock)
    clock.on_wait = lambda _: world.stop.now()

    world.run(partition(log.identity(), ToyRows("R"), PartitionConfig(GatherConfig(settle_seconds=0)), "lake"))
    assert intents(store) == []

    run(store, log)
    assert rows_in(store) == {"a/0/0": 1}


def test_a_stop_is_heard_while_the_store_is_away() -> None:
    class Away(MemoryStore):
        def get(self, key: str) -> bytes:
            raise StoreUnavailable("no answer")

    world, heard = performer(Away(), MemoryLog(), clock := Clock())
    clock.on_wait = lambda seconds: world.stop.now() if seconds > 1100 else None

    world.run(partition(world.reader.identity(), ToyRows("R"), EAGER, "lake"))

    assert 5 <= len(heard.lines) <= 12  # not in a busy loop


# All of it on what this host has


def test_two_enrichers_on_one_spool_and_one_directory_write_every_batch_once(tmp_path: Path) -> None:
    store, numbers = LocalStore(tmp_path / "lake"), range(40)
    values = [batch("a", number, 7 + number % 2) for number in numbers for _ in range(1 + number % 3 // 2)]
    with SpoolWriter(SpoolConfig(directory=tmp_path / "spool")) as spool:
        for value in values:
            spool.append(b"host", value, 1)
    stop, failures = StopSwitch(), list[BaseException]()
    stop.drain()

    def enrich(name: str) -> None:
        reader = SpoolReader(tmp_path / "spool")
        world = Performer(store, reader, stop, MemoryBudget(1 << 30), Heard())
        config = PartitionConfig(GatherConfig(settle_seconds=0, range_seconds=0, range_bytes=100))
        try:
            world.run(partition(reader.identity(), ToyRows(name), config, name))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=enrich, args=(name,)) for name in "AB"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    objects = {info.key: store.get(info.key) for info in store.list("")}
    check_always(objects)
    assert rows_in(MemoryStore(objects)) == {f"a/{number}/0": 1 for number in numbers}
    assert sum(done.repeated_batches for done in chain(MemoryStore(objects))) == len(values) - len(numbers)
