"""What a scenario needs: two linked namespaces with short timers, sockets in them, filters for its own port."""

from __future__ import annotations

import errno
import fcntl
import shlex
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from kernel.namespaces import Namespace, linked
from kernel.records import wait_until

CLIENT_ADDRESS, SERVER_ADDRESS, SERVER_ADDRESS_V6 = "10.77.0.1", "10.77.0.2", "fd77::2"
SIOCINQ, SIOCOUTQ = 0x541B, 0x5411  # include/uapi/linux/sockios.h
CLOSED = 7  # TCP_CLOSE, include/net/tcp_states.h
STATES = {"ESTABLISHED": 1, "FIN_WAIT1": 4, "FIN_WAIT2": 5, "CLOSE": CLOSED, "CLOSE_WAIT": 8, "CLOSING": 11}

# Short timers: a connection that nobody answers is given up within about three seconds. tcp_rto_max_ms is new in 6.15.
QUICK = {
    "tcp_syn_retries": 1,
    "tcp_syn_linear_timeouts": 0,
    "tcp_synack_retries": 1,
    "tcp_retries1": 1,
    "tcp_retries2": 3,
    "tcp_orphan_retries": 2,
    "tcp_rto_max_ms": 1000,
    "icmp_ratelimit": 0,  # several scenarios are told "unreachable" by the same router at once
}


@dataclass(frozen=True)
class TcpInfo:
    """The fields of struct tcp_info (include/uapi/linux/tcp.h) that the records repeat."""

    rtt_us: int
    rtt_var_us: int
    total_retrans: int
    min_rtt_us: int
    data_segs_in: int
    data_segs_out: int
    busy_us: int
    rwnd_limited_us: int
    sndbuf_limited_us: int
    bytes_retrans: int
    dsack_dups: int
    reord_seen: int

    @classmethod
    def of(cls, one: socket.socket) -> TcpInfo:
        raw = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)

        def u32(offset: int) -> int:
            return int(struct.unpack_from("I", raw, offset)[0])

        def u64(offset: int) -> int:
            return int(struct.unpack_from("Q", raw, offset)[0])

        return cls(
            rtt_us=u32(68), rtt_var_us=u32(72), total_retrans=u32(100), min_rtt_us=u32(148),
            data_segs_in=u32(152), data_segs_out=u32(156), busy_us=u64(168), rwnd_limited_us=u64(176),
            sndbuf_limited_us=u64(184), bytes_retrans=u64(208), dsack_dups=u32(216), reord_seen=u32(220),
        )  # fmt: skip


@dataclass
class World:
    """Two linked namespaces, and the port on which a scenario's server listens."""

    client: Namespace
    server: Namespace
    port: int
    _open: list[socket.socket] = field(default_factory=list)

    @property
    def address(self) -> tuple[str, int]:
        return (SERVER_ADDRESS, self.port)

    def make(self, where: Namespace, family: int = socket.AF_INET, protocol: int = 0) -> socket.socket:
        with where.entered():
            made = socket.socket(family, socket.SOCK_STREAM, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.settimeout(20)
        self._open.append(made)
        return made

    def listen(self, backlog: int = 8, protocol: int = 0) -> socket.socket:
        listener = self.make(self.server, protocol=protocol)
        listener.bind(self.address)
        listener.listen(backlog)
        return listener

    def accept(self, listener: socket.socket) -> socket.socket:
        accepted, _ = listener.accept()
        accepted.settimeout(20)
        self._open.append(accepted)
        return accepted

    def pair(self, protocol: int = 0) -> tuple[socket.socket, socket.socket]:
        """A connection's client and server end; the listener is closed again."""
        listener = self.listen(protocol=protocol)
        client = self.make(self.client, protocol=protocol)
        client.connect(self.address)
        server = self.accept(listener)
        listener.close()
        return client, server

    def dial(self, family: int = socket.AF_INET) -> socket.socket:
        """A connect() under way that the caller does not wait for."""
        client = self.make(self.client, family)
        client.setblocking(False)
        address = SERVER_ADDRESS if family == socket.AF_INET else SERVER_ADDRESS_V6
        assert client.connect_ex((address, self.port)) == errno.EINPROGRESS
        return client

    def filter(self, rule: str, toward: str = "server") -> None:
        """Add a rule for packets of this port that arrive at the server, or at the client."""
        where, side = (self.server, "dport") if toward == "server" else (self.client, "sport")
        where.run(f"nft add rule inet input rules tcp {side} {self.port} {shlex.quote(rule)}")

    def silence(self) -> None:
        """From now on nothing that concerns this port arrives, on either side."""
        self.filter("drop")
        self.filter("drop", toward="client")

    def unfilter(self) -> None:
        """Let everything of this port pass again, by a rule that stands first."""
        self.server.run(f"nft insert rule inet input rules tcp dport {self.port} accept")
        self.client.run(f"nft insert rule inet input rules tcp sport {self.port} accept")

    def kill(self, where: Namespace, side: str) -> None:
        where.run(f"ss -K -tn {side} = :{self.port}")

    def close(self) -> None:
        for one in self._open:
            one.close()


def state_of(one: socket.socket) -> int:
    return one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def in_state(one: socket.socket, name: str) -> None:
    wait_until(lambda: state_of(one) == STATES[name], name)


def all_acknowledged(one: socket.socket) -> None:
    wait_until(lambda: struct.unpack("i", _ioctl(one, SIOCOUTQ))[0] == 0, "all is acknowledged")


def _ioctl(one: socket.socket, request: int) -> bytes:
    return fcntl.ioctl(one, request, b"\0\0\0\0")


def reset(one: socket.socket) -> None:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()


def ended(one: socket.socket) -> int:
    """Wait until the kernel ends this socket; its error."""
    wait_until(lambda: state_of(one) == CLOSED, "the kernel has closed it")
    return one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def read_all(one: socket.socket) -> int:
    total = 0
    while data := one.recv(1 << 16):
        total += len(data)
    return total


def settled_in_queue(one: socket.socket) -> int:
    """Bytes in a receive queue that nobody reads, once they no longer grow."""
    last, since = -1, time.monotonic()
    while time.monotonic() - since < 0.5:
        now = struct.unpack("i", _ioctl(one, SIOCINQ))[0]
        if now != last:
            last, since = now, time.monotonic()
        time.sleep(0.02)
    return last


@contextmanager
def quick_link() -> Iterator[tuple[Namespace, Namespace]]:
    """Two linked namespaces with short timers, and tables in the second for the scenarios' rules."""
    with linked() as (client, server):
        for one in (client, server):
            one.sysctl(**{name: value for name, value in QUICK.items() if one.has_sysctl(name)})
            one.run("echo 0 > /proc/sys/net/ipv6/icmp/ratelimit")
        client.nft()
        server.nft()
        server.nft(hook="output")
        yield client, server
