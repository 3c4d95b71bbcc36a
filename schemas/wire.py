"""The wire schema `avro/FlowBatch.avsc` as Python sees it: its header, the fields of a flow, and their fingerprint.

A message is Avro single-object encoding: C3 01, the CRC-64-AVRO fingerprint of the writer's schema (little endian),
then the body: the header's fields, and last the array of flows.
https://avro.apache.org/docs/1.12.0/specification/#single-object-encoding
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from importlib import resources
from typing import Any

from fastavro import parse_schema
from fastavro.schema import fingerprint, to_parsing_canonical_form

MARKER = b"\xc3\x01"
PREFIX_BYTES = 10  # marker and fingerprint


class Kind(StrEnum):
    """What a field of a flow is on the wire. INT and LONG are both zig-zag varints, of 32 and 64 bits."""

    BOOLEAN = "boolean"
    INT = "int"
    LONG = "long"
    ENUM = "enum"
    ADDRESS = "fixed"  # 16 bytes


@dataclass(frozen=True, slots=True)
class WireField:
    """One field of a flow. Nullable ones are the union ["null", kind]."""

    name: str
    kind: Kind
    nullable: bool
    symbols: tuple[str, ...]  # of an enum
    is_time: bool  # microseconds since the epoch, UTC
    default: Any  # for rows of an older schema that had no such field

    @property
    def least_bytes(self) -> int:
        return 16 if self.kind is Kind.ADDRESS else 1


class WireSchema:
    """One version of FlowBatch.

    document: the schema as JSON. Raises ValueError where a flow has a field that this codec cannot carry.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        *header_fields, flows = document["fields"]
        self.document = document
        self.fingerprint = crc64_avro(document)
        self._header_fields = header_fields
        named: dict[str, Any] = {}
        for field in header_fields:
            _collect_named(field["type"], named)
        self.flow_fields = tuple(_wire_field(field, named) for field in flows["type"]["items"]["fields"])
        self.least_flow_bytes = sum(field.least_bytes for field in self.flow_fields)

    @cached_property
    def header(self) -> Any:
        """The record without its flows, parsed for fastavro. Times are plain integers."""
        return parse_schema(_without_logical_types({**self.document, "fields": self._header_fields}))


def crc64_avro(document: dict[str, Any]) -> bytes:
    """The Rabin fingerprint of the schema's parsing canonical form, as the 8 bytes that go on the wire."""
    return bytes.fromhex(fingerprint(to_parsing_canonical_form(document), "CRC-64-AVRO"))


def released() -> list[WireSchema]:
    """Every schema that a released sidecar may still write, oldest first."""
    folder = resources.files("schemas") / "avro" / "released"
    files = [file for file in folder.iterdir() if file.name.endswith(".avsc")]
    # FlowBatch-<version>.avsc
    files.sort(key=lambda file: int(file.name.removesuffix(".avsc").rpartition("-")[2]))
    return [WireSchema(json.loads(file.read_bytes())) for file in files]


def encoded_long(value: int) -> bytes:
    """A number of 64 bits as a zig-zag varint."""
    rest = (value << 1) ^ (value >> 63)
    octets = bytearray()
    while rest > 0x7F:
        octets.append(rest & 0x7F | 0x80)
        rest >>= 7
    octets.append(rest)
    return bytes(octets)


def _wire_field(field: dict[str, Any], named: dict[str, Any]) -> WireField:
    _collect_named(field["type"], named)
    what = field["type"]
    nullable = isinstance(what, list)
    if nullable:
        if len(what) != 2 or what[0] != "null":
            raise ValueError(f"FlowBatch: field {field['name']} is a union other than [null, type]")
        what = what[1]
    if isinstance(what, str) and what in named:
        what = named[what]
    description = what if isinstance(what, dict) else {"type": what}
    kind = Kind(description["type"])
    if kind is Kind.ADDRESS and description["size"] != 16:
        raise ValueError(f"FlowBatch: field {field['name']} is a fixed of other than 16 bytes")
    if nullable and kind in (Kind.ADDRESS, Kind.ENUM):
        raise ValueError(f"FlowBatch: field {field['name']} is a nullable {kind}, which the codec does not know")
    return WireField(
        name=field["name"],
        kind=kind,
        nullable=nullable,
        symbols=tuple(description.get("symbols", ())),
        is_time=description.get("logicalType") == "timestamp-micros",
        default=field.get("default"),
    )


def _collect_named(schema: Any, named: dict[str, Any]) -> None:
    """Put every named type inside the schema into `named`: Avro defines a type once and then uses its name."""
    if isinstance(schema, list):
        for branch in schema:
            _collect_named(branch, named)
    elif isinstance(schema, dict):
        if "name" in schema:
            named[schema["name"]] = schema
        for field in schema.get("fields", ()):
            _collect_named(field["type"], named)
        _collect_named(schema.get("items"), named)


def _without_logical_types(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_logical_types(part) for part in schema]
    if isinstance(schema, dict):
        return {key: _without_logical_types(value) for key, value in schema.items() if key != "logicalType"}
    return schema


# What this version of flowlake writes.
CURRENT = WireSchema(json.loads((resources.files("schemas") / "avro" / "FlowBatch.avsc").read_bytes()))
