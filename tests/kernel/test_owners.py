"""Who owns a socket: who connects; who reads or closes what was accepted; else, said honestly, the listener."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from kernel.namespaces import Namespace, namespace
from kernel.records import Collector
from kernel.traffic import build
from skipping import missing

from sidecar.probe.abi import Owner, Role
from sidecar.probe.probe import Probe

pytestmark = pytest.mark.kernel

ACTING = Path(__file__).with_name("acting.py")


@pytest.fixture(scope="module")
def place() -> Iterator[Namespace]:
    with namespace() as made:
        yield made


def _owner_of_the_served(probe: Probe, place: Namespace, *command: str, said: bytes = b"x") -> tuple[np.void, int]:
    """Serve one connection by this command; the server's record, and the process that handled the connection.

    said: what the client sends first; nothing to a server that would leave it unread.
    """
    collector = Collector(probe, place.cookie)
    with subprocess.Popen(
        ["ip", "netns", "exec", place.name, *command], stdout=subprocess.PIPE, text=True
    ) as server:  # fmt: skip
        assert server.stdout is not None
        port = int(server.stdout.readline())
        with place.entered(), socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(said)
            handler = client.makefile().read()
        if server.wait(20) == 4:
            missing("io_uring is not allowed on this machine (kernel.io_uring_disabled)")
        assert server.returncode == 0

    records = collector.drain_finals(2)
    (record,) = records[(records["role"] == Role.SERVER) & (records["local_port"] == port)]
    return record, int(handler)


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("pre_forked", Owner.READ),
        ("forked_after_accept", Owner.READ),
        ("passed", Owner.READ),
        ("activated", Owner.READ),
        ("threaded", Owner.READ),
        ("never_reads", Owner.CLOSE),
    ],
)
def test_the_owner_of_an_accepted_connection_is_who_reads_or_closes_it(
    probe: Probe, place: Namespace, kind: str, source: Owner
) -> None:
    command = (sys.executable, "-S", str(ACTING), kind)
    record, handler = _owner_of_the_served(probe, place, *command, said=b"" if source == Owner.CLOSE else b"x")
    assert (Owner(record["owner_source"]), record["pid"], record["comm"]) == (source, handler, b"fl-worker")


@pytest.mark.parametrize("way", ["sync", "async"])
def test_the_owner_of_a_connection_served_through_io_uring_is_right_or_honestly_the_listener(
    probe: Probe, place: Namespace, way: str
) -> None:
    record, handler = _owner_of_the_served(probe, place, str(build("uring")), way)
    if record["owner_source"] == Owner.LISTENER:
        assert record["comm"] == b"fl-listener"
    else:
        assert (record["pid"], record["comm"]) == (handler, b"fl-worker")


def test_a_connection_that_nobody_took_belongs_to_the_listener(probe: Probe, place: Namespace) -> None:
    collector = Collector(probe, place.cookie)
    with place.entered():
        listener = socket.create_server(("127.0.0.1", 0))
        socket.create_connection(listener.getsockname()).close()
    listener.close()
    records = collector.drain_finals(2)
    (server,) = records[records["role"] == Role.SERVER]
    assert server["owner_source"] == Owner.LISTENER
    assert server["comm"] == Path("/proc/self/comm").read_bytes().strip()


def test_the_owner_of_a_connection_made_by_a_thread_is_the_process_under_its_leaders_name(
    probe: Probe, place: Namespace
) -> None:
    collector = Collector(probe, place.cookie)
    with place.entered():
        listener = socket.create_server(("127.0.0.1", 0))

    def connect() -> None:
        Path("/proc/thread-self/comm").write_text("fl-thread")
        with place.entered():
            socket.create_connection(listener.getsockname()).close()

    thread = threading.Thread(target=connect)
    thread.start()
    thread.join()
    listener.close()
    records = collector.drain_finals(2)
    (client,) = records[records["role"] == Role.CLIENT]
    assert client["owner_source"] == Owner.CONNECT
    assert client["comm"] == Path("/proc/self/comm").read_bytes().strip()
    assert client["pid"] == int(Path("/proc/self/stat").read_text().split()[0])
