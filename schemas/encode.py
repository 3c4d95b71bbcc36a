"""Flows as columns -> the concatenated Avro encodings of their records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.native import ITEMS, SOURCE, CodecError, FieldTable, address
from schemas.wire import Kind, WireField

_OCTET = np.dtype(np.uint8)


class FlowEncoder:
    """Encodes the columns of one schema's flows. Holds nothing between calls."""

    def __init__(self, fields: Sequence[WireField]) -> None:
        self._fields = tuple(fields)
        self._table = FieldTable(fields)

    def encode(self, columns: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.uint8], int]:
        """The concatenated encodings of n records, and n.

        columns: one array per field, by its name: integers and enum codes (n,), booleans (n,), addresses uint8
            (n, 16); numpy.ma.MaskedArray where the field may be null. Any integers up to int64; any stride.

        Raises ValueError where a column is missing, too long, too short, or holds what its type cannot.
        """
        first = columns.get(self._fields[0].name)
        n = 0 if first is None else len(first)
        rows = [_source(field, columns.get(field.name), n) for field in self._fields]
        try:
            return self._table.encode(np.array(rows, SOURCE), n), n
        except CodecError as error:
            field = self._fields[error.field]
            raise ValueError(f"column {field.name} holds a number that {field.kind} cannot") from None


def _source(field: WireField, column: NDArray[Any] | None, n: int) -> tuple[int, int, int, int, int]:
    """Where the column is: a row of SOURCE."""
    shape = (n, 16) if field.kind is Kind.ADDRESS else (n,)
    if column is None or column.shape != shape:
        got = None if column is None else column.shape
        raise ValueError(f"column {field.name} has shape {got} and should have {shape}")
    type_ = column.dtype
    item = ITEMS.get(type_)
    if item is None or (field.kind is Kind.ADDRESS and (type_ != _OCTET or (n and column.strides[1] != 1))):
        raise ValueError(f"column {field.name} is {type_}, which {field.kind} cannot be")
    mask: Any = np.ma.getmask(column)
    if mask is np.ma.nomask:
        return address(column), column.strides[0], 0, 0, item
    if not field.nullable and mask.any():
        raise ValueError(f"column {field.name} has a null, which is not allowed")
    return address(column), column.strides[0], address(mask), mask.strides[0], item
