"""Requests in, only those that may be answered out: from this machine's own programs, in time, small, with the token.

A web page that is open in the person's browser can send requests to this machine, so that "only loopback" is no
protection by itself. In order, the first that fails answers:
    1. Host names this machine, unless a token is asked for: a page whose name was made to point here (DNS rebinding)
       still names its own host.
    2. Origin, which browsers add, is this server's own or allowed, and no browser says that it comes from elsewhere.
    3. The token, where there is one, compared in constant time. `/health` asks for none.
    4. The rate over all clients.
    5. The body arrives whole, in time, and is small. It is read here, so that routes never wait for a client.

Source: CWE-350 (DNS rebinding); Fetch standard, Origin and Sec-Fetch-Site.
"""

import asyncio
import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from sdk.device.server.limits import Limits, Rate
from sdk.device.server.refusal import Refusal

__all__ = ["Guard", "is_loopback", "send_refusal"]

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SAFE = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
READ_ON = 8  # Bodies up to so many times the limit are read and dropped, so that the client hears why it was refused.


class Guard:
    """Stands before all routes (ASGI)."""

    def __init__(self, app: App, limits: Limits, *, token: str | None = None, origins: Collection[str] = ()) -> None:
        """Guard `app`.

        Args:
            app: The routes.
            limits: Sizes, rate and times.
            token: What clients must show; None asks for nothing and answers this machine alone.
            origins: Web pages that may ask, such as https://app.example.
        """
        self._app, self._limits, self._origins = app, limits, frozenset(origins)
        self._token = None if token is None else token.encode()
        self._rate = Rate(limits.per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)  # The start and end of the server itself.
            return
        headers = _single(scope["headers"])
        send = _safely(send)
        try:
            self._check(scope, headers)
            body = await self._body(headers, receive)
        except Refusal as refusal:
            await send_refusal(refusal, send, close=True)  # What is left of its body is not read.
            return
        await self._app(scope, _replay(body, receive), send)

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        host = headers.get(b"host", b"").decode("latin-1")
        if self._token is None and not is_loopback(_name(host)):  # (1)
            raise Refusal(403, f"the request is for {host!r:.80}, which is not this machine", code="wrong_host")
        origin = headers.get(b"origin", b"").decode("latin-1")
        own = origin in self._origins or origin == f"{scope['scheme']}://{host}"
        if (origin and not own) or (headers.get(b"sec-fetch-site") == b"cross-site" and not origin):  # (2)
            raise Refusal(
                403, f"web pages of {origin or 'elsewhere'!r:.80} may not ask; see --origin", code="wrong_origin"
            )
        if scope["path"] == "/health":
            return
        if self._token is not None:  # (3)
            kind, _, shown = headers.get(b"authorization", b"").partition(b" ")
            if kind.lower() != b"bearer" or not hmac.compare_digest(shown.strip(), self._token):
                raise Refusal(
                    401,
                    "the token is missing or wrong; send it as Authorization: Bearer TOKEN",
                    code="invalid_api_key",
                    headers={"www-authenticate": "Bearer"},
                )
        if seconds := self._rate.take():  # (4)
            raise Refusal(
                429,
                f"more than {self._limits.per_minute} requests a minute; try again in {seconds:.1f} s",
                code="rate_limit_exceeded",
                retry_seconds=seconds,
            )

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:  # (5)
        stated = headers.get(b"content-length", b"0")
        if b"expect" in headers and stated.isdigit() and int(stated) > self._limits.request_bytes:
            raise self._too_large()  # The client waits to hear whether it may send.
        try:
            async with asyncio.timeout(self._limits.request_seconds):
                return await self._read(receive)
        except TimeoutError as cause:
            raise Refusal(
                408, f"the body did not arrive within {self._limits.request_seconds:g} s", code="slow_request"
            ) from cause

    async def _read(self, receive: Receive) -> bytes:
        parts, size, most = [], 0, self._limits.request_bytes
        more = True
        while more and size <= most * READ_ON:
            event = await receive()
            if event["type"] == "http.disconnect":
                raise Refusal(400, "the client went away", code="gone")
            size += len(event.get("body", b""))
            parts.append(event.get("body", b""))
            if size > most:
                parts.clear()
            more = event.get("more_body", False)
        if size > most:
            raise self._too_large()
        return b"".join(parts)

    def _too_large(self) -> Refusal:
        most = self._limits.request_bytes
        return Refusal(413, f"the body is longer than {most} bytes; shorten the messages", code="too_large")


async def send_refusal(refusal: Refusal, send: Send, *, close: bool = False) -> None:
    """Send a refusal as a whole response.

    Args:
        refusal: What to tell.
        send: Where to.
        close: End the connection afterwards.
    """
    content = refusal.content()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    headers += [(name.encode(), value.encode()) for name, value in refusal.headers.items()]
    headers += [(b"connection", b"close")] if close else []
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def is_loopback(name: str) -> bool:
    """Whether a host's name or address means this machine alone."""
    if name.rstrip(".").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _name(host: str) -> str:
    """Host without its port; empty if it is no host."""
    try:
        return urlsplit(f"//{host}").hostname or "" if not set(host) & set("/@?#\\") else ""
    except ValueError:
        return ""


def _single(headers: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers by name; the first of each, but for a second Host or token, which no client of good will sends."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        twice = name in found and name in (b"host", b"authorization", b"origin")
        found[name] = b"" if twice else found.get(name, value)
    return found


def _safely(send: Send) -> Send:
    async def sending(event: Event) -> None:
        if event["type"] == "http.response.start":
            event["headers"] = [*event.get("headers", ()), *SAFE]
        await send(event)

    return sending


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body as one event, then what else the connection tells: that the client is gone."""
    given = False

    async def receiving() -> Event:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receiving
