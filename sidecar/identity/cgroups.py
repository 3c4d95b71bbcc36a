"""From a cgroup's id to its path, on v1, v2 and hybrid hosts, also when the cgroup is gone by now.

The id that the kernel gives a BPF program (bpf_get_current_cgroup_id, cgrp->kn->id) is the inode number of the
cgroup's directory (kernfs, fs/kernfs/dir.c kernfs_new_node), so one walk over the mounted hierarchies at start knows
them all without opening any. Cgroups made later are told by the probe at their creation; one that was missed is
looked for by another walk, at most once per second.
"""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

V2 = 0  # the hierarchy number of cgroup v2, as in /proc/self/cgroup
ROOT_ID = 1  # of every hierarchy, mounted or not: the first node that kernfs_create_root makes
NO_ID = 0  # the probe could not tell
V1_CONTROLLERS = ("pids", "memory")  # docs/decisions/hybrid-cgroups.md
MAX_CGROUPS = 65_536  # 100 times a busy host; about 25 MB if ever full of long pod paths
WALK_SECONDS = 1.0  # a walk over 1,000 cgroups takes about 10 ms
PATH_BYTES = 320  # FLOWLAKE_PATH_LEN, bpf/flowlake.h, with its final NUL


@dataclass(frozen=True, slots=True)
class CgroupMount:
    """Where one hierarchy can be read."""

    hierarchy: int
    directory: Path
    prefix: str  # path of `directory` within the hierarchy; "" for its root


class Found(NamedTuple):
    """What is known of an id. `settled` is False while a later question may be answered better."""

    path: str | None
    settled: bool


def hierarchies(proc_self_cgroup: str) -> dict[str, int]:
    """Number of each hierarchy by controller; cgroup v2 is `""`.

    proc_self_cgroup: the text of /proc/self/cgroup, lines of `number:controllers:path` (cgroups(7)).
    """
    numbers = {}
    for line in proc_self_cgroup.splitlines():
        number, controllers, _ = line.split(":", 2)
        for controller in controllers.split(","):
            numbers[controller] = int(number)
    return numbers


def v1_controller(proc_self_cgroup: str) -> str | None:
    """The controller whose v1 hierarchy the probe reads a second id from; None where the host has none to use."""
    numbers = hierarchies(proc_self_cgroup)
    return next((controller for controller in V1_CONTROLLERS if controller in numbers), None)


def v1_hierarchy(proc_self_cgroup: str) -> int:
    """Number of that hierarchy; 0 where there is none."""
    controller = v1_controller(proc_self_cgroup)
    return hierarchies(proc_self_cgroup)[controller] if controller else 0


def find_mounts(mountinfo: str, proc_self_cgroup: str) -> list[CgroupMount]:
    """The best mount of each hierarchy that is visible from here.

    mountinfo: the text of /proc/self/mountinfo (proc_pid_mountinfo(5)). In a container a hierarchy may be mounted
    twice: the container's own part, and the host's whole tree, whose root then reads `/..` or `/`; the wider one is
    taken.
    """
    numbers = hierarchies(proc_self_cgroup)
    best: dict[int, tuple[tuple[int, int], CgroupMount]] = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        root, mount_point = before.split()[3:5]
        fs_type, _, super_options = after.split()[:3]
        if fs_type == "cgroup2":
            hierarchy = V2
        elif fs_type == "cgroup":
            known = [numbers[option] for option in super_options.split(",") if option in numbers]
            if not known:
                continue
            hierarchy = known[0]
        else:
            continue
        outside = root.startswith("/..")
        prefix = "" if outside or root == "/" else _unescape(root)
        rank = (0 if outside else 1, len(prefix))
        mount = CgroupMount(hierarchy, Path(_unescape(mount_point)), prefix)
        if hierarchy not in best or rank < best[hierarchy][0]:
            best[hierarchy] = rank, mount
    return [mount for _, mount in best.values()]


class CgroupPaths:
    """Paths by (hierarchy, id), for cgroup v2 and one v1 hierarchy. An id is forgotten only beyond `capacity`."""

    def __init__(
        self, mounts: list[CgroupMount], v1: int, clock: Callable[[], float], capacity: int = MAX_CGROUPS
    ) -> None:
        """`clock` gives seconds that only grow. Nothing is read before `walk`."""
        self.v1 = v1
        self.evicted = 0  # paths forgotten because there were too many
        self.truncated = 0  # paths that the probe could not tell whole
        self._mounts = [mount for mount in mounts if mount.hierarchy in (V2, v1)]
        self._clock = clock
        self._capacity = capacity
        self._paths: OrderedDict[tuple[int, int], str | None] = OrderedDict()  # None: looked for, and gone
        self._walked_at = float("-inf")

    def walk(self) -> list[str]:
        """Learn every cgroup that exists now; one that vanishes meanwhile is passed over. Returns the new paths."""
        self._walked_at = self._clock()
        new = []
        for mount in self._mounts:
            for inode, path in _walk(mount):
                if self._put((mount.hierarchy, inode), path):
                    new.append(path)
        return new

    def learn(self, records: NDArray[Any]) -> tuple[list[str], bool]:
        """Learn cgroups from the probe, in the order of their creation; a newer one replaces an older of the same id.

        records: shape (n,), sidecar.probe.abi.CGROUP_RECORD.
        Returns the paths that are new, and whether an answer given before is no longer true.
        """
        new = []
        changed = False
        for inode, hierarchy, path_bytes in zip(
            records["id"].tolist(), records["hierarchy"].tolist(), records["path"].tolist(), strict=True
        ):
            if hierarchy not in (V2, self.v1):
                continue
            if len(path_bytes) >= PATH_BYTES - 1:
                self.truncated += 1
                continue
            path = os.fsdecode(path_bytes)
            changed |= self._paths.get((hierarchy, inode), path) != path
            if self._put((hierarchy, inode), path):
                new.append(path)
        return new, changed

    def find(self, hierarchy: int, inode: int) -> Found:
        """The path of an id, from memory or by a walk; (None, True) where nobody can tell any more."""
        if inode == ROOT_ID:
            return Found("/", settled=True)
        if inode == NO_ID:
            return Found(None, settled=True)
        key = (hierarchy, inode)
        if key not in self._paths:
            if self._clock() - self._walked_at < WALK_SECONDS:
                return Found(None, settled=False)
            self.walk()
            if key not in self._paths:
                self._put(key, None)
        self._paths.move_to_end(key)
        return Found(self._paths[key], settled=True)

    def __len__(self) -> int:
        return len(self._paths)

    def _put(self, key: tuple[int, int], path: str | None) -> bool:
        """Remember a path; True if it was not known so before."""
        if self._paths.get(key) == path and key in self._paths:
            return False
        self._paths[key] = path
        self._paths.move_to_end(key)
        if len(self._paths) > self._capacity:
            self._paths.popitem(last=False)
            self.evicted += 1
        return True


def _walk(mount: CgroupMount) -> list[tuple[int, str]]:
    """(inode, path) of every cgroup at and below a mount; directory entries carry the inode, so no file is opened."""
    try:
        root = mount.directory.stat().st_ino
    except OSError:
        return []
    if not mount.prefix and root != ROOT_ID:
        # A cgroup namespace's own part: what lies above it is hidden, and its `/system.slice` is not the host's.
        return []
    found = [(root, mount.prefix or "/")]
    pending = [(str(mount.directory), mount.prefix)]
    while pending:
        directory, prefix = pending.pop()
        try:
            with os.scandir(directory) as entries:
                children = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:  # removed since its parent was read
            continue
        for entry in children:
            path = f"{prefix}/{entry.name}"
            found.append((entry.inode(), path))
            pending.append((entry.path, path))
    return found


def _unescape(field: str) -> str:
    r"""A path of mountinfo: space, tab, newline and backslash are written as `\040` and so on."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
