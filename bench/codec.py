"""CPU per flow of the codec: interpretation of the kernel's records, encoding and decoding.

    python -m bench.codec [--flows 4096] [--seconds 2]

Flows are like those of a busy host: short connections over IPv4, most small, few retransmits. Each figure is the least
of many rounds, what the work costs when nothing disturbs it, and their median, in nanoseconds of CPU time (all threads)
per flow. Headers name 40 workloads and 30 processes; their cost is per message, and so per flow less in larger batches.
`python -m bench.run codec` keeps the median and the spread of the same rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from bench.report import Report
from schemas.decode import decode_flows, decode_message
from schemas.flow_batch import BatchHeader, Workload, encode_flow_batch
from sidecar.close_reason import endings
from sidecar.flow_columns import flow_columns
from sidecar.network_scope import NetworkScopes
from sidecar.probe.abi import FLOW_RECORD, UNKNOWN, Flag, Owner, Role

MESSAGES = 16  # decoded at once
OFFSET_NS = 1_763_000_000_000_000_000


def realistic_records(n: int, seed: int) -> np.ndarray:
    """n final records, and among them 5 % interim ones, 3 % refused and 2 % with retransmits."""
    random = np.random.default_rng(seed)
    client = random.random(n) < 0.5
    final = random.random(n) < 0.95
    refused = random.random(n) < 0.03
    lossy = random.random(n) < 0.02
    records = np.zeros(n, FLOW_RECORD)
    records["end_ns"] = 835_000_000_000_000 + np.sort(random.integers(0, 1_000_000_000, n))
    records["start_ns"] = records["end_ns"] - random.lognormal(16, 2, n).astype(np.uint64)
    records["opened_ns"] = records["start_ns"]
    records["last_retransmit_ns"] = np.where(lossy, records["end_ns"], 0)
    records["cookie"] = np.arange(1_000_000, 1_000_000 + n)
    records["netns"] = random.choice([1, 4097, 4098], n)
    records["cgroup"] = random.integers(2_000, 2_040, n)
    records["bytes_sent"] = np.where(refused, 0, random.lognormal(7, 2, n))
    records["bytes_received"] = np.where(refused, 0, random.lognormal(8, 2.5, n))
    records["bytes_retransmitted"] = np.where(lossy, 2_896, 0)
    records["busy_jiffies"] = random.integers(0, 20, n) * (random.random(n) < 0.6)
    records["packets_sent"] = random.lognormal(1.5, 1, n)
    records["packets_received"] = random.lognormal(2, 1.5, n)
    records["retransmits"] = np.where(lossy, 2, 0)
    records["segs_out"] = records["packets_sent"] + 3
    records["connect_us"] = np.where(refused, UNKNOWN, random.lognormal(6, 1, n))
    records["srtt_eighths_us"] = np.where(refused, 0, 8 * random.lognormal(6, 1, n))
    records["rtt_min_us"] = np.where(refused, UNKNOWN, random.lognormal(5.5, 1, n))
    records["mdev_quarters_us"] = 4 * random.lognormal(5, 1, n)
    records["pid"] = random.choice([1_234, 40_233, 99_122, 2_000_111], n)
    ended = np.where(refused, 0, Flag.ESTABLISHED | Flag.PEER_FIN | Flag.SOCK_DONE | Flag.FIN_ACKED)
    records["flags"] = np.where(final, Flag.FINAL | ended, Flag.ESTABLISHED) | Flag.HAS_TIMEOUTS
    records["error"] = np.where(refused & final, 111, 0)
    records["local_port"] = np.where(client, random.integers(32_768, 61_000, n), 8_080)
    records["remote_port"] = np.where(client, 8_080, random.integers(32_768, 61_000, n))
    records["state"] = np.where(refused, 2, np.where(final, np.where(client, 5, 9), 1))
    records["role"] = np.where(client, Role.CLIENT, Role.SERVER)
    records["owner_source"] = np.where(client, Owner.CONNECT, Owner.READ)
    for name in ("local_address", "remote_address"):
        records[name][:, 10:13] = 255, 255, 10
        records[name][:, 13:] = random.integers(0, 256, (n, 3))
    return records


def columns_of(records: np.ndarray, scopes: NetworkScopes, networks: list[str]) -> dict[str, np.ndarray]:
    """What the sidecar does between identity and encoding."""
    return dict(
        flow_columns(
            records,
            clock_offset_ns=OFFSET_NS,
            boot_id="1b4e28ba-2fa1-11d2-883f-0016d3cca427",
            hz=250,
            network=scopes.indices(records["local_address"], records["remote_address"], records["netns"], networks),
            process=np.ma.MaskedArray((records["cgroup"] % 30).astype(np.int32)),
            workload=np.ma.MaskedArray((records["cgroup"] % 40).astype(np.int32)),
            reasons=endings(records),
        )
    )


def header(networks: list[str]) -> BatchHeader:
    return BatchHeader(
        host_id="4c4c4544004d3510804eb9c04f4d3632", host="host-1", boot_id="1b4e28ba", run_id="01JCYZ", number=1,
        lowest_number=0, created_time=OFFSET_NS // 1_000, cluster=None, region=None, zone=None, account=None,
        captured=1, dropped={}, delayed_interims=0, networks=networks, processes=[f"process-{i}" for i in range(30)],
        workloads=[Workload(f"workload-{i}", "pod", "shop", f"workload-{i}-x", f"uid-{i}") for i in range(40)],
        listeners=[], namespaces=[],
    )  # fmt: skip


def samples_ns(work: Callable[[], object], flows: int, seconds: float) -> list[float]:
    """CPU time per flow of each of the rounds that fit into `seconds`."""
    work()
    samples, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.process_time_ns()
        work()
        samples.append((time.process_time_ns() - start) / flows)
    return samples


def measure(n: int, seconds: float) -> tuple[dict[str, list[float]], float]:
    """(nanoseconds of CPU per flow by stage, each a sample a round; bytes per flow on the wire), n flows in a batch."""
    scopes = NetworkScopes("default", "4c4c4544004d3510804eb9c04f4d3632", 1)
    records = [realistic_records(n, seed) for seed in range(MESSAGES)]
    networks: list[str] = []
    columns = [columns_of(each, scopes, networks) for each in records]
    head = header(networks)
    none = {name: column[:0] for name, column in columns[0].items()}
    values = [encode_flow_batch(head, each) for each in columns]
    messages = [decode_message(value) for value in values]
    figures = {
        "close reasons": samples_ns(lambda: endings(records[0]), n, seconds),
        "interpretation": samples_ns(lambda: columns_of(records[0], scopes, []), n, seconds),
        "encode": samples_ns(lambda: encode_flow_batch(head, columns[0]), n, seconds),
        "encode header": samples_ns(lambda: encode_flow_batch(head, none), n, seconds),
        "decode header": samples_ns(lambda: decode_message(values[0]), n, seconds),
        "decode flows": samples_ns(lambda: decode_flows(messages), n * MESSAGES, seconds),
    }
    return figures, len(values[0]) / n


def benchmark(quick: bool) -> Report:
    """For bench.run: the median instead of the least, and two sizes of batches."""
    report = Report("codec")
    for n in (4096, 500):
        figures, wire_bytes = measure(n, 0.3 if quick else 2.0)
        for name, samples in figures.items():
            report.add(f"{name}, {n:,} flows in a batch, CPU per flow", "ns", samples)
        report.add(f"on the wire, {n:,} flows in a batch, per flow", "bytes", wire_bytes)
    report.notes.append(
        "Generated records. Interpretation is all between identity and encoding, with the close reasons."
    )
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flows", type=int, default=4096, help="flows in one batch")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure")
    arguments = parser.parse_args()
    figures, wire_bytes = measure(arguments.flows, arguments.seconds)
    print(f"{arguments.flows} flows in a batch, {wire_bytes:.1f} bytes a flow on the wire")
    for name, samples in figures.items():
        print(f"{name:>16}  {min(samples):8.0f} ns CPU per flow, median {statistics.median(samples):8.0f}")
    print("(interpretation includes the close reasons, encode the header)")


if __name__ == "__main__":
    main()
