"""Messages of `flowlake.flows.v1` -> headers and one Arrow table of flows. Bad bytes are an error, never worse.

Reads what the current schema and every released one write. Imports pyarrow: not for the sidecar.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.flow_batch import BatchHeader, Listener, NamespaceCounters, Workload
from schemas.flow_rows import FlowDecoder, FlowRows, arrow_type
from schemas.native import CodecError, FailureCode
from schemas.wire import CURRENT, MARKER, PREFIX_BYTES, WireSchema, released

__all__ = ["FLOW_SCHEMA", "DecodeError", "DecodedMessage", "decode_flows", "decode_message"]

INT32_MAX = 2**31 - 1
PORT_MAX = 65535
LONGEST_VARINT = 10
INDICES = ("network", "process", "workload")

_REASONS = {
    FailureCode.OUT_OF_RANGE: "{field} is out of range",
    FailureCode.NO_BRANCH: "{field} is neither null nor a value",
    FailureCode.BAD_VARINT: "{field} is a longer number than its type has",
    FailureCode.CUT_OFF: "the array of flows is cut off",
    FailureCode.TOO_MANY: "more flows are announced than the message can hold",
    FailureCode.BAD_SIZE: "a block of flows has another size than it says",
    FailureCode.LEFT_OVER: "there are bytes behind the flows",
}

FLOW_SCHEMA = pa.schema(
    [
        *(pa.field(field.name, arrow_type(field), field.nullable) for field in CURRENT.flow_fields),
        pa.field("message", pa.int32(), False),
    ]
)
"""What decode_flows gives: the wire's columns, and the index of the message that a row came in."""


class DecodeError(Exception):
    """The bytes are not what they should be. The text is a short reason on one line."""


@dataclass(slots=True)
class DecodedMessage:
    """A message whose header is read and checked, and whose flows are not read yet.

    flow_count: as announced in front of the flows. Only where a foreign writer made several blocks without their sizes
        are there more: decode_flows() finds them, and puts the number right.
    value, flows_at: the message, and where its array of flows begins.
    """

    header: BatchHeader
    flow_count: int
    value: bytes
    flows_at: int
    schema: WireSchema


@cache
def readable_schemas() -> dict[bytes, WireSchema]:
    """Every schema that can be read, by fingerprint."""
    return {schema.fingerprint: schema for schema in (*released(), CURRENT)}


@cache
def _decoder(written: WireSchema, current: WireSchema) -> FlowDecoder:
    return FlowDecoder(written, current)


def decode_message(value: bytes) -> DecodedMessage:
    """Read a message's header and find its flows.

    Raises DecodeError, with the reason on one line, where the bytes are not a FlowBatch of a schema that is known.
    """
    if not value.startswith(MARKER) or len(value) < PREFIX_BYTES:
        raise DecodeError("not an Avro single-object message")
    fingerprint = value[len(MARKER) : PREFIX_BYTES]
    schema = readable_schemas().get(fingerprint)
    if schema is None:
        raise DecodeError(f"unknown schema fingerprint {fingerprint.hex()}")
    body = io.BytesIO(value)
    body.seek(PREFIX_BYTES)
    try:
        document: Any = fastavro.schemaless_reader(body, schema.header, CURRENT.header)
        header = _header(document)
    except DecodeError:
        raise
    except Exception as error:
        # fastavro raises whatever its parts do: EOFError, IndexError, UnicodeDecodeError, OverflowError, ...
        raise DecodeError(f"the header cannot be read ({type(error).__name__})") from error
    count = _announced(memoryview(value), body.tell(), schema.least_flow_bytes)
    return DecodedMessage(header, count, value, body.tell(), schema)


def decode_flows(messages: Sequence[DecodedMessage]) -> tuple[pa.Table, dict[int, str]]:
    """All flows of the messages, in order, as FLOW_SCHEMA has them; and why which messages could not be read.

    A bad message has no row in the table, and does no harm to the others.
    """
    rooms = [message.flow_count for message in messages]
    rows, counts, errors = _decode_all(messages, rooms)
    if any(error.code is FailureCode.NO_ROOM for error in errors.values()):
        for index, message in enumerate(messages):
            if index in errors:
                rooms[index] = (len(message.value) - message.flows_at) // message.schema.least_flow_bytes
        rows, counts, errors = _decode_all(messages, rooms)
    for message, count in zip(messages, counts.tolist(), strict=True):
        message.flow_count = max(message.flow_count, count)
    columns = rows.arrays(int(counts.sum()))
    columns["message"] = pa.array(np.repeat(np.arange(len(messages), dtype=np.int32), counts))
    bad = {index: _reason(error, messages[index]) for index, error in errors.items()}
    return pa.table(columns, schema=FLOW_SCHEMA), bad


def _decode_all(
    messages: Sequence[DecodedMessage], rooms: Sequence[int]
) -> tuple[FlowRows, NDArray[np.int64], dict[int, CodecError]]:
    """The good messages' flows one behind another; how many each message has, 0 for a bad one; why the others are bad.

    rooms: the most flows that each message may have.
    """
    rows = FlowRows(CURRENT, sum(rooms))
    counts = np.zeros(len(messages), np.int64)
    errors: dict[int, CodecError] = {}
    targets: dict[FlowDecoder, NDArray[Any]] = {}
    at = 0
    for index, message in enumerate(messages):
        decoder = _decoder(message.schema, CURRENT)
        if decoder not in targets:
            targets[decoder] = decoder.targets(rows)
        header = message.header
        most = decoder.most(
            network=len(header.networks) - 1,
            process=len(header.processes) - 1,
            workload=len(header.workloads) - 1,
            local_port=PORT_MAX,
            remote_port=PORT_MAX,
        )
        try:
            n = decoder.decode(message.value, message.flows_at, most, rows, targets[decoder], at, rooms[index])
        except CodecError as error:
            errors[index] = error
            continue
        counts[index] = n
        at += n
    return rows, counts, errors


def _reason(error: CodecError, message: DecodedMessage) -> str:
    name = message.schema.flow_fields[error.field].name if error.field >= 0 else "a count"
    reason = _REASONS[error.code].format(field=name)
    if error.code is FailureCode.OUT_OF_RANGE and name in INDICES:
        reason = f"{name} is an index beyond its list"
    return f"{reason} (byte {error.offset})"


def _header(document: dict[str, Any]) -> BatchHeader:
    """The dataclasses of a header; DecodeError where a number in it cannot be."""
    header = BatchHeader(
        **{
            **document,
            "workloads": [Workload(**item) for item in document["workloads"]],
            "listeners": [Listener(**item) for item in document["listeners"]],
            "namespaces": [NamespaceCounters(**item) for item in document["namespaces"]],
        }
    )
    if not 0 <= header.lowest_number <= header.number:
        raise DecodeError("the batch number is out of range")
    for listener in header.listeners:
        ranges = (
            (listener.network, len(header.networks)),
            (listener.process, len(header.processes)),
            (listener.workload, len(header.workloads)),
            (listener.port, PORT_MAX + 1),
            (listener.pid, INT32_MAX + 1),
            (listener.accept_queue, INT32_MAX + 1),
            (listener.accept_queue_max, INT32_MAX + 1),
        )
        if any(number is not None and not 0 <= number < end for number, end in ranges):
            raise DecodeError("a listener has a number out of range")
    return header


def _announced(value: memoryview, start: int, least_flow_bytes: int) -> int:
    """How many flows the array announces that begins at `start`, as far as that can be known without decoding them.

    An array is blocks of a count and its items, ended by a count of zero; a negative count is followed by the size of
    its block. A block without a size is the last that can be seen: where it ends is known when it is decoded.
    """
    total, at = 0, start
    while True:
        count, at = _long(value, at)
        size = len(value) - at
        if count < 0:
            size, at = _long(value, at)
            if not 0 <= size <= len(value) - at:
                raise DecodeError("the flows' block is longer than the message")
        if abs(count) * least_flow_bytes > size:
            raise DecodeError("more flows are announced than the message can hold")
        total += abs(count)
        if count >= 0:
            break
        at += size
    if count and value[-1] != 0:
        raise DecodeError("the array of flows has no end")
    if not count and at != len(value):
        raise DecodeError("there are bytes behind the flows")
    return total


def _long(value: memoryview, at: int) -> tuple[int, int]:
    """The zig-zag varint at `at`, and where it ends."""
    number = 0
    for index, octet in enumerate(value[at : at + LONGEST_VARINT]):
        number |= (octet & 0x7F) << (7 * index)
        if octet < 0x80:
            return (number >> 1) ^ -(number & 1), at + index + 1
    raise DecodeError("the array of flows is cut off")
