"""Which workload is named from paths in several hierarchies, and when none is."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.flow_batch import Workload
from sidecar.identity.names import Names
from sidecar.identity.paths import Container, Owner, Pod, Unit
from sidecar.identity.workloads import Verdict, container_workload, judge, unit_workload

HOST = "3d1219c7c4c5404aaa1f6d2a48adfda4"
ID = "9e1dc3a5f4b6a7c8d9e0f1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6"
OTHER = ID[::-1]
UID = "0f3a1b2c-4d5e-6f70-8192-a3b4c5d6e7f8"


@pytest.fixture
def names(tmp_path: Path) -> Names:
    """A host whose engines know nothing."""
    return Names(tmp_path)


JUDGED: dict[str, tuple[list[str | None], Owner | None, bool]] = {
    "cgroup v2 alone": ([f"/docker/{ID}"], Container("docker", ID), False),
    "v1 where v2 is not used": (["/", f"/docker/{ID}"], Container("docker", ID), False),
    "a container in v1, its engine's unit in v2": (
        ["/system.slice/containerd.service", f"/docker/{ID}"],
        Container("docker", ID),
        False,
    ),
    "the same container in two forms": (
        [f"/system.slice/docker-{ID}.scope", f"/my-batch/{ID}"],
        Container("docker", ID),
        False,
    ),
    "a pod with its container beats the pod alone": (
        [f"/kubepods/pod{UID}", f"/kubepods/pod{UID}/{ID}"],
        Pod(UID, ID),
        False,
    ),
    "a container in v2, v1 unknown": ([f"/docker/{ID}", None], Container("docker", ID), False),
    "two containers": ([f"/docker/{ID}", f"/docker/{OTHER}"], None, True),
    "a unit in v2, v1 unknown: it may be a container there": (["/system.slice/docker.service", None], None, True),
    "a unit in v2, v1 at the root": (["/system.slice/nginx.service", "/"], Unit("nginx.service"), False),
    "a unit in v1 alone": (["/", "/system.slice/nginx.service"], Unit("nginx.service"), False),
    "nothing in either": (["/", "/"], None, False),
    "nothing known": ([None], None, True),
    "no cgroup at all": ([], None, True),
    "looks like containerd, which knows nothing of it": (["/default/redis"], None, False),
}


@pytest.mark.parametrize("case", JUDGED)
def test_paths_of_one_process_are_judged_together(names: Names, case: str) -> None:
    paths, owner, doubtful = JUDGED[case]
    assert judge(paths, names) == Verdict(owner, doubtful)


@pytest.mark.parametrize(
    ("unit", "workload"),
    [
        (Unit("nginx.service"), Workload("nginx.service", "unit", None, "nginx.service", f"{HOST}/nginx.service")),
        (
            Unit("postgresql@14-main.service"),
            Workload(
                "postgresql@.service",
                "unit",
                None,
                "postgresql@14-main.service",
                f"{HOST}/postgresql@14-main.service",
            ),
        ),
        (
            Unit("syncthing.service", "1000"),
            Workload(
                "syncthing.service",
                "unit",
                "user@1000.service",
                "syncthing.service",
                f"{HOST}/user@1000.service/syncthing.service",
            ),
        ),
        (Unit("init.scope"), Workload("init.scope", "unit", None, "init.scope", f"{HOST}/init.scope")),
        (Unit("session-3.scope"), None),
        (Unit("run-u12.service"), None),
        (Unit("run-r0123456789abcdef0123456789abcdef.service"), None),
        (Unit("run-p512-i9.service"), None),
        (
            Unit("run-backup.service"),
            Workload("run-backup.service", "unit", None, "run-backup.service", f"{HOST}/run-backup.service"),
        ),
    ],
)
def test_a_unit_is_a_workload_unless_its_name_was_made_up_for_one_run(unit: Unit, workload: Workload | None) -> None:
    assert unit_workload(unit, HOST) == workload


@pytest.mark.parametrize(
    ("owner", "workload"),
    [
        (Container("docker", ID), Workload(ID, "container", None, None, ID, ID)),
        (Pod(UID, ID), Workload(UID, "pod", None, None, UID, ID)),
        (Pod(UID, None), Workload(UID, "pod", None, None, UID, None)),
        (Container("lxc", "web"), Workload("web", "container", None, "web", f"{HOST}/lxc/web", "web")),
    ],
)
def test_what_nobody_knows_is_called_by_its_id(names: Names, owner: Pod | Container, workload: Workload) -> None:
    assert container_workload(owner, names, HOST) == workload
