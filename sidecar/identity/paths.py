"""What a cgroup's path says: a Kubernetes pod, a container, a systemd unit, or nothing.

A path is a convention between a container engine and its cgroup driver; nobody but the engine could have
made these forms, so a match is a fact and not a guess. The one exception is containerd's own `/<namespace>/<id>`
with an id that somebody chose: it is returned as not `certain`, and counts only if containerd knows the id.

Sources: the engines' cgroup drivers (runc libcontainer/cgroups/systemd: `<slice>/<prefix>-<id>.scope`;
kubelet pkg/kubelet/cm/cgroup_manager_linux.go: `kubepods-burstable-pod<uid>.slice`), systemd.unit(5),
lxc.container.conf(5).
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pod:
    """A Kubernetes pod, and which of its containers where the path goes that far."""

    uid: str
    container_id: str | None


@dataclass(frozen=True, slots=True)
class Container:
    """A container that is no part of a pod. All that runs inside, however nested, is this one workload."""

    engine: str  # docker, podman, containerd, lxc, nspawn; "" where the path does not tell
    id: str  # 64 hex digits, or the name that lxc, nspawn or a user of containerd chose
    namespace: str | None = None  # containerd's
    certain: bool = True


@dataclass(frozen=True, slots=True)
class Unit:
    """A systemd unit of the host, or of a user's own systemd."""

    name: str
    uid: str | None = None  # the user, for units of user@<uid>.service


Owner = Pod | Container | Unit

_HEX64 = "[0-9a-f]{64}"
_UID = r"[0-9a-f]{8}(?P<dash>[-_])(?:[0-9a-f]{4}(?P=dash)){3}[0-9a-f]{12}|[0-9a-f]{32}"  # 32: a static pod's hash
_POD_CGROUPFS = re.compile(rf"pod(?P<uid>{_UID})")
_POD_SYSTEMD = re.compile(
    rf"(?:[\w.-]+-)?kubepods(?:-burstable|-besteffort)?-pod(?P<uid>{_UID})\.slice"
    rf"(?::[a-z-]+:(?P<container_id>{_HEX64}))?"  # containerd with the driver set differently from the kubelet's
)
_CONTAINER = re.compile(
    rf"(?:(?P<prefix>docker|libpod|crio|cri-containerd|nerdctl|containerd)-)?(?P<id>{_HEX64})(?:\.scope)?"
)
_ENGINES = {
    "docker": "docker",
    "libpod": "podman",
    "crio": "podman",  # the same storage library, so the same files
    "cri-containerd": "containerd",
    "nerdctl": "containerd",
    "containerd": "containerd",
}
_LXC = re.compile(r"lxc\.payload\.(?P<name>.+)")
_NSPAWN = re.compile(r"systemd-nspawn@(?P<name>.+)\.service|machine-(?!qemu\\x2d|lxc\\x2d)(?P<machine>.+)\.scope")
_CONTAINERD_NAMESPACE = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*")  # containerd pkg/identifiers
_UNIT = re.compile(r".+\.(?:service|scope)")
_USER_MANAGER = re.compile(r"user@(?P<uid>\d+)\.service")
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")


def parse_path(path: str) -> Owner | None:
    """The owner that a cgroup's path names, or None where it names none.

    path: from the root of its hierarchy. One that begins with `/..`, as a cgroup namespace shows what is not below it,
    has lost its beginning and names nothing.
    """
    segments = [segment for segment in path.split("/") if segment]
    if ".." in segments:
        return None
    return _pod(segments) or _container(segments) or _unit(segments) or _containerd(segments)


def _pod(segments: list[str]) -> Pod | None:
    """The innermost pod: where a whole node runs in a container, its pods are the workloads."""
    for depth in reversed(range(len(segments))):
        match = _POD_SYSTEMD.fullmatch(segments[depth])
        if match is None and "kubepods" in segments[:depth]:
            match = _POD_CGROUPFS.fullmatch(segments[depth])
        if match is None:
            continue
        container_id = match.groupdict().get("container_id")
        inside = segments[depth + 1] if depth + 1 < len(segments) else ""
        if inside.startswith("crio-conmon-"):  # CRI-O's own helper, which it puts beside the container
            return None
        if container := _CONTAINER.fullmatch(inside):
            container_id = container["id"]
        return Pod(match["uid"].replace("_", "-"), container_id)
    return None


def _container(segments: list[str]) -> Container | None:
    """The outermost container: the one that the host's own engine knows."""
    for depth, segment in enumerate(segments):
        if match := _CONTAINER.fullmatch(segment):
            parent = segments[depth - 1] if depth else ""
            engine = _ENGINES.get(match["prefix"] or parent, "")
            namespace = parent if depth == 1 and not match["prefix"] and not engine else None
            return Container(engine, match["id"], namespace)
        if match := _LXC.fullmatch(segment):
            return Container("lxc", match["name"])
        if segment in ("lxc", "lxc.payload") and depth == 0 and len(segments) > 1:
            return Container("lxc", segments[1])
        if (match := _NSPAWN.fullmatch(segment)) and segments[depth + 1 : depth + 2] != ["supervisor"]:
            return Container("nspawn", unescape(match["name"] or match["machine"]))
    return None


def _unit(segments: list[str]) -> Unit | None:
    """The host's unit: below slices only, else the tree belongs to some other systemd in a container unknown to us."""
    uid = None
    manager = None
    for segment in segments:
        if uid is None and (match := _USER_MANAGER.fullmatch(segment)):
            uid, manager = match["uid"], Unit(segment)
        elif segment == "init.scope" and manager:
            return manager
        elif _UNIT.fullmatch(segment):
            return Unit(segment, uid)
        elif not segment.endswith(".slice"):
            break
    return manager


def _containerd(segments: list[str]) -> Container | None:
    if len(segments) < 2 or not all(_CONTAINERD_NAMESPACE.fullmatch(segment) for segment in segments[:2]):
        return None
    if segments[0].endswith((".slice", ".service", ".scope")):
        return None
    return Container("containerd", segments[1], segments[0], certain=False)


def unescape(name: str) -> str:
    r"""A systemd unit name's text: `my\x2dmachine` is `my-machine` (systemd.unit(5), "String Escaping")."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)), name)
