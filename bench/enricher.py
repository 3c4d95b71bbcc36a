"""CPU per flow and bytes per row of the enricher, from messages to Parquet, by stage.

    python -m bench.enricher [--flows-per-range 100000] [--rounds 9] [--json FILE]

Two kinds of traffic: `churn`, the short connections of services that call each other (what the budgets are about), and
`mixed`: long-lived connections, a third over IPv6, clients from anywhere. Every stage is run in turn, `rounds` times,
and its least CPU time (all threads) counts: what it costs when nothing disturbs it. Budgets: docs/, "Budgets".
"""

from __future__ import annotations

import os

os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # as enricher/main.py does, before pyarrow is loaded

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enricher.attribute import attribute
from enricher.dedupe import DedupeState
from enricher.digest import rows_digest
from enricher.edges import edges_table, read_flows
from enricher.flows_table import CAPTURED, flows_table
from enricher.parquet import to_parquet
from enricher.row_maker import FlowRowMaker
from enricher.rows import FileIdentity, OffsetRange
from schemas.decode import decode_flows, decode_message
from schemas.flow_batch import BatchHeader, FlowColumns, Workload, encode_flow_batch
from schemas.flows import FLOWS
from settings.memory import keep_freed_pages
from transport.log import Message

BUDGET_US = 1.0  # CPU per flow, message to Parquet bytes
BUDGET_BYTES = 42.0  # per row, churn
HOSTS = 4  # in turn, as in one partition of a fleet
WORKLOADS = 30
START_US = 1_795_348_800_000_000  # 2026-11-22 12:00 UTC: a range within one hour
SPAN_US = 1_000_000  # of one message
SERVICE_PORTS = np.array([80, 443, 5432, 6379, 8080, 9092], np.int32)


def flows(rng: np.random.Generator, n: int, at_us: int, host: int, kind: str) -> FlowColumns:
    """n flows of one host that end within a second from at_us on."""
    mixed = kind == "mixed"
    of_workload = np.minimum(rng.zipf(1.4, n) - 1, WORKLOADS - 1).astype(np.int32)
    client = of_workload % 2 == 0
    peer = rng.integers(0, 1 << 24 if mixed else 12, n)
    remote = np.where(client, (of_workload * 37 % 200) * 256 + peer % 6, (2 << 16) + peer)
    end_us = at_us + np.sort(rng.integers(0, SPAN_US, n))
    final = rng.random(n) > (0.6 if mixed else 0.05)
    lasted_us = np.where(final, rng.lognormal(9, 1.5, n), 60_000_000).astype(np.int64)
    failed = final & (rng.random(n) < 0.01)
    lossy = rng.random(n) < (0.05 if mixed else 0.01)
    rtt_us = rng.lognormal(6, 0.6, n).astype(np.int32)
    sent, received = (np.where(failed, 0, rng.lognormal(mean, 1.3, n)).astype(np.int64) for mean in (6.5, 8))
    retransmits = np.where(lossy, rng.integers(1, 4, n), 0).astype(np.int32)
    ephemeral = rng.integers(32_768, 61_000, n).astype(np.int32)
    service = SERVICE_PORTS[of_workload // 2 % len(SERVICE_PORTS)]
    zeros = np.zeros(n, np.int32)

    def some(values: NDArray[Any], null: NDArray[np.bool_]) -> Any:
        return np.ma.MaskedArray(values, mask=null)

    return {
        "start_time": end_us - lasted_us,
        "end_time": end_us,
        "opened_time": some(end_us - lasted_us, rng.random(n) < 0.01),
        "flow_id": rng.integers(-(2**63), 2**63 - 1, n),
        "sequence": np.where(final, 0, rng.integers(0, 5, n)).astype(np.int32),
        "final": final,
        "partial": rng.random(n) < 0.01,
        "role": np.where(client, 1, 2).astype(np.uint8),
        "local_address": addresses(0x0A030000 + host * 256 + of_workload, np.zeros(n, np.bool_)),
        "remote_address": addresses(0x0A000000 + remote, (rng.random(n) < 0.33) & mixed),
        "local_port": np.where(client, ephemeral, service),
        "remote_port": np.where(client, service, ephemeral),
        "network": (of_workload == 3).astype(np.int32),
        "netns": 4_097 + of_workload.astype(np.int64),
        "mptcp": np.zeros(n, np.bool_),
        "pid": some(1_000 + 13 * of_workload, of_workload == WORKLOADS - 1),
        "process": some(of_workload % 17, of_workload == WORKLOADS - 1),
        "owner_source": np.where(client, 3, 4).astype(np.uint8),
        "workload": some(of_workload, of_workload == WORKLOADS - 1),
        "bytes_sent": sent,
        "bytes_received": received,
        "bytes_unread": some(zeros.astype(np.int64), ~final),
        "bytes_unacked": some(zeros.astype(np.int64), ~final),
        "packets_sent": sent // 1400 + 2,
        "packets_received": received // 1400 + 2,
        "retransmits": retransmits,
        "bytes_retransmitted": retransmits.astype(np.int64) * 1400,
        "last_retransmit_time": some(end_us - 1000, ~lossy),
        "syn_retransmits": np.where(failed, 3, 0).astype(np.int32),
        "connect_us": some((rtt_us * 1.1).astype(np.int32), failed),
        "rtt_us": some(rtt_us, failed),
        "rtt_min_us": some((rtt_us * 0.8).astype(np.int32), failed),
        "rtt_var_us": some(rtt_us // 2, failed),
        "busy_us": rng.integers(0, 4, n) * 4000,
        "rwnd_limited_us": zeros.astype(np.int64),
        "sndbuf_limited_us": zeros.astype(np.int64),
        "reordered": some(zeros, failed),
        "dsack_dups": some(zeros, failed),
        "timeouts": some(retransmits // 2, failed),
        "state": np.where(final, np.where(client, 5, 9), 1).astype(np.uint8),
        "close_reason": np.where(failed, 6, np.where(final, rng.choice([1, 2, 3, 5], n, p=[0.55, 0.4, 0.03, 0.02]), 0)),
        "close_detail": failed.astype(np.uint8),
        "errno": some(np.where(failed, 111, 0).astype(np.int32), ~final),
        "peer_fin": some(final & ~failed, ~final),
        "never_accepted": some(np.zeros(n, np.bool_), ~final),
    }


def addresses(ipv4: NDArray[Any], as_ipv6: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """(n, 16): mapped into IPv6, or in 2001:db8::/96 where as_ipv6."""
    raw = np.zeros((len(ipv4), 16), np.uint8)
    raw[:, 10:12] = 255
    raw[as_ipv6, :12] = np.frombuffer(b"\x20\x01\x0d\xb8" + bytes(8), np.uint8)
    raw[:, 12:] = ipv4.astype(">u4").view(np.uint8).reshape(-1, 4)
    return raw


def messages(kind: str, per_message: int, count: int, start_us: int = START_US) -> list[Message]:
    """Batches of four hosts in turn; the first one's flows end from start_us on."""
    rng = np.random.default_rng(1)
    made = []
    for at in range(count):
        host = at % HOSTS
        now_us = start_us + at * SPAN_US // HOSTS
        header = BatchHeader(
            host_id=f"4c4c4544004d3510804eb9c04f4d363{host}", host=f"host-{host}", boot_id="boot", run_id=f"run-{host}",
            number=at // HOSTS, lowest_number=0, created_time=now_us + SPAN_US, cluster="east", region="eu-1",
            zone="eu-1a", account="123456789012", captured=(at // HOSTS + 1) * per_message, dropped={},
            delayed_interims=0, networks=["vpc-1", f"host/{host}"], processes=[f"process-{i}" for i in range(17)],
            workloads=[
                Workload(f"workload-{i}", "pod", f"team-{i % 4}", f"workload-{i}-7d9f-{host}", f"uid-{host}-{i}",
                         f"{host}{i:02}" + "e" * 61)
                for i in range(WORKLOADS)
            ],
            listeners=[], namespaces=[],
        )  # fmt: skip
        value = encode_flow_batch(header, flows(rng, per_message, now_us, host, kind))
        made.append(Message(at, now_us + 2 * SPAN_US, header.host_id.encode(), value))
    return made


def measure(batch: Sequence[Message], rounds: int) -> dict[str, list[float]]:
    """Figures of one range within one hour, a sample for each round.

    Microseconds of CPU per flow by stage; bytes per flow on the wire and in the lake, which are the same in each round.
    """
    maker = FlowRowMaker()
    where = OffsetRange("0" * 16, 0, 0, len(batch), 0, (), 1, maker.settings)
    values = [message.value for message in batch]
    headers = [message.header for message in map(decode_message, values)]
    plan = maker.plan(batch, DedupeState(), where)
    n = plan.outcome.accepted_records
    wire = plan.decoded.wire
    captured = flows_table(wire, headers)
    rows = attribute(captured, None)
    (file,) = maker.flow_files(plan, where)
    identity = FileIdentity("0" * 16, 0, 0, len(batch), 0, FLOWS.name, n, file.digest)
    read = read_flows([file.body])
    stages: Mapping[str, Callable[[], object]] = {
        "decode headers": lambda: [decode_message(value) for value in values],
        "decode flows": lambda: decode_flows([decode_message(value) for value in values]),
        "to columns": lambda: flows_table(wire, headers),
        "attribute": lambda: attribute(captured, None),
        "digest": lambda: rows_digest(rows, CAPTURED),
        "parquet": lambda: to_parquet(rows, FLOWS, identity, 1),
        "message to parquet": lambda: maker.flow_files(maker.plan(batch, DedupeState(), where), where),
        "read back": lambda: read_flows([file.body]),
        "edges": lambda: edges_table(read),
        "derived files": lambda: maker.derived_files(plan, where, [file.body]),
    }
    spent: dict[str, list[float]] = {name: [] for name in stages}
    for _ in range(rounds):
        for name, work in stages.items():
            start_ns = time.process_time_ns()
            work()
            spent[name].append((time.process_time_ns() - start_ns) / n / 1000)
    spent["decode flows"] = [
        both - headers for both, headers in zip(spent["decode flows"], spent["decode headers"], strict=True)
    ]
    derived = maker.derived_files(plan, where, [file.body])
    return spent | {
        "bytes on the wire": [sum(map(len, values)) / n],
        "bytes in flows": [len(file.body) / n],
        "bytes in other tables": [sum(len(each.body) for each in derived) / n],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flows-per-range", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="keep the figures in this file as well")
    arguments = parser.parse_args()
    keep_freed_pages(64 << 20)

    figures = {
        f"{kind} {per_message}": {
            name: min(samples)
            for name, samples in measure(
                messages(kind, per_message, arguments.flows_per_range // per_message), arguments.rounds
            ).items()
        }
        for kind in ("churn", "mixed")
        for per_message in (500, 2000, 4000)
    }
    names = list(next(iter(figures.values())))
    print(f"{'':24}" + "".join(f"{case:>13}" for case in figures))
    for name in names:
        print(f"{name:24}" + "".join(f"{figures[case][name]:13.3f}" for case in figures))
    print(f"us of CPU, and bytes, per flow. Budgets on churn: {BUDGET_US} us to parquet, {BUDGET_BYTES} bytes in flows")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
