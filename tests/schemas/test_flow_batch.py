"""The encoder against fastavro, byte for byte."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_samples import HEADER, bounds, fastavro_body, sample_columns

from schemas import native
from schemas.flow_batch import encode_flow_batch
from schemas.wire import CURRENT, MARKER, PREFIX_BYTES, Kind, crc64_avro
from settings.errors import FlowlakeError

INTEGERS = [field for field in CURRENT.flow_fields if field.kind in (Kind.INT, Kind.LONG)]


def crc64_by_the_specification(text: bytes) -> int:
    """Schema fingerprints, in the words of the Avro specification."""
    empty = 0xC15D213AA4D7A795
    table = []
    for entry in range(256):
        for _ in range(8):
            entry = (entry >> 1) ^ (empty & -(entry & 1))
        table.append(entry)
    result = empty
    for octet in text:
        result = (result >> 8) ^ table[(result ^ octet) & 0xFF]
    return result


@pytest.mark.parametrize("n", [0, 1, 2, 500, 2047, 2048, 2049, 10_000])
def test_a_message_is_byte_for_byte_what_fastavro_writes(n: int) -> None:
    columns = sample_columns(n, seed=n)
    assert encode_flow_batch(HEADER, columns)[PREFIX_BYTES:] == fastavro_body(columns)


@pytest.mark.parametrize("null_share", [0.0, 1.0])
def test_all_null_and_nothing_null_are_what_fastavro_writes(null_share: float) -> None:
    columns = sample_columns(300, null_share=null_share)
    assert encode_flow_batch(HEADER, columns)[PREFIX_BYTES:] == fastavro_body(columns)


def test_a_nullable_column_without_a_mask_has_no_null() -> None:
    columns = sample_columns(10, null_share=0.0)
    plain = {name: np.ma.getdata(values) for name, values in columns.items()}
    assert encode_flow_batch(HEADER, plain)[PREFIX_BYTES:] == fastavro_body(columns)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), n=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_any_numbers_at_all_are_what_fastavro_writes(data: st.DataObject, n: int, seed: int) -> None:
    columns = sample_columns(n, seed)
    for field in data.draw(st.lists(st.sampled_from(INTEGERS), min_size=1, max_size=6, unique_by=lambda f: f.name)):
        least, greatest = bounds(field)
        edges = [x for bits in range(0, 64, 7) for x in (2**bits, -(2**bits), 2**bits - 1) if least <= x <= greatest]
        number = st.one_of(st.integers(least, greatest), st.sampled_from([least, greatest, *edges]))
        values = np.array(data.draw(st.lists(number, min_size=n, max_size=n)), columns[field.name].dtype)
        mask = np.ma.getmaskarray(columns[field.name])
        columns[field.name] = np.ma.MaskedArray(values, mask) if field.nullable else values
    assert encode_flow_batch(HEADER, columns)[PREFIX_BYTES:] == fastavro_body(columns)


def test_columns_may_be_strided_views_of_wider_records() -> None:
    columns = sample_columns(50)
    strided = {name: np.repeat(values, 3, axis=0)[::3] for name, values in columns.items()}
    assert encode_flow_batch(HEADER, strided) == encode_flow_batch(HEADER, columns)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "i8"])
def test_a_number_may_come_in_any_integer_type(dtype: str) -> None:
    limits = np.iinfo(dtype)
    values = np.array([limits.min, limits.max, 0, 1], dtype)
    columns = {**sample_columns(4), "bytes_sent": values}
    wanted = fastavro_body({**columns, "bytes_sent": values.astype(np.int64)})
    assert encode_flow_batch(HEADER, columns)[PREFIX_BYTES:] == wanted


def test_what_a_masked_number_holds_does_not_matter() -> None:
    columns = sample_columns(4, null_share=1.0)
    columns["errno"] = np.ma.MaskedArray(np.full(4, 2**40), True)
    assert encode_flow_batch(HEADER, columns)[PREFIX_BYTES:] == fastavro_body(columns)


def test_a_library_that_is_not_there_or_of_another_version_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FlowlakeError, match=r"is not built\. Run `make setup`"):
        native.load(tmp_path / "_flow_codec.so")
    source = tmp_path / "other.c"
    source.write_text("const int flow_codec_version = 0;\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "other.so", source], check=True)
    with pytest.raises(FlowlakeError, match=r"another version\. Run `make setup`"):
        native.load(tmp_path / "other.so")


def test_the_prefix_is_the_marker_and_the_fingerprint_of_the_schema() -> None:
    prefix = encode_flow_batch(HEADER, sample_columns(1))[:PREFIX_BYTES]
    assert prefix == MARKER + CURRENT.fingerprint


def test_the_fingerprint_is_the_one_of_the_specification() -> None:
    assert int.from_bytes(crc64_avro("null"), "little") == crc64_by_the_specification(b'"null"')  # type: ignore[arg-type]
    assert crc64_by_the_specification(b'"null"') == 0x63DD24E7CC258F8A  # share/test/data/schema-tests.txt of Avro


@pytest.mark.parametrize(
    ("name", "values", "complaint"),
    [
        ("retransmits", np.zeros(2, np.int64), "should have"),
        ("local_address", np.zeros((3, 4), np.uint8), "should have"),
        ("retransmits", np.full(3, 2**31), "a number that int cannot"),
        ("close_reason", np.full(3, 200, np.uint8), "a number that enum cannot"),
        ("close_detail", np.full(3, -1, np.int8), "a number that enum cannot"),
        ("errno", np.ma.MaskedArray(np.full(3, -(2**40)), [True, False, True]), "a number that int cannot"),
        ("sequence", np.ma.MaskedArray(np.zeros(3, np.int32), [True, False, False]), "has a null"),
        ("local_address", np.zeros((3, 32), np.uint8)[:, ::2], "which fixed cannot be"),
        ("netns", np.zeros(3, ">i8"), "which long cannot be"),
        ("final", np.full(3, 2, np.uint8), "a number that boolean cannot"),
        ("bytes_sent", np.zeros(3, np.float64), "which long cannot be"),
        ("bytes_sent", np.full(3, 2**63, np.uint64), "which long cannot be"),
    ],
)
def test_a_column_that_does_not_fit_is_refused(name: str, values: np.ndarray, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        encode_flow_batch(HEADER, {**sample_columns(3), name: values})


def test_a_missing_column_is_refused() -> None:
    columns = sample_columns(3)
    del columns["errno"]
    with pytest.raises(ValueError, match="errno"):
        encode_flow_batch(HEADER, columns)


def test_the_encoder_brings_in_no_library_of_the_lake() -> None:
    code = "import sys, schemas.flow_batch; print(sorted({'pyarrow', 'polars', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
