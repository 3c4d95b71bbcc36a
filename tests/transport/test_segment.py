"""The bytes of a segment on disk."""

from __future__ import annotations

import binascii
import uuid

from hypothesis import given, settings
from hypothesis import strategies as st

from transport.segment import (
    RECORD_HEADER_BYTES,
    RECORD_MAGIC,
    SEGMENT_HEADER_BYTES,
    RecordHeader,
    SegmentHeader,
    base_offset_of,
    checksum_seed,
    find_record_header,
    pack_record_header,
    pack_segment_header,
    payload_crc,
    segment_name,
    unpack_record_header,
    unpack_segment_header,
)

SPOOL = uuid.UUID("12345678-1234-5678-1234-567812345678")
SEED = checksum_seed(SPOOL)
U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
RECORD_HEADERS = st.builds(RecordHeader, U64, U64, U32, U64, U32, U32, U32)
SEGMENT_HEADERS = st.builds(SegmentHeader, st.just(SPOOL), st.uuids(), U64, U64, U64)


def test_a_record_header_has_these_very_bytes() -> None:
    header = RecordHeader(
        offset=5,
        append_time_us=6,
        weight=7,
        weight_before=8,
        key_bytes=1,
        value_bytes=2,
        payload_crc=payload_crc(b"k", b"vv"),
    )
    fields = "ab464c52 07000000 0500000000000000 0600000000000000 0800000000000000 01000000 02000000"
    checked = bytes.fromhex(fields) + binascii.crc32(b"kvv").to_bytes(4, "little")
    crc = binascii.crc32(SPOOL.bytes + checked).to_bytes(4, "little")
    assert pack_record_header(header, SEED) == checked + crc
    assert len(checked + crc) == RECORD_HEADER_BYTES == 48


def test_a_segment_header_has_these_very_bytes() -> None:
    header = SegmentHeader(SPOOL, uuid.UUID(int=2), base_offset=3, previous_next=4, weight_before=5)
    fields = f"464c5753504f4f4c 01000000 {SPOOL.hex} {2:032x} 0300000000000000 0400000000000000 0500000000000000"
    checked = bytes.fromhex(fields)
    assert pack_segment_header(header) == checked + binascii.crc32(checked).to_bytes(4, "little")
    assert len(checked) + 4 == SEGMENT_HEADER_BYTES == 72


@settings(deadline=None)
@given(RECORD_HEADERS, SEGMENT_HEADERS)
def test_what_was_packed_unpacks(record: RecordHeader, segment: SegmentHeader) -> None:
    assert unpack_record_header(pack_record_header(record, SEED), SEED) == record
    assert unpack_segment_header(pack_segment_header(segment)) == segment


@settings(deadline=None)
@given(RECORD_HEADERS, st.integers(0, RECORD_HEADER_BYTES * 8 - 1))
def test_a_record_header_with_one_bit_changed_is_none(header: RecordHeader, bit: int) -> None:
    raw = bytearray(pack_record_header(header, SEED))
    raw[bit // 8] ^= 1 << bit % 8
    assert unpack_record_header(bytes(raw), SEED) is None


@settings(deadline=None)
@given(SEGMENT_HEADERS, st.integers(0, SEGMENT_HEADER_BYTES * 8 - 1))
def test_a_segment_header_with_one_bit_changed_is_none(header: SegmentHeader, bit: int) -> None:
    raw = bytearray(pack_segment_header(header))
    raw[bit // 8] ^= 1 << bit % 8
    assert unpack_segment_header(bytes(raw)) is None


@settings(deadline=None)
@given(RECORD_HEADERS, st.lists(st.sampled_from([RECORD_MAGIC, b"\xab", b"x"])), st.integers(0, 47))
def test_the_next_header_is_found_behind_bytes_that_only_look_like_one(
    header: RecordHeader, noise: list[bytes], short: int
) -> None:
    before = b"".join(noise)
    packed = pack_record_header(header, SEED)
    assert find_record_header(before + packed + b"tail", SEED, header.offset) == (len(before), header)
    assert find_record_header(before + packed + b"tail", SEED, header.offset + 1) is None
    assert find_record_header(before + packed[:short], SEED, 0) is None


def test_a_header_of_another_spool_is_none() -> None:
    header = RecordHeader(1, 2, 3, 4, 5, 6, 7)
    assert unpack_record_header(pack_record_header(header, SEED + 1), SEED) is None


def test_segments_are_named_after_their_base_offset() -> None:
    assert segment_name(12) == "00000000000000000012.segment"
    assert base_offset_of("00000000000000000012.segment") == 12
    for name in ("12.segment", "00000000000000000012.segment.new", "committed", "x00000000000000000012.segment"):
        assert base_offset_of(name) is None
