"""Listening sockets as a walk found them -> the batch's `listeners`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.flow_batch import Listener
from schemas.wire import CURRENT
from sidecar.identity.identity import OwnerIndices

# In the order of enum flowlake_owner, bpf/flowlake.h; tests/sidecar/test_batch.py holds them to it.
OWNER_SOURCES = next(field.symbols for field in CURRENT.flow_fields if field.name == "owner_source")


class Listeners:
    """Remembers each listening socket's drops, to report their growth.

    The kernel counts them from the socket's beginning (sk_drops, include/net/sock.h), which may be before ours: the
    first look at a socket is its baseline.
    """

    def __init__(self) -> None:
        self._drops: dict[int, int] = {}  # by socket cookie

    def report(
        self, records: NDArray[Any], time_us: int, owners: OwnerIndices, networks: NDArray[np.int32]
    ) -> list[Listener]:
        """Every listener of one walk. records: shape (n,), LISTENER_RECORD; the others belong to them, row by row."""
        before = self._drops
        self._drops = dict(zip(records["cookie"].tolist(), records["drops"].tolist(), strict=True))
        processes = owners.process.filled(-1).tolist()
        workloads = owners.workload.filled(-1).tolist()
        return [
            Listener(
                time=time_us,
                network=network,
                netns=_signed(record["netns"]),
                address=record["address"].tobytes(),
                port=int(record["port"]),
                pid=int(record["pid"]) or None,
                process=None if process < 0 else process,
                workload=None if workload < 0 else workload,
                owner_source=OWNER_SOURCES[record["owner_source"]],
                accept_queue=int(record["accept_queue"]),
                accept_queue_max=int(record["accept_queue_max"]),
                # The kernel's counter is an int that wraps.
                overflows=(int(record["drops"]) - before.get(int(record["cookie"]), int(record["drops"]))) % (1 << 32),
            )
            for record, network, process, workload in zip(records, networks.tolist(), processes, workloads, strict=True)
        ]


def _signed(value: np.uint64) -> int:
    """As Avro's long holds it: a cookie counts from 1, only an inode's fallback could be larger."""
    return int(np.int64(value))
