"""What the sidecar costs a host: CPU per flow from ring buffer to spool, memory, idle CPU; and what it keeps up with.

The process is measured from outside; its stages are measured again in this process, on records of the real kernel.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections import defaultdict
from pathlib import Path
from statistics import median

from bench.codec import header
from bench.machine import CpuUse
from bench.process import Sidecar, read_spool
from bench.report import Breakdown, Report
from bench.traffic import churn, held, record, run_traffic, traffic_namespace
from schemas.decode import decode_message
from schemas.flow_batch import encode_flow_batch
from settings.memory import keep_freed_pages
from sidecar.clock import WallClock
from sidecar.close_reason import endings
from sidecar.flow_columns import flow_columns
from sidecar.host import Place, read_host
from sidecar.identity import open_identity
from sidecar.identity.identity import BatchNames
from sidecar.main import KEPT_BYTES
from sidecar.namespaces import Namespaces
from sidecar.network_scope import NetworkScopes
from sidecar.probe.abi import FLOW_RECORD, joined
from sidecar.probe.clock import jiffies_per_second
from sidecar.probe.probe import Probe, ProbeConfig
from transport.config import SpoolConfig
from transport.spool import SpoolWriter

BATCH_FLOWS = 4096  # the default of batch_flows
SETTLE_SECONDS = 2.5  # the last batch is made within batch_seconds; by then everything is in the spool
BURST_RATE = 20_000
STEADY_RATE = 2_000
WINDOW_SECONDS = 5
QUIET_FLOWS = 100  # 0.2 ms of CPU in a window, of the 15 ms that the budget allows
MANY_SOCKETS = 20_000
FEW_SOCKETS = 1_000


def benchmark(quick: bool) -> Report:
    report = Report("sidecar")
    idle_ns = _idle(report, 2 if quick else 13)
    _under_load(report, quick, idle_ns)
    _stages(report, quick)
    _many_sockets(report, quick)
    return report


def _under_load(report: Report, quick: bool, idle_ns: float) -> None:
    """CPU per flow of the whole process, and losses, at three rates.

    idle_ns: CPU per second of a sidecar that sees nothing, which is taken out.
    """
    bursts = [40_000] if quick else [200_000, 60_000, 60_000]
    burst = [_run(count, BURST_RATE, idle_ns) for count in bursts]
    fastest = [_run(count, 0, idle_ns) for count in ([20_000] if quick else [60_000, 60_000])]
    steady = [_run(STEADY_RATE * seconds, STEADY_RATE, idle_ns) for seconds in ([2] if quick else [10, 10, 10])]
    what = "sidecar, ring buffer to spool, CPU per flow"
    report.add(f"{what}, in user space", "us", [run.user_us for run in burst], bound=2)
    report.add(f"{what}, with its own system calls", "us", [run.cpu_us for run in burst])
    report.add(f"the same at {STEADY_RATE:,} connections/s", "us", [run.cpu_us for run in steady])
    report.add(f"flows lost at {BURST_RATE:,} connections/s asked for", "flows", [run.lost for run in burst], bound=0)
    report.add("connections/s attained of these", "/s", [run.rate for run in burst])
    report.add("flows lost as fast as the generator goes", "flows", [run.lost for run in fastest])
    report.add("connections/s attained then", "/s", [run.rate for run in fastest])
    reasons = set[str]().union(*(run.reasons for run in (*burst, *fastest, *steady)))
    if reasons:
        report.notes.append(f"Flows were lost, of all connections on this machine, as {', '.join(sorted(reasons))}.")
    report.notes += [
        f"Under load: {', '.join(f'{count:,}' for count in bursts)} connections at {BURST_RATE:,}/s, two flows each; "
        "what the process used less the least it used while idle.",
        "The generator's client and server need the same cores: the rate attained is theirs, the loss the probe's.",
    ]


class _Run:
    """One run of the generator against one sidecar."""

    def __init__(self, use: CpuUse, idle_ns: float, flows: int, lost: dict[str, int], rate: float) -> None:
        self.cpu_us = (use.total_ns - idle_ns) / flows / 1e3
        self.user_us = self.cpu_us * use.user_share
        self.lost = sum(lost.values())
        self.reasons = set(lost)
        self.rate = rate


def _run(connections: int, rate: int, idle_ns: float) -> _Run:
    with traffic_namespace() as where, tempfile.TemporaryDirectory() as spool, Sidecar(Path(spool)) as sidecar:
        time.sleep(SETTLE_SECONDS)
        before, flows_before, began = sidecar.cpu(), _spooled_flows(Path(spool)), time.monotonic()
        truth = run_traffic(where, churn(connections), rate=rate)
        time.sleep(SETTLE_SECONDS)
        used, lasted = sidecar.cpu() - before, time.monotonic() - began
        flows = _spooled_flows(Path(spool)) - flows_before
        sidecar.finish()
        lost = sidecar.dropped()
    return _Run(used, idle_ns * lasted, flows, lost, connections / truth.seconds)


def _spooled_flows(directory: Path) -> int:
    return sum(decode_message(message.value).flow_count for message in read_spool(directory))


def _stages(report: Report, quick: bool) -> None:
    """Each stage in turn, on the records of real connections, batch by batch as the sidecar cuts them."""
    host = read_host(Path("/"), Path(tempfile.gettempdir()), Place(None, None, None, None), lambda: uuid.uuid4().hex)
    identity = open_identity(Path("/"), host.host_id)
    scopes = NetworkScopes("default", host.host_id, Namespaces().host_cookie())
    clock, hz = WallClock(), jiffies_per_second()
    head = header(["default"])
    keep_freed_pages(KEPT_BYTES)
    with traffic_namespace() as where, Probe(ProbeConfig()) as probe:
        records, drained_ns = record(probe, where, churn(20_000 if quick else 60_000))

    batches = [records[at : at + BATCH_FLOWS] for at in range(0, len(records) - BATCH_FLOWS + 1, BATCH_FLOWS)]
    flows = len(batches) * BATCH_FLOWS
    spent: dict[str, list[float]] = defaultdict(list)
    rounds = 3 if quick else 9
    for _ in range(rounds):
        watch = _Stopwatch()
        with tempfile.TemporaryDirectory() as directory, SpoolWriter(SpoolConfig(Path(directory))) as spool:
            for batch in batches:
                parts = [batch[:1000], batch[1000:]]
                watch.start()
                pending = joined(parts, FLOW_RECORD)
                watch.lap("put drains together")
                owners = identity.resolve(
                    pending["cgroup"], pending["cgroup_v1"], pending["pid"], pending["comm"],
                    pending["owner_source"], BatchNames(), pending["opened_ns"],
                )  # fmt: skip
                watch.lap("identity")
                network = scopes.indices(pending["local_address"], pending["remote_address"], pending["netns"], [])
                watch.lap("network scope")
                reasons = endings(pending)
                watch.lap("close reasons")
                columns = flow_columns(
                    pending, clock_offset_ns=clock.offset_ns, boot_id=host.boot_id, hz=hz, network=network,
                    process=owners.process, workload=owners.workload, reasons=reasons,
                )  # fmt: skip
                watch.lap("flow columns")
                value = encode_flow_batch(head, columns)
                watch.lap("encode")
                spool.append(host.host_id.encode(), value, len(pending))
                watch.lap("spool append")
        for stage, ns in watch.spent_ns.items():
            spent[stage].append(ns / flows)
    stages = {"drain": drained_ns / len(records)} | {stage: median(samples) for stage, samples in spent.items()}
    report.breakdowns.append(Breakdown("the sidecar's stages in turn, per flow", "ns", stages))
    report.notes.append(f"Stages: {flows:,} recorded flows in batches of {BATCH_FLOWS}, medians of {rounds}.")


class _Stopwatch:
    """Adds up the CPU of laps, by name."""

    def __init__(self) -> None:
        self.spent_ns: dict[str, int] = defaultdict(int)

    def start(self) -> None:
        self._began_ns = time.process_time_ns()

    def lap(self, name: str) -> None:
        self.spent_ns[name] += time.process_time_ns() - self._began_ns
        self.start()


def _many_sockets(report: Report, quick: bool) -> None:
    """Memory, and what a walk costs, with 20,000 open sockets."""
    walks: list[float] = []
    idle_walks: list[float] = []
    open_mib: list[float] = []
    walked_mib: list[float] = []
    peak_mib: list[float] = []
    lost: list[int] = []
    with traffic_namespace() as where:
        with Probe(ProbeConfig()) as probe, held(where, MANY_SOCKETS) as traffic:
            time.sleep(0.2)  # longer than a delayed ACK
            walks.append(_walk_ms(probe, MANY_SOCKETS))
            idle_walks += [_walk_ms(probe, 0) for _ in range(5)]
            traffic.release()
            traffic.finish()
        for _ in range(1 if quick else 2):
            with (
                tempfile.TemporaryDirectory() as spool,
                Sidecar(Path(spool), "--interim-seconds", "3") as sidecar,
                held(where, MANY_SOCKETS) as traffic,
            ):
                time.sleep(7)  # two walks: one that reports all, one that finds nothing new
                rss_mib, largest_open_mib = sidecar.memory_mib("VmRSS"), sidecar.memory_mib("VmHWM")
                traffic.release()
                traffic.finish()
                time.sleep(SETTLE_SECONDS)
                largest_mib = sidecar.memory_mib("VmHWM")
                sidecar.finish()
                dropped = sum(sidecar.dropped().values())
            open_mib.append(rss_mib)
            walked_mib.append(largest_open_mib)
            peak_mib.append(largest_mib)
            lost.append(dropped)
    report.add(f"sidecar, RSS with {MANY_SOCKETS:,} open sockets", "MB", open_mib)
    report.add("sidecar, largest RSS so far, when a walk reported them all at once", "MB", walked_mib, bound=72)
    report.add("sidecar, largest RSS, when they were closed at once", "MB", peak_mib)
    report.add("flows lost when they were closed at once", "flows", lost)
    report.add(f"walk of {MANY_SOCKETS:,} open sockets, all of which moved, CPU", "ms", walks)
    report.add(f"walk of {MANY_SOCKETS:,} open sockets, none of which moved, CPU", "ms", idle_walks)


def _walk_ms(probe: Probe, at_least: int) -> float:
    began_ns = time.thread_time_ns()
    interims, _ = probe.walk()
    spent_ns = time.thread_time_ns() - began_ns
    assert len(interims) >= at_least, f"{len(interims)} of {at_least} sockets were reported"
    return spent_ns / 1e6


def _idle(report: Report, windows: int) -> float:
    """CPU while nothing happens: the least nanoseconds per second, or 0 if that could not be measured."""
    with (
        traffic_namespace() as where,
        held(where, FEW_SOCKETS) as traffic,
        tempfile.TemporaryDirectory() as spool,
        Sidecar(Path(spool)) as sidecar,
    ):
        time.sleep(SETTLE_SECONDS)
        per_second, others = [], []
        for _ in range(windows):
            before, flows_before, began = sidecar.cpu(), _spooled_flows(Path(spool)), time.monotonic()
            time.sleep(WINDOW_SECONDS)
            per_second.append((sidecar.cpu() - before).total_ns / (time.monotonic() - began))
            others.append(_spooled_flows(Path(spool)) - flows_before)
        traffic.release()
        traffic.finish()
        sidecar.finish()
    quiet = [ns for ns, flows in zip(per_second, others, strict=True) if flows <= QUIET_FLOWS]
    what = f"sidecar, idle with {FEW_SOCKETS:,} open sockets"
    report.notes.append(
        f"Idle: {len(quiet)} of {windows} windows of {WINDOW_SECONDS} s, those in which at most {QUIET_FLOWS} flows "
        "of others came."
    )
    if quiet:
        report.add(what, "% of a core", [ns / 1e7 for ns in quiet], bound=0.3)
        return min(quiet)
    report.add(f"{what}, and {sum(others):,} flows of others", "% of a core", [ns / 1e7 for ns in per_second])
    report.notes.append("No window was quiet, so idling was not measured, and is not taken out of the CPU per flow.")
    return 0.0
