"""Who is the local end: cgroup ids to pods, containers, units and processes (docs/identity.md)."""

from __future__ import annotations

import time
from pathlib import Path

from sidecar.identity.cgroups import CgroupPaths, find_mounts, v1_hierarchy
from sidecar.identity.identity import Identity
from sidecar.identity.names import Names

INITIAL_CGROUP_NAMESPACE = 0xEFFFFFFB  # PROC_CGROUP_INIT_INO, include/linux/proc_ns.h


def open_identity(host_root: Path, host_id: str) -> Identity:
    """The identity of this host, having learned what runs now.

    host_root: where the host's `/` can be read. To be called once the probe is attached, which tells what begins later.
    """
    # From a cgroup namespace of our own, /proc shows the cgroups of others by paths that have lost their beginning.
    proc = Path("/proc") if Path("/proc/self/ns/cgroup").stat().st_ino == INITIAL_CGROUP_NAMESPACE else None
    own = Path("/proc/self/cgroup").read_text()
    mounts = find_mounts(Path("/proc/self/mountinfo").read_text(), own)
    identity = Identity(host_id, CgroupPaths(mounts, v1_hierarchy(own), time.monotonic), Names(host_root), proc)
    identity.open()
    return identity
