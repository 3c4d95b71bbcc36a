"""What the kernel side costs: nanoseconds per program, per tracepoint event, per record and per connection.

The kernel itself adds up how long each program ran, while kernel.bpf_stats_enabled is 1; reading the clock twice a call
is part of it. Yardsticks beside the probe, on the same events, show how much that is.
"""

from __future__ import annotations

import ctypes
import platform
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.report import Breakdown, Report
from bench.traffic import DRAIN_SECONDS, Traffic, churn, traffic_namespace
from sidecar.probe.libbpf import OpenOptions, library, number, pointer
from sidecar.probe.loader import LoadedObject, Mode, programs
from sidecar.probe.probe import Probe, ProbeConfig

STATISTICS = Path("/proc/sys/kernel/bpf_stats_enabled")
SOURCE = Path(__file__).parent / "yardsticks.bpf.c"
EMPTY, STORAGE = "(an empty program)", "(the storage alone)"
YARDSTICKS = {"empty": EMPTY, "storage_only": STORAGE}

TRACEPOINTS = {
    "set_state": "inet_sock_set_state",
    "set_state_again": "inet_sock_set_state",
    "retransmit_skb": "tcp_retransmit_skb",
    "retransmit_skb_result": "tcp_retransmit_skb",
    "receive_reset": "tcp_receive_reset",
    "rcv_space_adjust": "tcp_rcv_space_adjust",
    "retransmit_synack": "tcp_retransmit_synack",
    "cgroup_mkdir": "cgroup_mkdir",
}


def benchmark(quick: bool) -> Report:
    report = Report("probe")
    connections, rounds = (10_000, 3) if quick else (50_000, 5)
    calls: dict[str, list[float]] = defaultdict(list)
    per_event, per_event_by_name, per_record = [], defaultdict(list), []
    net_per_record: list[float] = []
    storage_per_record: list[float] = []
    counts: dict[str, float] = {}
    with traffic_namespace() as where, Probe(ProbeConfig()) as probe, _yardsticks() as yardsticks:
        for _ in range(rounds):
            before, records_before = _totals(probe, yardsticks), probe.counters().captured
            with _statistics(), Traffic(where, churn(connections)) as traffic:
                traffic.finish(probe.drain, DRAIN_SECONDS)
            records = probe.counters().captured - records_before
            after = _totals(probe, yardsticks)
            spent = {name: (runs - before[name][0], ns - before[name][1]) for name, (runs, ns) in after.items()}
            for name, (runs, ns) in spent.items():
                if runs > connections // 2:  # others are called by accident only, too rarely for a mean
                    calls[name].append(ns / runs)
                    counts[name] = runs / records
            events, total_ns, net_ns = 0, 0, 0.0
            nothing_ns = spent[EMPTY][1] / spent[EMPTY][0]
            for tracepoint in set(TRACEPOINTS.values()):
                here = [calls_ns for name, calls_ns in spent.items() if TRACEPOINTS.get(name) == tracepoint]
                if here and max(runs for runs, _ in here) > connections // 2:
                    of_tracepoint = max(runs for runs, _ in here)
                    ns_of_tracepoint = sum(ns for _, ns in here)
                    per_event_by_name[tracepoint].append(ns_of_tracepoint / of_tracepoint)
                    events += of_tracepoint
                    total_ns += ns_of_tracepoint
                    net_ns += sum(ns - runs * nothing_ns for runs, ns in here)
            per_event.append(total_ns / events)
            per_record.append(total_ns / records)
            net_per_record.append(net_ns / records)
            runs, ns = spent[STORAGE]
            storage_per_record.append((ns - runs * nothing_ns) / records)

    report.add("kernel side, mean over all tracepoint events", "ns", per_event, bound=250)
    for tracepoint, samples in sorted(per_event_by_name.items()):
        report.add(f"one event of {tracepoint}, all its programs", "ns", samples)
    for name, samples in sorted(calls.items()):
        report.add(f"one call of {name}", "ns", samples)
    report.add("kernel side per flow record", "ns", per_record)
    report.add("the same, less an empty program for each call", "ns", net_per_record)
    report.add("of that, finding a socket's storage, or making it", "ns", storage_per_record)
    report.add("kernel side per connection, both ends", "ns", [2 * ns for ns in per_record])
    report.breakdowns.append(
        Breakdown(
            "one record, by program (calls per record)",
            "ns",
            {
                f"{name} ({counts[name]:.1f})": sorted(samples)[len(samples) // 2] * counts[name]
                for name, samples in sorted(calls.items())
                if name not in YARDSTICKS.values()
            },
        )
    )
    report.notes += [
        f"{connections:,} short connections over loopback in each of {rounds} rounds, as fast as they go.",
        "set_state and set_state_again are two programs on one tracepoint, so an event is a call of each.",
        f"Each call includes the kernel's own reading of the clock, there only while measuring: see {EMPTY}.",
    ]
    return report


def _totals(probe: Probe, yardsticks: LoadedObject) -> dict[str, tuple[int, int]]:
    """(calls, nanoseconds) by program since each was loaded, the yardsticks included, iterators left out."""
    own = {YARDSTICKS[each.name]: (each.run_count, each.run_time_ns) for each in yardsticks.statistics()}
    statistics = [each for each in probe.program_stats() if each.name in TRACEPOINTS]
    return own | {each.name: (each.run_count, each.run_time_ns) for each in statistics}


@contextmanager
def _statistics() -> Iterator[None]:
    before = STATISTICS.read_text()
    STATISTICS.write_text("1")
    try:
        yield
    finally:
        STATISTICS.write_text(before)


@contextmanager
def _yardsticks() -> Iterator[LoadedObject]:
    lib = library()
    with tempfile.TemporaryDirectory() as directory:
        built = Path(directory) / "yardsticks.bpf.o"
        includes = f"-I/usr/include/{platform.machine()}-linux-gnu"
        subprocess.run(
            ["clang", "-target", "bpf", "-mcpu=v3", "-O2", "-g", includes, "-c", SOURCE, "-o", built], check=True
        )
        options = OpenOptions(sz=ctypes.sizeof(OpenOptions))
        opened = lib.bpf_object__open_file(str(built).encode(), ctypes.byref(options))
        handle = pointer(opened, "cannot open the yardsticks")
    loaded = LoadedObject(Mode.TP_BTF, handle)
    try:
        number(lib.bpf_object__load(handle), "cannot load the yardsticks")
        for name, program in programs(handle):
            loaded.links[name] = pointer(lib.bpf_program__attach(program), "cannot attach the yardsticks")
        yield loaded
    finally:
        loaded.close()
