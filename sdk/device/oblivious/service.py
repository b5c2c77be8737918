"""A function from request to reply in, a small HTTP server around it out, that nobody can hold up for long.

One connection carries one request. Reading it takes at most so many seconds whatever comes, bodies have a largest size
and a known length, and more connections at once than allowed are turned away.
"""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sdk.errors import ObliviousError

__all__ = ["Incoming", "Limits", "Outgoing", "Service"]

TURNED_AWAY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one server bears."""

    body_bytes: int = 1024 * 1024
    """Longest request body."""
    read_seconds: float = 15.0
    """For a whole request to arrive, and for a whole reply to be taken."""
    connections: int = 64
    """At once, ≥ 1."""


@dataclass(frozen=True, kw_only=True)
class Incoming:
    """A request, as far as these servers look at it."""

    method: str
    path: str
    media_type: str
    content: bytes


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """A reply."""

    status: int
    media_type: str = "text/plain"
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class Service(ThreadingHTTPServer):
    """Serves until `shutdown`."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, host: str, port: int, handle: Callable[[Incoming], Outgoing], *, limits: Limits | None = None
    ) -> None:
        """Listen; port 0 takes a free one.

        Raises:
            ObliviousError: The port is in use, or not to be had.
        """
        self.limits, self.handle = limits or Limits(), handle
        self._free = threading.BoundedSemaphore(self.limits.connections)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except OSError as cause:
            raise ObliviousError(f"cannot listen on {host}, port {port} ({cause.strerror}); choose another") from cause

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self.server_address[:2]
        return f"http://[{host!s}]:{port}" if self.address_family == socket.AF_INET6 else f"http://{host!s}:{port}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for each connection, if there is room for one more."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        with suppress(OSError):
            request.settimeout(0.1)
            request.sendall(TURNED_AWAY)
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of who broke off."""


class _Handler(BaseHTTPRequestHandler):
    server: Service
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.server.limits.read_seconds)
        self._watch = threading.Timer(self.server.limits.read_seconds, self._cut)
        self._watch.daemon = True
        self._watch.start()

    def finish(self) -> None:
        self._watch.cancel()
        super().finish()

    def _cut(self) -> None:
        with suppress(OSError):  # It ended meanwhile.
            self.connection.shutdown(socket.SHUT_RD)

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or "Transfer-Encoding" in self.headers:
            self._send(Outgoing(status=411, content=b"a length is needed\n"))
        elif len(length) > 12 or int(length) > self.server.limits.body_bytes:
            self._send(Outgoing(status=413, content=b"too long\n"))
        else:
            content = self.rfile.read(int(length))
            if len(content) == int(length):
                self._answer(content)

    def _answer(self, content: bytes) -> None:
        self._watch.cancel()
        kind = self.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        incoming = Incoming(method=self.command, path=self.path, media_type=kind, content=content)
        try:
            self._send(self.server.handle(incoming))
        except Exception:
            self._send(Outgoing(status=500, content=b"failed\n"))
            raise

    def _send(self, reply: Outgoing) -> None:
        self.close_connection = True
        self.send_response_only(reply.status)
        headers = {
            "Date": formatdate(usegmt=True),
            "Content-Type": reply.media_type,
            "Content-Length": str(len(reply.content)),
            "Connection": "close",
            **reply.headers,
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing is logged: a log of who asked when is what this whole way avoids."""
