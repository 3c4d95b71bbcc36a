"""The boundary between the protocol (partition.py) and what rows are (row_maker.py).

The protocol knows messages, keys, digests and counts; the row maker knows batches, columns and Parquet. What it makes
of a range is decided by the messages, the dedupe state before them and the settings that the intent pinned, and by
nothing else: no clock, no claims. (Names may differ between two attempts; they are outside the digest.)

For one range the protocol calls, in this order:

    plan            all messages that could be read -> what becomes of them. `Plan.outcome` is pinned by the intent.
    flow_files      the `flows` files; they are created, or read back where another attempt was first.
    derived_files   every other file, from the `flows` files as they are stored.
    identify        any time: what a stored file says of itself.

Messages may expire between the intent and the end of its range. Then `plan` is called with what is left, its outcome is
replaced by the pinned one, and `flow_files` and `derived_files` still give a file for each of `plan.outcome.keys`:
without rows where nothing is left. Files of attempts that saw more messages are kept as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from enricher.dedupe import BatchTotals, Deduper, DedupeState, Judged
from lake.ranges import Outcome, RunState, Scalar
from transport.log import Message

__all__ = [
    "BatchTotals",
    "DedupeState",
    "Deduper",
    "FileIdentity",
    "Judged",
    "OffsetRange",
    "Outcome",
    "Plan",
    "Rejected",
    "RowMaker",
    "RunState",
    "TableFile",
]

FLOWS = "flows"  # the table whose files come first; every other is derived

D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class OffsetRange:
    """The offsets [first, next) of one partition, and what decides their rows."""

    log: str  # `<log>`, 16 hex digits
    partition: int
    first: int
    next: int  # exclusive
    readable_from: int  # the messages of [first, readable_from) had expired when this attempt read the range
    corrupt: tuple[int, ...]  # offsets whose bytes failed their checksum
    layout_version: int
    settings: Mapping[str, Scalar]  # as pinned; not necessarily what this process was started with


@dataclass(frozen=True, slots=True)
class Rejected:
    """A message that could not be read. It goes to flowlake.rejected.v1 as it came."""

    offset: int
    key: bytes
    value: bytes
    reason: str  # a short name, for counting
    error: str  # one line, for people


@dataclass(frozen=True, slots=True)
class Plan(Generic[D]):
    """What becomes of the messages of a range.

    outcome: what the intent pins. Keys are those of every file of the range: `flows` by the hour of end_time of the
        rows to come, derived tables by their own time.
    decoded: the row maker's own.
    """

    outcome: Outcome
    rejected: tuple[Rejected, ...]
    decoded: D


@dataclass(frozen=True, slots=True)
class TableFile:
    """One file, ready to be stored."""

    key: str
    table: str
    rows: int
    digest: (
        str  # of the captured rows, without the names that attribution gave; same rows in the same order, same digest
    )
    body: bytes


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What a file's own metadata say of it: enough to tell whether it is the file that we were about to store."""

    log: str
    partition: int
    first: int
    next: int
    readable_from: int  # OffsetRange.readable_from of the attempt that stored it
    table: str
    rows: int
    digest: str


class RowMaker(Protocol[D]):
    """Messages in, files out. Keeps nothing between calls."""

    @property
    def layout_version(self) -> int:
        """The version of row making: raised whenever the same messages would give other rows, keys or digests."""
        ...

    @property
    def settings(self) -> Mapping[str, Scalar]:
        """Every setting that decides rows, as a new intent pins it."""
        ...

    def plan(self, messages: Sequence[Message], state: DedupeState, range_: OffsetRange) -> Plan[D]:
        """Decode, drop the batches accepted before (Deduper), reject what cannot be read."""
        ...

    def flow_files(self, plan: Plan[D], range_: OffsetRange) -> Sequence[TableFile]:
        """One file for every key of table `flows` in plan.outcome.keys."""
        ...

    def derived_files(self, plan: Plan[D], range_: OffsetRange, stored_flows: Sequence[bytes]) -> Sequence[TableFile]:
        """One file for every other key of plan.outcome.keys: edges from the stored rows, coverage from the outcome and
        the stored rows (so that it is the same for every attempt: accepted records of a run less its stored rows have
        expired), listeners from the headers.

        stored_flows: the bodies of the `flows` files, in the order of flow_files.
        """
        ...

    def identify(self, body: bytes) -> FileIdentity:
        """Read from the file's metadata. Raises LakeError where it has none that we wrote."""
        ...
