"""Why a connection ended, from the facts in its final record: one decision table, read from top to bottom.

The first row that holds decides. Each row, and how it was produced on a real kernel, is in docs/close-reasons.md;
tests/kernel/test_endings.py makes every one of them. A row about orderly endings stands above the rows about errors,
since `sk_err` may be left over from an ICMP message that the application never asked about.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sidecar.probe.abi import FLOW_RECORD, Flag, Role, TcpState

Records = NDArray[np.void]
Condition = NDArray[np.bool_]
Codes = NDArray[np.uint8]
MaskedBool = np.ma.MaskedArray[tuple[int, ...], np.dtype[np.bool_]]
MaskedInt32 = np.ma.MaskedArray[tuple[int, ...], np.dtype[np.int32]]


class CloseReason(IntEnum):
    """Codes of the enum `CloseReason` of FlowBatch.avsc, in its order."""

    OPEN = 0
    CLOSED_LOCAL = 1
    CLOSED_REMOTE = 2
    CLOSED_BOTH = 3
    RESET_LOCAL = 4
    RESET_REMOTE = 5
    REFUSED = 6
    CONNECT_TIMEOUT = 7
    UNREACHABLE = 8
    ABANDONED = 9
    NOT_SENT = 10
    TIMED_OUT = 11
    HALF_OPEN = 12
    ABORTED = 13
    UNKNOWN = 14


class CloseDetail(IntEnum):
    """Codes of the enum `CloseDetail` of FlowBatch.avsc, in its order."""

    NONE = 0
    RESET = 1
    ICMP = 2
    RETRANSMISSION = 3
    KEEPALIVE = 4
    USER_TIMEOUT = 5
    ZERO_WINDOW = 6
    UNREAD_DATA = 7
    LINGER = 8
    NEVER_ACCEPTED = 9
    HOST_UNREACHABLE = 10
    NET_UNREACHABLE = 11
    PROHIBITED = 12
    ORPHAN = 13
    NO_PORT = 14
    FIN_UNACKED = 15
    OTHER = 16


# What ICMP and ICMPv6 make of an unreachable peer: icmp_err_convert in net/ipv4/icmp.c, tab_unreach and
# icmpv6_err_convert in net/ipv6/icmp.c. ECONNREFUSED (port unreachable) is not here: that is a refusal.
_HOST_UNREACHABLE = (errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENONET)
_NET_UNREACHABLE = (errno.ENETUNREACH,)
_PROHIBITED = (errno.EACCES,)  # ICMPv6 only; over IPv4 "administratively prohibited" is EHOSTUNREACH
_OTHER_UNREACHABLE = (errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EPROTO)
_UNREACHABLE = _HOST_UNREACHABLE + _NET_UNREACHABLE + _PROHIBITED + _OTHER_UNREACHABLE


@dataclass(frozen=True, slots=True)
class Endings:
    """How each record's connection ended; every array has the records' length.

    close_reason, close_detail: codes of CloseReason and CloseDetail.
    errno: sk_err at CLOSE; masked where there was none, and where the record is not final.
    peer_fin: whether the peer's FIN came; masked unless final and once established.
    never_accepted: whether it died in the accept queue; masked unless the final record of a server's connection.
    """

    close_reason: Codes
    close_detail: Codes
    errno: MaskedInt32
    peer_fin: MaskedBool
    never_accepted: MaskedBool


def endings(records: Records) -> Endings:
    """Decide why each connection ended.

    records: shape (n,), dtype sidecar.probe.abi.FLOW_RECORD; interim records get the reason `open`.
    """
    # Thousands of records end in a few ways, which are the same in every batch: the table is read once for each.
    keys, which = np.unique(_evidence(records), return_inverse=True)
    rows = np.array([_decided(key) for key in keys.tolist()], _DECISION)[which]
    return Endings(
        close_reason=rows["close_reason"],
        close_detail=rows["close_detail"],
        errno=np.ma.MaskedArray(rows["errno"], mask=rows["no_errno"]),
        peer_fin=np.ma.MaskedArray(rows["peer_fin"], mask=rows["no_peer_fin"]),
        never_accepted=np.ma.MaskedArray(rows["never_accepted"], mask=rows["no_never_accepted"]),
    )


# One row of Endings, its masks beside the values.
_DECISION = np.dtype(
    [
        ("close_reason", "u1"), ("close_detail", "u1"), ("errno", "i4"), ("no_errno", "?"),
        ("peer_fin", "?"), ("no_peer_fin", "?"), ("never_accepted", "?"), ("no_never_accepted", "?"),
    ]
)  # fmt: skip


@lru_cache(maxsize=4096)  # ways to end that were seen; a busy host has some dozens
def _decided(key: int) -> tuple[int, int, int, bool, bool, bool, bool, bool]:
    """The row of _DECISION for one value of _evidence."""
    record = np.zeros(1, FLOW_RECORD)
    record["flags"] = key & 0xFFFFFFFF
    record["state"] = key >> 32 & 0xF
    record["role"] = key >> 36 & 0xF
    record["error"] = key >> 40 & 0xFFF
    record["segs_out"] = not key >> 52 & 1
    record["bytes_unread"] = key >> 53 & 1
    record["bytes_unacked"] = not key >> 54 & 1
    record["local_port"] = not key >> 55 & 1
    decided = _decide(record)
    masked = decided.errno, decided.peer_fin, decided.never_accepted
    errno_, peer_fin, never_accepted = (array.data[0] for array in masked)
    no_errno, no_peer_fin, no_never_accepted = (bool(np.ma.getmaskarray(array)[0]) for array in masked)
    return (
        int(decided.close_reason[0]), int(decided.close_detail[0]), int(errno_), no_errno,
        bool(peer_fin), no_peer_fin, bool(never_accepted), no_never_accepted,
    )  # fmt: skip


def _evidence(records: Records) -> NDArray[np.uint64]:
    """All that the table looks at, as one number per record, shape (n,)."""
    key = records["flags"].astype(np.uint64)
    key |= records["state"].astype(np.uint64) << np.uint64(32)  # 13 states
    key |= records["role"].astype(np.uint64) << np.uint64(36)
    key |= (records["error"].astype(np.uint64) & np.uint64(0xFFF)) << np.uint64(40)  # MAX_ERRNO, include/linux/err.h
    for bit, fact in enumerate((*_left(records), records["local_port"] == 0), start=52):
        key |= fact.astype(np.uint64) << np.uint64(bit)
    return key


def _left(records: Records) -> tuple[Condition, Condition, Condition]:
    """Whether nothing left the host; whether something was left unread; whether all that was sent was acknowledged."""
    return records["segs_out"] == 0, records["bytes_unread"] > 0, records["bytes_unacked"] == 0


def _decide(records: Records) -> Endings:
    """The decision table, read for each record."""
    flags, state, error = records["flags"], records["state"], records["error"]

    def flag(bit: Flag) -> Condition:
        return np.asarray(flags & np.uint32(bit) != 0)

    def among(*states: TcpState) -> Condition:
        return np.isin(state, states)

    final = flag(Flag.FINAL)
    half_open_request = flag(Flag.HALF_OPEN)
    established = flag(Flag.ESTABLISHED)
    server = records["role"] == Role.SERVER
    sock_dead = flag(Flag.SOCK_DEAD)
    peer_fin = flag(Flag.PEER_FIN)

    no_error = error == 0
    timed_out = error == errno.ETIMEDOUT
    unreachable = np.isin(error, _UNREACHABLE)
    reset = np.isin(error, (errno.ECONNRESET, errno.EPIPE))  # EPIPE: the reset came in CLOSE_WAIT, tcp_reset()

    opening = among(TcpState.SYN_SENT, TcpState.SYN_RECV) & ~established
    nothing_left, unread, all_acknowledged = _left(records)

    # tcp_close() reads nothing more and orphans the socket: SOCK_DEAD. shutdown(SHUT_WR) does not.
    local_first = among(TcpState.FIN_WAIT1, TcpState.FIN_WAIT2)
    both_fins = among(TcpState.LAST_ACK, TcpState.CLOSING)
    # No process ever had a descriptor of it; subflows of MPTCP never have one of their own.
    in_accept_queue = server & flag(Flag.NO_SOCKET) & ~sock_dead & ~flag(Flag.MPTCP)

    local_complete = (state == TcpState.FIN_WAIT2) & (sock_dead | flag(Flag.SOCK_DONE))
    last_complete = both_fins & flag(Flag.FIN_ACKED)
    fin_in_vain = both_fins & (timed_out | unreachable) & all_acknowledged
    fin_answered_by_reset = both_fins & reset & all_acknowledged
    dead_answered_by_reset = local_first & sock_dead & reset & all_acknowledged
    killed_as_orphan = sock_dead & no_error & ~among(TcpState.FIN_WAIT2) & ~last_complete

    last_reason = np.where(state == TcpState.CLOSING, CloseReason.CLOSED_BOTH, CloseReason.CLOSED_REMOTE)
    handshake_detail = np.where(flag(Flag.RST_RECEIVED), CloseDetail.RESET, CloseDetail.ICMP)
    unreachable_detail = np.select(
        [np.isin(error, _HOST_UNREACHABLE), np.isin(error, _NET_UNREACHABLE), np.isin(error, _PROHIBITED)],
        [CloseDetail.HOST_UNREACHABLE, CloseDetail.NET_UNREACHABLE, CloseDetail.PROHIBITED],
        CloseDetail.OTHER,
    )
    no_port_detail = np.where(records["local_port"] == 0, CloseDetail.NO_PORT, CloseDetail.OTHER)
    timeout_detail = np.select(
        [flag(Flag.USER_TIMEOUT), flag(Flag.ZERO_WINDOW), ~all_acknowledged | sock_dead],
        [CloseDetail.USER_TIMEOUT, CloseDetail.ZERO_WINDOW, CloseDetail.RETRANSMISSION],
        CloseDetail.KEEPALIVE,
    )

    reasons, details, table = CloseReason, CloseDetail, _Table(len(records))
    # fmt: off
    #         condition                                      reason                   detail
    table.row(~final,                                        reasons.OPEN,            details.NONE)
    table.row(half_open_request,                             reasons.HALF_OPEN,       details.NONE)
    table.row(error == errno.ECONNABORTED,                   reasons.ABORTED,         details.NONE)
    # It never became a connection.
    table.row(opening & (error == errno.ECONNREFUSED),       reasons.REFUSED,         handshake_detail)
    table.row(opening & server & timed_out,                  reasons.HALF_OPEN,       details.NONE)
    table.row(opening & timed_out,                           reasons.CONNECT_TIMEOUT, details.NONE)
    table.row(opening & unreachable,                         reasons.UNREACHABLE,     unreachable_detail)
    table.row(opening & server & reset,                      reasons.RESET_REMOTE,    details.RESET)
    table.row(opening & reset,                               reasons.REFUSED,         details.RESET)
    table.row(opening & server & in_accept_queue,            reasons.RESET_LOCAL,     details.NEVER_ACCEPTED)
    table.row(opening & no_error & nothing_left,             reasons.NOT_SENT,        no_port_detail)
    table.row(opening & no_error,                            reasons.ABANDONED,       details.NONE)
    # It ended in order: every FIN that was sent is accounted for.
    table.row(local_complete,                                reasons.CLOSED_LOCAL,    details.NONE)
    table.row(last_complete,                                 last_reason,             details.NONE)
    table.row(fin_in_vain,                                   last_reason,             details.FIN_UNACKED)
    table.row(fin_answered_by_reset,                         last_reason,             details.RESET)
    table.row(dead_answered_by_reset,                        reasons.CLOSED_LOCAL,    details.RESET)
    # It broke.
    table.row(timed_out | unreachable,                       reasons.TIMED_OUT,       timeout_detail)
    table.row(reset,                                         reasons.RESET_REMOTE,    details.RESET)
    # This end broke it.
    table.row(in_accept_queue,                               reasons.RESET_LOCAL,     details.NEVER_ACCEPTED)
    table.row(killed_as_orphan,                              reasons.RESET_LOCAL,     details.ORPHAN)
    table.row(unread,                                        reasons.RESET_LOCAL,     details.UNREAD_DATA)
    table.row(both_fins,                                     last_reason,             details.LINGER)
    table.row(established,                                   reasons.RESET_LOCAL,     details.LINGER)
    # fmt: on
    close_reason, close_detail = table.decide(CloseReason.UNKNOWN, CloseDetail.NONE)

    return Endings(
        close_reason=close_reason,
        close_detail=close_detail,
        errno=np.ma.MaskedArray(error.astype(np.int32), mask=~final | no_error),
        peer_fin=np.ma.MaskedArray(peer_fin, mask=~final | ~established),
        never_accepted=np.ma.MaskedArray(in_accept_queue, mask=~final | ~server | half_open_request | flag(Flag.MPTCP)),
    )


class _Table:
    """Rows of (condition, reason, detail) over n records; the first that holds decides."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._conditions: list[Condition] = []
        self._reasons: list[Codes] = []
        self._details: list[Codes] = []

    def row(self, condition: Condition, reason: Codes | CloseReason, detail: Codes | CloseDetail) -> None:
        self._conditions.append(condition)
        self._reasons.append(self._codes(reason))
        self._details.append(self._codes(detail))

    def decide(self, reason: CloseReason, detail: CloseDetail) -> tuple[Codes, Codes]:
        return (
            np.select(self._conditions, self._reasons, np.uint8(reason)),
            np.select(self._conditions, self._details, np.uint8(detail)),
        )

    def _codes(self, codes: NDArray[np.integer] | int) -> Codes:
        return np.broadcast_to(np.asarray(codes, np.uint8), self._length)
