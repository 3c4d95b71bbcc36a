"""`flowlake query` from the command line to the last byte of the answer."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from small_lake import flow, make_lake

from flowlake.main import main
from lake.questions import questions


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """A refused connection of 20 minutes ago and a good one of two hours ago."""
    now = datetime.now(UTC)
    recent, old = ((now - timedelta(minutes=m)).replace(tzinfo=None).isoformat() for m in (20, 120))
    return make_lake(
        tmp_path / "lake", {"flows": [flow(recent, 1, close_reason="refused"), flow(old, 2, local_workload="cart")]}
    )


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["query", *words]) == 0
    return capsys.readouterr().out


def test_alone_it_lists_every_question_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = answer(capsys).splitlines()
    for name, asked in questions().items():
        assert any(line.startswith(name) and line.endswith(asked.title) for line in lines)


def test_a_named_question_takes_its_flags(capsys: pytest.CaptureFixture[str], lake: Path) -> None:
    words = ("failures", "--lake", str(lake), "--format", "json")
    rows = [json.loads(line) for line in answer(capsys, *words).splitlines()]
    assert [(row["client"], row["failed"], row["attempts"]) for row in rows] == [("checkout", 1, 1)]
    assert answer(capsys, *words, "--workload", "cart") == ""
    assert answer(capsys, *words, "--since", "10m") == ""


def test_sql_sees_the_whole_lake_or_the_window_that_is_given(capsys: pytest.CaptureFixture[str], lake: Path) -> None:
    words = ("SELECT count(*) AS n FROM flows", "--lake", str(lake), "--format", "json")
    assert json.loads(answer(capsys, *words)) == {"n": 2}
    assert json.loads(answer(capsys, *words, "--since", "1h")) == {"n": 1}
    assert json.loads(answer(capsys, *words, "--until", "1h")) == {"n": 1}


@pytest.mark.parametrize("name", list(questions()))
def test_every_question_prints_its_sql_with_no_include_left(capsys: pytest.CaptureFixture[str], name: str) -> None:
    printed = answer(capsys, name, "--sql")
    assert "include:" not in printed.replace("`-- include: connections`", "")
    assert "SELECT" in printed


def test_an_answer_goes_to_a_file(capsys: pytest.CaptureFixture[str], lake: Path, tmp_path: Path) -> None:
    file = tmp_path / "answer.parquet"
    printed = answer(capsys, "SELECT * FROM flows", "--lake", str(lake), "--format", "parquet", "--output", str(file))
    assert printed == ""
    assert pq.read_table(io.BytesIO(file.read_bytes())).num_rows == 2


def test_what_is_left_out_of_an_answer_is_said(capsys: pytest.CaptureFixture[str], lake: Path) -> None:
    bad = sorted(lake.glob("flows/*/*/*.parquet"))[0]
    bad.write_bytes(b"PAR1 and no more")
    words = ["query", "SELECT count(*) AS n FROM flows", "--lake", str(lake), "--format", "json"]
    assert main(words) == 1
    assert str(bad) in capsys.readouterr().err
    assert main([*words, "--skip-unreadable"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"n": 1}
    assert f"left out {bad}" in printed.err
    assert "1 files are missing from this answer" in printed.err
