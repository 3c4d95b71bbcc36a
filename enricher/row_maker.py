"""Messages of one offset range -> the files of the lake: RowMaker of enricher/rows.py.

Rows depend on the messages, their append times and the pinned settings alone. A host's clock may be wrong; its rows are
taken where their end lies within what clocks and spools allow, seen from the time that the log appended the batch, and
counted as rejected otherwise. That also bounds how many hours, and so how many files, one range can have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from enricher.attribute import attribute
from enricher.coverage import MINUTE_US, BatchReport, coverage_table, minutes_of, reports_of
from enricher.dedupe import BatchTotals, Deduper, DedupeState, Judged
from enricher.dictionary import canonical_text
from enricher.digest import rows_digest
from enricher.edges import edges_table, read_flows
from enricher.flows_table import CAPTURED, flows_table
from enricher.listeners import listeners_table
from enricher.parquet import identity_of, to_parquet, written_schema
from enricher.rows import FileIdentity, OffsetRange, Plan, Rejected, TableFile
from lake.layout import HOUR_US, date_and_hour, file_key, hours_of
from lake.ranges import Outcome, Scalar
from schemas.coverage import COVERAGE
from schemas.decode import DecodedMessage, DecodeError, decode_flows, decode_message
from schemas.edges import EDGES
from schemas.flow_batch import BatchHeader, Listener
from schemas.flows import FLOWS
from schemas.listeners import LISTENERS
from schemas.table import Table
from transport.log import Message

LAYOUT_VERSION = 1

DAY_SECONDS = 86_400
LATE_SECONDS = 15 * DAY_SECONDS  # the longest that a spool keeps a batch for a broker that is away, and a day
EARLY_SECONDS = 1 * DAY_SECONDS  # a clock that is ahead; beyond it dates would be invented


@dataclass(frozen=True, slots=True)
class Decoded:
    """What flow_files and derived_files need of the messages.

    wire: accepted flows, as decode_flows() gives them; `message` is an index into headers.
    hour: (n,) whole hours since 1970 UTC of each row's end_time.
    listeners: with the header of their batch.
    """

    headers: Sequence[BatchHeader]
    wire: pa.Table
    hour: NDArray[np.int64]
    listeners: Sequence[tuple[BatchHeader, Listener]]


@dataclass(frozen=True, slots=True)
class _Batch:
    """A message that has a readable header."""

    message: Message
    decoded: DecodedMessage
    judged: Judged


class FlowRowMaker:
    """RowMaker for FlowBatch messages. Keeps nothing between calls."""

    layout_version: int = LAYOUT_VERSION

    def __init__(self, late_seconds: int = LATE_SECONDS, early_seconds: int = EARLY_SECONDS) -> None:
        """late_seconds, early_seconds: how far end_time may lie before and after the append time of its batch."""
        self._settings: Mapping[str, Scalar] = {"late_seconds": late_seconds, "early_seconds": early_seconds}

    @property
    def settings(self) -> Mapping[str, Scalar]:
        """What a new intent pins."""
        return self._settings

    def plan(self, messages: Sequence[Message], state: DedupeState, range_: OffsetRange) -> Plan[Decoded]:
        """Decode, drop the batches accepted before, reject what cannot be read. See RowMaker.plan.

        A message whose header can be read is seen, and its repeats are known, also where its flows are rejected: they
        are counted once.
        """
        clock = _Clock(range_.settings)
        deduper = Deduper(state)
        rejected: list[Rejected] = []
        unreadable_hosts: set[str] = set()
        batches: list[_Batch] = []
        for message in messages:
            try:
                decoded = decode_message(message.value)
            except DecodeError as error:
                rejected.append(_rejected(message, "unreadable", str(error)))
                unreadable_hosts.add(message.key.decode(errors="replace"))
                continue
            batches.append(_Batch(message, decoded, deduper.judge(_totals(decoded.header), message.append_time_us)))

        fresh = [batch for batch in batches if not batch.judged.repeated]
        wire, wrong = decode_flows([batch.decoded for batch in fresh])
        for at, why in wrong.items():
            rejected.append(_rejected(fresh[at].message, "bad_flows", why))
        wire, hour = clock.allowed(wire, [batch.message.append_time_us for batch in fresh])
        accepted = np.bincount(wire["message"].to_numpy(), minlength=len(fresh)).tolist()
        good = [batch for at, batch in enumerate(fresh) if at not in wrong]
        listeners = [
            (batch.decoded.header, listener)
            for batch in good
            for listener in batch.decoded.header.listeners
            if clock.allows(listener.time, batch.message.append_time_us)
        ]
        counts = iter(accepted)
        reports = reports_of(
            [_report(batch, clock, 0 if batch.judged.repeated else next(counts)) for batch in batches],
            corrupt=bool(range_.corrupt),
            unreadable_hosts=frozenset(unreadable_hosts),
        )
        hours = {
            FLOWS.name: np.unique(hour).tolist(),
            EDGES.name: np.unique(hour).tolist(),
            COVERAGE.name: sorted({minute // HOUR_US for minute in minutes_of(reports)}),
            LISTENERS.name: sorted({listener.time // HOUR_US for _, listener in listeners}),
        }
        outcome = Outcome(
            accepted_batches=len(good),
            accepted_records=sum(accepted),
            repeated_batches=len(batches) - len(fresh),
            missing_batches=sum(batch.judged.missing for batch in fresh),
            rejected=_counted(reject.reason for reject in rejected),
            runs=deduper.change(),
            keys=tuple(sorted(_key(table, hour, range_) for table, each in hours.items() for hour in each)),
            coverage=reports,
        )
        rejected.sort(key=lambda reject: reject.offset)
        headers = [batch.decoded.header for batch in fresh]
        return Plan(outcome, tuple(rejected), Decoded(headers, wire, hour, listeners))

    def flow_files(self, plan: Plan[Decoded], range_: OffsetRange) -> list[TableFile]:
        """One file for every hour that the outcome has, in order of their keys."""
        decoded = plan.decoded
        made = {}
        for hour in np.unique(decoded.hour).tolist():
            here = decoded.hour == hour
            wire = decoded.wire if here.all() else decoded.wire.filter(pa.array(here))
            made[_key(FLOWS.name, hour, range_)] = attribute(flows_table(wire, decoded.headers), None)
        return [
            _file(FLOWS, key, made.get(key), range_, CAPTURED)
            for key in plan.outcome.keys
            if key.startswith(f"{FLOWS.name}/")
        ]

    def derived_files(self, plan: Plan[Decoded], range_: OffsetRange, stored_flows: Sequence[bytes]) -> list[TableFile]:
        """Edges from the stored rows, coverage from the outcome and the stored rows, listeners from the headers."""
        made = {
            **_by_hour(EDGES, edges_table(read_flows(stored_flows)) if stored_flows else None, range_),
            **_by_hour(COVERAGE, coverage_table(plan.outcome.coverage, _rows_by_run(stored_flows)), range_),
            **_by_hour(LISTENERS, listeners_table(plan.decoded.listeners), range_),
        }
        return [
            _file(table, key, made.get(key), range_, [column.name for column in table.columns])
            for table in (EDGES, COVERAGE, LISTENERS)
            for key in plan.outcome.keys
            if key.startswith(f"{table.name}/")
        ]

    def identify(self, body: bytes) -> FileIdentity:
        """What the file's footer says. Raises LakeError where it is not a file that we wrote whole."""
        return identity_of(body)


class _Clock:
    """What a host's clock may say, by the append time of its batch."""

    def __init__(self, settings: Mapping[str, Scalar]) -> None:
        self._late_us = int(settings["late_seconds"]) * 1_000_000
        self._early_us = int(settings["early_seconds"]) * 1_000_000

    def allows(self, time_us: int, append_time_us: int) -> bool:
        return append_time_us - self._late_us <= time_us <= append_time_us + self._early_us

    def allowed(self, wire: pa.Table, append_times_us: Sequence[int]) -> tuple[pa.Table, NDArray[np.int64]]:
        """(the rows whose end_time is allowed, the hour of each).

        append_times_us: by index of the message.
        """
        end_us = wire["end_time"].cast(pa.int64()).to_numpy()
        append_us = np.array(append_times_us, np.int64)[wire["message"].to_numpy()]
        allowed = (end_us >= append_us - self._late_us) & (end_us <= append_us + self._early_us)
        if not allowed.all():
            wire, end_us = wire.filter(pa.array(allowed)), end_us[allowed]
        return wire, hours_of(end_us)


def _totals(header: BatchHeader) -> BatchTotals:
    return BatchTotals(
        host_id=header.host_id,
        run_id=header.run_id,
        number=header.number,
        captured=header.captured,
        dropped=header.dropped,
        delayed_interims=header.delayed_interims,
    )


def _report(batch: _Batch, clock: _Clock, accepted: int) -> BatchReport:
    header, append_us = batch.decoded.header, batch.message.append_time_us
    made_us = header.created_time if clock.allows(header.created_time, append_us) else append_us
    return BatchReport(
        header=header,
        judged=batch.judged,
        minute_us=made_us - made_us % MINUTE_US,
        clock_offset_us=header.created_time - append_us,
        accepted=accepted,
        rejected=0 if batch.judged.repeated else batch.decoded.flow_count - accepted,
    )


def _rejected(message: Message, reason: str, error: str) -> Rejected:
    return Rejected(message.offset, message.key, message.value, reason, error)


def _rows_by_run(stored_flows: Sequence[bytes]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for body in stored_flows:
        read = pq.read_table(pa.BufferReader(body), columns=["run_id"], read_dictionary=["run_id"], use_threads=False)
        for each in read["run_id"].value_counts().to_pylist():
            counts[each["values"]] = counts.get(each["values"], 0) + each["counts"]
    return counts


def _by_hour(table: Table, rows: pa.Table | None, range_: OffsetRange) -> dict[str, pa.Table]:
    """The rows of each hour, by the key of its file."""
    if rows is None or rows.num_rows == 0:
        return {}
    hour = hours_of(rows[table.partition_time].cast(pa.int64()).to_numpy())
    return {
        _key(table.name, each, range_): canonical_text(rows.filter(pa.array(hour == each)))
        for each in np.unique(hour).tolist()
    }


def _key(table: str, hour: int, range_: OffsetRange) -> str:
    date, hour_text = date_and_hour(hour)
    return file_key(table, date, hour_text, range_.log, range_.partition, range_.first, range_.next)


def _file(table: Table, key: str, rows: pa.Table | None, range_: OffsetRange, captured: Sequence[str]) -> TableFile:
    """rows: None where nothing is left of what the intent had pinned: a file without rows keeps the place."""
    rows = written_schema(table).empty_table() if rows is None else rows
    identity = FileIdentity(
        log=range_.log,
        partition=range_.partition,
        first=range_.first,
        next=range_.next,
        readable_from=range_.readable_from,
        table=table.name,
        rows=rows.num_rows,
        digest=rows_digest(rows, captured),
    )
    body = to_parquet(rows, table, identity, LAYOUT_VERSION)
    return TableFile(key, table.name, rows.num_rows, identity.digest, body)


def _counted(reasons: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for reason in reasons:
        counts[reason] = counts.get(reason, 0) + 1
    return counts
