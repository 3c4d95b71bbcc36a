"""A ring buffer full of equal records, read as one array.

Pure: memory in, records and the new position out. The layout is that of kernel/bpf/ringbuf.c: positions count bytes
and never wrap; the data pages are mapped twice in a row, so a record that wraps is contiguous in the mapping; each
record has a header of 8 bytes, whose first word is its length and two flags; a record takes its length rounded up to 8.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

BUSY_BIT: Final = 1 << 31
"""Reserved and not submitted yet: nothing from here on may be read."""
DISCARD_BIT: Final = 1 << 30
"""Given back by its writer: to be skipped."""
HEADER_BYTES: Final = 8


def read_records(
    data: NDArray[np.uint8], consumer: int, producer: int, record: np.dtype[np.void]
) -> tuple[NDArray[np.void], int]:
    """The records between two positions, copied, and the position up to which the ring may be freed.

    data: shape (2 * ring bytes,), the double mapping. record: its itemsize is a multiple of 8.
    Returns records of shape (n,), in the order of their reservation, and the new consumer position.
    Raises ValueError when the ring holds records of another length: the object and this package do not belong together.
    """
    stride = HEADER_BYTES + record.itemsize
    count = (producer - consumer) // stride
    offset = consumer % (len(data) // 2)
    slots = data[offset : offset + count * stride].reshape(count, stride)
    headers = slots[:, :4].copy().view(np.uint32).ravel()
    busy = (headers & BUSY_BIT) != 0
    if busy.any():
        count = int(busy.argmax())
        slots, headers = slots[:count], headers[:count]
    lengths = headers & ~np.uint32(DISCARD_BIT)
    if (lengths != record.itemsize).any():
        raise ValueError(f"the ring holds records of {lengths.max()} bytes, not {record.itemsize}")
    kept = slots[(headers & DISCARD_BIT) == 0] if (headers != lengths).any() else slots
    records = kept[:, HEADER_BYTES:].copy().view(record).reshape(len(kept))
    return records, consumer + count * stride
