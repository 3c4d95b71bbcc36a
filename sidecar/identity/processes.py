"""What /proc says of a process's cgroups where the ids are not known: only with proof that it is still the same."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def process_cgroups(proc: Path, pid: int, comm: bytes, since_ns: int) -> list[str] | None:
    """Paths of a process's cgroups, in all hierarchies; None where nothing proves that it is the process meant.

    comm: its name then; since_ns: a moment (CLOCK_BOOTTIME) by which it must have been running. A process that started
    before that moment and still lives has held its pid all the while, so nobody else can have had it.
    """
    directory = proc / str(pid)
    try:
        stat = (directory / "stat").read_bytes()
        cgroups = (directory / "cgroup").read_bytes()
        again = (directory / "stat").read_bytes()
    except OSError:
        return None
    if _name_and_start(stat) != _name_and_start(again):
        return None
    name, start_ticks = _name_and_start(stat)
    # The kernel rounds the start down to a tick: one more may have passed.
    if name != comm or (start_ticks + 1) * 1_000_000_000 // _TICKS_PER_SECOND > since_ns:
        return None
    return [os.fsdecode(line.split(b":", 2)[2]) for line in cgroups.splitlines()]


def _name_and_start(stat: bytes) -> tuple[bytes, int]:
    """Fields 2 (comm, which may hold spaces and parentheses) and 22 (start, ticks since boot) of proc_pid_stat(5)."""
    before, _, after = stat.rpartition(b")")
    return before.partition(b"(")[2], int(after.split()[19])
