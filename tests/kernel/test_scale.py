"""Many connections: each once per end, all exact; interims that add up; losses that are counted, and only those."""

from __future__ import annotations

import time

import numpy as np
import pytest
from kernel.records import Collector, Records, finals, has, wait_until
from kernel.traffic import (
    ORDERLY,
    STUCK,
    Ending,
    Traffic,
    Truth,
    by_connection,
    plan,
    random_plan,
    run_traffic,
    told,
    traffic_namespace,
)  # fmt: skip
from numpy.typing import NDArray

from sidecar.close_reason import CloseReason, endings
from sidecar.probe.abi import FLOW_RECORD, Flag, Owner
from sidecar.probe.probe import Probe, ProbeConfig

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

COUNTERS = ("bytes_sent", "bytes_received", "packets_sent", "packets_received", "retransmits", "bytes_retransmitted")


def _assert_each_end_once_and_exact(records: Records, truth: Truth, probe: Probe) -> None:
    """Final records against the truth: the same ends, and every number, reason and process the same."""
    ends = _ends_told(records, truth, probe)
    records = records[by_connection(records)]
    _assert_exact(records, ends, truth)


def _assert_exact(records: Records, ends: Records, truth: Truth) -> None:
    """Records and expected ends, side by side."""
    for name in ("role", "bytes_received", "pid", "comm"):
        _assert_equal(records[name], ends[name], name, records)
    _assert_equal(endings(records).close_reason, ends["close_reason"], "close_reason", records)
    # A reset may come before the acknowledgement of the last bytes: these are sent, and unacknowledged.
    overtaken = np.where(ends["close_reason"] == CloseReason.RESET_REMOTE, records["bytes_unacked"], 0)
    _assert_equal(records["bytes_sent"] + overtaken, ends["bytes_sent"], "bytes_sent", records)
    # What a stuck end sent comes together with its FIN, and may be unread at that moment.
    settled = ~np.isin(truth.plan["ending"][ends["connection"]], STUCK)
    _assert_equal(records["bytes_unread"][settled], ends["bytes_unread"][settled], "bytes_unread", records[settled])


def _ends_told(records: Records, truth: Truth, probe: Probe) -> NDArray[np.void]:
    """The true ends in the order of the records: each has one. An end that the kernel kept silent about is counted."""
    expected = truth.ends()
    ends = expected[by_connection(expected)]
    ends = ends[told(records, ends)]
    records = records[by_connection(records)]
    assert len(records) == len(ends)
    for name in ("local_port", "remote_port", "local_address", "remote_address"):
        assert np.array_equal(records[name], ends[name]), name

    def all_counted() -> bool:
        probe.walk()
        return len(expected) - len(ends) <= probe.counters().unseen_ends

    wait_until(all_counted, f"{len(expected) - len(ends)} ends without a record are counted as unseen")
    return ends


def _assert_equal(said: np.ndarray, true: np.ndarray, name: str, records: Records) -> None:
    wrong = np.flatnonzero(said != true)
    assert len(wrong) == 0, f"{name} of {len(wrong)} ends, such as {said[wrong[0]]} for {true[wrong[0]]}: " + str(
        dict(zip(FLOW_RECORD.names or (), records[wrong[0]], strict=True))
    )


def test_100000_connections_of_every_ending_are_each_once_at_each_end_and_exact(probe: Probe) -> None:
    with traffic_namespace() as where:
        collector = Collector(probe, where.cookie)
        truth = run_traffic(where, random_plan(1, 100_000), meanwhile=collector.drain)
        records = collector.drain_finals(len(truth.ends()))
        _assert_each_end_once_and_exact(records, truth, probe)
        established = has(records, Flag.ESTABLISHED)
        assert len(records) == len(collector.records())  # no interim, for nobody walked
        assert (records["sequence"] == 0).all() and (records["generation"] == 0).all()
        assert not has(records, Flag.PARTIAL).any()
        assert (records["connect_us"][established & (records["role"] == 1)] < 30_000_000).all()


def test_interims_under_churn_add_up_for_every_one_of_200000_connections(probe: Probe) -> None:
    random = np.random.default_rng(2)
    count = 200_000
    wanted = plan(
        random.choice(np.array(ORDERLY), count), count, rounds=random.integers(1, 4, count),
        up=random.integers(0, 3000, count), down=random.integers(0, 3000, count),
    )  # fmt: skip
    with traffic_namespace() as where:
        collector = Collector(probe, where.cookie)

        def look() -> None:
            collector.walk()
            collector.drain()

        with Traffic(where, wanted, "--window", "4000", "--round-gap-us", "20000") as traffic:
            truth = traffic.finish(look, every_seconds=0.1)
        records = collector.drain_finals(2 * count)
        everything = collector.records()
        ends = _ends_told(records, truth, probe)

        # One connection's records side by side, in their sequence.
        everything = everything[np.isin(everything["cookie"], records["cookie"])]
        everything = everything[np.lexsort((everything["sequence"], everything["cookie"]))]
        first = np.flatnonzero(np.diff(everything["cookie"], prepend=np.uint64(0)))
        lengths = np.diff(first, append=len(everything))
        assert len(first) == len(ends) and (lengths > 1).sum() > 10_000
        assert np.array_equal(everything["sequence"], np.arange(len(everything)) - np.repeat(first, lengths))
        assert np.array_equal(has(everything, Flag.FINAL).nonzero()[0], first + lengths - 1)
        follows = np.flatnonzero(everything["sequence"] > 0)
        assert np.array_equal(everything["start_ns"][follows], everything["end_ns"][follows - 1])

        totals = everything[first]
        for name in ("bytes_sent", "bytes_received"):
            totals[name] = np.add.reduceat(everything[name], first)
        totals = totals[by_connection(totals)]
        for name in ("bytes_sent", "bytes_received"):
            _assert_equal(totals[name], ends[name], name, totals)


def test_20000_connections_a_second_for_10_seconds_lose_nothing(probe: Probe) -> None:
    before = probe.counters()
    with traffic_namespace() as where:
        collector = Collector(probe, where.cookie)
        wanted = plan(Ending.CLIENT_CLOSES, 200_000)
        truth = run_traffic(where, wanted, rate=20_000, meanwhile=collector.drain)
        records = collector.drain_finals(len(truth.ends()))
        after = probe.counters()
        print(f"{len(truth.plan) / truth.seconds:.0f} connections a second")
        assert after.lost_final == before.lost_final
        _assert_each_end_once_and_exact(records, truth, probe)


def test_a_tiny_ring_loses_records_counts_each_and_spoils_nothing_else() -> None:
    with traffic_namespace() as where, Probe(ProbeConfig(final_ring_bytes=4096)) as tiny:
        collector = Collector(tiny, where.cookie)
        received = 0

        def drain() -> None:
            nonlocal received
            records = tiny.drain()
            received += len(records)
            collector.take(records)

        truth = run_traffic(where, random_plan(3, 5000), meanwhile=drain)
        drain()
        counters = tiny.counters()
        assert counters.lost_final > 0
        assert counters.captured == received + counters.lost_final
        # What did arrive is as exact as ever.
        records = collector.records()
        kept = truth.ends()[by_connection(truth.ends())]
        records = records[by_connection(records)]
        said, true = _ports(records), _ports(kept)
        assert len(np.unique(said)) == len(said) and np.isin(said, true).all()
        _assert_exact(records, kept[np.isin(true, said)], truth)


def _ports(rows: Records) -> np.ndarray:
    """A number that no other end of a plan of less than 50,000 connections has."""
    v6 = (rows["local_address"][:, 0] == 0) & (rows["local_address"][:, 10] == 0)
    mapped = rows["local_address"][:, 15].astype(np.uint64)
    return (
        rows["local_port"].astype(np.uint64) << np.uint64(32)
        | rows["remote_port"].astype(np.uint64) << np.uint64(16)
        | v6.astype(np.uint64) << np.uint64(8)
        | mapped
    )


def test_idle_and_ended_connections_are_not_reported_again(probe: Probe) -> None:
    with traffic_namespace() as where:
        collector = Collector(probe, where.cookie)
        wanted = plan(Ending.CLIENT_CLOSES, 500)
        with Traffic(where, wanted, "--hold") as traffic:
            traffic.wait_until_held()
            time.sleep(0.1)  # longer than a delayed ACK
            assert len(collector.walk()) == 1000
            assert len(collector.walk()) == 0
            assert len(collector.walk()) == 0
            traffic.release()
            traffic.finish()
        assert len(collector.drain_finals(1000)) == 1000
        assert len(collector.walk()) == 0
        collector.drain()
        assert len(finals(collector.records())) == 1000


def test_a_connection_that_begins_again_on_the_same_tuple_is_another_flow(probe: Probe) -> None:
    with traffic_namespace() as where:
        collector = Collector(probe, where.cookie)
        for _ in range(2):
            run_traffic(where, plan(Ending.SERVER_CLOSES, 50))
        records = collector.drain_finals(200)
        assert len(records) == 200
        assert len(np.unique(records[["cookie", "generation"]])) == 200
        assert (records["owner_source"] != Owner.UNKNOWN).all()
