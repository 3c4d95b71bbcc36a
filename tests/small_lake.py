"""A lake in a folder, made of rows that a test writes down: the same columns, types and file names as the real one."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.arrow import ARROW_TYPES
from schemas.table import Column, Table, Type
from schemas.tables import TABLES

_ZERO = {Type.STRING: "", Type.BOOL: False, Type.INT32: 0, Type.INT64: 0, Type.TIMESTAMP_US: datetime(2026, 1, 1)}
LOG = "0123456789abcdef"


def at(text: str) -> datetime:
    """`07:30:05` on 2026-11-22, or a whole ISO time; UTC."""
    return datetime.fromisoformat(text if "T" in text else f"2026-11-22T{text}").replace(tzinfo=UTC)


def make_lake(folder: Path, rows: Mapping[str, Sequence[Mapping[str, Any]]], *, format_version: int = 1) -> Path:
    """rows: by table; columns that a row does not give are null where they may be, else zero."""
    folder.mkdir(parents=True, exist_ok=True)
    marker = {"uuid": "8d7e5a3c-0000-4000-8000-000000000000", "format_version": format_version, "engine": "hive"}
    (folder / "_lake.json").write_text(json.dumps(marker))
    for name, table_rows in rows.items():
        table = TABLES[name]
        by_hour: dict[datetime, list[Mapping[str, Any]]] = defaultdict(list)
        for row in table_rows:
            by_hour[row[table.partition_time].replace(minute=0, second=0, microsecond=0)].append(row)
        for hour, of_hour in by_hour.items():
            write_file(folder, table, hour, of_hour)
    return folder


def write_file(
    lake: Path, table: Table, hour: datetime, rows: Sequence[Mapping[str, Any]], *, first: int = 0, without: str = ""
) -> Path:
    """One file of one hour. without: a column that it lacks, as files from before the column was added do."""
    columns = [column for column in table.columns if column.name != without]
    schema = pa.schema([(column.name, ARROW_TYPES[column.type]) for column in columns])
    arrays = [pa.array([row.get(c.name, _missing(c)) for row in rows], ARROW_TYPES[c.type]) for c in columns]
    path = (
        lake
        / table.name
        / f"date={hour:%Y-%m-%d}"
        / f"hour={hour:%H}"
        / f"{LOG}-0-{first:020d}-{first + 9:020d}.parquet"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path)
    return path


def _missing(column: Column) -> Any:
    return None if column.nullable else _ZERO[column.type]


def flow(end_time: str, flow_id: int, **given: Any) -> dict[str, Any]:
    """A record of a client on host `web` that closed well; anything else is given."""
    end = at(end_time)
    row: dict[str, Any] = {
        "start_time": end,
        "end_time": end,
        "opened_time": end,
        "flow_id": flow_id,
        "run_id": "run-1",
        "final": True,
        "host": "web",
        "host_id": "id-web",
        "role": "client",
        "local_address": "10.0.0.1",
        "local_port": 40000 + flow_id,
        "remote_address": "10.0.0.2",
        "remote_port": 5432,
        "network": "office",
        "local_workload": "checkout",
        "process": "checkout",
        "owner_source": "connect",
        "state": "fin_wait2",
        "close_reason": "closed_local",
        "remote_reason": "no_claim",
    }
    if not given.get("final", True):
        row |= {"close_reason": "open", "state": "established"}
    return row | given


def other_end(record: Mapping[str, Any], **given: Any) -> dict[str, Any]:
    """The record of the same connection as the server's host `db` saw it."""
    swapped = {
        "flow_id": record["flow_id"] + 1_000_000,
        "host": "db",
        "host_id": "id-db",
        "role": "server",
        "local_address": record["remote_address"],
        "local_port": record["remote_port"],
        "remote_address": record["local_address"],
        "remote_port": record["local_port"],
        "local_workload": "postgres",
        "process": "postgres",
        "bytes_sent": record.get("bytes_received", 0),
        "bytes_received": record.get("bytes_sent", 0),
        "close_reason": "closed_remote" if record["final"] else "open",
        "syn_retransmits": 0,
        "connect_us": None,
        "rtt_us": None,
    }
    return dict(record) | swapped | given
