"""`flowlake tail`: the records of this host as the sidecar spools them, a line each."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from flowlake.config import load_spool
from flowlake.failing import failed_rows
from flowlake.output import endpoint, for_eyes, json_lines
from flowlake.spool_tail import SpoolTail
from lake.config import LakeConfig
from settings import add_flags
from transport.config import SpoolConfig

POLL_SECONDS = 0.2  # a line comes at most so much after its batch; a look at an idle spool costs microseconds


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rows to show."""

    port: int | None = None  # of either end
    workload: str | None = None  # at either end
    failed: bool = False

    def apply(self, flows: pa.Table) -> pa.Table:
        if self.port is not None:
            flows = flows.filter(_either(flows, "port", self.port))
        if self.workload is not None:
            flows = flows.filter(pc.fill_null(_either(flows, "workload", self.workload), False))
        return flows.filter(failed_rows(flows)) if self.failed else flows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object per line, with the columns of `flows`")
    parser.add_argument("--from-start", action="store_true", help="begin with what the spool still holds")
    parser.add_argument("--count", type=_positive, metavar="N", help="end after so many records")
    parser.add_argument("--port", type=int, help="only connections with this port at either end")
    parser.add_argument("--workload", help="only connections of this workload")
    parser.add_argument("--failed", action="store_true", help="only connections that never came about, or broke")
    add_flags(parser, SpoolConfig, LakeConfig)


def run(args: argparse.Namespace) -> int:
    """Until --count or Ctrl-C. Raises FlowlakeError."""
    tail = SpoolTail(load_spool(args).directory)
    tail.check()  # a wrong directory is an error, not a wait for ever
    if not args.from_start:
        tail.skip_to_end()
    wanted = Filter(args.port, args.workload, args.failed)
    left = args.count
    for flows in follow(tail, wait=lambda: time.sleep(POLL_SECONDS)):
        rows = wanted.apply(flows)
        if left is not None:
            rows = rows.slice(0, left)
            left -= rows.num_rows
        for line in json_lines(rows.to_batches()) if args.json else text_lines(rows):
            sys.stdout.write(line + "\n")
        sys.stdout.flush()
        if left == 0:
            return 0
    return 0


def follow(tail: SpoolTail, wait: Callable[[], None]) -> Iterator[pa.Table]:
    """Flows as they come, for ever; `wait` is called where there are none. What was missed goes to standard error."""
    told = (0, 0)
    while True:
        yield from tail.new_flows()
        if (tail.missed, tail.unreadable) != told:
            told = (tail.missed, tail.unreadable)
            print(f"flowlake: {told[0]} messages missed, {told[1]} unreadable so far", file=sys.stderr)
        wait()


def text_lines(flows: pa.Table) -> Iterator[str]:
    """One line per row: when, who, from where to where, how it stands or ended, what it moved, how far away."""
    columns = (
        "end_time", "role", "pid", "process", "local_workload", "local_address", "local_port", "remote_workload",
        "remote_address", "remote_port", "final", "state", "close_reason", "close_detail", "bytes_sent",
        "bytes_received", "rtt_us", "retransmits",
    )  # fmt: skip
    for row in flows.select(columns).to_pylist():
        yield _line(row)


def _line(row: Mapping[str, Any]) -> str:
    time_ = row["end_time"].astimezone(UTC).strftime("%H:%M:%S.%f")[:-3]
    process = row["process"] or "?"
    who = process if row["local_workload"] in (None, process) else f"{row['local_workload']}/{process}"
    arrow = {"client": "->", "server": "<-"}.get(row["role"], "--")
    local = endpoint(row["local_address"], row["local_port"])
    remote = endpoint(row["remote_workload"] or row["remote_address"], row["remote_port"])
    how = row["close_reason"] if row["final"] else f"open ({row['state']})"
    if row["final"] and row["close_detail"]:
        how += f" ({row['close_detail']})"
    moved = f"sent {for_eyes('bytes', row['bytes_sent'])}, received {for_eyes('bytes', row['bytes_received'])}"
    if row["rtt_us"] is not None:
        moved += f", rtt {for_eyes('rtt_us', row['rtt_us'])}"
    if row["retransmits"]:
        moved += f", {row['retransmits']} retransmits"
    return f"{time_}  {for_eyes('', who)}[{row['pid'] or '?'}]  {local} {arrow} {remote}  {how}  {moved}"


def _either(flows: pa.Table, what: str, value: object) -> pa.ChunkedArray:
    return pc.or_kleene(pc.equal(flows[f"local_{what}"], value), pc.equal(flows[f"remote_{what}"], value))


def _positive(text: str) -> int:
    try:
        count = int(text)
    except ValueError:
        count = 0
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number, 1 or more")
    return count
