"""A record batch has the very bytes that the client library's own builder gives it, and reads back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.record.memory_records import MemoryRecordsBuilder

from transport.kafka_records import decode_fetch, encode_batch
from transport.log import LogError, Message

MS = 1000
MESSAGES = st.lists(
    st.tuples(st.integers(0, 2**41), st.binary(max_size=40), st.binary(max_size=300)), min_size=1, max_size=70
).map(lambda found: [Message(i, ms * MS, key, value) for i, (ms, key, value) in enumerate(found)])


@given(MESSAGES)
def test_a_batch_is_what_the_client_library_would_write(messages: list[Message]) -> None:
    builder = MemoryRecordsBuilder(2, 0, 1 << 30)
    for message in messages:
        builder.append(message.append_time_us // MS, message.key, message.value)
    builder.close()
    assert encode_batch(messages, "none") == bytes(builder.buffer())


@given(MESSAGES, st.sampled_from(["none", "gzip", "zstd"]), st.integers(0, 80))
def test_a_batch_reads_back_from_any_offset(messages: list[Message], compression: str, first: int) -> None:
    decoded = decode_fetch(encode_batch(messages, compression), first, ())
    assert decoded.messages == messages[first:]
    assert decoded.next_offset == max(first, len(messages))


def test_a_batch_that_was_cut_off_is_left_for_the_next_fetch() -> None:
    messages = [Message(0, 0, b"host", b"value")]
    batch = encode_batch(messages, "none")
    decoded = decode_fetch(batch + batch[:-1], 0, ())
    assert (decoded.messages, decoded.next_offset) == (messages, 1)


def test_a_batch_that_fails_its_checksum_is_said_with_its_offset() -> None:
    batch = bytearray(encode_batch([Message(0, 0, b"host", b"value")], "none"))
    batch[-2] ^= 1
    with pytest.raises(LogError, match="the batch at offset 0 fails its checksum"):
        decode_fetch(bytes(batch), 0, ())
