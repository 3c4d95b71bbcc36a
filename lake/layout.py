"""Where the rows of a table lie: one file per table, hour and offset range. Names are fixed, people query by them.

<table>/date=YYYY-MM-DD/hour=HH/<log>-<partition>-<first>-<next>.parquet
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

HOUR_US = 3_600_000_000

_FILE_KEY = re.compile(
    r"(?P<table>[a-z_]+)/date=(?P<date>\d{4}-\d{2}-\d{2})/hour=(?P<hour>\d{2})"
    r"/(?P<log>[0-9a-z]+)-(?P<partition>\d+)-(?P<first>\d{20})-(?P<next>\d{20})\.parquet"
)


@dataclass(frozen=True, slots=True)
class FileKey:
    """What a table file's key says."""

    table: str
    date: str
    hour: str
    log: str
    partition: int
    first: int
    next: int  # exclusive


def file_key(table: str, date: str, hour: str, log: str, partition: int, first: int, next: int) -> str:
    """The key of a table's file; parse_file_key is its inverse."""
    return f"{table}/date={date}/hour={hour}/{log}-{partition}-{first:020d}-{next:020d}.parquet"


def parse_file_key(key: str) -> FileKey | None:
    """What a key says; None where it is not that of a table's file."""
    match = _FILE_KEY.fullmatch(key)
    if match is None:
        return None
    return FileKey(
        table=match["table"],
        date=match["date"],
        hour=match["hour"],
        log=match["log"],
        partition=int(match["partition"]),
        first=int(match["first"]),
        next=int(match["next"]),
    )


def hours_of(time_us: NDArray[np.int64]) -> NDArray[np.int64]:
    """The hour that each time lies in, in whole hours since 1970 UTC.

    time_us: shape (n,), microseconds UTC; before 1970 is rounded down as well. Returns shape (n,).
    """
    return time_us // HOUR_US


def date_and_hour(hour: int) -> tuple[str, str]:
    """The partition keys of an hour since 1970 UTC: ("2026-11-22", "07")."""
    moment = datetime.fromtimestamp(hour * 3600, UTC)
    return moment.strftime("%Y-%m-%d"), moment.strftime("%H")
