"""Records of the kernel -> the columns of the wire: times to the wall clock, the kernel's units to microseconds.

Arrays in, arrays out; nothing is looked up here. Names of columns are those of the Avro record Flow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.flow_batch import FlowColumns
from sidecar.close_reason import Endings
from sidecar.flow_id import flow_ids
from sidecar.probe.abi import UNKNOWN, Flag

INT32_MAX = 2**31 - 1
MICROSECONDS = 1_000_000

MaskedInt32 = np.ma.MaskedArray[tuple[int, ...], np.dtype[np.int32]]
MaskedInt64 = np.ma.MaskedArray[tuple[int, ...], np.dtype[np.int64]]
Bools = NDArray[np.bool_]


def flow_columns(
    records: NDArray[Any],
    *,
    clock_offset_ns: int,
    boot_id: str,
    hz: int,
    network: NDArray[np.int32],
    process: MaskedInt32,
    workload: MaskedInt32,
    reasons: Endings,
) -> FlowColumns:
    """The columns of n records.

    records: (n,) of sidecar.probe.abi.FLOW_RECORD.
    clock_offset_ns: wall clock less CLOCK_BOOTTIME.
    hz: the kernel's CONFIG_HZ, jiffies per second.
    network, process, workload: (n,) indices into the lists of the batch's header; masked where nothing is named.
    reasons: of the same records.
    """
    flags = records["flags"]
    final = _has(flags, Flag.FINAL)
    never_sampled = records["srtt_eighths_us"] == 0
    rtt_min_us = records["rtt_min_us"]
    return {
        "start_time": _wall_us(records["start_ns"], clock_offset_ns),
        "end_time": _wall_us(records["end_ns"], clock_offset_ns),
        "opened_time": _wall_us_or_null(records["opened_ns"], clock_offset_ns),
        "flow_id": flow_ids(boot_id, records["cookie"], records["generation"]),
        "sequence": _int32(records["sequence"]),
        "final": final,
        "partial": _has(flags, Flag.PARTIAL),
        "role": records["role"],
        "local_address": records["local_address"],
        "remote_address": records["remote_address"],
        "local_port": records["local_port"],
        "remote_port": records["remote_port"],
        "network": network,
        "netns": _int64(records["netns"]),
        "mptcp": _has(flags, Flag.MPTCP),
        "pid": np.ma.MaskedArray(_int32(records["pid"]), records["pid"] == 0),
        "process": process,
        "owner_source": records["owner_source"],
        "workload": workload,
        "bytes_sent": _int64(records["bytes_sent"]),
        "bytes_received": _int64(records["bytes_received"]),
        "bytes_unread": np.ma.MaskedArray(_int64(records["bytes_unread"]), ~final),
        "bytes_unacked": np.ma.MaskedArray(_int64(records["bytes_unacked"]), ~final),
        "packets_sent": records["packets_sent"],
        "packets_received": records["packets_received"],
        "retransmits": _int32(records["retransmits"]),
        "bytes_retransmitted": _int64(records["bytes_retransmitted"]),
        "last_retransmit_time": _wall_us_or_null(records["last_retransmit_ns"], clock_offset_ns),
        "syn_retransmits": _int32(records["syn_retransmits"]),
        "connect_us": np.ma.MaskedArray(_int32(records["connect_us"]), records["connect_us"] == UNKNOWN),
        # include/linux/tcp.h: "smoothed round trip time << 3 in usecs"; "medium deviation", << 2 (tcp_rtt_estimator).
        "rtt_us": np.ma.MaskedArray(_int32(records["srtt_eighths_us"] >> np.uint32(3)), never_sampled),
        # No sample is ~0 (tcp_init_sock); 0 where the record has no tcp_sock (a half-open request).
        "rtt_min_us": np.ma.MaskedArray(_int32(rtt_min_us), (rtt_min_us == UNKNOWN) | (rtt_min_us == 0)),
        "rtt_var_us": np.ma.MaskedArray(_int32(records["mdev_quarters_us"] >> np.uint32(2)), never_sampled),
        "busy_us": _jiffies_us(records["busy_jiffies"], hz),
        "rwnd_limited_us": _jiffies_us(records["rwnd_limited_jiffies"], hz),
        "sndbuf_limited_us": _jiffies_us(records["sndbuf_limited_jiffies"], hz),
        "reordered": np.ma.MaskedArray(_int32(records["reordered"])),
        "dsack_dups": np.ma.MaskedArray(_int32(records["dsack_dups"])),
        "timeouts": np.ma.MaskedArray(_int32(records["timeouts"]), ~_has(flags, Flag.HAS_TIMEOUTS)),
        "state": records["state"],
        "close_reason": reasons.close_reason,
        "close_detail": reasons.close_detail,
        "errno": reasons.errno,
        "peer_fin": reasons.peer_fin,
        "never_accepted": reasons.never_accepted,
    }


def _has(flags: NDArray[np.uint32], flag: Flag) -> Bools:
    return np.asarray(flags & np.uint32(flag) != 0)


def _wall_us(boottime_ns: NDArray[np.uint64], clock_offset_ns: int) -> NDArray[np.int64]:
    """Microseconds UTC, rounded down."""
    return (_int64(boottime_ns) + clock_offset_ns) // 1_000


def _wall_us_or_null(boottime_ns: NDArray[np.uint64], clock_offset_ns: int) -> MaskedInt64:
    """Microseconds UTC; masked where the kernel says 0."""
    return np.ma.MaskedArray(_wall_us(boottime_ns, clock_offset_ns), boottime_ns == 0)


def _jiffies_us(jiffies: NDArray[np.uint64], hz: int) -> NDArray[np.int64]:
    return _int64(jiffies) * MICROSECONDS // hz


def _int64(numbers: NDArray[np.uint64]) -> NDArray[np.int64]:
    return numbers.astype(np.int64)


def _int32(numbers: NDArray[np.uint32]) -> NDArray[np.int32]:
    """The kernel's u32 in the lake's int32: what does not fit is the greatest that does."""
    return np.minimum(numbers, INT32_MAX).astype(np.int32)
