"""Names of pods and containers from files as the engines write them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sidecar.identity.names import Name, Names
from sidecar.identity.paths import Container, Pod

ID = "9e1dc3a5f4b6a7c8d9e0f1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6"
OTHER = ID[::-1]
UID = "0f3a1b2c-4d5e-6f70-8192-a3b4c5d6e7f8"
BUNDLES = "run/containerd/io.containerd.runtime.v2.task"
STORAGE = "var/lib/containers/storage/overlay-containers"


def write_json(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def docker_container(root: Path, labels: dict[str, str], data_root: str = "var/lib/docker") -> None:
    config = {"ID": ID, "Name": "/web", "Config": {"Image": "nginx", "Labels": labels}}
    write_json(root / data_root / "containers" / ID / "config.v2.json", config)


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        ({}, Name("web", None, "web")),
        ({"com.docker.compose.project": "shop"}, Name("web", None, "web")),
        ({"com.docker.compose.service": "api", "com.docker.compose.project": "shop"}, Name("api", "shop", "web")),
        ({"com.docker.swarm.service.name": "shop_api"}, Name("shop_api", None, "web")),
        (
            {"com.amazonaws.ecs.task-definition-family": "api", "com.amazonaws.ecs.cluster": "prod"},
            Name("api", "prod", "web"),
        ),
    ],
)
def test_a_docker_container_is_called_by_its_orchestrators_labels_or_its_name(
    tmp_path: Path, labels: dict[str, str], name: Name
) -> None:
    docker_container(tmp_path, labels)
    assert Names(tmp_path).find(Container("docker", ID)) == name
    assert Names(tmp_path).find(Container("", ID)) == name


@pytest.mark.parametrize("docker_roots", [("/srv/docker",), ("srv/docker",)])
def test_dockers_data_may_be_elsewhere_by_setting(tmp_path: Path, docker_roots: tuple[str, ...]) -> None:
    docker_container(tmp_path, {}, "srv/docker")
    assert Names(tmp_path, docker_roots).find(Container("docker", ID)) == Name("web", None, "web")


def test_dockers_data_may_be_elsewhere_by_its_own_configuration(tmp_path: Path) -> None:
    docker_container(tmp_path, {}, "srv/docker")
    write_json(tmp_path / "etc/docker/daemon.json", {"data-root": "/srv/docker"})
    assert Names(tmp_path).find(Container("docker", ID)) == Name("web", None, "web")


@pytest.mark.parametrize("file", ["containers.json", "volatile-containers.json"])
def test_a_podman_container_is_called_by_its_name(tmp_path: Path, file: str) -> None:
    write_json(tmp_path / STORAGE / file, [{"id": OTHER, "names": ["db"]}, {"id": ID, "names": ["web"]}])
    assert Names(tmp_path).find(Container("podman", ID)) == Name("web", None, "web")


def test_a_containerd_container_is_called_by_nerdctls_name_or_the_id_that_was_chosen(tmp_path: Path) -> None:
    write_json(tmp_path / BUNDLES / "default" / ID / "config.json", {"annotations": {"nerdctl/name": "web"}})
    write_json(tmp_path / BUNDLES / "default/redis/config.json", {})
    names = Names(tmp_path)

    assert names.find(Container("", ID, "default")) == Name("web", None, "web")
    assert names.find(Container("containerd", ID)) == Name("web", None, "web")
    assert names.find(Container("containerd", "redis", "default", certain=False)) == Name("redis", None, "redis")
    assert names.find(Container("containerd", "redis", "other", certain=False)) is None
    assert names.unnamed == 0


def test_a_pod_of_containerd_is_named_by_its_bundle(tmp_path: Path) -> None:
    annotations = {
        "io.kubernetes.cri.sandbox-uid": UID,
        "io.kubernetes.cri.sandbox-namespace": "shop",
        "io.kubernetes.cri.sandbox-name": "checkout-7d9f8c-x2x4z",
        "io.kubernetes.cri.container-name": "app",
    }
    write_json(tmp_path / BUNDLES / "k8s.io" / ID / "config.json", {"annotations": annotations})

    name = Names(tmp_path).find(Pod(UID, ID))

    assert name == Name("checkout-7d9f8c-x2x4z", "shop", "checkout-7d9f8c-x2x4z")


def test_a_pod_of_cri_o_is_named_by_its_bundle(tmp_path: Path) -> None:
    annotations = {
        "io.kubernetes.pod.uid": UID,
        "io.kubernetes.pod.namespace": "shop",
        "io.kubernetes.pod.name": "checkout-0",
    }
    write_json(tmp_path / STORAGE / "containers.json", [{"id": ID, "names": ["k8s_app_checkout-0_shop_1"]}])
    write_json(tmp_path / STORAGE / ID / "userdata/config.json", {"annotations": annotations})
    assert Names(tmp_path).find(Pod(UID, ID)) == Name("checkout-0", "shop", "checkout-0")


def test_a_pod_of_docker_is_named_by_its_labels(tmp_path: Path) -> None:
    docker_container(
        tmp_path,
        {
            "io.kubernetes.pod.uid": UID,
            "io.kubernetes.pod.namespace": "shop",
            "io.kubernetes.pod.name": "checkout-0",
        },
    )
    assert Names(tmp_path).find(Pod(UID, ID)) == Name("checkout-0", "shop", "checkout-0")


def test_a_pod_is_named_by_the_kubelets_log_directory_where_no_runtime_tells(tmp_path: Path) -> None:
    (tmp_path / "var/log/pods" / f"shop_checkout-0_{UID}").mkdir(parents=True)
    assert Names(tmp_path).find(Pod(UID, None)) == Name("checkout-0", "shop", "checkout-0")


def test_a_runtime_that_speaks_of_another_pod_is_not_believed(tmp_path: Path) -> None:
    annotations = {
        "io.kubernetes.cri.sandbox-uid": UID[::-1],
        "io.kubernetes.cri.sandbox-namespace": "shop",
        "io.kubernetes.cri.sandbox-name": "checkout",
    }
    write_json(tmp_path / BUNDLES / "k8s.io" / ID / "config.json", {"annotations": annotations})
    assert Names(tmp_path).find(Pod(UID, ID)) == Name(UID, None, None)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"Name": 7, "Config": []}', "[" * 100_000, '"text"', "\xff"])
def test_a_file_that_is_not_what_it_should_be_leaves_the_id_as_the_name_and_is_counted(
    tmp_path: Path, content: str
) -> None:
    file = tmp_path / "var/lib/docker/containers" / ID / "config.v2.json"
    file.parent.mkdir(parents=True)
    file.write_text(content, encoding="latin-1")
    names = Names(tmp_path)

    assert names.find(Container("docker", ID)) == Name(ID, None, None)
    assert names.unnamed == 1


def test_a_name_is_looked_up_once_and_kept_when_the_container_is_gone(tmp_path: Path) -> None:
    docker_container(tmp_path, {})
    names = Names(tmp_path)
    first = names.find(Container("docker", ID))

    shutil.rmtree(tmp_path / "var")

    assert names.find(Container("docker", ID)) == first == Name("web", None, "web")


def test_beyond_its_capacity_the_name_longest_not_asked_for_is_forgotten_and_counted(tmp_path: Path) -> None:
    docker_container(tmp_path, {})
    names = Names(tmp_path, capacity=1)
    names.find(Container("docker", ID))
    names.find(Container("docker", OTHER))
    shutil.rmtree(tmp_path / "var")

    assert names.find(Container("docker", ID)) == Name(ID, None, None)
    assert names.evicted == 2


def test_lxc_and_nspawn_containers_are_called_as_their_path_says(tmp_path: Path) -> None:
    assert Names(tmp_path).find(Container("lxc", "web")) == Name("web", None, "web")
    assert Names(tmp_path).find(Container("nspawn", "build")) == Name("build", None, "build")
