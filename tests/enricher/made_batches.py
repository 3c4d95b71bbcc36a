"""Batches for tests: random flows of every kind, their messages, and the rows they must become, in plain Python."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from enricher.row_maker import FlowRowMaker
from enricher.rows import OffsetRange
from schemas.flow_batch import BatchHeader, FlowColumns, Listener, NamespaceCounters, Workload, encode_flow_batch
from schemas.wire import CURRENT, Kind
from transport.log import Message

HOUR_US = 3_600_000_000
NOON_US = 1_795_348_800_000_000  # 2026-11-22 12:00 UTC

WORKLOADS = (
    Workload("shop", "pod", "prod", "shop-7d9-x1", "uid-1", "c" * 64),
    Workload("shop", "pod", "prod", "shop-7d9-x2", "uid-2", "d" * 64),
    Workload("sshd.service", "unit"),
    Workload("Prüfer", "container", None, "prüfer-1", "e" * 64, "e" * 64),
)
_ADDRESSES = [
    ipaddress.ip_address(text)
    for text in (
        "10.0.0.1", "10.0.0.2", "10.0.0.10", "0.0.0.0", "255.255.255.255", "127.0.0.1",
        "::", "::1", "fe80::1", "2001:db8::1:0:0:1", "2001:db8:0:1:1:1:1:1", "::1.2.3.4", "64:ff9b::a00:1",
    )
]  # fmt: skip


def address_bytes(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    """As on the wire: 16 bytes, IPv4 mapped into IPv6."""
    return address.packed if address.version == 6 else b"\x00" * 10 + b"\xff\xff" + address.packed


def address_text(raw: bytes) -> str:
    """The oracle: Python's own ipaddress."""
    address = ipaddress.IPv6Address(raw)
    return str(address.ipv4_mapped or address)


ANY_IPV4 = address_bytes(ipaddress.IPv4Address(0))
ANY_IPV6 = bytes(16)


def time(us: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)


def make_header(host: str = "alpha", number: int = 0, **other: Any) -> BatchHeader:
    """The header of a batch of this host's only run."""
    header = BatchHeader(
        host_id=f"id-{host}",
        host=host,
        boot_id="boot",
        run_id=f"run-{host}",
        number=number,
        lowest_number=0,
        created_time=NOON_US,
        cluster="east",
        region=None,
        zone="east-1a",
        account=None,
        captured=0,
        dropped={},
        delayed_interims=0,
        networks=("vpc-1", f"host/{host}"),
        processes=("python3", "sshd", "Prüfer"),
        workloads=WORKLOADS,
        listeners=(),
        namespaces=(),
    )
    return replace(header, **other)


def random_flows(rng: np.random.Generator, n: int, end_us: int = NOON_US, span_us: int = 60_000_000) -> FlowColumns:
    """n flows that end within span_us from end_us on. All of the schema's codes, nulls and kinds of address occur."""
    pool = np.array([list(address_bytes(address)) for address in _ADDRESSES], np.uint8)
    columns: dict[str, Any] = {}
    for field in CURRENT.flow_fields:
        if field.kind is Kind.ADDRESS:
            columns[field.name] = pool[rng.integers(0, len(pool), n)]
            continue
        if field.kind is Kind.BOOLEAN:
            values = rng.random(n) < 0.5
        elif field.kind is Kind.ENUM:
            values = rng.integers(0, len(field.symbols), n).astype(np.uint8)
        elif field.kind is Kind.INT:
            values = rng.integers(0, 100_000, n).astype(np.int32)
        else:
            values = rng.integers(0, 10**12, n)
        columns[field.name] = np.ma.MaskedArray(values, mask=rng.random(n) < 0.3) if field.nullable else values
    end = end_us + rng.integers(0, span_us, n)
    columns["end_time"], columns["start_time"] = end, end - rng.integers(0, 10**7, n)
    columns["opened_time"].data[:] = columns["start_time"] - rng.integers(0, 2, n) * 10**6
    columns["flow_id"] = rng.integers(-(2**63), 2**63 - 1, n)
    columns["sequence"] = rng.integers(0, 3, n).astype(np.int32)
    columns["syn_retransmits"] = rng.integers(0, 2, n).astype(np.int32)
    for name, count in (("network", 2), ("process", 3), ("workload", len(WORKLOADS))):
        np.ma.getdata(columns[name])[:] = rng.integers(0, count, n)
    for name in ("local_port", "remote_port"):
        columns[name] = rng.choice([80, 443, 40001, 40002], n).astype(np.int32)
    return columns


def wire_rows(columns: FlowColumns) -> list[dict[str, Any]]:
    """The columns as a list of records, codes as symbols."""
    rows: list[dict[str, Any]] = []
    for at in range(len(columns["end_time"])):
        row: dict[str, Any] = {}
        for field in CURRENT.flow_fields:
            value = columns[field.name][at]
            if field.kind is Kind.ADDRESS:
                row[field.name] = value.tobytes()
            elif value is np.ma.masked:
                row[field.name] = None
            else:
                row[field.name] = field.symbols[int(value)] if field.kind is Kind.ENUM else value.item()
        rows.append(row)
    return rows


def lake_row(header: BatchHeader, flow: Mapping[str, Any]) -> dict[str, Any]:
    """The row of `flows` that a record becomes, with nobody's claims."""
    row = dict(flow)
    owner = row.pop("workload")
    owner = None if owner is None else header.workloads[owner]
    for name in ("start_time", "end_time", "opened_time", "last_retransmit_time"):
        row[name] = None if row[name] is None else time(row[name])
    row["network"] = header.networks[row["network"]]
    row["process"] = None if row["process"] is None else header.processes[row["process"]]
    row["close_detail"] = None if row["close_detail"] == "none" else row["close_detail"]
    row["local_address"], row["remote_address"] = (
        address_text(row["local_address"]),
        address_text(row["remote_address"]),
    )
    row |= {"host": header.host, "host_id": header.host_id, "run_id": header.run_id}
    row |= {"dialed_address": None, "dialed_port": None, "remote_reason": "no_claim"}
    row |= {f"local_{name}": getattr(header, name) for name in ("cluster", "region", "zone", "account")}
    row["container_id"] = owner and owner.container_id
    row |= {
        f"local_{name}": owner and getattr(owner, name)
        for name in ("workload", "kind", "namespace", "instance", "instance_id")
    }
    unnamed = [
        "workload",
        "kind",
        "namespace",
        "cluster",
        "instance",
        "instance_id",
        "region",
        "zone",
        "account",
        "source",
    ]
    return row | {f"remote_{name}": None for name in unnamed}


@dataclass(frozen=True)
class Batch:
    """A header with its flows."""

    header: BatchHeader
    columns: FlowColumns

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [lake_row(self.header, flow) for flow in wire_rows(self.columns)]

    def message(self, offset: int, append_time_us: int = NOON_US + 90_000_000) -> Message:
        value = encode_flow_batch(self.header, self.columns)
        return Message(offset, append_time_us, self.header.host_id.encode(), value)


def some_batches(seed: int, count: int = 4, flows: int = 30, hosts: Sequence[str] = ("alpha", "beta")) -> list[Batch]:
    """Batches of several hosts in turn, with totals that agree."""
    rng = np.random.default_rng(seed)
    batches: list[Batch] = []
    captured = dict.fromkeys(hosts, 0)
    for at in range(count):
        host = hosts[at % len(hosts)]
        captured[host] += flows
        created = NOON_US + at * 1_000_000
        header = make_header(
            host,
            at // len(hosts),
            created_time=created,
            captured=captured[host],
            listeners=(
                Listener(
                    created, 0, 7, address_bytes(ipaddress.ip_address("0.0.0.0")), 80, 10, 0, 1, "connect", 1, 128, 2
                ),
                Listener(
                    created, 1, 7, address_bytes(ipaddress.ip_address("::")), 22, None, None, None, "unknown", 0, 5, 0
                ),
            ),
            namespaces=(NamespaceCounters(7, 1, 2, 3, 4),),
        )
        batches.append(Batch(header, random_flows(rng, flows)))
    return batches


def range_of(messages: Sequence[Message], **other: Any) -> OffsetRange:
    """The range that holds just these messages."""
    range_ = OffsetRange(
        log="0123456789abcdef",
        partition=3,
        first=messages[0].offset if messages else 0,
        next=messages[-1].offset + 1 if messages else 0,
        readable_from=messages[0].offset if messages else 0,
        corrupt=(),
        layout_version=FlowRowMaker.layout_version,
        settings=FlowRowMaker().settings,
    )
    return replace(range_, **other)
