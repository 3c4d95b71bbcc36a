"""Coverage: what was captured is written, or lost by a name, whatever happened between the kernel and the lake."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_batches import NOON_US, Batch, make_header, random_flows, range_of, time

from enricher.dedupe import DedupeState
from enricher.row_maker import FlowRowMaker
from schemas.drops import Drop
from schemas.flow_batch import NamespaceCounters
from transport.log import Message

MAKER = FlowRowMaker()
LOSSES = ("rejected", "expired", *(f"dropped_{reason.value}" for reason in Drop))
MINUTE_US = 60_000_000


def coverage(
    ranges: Sequence[Sequence[Message]], corrupt: Mapping[int, tuple[int, ...]] | None = None
) -> list[dict[str, Any]]:
    """The rows of all these ranges, one after the other, each with the dedupe state that the last one left."""
    state, rows = DedupeState(), []
    for at, messages in enumerate(ranges):
        where = range_of(messages, corrupt=(corrupt or {}).get(at, ()))
        plan = MAKER.plan(messages, state, where)
        flows = [file.body for file in MAKER.flow_files(plan, where)]
        for file in MAKER.derived_files(plan, where, flows):
            if file.table == "coverage":
                rows += pq.read_table(io.BytesIO(file.body)).to_pylist()
        state = state.apply(plan.outcome.runs)
    return rows


def totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Sums over the rows about hosts."""
    names = ("captured", "written", "batches", "repeated_batches", "missing_batches", "delayed_interims", *LOSSES)
    return {name: sum(row[name] for row in rows if row["netns"] is None) for name in names}


def batch(number: int, flows: int, captured: int, dropped: Mapping[str, int] | None = None, **other: Any) -> Batch:
    header = make_header(number=number, captured=captured, dropped=dropped or {}, **other)
    return Batch(header, random_flows(np.random.default_rng(number), flows))


def test_each_minute_has_the_growth_of_the_running_totals() -> None:
    batches = [
        batch(0, 5, 7, {"ring_full": 2}, created_time=NOON_US + 1, delayed_interims=1),
        batch(1, 3, 10, {"ring_full": 2}, created_time=NOON_US + MINUTE_US - 1, delayed_interims=1),
        batch(2, 4, 17, {"ring_full": 4, "half_open_full": 1}, created_time=NOON_US + MINUTE_US, delayed_interims=4),
    ]
    messages = [each.message(at, NOON_US + 2 * MINUTE_US) for at, each in enumerate(batches)]
    for ranges in ([messages], [messages[:1], messages[1:2], messages[2:]]):
        rows = coverage(ranges)
        minutes = [[row for row in rows if row["minute"] == time(NOON_US + m * MINUTE_US)] for m in (0, 1)]
        expected = [
            {"captured": 10, "written": 8, "batches": 2, "dropped_ring_full": 2, "delayed_interims": 1},
            {"captured": 7, "written": 4, "batches": 1, "dropped_ring_full": 2, "dropped_half_open_full": 1,
             "delayed_interims": 3},
        ]  # fmt: skip
        for minute, wanted in zip(minutes, expected, strict=True):
            assert totals(minute) == dict.fromkeys(totals([]), 0) | wanted


def test_a_reason_that_this_version_does_not_know_is_counted_as_other() -> None:
    sums = totals(coverage([[batch(0, 1, 6, {"meteor": 3, "spool_error": 2}).message(0)]]))
    assert (sums["dropped_other"], sums["dropped_spool_error"], sums["written"]) == (3, 2, 1)


def test_the_clock_offset_is_the_smallest_of_the_minute() -> None:
    first = batch(0, 1, 1, created_time=NOON_US + 5).message(0, NOON_US + 1_000_005)
    second = batch(1, 1, 2, created_time=NOON_US + 10).message(1, NOON_US + 3_000_010)
    assert [row["clock_offset_us"] for row in coverage([[first, second]])] == [-3_000_000]


def test_a_host_whose_clock_is_far_off_is_in_the_minute_of_the_log() -> None:
    rows = coverage([[batch(0, 0, 0, created_time=5).message(0, NOON_US + 61_000_000)]])
    assert [row["minute"] for row in rows] == [time(NOON_US + MINUTE_US)]
    assert rows[0]["clock_offset_us"] == 5 - NOON_US - 61_000_000


def test_numbers_beyond_all_reason_stay_one_rows_nonsense() -> None:
    batches = [
        batch(0, 1, -(2**63), created_time=-(2**63)),
        batch(1, 1, 2**63 - 1, {"ring_full": -(2**63)}, created_time=2**63 - 1),
        batch(2, 1, 5, {"ring_full": 2**63 - 1}),
    ]
    rows = coverage([[each.message(at) for at, each in enumerate(batches)]])
    assert totals(rows)["written"] == 3


def test_what_the_intent_pins_is_the_same_after_its_way_through_json() -> None:
    messages = [batch(0, 3, 9, {"ring_full": 2}, namespaces=(NamespaceCounters(7, 1, 2, 3, 4),)).message(0)]
    pinned = MAKER.plan(messages, DedupeState(), range_of(messages)).outcome.coverage
    assert json.loads(json.dumps(pinned)) == pinned


def test_namespaces_have_rows_of_their_own_summed_per_minute_and_not_from_repeats() -> None:
    counters = (NamespaceCounters(7, 1, 2, 3, 4), NamespaceCounters(8, 5, 0, 0, 0))
    first = batch(0, 0, 0, namespaces=counters)
    second = batch(1, 0, 0, namespaces=counters[:1])
    rows = [r for r in coverage([[first.message(0), first.message(1), second.message(2)]]) if r["netns"] is not None]
    named = ("netns", "listen_overflows", "listen_drops", "out_no_routes", "half_open", "captured", "clock_offset_us")
    assert [tuple(row[name] for name in named) for row in rows] == [
        (7, 2, 4, 6, 8, 0, None),
        (8, 5, 0, 0, 0, 0, None),
    ]


def test_batches_that_a_full_spool_dropped_are_counted_once_though_named_only_later() -> None:
    kept = [batch(0, 5, 5), batch(3, 2, 16), batch(4, 1, 17), batch(5, 1, 18, {"spool_full": 9})]
    messages = [each.message(at) for at, each in zip((0, 3, 4, 5), kept, strict=True)]
    for ranges in ([messages], [[message] for message in messages]):
        sums = totals(coverage(ranges))
        assert (sums["captured"], sums["written"], sums["dropped_spool_full"], sums["expired"]) == (18, 9, 9, 0)
        assert sums["missing_batches"] == 2


@pytest.mark.parametrize(
    ("corrupt", "unreadable", "column"),
    [((1,), False, "dropped_spool_corrupt"), ((), True, "rejected"), ((), False, "expired")],
)
def test_records_of_a_batch_that_never_came_are_lost_for_the_reason_that_the_range_knows(
    corrupt: tuple[int, ...], unreadable: bool, column: str
) -> None:
    between = [Message(1, NOON_US, b"id-alpha", b"noise")] if unreadable else []
    messages = [batch(0, 5, 5).message(0), *between, batch(2, 3, 12).message(2)]
    sums = totals(coverage([messages], {0: corrupt}))
    assert (sums["captured"], sums["written"], sums[column]) == (12, 8, 4)
    assert sum(sums[name] for name in LOSSES) == 4


@dataclass
class Sidecar:
    """A sidecar as docs/decisions/captured-is-counted-at-the-batch.md has it, with faults by a random generator."""

    host: str
    rng: np.random.Generator
    number: int = 0
    emitted: int = 0
    kernel_dropped: int = 0
    spool_full: int = 0

    def next_batch(self) -> Batch:
        flows = int(self.rng.integers(0, 12))
        self.emitted += flows
        self.kernel_dropped += int(self.rng.integers(0, 3))
        dropped = {"ring_full": self.kernel_dropped, "spool_full": self.spool_full}
        header = make_header(
            self.host,
            self.number,
            created_time=NOON_US + self.number * 20_000_000,
            captured=self.emitted + self.kernel_dropped,
            dropped={reason: count for reason, count in dropped.items() if count},
        )
        self.number += 1
        columns = dict(random_flows(self.rng, flows))
        beyond_clocks = self.rng.random(flows) < 0.05
        columns["end_time"] = np.where(beyond_clocks, 0, columns["end_time"])
        return Batch(header, columns)


@pytest.mark.parametrize("seed", range(12))
def test_over_a_drained_run_what_was_captured_is_written_or_lost_by_a_name(seed: int) -> None:
    """Evictions, repeats, corrupt and unreadable messages and retention, cut into ranges anywhere."""
    rng = np.random.default_rng(seed)
    sidecars = [Sidecar(host, rng) for host in ("alpha", "beta")]
    ranges: list[list[Message]] = [[]]
    corrupt: dict[int, tuple[int, ...]] = {}
    sent: dict[str, list[Message]] = {"alpha": [], "beta": []}
    truth = dict.fromkeys(("written", "repeated_batches", "ring_full", "spool_full"), 0)
    offset = 0
    for step in range(80):
        sidecar = sidecars[step % 2]
        made = sidecar.next_batch()
        message = made.message(offset, NOON_US + 30 * MINUTE_US)
        fate = 1.0 if step >= 76 else rng.random()  # the last ones arrive: the run has drained
        if fate < 0.08:
            sidecar.spool_full += len(made.columns["end_time"])
            message = None
        elif fate < 0.14:
            corrupt[len(ranges) - 1] = (*corrupt.get(len(ranges) - 1, ()), offset)
            message = None
        elif fate < 0.18:  # gone from the log before anyone read it
            message = None
        elif fate < 0.24:
            message = replace(message, value=message.value[:-1])
        else:
            truth["written"] += int((made.columns["end_time"] > 0).sum())
            sent[sidecar.host].append(message)
        if message is not None:
            ranges[-1].append(message)
        offset += 1
        if sent[sidecar.host] and rng.random() < 0.1:
            ranges[-1].append(replace(sent[sidecar.host][-1], offset=offset))
            truth["repeated_batches"] += 1
            offset += 1
        if rng.random() < 0.15:
            ranges.append([])
    rows = coverage(ranges, corrupt)
    sums = totals(rows)
    assert sums["captured"] == sum(sidecar.emitted + sidecar.kernel_dropped for sidecar in sidecars)
    assert sums["captured"] == sums["written"] + sum(sums[name] for name in LOSSES)
    assert sums["written"] == truth["written"]
    assert sums["repeated_batches"] == truth["repeated_batches"]
    assert sums["dropped_ring_full"] == sum(sidecar.kernel_dropped for sidecar in sidecars)
    for host in ("alpha", "beta"):
        own = totals([row for row in rows if row["host"] == host])
        assert own["captured"] == own["written"] + sum(own[name] for name in LOSSES)
