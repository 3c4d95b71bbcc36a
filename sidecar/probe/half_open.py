"""The half-open handshakes that the probe remembers: read in one go, taken out when they are overdue."""

from __future__ import annotations

import ctypes
import errno

import numpy as np
from numpy.typing import NDArray

from sidecar.probe.abi import HALF_OPEN
from sidecar.probe.libbpf import BatchOptions, library, number


class HalfOpenTable:
    """The hash map `half_open`, keyed by the request's cookie."""

    def __init__(self, fd: int, max_entries: int) -> None:
        """fd: of the map, which the caller keeps."""
        self._fd = fd
        self._max_entries = max_entries

    def take_overdue(self, now_ns: int) -> NDArray[np.void]:
        """Removes the handshakes that nobody can complete any more, and returns them as final records.

        now_ns: CLOCK_BOOTTIME; becomes their end. Returns FLOW_RECORD, shape (n,).
        """
        cookies, entries = self._read()
        overdue = (entries["overdue_ns"] != 0) & (entries["overdue_ns"] < now_ns)
        for cookie in cookies[overdue].tolist():
            key = ctypes.c_uint64(cookie)
            library().bpf_map_delete_elem(self._fd, ctypes.byref(key))
        records: NDArray[np.void] = entries["record"][overdue].copy()
        records["end_ns"] = now_ns
        return records

    def _read(self) -> tuple[NDArray[np.uint64], NDArray[np.void]]:
        """Keys and values of the whole map; what comes and goes meanwhile may be missing until the next time."""
        keys: NDArray[np.uint64] = np.empty(self._max_entries, np.uint64)
        values: NDArray[np.void] = np.empty(self._max_entries, HALF_OPEN)
        position = ctypes.c_uint64()
        first = True
        read = 0
        while read < self._max_entries:
            count = ctypes.c_uint32(self._max_entries - read)
            result = library().bpf_map_lookup_batch(
                self._fd,
                None if first else ctypes.byref(position),
                ctypes.byref(position),
                keys[read:].ctypes.data,
                values[read:].ctypes.data,
                ctypes.byref(count),
                ctypes.byref(BatchOptions(sz=ctypes.sizeof(BatchOptions))),
            )
            read += count.value
            first = False
            if result in (-errno.ENOENT, -errno.ENOSPC):  # the last of them; or a bucket grew: the next time
                break
            number(result, "cannot read the half-open handshakes")
        return keys[:read], values[:read]
