"""What container engines keep on disk about a container: its name and its labels.

Files, not the engines' sockets: a file is there before the container's first packet, answers in 0.1 ms whatever the
daemon is doing, and needs no access that would amount to root on the host (docs/identity.md). All of it is only read.
Every reader returns None where there is nothing to be known: no file, not readable, or not what it should be.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DOCKER_ROOTS = ("var/lib/docker", "var/snap/docker/common/var-lib-docker")
STORAGE_ROOTS = ("var/lib/containers/storage", "run/containers/storage")
STORAGE_FILES = ("containers.json", "volatile-containers.json")
CONTAINERD_STATES = ("run/containerd", "run/k3s/containerd", "var/snap/microk8s/common/run/containerd")
POD_LOGS = "var/log/pods"
MAX_FILE_BYTES = (
    16 << 20
)  # podman keeps all containers in one file, 1-2 kB each; anything longer is not what we look for


@dataclass(frozen=True, slots=True)
class ContainerState:
    """What an engine knows of one container."""

    name: str | None
    labels: dict[str, str] = field(default_factory=dict)


def read_docker(root: Path, docker_roots: Sequence[str], container_id: str) -> ContainerState | None:
    """Docker (moby container/container.go, `config.v2.json`): written when the container is created."""
    for docker_root in (*_configured_docker_root(root), *docker_roots):
        config = _read_json(root / docker_root / "containers" / container_id / "config.v2.json")
        if isinstance(config, dict):
            name = config.get("Name")
            inner = config.get("Config")
            labels = inner.get("Labels") if isinstance(inner, dict) else None
            return ContainerState(name.lstrip("/") if isinstance(name, str) else None, _strings(labels))
    return None


def read_storage(root: Path, container_id: str) -> ContainerState | None:
    """podman and CRI-O (containers/storage `containers.json`; CRI-O writes the pod into the bundle's annotations)."""
    for storage_root, file_name in itertools.product(STORAGE_ROOTS, STORAGE_FILES):
        directory = root / storage_root / "overlay-containers"
        containers = _read_json(directory / file_name)
        for container in containers if isinstance(containers, list) else ():
            if isinstance(container, dict) and container.get("id") == container_id:
                names = container.get("names")
                name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None
                return ContainerState(name, _annotations(directory / container_id / "userdata" / "config.json"))
    return None


def read_containerd(root: Path, container_id: str, namespace: str | None) -> ContainerState | None:
    """containerd's runtime v2 bundle: the OCI config.json, whose annotations the CRI plugin and nerdctl fill in."""
    for state in CONTAINERD_STATES:
        tasks = root / state / "io.containerd.runtime.v2.task"
        for task in (tasks / namespace,) if namespace else _directories(tasks):
            bundle = task / container_id
            if bundle.is_dir():
                annotations = _annotations(bundle / "config.json")
                return ContainerState(annotations.get("nerdctl/name"), annotations)
    return None


def read_pod_logs(root: Path, uid: str) -> tuple[str, str] | None:
    """(namespace, pod) by the name of the kubelet's log directory, `<namespace>_<pod>_<uid>`; no name holds a `_`."""
    for directory in _directories(root / POD_LOGS):
        namespace, _, rest = directory.name.partition("_")
        pod, _, found = rest.partition("_")
        if found == uid and namespace and pod:
            return namespace, pod
    return None


def _configured_docker_root(root: Path) -> tuple[str, ...]:
    config = _read_json(root / "etc/docker/daemon.json")
    data_root = config.get("data-root") if isinstance(config, dict) else None
    return (data_root.lstrip("/"),) if isinstance(data_root, str) else ()


def _annotations(config_json: Path) -> dict[str, str]:
    config = _read_json(config_json)
    return _strings(config.get("annotations")) if isinstance(config, dict) else {}


def _strings(labels: object) -> dict[str, str]:
    if not isinstance(labels, dict):
        return {}
    return {key: value for key, value in labels.items() if isinstance(key, str) and isinstance(value, str)}


def _directories(parent: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(parent) if entry.is_dir()]
    except OSError:
        return []


def _read_json(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            body = file.read(MAX_FILE_BYTES + 1)
        return json.loads(body) if len(body) <= MAX_FILE_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None
