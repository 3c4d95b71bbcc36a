"""A batch of flows as it leaves the host: the dataclasses of its header, and its encoding.

Imports numpy and fastavro only: the sidecar uses it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import fastavro
from numpy.typing import NDArray

from schemas.encode import FlowEncoder
from schemas.wire import CURRENT, MARKER, encoded_long

FlowColumns = Mapping[str, NDArray[Any]]
"""Column by name of the Avro record Flow, each of n rows: integers, booleans, enum codes (uint8, in the order of the
schema's symbols), addresses uint8 (n, 16), times int64 in microseconds; numpy.ma.MaskedArray where nullable."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A workload of this host, as flows and listeners of the batch refer to it by index."""

    workload: str  # stable name, the same for all instances: deployment, compose service, unit, process
    kind: str  # pod, container, unit, process
    namespace: str | None = None
    instance: str | None = None
    instance_id: str | None = None
    container_id: str | None = None


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket as the sidecar last saw it."""

    time: int  # microseconds UTC
    network: int  # index into networks
    netns: int
    address: bytes  # 16: IPv6, or IPv4 mapped into IPv6
    port: int
    pid: int | None
    process: int | None  # index into processes
    workload: int | None  # index into workloads
    owner_source: str
    accept_queue: int
    accept_queue_max: int
    overflows: int  # since the last record of this socket


@dataclass(frozen=True, slots=True)
class NamespaceCounters:
    """What the kernel counted in one network namespace since the last batch that spoke of it."""

    netns: int
    listen_overflows: int
    listen_drops: int
    out_no_routes: int
    half_open: int


@dataclass(frozen=True, slots=True)
class BatchHeader:
    """All of a FlowBatch but its flows. Names and meanings are those of avro/FlowBatch.avsc."""

    host_id: str
    host: str
    boot_id: str
    run_id: str
    number: int
    lowest_number: int
    created_time: int  # microseconds UTC
    cluster: str | None
    region: str | None
    zone: str | None
    account: str | None
    captured: int
    dropped: Mapping[str, int]
    delayed_interims: int
    networks: Sequence[str]
    processes: Sequence[str]
    workloads: Sequence[Workload]
    listeners: Sequence[Listener]
    namespaces: Sequence[NamespaceCounters]


_NAMES = {
    kind: tuple(field.name for field in fields(kind)) for kind in (BatchHeader, Workload, Listener, NamespaceCounters)
}
_FLOWS = FlowEncoder(CURRENT.flow_fields)


def encode_flow_batch(header: BatchHeader, columns: FlowColumns) -> bytes:
    """The message: single-object encoding of a FlowBatch, byte for byte what fastavro writes.

    Raises ValueError where the columns do not fit the schema.
    """
    out = io.BytesIO()
    out.write(MARKER + CURRENT.fingerprint)
    fastavro.schemaless_writer(out, CURRENT.header, header_document(header))
    records, n = _FLOWS.encode(columns)
    if n:
        # An array is blocks, each a count and its items; a count of zero ends it.
        out.write(encoded_long(n))
        out.write(records.data)
    out.write(encoded_long(0))
    return out.getvalue()


def header_document(header: BatchHeader) -> dict[str, Any]:
    """The header as fastavro takes it."""
    document = _document(header)
    for name in ("workloads", "listeners", "namespaces"):
        document[name] = [_document(item) for item in document[name]]
    return document


def _document(item: Any) -> dict[str, Any]:
    return {name: getattr(item, name) for name in _NAMES[type(item)]}
