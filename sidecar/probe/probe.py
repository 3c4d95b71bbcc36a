"""The probe as the sidecar sees it: records out of the kernel, as arrays."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sidecar.probe.abi import CGROUP_RECORD, COUNTERS, FLOW_RECORD, LISTENER_RECORD, Counter, joined
from sidecar.probe.clock import jiffies_per_second
from sidecar.probe.half_open import HalfOpenTable
from sidecar.probe.libbpf import library, number
from sidecar.probe.loader import LoadedObject, Mode, ObjectSettings, ProbeError, ProgramStats, load
from sidecar.probe.mapped_ring import MappedRing
from sidecar.probe.requirements import modes_to_try, require

MiB: Final = 1 << 20
CGROUP_RING_BYTES: Final = 64 << 10  # 190 cgroups between two drains
LISTENER_RING_BYTES: Final = 128 << 10  # 1,365 listeners before a walk waits
MAX_PASSES: Final = 8  # of a walk that has to wait; what is missing even then comes with the next one


@dataclass(frozen=True)
class ProbeConfig:
    """How the probe is loaded. Ring sizes are powers of two and at least a page."""

    final_ring_bytes: int = 4 * MiB  # 15,900 records: 0.4 s of 20,000 connections/s, both ends, drained every 0.1 s
    interim_ring_bytes: int = 2 * MiB  # a walk that needs more is drained on its way
    half_open_max: int = 16384  # what a SYN flood may occupy: 5 MB of kernel memory
    cgroup_v1_controller: str | None = None  # pids, memory, ...: the v1 hierarchy whose id goes into cgroup_v1
    mode: Mode | None = None  # None: the best that loads
    btf_path: Path | None = None  # BTF of a kernel that has none of its own
    object_directory: Path = field(default=Path(__file__).parent)

    def __post_init__(self) -> None:
        for name in ("final_ring_bytes", "interim_ring_bytes"):
            size = getattr(self, name)
            if size < mmap.PAGESIZE or size & (size - 1):
                raise ProbeError(f"{name} is {size}, but must be a power of two and at least {mmap.PAGESIZE}")


@dataclass(frozen=True)
class ProbeCounters:
    """Totals since the probe was loaded."""

    captured: int  # records made, tried or due: finals, interims, half-open handshakes taken out, unseen ends
    lost_final: int  # the ring of finals was full
    lost_half_open: int  # the table of half-open handshakes was full
    lost_storage: int  # the kernel had no memory for a socket's state
    unseen_ends: int  # connections that are gone although no tracepoint told of it, as far as a walk has found out
    lost_cgroup: int  # a name may be missing, never a flow
    delayed_interims: int  # how often a walk waited for its ring to be drained; nothing is lost by it
    half_open: int  # handshakes whose SYN-ACK had to be repeated, completed later or not


def unseen_ends(before: list[int], after: list[int]) -> int:
    """How many connections are gone without a transition to CLOSE, at least: docs/decisions/unseen-ends.md.

    before, after: counters, by enum Counter, around one walk. What had begun before it has ended by the end of it, or
    the walk came by, or it is gone unseen. What began or ended meanwhile makes the answer smaller, never larger.
    """
    walked = after[Counter.WALKED] - before[Counter.WALKED]
    return max(0, before[Counter.BEGUN] - after[Counter.ENDED] - walked)


class Probe:
    """Loads, attaches, and hands out what the kernel saw. One thread at a time may use it."""

    def __init__(self, config: ProbeConfig) -> None:
        self._config = config
        self._object: LoadedObject | None = None
        self._taken_half_open = 0
        self._walks = 0
        self._unseen_ends = 0
        self.fallback_reason: str | None = None
        """Why the mode is raw_tracepoint: no interims, listeners, half-open handshakes or older sockets then."""

    def open(self) -> None:
        """Loads and attaches, then looks at the sockets that exist. Raises ProbeError."""
        config = self._config
        require(config.object_directory, config.btf_path, config.mode)
        self._object = self._load()
        self._finals = self._ring("finals", config.final_ring_bytes, FLOW_RECORD)
        if self.mode is not Mode.TP_BTF:
            return
        self._interims = self._ring("interims", config.interim_ring_bytes, FLOW_RECORD)
        self._listeners = self._ring("listeners", LISTENER_RING_BYTES, LISTENER_RECORD)
        self._cgroups = self._ring("cgroups", CGROUP_RING_BYTES, CGROUP_RECORD)
        self._half_open = HalfOpenTable(self._object.map_fd("half_open"), config.half_open_max)
        # Listeners first: they tell which connections are a server's.
        for iterator in ("adopt_listeners", "adopt_connections", "adopt_orphans"):
            self._object.run(iterator)

    @property
    def is_open(self) -> bool:
        """Whether it is loaded."""
        return self._object is not None

    def detach(self) -> None:
        """Captures no more; what was captured can still be drained."""
        self._loaded.detach()

    def close(self) -> None:
        """Detaches; what was not drained is gone."""
        if self._object is None:
            return
        self._finals.close()
        if self.mode is Mode.TP_BTF:
            self._interims.close()
            self._listeners.close()
            self._cgroups.close()
        self._object.close()
        self._object = None

    @property
    def mode(self) -> Mode:
        """How the programs are attached."""
        return self._loaded.mode

    def fileno(self) -> int:
        """For epoll with EPOLLIN | EPOLLET: an edge comes when the ring of finals is half full.

        Without EPOLLET it is ready whenever there is anything in the ring (ringbuf_map_poll, kernel/bpf/ringbuf.c).
        """
        return self._finals.fd

    def drain(self) -> NDArray[np.void]:
        """Final records since the last call: FLOW_RECORD, shape (n,), in order of their making."""
        return self._finals.drain()

    def walk(self) -> tuple[NDArray[np.void], NDArray[np.void]]:
        """Looks at every socket. Returns the interim records of connections where something moved since the last one,
        FLOW_RECORD of shape (n,), and the listeners as they are, LISTENER_RECORD of shape (m,).

        Both are empty in mode raw_tracepoint.
        """
        if self.mode is not Mode.TP_BTF:
            return np.empty(0, FLOW_RECORD), np.empty(0, LISTENER_RECORD)
        self._walks += 1
        number_of_walk = ctypes.c_uint32(self._walks)
        number(
            library().bpf_map_update_elem(
                self._loaded.map_fd(".data.walk"), ctypes.byref(ctypes.c_uint32(0)), ctypes.byref(number_of_walk), 0
            ),
            "cannot begin a walk",
        )
        interims: list[NDArray[np.void]] = []
        listeners: list[NDArray[np.void]] = []
        before = self._totals()
        for _ in range(MAX_PASSES):
            if not self._pass(interims, listeners):
                self._unseen_ends = max(self._unseen_ends, unseen_ends(before, self._totals()))
                break
        return joined(interims, FLOW_RECORD), joined(listeners, LISTENER_RECORD)

    def _pass(self, interims: list[NDArray[np.void]], listeners: list[NDArray[np.void]]) -> bool:
        """Once over every socket that this walk has not come by yet; True if it had to wait on its way.

        The iterator says EAGAIN when a ring is full, and goes on at the same socket when it is read again
        (bpf_seq_read, kernel/bpf/bpf_iter.c). It finds its place by counting, so it can miss sockets then.
        """
        waited = False
        fd = self._loaded.iterate("walk")
        try:
            while True:
                try:
                    os.read(fd, 1)  # nothing is written: it ends with the last socket
                    break
                except BlockingIOError:
                    waited = True
                finally:
                    interims.append(self._interims.drain())
                    listeners.append(self._listeners.drain())
        finally:
            os.close(fd)
        return waited

    def sweep_half_open(self) -> NDArray[np.void]:
        """Half-open handshakes that are overdue, as final records: FLOW_RECORD, shape (n,)."""
        if self.mode is not Mode.TP_BTF:
            return np.empty(0, FLOW_RECORD)
        records = self._half_open.take_overdue(time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        self._taken_half_open += len(records)
        return records

    def cgroups(self) -> NDArray[np.void]:
        """Cgroups made since the last call: CGROUP_RECORD, shape (n,)."""
        if self.mode is not Mode.TP_BTF:
            return np.empty(0, CGROUP_RECORD)
        return self._cgroups.drain()

    def counters(self) -> ProbeCounters:
        """What was captured and what was lost, since the probe was loaded."""
        totals = self._totals()
        return ProbeCounters(
            captured=totals[Counter.CAPTURED] + self._taken_half_open + self._unseen_ends,
            lost_final=totals[Counter.LOST_FINAL],
            lost_half_open=totals[Counter.LOST_HALF_OPEN],
            lost_storage=totals[Counter.LOST_STORAGE],
            unseen_ends=self._unseen_ends,
            lost_cgroup=totals[Counter.LOST_CGROUP],
            delayed_interims=totals[Counter.DELAYED_WALK],
            half_open=totals[Counter.HALF_OPEN],
        )

    def program_stats(self) -> list[ProgramStats]:
        """What each program did and cost; times only while kernel.bpf_stats_enabled is 1."""
        return self._loaded.statistics()

    def _totals(self) -> list[int]:
        """The counters by enum Counter, of all CPUs together."""
        values: NDArray[np.void] = np.zeros(library().libbpf_num_possible_cpus(), COUNTERS)
        key = ctypes.c_uint32(0)
        number(
            library().bpf_map_lookup_elem(self._loaded.map_fd("counters"), ctypes.byref(key), values.ctypes.data),
            "cannot read the probe's counters",
        )
        totals: list[int] = values["value"].sum(axis=0).tolist()
        return totals

    @property
    def _loaded(self) -> LoadedObject:
        if self._object is None:
            raise ProbeError("the probe is not open")
        return self._object

    def _ring(self, name: str, size_bytes: int, record: np.dtype[np.void]) -> MappedRing:
        return MappedRing(self._loaded.map_fd(name), size_bytes, record)

    def _load(self) -> LoadedObject:
        """The first mode that loads; the last one's error if none does."""
        config = self._config
        settings = ObjectSettings(
            map_sizes={
                "finals": config.final_ring_bytes,
                "interims": config.interim_ring_bytes,
                "half_open": config.half_open_max,
            },
            final_ring_bytes=config.final_ring_bytes,
            jiffies_per_second=jiffies_per_second(),
            cgroup_v1_controller=config.cgroup_v1_controller,
        )
        modes = modes_to_try(config.mode, config.btf_path)
        for mode in modes:
            try:
                return load(mode, config.object_directory / mode.object_name, config.btf_path, settings)
            except ProbeError as error:
                if mode is modes[-1]:
                    raise
                self.fallback_reason = str(error)
        raise AssertionError("there is always a mode to try")

    def __enter__(self) -> Probe:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
