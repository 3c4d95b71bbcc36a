"""A line of `flowlake doctor`, and the checks of what a pipeline keeps on disk: the spool, the lake, its balance."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from flowlake.output import for_eyes
from lake.config import local_path
from lake.duckdb_engine import DuckDBEngine, check_lake
from lake.questions import Window
from lake.ranges import ChainKeys, Done, log_hash
from schemas.drops import Drop
from settings.errors import FlowlakeError
from transport.config import SpoolConfig
from transport.spool import SpoolReader
from transport.spool_directory import read_committed, read_identity

BALANCE_DAYS = 1  # how far back the balance looks
QUIET_SECONDS = 180  # a sidecar writes a row of coverage a minute; after three the run counts as over


class State(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Line:
    """One check. remedy: what to do about it; empty where all is well."""

    check: str
    state: State
    detail: str
    remedy: str = ""


def spool_lines(config: SpoolConfig) -> Iterator[Line]:
    """Whether the spool can be written, has room up to its bound, and what it holds. Changes nothing."""
    directory = config.directory
    existing = next(folder for folder in (directory, *directory.absolute().parents) if folder.exists())
    if not existing.is_dir():
        yield Line("spool directory", State.FAIL, f"{existing} is a file", "set FLOWLAKE_SPOOL to a directory")
        return
    if not os.access(existing, os.W_OK | os.X_OK):
        yield Line(
            "spool directory", State.FAIL, f"{existing} may not be written", "run as root, or set FLOWLAKE_SPOOL"
        )
        return
    made = "writable" if existing == directory else f"will be made in {existing}"
    yield Line("spool directory", State.OK, f"{directory}, {made}")

    try:
        used = sum(entry.stat().st_size for entry in os.scandir(directory)) if existing == directory else 0
        free = shutil.disk_usage(existing).free
    except OSError as error:
        yield Line("spool room", State.FAIL, f"{directory}: {error.strerror}", "look at the disk (dmesg)")
        return
    room = f"{_bytes(used)} of {_bytes(config.max_bytes)} used, {_bytes(free)} free on the disk"
    if used + free < config.max_bytes:
        yield Line("spool room", State.WARN, room, "free space, or lower FLOWLAKE_SPOOL_MAX_BYTES to what there is")
    elif used > config.max_bytes * 0.8:
        yield Line("spool room", State.WARN, room, "nobody reads the spool fast enough: see the enricher's messages")
    else:
        yield Line("spool room", State.OK, room)

    try:
        uuid = read_identity(directory)
        if uuid is None:
            yield Line("spool", State.WARN, "none yet", "start the sidecar: flowlake up, or flowlake sidecar")
            return
        first, end = SpoolReader(directory).bounds()
        committed = read_committed(directory, uuid, end)
    except (FlowlakeError, OSError) as error:
        yield Line("spool", State.FAIL, str(error), "move it away, and the sidecar makes a new one")
        return
    yield Line("spool", State.OK, f"messages {first} to {end}, stored in the lake up to {max(committed, first)}")


def lake_lines(uri: str, spool: SpoolConfig, now: datetime) -> Iterator[Line]:
    """Whether the lake can be read, how far it has come with this host's spool, and whether its records add up."""
    try:
        path = local_path(uri)
        if not path.exists():
            yield Line("lake", State.WARN, f"none at {path}", "start one: flowlake up, or flowlake enricher")
            return
        marker = check_lake(path)
    except FlowlakeError as error:
        yield Line("lake", State.FAIL, str(error), "give --lake or FLOWLAKE_LAKE the right one")
        return
    yield Line("lake", State.OK, f"{path}, format {marker.format_version}")
    try:
        yield _last_range(path, spool.directory)
        yield from _balance(path, now)
    except (FlowlakeError, OSError) as error:
        yield Line("lake files", State.FAIL, str(error), "restore them from a copy, or move them out of the lake")


def _last_range(lake: Path, spool: Path) -> Line:
    """How far the lake is behind the spool of this host."""
    if read_identity(spool) is None:
        return Line("last range", State.OK, "no spool on this host to compare with")
    reader = SpoolReader(spool)
    identity = reader.identity()
    keys = ChainKeys(log_hash(identity.kind, identity.uuid), identity.partition)
    dones = sorted((lake / keys.prefix).glob("*.done.json"))
    if not dones:
        return Line(
            "last range", State.WARN, "nothing of this spool is stored yet", "start the enricher; it may take 90 s"
        )
    done = Done.from_json(dones[-1].read_bytes())
    waiting = reader.weight_from(max(done.next, reader.bounds()[0]))
    age = datetime.now(UTC).timestamp() - dones[-1].stat().st_mtime
    detail = (
        f"messages {done.first} to {done.next}, {for_eyes('_seconds', age)} ago; {waiting} records wait in the spool"
    )
    if waiting and age > QUIET_SECONDS:
        return Line("last range", State.WARN, detail, "start the enricher, or look at its messages")
    return Line("last range", State.OK, detail)


def _balance(lake: Path, now: datetime) -> Iterator[Line]:
    """captured = written + dropped + rejected + expired, for each run of the last day. What still waits in the spool is
    on neither side: coverage is written from the batches that were stored.
    """
    lost = " + ".join(["rejected", "expired", *(f"dropped_{drop}" for drop in Drop)])
    window = Window(now - timedelta(days=BALANCE_DAYS), now + timedelta(hours=1))
    sql = f"""
        SELECT
            run_id, max(host) AS host, min(minute) AS first_minute, max(minute) AS last_minute,
            CAST(sum(captured) AS BIGINT) AS captured, CAST(sum(written) AS BIGINT) AS written,
            CAST(sum({lost}) AS BIGINT) AS lost
        FROM coverage WHERE netns IS NULL GROUP BY run_id ORDER BY last_minute, run_id
    """
    with DuckDBEngine.open(str(lake), window).ask(sql) as answer:
        runs: list[dict[str, Any]] = answer.read_all().to_pylist()
    if not runs:
        yield Line("balance", State.WARN, "no coverage in the last day", "start the sidecar and the enricher")
    for run in runs:
        yield _balance_of(run, whole=run["first_minute"] >= window.since + timedelta(minutes=1), now=now)


def _balance_of(run: Mapping[str, Any], *, whole: bool, now: datetime) -> Line:
    """whole: all of the run is in the window; else what was captured before it may have been written in it."""
    check = f"balance of {run['host']}, run {run['run_id'][:8]}"
    open_ = run["captured"] - run["written"] - run["lost"]
    detail = f"captured {run['captured']} = written {run['written']} + lost {run['lost']}"
    if open_ == 0:
        return Line(check, State.OK, detail)
    if open_ < 0:
        state = State.FAIL if whole else State.WARN
        return Line(check, state, f"{detail} - {-open_} too many", "rows are there twice: report it with this lake")
    detail += f" + {open_} not accounted for"
    if now - run["last_minute"] < timedelta(seconds=QUIET_SECONDS):
        return Line(check, State.OK, f"{detail}: on their way")
    return Line(check, State.WARN, detail, "the sidecar was killed before it could say what became of them")


def _bytes(count: int) -> str:
    return for_eyes("bytes", count)
