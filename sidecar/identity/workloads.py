"""From what the cgroups of a socket's owner say to the workload that is named: the rules of docs/identity.md."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from schemas.flow_batch import Workload
from sidecar.identity.names import Names
from sidecar.identity.paths import Container, Owner, Pod, Unit, parse_path

# Names that systemd-run and others make up for one run: they say nothing that will be true tomorrow.
_ONE_OFF = re.compile(r"(?!init\.scope).+\.scope|run-(?:u?\d+|r[0-9a-f]{32}|p\d+-i\d+)\.service")
_TEMPLATE = re.compile(r"(?P<prefix>[^@]+)@.*(?P<suffix>\.\w+)")


class Verdict(NamedTuple):
    """What a set of paths says together; `doubtful`: one is missing or two contradict, and nothing is named."""

    owner: Owner | None
    doubtful: bool


def judge(paths: Iterable[str | None], names: Names) -> Verdict:
    """The owner named by the paths of one process in several hierarchies, best first; None is a path that is not known.

    A container in any hierarchy beats a unit in another: on hybrid hosts an engine may leave its containers' cgroup v2
    at the engine's own unit. So a unit counts only where every path is known, and two different containers are a doubt.
    """
    known = list(paths)
    owners = [owner for path in known if path is not None and (owner := _certain(parse_path(path), names))]
    containers = [owner for owner in owners if isinstance(owner, Pod | Container)]
    if containers:
        if len({_identity(owner) for owner in containers}) > 1:
            return Verdict(None, doubtful=True)
        deepest = [owner for owner in containers if isinstance(owner, Pod) and owner.container_id]
        return Verdict((deepest or containers)[0], doubtful=False)
    if None in known or not known:
        return Verdict(None, doubtful=True)
    return Verdict(owners[0] if owners else None, doubtful=False)


def container_workload(owner: Pod | Container, names: Names, host_id: str) -> Workload:
    """The workload of a pod or container; where nobody knows its name, its id is the name."""
    name = names.find(owner)
    if isinstance(owner, Pod):
        workload, namespace, instance = name or (owner.uid, None, None)
        return Workload(workload, "pod", namespace, instance, owner.uid, owner.container_id)
    workload, namespace, instance = name or (owner.id, None, None)
    chosen = len(owner.id) != 64  # by somebody, so it is unique on this host at best
    instance_id = f"{host_id}/{owner.engine}/{owner.id}" if chosen else owner.id
    return Workload(workload, "container", namespace, instance, instance_id, owner.id)


def unit_workload(unit: Unit, host_id: str) -> Workload | None:
    """The workload of a systemd unit; None for scopes and units whose name was made up for one run.

    All instances of a template are one workload: postgresql@14-main.service is an instance of postgresql@.service.
    """
    if _ONE_OFF.fullmatch(unit.name):
        return None
    manager = f"user@{unit.uid}.service" if unit.uid and not unit.name.startswith("user@") else None
    instance_id = "/".join(filter(None, (host_id, manager, unit.name)))
    return Workload(_TEMPLATE.sub(r"\g<prefix>@\g<suffix>", unit.name), "unit", manager, unit.name, instance_id)


def is_manager(unit: Unit) -> bool:
    """Whether this is systemd itself, the system's or a user's."""
    return unit.name == "init.scope" or unit.name.startswith("user@")


def process_workload(comm: str) -> Workload | None:
    """The workload of a process that is in no container and no unit."""
    return Workload(comm, "process") if comm else None


def _certain(owner: Owner | None, names: Names) -> Owner | None:
    """What a path names; nothing where it only looks like a container and no engine knows it."""
    if isinstance(owner, Container) and not owner.certain and names.find(owner) is None:
        return None
    return owner


def _identity(owner: Pod | Container) -> str:
    return owner.uid if isinstance(owner, Pod) else owner.id
