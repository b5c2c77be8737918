"""The small server around gateway and relay: nobody holds it up, and it says nothing of who came."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sdk.device.oblivious.service import Incoming, Limits, Outgoing, Service
from sdk.errors import ObliviousError
from tests.sdk.device.oblivious.served import served


@contextmanager
def echo(**limits: float) -> Iterator[tuple[str, int]]:
    def handle(incoming: Incoming) -> Outgoing:
        if incoming.path == "/fails":
            raise RuntimeError("a fault of ours")
        return Outgoing(status=200, content=incoming.content, media_type=incoming.media_type or "none")

    made = Limits(**limits)  # type: ignore[arg-type]
    with served(Service("127.0.0.1", 0, handle, limits=made)) as url:
        yield "127.0.0.1", int(url.rpartition(":")[2])


def said(place: tuple[str, int], *parts: bytes, finish: bool = True) -> bytes:
    with socket.create_connection(place, timeout=30) as connected:
        for part in parts:
            connected.sendall(part)
        if finish:
            connected.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connected.recv(65536):
            answer += part
        return answer


def test_a_body_is_handed_over_whole() -> None:
    with echo() as place:
        answer = said(place, b"POST / HTTP/1.1\r\nContent-Type: A/b; x=1\r\nContent-Length: 4\r\n\r\n", b"ab", b"cd")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nabcd")
    assert b"Content-Type: a/b\r\n" in answer
    assert b"Server:" not in answer


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST / HTTP/1.1\r\n\r\n", b"411"),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"411"),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", b"411"),
        (b"POST / HTTP/1.1\r\nContent-Length: 1001\r\n\r\n", b"413"),
        (b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", b"413"),
        (b"PUT / HTTP/1.1\r\n\r\n", b"501"),
        (b"GET /fails HTTP/1.1\r\n\r\n", b"500"),
        (b"GET / HTTP/1.1 x\r\n\r\n", b"400"),
    ],
)
def test_what_cannot_be_served_is_refused(head: bytes, status: bytes) -> None:
    with echo(body_bytes=1000) as place:
        assert b" " + status in said(place, head)[:200]
        assert said(place, b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200")  # It serves on.


@pytest.mark.parametrize(
    "begin", [b"", b"POST / HT", b"POST / HTTP/1.1\r\nA: b\r\n", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nab"]
)
def test_who_sends_half_a_request_is_let_go(begin: bytes) -> None:
    with echo(read_seconds=1.0) as place:
        assert b" 200 " not in said(place, begin, finish=False)


def test_more_connections_than_allowed_are_turned_away_and_room_comes_back() -> None:
    with echo(connections=1, read_seconds=20.0) as place:
        with socket.create_connection(place, timeout=30) as first:
            first.sendall(b"POST / HTTP/1.1\r\n")
            assert said(place, finish=False).startswith(b"HTTP/1.1 503")
            first.sendall(b"Content-Length: 0\r\n\r\n")
            assert first.recv(65536).startswith(b"HTTP/1.1 200")
        for _ in range(200):
            if said(place, b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200"):
                break
        else:
            pytest.fail("no room came back")


def test_a_port_in_use_is_one_line() -> None:
    with echo() as (host, port), pytest.raises(ObliviousError, match=f"port {port} .*choose another"):
        Service(host, port, lambda incoming: Outgoing(status=200))
