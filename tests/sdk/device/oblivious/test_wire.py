"""One exchange by a moment that is kept, whatever the other side does with its socket."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from sdk.device.oblivious import wire
from sdk.device.oblivious.wire import Address, Deadline, Reply, exchange, shown
from sdk.errors import CloudError, CloudGarbledError, CloudUnreachableError

Script = Callable[[socket.socket], None]


@contextmanager
def talking(script: Script) -> Iterator[str]:
    """A server that does with each connection what the script says."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connected, _ = listening.accept()
                    threading.Thread(target=serve, args=(connected,), daemon=True).start()

        def serve(connected: socket.socket) -> None:
            with connected, suppress(OSError):
                script(connected)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def got(url: str, *, seconds: float = 20, limit: int = 1000) -> Reply:
    return exchange("GET", Address.of(url, "cloud"), "/", headers={}, deadline=Deadline(seconds), limit=limit)


def saying(*parts: bytes) -> Script:
    def script(connected: socket.socket) -> None:
        connected.recv(65536)
        for part in parts:
            connected.sendall(part)

    return script


def dripping(begin: bytes, drop: bytes) -> Script:
    def script(connected: socket.socket) -> None:
        connected.recv(65536)
        connected.sendall(begin)
        while True:  # Until the client leaves, which is an error here.
            connected.sendall(drop)
            time.sleep(0.05)

    return script


def test_a_reply_is_read_whole() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: Text/Plain; charset=utf-8\r\nA: 1\r\nA: 2\r\n\r\n"
    with talking(saying(head, b"hel", b"lo")) as url:
        reply = got(url)
    assert (reply.status, reply.content, reply.media_type, reply.headers["a"]) == (200, b"hello", "text/plain", "1")


@pytest.mark.parametrize(
    "script",
    [
        lambda connected: connected.recv(65536) and connected.recv(1),
        dripping(b"", b"H"),
        dripping(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"),
        dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n", b"x"),
        dripping(b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
        dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["silence", "status drips", "headers drip", "body drips", "endless body drips", "always go on"],
)
def test_whatever_a_server_does_it_is_over_by_the_deadline(script: Script) -> None:
    with talking(script) as url:
        begun = time.monotonic()
        with pytest.raises((CloudUnreachableError, CloudGarbledError)):
            got(url, seconds=1, limit=10**6)
        assert time.monotonic() - begun < 20
        until = time.monotonic() + 20
        while any(one.name == "limbeck-exchange" for one in threading.enumerate()) and time.monotonic() < until:
            time.sleep(0.02)
        assert not any(one.name == "limbeck-exchange" for one in threading.enumerate())


def test_a_name_that_is_not_answered_for_does_not_hold_it_up_and_nothing_is_sent_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A resolver may hang for minutes; what wakes up after the deadline must not send any more."""
    release, seen = threading.Event(), list[bytes]()
    with talking(lambda connected: seen.append(connected.recv(65536))) as url:
        real = socket.create_connection

        def slow(*arguments: object, **options: object) -> socket.socket:
            release.wait(30)
            return real(*arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(socket, "create_connection", slow)
        with pytest.raises(CloudUnreachableError, match="within 1 s"):
            got(url, seconds=1)
        release.set()
        for thread in threading.enumerate():
            if thread.name == "limbeck-exchange":
                thread.join(20)
    assert seen in ([], [b""])


@pytest.mark.parametrize(
    ("script", "error", "why"),
    [
        (saying(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"), CloudUnreachableError, "broke"),
        (saying(), CloudUnreachableError, "broke|reached"),
        (saying(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1001), CloudGarbledError, "more than 1000 bytes"),
        (saying(b"SSH-2.0-OpenSSH\r\n"), CloudGarbledError, "not answer in HTTP"),
        (saying(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n"), CloudGarbledError, "not answer in HTTP"),
        (saying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), CloudUnreachableError, "broke"),
    ],
    ids=["cut", "hangs up", "too long", "another protocol", "too many headers", "wrong chunk"],
)
def test_what_goes_wrong_has_a_type_and_one_line(script: Script, error: type[CloudError], why: str) -> None:
    with talking(script) as url, pytest.raises(error, match=why) as raised:
        got(url)
    assert "\n" not in str(raised.value)


def test_a_port_where_nobody_listens_is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(CloudUnreachableError, match="cannot be reached"):
        got(f"http://127.0.0.1:{port}")


def test_what_does_not_speak_tls_is_refused() -> None:
    with talking(saying(b"HTTP/1.1 200 OK\r\n\r\n")) as url, pytest.raises(CloudUnreachableError, match="reached"):
        got(url.replace("http:", "https:"))


def test_a_certificate_that_nobody_signed_is_refused() -> None:
    named = wire._Attempt(Address.of("https://a.example", "cloud"), Deadline(1), 1)._named(
        ssl.SSLCertVerificationError("self-signed")
    )
    assert isinstance(named, CloudUnreachableError)
    assert "does not trust" in str(named)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://cloud.example/v1", "unencrypted"),
        ("http://192.0.2.1/v1", "unencrypted"),
        ("ftp://cloud.example", "begins with https"),
        ("cloud.example", "begins with https"),
        ("https://", "begins with https"),
        ("https://ana:secret@cloud.example", "more than a path"),
        ("https://cloud.example/?key=secret", "more than a path"),
        ("https://cloud.example:99999", "cannot be read"),
        ("https://[::1", "cannot be read"),
        ("https://cloud.example/a b", "no address carries"),
        ("https://cloud.example/a\r\nX: y", "no address carries"),
        ("https://wölke.example", "begins with https"),
    ],
)
def test_an_address_that_cannot_be_or_would_leak_is_refused_without_its_secret(url: str, why: str) -> None:
    with pytest.raises(CloudError, match=why) as raised:
        Address.of(url, "cloud")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("https://cloud.example/v1", "cloud.example"),
        ("https://cloud.example:443", "cloud.example"),
        ("http://localhost:8000", "localhost:8000"),
        ("http://[::1]:8000/", "[::1]:8000"),
    ],
)
def test_an_address_names_its_host_as_http_does(url: str, authority: str) -> None:
    assert Address.of(url, "cloud").authority == authority


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_deadline_is_a_positive_number(seconds: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        Deadline(seconds)


def test_foreign_words_are_shown_in_one_short_line_without_the_key() -> None:
    assert shown("a\x1b[31m\nb sk-1", secret="sk-1") == "a [31m b [key]"
    assert len(shown("x" * 900)) == 160
