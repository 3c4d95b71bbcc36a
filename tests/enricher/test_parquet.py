"""The files: readable by every engine, the same bytes for the same rows, and honest about what they are."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_batches import some_batches

from enricher.dictionary import canonical, canonical_text
from enricher.digest import rows_digest
from enricher.flows_table import CAPTURED
from enricher.parquet import identity_of, to_parquet, written_schema
from enricher.rows import FileIdentity
from lake.ranges import LakeError
from schemas.flows import FLOWS
from schemas.table import Table
from schemas.tables import TABLES

_MADE = [row for batch in some_batches(1, flows=300) for row in batch.rows]
ROWS = canonical_text(pa.Table.from_pylist(_MADE, written_schema(FLOWS)))
IDENTITY = FileIdentity("0123456789abcdef", 3, 10, 20, 12, "flows", ROWS.num_rows, "d" * 64)
BODY = to_parquet(ROWS, FLOWS, IDENTITY, 1)

# What Trino 476, DuckDB 2.0, polars 2.1 and Spark 4.3 all read alike, as tried value by value.
SAFE_ENCODINGS = {"PLAIN", "RLE", "RLE_DICTIONARY", "PLAIN_DICTIONARY", "DELTA_BINARY_PACKED"}
SAFE_TYPES = {"INT32", "INT64", "BOOLEAN", "BYTE_ARRAY"}


def test_duckdb_and_polars_read_the_rows_that_were_written(tmp_path: Path) -> None:
    path = tmp_path / "flows.parquet"
    path.write_bytes(BODY)
    wanted = ROWS.cast(pa.schema([field.with_type(pa.string()) if field.type == pa.dictionary(pa.int32(), pa.string())
                                  else field for field in ROWS.schema]))  # fmt: skip
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        read = connection.read_parquet(str(path)).to_arrow_table()
    assert read.to_pylist() == wanted.to_pylist()
    assert pl.read_parquet(path).to_dicts() == wanted.to_pylist()


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_files_hold_only_what_every_engine_reads_and_nulls_only_where_the_table_allows(table: Table) -> None:
    rows = ROWS if table is FLOWS else written_schema(table).empty_table()
    file = pq.ParquetFile(io.BytesIO(to_parquet(rows, table, replace(IDENTITY, rows=rows.num_rows), 1)))
    for group in range(file.metadata.num_row_groups):
        for at in range(file.metadata.num_columns):
            column = file.metadata.row_group(group).column(at)
            assert set(column.encodings) <= SAFE_ENCODINGS, column.path_in_schema
            assert (column.physical_type in SAFE_TYPES) and column.compression == "ZSTD"
    for column in table.columns:
        leaf = file.schema.column(file.schema.names.index(column.name))
        assert (leaf.max_definition_level == 1) is column.nullable, column.name
        assert "unsigned" not in str(leaf.logical_type).lower()


def test_columns_that_people_filter_by_have_their_bounds_in_the_footer() -> None:
    group = pq.read_metadata(io.BytesIO(BODY)).row_group(0)
    bounds = {group.column(at).path_in_schema: group.column(at).statistics for at in range(group.num_columns)}
    for name in ("end_time", "host", "local_workload", "local_address", "remote_address", "close_reason"):
        values = [value for value in ROWS[name].to_pylist() if value is not None]
        assert (bounds[name].min, bounds[name].max) == (min(values), max(values)), name


def test_the_footer_gives_back_the_identity() -> None:
    assert identity_of(BODY) == IDENTITY


def test_the_same_rows_give_the_same_bytes_and_another_layout_version_does_not() -> None:
    assert to_parquet(ROWS, FLOWS, IDENTITY, 1) == BODY
    assert to_parquet(ROWS, FLOWS, IDENTITY, 2) != BODY


def test_a_null_where_none_may_be_is_refused() -> None:
    at = ROWS.column_names.index("flow_id")
    holed = ROWS.set_column(at, "flow_id", pa.array([None] * ROWS.num_rows, pa.int64()))
    with pytest.raises(ValueError, match="flow_id"):
        to_parquet(holed, FLOWS, IDENTITY, 1)


def test_a_file_of_another_program_or_cut_off_or_with_other_rows_is_refused_in_one_line() -> None:
    foreign = io.BytesIO()
    pq.write_table(ROWS, foreign)
    lying = to_parquet(ROWS, FLOWS, replace(IDENTITY, rows=7), 1)
    for body in (b"", b"PAR1", foreign.getvalue(), BODY[: len(BODY) // 2], lying):
        with pytest.raises(LakeError) as raised:
            identity_of(body)
        assert "\n" not in str(raised.value)


def test_the_digest_tells_every_changed_value_and_only_that() -> None:
    digest = rows_digest(ROWS, CAPTURED)
    plain = pq.read_table(io.BytesIO(BODY))
    assert rows_digest(plain, CAPTURED) == digest
    assert rows_digest(pa.concat_tables([plain.slice(0, 7), plain.slice(7)]), CAPTURED) == digest
    attributed = plain.set_column(plain.column_names.index("remote_workload"), "remote_workload",
                                  pa.array(["x"] * plain.num_rows))  # fmt: skip
    assert rows_digest(attributed, CAPTURED) == digest
    assert rows_digest(plain.slice(1), CAPTURED) != digest
    for name in CAPTURED:
        values = plain[name].to_pylist()
        if len(set(values)) < 2:
            continue
        other = next(at for at, value in enumerate(values) if value != values[0])
        values[0], values[other] = values[other], values[0]
        changed = plain.set_column(plain.column_names.index(name), name, pa.array(values, plain[name].type))
        assert rows_digest(changed, CAPTURED) != digest, name


@pytest.mark.parametrize(
    "values",
    [
        [5, 5, 5],
        [-(2**63), 2**63 - 1, 0],
        [0, 255, 1],
        [0, 256, 1],
        [-1, 65_535, 7],
        [2**40, 2**40 + 2**32, 2**40],
        [None, 3, 3],
        [None, None, None],
    ],
)
def test_the_digest_of_numbers_of_any_size_tells_them_apart(values: list[int | None]) -> None:
    def digest(numbers: list[int | None]) -> str:
        return rows_digest(pa.table({"a": pa.array(numbers, pa.int64())}), ["a"])

    seen = {digest(values)}
    for at in range(3):
        for other in (None, 0, 1, -1, 2**62):
            changed = [*values[:at], other, *values[at + 1 :]]
            if changed != values:
                assert digest(changed) not in seen


def test_canonical_dictionaries_do_not_depend_on_what_was_encoded_before() -> None:
    rng = np.random.default_rng(3)
    values = [None if rng.random() < 0.2 else f"w{rng.integers(0, 20)}é" for _ in range(500)]
    plain = pa.array(values)
    shuffled = pa.array([f"w{at}é" for at in (*range(19, -1, -1), 99)])
    recoded = pa.DictionaryArray.from_arrays(
        pa.array([None if value is None else 19 - int(value[1:-1]) for value in values], pa.int32()), shuffled
    )
    for column in (plain, plain.dictionary_encode(), recoded, canonical(plain)):
        made = canonical(column)
        assert made.to_pylist() == values
        assert made.dictionary.to_pylist() == sorted({value for value in values if value is not None})
