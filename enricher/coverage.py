"""The table `coverage` of one offset range: what its batches told of captured and lost records.

Two steps, since messages may expire between them. `reports_of` reads the headers; what it gives is pinned by the
intent. `coverage_table` makes the rows from that and from the rows that were really stored: what of a run was accepted
and is not there has expired in between.

Of every batch, captured = written + rejected + dropped by a name, all of it growth since the run's last batch
(docs/decisions/captured-is-counted-at-the-batch.md). Where batches are missing, something is left over: their records,
lost for a reason that only this end can know:
    dropped_spool_corrupt   the range has messages whose checksum failed
    rejected                a message of this host could not be read at all
    expired                 neither: the log had lost them before they were read
A sidecar whose spool was full names the loss only after batches that came later. Then less than nothing is left over,
and `expired` takes back what it had counted: so it may be negative in one row, and sums up right. Where nothing is
missing nothing is booked: if the sums of a sidecar do not agree then, `flowlake doctor` shows that they do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from enricher.dedupe import Judged
from enricher.parquet import written_schema
from schemas.coverage import COVERAGE
from schemas.drops import Drop
from schemas.flow_batch import BatchHeader

MINUTE_US = 60_000_000

_INT64_MAX = 2**63 - 1
_DROPS = frozenset(reason.value for reason in Drop)
_WHOLE_BATCHES = frozenset({Drop.SPOOL_FULL.value, Drop.SPOOL_ERROR.value})

Json = Any  # what json.loads gives


@dataclass(frozen=True, slots=True)
class BatchReport:
    """One batch that had a readable header.

    minute_us: when it was made: by its own clock, or by the log's where that is beyond what clocks allow.
    accepted, rejected: records in this message. Both 0 of a repeated one.
    """

    header: BatchHeader
    judged: Judged
    minute_us: int
    clock_offset_us: int
    accepted: int
    rejected: int


@dataclass(slots=True)
class HostMinute:
    """One minute of one run: a row of `coverage` without netns, before it is known what was stored."""

    minute_us: int
    host: str
    host_id: str
    run_id: str
    batches: int = 0
    repeated_batches: int = 0
    missing_batches: int = 0
    captured: int = 0
    accepted: int = 0
    rejected: int = 0
    expired: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    delayed_interims: int = 0
    clock_offset_us: int = 1 << 62


@dataclass(slots=True)
class NetnsMinute:
    """What the kernel counted in one network namespace, in one minute of one run."""

    minute_us: int
    host: str
    host_id: str
    run_id: str
    netns: int
    listen_overflows: int = 0
    listen_drops: int = 0
    out_no_routes: int = 0
    half_open: int = 0


def reports_of(batches: Iterable[BatchReport], *, corrupt: bool, unreadable_hosts: frozenset[str]) -> Json:
    """What the intent pins: sums per minute, as JSON, in the order of their hosts, runs and minutes.

    batches: in the order of their offsets.
    corrupt: whether the range has messages whose checksum failed.
    unreadable_hosts: host ids (keys of messages) of those whose header could not be read.
    """
    hosts: dict[tuple[str, str, int], HostMinute] = {}
    namespaces: dict[tuple[str, str, int, int], NetnsMinute] = {}
    for batch in batches:
        header, judged = batch.header, batch.judged
        who = (header.host_id, header.run_id, batch.minute_us)
        row = hosts.get(who)
        if row is None:
            row = hosts[who] = HostMinute(batch.minute_us, header.host, header.host_id, header.run_id)
        row.clock_offset_us = min(row.clock_offset_us, batch.clock_offset_us)
        if judged.repeated:
            row.repeated_batches += 1
            continue
        row.batches += 1
        row.missing_batches += judged.missing
        row.captured += judged.captured
        row.accepted += batch.accepted
        row.rejected += batch.rejected
        row.delayed_interims += judged.delayed_interims
        for reason, count in judged.dropped.items():
            _add_dropped(row, reason, count)
        unnamed = judged.captured - batch.accepted - batch.rejected - sum(judged.dropped.values())
        if judged.missing and unnamed > 0 and corrupt:
            _add_dropped(row, Drop.SPOOL_CORRUPT.value, unnamed)
        elif judged.missing and unnamed > 0 and header.host_id in unreadable_hosts:
            row.rejected += unnamed
        elif judged.missing or _WHOLE_BATCHES & judged.dropped.keys():
            row.expired += unnamed
        for counters in header.namespaces:
            at = (*who, counters.netns)
            netns = namespaces.get(at)
            if netns is None:
                netns = namespaces[at] = NetnsMinute(
                    batch.minute_us, header.host, header.host_id, header.run_id, counters.netns
                )
            netns.listen_overflows += counters.listen_overflows
            netns.listen_drops += counters.listen_drops
            netns.out_no_routes += counters.out_no_routes
            netns.half_open += counters.half_open
    return {
        "hosts": [asdict(hosts[key]) for key in sorted(hosts)],
        "namespaces": [asdict(namespaces[key]) for key in sorted(namespaces)],
    }


def minutes_of(reports: Json) -> set[int]:
    """Every minute that has a row, in microseconds since the epoch."""
    return {row["minute_us"] for kind in ("hosts", "namespaces") for row in reports[kind]}


def coverage_table(reports: Json, stored: Mapping[str, int]) -> pa.Table:
    """The rows of COVERAGE: hosts first, then namespaces.

    reports: of reports_of(), as the intent of the range has them.
    stored: rows of the range's `flows` files, by run id.
    """
    accepted: dict[str, int] = {}
    for row in reports["hosts"]:
        accepted[row["run_id"]] = accepted.get(row["run_id"], 0) + row["accepted"]
    gone = {run_id: count - stored.get(run_id, 0) for run_id, count in accepted.items()}

    rows: list[dict[str, Any]] = []
    for row in reports["hosts"]:
        # A log loses its oldest messages first, and the minutes of a run stand in their order.
        expired = min(gone[row["run_id"]], row["accepted"])
        gone[row["run_id"]] -= expired
        drops = {f"dropped_{reason.value}": row["dropped"].get(reason.value, 0) for reason in Drop}
        rows.append(
            {**row, **drops, "written": row["accepted"] - expired, "expired": row["expired"] + expired, "netns": None}
        )
    rows.extend(reports["namespaces"])
    return _table(rows)


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """A row that does not speak of a column has null there, or 0 where none may be."""
    schema = written_schema(COVERAGE)
    arrays = []
    for wanted in schema:
        name = "minute_us" if wanted.name == "minute" else wanted.name
        default = None if wanted.nullable else 0
        plain = wanted.type.value_type if pa.types.is_dictionary(wanted.type) else wanted.type
        values = pa.array([_bounded(row.get(name, default)) for row in rows], plain)
        arrays.append(values.dictionary_encode() if plain is not wanted.type else values)
    return pa.table(arrays, schema=schema)


def _bounded(value: Any) -> Any:
    """A number that no counter can reach must not stop a partition: nonsense from one host stays one row's nonsense."""
    return max(-_INT64_MAX, min(_INT64_MAX, value)) if isinstance(value, int) else value


def _add_dropped(row: HostMinute, reason: str, count: int) -> None:
    name = reason if reason in _DROPS else Drop.OTHER.value
    row.dropped[name] = row.dropped.get(name, 0) + count
