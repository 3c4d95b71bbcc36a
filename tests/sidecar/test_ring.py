"""The ring reader on memory laid out by hand as kernel/bpf/ringbuf.c does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sidecar.probe.ring import BUSY_BIT, DISCARD_BIT, HEADER_BYTES, read_records

RECORD = np.dtype([("number", "<u8"), ("text", "S16"), ("again", "<u8")])
STRIDE = HEADER_BYTES + RECORD.itemsize
RING_BYTES = 4096


class Ring:
    """What a kernel would have written."""

    def __init__(self, start: int = 0) -> None:
        self.memory: NDArray[np.uint8] = np.zeros(RING_BYTES, np.uint8)
        self.consumer = self.producer = start

    def reserve(self, number: int, flags: int = 0, length: int = RECORD.itemsize) -> None:
        record = np.array([(number, b"x" * (number % 17), number)], RECORD)
        slot = np.concatenate([np.array([length | flags, 0], np.uint32).view(np.uint8), record.view(np.uint8)])
        self.memory[(self.producer + np.arange(STRIDE)) % RING_BYTES] = slot
        self.producer += STRIDE

    def read(self) -> list[int]:
        mapped = np.concatenate([self.memory, self.memory])
        records, self.consumer = read_records(mapped, self.consumer, self.producer, RECORD)
        assert (records["number"] == records["again"]).all()
        return list(records["number"].tolist())


def test_an_empty_ring_has_no_records_and_stays_where_it_is() -> None:
    ring = Ring(start=STRIDE * 7)
    assert ring.read() == []
    assert ring.consumer == STRIDE * 7


def test_records_come_in_the_order_of_their_reservation() -> None:
    ring = Ring()
    for number in range(10):
        ring.reserve(number)
    assert ring.read() == list(range(10))
    assert ring.consumer == ring.producer


def test_a_record_that_wraps_around_the_end_is_whole() -> None:
    ring = Ring(start=RING_BYTES // STRIDE * STRIDE)
    assert ring.consumer % RING_BYTES + STRIDE > RING_BYTES
    ring.reserve(1)
    ring.reserve(2)
    assert ring.read() == [1, 2]


def test_nothing_from_a_busy_record_on_is_read_until_it_is_submitted() -> None:
    ring = Ring()
    ring.reserve(1)
    ring.reserve(2, BUSY_BIT)
    ring.reserve(3)
    assert ring.read() == [1]
    assert ring.consumer == STRIDE
    ring.producer = STRIDE
    ring.reserve(2)
    ring.producer += STRIDE
    assert ring.read() == [2, 3]


def test_a_discarded_record_is_skipped_and_its_room_freed() -> None:
    ring = Ring()
    ring.reserve(1)
    ring.reserve(2, DISCARD_BIT)
    ring.reserve(3)
    assert ring.read() == [1, 3]
    assert ring.consumer == 3 * STRIDE


def test_only_discarded_records_give_none_and_free_their_room() -> None:
    ring = Ring()
    ring.reserve(1, DISCARD_BIT)
    assert ring.read() == []
    assert ring.consumer == STRIDE


@pytest.mark.parametrize("count", [1, 2])
def test_what_was_read_is_a_copy(count: int) -> None:
    ring = Ring()
    for number in range(count):
        ring.reserve(number)
    mapped = np.concatenate([ring.memory, ring.memory])
    records, _ = read_records(mapped, 0, ring.producer, RECORD)
    assert not np.shares_memory(records, mapped)


def test_records_of_another_length_are_an_error_and_not_garbage() -> None:
    ring = Ring()
    ring.reserve(1, length=RECORD.itemsize + 8)
    with pytest.raises(ValueError, match="records of 40 bytes, not 32"):
        ring.read()


@settings(max_examples=200, deadline=None)
@given(
    start=st.integers(0, 10 * RING_BYTES // STRIDE),
    rounds=st.lists(st.lists(st.sampled_from(["submit", "discard", "busy"]), max_size=40), max_size=6),
)
def test_every_submitted_record_is_read_exactly_once_whatever_the_order(start: int, rounds: list[list[str]]) -> None:
    ring = Ring(start * STRIDE)
    slots: list[str] = []
    read: list[int] = []
    for kinds in rounds:
        for kind in kinds[: (RING_BYTES - (ring.producer - ring.consumer)) // STRIDE]:
            flags = {"submit": 0, "discard": DISCARD_BIT, "busy": BUSY_BIT}[kind]
            ring.reserve(len(slots), flags)
            slots.append(kind)
        read += ring.read()
        first = (ring.consumer - start * STRIDE) // STRIDE
        resume, ring.producer = ring.producer, ring.consumer
        for number in range(first, len(slots)):  # every writer gets to its submit
            slots[number] = slots[number].replace("busy", "submit")
            ring.reserve(number, DISCARD_BIT if slots[number] == "discard" else 0)
        assert ring.producer == resume
    read += ring.read()
    assert read == [number for number, kind in enumerate(slots) if kind == "submit"]
