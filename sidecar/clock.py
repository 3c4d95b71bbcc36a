"""From the kernel's clock to wall time: CLOCK_BOOTTIME, which never steps, plus an offset that is held constant.

A constant offset keeps the times of one connection in order and its durations exact while NTP slews the wall clock.
When the wall clock steps, the offset follows, and the step is counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

STEP_NS = 500_000  # a slew of 500 ppm, adjtimex's limit, takes a second for as much
SAMPLES = 5


@dataclass(frozen=True, slots=True)
class Clocks:
    """The two clocks, in nanoseconds."""

    boottime_ns: Callable[[], int] = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    realtime_ns: Callable[[], int] = time.time_ns


class WallClock:
    """Holds the offset from CLOCK_BOOTTIME to UTC."""

    def __init__(self, clocks: Clocks | None = None) -> None:
        self._clocks = clocks or Clocks()
        self.offset_ns = self._measure()
        self.steps = 0

    def check(self) -> None:
        """Follow the wall clock where it is more than STEP_NS off what is held; `steps` counts how often."""
        offset_ns = self._measure()
        if abs(offset_ns - self.offset_ns) > STEP_NS:
            self.offset_ns = offset_ns
            self.steps += 1

    def now_us(self) -> int:
        """Now, in microseconds UTC, on the scale of the flows' times."""
        return (self._clocks.boottime_ns() + self.offset_ns) // 1_000

    def _measure(self) -> int:
        """Realtime less boottime, from the sample that was least disturbed: both reads of boottime nearest together."""
        samples = []
        for _ in range(SAMPLES):
            before = self._clocks.boottime_ns()
            realtime = self._clocks.realtime_ns()
            after = self._clocks.boottime_ns()
            samples.append((after - before, realtime - (before + after) // 2))
        return min(samples)[1]
