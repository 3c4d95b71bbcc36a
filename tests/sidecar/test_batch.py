"""From records of the kernel to one message: read back with fastavro and the schema alone."""

from __future__ import annotations

import io
import ipaddress
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest
from numpy.typing import NDArray

from schemas.drops import Drop
from schemas.flow_batch import NamespaceCounters
from schemas.wire import CURRENT
from sidecar.batch import BatchMaker
from sidecar.clock import Clocks, WallClock
from sidecar.close_reason import CloseDetail, CloseReason
from sidecar.host import Host, Place
from sidecar.identity.cgroups import V2, CgroupPaths
from sidecar.identity.identity import Identity
from sidecar.identity.names import Names
from sidecar.listeners import OWNER_SOURCES
from sidecar.metrics import RunTotals
from sidecar.network_scope import NetworkScopes
from sidecar.outbox import EncodedBatch
from sidecar.probe.abi import CGROUP_RECORD, FLOW_RECORD, LISTENER_RECORD, Flag, Owner, Role, TcpState

HOST = Host("web-1", "3d1219c7c4c5404aaa1f6d2a48adfda4", "boot-1", Place("east", "eu-1", None, "4711"))
BOOTTIME_NS = 50_000_000_000
REALTIME_NS = 1_795_348_800_000_000_000  # 2026-11-22 12:00 UTC
OUR_NETNS = 7
NGINX, POSTGRES = 101, 102  # cgroups
NO_RECORDS = np.empty(0, FLOW_RECORD)
NO_LISTENERS = np.empty(0, LISTENER_RECORD)


class Bench:
    """A batch maker on clocks that stand still, on a host with two services."""

    def __init__(self, root: Path) -> None:
        self.realtime_ns = REALTIME_NS
        self.totals = RunTotals()
        identity = Identity(HOST.host_id, CgroupPaths([], None, lambda: 0.0), Names(root), proc=None)
        identity.open()
        services = [
            (NGINX, V2, 0, b"/system.slice/nginx.service"),
            (POSTGRES, V2, 0, b"/system.slice/postgres.service"),
        ]
        identity.learn(np.array(services, CGROUP_RECORD))
        self.maker = BatchMaker(
            HOST,
            "run-1",
            identity,
            NetworkScopes("office", HOST.host_id, OUR_NETNS),
            WallClock(Clocks(lambda: BOOTTIME_NS, lambda: self.realtime_ns)),
            250,
            self.totals,
        )

    def make(
        self,
        records: NDArray[Any] = NO_RECORDS,
        listening: NDArray[Any] = NO_LISTENERS,
        namespaces: tuple[NamespaceCounters, ...] = (),
    ) -> dict[str, Any]:
        return read(self.maker.make(records, listening, namespaces))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def without_logical_types(schema: Any) -> Any:
    """So that times stay integers."""
    if isinstance(schema, list):
        return [without_logical_types(part) for part in schema]
    if isinstance(schema, dict):
        return {key: without_logical_types(value) for key, value in schema.items() if key != "logicalType"}
    return schema


SCHEMA = fastavro.parse_schema(without_logical_types(CURRENT.document))


def read(batch: EncodedBatch) -> dict[str, Any]:
    """The document behind the marker and the fingerprint."""
    assert batch.key == HOST.host_id.encode()
    document: Any = fastavro.schemaless_reader(io.BytesIO(batch.value[10:]), SCHEMA)
    assert len(document["flows"]) == batch.flows
    return dict(document)


def address(text: str) -> NDArray[np.uint8]:
    parsed = ipaddress.ip_address(text)
    return np.frombuffer(parsed.packed if parsed.version == 6 else b"\0" * 10 + b"\xff\xff" + parsed.packed, np.uint8)


def flows(count: int = 1, **values: Any) -> NDArray[np.void]:
    """Closed connections of nginx; anything else is given."""
    records = np.zeros(count, FLOW_RECORD)
    given: dict[str, Any] = {
        "opened_ns": BOOTTIME_NS - 2_000_000_000,
        "start_ns": BOOTTIME_NS - 2_000_000_000,
        "end_ns": BOOTTIME_NS - 1_000_000_000,
        "netns": OUR_NETNS,
        "cgroup": NGINX,
        "pid": 42,
        "comm": b"nginx",
        "owner_source": Owner.CONNECT,
        "role": Role.CLIENT,
        "state": TcpState.FIN_WAIT2,
        "flags": Flag.FINAL | Flag.ESTABLISHED | Flag.SOCK_DONE,
        "local_address": address("10.0.0.1"),
        "remote_address": address("10.0.0.2"),
        "local_port": 40_000,
        "remote_port": 5432,
    }
    for name, value in {**given, **values}.items():
        records[name] = value
    records["cookie"] = np.arange(1, count + 1)
    return records


def listener(cookie: int, drops: int, **values: Any) -> NDArray[np.void]:
    """A listening socket of postgres; anything else is given."""
    records = np.zeros(1, LISTENER_RECORD)
    given: dict[str, Any] = {
        "netns": OUR_NETNS,
        "cgroup": POSTGRES,
        "pid": 43,
        "comm": b"postgres",
        "owner_source": Owner.CONNECT,
        "accept_queue": 3,
        "accept_queue_max": 128,
        "port": 5432,
        "address": address("::"),
    }
    for name, value in {**given, **values, "cookie": cookie, "drops": drops}.items():
        records[name] = value
    return records


def symbols(field: str) -> tuple[str, ...]:
    return next(each.symbols for each in CURRENT.flow_fields if each.name == field)


@pytest.mark.parametrize(
    ("field", "codes"),
    [
        ("owner_source", Owner),
        ("role", Role),
        ("state", TcpState),
        ("close_reason", CloseReason),
        ("close_detail", CloseDetail),
    ],
)
def test_codes_stand_in_the_order_of_the_schemas_symbols(field: str, codes: type[IntEnum]) -> None:
    named = {code: name for code, name in enumerate(symbols(field)) if name != "unknown"}
    assert {int(code): code.name.lower() for code in codes if code.name != "UNKNOWN"} == named


def test_sources_of_listeners_are_named_in_the_order_of_the_schema() -> None:
    assert symbols("owner_source") == OWNER_SOURCES
    assert [OWNER_SOURCES[owner] for owner in Owner] == [owner.name.lower() for owner in Owner]


def test_the_header_says_which_host_and_run_it_is_where_it_stands_and_when(bench: Bench) -> None:
    batch = bench.make(flows(3))
    assert {name: value for name, value in batch.items() if name not in ("flows", "workloads")} == {
        "host_id": HOST.host_id,
        "host": "web-1",
        "boot_id": "boot-1",
        "run_id": "run-1",
        "number": 0,
        "lowest_number": 0,
        "created_time": REALTIME_NS // 1000,
        "cluster": "east",
        "region": "eu-1",
        "zone": None,
        "account": "4711",
        "captured": 3,
        "dropped": {},
        "delayed_interims": 0,
        "networks": ["office"],
        "processes": ["nginx"],
        "listeners": [],
        "namespaces": [],
    }


def test_batches_are_numbered_from_0_and_carry_the_running_totals(bench: Bench) -> None:
    first = bench.make(flows(3))
    bench.totals.kernel_dropped = {Drop.RING_FULL: 4}
    bench.totals.drop(Drop.SPOOL_FULL, 3)
    bench.totals.delayed_interims = 9
    second, third = bench.make(), bench.make(flows(2))
    assert [batch["number"] for batch in (first, second, third)] == [0, 1, 2]
    assert [batch["lowest_number"] for batch in (first, second, third)] == [0, 1, 2]
    assert [batch["captured"] for batch in (first, second, third)] == [3, 7, 9]
    assert [batch["dropped"] for batch in (first, third)] == [{}, {"ring_full": 4, "spool_full": 3}]
    assert [batch["delayed_interims"] for batch in (first, second)] == [0, 9]


def test_an_empty_batch_is_a_sign_of_life(bench: Bench) -> None:
    batch = bench.make()
    assert (batch["flows"], batch["captured"], batch["number"]) == ([], 0, 0)


def test_a_flow_has_its_owner_its_network_its_times_and_its_ending(bench: Bench) -> None:
    batch = bench.make(flows(1, bytes_sent=10, bytes_received=20))
    (flow,) = batch["flows"]
    assert batch["workloads"][flow["workload"]]["workload"] == "nginx.service"
    assert batch["processes"][flow["process"]] == "nginx"
    assert batch["networks"][flow["network"]] == "office"
    assert (flow["opened_time"], flow["end_time"]) == (REALTIME_NS // 1000 - 2_000_000, REALTIME_NS // 1000 - 1_000_000)
    assert (flow["role"], flow["state"], flow["owner_source"]) == ("client", "fin_wait2", "connect")
    assert (flow["close_reason"], flow["final"]) == ("closed_local", True)
    assert (flow["bytes_sent"], flow["bytes_received"]) == (10, 20)


def test_owners_and_networks_that_repeat_are_named_once(bench: Bench) -> None:
    records = np.concatenate(
        [
            flows(2),
            flows(2, cgroup=POSTGRES, comm=b"postgres"),
            flows(1, local_address=address("127.0.0.1"), remote_address=address("127.0.0.1")),
            flows(1, local_address=address("::1"), remote_address=address("::1"), netns=99),
        ]
    )
    batch = bench.make(records)
    assert [batch["workloads"][flow["workload"]]["workload"] for flow in batch["flows"]] == [
        "nginx.service", "nginx.service", "postgres.service", "postgres.service", "nginx.service", "nginx.service",
    ]  # fmt: skip
    assert len(batch["workloads"]) == len(batch["processes"]) == 2
    assert [batch["networks"][flow["network"]] for flow in batch["flows"]] == ["office"] * 4 + [
        f"host/{HOST.host_id}",
        f"host/{HOST.host_id}/99",
    ]


def test_an_owner_that_nobody_knows_is_null(bench: Bench) -> None:
    (flow,) = bench.make(flows(1, pid=0, cgroup=0, comm=b"", owner_source=Owner.UNKNOWN))["flows"]
    assert (flow["workload"], flow["process"], flow["pid"], flow["owner_source"]) == (None, None, None, "unknown")


def test_listeners_point_into_the_same_lists_as_the_flows(bench: Bench) -> None:
    batch = bench.make(flows(1, cgroup=POSTGRES, comm=b"postgres"), listener(5, 0))
    (flow,), (heard,) = batch["flows"], batch["listeners"]
    assert (heard["workload"], heard["process"]) == (flow["workload"], flow["process"])
    assert batch["networks"][heard["network"]] == "office"
    assert heard["address"] == address("::").tobytes()
    known = {name: heard[name] for name in ("time", "netns", "port", "pid", "owner_source", "accept_queue")}
    assert known == {
        "time": REALTIME_NS // 1000,
        "netns": OUR_NETNS,
        "port": 5432,
        "pid": 43,
        "owner_source": "connect",
        "accept_queue": 3,
    }


def test_overflows_of_a_listener_are_what_its_drops_grew_by(bench: Bench) -> None:
    seen = [
        [heard["overflows"] for heard in bench.make(NO_RECORDS, np.concatenate(listening))["listeners"]]
        for listening in (
            [listener(5, 10)],  # what came before us is not ours
            [listener(5, 14), listener(6, 3)],
            [listener(5, 14), listener(6, 4)],
            [listener(6, 2**32 - 1)],
            [listener(6, 4)],  # the kernel's counter has wrapped
        )
    ]
    assert seen == [[0], [4, 0], [0, 1], [2**32 - 5], [5]]


def test_a_listener_of_nobody_has_no_pid_and_no_name(bench: Bench) -> None:
    (heard,) = bench.make(NO_RECORDS, listener(5, 0, pid=0, cgroup=0, comm=b"", owner_source=Owner.UNKNOWN))[
        "listeners"
    ]
    assert (heard["pid"], heard["process"], heard["workload"], heard["owner_source"]) == (None, None, None, "unknown")


def test_counters_of_namespaces_go_as_they_are(bench: Bench) -> None:
    batch = bench.make(namespaces=(NamespaceCounters(7, 1, 2, 3, 4),))
    assert batch["namespaces"] == [
        {"netns": 7, "listen_overflows": 1, "listen_drops": 2, "out_no_routes": 3, "half_open": 4}
    ]


def test_a_step_of_the_wall_clock_moves_the_times_of_the_next_batch(bench: Bench) -> None:
    moments: list[Callable[[dict[str, Any]], int]] = [
        lambda batch: int(batch["created_time"]),
        lambda batch: int(batch["flows"][0]["end_time"]),
    ]
    before = bench.make(flows())
    bench.realtime_ns += 3_600_000_000_000
    after = bench.make(flows())
    assert [moment(after) - moment(before) for moment in moments] == [3_600_000_000] * 2
