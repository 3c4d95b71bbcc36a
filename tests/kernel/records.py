"""Collects what the probe says until a test has what it waits for."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sidecar.probe.abi import FLOW_RECORD, Flag
from sidecar.probe.probe import Probe

Records = NDArray[np.void]
PATIENCE_SECONDS = 20.0  # never reached unless something is wrong


class Collector:
    """Everything that the probe has said about some network namespaces since this was made."""

    def __init__(self, probe: Probe, *netns_cookies: int) -> None:
        self._probe = probe
        self._netns = np.array(netns_cookies, np.uint64)
        self._parts: list[Records] = [np.zeros(0, FLOW_RECORD)]

    def take(self, records: Records) -> Records:
        """Keep those of these records that are about our namespaces; only those."""
        ours = records[np.isin(records["netns"], self._netns)]
        self._parts.append(ours)
        return ours

    def drain(self) -> Records:
        """The final records that have come since the last time."""
        return self.take(self._probe.drain())

    def walk(self) -> Records:
        """Interim records of the connections that are open now."""
        return self.take(self._probe.walk()[0])

    def sweep_half_open(self) -> Records:
        """Handshakes that are overdue now."""
        return self.take(self._probe.sweep_half_open())

    def records(self) -> Records:
        """Everything kept so far."""
        self._parts = [np.concatenate(self._parts)]
        return self._parts[0]

    def drain_finals(self, count: int) -> Records:
        """Drain until `count` final records are here in all, or nothing has come for long; the final records."""
        so_far = len(finals(self.records()))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while so_far < count and time.monotonic() < deadline:
            came = len(self.drain())
            so_far += came
            if came:
                deadline = time.monotonic() + PATIENCE_SECONDS
            else:
                time.sleep(0.01)
        self.drain()
        return finals(self.records())


def finals(records: Records) -> Records:
    return records[records["flags"] & np.uint32(Flag.FINAL) != 0]


def has(records: Records, flag: Flag) -> NDArray[np.bool_]:
    return np.asarray(records["flags"] & np.uint32(flag) != 0)


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Poll until it holds; fails with `what` after a long while."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.005)
