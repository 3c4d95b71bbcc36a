"""The records of bpf/flowlake.h as numpy sees them. tests/sidecar/test_abi.py compiles the header and compares.

Units are in the names; times are nanoseconds of CLOCK_BOOTTIME. Addresses are 16 bytes, IPv4 mapped into IPv6.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum, IntFlag
from typing import Final

import numpy as np
from numpy.typing import NDArray

COMM_LEN: Final = 16
ADDR_LEN: Final = 16
PATH_LEN: Final = 320
UNKNOWN: Final = 0xFFFFFFFF
"""`connect_us` and `rtt_min_us` without a sample; the generation of a half-open handshake."""


class Owner(IntEnum):
    """enum flowlake_owner: how the owner of a socket is known."""

    UNKNOWN = 0
    LISTENER = 1
    ITERATOR = 2
    CONNECT = 3
    READ = 4
    CLOSE = 5


class Role(IntEnum):
    """enum flowlake_role: what the local end is."""

    UNKNOWN = 0
    CLIENT = 1
    SERVER = 2


class Flag(IntFlag):
    """enum flowlake_flag: facts about one record."""

    FINAL = 1 << 0
    PARTIAL = 1 << 1
    ESTABLISHED = 1 << 2
    PEER_FIN = 1 << 3
    FIN_SENT = 1 << 4
    FIN_ACKED = 1 << 5
    SOCK_DONE = 1 << 6
    SOCK_DEAD = 1 << 7
    NO_SOCKET = 1 << 8
    RST_RECEIVED = 1 << 9
    MPTCP = 1 << 10
    HALF_OPEN = 1 << 11
    USER_TIMEOUT = 1 << 12
    KEEPALIVE = 1 << 13
    IN_PROCESS = 1 << 14
    HAS_TIMEOUTS = 1 << 15
    ACCEPTED = 1 << 16
    ZERO_WINDOW = 1 << 17


class Counter(IntEnum):
    """enum flowlake_counter: indices into `struct flowlake_counters`."""

    CAPTURED = 0
    LOST_FINAL = 1
    LOST_HALF_OPEN = 2
    LOST_STORAGE = 3
    LOST_CGROUP = 4
    DELAYED_WALK = 5
    HALF_OPEN = 6
    BEGUN = 7
    ENDED = 8
    WALKED = 9
    MAX = 10


class TcpState(IntEnum):
    """include/net/tcp_states.h, as `flow_record.state` has it."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11
    NEW_SYN_RECV = 12


FLOW_RECORD: Final = np.dtype(
    [
        ("start_ns", "<u8"),
        ("end_ns", "<u8"),
        ("opened_ns", "<u8"),
        ("last_retransmit_ns", "<u8"),
        ("cookie", "<u8"),
        ("netns", "<u8"),
        ("cgroup", "<u8"),
        ("cgroup_v1", "<u8"),
        ("bytes_sent", "<u8"),
        ("bytes_received", "<u8"),
        ("bytes_retransmitted", "<u8"),
        ("bytes_unread", "<u8"),
        ("bytes_unacked", "<u8"),
        ("busy_jiffies", "<u8"),
        ("rwnd_limited_jiffies", "<u8"),
        ("sndbuf_limited_jiffies", "<u8"),
        ("generation", "<u4"),
        ("sequence", "<u4"),
        ("packets_sent", "<u4"),
        ("packets_received", "<u4"),
        ("retransmits", "<u4"),
        ("syn_retransmits", "<u4"),
        ("segs_out", "<u4"),
        ("connect_us", "<u4"),
        ("srtt_eighths_us", "<u4"),
        ("rtt_min_us", "<u4"),
        ("mdev_quarters_us", "<u4"),
        ("reordered", "<u4"),
        ("dsack_dups", "<u4"),
        ("timeouts", "<u4"),
        ("pid", "<u4"),
        ("flags", "<u4"),
        ("error", "<i4"),
        ("soft_error", "<i4"),
        ("local_port", "<u2"),
        ("remote_port", "<u2"),
        ("state", "u1"),
        ("role", "u1"),
        ("owner_source", "u1"),
        ("pad", "u1"),
        ("local_address", "u1", (ADDR_LEN,)),
        ("remote_address", "u1", (ADDR_LEN,)),
        ("comm", f"S{COMM_LEN}"),
    ]
)
"""struct flow_record: one connection over one interval."""

LISTENER_RECORD: Final = np.dtype(
    [
        ("cookie", "<u8"),
        ("netns", "<u8"),
        ("cgroup", "<u8"),
        ("cgroup_v1", "<u8"),
        ("pid", "<u4"),
        ("accept_queue", "<u4"),
        ("accept_queue_max", "<u4"),
        ("drops", "<u4"),
        ("port", "<u2"),
        ("owner_source", "u1"),
        ("pad", "u1", (5,)),
        ("address", "u1", (ADDR_LEN,)),
        ("comm", f"S{COMM_LEN}"),
    ]
)
"""struct listener_record: a listening socket as it is now."""

CGROUP_RECORD: Final = np.dtype([("id", "<u8"), ("hierarchy", "<u4"), ("pad", "<u4"), ("path", f"S{PATH_LEN}")])
"""struct cgroup_record: a cgroup at the moment of its creation; hierarchy 0 is cgroup v2."""

COUNTERS: Final = np.dtype([("value", "<u8", (Counter.MAX,))])
"""struct flowlake_counters, of one CPU."""

HALF_OPEN: Final = np.dtype([("overdue_ns", "<u8"), ("record", FLOW_RECORD)])
"""struct half_open: a handshake whose SYN-ACK was repeated."""

SETTINGS: Final = np.dtype([("final_ring_bytes", "<u8"), ("jiffies_per_second", "<u4"), ("cgroup_v1_subsys", "<i4")])
"""struct flowlake_settings: what user space decides before the programs are loaded."""


def joined(parts: Sequence[NDArray[np.void]], record: np.dtype[np.void]) -> NDArray[np.void]:
    """All records of these arrays in one, shape (n,).

    As plain bytes, in which numpy copies a record at once; a structured one it would copy field by field.
    """
    raw = np.dtype(f"V{record.itemsize}")
    return np.concatenate([np.empty(0, raw), *(part.view(raw) for part in parts)]).view(record)
