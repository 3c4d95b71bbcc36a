"""What cannot work says so at its start: one line with what to do, the exit code that is documented, no traceback."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from chaos.full import small_disk
from processes import enrich_all, sidecar

import sidecar as sidecar_package
from transport.spool import SpoolConfig, SpoolWriter

FAILED, WRONG_USE = 1, 2
NOBODY = 65534
WITHOUT_CAPABILITIES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")


def complaint(
    command: str, lake: Path, code: int, *flags: str, by: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> str:
    """What `flowlake COMMAND` says where it is expected to refuse: exactly one line, without its "flowlake: "."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FLOWLAKE_")}
    clean |= {"FLOWLAKE_LAKE": str(lake), "FLOWLAKE_SPOOL": str(lake.parent / "spool"), **(environ or {})}
    done = subprocess.run(
        [*by, sys.executable, "-P", "-m", "flowlake.main", command, *flags],
        env=clean, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.startswith("flowlake: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("flowlake: ").rstrip("\n")


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """Of a lake that is not there yet. Beside it is a spool with a message, which nobody can read as a batch."""
    with SpoolWriter(SpoolConfig(tmp_path / "spool")) as writer:
        writer.append(b"host", b"no batch", 1)
    return tmp_path / "lake"


@pytest.mark.parametrize("command", ["sidecar", "enricher", "up"])
def test_an_unknown_setting_names_the_nearest(command: str, lake: Path) -> None:
    said = complaint(command, lake, WRONG_USE, environ={"FLOWLAKE_SPOOL_MAX_BITES": "1GiB"})
    assert said == (
        "there is no setting FLOWLAKE_SPOOL_MAX_BITES (from the environment); did you mean FLOWLAKE_SPOOL_MAX_BYTES?"
    )
    assert not lake.exists()


@pytest.mark.parametrize(
    ("command", "name", "value"),
    [
        ("sidecar", "FLOWLAKE_BATCH_SECONDS", "soon"),
        ("sidecar", "FLOWLAKE_SPOOL_MAX_BYTES", "1KiB"),
        ("sidecar", "FLOWLAKE_PROBE_RING_BYTES", "5000"),
        ("enricher", "FLOWLAKE_RANGE_BYTES", "-1"),
        ("up", "FLOWLAKE_SETTLE_SECONDS", ""),
        ("up", "FLOWLAKE_PROBE_MODE", "kprobe"),
    ],
)
def test_a_value_that_cannot_be_says_what_is_expected(command: str, name: str, value: str, lake: Path) -> None:
    said = complaint(command, lake, WRONG_USE, environ={name: value})
    assert name.removeprefix("FLOWLAKE_").lower() in said.lower() and "expected" in said
    assert not lake.exists()


def test_a_file_in_place_of_the_lake_is_said(lake: Path) -> None:
    lake.write_text("")
    assert "set FLOWLAKE_LAKE to a directory" in complaint("enricher", lake, FAILED)
    assert lake.read_text() == ""


def test_a_lake_of_a_newer_version_is_left_alone(lake: Path) -> None:
    lake.mkdir()
    marker = json.dumps({"uuid": "8d7e5a3c-0000-4000-8000-000000000000", "format_version": 99, "engine": "hive"})
    (lake / "_lake.json").write_text(marker)
    assert "newer" in complaint("enricher", lake, FAILED)
    assert [path.name for path in lake.iterdir()] == ["_lake.json"]


@pytest.mark.kernel
def test_a_read_only_lake_is_said(lake: Path) -> None:
    with small_disk(lake, "64k", "ro"):
        said = complaint("enricher", lake, FAILED)
    assert said.startswith(f"cannot write to the lake in {lake}: read-only file system")
    assert said.endswith("mount it writable, or set FLOWLAKE_LAKE to a directory that is")


@pytest.mark.kernel
def test_a_lake_that_may_not_be_read_is_said(lake: Path) -> None:
    lake.mkdir(mode=0o700)
    os.chown(lake, NOBODY, NOBODY)
    said = complaint("enricher", lake, FAILED, by=WITHOUT_CAPABILITIES)
    assert said.startswith(f"cannot read the lake in {lake}: permission denied")
    assert said.endswith("give this user access, or set FLOWLAKE_LAKE to a directory that it may use")


@pytest.mark.kernel
def test_a_read_only_spool_is_said(lake: Path) -> None:
    disk = lake.parent / "disk"
    with small_disk(disk, "64k", "ro"):
        said = complaint("sidecar", lake, FAILED, "--spool", str(disk / "spool"))
    assert said.startswith(f"cannot open the spool in {disk / 'spool'}: read-only file system")


@pytest.mark.kernel
def test_a_spool_on_a_full_disk_is_said(lake: Path) -> None:
    with small_disk(lake.parent / "disk", "64k") as disk:
        disk.fill()
        said = complaint("sidecar", lake, FAILED, "--spool", str(disk.directory / "spool"))
    assert "no space left on device; free space there" in said


@pytest.mark.kernel
@pytest.mark.parametrize("lost", ["the genesis", "the whole chain"])
def test_a_lake_that_lost_where_it_was_stops_instead_of_writing_twice(tmp_path: Path, lost: str) -> None:
    lake = tmp_path / "lake"
    with sidecar(lake) as watching, socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", 1)) == errno.ECONNREFUSED
        watching.end()
    enrich_all(lake)
    files = sorted(lake.glob("flows/*/*/*"))
    assert files
    (chain,) = lake.glob("_ranges/*")
    if lost == "the genesis":
        (chain / "0" / "genesis.json").unlink()
    else:
        shutil.rmtree(chain)
    said = complaint("enricher", lake, FAILED, environ={"FLOWLAKE_SPOOL": str(lake / "_spool")})
    assert said.startswith("the lake holds ") and said.endswith("Put the object back from a copy, or use another lake")
    assert sorted(lake.glob("flows/*/*/*")) == files


@pytest.mark.kernel
def test_without_privileges_the_line_says_which_are_missing(lake: Path) -> None:
    assert complaint("sidecar", lake, FAILED, by=WITHOUT_CAPABILITIES) == (
        "cannot load the probe: privileges: without CAP_BPF and CAP_PERFMON. "
        "Run as root, or give the process CAP_BPF and CAP_PERFMON (or CAP_SYS_ADMIN)"
    )


@pytest.mark.kernel
def test_a_second_sidecar_on_the_same_spool_says_who_writes_there(lake: Path) -> None:
    with sidecar(lake, spool=str(lake.parent / "spool")) as first:
        said = complaint("sidecar", lake, FAILED)
        assert f"another process (pid {first.process.pid}) writes to the spool in {lake.parent / 'spool'}" in said
        first.end()


@pytest.mark.kernel
def test_a_probe_that_was_not_built_says_how_to_build_it(tmp_path: Path, lake: Path) -> None:
    (package,) = sidecar_package.__path__
    shutil.copytree(package, tmp_path / "sidecar", ignore=shutil.ignore_patterns("*.bpf.o", "__pycache__"))
    said = complaint("sidecar", lake, FAILED, environ={"PYTHONPATH": str(tmp_path)})
    assert f"not in {tmp_path / 'sidecar' / 'probe'}" in said
    assert "make -C bpf" in said
