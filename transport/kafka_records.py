"""Record batches, as Kafka keeps them: messages in, one batch out; the bytes of a fetch in, messages out.

Source: kafka.apache.org, "Implementation: Message Format", record batch of magic 2 (since Kafka 0.11).
"""

from __future__ import annotations

import gzip
import heapq
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import zstandard
from kafka.record import MemoryRecords
from kafka.record.util import calc_crc32c

from transport.log import LogError, Message

_MAGIC = 2
# base offset, bytes after this field, leader epoch, magic, CRC-32C of all that follows | attributes, last offset delta,
# first and greatest timestamp (ms), producer id, its epoch, its sequence, number of records
_BEFORE_CRC = struct.Struct(">qiibI")
_AFTER_CRC = struct.Struct(">hiqqqhii")
_NOT_COUNTED = 12  # the first two fields
_NO_PRODUCER = (-1, -1, -1)
# Levels: at their defaults both cost more than all else that is done to a flow on its host (zstd 3: 1.3 us, 1: 0.6).
_COMPRESSORS: Mapping[str, tuple[int, Callable[[bytes], bytes]]] = {
    "gzip": (1, lambda records: gzip.compress(records, 1, mtime=0)),
    "zstd": (4, lambda records: zstandard.ZstdCompressor(level=1).compress(records)),
}
_ABORT = 0


def encode_batch(messages: Sequence[Message], compression: str) -> bytes:
    """One record batch of all messages: a broker takes it whole, or nothing of it."""
    # The broker puts its own time in place of ours (LogAppendTime).
    first_ms = messages[0].append_time_us // 1000
    parts: list[bytes] = []
    for delta, message in enumerate(messages):
        head = b"\0" + _varint(message.append_time_us // 1000 - first_ms) + _varint(delta) + _varint(len(message.key))
        value_length = _varint(len(message.value))
        length = len(head) + len(message.key) + len(value_length) + len(message.value) + 1
        parts += (_varint(length), head, message.key, value_length, message.value, b"\0")
    records = b"".join(parts)
    attributes = 0
    if compression in _COMPRESSORS:
        codec, compress = _COMPRESSORS[compression]
        compressed = compress(records)
        if len(compressed) < len(records):
            attributes, records = codec, compressed
    last_ms = max(message.append_time_us for message in messages) // 1000
    count = len(messages)
    checked = _AFTER_CRC.pack(attributes, count - 1, first_ms, last_ms, *_NO_PRODUCER, count) + records
    counted = _BEFORE_CRC.size - _NOT_COUNTED + len(checked)
    return _BEFORE_CRC.pack(0, counted, 0, _MAGIC, calc_crc32c(checked)) + checked


def _varint(value: int) -> bytes:
    """Zigzag, seven bits a byte, lowest first; of 64 bits at most."""
    left = (value << 1) ^ (value >> 63)
    encoded = bytearray()
    while left > 0x7F:
        encoded.append((left & 0x7F) | 0x80)
        left >>= 7
    encoded.append(left)
    return bytes(encoded)


@dataclass(slots=True)
class Decoded:
    """What a fetch held. next_offset: where to read on, past control records and messages of aborted transactions."""

    next_offset: int
    messages: list[Message] = field(default_factory=list)


def decode_fetch(records: bytes, first: int, aborted: Sequence[tuple[int, int]]) -> Decoded:
    """The messages from `first` on. A batch that was cut off at the end is left for the next fetch.

    aborted: (first offset, producer id) of the aborted transactions in it, as the broker told with the fetch.
    Raises LogError where the bytes fail their checksum: what lies on the broker's disk is damaged.
    """
    decoded = Decoded(first)
    coming = list(aborted)
    heapq.heapify(coming)
    aborting: set[int] = set()
    batches = MemoryRecords(records)
    while (batch := batches.next_batch()) is not None:
        if not batch.validate_crc():
            raise LogError(
                f"Kafka: the batch at offset {batch.base_offset} fails its checksum; look at the disk of the "
                f"partition's leader, and move the leadership to another replica"
            )
        while coming and coming[0][0] <= batch.last_offset:
            aborting.add(heapq.heappop(coming)[1])
        if batch.is_control_batch:
            if next(iter(batch)).type == _ABORT:
                aborting.discard(batch.producer_id)
        elif not (batch.is_transactional and batch.producer_id in aborting):
            decoded.messages.extend(_message(record) for record in batch if record.offset >= first)
        decoded.next_offset = max(decoded.next_offset, batch.next_offset)
    return decoded


def _message(record: Any) -> Message:
    return Message(record.offset, record.timestamp * 1000, record.key or b"", record.value or b"")
