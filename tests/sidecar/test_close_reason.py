"""The decision table of close reasons, row by row, on records made by hand; real kernels are in tests/kernel."""

from __future__ import annotations

import errno
import json
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.failures import BROKE, GIVEN_UP, NEVER_CONNECTED, failed, never_connected
from sidecar.close_reason import CloseDetail, CloseReason, _decide, endings
from sidecar.probe.abi import FLOW_RECORD, UNKNOWN, Flag, Role, TcpState

FINAL, EST = Flag.FINAL, Flag.FINAL | Flag.ESTABLISHED
ORDERLY = EST | Flag.FIN_SENT | Flag.FIN_ACKED | Flag.PEER_FIN
DEAD = Flag.SOCK_DEAD | Flag.NO_SOCKET
PENDING = EST | Flag.NO_SOCKET
R, D, S = CloseReason, CloseDetail, TcpState


def record(flags: Flag, state: TcpState = S.ESTABLISHED, error: int = 0, **fields: int) -> np.ndarray:
    """One record, shape (1,); a client's that has sent segments and had its port unless said otherwise."""
    made = np.zeros(1, FLOW_RECORD)
    values = {"role": Role.CLIENT, "segs_out": 1, "local_port": 40_000, "generation": 0} | fields
    for name, value in {"flags": flags, "state": state, "error": error, **values}.items():
        made[name] = value
    return made


ROWS = {
    "interim": (record(Flag.ESTABLISHED), R.OPEN, D.NONE),
    "request never completed": (
        record(FINAL | Flag.HALF_OPEN, S.NEW_SYN_RECV, generation=UNKNOWN), R.HALF_OPEN, D.NONE),
    "RST to a SYN": (record(FINAL | Flag.RST_RECEIVED, S.SYN_SENT, errno.ECONNREFUSED), R.REFUSED, D.RESET),
    "ICMP port unreachable": (record(FINAL, S.SYN_SENT, errno.ECONNREFUSED), R.REFUSED, D.ICMP),
    "RST during a simultaneous open": (record(FINAL, S.SYN_RECV, errno.ECONNRESET), R.REFUSED, D.RESET),
    "no answer to a SYN": (record(FINAL, S.SYN_SENT, errno.ETIMEDOUT), R.CONNECT_TIMEOUT, D.NONE),
    "host unreachable": (record(FINAL, S.SYN_SENT, errno.EHOSTUNREACH), R.UNREACHABLE, D.HOST_UNREACHABLE),
    "host unknown": (record(FINAL, S.SYN_SENT, errno.EHOSTDOWN), R.UNREACHABLE, D.HOST_UNREACHABLE),
    "net unreachable": (record(FINAL, S.SYN_SENT, errno.ENETUNREACH), R.UNREACHABLE, D.NET_UNREACHABLE),
    "prohibited over IPv6": (record(FINAL, S.SYN_SENT, errno.EACCES), R.UNREACHABLE, D.PROHIBITED),
    "protocol unreachable": (record(FINAL, S.SYN_SENT, errno.ENOPROTOOPT), R.UNREACHABLE, D.OTHER),
    "no local port": (record(FINAL, S.SYN_SENT, segs_out=0, local_port=0), R.NOT_SENT, D.NO_PORT),
    "no memory for a SYN": (record(FINAL, S.SYN_SENT, segs_out=0), R.NOT_SENT, D.OTHER),
    "closed while connecting": (record(FINAL, S.SYN_SENT), R.ABANDONED, D.NONE),
    "killed while connecting": (record(FINAL, S.SYN_SENT, errno.ECONNABORTED), R.ABORTED, D.NONE),
    "fast open, SYN-ACK unanswered": (
        record(FINAL, S.SYN_RECV, errno.ETIMEDOUT, role=Role.SERVER), R.HALF_OPEN, D.NONE),
    "fast open, reset": (record(FINAL, S.SYN_RECV, errno.ECONNRESET, role=Role.SERVER), R.RESET_REMOTE, D.RESET),
    "listener closed during the handshake": (
        record(FINAL | Flag.NO_SOCKET, S.SYN_RECV, role=Role.SERVER), R.RESET_LOCAL, D.NEVER_ACCEPTED),
    "our FIN first, theirs after": (record(ORDERLY | Flag.SOCK_DONE, S.FIN_WAIT2), R.CLOSED_LOCAL, D.NONE),
    "our FIN first, theirs never": (record(EST | DEAD, S.FIN_WAIT2), R.CLOSED_LOCAL, D.NONE),
    "their FIN first": (record(ORDERLY | DEAD, S.LAST_ACK), R.CLOSED_REMOTE, D.NONE),
    "FINs crossed": (record(ORDERLY, S.CLOSING), R.CLOSED_BOTH, D.NONE),
    "their FIN with our answer unread": (record(ORDERLY, S.LAST_ACK, bytes_unread=9), R.CLOSED_REMOTE, D.NONE),
    "our FIN, their answer unread": (
        record(ORDERLY | Flag.SOCK_DONE, S.FIN_WAIT2, bytes_unread=9), R.CLOSED_LOCAL, D.NONE),
    "in order, with an old ICMP error": (
        record(ORDERLY | DEAD, S.LAST_ACK, errno.EHOSTUNREACH), R.CLOSED_REMOTE, D.NONE),
    "last FIN unanswered": (record(EST | DEAD, S.LAST_ACK, errno.ETIMEDOUT), R.CLOSED_REMOTE, D.FIN_UNACKED),
    "crossed FIN unanswered": (record(EST | DEAD, S.CLOSING, errno.ETIMEDOUT), R.CLOSED_BOTH, D.FIN_UNACKED),
    "data before the last FIN unanswered": (
        record(EST | DEAD, S.LAST_ACK, errno.ETIMEDOUT, bytes_unacked=1), R.TIMED_OUT, D.RETRANSMISSION),
    "RST to the last FIN": (record(EST | DEAD, S.LAST_ACK, errno.ECONNRESET), R.CLOSED_REMOTE, D.RESET),
    "RST to data before the last FIN": (
        record(EST | DEAD, S.LAST_ACK, errno.ECONNRESET, bytes_unacked=1), R.RESET_REMOTE, D.RESET),
    "RST, or data, after a full close": (record(EST | DEAD, S.FIN_WAIT1, errno.ECONNRESET), R.CLOSED_LOCAL, D.RESET),
    "RST after a full close, data under way": (
        record(EST | DEAD, S.FIN_WAIT1, errno.ECONNRESET, bytes_unacked=1), R.RESET_REMOTE, D.RESET),
    "RST after shutdown": (record(EST, S.FIN_WAIT1, errno.ECONNRESET), R.RESET_REMOTE, D.RESET),
    "RST while waiting for their FIN": (record(EST, S.FIN_WAIT2, errno.ECONNRESET), R.RESET_REMOTE, D.RESET),
    "RST": (record(EST, S.ESTABLISHED, errno.ECONNRESET), R.RESET_REMOTE, D.RESET),
    "RST after their FIN": (record(EST, S.CLOSE_WAIT, errno.EPIPE), R.RESET_REMOTE, D.RESET),
    "RST in the accept queue": (
        record(PENDING, S.ESTABLISHED, errno.ECONNRESET, role=Role.SERVER), R.RESET_REMOTE, D.RESET),
    "data unanswered": (record(EST, error=errno.ETIMEDOUT, bytes_unacked=1), R.TIMED_OUT, D.RETRANSMISSION),
    "FIN unanswered": (record(EST | DEAD, S.FIN_WAIT1, errno.ETIMEDOUT), R.TIMED_OUT, D.RETRANSMISSION),
    "probes unanswered": (record(EST, error=errno.ETIMEDOUT), R.TIMED_OUT, D.KEEPALIVE),
    "window probes unanswered": (record(EST | Flag.ZERO_WINDOW, error=errno.ETIMEDOUT), R.TIMED_OUT, D.ZERO_WINDOW),
    "user timeout": (
        record(EST | Flag.USER_TIMEOUT, error=errno.ETIMEDOUT, bytes_unacked=1), R.TIMED_OUT, D.USER_TIMEOUT),
    "unreachable later": (record(EST, error=errno.EHOSTUNREACH, bytes_unacked=1), R.TIMED_OUT, D.RETRANSMISSION),
    "killed": (record(EST, error=errno.ECONNABORTED), R.ABORTED, D.NONE),
    "linger 0": (record(EST), R.RESET_LOCAL, D.LINGER),
    "linger 0 after their FIN": (record(EST, S.CLOSE_WAIT), R.RESET_LOCAL, D.LINGER),
    "linger 0 after shutdown": (record(EST, S.FIN_WAIT2), R.RESET_LOCAL, D.LINGER),
    "linger 0 after both FINs": (record(EST, S.LAST_ACK), R.CLOSED_REMOTE, D.LINGER),
    "unread data at close": (record(EST, bytes_unread=1), R.RESET_LOCAL, D.UNREAD_DATA),
    "unread data at close after shutdown": (record(EST, S.FIN_WAIT2, bytes_unread=1), R.RESET_LOCAL, D.UNREAD_DATA),
    "listener closed": (record(PENDING, role=Role.SERVER), R.RESET_LOCAL, D.NEVER_ACCEPTED),
    "listener closed, data waiting": (
        record(PENDING, S.CLOSE_WAIT, role=Role.SERVER, bytes_unread=5), R.RESET_LOCAL, D.NEVER_ACCEPTED),
    "orphan killed for memory": (record(EST | DEAD, S.FIN_WAIT1), R.RESET_LOCAL, D.ORPHAN),
    "a state that closes nothing": (record(FINAL, S.TIME_WAIT), R.UNKNOWN, D.NONE),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_the_row_has_its_reason(name: str) -> None:
    made, reason, detail = ROWS[name]
    ended = endings(made)
    assert (CloseReason(ended.close_reason[0]), CloseDetail(ended.close_detail[0])) == (reason, detail)


def test_many_records_are_decided_as_one_by_one() -> None:
    ended = endings(np.concatenate([made for made, _, _ in ROWS.values()]))
    assert ended.close_reason.dtype == ended.close_detail.dtype == np.uint8
    assert ended.close_reason.tolist() == [reason for _, reason, _ in ROWS.values()]
    assert ended.close_detail.tolist() == [detail for _, _, detail in ROWS.values()]


def test_no_records_are_no_endings() -> None:
    ended = endings(np.zeros(0, FLOW_RECORD))
    assert len(ended.close_reason) == len(ended.errno) == len(ended.peer_fin) == len(ended.never_accepted) == 0


def test_evidence_is_null_where_there_is_none() -> None:
    ended = endings(
        np.concatenate(
            [
                record(Flag.ESTABLISHED, error=errno.EHOSTUNREACH),  # not final
                record(FINAL, S.SYN_SENT, errno.ECONNREFUSED),  # never established
                record(ORDERLY | DEAD, S.LAST_ACK),  # a client
                record(PENDING, error=errno.ECONNRESET, role=Role.SERVER),
            ]
        )
    )
    assert ended.errno.tolist() == [None, errno.ECONNREFUSED, None, errno.ECONNRESET]
    assert ended.peer_fin.tolist() == [None, None, True, False]
    assert ended.never_accepted.tolist() == [None, None, None, True]


@given(
    flags=st.integers(0, 2 * max(Flag) - 1),
    state=st.integers(0, 255),
    error=st.sampled_from([0, *errno.errorcode, 4095]),
    role=st.sampled_from(list(Role)),
)
def test_open_is_said_of_every_record_that_is_not_final_and_of_no_other(
    flags: int, state: int, error: int, role: Role
) -> None:
    made = record(Flag(flags), S.ESTABLISHED, error, role=role)
    made["state"] = state
    assert (endings(made).close_reason[0] == CloseReason.OPEN) == (not flags & Flag.FINAL)


def _symbols(enum: str) -> list[str]:
    """The symbols of an enum wherever it stands in the wire schema."""
    found: list[str] = []

    def look(node: object) -> None:
        if isinstance(node, dict):
            if node.get("type") == "enum" and node.get("name") == enum:
                found.extend(node["symbols"])
            for value in node.values():
                look(value)
        elif isinstance(node, list):
            for value in node:
                look(value)

    look(json.loads((files("schemas") / "avro" / "FlowBatch.avsc").read_text()))
    return found


@pytest.mark.parametrize("codes", [CloseReason, CloseDetail])
def test_codes_are_those_of_the_wire_schema(codes: type[CloseReason] | type[CloseDetail]) -> None:
    assert [code.name.lower() for code in codes] == _symbols(codes.__name__)
    assert [code.value for code in codes] == list(range(len(codes)))


def test_failed_means_never_connected_or_broken() -> None:
    reasons = {reason.name.lower() for reason in CloseReason}
    assert reasons >= NEVER_CONNECTED | GIVEN_UP | BROKE
    assert {reason for reason in reasons if failed(reason, 0)} == NEVER_CONNECTED | BROKE
    assert {reason for reason in reasons if never_connected(reason, 0)} == NEVER_CONNECTED
    assert failed("abandoned", 1) and never_connected("abandoned", 1) and not failed("abandoned", 0)


def test_what_is_remembered_of_a_way_to_end_is_what_the_table_says() -> None:
    random = np.random.default_rng(1)
    records = np.zeros(2_000, FLOW_RECORD)
    records["flags"] = random.integers(0, 1 << 18, len(records))
    records["error"] = random.choice(
        [0, errno.ECONNRESET, errno.ETIMEDOUT, errno.ECONNREFUSED, errno.EHOSTUNREACH], 2_000
    )
    for name, most in (("state", 12), ("role", 2), ("segs_out", 9), ("bytes_unread", 1), ("bytes_unacked", 1)):
        records[name] = random.integers(0, most + 1, len(records))
    records["local_port"] = random.choice([0, 443], len(records))
    remembered, table = endings(records), _decide(records)
    for name in ("close_reason", "close_detail"):
        assert np.array_equal(getattr(remembered, name), getattr(table, name))
    for name in ("errno", "peer_fin", "never_accepted"):
        assert getattr(remembered, name).tolist() == getattr(table, name).tolist()  # None where masked
