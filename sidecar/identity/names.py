"""Names of pods and containers, as the host's disk tells them: each looked up once, and remembered when it is gone.

A container that nobody knows keeps its id as its name. Nothing is concluded from the shape of a name:
`checkout-7d9f8c-x2x4z` looks like a pod of Deployment `checkout`, but may be one that a person called so.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sidecar.identity.engines import (
    DOCKER_ROOTS,
    ContainerState,
    read_containerd,
    read_docker,
    read_pod_logs,
    read_storage,
)
from sidecar.identity.paths import Container, Pod

MAX_NAMES = 16_384  # containers and pods; beyond, the one longest not asked for is forgotten

# Label of the workload, label of the namespace it lives in: what an orchestrator wrote, best first.
WORKLOAD_LABELS = (
    ("com.docker.compose.service", "com.docker.compose.project"),
    ("com.docker.swarm.service.name", "com.docker.stack.namespace"),
    ("com.amazonaws.ecs.task-definition-family", "com.amazonaws.ecs.cluster"),
    ("com.hashicorp.nomad.job_name", "com.hashicorp.nomad.namespace"),
)
# uid, namespace and name of a container's pod: containerd's CRI plugin; CRI-O and cri-dockerd.
POD_LABELS = (
    ("io.kubernetes.cri.sandbox-uid", "io.kubernetes.cri.sandbox-namespace", "io.kubernetes.cri.sandbox-name"),
    ("io.kubernetes.pod.uid", "io.kubernetes.pod.namespace", "io.kubernetes.pod.name"),
)


class Name(NamedTuple):
    """How people call a workload; `instance` is None where only the id is known."""

    workload: str
    namespace: str | None
    instance: str | None


class Names:
    """Names by container id and pod uid. Not thread-safe."""

    def __init__(
        self, host_root: Path = Path("/"), docker_roots: Sequence[str] = DOCKER_ROOTS, capacity: int = MAX_NAMES
    ) -> None:
        """host_root: where the host's `/` can be read; docker_roots: Docker's data directories below it."""
        self.unnamed = 0  # look-ups that left the id as the name
        self.evicted = 0
        self._root = host_root
        self._docker_roots = tuple(docker_root.lstrip("/") for docker_root in docker_roots)
        self._capacity = capacity
        self._names: OrderedDict[Pod | Container, Name | None] = OrderedDict()

    def find(self, owner: Pod | Container) -> Name | None:
        """The name of a pod or container; None only where `owner` is not certain and no engine knows it."""
        if owner not in self._names:
            self._names[owner] = self._pod(owner) if isinstance(owner, Pod) else self._container(owner)
            if len(self._names) > self._capacity:
                self._names.popitem(last=False)
                self.evicted += 1
        self._names.move_to_end(owner)
        return self._names[owner]

    def _pod(self, pod: Pod) -> Name:
        state = self._state(Container("", pod.container_id)) if pod.container_id else None
        for uid, namespace, name in POD_LABELS:
            labels = state.labels if state else {}
            if labels.get(uid) == pod.uid and labels.get(namespace) and labels.get(name):
                return Name(labels[name], labels[namespace], labels[name])
        if logs := read_pod_logs(self._root, pod.uid):
            return Name(logs[1], logs[0], logs[1])
        self.unnamed += 1
        return Name(pod.uid, None, None)

    def _container(self, container: Container) -> Name | None:
        if container.engine in ("lxc", "nspawn"):
            return Name(container.id, None, container.id)
        state = self._state(container)
        if state is None and not container.certain:
            return None
        name = state.name if state else None
        for workload, namespace in WORKLOAD_LABELS:
            if state and state.labels.get(workload):
                return Name(state.labels[workload], state.labels.get(namespace) or None, name)
        if name is None and container.certain:
            self.unnamed += 1
        # An id that is not 64 hex digits is one that somebody chose: it is the name.
        return Name(name or container.id, None, name if container.certain else container.id)

    def _state(self, container: Container) -> ContainerState | None:
        """The first engine that knows the id: ids are random, so no two engines know the same one."""
        state = None
        if container.engine in ("", "docker"):
            state = read_docker(self._root, self._docker_roots, container.id)
        if state is None and container.engine in ("", "podman"):
            state = read_storage(self._root, container.id)
        if state is None and container.engine in ("", "containerd"):
            state = read_containerd(self._root, container.id, container.namespace)
        return state
