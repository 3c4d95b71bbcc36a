"""What the figures were measured on, and how much CPU a process has used."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parent.parent
CLOCK_SCHED = 2  # CPUCLOCK_SCHED of include/linux/posix-timers.h: the scheduler's own sum, in nanoseconds
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def machine() -> dict[str, object]:
    """Everything that somebody who compares two results has to know."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cores": os.cpu_count(),
        "processor": _first_line("/proc/cpuinfo", "model name"),
        "memory_mib": int(_first_line("/proc/meminfo", "MemTotal").split()[0]) // 1024,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": load_average(),
    }


def load_average() -> float:
    """Of the last minute: processes that wanted to run, this one's included."""
    return round(os.getloadavg()[0], 1)


@dataclass(frozen=True, slots=True)
class CpuUse:
    """CPU time of a process with all its threads. The sum is exact; its split comes from ticks of 10 ms."""

    total_ns: int
    user_ticks: int
    system_ticks: int

    def __sub__(self, earlier: CpuUse) -> CpuUse:
        return CpuUse(
            self.total_ns - earlier.total_ns,
            self.user_ticks - earlier.user_ticks,
            self.system_ticks - earlier.system_ticks,
        )

    @property
    def user_share(self) -> float:
        """Of the total, what was spent outside the kernel."""
        return self.user_ticks / max(self.user_ticks + self.system_ticks, 1)


def cpu_use(pid: int) -> CpuUse:
    """Source: clock_getcpuclockid(3) for the sum, proc_pid_stat(5) fields 14 and 15 for the split."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return CpuUse(time.clock_gettime_ns((~pid << 3) | CLOCK_SCHED), int(fields[11]), int(fields[12]))


def memory_mib(pid: int, what: str) -> float:
    """A line of proc_pid_status(5), such as VmRSS or VmHWM, in MiB."""
    return int(_first_line(f"/proc/{pid}/status", what).split()[0]) / 1024


def _first_line(path: str, name: str) -> str:
    lines = (line for line in Path(path).read_text().splitlines() if line.startswith(name))
    return next(lines, f"{name}: 0").partition(":")[2].strip()


def _commit() -> str:
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
        described = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()
