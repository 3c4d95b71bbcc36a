"""Batches to encode, and fastavro as the oracle: it reads and writes the schema file by itself."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import fastavro
import numpy as np

import schemas
from schemas.flow_batch import BatchHeader, Listener, NamespaceCounters, Workload
from schemas.wire import CURRENT, Kind, WireField

DOCUMENT: dict[str, Any] = json.loads((Path(schemas.__file__).parent / "avro" / "FlowBatch.avsc").read_bytes())

HEADER = BatchHeader(
    host_id="4c4c4544004d3510804eb9c04f4d3632",
    host="größe-1",
    boot_id="b2f3",
    run_id="r-1",
    number=7,
    lowest_number=3,
    created_time=1_763_835_000_123_456,
    cluster=None,
    region="eu-central-1",
    zone="eu-central-1a",
    account=None,
    captured=12_345,
    dropped={"ring_full": 2, "spool_full": 0},
    delayed_interims=1,
    networks=["default", "host/4c4c"],
    processes=["nginx", "postgres", "curl"],
    workloads=[Workload("web", "pod", "shop", "web-1", "uid-1", "c" * 64), Workload("cron.service", "unit")],
    listeners=[
        Listener(1_763_835_000_000_000, 0, 4_026_531_840, bytes(16), 8080, 71, 0, 1, "listener", 3, 128, 4),
        Listener(1_763_835_000_000_000, 1, 1, bytes(range(16)), 22, None, None, None, "unknown", 0, 4096, 0),
    ],
    namespaces=[NamespaceCounters(1, 2, 3, 4, 5)],
)
INDEX_LIMITS = {"network": 2, "process": 3, "workload": 2}


def bounds(field: WireField) -> tuple[int, int]:
    """The least and the greatest number that the field may hold in a batch with HEADER."""
    if field.name in INDEX_LIMITS:
        return 0, INDEX_LIMITS[field.name] - 1
    if field.name.endswith("_port"):
        return 0, 65535
    return {
        Kind.BOOLEAN: (0, 1),
        Kind.ENUM: (0, len(field.symbols) - 1),
        Kind.INT: (-(2**31), 2**31 - 1),
        Kind.LONG: (-(2**63), 2**63 - 1),
    }[field.kind]


DTYPES = {Kind.BOOLEAN: np.bool_, Kind.ENUM: np.uint8, Kind.INT: np.int32, Kind.LONG: np.int64}


def sample_columns(n: int, seed: int = 0, null_share: float = 0.3) -> dict[str, np.ndarray]:
    """n flows: numbers of every length, from one byte to the longest, within what a batch with HEADER may hold."""
    random = np.random.default_rng(seed)
    columns: dict[str, np.ndarray] = {}
    for field in CURRENT.flow_fields:
        if field.kind is Kind.ADDRESS:
            columns[field.name] = random.integers(0, 256, (n, 16), np.uint8)
            continue
        least, greatest = bounds(field)
        numbers = random.integers(-(2**63), 2**63 - 1, n, endpoint=True) >> random.integers(0, 64, n)
        if greatest - least < 2**32:
            numbers = least + numbers % (greatest - least + 1)
        values = numbers.astype(DTYPES[field.kind])
        columns[field.name] = np.ma.MaskedArray(values, random.random(n) < null_share) if field.nullable else values
    return columns


def rows_of(columns: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """The columns as fastavro takes and gives them, one dict a flow."""
    lists: dict[str, list[Any]] = {}
    for field in CURRENT.flow_fields:
        values = columns[field.name]
        if field.kind is Kind.ADDRESS:
            lists[field.name] = [bytes(octets) for octets in values]
        elif field.symbols:
            lists[field.name] = [field.symbols[code] for code in values.tolist()]
        else:
            lists[field.name] = values.tolist()
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def header_of(header: BatchHeader) -> dict[str, Any]:
    """The header as fastavro takes and gives it."""

    def document(item: Any) -> dict[str, Any]:
        return {name: getattr(item, name) for name in item.__slots__}

    return {
        **document(header),
        "workloads": [document(item) for item in header.workloads],
        "listeners": [document(item) for item in header.listeners],
        "namespaces": [document(item) for item in header.namespaces],
    }


def without_times(schema: Any) -> Any:
    """The schema with plain numbers for times: the bytes are the same, and fastavro makes no datetimes of them."""
    if isinstance(schema, list):
        return [without_times(part) for part in schema]
    if isinstance(schema, dict):
        return {key: without_times(value) for key, value in schema.items() if key != "logicalType"}
    return schema


def fastavro_body(columns: dict[str, np.ndarray], header: BatchHeader = HEADER) -> bytes:
    """What fastavro writes for the batch, without the prefix."""
    out = io.BytesIO()
    batch = {**header_of(header), "flows": rows_of(columns)}
    fastavro.schemaless_writer(out, fastavro.parse_schema(without_times(DOCUMENT)), batch)
    return out.getvalue()


def fastavro_read(body: bytes) -> dict[str, Any]:
    """What fastavro reads. Raises whatever it does; ValueError where bytes are left over."""
    stream = io.BytesIO(body)
    batch: Any = fastavro.schemaless_reader(stream, fastavro.parse_schema(without_times(DOCUMENT)), None)
    if stream.read(1):
        raise ValueError("bytes are left over")
    return dict(batch)
