"""From messages to files: every row is the record that was sent, once, in the file of its hour."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_batches import (
    HOUR_US,
    NOON_US,
    Batch,
    address_text,
    make_header,
    random_flows,
    range_of,
    some_batches,
    time,
)

from enricher.dedupe import DedupeState
from enricher.dictionary import address_text as addresses_as_text
from enricher.digest import rows_digest
from enricher.flows_table import CAPTURED
from enricher.row_maker import DAY_SECONDS, EARLY_SECONDS, LATE_SECONDS, FlowRowMaker
from enricher.rows import OffsetRange, Plan, TableFile
from schemas.flow_batch import Listener
from schemas.tables import TABLES
from transport.log import Message

MAKER = FlowRowMaker()
Files = dict[str, list[dict[str, Any]]]


def read(file: TableFile) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(file.body)).to_pylist()
    return rows


def made(messages: list[Message], state: DedupeState | None = None, **range_: Any) -> tuple[Plan[Any], list[TableFile]]:
    """All files of the range of these messages; their keys are those that the plan had said."""
    where = range_of(messages, **range_)
    plan = MAKER.plan(messages, state or DedupeState(), where)
    files = all_files(plan, where)
    assert tuple(sorted(file.key for file in files)) == plan.outcome.keys
    return plan, files


def all_files(plan: Plan[Any], where: OffsetRange) -> list[TableFile]:
    flows = MAKER.flow_files(plan, where)
    return [*flows, *MAKER.derived_files(plan, where, [file.body for file in flows])]


def rows_of(files: list[TableFile], table: str) -> list[dict[str, Any]]:
    return [row for file in files if file.table == table for row in read(file)]


def by_flow(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: int(row["flow_id"]))


def test_every_record_becomes_the_row_that_plain_python_makes_of_it() -> None:
    batches = some_batches(1, count=6)
    _, files = made([batch.message(at) for at, batch in enumerate(batches)])
    expected = [row for batch in batches for row in batch.rows]
    assert by_flow(rows_of(files, "flows")) == by_flow(expected)


def test_columns_have_the_names_and_order_of_the_table_definitions() -> None:
    _, files = made([batch.message(at) for at, batch in enumerate(some_batches(2))])
    assert {file.table for file in files} == set(TABLES)
    for file in files:
        assert pq.read_schema(io.BytesIO(file.body)).names == [column.name for column in TABLES[file.table].columns]


def test_rows_are_sorted_by_host_and_workload() -> None:
    _, files = made([batch.message(at) for at, batch in enumerate(some_batches(3, hosts=("b", "a")))])
    named = [row for row in rows_of(files, "flows") if row["local_workload"] is not None]
    keys = [(row["host_id"], row["local_workload"], row["local_instance_id"] or "") for row in named]
    assert keys == sorted(keys)


def test_a_message_over_the_hour_goes_into_the_files_of_both_hours() -> None:
    columns = random_flows(np.random.default_rng(4), 60, NOON_US - 30_000_000, 60_000_000)
    batch = Batch(make_header(captured=60), columns)
    plan, files = made([batch.message(8)])
    for hour, wanted in (
        ("11", [row for row in batch.rows if row["end_time"] < time(NOON_US)]),
        ("12", [row for row in batch.rows if row["end_time"] >= time(NOON_US)]),
    ):
        key = f"flows/date=2026-11-22/hour={hour}/0123456789abcdef-3-00000000000000000008-00000000000000000009.parquet"
        (file,) = [file for file in files if file.key == key]
        assert wanted and by_flow(read(file)) == by_flow(wanted)
        assert file.rows == len(wanted)
    assert plan.outcome.accepted_records == 60


def test_rows_outside_what_clocks_allow_are_rejected_and_counted_and_the_bounds_are_inside() -> None:
    append_us = NOON_US
    ends = np.array([-LATE_SECONDS, -LATE_SECONDS - 1, EARLY_SECONDS, EARLY_SECONDS + 1, 0]) * 1_000_000 + append_us
    columns = dict(random_flows(np.random.default_rng(5), 5))
    columns["end_time"] = ends
    batch = Batch(make_header(captured=5), columns)
    plan, files = made([batch.message(0, append_us)])
    kept = {int(columns["flow_id"][at]) for at in (0, 2, 4)}
    assert {row["flow_id"] for row in rows_of(files, "flows")} == kept
    assert len([file for file in files if file.table == "flows"]) == 3
    assert plan.outcome.accepted_records == 3
    (coverage,) = [row for row in rows_of(files, "coverage") if row["netns"] is None]
    assert (coverage["captured"], coverage["written"], coverage["rejected"]) == (5, 3, 2)


def test_the_pinned_settings_decide_not_those_of_this_process() -> None:
    batch = Batch(make_header(captured=9), random_flows(np.random.default_rng(6), 9))
    messages = [batch.message(0, NOON_US + 5 * DAY_SECONDS * 1_000_000)]
    plan, _ = made(messages, settings={"late_seconds": DAY_SECONDS, "early_seconds": 0})
    assert plan.outcome.accepted_records == 0
    assert made(messages)[0].outcome.accepted_records == 9


def test_a_batch_that_came_before_is_left_out_within_a_range_and_over_ranges() -> None:
    first, second = some_batches(7, count=2, hosts=("alpha",))
    plan, files = made([first.message(0), first.message(1), second.message(2)])
    assert by_flow(rows_of(files, "flows")) == by_flow([*first.rows, *second.rows])
    assert (plan.outcome.accepted_batches, plan.outcome.repeated_batches) == (2, 1)

    later, files = made([second.message(3), first.message(4)], DedupeState().apply(plan.outcome.runs))
    assert rows_of(files, "flows") == []
    assert (later.outcome.accepted_batches, later.outcome.repeated_batches) == (0, 2)
    assert {file.table for file in files} == {"coverage"}


@pytest.mark.parametrize("value", [b"", b"\xc3\x01", b"{}", bytes(200)])
def test_a_message_that_cannot_be_read_is_rejected_with_a_reason_and_the_others_are_not(value: bytes) -> None:
    good = some_batches(8, count=1)[0]
    bad = Message(1, NOON_US, b"id-alpha", value)
    plan, files = made([good.message(0), bad])
    (rejected,) = plan.rejected
    assert (rejected.offset, rejected.key, rejected.value, rejected.reason) == (1, b"id-alpha", value, "unreadable")
    assert rejected.error and "\n" not in rejected.error
    assert plan.outcome.rejected == {"unreadable": 1}
    assert by_flow(rows_of(files, "flows")) == by_flow(good.rows)


@pytest.mark.parametrize("name", ["network", "process", "workload"])
def test_a_message_whose_flows_point_beyond_its_header_is_rejected_whole_and_once(name: str) -> None:
    good, wrong = some_batches(9, count=2)
    np.ma.getdata(wrong.columns[name])[3] = 4 if name == "workload" else 3
    if np.ma.isMaskedArray(wrong.columns[name]):
        wrong.columns[name][3] = 4
    plan, files = made([good.message(0), wrong.message(1), wrong.message(2)])
    assert [(each.offset, each.reason) for each in plan.rejected] == [(1, "bad_flows")]
    assert name in plan.rejected[0].error
    assert by_flow(rows_of(files, "flows")) == by_flow(good.rows)
    totals = {row["host"]: row for row in rows_of(files, "coverage") if row["netns"] is None}
    assert (totals["beta"]["rejected"], totals["beta"]["written"], totals["beta"]["repeated_batches"]) == (30, 0, 1)


def test_a_message_whose_listeners_point_beyond_its_header_is_rejected() -> None:
    batch = some_batches(10, count=1)[0]
    wrong = replace(batch.header.listeners[0], workload=4)
    batch = Batch(replace(batch.header, listeners=(wrong,)), batch.columns)
    plan, files = made([batch.message(0)])
    assert [each.reason for each in plan.rejected] == ["unreadable"]
    assert files == []


def test_truncating_a_message_anywhere_rejects_it_and_never_half_of_it() -> None:
    good, other = some_batches(11, count=2, flows=4)
    whole = other.message(1)
    for length in range(0, len(whole.value), 41):
        plan, files = made([good.message(0), replace(whole, value=whole.value[:length])])
        assert [each.offset for each in plan.rejected] == [1], length
        assert len(rows_of(files, "flows")) == 4


def test_the_same_messages_give_the_same_bytes() -> None:
    messages = [batch.message(at) for at, batch in enumerate(some_batches(12, count=6))]
    assert [file.body for file in made(messages)[1]] == [file.body for file in made(messages)[1]]


def test_a_file_says_what_it_is_and_its_digest_is_that_of_the_rows_read_back() -> None:
    _, files = made([batch.message(at) for at, batch in enumerate(some_batches(13), start=40)])
    for file in files:
        said = MAKER.identify(file.body)
        assert (said.log, said.partition, said.first, said.next) == ("0123456789abcdef", 3, 40, 44)
        assert (said.table, said.rows, said.digest) == (file.table, file.rows, file.digest)
        columns = CAPTURED if file.table == "flows" else [column.name for column in TABLES[file.table].columns]
        assert rows_digest(pq.read_table(io.BytesIO(file.body)), columns) == file.digest


def test_messages_that_expire_after_the_intent_leave_files_without_rows_and_count_as_expired() -> None:
    batches = some_batches(14, count=4)
    early = Batch(batches[0].header, random_flows(np.random.default_rng(15), 30, NOON_US - HOUR_US))
    messages = [batch.message(at) for at, batch in enumerate([early, *batches[1:]])]
    pinned, all_of_it = made(messages)

    where = range_of(messages, readable_from=2)
    left = replace(MAKER.plan(messages[2:], DedupeState(), where), outcome=pinned.outcome)
    files = all_files(left, where)
    assert sorted(file.key for file in files) == sorted(file.key for file in all_of_it)
    empty = [file for file in files if file.table == "flows" and "hour=11" in file.key]
    assert [file.rows for file in empty] == [0]
    assert MAKER.identify(empty[0].body).rows == 0
    assert by_flow(rows_of(files, "flows")) == by_flow([*batches[2].rows, *batches[3].rows])
    totals = {row["host"]: row for row in rows_of(files, "coverage") if row["netns"] is None}
    assert {host: (row["captured"], row["written"], row["expired"]) for host, row in totals.items()} == {
        "alpha": (60, 30, 30),
        "beta": (60, 30, 30),
    }


def test_a_range_of_nothing_has_no_files() -> None:
    plan, files = made([])
    assert files == [] and plan.outcome.keys == () and plan.outcome.accepted_records == 0


def test_a_batch_without_flows_is_accepted_and_shows_in_coverage_alone() -> None:
    batch = Batch(make_header(), random_flows(np.random.default_rng(16), 0))
    plan, files = made([batch.message(0)])
    assert plan.outcome.accepted_batches == 1
    assert [(file.table, file.rows) for file in files] == [("coverage", 1)]


def test_a_host_that_knows_no_process_and_no_workload_has_rows_without_them() -> None:
    columns = dict(random_flows(np.random.default_rng(19), 20))
    for name in ("process", "workload"):
        columns[name] = np.ma.MaskedArray(np.zeros(20, np.int32), mask=np.ones(20, np.bool_))
    batch = Batch(make_header(captured=20, processes=(), workloads=()), columns)
    _, files = made([batch.message(0)])
    assert by_flow(rows_of(files, "flows")) == by_flow(batch.rows)


def test_listeners_are_rows_with_the_names_that_their_header_gives() -> None:
    batch = some_batches(17, count=1)[0]
    late = replace(batch.header.listeners[0], time=NOON_US - (LATE_SECONDS + 3600) * 1_000_000)
    batch = Batch(replace(batch.header, listeners=(*batch.header.listeners, late)), batch.columns)
    _, files = made([batch.message(0)])
    header = batch.header

    def row(listener: Listener) -> dict[str, Any]:
        owner = None if listener.workload is None else header.workloads[listener.workload]
        return {
            "time": time(listener.time), "host": "alpha", "host_id": "id-alpha", "run_id": "run-alpha",
            "network": header.networks[listener.network], "netns": 7, "address": address_text(listener.address),
            "port": listener.port, "pid": listener.pid,
            "process": None if listener.process is None else header.processes[listener.process],
            "container_id": owner and owner.container_id, "owner_source": listener.owner_source,
            "local_workload": owner and owner.workload, "local_kind": owner and owner.kind,
            "local_namespace": owner and owner.namespace, "local_instance": owner and owner.instance,
            "local_instance_id": owner and owner.instance_id, "accept_queue": listener.accept_queue,
            "accept_queue_max": listener.accept_queue_max, "overflows": listener.overflows,
        }  # fmt: skip

    # The third is older than clocks allow.
    assert rows_of(files, "listeners") == [row(listener) for listener in header.listeners[:2]]


def test_addresses_are_written_as_pythons_ipaddress_writes_them() -> None:
    rng = np.random.default_rng(18)
    raw = rng.integers(0, 256, (3000, 16), dtype=np.uint8)
    raw[:1000, :10], raw[:1000, 10:12] = 0, 255  # IPv4-mapped
    raw[1000:2000][rng.random((1000, 16)) < 0.7] = 0  # much to compress
    assert addresses_as_text(raw).to_pylist() == [address_text(row.tobytes()) for row in raw]
    assert isinstance(addresses_as_text(raw[:1000]), pa.StringArray)
