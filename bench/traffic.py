"""The generator of the kernel tests, and records of what it did as the probe saw them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.machine import ROOT
from sidecar.probe.probe import Probe

# As pytest sees them: tests/ is where the packages of the tests begin.
sys.path.insert(0, str(ROOT / "tests"))

from kernel.namespaces import Namespace
from kernel.traffic import ORDERLY, Ending, Traffic, plan, random_plan, run_traffic, traffic_namespace

__all__ = ["Ending", "Namespace", "Traffic", "churn", "held", "mixed", "record", "run_traffic", "traffic_namespace"]

DRAIN_SECONDS = 0.05


def churn(count: int) -> NDArray[Any]:
    """Short connections: 300 bytes there, up to 3,000 back, closed by the client, IPv4. Two flows each."""
    random = np.random.default_rng(count)
    return plan(Ending.CLIENT_CLOSES, count, up=300, down=random.integers(0, 3000, count))


def mixed(count: int) -> NDArray[Any]:
    """Every orderly ending and reset, sizes up to 100 kB, a third each of IPv4, IPv6 and mapped addresses."""
    few = (Ending.CLIENT_RESETS, Ending.SERVER_RESETS, Ending.REFUSED)
    return random_plan(count, count, (*ORDERLY, *few))


@contextmanager
def held(where: Namespace, sockets: int) -> Iterator[Traffic]:
    """`sockets` established sockets, both ends counted, for as long as the context lasts."""
    count = sockets // 2
    with Traffic(where, plan(Ending.CLIENT_CLOSES, count), "--window", str(count), "--hold") as traffic:
        traffic.wait_until_held()
        yield traffic


def record(probe: Probe, where: Namespace, wanted: NDArray[Any], rate: int = 0) -> tuple[NDArray[Any], int]:
    """The plan's records, FLOW_RECORD of shape (n,), and the nanoseconds of CPU that draining them took."""
    parts: list[NDArray[Any]] = []
    drained_ns, cookie = 0, where.cookie

    def drain() -> None:
        nonlocal drained_ns
        began_ns = time.thread_time_ns()
        parts.append(probe.drain())
        drained_ns += time.thread_time_ns() - began_ns

    with Traffic(where, wanted, "--rate", str(rate)) as traffic:
        traffic.finish(drain, DRAIN_SECONDS)
    drain()
    records = np.concatenate(parts)
    return records[records["netns"] == cookie], drained_ns
