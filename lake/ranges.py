"""The writers' own objects in a lake: what was begun, what was finished, and of which log (docs/exactly-once.md).

    _lake.json                                         LakeFile   which lake this is, and who may write to it
    _ranges/<log>/<partition>/genesis.json             Genesis    which log the chain is about, and where it begins
    _ranges/<log>/<partition>/<first>.range.json       Intent     an offset range, and everything that decides its rows
    _ranges/<log>/<partition>/<first>.done.json        Done       the same range, finished
    _ranges/<log>/<partition>/_head                    Head       a hint for where to start listing; may be overwritten

All are JSON. A field that this version does not know is ignored: what may not be ignored raises the format version.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from settings.errors import FlowlakeError

FORMAT_VERSION = 1
ENGINE = "hive"
LAKE_KEY = "_lake.json"
RANGES_PREFIX = "_ranges/"
FULL_STATE_EVERY = 100  # dones: so many are read at most to know the dedupe state again

Scalar = str | int | bool
Json = Any  # what json.loads gives
T = TypeVar("T")


class LakeError(FlowlakeError):
    """This lake may not be written to, or an object in it cannot be understood."""


def log_hash(kind: str, uuid: str) -> str:
    """The `<log>` of keys: 16 hex digits that stand for the log, whatever people call it."""
    return hashlib.sha256(f"{kind}\0{uuid}".encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class ChainKeys:
    """The keys of one partition's chain."""

    log: str
    partition: int

    @property
    def prefix(self) -> str:
        return f"{RANGES_PREFIX}{self.log}/{self.partition}/"

    @property
    def genesis(self) -> str:
        return f"{self.prefix}genesis.json"

    @property
    def head(self) -> str:
        return f"{self.prefix}_head"

    def intent(self, first: int) -> str:
        return f"{self.prefix}{first:020d}.range.json"

    def done(self, first: int) -> str:
        return f"{self.prefix}{first:020d}.done.json"

    def first_of_done(self, key: str) -> int | None:
        """The first offset that a key of this chain speaks of; None where it is not the key of a done."""
        name = key.removeprefix(self.prefix)
        digits = name.removesuffix(".done.json")
        return int(digits) if digits != name and len(digits) == 20 and digits.isdigit() else None


@dataclass(frozen=True, slots=True)
class RunState:
    """What is remembered of one run of a sidecar: enough to know its repeats, and its totals' growth."""

    host_id: str
    watermark: int  # number of the last batch accepted; -1: none
    captured: int  # running totals of the run as that batch gave them
    dropped: Mapping[str, int]
    delayed_interims: int
    last_append_us: int  # when its last batch, repeated or not, was appended to the log; microseconds UTC


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of the messages of one range: decided before its intent is made, and pinned by it.

    So it is known even when messages expire between the intent and the done: which batches count as seen, how many
    rows there would have been, and every key that any attempt may create. A finisher creates all of them, empty where
    nothing is left to write; then no late attempt can add a file to a range that is done.
    """

    accepted_batches: int
    accepted_records: int  # rows of `flows`, over all its files of the range
    repeated_batches: int
    missing_batches: int  # numbers that were passed over
    rejected: Mapping[str, int]  # messages by reason
    runs: Mapping[str, RunState]  # change of the dedupe state, by run id
    keys: tuple[str, ...]  # every file of the range, of every table, sorted
    coverage: Json = None  # the row maker's own: what `coverage` must be able to say after the headers have expired

    def to_json(self) -> bytes:
        """Canonical: outcomes are the same when these bytes are."""
        return _dump(self)


@dataclass(frozen=True, slots=True)
class LakeFile:
    """`_lake.json`."""

    uuid: str
    format_version: int = FORMAT_VERSION
    engine: str = ENGINE

    def check(self) -> None:
        """Raises LakeError where this version may not write here."""
        if self.format_version > FORMAT_VERSION:
            raise LakeError(
                f"the lake has format {self.format_version}, this flowlake knows {FORMAT_VERSION}: "
                "use the newer flowlake that made it, or another lake"
            )
        if self.engine != ENGINE:
            raise LakeError(
                f"the lake is kept by the engine '{self.engine}', not by '{ENGINE}': never both over the same files; "
                "use another lake"
            )

    def to_json(self) -> bytes:
        return _dump(self)

    @classmethod
    def from_json(cls, body: bytes) -> Self:
        return _load(cls, LAKE_KEY, body)


@dataclass(frozen=True, slots=True)
class Genesis:
    """What a chain is about. The chain of a log made anew begins with what its predecessors knew of the runs."""

    kind: str
    name: str
    uuid: str
    partition: int
    first: int  # where the first range begins
    predecessors: tuple[str, ...] = ()  # `<log>` of each
    runs: Mapping[str, RunState] = field(default_factory=dict)

    def to_json(self) -> bytes:
        return _dump(self)

    @classmethod
    def from_json(cls, body: bytes) -> Self:
        return _load(cls, "genesis.json", body, runs=_runs, predecessors=tuple)


@dataclass(frozen=True, slots=True)
class Intent:
    """A range that someone set out to write. Who finds it without a done finishes it, to the same rows."""

    index: int  # 0 for the first range of the chain
    first: int
    next: int  # exclusive
    messages: int
    digest: str  # of the messages, message_digest(); of none where `gap`
    corrupt: tuple[int, ...]  # offsets in it whose bytes had failed their checksum
    gap: bool  # the log had lost [first, next) before anyone read it
    layout_version: int
    settings: Mapping[str, Scalar]  # every setting that decides rows
    outcome: Outcome

    def to_json(self) -> bytes:
        return _dump(self)

    @classmethod
    def from_json(cls, body: bytes) -> Self:
        return _load(cls, "range.json", body, corrupt=tuple, outcome=_outcome)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a finished range."""

    key: str
    table: str
    rows: int
    digest: str


@dataclass(frozen=True, slots=True)
class Done:
    """A finished range: its files are all there, and there will be no others."""

    index: int
    first: int
    next: int
    files: tuple[FileEntry, ...]
    written_records: int  # rows of `flows`
    accepted_batches: int
    repeated_batches: int
    missing_batches: int
    rejected: Mapping[str, int]
    corrupt: int  # messages whose bytes failed their checksum: dropped as spool_corrupt
    expired_offsets: int  # of [first, next), that the log had lost when this range was finished
    expired_records: int  # of the records accepted, those that were lost so
    runs: Mapping[str, RunState]  # change of the dedupe state; all of it where `full`
    full: bool

    def to_json(self) -> bytes:
        return _dump(self)

    @classmethod
    def from_json(cls, body: bytes) -> Self:
        return _load(cls, "done.json", body, files=_files, runs=_runs)


@dataclass(frozen=True, slots=True)
class Head:
    """A done that holds the whole dedupe state; a later one may exist."""

    first: int

    def to_json(self) -> bytes:
        return _dump(self)

    @classmethod
    def from_json(cls, body: bytes) -> Self:
        return _load(cls, "_head", body)


def _dump(value: Any) -> bytes:
    return json.dumps(dataclasses.asdict(value), sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _load(cls: type[T], name: str, body: bytes, **convert: Callable[[Json], Any]) -> T:
    try:
        return _from_dict(cls, json.loads(body), convert)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise LakeError(
            f"cannot understand an object {name} of this lake ({error!r}): was it edited by hand?"
        ) from error


def _from_dict(cls: type[T], fields: Json, convert: Mapping[str, Callable[[Json], Any]]) -> T:
    known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    return cls(**{k: convert.get(k, lambda v: v)(v) for k, v in fields.items() if k in known})


def _runs(value: Json) -> dict[str, RunState]:
    return {run_id: _from_dict(RunState, run, {}) for run_id, run in value.items()}


def _outcome(value: Json) -> Outcome:
    return _from_dict(Outcome, value, {"runs": _runs, "keys": tuple})


def _files(value: Json) -> tuple[FileEntry, ...]:
    return tuple(_from_dict(FileEntry, entry, {}) for entry in value)
