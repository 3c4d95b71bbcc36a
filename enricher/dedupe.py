"""Which batches have been accepted before: one watermark per run of a sidecar, and the totals that came with it.

A host's batches come in the order of their numbers, each immutable and any of them repeated. So a number at or below
the watermark is a repeat, and a number that jumps says how many are missing. The whole state is a function of the
messages of the chain, in order: no clock decides what is remembered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from lake.ranges import RunState

FORGET_AFTER_US = 14 * 24 * 3600 * 1_000_000  # a sidecar that was away longer than this has lost its spool's contents


@dataclass(frozen=True, slots=True)
class DedupeState:
    """What is known of every run, by run id. Never changed in place."""

    runs: Mapping[str, RunState] = field(default_factory=lambda: MappingProxyType({}))

    def apply(self, change: Mapping[str, RunState]) -> DedupeState:
        """The state after a range that changed these runs; forgets the runs that ended FORGET_AFTER_US before its
        newest batch, by the append times of the log.
        """
        merged = {**self.runs, **change}
        newest_us = max((run.last_append_us for run in merged.values()), default=0)
        return DedupeState(
            {run_id: run for run_id, run in merged.items() if run.last_append_us >= newest_us - FORGET_AFTER_US}
        )


@dataclass(frozen=True, slots=True)
class BatchTotals:
    """Of a batch's header: who sends it, and the running totals of its run."""

    host_id: str
    run_id: str
    number: int
    captured: int
    dropped: Mapping[str, int]
    delayed_interims: int


@dataclass(frozen=True, slots=True)
class Judged:
    """What one batch is. Of a repeated one everything but `repeated` is 0 or empty."""

    repeated: bool
    missing: int = 0  # batch numbers passed over just before this one
    captured: int = 0  # growth of the run's totals since its last accepted batch
    dropped: Mapping[str, int] = field(default_factory=dict)
    delayed_interims: int = 0


class Deduper:
    """Judges the batches of one range, in order, from the state before it."""

    def __init__(self, state: DedupeState) -> None:
        self._before = state.runs
        self._change: dict[str, RunState] = {}

    def judge(self, batch: BatchTotals, append_time_us: int) -> Judged:
        """Accept the batch, or see that it is a repeat. Of batches whose header can be read: where only the
        flows cannot, the batch counts as seen, and its flows are rejected once.
        """
        known = self._change.get(batch.run_id) or self._before.get(batch.run_id)
        if known is None:
            known = RunState(batch.host_id, -1, 0, {}, 0, append_time_us)
        seen_us = max(known.last_append_us, append_time_us)
        if batch.number <= known.watermark:
            self._change[batch.run_id] = RunState(
                known.host_id, known.watermark, known.captured, known.dropped, known.delayed_interims, seen_us
            )
            return Judged(repeated=True)
        self._change[batch.run_id] = RunState(
            batch.host_id, batch.number, batch.captured, dict(batch.dropped), batch.delayed_interims, seen_us
        )
        growth = {reason: total - known.dropped.get(reason, 0) for reason, total in batch.dropped.items()}
        return Judged(
            repeated=False,
            missing=batch.number - known.watermark - 1,
            captured=batch.captured - known.captured,
            dropped={reason: count for reason, count in growth.items() if count},
            delayed_interims=batch.delayed_interims - known.delayed_interims,
        )

    def change(self) -> dict[str, RunState]:
        """The runs that were heard of, as they are now: what `Outcome.runs` pins."""
        return dict(self._change)
