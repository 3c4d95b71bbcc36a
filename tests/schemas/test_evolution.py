"""Sidecars of every released version are understood, and what a newer schema adds gets its default."""

from __future__ import annotations

import copy
import io
from typing import Any

import fastavro
import numpy as np
import pytest
from wire_samples import DOCUMENT, HEADER, header_of, rows_of, sample_columns, without_times

from schemas import decode
from schemas.wire import CURRENT, MARKER, WireSchema, released


def flow_fields(document: dict[str, Any]) -> list[dict[str, Any]]:
    fields: list[dict[str, Any]] = document["fields"][-1]["type"]["items"]["fields"]
    return fields


def test_every_released_schema_is_known_by_its_fingerprint() -> None:
    assert released()
    for schema in released():
        assert decode.readable_schemas()[schema.fingerprint].document == schema.document


@pytest.mark.parametrize("schema", released(), ids=lambda schema: schema.fingerprint.hex())
def test_the_current_code_reads_what_a_released_schema_writes(schema: WireSchema) -> None:
    columns = sample_columns(20)
    names = [field.name for field in schema.flow_fields]
    flows = [{name: row[name] for name in names} for row in rows_of(columns)]
    out = io.BytesIO()
    fastavro.schemaless_writer(
        out, fastavro.parse_schema(without_times(schema.document)), {**header_of(HEADER), "flows": flows}
    )
    message = decode.decode_message(MARKER + schema.fingerprint + out.getvalue())
    table, bad = decode.decode_flows([message])
    assert (table.num_rows, bad) == (20, {})


def test_the_current_schema_is_the_newest_released_or_can_read_it() -> None:
    newest = released()[-1]
    if CURRENT.fingerprint == newest.fingerprint:
        return
    old = {field.name: field for field in newest.flow_fields}
    for field in CURRENT.flow_fields:
        was = old.pop(field.name, None)
        if was is None:
            assert field.nullable or field.default is not None, f"{field.name} is new and has no default"
        else:
            assert (was.kind, was.nullable) == (field.kind, field.nullable)
            assert field.symbols[: len(was.symbols)] == was.symbols
    assert not old, f"{list(old)} were removed"


@pytest.fixture
def older(monkeypatch: pytest.MonkeyPatch) -> WireSchema:
    """A schema from before `timeouts` and `mptcp`, with int for packets_sent and states in another order."""
    current = copy.deepcopy(DOCUMENT)
    for field in flow_fields(current):
        if field["name"] == "timeouts":
            field["default"] = None
        if field["name"] == "mptcp":
            field["default"] = False
        if field["name"] == "role":
            field["default"] = "unknown"
    document = copy.deepcopy(current)
    kept = [field for field in flow_fields(document) if field["name"] not in ("timeouts", "mptcp", "role")]
    for field in kept:
        if field["name"] == "packets_sent":
            field["type"] = "int"
        if field["name"] == "state":
            field["type"]["symbols"] = field["type"]["symbols"][::-1]
    document["fields"][-1]["type"]["items"]["fields"] = kept
    schema = WireSchema(document)
    now = WireSchema(current)
    monkeypatch.setattr(decode, "CURRENT", now)
    monkeypatch.setattr(decode, "readable_schemas", lambda: {now.fingerprint: now, schema.fingerprint: schema})
    return schema


def test_what_an_older_schema_did_not_have_gets_the_default_and_enums_keep_their_symbols(older: WireSchema) -> None:
    columns = sample_columns(20)
    columns["packets_sent"] = np.arange(20)
    rows = rows_of(columns)
    out = io.BytesIO()
    fastavro.schemaless_writer(
        out, fastavro.parse_schema(without_times(older.document)), {**header_of(HEADER), "flows": rows}
    )
    newer_value = decode.CURRENT.fingerprint
    body = io.BytesIO()
    fastavro.schemaless_writer(
        body, fastavro.parse_schema(without_times(decode.CURRENT.document)), {**header_of(HEADER), "flows": rows}
    )
    messages = [
        decode.decode_message(MARKER + older.fingerprint + out.getvalue()),
        decode.decode_message(MARKER + newer_value + body.getvalue()),
    ]
    table, bad = decode.decode_flows(messages)
    assert not bad
    assert table.schema.equals(decode.FLOW_SCHEMA)
    old, new = table.slice(0, 20), table.slice(20)
    assert old["timeouts"].null_count == 20
    assert old["mptcp"].to_pylist() == [False] * 20
    assert old["role"].to_pylist() == [0] * 20
    for name in ("packets_sent", "state", "flow_id", "local_address", "close_detail", "final"):
        assert old[name].to_pylist() == new[name].to_pylist()
    assert new["timeouts"].to_pylist() == columns["timeouts"].tolist()


def test_a_field_that_the_codec_cannot_carry_is_refused_at_once() -> None:
    document = copy.deepcopy(DOCUMENT)
    flow_fields(document).append({"name": "odd", "type": ["null", "int", "string"]})
    with pytest.raises(ValueError, match="odd"):
        WireSchema(document)
