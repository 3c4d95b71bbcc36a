"""Every row of the table of close reasons, made on a real kernel (docs/close-reasons.md)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from kernel.endings import APART, SCENARIOS, End, Observed, places, run_all
from kernel.records import Collector, Records, finals, has, wait_until
from kernel.world import World

from sidecar.close_reason import CloseDetail, CloseReason, endings
from sidecar.probe.abi import Flag, Role
from sidecar.probe.probe import Probe

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

NAMES = [*SCENARIOS, *APART]
Seen = dict[str, tuple[Observed | BaseException, Records, Records]]


@pytest.fixture(scope="module")
def seen(probe: Probe) -> Iterator[Seen]:
    """By scenario: what it says about its ends, the client's final records and the server's."""
    with places() as worlds:
        everywhere = {where for world in worlds.values() for where in (world.client, world.server)}
        collector = Collector(probe, *(where.cookie for where in everywhere))
        with ThreadPoolExecutor(1) as thread:
            under_way = thread.submit(run_all, worlds)
            while not under_way.done():
                collector.drain()  # other traffic of this machine fills the ring meanwhile
                time.sleep(0.05)
        outcomes = under_way.result()
        expected = sum(
            len(outcome.client) + len(outcome.server) for outcome in outcomes.values() if isinstance(outcome, Observed)
        )

        def enough() -> bool:
            collector.sweep_half_open()
            collector.drain()
            return len(finals(collector.records())) >= expected + 2  # the other connection of too_many_orphans

        with contextlib.suppress(AssertionError):  # each test says which of its own is missing
            wait_until(enough, "every ending is reported")
        records = finals(collector.records())
        yield {name: (outcomes[name], *_of_world(records, worlds[name])) for name in NAMES}


def _of_world(records: Records, world: World) -> tuple[Records, Records]:
    """The client's and the server's records, in the order in which they ended."""
    client = (records["netns"] == world.client.cookie) & (records["remote_port"] == world.port)
    server = (records["netns"] == world.server.cookie) & (records["local_port"] == world.port)
    return tuple(np.sort(records[end], order="end_ns") for end in (client, server))  # type: ignore[return-value]


def _describe(records: Records) -> list[End]:
    ended = endings(records)
    return [
        End(
            CloseReason(ended.close_reason[i]),
            CloseDetail(ended.close_detail[i]),
            int(ended.errno.filled(0)[i]),
            int(record["bytes_sent"]),
            int(record["bytes_received"]),
            int(record["bytes_unread"]),
            int(record["bytes_unacked"]),
            bool(ended.peer_fin.filled(False)[i]),
            bool(ended.never_accepted.filled(False)[i]),
            int(record["syn_retransmits"]),
        )
        for i, record in enumerate(records)
    ]


def _blank(end: End, like: End) -> End:
    """`end` without what `like` leaves open."""
    return replace(end, **{name: None for name, value in vars(like).items() if value is None})


@pytest.mark.parametrize("name", NAMES)
def test_the_ending_has_its_reason_and_evidence_at_both_ends(seen: Seen, name: str) -> None:
    outcome, client, server = seen[name]
    if not isinstance(outcome, Observed):
        raise outcome
    for records, expected in ((client, outcome.client), (server, outcome.server)):
        described = _describe(records)
        compared = [_blank(end, like) for end, like in zip(described, expected, strict=False)]
        evidence = [(Flag(int(record["flags"])), int(record["state"]), int(record["segs_out"])) for record in records]
        assert len(described) == len(expected) and tuple(compared) == expected, f"{described} from {evidence}"


def test_only_the_multipath_connection_is_marked_as_such(seen: Seen) -> None:
    for name, (_, client, server) in seen.items():
        marked = has(np.concatenate([client, server]), Flag.MPTCP)
        assert marked.all() if name == "a_multipath_connection_closes" else not marked.any(), name


def test_both_ends_of_a_simultaneous_open_are_clients(seen: Seen) -> None:
    _, left, right = seen["both_connect_at_the_same_time"]
    assert [*left["role"], *right["role"]] == [Role.CLIENT, Role.CLIENT]


def test_a_socket_that_connects_again_keeps_its_cookie_and_changes_its_generation(seen: Seen) -> None:
    _, client, _ = seen["a_socket_connects_again_after_a_refusal"]
    assert client["cookie"][0] == client["cookie"][1]
    assert client["generation"].tolist() == [0, 1]


def test_a_connection_from_a_syn_cookie_is_a_servers_connection(seen: Seen) -> None:
    _, _, server = seen["a_connection_made_from_a_syn_cookie"]
    assert server["role"].tolist() == [Role.SERVER]
