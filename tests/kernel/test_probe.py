"""The probe itself: loads both ways, sees what there is to see once, and says so when it cannot."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from kernel.namespaces import namespace
from numpy.typing import NDArray

from settings.errors import FlowlakeError
from sidecar.probe.abi import UNKNOWN, Flag, Owner, Role, TcpState
from sidecar.probe.loader import Mode, ProbeError
from sidecar.probe.probe import Probe, ProbeConfig

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("probe_objects")]

ROOT = Path(__file__).parent.parent.parent
SIOCOUTQ = 0x5411  # include/uapi/linux/sockios.h
SO_NETNS_COOKIE = 71  # include/uapi/asm-generic/socket.h
NAME = Path("/proc/self/comm").read_text().strip().encode()

Records = NDArray[np.void]


@pytest.fixture
def probe(probe: Probe) -> Probe:
    """The shared probe, with room in its ring: on a busy host it filled up while another test did not drain it."""
    probe.drain()
    return probe


@contextlib.contextmanager
def connected(address: str = "127.0.0.1", family: int = socket.AF_INET) -> Iterator[tuple[socket.socket, ...]]:
    """Both ends of a connection, client first, and their listener."""
    with socket.create_server((address, 0), family=family, backlog=128) as listener:
        client = socket.create_connection(listener.getsockname()[:2])
        server, _ = listener.accept()
        with client, server:
            yield client, server, listener


def exchange(client: socket.socket, server: socket.socket, sent: int, received: int) -> None:
    """`sent` bytes from the client to the server, `received` back; all of them read."""
    for source, target, size in ((client, server, sent), (server, client, received)):
        writer = threading.Thread(target=source.sendall, args=(b"x" * size,))
        writer.start()
        missing = size
        while missing:
            missing -= len(target.recv(missing))
        writer.join()
        while int.from_bytes(fcntl.ioctl(source, SIOCOUTQ, bytes(4)), "little"):
            time.sleep(0.001)  # until the last ACK is here


def netns_cookie() -> int:
    """Of the network namespace that the calling thread is in."""
    with socket.socket() as any_socket:
        return int.from_bytes(any_socket.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), "little")


def of_port(records: Records, port: int, role: Role | None = None) -> Records:
    """The records of connections to a server's port in our network namespace: others use the same ports in theirs."""
    records = records[(records["local_port"] == port) | (records["remote_port"] == port)]
    records = records[records["netns"] == netns_cookie()]
    return records if role is None else records[records["role"] == role]


def port_of(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def ours(listeners: Records) -> Records:
    """The listeners in our network namespace."""
    return listeners[listeners["netns"] == netns_cookie()]


def finish(client: socket.socket, server: socket.socket) -> None:
    """The client closes first. Both ends are gone soon: on a busy host the last ACK waits for ksoftirqd."""
    client.close()
    assert server.recv(1) == b""
    server.close()


def final_records(probe: Probe, *ports: int, count: int = 2) -> Records:
    """The final records of connections to servers' ports, once there are so many."""
    drained: list[Records] = []
    for _ in range(500):
        records = probe.drain()
        drained += [of_port(records, port) for port in ports]
        if sum(map(len, drained)) >= count:
            break
        time.sleep(0.01)
    return np.concatenate(drained)


def has(record: np.void, flag: Flag) -> bool:
    return bool(record["flags"] & flag)


@pytest.mark.parametrize("mode", list(Mode))
def test_one_connection_is_one_final_record_per_end_with_exact_bytes_and_its_process(mode: Mode) -> None:
    with Probe(ProbeConfig(mode=mode)) as probe:
        assert probe.mode is mode
        with connected() as (client, server, listener):
            ends = client.getsockname(), server.getsockname()
            exchange(client, server, 1000, 70_000)
            finish(client, server)
            records = final_records(probe, port_of(listener))
        assert probe.counters().lost_final == 0
    (by_client,), (by_server,) = (records[records["role"] == role] for role in (Role.CLIENT, Role.SERVER))
    assert len(records) == 2
    assert (by_client["bytes_sent"], by_client["bytes_received"]) == (1000, 70_000)
    assert (by_server["bytes_sent"], by_server["bytes_received"]) == (70_000, 1000)
    assert (by_client["local_port"], by_client["remote_port"]) == (ends[0][1], ends[1][1])
    assert (by_server["local_port"], by_server["remote_port"]) == (ends[1][1], ends[0][1])
    assert (by_client["owner_source"], by_server["owner_source"]) == (Owner.CONNECT, Owner.READ)
    assert (by_client["state"], by_server["state"]) == (TcpState.FIN_WAIT2, TcpState.LAST_ACK)
    for record in records:
        assert (record["pid"], record["comm"]) == (os.getpid(), NAME)
        assert bytes(record["local_address"]) == socket.inet_pton(socket.AF_INET6, "::ffff:127.0.0.1")
        assert has(record, Flag.FINAL | Flag.ESTABLISHED)
        assert not has(record, Flag.PARTIAL | Flag.RST_RECEIVED | Flag.MPTCP)
        assert 0 < record["opened_ns"] == record["start_ns"] < record["end_ns"]
        assert record["connect_us"] != UNKNOWN
        assert record["sequence"] == record["generation"] == record["error"] == 0


@pytest.mark.parametrize(
    ("address", "family", "seen_as"),
    [("::1", socket.AF_INET6, "::1"), ("127.0.0.1", socket.AF_INET, "::ffff:127.0.0.1")],
)
def test_an_address_is_16_bytes_whatever_the_family(probe: Probe, address: str, family: int, seen_as: str) -> None:
    with connected(address, family) as (client, server, listener):
        finish(client, server)
        records = final_records(probe, port_of(listener))
    packed = socket.inet_pton(socket.AF_INET6, seen_as)
    assert len(records) == 2
    for record in records:
        assert bytes(record["local_address"]) == bytes(record["remote_address"]) == packed


def test_ipv4_over_an_ipv6_socket_is_the_same_mapped_address_at_both_ends(probe: Probe) -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        with socket.create_connection(("127.0.0.1", port_of(listener))) as client:
            server, _ = listener.accept()
            assert server.getpeername()[0] == "::ffff:127.0.0.1"
            finish(client, server)
        records = final_records(probe, port_of(listener))
    packed = socket.inet_pton(socket.AF_INET6, "::ffff:127.0.0.1")
    assert [bytes(record["local_address"]) for record in records] == [packed, packed]
    assert [bytes(record["remote_address"]) for record in records] == [packed, packed]


def test_interims_and_the_final_add_up_and_number_themselves_without_gaps(probe: Probe) -> None:
    parts = []
    with connected() as (client, server, listener):
        for sent, received in ((10, 0), (0, 5000), (123_456, 7)):
            exchange(client, server, sent, received)
            parts.append(probe.walk()[0])
        exchange(client, server, 1, 2)
        finish(client, server)
        parts.append(final_records(probe, port_of(listener)))
        records = of_port(np.concatenate(parts), port_of(listener))
    for role, sent, received in ((Role.CLIENT, 123_467, 5009), (Role.SERVER, 5009, 123_467)):
        one = records[records["role"] == role]
        assert one["sequence"].tolist() == [0, 1, 2, 3]
        assert one["bytes_sent"].sum() == sent
        assert one["bytes_received"].sum() == received
        assert (one["start_ns"][1:] == one["end_ns"][:-1]).all()
        assert len(np.unique(one["cookie"])) == len(np.unique(one["opened_ns"])) == 1
        assert ((one["flags"] & Flag.FINAL) != 0).tolist() == [False, False, False, True]


def test_an_idle_connection_is_reported_once_and_an_ended_one_not_at_all(probe: Probe) -> None:
    with connected() as (client, server, listener):
        port = port_of(listener)
        assert len(of_port(probe.walk()[0], port)) == 2
        assert len(of_port(probe.walk()[0], port)) == 0
        exchange(client, server, 1, 0)
        moved = of_port(probe.walk()[0], port)
        assert sorted(moved["bytes_sent"].tolist()) == [0, 1]
        assert len(of_port(probe.walk()[0], port)) == 0
        finish(client, server)
        assert len(of_port(probe.walk()[0], port)) == 0
        assert len(final_records(probe, port)) == 2


def test_a_walk_that_needs_more_than_its_ring_waits_and_reports_every_connection_once() -> None:
    with Probe(ProbeConfig(interim_ring_bytes=4096)) as probe, contextlib.ExitStack() as stack:
        pairs = [stack.enter_context(connected()) for _ in range(60)]
        for client, server, _ in pairs:
            exchange(client, server, 3, 5)
        interims, _ = probe.walk()
        assert probe.counters().delayed_interims > 0
        for *_, listener in pairs:
            records = of_port(interims, port_of(listener))
            # A late ACK may move an end once more while the walk waits: its records add up all the same.
            for role, bytes_sent in ((Role.CLIENT, 3), (Role.SERVER, 5)):
                assert records["bytes_sent"][records["role"] == role].sum() == bytes_sent


def test_a_ring_that_is_too_small_loses_exactly_what_it_counts() -> None:
    with Probe(ProbeConfig(final_ring_bytes=4096)) as probe:
        for _ in range(50):
            with connected() as (client, server, _):
                finish(client, server)
        while (before := probe.counters()).captured < 100:
            time.sleep(0.01)
        records = probe.drain()
        after = probe.counters()
    assert before.lost_final >= 100 - 4096 // (8 + records.itemsize)
    assert before.captured - before.lost_final <= len(records) <= after.captured - after.lost_final
    assert len(np.unique(records[["cookie", "generation"]])) == len(records)


def test_a_ring_that_is_large_enough_loses_nothing_and_invents_no_loss() -> None:
    with Probe(ProbeConfig()) as probe:
        ports = []
        for _ in range(50):
            with connected() as (client, server, listener):
                ports.append(port_of(listener))
                finish(client, server)
        records = final_records(probe, *ports, count=100)
        counters = probe.counters()
    assert (counters.lost_final, counters.lost_storage, counters.lost_half_open) == (0, 0, 0)
    assert len(np.unique(records[["cookie", "generation"]])) == 100 <= counters.captured


def test_a_connection_older_than_the_probe_is_partial_and_counted_from_then_on() -> None:
    with connected() as (client, server, listener):
        exchange(client, server, 1000, 2000)
        with Probe(ProbeConfig()) as probe:
            exchange(client, server, 30, 4)
            interims, _ = probe.walk()
            exchange(client, server, 1, 1)
            finish(client, server)
            records = of_port(np.concatenate([interims, final_records(probe, port_of(listener))]), port_of(listener))
    for role, sent, received in ((Role.CLIENT, 31, 5), (Role.SERVER, 5, 31)):
        one = records[records["role"] == role]
        assert one["sequence"].tolist() == [0, 1]
        assert (one["bytes_sent"].sum(), one["bytes_received"].sum()) == (sent, received)
        for record in one:
            assert has(record, Flag.PARTIAL)
            assert (record["opened_ns"], record["connect_us"]) == (0, UNKNOWN)
            assert (record["pid"], record["comm"]) == (os.getpid(), NAME)
            assert record["owner_source"] == Owner.ITERATOR


def test_a_connection_made_by_an_older_listener_is_not_partial_and_knows_its_process() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Probe(ProbeConfig()) as probe,
        socket.create_connection(listener.getsockname()),
    ):
        interims, listeners = probe.walk()
        (server,) = of_port(interims, port_of(listener), Role.SERVER)
        (row,) = ours(listeners)[ours(listeners)["port"] == port_of(listener)]
    assert not has(server, Flag.PARTIAL | Flag.ACCEPTED)
    assert (server["pid"], server["owner_source"]) == (os.getpid(), Owner.LISTENER)
    assert (row["pid"], row["owner_source"], row["accept_queue"]) == (os.getpid(), Owner.ITERATOR, 1)


def test_a_listener_is_a_row_of_each_walk_with_its_process_and_its_queue(probe: Probe) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=7) as listener:
        with socket.create_connection(listener.getsockname()):
            for _ in range(2):
                listeners = ours(probe.walk()[1])
                (row,) = listeners[listeners["port"] == port_of(listener)]
                assert (row["pid"], row["comm"], row["owner_source"]) == (os.getpid(), NAME, Owner.LISTENER)
                assert (row["accept_queue"], row["accept_queue_max"], row["drops"]) == (1, 7, 0)
                assert bytes(row["address"]) == socket.inet_pton(socket.AF_INET6, "::ffff:127.0.0.1")
        port = port_of(listener)
    assert port not in ours(probe.walk()[1])["port"]


def test_more_listeners_than_one_read_holds_are_each_there_once(probe: Probe) -> None:
    with contextlib.ExitStack() as stack:
        ports = {port_of(stack.enter_context(socket.create_server(("127.0.0.1", 0)))) for _ in range(500)}
        listeners = ours(probe.walk()[1])
    assert sorted(port for port in listeners["port"].tolist() if port in ports) == sorted(ports)


def test_a_connection_and_a_listener_in_another_network_namespace_carry_its_cookie(probe: Probe) -> None:
    with namespace() as place, namespace() as other:
        with place.entered(), connected() as (client, server, listener):
            port = port_of(listener)
            finish(client, server)
            listeners = probe.walk()[1]
            records = final_records(probe, port)
        assert len({place.cookie, other.cookie, netns_cookie()}) == 3
        assert records["netns"].tolist() == [place.cookie, place.cookie]
        assert place.cookie in listeners["netns"][listeners["port"] == port]


def test_a_socket_that_connects_again_keeps_its_cookie_and_counts_its_generations(probe: Probe) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as again:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            with pytest.raises(ConnectionRefusedError):
                again.connect(bound.getsockname())
            refused = bound.getsockname()[1]
        again.connect(listener.getsockname())
        server, _ = listener.accept()
        exchange(again, server, 5, 6)
        finish(again, server)
        records = final_records(probe, refused, port_of(listener), count=3)
        (first,) = of_port(records, refused, Role.CLIENT)
        (second,) = of_port(records, port_of(listener), Role.CLIENT)
    assert first["cookie"] == second["cookie"]
    assert (first["generation"], second["generation"]) == (0, 1)
    assert (first["state"], first["error"]) == (TcpState.SYN_SENT, 111)
    assert has(first, Flag.RST_RECEIVED) and not has(first, Flag.ESTABLISHED)
    assert (second["bytes_sent"], second["bytes_received"], second["error"]) == (5, 6, 0)
    assert not has(second, Flag.RST_RECEIVED)


def test_a_cgroup_is_named_at_the_moment_of_its_creation(probe: Probe) -> None:
    roots = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if line.split()[2] == "cgroup2"]
    probe.cgroups()
    made = Path(roots[0], f"flowlake-test-{os.getpid()}")
    made.mkdir()
    try:
        cgroup_id = made.stat().st_ino
    finally:
        made.rmdir()
    records = probe.cgroups()
    (one,) = records[records["id"] == cgroup_id]
    assert one["path"].decode() == f"/{made.name}"
    assert one["hierarchy"] == 0


def test_the_ring_calls_when_it_is_half_full_and_not_before() -> None:
    with Probe(ProbeConfig(final_ring_bytes=65536)) as probe, select.epoll() as poll:
        probe.drain()
        poll.register(probe.fileno(), select.EPOLLIN | select.EPOLLET)
        poll.poll(0)
        called_at = None
        for number in range(120):
            with connected() as (client, server, _):
                finish(client, server)
            if poll.poll(0):
                called_at = number
                break
        drained = len(probe.drain())
    assert called_at is not None
    assert drained * (8 + 256) >= 65536 // 2


def test_what_each_program_did_can_be_asked(probe: Probe) -> None:
    names = {program.name for program in probe.program_stats()}
    assert {"set_state", "set_state_again", "walk", "retransmit_synack", "retransmit_skb"} <= names


def test_a_program_that_the_verifier_refuses_gives_one_line_and_keeps_its_whole_log(tmp_path: Path) -> None:
    source = tmp_path / "broken.bpf.c"
    source.write_text(
        '#include "flowlake.bpf.c"\nSEC("tp_btf/inet_sock_set_state") int broken(unsigned long long *ctx)\n'
        "{\n\treturn ctx[40];\n}\n"
    )
    subprocess.run(
        ["make", "-C", str(ROOT / "bpf"), f"OUTPUT={tmp_path}", f"SOURCE={source}", str(tmp_path / "flowlake.bpf.o")],
        check=True,
        capture_output=True,
    )
    with pytest.raises(FlowlakeError) as raised:
        Probe(ProbeConfig(mode=Mode.TP_BTF, object_directory=tmp_path)).open()
    assert "\n" not in str(raised.value)
    assert "this kernel refuses the probe's programs" in str(raised.value)
    assert isinstance(raised.value, ProbeError)
    assert "'broken': -- BEGIN PROG LOAD LOG --" in raised.value.log
    assert "END PROG LOAD LOG" in raised.value.log


def test_an_object_that_was_not_built_is_one_line_that_says_how_to(tmp_path: Path) -> None:
    with pytest.raises(FlowlakeError, match=r"^cannot load the probe: probe object: .*Build it with: make -C bpf$"):
        Probe(ProbeConfig(object_directory=tmp_path)).open()


@pytest.mark.parametrize("size", [0, 2048, 5000])
def test_a_ring_size_that_cannot_be_is_refused_at_once(size: int) -> None:
    with pytest.raises(FlowlakeError, match=f"final_ring_bytes is {size}, but must be a power of two"):
        ProbeConfig(final_ring_bytes=size)
