"""Small servers that differ in who accepts, who reads and who closes. Run as `python acting.py KIND` in a namespace.

Each prints its port once it listens, and answers one connection: reads one byte, sends the number of the process that
handled it, and closes. The process that listens is named fl-listener, the one that handles fl-worker.
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path


def name_process(name: str) -> None:
    Path("/proc/self/comm").write_text(name)


def listen() -> socket.socket:
    name_process("fl-listener")
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(8)
    print(listener.getsockname()[1], flush=True)
    return listener


def handle(connection: socket.socket) -> None:
    connection.recv(1)
    answer(connection)


def answer(connection: socket.socket) -> None:
    connection.sendall(str(os.getpid()).encode())
    connection.close()


def in_child(work: Callable[[], None]) -> None:
    """Fork, and do the work as fl-worker."""
    child = os.fork()
    if child == 0:
        name_process("fl-worker")
        work()
        os._exit(0)
    os.waitpid(child, 0)


def pre_forked() -> None:
    """Workers accept from a listener that the parent opened."""
    listener = listen()
    in_child(lambda: handle(listener.accept()[0]))


def forked_after_accept() -> None:
    """The parent accepts, its child handles."""
    listener = listen()
    connection = listener.accept()[0]
    in_child(lambda: handle(connection))


def passed() -> None:
    """The parent accepts, and passes the connection over a Unix socket (SCM_RIGHTS)."""
    listener = listen()
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        name_process("fl-worker")
        listener.close()
        _, fds, _, _ = socket.recv_fds(theirs, 1, 1)
        handle(socket.socket(fileno=fds[0]))
        os._exit(0)
    connection = listener.accept()[0]
    socket.send_fds(ours, [b"x"], [connection.fileno()])
    connection.close()
    os.waitpid(child, 0)


def activated() -> None:
    """As systemd does: the parent listens, the server is another program that inherits the descriptor."""
    listener = listen()
    listener.set_inheritable(True)
    child = os.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-S", __file__, "activated_server", str(listener.fileno())])
    listener.close()
    os.waitpid(child, 0)


def activated_server() -> None:
    name_process("fl-worker")
    handle(socket.socket(fileno=int(sys.argv[2])).accept()[0])


def never_reads() -> None:
    """A worker that only writes and closes: the closer is its owner."""
    listener = listen()
    in_child(lambda: answer(listener.accept()[0]))


def threaded() -> None:
    """A thread with a name of its own reads: the owner is the process, under its leader's name."""
    listener = listen()
    name_process("fl-worker")

    def work() -> None:
        ctypes.CDLL(None).prctl(15, b"fl-thread", 0, 0, 0)  # PR_SET_NAME
        handle(listener.accept()[0])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
