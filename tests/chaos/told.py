"""What the lake says in the end, read by Arrow and DuckDB alone, and the laws that it must hold to."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from chaos.witness import FlowKey, Spooled

from schemas.drops import Drop

# Whatever edges make of an end that does not know whether it is the server, these are the same.
FLOWS_TOTALS = """
SELECT network, epoch_us(end_time) // 60000000 AS minute, count(*), count(*) FILTER (sequence = 0),
       count(*) FILTER (final), sum(retransmits), sum(bytes_sent + bytes_received)
FROM flows GROUP BY ALL ORDER BY ALL
"""
EDGES_TOTALS = """
SELECT network, epoch_us(minute) // 60000000 AS minute, sum(records), sum(opened), sum(closed), sum(retransmits),
       sum(bytes_sent + bytes_received)
FROM edges GROUP BY ALL ORDER BY ALL
"""
FLOWS_OF_SERVERS = """
SELECT epoch_us(end_time) // 60000000 AS minute, if(role = 'server', local_port, remote_port) AS server_port,
       count(*), sum(if(role = 'server', bytes_received, bytes_sent)),
       sum(if(role = 'server', bytes_sent, bytes_received))
FROM flows WHERE network LIKE $network GROUP BY ALL ORDER BY ALL
"""
EDGES_OF_SERVERS = """
SELECT epoch_us(minute) // 60000000 AS minute, server_port, sum(records), sum(bytes_sent), sum(bytes_received)
FROM edges WHERE network LIKE $network GROUP BY ALL ORDER BY ALL
"""

UNSEEN = f"dropped_{Drop.UNSEEN_END}"
LOSSES = (*(f"dropped_{drop}" for drop in Drop), "rejected", "expired")


def table(lake: Path, name: str) -> pa.Table:
    """All rows of a table; one without columns where there is none yet."""
    if not (lake / name).is_dir():
        return pa.table({})
    return ds.dataset(lake / name, partitioning=ds.partitioning(flavor="hive")).to_table()


def flows_by_key(flows: pa.Table) -> dict[FlowKey, tuple[int, int]]:
    """(bytes sent, bytes received) of each row. Fails where a row is there twice."""
    names = ("flow_id", "run_id", "sequence", "bytes_sent", "bytes_received")
    rows = list(zip(*(flows[name].to_pylist() for name in names), strict=True))
    by_key = {row[:3]: row[3:] for row in rows}
    assert len(by_key) == len(rows), "rows are doubled"
    return by_key


def assert_lake_holds_exactly(lake: Path, spooled: list[Spooled], netns: int) -> None:
    """The lake has every record of these messages once, and no other; and its tables agree with each other.

    netns: cookie of a namespace of the test's own, where every server's port has a listener.
    """
    expected = {key: moved for message in spooled for key, moved in message.flows().items()}
    assert len(expected) == sum(len(message.batch["flows"]) for message in spooled), "records are numbered twice"
    assert flows_by_key(table(lake, "flows")) == expected
    assert_tables_agree(lake, netns)


def assert_tables_agree(lake: Path, netns: int) -> None:
    """`edges` is the aggregate of `flows`, and `coverage` accounts for every record of every run."""
    flows, edges = table(lake, "flows"), table(lake, "edges")
    values = {"network": f"%/{netns}"}
    with duckdb.connect() as lake_in_memory:
        lake_in_memory.register("flows", flows)
        lake_in_memory.register("edges", edges)
        for of_flows, of_edges in ((FLOWS_TOTALS, EDGES_TOTALS), (FLOWS_OF_SERVERS, EDGES_OF_SERVERS)):
            sums = lake_in_memory.execute(of_flows, values if "$" in of_flows else {}).fetchall()
            assert sums == lake_in_memory.execute(of_edges, values if "$" in of_edges else {}).fetchall()
    assert flows.num_rows and edges.num_rows
    rows_of_run = {row["values"]: row["counts"] for row in pc.value_counts(flows["run_id"]).to_pylist()}
    for run_id, totals in coverage_by_run(lake).items():
        assert totals["captured"] == totals["written"] + sum(totals[name] for name in LOSSES), (run_id, totals)
        assert totals["written"] == rows_of_run.pop(run_id, 0), (run_id, totals)
    assert not rows_of_run, f"runs without coverage: {rows_of_run}"


def coverage_by_run(lake: Path) -> dict[str, dict[str, int]]:
    """Sums of the counters of each run of a sidecar."""
    coverage = table(lake, "coverage").filter(pc.field("netns").is_null())
    names = ("captured", "written", "batches", "repeated_batches", "missing_batches", *LOSSES)
    sums = coverage.group_by("run_id").aggregate([(name, "sum") for name in names])
    return {row["run_id"]: {name: row[f"{name}_sum"] for name in names} for row in sums.to_pylist()}


def losses(lake: Path) -> dict[str, int]:
    """What coverage says was lost, over all runs, by reason; reasons that never happened are left out, and so is what
    the kernel kept silent about, which no test can provoke or prevent (docs/decisions/unseen-ends.md).
    """
    runs = coverage_by_run(lake).values()
    sums = {name: sum(totals[name] for totals in runs) for name in LOSSES if name != UNSEEN}
    return {name: count for name, count in sums.items() if count}


def last_words(run: dict[str, int], spooled: int) -> str:
    """What the sidecar of this run says at its end, if it agrees with coverage."""
    dropped = ", ".join(f"{run[f'dropped_{reason}']} {reason}" for reason in Drop if run[f"dropped_{reason}"])
    return f"flowlake: captured {run['captured']}, spooled {spooled}, dropped {dropped or 'none'}"
