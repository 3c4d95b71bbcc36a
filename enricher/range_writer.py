"""One range, from its intent to its done: steps 3 and 5 to 10 of docs/exactly-once.md."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from enricher.chain import PartitionStopped, Tip
from enricher.gather import Contents, GatherConfig, message_digest, read_exactly
from enricher.operations import Get, Now, PublishRejected, Put, PutIfAbsent, Steps, Warn
from enricher.rows import FLOWS, OffsetRange, Plan, RowMaker, TableFile
from lake.ranges import FULL_STATE_EVERY, ChainKeys, Done, FileEntry, Head, Intent
from lake.store import ObjectExists

D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class PartitionConfig:
    """How the protocol of a partition is run. Nothing in it decides rows: those settings are the row maker's."""

    gather: GatherConfig = field(default_factory=GatherConfig)
    verified_seconds: float = 300.0  # how long a tip is believed: a pause may be longer than anyone's patience
    first_backoff_seconds: float = 0.5
    last_backoff_seconds: float = 30.0
    full_state_every: int = FULL_STATE_EVERY


class GoToStep2(Exception):
    """Someone else was there first, or the tip was not verified for too long: look again before any write."""


@dataclass(frozen=True, slots=True)
class Begun(Generic[D]):
    """A range whose intent is there, as this attempt could read it."""

    intent: Intent
    range_: OffsetRange
    plan: Plan[D]


class RangeWriter(Generic[D]):
    """Writes the ranges of one chain. Its only state is when the tip was last seen to be the tip."""

    def __init__(self, keys: ChainKeys, rows: RowMaker[D], config: PartitionConfig) -> None:
        self._keys = keys
        self._rows = rows
        self._config = config
        self._verified_us: int | None = None  # CLOCK_BOOTTIME

    @property
    def verified(self) -> bool:
        """Whether the tip that was found last may still be believed, as far as is known without a look at the clock."""
        return self._verified_us is not None

    def verify(self) -> Steps[None]:
        """Call before looking for the tip: what is seen from now on is at least as new as now."""
        self._verified_us = (yield from Now()).boottime_us

    def doubt(self) -> None:
        """Believe nothing until the next `verify`."""
        self._verified_us = None

    def begin(self, tip: Tip, contents: Contents) -> Steps[Begun[D]]:
        """Pin the range, and what becomes of it (5). Raises GoToStep2 where someone else's intent is there."""
        if contents.gap:
            yield from Warn(
                f"the log has lost offsets {contents.first} to {contents.next - 1}, unread: written down as expired. "
                "Give the log more room or time, or the enricher more CPU"
            )
        range_ = OffsetRange(
            log=self._keys.log,
            partition=self._keys.partition,
            first=contents.first,
            next=contents.next,
            readable_from=contents.readable_from,
            corrupt=tuple(contents.corrupt),
            layout_version=self._rows.layout_version,
            settings=self._rows.settings,
        )
        plan = self._rows.plan(contents.messages, tip.state, range_)
        intent = Intent(
            index=tip.index,
            first=range_.first,
            next=range_.next,
            messages=len(contents.messages),
            digest=message_digest(contents.messages, contents.corrupt),
            corrupt=range_.corrupt,
            gap=contents.gap,
            layout_version=range_.layout_version,
            settings=range_.settings,
            outcome=plan.outcome,
        )
        try:
            yield from self._create(self._keys.intent(intent.first), intent.to_json())
        except ObjectExists:
            raise GoToStep2 from None
        return Begun(intent, range_, plan)

    def adopt(self, tip: Tip, intent: Intent) -> Steps[Begun[D]]:
        """Take over a range that someone, perhaps we, began (3): the same messages, or those of them that are left."""
        if intent.layout_version != self._rows.layout_version:
            raise PartitionStopped(
                f"the range at offset {intent.first} was begun with row layout {intent.layout_version}, this version "
                f"makes {self._rows.layout_version}: let the flowlake that began it finish it, then start this one"
            )
        contents = yield from read_exactly(intent, self._config.gather.range_bytes)
        range_ = OffsetRange(
            log=self._keys.log,
            partition=self._keys.partition,
            first=intent.first,
            next=intent.next,
            readable_from=contents.readable_from,
            corrupt=intent.corrupt,
            layout_version=intent.layout_version,
            settings=intent.settings,
        )
        plan = self._rows.plan(contents.messages, tip.state, range_)
        if range_.readable_from > range_.first:
            # What can still be read may look otherwise without what came before it. What was pinned counts.
            yield from Warn(
                f"the range at offset {range_.first} was begun, but the log has lost its messages below "
                f"{range_.readable_from}: what was not in the lake by then is written down as expired"
            )
            plan = replace(plan, outcome=intent.outcome)
        elif plan.outcome.to_json() != intent.outcome.to_json():
            raise PartitionStopped(
                f"the messages of the range at offset {range_.first} give other rows than its intent says, though row "
                f"layout {range_.layout_version} is the same: start the flowlake that began it, and report this"
            )
        return Begun(intent, range_, plan)

    def finish(self, tip: Tip, begun: Begun[D]) -> Steps[Done]:
        """Create the files and the done (6 to 9). Raises GoToStep2 where someone else finished first."""
        intent, range_, plan = begun.intent, begun.range_, begun.plan

        # 6. and 7. The rows, and their files.
        entries: list[FileEntry] = []
        stored_flows: list[bytes] = []
        for file in self._rows.flow_files(plan, range_):
            entry, body = yield from self._store(file, range_)
            entries.append(entry)
            stored_flows.append(body)

        # 8. What is derived, from the rows as they are stored.
        for file in self._rows.derived_files(plan, range_, stored_flows):
            entry, _ = yield from self._store(file, range_)
            entries.append(entry)

        outcome = intent.outcome
        if sorted(entry.key for entry in entries) != list(outcome.keys):
            raise PartitionStopped(
                f"the range at offset {range_.first} has other files than its intent says: this is a mistake in "
                "flowlake's row maker, report it"
            )

        # 9. The messages that could not be read, then the done.
        if plan.rejected:
            yield from PublishRejected(plan.rejected)
        full = intent.index % self._config.full_state_every == 0
        written_records = sum(entry.rows for entry in entries if entry.table == FLOWS)
        done = Done(
            index=intent.index,
            first=intent.first,
            next=intent.next,
            files=tuple(entries),
            written_records=written_records,
            accepted_batches=outcome.accepted_batches,
            repeated_batches=outcome.repeated_batches,
            missing_batches=outcome.missing_batches,
            rejected=outcome.rejected,
            corrupt=len(intent.corrupt),
            expired_offsets=range_.readable_from - range_.first,
            expired_records=outcome.accepted_records - written_records,
            runs=tip.state.apply(outcome.runs).runs if full else outcome.runs,
            full=full,
        )
        try:
            yield from self._create(self._keys.done(done.first), done.to_json())
        except ObjectExists:
            raise GoToStep2 from None
        return done

    def hint(self, done: Done) -> Steps[None]:
        """Say where to start listing. Last writer wins, and may be wrong."""
        yield from Put(self._keys.head, Head(done.first).to_json())

    def _store(self, file: TableFile, range_: OffsetRange) -> Steps[tuple[FileEntry, bytes]]:
        """Create the file; where it is there, of another attempt or by a lost answer, see that it is the same."""
        try:
            yield from self._create(file.key, file.body)
        except ObjectExists:
            body = yield from Get(file.key)
            found = self._rows.identify(body)
            ours = (range_.log, range_.partition, range_.first, range_.next, file.table)
            theirs = (found.log, found.partition, found.first, found.next, found.table)
            # An attempt that could read more, or less, of the range stored other rows; what is stored stays.
            comparable = found.readable_from == range_.readable_from
            if ours != theirs or (comparable and (found.rows, found.digest) != (file.rows, file.digest)):
                raise PartitionStopped(
                    f"{file.key} is there with other rows than the messages of its range give "
                    f"({found.rows} of {found.table}, digest {found.digest[:12]}; expected {file.rows} of "
                    f"{file.table}, digest {file.digest[:12]}): find out who wrote it before you move it away"
                ) from None
            return FileEntry(file.key, found.table, found.rows, found.digest), body
        return FileEntry(file.key, file.table, file.rows, file.digest), file.body

    def _create(self, key: str, body: bytes) -> Steps[None]:
        """Every write but the hints goes through here (10)."""
        now = yield from Now()
        limit_us = int(self._config.verified_seconds * 1_000_000)
        if self._verified_us is None or now.boottime_us - self._verified_us > limit_us:
            raise GoToStep2
        yield from PutIfAbsent(key, body)
