"""Steps 1 and 2: the lake, the genesis, the tip."""

from __future__ import annotations

import dataclasses

import pytest
from memory_world import MemoryLog, MemoryStore
from one_partition import EAGER, KEYS, begin, chain, log_with, rows_in, run
from toy_rows import batch

from enricher.chain import PartitionStopped
from lake.ranges import ChainKeys, Genesis, LakeError, LakeFile, log_hash

# Step 1


def test_an_idle_log_makes_a_lake_and_a_genesis_and_nothing_else() -> None:
    store = MemoryStore()

    run(store, MemoryLog())

    assert set(store.objects) == {"_lake.json", KEYS.genesis}
    assert LakeFile.from_json(store.objects["_lake.json"]).uuid == "new lake"


def test_a_chain_begins_where_its_log_does() -> None:
    log, store = log_with(batch("a", 0, 7), batch("a", 1, 7)), MemoryStore()
    log.first = 1

    run(store, log)

    assert Genesis.from_json(store.objects[KEYS.genesis]).first == 1
    assert rows_in(store) == {"a/1/0": 1}


@pytest.mark.parametrize(
    ("lake", "said"),
    [(LakeFile("x", format_version=99), "format 99"), (LakeFile("x", engine="iceberg"), "engine 'iceberg'")],
)
def test_a_lake_that_is_not_ours_to_write_to_is_left_alone(lake: LakeFile, said: str) -> None:
    store = MemoryStore({"_lake.json": lake.to_json()})

    with pytest.raises(LakeError, match=said):
        run(store, log_with(batch("a", 0, 7)))
    assert set(store.objects) == {"_lake.json"}


@pytest.mark.parametrize("left", ["flows/", "_ranges/"])
def test_files_of_this_log_without_its_genesis_stop_the_partition(left: str) -> None:
    log, store = log_with(batch("a", 0, 7)), MemoryStore()
    run(store, log)
    for key in [key for key in store.objects if not key.startswith(left) or key == KEYS.genesis]:
        store.delete(key)

    with pytest.raises(PartitionStopped, match=r"but no _ranges/.*genesis\.json"):
        run(store, log)


def test_a_log_made_anew_takes_over_what_was_known_of_the_runs() -> None:
    store = MemoryStore()
    run(store, log_with(batch("a", 0, 7), batch("a", 1, 7)))
    again = log_with(batch("a", 1, 7), batch("a", 2, 7))
    again.uuid = "made anew"

    run(store, again)

    assert rows_in(store) == {"a/0/0": 1, "a/1/0": 1, "a/2/0": 1}
    genesis = Genesis.from_json(store.objects[ChainKeys(log_hash("spool", "made anew"), 0).genesis])
    assert genesis.predecessors == (KEYS.log,)
    assert genesis.runs["a"].watermark == 1


def test_a_range_that_a_predecessor_never_finished_counts_as_accepted() -> None:
    store = MemoryStore()
    begin(store, log_with(batch("a", 0, 7)), ".done.json")
    again = log_with(batch("a", 0, 7))
    again.uuid = "made anew"

    run(store, again)

    assert rows_in(store) == {"a/0/0": 1}


def test_a_log_of_another_name_is_no_predecessor_and_foreign_objects_do_not_disturb() -> None:
    other = Genesis("spool", "another", "other", 0, 0)
    store = MemoryStore({"_ranges/readme": b"", "_ranges/x/y/z": b"", ChainKeys("00", 0).genesis: other.to_json()})

    run(store, log_with(batch("a", 0, 7)))

    assert Genesis.from_json(store.objects[KEYS.genesis]).predecessors == ()


# Step 2


@pytest.mark.parametrize("head", ["right", "stale", "gone", "nonsense", "of no done"])
def test_the_head_is_only_a_hint(head: str) -> None:
    log, store = MemoryLog(), MemoryStore()
    config = dataclasses.replace(EAGER, full_state_every=3)
    for number in range(8):
        log.append(batch("ab"[number % 2], number, 7))
    run(store, log, config)
    assert [done.full for done in chain(store)] == [True, False, False] * 2 + [True, False]
    assert set(chain(store)[6].runs) == {"a", "b"} > set(chain(store)[7].runs) == {"b"}
    match head:
        case "stale":
            store.put(KEYS.head, b'{"first":0}')
        case "gone":
            store.delete(KEYS.head)
        case "nonsense":
            store.put(KEYS.head, b"\x00")
        case "of no done":
            store.put(KEYS.head, b'{"first":77}')

    for number in (6, 7, 8):  # two repeats, and a new one
        log.append(batch("ab"[number % 2], number, 7))
    run(store, log, config)

    assert max(rows_in(store).values()) == 1
    assert len(rows_in(store)) == 9
    assert chain(store)[-1].index == 10


def test_a_process_that_died_before_its_commit_gives_the_hint_when_it_comes_back() -> None:
    log, store = log_with(batch("a", 0, 7)), MemoryStore()
    run(store, log)
    log.committed = None

    run(store, log)

    assert log.committed == 1


def test_a_chain_with_a_hole_stops_the_partition() -> None:
    log, store = log_with(*(batch("a", number, 7) for number in range(3))), MemoryStore()
    run(store, log)
    store.put(KEYS.done(1), store.objects[KEYS.done(2)])

    with pytest.raises(LakeError, match="the chain of ranges is damaged: range 1 should begin at offset 1"):
        run(store, log)
