"""Damaged spools: what cannot be read is skipped, told by offset and never given again; the rest reads on."""

from __future__ import annotations

import json
import os
import random
import uuid
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from spool_bench import Bench, read_to_end

from transport.log import LogError, Message
from transport.segment import RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, SEGMENT_OFFSETS
from transport.spool import RepairReport

VALUE = b"q" * 950
RECORD_BYTES = RECORD_HEADER_BYTES + 4 + len(VALUE)


def fill(bench: Bench, count: int) -> None:
    writer = bench.writer()
    for _ in range(count):
        writer.append(b"host", VALUE, 1)
    writer.close()


def flip(path: Path, position: int, length: int = 1) -> None:
    """Change every bit of some bytes of a file."""
    with path.open("r+b") as file:
        file.seek(position)
        raw = file.read(length)
        assert raw
        file.seek(position)
        file.write(bytes(byte ^ 0xFF for byte in raw))


def kept_and_corrupt(bench: Bench) -> tuple[list[int], list[int]]:
    fetched = read_to_end(bench.reader())
    assert all(message.value == VALUE for message in fetched.messages)
    return [message.offset for message in fetched.messages], list(fetched.corrupt)


@pytest.mark.parametrize("within", [0, 10, 47, 48, 53, 900])
def test_a_damaged_record_in_the_middle_costs_itself_only(bench: Bench, within: int) -> None:
    fill(bench, 7)
    flip(bench.segments()[0], SEGMENT_HEADER_BYTES + RECORD_BYTES + within)
    assert kept_and_corrupt(bench) == ([0, 2, 3, 4, 5, 6], [1])
    assert bench.reader().bounds() == (0, 7)


@pytest.mark.parametrize("within", [0, 48, 900])
def test_the_damaged_last_record_of_a_closed_segment_is_told_too(bench: Bench, within: int) -> None:
    fill(bench, 7)
    flip(bench.segments()[0], SEGMENT_HEADER_BYTES + 3 * RECORD_BYTES + within)
    assert kept_and_corrupt(bench) == ([0, 1, 2, 4, 5, 6], [3])
    fetched = bench.reader().read(2, stop_before=4, appended_before_us=None, max_bytes=1 << 20)
    assert ([m.offset for m in fetched.messages], fetched.next_offset, fetched.corrupt) == ([2], 4, [3])


def test_records_stand_without_their_segment_header(bench: Bench) -> None:
    fill(bench, 7)
    flip(bench.segments()[0], 0, SEGMENT_HEADER_BYTES)
    flip(bench.segments()[1], 0, SEGMENT_HEADER_BYTES)
    assert kept_and_corrupt(bench) == (list(range(7)), [])
    writer = bench.writer(max_bytes=8192)
    appended = writer.append(b"host", VALUE, 1)
    assert appended.offset == 4 + SEGMENT_OFFSETS
    assert [(e.first, e.messages, e.weight) for e in appended.evicted] == [(0, 4, 4)]


def test_a_segment_without_a_readable_byte_is_corrupt_up_to_the_next(bench: Bench) -> None:
    fill(bench, 9)
    size = bench.segments()[1].stat().st_size
    flip(bench.segments()[1], 0, size)
    assert kept_and_corrupt(bench) == ([0, 1, 2, 3, 8], [4, 5, 6, 7])
    bench.segments()[1].write_bytes(b"")
    assert kept_and_corrupt(bench) == ([0, 1, 2, 3, 8], [4, 5, 6, 7])
    fill(bench, 1)
    assert kept_and_corrupt(bench) == ([0, 1, 2, 3, 8, 9], [4, 5, 6, 7])


def test_an_unreadable_header_after_a_leap_does_not_make_the_leap_a_loss(bench: Bench) -> None:
    fill(bench, 2)
    bench.boot_id = uuid.UUID(int=2)
    fill(bench, 2)
    assert kept_and_corrupt(bench) == ([0, 1, SEGMENT_OFFSETS, SEGMENT_OFFSETS + 1], [])
    flip(bench.segments()[1], 0)
    assert kept_and_corrupt(bench) == ([0, 1, SEGMENT_OFFSETS, SEGMENT_OFFSETS + 1], [])


@pytest.mark.parametrize("cut_bytes", [1, 900, 960, RECORD_BYTES - 1])
def test_a_torn_tail_is_cut_off_and_counted_once(bench: Bench, cut_bytes: int) -> None:
    fill(bench, 7)
    path = bench.segments()[-1]
    os.truncate(path, path.stat().st_size - cut_bytes)
    assert kept_and_corrupt(bench) == ([0, 1, 2, 3, 4, 5], [])
    writer = bench.writer()
    assert writer.repaired == RepairReport(cut_bytes=RECORD_BYTES - cut_bytes, lost_records=1)
    # Offset 6 may have been read by somebody: it is never given again.
    assert writer.append(b"host", VALUE, 1).offset == 4 + SEGMENT_OFFSETS
    assert kept_and_corrupt(bench) == ([0, 1, 2, 3, 4, 5, 4 + SEGMENT_OFFSETS], [])
    writer.close()
    assert bench.writer().repaired == RepairReport()


def test_records_that_a_power_loss_left_as_zeros_are_cut_off(bench: Bench) -> None:
    fill(bench, 7)
    path = bench.segments()[-1]
    with path.open("r+b") as file:
        file.seek(SEGMENT_HEADER_BYTES + RECORD_BYTES)
        file.write(bytes(2 * RECORD_BYTES))
    bench.boot_id = uuid.UUID(int=2)
    assert bench.writer().repaired == RepairReport(cut_bytes=2 * RECORD_BYTES, lost_records=1)
    assert kept_and_corrupt(bench)[0] == [0, 1, 2, 3, 4]


def test_after_the_machine_started_again_no_offset_is_given_that_may_have_been_lost(bench: Bench) -> None:
    fill(bench, 6)
    reader = bench.reader()
    assert reader.bounds() == (0, 6)
    # The power loss took what was never synced: the file ends sooner, at a record's end.
    os.truncate(bench.segments()[-1], SEGMENT_HEADER_BYTES + RECORD_BYTES)
    bench.boot_id = uuid.UUID(int=2)
    writer = bench.writer()
    assert writer.repaired == RepairReport()
    offset = writer.append(b"host", b"another", 1).offset
    assert offset > 6
    fetched = reader.read(6, stop_before=None, appended_before_us=None, max_bytes=1)
    assert fetched.messages == [Message(offset, bench.time_us, b"host", b"another")]
    assert fetched.corrupt == []


def test_a_last_segment_cut_within_its_header_is_left_behind(bench: Bench) -> None:
    fill(bench, 5)
    os.truncate(bench.segments()[-1], 10)
    writer = bench.writer()
    assert writer.append(b"host", VALUE, 1).offset == 4 + SEGMENT_OFFSETS
    assert kept_and_corrupt(bench)[0] == [0, 1, 2, 3, 4 + SEGMENT_OFFSETS]


def test_what_a_crash_left_half_made_is_removed(bench: Bench) -> None:
    fill(bench, 1)
    leftover = bench.directory / "00000000000000000009.segment.new"
    leftover.write_bytes(b"half")
    bench.writer()
    assert not leftover.exists()


def test_a_spool_without_its_identity_is_refused(bench: Bench) -> None:
    fill(bench, 1)
    (bench.directory / "spool.json").unlink()
    with pytest.raises(LogError, match=r"holds segments but no spool\.json; move them away"):
        bench.writer()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 1, "uuid": "x"}', '{"format": null}'])
def test_a_damaged_identity_is_one_line(bench: Bench, text: str) -> None:
    fill(bench, 1)
    (bench.directory / "spool.json").write_text(text)
    for use in (bench.writer, bench.reader().identity, bench.reader().bounds):
        with pytest.raises(LogError, match=r"spool\.json is damaged; move [^\n]* away"):
            use()


def test_a_spool_of_a_newer_format_is_refused(bench: Bench) -> None:
    fill(bench, 1)
    path = bench.directory / "spool.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    for use in (bench.writer, bench.reader().identity, bench.reader().bounds):
        with pytest.raises(LogError, match=r"was written by a newer flowlake \(format 2\); update this one"):
            use()


def test_a_segment_of_another_spool_is_refused(bench: Bench, tmp_path: Path) -> None:
    fill(bench, 5)
    other = Bench(tmp_path / "other")
    fill(other, 5)
    bench.segments()[0].write_bytes(other.segments()[0].read_bytes())
    with pytest.raises(LogError, match="belongs to another spool; move it out"):
        bench.writer()


class SpoolModel(RuleBasedStateMachine):
    """Random uses and damages of a spool against a dict: what is not damaged reads back as it was appended."""

    directory_of_next: Path
    count = 0

    @initialize()
    def make(self) -> None:
        type(self).count += 1
        self.bench = Bench(self.directory_of_next / str(self.count))
        self.appended: dict[int, bytes] = {}
        self.weights: dict[int, int] = {}
        self.evicted: set[int] = set()
        self.damaged: set[int] = set()
        self.committed = 0
        self.writer = self.bench.writer(max_bytes=16 << 10)

    @rule(size=st.integers(0, 5000), weight=st.integers(0, 9))
    def append(self, size: int, weight: int) -> None:
        number = len(self.appended)
        value = random.Random(number).randbytes(size)
        done = self.writer.append(b"host", value, weight)
        assert done.offset > max(self.appended, default=-1)
        self.appended[done.offset] = value
        self.weights[done.offset] = weight
        for evicted in done.evicted:
            gone = [o for o in self.appended if evicted.first <= o < evicted.next_offset]
            assert evicted.weight == sum(self.weights[o] for o in gone) or self.damaged
            assert evicted.messages == len(gone) or self.damaged
            self.evicted.update(gone)
        assert self.bench.used_bytes() <= 16 << 10

    @rule(back=st.integers(0, 5))
    def commit_and_trim(self, back: int) -> None:
        committed = max(0, self.bench.reader().bounds()[1] - back)
        self.bench.reader().commit(committed)
        self.committed = max(self.committed, committed)
        self.writer.trim()

    @rule(reboot=st.booleans())
    def reopen(self, reboot: bool) -> None:
        self.writer.close()
        if reboot:
            self.bench.boot_id = uuid.UUID(int=self.bench.boot_id.int + 1)
        self.writer = self.bench.writer(max_bytes=16 << 10)

    @rule(data=st.data())
    def flip_a_byte(self, data: st.DataObject) -> None:
        path = data.draw(st.sampled_from(self.bench.segments()))
        position = data.draw(st.integers(0, path.stat().st_size - 1))
        flip(path, position)
        if position >= SEGMENT_HEADER_BYTES:
            self._damage(path, position, position + 1)
        else:
            # A header is needed only where another one is damaged too; then offsets between segments are uncertain.
            self.damaged.add(-1)

    @precondition(lambda self: self.bench.segments()[-1].stat().st_size > SEGMENT_HEADER_BYTES)
    @rule(data=st.data())
    def cut_the_tail_while_closed(self, data: st.DataObject) -> None:
        self.writer.close()
        path = self.bench.segments()[-1]
        size = path.stat().st_size
        cut = data.draw(st.integers(SEGMENT_HEADER_BYTES, size - 1))
        os.truncate(path, cut)
        self._damage(path, cut, size)
        self.bench.boot_id = uuid.UUID(int=self.bench.boot_id.int + 1)
        self.writer = self.bench.writer(max_bytes=16 << 10)

    def _damage(self, path: Path, first: int, end: int) -> None:
        """Note the records of a segment that have a byte in [first, end)."""
        base = int(path.name[:20])
        bases = [int(other.name[:20]) for other in self.bench.segments()]
        above = min((b for b in bases if b > base), default=1 << 62)
        position = SEGMENT_HEADER_BYTES
        for offset in sorted(o for o in self.appended if base <= o < above):
            record_end = position + RECORD_HEADER_BYTES + 4 + len(self.appended[offset])
            if position < end and first < record_end:
                self.damaged.add(offset)
            position = record_end

    @invariant()
    def every_undamaged_message_reads_back_once_and_nothing_else(self) -> None:
        reader = self.bench.reader()
        first, end = reader.bounds()
        fetched = read_to_end(reader, first, max_bytes=6000)
        read = {message.offset: message.value for message in fetched.messages}
        assert len(read) == len(fetched.messages)
        kept = {o for o in self.appended if o >= first}
        assert kept - self.damaged <= read.keys() <= kept
        assert all(self.appended[offset] == value for offset, value in read.items())
        assert not set(fetched.corrupt) & read.keys()
        if not self.damaged:
            assert fetched.corrupt == []
            assert fetched.next_offset == end
            assert set(self.appended) - kept <= self.evicted | {o for o in self.appended if o < self.committed}
            assert reader.weight_from(first) == sum(self.weights[o] for o in kept)

    def teardown(self) -> None:
        for writer in self.bench.opened:
            writer.close()


def test_any_sequence_of_uses_and_damages_keeps_every_undamaged_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is on the disk and what in the page cache is all the same here, and thousands of syncs would take a minute.
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda fd: None)
    SpoolModel.directory_of_next = tmp_path
    run_state_machine_as_test(
        SpoolModel, settings=settings(max_examples=60, stateful_step_count=25, deadline=None, derandomize=True)
    )
