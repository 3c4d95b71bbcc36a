"""What `flowlake up` says at its end, from the lake: what became of every record, who was busy, what failed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flowlake.failing import in_words
from flowlake.output import endpoint, for_eyes
from lake.duckdb_engine import DuckDBEngine
from lake.questions import Window, floor_minute, question
from schemas.drops import Drop

SHOWN_PAIRS = 5
_LOSSES = (*(f"dropped_{drop}" for drop in Drop), "rejected", "expired")


def print_summary(lake: Path, run_ids: Collection[str], since: datetime | None = None) -> None:
    """Prints the summary of these runs of the sidecar.

    since: when the first of them began; None looks through the whole lake. Raises FlowlakeError.
    """
    for line in summary(lake, run_ids, since, datetime.now(UTC)):
        print(line, flush=True)


def summary(lake: Path, run_ids: Collection[str], since: datetime | None, now: datetime) -> Iterator[str]:
    # Coverage and edges know whole minutes; ends of connections and headers may be a moment ahead of this clock.
    window = Window(floor_minute(since or datetime(1970, 1, 1, tzinfo=UTC)), now + timedelta(minutes=1))
    sums = ", ".join(
        f"CAST(coalesce(sum({name}), 0) AS BIGINT) AS {name}" for name in ("captured", "written", *_LOSSES)
    )
    (totals,) = _answer(
        lake, window, f"SELECT {sums} FROM coverage WHERE run_id IN (SELECT unnest($runs))", {"runs": sorted(run_ids)}
    )
    lost = {name.removeprefix("dropped_"): totals[name] for name in _LOSSES if totals[name]}
    reasons = f" ({', '.join(f'{reason} {count}' for reason, count in lost.items())})" if lost else ""
    yield f"captured {totals['captured']}, written {totals['written']}, lost {sum(lost.values())}{reasons}"

    texts = {"since": window.since.isoformat(), "until": window.until.isoformat(), "limit": str(SHOWN_PAIRS)}
    for name, line in (("talkers", _busy), ("failures", _failing)):
        asked = question(name)
        rows = _answer(lake, asked.window(texts, now), asked.sql, asked.bind(texts, now))
        if rows:
            yield {"talkers": "busiest:", "failures": "failing:"}[name]
        yield from (f"  {line(row)}" for row in rows)


def _busy(row: dict[str, Any]) -> str:
    moved = for_eyes("bytes", row["bytes_to_server"] + row["bytes_to_client"])
    rtt = f", rtt {for_eyes('rtt_us', row['rtt_mean_us'])}" if row["rtt_mean_us"] is not None else ""
    return f"{pair(row)}  {moved}, {row['opened']} opened{rtt}"


def _failing(row: dict[str, Any]) -> str:
    return f"{pair(row)}  {row['failed']} of {row['attempts']} {in_words(row['close_reason'])}"


def pair(row: dict[str, Any]) -> str:
    return f"{for_eyes('', row['client'])} -> {for_eyes('', endpoint(row['server'], row['server_port']))}"


def _answer(lake: Path, window: Window, sql: str, values: Mapping[str, object]) -> list[dict[str, Any]]:
    with DuckDBEngine.open(str(lake), window).ask(sql, values) as answer:
        rows: list[dict[str, Any]] = answer.read_all().to_pylist()
    return rows
