"""One HTTP request in, one reply out, by a moment that is kept whatever the other side does.

Rules:
    1. Everything, from looking up the name to the last byte, happens in a thread that is left behind at the deadline;
       a thread that was left sends nothing any more.
    2. Without TLS only to this machine. No redirect is followed, no proxy used, no cookie kept, no header added.
    3. A reply has a largest size; what is longer is dropped at that size.
    4. What the other side says is shown in one short line without control characters, and never with a key.
"""

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from sdk.errors import CloudError, CloudGarbledError, CloudUnreachableError

__all__ = ["Address", "Deadline", "Reply", "exchange", "shown"]

SHOWN_CHARACTERS = 160  # Of what somebody else says.
PIECE_BYTES = 64 * 1024


class Deadline:
    """A moment on this machine's steady clock."""

    def __init__(self, seconds: float) -> None:
        """So many seconds from now, > 0."""
        if not 0 < seconds < float("inf"):
            raise ValueError(f"a deadline is a positive number of seconds, got {seconds}")
        self.seconds = seconds
        """What was allowed in all."""
        self._until = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until then, ≥ 0."""
        return max(0.0, self._until - time.monotonic())


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where to ask."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def of(cls, url: str, whose: str) -> "Address":
        """Read a URL.

        Args:
            url: With https, or with http to this machine.
            whose: Named in an error, such as "relay".

        Raises:
            CloudError: It is none, carries more than a path, or would send in the clear.
        """
        try:
            parts = urlsplit(url.strip())
            host, port = parts.hostname, parts.port
        except ValueError as cause:
            raise CloudError(f"the address of the {whose} cannot be read; write it like https://host/path") from cause
        if parts.scheme not in ("http", "https") or not host or not host.isascii():
            raise CloudError(f"the address of the {whose} begins with https:// and names a host")
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise CloudError(f"the address of the {whose} carries more than a path; a key has a place of its own")
        if not (parts.path.isascii() and all(one.isprintable() and one != " " for one in parts.path)):
            raise CloudError(f"the path of the {whose}'s address holds characters that no address carries")
        if parts.scheme == "http" and not _is_here(host):
            raise CloudError(f"the {whose} {host} would be asked unencrypted; use https://")
        default = 443 if parts.scheme == "https" else 80
        return cls(scheme=parts.scheme, host=host, port=port or default, path=parts.path.rstrip("/"))

    @property
    def authority(self) -> str:
        """Host, and the port where it is not the usual one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == {"https": 443, "http": 80}[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    content: bytes

    @property
    def media_type(self) -> str:
        """Without its parameters; empty where there is none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


def exchange(
    method: str,
    address: Address,
    path: str,
    *,
    headers: Mapping[str, str],
    content: bytes = b"",
    deadline: Deadline,
    limit: int,
) -> Reply:
    """Ask once.

    Args:
        method: GET or POST.
        address: Whom.
        path: What, absolute.
        headers: Sent as they are, beside Host and Content-Length.
        content: Sent with POST.
        deadline: By when all must be done.
        limit: Longest reply, in bytes.

    Raises:
        CloudUnreachableError: No whole reply by then.
        CloudGarbledError: The reply is longer, or is no HTTP.
    """
    attempt = _Attempt(address, deadline, limit)
    work = (method, path or "/", dict(headers), content)
    threading.Thread(target=attempt.run, args=work, daemon=True, name="limbeck-exchange").start()
    try:
        in_time = attempt.done.wait(deadline.left)
    finally:
        attempt.leave()
    if not in_time:  # What the thread has by now may be half a reply: leaving it ends its connection.
        raise _too_late(address, deadline)
    if attempt.reply is None:
        raise attempt.failure or _too_late(address, deadline)
    return attempt.reply


class _Attempt:
    """One request in a thread."""

    def __init__(self, address: Address, deadline: Deadline, limit: int) -> None:
        self._address, self._deadline, self._limit = address, deadline, limit
        self._connection = self._connect_to(address, deadline)
        self._socket: socket.socket | None = None
        self._left, self._lock = False, threading.Lock()
        self.done = threading.Event()
        self.reply: Reply | None = None
        self.failure: BaseException | None = None

    @staticmethod
    def _connect_to(address: Address, deadline: Deadline) -> http.client.HTTPConnection:
        wait = max(deadline.left, 0.001)  # 0 would mean: do not wait at all.
        if address.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(address.host, address.port, timeout=wait, context=context)
        return http.client.HTTPConnection(address.host, address.port, timeout=wait)

    def run(self, method: str, path: str, headers: dict[str, str], content: bytes) -> None:
        try:
            self._connection.connect()
            self._socket = self._connection.sock  # The connection itself lets go of it before a reply is read.
            self._send(method, path, headers, content)
            with self._connection.getresponse() as response:
                self.reply = self._read(response)
        except BaseException as cause:
            self.failure = self._named(cause)
        finally:
            self._connection.close()
            self.done.set()

    def leave(self) -> None:
        """Nobody waits any more: wake the thread, so that it ends."""
        with self._lock:
            self._left = True
        connected = self._socket or self._connection.sock
        if connected is not None and not self.done.is_set():
            with suppress(OSError):  # It was closed meanwhile.
                connected.shutdown(socket.SHUT_RDWR)

    def _send(self, method: str, path: str, headers: dict[str, str], content: bytes) -> None:
        with self._lock:
            if self._left:
                raise TimeoutError
        connection = self._connection
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", self._address.authority)
        if method == "POST":
            connection.putheader("Content-Length", str(len(content)))
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders(content or None)

    def _read(self, response: http.client.HTTPResponse) -> Reply:
        parts, size = list[bytes](), 0
        while part := response.read1(PIECE_BYTES):
            parts.append(part)
            if (size := size + len(part)) > self._limit:
                raise CloudGarbledError(f"{self._address.host} sends more than {self._limit} bytes for one answer")
        if response.length:  # read1 does not complain about a body that ends before its Content-Length.
            raise http.client.IncompleteRead(b"", response.length)
        headers = {name.lower(): value for name, value in reversed(response.getheaders())}
        return Reply(status=response.status, headers=headers, content=b"".join(parts))

    def _named(self, cause: BaseException) -> BaseException:
        host = self._address.host
        match cause:
            case CloudError():
                return cause
            case TimeoutError():
                return _too_late(self._address, self._deadline)
            case ssl.SSLCertVerificationError():
                named: CloudError = CloudUnreachableError(
                    f"{host} shows a certificate that this machine does not trust"
                )
            case http.client.RemoteDisconnected() | http.client.IncompleteRead():
                named = CloudUnreachableError(f"the connection to {host} broke; nothing of its answer counts")
            case http.client.HTTPException():
                named = CloudGarbledError(f"{host} does not answer in HTTP")
            case OSError():
                named = CloudUnreachableError(f"{host} cannot be reached ({shown(cause.strerror or str(cause))})")
            case _:
                return cause
        named.__cause__ = cause
        return named


def _too_late(address: Address, deadline: Deadline) -> CloudUnreachableError:
    return CloudUnreachableError(f"{address.host} gave no whole answer within {deadline.seconds:g} s")


def shown(words: str, *, secret: str | None = None) -> str:
    """Somebody else's words, safe on a terminal: one short line, no control characters, no key."""
    if secret:
        words = words.replace(secret, "[key]")
    line = " ".join("".join(one if one.isprintable() else " " for one in words).split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[: SHOWN_CHARACTERS - 1]}…"


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
