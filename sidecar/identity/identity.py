"""Who is the local end of each record: indices into the batch's lists of workloads and processes.

Thousands of records have a few distinct owners, so the arrays are reduced to their distinct rows first, and Python
looks only at those; a row once decided is remembered. The rules are in workloads.py and docs/identity.md.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.flow_batch import Workload
from sidecar.identity.cgroups import V2, CgroupPaths
from sidecar.identity.names import Names
from sidecar.identity.paths import Container, Pod, Unit, parse_path
from sidecar.identity.processes import process_cgroups
from sidecar.identity.workloads import Verdict, container_workload, is_manager, judge, process_workload, unit_workload

MAX_OWNERS = 65_536  # distinct (cgroups, name of process, kind of source) remembered; about 30 MB if ever full
OWNER_UNKNOWN, OWNER_LISTENER = 0, 1  # enum flowlake_owner, bpf/flowlake.h
_AT_WORK, _LISTENING = (
    2,
    3,
)  # beside those two in a Row: seen to use the connection; owner of the listening socket itself

MaskedInt32 = np.ma.MaskedArray[tuple[int], np.dtype[np.int32]]
Row = tuple[int, int, int, int, int]  # cgroup, cgroup_v1, comm as two words, source

_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: odd, without a pattern


@dataclass(slots=True)
class BatchNames:
    """The lists that a batch's flows and listeners refer to by index; a name enters when it is first used."""

    workloads: list[Workload] = field(default_factory=list)
    processes: list[str] = field(default_factory=list)
    _workload_index: dict[Workload, int] = field(default_factory=dict)
    _process_index: dict[str, int] = field(default_factory=dict)

    def workload(self, workload: Workload | None) -> int:
        """Index of a workload; -1 for None."""
        if workload is None:
            return -1
        index = self._workload_index.setdefault(workload, len(self.workloads))
        if index == len(self.workloads):
            self.workloads.append(workload)
        return index

    def process(self, process: str) -> int:
        """Index of a process's name; -1 for no name."""
        if not process:
            return -1
        index = self._process_index.setdefault(process, len(self.processes))
        if index == len(self.processes):
            self.processes.append(process)
        return index


class OwnerIndices(NamedTuple):
    """Shape (n,) each; masked where nothing is named."""

    workload: MaskedInt32
    process: MaskedInt32


class _Answer(NamedTuple):
    workload: Workload | None
    process: str
    doubtful: bool  # a living process may still tell


@dataclass(frozen=True, slots=True)
class IdentityCounters:
    """Totals since the start."""

    cgroups_evicted: int
    cgroup_paths_truncated: int
    names_evicted: int
    unnamed: int  # pods and containers called by their id
    doubtful: int  # decisions that named no workload because a cgroup is unknown or two disagree


class Identity:
    """Names owners. `open` learns what runs now; `learn` before every `resolve` learns what was created since."""

    def __init__(
        self, host_id: str, cgroups: CgroupPaths, names: Names, proc: Path | None, capacity: int = MAX_OWNERS
    ) -> None:
        """proc: the host's /proc, with the pids that the probe means and cgroups from their root; None: not here."""
        self._host_id = host_id
        self._cgroups = cgroups
        self._names = names
        self._proc = proc
        self._capacity = capacity
        self._answers: OrderedDict[Row, _Answer] = OrderedDict()
        self._doubtful = 0

    def open(self) -> None:
        """Walk the host's cgroups and look up the names of the containers that run."""
        self._look_up(self._cgroups.walk())

    def learn(self, records: NDArray[Any]) -> None:
        """Take in cgroups created since, and their containers' names while the engine still knows them.

        records: shape (n,), sidecar.probe.abi.CGROUP_RECORD.
        """
        new, changed = self._cgroups.learn(records)
        if changed:
            self._answers.clear()
        self._look_up(new)

    def resolve(
        self,
        cgroup: NDArray[np.uint64],
        cgroup_v1: NDArray[np.uint64],
        pid: NDArray[np.uint32],
        comm: NDArray[np.bytes_],
        owner_source: NDArray[np.uint8],
        names: BatchNames,
        since_ns: NDArray[np.uint64] | None = None,
        listening: bool = False,
    ) -> OwnerIndices:
        """The workload and process of each record, entered into `names`.

        All of shape (n,), as in the record; comm is S16. since_ns: when the connection began, or was first seen
        (CLOCK_BOOTTIME). With it a process that still lives is asked for cgroups that nobody else knows; without it
        nothing would prove that the pid is still the same. listening: these are the listening sockets themselves, not
        connections that they accepted.
        """
        rows = np.empty((len(cgroup), 5), np.uint64)
        rows[:, 0] = cgroup
        rows[:, 1] = cgroup_v1
        rows[:, 2:4] = np.ascontiguousarray(comm, "S16").view(np.uint64).reshape(-1, 2)
        known = _LISTENING if listening else np.minimum(owner_source, _AT_WORK)
        rows[:, 4] = np.where(owner_source == OWNER_UNKNOWN, OWNER_UNKNOWN, known)
        first, inverse = distinct_rows(rows)
        distinct: list[Row] = [(row[0], row[1], row[2], row[3], row[4]) for row in rows[first].tolist()]
        answers = [self._answer(row) for row in distinct]
        workload = np.array([names.workload(answer.workload) for answer in answers], np.int32)[inverse]
        process = np.array([names.process(answer.process) for answer in answers], np.int32)[inverse]
        if since_ns is not None and self._proc is not None:
            doubtful = np.array([answer.doubtful for answer in answers], np.bool_)[inverse]
            for records, told in self._ask_processes(
                self._proc, np.flatnonzero(doubtful), inverse, distinct, pid, since_ns
            ):
                workload[records] = names.workload(told)
        return OwnerIndices(_masked(workload), _masked(process))

    def counters(self) -> IdentityCounters:
        """What was lost or left unnamed so far."""
        return IdentityCounters(
            cgroups_evicted=self._cgroups.evicted,
            cgroup_paths_truncated=self._cgroups.truncated,
            names_evicted=self._names.evicted,
            unnamed=self._names.unnamed,
            doubtful=self._doubtful,
        )

    def _look_up(self, paths: list[str]) -> None:
        for path in paths:
            owner = parse_path(path)
            # A pod's own cgroup comes before the kubelet has written anything about the pod.
            if isinstance(owner, Container) or (isinstance(owner, Pod) and owner.container_id):
                self._names.find(owner)

    def _answer(self, row: Row) -> _Answer:
        """The remembered or new decision for one row; remembered only where asking later would not tell more."""
        answer = self._answers.get(row)
        if answer is not None:
            self._answers.move_to_end(row)
            return answer
        cgroup, cgroup_v1, *words, source = row
        comm = _text(_comm(words))
        if source == OWNER_UNKNOWN:
            answer, settled = _Answer(None, comm, doubtful=False), True
        else:
            ids = [(V2, cgroup)] + ([(self._cgroups.v1, cgroup_v1)] if self._cgroups.v1 else [])
            found = [self._cgroups.find(hierarchy, inode) for hierarchy, inode in ids]
            verdict = judge((path for path, _ in found), self._names)
            answer, settled = self._decide(verdict, comm, source), all(settled for _, settled in found)
            self._doubtful += settled and verdict.doubtful
        if settled:
            self._answers[row] = answer
            if len(self._answers) > self._capacity:
                self._answers.popitem(last=False)
        return answer

    def _decide(self, verdict: Verdict, comm: str, source: int) -> _Answer:
        """What may be named: while only the listener is known, no more than its container (who serves was not seen).

        A listening socket of a service manager waits for some other unit (socket activation), so that is not named.
        """
        owner = verdict.owner
        if isinstance(owner, Pod | Container):
            return _Answer(container_workload(owner, self._names, self._host_id), comm, doubtful=False)
        if source == OWNER_LISTENER:
            return _Answer(None, comm, verdict.doubtful)
        if verdict.doubtful:
            return _Answer(None, comm, doubtful=True)
        if source == _LISTENING and isinstance(owner, Unit) and is_manager(owner):
            return _Answer(None, comm, doubtful=False)
        unit = unit_workload(owner, self._host_id) if isinstance(owner, Unit) else None
        return _Answer(unit or process_workload(comm), comm, doubtful=False)

    def _ask_processes(
        self,
        proc: Path,
        records: NDArray[np.intp],
        inverse: NDArray[np.intp],
        distinct: list[Row],
        pid: NDArray[np.uint32],
        since_ns: NDArray[np.uint64],
    ) -> list[tuple[NDArray[np.intp], Workload | None]]:
        """Ask the owners of doubtful records, once per distinct process. Returns (indices of records, workload)."""
        if not len(records):
            return []
        keys = inverse[records].astype(np.uint64) << np.uint64(32) | pid[records]
        order = np.argsort(keys, kind="stable")
        _, starts = np.unique(keys[order], return_index=True)
        told = []
        for group in np.split(records[order], starts[1:]):
            _, _, *words, source = distinct[inverse[group[0]]]
            comm = _comm(words)
            paths = process_cgroups(proc, int(pid[group[0]]), comm, int(since_ns[group].min()))
            if paths is not None:
                told.append((group, self._decide(judge(paths, self._names), _text(comm), source).workload))
        return told


def distinct_rows(
    rows: NDArray[np.uint64], mix: Callable[[NDArray[np.uint64]], NDArray[np.uint64]] | None = None
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Index of the first of each distinct row, and for each row which of those it is.

    rows: shape (n, k). Sorts one 64-bit hash per row instead of k columns, then compares: rows of equal hash that
    differ send it the long way.
    """
    hashes = (mix or _hash)(rows)
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    if not np.array_equal(rows[first][inverse], rows):
        _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return first, inverse.reshape(-1)


def _hash(rows: NDArray[np.uint64]) -> NDArray[np.uint64]:
    hashes = rows[:, 0] * _MIX
    for column in range(1, rows.shape[1]):
        hashes = (hashes ^ (hashes >> np.uint64(32)) ^ rows[:, column]) * _MIX
    return hashes


def _masked(indices: NDArray[np.int32]) -> MaskedInt32:
    return np.ma.MaskedArray(indices, mask=indices < 0)


def _comm(words: list[int]) -> bytes:
    """The name of a task: any bytes up to the first NUL (TASK_COMM_LEN, include/linux/sched.h)."""
    return struct.pack("=2Q", *words).partition(b"\0")[0]


def _text(comm: bytes) -> str:
    return comm.decode("utf-8", "backslashreplace")
