"""`flowlake query`: a named question, or one SELECT, over the lake."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from lake.config import LakeConfig
from lake.questions import Value, Window, question, questions
from settings import add_flags, load
from settings.errors import WrongUse

FORMATS = ("table", "csv", "json", "parquet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("question", nargs="?", help="a question's name, or a SELECT; none lists the questions")
    parser.add_argument("--format", choices=FORMATS, help="default: table on a terminal, csv elsewhere")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write there instead of to standard output")
    parser.add_argument("--skip-unreadable", action="store_true", help="leave out damaged or foreign files, and say so")
    parser.add_argument("--sql", action="store_true", help="print the question's SQL instead of asking it")
    meanings: dict[str, list[str]] = {}
    for asked in questions().values():
        for parameter in asked.parameters:
            texts = meanings.setdefault(parameter.name, [])
            if parameter.meaning not in texts:
                texts.append(parameter.meaning)
    for name, texts in meanings.items():
        parser.add_argument(f"--{name}", dest=f"ask_{name}", default=argparse.SUPPRESS, help="; or ".join(texts))
    add_flags(parser, LakeConfig)


def run(args: argparse.Namespace) -> int:
    """Raises FlowlakeError."""
    given = {name.removeprefix("ask_"): text for name, text in vars(args).items() if name.startswith("ask_")}
    config = load(LakeConfig, args, os.environ, known=args.known)
    if args.question is None:
        print(listing(), end="")
        return 0
    now = datetime.now(UTC)
    if " " in args.question.strip():
        sql, values, window = args.question, {}, _window_of_sql(given, now)
    else:
        asked = question(args.question)
        sql, values, window = asked.sql, asked.bind(given, now), asked.window(given, now)
    if args.sql:
        print(sql, end="")
        return 0
    return _ask(args, config, sql, values, window)


def listing() -> str:
    """What `flowlake query` alone prints: each question with one line, and how to go on."""
    known = questions()
    width = max(map(len, known))
    lines = [f"{asked.name.ljust(width)}  {asked.title}" for asked in known.values()]
    lines += ["", "flowlake query failures --since 15m", 'flowlake query "SELECT count(*) FROM flows" --since 1d']
    return "\n".join(lines) + "\n"


def _window_of_sql(given: Mapping[str, str], now: datetime) -> Window | None:
    """--since and --until narrow the views for free SQL too; without them it sees the whole lake. Raises WrongUse."""
    if unused := given.keys() - {"since", "until"}:
        raise WrongUse(f"--{min(unused)} is for a named question: write it into the SQL")
    if not given:
        return None
    return Window.parse(given.get("since", "1970-01-01"), given.get("until", "0s"), now)


def _ask(
    args: argparse.Namespace, config: LakeConfig, sql: str, values: Mapping[str, Value], window: Window | None
) -> int:
    # Only now: listing the questions needs neither DuckDB nor Arrow.
    from flowlake.output import write
    from lake.duckdb_engine import DuckDBEngine

    engine = DuckDBEngine.open(config.uri, window, skip_unreadable=args.skip_unreadable)
    with engine.ask(sql, values) as answer:
        for file in engine.left_out:
            print(f"flowlake: left out {file.path}: {file.why}", file=sys.stderr)
        if engine.left_out:
            print(f"flowlake: {len(engine.left_out)} files are missing from this answer", file=sys.stderr)
        write(answer, args.format, args.output)
    return 0
