"""What it costs to bring flows into the lake: the enricher's stages, and its whole process over a million flows.

Stages run on generated batches of a fleet (bench/enricher.py) and on batches that a sidecar made of real connections.
The generated ones have a fleet's variety of addresses, names and times; the real ones are loopback's, with few.
"""

from __future__ import annotations

import os

os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # as enricher/main.py does, before pyarrow is loaded

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.enricher import BUDGET_BYTES, BUDGET_US, measure, messages
from bench.process import Process, Sidecar, read_spool
from bench.report import Breakdown, Report
from bench.traffic import Traffic, churn, mixed, traffic_namespace
from enricher.main import KEPT_BYTES
from schemas.decode import decode_message
from settings.memory import keep_freed_pages
from transport.config import SpoolConfig
from transport.log import Message
from transport.spool import SpoolWriter

STAGES = ("decode headers", "decode flows", "to columns", "attribute", "digest", "parquet")
AFTERWARDS = ("read back", "edges")
BATCH_FLOWS = 4000
MANY_FLOWS = 1_000_000


def benchmark(quick: bool) -> Report:
    keep_freed_pages(KEPT_BYTES)
    report = Report("lake")
    rounds, per_range = (2, 40_000) if quick else (7, 100_000)
    cases = {
        "generated churn": messages("churn", BATCH_FLOWS, per_range // BATCH_FLOWS),
        "generated mixed": messages("mixed", BATCH_FLOWS, per_range // BATCH_FLOWS),
        "recorded churn": _recorded(churn(per_range // 2)),
        "recorded mixed": _recorded(mixed(per_range // 4), "--round-gap-us", "300000"),
    }
    for case, batch in cases.items():
        _stages(report, case, batch, rounds)
    _whole_process(report, MANY_FLOWS // 10 if quick else MANY_FLOWS, 1 if quick else 3)
    return report


def _stages(report: Report, case: str, batch: Sequence[Message], rounds: int) -> None:
    figures = measure(batch, rounds)
    budgeted = case == "generated churn"
    bound_us, bound_bytes = (BUDGET_US, BUDGET_BYTES) if budgeted else (None, None)
    what = f"enricher, message to Parquet bytes, CPU per flow, {case}"
    report.add(what, "us", figures["message to parquet"], bound_us)
    report.add(f"edges, coverage and listeners of these, {case}", "us", figures["derived files"])
    report.add(f"lake, flows, {case}, per flow", "bytes", figures["bytes in flows"], bound_bytes)
    report.add(f"lake, other tables, {case}, per flow", "bytes", figures["bytes in other tables"])
    report.add(f"log, {case}, per flow", "bytes", figures["bytes on the wire"])
    medians = {stage: sorted(samples)[len(samples) // 2] for stage, samples in figures.items()}
    parts = {stage: medians[stage] for stage in (*STAGES, *AFTERWARDS)}
    parts["other files"] = max(medians["derived files"] - sum(medians[stage] for stage in AFTERWARDS), 0.0)
    report.breakdowns.append(Breakdown(f"the enricher's stages, {case}", "us", parts))
    report.notes.append(f"{case}: {len(batch)} batches, {_flows(batch):,} flows in one range, medians of {rounds}.")


def _recorded(wanted: NDArray[Any], *options: str) -> list[Message]:
    """The batches that a sidecar made of these connections, with interims each half second."""
    with traffic_namespace() as where, tempfile.TemporaryDirectory() as spool:
        with Sidecar(Path(spool), "--interim-seconds", "0.5") as sidecar:
            with Traffic(where, wanted, *options) as traffic:
                traffic.finish()
            time.sleep(1.5)
            sidecar.finish()
        return read_spool(Path(spool))


def _whole_process(report: Report, flows: int, rounds: int) -> None:
    """`flowlake enricher --drain` from its start to its end, over a spool of many flows and over one of hardly any."""
    per_flow, start_ms, peak_mb = [], [], []
    with tempfile.TemporaryDirectory() as directory:
        many, few = Path(directory, "many"), Path(directory, "few")
        _fill(many, flows)
        _fill(few, BATCH_FLOWS)
        for number in range(rounds):
            start_us, _ = _drain(few, Path(directory, f"few-lake-{number}"))
            whole_us, peak = _drain(many, Path(directory, f"many-lake-{number}"))
            start_ms.append(start_us / 1e3)
            per_flow.append((whole_us - start_us) / (flows - BATCH_FLOWS))
            peak_mb.append(peak)
    report.add(f"enricher, whole process over {flows:,} flows, start-up taken out, CPU per flow", "us", per_flow)
    report.add("enricher, start-up and one batch, CPU", "ms", start_ms)
    report.add(f"enricher, largest RSS over {flows:,} flows, no claims, one partition", "MB", peak_mb, bound=512)
    report.notes.append(
        f"Whole process: generated churn in a spool, in batches of {BATCH_FLOWS:,}, with edges, coverage, fsync and "
        "the protocol's own objects; the budget of memory is for 1 M claims and 8 partitions, which do not exist yet."
    )


def _fill(spool: Path, flows: int) -> None:
    hour_us = 3_600_000_000
    last_hour_us = (time.time_ns() // 1000 // hour_us - 1) * hour_us
    made = messages("churn", BATCH_FLOWS, flows // BATCH_FLOWS, last_hour_us)
    times_us = iter(message.append_time_us for message in made)
    with SpoolWriter(SpoolConfig(spool), clock_us=lambda: next(times_us)) as writer:
        for message in made:
            writer.append(message.key, message.value, BATCH_FLOWS)


def _drain(spool: Path, lake: Path) -> tuple[float, float]:
    """(microseconds of CPU, largest RSS in MB)."""
    flags = ("--drain", "--spool", str(spool), "--lake", str(lake), "--settle-seconds", "0", "--range-seconds", "3600")
    with Process("enricher", *flags) as enricher:
        while not (lake / "_lake.json").exists() and enricher.running():  # sooner, SIGTERM would simply end it
            time.sleep(0.05)
        enricher.terminate()
        peak_mb = 0.0
        while enricher.running():
            peak_mb = max(peak_mb, enricher.memory_mib("VmHWM"))
            time.sleep(0.05)
        return enricher.finish().total_ns / 1e3, peak_mb


def _flows(batch: Sequence[Message]) -> int:
    return int(np.sum([decode_message(message.value).flow_count for message in batch]))
