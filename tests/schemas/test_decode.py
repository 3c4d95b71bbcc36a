"""The decoder against fastavro, and against bytes that nobody should send."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from wire_samples import HEADER, fastavro_body, fastavro_read, header_of, rows_of, sample_columns

from schemas.decode import FLOW_SCHEMA, DecodeError, decode_flows, decode_message
from schemas.flow_batch import BatchHeader, encode_flow_batch
from schemas.wire import CURRENT, MARKER, encoded_long

PREFIX = MARKER + CURRENT.fingerprint
EMPTY = encode_flow_batch(HEADER, sample_columns(0))[:-1]  # all but the end of its array of flows


def message(n: int, seed: int = 0) -> bytes:
    return encode_flow_batch(HEADER, sample_columns(n, seed))


def records(n: int, seed: int = 0) -> bytes:
    """The encodings of n flows."""
    return message(n, seed)[len(EMPTY) + len(encoded_long(n)) : -1]


def read(*values: bytes) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """The rows of messages as fastavro would give them, and the bad messages."""
    table, bad = decode_flows([decode_message(value) for value in values])
    assert table.schema.equals(FLOW_SCHEMA)
    columns: dict[str, list[Any]] = {}
    for field in CURRENT.flow_fields:
        column = table[field.name].cast("int64") if field.is_time else table[field.name]
        values_ = column.to_pylist()
        columns[field.name] = [field.symbols[code] for code in values_] if field.symbols else values_
    columns["message"] = table["message"].to_pylist()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)], bad


def flows_of(rows: list[dict[str, Any]], of: int) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "message"} for row in rows if row["message"] == of]


@pytest.mark.parametrize("n", [0, 1, 7, 3_000])
def test_what_was_encoded_comes_back(n: int) -> None:
    decoded = decode_message(message(n))
    assert decoded.header == HEADER
    assert decoded.flow_count == n
    rows, bad = read(message(n))
    assert not bad
    assert flows_of(rows, 0) == rows_of(sample_columns(n))


def test_what_fastavro_wrote_is_read() -> None:
    columns = sample_columns(40, seed=5)
    rows, bad = read(PREFIX + fastavro_body(columns))
    assert (flows_of(rows, 0), bad) == (rows_of(columns), {})


def test_flows_of_many_messages_stand_in_order_with_the_index_of_their_message() -> None:
    rows, bad = read(message(3, seed=1), message(0), message(5, seed=2))
    assert [row["message"] for row in rows] == [0, 0, 0, 2, 2, 2, 2, 2]
    assert flows_of(rows, 0) == rows_of(sample_columns(3, seed=1))
    assert flows_of(rows, 2) == rows_of(sample_columns(5, seed=2))
    assert not bad


def test_no_messages_are_an_empty_table() -> None:
    assert read() == ([], {})


def test_an_array_of_several_blocks_with_and_without_sizes_is_read() -> None:
    one, two = records(2, seed=1), records(3, seed=2)
    sized = (
        EMPTY
        + encoded_long(-2)
        + encoded_long(len(one))
        + one
        + encoded_long(-3)
        + encoded_long(len(two))
        + two
        + b"\0"
    )
    last = EMPTY + encoded_long(-2) + encoded_long(len(one)) + one + encoded_long(3) + two + b"\0"
    unsized = EMPTY + encoded_long(2) + one + encoded_long(3) + two + b"\0"
    first = EMPTY + encoded_long(2) + one + encoded_long(-3) + encoded_long(len(two)) + two + b"\0"
    wanted = rows_of(sample_columns(2, seed=1)) + rows_of(sample_columns(3, seed=2))
    for value in (sized, last, unsized, first):
        assert fastavro_read(value[len(PREFIX) :])["flows"] == wanted
        rows, bad = read(value)
        assert (flows_of(rows, 0), bad) == (wanted, {})


TOO_MANY = "more flows are announced than the message can hold"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "not an Avro single-object message"),
        (b"\xc3\x01\x00", "not an Avro single-object message"),
        (b"\x00" * 40, "not an Avro single-object message"),
        (MARKER + bytes(8) + b"body", "unknown schema fingerprint 0000000000000000"),
        (PREFIX, "the header cannot be read"),
        (PREFIX + b"\xff" * 60, "the header cannot be read"),
        (message(1).replace("größe".encode(), b"gr\xff\xff\xff\xffe"), "the header cannot be read"),
        (EMPTY, "the array of flows is cut off"),
        (EMPTY + b"\xff" * 11, "the array of flows is cut off"),
        (EMPTY + b"\0\0", "there are bytes behind the flows"),
        (message(1)[:-1] + b"\1", "the array of flows has no end"),
        (EMPTY + encoded_long(-(2**63)) + encoded_long(0) + b"\0", TOO_MANY),
        (EMPTY + encoded_long(2**62) + bytes(200), TOO_MANY),
        (
            EMPTY + encoded_long(-(2**62)) + encoded_long(2) + bytes(3),
            TOO_MANY,
        ),
        (EMPTY + encoded_long(-1) + encoded_long(2**40) + bytes(200), "the flows' block is longer than the message"),
        (EMPTY + encoded_long(-1) + encoded_long(-1) + bytes(200), "the flows' block is longer than the message"),
    ],
)
def test_a_message_that_is_none_is_refused_with_a_reason(value: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode_message(value)


@pytest.mark.parametrize(
    "header",
    [
        replace(HEADER, number=-1),
        replace(HEADER, lowest_number=8),
        replace(HEADER, listeners=[replace(HEADER.listeners[0], port=65_536)]),
        replace(HEADER, listeners=[replace(HEADER.listeners[0], network=2)]),
        replace(HEADER, listeners=[replace(HEADER.listeners[0], process=-1)]),
        replace(HEADER, listeners=[replace(HEADER.listeners[0], workload=2)]),
    ],
)
def test_a_header_with_impossible_numbers_is_refused(header: BatchHeader) -> None:
    with pytest.raises(DecodeError, match="out of range"):
        decode_message(encode_flow_batch(header, sample_columns(1)))


def field_at(name: str, columns: dict[str, Any], value: bytes) -> bytes:
    """A message of one flow in which the encoding of one field is replaced. What stands before it keeps its length."""
    order = [field.name for field in CURRENT.flow_fields]
    base = encode_flow_batch(HEADER, columns)
    head, changed = len(EMPTY) + 1, None
    for at in range(head, len(base)):
        flipped = base[:at] + bytes([base[at] ^ 2]) + base[at + 1 :]
        try:
            before, after = fastavro_read(base[len(PREFIX) :]), fastavro_read(flipped[len(PREFIX) :])
        except Exception:  # fastavro raises whatever its parts do
            continue
        if [key for key in order if before["flows"][0][key] != after["flows"][0][key]] == [name]:
            changed = at
            break
    assert changed is not None
    return base[:changed] + value + base[changed + 1 :]


ONE_BYTE = {
    "final": b"\2",
    "role": b"\6",  # the first code behind the last symbol
    "close_reason": b"\3",  # a negative code
    "state": b"\x80\1",  # a code of two bytes
    "network": b"\4",
    "local_port": b"\1",
}


@pytest.mark.parametrize("name", ONE_BYTE)
def test_a_field_with_an_impossible_value_makes_its_message_bad(name: str) -> None:
    columns = sample_columns(1, null_share=0.0)
    for each in ONE_BYTE:
        columns[each] = columns[each] * 0
    bad_message = field_at(name, columns, ONE_BYTE[name])
    rows, bad = read(message(2, seed=1), bad_message, message(2, seed=2))
    assert list(bad) == [1]
    assert "\n" not in bad[1]
    assert [row["message"] for row in rows] == [0, 0, 2, 2]


@pytest.mark.parametrize("name", ["process", "workload"])
def test_an_index_beyond_the_header_makes_the_message_bad_and_a_null_does_not(name: str) -> None:
    columns = sample_columns(4)
    columns[name] = type(columns[name])([0, 99, 1, 0], [False, False, True, False], dtype="int32")
    good = {**columns, name: type(columns[name])([0, 99, 1, 0], [False, True, True, False], dtype="int32")}
    _, bad = read(encode_flow_batch(HEADER, columns), encode_flow_batch(HEADER, good))
    assert list(bad) == [0]
    assert bad[0].startswith(f"{name} is an index beyond its list (byte ")
    negative = {**columns, name: type(columns[name])([0, -1, 1, 0], [False, False, True, False], dtype="int32")}
    assert list(read(encode_flow_batch(HEADER, negative))[1]) == [0]
    bare = replace(HEADER, processes=[], workloads=[], listeners=[])
    nothing = sample_columns(4, null_share=1.0)
    _, bad = read(encode_flow_batch(bare, nothing))
    assert not bad


N = 20  # flows; their count is one byte
START = len(EMPTY) + 1


def one_flow_too_many(value: bytes) -> bytes:
    return EMPTY + encoded_long(N + 1) + value[START:]


def one_flow_too_few(value: bytes) -> bytes:
    return EMPTY + encoded_long(N - 1) + value[START:]


def cut(value: bytes) -> bytes:
    return value[:-2] + b"\0"


def longer(value: bytes) -> bytes:
    return value + b"\0"


def a_block_that_is_shorter_than_its_size(value: bytes) -> bytes:
    block = value[START:-1]
    return EMPTY + encoded_long(-N) + encoded_long(len(block) + 1) + block + b"\0\0"


def a_block_with_more_bytes_than_its_flows(value: bytes) -> bytes:
    block = value[START:-1]
    return EMPTY + encoded_long(1 - N) + encoded_long(len(block)) + block + b"\0"


def a_second_block_that_is_cut(value: bytes) -> bytes:
    return value[:-1] + encoded_long(2) + value[START : START + 200] + b"\0"


def random_bytes(value: bytes) -> bytes:
    return value[:START] + random.Random(4).randbytes(len(value) - START - 1) + b"\0"


SPOILED = [
    one_flow_too_many,
    one_flow_too_few,
    cut,
    longer,
    a_block_that_is_shorter_than_its_size,
    a_block_with_more_bytes_than_its_flows,
    a_second_block_that_is_cut,
    random_bytes,
]


@pytest.mark.parametrize("spoil", SPOILED)
@pytest.mark.parametrize("place", [0, 2, 4])
def test_flows_that_do_not_fill_their_block_spoil_no_other_message(spoil: Callable[[bytes], bytes], place: int) -> None:
    values = [message(N, seed) for seed in range(5)]
    values[place] = spoil(values[place])
    table, bad = decode_flows([decode_message(value) for value in values])
    assert list(bad) == [place]
    good = [index for index in range(5) if index != place]
    assert table["message"].to_pylist() == [index for index in good for _ in range(N)]
    wanted = [number for index in good for number in sample_columns(N, index)["flow_id"].tolist()]
    assert table["flow_id"].to_pylist() == wanted


def test_flows_behind_the_announced_block_are_counted_once_they_are_decoded() -> None:
    one, two = records(2, seed=1), records(3, seed=2)
    foreign = decode_message(EMPTY + encoded_long(2) + one + encoded_long(3) + two + b"\0")
    ours = decode_message(message(4))
    table, bad = decode_flows([foreign, ours])
    assert (foreign.flow_count, ours.flow_count, table.num_rows, bad) == (5, 4, 9, {})


def test_a_message_cut_anywhere_is_refused() -> None:
    value = message(2, seed=3)
    for end in range(len(value)):
        try:
            _, bad = read(value[:end])
        except DecodeError as error:
            bad = {0: str(error)}
        assert list(bad) == [0], end
        assert "\n" not in bad[0]


def test_numbers_that_are_longer_than_their_type_are_refused_and_needless_bytes_are_not() -> None:
    columns = {**sample_columns(1, null_share=0.0), "sequence": np.zeros(1, np.int32)}
    for value, right in (
        (b"\x80\x00", True),
        (b"\x80\x80\x80\x80\x00", True),
        (b"\x80\x80\x80\x80\x80\x00", False),  # six bytes for an int
        (b"\x80\x80\x80\x80\x10", False),  # 2**31
        (b"\xff" * 10 + b"\x01", False),
    ):
        _, bad = read(field_at("sequence", columns, value))
        assert bool(bad) is not right, value


@pytest.mark.timeout(120)
def test_whatever_the_bytes_are_they_are_refused_or_read_as_fastavro_reads_them() -> None:
    chance = random.Random(20_261_122)
    original = message(3, seed=9)
    read_anyway = 0
    for _ in range(3_000):
        value = bytearray(original)
        for _ in range(chance.choice([1, 1, 2, 8])):
            value[chance.randrange(len(PREFIX), len(value))] = chance.choice(
                [0, 1, 2, 127, 128, 255, chance.randrange(256)]
            )
        if chance.random() < 0.2:
            del value[chance.randrange(len(PREFIX), len(value)) :]
        try:
            decoded = decode_message(bytes(value))
        except DecodeError as error:
            assert "\n" not in str(error)
            continue
        rows, bad = read(bytes(value))
        if bad:
            continue
        read_anyway += 1
        oracle = fastavro_read(bytes(value)[len(PREFIX) :])
        assert header_of(decoded.header) == {name: oracle[name] for name in header_of(decoded.header)}
        assert flows_of(rows, 0) == oracle["flows"]
    assert read_anyway > 300  # most changes of a number are as good as the number was


@pytest.mark.timeout(60)
def test_random_bytes_behind_a_right_prefix_are_refused() -> None:
    chance = random.Random(7)
    for _ in range(2_000):
        with pytest.raises(DecodeError):
            decode_message(PREFIX + chance.randbytes(chance.randrange(400)))
