"""Disks that fill up and bounds that are reached while both processes run: on they go, and every loss has its name."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos.full import small_disk
from chaos.told import UNSEEN, assert_lake_holds_exactly, coverage_by_run, flows_by_key, last_words, losses, table
from chaos.witness import Witness, read_spool
from kernel.namespaces import Namespace
from kernel.records import wait_until
from kernel.traffic import ORDERLY, random_plan, run_traffic, traffic_namespace
from processes import Process, enrich_all, sidecar, wait_until_begun

pytestmark = pytest.mark.kernel

# The ring is large, so that nothing is lost but by the disk, whatever else goes on on this host.
OFTEN = {"drain_seconds": "0.02", "batch_seconds": "0.1", "interim_seconds": "1", "probe_ring_bytes": "32MiB"}
FULL = "no space left on device"


def make_traffic(namespace: Namespace, seed: int, count: int) -> None:
    """`count` short connections, and twice as many records."""
    wanted = random_plan(seed, count, ORDERLY)
    wanted["up"] = wanted["down"] = 100
    run_traffic(namespace, wanted)


def test_a_spool_without_space_costs_the_oldest_batches_and_the_sidecar_goes_on_when_there_is_some(
    tmp_path: Path,
) -> None:
    lake, spool = tmp_path / "lake", tmp_path / "disk" / "spool"
    settings = {**OFTEN, "spool": str(spool), "unspooled_bytes": "1MiB", "batch_flows": "500"}
    with traffic_namespace() as namespace, small_disk(tmp_path / "disk", "32m") as disk:
        with sidecar(lake, **settings) as watching:
            make_traffic(namespace, 1, 500)
            wait_until(lambda: len(read_spool(spool)) > 2, "something is spooled")
            disk.fill()
            make_traffic(namespace, 2, 12_000)
            wait_until(lambda: FULL in watching.errors(), "the sidecar complains")
            disk.free()
            wait_until(lambda: "takes batches again" in watching.errors(), "the spool takes batches again")
            make_traffic(namespace, 3, 500)
            watching.end()
            said = watching.errors().splitlines()
        spooled = read_spool(spool)
        enrich_all(lake, spool=str(spool))
        cookie = namespace.cookie

    assert [line for line in said if FULL in line] == [
        f"flowlake: cannot append to the spool in {spool}: no space left on device; "
        "free space there, or lower FLOWLAKE_SPOOL_MAX_BYTES"
    ]
    assert sum("takes batches again" in line for line in said) == 1
    assert_lake_holds_exactly(lake, spooled, cookie)
    (run,) = coverage_by_run(lake).values()
    dropped = run["dropped_spool_error"]
    assert dropped > 0 and losses(lake) == {"dropped_spool_error": dropped}
    # Each batch that is missing is one that was dropped, and no other: its number is passed over.
    numbers = [message.batch["number"] for message in spooled]
    assert run["missing_batches"] == numbers[-1] + 1 - len(numbers) > 0
    assert said[-1] == last_words(run, run["written"])


def test_a_spool_that_cannot_be_trimmed_is_said_once_and_loses_nothing(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    committed = lake / "_spool" / "committed"
    often = {**OFTEN, "interim_seconds": "0.1"}
    with traffic_namespace() as namespace:
        with sidecar(lake, **often) as watching:
            committed.mkdir()  # where a reader's hint should be
            wait_until(lambda: "cannot trim" in watching.errors(), "the sidecar complains")
            make_traffic(namespace, 1, 500)
            batches = len(read_spool(lake / "_spool"))
            wait_until(lambda: len(read_spool(lake / "_spool")) > batches + 3, "it has looked again")
            watching.end()
            said = watching.errors().splitlines()
        committed.rmdir()
        enrich_all(lake)
        assert_lake_holds_exactly(lake, read_spool(lake / "_spool"), namespace.cookie)
    assert sum("cannot trim" in line for line in said) == 1
    (run,) = coverage_by_run(lake).values()
    assert said[-1] == last_words(run, run["written"]) and losses(lake) == {}


def test_a_lake_without_space_is_waited_for_and_gets_everything_once(tmp_path: Path) -> None:
    lake, spool = tmp_path / "disk" / "lake", tmp_path / "spool"
    writing = {"spool": str(spool), "settle_seconds": "0", "range_seconds": "0.2", "poll_seconds": "0.05"}
    small = {"spool_segment_bytes": "16KiB"}
    with traffic_namespace() as namespace, small_disk(tmp_path / "disk", "32m") as disk:
        with (
            sidecar(lake, spool=str(spool), **OFTEN, **small) as watching,
            Witness(spool, tmp_path / "kept") as witness,
            Process("enricher", lake, "--drain", **writing) as enricher,
        ):
            make_traffic(namespace, 1, 500)
            wait_until(lambda: any(lake.glob("flows/*/*/*")), "a range is in the lake")
            disk.fill()
            make_traffic(namespace, 2, 3_000)
            wait_until(lambda: FULL in enricher.errors(), "the enricher complains")
            disk.free()
            make_traffic(namespace, 3, 500)
            watching.end()
            enricher.end()
            lines = enricher.errors().splitlines()

        assert all(line.startswith("flowlake: ") for line in lines)
        assert all(line.endswith("; free space there; trying again") for line in lines if FULL in line)
        assert_lake_holds_exactly(lake, witness.spooled(), namespace.cookie)
        assert losses(lake) == {}


def test_an_enricher_that_waits_for_space_ends_at_the_second_signal(tmp_path: Path) -> None:
    lake, spool = tmp_path / "disk" / "lake", tmp_path / "spool"
    with small_disk(tmp_path / "disk", "1m") as disk:
        with sidecar(lake, spool=str(spool), **OFTEN) as watching:
            watching.end()
        disk.fill()
        with Process("enricher", lake, "--drain", spool=str(spool), settle_seconds="0") as enricher:
            wait_until_begun(enricher)
            wait_until(lambda: FULL in enricher.errors(), "the enricher complains")
            enricher.process.terminate()
            wait_until(lambda: enricher.errors().count(FULL) > 1, "it goes on trying")
            enricher.end()
            assert "Traceback" not in enricher.errors()


def test_a_spool_at_its_bound_drops_its_oldest_batches_and_coverage_says_how_many_records_they_had(
    tmp_path: Path,
) -> None:
    lake, spool = tmp_path / "lake", tmp_path / "lake" / "_spool"
    bound = {"spool_max_bytes": "128KiB", "spool_segment_bytes": "16KiB", "batch_flows": "200"}
    with traffic_namespace() as namespace:
        with sidecar(lake, **OFTEN, **bound) as watching:
            make_traffic(namespace, 1, 4_000)
            watching.end()
            said = watching.errors().splitlines()
        kept = read_spool(spool)
        enrich_all(lake)
        rows = flows_by_key(table(lake, "flows"))

    assert sum(path.stat().st_size for path in spool.glob("*.segment")) <= 128 * 1024
    assert rows == {key: moved for message in kept for key, moved in message.flows().items()}
    (run,) = coverage_by_run(lake).values()
    dropped = run["dropped_spool_full"]
    assert dropped > 0 and losses(lake) == {"dropped_spool_full": dropped}
    assert run["captured"] == run["written"] + dropped + run[UNSEEN]
    assert said[-1] == last_words(run, run["written"] + dropped)
