"""What was spooled, as somebody saw who was there all the time: the oracle of the chaos tests.

Segments are trimmed once they are in the lake, so each is hard-linked into a directory of the test's own while it is
there; its bytes are then read with fastavro and the schema alone, not with the reader and decoder that are tested.
"""

from __future__ import annotations

import io
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import fastavro

from schemas.wire import CURRENT
from transport.segment import (
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    checksum_seed,
    payload_crc,
    unpack_record_header,
    unpack_segment_header,
)

LOOK_SECONDS = 0.01
PREFIX_BYTES = 10  # C3 01 and the schema's fingerprint

FlowKey = tuple[int, str, int]  # flow_id, run_id, sequence


def _plain(schema: Any) -> Any:
    """Without logical types, so that times stay integers."""
    if isinstance(schema, list):
        return [_plain(part) for part in schema]
    if isinstance(schema, dict):
        return {key: _plain(value) for key, value in schema.items() if key != "logicalType"}
    return schema


SCHEMA = fastavro.parse_schema(_plain(CURRENT.document))


@dataclass(frozen=True)
class Spooled:
    """One message of a spool: its offset, and the batch as fastavro reads it."""

    offset: int
    batch: dict[str, Any]

    def flows(self) -> dict[FlowKey, tuple[int, int]]:
        """(bytes sent, bytes received) of each record."""
        return {
            (flow["flow_id"], self.batch["run_id"], flow["sequence"]): (flow["bytes_sent"], flow["bytes_received"])
            for flow in self.batch["flows"]
        }


class Witness:
    """Links every segment of a spool as soon as it appears, from a thread of its own, until it is left."""

    def __init__(self, spool: Path, kept: Path) -> None:
        self._spool = spool
        self._kept = kept
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        kept.mkdir()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._link()

    def spooled(self) -> list[Spooled]:
        """Every message that was ever in the spool. Fails where a segment came and went unseen."""
        return read_spool(self._kept)

    def _watch(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self._link()

    def _link(self) -> None:
        for path in self._spool.glob("*.segment"):
            link = self._kept / path.name
            if not link.exists():
                with suppress(FileNotFoundError):
                    link.hardlink_to(path)


def read_spool(directory: Path) -> list[Spooled]:
    """Every message in order of its offset, but those of a torn tail. Fails where a segment is not there."""
    messages: list[Spooled] = []
    ended: int | None = None  # where the segment before ended
    for path in sorted(directory.glob("*.segment")):
        header = unpack_segment_header(path.read_bytes())
        assert header is not None
        assert ended is None or header.previous_next == ended, f"nobody saw what came before {path.name}"
        ended = header.base_offset
        for message in read_segment(path):
            messages.append(message)
            ended = message.offset + 1
    return messages


def read_segment(path: Path) -> list[Spooled]:
    """Its messages up to the end, a torn tail, or damage."""
    raw = path.read_bytes()
    return [Spooled(offset, _batch(raw[begin:end])) for offset, begin, end in spans(path)]


def spans(path: Path) -> list[tuple[int, int, int]]:
    """(offset, begin, end) of each whole record of a segment, in bytes of its file; up to a torn tail or damage."""
    raw = path.read_bytes()
    segment = unpack_segment_header(raw)
    assert segment is not None
    seed = checksum_seed(segment.spool)
    found = []
    at = SEGMENT_HEADER_BYTES
    while (header := unpack_record_header(raw, seed, at)) is not None and at + header.record_bytes <= len(raw):
        key, value = _payload(raw[at : at + header.record_bytes])
        if payload_crc(key, value) != header.payload_crc:
            break
        found.append((header.offset, at, at + header.record_bytes))
        at += header.record_bytes
    return found


def _payload(record: bytes) -> tuple[bytes, bytes]:
    """(key, value). The lengths stand in bytes 32 to 40 of a record's header (transport/segment.py)."""
    key_bytes = int.from_bytes(record[32:36], "little")
    return record[RECORD_HEADER_BYTES : RECORD_HEADER_BYTES + key_bytes], record[RECORD_HEADER_BYTES + key_bytes :]


def _batch(record: bytes) -> Any:
    return fastavro.schemaless_reader(io.BytesIO(_payload(record)[1][PREFIX_BYTES:]), SCHEMA)
