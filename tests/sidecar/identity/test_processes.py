"""A process's own word on its cgroups: believed only with proof that the pid is still the same process."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from sidecar.identity.processes import process_cgroups

START_TICKS = 5_000
START_NS = START_TICKS * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def write_process(proc: Path, comm: bytes) -> None:
    """Process 7, as proc_pid_stat(5) shows it: field 22 is when it started."""
    (proc / "7").mkdir()
    after = [b"S"] + [b"0"] * 18 + [str(START_TICKS).encode()] + [b"0"] * 30
    (proc / "7/stat").write_bytes(b"7 (" + comm + b") " + b" ".join(after) + b"\n")
    (proc / "7/cgroup").write_text("4:memory:/docker/x\n0::/a:b\n")


@pytest.mark.parametrize("comm", [b"nginx", b"a) S (b", b"\xff name"])
def test_a_process_of_that_name_which_ran_by_then_is_believed(tmp_path: Path, comm: bytes) -> None:
    write_process(tmp_path, comm)
    assert process_cgroups(tmp_path, 7, comm, START_NS * 2) == ["/docker/x", "/a:b"]


def test_a_process_that_started_later_has_taken_over_the_pid(tmp_path: Path) -> None:
    write_process(tmp_path, b"nginx")
    assert process_cgroups(tmp_path, 7, b"nginx", START_NS) is None


def test_a_process_of_another_name_is_not_believed(tmp_path: Path) -> None:
    write_process(tmp_path, b"nginx")
    assert process_cgroups(tmp_path, 7, b"apache2", START_NS * 2) is None


def test_a_process_that_ended_says_nothing(tmp_path: Path) -> None:
    assert process_cgroups(tmp_path, 7, b"nginx", START_NS * 2) is None


def test_the_real_proc_says_the_same_of_this_process() -> None:
    comm = Path("/proc/self/comm").read_bytes().rstrip(b"\n")
    now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    lines = Path("/proc/self/cgroup").read_text().splitlines()

    assert process_cgroups(Path("/proc"), os.getpid(), comm, now_ns) == [line.split(":", 2)[2] for line in lines]
    assert process_cgroups(Path("/proc"), os.getpid(), comm, 1) is None
