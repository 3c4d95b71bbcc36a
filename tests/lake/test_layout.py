"""Names of the tables' files, which engines and people depend on."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lake.layout import FileKey, date_and_hour, file_key, hours_of, parse_file_key


def test_a_file_is_named_after_table_hour_log_and_range() -> None:
    key = file_key("flows", "2026-11-22", "07", "3f9ac2", 0, 1200, 1260)
    assert key == "flows/date=2026-11-22/hour=07/3f9ac2-0-00000000000000001200-00000000000000001260.parquet"


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 2**63), st.integers(0, 2**63))
def test_parsing_a_key_is_the_inverse_of_making_it(partition: int, first: int, next: int) -> None:
    facts = FileKey("coverage", "2026-01-02", "23", "0af", partition, first, next)
    key = file_key(facts.table, facts.date, facts.hour, facts.log, facts.partition, facts.first, facts.next)
    assert parse_file_key(key) == facts


def test_keys_of_other_things_are_no_file_keys() -> None:
    good = file_key("flows", "2026-11-22", "07", "3f9ac2", 0, 1, 2)
    assert parse_file_key(good) is not None
    for key in ("_lake.json", good + ".crc", good.removeprefix("flows/"), good.replace("hour=07", "hour=7")):
        assert parse_file_key(key) is None


@settings(deadline=None)
@given(st.lists(st.datetimes(datetime(1960, 1, 1), datetime(2200, 1, 1)), max_size=20))
def test_hours_are_those_of_the_calendar_in_utc(moments: list[datetime]) -> None:
    times_us = np.array(
        [round((m - datetime(1970, 1, 1)).total_seconds() * 1_000_000) for m in moments], dtype=np.int64
    )
    exact = [datetime.fromtimestamp(0, UTC) + (m - datetime(1970, 1, 1)) for m in moments]
    assert [date_and_hour(int(hour)) for hour in hours_of(times_us)] == [
        (m.strftime("%Y-%m-%d"), m.strftime("%H")) for m in exact
    ]
