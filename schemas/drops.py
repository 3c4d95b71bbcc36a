"""The names of every way in which a flow can be lost: one list for the kernel's counters, the metrics and the lake."""

from __future__ import annotations

from enum import StrEnum


class Drop(StrEnum):
    """Why a captured flow never reached the lake. `coverage` has a column `dropped_<reason>` for each."""

    RING_FULL = "ring_full"  # final record: the sidecar did not drain the ring buffer in time
    HALF_OPEN_FULL = "half_open_full"  # more unfinished handshakes than the probe remembers
    STORAGE_FULL = "storage_full"  # the kernel had no memory for a socket's state
    UNSEEN_END = "unseen_end"  # the socket is gone, and no tracepoint told of it (docs/decisions/unseen-ends.md)
    SPOOL_FULL = "spool_full"  # the spool's bound was reached: the oldest batch went
    SPOOL_CORRUPT = "spool_corrupt"  # a spooled batch failed its checksum
    SPOOL_ERROR = "spool_error"  # a batch could not be written to disk at all
    OTHER = "other"  # a reason that a newer sidecar names and this enricher does not know
