"""Table definitions -> Arrow schemas. Imports pyarrow: not for the sidecar."""

from __future__ import annotations

import pyarrow as pa

from schemas.table import Table, Type

ARROW_TYPES: dict[Type, pa.DataType] = {
    Type.STRING: pa.string(),
    Type.BOOL: pa.bool_(),
    Type.INT32: pa.int32(),
    Type.INT64: pa.int64(),
    Type.TIMESTAMP_US: pa.timestamp("us", tz="UTC"),
}


def arrow_schema(table: Table) -> pa.Schema:
    """The table's columns, in its order; `date` and `hour` are in the folders' names and not among them."""
    return pa.schema([pa.field(column.name, ARROW_TYPES[column.type], column.nullable) for column in table.columns])
