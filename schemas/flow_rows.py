"""Messages' arrays of flows -> numpy columns of the current schema -> one Arrow table.

Every message is decoded straight into its place in the columns; one that fails leaves nothing behind, since the next
one takes its place. Messages of older schemas go into the same columns: by name, int into long, symbols to their new
codes, defaults for what the writer did not know. Imports pyarrow: not for the sidecar.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.native import TARGET, WORD_BYTES, FieldTable, address
from schemas.wire import Kind, WireField, WireSchema

TIMESTAMP = pa.timestamp("us", tz="UTC")
_ARROW = {
    Kind.BOOLEAN: pa.bool_(), Kind.INT: pa.int32(), Kind.LONG: pa.int64(), Kind.ENUM: pa.int8(),
    Kind.ADDRESS: pa.binary(16),
}  # fmt: skip
_NUMPY: dict[Kind, np.dtype[Any]] = {
    Kind.BOOLEAN: np.dtype("u1"), Kind.INT: np.dtype("i4"), Kind.LONG: np.dtype("i8"), Kind.ENUM: np.dtype("i1"),
    Kind.ADDRESS: np.dtype("V16"),
}  # fmt: skip

NOT_NEGATIVE = ("network", "process", "workload", "local_port", "remote_port")  # indices and ports

# Between two columns. Rows are written to all columns in step: were they a multiple of 4096 bytes apart, they would
# share a few lines of the cache.
APART_BYTES = 64


def arrow_type(field: WireField) -> pa.DataType:
    """The Arrow type of a field's column. An enum is its code: the place of its symbol in the schema."""
    return TIMESTAMP if field.is_time else _ARROW[field.kind]


class FlowRows:
    """Columns for at most `room` flows.

    values: by field name, (room,) of numbers, booleans as 0 or 1, or void16.
    valid: by name of the nullable fields, (room,) of 0 where null, else 1.
    """

    def __init__(self, schema: WireSchema, room: int) -> None:
        self._fields = schema.flow_fields
        sizes = [_NUMPY[field.kind].itemsize for field in self._fields]
        sizes += [1 for field in self._fields if field.nullable]
        # What the codec stores is words: the last row's may reach beyond it.
        steps = [-(-(size * room + WORD_BYTES) // APART_BYTES) * APART_BYTES + APART_BYTES for size in sizes]
        memory = np.empty(sum(steps), np.uint8)
        places = iter([memory[end - step :] for step, end in zip(steps, np.cumsum(steps).tolist(), strict=True)])
        self.values: dict[str, NDArray[Any]] = {
            field.name: np.frombuffer(next(places), _NUMPY[field.kind], room) for field in self._fields
        }
        self.valid: dict[str, NDArray[np.uint8]] = {
            field.name: next(places)[:room] for field in self._fields if field.nullable
        }

    def arrays(self, n: int) -> dict[str, pa.Array]:
        """The first n rows, by field name. They share the memory of the columns."""
        return {field.name: self._array(field, n) for field in self._fields}

    def _array(self, field: WireField, n: int) -> pa.Array:
        values = self.values[field.name][:n]
        valid = self.valid[field.name][:n] if field.nullable else None
        nulls = None if valid is None or valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
        data = np.packbits(values, bitorder="little") if field.kind is Kind.BOOLEAN else values.view(np.uint8)
        return pa.Array.from_buffers(arrow_type(field), n, [nulls, pa.py_buffer(data)])


class FlowDecoder:
    """Decodes flows that were written with one schema into columns of another. Raises ValueError where it could not."""

    def __init__(self, written: WireSchema, current: WireSchema) -> None:
        self._fields = written.flow_fields
        self._table = FieldTable(self._fields)
        self._place = {field.name: place for place, field in enumerate(self._fields)}
        for name in NOT_NEGATIVE:
            self._table.array["least"][self._place[name]] = 0
        self._recoded: dict[str, NDArray[np.int8]] = {}
        self._defaults: dict[str, Any] = {}
        for field in current.flow_fields:
            if field.name not in self._place:
                self._defaults[field.name] = field.symbols.index(field.default) if field.symbols else field.default
                continue
            writer = self._fields[self._place[field.name]]
            kinds = (writer.kind, field.kind)
            if writer.nullable != field.nullable or (kinds[0] != kinds[1] and kinds != (Kind.INT, Kind.LONG)):
                raise ValueError(f"FlowBatch: field {field.name} was another type")
            if writer.symbols != field.symbols[: len(writer.symbols)]:
                codes = [field.symbols.index(symbol) for symbol in writer.symbols]
                self._recoded[field.name] = np.array(codes, np.int8)

    def targets(self, rows: FlowRows) -> NDArray[Any]:
        """Where the fields go: (fields,) of TARGET."""
        return np.array(
            [
                (
                    address(rows.values[field.name]),
                    address(rows.valid[field.name]) if field.nullable else 0,
                    rows.values[field.name].itemsize,
                )
                for field in self._fields
            ],
            TARGET,
        )

    def most(self, **limits: int) -> NDArray[np.int64]:
        """The greatest number of each field: its limit, or what its type has. -1 allows none. (fields,)."""
        most: NDArray[np.int64] = self._table.array["most"].copy()
        for name, limit in limits.items():
            most[self._place[name]] = limit
        return most

    def decode(
        self,
        value: bytes,
        start: int,
        most: NDArray[np.int64],
        rows: FlowRows,
        targets: NDArray[Any],
        at: int,
        room: int,
    ) -> int:
        """Decode the flows of a message, which begin at value[start], into rows `at` and following; returns how many.

        Raises CodecError where they are not valid, or more than room.
        """
        n = self._table.decode(value, start, most, targets, at, room)
        new = slice(at, at + n)
        for name, codes in self._recoded.items():
            rows.values[name][new] = codes[rows.values[name][new]]
        for name, default in self._defaults.items():
            rows.values[name][new] = 0 if default is None else default
            if name in rows.valid:
                rows.valid[name][new] = default is not None
        return n
