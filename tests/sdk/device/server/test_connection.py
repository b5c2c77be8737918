"""Clients that are slow, many, deaf or speak no HTTP: each is told why, or cut off, and the next one is answered."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sdk.device.server.connection import Connection
from sdk.device.server.limits import Limits
from sdk.device.server.listen import running
from tests.answering import Scripted, body
from tests.sdk.device.server.test_guard import chat

QUICK = Limits(request_seconds=1.0, idle_seconds=1.0, request_bytes=100_000, header_bytes=8_000, connections=8)


@pytest.fixture
def url() -> Iterator[str]:
    with running(Scripted(), limits=QUICK) as url:
        yield url
        assert comes_back(url)  # Whatever a test did, the next client is answered.


def comes_back(url: str) -> bool:
    """Whether a client that is told to come back is answered in the end."""
    until = time.monotonic() + 20
    while (status := chat(url)[0]) == 503 and time.monotonic() < until:
        time.sleep(0.02)
    return status == 200


def connected(url: str) -> socket.socket:
    host, port = url.split("/")[2].split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def heard(client: socket.socket) -> bytes:
    """All that the server says until it closes."""
    told = b""
    try:
        while part := client.recv(65536):
            told += part
    except ConnectionResetError:
        pass
    return told


def said(told: bytes) -> tuple[int, Any]:
    head, _, content = told.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(content)["error"]["code"]


@pytest.mark.parametrize(
    "noise",
    [b"\x00\xff" * 2000, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"\r\n" * 5000,
     b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
     b"Content-Length: -1\r\n\r\n", b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"],
    ids=range(8),
)  # fmt: skip
def test_garbage_is_refused(url: str, noise: bytes) -> None:
    with connected(url) as client:
        client.sendall(noise)
        assert said(heard(client))[0] in (400, 403, 408)


def test_headers_without_end_are_refused(url: str) -> None:
    with connected(url) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000)
        assert said(heard(client)) == (400, "not_http")


@pytest.mark.parametrize("start", [b"", b"G", b"GET /health HTTP/1.1\r\nHost: loc"])
def test_headers_that_do_not_come_in_time_are_refused(url: str, start: bytes) -> None:
    with connected(url) as client:
        client.sendall(start)
        assert said(heard(client)) == (408, "slow_request")


def dripped(client: socket.socket, seconds: float) -> bytes:
    """Send a byte now and then until the server has enough."""
    until = time.monotonic() + seconds
    client.settimeout(0.1)
    while time.monotonic() < until:
        try:
            client.sendall(b"x")
            if told := client.recv(65536):
                return told
        except TimeoutError:
            continue
        except OSError:
            return b"cut off"
    return b""


def test_a_header_in_drops_is_refused_also_on_a_connection_that_was_good(url: str) -> None:
    with connected(url) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        told = b""
        while b'"ok"}' not in told:
            told += client.recv(65536)
        assert dripped(client, 20).startswith(b"HTTP/1.1 408")


def test_a_body_in_drops_is_refused(url: str) -> None:
    with connected(url) as client:
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000\r\n\r\n"
        )
        assert dripped(client, 20).startswith(b"HTTP/1.1 408")


def test_without_its_timer_a_slow_client_would_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "_expect_request", lambda self: None)
    with running(Scripted(), limits=QUICK) as url, connected(url) as client:
        client.settimeout(2.5)
        client.sendall(b"G")
        with pytest.raises(TimeoutError):
            client.recv(10)


def test_more_connections_than_granted_are_told_to_come_back(url: str) -> None:
    clients = [connected(url) for _ in range(QUICK.connections)]
    try:
        with connected(url) as late:
            assert said(heard(late)) == (503, "busy")
    finally:
        for client in clients:
            client.close()
    assert comes_back(url)


def test_a_client_that_says_first_how_much_it_has_need_not_send_it(url: str) -> None:
    with connected(url) as client:
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Expect: 100-continue\r\nContent-Length: 1000000\r\n\r\n"
        )
        assert said(heard(client)) == (413, "too_large")


def test_a_response_does_not_wait_for_an_acknowledgement(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = Connection.connection_made

    def made(self: Connection, transport: asyncio.BaseTransport) -> None:
        real(self, transport)
        seen.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(Connection, "connection_made", made)
    assert chat(url)[0] == 200
    assert all(seen)
    assert seen


def test_a_client_that_does_not_read_is_cut_off() -> None:
    answering = Scripted(words=["x" * 100_000] * 200)
    with running(answering, limits=QUICK) as url, connected(url) as client:
        content = json.dumps(body(stream=True)).encode()
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(content), content)
        )
        time.sleep(3)  # Longer than idle_seconds; 20 MB do not fit into the buffers between us.
        assert b"[DONE]" not in heard(client)[-200:]
        assert chat(url)[0] == 200


def test_hundreds_of_strange_clients_later_nothing_is_held(url: str) -> None:
    before = threading.active_count()
    for number in range(300):
        with connected(url) as client:
            client.sendall([b"\x00", b"GET / HTTP/1.1\r\n", b"POST", b"\r\n\r\n"][number % 4])
    assert comes_back(url)
    assert threading.active_count() <= before + 2
