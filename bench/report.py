"""Figures, and what is written of them: a JSON file for each benchmark, one page of tables for all.

A figure is the median of its samples, shown with the least and the largest; a bound is compared with the median.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench.machine import ROOT

RESULTS = ROOT / "bench" / "results"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"

# The line in the README. A name in braces is a figure; ns are told as us there.
SUMMARY = (
    "A flow takes {kernel side per flow record} of CPU in the kernel and "
    "{sidecar, ring buffer to spool, CPU per flow, with its own system calls} in the sidecar, which holds "
    "{sidecar, RSS with 20,000 open sockets}; a row takes "
    "{enricher, message to Parquet bytes, CPU per flow, generated churn} and {lake, flows, generated churn, per flow}. "
    "Measured on two shared cores, with the budgets, also those missed: [performance.md](docs/performance.md)."
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing measured. bound: of design.md's budgets, the most it may be; None where there is none."""

    what: str
    unit: str
    samples: Sequence[float]
    bound: float | None = None

    @property
    def median(self) -> float:
        return median(self.samples)

    @property
    def within(self) -> bool | None:
        return None if self.bound is None else self.median <= self.bound


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Where the time goes: parts of a whole, in one unit."""

    title: str
    unit: str
    parts: Mapping[str, float]


@dataclass(slots=True)
class Report:
    """What one benchmark found. notes: what one must know to read the figures; a sentence each."""

    name: str
    figures: list[Figure] = field(default_factory=list)
    breakdowns: list[Breakdown] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, what: str, unit: str, samples: Sequence[float] | float, bound: float | None = None) -> None:
        taken = [samples] if isinstance(samples, int | float) else list(samples)
        self.figures.append(Figure(what, unit, taken, bound))


def keep(report: Report, machine: Mapping[str, object], *, quick: bool) -> None:
    """Write <name>.json."""
    figures = [
        asdict(figure) | {"median": figure.median, "min": min(figure.samples), "max": max(figure.samples)}
        for figure in report.figures
    ]
    document = {
        "benchmark": report.name,
        "quick": quick,
        "machine": machine,
        "figures": figures,
        "breakdowns": [asdict(breakdown) for breakdown in report.breakdowns],
        "notes": report.notes,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{report.name}.json").write_text(json.dumps(_rounded(document), indent=1) + "\n", encoding="utf-8")


def write_pages(order: Sequence[str]) -> None:
    """bench/results/README.md, the same tables in docs/performance.md, and a line in README.md, from the JSON files."""
    kept = [json.loads(path.read_text()) for path in (RESULTS / f"{name}.json" for name in order) if path.exists()]
    budgets = _budgets(kept)
    sections = "\n".join(_section(document) for document in kept)
    head = "# Results\n\nMade by `python -m bench.run`; what each figure means: docs/performance.md.\n\n"
    (RESULTS / "README.md").write_text(f"{head}{budgets}\n{sections}", encoding="utf-8")
    _between_markers(ROOT / "docs" / "performance.md", f"\n\n{budgets}\n{sections}\n".replace("\n## ", "\n### "))
    figures = {figure["what"]: figure for document in kept for figure in document["figures"]}
    with suppress(KeyError):  # until all of them have been measured
        _between_markers(ROOT / "README.md", re.sub(r"\{(.*?)\}", lambda name: _told(figures[name[1]]), SUMMARY))


def _between_markers(page: Path, text: str) -> None:
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if begin and end:
        page.write_text(f"{before}{begin}{text}{end}{after}", encoding="utf-8")


def _told(figure: dict[str, Any]) -> str:
    if figure["unit"] == "ns":
        return f"{figure['median'] / 1000:.1f} us"
    return f"{_number(figure['median'])} {figure['unit']}"


def _budgets(kept: Sequence[dict[str, Any]]) -> str:
    lines = ["| what | bound | measured | least to largest | within? |", "|---|---|---|---|---|"]
    for document in kept:
        for figure in document["figures"]:
            if figure["bound"] is not None:
                bound, unit = figure["bound"], figure["unit"]
                verdict = "yes" if figure["median"] <= bound else f"**no**, {_excess(figure['median'], bound)}"
                measured = f"{_number(figure['median'])} {unit} | {_spread(figure)}"
                lines.append(f"| {figure['what']} | {_number(bound)} {unit} | {measured} | {verdict} |")
    return "\n".join(lines) + "\n"


def _excess(measured: float, bound: float) -> str:
    return f"{measured / bound:.1f} times" if bound else "more"


def _section(document: dict[str, Any]) -> str:
    machine = document["machine"]
    where = (
        f"{machine['date']}, commit {machine['commit']}, {machine['cores']} cores ({machine['processor']}), "
        f"kernel {machine['kernel']}, Python {machine['python']}, "
        f"load average {machine['load_average']} before and {machine['load_average_after']} after"
    )
    lines = [f"## {document['benchmark']}", "", where + (", `--quick`" if document["quick"] else ""), ""]
    lines += ["| what | measured | least to largest | samples |", "|---|---|---|---|"]
    for figure in document["figures"]:
        measured = f"{_number(figure['median'])} {figure['unit']}"
        lines.append(f"| {figure['what']} | {measured} | {_spread(figure)} | {len(figure['samples'])} |")
    for breakdown in document["breakdowns"]:
        total = sum(breakdown["parts"].values())
        lines += ["", f"| {breakdown['title']} | {breakdown['unit']} | share |", "|---|---|---|"]
        lines += [f"| {part} | {_number(value)} | {value / total:.0%} |" for part, value in breakdown["parts"].items()]
        lines.append(f"| together | {_number(total)} | |")
    lines += ["", *(f"- {note}" for note in document["notes"])] if document["notes"] else []
    return "\n".join(lines) + "\n"


def _spread(figure: dict[str, Any]) -> str:
    return f"{_number(figure['min'])} to {_number(figure['max'])}" if len(figure["samples"]) > 1 else ""


def _number(value: float) -> str:
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _rounded(value: Any) -> Any:
    """Six digits are more than any of it is worth."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return value
