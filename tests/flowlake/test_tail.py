"""`flowlake tail` on a real spool, written by the real writer and encoder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowlake.main import main
from flowlake.spool_tail import SpoolTail
from schemas.flow_batch import BatchHeader, Workload, encode_flow_batch
from schemas.flows import FLOWS
from schemas.wire import CURRENT, Kind
from transport.spool import SpoolConfig, SpoolWriter

TIME_US = 1_795_000_000_000_000


def batch(number: int, flows: Sequence[dict[str, Any]]) -> bytes:
    """A message of a host whose process `nginx` (a unit) owns every flow."""
    header = BatchHeader(
        host_id="id-web", host="web", boot_id="boot", run_id="run-1", number=number, lowest_number=0,
        created_time=TIME_US, cluster=None, region=None, zone=None, account=None, captured=0, dropped={},
        delayed_interims=0, networks=["default"], processes=["nginx"],
        workloads=[Workload("nginx.service", "unit")], listeners=[], namespaces=[],
    )  # fmt: skip
    columns: dict[str, Any] = {}
    for field in CURRENT.flow_fields:
        values = [flow.get(field.name) for flow in flows]
        if field.kind is Kind.ADDRESS:
            columns[field.name] = np.array([list(value or bytes(16)) for value in values], np.uint8).reshape(-1, 16)
            continue
        dtype = {Kind.BOOLEAN: np.bool_, Kind.INT: np.int32, Kind.LONG: np.int64, Kind.ENUM: np.uint8}[field.kind]
        if field.kind is Kind.ENUM:
            values = [None if value is None else field.symbols.index(value) for value in values]
        filled = np.array([0 if value is None else value for value in values], dtype)
        columns[field.name] = np.ma.MaskedArray(filled, [v is None for v in values]) if field.nullable else filled
    return encode_flow_batch(header, columns)


def ipv4(text: str) -> bytes:
    return bytes(10) + b"\xff\xff" + bytes(int(part) for part in text.split("."))


def record(port: int, **given: Any) -> dict[str, Any]:
    """A request that nginx answered."""
    row = {
        "start_time": TIME_US, "end_time": TIME_US, "opened_time": TIME_US, "flow_id": port, "final": True,
        "role": "server", "local_address": ipv4("10.0.0.1"), "remote_address": ipv4("10.0.0.9"), "local_port": 80,
        "remote_port": port, "pid": 7, "process": 0, "workload": 0, "owner_source": "read", "bytes_sent": 2048,
        "bytes_received": 100, "rtt_us": 1500, "state": "fin_wait2", "close_reason": "closed_local",
    }  # fmt: skip
    return row | given


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """Two batches: a good connection, then one that is open and one that was reset."""
    directory = tmp_path / "spool"
    batches = [
        [record(40001)],
        [
            record(40002, final=False, state="established", close_reason="open"),
            record(40003, close_reason="reset_remote", close_detail="reset", remote_address=bytes(15) + b"\x01"),
        ],
    ]
    append(directory, [batch(number, flows) for number, flows in enumerate(batches)])
    return directory


def append(directory: Path, values: Sequence[bytes]) -> None:
    with SpoolWriter(SpoolConfig(directory=directory)) as writer:
        for value in values:
            writer.append(b"id-web", value, 1)


def tail(capsys: pytest.CaptureFixture[str], spool: Path, *words: str) -> list[str]:
    assert main(["tail", "--spool", str(spool), "--from-start", *words]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_record_is_one_line_for_people(capsys: pytest.CaptureFixture[str], spool: Path) -> None:
    first, second, third = tail(capsys, spool, "--count", "3")
    time = "11:06:40.000"
    assert first == (
        f"{time}  nginx.service/nginx[7]  10.0.0.1:80 <- 10.0.0.9:40001  closed_local  "
        "sent 2.0 KiB, received 100 B, rtt 1.5 ms"
    )
    assert "10.0.0.9:40002  open (established)" in second
    assert "<- [::1]:40003  reset_remote (reset)" in third


def test_json_has_the_columns_of_the_lake(capsys: pytest.CaptureFixture[str], spool: Path) -> None:
    rows = [json.loads(line) for line in tail(capsys, spool, "--json", "--count", "3")]
    assert list(rows[0]) == [column.name for column in FLOWS.columns]
    assert [row["remote_port"] for row in rows] == [40001, 40002, 40003]
    assert (rows[0]["local_workload"], rows[0]["run_id"], rows[0]["remote_reason"]) == (
        "nginx.service",
        "run-1",
        "no_claim",
    )


@pytest.mark.parametrize(
    ("words", "ports"),
    [
        (("--failed", "--count", "1"), [40003]),
        (("--port", "40002", "--count", "1"), [40002]),
        (("--workload", "nginx.service", "--port", "40003", "--count", "1"), [40003]),
        (("--count", "2"), [40001, 40002]),
    ],
)
def test_filters_keep_what_was_asked_for(
    capsys: pytest.CaptureFixture[str], spool: Path, words: tuple[str, ...], ports: list[int]
) -> None:
    assert [json.loads(line)["remote_port"] for line in tail(capsys, spool, "--json", *words)] == ports


def test_it_follows_what_is_appended_later_and_ends_quietly_at_ctrl_c(spool: Path) -> None:
    words = [sys.executable, "-m", "flowlake.main", "tail", "--spool", str(spool), "--from-start", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            seen = [json.loads(process.stdout.readline())["remote_port"] for _ in range(3)]
            append(spool, [batch(2, [record(40004)])])
            seen.append(json.loads(process.stdout.readline())["remote_port"])
        finally:
            os.kill(process.pid, signal.SIGINT)
        assert (seen, process.wait(), process.stderr.read()) == ([40001, 40002, 40003, 40004], 130, "")


def test_without_from_start_it_begins_at_the_end(spool: Path) -> None:
    spool_tail = SpoolTail(spool)
    spool_tail.skip_to_end()
    assert list(spool_tail.new_flows()) == []
    append(spool, [batch(2, [record(40004)])])
    (flows,) = spool_tail.new_flows()
    assert flows["remote_port"].to_pylist() == [40004]
    assert spool_tail.run_ids == {"run-1"}


def test_following_moves_no_commit(spool: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in spool.iterdir()}
    assert sum(flows.num_rows for flows in SpoolTail(spool).new_flows()) == 3
    assert {path.name: path.stat().st_mtime_ns for path in spool.iterdir()} == before


def test_a_message_that_cannot_be_read_is_counted_and_passed_over(spool: Path) -> None:
    append(spool, [b"not avro", batch(3, [record(40005)])])
    spool_tail = SpoolTail(spool)
    ports = [port for flows in spool_tail.new_flows() for port in flows["remote_port"].to_pylist()]
    assert (ports, spool_tail.unreadable, spool_tail.missed) == ([40001, 40002, 40003, 40005], 1, 0)


def test_offsets_that_the_spool_has_dropped_meanwhile_are_counted(tmp_path: Path) -> None:
    directory = tmp_path / "spool"
    config = SpoolConfig(directory=directory, max_bytes=131_072, segment_bytes=4096)
    with SpoolWriter(config) as writer:
        writer.append(b"", batch(0, [record(40000)]), 1)
        spool_tail = SpoolTail(directory)
        assert len(list(spool_tail.new_flows())) == 1
        for number in range(1, 1000):
            writer.append(b"", batch(number, [record(40000)]), 1)
    rows = sum(flows.num_rows for flows in spool_tail.new_flows())
    assert spool_tail.missed > 0
    assert rows + spool_tail.missed == 999
