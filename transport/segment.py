"""A segment of a spool on disk: what every byte means. Nothing here opens a file.

    <base offset, 20 digits>.segment = segment header, record, record, ...
    record = record header, key, value

All integers are little-endian. Offsets within a segment are dense. A record header has a checksum of its own, seeded
with the spool's UUID: after damaged bytes the next valid header shows where to read on, and nothing else looks like one
(bytes of a value could only by knowing the UUID). A damaged segment header costs nothing but itself: records stand
without it.

Weights (flows per batch) are kept as a running total, so that what a lost stretch held is the difference of its ends.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from uuid import UUID

FORMAT_VERSION = 1

# magic, version, spool UUID, boot id, base offset, previous next offset, weight before, CRC-32 of all before it
_SEGMENT = struct.Struct("<8sI16s16sQQQI")
_SEGMENT_MAGIC = b"FLWSPOOL"
SEGMENT_HEADER_BYTES = _SEGMENT.size  # 72

# magic, weight, offset, append time us, weight before, key bytes, value bytes, CRC-32 of the payload, of all before it
_RECORD = struct.Struct("<4sIQQQIIII")
RECORD_MAGIC = b"\xabFLR"
RECORD_HEADER_BYTES = _RECORD.size  # 48
_CHECKED_BYTES = RECORD_HEADER_BYTES - 4

# A segment is closed at so many records, however small they are. So where the end of a segment is in doubt (power lost
# before an fsync, a tail cut off), base offset + this is an offset that was certainly never given away.
SEGMENT_OFFSETS = 1 << 20

_NAME = re.compile(r"(\d{20})\.segment")


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    spool: UUID
    boot_id: UUID  # of the kernel that ran when it was made: of an older one, the tail may have been lost unseen
    base_offset: int
    previous_next: int  # where the segment before ended; offsets from here to base_offset were never given away
    weight_before: int  # of all messages ever appended before this segment


@dataclass(frozen=True, slots=True)
class RecordHeader:
    offset: int
    append_time_us: int
    weight: int
    weight_before: int  # of all messages ever appended before this one
    key_bytes: int
    value_bytes: int
    payload_crc: int

    @property
    def record_bytes(self) -> int:
        return RECORD_HEADER_BYTES + self.key_bytes + self.value_bytes


def segment_name(base_offset: int) -> str:
    return f"{base_offset:020d}.segment"


def base_offset_of(name: str) -> int | None:
    """The base offset in a segment's file name; None where it is not one."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def pack_segment_header(header: SegmentHeader) -> bytes:
    fields = (header.spool.bytes, header.boot_id.bytes, header.base_offset, header.previous_next, header.weight_before)
    unchecked = _SEGMENT.pack(_SEGMENT_MAGIC, FORMAT_VERSION, *fields, 0)[:-4]
    return unchecked + struct.pack("<I", zlib.crc32(unchecked))


def unpack_segment_header(raw: bytes) -> SegmentHeader | None:
    """None where the bytes are damaged, cut short or of another format."""
    if len(raw) < SEGMENT_HEADER_BYTES:
        return None
    magic, version, spool, boot_id, base, previous_next, weight_before, crc = _SEGMENT.unpack_from(raw)
    if magic != _SEGMENT_MAGIC or version != FORMAT_VERSION or crc != zlib.crc32(raw[: SEGMENT_HEADER_BYTES - 4]):
        return None
    return SegmentHeader(UUID(bytes=spool), UUID(bytes=boot_id), base, previous_next, weight_before)


def checksum_seed(spool: UUID) -> int:
    """What the checksums of record headers begin with, in this spool."""
    return zlib.crc32(spool.bytes)


def payload_crc(key: bytes, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(key))


def pack_record_header(header: RecordHeader, seed: int) -> bytes:
    unchecked = _RECORD.pack(
        RECORD_MAGIC,
        header.weight,
        header.offset,
        header.append_time_us,
        header.weight_before,
        header.key_bytes,
        header.value_bytes,
        header.payload_crc,
        0,
    )[:_CHECKED_BYTES]
    return unchecked + struct.pack("<I", zlib.crc32(unchecked, seed))


def unpack_record_header(raw: bytes, seed: int, at: int = 0) -> RecordHeader | None:
    """The record header at raw[at:]; None where the bytes are not one of this spool, or too few."""
    if len(raw) - at < RECORD_HEADER_BYTES or raw[at : at + 4] != RECORD_MAGIC:
        return None
    _, weight, offset, time_us, weight_before, key_bytes, value_bytes, crc, header_crc = _RECORD.unpack_from(raw, at)
    if header_crc != zlib.crc32(raw[at : at + _CHECKED_BYTES], seed):
        return None
    return RecordHeader(offset, time_us, weight, weight_before, key_bytes, value_bytes, crc)


def find_record_header(raw: bytes, seed: int, lowest_offset: int) -> tuple[int, RecordHeader] | None:
    """The first valid record header in raw with an offset of at least lowest_offset, and where it stands."""
    at = raw.find(RECORD_MAGIC)
    while at >= 0:
        header = unpack_record_header(raw, seed, at)
        if header is not None and header.offset >= lowest_offset:
            return at, header
        at = raw.find(RECORD_MAGIC, at + 1)
    return None
