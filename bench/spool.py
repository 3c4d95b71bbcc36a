"""What the spool costs: CPU per flow to append batches of the size that a busy host makes, and to read them back."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from bench.process import read_spool
from bench.report import Report
from transport.config import SpoolConfig
from transport.spool import SpoolWriter

FLOWS = 4096  # in a batch: the default of batch_flows
FLOW_BYTES = 130  # about what the codec makes of one


def benchmark(quick: bool) -> Report:
    report = Report("spool")
    batches, rounds = (50, 3) if quick else (250, 9)
    random = np.random.default_rng(1)
    values = [random.bytes(FLOWS * FLOW_BYTES) for _ in range(8)]
    append_ns, small_us, read_ns = [], [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as directory:
            with SpoolWriter(SpoolConfig(Path(directory))) as spool:
                began_ns = time.process_time_ns()
                for number in range(batches):
                    spool.append(b"host", values[number % len(values)], FLOWS)
                append_ns.append((time.process_time_ns() - began_ns) / batches / FLOWS)
            began_ns = time.process_time_ns()
            assert len(read_spool(Path(directory))) == batches
            read_ns.append((time.process_time_ns() - began_ns) / batches / FLOWS)
        with tempfile.TemporaryDirectory() as directory, SpoolWriter(SpoolConfig(Path(directory))) as spool:
            began_ns = time.process_time_ns()
            for _ in range(1000):
                spool.append(b"host", values[0][:FLOW_BYTES], 1)
            small_us.append((time.process_time_ns() - began_ns) / 1000 / 1e3)
    report.add("append to the spool, CPU per flow", "ns", append_ns)
    report.add("read from the spool, CPU per flow", "ns", read_ns)
    report.add("append of a batch of one flow, CPU", "us", small_us)
    report.notes.append(
        f"{batches} batches of {FLOWS:,} flows at {FLOW_BYTES} bytes, fsync once a second as by default; CPU includes "
        "the kernel's copy into the page cache."
    )
    return report
