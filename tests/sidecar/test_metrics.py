"""The running totals of a run: what `captured` and `dropped` of every batch header mean."""

from __future__ import annotations

from schemas.drops import Drop
from sidecar.metrics import RunTotals


def test_what_the_kernel_lost_was_captured_and_is_no_record_of_a_batch() -> None:
    totals = RunTotals(emitted=100)
    totals.kernel_dropped = {Drop.RING_FULL: 7, Drop.STORAGE_FULL: 2, Drop.HALF_OPEN_FULL: 0}
    assert totals.captured == 109
    assert totals.dropped == {"ring_full": 7, "storage_full": 2}


def test_what_is_dropped_after_its_batch_was_made_was_captured_already() -> None:
    totals = RunTotals(emitted=100)
    totals.drop(Drop.SPOOL_FULL, 30)
    totals.drop(Drop.SPOOL_ERROR, 5)
    totals.drop(Drop.SPOOL_FULL, 1)
    assert totals.captured == 100
    assert totals.dropped == {"spool_full": 31, "spool_error": 5}


def test_what_never_happened_has_no_name_in_a_header() -> None:
    totals = RunTotals()
    totals.drop(Drop.SPOOL_FULL, 0)
    assert totals.dropped == {}


def test_totals_only_grow_while_the_kernel_is_asked_again() -> None:
    totals = RunTotals(emitted=10, kernel_dropped={Drop.RING_FULL: 3})
    totals.kernel_dropped = {Drop.RING_FULL: 4}
    totals.drop(Drop.SPOOL_FULL, 2)
    assert (totals.captured, totals.dropped) == (14, {"ring_full": 4, "spool_full": 2})
