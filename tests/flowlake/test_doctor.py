"""`flowlake doctor`: each red line where it belongs, with what to do."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from small_lake import at, make_lake

from flowlake import doctor
from flowlake.checkup import Line, State, lake_lines, spool_lines
from flowlake.main import main
from lake.ranges import ChainKeys, Done, log_hash
from settings import GiB, MiB
from sidecar.config import SidecarConfig
from transport.spool import SpoolConfig, SpoolReader, SpoolWriter

NOW = at("12:00:00")


def states(lines: Iterable[Line]) -> dict[str, State]:
    return {line.check: line.state for line in lines}


def line_of(lines: Iterable[Line], check: str) -> Line:
    (line,) = (line for line in lines if line.check.startswith(check))
    return line


@pytest.fixture
def spool(tmp_path: Path) -> SpoolConfig:
    """Three messages of two records each."""
    config = SpoolConfig(directory=tmp_path / "spool", max_bytes=MiB, segment_bytes=65_536)
    with SpoolWriter(config) as writer:
        for _ in range(3):
            writer.append(b"key", b"value", 2)
    return config


def test_each_check_that_is_not_ok_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--lake", str(tmp_path / "lake"), "--spool", str(tmp_path / "spool")])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["ok", "kernel"] for line in lines)
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith(("warn", "FAIL")):
            assert after.strip().startswith("-> "), line


def test_json_is_one_object_per_check_and_a_failed_check_is_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    code = main(["doctor", "--json", "--lake", str(tmp_path / "lake"), "--spool", str(tmp_path / "file")])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 1
    assert {"check": "spool directory", "state": "FAIL"}.items() <= next(
        r for r in rows if "spool" in r["check"]
    ).items()
    assert all(row.keys() == {"check", "state", "detail", "remedy"} for row in rows)


def test_a_spool_tells_its_bounds_and_what_is_stored(spool: SpoolConfig) -> None:
    SpoolReader(spool.directory).commit(2)
    lines = list(spool_lines(spool))
    assert states(lines) == {"spool directory": State.OK, "spool room": State.OK, "spool": State.OK}
    assert line_of(lines[2:], "spool").detail == "messages 0 to 3, stored in the lake up to 2"


def test_looking_at_a_spool_that_is_not_there_makes_nothing(tmp_path: Path) -> None:
    lines = list(spool_lines(SpoolConfig(directory=tmp_path / "a/b")))
    assert states(lines)["spool"] is State.WARN
    assert list(tmp_path.iterdir()) == []


def test_a_spool_whose_bound_is_larger_than_the_disk_is_a_warning(spool: SpoolConfig) -> None:
    config = SpoolConfig(directory=spool.directory, max_bytes=1 << 60)
    assert line_of(spool_lines(config), "spool room").state is State.WARN


def test_a_damaged_spool_fails(spool: SpoolConfig) -> None:
    (spool.directory / "spool.json").write_text("{")
    assert [line.state for line in spool_lines(spool)][-1] is State.FAIL


@pytest.mark.parametrize(("version", "state"), [(1, State.OK), (99, State.FAIL)])
def test_a_lake_is_readable_or_of_a_newer_version(tmp_path: Path, version: int, state: State) -> None:
    lake = make_lake(tmp_path / "lake", {}, format_version=version)
    lines = lake_lines(str(lake), SpoolConfig(directory=tmp_path / "spool"), NOW)
    assert next(iter(lines)).state is state


def test_no_lake_yet_is_a_warning(tmp_path: Path) -> None:
    (line,) = lake_lines(str(tmp_path / "lake"), SpoolConfig(directory=tmp_path / "spool"), NOW)
    assert line.state is State.WARN


def test_the_last_range_says_how_many_records_wait_behind_it(tmp_path: Path, spool: SpoolConfig) -> None:
    lake = make_lake(tmp_path / "lake", {})
    assert line_of(lake_lines(str(lake), spool, NOW), "last range").state is State.WARN
    identity = SpoolReader(spool.directory).identity()
    keys = ChainKeys(log_hash(identity.kind, identity.uuid), 0)
    done = Done(
        index=0, first=0, next=1, files=(), written_records=2, accepted_batches=1, repeated_batches=0,
        missing_batches=0, rejected={}, corrupt=0, expired_offsets=0, expired_records=0, runs={}, full=True,
    )  # fmt: skip
    path = lake / keys.done(0)
    path.parent.mkdir(parents=True)
    path.write_bytes(done.to_json())
    line = line_of(lake_lines(str(lake), spool, NOW), "last range")
    assert line.state is State.OK
    assert line.detail.startswith("messages 0 to 1, ")
    assert line.detail.endswith("4 records wait in the spool")


def balance(folder: Path, row: Mapping[str, Any]) -> Line:
    full = {"minute": at("11:00:00"), "host": "web", "host_id": "id-web", "run_id": "run-1", **row}
    lake = make_lake(folder / "lake", {"coverage": [full]})
    return line_of(lake_lines(str(lake), SpoolConfig(directory=folder / "spool"), NOW), "balance")


@pytest.mark.parametrize(
    ("row", "state", "says"),
    [
        ({"captured": 10, "written": 7, "dropped_ring_full": 1, "rejected": 1, "expired": 1}, State.OK, "lost 3"),
        ({"captured": 10, "written": 12}, State.FAIL, "2 too many"),
        ({"captured": 10, "written": 8}, State.WARN, "2 not accounted for"),
        ({"captured": 10, "written": 8, "minute": at("11:59:00")}, State.OK, "on their way"),
        ({"captured": 10, "written": 12, "minute": NOW - timedelta(days=1)}, State.WARN, "2 too many"),
    ],
)
def test_the_conservation_law_is_checked_for_each_run(
    tmp_path: Path, row: Mapping[str, Any], state: State, says: str
) -> None:
    line = balance(tmp_path, row)
    assert line.state is state
    assert says in line.detail


def test_a_damaged_file_of_the_lake_is_named(tmp_path: Path) -> None:
    lake = make_lake(tmp_path / "lake", {"coverage": [{"minute": at("11:00:00")}]})
    (bad,) = lake.glob("coverage/*/*/*")
    bad.write_bytes(b"PAR1")
    line = line_of(lake_lines(str(lake), SpoolConfig(directory=tmp_path / "spool"), NOW), "lake files")
    assert line.state is State.FAIL
    assert str(bad) in line.detail


def test_too_little_memory_for_the_rings_is_a_warning() -> None:
    meminfo = "MemTotal: 9 kB\nMemAvailable: {} kB\n"
    assert doctor.memory_line(SidecarConfig(), meminfo.format(GiB // 1024)).state is State.OK
    assert doctor.memory_line(SidecarConfig(), meminfo.format(MiB // 1024)).state is State.WARN


def test_an_unsynchronised_clock_is_a_warning() -> None:
    assert doctor.clock_line(0x40).state is State.WARN
    assert doctor.clock_line(0x2001).state is State.OK


def test_the_clock_status_is_read_from_where_the_kernel_puts_it(tmp_path: Path) -> None:
    program = tmp_path / "status.c"
    program.write_text(
        "#include <stdio.h>\n#include <sys/timex.h>\n"
        'int main(void) { struct timex t = {0}; adjtimex(&t); printf("%d %zu", t.status, sizeof t); }\n'
    )
    subprocess.run(["cc", "-o", tmp_path / "status", program], check=True)
    status, size = subprocess.run([tmp_path / "status"], check=True, capture_output=True, text=True).stdout.split()
    assert doctor.clock_status() == int(status)
    assert int(size) <= 256


@pytest.mark.parametrize(
    ("mounts", "state", "says"),
    [
        (["cgroup2"], State.OK, "v2"),
        (["cgroup", "cgroup2"], State.OK, "hybrid"),
        (["cgroup"], State.WARN, "no cgroup2 mount"),
    ],
)
def test_the_mode_of_cgroups_is_told(mounts: list[str], state: State, says: str) -> None:
    mountinfo = "".join(
        f"30 23 0:{n} / /sys/fs/cgroup/{n} rw,nosuid - {kind} none rw\n" for n, kind in enumerate(mounts)
    )
    line = doctor.cgroup_line(mountinfo)
    assert line.state is state
    assert says in line.detail
