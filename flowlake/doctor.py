"""`flowlake doctor`: what this host can do, and the state of a running pipeline; each red line says what to do."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from flowlake.checkup import Line, State, lake_lines, spool_lines
from flowlake.config import load_spool
from flowlake.output import for_eyes
from lake.config import LakeConfig
from settings import MiB, add_flags, load
from sidecar.config import SidecarConfig
from sidecar.probe.loader import Mode
from sidecar.probe.probe import ProbeConfig
from sidecar.probe.requirements import checks
from transport.config import SpoolConfig

_SIDECAR_BYTES = 72 * MiB  # docs/design: the sidecar's budget of memory, rings of the default sizes included
_STA_UNSYNC = 0x40  # include/uapi/linux/timex.h


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object per check and line")
    add_flags(parser, LakeConfig, SpoolConfig, SidecarConfig)


def run(args: argparse.Namespace) -> int:
    """0 where no check failed, else 1. Raises FlowlakeError."""
    sidecar = load(SidecarConfig, args, os.environ, known=args.known)
    spool = load_spool(args)
    lake = load(LakeConfig, args, os.environ, known=args.known)
    lines = [
        *probe_lines(sidecar),
        cgroup_line(Path("/proc/self/mountinfo").read_text(encoding="utf-8")),
        memory_line(sidecar, Path("/proc/meminfo").read_text(encoding="ascii")),
        clock_line(clock_status()),
        *spool_lines(spool),
        *lake_lines(lake.uri, spool, datetime.now(UTC)),
    ]
    for text in json_text(lines) if args.json else plain_text(lines):
        print(text)
    return int(any(line.state is State.FAIL for line in lines))


def probe_lines(sidecar: SidecarConfig) -> Iterator[Line]:
    """What the probe needs of kernel, privileges and files."""
    mode = None if sidecar.probe_mode == "auto" else Mode(sidecar.probe_mode)
    for check in checks(ProbeConfig().object_directory, sidecar.probe_btf, mode):
        yield Line(check.name, State.OK if check.ok else State.FAIL, check.detail, "" if check.ok else check.remedy)


def cgroup_line(mountinfo: str) -> Line:
    """mountinfo: text of /proc/self/mountinfo (proc_pid_mountinfo(5)). The probe knows owners by cgroup v2 ids."""
    kinds = {line.partition(" - ")[2].split(" ")[0] for line in mountinfo.splitlines()}
    if "cgroup2" not in kinds:
        missing = "no cgroup2 mount: workloads cannot be named, processes still are"
        return Line("cgroups", State.WARN, missing, "mount it: mount -t cgroup2 none /sys/fs/cgroup/unified")
    return Line("cgroups", State.OK, "v1 and v2 (hybrid)" if "cgroup" in kinds else "v2")


def memory_line(sidecar: SidecarConfig, meminfo: str) -> Line:
    """meminfo: text of /proc/meminfo (Documentation/filesystems/proc.rst)."""
    rings = sidecar.probe_ring_bytes + sidecar.probe_interim_ring_bytes
    available = int(meminfo.split("MemAvailable:")[1].split()[0]) * 1024
    detail = f"rings of {for_eyes('bytes', rings)}, {for_eyes('bytes', available)} available"
    # A ring's pages are mapped twice, but exist once; the default rings are part of the sidecar's budget.
    if available < rings + _SIDECAR_BYTES:
        return Line("memory", State.WARN, detail, "free memory, or lower FLOWLAKE_PROBE_RING_BYTES")
    return Line("memory", State.OK, detail)


def clock_status() -> int:
    """The status bits of the kernel's clock, by adjtimex(2) without a change."""
    # struct timex: modes, four longs, then status; 208 bytes on 64-bit Linux (include/uapi/linux/timex.h).
    timex = (ctypes.c_char * 256)()
    if ctypes.CDLL(None, use_errno=True).adjtimex(timex) < 0:
        raise OSError(ctypes.get_errno(), "adjtimex")
    offset_of_status = 5 * ctypes.sizeof(ctypes.c_long)
    return ctypes.c_int.from_buffer(timex, offset_of_status).value


def clock_line(status: int) -> Line:
    if status & _STA_UNSYNC:
        return Line(
            "clock", State.WARN, "not synchronised", "run chrony or another NTP client: hosts are compared by time"
        )
    return Line("clock", State.OK, "synchronised")


def plain_text(lines: Sequence[Line]) -> Iterator[str]:
    width = max(len(line.check) for line in lines)
    for line in lines:
        yield f"{line.state.value:<4}  {line.check:<{width}}  {line.detail}"
        if line.remedy and line.state is not State.OK:
            yield f"{'':4}  {'':{width}}  -> {line.remedy}"


def json_text(lines: Sequence[Line]) -> Iterator[str]:
    for line in lines:
        yield json.dumps(asdict(line), ensure_ascii=False)
