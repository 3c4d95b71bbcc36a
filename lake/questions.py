"""The named questions: one SQL file each in lake/questions/, with a header that says what it answers and asks for.

A header line is `-- Title:`, `-- Answers:`, `-- Counts:` (what is counted once, and how) or
`-- Parameter: <name> <type> <default> <meaning>`; indented comment lines go on with the line above.
`-- include: <part>` in the SQL stands for the text of questions/parts/<part>.sql.

The SQL keeps to what DuckDB, Trino and Spark have in common; values come as named parameters (`$limit`).
Besides its own, every question may use the window's: $since and $until (timestamps), $since_date, $since_hour,
$until_date, $until_hour (strings, of the partitions) and $window_minutes (length in whole minutes, rounded up).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

from settings.errors import WrongUse

Value = str | int | datetime

_HEADER = re.compile(r"--\s+(Title|Answers|Counts|Parameter):\s*(.*)")
_CONTINUED = re.compile(r"--\s{2,}(\S.*)")
_INCLUDE = re.compile(r"^-- include: ([\w-]+)\n", re.MULTILINE)
_PARAMETER = re.compile(r"\$([a-z_]+)")
_DURATION = re.compile(r"(\d+)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_ONE_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One value that a question asks for. type: `time`, `text` or `integer`."""

    name: str
    type: str
    default: str
    meaning: str

    def parse(self, text: str) -> str | int:
        """The value of a flag's text (times are the window's business). Raises WrongUse."""
        if self.type != "integer":
            return text
        try:
            value = int(text)
        except ValueError:
            value = -1
        if value < 0:
            raise WrongUse(f"--{self.name} {text}: give a whole number, 0 or more")
        return value


@dataclass(frozen=True, slots=True)
class Question:
    name: str
    title: str
    answers: str
    counts: str
    parameters: tuple[Parameter, ...]
    sql: str  # whole, includes resolved

    def bind(self, given: Mapping[str, str], now: datetime) -> dict[str, Value]:
        """The values of all parameters that the SQL names.

        given: texts by parameter name, as on the command line; what is missing has its default. Raises WrongUse.
        """
        known = {parameter.name: parameter for parameter in self.parameters}
        for name in given:
            if name not in known:
                takes = ", ".join(f"--{parameter}" for parameter in known)
                raise WrongUse(f"the question '{self.name}' does not take --{name}; it takes {takes}")
        values: dict[str, Value] = {
            name: parameter.parse(given.get(name, parameter.default)) for name, parameter in known.items()
        }
        values.update(self.window(given, now).values())
        return {name: values[name] for name in set(_PARAMETER.findall(self.sql))}

    def window(self, given: Mapping[str, str], now: datetime) -> Window:
        """The time asked about, from a whole minute on: `edges` and `coverage` know no less. Raises WrongUse."""
        default = {parameter.name: parameter.default for parameter in self.parameters}
        window = Window.parse(given.get("since", default["since"]), given.get("until", default["until"]), now)
        return Window(floor_minute(window.since), window.until)


@dataclass(frozen=True, slots=True)
class Window:
    """The time asked about: [since, until), UTC."""

    since: datetime
    until: datetime

    @classmethod
    def parse(cls, since: str, until: str, now: datetime) -> Window:
        """Each end is a duration before now (`90s`, `15m`, `1h`, `7d`), or a time in ISO 8601, UTC if it does not say.

        Raises WrongUse.
        """
        window = cls(parse_time("since", since, now), parse_time("until", until, now))
        if window.since >= window.until:
            raise WrongUse(f"--since {since} is not before --until {until}")
        return window

    def values(self) -> dict[str, Value]:
        last = self.until - _ONE_MICROSECOND
        minutes = (floor_minute(last) - floor_minute(self.since)) // timedelta(minutes=1) + 1
        return {
            "since": self.since,
            "until": self.until,
            "since_date": f"{self.since:%Y-%m-%d}",
            "since_hour": f"{self.since:%H}",
            "until_date": f"{last:%Y-%m-%d}",
            "until_hour": f"{last:%H}",
            "window_minutes": minutes,
        }


def floor_minute(time: datetime) -> datetime:
    return time.replace(second=0, microsecond=0)


def parse_time(name: str, text: str, now: datetime) -> datetime:
    """A duration before `now`, or an ISO 8601 time. Raises WrongUse."""
    if duration := _DURATION.fullmatch(text):
        try:
            return now - timedelta(**{_UNITS[duration[2]]: int(duration[1])})
        except OverflowError:
            raise WrongUse(f"--{name} {text}: that is before all time") from None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise WrongUse(
            f"--{name} {text}: give a duration before now, such as 90s, 15m, 1h or 7d, or a time: 2026-11-22T07:30"
        ) from None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


@cache
def questions() -> dict[str, Question]:
    """All of them by name, in the order of their names."""
    folder = resources.files("lake") / "questions"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return {name.removesuffix(".sql"): _read(folder, name.removesuffix(".sql")) for name in names}


def question(name: str) -> Question:
    """Raises WrongUse, with the nearest name, where there is none."""
    known = questions()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}"
    raise WrongUse(f"there is no question '{name}': {hint} (SQL goes in quotes)")


def _read(folder: Traversable, name: str) -> Question:
    text = (folder / f"{name}.sql").read_text(encoding="utf-8")
    header: dict[str, list[str]] = {"Title": [], "Answers": [], "Counts": [], "Parameter": []}
    lines = text.splitlines()
    current: list[str] = []
    end = 0
    for end, line in enumerate(lines):  # noqa: B007 (where the header ended is wanted below)
        if started := _HEADER.match(line):
            current = header[started[1]]
            current.append(started[2])
        elif continued := _CONTINUED.match(line):
            current[-1] += " " + continued[1]
        else:
            break
    sql = "\n".join(lines[end:]) + "\n"
    sql = _INCLUDE.sub(lambda part: (folder / "parts" / f"{part[1]}.sql").read_text(encoding="utf-8"), sql)
    parameters = []
    for line in header["Parameter"]:
        parameter_name, type_, default, meaning = line.split(maxsplit=3)
        parameters.append(Parameter(parameter_name, type_, default.strip("'"), meaning))
    return Question(
        name, " ".join(header["Title"]), " ".join(header["Answers"]), " ".join(header["Counts"]), tuple(parameters), sql
    )


def markdown() -> str:
    """docs/questions.md, from the headers."""
    page = [
        "# The named questions\n",
        "`flowlake query` lists them, `flowlake query NAME` asks one, `flowlake query NAME --sql` prints its SQL.\n",
        "Made by `python -m lake.questions` from the headers of `lake/questions/*.sql`: edit those.\n",
    ]
    for asked in questions().values():
        page.append(f"## {asked.name}: {asked.title}\n\n{asked.answers}\n\nCounted: {asked.counts}\n")
        rows = [f"| `--{p.name}` | {p.type} | `{p.default or chr(39) * 2}` | {p.meaning} |" for p in asked.parameters]
        page.append("| flag | type | default | meaning |\n|---|---|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(page)


if __name__ == "__main__":
    print(markdown(), end="")
