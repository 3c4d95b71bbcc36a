"""The kernel's tick, as user space can know it."""

from __future__ import annotations

import time
from typing import Final

CLOCK_MONOTONIC_COARSE: Final = 6  # include/uapi/linux/time.h; Python has no name for it


def jiffies_per_second() -> int:
    """CONFIG_HZ of the running kernel.

    The coarse clocks advance with the tick and say so: clock_getres returns KTIME_LOW_RES, which is a second / HZ
    (kernel/time/posix-timers.c). os.sysconf("SC_CLK_TCK") is another thing: always 100, for programs (USER_HZ).
    """
    return round(1 / time.clock_getres(CLOCK_MONOTONIC_COARSE))
