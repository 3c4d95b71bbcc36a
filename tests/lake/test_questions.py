"""Each named question over a small lake whose answer can be worked out by hand."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from small_lake import at, flow, make_lake, other_end

from lake.duckdb_engine import DuckDBEngine
from lake.questions import Window, markdown, parse_time, question, questions
from schemas import failures
from schemas.drops import Drop
from schemas.tables import TABLES
from settings.errors import WrongUse

NOW = at("12:00:00")
ROOT = Path(__file__).parents[2]


def ask(folder: Path, name: str, rows: Mapping[str, Sequence[Mapping[str, Any]]], **given: str) -> list[dict[str, Any]]:
    lake = make_lake(folder / "lake", rows)
    asked = question(name)
    engine = DuckDBEngine.open(str(lake), asked.window(given, NOW))
    with engine.ask(asked.sql, asked.bind(given, NOW)) as answer:
        return answer.read_all().to_pylist()


def only(rows: Sequence[Mapping[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in rows]


def edge(minute: str, **given: Any) -> dict[str, Any]:
    row = {
        "minute": at(minute),
        "observer": "client",
        "client_workload": "checkout",
        "server_address": "10.0.0.2",
        "server_port": 5432,
    }
    return row | given


def coverage(minute: str, **given: Any) -> dict[str, Any]:
    return {"minute": at(minute), "host": "web", "host_id": "id-web", "run_id": "run-1"} | given


@pytest.mark.parametrize("name", list(questions()))
def test_every_question_answers_an_empty_lake_with_no_rows(tmp_path: Path, name: str) -> None:
    assert ask(tmp_path, name, {}) == []


def test_the_questions_of_the_design_are_there() -> None:
    assert set(questions()) == {
        "talkers", "failures", "slow", "retransmits", "long-lived", "listeners", "coverage",
    }  # fmt: skip


def test_the_page_about_questions_is_the_one_their_headers_make() -> None:
    assert (ROOT / "docs/questions.md").read_text() == markdown(), "run python -m lake.questions > docs/questions.md"


def test_no_question_uses_a_function_that_trino_or_spark_does_not_have() -> None:
    # What docs of those engines lack, or mean otherwise; see docs/decisions about portable SQL.
    ours_alone = (
        "median", "quantile_cont", "time_bucket", "epoch_ms", "date_part", "mode", "any_value", "histogram", "host",
        "approx_quantile", "arg_max", "list", "string_agg",
    )  # fmt: skip
    for asked in questions().values():
        called = set(re.findall(r"\b([a-z_]+)\(", re.sub(r"--.*", "", asked.sql)))
        assert not called & set(ours_alone), asked.name


def test_failures_in_sql_are_the_reasons_that_the_schemas_call_failures() -> None:
    named = set(
        re.findall(r"'([a-z_]+)'", question("failures").sql.split("WHEN ended = 0")[1].split("END AS failed")[0])
    )
    assert named == failures.NEVER_CONNECTED | failures.GIVEN_UP | failures.BROKE


def test_coverage_names_every_reason_of_a_drop() -> None:
    assert set(re.findall(r"AS (dropped_\w+)", question("coverage").sql)) == {f"dropped_{drop}" for drop in Drop}


def test_talkers_sums_minutes_and_counts_a_connection_seen_from_both_ends_once(tmp_path: Path) -> None:
    seen = {"bytes_sent": 100, "bytes_received": 900, "opened": 2, "failed": 1, "rtt_samples": 2, "rtt_us_sum": 500}
    rows = [
        edge("11:30:00", **seen),
        edge("11:31:00", **seen, other_end_seen=True),
        edge("11:31:00", observer="server", other_end_seen=True, bytes_sent=7777),  # the same, from the other end
        edge("11:32:00", server_port=80, bytes_sent=1),
        edge("10:30:00", server_port=81, bytes_sent=1),  # before the window
    ]
    answer = ask(tmp_path, "talkers", {"edges": rows})
    columns = (
        "client",
        "server",
        "server_port",
        "bytes_to_server",
        "bytes_to_client",
        "opened",
        "failed",
        "rtt_mean_us",
    )
    assert only(answer, *columns) == [
        ("checkout", "10.0.0.2", 5432, 200, 1800, 4, 2, 250),
        ("checkout", "10.0.0.2", 80, 1, 0, 0, 0, None),
    ]
    assert only(ask(tmp_path, "talkers", {}, port="80"), "server_port") == [(80,)]
    assert only(ask(tmp_path, "talkers", {}, workload="nobody"), "server_port") == []
    assert len(ask(tmp_path, "talkers", {}, limit="1")) == 1
    assert only(ask(tmp_path, "talkers", {}, since="2h"), "server_port") == [(5432,), (80,), (81,)]


def test_failures_says_who_failed_to_reach_whom_why_how_often_and_out_of_how_many(tmp_path: Path) -> None:
    rows = [
        flow("11:10:00", 1, close_reason="refused", close_detail="reset", errno=111),
        flow("11:50:00", 2, close_reason="refused", close_detail="reset", errno=111),
        flow("11:20:00", 3),
        flow("11:21:00", 4),
        flow("11:22:00", 5, close_reason="abandoned"),  # given up at once: no failure
        flow("11:23:00", 6, close_reason="abandoned", syn_retransmits=2),
        flow("11:24:00", 7, final=False),  # still open: no attempt that ended
        flow("11:25:00", 8, remote_port=80, close_reason="timed_out", close_detail="retransmission"),
        flow("10:59:00", 9, close_reason="refused"),  # before the window
    ]
    columns = ("client", "server", "server_port", "close_reason", "close_detail", "failed", "attempts", "failed_share")
    answer = ask(tmp_path, "failures", {"flows": rows})
    assert only(answer, *columns) == [
        ("checkout", "10.0.0.2", 5432, "refused", "reset", 2, 6, 2 / 6),
        ("checkout", "10.0.0.2", 80, "timed_out", "retransmission", 1, 1, 1.0),
        ("checkout", "10.0.0.2", 5432, "abandoned", None, 1, 6, 1 / 6),
    ]
    assert only(answer, "first_time", "last_time")[0] == (at("11:10:00"), at("11:50:00"))


def test_failures_takes_the_view_of_the_client_where_both_ends_were_captured(tmp_path: Path) -> None:
    broke = flow("11:10:00", 1, close_reason="reset_remote")
    aborted_by_client = flow("11:11:00", 2, close_reason="reset_local")
    lone_server = other_end(flow("11:12:00", 3), close_reason="reset_remote")
    rows = [
        broke,
        other_end(broke, close_reason="timed_out"),
        aborted_by_client,
        other_end(aborted_by_client, close_reason="reset_remote"),
        lone_server,
    ]
    answer = ask(tmp_path, "failures", {"flows": rows})
    assert sorted(only(answer, "client", "server", "close_reason", "seen_by", "failed", "attempts")) == [
        ("10.0.0.1", "postgres", "reset_remote", "server", 1, 1),
        ("checkout", "10.0.0.2", "reset_remote", "client", 1, 2),
    ]


def test_a_port_used_again_later_is_another_connection(tmp_path: Path) -> None:
    client = flow("11:10:00", 1, local_port=40000, close_reason="reset_remote")
    later_server_alone = other_end(flow("11:40:00", 2, local_port=40000), close_reason="timed_out")
    answer = ask(tmp_path, "failures", {"flows": [client, other_end(client), later_server_alone]})
    assert sorted(only(answer, "seen_by", "close_reason")) == [("client", "reset_remote"), ("server", "timed_out")]


def test_slow_gives_the_exact_median_of_odd_and_even_counts(tmp_path: Path) -> None:
    odd = [flow("11:10:00", n, connect_us=us, rtt_us=us * 2) for n, us in enumerate((900, 100, 300))]
    even = [flow("11:10:00", n + 10, remote_port=80, connect_us=us) for n, us in enumerate((40, 10, 30, 20))]
    unknown = [flow("11:10:00", 20), flow("11:10:00", 21, remote_port=81)]
    answer = ask(tmp_path, "slow", {"flows": [*odd, *even, *unknown]})
    columns = ("server_port", "connections", "connect_p50_us", "connect_max_us", "rtt_p50_us", "rtt_max_us")
    assert only(answer, *columns) == [(5432, 4, 300, 900, 600, 1800), (80, 4, 20, 40, None, None)]


def test_slow_says_what_share_of_the_busy_time_the_receiver_held_back(tmp_path: Path) -> None:
    interim = flow("11:10:00", 1, final=False, rtt_us=50, busy_us=1000, rwnd_limited_us=1000)
    final = flow("11:11:00", 1, rtt_us=70, busy_us=3000, rwnd_limited_us=0)
    answer = ask(tmp_path, "slow", {"flows": [interim, final, other_end(final)]})
    assert only(answer, "connections", "rtt_p50_us", "receiver_limited_share") == [(1, 70, 0.25)]


def test_retransmits_counts_each_direction_by_who_sent_it(tmp_path: Path) -> None:
    client = flow("11:10:00", 1, retransmits=3, packets_sent=10, bytes_retransmitted=3000)
    again = flow("11:11:00", 2, retransmits=0, packets_sent=20, last_retransmit_time=None)
    server = other_end(client, retransmits=1, packets_sent=100, bytes_retransmitted=10)
    quiet = flow("11:12:00", 3, remote_port=80, packets_sent=5)
    answer = ask(tmp_path, "retransmits", {"flows": [client, again, server, quiet]})
    columns = ("host", "sender", "receiver", "retransmits", "packets_sent", "retransmits_share", "bytes_retransmitted")
    assert only(answer, *columns) == [
        ("web", "checkout", "10.0.0.2", 3, 30, 0.1, 3000),
        ("db", "postgres", "10.0.0.1", 1, 100, 0.01, 10),
    ]


def test_long_lived_adds_up_the_records_of_connections_that_have_not_closed(tmp_path: Path) -> None:
    opened = {"opened_time": at("09:00:00"), "final": False}
    rows = [
        flow("11:10:00", 1, **opened, sequence=0, bytes_sent=10, bytes_received=1),
        flow("11:11:00", 1, **opened, sequence=1, bytes_sent=20, bytes_received=2),
        flow("11:11:00", 2, final=False),
        flow("11:12:00", 2),  # closed meanwhile
        flow("11:11:00", 3, opened_time=None, start_time=at("11:01:00"), final=False, partial=True),
        flow("11:11:00", 4, final=False, run_id="run-0"),  # of a run that is over
    ]
    rows.append(other_end(rows[1]))
    watched = [
        coverage("11:12:00"),
        coverage("11:10:00", run_id="run-0"),
        coverage("11:13:00", host_id="id-db"),
    ]
    answer = ask(tmp_path, "long-lived", {"flows": rows, "coverage": watched})
    columns = ("client", "age_seconds", "older_than_sidecar", "bytes_to_server", "bytes_to_client", "last_time")
    assert only(answer, *columns) == [
        ("checkout", 2 * 3600 + 12 * 60, False, 30, 3, at("11:11:00")),
        ("checkout", 11 * 60, True, 0, 0, at("11:11:00")),
    ]


def test_listeners_shows_the_fullest_queue_and_sums_the_overflows(tmp_path: Path) -> None:
    socket = {"host": "web", "address": "::", "port": 80, "pid": 7, "process": "nginx", "accept_queue_max": 128}
    rows = [
        {"time": at("11:10:00"), **socket, "accept_queue": 3, "overflows": 2},
        {"time": at("11:11:00"), **socket, "accept_queue": 9, "overflows": 5},
        {"time": at("11:11:00"), **socket, "port": 22, "process": "sshd"},
    ]
    answer = ask(tmp_path, "listeners", {"listeners": rows})
    assert only(answer, "port", "workload", "accept_queue_peak", "accept_queue_max", "overflows", "last_time") == [
        (80, "nginx", 9, 128, 7, at("11:11:00")),
        (22, "sshd", 0, 128, 0, at("11:11:00")),
    ]


def test_coverage_counts_missing_minutes_and_drops_by_reason(tmp_path: Path) -> None:
    rows = [
        coverage("11:10:00", captured=10, written=9, dropped_ring_full=1),
        coverage("11:10:00", captured=5, written=5),  # another range of the same minute
        coverage("11:12:00", captured=4, written=1, dropped_spool_full=3, run_id="run-2"),
        coverage("11:14:00", netns=42, out_no_routes=6),  # what the kernel counted; says nothing about watching
    ]
    answer = ask(tmp_path, "coverage", {"coverage": rows}, since="2026-11-22T11:10", until="2026-11-22T11:15")
    columns = ("host", "minutes_watched", "minutes_missing", "runs", "captured", "written")
    assert only(answer, *columns) == [("web", 2, 3, 2, 19, 15)]
    assert only(answer, "dropped_ring_full", "dropped_spool_full", "dropped_other", "out_no_routes") == [(1, 3, 0, 6)]


def test_a_window_across_midnight_finds_both_days(tmp_path: Path) -> None:
    rows = [flow("2026-11-21T23:59:00", 1, close_reason="refused"), flow("00:01:00", 2, close_reason="refused")]
    answer = ask(tmp_path, "failures", {"flows": rows}, since="2026-11-21T23:00", until="2026-11-22T01:00")
    assert only(answer, "failed") == [(2,)]


def test_times_are_durations_before_now_or_iso_with_utc_assumed() -> None:
    assert parse_time("since", "90s", NOW) == NOW - timedelta(seconds=90)
    assert parse_time("since", "7d", NOW) == NOW - timedelta(days=7)
    assert parse_time("since", "2026-11-22T07:30", NOW) == datetime(2026, 11, 22, 7, 30, tzinfo=UTC)
    assert parse_time("since", "2026-11-22T07:30+02:00", NOW) == datetime(2026, 11, 22, 5, 30, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "soon", "1w", "-1h", "99999999999999999999d"])
def test_a_time_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(WrongUse, match="--since"):
        parse_time("since", text, NOW)


def test_a_window_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(WrongUse, match="is not before"):
        Window.parse("1h", "2h", NOW)


def test_an_unknown_question_is_told_its_nearest_name() -> None:
    with pytest.raises(WrongUse, match="did you mean 'failures'"):
        question("failurs")


def test_a_flag_that_a_question_does_not_take_is_refused_with_those_it_takes() -> None:
    with pytest.raises(WrongUse, match="does not take --port; it takes --since, --until"):
        question("coverage").bind({"port": "1"}, NOW)


@pytest.mark.parametrize("limit", ["many", "-1", "1.5"])
def test_a_limit_that_is_no_whole_number_is_refused(limit: str) -> None:
    with pytest.raises(WrongUse, match="--limit"):
        question("talkers").bind({"limit": limit}, NOW)


def test_the_small_lake_of_these_tests_has_every_table(tmp_path: Path) -> None:
    assert {"flows", "edges", "coverage", "listeners"} == set(TABLES)
