"""`flowlake enricher` as a process: what it does at a signal, and before there is anything to read."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
from made_batches import Batch, random_flows, some_batches
from processes import Process, wait_until_begun

from schemas.flow_batch import encode_flow_batch
from transport.spool import SpoolConfig, SpoolWriter

QUICK = {"poll_seconds": "0.02", "settle_seconds": "0"}
WAIT_SECONDS = 20.0  # never reached unless something is wrong


def spool(lake: Path, *batches: Batch | bytes) -> None:
    """Append these batches, or messages that are none."""
    with SpoolWriter(SpoolConfig(lake / "_spool")) as writer:
        for batch in batches:
            if isinstance(batch, bytes):
                writer.append(b"host", batch, 1)
            else:
                value = encode_flow_batch(batch.header, batch.columns)
                writer.append(batch.header.host_id.encode(), value, len(batch.columns["flow_id"]))


def recent_batches(count: int) -> list[Batch]:
    """Batches whose flows ended just now."""
    rng = np.random.default_rng(1)
    now_us = time.time_ns() // 1000 - 60_000_000
    return [Batch(batch.header, random_flows(rng, 30, now_us)) for batch in some_batches(1, count)]


def wait_for(process: Process, text: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while text not in process.errors():
        assert time.monotonic() < deadline and process.process.poll() is None, process.errors()
        time.sleep(0.02)


def wait_until_there(path: Path) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not path.exists():
        assert time.monotonic() < deadline, f"waited in vain for {path}"
        time.sleep(0.02)


def rows(lake: Path) -> int:
    return ds.dataset(lake / "flows").count_rows() if (lake / "flows").is_dir() else 0


def ranges(lake: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_bytes()) for path in sorted(lake.glob("_ranges/*/0/*.done.json"))]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_without_a_spool_it_waits_says_so_once_and_ends_well(tmp_path: Path, number: signal.Signals) -> None:
    lake = tmp_path / "lake"
    with Process("enricher", lake, **QUICK) as enricher:
        wait_for(enricher, "waiting for it")
        time.sleep(0.2)  # ten more looks
        assert enricher.end(number) == ""
        (line,) = enricher.errors().splitlines()
    assert line.startswith(f"flowlake: there is no spool in {lake / '_spool'} yet")
    assert not lake.exists()


def test_a_spool_that_comes_later_is_found(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    with Process("enricher", lake, "--drain", **QUICK) as enricher:
        wait_for(enricher, "waiting for it")
        spool(lake, *recent_batches(4))
        wait_until_there(lake / "_lake.json")
        enricher.end()
    assert rows(lake) == 120


def test_asked_to_end_it_leaves_in_the_spool_what_has_not_settled(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    spool(lake, *recent_batches(4))
    with Process("enricher", lake, settle_seconds="3600", poll_seconds="0.02") as enricher:
        wait_until_begun(enricher)
        enricher.end()
    assert (rows(lake), ranges(lake)) == (0, [])


def test_asked_to_end_with_drain_it_writes_all_that_the_spool_holds(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    spool(lake, *recent_batches(4))
    for expected in (1, 1):  # the second time there is nothing to do
        with Process("enricher", lake, "--drain", range_seconds="3600", **QUICK) as enricher:
            wait_until_begun(enricher)
            enricher.end()
            assert enricher.errors() == ""
        assert (rows(lake), len(ranges(lake))) == (120, expected)


def test_drain_waits_for_the_settle_delay_unless_asked_a_second_time(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    spool(lake, *recent_batches(4))
    with Process("enricher", lake, "--drain", settle_seconds="3600", poll_seconds="0.02") as enricher:
        wait_until_begun(enricher)
        enricher.process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            enricher.process.wait(0.5)
        enricher.end()
    assert ranges(lake) == []


def test_messages_that_cannot_be_read_are_told_once_and_counted(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    spool(lake, b"none", *recent_batches(2), b"neither", b"nor this")
    with Process("enricher", lake, "--drain", **QUICK) as enricher:
        wait_until_begun(enricher)
        enricher.end()
        (line,) = enricher.errors().splitlines()
    assert line == "flowlake: message at offset 0 rejected (unreadable): not an Avro single-object message"
    assert sum(done["rejected"].get("unreadable", 0) for done in ranges(lake)) == 3  # type: ignore[attr-defined]
    assert rows(lake) == 60
