"""The per-host process: probe -> identity -> batch -> spool. Wires the rooms and turns the loop."""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.drops import Drop
from schemas.flow_batch import NamespaceCounters
from settings import add_flags, load
from settings.memory import keep_freed_pages
from sidecar.batch import BatchMaker
from sidecar.clock import WallClock
from sidecar.config import SidecarConfig
from sidecar.host import Host, Place, read_host
from sidecar.identity import open_identity
from sidecar.identity.cgroups import v1_controller
from sidecar.metrics import RunTotals
from sidecar.namespaces import Namespaces
from sidecar.network_scope import NetworkScopes
from sidecar.outbox import Outbox
from sidecar.probe.abi import FLOW_RECORD, LISTENER_RECORD, joined
from sidecar.probe.clock import jiffies_per_second
from sidecar.probe.loader import Mode
from sidecar.probe.probe import Probe, ProbeConfig, ProbeCounters
from transport.config import SpoolConfig
from transport.log import LogError
from transport.spool import SpoolWriter

KEPT_BYTES = 4 << 20  # the columns of one batch
SIGN_SECONDS = 50.0  # an idle host sends an empty batch: a minute without any was not watched
SWEEP_SECONDS = 5.0  # a half-open handshake is known to have failed only seconds after its last repetition


NO_LISTENERS = np.empty(0, LISTENER_RECORD)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `flowlake sidecar`."""
    add_flags(parser, SpoolConfig, SidecarConfig)


def run(args: argparse.Namespace) -> int:
    """Until SIGTERM or SIGINT. Raises FlowlakeError where it cannot start."""
    config = load(SidecarConfig, args, os.environ, known=args.known)
    spool_config = load(SpoolConfig, args, os.environ, known=args.known)
    keep_freed_pages(KEPT_BYTES)
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: asked.append(number))
    # `flowlake up` starts us with it held back until now (flowlake/children.py).
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))

    place = Place(config.cluster, config.region, config.zone, config.account)
    probe = Probe(
        ProbeConfig(
            mode=None if config.probe_mode == "auto" else Mode(config.probe_mode),
            btf_path=config.probe_btf,
            cgroup_v1_controller=v1_controller(Path("/proc/self/cgroup").read_text()),
            final_ring_bytes=config.probe_ring_bytes,
            interim_ring_bytes=config.probe_interim_ring_bytes,
        )
    )
    with SpoolWriter(spool_config) as spool:
        if spool.repaired.cut_bytes:
            lost = f"{spool.repaired.cut_bytes} bytes, {spool.repaired.lost_records} messages"
            _say(f"the spool's end was torn, as after a crash: cut {lost}")
        host = read_host(config.host_root, spool_config.directory, place, lambda: uuid.uuid4().hex)
        sidecar = Sidecar(config, host, uuid.uuid4().hex, probe, spool)
        sidecar.open()
        try:
            if probe.mode is Mode.RAW_TRACEPOINT:
                why = probe.fallback_reason or "as the settings ask"
                _say(f"raw tracepoints only: no interim records, listeners, half-open or older connections ({why})")
            _say(f"watching {host.host} with {probe.mode.value}, run {sidecar.run_id}, spool {spool_config.directory}")
            while not asked:
                sidecar.turn(config.drain_seconds)
        finally:
            sidecar.close()
    return 0


class Sidecar:
    """One run. `turn` is the loop's body: it waits, drains, and makes a batch when it is time."""

    def __init__(self, config: SidecarConfig, host: Host, run_id: str, probe: Probe, spool: SpoolWriter) -> None:
        self.run_id = run_id
        self.totals = RunTotals()
        self._config = config
        self._host = host
        self._probe = probe
        self._spool = spool
        self._outbox = Outbox(spool, self.totals, config.unspooled_bytes)
        self._namespaces = Namespaces()
        self._poll = select.epoll()
        self._pending: list[NDArray[Any]] = []
        self._pending_flows = 0
        self._half_open: dict[int, int] = {}  # by namespace, since the last look
        self._complaints: dict[str, str] = {}  # of what looks after the spool, the last one

    def open(self) -> None:
        """Load the probe, learn who runs, and look at what is open already. Raises FlowlakeError."""
        # The probe first: a cgroup made between the two is told by it, or found by the walk.
        self._probe.open()
        self._identity = open_identity(self._config.host_root, self._host.host_id)
        scopes = NetworkScopes(self._config.network, self._host.host_id, self._namespaces.host_cookie())
        self._batches = BatchMaker(
            self._host, self.run_id, self._identity, scopes, WallClock(), jiffies_per_second(), self.totals
        )
        # Edge-triggered: an edge comes when the ring is half full, not for every record in it.
        self._poll.register(self._probe.fileno(), select.EPOLLIN | select.EPOLLET)
        now = time.monotonic()
        self._next_walk = now
        self._next_sweep = now + SWEEP_SECONDS
        self._next_batch = now + self._config.batch_seconds
        self._next_sign = now + SIGN_SECONDS

    def turn(self, wait_seconds: float) -> None:
        """Wait for a ring that is half full, or as long as given; then do what is due."""
        self._poll.poll(wait_seconds)
        self._drain()
        now = time.monotonic()
        if now >= self._next_sweep:
            self._sweep()
            self._next_sweep = now + SWEEP_SECONDS
        if now >= self._next_walk:
            self._walk()
            self._next_walk = max(self._next_walk + self._config.interim_seconds, now)
            self._next_batch = now + self._config.batch_seconds
        elif self._pending_flows >= self._config.batch_flows or now >= self._next_batch:
            if self._pending or now >= self._next_sign:
                self._flush()
            else:
                self._outbox.retry()
                self._tend(self._spool.sync)  # what an idle host wrote last is safe from a power loss, too
            self._next_batch = now + self._config.batch_seconds

    def close(self) -> None:
        """A last look at what is open, detach, drain, and put everything into the spool."""
        if self._probe.is_open:
            self._walk()
            self._probe.detach()
            self._drain()
            self._flush_and_tell()
            self._compare_with_kernel(self._probe.counters())
            self._probe.close()
        self._outbox.abandon()
        dropped = ", ".join(f"{count} {reason}" for reason, count in self.totals.dropped.items()) or "none"
        _say(f"captured {self.totals.captured}, spooled {self.totals.spooled}, dropped {dropped}")

    def _walk(self) -> None:
        """Interim records of what is open, listeners, and the counters of network namespaces: always a batch."""
        interims, listening = self._probe.walk()
        self._drain()
        self._take(interims)
        self._sweep()
        namespaces = self._namespaces.look(self._half_open)
        self._half_open = {}
        self._flush(listening, namespaces)
        self._tend(self._spool.trim)

    def _drain(self) -> None:
        """Records first, cgroups after: so the cgroup of every record that was taken has been learned."""
        self._take(self._probe.drain())
        self._identity.learn(self._probe.cgroups())

    def _sweep(self) -> None:
        half_open = self._probe.sweep_half_open()
        for netns, count in zip(
            *(part.tolist() for part in np.unique(half_open["netns"], return_counts=True)), strict=True
        ):
            self._half_open[netns] = self._half_open.get(netns, 0) + count
        self._take(half_open)

    def _take(self, records: NDArray[Any]) -> None:
        if len(records):
            self._pending.append(records)
            self._pending_flows += len(records)

    def _flush(self, listening: NDArray[Any] | None = None, namespaces: Sequence[NamespaceCounters] = ()) -> None:
        """Batches of all that is pending; at least one."""
        records = joined(self._pending, FLOW_RECORD)
        self._pending, self._pending_flows = [], 0
        self._count_losses(self._probe.counters())
        self._next_sign = time.monotonic() + SIGN_SECONDS
        for begin in range(0, max(len(records), 1), self._config.batch_flows):
            chunk = records[begin : begin + self._config.batch_flows]
            self._outbox.send(self._batches.make(chunk, NO_LISTENERS if listening is None else listening, namespaces))
            listening, namespaces = None, ()

    def _flush_and_tell(self) -> None:
        """The last batch, and one that tells what had to go for it: only a header that comes after a drop has it.

        An empty batch may push out another segment, which leaves room for the next; a broken disk ends it as well.
        """
        for _ in range(3):
            told = dict(self.totals.later_dropped)
            self._flush()
            if self.totals.later_dropped == told:
                break

    def _tend(self, work: Callable[[], None]) -> None:
        """Look after the spool. What fails is said, once while it goes on, and tried again next time."""
        complaint = ""
        try:
            work()
        except LogError as error:
            complaint = str(error)
            if complaint != self._complaints.get(work.__name__):
                _say(complaint)
        self._complaints[work.__name__] = complaint

    def _count_losses(self, kernel: ProbeCounters) -> None:
        self.totals.kernel_dropped = {
            Drop.RING_FULL: kernel.lost_final,
            Drop.HALF_OPEN_FULL: kernel.lost_half_open,
            Drop.STORAGE_FULL: kernel.lost_storage,
            Drop.UNSEEN_END: kernel.unseen_ends,
        }
        self.totals.delayed_interims = kernel.delayed_interims

    def _compare_with_kernel(self, kernel: ProbeCounters) -> None:
        """Nothing is left in the rings now, so both counts of the same thing must agree."""
        if kernel.captured != self.totals.captured:
            _say(f"the kernel counted {kernel.captured} records, the sidecar {self.totals.captured}: report this")


def _say(line: str) -> None:
    print(f"flowlake: {line}", file=sys.stderr, flush=True)
