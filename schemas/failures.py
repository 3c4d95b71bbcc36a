"""What "failed" means: one definition for the sidecar, the enricher's edges and the questions (close reasons).

A connection failed when it never became one, or when it broke. A short good connection is never a failure, and neither
is one that the application gave up before a single SYN had to be repeated.
"""

from __future__ import annotations

# A final record with one of these reasons: there never was a connection.
NEVER_CONNECTED: frozenset[str] = frozenset({"refused", "connect_timeout", "unreachable", "not_sent", "half_open"})

# The application gave up first: a failure only where the peer had been silent for at least one repeated SYN.
GIVEN_UP: frozenset[str] = frozenset({"abandoned"})

# There was a connection, and it ended in a way that neither application asked for.
BROKE: frozenset[str] = frozenset({"reset_remote", "timed_out", "aborted"})


def never_connected(close_reason: str, syn_retransmits: int) -> bool:
    """Whether a record says that no connection came about. Records that are not final have the reason `open`."""
    return close_reason in NEVER_CONNECTED or (close_reason in GIVEN_UP and syn_retransmits > 0)


def failed(close_reason: str, syn_retransmits: int) -> bool:
    """Whether a record counts as a failure: it never became a connection, or it broke."""
    return never_connected(close_reason, syn_retransmits) or close_reason in BROKE
