"""Which rows of `flows` are failures, and what a failure means in words."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from schemas.failures import BROKE, GIVEN_UP, NEVER_CONNECTED

_WORDS = {
    "refused": "refused: nothing listens there, or a firewall says no",
    "connect_timeout": "no answer to the SYN: dropped on the way, or the host is away",
    "unreachable": "unreachable: a router on the way says so",
    "abandoned": "given up by the application while the peer was silent",
    "not_sent": "not sent: no free local port, or no route",
    "half_open": "half open: the client never finished the handshake",
    "reset_remote": "reset by the peer",
    "timed_out": "timed out: the peer stopped answering",
    "aborted": "aborted by an administrator",
}


def failed_rows(flows: pa.Table) -> pa.BooleanArray:
    """(n,) whether each row closed a connection that never came about, or broke."""
    reason = flows["close_reason"]
    bad = pc.is_in(reason, pa.array(sorted(NEVER_CONNECTED | BROKE)))
    given_up = pc.and_(pc.is_in(reason, pa.array(sorted(GIVEN_UP))), pc.greater(flows["syn_retransmits"], 0))
    return pc.and_(flows["final"], pc.or_(bad, given_up))


def in_words(close_reason: str) -> str:
    return _WORDS.get(close_reason, close_reason.replace("_", " "))
