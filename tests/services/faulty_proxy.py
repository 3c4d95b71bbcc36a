"""An HTTP proxy in front of a real S3 server that does to its traffic what networks and loaded servers do.

Which request suffers what is the test's to say: a function from the request to a Fault, asked once for each. A proxy
keeps the Host header as it came, which the signature covers.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol, Self

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "content-length"}


@dataclass(frozen=True, slots=True)
class Request:
    """number: how many came before it."""

    number: int
    method: str
    path: str  # with the query
    headers: Mapping[str, str]  # names in small letters


@dataclass(slots=True)
class Exchange:
    """handler: to answer on. forward(): what the server answers, asked as often as called."""

    handler: BaseHTTPRequestHandler
    forward: Callable[[], tuple[int, list[tuple[str, str]], bytes]]
    stopped: threading.Event


class Fault(Protocol):
    def __call__(self, exchange: Exchange) -> None: ...


def passed_on(exchange: Exchange) -> None:
    """No fault."""
    _answer(exchange, *exchange.forward())


def twice(exchange: Exchange) -> None:
    """Sent twice by somebody on the way; the second answer is given."""
    exchange.forward()
    _answer(exchange, *exchange.forward())


def request_lost(exchange: Exchange) -> None:
    """The connection ends before the server has heard of it."""
    exchange.handler.close_connection = True


def answer_lost(exchange: Exchange) -> None:
    """It has happened, and the connection ends without a word."""
    exchange.forward()
    exchange.handler.close_connection = True


def answer_cut(exchange: Exchange) -> None:
    """Half of the body, then the end of the connection."""
    status, headers, body = exchange.forward()
    _answer(exchange, status, headers, body, sent=len(body) // 2)
    exchange.handler.close_connection = True


def answer_damaged(exchange: Exchange) -> None:
    """One bit of an object's body is another. (What S3 says in XML has no checksum but that of TLS.)"""
    status, headers, body = exchange.forward()
    middle = len(body) // 2
    if body and not body.startswith(b"<"):
        body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
    _answer(exchange, status, headers, body)


def error(status: int, code: str, *, happened: bool = False, message: str = "By the test.") -> Fault:
    """An error of S3's, though it may have happened."""

    def answer(exchange: Exchange) -> None:
        if happened:
            exchange.forward()
        body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
        _answer(exchange, status, [("Content-Type", "application/xml")], body.encode())

    return answer


def page(status: int, body: bytes) -> Fault:
    """What something that is no S3 answers."""

    def answer(exchange: Exchange) -> None:
        _answer(exchange, status, [("Content-Type", "text/html")], body)

    return answer


def slow(seconds: float) -> Fault:
    """It happens at once, and is answered late."""

    def answer(exchange: Exchange) -> None:
        answer = exchange.forward()
        exchange.stopped.wait(seconds)
        _answer(exchange, *answer)

    return answer


class FaultyProxy:
    """A context manager. fault: may be replaced at any time; called under a lock. requests: all that came."""

    def __init__(self, port: int, fault: Callable[[Request], Fault] = lambda _: passed_on) -> None:
        """port: of the server, on loopback."""
        self.fault = fault
        self.requests: list[Request] = []
        self._upstream_port = port
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._server.end_connections()
        self._server.server_close()
        self._thread.join()

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        with self._lock:
            headers = {name.lower(): value for name, value in handler.headers.items()}
            request = Request(len(self.requests), handler.command, handler.path, headers)
            self.requests.append(request)
            fault = self.fault(request)

        def forward() -> tuple[int, list[tuple[str, str]], bytes]:
            upstream = http.client.HTTPConnection("127.0.0.1", self._upstream_port, timeout=30)
            try:
                upstream.putrequest(handler.command, handler.path, skip_host=True, skip_accept_encoding=True)
                for name, value in handler.headers.items():
                    if name.lower() not in _HOP_BY_HOP:
                        upstream.putheader(name, value)
                upstream.putheader("Content-Length", str(len(body)))
                upstream.endheaders(body)
                response = upstream.getresponse()
                headers = [(name, value) for name, value in response.getheaders() if name.lower() not in _HOP_BY_HOP]
                return response.status, headers, response.read()
            finally:
                upstream.close()

        fault(Exchange(handler, forward, self._stopped))


def first(*faults: Fault, of: str = "", method: str = "") -> Callable[[Request], Fault]:
    """The first requests of this method whose path has `of` in it suffer these, one each; all others pass."""
    left = list(faults)

    def choose(request: Request) -> Fault:
        if left and of in request.path and method in ("", request.method):
            return left.pop(0)
        return passed_on

    return choose


def always(fault: Fault, *, of: str = "", method: str = "") -> Callable[[Request], Fault]:
    """Every request of this method whose path has `of` in it suffers it."""
    return lambda request: fault if of in request.path and method in ("", request.method) else passed_on


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    request_queue_size = 64

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._connections: set[Any] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def end_connections(self) -> None:
        """Those that clients keep open for their next request."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # wakes who reads from it

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has given up is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultyProxy

    def handle_one_request(self) -> None:
        try:
            self.raw_requestline = self.rfile.readline(65537)
            if not self.raw_requestline or not self.parse_request():
                self.close_connection = True
                return
            self.proxy.serve(self)
            self.wfile.flush()
        except (OSError, http.client.HTTPException):
            self.close_connection = True


def _answer(
    exchange: Exchange, status: int, headers: list[tuple[str, str]], body: bytes, sent: int | None = None
) -> None:
    handler = exchange.handler
    handler.send_response_only(status)
    for name, value in headers:
        handler.send_header(name, value)
    if status != 204:
        handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body[:sent])
