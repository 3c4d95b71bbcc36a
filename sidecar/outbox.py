"""From batch to spool: in order, kept for a while when the disk refuses, dropped by name when that goes on."""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import dataclass

from schemas.drops import Drop
from sidecar.metrics import RunTotals
from transport.log import LogError, LogWriter


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """A batch as it goes out, unchanged however often it is tried."""

    key: bytes
    value: bytes
    flows: int


class Outbox:
    """Batches that the spool has not taken yet. The oldest go when they outgrow max_bytes."""

    def __init__(self, spool: LogWriter, totals: RunTotals, max_bytes: int) -> None:
        self._spool = spool
        self._totals = totals
        self._max_bytes = max_bytes
        self._waiting: deque[EncodedBatch] = deque()
        self._waiting_bytes = 0
        self._complained = False

    def send(self, batch: EncodedBatch) -> None:
        """Queue a batch behind those that wait, and try."""
        self._waiting.append(batch)
        self._waiting_bytes += len(batch.value)
        self.retry()
        while self._waiting_bytes > self._max_bytes:
            self._drop_oldest()

    def retry(self) -> None:
        """Give the spool what waits, until it refuses. Says once that it refuses, and once when it takes them again."""
        while self._waiting:
            batch = self._waiting[0]
            try:
                appended = self._spool.append(batch.key, batch.value, batch.flows)
            except LogError as error:
                if not self._complained:
                    print(f"flowlake: {error}", file=sys.stderr, flush=True)
                    self._complained = True
                return
            self._leave()
            self._totals.spooled += batch.flows
            for evicted in appended.evicted:
                self._totals.drop(Drop.SPOOL_FULL, evicted.weight)
        if self._complained:
            print("flowlake: the spool takes batches again", file=sys.stderr, flush=True)
            self._complained = False

    def abandon(self) -> None:
        """The end: count what never reached the disk. Nobody will read the count but the last line of the sidecar."""
        while self._waiting:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        self._totals.drop(Drop.SPOOL_ERROR, self._leave().flows)

    def _leave(self) -> EncodedBatch:
        batch = self._waiting.popleft()
        self._waiting_bytes -= len(batch.value)
        return batch
