"""The digest of rows: the same rows in the same order have the same digest, in whatever file and of whatever release.

It covers values, not encodings: a table read back from its Parquet file has the digest of the table that was written.
SHA-256 over the columns, each as: its name, whether values are null, and the values themselves. Hashing is what costs
(1.4 GB/s), so numbers are hashed in the fewest bytes that tell them apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from enricher.dictionary import canonical, one_array


def rows_digest(rows: pa.Table, columns: Sequence[str]) -> str:
    """Hex digest of these columns. Text may be plain or dictionary-encoded in canonical form (dictionary.py)."""
    digest = hashlib.sha256(b"flowlake rows 1\n%d\n" % rows.num_rows)
    for name in columns:
        values = one_array(rows[name])
        digest.update(b"%s\n%d\n" % (name.encode(), rows.num_rows - values.null_count))
        if values.null_count == rows.num_rows:
            continue
        if values.null_count:
            digest.update(values.is_valid().cast(pa.uint8()).to_numpy().data)
        if pa.types.is_string(values.type):
            values = canonical(values)
        if pa.types.is_dictionary(values.type):
            lengths, texts = pc.binary_length(values.dictionary), pc.binary_join(_list_of(values.dictionary), "")
            digest.update(b"%d\n" % len(lengths))
            digest.update(lengths.to_numpy().data)
            digest.update(texts[0].as_buffer())
            values = values.indices
        least, narrow = _narrow(_integers(values))
        digest.update(b"%d %d\n" % (least, narrow.nbytes))
        digest.update(narrow.data)
    return digest.hexdigest()


def _integers(values: pa.Array) -> NDArray[Any]:
    """(n,) what to hash of numbers, times and booleans; the smallest of the column where null."""
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.uint8())
    elif pa.types.is_timestamp(values.type):
        values = values.view(pa.int64())
    if values.null_count:
        values = pc.fill_null(values, pc.min(values))
    integers: NDArray[Any] = values.to_numpy()
    return integers


def _narrow(integers: NDArray[Any]) -> tuple[int, NDArray[Any]]:
    """(smallest, the lowest 1, 2, 4 or 8 bytes of each; none where all values are one).

    As many bytes as hold largest - smallest: with the smallest they tell each value.
    """
    least, most = int(integers.min()), int(integers.max())
    span = most - least
    if span == 0:
        return least, np.empty(0, np.uint8)
    bits = next(bits for bits in (8, 16, 32, 64) if span >> bits == 0)
    return least, integers.astype(f"<u{bits // 8}", copy=False)


def _list_of(texts: pa.Array) -> pa.Array:
    """One list that holds them all."""
    return pa.ListArray.from_arrays(pa.array([0, len(texts)], pa.int32()), texts)
