"""Who may ask: programs of this machine, pages that were named, holders of the token; the rest hears why not."""

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest

from sdk.device.server import guard
from sdk.device.server.guard import is_loopback
from sdk.device.server.limits import Limits
from sdk.device.server.listen import running
from tests.answering import Scripted, body

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def url() -> Iterator[str]:
    with running(Scripted()) as url:
        yield url


def asked(
    url: str, path: str = "/v1/models", method: str = "GET", content: bytes | None = None, /, **headers: str
) -> tuple[int, Any, dict[str, str]]:
    """Status, body and headers of one request."""
    connection = http.client.HTTPConnection(url.split("/")[2], timeout=120)
    try:
        connection.request(method, path, content, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        told = response.read()
        kind = response.headers.get("content-type", "")
        return response.status, json.loads(told) if "json" in kind else told, dict(response.headers)
    finally:
        connection.close()


def chat(url: str, content: bytes | None = None, /, **headers: str) -> tuple[int, Any, dict[str, str]]:
    content = json.dumps(body()).encode() if content is None else content
    return asked(url, "/v1/chat/completions", "POST", content, Content_Type="application/json", **headers)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1", "127.9.9.9:1", "[::1]:8765", "localhost."])
def test_programs_of_this_machine_may_ask(url: str, host: str) -> None:
    assert asked(url, Host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    ["rebound.example", "rebound.example:8765", "127.0.0.1.rebound.example", "localhost@rebound.example", "192.0.2.1",
     "", "[::1", "0.0.0.0", "localhost/", "\xe9.example"],
)  # fmt: skip
def test_a_name_that_was_made_to_point_here_is_refused(url: str, host: str) -> None:
    status, told, _ = asked(url, Host=host)
    assert (status, told["error"]["code"]) == (403, "wrong_host")
    assert asked(url, "/health", Host=host)[0] == 403


def test_without_the_host_check_a_rebound_name_would_be_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "is_loopback", lambda name: True)
    with running(Scripted()) as url:
        assert asked(url, Host="rebound.example")[0] == 200


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://page.example"}, {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"},
     {"Origin": "http://127.0.0.1:1"}],
)  # fmt: skip
def test_a_web_page_is_refused_and_gets_no_permission_to_read(url: str, headers: dict[str, str]) -> None:
    status, told, sent = chat(url, None, **headers)
    assert (status, told["error"]["code"]) == (403, "wrong_origin")
    assert not [name for name in sent if name.lower().startswith("access-control")]
    preflight = asked(url, "/v1/chat/completions", "OPTIONS", None, Access_Control_Request_Method="POST", **headers)
    assert preflight[0] == 403


def test_a_page_that_was_named_may_ask_with_the_token() -> None:
    with running(Scripted(), token=TOKEN, origins=["https://page.example"]) as url:
        preflight, _, sent = asked(
            url,
            "/v1/chat/completions",
            "OPTIONS",
            Origin="https://page.example",
            Access_Control_Request_Method="POST",
            Access_Control_Request_Headers="authorization",
        )
        assert (preflight, sent["access-control-allow-origin"]) == (200, "https://page.example")
        assert chat(url, Origin="https://page.example")[0] == 401
        status, _, sent = chat(url, Origin="https://page.example", Authorization=f"Bearer {TOKEN}")
        assert (status, sent["access-control-allow-origin"]) == (200, "https://page.example")
        assert chat(url, Origin="https://other.example", Authorization=f"Bearer {TOKEN}")[0] == 403


@pytest.mark.parametrize(
    "shown", [None, "", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}0", "Bearer \xff"]
)
def test_a_wrong_token_is_refused(shown: str | None) -> None:
    with running(Scripted(), token=TOKEN) as url:
        status, told, sent = asked(
            url, "/v1/models", "GET", None, **({} if shown is None else {"Authorization": shown})
        )
        assert (status, told["error"]["code"], sent["www-authenticate"]) == (401, "invalid_api_key", "Bearer")
        assert asked(url, "/health")[0] == 200
        assert asked(url, "/openapi.json")[0] == 401
        assert asked(url, Authorization=f"bearer {TOKEN}", Host="my-machine.example")[0] == 200


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return left == right

    monkeypatch.setattr("hmac.compare_digest", compare)
    with running(Scripted(), token=TOKEN) as url:
        asked(url, Authorization="Bearer wrong")
    assert compared == [(b"wrong", TOKEN.encode())]


def test_more_than_the_rate_is_told_when_to_come_back() -> None:
    with running(Scripted(), limits=Limits(per_minute=3)) as url:
        assert [asked(url)[0] for _ in range(4)] == [200, 200, 200, 429]
        status, told, sent = chat(url)
        assert (status, told["error"]["type"]) == (429, "rate_limit_error")
        assert 1 <= int(sent["retry-after"]) <= 20
        assert asked(url, "/health")[0] == 200


def test_a_body_that_is_too_large_is_refused_whether_it_says_so_or_not() -> None:
    with running(Scripted(), limits=Limits(request_bytes=1000)) as url:
        assert chat(url)[0] == 200
        large = json.dumps(body(user="x" * 2000)).encode()
        assert chat(url, large)[1]["error"]["code"] == "too_large"
        connection = http.client.HTTPConnection(url.split("/")[2], timeout=120)
        chunks = iter([large] * 3)
        connection.request("POST", "/v1/chat/completions", chunks, {"Content-Type": "application/json"})
        assert connection.getresponse().status == 413
        connection.close()
        assert chat(url)[0] == 200


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"", "application/json"), (b"{", "application/json"), (b"\xff\xfe\x00", "application/json"),
     (b"[" * 100_000, "application/json"), (b"1" * 5000, "application/json"), (b"[]", "application/json"),
     (b"{}", "text/plain"), (b'{"model": "\\ud800", "messages": []}', "application/json"),
     (b'{"model": "limbeck", "messages": [], "seed": 1e999}', "application/json")],
)  # fmt: skip
def test_a_body_that_is_no_request_is_refused_in_words(url: str, content: bytes, kind: str) -> None:
    status, told, sent = asked(url, "/v1/chat/completions", "POST", content, Content_Type=kind)
    assert status == 400
    assert told["error"]["message"]
    assert sent["cache-control"] == "no-store"


def test_what_is_loopback() -> None:
    assert [is_loopback(name) for name in ("localhost", "127.0.0.1", "::1", "0.0.0.0", "example.org", "")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip
