"""Between batch and spool: in order whatever the disk does, bounded, and every flow counted once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.metrics import RunTotals
from sidecar.outbox import EncodedBatch, Outbox
from transport.log import Appended, Evicted, LogError


class Disk:
    """A LogWriter that refuses while it is told to, and evicts what it is told to."""

    def __init__(self) -> None:
        self.refuses = False
        self.values: list[bytes] = []
        self.evicts: Sequence[Evicted] = ()
        self.tried = 0

    def append(self, key: bytes, value: bytes, weight: int) -> Appended:
        self.tried += 1
        if self.refuses:
            raise LogError("cannot append to the spool: no space left on device; free space there")
        self.values.append(value)
        evicted, self.evicts = self.evicts, ()
        return Appended(len(self.values) - 1, evicted)


def batch(number: int, size_bytes: int = 100) -> EncodedBatch:
    """Of `number` flows, told apart by its bytes."""
    return EncodedBatch(b"host", number.to_bytes(4, "big").ljust(size_bytes, b"."), number)


def numbers(disk: Disk) -> list[int]:
    return [int.from_bytes(value[:4], "big") for value in disk.values]


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def totals() -> RunTotals:
    return RunTotals()


@pytest.fixture
def outbox(disk: Disk, totals: RunTotals) -> Outbox:
    """Holds three batches of 100 bytes."""
    return Outbox(disk, totals, max_bytes=300)


def test_a_batch_goes_to_the_spool_at_once(outbox: Outbox, disk: Disk, totals: RunTotals) -> None:
    outbox.send(batch(5))
    assert (numbers(disk), totals.spooled, totals.dropped) == ([5], 5, {})


def test_what_the_disk_refused_goes_first_when_it_takes_batches_again(
    outbox: Outbox, disk: Disk, totals: RunTotals
) -> None:
    disk.refuses = True
    outbox.send(batch(1))
    outbox.send(batch(2))
    assert totals.spooled == 0
    disk.refuses = False
    outbox.send(batch(3))
    assert (numbers(disk), totals.spooled, totals.dropped) == ([1, 2, 3], 6, {})


def test_a_retry_needs_no_new_batch_and_sends_nothing_twice(outbox: Outbox, disk: Disk, totals: RunTotals) -> None:
    disk.refuses = True
    outbox.send(batch(4))
    disk.refuses = False
    outbox.retry()
    outbox.retry()
    assert (numbers(disk), totals.spooled) == ([4], 4)


def test_a_refusing_disk_is_asked_once_per_try_not_once_per_batch_that_waits(outbox: Outbox, disk: Disk) -> None:
    disk.refuses = True
    for number in (1, 2, 3):
        outbox.send(batch(number))
    disk.tried = 0
    outbox.retry()
    assert disk.tried == 1


def test_beyond_the_bound_the_oldest_go_and_their_flows_are_counted(
    outbox: Outbox, disk: Disk, totals: RunTotals
) -> None:
    disk.refuses = True
    for number in (1, 2, 3, 4, 5):
        outbox.send(batch(number))
    assert totals.dropped == {"spool_error": 1 + 2}
    disk.refuses = False
    outbox.retry()
    assert (numbers(disk), totals.spooled) == ([3, 4, 5], 12)


def test_a_batch_larger_than_the_bound_is_tried_and_then_dropped(outbox: Outbox, disk: Disk, totals: RunTotals) -> None:
    outbox.send(batch(1, size_bytes=1000))
    assert (numbers(disk), totals.dropped) == ([1], {})
    disk.refuses = True
    outbox.send(batch(2, size_bytes=1000))
    assert totals.dropped == {"spool_error": 2}


def test_it_complains_once_and_says_once_that_it_is_over(
    outbox: Outbox, disk: Disk, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        disk.refuses = True
        for number in (1, 2):
            outbox.send(batch(number))
        disk.refuses = False
        outbox.retry()
        outbox.retry()
    complaint = "flowlake: cannot append to the spool: no space left on device; free space there"
    assert capsys.readouterr().err.splitlines() == [complaint, "flowlake: the spool takes batches again"] * 2


def test_what_the_spool_dropped_to_make_room_is_counted_as_spool_full(
    outbox: Outbox, disk: Disk, totals: RunTotals
) -> None:
    disk.evicts = (Evicted(0, 2, 2, 70), Evicted(2, 5, 3, 8))
    outbox.send(batch(1))
    outbox.send(batch(1))
    assert (totals.spooled, totals.dropped) == (2, {"spool_full": 78})


def test_at_the_end_what_never_reached_the_disk_is_counted(outbox: Outbox, disk: Disk, totals: RunTotals) -> None:
    outbox.send(batch(9))
    disk.refuses = True
    outbox.send(batch(1))
    outbox.send(batch(2))
    outbox.abandon()
    assert (totals.spooled, totals.dropped) == (9, {"spool_error": 3})


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 50), st.integers(10, 200)), max_size=30))
def test_every_flow_is_spooled_or_dropped_once_and_order_is_kept(steps: list[tuple[bool, int, int]]) -> None:
    disk, totals = Disk(), RunTotals()
    outbox = Outbox(disk, totals, max_bytes=400)
    for at, (refuses, flows, size_bytes) in enumerate(steps):
        disk.refuses = refuses
        outbox.send(EncodedBatch(b"host", at.to_bytes(4, "big").ljust(size_bytes, b"."), flows))
    outbox.abandon()
    assert totals.spooled + totals.dropped.get("spool_error", 0) == sum(flows for _, flows, _ in steps)
    assert totals.spooled == sum(steps[at][1] for at in numbers(disk))
    assert numbers(disk) == sorted(set(numbers(disk)))
