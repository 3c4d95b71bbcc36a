"""Identity against a real Docker daemon: its cgroups, its files, its own word on its containers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from dockerd import IMAGE, Dockerd, missing_programs
from skipping import missing

from schemas.flow_batch import Workload
from sidecar.identity.cgroups import CgroupPaths, find_mounts, v1_controller, v1_hierarchy
from sidecar.identity.identity import BatchNames, Identity
from sidecar.identity.names import Names
from sidecar.probe.probe import Probe, ProbeConfig

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

CONNECT, LISTENER = 3, 1  # enum flowlake_owner
ROLE_CLIENT, ROLE_SERVER = 1, 2  # enum flowlake_role
PORT = 4919


@pytest.fixture(scope="module")
def docker() -> Iterator[Dockerd]:
    if lacking := missing_programs():
        missing(f"{', '.join(lacking)} not found: apt-get install docker.io busybox-static")
    with Dockerd() as daemon:
        yield daemon


class Sidecar:
    """What of the sidecar names owners, started now."""

    def __init__(self, docker: Dockerd) -> None:
        own = Path("/proc/self/cgroup").read_text()
        mounts = find_mounts(Path("/proc/self/mountinfo").read_text(), own)
        names = Names(docker_roots=(str(docker.data_root),))
        self.identity = Identity("h" * 32, CgroupPaths(mounts, v1_hierarchy(own), time.monotonic), names, None)
        self.identity.open()

    def names(self, cgroup: int, cgroup_v1: int, source: int = CONNECT) -> Workload | None:
        names = BatchNames()
        self.identity.resolve(
            np.array([cgroup], np.uint64),
            np.array([cgroup_v1], np.uint64),
            np.array([1], np.uint32),
            np.array([b"sleep"], "S16"),
            np.array([source], np.uint8),
            names,
        )
        return names.workloads[0] if names.workloads else None


def cgroup_ids(pid: str) -> tuple[int, int]:
    """Ids of a process's cgroup in v2 and in the v1 hierarchy of `pids`, 0 where there is none of the kind."""
    ids = {"": 0, "pids": 0}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ids:
            mounts = [Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")] if not controllers else []
            mounts = [mount for mount in mounts if (mount / "cgroup.procs").exists()] or [Path("/sys/fs/cgroup/pids")]
            ids[controllers] = Path(f"{mounts[0]}{path}").stat().st_ino
    return ids[""], ids["pids"]


def start(docker: Dockerd, *options: str) -> tuple[str, tuple[int, int]]:
    """A container that sleeps: its id and its cgroups' ids."""
    container_id = docker.run("run", "-d", "--network", "none", *options, IMAGE, "sleep", "300")
    return container_id, cgroup_ids(docker.run("inspect", "-f", "{{.State.Pid}}", container_id))


def test_a_compose_service_is_the_workload_and_its_project_the_namespace(docker: Dockerd) -> None:
    labels = {"com.docker.compose.project": "shop", "com.docker.compose.service": "checkout"}
    container_id, ids = start(
        docker, "--name", "shop-checkout-1", *(f"--label={key}={value}" for key, value in labels.items())
    )

    workload = Sidecar(docker).names(*ids)

    said = json.loads(docker.run("inspect", container_id))[0]
    assert workload == Workload(
        workload=said["Config"]["Labels"]["com.docker.compose.service"],
        kind="container",
        namespace=said["Config"]["Labels"]["com.docker.compose.project"],
        instance=said["Name"].lstrip("/"),
        instance_id=said["Id"],
        container_id=said["Id"],
    )


def test_either_hierarchy_alone_names_a_plain_container_also_for_its_listener(docker: Dockerd) -> None:
    container_id, (v2, v1) = start(docker)
    name = docker.run("inspect", "-f", "{{.Name}}", container_id).lstrip("/")
    sidecar = Sidecar(docker)

    named = [sidecar.names(*ids, source=LISTENER) for ids in ((v2, 1), (1, v1)) if all(ids)]

    assert named
    assert set(named) == {Workload(name, "container", None, name, container_id, container_id)}


def test_a_container_removed_while_the_sidecar_runs_keeps_its_name(docker: Dockerd) -> None:
    container_id, ids = start(docker, "--name", "short")
    sidecar = Sidecar(docker)

    docker.run("rm", "-f", container_id)

    assert not (docker.data_root / "containers" / container_id).exists()
    assert sidecar.names(*ids) == Workload("short", "container", None, "short", container_id, container_id)


def test_a_container_that_began_after_the_sidecar_is_found_by_a_walk(docker: Dockerd) -> None:
    sidecar = Sidecar(docker)
    container_id, ids = start(docker, "--name", "late")

    deadline = time.monotonic() + 5  # a walk happens at most once per second
    while (workload := sidecar.names(*ids)) is None and time.monotonic() < deadline:
        time.sleep(0.1)

    assert workload == Workload("late", "container", None, "late", container_id, container_id)


def test_a_container_gone_before_its_records_are_read_is_named_by_what_the_probe_told(
    docker: Dockerd, tmp_path: Path
) -> None:
    wait = "until [ -e /gate/open ]; do busybox sleep 0.05; done"
    talk = f"busybox nc -l -p {PORT} -e busybox cat & busybox sleep 0.2; echo hi | busybox nc -w 1 127.0.0.1 {PORT}"
    probe = Probe(ProbeConfig(cgroup_v1_controller=v1_controller(Path("/proc/self/cgroup").read_text())))
    with probe:
        identity = Sidecar(docker).identity
        gate = ("--volume", f"{tmp_path}:/gate")
        container_id = docker.run(
            "run", "-d", "--rm", "--network", "none", "--name", "brief", *gate, IMAGE, "sh", "-c", f"{wait}; {talk}"
        )
        identity.learn(probe.cgroups())
        (tmp_path / "open").touch()
        deadline = time.monotonic() + 20
        while (docker.data_root / "containers" / container_id).exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        records = probe.drain()
    records = records[(records["local_port"] == PORT) | (records["remote_port"] == PORT)]
    names = BatchNames()

    owners = identity.resolve(
        records["cgroup"], records["cgroup_v1"], records["pid"], records["comm"], records["owner_source"], names
    )

    assert not any(Path("/sys/fs/cgroup").glob(f"**/{container_id}"))
    assert sorted(records["role"].tolist()) == [ROLE_CLIENT, ROLE_SERVER]
    assert names.workloads == [Workload("brief", "container", None, "brief", container_id, container_id)]
    assert owners.workload.tolist() == [0, 0]
    assert {names.processes[index] for index in owners.process.tolist()} <= {"busybox", "nc", "cat"}
