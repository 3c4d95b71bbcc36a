"""Edges are the aggregate of the stored flows, and count no connection twice."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_batches import NOON_US, Batch, make_header, random_flows, range_of, some_batches

from enricher.attribute import ATTRIBUTED
from enricher.dedupe import DedupeState
from enricher.edges import edges_table, read_flows
from enricher.parquet import written_schema
from enricher.row_maker import FlowRowMaker
from schemas.edges import EDGES
from schemas.failures import failed, never_connected
from schemas.flows import FLOWS

Row = dict[str, Any]
NAMES = ("workload", "kind", "namespace", "cluster", "zone")
_SUMS_FROM = [column.name for column in EDGES.columns].index("records")
KEYS = [column.name for column in EDGES.columns][:_SUMS_FROM]
MAKER = FlowRowMaker()


def stored(rows: list[Row]) -> bytes:
    """A flows file of these rows, as another program might have written them."""
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, written_schema(FLOWS)), out)
    return out.getvalue()


def named_by_someone(rows: list[Row], rng: np.random.Generator) -> list[Row]:
    """As a later release's attribution might leave them: some remote ends have names."""
    for row in rows:
        if rng.random() < 0.5:
            row |= {"remote_workload": rng.choice(["shop", "db"]), "remote_zone": "z", "remote_reason": None}
    return rows


def oracle(rows: list[Row]) -> list[Row]:
    """Straight from the meanings in schemas/edges.py, one row at a time."""

    def ours(row: Row) -> tuple[Any, ...]:
        return (row["network"], row["local_address"], row["local_port"], row["remote_address"], row["remote_port"])

    def theirs(row: Row) -> tuple[Any, ...]:
        return (row["network"], row["remote_address"], row["remote_port"], row["local_address"], row["local_port"])

    said = {(ours(row), row["role"]) for row in rows}

    def role(row: Row) -> str:
        if row["role"] != "unknown":
            return str(row["role"])
        if (theirs(row), "server") in said:
            return "client"
        return "server" if (theirs(row), "client") in said else "unknown"

    resolved = {(ours(row), role(row)) for row in rows}
    seen = {key for key, _ in resolved}
    edges: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        observer = role(row)
        here, there = ("server", "client") if observer == "server" else ("client", "server")
        edge: Row = {
            "minute": row["end_time"].replace(second=0, microsecond=0),
            "observer": observer,
            "network": row["network"],
            "server_port": row["local_port"] if here == "server" else row["remote_port"],
        }
        for end, side in ((here, "local"), (there, "remote")):
            edge |= {f"{end}_{name}": row[f"{side}_{name}"] for name in NAMES}
            edge[f"{end}_address"] = row[f"{side}_address"] if row[f"{side}_workload"] is None else None
        stands_back = (
            observer == "client" or (theirs(row), "client") in resolved or row["local_port"] < row["remote_port"]
        )
        edge["other_end_seen"] = theirs(row) in seen and ours(row) != theirs(row) and stands_back

        final, reason, syns = row["final"], row["close_reason"], row["syn_retransmits"]
        connect_us, rtt_us = row["connect_us"], row["rtt_us"]
        if connect_us is not None and row["sequence"] > 0:
            opened = row["opened_time"]
            since = None if opened is None else (row["start_time"] - opened).total_seconds() * 1e6
            connect_us = connect_us if since is not None and round(since) < connect_us else None
        sent, received = row["bytes_sent"], row["bytes_received"]
        sums = {
            "records": 1,
            "opened": int(row["sequence"] == 0),
            "closed": int(final),
            "failed": int(final and failed(reason, syns)),
            "never_connected": int(final and never_connected(reason, syns)),
            "bytes_sent": sent if here == "client" else received,
            "bytes_received": received if here == "client" else sent,
            "retransmits": row["retransmits"],
            "syn_retransmits": syns,
            "connects": int(connect_us is not None),
            "connect_us_sum": connect_us or 0,
            "rtt_samples": int(rtt_us is not None),
            "rtt_us_sum": rtt_us or 0,
            **{name: row[name] for name in ("busy_us", "rwnd_limited_us", "sndbuf_limited_us")},
        }
        total = edges.setdefault(tuple(edge[key] for key in KEYS), edge | {"connect_us_max": None, "rtt_us_max": None})
        for name, value in sums.items():
            total[name] = total.get(name, 0) + value
        for name, value in (("connect_us_max", connect_us), ("rtt_us_max", rtt_us)):
            total[name] = max((v for v in (total[name], value) if v is not None), default=None)

    def order(edge: Row) -> list[tuple[bool, Any]]:
        return [(edge[key] is not None, edge[key] if edge[key] is not None else 0) for key in KEYS]

    return sorted(edges.values(), key=order)


@pytest.mark.parametrize("seed", range(6))
def test_edges_are_what_plain_python_adds_up(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [row for batch in some_batches(seed, count=8, flows=60) for row in batch.rows]
    for row in rows:
        row["local_port"], row["remote_port"] = (80, 40_001) if rng.random() < 0.5 else (40_001, 80)
        row["network"] = "vpc-1"
    named_by_someone(rows, rng)
    assert any(edge["other_end_seen"] for edge in oracle(rows))
    halves = [stored(rows[:300]), stored(rows[300:])]
    assert edges_table(read_flows(halves)).to_pylist() == oracle(rows)


def test_edges_of_the_row_maker_are_the_aggregate_of_the_files_it_was_given() -> None:
    columns = random_flows(np.random.default_rng(7), 200, NOON_US - 60_000_000, 120_000_000)
    columns = {**columns, "local_port": np.full(200, 80, np.int32), "remote_port": np.full(200, 40_001, np.int32)}
    messages = [Batch(make_header(captured=200), columns).message(0)]
    where = range_of(messages)
    plan = MAKER.plan(messages, DedupeState(), where)
    flows = [file.body for file in MAKER.flow_files(plan, where)]
    edges = [file for file in MAKER.derived_files(plan, where, flows) if file.table == "edges"]
    read = [row for file in edges for row in pq.read_table(io.BytesIO(file.body)).to_pylist()]
    assert read == oracle([row for body in flows for row in pq.read_table(io.BytesIO(body)).to_pylist()])
    assert [file.key.split("/")[2] for file in edges] == ["hour=11", "hour=12"]


def one_row(role: str, local: tuple[str, int], remote: tuple[str, int], **other: Any) -> Row:
    batch = some_batches(1, count=1, flows=1)[0]
    ends = {"local_address": local[0], "local_port": local[1], "remote_address": remote[0], "remote_port": remote[1]}
    facts = {"role": role, "network": "n", "final": True, "sequence": 0, "close_reason": "closed_local"}
    return batch.rows[0] | dict.fromkeys(ATTRIBUTED) | facts | ends | other


def counted(rows: Iterable[Mapping[str, Any]]) -> int:
    """The filter that schemas/edges.py tells every reader to use."""
    return sum(row["closed"] for row in rows if not row["other_end_seen"] or row["observer"] == "client")


ROLES = [("client", "server"), ("client", "unknown"), ("unknown", "server"), ("unknown", "unknown")]
ENDS = [(("10.0.0.1", 40_001), ("10.0.0.2", 80)), (("10.0.0.1", 7000), ("10.0.0.2", 7000)), (("::1", 1), ("::1", 2))]


@pytest.mark.parametrize(("roles", "ends"), list(itertools.product(ROLES, ENDS)))
def test_a_connection_is_counted_once_whichever_ends_were_seen_and_whatever_they_know(
    roles: tuple[str, str], ends: tuple[tuple[str, int], tuple[str, int]]
) -> None:
    one, other = one_row(roles[0], ends[0], ends[1]), one_row(roles[1], ends[1], ends[0])
    for rows in ([one], [other], [one, other], [other, one]):
        assert counted(edges_table(read_flows([stored(rows)])).to_pylist()) == 1


def test_both_ends_of_a_connection_agree_on_who_is_the_client_though_one_does_not_know() -> None:
    rows = [
        one_row("server", ("10.0.0.2", 80), ("10.0.0.1", 99), local_workload="web", bytes_sent=5, bytes_received=3),
        one_row("unknown", ("10.0.0.1", 99), ("10.0.0.2", 80), local_workload="curl", bytes_sent=3, bytes_received=5),
    ]
    edges = edges_table(read_flows([stored(rows)])).to_pylist()
    assert [(edge["observer"], edge["server_port"], edge["bytes_sent"], edge["bytes_received"]) for edge in edges] == [
        ("client", 80, 3, 5),
        ("server", 80, 3, 5),
    ]


def test_a_socket_connected_to_itself_and_one_in_another_network_are_no_other_end() -> None:
    rows = [
        one_row("client", ("::1", 5), ("::1", 5)),
        one_row("client", ("10.0.0.1", 5), ("10.0.0.2", 80)),
        one_row("server", ("10.0.0.2", 80), ("10.0.0.1", 5), network="elsewhere"),
    ]
    assert [row["other_end_seen"] for row in edges_table(read_flows([stored(rows)])).to_pylist()] == [False] * 3


def test_connections_are_told_apart_among_more_pairs_of_addresses_than_31_bits() -> None:
    rng = np.random.default_rng(9)
    addresses = [f"10.{a}.{b}.{c}" for a, b, c in rng.integers(0, 256, (50_000, 3))]
    base = one_row("client", ("x", 40_000), ("y", 80))
    table = pa.Table.from_pylist([base], written_schema(FLOWS)).take(pa.array(np.zeros(50_000, np.int64)))
    local, remote = pa.array(addresses).dictionary_encode(), pa.array(addresses[::-1]).dictionary_encode()
    table = table.set_column(table.column_names.index("local_address"), "local_address", local)
    table = table.set_column(table.column_names.index("remote_address"), "remote_address", remote)
    table = table.cast(written_schema(FLOWS))
    swapped = table.slice(0, 10).to_pylist()
    for row in swapped:
        for name in ("address", "port"):
            row[f"local_{name}"], row[f"remote_{name}"] = row[f"remote_{name}"], row[f"local_{name}"]
        row["role"], row["local_workload"] = "server", "seen"
    out = io.BytesIO()
    pq.write_table(table, out)
    edges = edges_table(read_flows([out.getvalue(), stored(swapped)]))
    edges = edges.select(["observer", "records", "other_end_seen"]).to_pylist()
    servers = [edge for edge in edges if edge["observer"] == "server"]
    assert sum(edge["records"] for edge in servers if edge["other_end_seen"]) == 10
    clients = sum(edge["records"] for edge in edges if edge["observer"] == "client" and edge["other_end_seen"])
    assert 10 <= clients <= 10 + 50_000 * 10 / 256**3  # an address may have been drawn twice


def test_no_flows_have_no_edges() -> None:
    assert edges_table(read_flows([stored([])])).num_rows == 0
