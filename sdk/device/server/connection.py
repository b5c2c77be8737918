"""Bytes of a client in, HTTP requests out, or the end of a connection that is too slow, too much, or no HTTP.

uvicorn bounds headers but waits for them for ever, and answers garbage in plain text. Here a request must have its
headers in time, a client must read what it asked for, the number of connections is bounded, and each refusal has
OpenAI's form.
"""

import asyncio
import socket
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from sdk.device.server.limits import Limits
from sdk.device.server.refusal import Refusal

__all__ = ["connection_of"]


class Connection(H11Protocol):
    """One client's connection."""

    limits = Limits()
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection, or tell it to come back."""
        super().connection_made(transport)  # type: ignore[arg-type]  # asyncio's own base class is as wide.
        # asyncio asks for this only where a socket names its protocol, which socket.create_server's do not: without
        # it the second half of a response waits 40 ms for the client's acknowledgement of the first.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        most = self.limits.connections
        if len(self.connections) > most:
            self._end(Refusal(503, f"{most} connections are open; try again", code="busy", retry_seconds=1))
            return
        self._expect_request()

    def data_received(self, data: bytes) -> None:
        """Take bytes; the time that a request may take begins with the first of them."""
        if self.transport.is_closing():
            return
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._forget_timer()
        elif self._is_idle():
            self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._forget_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read: it has a while to go on."""
        super().pause_writing()
        self._forget_timer()
        self._timer = self.loop.call_later(self.limits.idle_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        self._forget_timer()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, or has too many headers."""
        words = f"this is not HTTP/1.1, or its headers are longer than {self.limits.header_bytes} bytes"
        self._end(Refusal(400, words, code="not_http"))

    def _is_idle(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request, whatever uvicorn's types say.
        return cycle is None or cycle.response_complete

    def _expect_request(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.limits.request_seconds, self._too_slow)

    def _too_slow(self) -> None:
        seconds = f"{self.limits.request_seconds:g}"
        self._end(Refusal(408, f"no request arrived within {seconds} s", code="slow_request"))

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self, refusal: Refusal) -> None:
        """Tell why, then close; a client that does not take it is cut off."""
        self._forget_timer()
        if self.transport.is_closing():
            return
        content = refusal.content()
        headers = {
            "content-type": "application/json",
            "content-length": str(len(content)),
            "connection": "close",
            **refusal.headers,
        }
        lines = [f"HTTP/1.1 {refusal.status} Refused", *(f"{name}: {value}" for name, value in headers.items())]
        self.transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
        self.transport.close()
        self.loop.call_later(1, self.transport.abort)


def connection_of(limits: Limits) -> type[Any]:
    """The kind of connection with these limits."""
    return type("Connection", (Connection,), {"limits": limits})
