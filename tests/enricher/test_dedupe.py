from __future__ import annotations

import random

from enricher.dedupe import FORGET_AFTER_US, BatchTotals, Deduper, DedupeState, Judged
from lake.ranges import RunState


def totals(number: int, captured: int = 0, run: str = "run", **dropped: int) -> BatchTotals:
    return BatchTotals("host", run, number, captured, dropped, 0)


def test_a_batch_is_accepted_once_whether_the_repeat_is_in_the_same_range_or_in_a_later_one() -> None:
    first = Deduper(DedupeState())
    assert [first.judge(totals(n), 1).repeated for n in (0, 0, 1, 0)] == [False, True, False, True]

    second = Deduper(DedupeState().apply(first.change()))
    assert [second.judge(totals(n), 1).repeated for n in (1, 2, 2)] == [True, False, True]


def test_a_jump_says_how_many_batches_are_missing_and_they_are_repeats_when_they_come_late() -> None:
    deduper = Deduper(DedupeState())

    assert deduper.judge(totals(2), 1).missing == 2
    assert deduper.judge(totals(7), 1).missing == 4
    assert deduper.judge(totals(5), 1) == Judged(repeated=True)


def test_growth_is_counted_from_the_last_accepted_batch_and_a_repeat_adds_nothing() -> None:
    deduper = Deduper(DedupeState())
    deduper.judge(totals(0, 10, ring_full=1), 1)
    deduper.judge(totals(0, 10, ring_full=1), 2)

    judged = deduper.judge(totals(1, 25, ring_full=1, spool_full=4), 3)

    assert (judged.captured, judged.dropped) == (15, {"spool_full": 4})


def test_the_growth_of_all_accepted_batches_adds_up_to_the_last_totals_however_often_batches_repeat() -> None:
    chance = random.Random(7)
    state, captured, dropped, missing = DedupeState(), 0, 0, 0
    sent = [totals(n, 10 * (n + 1), ring_full=n // 3) for n in range(60) if n % 7]  # every seventh never arrives
    log = [batch for i, batch in enumerate(sent) for batch in [*chance.sample(sent[: i + 1], min(i, 2)), batch]]
    while log:
        deduper, length = Deduper(state), chance.randint(1, 9)
        for batch in log[:length]:
            judged = deduper.judge(batch, 5)
            captured += judged.captured
            dropped += judged.dropped.get("ring_full", 0)
            missing += judged.missing
        state, log = state.apply(deduper.change()), log[length:]

    assert (captured, dropped, missing) == (600, 59 // 3, 9)


def test_two_runs_of_a_host_do_not_hide_each_other() -> None:
    deduper = Deduper(DedupeState())

    assert not deduper.judge(totals(3, run="old"), 1).repeated
    assert not deduper.judge(totals(0, run="new"), 1).repeated
    assert deduper.judge(totals(3, run="old"), 1).repeated


def test_a_run_is_forgotten_14_days_after_its_last_batch_by_the_logs_clock_alone() -> None:
    old = RunState("host", 5, 0, {}, 0, last_append_us=1_000)
    state = DedupeState({"old": old})

    kept = state.apply({"new": RunState("host", 0, 0, {}, 0, 1_000 + FORGET_AFTER_US)})
    forgotten = state.apply({"new": RunState("host", 0, 0, {}, 0, 1_001 + FORGET_AFTER_US)})

    assert set(kept.runs) == {"old", "new"}
    assert set(forgotten.runs) == {"new"}


def test_a_run_that_only_repeats_itself_is_still_there_and_its_watermark_stays() -> None:
    state = DedupeState({"run": RunState("host", 5, 60, {"ring_full": 1}, 2, last_append_us=1_000)})
    deduper = Deduper(state)
    deduper.judge(totals(4, 50), 9_000)

    assert deduper.change() == {"run": RunState("host", 5, 60, {"ring_full": 1}, 2, last_append_us=9_000)}


def test_a_state_is_never_changed_in_place() -> None:
    state = DedupeState({"run": RunState("host", 5, 60, {}, 0, 1)})
    deduper = Deduper(state)
    deduper.judge(totals(6, 70), 2)
    state.apply(deduper.change())

    assert state == DedupeState({"run": RunState("host", 5, 60, {}, 0, 1)})
