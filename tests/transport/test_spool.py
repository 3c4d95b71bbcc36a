"""The spool as a log: what was appended reads back, offsets are dense, the bound holds and what goes is counted."""

from __future__ import annotations

import multiprocessing
import uuid
from pathlib import Path

import pytest
from spool_bench import Bench, read_to_end

from transport.log import Evicted, Fetched, LogError, LogIdentity, LogReader, LogWriter, Message, OffsetsLost
from transport.segment import RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES
from transport.spool import SpoolConfig, SpoolReader, SpoolWriter

# With a key of 4 bytes, four such records and a header fill a segment of 4 KiB.
QUARTER = b"q" * 950


def test_reader_and_writer_are_what_the_log_asks_for(bench: Bench) -> None:
    writer: LogWriter = bench.writer()
    reader: LogReader = bench.reader()
    assert writer.append(b"key", b"value", 1).offset == 0
    assert reader.identity().kind == "spool"


def test_messages_read_back_as_they_were_appended(bench: Bench) -> None:
    writer = bench.writer()
    expected = []
    for offset, (key, value) in enumerate([(b"host", b"first"), (b"", b""), (b"k" * 300, bytes(range(256)) * 100)]):
        bench.time_us += 7
        assert writer.append(key, value, offset).offset == offset
        expected.append(Message(offset, bench.time_us, key, value))
    assert read_to_end(bench.reader()) == Fetched(expected, 3, [])
    assert bench.reader().bounds() == (0, 3)


def test_offsets_go_on_over_segments_and_openings(bench: Bench) -> None:
    for _ in range(3):
        writer = bench.writer()
        for _ in range(5):
            writer.append(b"host", QUARTER, 1)
        writer.close()
    assert [path.name[15:20] for path in bench.segments()] == ["00000", "00004", "00008", "00012"]
    assert [message.offset for message in read_to_end(bench.reader()).messages] == list(range(15))
    assert bench.reader().bounds() == (0, 15)


def test_a_reader_that_reads_on_sees_what_came_since(bench: Bench) -> None:
    writer, reader = bench.writer(), bench.reader()
    seen: list[int] = []
    for count in range(1, 12):
        for _ in range(count % 4):
            writer.append(b"host", QUARTER, 1)
        first, end = reader.bounds()
        fetched = reader.read(len(seen), stop_before=None, appended_before_us=None, max_bytes=1 << 20)
        seen += [message.offset for message in fetched.messages]
        assert (first, end) == (0, len(seen)) == (0, fetched.next_offset)
    assert seen == list(range(len(seen)))


def test_reading_stops_before_an_offset_a_time_and_a_size(bench: Bench) -> None:
    writer, reader = bench.writer(), bench.reader()
    for offset in range(10):
        bench.time_us = 1000 + offset
        writer.append(b"host", QUARTER, 1)

    def offsets(first: int, stop: int | None = None, time_us: int | None = None, size: int = 1 << 20) -> list[int]:
        fetched = reader.read(first, stop_before=stop, appended_before_us=time_us, max_bytes=size)
        assert fetched.next_offset == first + len(fetched.messages)
        return [message.offset for message in fetched.messages]

    assert offsets(2, stop=6) == [2, 3, 4, 5]
    assert offsets(2, stop=4) == [2, 3]  # where a segment ends
    assert offsets(2, stop=2) == []
    assert offsets(0, stop=99) == list(range(10))
    assert offsets(2, time_us=1005) == [2, 3, 4]
    assert offsets(2, time_us=1000) == []
    assert offsets(2, size=2 * len(QUARTER)) == [2, 3]
    assert offsets(2, size=0) == [2]  # always one, however large
    assert offsets(10) == []
    assert offsets(12) == []


def test_a_message_larger_than_a_segment_gets_one_of_its_own(bench: Bench) -> None:
    writer = bench.writer()
    for value in (b"small", b"L" * 20_000, b"small"):
        writer.append(b"host", value, 1)
    assert len(bench.segments()) == 3
    assert [len(message.value) for message in read_to_end(bench.reader()).messages] == [5, 20_000, 5]


def test_a_message_that_can_never_fit_is_refused_and_nothing_is_dropped_for_it(bench: Bench) -> None:
    writer = bench.writer(max_bytes=8192)
    writer.append(b"host", QUARTER, 1)
    with pytest.raises(LogError, match="does not fit the spool; raise FLOWLAKE_SPOOL_MAX_BYTES"):
        writer.append(b"host", b"L" * 8192, 1)
    assert writer.append(b"host", b"L" * (8192 - 4 - RECORD_HEADER_BYTES - 2 * SEGMENT_HEADER_BYTES), 1).evicted == [
        Evicted(first=0, next_offset=1, messages=1, weight=1)
    ]
    assert bench.used_bytes() <= 8192


def test_a_full_spool_drops_its_oldest_segments_whole_and_counts_them(bench: Bench) -> None:
    writer = bench.writer(max_bytes=16 * 1024)
    evicted: list[Evicted] = []
    for offset in range(100):
        evicted += writer.append(b"host", QUARTER, 10 + offset).evicted
        assert bench.used_bytes() <= 16 * 1024
    kept = [message.offset for message in read_to_end(bench.reader(), bench.reader().bounds()[0]).messages]
    assert kept == list(range(kept[0], 100))
    assert [(e.first, e.next_offset, e.messages) for e in evicted] == [(n, n + 4, 4) for n in range(0, kept[0], 4)]
    assert [e.weight for e in evicted] == [sum(range(10 + e.first, 10 + e.next_offset)) for e in evicted]
    assert bench.reader().weight_from(kept[0] + 1) == sum(range(10 + kept[0] + 1, 110))
    with pytest.raises(OffsetsLost) as caught:
        bench.reader().read(0, stop_before=None, appended_before_us=None, max_bytes=1)
    assert (caught.value.wanted, caught.value.first_available) == (0, kept[0])


def test_what_is_dropped_weighs_right_also_when_another_process_appended_it(bench: Bench) -> None:
    writer = bench.writer()
    for offset in range(10):
        writer.append(b"host", QUARTER, 100 + offset)
    writer.close()
    writer = bench.writer(max_bytes=8192)
    appended = writer.append(b"host", QUARTER, 1)
    assert appended.offset == 10
    assert appended.evicted == [
        Evicted(0, 4, 4, 100 + 101 + 102 + 103),
    ]


def test_messages_that_a_reader_committed_are_trimmed_and_never_counted_as_dropped(bench: Bench) -> None:
    writer, reader = bench.writer(max_bytes=16 * 1024), bench.reader()
    evicted: list[Evicted] = []
    for offset in range(100):
        evicted += writer.append(b"host", QUARTER, 1).evicted
        reader.commit(offset + 1)
    assert evicted == []
    assert reader.bounds() == (96, 100)


def test_of_a_segment_committed_in_part_only_the_rest_counts_as_dropped(bench: Bench) -> None:
    writer, reader = bench.writer(max_bytes=8192), bench.reader()
    for offset in range(7):
        writer.append(b"host", QUARTER, 10 * offset)
    reader.commit(3)
    writer.append(b"host", QUARTER, 70)
    appended = writer.append(b"host", QUARTER, 80)
    assert appended.evicted == [Evicted(first=3, next_offset=4, messages=1, weight=30)]


def test_trim_deletes_what_was_committed_and_never_the_last_segment(bench: Bench) -> None:
    writer, reader = bench.writer(), bench.reader()
    for _ in range(10):
        writer.append(b"host", QUARTER, 1)
    reader.commit(7)
    writer.trim()
    assert reader.bounds() == (4, 10)
    reader.commit(10)
    writer.trim()
    assert reader.bounds() == (8, 10)


@pytest.mark.parametrize("hint", [b"", b"{", b"[]", b'{"uuid": "x", "next_offset": 8}', b'{"next_offset": 8}'])
def test_a_hint_that_cannot_be_true_trims_nothing(bench: Bench, hint: bytes) -> None:
    writer, reader = bench.writer(), bench.reader()
    for _ in range(10):
        writer.append(b"host", QUARTER, 1)
    reader.commit(11)  # not appended yet
    writer.trim()
    (bench.directory / "committed").write_bytes(hint)
    writer.trim()
    assert reader.bounds() == (0, 10)


def test_before_there_is_a_spool_a_reader_finds_nothing_and_then_the_spool(bench: Bench) -> None:
    reader = bench.reader()
    assert reader.bounds() == (0, 0)
    assert reader.read(0, stop_before=None, appended_before_us=None, max_bytes=1) == Fetched((), 0)
    assert reader.weight_from(0) == 0
    reader.commit(0)
    with pytest.raises(LogError, match=r"^there is no spool in .* yet; start the sidecar, or set FLOWLAKE_SPOOL"):
        reader.identity()
    assert not bench.directory.exists()
    writer = bench.writer()
    writer.append(b"host", b"value", 1)
    assert reader.bounds() == (0, 1)
    identity = reader.identity()
    assert identity == LogIdentity("spool", "spool", str(uuid.UUID(identity.uuid)), 0)


def test_a_spool_keeps_its_identity_and_one_made_anew_has_another(bench: Bench) -> None:
    bench.writer().close()
    first = bench.reader().identity()
    bench.writer().close()
    assert bench.reader().identity() == first
    for path in bench.segments():
        path.unlink()
    bench.writer().close()
    assert bench.reader().identity() != first


def test_a_reader_of_a_spool_that_was_made_anew_says_so(bench: Bench) -> None:
    reader = bench.reader()
    bench.writer().close()
    assert reader.bounds() == (0, 0)
    for path in bench.directory.iterdir():
        path.unlink()
    bench.writer()
    with pytest.raises(LogError, match="was made anew, with other offsets; start this process again"):
        reader.bounds()


def test_a_second_writer_is_refused_in_one_line_and_may_write_afterwards(bench: Bench) -> None:
    first = bench.writer()
    with pytest.raises(
        LogError, match=r"^another process \(pid \d+\) writes to the spool in .*; end it, or set [^\n]*$"
    ):
        bench.writer()
    first.close()
    first.close()
    assert bench.writer().append(b"host", b"value", 1).offset == 0


def test_segments_end_at_a_number_of_records_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transport.spool_writer.SEGMENT_OFFSETS", 3)
    writer = bench.writer()
    for _ in range(7):
        writer.append(b"", b"", 1)
    assert [path.name[19:20] for path in bench.segments()] == ["0", "3", "6"]


def test_readers_in_other_processes_see_each_message_whole_while_it_is_written(bench: Bench) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        results = [pool.apply_async(read_in_other_process, (bench.directory, 300)) for _ in range(2)]
        writer = bench.writer(max_bytes=64 << 20, segment_bytes=256 << 10)
        for offset in range(300):
            writer.append(b"host", bytes([offset % 256]) * (offset * 97 % 30_000), 1)
        for result in results:
            assert result.get(timeout=60) == 300


def read_in_other_process(directory: Path, count: int) -> int:
    """How many messages were right, in order, of `count` that another process appends meanwhile."""
    reader = SpoolReader(directory)
    offset = 0
    while offset < count:
        fetched = reader.read(offset, stop_before=None, appended_before_us=None, max_bytes=100_000)
        assert not fetched.corrupt
        for message in fetched.messages:
            assert message.offset == offset
            assert message.value == bytes([offset % 256]) * (offset * 97 % 30_000)
            offset += 1
        assert fetched.next_offset == offset
    return offset


def test_a_bound_below_two_segments_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least two segments"):
        SpoolConfig(max_bytes=100, segment_bytes=51)


def test_a_writer_closes_with_its_with_statement(bench: Bench) -> None:
    with SpoolWriter(SpoolConfig(bench.directory)) as writer:
        writer.append(b"host", b"value", 1)
    with SpoolWriter(SpoolConfig(bench.directory)) as writer:
        assert writer.append(b"host", b"value", 1).offset == 1
