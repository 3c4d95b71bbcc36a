"""What the kernel counts per network namespace and no flow can show: full accept queues, dropped SYNs, missing routes.

Each look finds the namespaces that processes live in and reads their counters from within, in a thread of its own that
ends with the look: setns(2) moves one thread, so nothing has to be moved back and no other thread ever sees a foreign
network. A namespace is known by its cookie as in the probe's records; its inode goes to another one at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from schemas.flow_batch import NamespaceCounters

SO_NETNS_COOKIE = 71  # include/uapi/asm-generic/socket.h, since 5.14
CLONE_NEWNET = 0x40000000
MAX_NAMESPACES = 4_096  # per look; 50 us each

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class _Totals:
    """Since the namespace began. `out_no_routes` is of IPv4 and IPv6 together."""

    listen_overflows: int
    listen_drops: int
    out_no_routes: int

    def since(self, before: _Totals) -> _Totals:
        return _Totals(
            self.listen_overflows - before.listen_overflows,
            self.listen_drops - before.listen_drops,
            self.out_no_routes - before.out_no_routes,
        )


_NOTHING = _Totals(0, 0, 0)


@dataclass(slots=True)
class _Look:
    """The result of one look."""

    totals: dict[int, _Totals] = field(default_factory=dict)  # by cookie
    unreadable: int = 0
    unseen: int = 0


class Namespaces:
    """The host's network namespaces and their counters since the last look."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        """proc: the host's /proc. Nothing is read before `look`."""
        self.unreadable = 0  # processes whose namespace a look was not allowed to see
        self.unseen = 0  # processes left out of a look because there were too many namespaces
        self._proc = proc
        self._last: dict[int, _Totals] = {}

    def host_cookie(self) -> int:
        """The cookie of the host's own namespace: that of process 1, or where we may not see it, ours."""
        cookies = [_own_cookie()]

        def visit_process_1() -> None:
            with contextlib.suppress(OSError):
                _enter(f"{self._proc}/1/ns/net")
                cookies.append(_own_cookie())

        _in_a_thread(visit_process_1)
        return cookies[-1]

    def look(self, half_open: Mapping[int, int]) -> list[NamespaceCounters]:
        """What was counted since the last look, per namespace; the first look at one is its baseline and says 0.

        half_open: half-open handshakes since the last look by the namespace's cookie, as the probe saw them.
        What a namespace counted between the last look and its end is not known to anybody.
        """
        result = _Look()
        _in_a_thread(lambda: self._read_all(result))
        self.unreadable += result.unreadable
        self.unseen += result.unseen
        deltas = {cookie: totals.since(self._last.get(cookie, totals)) for cookie, totals in result.totals.items()}
        self._last = result.totals
        counters = []
        for cookie in sorted(deltas.keys() | half_open.keys()):
            delta = deltas.get(cookie, _NOTHING)
            counters.append(
                NamespaceCounters(
                    netns=cookie,
                    listen_overflows=delta.listen_overflows,
                    listen_drops=delta.listen_drops,
                    out_no_routes=delta.out_no_routes,
                    half_open=half_open.get(cookie, 0),
                )
            )
        return counters

    def _read_all(self, look: _Look) -> None:
        inodes: set[int] = set()
        with os.scandir(self._proc) as entries:
            processes = [entry.path for entry in entries if entry.name.isdecimal()]
        for process in processes:
            path = f"{process}/ns/net"
            try:
                inode = os.stat(path).st_ino  # noqa: PTH116 - thousands per look, and a Path costs more than the call
                if inode in inodes:
                    continue
                if len(inodes) == MAX_NAMESPACES:
                    look.unseen += 1
                    continue
                _enter(path)
                cookie, totals = _own_cookie(), _own_totals()
            except (FileNotFoundError, ProcessLookupError):  # it ended; another may live in the same namespace
                continue
            except OSError:
                look.unreadable += 1
                continue
            inodes.add(inode)
            look.totals[cookie] = totals


def _in_a_thread(visit: Callable[[], None]) -> None:
    """Run to its end what moves between namespaces; an exception in there is one here."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            visit()
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run, name="namespaces")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def _enter(path: str) -> None:
    """Move this thread into a network namespace. Raises OSError."""
    namespace = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(namespace, CLONE_NEWNET) != 0:
            errno = ctypes.get_errno()
            raise OSError(errno, os.strerror(errno))
    finally:
        os.close(namespace)


def _own_cookie() -> int:
    """The cookie of this thread's namespace; its inode on kernels that have none, as the probe does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            return int.from_bytes(any_socket.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), sys.byteorder)
        except OSError:
            return Path("/proc/thread-self/ns/net").stat().st_ino


def _own_totals() -> _Totals:
    net = Path("/proc/thread-self/net")
    tcp = parse_counters((net / "netstat").read_text())
    ip = parse_counters((net / "snmp").read_text())
    return _Totals(
        listen_overflows=tcp["TcpExt", "ListenOverflows"],
        listen_drops=tcp["TcpExt", "ListenDrops"],
        out_no_routes=ip["Ip", "OutNoRoutes"] + _out_no_routes_ipv6(net / "snmp6"),
    )


def parse_counters(text: str) -> dict[tuple[str, str], int]:
    """The pairs of lines in /proc/net/snmp and netstat: names, then values, both after the group (net/ipv4/proc.c)."""
    counters = {}
    lines = text.splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        group, _, rest = names.partition(":")
        for name, value in zip(rest.split(), values.partition(":")[2].split(), strict=True):
            counters[group, name] = int(value)
    return counters


def _out_no_routes_ipv6(snmp6: Path) -> int:
    """Ip6OutNoRoutes of lines of `name value`; 0 where the kernel or the namespace is without IPv6."""
    try:
        lines = snmp6.read_text().splitlines()
    except FileNotFoundError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Ip6OutNoRoutes"))
