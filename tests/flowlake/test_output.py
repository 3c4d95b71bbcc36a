"""Every format, read back with a reader that is not ours."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flowlake import output
from settings.errors import FlowlakeError

TIME = datetime(2026, 11, 22, 7, 30, 0, 123456, tzinfo=UTC)
ROWS = pa.table(
    {
        "client": pa.array(['a "quoted", name', None, ""]),
        "bytes_sent": pa.array([0, 1536, 9007199254740993], pa.int64()),
        "rtt_us": pa.array([250, None, 1_500_000], pa.int32()),
        "failed_share": pa.array([0.125, float("nan"), 1.0]),
        "final": pa.array([True, False, None]),
        "time": pa.array([TIME, None, TIME], pa.timestamp("us", "UTC")),
        "tags": pa.array([["x"], [], None], pa.list_(pa.string())),
        "sum": pa.array([Decimal(1), Decimal(2), None], pa.decimal128(38, 0)),
    }
)


def written(tmp_path: Path, format: str, table: pa.Table = ROWS) -> bytes:
    file = tmp_path / "answer"
    output.write(table.to_reader(max_chunksize=2), format, file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answer"]
    return file.read_bytes()


def test_csv_has_raw_numbers_utc_times_and_tells_null_from_empty(tmp_path: Path) -> None:
    text = written(tmp_path, "csv").decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["bytes_sent"] for row in rows] == ["0", "1536", "9007199254740993"]
    assert [row["time"] for row in rows] == ["2026-11-22T07:30:00.123456Z", "", "2026-11-22T07:30:00.123456Z"]
    assert [row["sum"] for row in rows] == ["1", "2", ""]
    assert [row["tags"] for row in rows] == ['["x"]', "[]", ""]
    assert rows[0]["client"] == 'a "quoted", name'
    assert text.splitlines()[2].startswith(",1536,")
    assert text.splitlines()[3].startswith('"",')


def test_json_is_one_object_per_line(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in written(tmp_path, "json").splitlines()]
    assert rows[0] == {
        "client": 'a "quoted", name', "bytes_sent": 0, "rtt_us": 250, "failed_share": 0.125, "final": True,
        "time": "2026-11-22T07:30:00.123456Z", "tags": ["x"], "sum": 1,
    }  # fmt: skip
    assert [row["failed_share"] for row in rows] == [0.125, None, 1.0]
    assert rows[2]["bytes_sent"] == 9007199254740993


def test_parquet_keeps_the_types(tmp_path: Path) -> None:
    read = pq.read_table(pa.BufferReader(written(tmp_path, "parquet")))
    assert read.schema.equals(ROWS.schema)
    assert read.drop_columns("failed_share").equals(ROWS.drop_columns("failed_share"))


def test_a_table_shows_units_and_cuts_no_text(tmp_path: Path) -> None:
    lines = written(tmp_path, "table").decode().splitlines()
    assert lines[0].split() == ROWS.schema.names
    cells = [cell.strip() for cell in lines[2].split("  ") if cell]
    assert cells[:4] == ['a "quoted", name', "0 B", "250 us", "12.5 %"]
    assert "1.5 KiB" in lines[3]
    assert "8.0 PiB" in lines[4]
    assert "2026-11-22 07:30:00.123  " in lines[2]


def test_numbers_of_a_table_are_aligned_right(tmp_path: Path) -> None:
    table = pa.table({"name": ["a", "bb"], "count": [5, 12345]})
    assert written(tmp_path, "table", table).decode() == "name  count\n----  -----\na         5\nbb    12345\n"


def test_a_row_that_is_too_wide_is_written_one_column_per_line() -> None:
    table = pa.table({"name": ["a"], "something_long": ["b" * 30]})
    lines = list(output.table_lines(table.to_reader(), 35))
    assert lines == ["--- row 1 ---", "name            a", "something_long  " + "b" * 30]


def test_an_empty_answer_says_that_it_is_empty() -> None:
    assert list(output.table_lines(pa.table({"a": pa.array([], pa.int32())}).to_reader(), 80))[-1] == "(no rows)"


@pytest.mark.parametrize("rows", [0, 1, 2500])
def test_every_row_of_a_table_is_there_however_many(rows: int) -> None:
    lines = list(output.table_lines(pa.table({"a": pa.array(range(rows))}).to_reader(), None))
    assert [line.strip() for line in lines[2 : 2 + rows]] == [str(n) for n in range(rows)]


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("bytes_sent", 1023, "1023 B"),
        ("bytes_sent", 1024, "1.0 KiB"),
        ("connect_us", 999, "999 us"),
        ("connect_us", 1_000, "1.0 ms"),
        ("connect_us", 3_000_000, "3.0 s"),
        ("age_seconds", 86_400, "24.0 h"),
        ("age_seconds", 300_000, "3.5 d"),
        ("failed_share", 1.0, "100 %"),
        ("port", 65535, "65535"),
        ("process", "evil\x1b[2Jname\n", "evil\ufffd[2Jname\ufffd"),
        ("anything", None, "-"),
        ("final", True, "yes"),
    ],
)
def test_a_value_is_shown_in_the_unit_of_its_name(name: str, value: object, shown: str) -> None:
    assert output.for_eyes(name, value) == shown


def test_an_answer_that_breaks_off_leaves_no_file(tmp_path: Path) -> None:
    def batches() -> Any:
        yield ROWS.to_batches()[0]
        raise FlowlakeError("the disk is gone")

    reader = pa.RecordBatchReader.from_batches(ROWS.schema, batches())
    with pytest.raises(FlowlakeError, match="the disk is gone"):
        output.write(reader, "csv", tmp_path / "answer")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FlowlakeError, match=r"cannot write .*: No such file or directory"):
        output.write(ROWS.to_reader(), "csv", tmp_path / "no/such/folder")


def on_a_terminal(code: str) -> str:
    """What Python code prints where standard output is a terminal of 100 columns."""
    master, slave = pty.openpty()
    try:
        environ = os.environ | {"COLUMNS": "100"}
        done = subprocess.run([sys.executable, "-c", code], stdout=slave, stderr=slave, env=environ, check=False)
        os.close(slave)
        slave = -1
        printed = os.read(master, 65536).decode().replace("\r\n", "\n")
    finally:
        os.close(master)
        if slave >= 0:
            os.close(slave)
    return f"{done.returncode} {printed}"


def test_a_terminal_gets_a_table_and_never_parquet() -> None:
    code = "import pyarrow as pa; from flowlake import output; output.write(pa.table({'a': [1]}).to_reader(), %r, None)"
    assert on_a_terminal(code % None) == "0 a\n-\n1\n"
    assert "parquet is not for a terminal" in on_a_terminal(code % "parquet")
