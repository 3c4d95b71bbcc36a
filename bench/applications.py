"""What being watched costs applications: the same connections without the probe, with it, and with the whole sidecar.

The three take turns, so that what else the machine does hits them alike; ratios are within one turn. The generator does
nothing but make connections: real applications do more between two, and feel less.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.process import Sidecar
from bench.report import Report
from bench.traffic import DRAIN_SECONDS, Namespace, Traffic, churn, traffic_namespace
from sidecar.probe.probe import Probe, ProbeConfig


@contextmanager
def _probe() -> Iterator[Probe | None]:
    with Probe(ProbeConfig()) as probe:
        yield probe


@contextmanager
def _sidecar() -> Iterator[Probe | None]:
    with tempfile.TemporaryDirectory() as spool, Sidecar(Path(spool)):
        time.sleep(1)
        yield None


@contextmanager
def _nothing() -> Iterator[Probe | None]:
    yield None


SETTINGS = {"unwatched": _nothing, "probe": _probe, "sidecar": _sidecar}


def benchmark(quick: bool) -> Report:
    report = Report("applications")
    connections, rounds = (8_000, 3) if quick else (20_000, 9)
    cpu_us: dict[str, list[float]] = {name: [] for name in SETTINGS}
    rate: dict[str, list[float]] = {name: [] for name in SETTINGS}
    with traffic_namespace() as where:
        _run(where, connections, None)
        for number in range(rounds):
            names = list(SETTINGS)[number % 3 :] + list(SETTINGS)[: number % 3]  # each is first as often
            for name in names:
                with SETTINGS[name]() as probe:
                    us, per_second = _run(where, connections, probe)
                cpu_us[name].append(us)
                rate[name].append(per_second)
    for name, what in (("unwatched", "unwatched"), ("probe", "with the probe"), ("sidecar", "with the whole sidecar")):
        report.add(f"CPU of client and server per connection, {what}", "us", cpu_us[name])
    for name, what in (("probe", "the probe"), ("sidecar", "the whole sidecar")):
        added = [with_it - without for with_it, without in zip(cpu_us[name], cpu_us["unwatched"], strict=True)]
        report.add(f"{what} adds to that", "us", added)
        ratio = [with_it / without for with_it, without in zip(rate[name], rate["unwatched"], strict=True)]
        report.add(f"connections/s with {what}, of those without", "times", ratio)
    report.add("connections/s unwatched", "/s", rate["unwatched"])
    report.notes.append(
        f"{connections:,} short connections over loopback in each of {rounds} turns; the kernel's work on either "
        "end is part of its process's CPU time. The sidecar also takes its own share of the two cores."
    )
    return report


def _run(where: Namespace, connections: int, probe: Probe | None) -> tuple[float, float]:
    """(microseconds of CPU of the generator per connection, connections per second)."""
    before = _children_us()
    with Traffic(where, churn(connections)) as traffic:
        truth = traffic.finish(probe.drain if probe else lambda: None, DRAIN_SECONDS)
    return (_children_us() - before) / connections, connections / truth.seconds


def _children_us() -> float:
    """CPU of children that have ended, and theirs: the generator's."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (usage.ru_utime + usage.ru_stime) * 1e6
