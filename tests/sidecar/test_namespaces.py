"""Counters of network namespaces, against nstat and the kernel's own cookie."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from skipping import missing

from schemas.flow_batch import NamespaceCounters
from sidecar import namespaces
from sidecar.namespaces import Namespaces, parse_counters

COOKIE = """
import socket, sys
print(int.from_bytes(socket.socket().getsockopt(socket.SOL_SOCKET, 71, 8), sys.byteorder))
"""

# A full accept queue: with a backlog of 0 the kernel keeps one connection, and drops what comes after.
OVERFLOW = """
import socket
listener = socket.create_server(("127.0.0.1", 0), backlog=0)
clients = []
for _ in range(3):
    client = socket.socket()
    client.setblocking(False)
    client.connect_ex(listener.getsockname())
    clients.append(client)
"""
NO_ROUTE = """
import socket
for family, address in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
    for _ in range(2):
        socket.socket(family).connect_ex((address, 9))
"""


class Namespace:
    """A network namespace that lives as long as a sleeping process of its own."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(["unshare", "--net", "sleep", "60"])
        while Path(f"/proc/{self.process.pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink():
            if self.process.poll() is not None:
                raise AssertionError("unshare --net failed")
        self.run("ip", "link", "set", "lo", "up")
        self.cookie = int(self.python(COOKIE))

    def run(self, *command: str) -> str:
        pid = str(self.process.pid)
        return subprocess.run(
            ["nsenter", "--net", "--target", pid, *command], check=True, capture_output=True, text=True, timeout=20
        ).stdout

    def python(self, code: str) -> str:
        return self.run(sys.executable, "-c", code)

    def counter(self, name: str) -> int:
        """The total that nstat shows."""
        lines = self.run("nstat", "--zeros", "--noupdate", "--ignore", name).splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith(f"{name} "))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    for program in ("unshare", "nsenter", "ip", "nstat"):
        if not any(Path(directory, program).exists() for directory in os.get_exec_path()):
            missing(f"{program} not found: apt-get install util-linux iproute2")
    made = Namespace()
    yield made
    made.close()


def of(cookie: int, counters: list[NamespaceCounters]) -> NamespaceCounters | None:
    return next((counter for counter in counters if counter.netns == cookie), None)


@pytest.mark.kernel
def test_a_namespaces_counters_are_those_of_nstat_since_the_last_look(namespace: Namespace) -> None:
    looked = Namespaces()
    namespace.python(OVERFLOW)  # before the first look: the baseline
    assert of(namespace.cookie, looked.look({})) == NamespaceCounters(namespace.cookie, 0, 0, 0, 0)
    before = {name: namespace.counter(name) for name in ("TcpExtListenOverflows", "TcpExtListenDrops")}

    namespace.python(OVERFLOW)
    namespace.python(NO_ROUTE)
    counted = of(namespace.cookie, looked.look({namespace.cookie: 5}))

    assert counted is not None
    assert counted.listen_overflows == namespace.counter("TcpExtListenOverflows") - before["TcpExtListenOverflows"] > 0
    assert counted.listen_drops == namespace.counter("TcpExtListenDrops") - before["TcpExtListenDrops"] > 0
    assert namespace.counter("IpOutNoRoutes") == namespace.counter("Ip6OutNoRoutes") == 2
    assert counted.out_no_routes == 4
    assert counted.half_open == 5
    assert of(namespace.cookie, looked.look({})) == NamespaceCounters(namespace.cookie, 0, 0, 0, 0)


@pytest.mark.kernel
def test_looking_leaves_every_thread_of_the_sidecar_where_it_was(namespace: Namespace) -> None:
    before = Path("/proc/self/ns/net").readlink()

    Namespaces().look({})

    tasks = {thread.native_id for thread in threading.enumerate()}
    assert {Path(f"/proc/self/task/{task}/ns/net").readlink() for task in tasks} == {before}


@pytest.mark.kernel
def test_the_sidecars_own_namespace_is_known_by_the_cookie_of_its_sockets() -> None:
    with socket.socket() as any_socket:
        cookie = struct.unpack("=Q", any_socket.getsockopt(socket.SOL_SOCKET, namespaces.SO_NETNS_COOKIE, 8))[0]
    assert of(cookie, Namespaces().look({})) is not None
    assert Namespaces().host_cookie() == cookie


@pytest.mark.kernel
def test_the_hosts_namespace_is_that_of_process_1(namespace: Namespace, tmp_path: Path) -> None:
    (tmp_path / "1").symlink_to(f"/proc/{namespace.process.pid}")
    assert Namespaces(tmp_path).host_cookie() == namespace.cookie


@pytest.mark.kernel
def test_a_namespace_that_vanished_is_no_error_and_is_forgotten(namespace: Namespace) -> None:
    looked = Namespaces()
    looked.look({})
    refused = looked.unreadable  # some machines hide process 1
    namespace.close()
    assert of(namespace.cookie, looked.look({})) is None
    assert looked.unreadable == 2 * refused


@pytest.mark.kernel
def test_half_open_handshakes_of_a_namespace_that_is_gone_are_still_told() -> None:
    assert of(2**40, Namespaces().look({2**40: 3})) == NamespaceCounters(2**40, 0, 0, 0, 3)


@pytest.mark.kernel
def test_namespaces_beyond_the_bound_are_counted(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "MAX_NAMESPACES", 1)
    looked = Namespaces()
    assert len(looked.look({})) == 1
    assert looked.unseen >= 1


def test_a_namespace_that_is_not_ours_to_enter_is_counted(tmp_path: Path) -> None:
    (tmp_path / "1/ns").mkdir(parents=True)
    (tmp_path / "1/ns/net").write_text("a file is no namespace")
    (tmp_path / "2").mkdir()  # a process that ended while we looked
    (tmp_path / "self").mkdir()
    looked = Namespaces(tmp_path)
    assert looked.look({}) == []
    assert looked.unreadable == 1


def test_counters_are_read_by_name_from_pairs_of_lines() -> None:
    text = "TcpExt: SyncookiesSent ListenDrops\nTcpExt: 1 22\nIpExt: InNoRoutes\nIpExt: 3\n"
    assert parse_counters(text) == {
        ("TcpExt", "SyncookiesSent"): 1,
        ("TcpExt", "ListenDrops"): 22,
        ("IpExt", "InNoRoutes"): 3,
    }
