"""The engine over lakes that are empty, partly damaged, older, newer or not there; and what a question may not do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pytest
from small_lake import LOG, at, flow, make_lake, write_file

from lake.config import local_path
from lake.duckdb_engine import DuckDBEngine, UnreadableFiles, check_lake
from lake.questions import Window
from schemas.flows import FLOWS
from schemas.tables import TABLES
from settings.errors import FlowlakeError, WrongUse


def ask(lake: Path, sql: str, window: Window | None = None, *, skip: bool = False) -> list[dict[str, Any]]:
    with DuckDBEngine.open(str(lake), window, skip_unreadable=skip).ask(sql) as answer:
        return answer.read_all().to_pylist()


@pytest.fixture
def three_hours(tmp_path: Path) -> Path:
    """A lake with one flow in each of the hours 09, 10 and 11."""
    return make_lake(tmp_path / "lake", {"flows": [flow(f"{h:02}:30:00", h) for h in (9, 10, 11)]})


def file_of(lake: Path, hour: int) -> Path:
    (path,) = (lake / f"flows/date=2026-11-22/hour={hour:02}").iterdir()
    return path


@pytest.mark.parametrize("table", list(TABLES))
def test_a_table_without_files_is_empty_and_has_its_columns(tmp_path: Path, table: str) -> None:
    lake = make_lake(tmp_path / "lake", {})
    with DuckDBEngine.open(str(lake)).ask(f"SELECT * FROM {table}") as answer:
        rows = answer.read_all()
    assert rows.num_rows == 0
    assert rows.schema.names == [*(column.name for column in TABLES[table].columns), "date", "hour"]


def test_the_view_holds_what_the_files_hold(three_hours: Path) -> None:
    rows = ask(three_hours, "SELECT flow_id, end_time, date, hour, remote_workload FROM flows ORDER BY flow_id")
    assert rows[0] == {
        "flow_id": 9, "end_time": at("09:30:00"), "date": "2026-11-22", "hour": "09", "remote_workload": None,
    }  # fmt: skip
    oracle = duckdb.sql(
        f"SELECT count(*), sum(flow_id) FROM read_parquet('{three_hours}/flows/*/*/*.parquet')"
    ).fetchall()
    assert [(len(rows), sum(row["flow_id"] for row in rows))] == oracle


def test_a_window_keeps_rows_of_its_time_only(three_hours: Path) -> None:
    window = Window(at("09:30:00"), at("10:30:00"))
    assert ask(three_hours, "SELECT flow_id FROM flows", window) == [{"flow_id": 9}]


def test_files_outside_the_hours_of_the_window_are_not_opened(three_hours: Path) -> None:
    for hour in (9, 11):
        file_of(three_hours, hour).write_bytes(b"not parquet at all")
    window = Window(at("10:00:00"), at("11:00:00"))
    assert ask(three_hours, "SELECT flow_id FROM flows", window) == [{"flow_id": 10}]


@pytest.mark.parametrize(
    "condition",
    [
        "date = '2026-11-22' AND hour = '10'",
        "hour BETWEEN '10' AND '10'",
        # As the named questions ask:
        "(date > '2026-11-22' OR (date = '2026-11-22' AND hour >= '10'))"
        " AND (date < '2026-11-22' OR (date = '2026-11-22' AND hour <= '10'))",
    ],
)
def test_a_filter_on_date_and_hour_keeps_other_files_closed(three_hours: Path, condition: str) -> None:
    for hour in (9, 11):
        file_of(three_hours, hour).write_bytes(b"not parquet at all")
    assert ask(three_hours, f"SELECT flow_id FROM flows WHERE {condition}") == [{"flow_id": 10}]


def test_files_of_tables_that_the_question_does_not_name_are_not_opened(three_hours: Path) -> None:
    file_of(three_hours, 9).write_bytes(b"not parquet at all")
    assert ask(three_hours, "SELECT count(*) AS n FROM coverage") == [{"n": 0}]


def test_a_file_from_before_a_column_was_added_gives_null_there(three_hours: Path) -> None:
    write_file(three_hours, FLOWS, at("08:00:00"), [flow("08:30:00", 8)], without="mptcp")
    rows = ask(three_hours, "SELECT flow_id, mptcp FROM flows ORDER BY flow_id")
    assert [(row["flow_id"], row["mptcp"]) for row in rows] == [(8, None), (9, False), (10, False), (11, False)]
    shutil.rmtree(three_hours / "flows")
    write_file(three_hours, FLOWS, at("08:00:00"), [flow("08:30:00", 8)], without="mptcp")
    assert ask(three_hours, "SELECT mptcp FROM flows") == [{"mptcp": None}]


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def overwritten_in_the_middle(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[4:2000] = bytes(len(body[4:2000]))
    path.write_bytes(body)


def renamed(path: Path) -> None:
    path.rename(path.with_name("copy.parquet"))


@pytest.mark.parametrize("damage", [truncated, emptied, overwritten_in_the_middle, renamed])
def test_a_damaged_or_foreign_file_is_named_or_left_out_and_counted(three_hours: Path, damage: Any) -> None:
    damage(file_of(three_hours, 10))
    bad = file_of(three_hours, 10)
    sql = "SELECT DISTINCT * FROM flows ORDER BY flow_id"
    with pytest.raises(UnreadableFiles) as raised:
        ask(three_hours, sql)
    assert str(bad) in str(raised.value)
    assert "--skip-unreadable" in str(raised.value)
    assert "\n" not in str(raised.value)

    engine = DuckDBEngine.open(str(three_hours), skip_unreadable=True)
    with engine.ask(sql) as answer:
        assert [row["flow_id"] for row in answer.read_all().to_pylist()] == [9, 11]
    assert [file.path for file in engine.left_out] == [bad]


def test_a_foreign_file_is_left_out_even_where_it_could_be_read(three_hours: Path) -> None:
    shutil.copy(file_of(three_hours, 10), file_of(three_hours, 10).with_name("copy.parquet"))
    with pytest.raises(UnreadableFiles, match=r"copy\.parquet \(not a file that flowlake wrote\)"):
        ask(three_hours, "SELECT count(*) AS n FROM flows")
    assert ask(three_hours, "SELECT count(*) AS n FROM flows", skip=True) == [{"n": 3}]


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO '{lake}/flows/new.parquet'",
        "WITH x AS (COPY (SELECT 1) TO '{lake}/flows/new.parquet') SELECT * FROM x",
        "SELECT * FROM query('WITH x AS (COPY (SELECT 1) TO ''{lake}/flows/new.parquet'') SELECT * FROM x')",
        "SELECT * FROM read_text('{lake}/_lake.json')",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{lake}/flows/new.parquet'",
        "ATTACH '{lake}/new.db'",
        "CREATE TABLE t AS SELECT 1",
        "DROP VIEW flows",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "SELECT 1; SELECT 2",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '{lake}/../outside.csv'",
        "SELECT * FROM no_such_table",
        "SELECT no_such_column FROM flows",
        "SELEC 1",
        "",
        "-- nothing",
    ],
)
def test_what_is_no_read_of_the_lake_is_refused_in_one_line_and_changes_nothing(three_hours: Path, sql: str) -> None:
    (three_hours.parent / "outside.csv").write_text("a\n1\n")
    before = sorted(three_hours.rglob("*"))
    with pytest.raises(WrongUse) as raised:
        ask(three_hours, sql.format(lake=three_hours))
    assert "\n" not in str(raised.value)
    assert sorted(three_hours.rglob("*")) == before


def test_python_variables_are_not_tables(three_hours: Path) -> None:
    secret = ask(three_hours, "SELECT 1 AS a")  # noqa: F841 (DuckDB would find it by its name)
    with pytest.raises(WrongUse, match="secret"):
        ask(three_hours, "SELECT * FROM secret")


def test_with_clauses_times_and_describe_are_questions_too(three_hours: Path) -> None:
    assert ask(
        three_hours, "WITH a AS (SELECT max(end_time) AS t FROM flows) SELECT t - INTERVAL 1 HOUR AS t FROM a"
    ) == [{"t": at("10:30:00")}]
    assert ask(three_hours, "DESCRIBE flows")[0]["column_name"] == "start_time"


def test_a_question_that_fails_while_it_runs_says_so_in_one_line(three_hours: Path) -> None:
    with pytest.raises(FlowlakeError, match=r"the question failed: .*'web'") as raised:
        ask(three_hours, "SELECT CAST(host AS INTEGER) FROM flows")
    assert "\n" not in str(raised.value)


def test_no_lake_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(FlowlakeError, match=r"there is no lake at .*flowlake up"):
        check_lake(tmp_path / "nowhere")


def test_a_lake_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    make_lake(tmp_path / "lake", {}, format_version=99)
    with pytest.raises(FlowlakeError, match="format 99"):
        check_lake(tmp_path / "lake")


def test_a_damaged_marker_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "_lake.json").write_text(json.dumps([1]))
    with pytest.raises(FlowlakeError) as raised:
        check_lake(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_folder_that_cannot_be_listed_is_one_line_and_not_a_smaller_answer(three_hours: Path) -> None:
    day = three_hours / "flows/date=2026-11-23"
    day.symlink_to(day)  # root may read everything, but not this
    with pytest.raises(FlowlakeError, match=r"cannot read .*date=2026-11-23 of the lake") as raised:
        ask(three_hours, "SELECT * FROM flows")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("uri", ["s3://bucket/lake", "file://elsewhere/lake", "http://x/lake"])
def test_a_lake_elsewhere_is_refused(uri: str) -> None:
    with pytest.raises(WrongUse, match="give a folder"):
        local_path(uri)


def test_a_folder_with_a_quote_and_a_blank_in_its_name_is_a_lake_too(tmp_path: Path) -> None:
    lake = make_lake(tmp_path / "it's a lake", {"flows": [flow("09:30:00", 1)]})
    assert ask(lake, "SELECT flow_id FROM flows") == [{"flow_id": 1}]
    assert local_path(lake.as_uri()) == lake
    assert LOG in file_of(lake, 9).name
