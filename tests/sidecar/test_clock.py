"""The offset to the wall clock: tight, constant, and following a step."""

from __future__ import annotations

import itertools
import time

from sidecar.clock import SAMPLES, STEP_NS, Clocks, WallClock


class Simulated:
    """Two clocks; reading either takes as long as the test says."""

    def __init__(self, offset_ns: int) -> None:
        self.boottime_ns = 10_000_000_000
        self.offset_ns = offset_ns
        self.cost_ns = itertools.repeat(100)

    def clocks(self) -> Clocks:
        return Clocks(self.read_boottime, self.read_realtime)

    def read_boottime(self) -> int:
        self.boottime_ns += next(self.cost_ns)
        return self.boottime_ns

    def read_realtime(self) -> int:
        return self.read_boottime() + self.offset_ns


def test_the_offset_is_that_of_the_least_disturbed_sample() -> None:
    simulated = Simulated(offset_ns=1_000_000_000)
    disturbed = [100, 50_000, 900_000]  # preempted between the clocks, and again after
    simulated.cost_ns = itertools.chain(disturbed * 3, [100, 120, 120], disturbed * SAMPLES)
    assert WallClock(simulated.clocks()).offset_ns == 1_000_000_000


def test_the_offset_stays_while_the_clock_is_slewed() -> None:
    simulated = Simulated(offset_ns=0)
    clock = WallClock(simulated.clocks())
    simulated.offset_ns = STEP_NS
    clock.check()
    assert (clock.offset_ns, clock.steps) == (0, 0)


def test_the_offset_follows_a_step_in_either_direction_and_counts_it() -> None:
    simulated = Simulated(offset_ns=0)
    clock = WallClock(simulated.clocks())
    for step, offset_ns in enumerate((STEP_NS + 1, -3_600_000_000_000), start=1):
        simulated.offset_ns = offset_ns
        clock.check()
        assert (clock.offset_ns, clock.steps) == (offset_ns, step)


def test_now_is_on_the_scale_of_the_flows() -> None:
    simulated = Simulated(offset_ns=5_000_000)
    clock = WallClock(simulated.clocks())
    simulated.offset_ns += STEP_NS  # not a step: not followed
    assert clock.now_us() == (simulated.boottime_ns + 5_000_000) // 1_000


def test_this_hosts_clock_agrees_with_the_wall_clock() -> None:
    before = time.time_ns() // 1_000
    now = WallClock().now_us()
    assert before - 1_000 <= now <= time.time_ns() // 1_000 + 1_000
