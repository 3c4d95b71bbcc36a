"""Every way in which a TCP connection can end, each made on purpose with real sockets.

A scenario is a function that makes one connection (or the try of one) on a server port of its own and says what the
records of its ends must be. docs/close-reasons.md refers to them by name.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from kernel.records import wait_until
from kernel.world import (
    CLIENT_ADDRESS,
    World,
    all_acknowledged,
    ended,
    in_state,
    quick_link,
    read_all,
    reset,
    settled_in_queue,
)  # fmt: skip

from sidecar.close_reason import CloseDetail, CloseReason

FIRST_PORT = 2000
IP_LOCAL_PORT_RANGE = 51  # include/uapi/linux/in.h, Linux 6.3
IPPROTO_MPTCP = 262


@dataclass(frozen=True)
class End:
    """What the final record of one end must say. None: not compared, since timing decides it."""

    reason: CloseReason
    detail: CloseDetail = CloseDetail.NONE
    error: int = 0
    sent: int = 0
    received: int = 0
    unread: int | None = 0
    unacked: int = 0
    peer_fin: bool | None = None
    never_accepted: bool = False
    syn_retransmits: int | None = 0


@dataclass(frozen=True)
class Observed:
    """What a scenario made: the records to look for and what they must say, by end."""

    client: tuple[End, ...]
    server: tuple[End, ...]


Scenario = Callable[[World], Observed]
SCENARIOS: dict[str, Scenario] = {}  # all at once on one link
APART: dict[str, Scenario] = {}  # one after the other, each on a link of its own: they turn what others would feel


def scenario(function: Scenario) -> Scenario:
    SCENARIOS[function.__name__] = function
    return function


def apart(function: Scenario) -> Scenario:
    APART[function.__name__] = function
    return function


# --- It never became a connection ---


@scenario
def nobody_listens(world: World) -> Observed:
    assert world.make(world.client).connect_ex(world.address) == errno.ECONNREFUSED
    return Observed((End(CloseReason.REFUSED, CloseDetail.RESET, errno.ECONNREFUSED),), ())


@scenario
def a_firewall_says_port_unreachable(world: World) -> Observed:
    world.filter("reject with icmp type port-unreachable")
    assert world.make(world.client).connect_ex(world.address) == errno.ECONNREFUSED
    return Observed((End(CloseReason.REFUSED, CloseDetail.ICMP, errno.ECONNREFUSED, syn_retransmits=None),), ())


@scenario
def nothing_answers(world: World) -> Observed:
    world.silence()
    assert world.make(world.client).connect_ex(world.address) == errno.ETIMEDOUT
    return Observed((End(CloseReason.CONNECT_TIMEOUT, error=errno.ETIMEDOUT, syn_retransmits=1),), ())


def _unreachable(world: World, rule: str, error: int, detail: CloseDetail, family: int = socket.AF_INET) -> Observed:
    world.filter(f"reject with {rule}")
    client = world.dial(family)
    assert ended(client) == error
    return Observed((End(CloseReason.UNREACHABLE, detail, error, syn_retransmits=None),), ())


@scenario
def a_router_says_host_unreachable(world: World) -> Observed:
    return _unreachable(
        world, "icmp type host-unreachable", errno.EHOSTUNREACH, CloseDetail.HOST_UNREACHABLE
    )  # fmt: skip


@scenario
def a_router_says_net_unreachable(world: World) -> Observed:
    return _unreachable(world, "icmp type net-unreachable", errno.ENETUNREACH, CloseDetail.NET_UNREACHABLE)


@scenario
def a_router_says_prohibited(world: World) -> Observed:
    return _unreachable(world, "icmp type admin-prohibited", errno.EHOSTUNREACH, CloseDetail.HOST_UNREACHABLE)


@scenario
def an_ipv6_router_says_prohibited(world: World) -> Observed:
    return _unreachable(
        world, "icmpv6 type admin-prohibited", errno.EACCES, CloseDetail.PROHIBITED, socket.AF_INET6
    )  # fmt: skip


@scenario
def an_ipv6_router_has_no_route(world: World) -> Observed:
    return _unreachable(
        world, "icmpv6 type no-route", errno.ENETUNREACH, CloseDetail.NET_UNREACHABLE, socket.AF_INET6
    )  # fmt: skip


@scenario
def the_only_local_port_is_taken(world: World) -> Observed:
    """Both may use one port only, and the first has it."""
    listener = world.listen()
    first, second = world.make(world.client), world.make(world.client)
    only = 40_000 + world.port  # within net.ipv4.ip_local_port_range, or the kernel ignores it
    for one in (first, second):
        one.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("I", only << 16 | only))
    first.connect(world.address)
    assert second.connect_ex(world.address) == errno.EADDRNOTAVAIL
    server = world.accept(listener)
    listener.close()
    first.close()
    assert server.recv(1) == b""
    server.close()
    return Observed(
        (End(CloseReason.NOT_SENT, CloseDetail.NO_PORT), End(CloseReason.CLOSED_LOCAL)),
        (End(CloseReason.CLOSED_REMOTE, peer_fin=True),),
    )


@scenario
def given_up_at_once(world: World) -> Observed:
    world.silence()
    world.dial().close()
    return Observed((End(CloseReason.ABANDONED),), ())


@scenario
def given_up_after_a_repeated_syn(world: World) -> Observed:
    world.silence()
    client = world.dial()
    wait_until(lambda: client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 3)[2] == 1, "the SYN is repeated")
    client.close()
    return Observed((End(CloseReason.ABANDONED, syn_retransmits=1),), ())


@scenario
def killed_by_an_administrator_while_connecting(world: World) -> Observed:
    world.silence()
    client = world.dial()
    world.kill(world.client, "dport")
    assert ended(client) == errno.ECONNABORTED
    return Observed((End(CloseReason.ABORTED, error=errno.ECONNABORTED),), ())


@scenario
def a_socket_connects_again_after_a_refusal(world: World) -> Observed:
    client = world.make(world.client)
    client.setblocking(True)  # after a refusal, a non-blocking connect() would first say ECONNABORTED
    assert client.connect_ex(world.address) == errno.ECONNREFUSED
    listener = world.listen()
    client.connect(world.address)
    server = world.accept(listener)
    listener.close()
    client.sendall(b"x" * 7)
    client.close()
    assert read_all(server) == 7
    server.close()
    return Observed(
        (End(CloseReason.REFUSED, CloseDetail.RESET, errno.ECONNREFUSED), End(CloseReason.CLOSED_LOCAL, sent=7)),
        (End(CloseReason.CLOSED_REMOTE, received=7, peer_fin=True),),
    )


@scenario
def the_last_ack_of_the_handshake_is_lost(world: World) -> Observed:
    """The client believes in the connection; the server never has one, and gives its request up."""
    world.listen()
    world.filter("tcp flags & (syn | ack) == ack drop")
    client = world.make(world.client)
    client.connect(world.address)
    time.sleep(1.5)  # the SYN-ACK is repeated after one second
    reset(client)
    return Observed(
        (End(CloseReason.RESET_LOCAL, CloseDetail.LINGER),),
        (End(CloseReason.HALF_OPEN, syn_retransmits=None),),
    )


# --- It ended in order ---


@scenario
def the_client_closes_first(world: World) -> Observed:
    client, server = world.pair()
    client.sendall(b"x" * 1000)
    assert len(server.recv(1000, socket.MSG_WAITALL)) == 1000
    server.sendall(b"y" * 2000)
    assert len(client.recv(2000, socket.MSG_WAITALL)) == 2000
    client.close()
    assert server.recv(1) == b""
    server.close()
    return Observed(
        (End(CloseReason.CLOSED_LOCAL, sent=1000, received=2000),),
        (End(CloseReason.CLOSED_REMOTE, sent=2000, received=1000, peer_fin=True),),
    )


@scenario
def the_client_shuts_its_side_first(world: World) -> Observed:
    client, server = world.pair()
    client.shutdown(socket.SHUT_WR)
    assert server.recv(1) == b""
    server.sendall(b"y" * 300)
    assert len(client.recv(300, socket.MSG_WAITALL)) == 300
    server.close()
    assert client.recv(1) == b""
    client.close()
    return Observed(
        (End(CloseReason.CLOSED_LOCAL, received=300, peer_fin=True),),
        (End(CloseReason.CLOSED_REMOTE, sent=300, peer_fin=True),),
    )


@scenario
def the_peer_ends_in_order_before_its_answer_is_read(world: World) -> Observed:
    """The connection is over when the last FIN comes; that the application reads later is no reset."""
    client, server = world.pair()
    client.shutdown(socket.SHUT_WR)
    assert server.recv(1) == b""
    server.sendall(b"y" * 300)
    server.close()
    in_state(client, "CLOSE")
    assert read_all(client) == 300
    return Observed(
        (End(CloseReason.CLOSED_LOCAL, received=300, unread=300, peer_fin=True),),
        (End(CloseReason.CLOSED_REMOTE, sent=300, peer_fin=True),),
    )


@scenario
def the_server_closes_first(world: World) -> Observed:
    client, server = world.pair()
    server.close()
    assert client.recv(1) == b""
    client.close()
    return Observed((End(CloseReason.CLOSED_REMOTE, peer_fin=True),), (End(CloseReason.CLOSED_LOCAL),))


@scenario
def the_peer_stays_open_for_a_while(world: World) -> Observed:
    client, server = world.pair()
    client.close()
    assert server.recv(1) == b""
    time.sleep(0.3)  # longer than any delayed ACK: the client's end is gone by now
    server.close()
    return Observed(
        (End(CloseReason.CLOSED_LOCAL, peer_fin=False),),
        (End(CloseReason.CLOSED_REMOTE, peer_fin=True),),
    )


@scenario
def one_fin_waits_behind_data_while_the_other_comes(world: World) -> Observed:
    client, server = world.pair()
    client.setblocking(False)
    sent = 0
    while sent < 1 << 19:
        try:
            sent += client.send(b"x" * 65536)
        except BlockingIOError:
            break
    client.shutdown(socket.SHUT_WR)
    in_state(client, "FIN_WAIT1")
    server.shutdown(socket.SHUT_WR)
    in_state(client, "CLOSING")
    assert read_all(server) == sent
    server.close()
    return Observed(
        (End(CloseReason.CLOSED_BOTH, sent=sent, peer_fin=True),),
        (End(CloseReason.CLOSED_LOCAL, received=sent, unread=None, peer_fin=True),),
    )


@scenario
def the_peer_vanishes_before_the_last_fin_is_acknowledged(world: World) -> Observed:
    """LAST_ACK expires: both had said all that they had to say."""
    client, server = world.pair()
    client.shutdown(socket.SHUT_WR)
    in_state(server, "CLOSE_WAIT")
    world.silence()
    server.close()
    time.sleep(0.05)
    reset(client)
    return Observed(
        (End(CloseReason.RESET_LOCAL, CloseDetail.LINGER),),
        (End(CloseReason.CLOSED_REMOTE, CloseDetail.FIN_UNACKED, errno.ETIMEDOUT, peer_fin=True),),
    )


@scenario
def the_last_fin_is_answered_by_a_reset(world: World) -> Observed:
    client, server = world.pair()
    client.shutdown(socket.SHUT_WR)
    in_state(server, "CLOSE_WAIT")
    world.filter("drop", toward="client")
    server.close()
    reset(client)
    return Observed(
        (End(CloseReason.RESET_LOCAL, CloseDetail.LINGER),),
        (End(CloseReason.CLOSED_REMOTE, CloseDetail.RESET, errno.ECONNRESET, peer_fin=True),),
    )


@scenario
def data_comes_after_a_full_close(world: World) -> Observed:
    """The kernel calls tcp_reset() on itself, although no RST came."""
    client, server = world.pair()
    world.filter("drop")
    client.close()
    server.sendall(b"y" * 10)
    time.sleep(0.1)
    world.unfilter()
    assert ended(server) == errno.ECONNRESET
    return Observed(
        (End(CloseReason.CLOSED_LOCAL, CloseDetail.RESET, errno.ECONNRESET, peer_fin=False),),
        (End(CloseReason.RESET_REMOTE, CloseDetail.RESET, errno.ECONNRESET, unacked=10, peer_fin=False),),
    )


@scenario
def both_connect_at_the_same_time(world: World) -> Observed:
    """The lost SYNs make both sides repeat theirs: a simultaneous open, then an orderly end. Both are clients."""
    world.silence()
    left, right = world.make(world.client), world.make(world.server)
    left.bind((CLIENT_ADDRESS, world.port))
    right.bind(world.address)
    for one, peer in ((left, world.address), (right, (CLIENT_ADDRESS, world.port))):
        one.setblocking(False)
        assert one.connect_ex(peer) == errno.EINPROGRESS
    world.unfilter()
    in_state(left, "ESTABLISHED")
    in_state(right, "ESTABLISHED")
    left.setblocking(True)
    right.setblocking(True)
    left.sendall(b"x" * 11)
    assert len(right.recv(11, socket.MSG_WAITALL)) == 11
    right.sendall(b"y" * 22)
    assert len(left.recv(22, socket.MSG_WAITALL)) == 22
    left.close()
    assert right.recv(1) == b""
    right.close()
    return Observed(
        (End(CloseReason.CLOSED_LOCAL, sent=11, received=22, syn_retransmits=None),),
        (End(CloseReason.CLOSED_REMOTE, sent=22, received=11, peer_fin=True, syn_retransmits=None),),
    )


@scenario
def a_socket_connects_to_itself(world: World) -> Observed:
    """A simultaneous open with oneself: the same FIN is sent first and received."""
    one = world.make(world.client)
    one.bind((CLIENT_ADDRESS, world.port))
    one.connect((CLIENT_ADDRESS, world.port))
    one.sendall(b"x" * 5)
    assert one.recv(5, socket.MSG_WAITALL) == b"x" * 5
    one.close()
    return Observed((End(CloseReason.CLOSED_BOTH, sent=5, received=5, peer_fin=True),), ())


@scenario
def a_multipath_connection_closes(world: World) -> Observed:
    client, server = world.pair(protocol=IPPROTO_MPTCP)
    client.sendall(b"x" * 10)
    assert len(server.recv(10, socket.MSG_WAITALL)) == 10
    client.close()
    assert server.recv(1) == b""
    server.close()
    return Observed(
        (End(CloseReason.CLOSED_LOCAL, sent=10, peer_fin=None),),
        (End(CloseReason.CLOSED_REMOTE, received=10, peer_fin=True),),
    )


# --- One end broke it ---


@scenario
def the_server_resets(world: World) -> Observed:
    client, server = world.pair()
    reset(server)
    assert ended(client) == errno.ECONNRESET
    return Observed(
        (End(CloseReason.RESET_REMOTE, CloseDetail.RESET, errno.ECONNRESET, peer_fin=False),),
        (End(CloseReason.RESET_LOCAL, CloseDetail.LINGER, peer_fin=False),),
    )


@scenario
def the_server_resets_after_it_shut_its_side(world: World) -> Observed:
    client, server = world.pair()
    server.shutdown(socket.SHUT_WR)
    in_state(client, "CLOSE_WAIT")
    in_state(server, "FIN_WAIT2")
    reset(server)
    assert ended(client) == errno.EPIPE
    return Observed(
        (End(CloseReason.RESET_REMOTE, CloseDetail.RESET, errno.EPIPE, peer_fin=True),),
        (End(CloseReason.RESET_LOCAL, CloseDetail.LINGER, peer_fin=False),),
    )


@scenario
def the_client_dissolves_its_connection(world: World) -> Observed:
    """connect() with AF_UNSPEC."""
    client, server = world.pair()
    assert ctypes.CDLL(None).connect(client.fileno(), bytes(16), 16) == 0
    assert ended(server) == errno.ECONNRESET
    return Observed(
        (End(CloseReason.RESET_LOCAL, CloseDetail.LINGER, peer_fin=False),),
        (End(CloseReason.RESET_REMOTE, CloseDetail.RESET, errno.ECONNRESET, peer_fin=False),),
    )


@scenario
def the_client_closes_with_data_unread(world: World) -> Observed:
    client, server = world.pair()
    server.sendall(b"y" * 40)
    all_acknowledged(server)
    client.close()
    assert ended(server) == errno.ECONNRESET
    return Observed(
        (End(CloseReason.RESET_LOCAL, CloseDetail.UNREAD_DATA, received=40, unread=40, peer_fin=False),),
        (End(CloseReason.RESET_REMOTE, CloseDetail.RESET, errno.ECONNRESET, sent=40, peer_fin=False),),
    )


@scenario
def the_client_closes_with_data_and_the_end_unread(world: World) -> Observed:
    """The FIN in the receive queue is not counted as unread data."""
    client, server = world.pair()
    server.sendall(b"y" * 40)
    server.shutdown(socket.SHUT_WR)
    in_state(server, "FIN_WAIT2")
    client.close()
    assert ended(server) == errno.ECONNRESET
    return Observed(
        (End(CloseReason.RESET_LOCAL, CloseDetail.UNREAD_DATA, received=40, unread=40, peer_fin=True),),
        (End(CloseReason.RESET_REMOTE, CloseDetail.RESET, errno.ECONNRESET, sent=40, peer_fin=False),),
    )


@scenario
def the_peer_resets_after_our_close_with_data_under_way(world: World) -> Observed:
    client, server = world.pair()
    world.filter("drop")
    client.sendall(b"x" * 12)
    client.close()
    reset(server)
    return Observed(
        (End(CloseReason.RESET_REMOTE, CloseDetail.RESET, errno.ECONNRESET, unacked=12, peer_fin=False),),
        (End(CloseReason.RESET_LOCAL, CloseDetail.LINGER, peer_fin=False),),
    )


@scenario
def a_listener_closes_with_a_connection_pending(world: World) -> Observed:
    listener = world.listen()
    client = world.make(world.client)
    client.connect(world.address)
    listener.close()
    assert ended(client) == errno.ECONNRESET
    return Observed(
        (End(CloseReason.RESET_REMOTE, CloseDetail.RESET, errno.ECONNRESET, peer_fin=False),),
        (End(CloseReason.RESET_LOCAL, CloseDetail.NEVER_ACCEPTED, peer_fin=False, never_accepted=True),),
    )


@scenario
def the_client_resets_before_it_is_accepted(world: World) -> Observed:
    world.listen()
    client = world.make(world.client)
    client.connect(world.address)
    reset(client)
    return Observed(
        (End(CloseReason.RESET_LOCAL, CloseDetail.LINGER, peer_fin=False),),
        (End(CloseReason.RESET_REMOTE, CloseDetail.RESET, errno.ECONNRESET, peer_fin=False, never_accepted=True),),
    )


@scenario
def killed_by_an_administrator(world: World) -> Observed:
    client, server = world.pair()
    world.kill(world.client, "dport")
    assert ended(client) == errno.ECONNABORTED
    assert ended(server) == errno.ECONNRESET
    return Observed(
        (End(CloseReason.ABORTED, error=errno.ECONNABORTED, peer_fin=False),),
        (End(CloseReason.RESET_REMOTE, CloseDetail.RESET, errno.ECONNRESET, peer_fin=False),),
    )


# --- The path broke it ---


@scenario
def data_is_never_acknowledged(world: World) -> Observed:
    client, server = world.pair()
    world.silence()
    client.sendall(b"x" * 30)
    assert ended(client) == errno.ETIMEDOUT
    reset(server)
    return Observed(
        (End(CloseReason.TIMED_OUT, CloseDetail.RETRANSMISSION, errno.ETIMEDOUT, unacked=30, peer_fin=False),),
        (End(CloseReason.RESET_LOCAL, CloseDetail.LINGER),),
    )


@scenario
def the_fin_is_never_acknowledged(world: World) -> Observed:
    client, server = world.pair()
    world.silence()
    client.close()
    time.sleep(0.05)
    reset(server)
    return Observed(
        (End(CloseReason.TIMED_OUT, CloseDetail.RETRANSMISSION, errno.ETIMEDOUT, peer_fin=False),),
        (End(CloseReason.RESET_LOCAL, CloseDetail.LINGER),),
    )


@scenario
def data_before_the_last_fin_is_never_acknowledged(world: World) -> Observed:
    client, server = world.pair()
    client.shutdown(socket.SHUT_WR)
    in_state(server, "CLOSE_WAIT")
    world.silence()
    server.sendall(b"y" * 9)
    server.close()
    time.sleep(0.05)
    reset(client)
    return Observed(
        (End(CloseReason.RESET_LOCAL, CloseDetail.LINGER),),
        (End(CloseReason.TIMED_OUT, CloseDetail.RETRANSMISSION, errno.ETIMEDOUT, unacked=9, peer_fin=True),),
    )


@scenario
def keepalive_probes_are_not_answered(world: World) -> Observed:
    client, server = world.pair()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    world.silence()
    assert ended(client) == errno.ETIMEDOUT
    reset(server)
    return Observed(
        (End(CloseReason.TIMED_OUT, CloseDetail.KEEPALIVE, errno.ETIMEDOUT, peer_fin=False),),
        (End(CloseReason.RESET_LOCAL, CloseDetail.LINGER),),
    )


@scenario
def the_user_timeout_expires(world: World) -> Observed:
    client, server = world.pair()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 500)
    world.silence()
    client.sendall(b"x" * 30)
    assert ended(client) == errno.ETIMEDOUT
    reset(server)
    return Observed(
        (End(CloseReason.TIMED_OUT, CloseDetail.USER_TIMEOUT, errno.ETIMEDOUT, unacked=30, peer_fin=False),),
        (End(CloseReason.RESET_LOCAL, CloseDetail.LINGER),),
    )


@scenario
def window_probes_are_not_answered(world: World) -> Observed:
    """The receiver closed its window and vanished: nothing sent is unacknowledged, the rest could not be sent."""
    client, server = world.pair()
    client.setblocking(False)
    sent = 0
    while sent < 1 << 20:
        try:
            sent += client.send(b"x" * 65536)
        except BlockingIOError:
            break
    arrived = settled_in_queue(server)
    world.silence()
    assert ended(client) == errno.ETIMEDOUT
    reset(server)
    stuck = sent - arrived
    return Observed(
        (
            End(
                CloseReason.TIMED_OUT,
                CloseDetail.ZERO_WINDOW,
                errno.ETIMEDOUT,
                sent=arrived,
                unacked=stuck,
                peer_fin=False,
            ),
        ),
        (End(CloseReason.RESET_LOCAL, CloseDetail.UNREAD_DATA, received=arrived, unread=arrived),),
    )


@scenario
def our_own_firewall_drops_what_we_send(world: World) -> Observed:
    """Nothing leaves, so nothing counts as sent again; but it is lost all the same."""
    client, server = world.pair()
    client.shutdown(socket.SHUT_WR)
    in_state(server, "CLOSE_WAIT")
    world.server.run(f"nft add rule inet output rules tcp sport {world.port} drop")
    server.sendall(b"y" * 9)
    server.close()
    time.sleep(0.05)
    world.silence()
    reset(client)
    return Observed(
        (End(CloseReason.RESET_LOCAL, CloseDetail.LINGER),),
        (End(CloseReason.TIMED_OUT, CloseDetail.RETRANSMISSION, errno.ETIMEDOUT, unacked=9, peer_fin=True),),
    )


@scenario
def an_established_path_becomes_unreachable(world: World) -> Observed:
    client, server = world.pair()
    world.filter("reject with icmp type host-unreachable")
    client.sendall(b"x" * 30)
    assert ended(client) == errno.EHOSTUNREACH
    reset(server)
    return Observed(
        (End(CloseReason.TIMED_OUT, CloseDetail.RETRANSMISSION, errno.EHOSTUNREACH, unacked=30, peer_fin=False),),
        (End(CloseReason.RESET_LOCAL, CloseDetail.LINGER),),
    )


# --- On a link of its own ---


@apart
def both_fins_cross(world: World) -> Observed:
    """A slow link holds each FIN back until the other's has left as well."""
    client, server = world.pair()
    for where in (world.client, world.server):
        # 250 bytes/s once the bucket of 1,540 bytes is empty; the data below empties it.
        where.run("tc qdisc replace dev veth root tbf rate 2kbit burst 1540 latency 60s")
    client.sendall(b"x" * 1440)
    server.sendall(b"y" * 1440)
    client.shutdown(socket.SHUT_WR)
    server.shutdown(socket.SHUT_WR)
    in_state(client, "CLOSE")
    in_state(server, "CLOSE")
    return Observed(
        (End(CloseReason.CLOSED_BOTH, sent=1440, received=1440, unread=1440, peer_fin=True),),
        (End(CloseReason.CLOSED_BOTH, sent=1440, received=1440, unread=1440, peer_fin=True),),
    )


@apart
def a_connection_made_from_a_syn_cookie(world: World) -> Observed:
    world.server.sysctl(tcp_syncookies=2)  # always
    client, server = world.pair()
    client.sendall(b"x" * 100)
    assert len(server.recv(100, socket.MSG_WAITALL)) == 100
    server.sendall(b"y" * 200)
    assert len(client.recv(200, socket.MSG_WAITALL)) == 200
    client.close()
    assert server.recv(1) == b""
    server.close()
    assert world.server.counters()["TcpExtSyncookiesRecv"] == 1
    return Observed(
        (End(CloseReason.CLOSED_LOCAL, sent=100, received=200),),
        (End(CloseReason.CLOSED_REMOTE, sent=200, received=100, peer_fin=True),),
    )


@apart
def a_full_accept_queue_answers_with_a_reset(world: World) -> Observed:
    """tcp_abort_on_overflow: the first client's handshake ends only once the second has filled the queue."""
    world.server.sysctl(tcp_abort_on_overflow=1)
    listener = world.listen(backlog=0)
    world.filter("tcp flags & (syn | ack) == ack drop")
    first, second = world.make(world.client), world.make(world.client)
    first.connect(world.address)
    world.unfilter()
    second.connect(world.address)
    first.sendall(b"x" * 3)
    assert ended(first) == errno.ECONNRESET
    server = world.accept(listener)
    second.close()
    assert server.recv(1) == b""
    server.close()
    return Observed(
        (
            End(CloseReason.RESET_REMOTE, CloseDetail.RESET, errno.ECONNRESET, unacked=3, peer_fin=False),
            End(CloseReason.CLOSED_LOCAL),
        ),
        (End(CloseReason.CLOSED_REMOTE, peer_fin=True),),
    )


@apart
def too_many_orphans(world: World) -> Observed:
    """tcp_check_oom(): the bound is the whole machine's, so it is lowered for the moment of one close() only."""
    bound = Path("/proc/sys/net/ipv4/tcp_max_orphans")
    before = bound.read_text()
    port, world.port = world.port, world.port + 1
    other, _ = world.pair()
    world.silence()
    other.close()  # one orphan, so that there may be too many
    world.port = port
    client, server = world.pair()
    world.silence()
    time.sleep(0.5)  # the kernel counts orphans ten times a second, tcp_orphan_update()
    try:
        bound.write_text("0")
        client.close()
    finally:
        bound.write_text(before)
    reset(server)
    return Observed(
        (End(CloseReason.RESET_LOCAL, CloseDetail.ORPHAN, peer_fin=False),),
        (End(CloseReason.RESET_LOCAL, CloseDetail.LINGER),),
    )


@contextmanager
def places() -> Iterator[dict[str, World]]:
    """A world for each scenario, by name."""
    with ExitStack() as stack:
        shared = stack.enter_context(quick_link())
        worlds = {}
        for number, name in enumerate(SCENARIOS):
            worlds[name] = World(*shared, FIRST_PORT + number)
        for name in APART:
            worlds[name] = World(*stack.enter_context(quick_link()), FIRST_PORT)
        try:
            yield worlds
        finally:
            for world in worlds.values():
                world.close()


def run_all(worlds: dict[str, World]) -> dict[str, Observed | BaseException]:
    """What each scenario says about its ends, or what it raised."""
    observed: dict[str, Observed | BaseException] = {}
    with ThreadPoolExecutor(len(SCENARIOS)) as threads:
        under_way = {name: threads.submit(make, worlds[name]) for name, make in SCENARIOS.items()}
    for name, outcome in under_way.items():
        observed[name] = outcome.exception() or outcome.result()
    for name, make in APART.items():
        try:
            observed[name] = make(worlds[name])
        except (AssertionError, OSError) as error:
            observed[name] = error
    for world in worlds.values():
        world.close()
    return observed
