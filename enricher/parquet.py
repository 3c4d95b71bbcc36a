"""Rows -> the bytes of a Parquet file, and what a file says of itself.

What may stand in a file is what DuckDB, Trino, Spark and polars all read alike: signed integers, microseconds, zstd,
no BYTE_STREAM_SPLIT on integers (docs/decisions/). Within that, each column has the encoding that bench/enricher.py
found cheapest in bytes, and in CPU where bytes are about equal:

    text                       dictionary
    times, ports, bytes        DELTA_BINARY_PACKED: half the CPU of plain pages, since zstd has less to read
    flow_id                    plain: 8 bytes of hash that nothing makes smaller
    other numbers              dictionary: gauges and counters of short connections repeat

The same rows and identity give the same bytes: no time of writing, no path, no host.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from enricher.dictionary import TEXT
from enricher.rows import FileIdentity
from lake.ranges import LakeError
from schemas.arrow import arrow_schema
from schemas.flows import FLOWS
from schemas.table import Table, Type

ZSTD_LEVEL = 1
ROW_GROUP_ROWS = 1 << 20  # a file is one row group unless its range was very large
DICTIONARY_BYTES = 4 << 20  # 100,000 distinct addresses are 1.4 MB; beyond this a column goes on in plain pages

# Minima and maxima cost 15 ns a row and column: only where people filter.
_FILTERED = {
    FLOWS.name: (
        "end_time", "host", "local_workload", "remote_workload", "local_address", "remote_address", "close_reason",
    ),
}  # fmt: skip
_DELTA = {
    FLOWS.name: {
        "local_port", "remote_port", "bytes_sent", "bytes_received", "bytes_retransmitted",
    },
}  # fmt: skip
_PLAIN = {FLOWS.name: {"flow_id"}}

_PREFIX = "flowlake."


def written_schema(table: Table) -> pa.Schema:
    """The table as it goes to the writer: schemas/arrow.py's, with text dictionary-encoded."""
    schema = arrow_schema(table)
    return pa.schema([field.with_type(TEXT) if field.type == pa.string() else field for field in schema])


def to_parquet(rows: pa.Table, table: Table, identity: FileIdentity, layout_version: int) -> bytes:
    """The whole file, in memory: a store gets a file whole or not at all.

    rows: the columns of written_schema(table), in any order. Raises KeyError where one is missing, ValueError where one
        holds a null and may not.
    """
    schema = written_schema(table)
    rows = rows.select(schema.names).cast(schema)
    delta = _DELTA.get(table.name, set()) | {c.name for c in table.columns if c.type is Type.TIMESTAMP_US}
    plain = _PLAIN.get(table.name, set()) | {c.name for c in table.columns if c.type is Type.BOOL}
    out = pa.BufferOutputStream()
    with pq.ParquetWriter(
        out,
        rows.schema,
        compression="zstd",
        compression_level=ZSTD_LEVEL,
        use_dictionary=[c.name for c in table.columns if c.name not in delta | plain],
        column_encoding=dict.fromkeys(sorted(delta), "DELTA_BINARY_PACKED"),
        dictionary_pagesize_limit=DICTIONARY_BYTES,
        write_statistics=list(_FILTERED.get(table.name, (table.partition_time,))),
        store_schema=False,
    ) as writer:
        writer.write_table(rows, row_group_size=ROW_GROUP_ROWS)
        writer.add_key_value_metadata(_to_metadata(identity, layout_version))
    body: bytes = out.getvalue().to_pybytes()
    return body


def identity_of(body: bytes) -> FileIdentity:
    """What the file's footer says. Raises LakeError where it is not a file that we wrote whole."""
    try:
        metadata = pq.read_metadata(pa.BufferReader(body))
        said = {key.decode(): value.decode() for key, value in (metadata.metadata or {}).items()}
        identity = FileIdentity(
            log=said[_PREFIX + "log"],
            partition=int(said[_PREFIX + "partition"]),
            first=int(said[_PREFIX + "first"]),
            next=int(said[_PREFIX + "next"]),
            readable_from=int(said[_PREFIX + "readable_from"]),
            table=said[_PREFIX + "table"],
            rows=int(said[_PREFIX + "rows"]),
            digest=said[_PREFIX + "digest"],
        )
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        raise LakeError(f"a file of this lake is not one that flowlake wrote ({error}): move it away") from error
    if identity.rows != metadata.num_rows:
        raise LakeError(
            f"a file of table {identity.table} holds {metadata.num_rows} rows and says {identity.rows}: move it away"
        )
    return identity


def _to_metadata(identity: FileIdentity, layout_version: int) -> Mapping[str, str]:
    said: dict[str, Any] = {
        "log": identity.log,
        "partition": identity.partition,
        "first": identity.first,
        "next": identity.next,
        "readable_from": identity.readable_from,
        "table": identity.table,
        "rows": identity.rows,
        "digest": identity.digest,
        "layout_version": layout_version,
    }
    return {_PREFIX + key: str(value) for key, value in said.items()}
