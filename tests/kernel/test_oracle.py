"""What the probe says of live connections is what inet_diag says; what it says of a run is what /proc/net counts."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from kernel.namespaces import Namespace
from kernel.records import Collector, Records, wait_until
from kernel.traffic import Ending, Traffic, packed, random_plan, run_traffic, traffic_namespace

from sidecar.close_reason import CloseReason, endings
from sidecar.probe.abi import Role, TcpState
from sidecar.probe.probe import Probe

pytestmark = pytest.mark.kernel

Tuple = tuple[str, int, str, int]


@dataclass(frozen=True)
class Seen:
    """One connection as `ss` prints it, or as interim records add up to; what is not printed is 0."""

    bytes_sent: int
    bytes_received: int
    retransmits: int
    bytes_retransmitted: int
    packets_sent: int
    packets_received: int
    rtt_us: int
    rtt_var_us: int
    rtt_min_us: int
    dsack_dups: int
    reordered: int
    process: str
    pid: int


def _of_inet_diag(where: Namespace) -> dict[Tuple, Seen]:
    seen = {}
    for line in where.run("ss -tinpHO state established").splitlines():
        _, _, local, remote, rest = line.split(maxsplit=4)
        fields = dict(re.findall(r"([a-z_]+):(\S+)", rest))
        rtt, _, rtt_var = fields["rtt"].partition("/")
        owner = re.search(r'\("([^"]+)",pid=(\d+)', rest)
        client = int(local.rpartition(":")[2]) >= 10_000
        assert owner is not None
        seen[(*_endpoint(local), *_endpoint(remote))] = Seen(
            # The SYN of a client is acknowledged like a byte.
            bytes_sent=int(fields.get("bytes_acked", 0)) - client,
            bytes_received=int(fields.get("bytes_received", 0)),
            retransmits=int(fields.get("retrans", "0/0").partition("/")[2]),
            bytes_retransmitted=int(fields.get("bytes_retrans", 0)),
            packets_sent=int(fields.get("data_segs_out", 0)),
            packets_received=int(fields.get("data_segs_in", 0)),
            rtt_us=round(float(rtt) * 1000),
            rtt_var_us=round(float(rtt_var) * 1000),
            rtt_min_us=round(float(fields["minrtt"]) * 1000),
            dsack_dups=int(fields.get("dsack_dups", 0)),
            reordered=int(fields.get("reord_seen", 0)),
            process=owner[1],
            pid=int(owner[2]),
        )
    return seen


def _of_the_probe(interims: Records) -> dict[Tuple, Seen]:
    """Sums of the deltas of each connection, gauges as in its last record."""
    interims = np.sort(interims, order=("cookie", "sequence"))
    seen = {}
    for cookie in np.unique(interims["cookie"]):
        records = interims[interims["cookie"] == cookie]
        last = records[-1]
        total = {
            name: int(records[name].sum())
            for name in (
                "bytes_sent", "bytes_received", "retransmits", "bytes_retransmitted", "packets_sent",
                "packets_received", "dsack_dups", "reordered", "syn_retransmits",
            )
        }  # fmt: skip
        total["retransmits"] += total.pop("syn_retransmits")  # the kernel's own total has the handshake's as well
        seen[_tuple(last)] = Seen(
            **total,
            rtt_us=int(last["srtt_eighths_us"]) >> 3,
            rtt_var_us=int(last["mdev_quarters_us"]) >> 2,
            rtt_min_us=int(last["rtt_min_us"]),
            process=last["comm"].decode(),
            pid=int(last["pid"]),
        )
    return seen


def _endpoint(printed: str) -> tuple[str, int]:
    address, _, port = printed.rpartition(":")
    return packed(address.strip("[]")).tobytes().hex(), int(port)


def _tuple(record: np.void) -> Tuple:
    return (
        record["local_address"].tobytes().hex(),
        int(record["local_port"]),
        record["remote_address"].tobytes().hex(),
        int(record["remote_port"]),
    )


@pytest.mark.slow
def test_live_connections_are_what_inet_diag_says_at_the_same_moment(probe: Probe) -> None:
    with traffic_namespace() as where:
        where.run("ip link set lo mtu 1500 gso_max_segs 1")
        where.nft("meta l4proto tcp numgen random mod 50 == 0 drop")
        collector = Collector(probe, where.cookie)
        plan = random_plan(6, 300, (Ending.CLIENT_CLOSES,))
        plan["rounds"] = 4
        with Traffic(where, plan, "--hold", "--round-gap-us", "50000") as traffic:
            interims = [collector.walk() for _ in range(3)]
            traffic.wait_until_held()
            where.nft()
            seen = _quiesced(where)
            interims.append(collector.walk())
            assert _of_the_probe(np.concatenate(interims)) == seen
            assert len(seen) == 600 and sum(one.retransmits for one in seen.values()) > 0
            assert len(collector.walk()) == 0  # nothing moved
            traffic.release()
            truth = traffic.finish()
        collector.drain_finals(600)
        assert collector.records()["bytes_sent"].sum() == truth.ends()["bytes_sent"].sum()


def _quiesced(where: Namespace) -> dict[Tuple, Seen]:
    """inet_diag's view once it no longer changes: the last acknowledgement has come."""
    views = [_of_inet_diag(where)]

    def settled() -> bool:
        time.sleep(0.5)  # longer than a retransmission timeout's minimum and any delayed ACK
        views.append(_of_inet_diag(where))
        return views[-1] == views[-2]

    wait_until(settled, "the connections rest")
    return views[-1]


@pytest.fixture(scope="module")
def run(probe: Probe) -> Iterator[tuple[Records, dict[str, int]]]:
    """Final records of 5,000 connections of every ending, and what the namespace counted."""
    with traffic_namespace() as where:
        collector = Collector(probe, where.cookie)
        truth = run_traffic(where, random_plan(7, 5000), meanwhile=collector.drain)
        yield collector.drain_finals(len(truth.ends())), where.counters()


def test_clients_are_the_kernels_active_opens_and_servers_its_passive_opens(
    run: tuple[Records, dict[str, int]],
) -> None:
    records, counted = run
    assert (records["role"] == Role.CLIENT).sum() == counted["TcpActiveOpens"]
    assert (records["role"] == Role.SERVER).sum() == counted["TcpPassiveOpens"]


def test_refused_connections_are_the_kernels_failed_attempts(run: tuple[Records, dict[str, int]]) -> None:
    records, counted = run
    assert (endings(records).close_reason == CloseReason.REFUSED).sum() == counted["TcpAttemptFails"]


def test_connections_closed_out_of_established_are_the_kernels_resets(run: tuple[Records, dict[str, int]]) -> None:
    records, counted = run
    broken = np.isin(records["state"], (TcpState.ESTABLISHED, TcpState.CLOSE_WAIT))
    assert broken.sum() == counted["TcpEstabResets"]
    assert np.isin(
        endings(records).close_reason[broken], (CloseReason.RESET_LOCAL, CloseReason.RESET_REMOTE)
    ).all()  # fmt: skip


def test_retransmissions_are_the_kernels_count(run: tuple[Records, dict[str, int]]) -> None:
    records, counted = run
    assert records["retransmits"].sum() + records["syn_retransmits"].sum() == counted["TcpRetransSegs"]
