"""The memory of one BPF ring buffer, shared with the kernel: the consumer of its records."""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

from sidecar.probe.ring import read_records


class MappedRing:
    """Maps a ring buffer map (kernel/bpf/ringbuf.c, ringbuf_map_mmap_kern) and takes records out of it.

    The first page holds the consumer's position and is writable; the second one the producer's, and then come the data
    pages, twice. As x86-64 keeps a load before a later store, and everything is copied before the position is stored,
    the kernel cannot overwrite what is still to be read; elsewhere the calls between the two do it in practice.
    """

    def __init__(self, fd: int, size_bytes: int, record: np.dtype[np.void]) -> None:
        """fd: of the map, which the caller keeps. Raises OSError if it cannot be mapped."""
        page = mmap.PAGESIZE
        self.fd = fd
        self._record = record
        self._consumer_page = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._producer_pages = mmap.mmap(fd, page + 2 * size_bytes, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._consumer = np.frombuffer(self._consumer_page, np.uint64, 1)
        self._producer = np.frombuffer(self._producer_pages, np.uint64, 1)
        self._data: NDArray[np.uint8] = np.frombuffer(self._producer_pages, np.uint8, 2 * size_bytes, page)

    def drain(self) -> NDArray[np.void]:
        """Every finished record, shape (n,), copied; their room is the kernel's again."""
        records, position = read_records(self._data, int(self._consumer[0]), int(self._producer[0]), self._record)
        self._consumer[0] = position
        return records

    def close(self) -> None:
        """Gives the mapping back."""
        del self._consumer, self._producer, self._data
        self._consumer_page.close()
        self._producer_pages.close()
