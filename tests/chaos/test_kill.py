"""kill -9 of either process, again and again, under traffic: nothing that was spooled is lost, nothing is twice."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import pytest
from chaos.told import assert_lake_holds_exactly, coverage_by_run, losses
from chaos.witness import Witness
from kernel.records import wait_until
from kernel.traffic import ORDERLY, Ending, Traffic, random_plan, traffic_namespace
from processes import Process, wait_until_begun, wait_until_watching

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

KILLS = 50
SEED = 20
# Everything small and often, so that a kill falls between any two steps: segments roll and are trimmed, ranges end.
SETTINGS = {
    "sidecar": {
        "spool_segment_bytes": "16KiB",
        "drain_seconds": "0.02",
        "batch_seconds": "0.1",
        "interim_seconds": "0.3",
        "probe_ring_bytes": "32MiB",
    },
    "enricher": {"settle_seconds": "0", "range_seconds": "0.3", "poll_seconds": "0.02"},
}


class Line:
    """A sidecar and an enricher, each started anew whenever it is killed."""

    def __init__(self, lake: Path) -> None:
        self.lake = lake
        self.running: dict[str, Process] = {}
        self.said: list[str] = []  # by each that has ended, on standard error
        self.interrupted = 0  # kills that left a range begun and not finished
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for command in SETTINGS:
            self._start(command)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def kill(self, command: str) -> None:
        """kill -9, and start another."""
        victim = self.running[command]
        victim.kill()
        if command == "enricher":
            self.interrupted += self.intents() > sum(1 for _ in self.lake.glob("_ranges/*/0/*.done.json"))
        self.said.append(victim.errors())
        self._start(command)

    def end(self) -> None:
        """Both end orderly: all that the kernel told is spooled, all that was spooled is written."""
        for command, waits in (("sidecar", wait_until_watching), ("enricher", wait_until_begun)):
            waits(self.running[command])
            self.running[command].end()
            self.said.append(self.running[command].errors())

    def intents(self) -> int:
        """How many ranges have been begun."""
        return sum(1 for _ in self.lake.glob("_ranges/*/0/*.range.json"))

    def _start(self, command: str) -> None:
        flags = ["--drain"] if command == "enricher" else []
        self.running[command] = self._stack.enter_context(Process(command, self.lake, *flags, **SETTINGS[command]))


def wait_for_a_moment(chance: random.Random, line: Line, victim: str) -> None:
    """Every other time any moment from its start on, also before it has begun; else one at which it is at work."""
    if chance.random() < 0.5:
        time.sleep(chance.uniform(0, 1.0))
    elif victim == "sidecar":
        wait_until_watching(line.running[victim])
        time.sleep(chance.uniform(0, 0.6))
    else:  # a range takes some hundredths of a second, once or twice a second
        before = line.intents()
        wait_until(lambda: line.intents() > before, "the enricher begins a range")
        time.sleep(chance.uniform(0, 0.06))


def test_killing_the_sidecar_or_the_enricher_50_times_loses_nothing_spooled_and_doubles_nothing(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    lake = tmp_path / "lake"
    # Connections of up to half a second, so that some are open at every kill, and found again by the next sidecar.
    wanted = random_plan(SEED, 60_000, (*ORDERLY, Ending.CLIENT_RESETS, Ending.SERVER_UNREAD, Ending.REFUSED))
    wanted["rounds"] += 2
    with (
        traffic_namespace() as namespace,
        Witness(lake / "_spool", tmp_path / "kept") as witness,
        Traffic(namespace, wanted, "--rate", "200", "--window", "500", "--round-gap-us", "100000") as traffic,
        Line(lake) as line,
    ):
        netns = namespace.cookie
        for _ in range(KILLS):
            victim = chance.choice(("sidecar", "enricher"))
            wait_for_a_moment(chance, line, victim)
            line.kill(victim)
        assert traffic.running(), "the traffic ended before the kills did"
        line.end()

    assert_lake_holds_exactly(lake, witness.spooled(), netns)
    assert losses(lake) == {}
    assert len(coverage_by_run(lake)) > 5, "the sidecars were killed before they spooled anything"
    assert line.intents() > 20, "the enrichers were killed before they wrote anything"
    assert line.interrupted > 2, "no kill fell into the writing of a range"
    for text in line.said:
        assert "Traceback" not in text and "report this" not in text
