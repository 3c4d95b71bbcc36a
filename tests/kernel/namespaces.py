"""Network namespaces of a test's own: made, linked, made lossy, read and removed again.

A socket made while a namespace is entered stays in it, so one process can hold both ends of a connection that crosses
a link between two namespaces.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import shlex
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h
SO_NETNS_COOKIE = 71  # include/uapi/asm-generic/socket.h

END_OF_OUTPUT = "end-of-output"

_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


def run(*command: str) -> str:
    """What the command printed; fails with what it complained about."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class Shell:
    """A shell in a namespace, started before there are any sockets to inherit.

    A test that closes a socket while another thread starts a process would not close it: until its exec the child has
    a copy of the descriptor. So commands are started by this shell.
    """

    def __init__(self, name: str) -> None:
        self._one_at_a_time = threading.Lock()
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", name, "sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, command: str) -> str:
        """What the command printed; fails with what it complained about."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        with self._one_at_a_time:
            stdin.write(f"{{ {command}\n}} 2>&1 </dev/null; echo; echo {END_OF_OUTPUT} $?\n")
            stdin.flush()
            lines = []
            while not (line := stdout.readline()).startswith(END_OF_OUTPUT):
                assert line, "the shell has ended"
                lines.append(line)
        printed = "".join(lines)
        assert line.split()[1] == "0", f"{command}: {printed.strip()}"
        return printed.removesuffix("\n")

    def close(self) -> None:
        self._process.communicate()


@dataclass(frozen=True)
class Namespace:
    name: str
    shell: Shell

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is in this namespace meanwhile; sockets made here stay here."""
        with Path("/proc/thread-self/ns/net").open() as home, Path(f"/run/netns/{self.name}").open() as target:
            _setns(target.fileno())
            try:
                yield
            finally:
                _setns(home.fileno())

    @property
    def cookie(self) -> int:
        with self.entered(), socket.socket() as any_socket:
            return int(struct.unpack("Q", any_socket.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8))[0])

    def run(self, command: str) -> str:
        """Run a line of shell in this namespace."""
        return self.shell.run(command)

    def sysctl(self, **values: object) -> None:
        """Set sysctls below net.ipv4 of this namespace."""
        with self.entered():
            for name, value in values.items():
                Path(f"/proc/sys/net/ipv4/{name}").write_text(str(value))

    def has_sysctl(self, name: str) -> bool:
        with self.entered():
            return Path(f"/proc/sys/net/ipv4/{name}").exists()

    def nft(self, *rules: str, hook: str = "input") -> None:
        """Replace the rules of one hook; without rules, nothing is filtered there any more."""
        table = f"table inet {hook}"
        lines = [table, f"delete {table}", f"add {table}"]
        lines.append(f"add chain inet {hook} rules {{ type filter hook {hook} priority 0; }}")
        lines += [f"add rule inet {hook} rules {rule}" for rule in rules]
        self.run(f"nft {shlex.quote(chr(10).join(lines))}")

    def counters(self) -> dict[str, int]:
        """Everything in this namespace's /proc/net/snmp and netstat, such as TcpRetransSegs, TcpExtTCPSynRetrans."""
        with self.entered():
            text = Path("/proc/thread-self/net/snmp").read_text() + Path("/proc/thread-self/net/netstat").read_text()
        lines = text.splitlines()
        counted = {}
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            kind, _, names = names.partition(":")
            counted |= {
                kind + name: int(value)
                for name, value in zip(names.split(), values.partition(":")[2].split(), strict=True)
            }
        return counted


@contextmanager
def namespace() -> Iterator[Namespace]:
    """A network namespace with its loopback up."""
    name = f"flowlake-{os.getpid()}-{next(_numbers)}"
    run("ip", "netns", "add", name)
    shell = Shell(name)
    try:
        shell.run("ip link set lo up")
        yield Namespace(name, shell)
    finally:
        shell.close()
        run("ip", "netns", "del", name)


@contextmanager
def linked() -> Iterator[tuple[Namespace, Namespace]]:
    """Two namespaces with a veth link: 10.77.0.1 and fd77::1 in the first, 10.77.0.2 and fd77::2 in the second."""
    with ExitStack() as stack:
        pair = (stack.enter_context(namespace()), stack.enter_context(namespace()))
        run("ip", "link", "add", "veth", "netns", pair[0].name, "type", "veth", "peer", "veth", "netns", pair[1].name)
        for number, one in enumerate(pair, start=1):
            one.run(f"ip address add 10.77.0.{number}/24 dev veth")
            one.run(f"ip address add fd77::{number}/64 dev veth nodad")
            one.run("ip link set veth up")
        yield pair


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "setns")
