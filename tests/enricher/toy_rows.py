"""A row maker without columns: rows are strings, files are JSON. As deterministic as the real one has to be.

A batch is made by `batch`; its rows are named "<run>/<number>/<i>" and lie in the hours that the batch gives. Every
attempt signs the rows that it stores with a name of its own, outside the digest, as attribution may: `edges` must then
follow the rows that are stored, whoever stored them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from enricher.rows import (
    BatchTotals,
    Deduper,
    DedupeState,
    FileIdentity,
    OffsetRange,
    Outcome,
    Plan,
    Rejected,
    TableFile,
)
from lake.layout import file_key
from lake.ranges import Scalar
from transport.log import Message


def batch(run: str, number: int, *hours: int) -> bytes:
    """A message's value: one row for each hour given."""
    return json.dumps([run, number, hours]).encode()


def rows_of(value: bytes) -> list[tuple[int, str]]:
    """The (hour, row) of a batch."""
    run, number, hours = json.loads(value)
    return [(hour, f"{run}/{number}/{i}") for i, hour in enumerate(hours)]


def edges_of(flow_bodies: Sequence[bytes]) -> dict[str, int]:
    """What `edges` must be, from the stored rows: how many for each name."""
    return dict(Counter(name for body in flow_bodies for name, _ in json.loads(body)["rows"]))


def key_of(table: str, hour: int, range_: OffsetRange) -> str:
    return file_key(table, "2026-11-22", f"{hour:02}", range_.log, range_.partition, range_.first, range_.next)


@dataclass(frozen=True)
class ToyRows:
    """RowMaker[list of (hour, row)]."""

    attempt: str
    layout_version: int = 1
    unit: int = 1  # a setting that decides rows

    @property
    def settings(self) -> Mapping[str, Scalar]:
        return {"unit": self.unit}

    def plan(
        self, messages: Sequence[Message], state: DedupeState, range_: OffsetRange
    ) -> Plan[tuple[tuple[int, str], ...]]:
        deduper = Deduper(state)
        rows: list[tuple[int, str]] = []
        rejected: list[Rejected] = []
        accepted = repeated = missing = 0
        for message in messages:
            try:
                run, number, hours = json.loads(message.value)
            except ValueError as error:
                rejected.append(Rejected(message.offset, message.key, message.value, "unreadable", str(error)))
                continue
            judged = deduper.judge(BatchTotals("host", run, number, (number + 1) * 10, {}, 0), message.append_time_us)
            missing += judged.missing
            if judged.repeated:
                repeated += 1
            else:
                accepted += 1
                rows += rows_of(message.value) * int(str(range_.settings["unit"]))
        hours = sorted({hour for hour, _ in rows})
        keys = [key_of(table, hour, range_) for hour in hours for table in ("flows", "edges")]
        outcome = Outcome(
            accepted_batches=accepted,
            accepted_records=len(rows),
            repeated_batches=repeated,
            missing_batches=missing,
            rejected={"unreadable": len(rejected)} if rejected else {},
            runs=deduper.change(),
            keys=tuple(sorted(keys)),
        )
        return Plan(outcome, tuple(rejected), tuple(rows))

    def flow_files(self, plan: Plan[tuple[tuple[int, str], ...]], range_: OffsetRange) -> list[TableFile]:
        files = []
        for key in plan.outcome.keys:
            if key.startswith("flows/"):
                rows = [row for hour, row in plan.decoded if key_of("flows", hour, range_) == key]
                files.append(self._file(key, range_, [(self.attempt, row) for row in rows], rows))
        return files

    def derived_files(
        self, plan: Plan[tuple[tuple[int, str], ...]], range_: OffsetRange, stored_flows: Sequence[bytes]
    ) -> list[TableFile]:
        hourly = (key for key in plan.outcome.keys if key.startswith("edges/"))
        sums = (sorted(edges_of([body]).items()) for body in stored_flows)
        return [self._file(key, range_, rows, rows) for key, rows in zip(hourly, sums, strict=True)]

    def identify(self, body: bytes) -> FileIdentity:
        return FileIdentity(**json.loads(body)["identity"])

    @staticmethod
    def _file(key: str, range_: OffsetRange, rows: Sequence[object], captured: Sequence[object]) -> TableFile:
        table = key.partition("/")[0]
        digest = hashlib.sha256(json.dumps(captured).encode()).hexdigest()
        identity = {
            "log": range_.log,
            "partition": range_.partition,
            "first": range_.first,
            "next": range_.next,
            "readable_from": range_.readable_from,
            "table": table,
            "rows": len(rows),
            "digest": digest,
        }
        return TableFile(key, table, len(rows), digest, json.dumps({"identity": identity, "rows": rows}).encode())
