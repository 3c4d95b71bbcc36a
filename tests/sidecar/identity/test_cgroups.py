"""Cgroup ids to paths: what the mounts say, what the probe says, and what the kernel's own tree says."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from skipping import missing

from sidecar.identity.cgroups import (
    V2,
    CgroupMount,
    CgroupPaths,
    Found,
    find_mounts,
    hierarchies,
    v1_controller,
    v1_hierarchy,
)
from sidecar.probe.abi import CGROUP_RECORD

V1 = 8

HYBRID_CGROUP = "9:name=systemd:/\n8:pids:/\n4:memory:/x\n2:cpu,cpuacct:/\n0::/user.slice/a:b\n"
HYBRID_MOUNTS = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
"""


class Clock:
    """Seconds that pass when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def records(*rows: tuple[int, int, str]) -> NDArray[np.void]:
    """Cgroup records as the probe hands them over: id, hierarchy, path."""
    return np.array([(inode, hierarchy, 0, path.encode()) for inode, hierarchy, path in rows], CGROUP_RECORD)


def test_a_hybrid_host_has_v2_and_the_hierarchy_of_pids() -> None:
    assert find_mounts(HYBRID_MOUNTS, HYBRID_CGROUP) == [
        CgroupMount(4, Path("/sys/fs/cgroup/memory"), ""),
        CgroupMount(8, Path("/sys/fs/cgroup/pids"), ""),
        CgroupMount(9, Path("/sys/fs/cgroup/systemd"), ""),
        CgroupMount(0, Path("/sys/fs/cgroup/unified"), ""),
    ]
    assert v1_hierarchy(HYBRID_CGROUP) == 8
    assert hierarchies(HYBRID_CGROUP)["cpuacct"] == 2


@pytest.mark.parametrize(
    ("own", "controller", "number"),
    [
        ("0::/\n", None, 0),
        ("3:memory:/\n0::/\n", "memory", 3),
        ("1:name=systemd:/\n0::/\n", None, 0),
        ("7:pids:/\n3:memory:/\n", "pids", 7),
    ],
)
def test_the_v1_hierarchy_is_that_of_pids_else_memory_else_none(own: str, controller: str | None, number: int) -> None:
    assert v1_controller(own) == controller
    assert v1_hierarchy(own) == number


@pytest.mark.parametrize(
    ("mounts", "directory", "prefix"),
    [
        ("1 0 0:1 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n", "/sys/fs/cgroup", ""),
        # A container with a cgroup namespace of its own, and the host's tree mounted beside it.
        (
            "1 0 0:1 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n1 0 0:1 /../.. /host/cgroup ro - cgroup2 cgroup rw\n",
            "/host/cgroup",
            "",
        ),
        # A container in the host's cgroup namespace that sees its own part, and the host's tree.
        (
            "1 0 0:1 /docker/x /sys/fs/cgroup ro - cgroup2 cgroup rw\n1 0 0:1 / /host/cgroup ro - cgroup2 cgroup rw\n",
            "/host/cgroup",
            "",
        ),
        ("1 0 0:1 /docker/x /sys/fs/cgroup ro - cgroup2 cgroup rw\n", "/sys/fs/cgroup", "/docker/x"),
        (r"1 0 0:1 / /mnt/my\040tree ro - cgroup2 cgroup rw" + "\n", "/mnt/my tree", ""),
    ],
)
def test_the_widest_mount_of_a_hierarchy_is_read(mounts: str, directory: str, prefix: str) -> None:
    assert find_mounts(mounts, "0::/\n") == [CgroupMount(V2, Path(directory), prefix)]


def test_a_walk_finds_what_a_mount_holds_with_the_prefix_of_its_root(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    paths = CgroupPaths([CgroupMount(V2, tmp_path, "/docker/x")], 0, Clock())

    assert sorted(paths.walk()) == ["/docker/x", "/docker/x/a", "/docker/x/a/b"]
    assert paths.find(V2, (tmp_path / "a/b").stat().st_ino) == Found("/docker/x/a/b", settled=True)


def test_a_mount_that_cannot_be_read_is_no_error(tmp_path: Path) -> None:
    assert CgroupPaths([CgroupMount(V2, tmp_path / "gone", "")], 0, Clock()).walk() == []


def test_a_cgroup_namespaces_own_part_is_not_taken_for_the_hosts_tree(tmp_path: Path) -> None:
    (tmp_path / "system.slice").mkdir()
    assert tmp_path.stat().st_ino != 1
    assert CgroupPaths([CgroupMount(V2, tmp_path, "")], 0, Clock()).walk() == []


def test_the_root_needs_no_mount() -> None:
    assert CgroupPaths([], V1, Clock()).find(V1, 1) == Found("/", settled=True)


def test_what_the_probe_tells_is_known_at_once_and_per_hierarchy() -> None:
    paths = CgroupPaths([], V1, Clock())

    new, changed = paths.learn(records((7, V2, "/docker/a"), (7, V1, "/docker/b"), (7, 5, "/of/no/interest")))

    assert (new, changed) == (["/docker/a", "/docker/b"], False)
    assert paths.find(V2, 7).path == "/docker/a"
    assert paths.find(V1, 7).path == "/docker/b"
    assert len(paths) == 2


def test_a_newer_cgroup_takes_over_the_id_of_an_older_one() -> None:
    paths = CgroupPaths([], V1, Clock())
    paths.learn(records((7, V2, "/docker/old")))

    assert paths.learn(records((7, V2, "/docker/new"))) == (["/docker/new"], True)
    assert paths.find(V2, 7).path == "/docker/new"
    assert paths.learn(records((7, V2, "/docker/new"))) == ([], False)


def test_a_path_cut_off_by_the_probe_is_counted_and_not_believed() -> None:
    paths = CgroupPaths([], V1, Clock())

    paths.learn(records((7, V2, "/" + "a" * 318)))

    assert paths.truncated == 1
    assert paths.find(V2, 7).path is None


def test_a_miss_walks_again_but_not_twice_within_a_second(tmp_path: Path) -> None:
    clock = Clock()
    paths = CgroupPaths([CgroupMount(V2, tmp_path, "/x")], V1, clock)
    paths.walk()
    (tmp_path / "late").mkdir()
    inode = (tmp_path / "late").stat().st_ino

    clock.now = 0.5
    assert paths.find(V2, inode) == Found(None, settled=False)
    clock.now = 1.0
    assert paths.find(V2, inode) == Found("/x/late", settled=True)


def test_an_id_that_a_walk_did_not_find_is_not_looked_for_again_until_the_probe_tells_it(tmp_path: Path) -> None:
    clock = Clock()
    paths = CgroupPaths([CgroupMount(V2, tmp_path, "/x")], V1, clock)
    gone = tmp_path.stat().st_ino + 12_345

    assert paths.find(V2, gone) == Found(None, settled=True)
    clock.now = 5.0
    (tmp_path / "other").mkdir()
    assert paths.find(V2, gone) == Found(None, settled=True)
    assert len(paths) == 2  # the root and the missing one: no walk since

    assert paths.learn(records((gone, V2, "/docker/a"))) == (["/docker/a"], True)
    assert paths.find(V2, gone) == Found("/docker/a", settled=True)


def test_beyond_its_capacity_the_id_longest_not_asked_for_is_forgotten_and_counted() -> None:
    paths = CgroupPaths([], V1, Clock(), capacity=2)
    paths.learn(records((7, V2, "/a"), (8, V2, "/b")))
    paths.find(V2, 7)

    paths.learn(records((9, V2, "/c")))

    assert paths.evicted == 1
    assert len(paths) == 2
    assert paths.find(V2, 7).path == "/a"
    assert paths.find(V2, 9).path == "/c"


def id_of(path: Path) -> int:
    """A cgroup's id as the kernel's file handle has it (name_to_handle_at(2): kernfs puts the node's id there)."""
    handle = ctypes.create_string_buffer(struct.pack("Ii", 8, 0) + bytes(8))
    mount_id = ctypes.c_int()
    if ctypes.CDLL(None, use_errno=True).name_to_handle_at(-100, os.fsencode(path), handle, ctypes.byref(mount_id), 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    return int(struct.unpack_from("=Q", handle, 8)[0])


@contextmanager
def process_in(*cgroups: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that sleeps in new cgroups, which are removed with it."""
    with ExitStack() as cleanup:
        for cgroup in cgroups:
            cgroup.mkdir()
            cleanup.callback(cgroup.rmdir)
        process = subprocess.Popen(["sleep", "60"])
        cleanup.callback(process.wait)
        cleanup.callback(process.kill)
        for cgroup in cgroups:
            (cgroup / "cgroup.procs").write_text(str(process.pid))
        yield process


@pytest.mark.kernel
def test_real_cgroups_of_every_version_are_named_by_id_and_stay_named_when_they_are_gone() -> None:
    own = Path("/proc/self/cgroup").read_text()
    v1 = v1_hierarchy(own)
    mounts = find_mounts(Path("/proc/self/mountinfo").read_text(), own)
    used = {mount.hierarchy: mount.directory for mount in mounts if mount.hierarchy in (V2, v1)}
    if not used:
        missing("no cgroup hierarchy is mounted")
    if any(not os.access(directory, os.W_OK) for directory in used.values()):
        missing("cgroups cannot be made: /sys/fs/cgroup is read-only")
    name = f"flowlake-test-{os.getpid()}"
    paths = CgroupPaths(mounts, v1, time.monotonic)
    with process_in(*(directory / name for directory in used.values())) as process:
        lines = Path(f"/proc/{process.pid}/cgroup").read_text().splitlines()
        said = {int(line.split(":")[0]): line.split(":", 2)[2] for line in lines}
        ids = {hierarchy: id_of(directory / name) for hierarchy, directory in used.items()}
        paths.walk()

        assert {hierarchy: paths.find(hierarchy, ids[hierarchy]).path for hierarchy in used} == {
            hierarchy: said[hierarchy] for hierarchy in used
        }

    assert not any((directory / name).exists() for directory in used.values())
    assert all(paths.find(hierarchy, ids[hierarchy]) == (f"/{name}", True) for hierarchy in used)
    assert all(id_of(directory) == 1 for directory in used.values())
