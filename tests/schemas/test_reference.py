"""docs/schema.md is what the definitions say, and the Arrow schemas too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from schemas import reference
from schemas.arrow import arrow_schema
from schemas.tables import TABLES
from schemas.wire import CURRENT


def test_the_reference_page_is_not_stale() -> None:
    assert reference.PAGE.read_text(encoding="utf-8") == reference.reference()


def test_every_column_and_every_field_of_a_flow_is_on_the_page() -> None:
    page = reference.reference()
    names = [column.name for table in TABLES.values() for column in table.columns]
    names += [field.name for field in CURRENT.flow_fields]
    names += [symbol for field in CURRENT.flow_fields for symbol in field.symbols]
    assert [name for name in names if f"`{name}`" not in page] == []


def test_a_stale_page_fails_the_check_and_writing_it_mends_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "schema.md"
    monkeypatch.setattr(reference, "PAGE", page)
    assert reference.main(["--check"]) == 1
    assert "python -m schemas.reference" in capsys.readouterr().err
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0
    page.write_text(page.read_text() + "more")
    assert reference.main(["--check"]) == 1


def test_the_command_says_by_its_exit_code_whether_the_page_is_right() -> None:
    done = subprocess.run([sys.executable, "-m", "schemas.reference", "--check"], check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_an_arrow_schema_has_the_columns_of_its_table_in_order(table) -> None:
    schema = arrow_schema(table)
    assert schema.names == [column.name for column in table.columns]
    assert [field.nullable for field in schema] == [column.nullable for column in table.columns]
    assert schema.field(table.partition_time).type == pa.timestamp("us", "UTC")
