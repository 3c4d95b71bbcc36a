"""Text columns as dictionary arrays in canonical form: the distinct values that occur, sorted, and an index per row.

Canonical means that equal columns are equal in every buffer, whatever batches they came from: the bytes of a Parquet
file and the digest of its rows then depend on the rows alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv6Address
from socket import AF_INET6, inet_ntop

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

TEXT = pa.dictionary(pa.int32(), pa.string())

_OCTETS = pa.array([str(octet) for octet in range(256)])
_NO_PREFIX = bytes(12)
_MAPPED = np.frombuffer(b"\x00" * 10 + b"\xff\xff", np.uint32)  # ::ffff:0:0/96, RFC 4291 section 2.5.5.2


def named(values: Sequence[str | None], index: pa.Array) -> pa.DictionaryArray:
    """values[index] as a canonical dictionary array.

    values: what an index stands for; may repeat, may hold None.
    index: (n,) int32 below len(values); null gives null.
    """
    return Names(index, len(values)).column(values)


class Names:
    """One index column, from which several text columns are read: a workload's name, kind, namespace..."""

    def __init__(self, index: pa.Array, count: int) -> None:
        """index: (n,) int32 below count, with nulls."""
        self._index = index
        used = np.zeros(count + 1, np.bool_)
        used[pc.fill_null(index, count).to_numpy()] = True
        self._used: list[int] = np.flatnonzero(used[:count]).tolist()
        self._count = count

    def column(self, values: Sequence[str | None]) -> pa.DictionaryArray:
        """values[index], canonical. values: one per index."""
        distinct = sorted({value for place in self._used if (value := values[place]) is not None})
        if not distinct:
            return nothing(len(self._index))
        code_of = {value: code for code, value in enumerate(distinct)}
        codes: list[int | None] = [None] * self._count
        for place in self._used:
            value = values[place]
            codes[place] = None if value is None else code_of[value]
        indices = pa.array(codes, pa.int32()).take(self._index)
        return pa.DictionaryArray.from_arrays(indices, pa.array(distinct, pa.string()), safe=False)


def nothing(rows: int) -> pa.DictionaryArray:
    """A text column of nulls."""
    return pa.DictionaryArray.from_arrays(pa.nulls(rows, pa.int32()), pa.array([], pa.string()))


def always(value: str, rows: int) -> pa.DictionaryArray:
    """A text column of one value."""
    if rows == 0:
        return nothing(0)
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([value], pa.string()))


def canonical(column: pa.Array) -> pa.DictionaryArray:
    """A text column in canonical form. column: plain, or dictionary-encoded with distinct values; nulls stay nulls."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    occurring = pc.unique(column.indices).drop_null()
    values = column.dictionary.take(occurring)
    order = pc.sort_indices(values)  # by UTF-8 bytes, which is the order of Python's str too
    new_code = np.zeros(len(column.dictionary), np.int32)
    new_code[occurring.take(order).to_numpy()] = np.arange(len(order), dtype=np.int32)
    indices = pa.array(new_code).take(column.indices)
    return pa.DictionaryArray.from_arrays(indices, values.take(order).cast(pa.string()), safe=False)


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """The column as one array, without a copy where it is one already. Text of several chunks gets one dictionary."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return column.unify_dictionaries().combine_chunks()


def canonical_text(rows: pa.Table) -> pa.Table:
    """The table with all its text in canonical form."""
    columns = [one_array(rows[name]) for name in rows.column_names]
    columns = [canonical(column) if pa.types.is_dictionary(column.type) else column for column in columns]
    return pa.table(columns, schema=rows.schema)


def addresses(wire: pa.Array) -> pa.DictionaryArray:
    """Addresses as text, canonical: IPv4 (also IPv4-mapped IPv6) dotted, IPv6 compressed as RFC 5952 says.

    wire: (n,) fixed_size_binary(16), no nulls.
    """
    encoded = wire.dictionary_encode()
    raw = np.frombuffer(encoded.dictionary.buffers()[1] or b"", np.uint8).reshape(-1, 16)
    return canonical(pa.DictionaryArray.from_arrays(encoded.indices, address_text(raw)))


def address_text(raw: NDArray[np.uint8]) -> pa.Array:
    """The text of addresses as on the wire. raw: (n, 16). Python runs per IPv6 address only."""
    dotted: pa.Array = pc.binary_join_element_wise(*(_OCTETS.take(pa.array(raw[:, 12 + i])) for i in range(4)), ".")
    is_ipv6 = (raw[:, :12].copy().view(np.uint32) != _MAPPED).any(axis=1)
    if not is_ipv6.any():
        return dotted
    text = pa.array([_ipv6_text(row) for row in raw[is_ipv6].view("V16").ravel().tolist()], pa.string())
    replaced: pa.Array = pc.replace_with_mask(dotted, pa.array(is_ipv6), text)
    return replaced


def _ipv6_text(address: bytes) -> str:
    """RFC 5952. inet_ntop is 10 times as fast as ipaddress, but writes ::/96 as IPv4 with two colons in front."""
    return str(IPv6Address(address)) if address.startswith(_NO_PREFIX) else inet_ntop(AF_INET6, address)
