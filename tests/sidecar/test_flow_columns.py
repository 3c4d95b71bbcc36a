"""From the kernel's records to the columns of the wire, with numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from schemas.flow_batch import BatchHeader, encode_flow_batch
from schemas.wire import CURRENT
from sidecar.close_reason import Endings, endings
from sidecar.flow_columns import flow_columns
from sidecar.flow_id import flow_ids, splitmix64
from sidecar.probe.abi import FLOW_RECORD, UNKNOWN, Flag, Owner, Role

OFFSET_NS = 1_763_000_000_000_000_000
HEADER = BatchHeader(
    "id", "host", "boot", "run", 0, 0, 0, None, None, None, None, 0, {}, 0, ["default"], [], [], [], []
)  # fmt: skip


def records(n: int = 1, **values: Any) -> np.ndarray:
    """n records of zeros, but for the values given."""
    made = np.zeros(n, FLOW_RECORD)
    made["state"] = 1
    for name, value in values.items():
        made[name] = value
    return made


def columns(made: np.ndarray, *, hz: int = 250, reasons: Endings | None = None) -> dict[str, np.ndarray]:
    nothing = np.ma.MaskedArray(np.zeros(len(made), np.int32), mask=True)
    return dict(
        flow_columns(
            made,
            clock_offset_ns=OFFSET_NS,
            boot_id="1b4e28ba-2fa1-11d2-883f-0016d3cca427",
            hz=hz,
            network=np.zeros(len(made), np.int32),
            process=nothing,
            workload=nothing,
            reasons=reasons or endings(made),
        )
    )


def one(name: str, **values: Any) -> Any:
    """The column's value for a record with these values."""
    return columns(records(1, **values))[name].tolist()[0]


def test_the_columns_are_those_of_the_wire() -> None:
    assert list(columns(records())) == [field.name for field in CURRENT.flow_fields]


def test_times_move_to_the_wall_clock_in_microseconds() -> None:
    assert one("start_time", start_ns=1_999) == OFFSET_NS // 1_000 + 1
    assert one("end_time", end_ns=5_000_000_000) == OFFSET_NS // 1_000 + 5_000_000
    assert one("opened_time", opened_ns=7_000) == OFFSET_NS // 1_000 + 7
    assert one("last_retransmit_time", last_retransmit_ns=8_000) == OFFSET_NS // 1_000 + 8


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("opened_time", {"opened_ns": 0}),
        ("last_retransmit_time", {"last_retransmit_ns": 0}),
        ("pid", {"pid": 0}),
        ("connect_us", {"connect_us": UNKNOWN}),
        ("rtt_us", {"srtt_eighths_us": 0}),
        ("rtt_var_us", {"srtt_eighths_us": 0, "mdev_quarters_us": 40}),
        ("rtt_min_us", {"rtt_min_us": UNKNOWN}),
        ("rtt_min_us", {"rtt_min_us": 0}),
        ("timeouts", {"timeouts": 3}),
        ("bytes_unread", {"bytes_unread": 3}),
        ("bytes_unacked", {"bytes_unacked": 3}),
    ],
)
def test_what_the_kernel_does_not_know_is_null(name: str, values: dict[str, int]) -> None:
    assert one(name, **values) is None


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("pid", {"pid": 4_194_303}, 4_194_303),
        ("connect_us", {"connect_us": 0}, 0),
        ("rtt_us", {"srtt_eighths_us": 8 * 1_234 + 7}, 1_234),
        ("rtt_var_us", {"srtt_eighths_us": 8, "mdev_quarters_us": 4 * 321 + 3}, 321),
        ("rtt_min_us", {"rtt_min_us": 17}, 17),
        ("timeouts", {"timeouts": 3, "flags": Flag.HAS_TIMEOUTS}, 3),
        ("timeouts", {"timeouts": 0, "flags": Flag.HAS_TIMEOUTS}, 0),
        ("bytes_unread", {"bytes_unread": 3, "flags": Flag.FINAL}, 3),
        ("bytes_unacked", {"bytes_unacked": 2**40, "flags": Flag.FINAL}, 2**40),
        ("final", {"flags": Flag.FINAL}, True),
        ("final", {"flags": Flag.PARTIAL}, False),
        ("partial", {"flags": Flag.PARTIAL | Flag.FINAL}, True),
        ("mptcp", {"flags": Flag.MPTCP}, True),
        ("netns", {"netns": 2**64 - 1}, -1),
        ("local_port", {"local_port": 65_535}, 65_535),
        ("packets_sent", {"packets_sent": 2**32 - 1}, 2**32 - 1),
        ("retransmits", {"retransmits": 2**32 - 1}, 2**31 - 1),
        ("bytes_retransmitted", {"bytes_retransmitted": 2**50}, 2**50),
    ],
)
def test_a_value_of_the_kernel_in_the_unit_of_the_wire(name: str, values: dict[str, int], expected: object) -> None:
    assert one(name, **values) == expected


@pytest.mark.parametrize(("hz", "busy_us"), [(100, 70_000), (250, 28_000), (300, 23_333), (1_000, 7_000)])
def test_jiffies_are_microseconds_by_the_kernels_own_hz(hz: int, busy_us: int) -> None:
    made = records(1, busy_jiffies=7, rwnd_limited_jiffies=7, sndbuf_limited_jiffies=7)
    for name in ("busy_us", "rwnd_limited_us", "sndbuf_limited_us"):
        assert columns(made, hz=hz)[name].tolist() == [busy_us]


def test_codes_of_the_kernel_are_codes_of_the_wire() -> None:
    symbols = {field.name: field.symbols for field in CURRENT.flow_fields}
    assert symbols["role"] == tuple(role.name.lower() for role in Role)
    assert symbols["owner_source"] == tuple(owner.name.lower() for owner in Owner)
    made = records(1, role=Role.SERVER, owner_source=Owner.CLOSE, state=11)
    assert [int(columns(made)[name][0]) for name in ("role", "owner_source", "state")] == [2, 5, 11]


def test_indices_and_reasons_are_handed_on() -> None:
    made = records(2, flags=Flag.FINAL | Flag.ESTABLISHED, error=104, state=1)
    ended = endings(made)
    got = columns(made, reasons=ended)
    for name in ("close_reason", "close_detail", "errno", "peer_fin", "never_accepted"):
        assert got[name] is getattr(ended, name)


def test_whatever_the_kernel_writes_can_be_encoded() -> None:
    noise = np.frombuffer(np.random.default_rng(3).bytes(FLOW_RECORD.itemsize * 500), FLOW_RECORD).copy()
    noise["state"] %= 13
    noise["role"] %= 3
    noise["owner_source"] %= 6
    assert encode_flow_batch(HEADER, columns(noise))


def test_the_flow_id_is_mixed_by_splitmix64() -> None:
    """The first outputs for the seed 0 that the authors' C code gives (prng.di.unimi.it/splitmix64.c)."""
    states = np.uint64(0x9E3779B97F4A7C15) * np.arange(1, 4, dtype=np.uint64)
    outputs = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert splitmix64(states).tolist() == outputs


def test_no_records_are_columns_without_rows() -> None:
    assert {len(column) for column in columns(records(0)).values()} == {0}


def test_a_connection_has_one_flow_id_in_every_run_and_no_other_has_it() -> None:
    cookie = np.repeat(np.arange(1, 20_001, dtype=np.uint64), 3)
    generation = np.tile(np.arange(3, dtype=np.uint32), 20_000)
    ids = flow_ids("boot-1", cookie, generation)
    assert ids.dtype == np.int64
    assert np.array_equal(ids, flow_ids("boot-1", cookie, generation))
    both_boots = np.concatenate([ids, flow_ids("boot-2", cookie, generation)])
    assert len(np.unique(both_boots)) == len(both_boots)


def test_a_flow_id_never_changes_between_versions() -> None:
    ids = flow_ids("1b4e28ba", np.array([1, 2**63], np.uint64), np.array([0, 7], np.uint32))
    assert ids.tolist() == [-4585495744985994937, -7255624756298123355]
