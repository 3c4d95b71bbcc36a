"""From records to indices into a batch's lists of workloads and processes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from schemas.flow_batch import Workload
from sidecar.identity import open_identity
from sidecar.identity.cgroups import V2, CgroupPaths, find_mounts, v1_hierarchy
from sidecar.identity.identity import BatchNames, Identity, OwnerIndices, distinct_rows
from sidecar.identity.names import Names
from sidecar.probe.abi import CGROUP_RECORD

HOST = "3d1219c7c4c5404aaa1f6d2a48adfda4"
ID = "9e1dc3a5f4b6a7c8d9e0f1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6"
UNKNOWN, LISTENER, ITERATOR, CONNECT, READ, CLOSE = range(6)  # enum flowlake_owner
V1 = 8
ROOT = 1

CONTAINER = Workload(ID, "container", None, None, ID, ID)
UNIT = Workload("nginx.service", "unit", None, "nginx.service", f"{HOST}/nginx.service")

Record = tuple[int, int, int, str, int]  # cgroup, cgroup_v1, pid, comm, owner_source


class Bench:
    """An identity over cgroups that the test makes up: no mounts, an empty /proc, engines that know nothing."""

    def __init__(self, root: Path, capacity: int = 1_000) -> None:
        self.now = 0.0
        self.proc = root / "proc"
        self.identity = Identity(
            HOST, CgroupPaths([], V1, lambda: self.now), Names(root), proc=self.proc, capacity=capacity
        )
        self.identity.open()

    def learn(self, *cgroups: tuple[int, int, str]) -> None:
        rows = [(inode, hierarchy, 0, path.encode()) for inode, hierarchy, path in cgroups]
        self.identity.learn(np.array(rows, CGROUP_RECORD))

    def resolve(
        self, records: Sequence[Record], since_ns: Sequence[int] | None = None
    ) -> tuple[OwnerIndices, BatchNames]:
        # The fields of the probe's record lie apart from each other in memory.
        dtype = [("cgroup", "<u8"), ("v1", "<u8"), ("pid", "<u4"), ("source", "u1"), ("comm", "S16"), ("rest", "S99")]
        rows: NDArray[Any] = np.zeros(len(records), dtype)
        for index, (cgroup, v1, pid, comm, source) in enumerate(records):
            rows[index] = (cgroup, v1, pid, source, os.fsencode(comm), b"")
        names = BatchNames()
        since = None if since_ns is None else np.array(since_ns, np.uint64)
        indices = self.identity.resolve(
            rows["cgroup"], rows["v1"], rows["pid"], rows["comm"], rows["source"], names, since
        )
        return indices, names

    def workloads(self, *records: Record) -> list[Workload | None]:
        indices, names = self.resolve(records)
        return [None if index is None else names.workloads[index] for index in indices.workload.tolist()]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_records_point_into_lists_that_hold_each_name_once(bench: Bench) -> None:
    bench.learn((7, V2, f"/docker/{ID}"), (8, V2, "/system.slice/nginx.service"))

    indices, names = bench.resolve(
        [
            (7, ROOT, 100, "app", CONNECT),
            (8, ROOT, 200, "nginx", READ),
            (7, ROOT, 101, "helper", CLOSE),
            (ROOT, ROOT, 300, "curl", CONNECT),
            (0, 0, 0, "", UNKNOWN),
            (8, ROOT, 201, "nginx", READ),
        ]
    )

    assert indices.workload.dtype == indices.process.dtype == np.int32
    assert sorted(names.processes) == ["app", "curl", "helper", "nginx"]
    assert {workload.workload for workload in names.workloads} == {ID, "nginx.service", "curl"}
    assert [None if i is None else names.workloads[i] for i in indices.workload.tolist()] == [
        CONTAINER,
        UNIT,
        CONTAINER,
        Workload("curl", "process"),
        None,
        UNIT,
    ]
    assert [None if i is None else names.processes[i] for i in indices.process.tolist()] == [
        "app",
        "nginx",
        "helper",
        "curl",
        None,
        "nginx",
    ]


def test_no_records_need_no_names(bench: Bench) -> None:
    indices, names = bench.resolve([])
    assert len(indices.workload) == len(indices.process) == 0
    assert not names.workloads
    assert not names.processes


def test_flows_and_listeners_of_a_batch_share_its_lists(bench: Bench) -> None:
    names = BatchNames()
    one = np.ones(1, np.uint64)
    for comm in (b"curl", b"sshd", b"curl"):
        last = bench.identity.resolve(
            one, one, np.ones(1, np.uint32), np.array([comm], "S16"), np.array([CONNECT], np.uint8), names
        )
    assert names.processes == ["curl", "sshd"]
    assert last.process.tolist() == last.workload.tolist() == [0]


@pytest.mark.parametrize(
    ("path", "workload"),
    [
        (f"/docker/{ID}", CONTAINER),
        ("/system.slice/nginx.service", None),
        ("/init.scope", None),  # socket activation: systemd listens, somebody else serves
        ("/", None),
    ],
)
def test_of_a_listener_only_the_container_is_named(bench: Bench, path: str, workload: Workload | None) -> None:
    bench.learn((7, V2, path))
    assert bench.workloads((7, ROOT, 1, "systemd", LISTENER)) == [workload]


def test_of_an_unknown_owner_nothing_is_named(bench: Bench) -> None:
    bench.learn((7, V2, f"/docker/{ID}"))
    assert bench.workloads((7, ROOT, 1, "nginx", UNKNOWN)) == [None]


@pytest.mark.parametrize(
    ("path", "workload"),
    [
        (f"/docker/{ID}", CONTAINER),
        ("/system.slice/nginx.service", UNIT),
        ("/", Workload("nginx", "process")),
        ("/init.scope", None),
        ("/user.slice/user-1000.slice/user@1000.service/init.scope", None),
    ],
)
@pytest.mark.parametrize("source", [LISTENER, ITERATOR])
def test_a_listening_socket_is_its_owners_unless_that_is_a_service_manager(
    bench: Bench, path: str, workload: Workload | None, source: int
) -> None:
    bench.learn((7, V2, path))
    one = np.ones(1, np.uint64)
    names = BatchNames()
    comm, sources = np.array([b"nginx"], "S16"), np.array([source], np.uint8)
    bench.identity.resolve(one * 7, one, np.ones(1, np.uint32), comm, sources, names, listening=True)
    assert names.workloads == ([workload] if workload else [])


@pytest.mark.parametrize("source", [ITERATOR, CONNECT, READ, CLOSE])
def test_of_a_process_seen_at_work_the_unit_is_named(bench: Bench, source: int) -> None:
    bench.learn((7, V2, "/system.slice/nginx.service"))
    assert bench.workloads((7, ROOT, 1, "nginx", source)) == [UNIT]


def test_a_process_in_a_scope_made_for_one_run_is_called_by_its_name(bench: Bench) -> None:
    bench.learn((7, V2, "/user.slice/user-1000.slice/session-3.scope"))
    assert bench.workloads((7, ROOT, 1, "curl", CONNECT)) == [Workload("curl", "process")]


def test_cgroup_v1_names_where_v2_is_not_used_or_is_the_engines_own(bench: Bench) -> None:
    bench.learn((7, V1, f"/docker/{ID}"), (9, V2, "/system.slice/containerd.service"))
    assert (
        bench.workloads((ROOT, 7, 1, "a", CONNECT), (9, 7, 1, "a", CONNECT), (0, 7, 1, "a", CONNECT)) == [CONTAINER] * 3
    )


@pytest.mark.parametrize("ids", [(7, 0), (0, ROOT), (0, 0)])
def test_an_id_that_the_probe_could_not_tell_may_be_a_container_so_no_unit_or_process_is_named(
    bench: Bench, ids: tuple[int, int]
) -> None:
    bench.learn((7, V2, "/system.slice/containerd.service"))
    assert bench.workloads((*ids, 1, "nginx", CONNECT)) == [None]


def test_an_unknown_cgroup_names_nothing_and_is_counted_once_it_cannot_be_found(bench: Bench) -> None:
    bench.now = 0.5  # just walked: it may still be found
    assert bench.workloads((7, ROOT, 1, "nginx", CONNECT)) == [None]
    assert bench.identity.counters().doubtful == 0

    bench.now = 2.0
    assert bench.workloads((7, ROOT, 1, "nginx", CONNECT)) == [None]
    assert bench.identity.counters().doubtful == 1


def test_a_cgroup_told_late_is_named_from_then_on(bench: Bench) -> None:
    bench.now = 2.0
    record: Record = (7, ROOT, 1, "nginx", CONNECT)
    assert bench.workloads(record) == [None]

    bench.learn((7, V2, f"/docker/{ID}"))

    assert bench.workloads(record) == [CONTAINER]


def test_an_id_used_again_is_the_new_cgroup_from_then_on(bench: Bench) -> None:
    record: Record = (7, ROOT, 1, "nginx", CONNECT)
    bench.learn((7, V2, f"/docker/{ID}"))
    assert bench.workloads(record) == [CONTAINER]

    bench.learn((7, V2, "/system.slice/nginx.service"))

    assert bench.workloads(record) == [UNIT]


def write_process(proc: Path, pid: int, comm: str, start_ticks: int, cgroup: str) -> None:
    (proc / str(pid)).mkdir(parents=True)
    (proc / str(pid) / "stat").write_text(f"{pid} ({comm}) S {'0 ' * 18}{start_ticks} {'0 ' * 30}")
    (proc / str(pid) / "cgroup").write_text(f"0::{cgroup}\n")


def test_a_living_process_tells_a_cgroup_that_nobody_else_knows(bench: Bench) -> None:
    write_process(bench.proc, 100, "app", 50, f"/docker/{ID}")
    write_process(bench.proc, 200, "nginx", 50, "/system.slice/nginx.service")
    write_process(bench.proc, 300, "app", 90, "/system.slice/other.service")
    second_ns = 1_000_000_000  # the processes started after 0.5 and 0.9 s, at 100 ticks per second

    indices, names = bench.resolve(
        [
            (7, ROOT, 100, "app", CONNECT),
            (8, ROOT, 200, "nginx", READ),
            (7, ROOT, 300, "app", CONNECT),  # began before this process did: another had the pid
            (7, ROOT, 400, "app", CONNECT),  # ended
            (8, ROOT, 200, "nginx", LISTENER),  # seen to listen, not to serve
            (7, ROOT, 100, "app", LISTENER),
        ],
        since_ns=[second_ns, second_ns, second_ns * 8 // 10, second_ns, second_ns, second_ns],
    )

    named = [None if i is None else names.workloads[i] for i in indices.workload.tolist()]
    assert named == [CONTAINER, UNIT, None, None, None, CONTAINER]
    assert bench.workloads((7, ROOT, 100, "app", CONNECT)) == [None]  # without a time there is no proof


def test_the_memory_of_owners_is_bounded_and_forgetting_changes_no_answer(tmp_path: Path) -> None:
    bench = Bench(tmp_path, capacity=3)
    records: list[Record] = [(ROOT, ROOT, 1, f"process-{number}", CONNECT) for number in range(10)]
    expected = [Workload(f"process-{number}", "process") for number in range(10)]

    assert bench.workloads(*records) == expected
    assert bench.workloads(*records) == expected
    assert len(bench.identity._answers) == 3


def test_a_name_of_any_bytes_is_text_up_to_its_first_nul(bench: Bench) -> None:
    indices, names = bench.resolve([(ROOT, ROOT, 1, "a\udcffb", CONNECT), (ROOT, ROOT, 1, "cut\0rest", CONNECT)])
    assert [names.processes[index] for index in indices.process.tolist()] == [r"a\xffb", "cut"]


ROWS = st.lists(st.tuples(*[st.integers(0, 3)] * 5), max_size=40)


@given(ROWS)
def test_distinct_rows_are_those_that_numpy_finds(values: list[tuple[int, ...]]) -> None:
    rows = np.array(values, np.uint64).reshape(-1, 5)
    first, inverse = distinct_rows(rows)
    assert np.array_equal(rows[first][inverse], rows)
    assert len(first) == len(np.unique(rows, axis=0))


@given(ROWS)
def test_rows_whose_hashes_collide_are_still_told_apart(values: list[tuple[int, ...]]) -> None:
    rows = np.array(values, np.uint64).reshape(-1, 5)
    first, inverse = distinct_rows(rows, mix=lambda rows: rows[:, 0] & np.uint64(1))
    assert np.array_equal(rows[first][inverse], rows)
    assert len(first) == len(np.unique(rows, axis=0))


@pytest.mark.kernel
def test_this_hosts_own_process_is_named_by_the_cgroup_that_the_kernel_shows(tmp_path: Path) -> None:
    own = Path("/proc/self/cgroup").read_text()
    by_hierarchy = {int(line.split(":")[0]): line.split(":", 2)[2] for line in own.splitlines()}
    identity = open_identity(tmp_path, HOST)
    ids = []
    for hierarchy in (V2, v1_hierarchy(own)):
        mount = next(
            (
                mount.directory
                for mount in find_mounts(Path("/proc/self/mountinfo").read_text(), own)
                if mount.hierarchy == hierarchy
            ),
            None,
        )
        ids.append((mount / by_hierarchy[hierarchy].lstrip("/")).stat().st_ino if mount else 0)
    names = BatchNames()
    identity.resolve(
        np.array(ids[:1], np.uint64),
        np.array(ids[1:], np.uint64),
        np.array([os.getpid()], np.uint32),
        np.array([b"pytest"], "S16"),
        np.array([CONNECT], np.uint8),
        names,
    )
    assert identity.counters().doubtful == 0
    assert len(names.workloads) == 1
