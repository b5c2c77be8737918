"""The gateway's decisions, with a real target on loopback and a clock of its own."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from sdk.device.oblivious import gateway as gateway_module
from sdk.device.oblivious.admission import DateWindow, SeenBefore, Targets
from sdk.device.oblivious.binary_http import Request, Response, decode, encode
from sdk.device.oblivious.encapsulation import REQUEST_TYPE, RESPONSE_TYPE, Sealed, seal_request
from sdk.device.oblivious.gateway import Gateway
from sdk.device.oblivious.key_configurations import GATEWAY_PATH, MEDIA_TYPE, chosen, parse
from sdk.device.oblivious.key_file import KeyFile, rotate
from sdk.device.oblivious.problems import DATE_PROBLEM, KEY_PROBLEM, is_problem
from sdk.device.oblivious.service import Incoming, Outgoing
from tests import endpoint

NOON = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)


class Place:
    """A gateway, its target, and a hand on its clock."""

    def __init__(self, folder: Path, cloud: endpoint.Service) -> None:
        rotate(folder / "keys", overlap=timedelta(days=1), now=NOON)
        self.now, self.cloud, self.keys = NOON, cloud, KeyFile(folder / "keys")
        self.gateway = Gateway(self.keys, [cloud.url], seconds=20, now=lambda: self.now)

    def request(self, **changes: Any) -> Request:
        port = self.cloud.url.split(":")[2].partition("/")[0]
        fields: dict[str, Any] = {
            "method": "POST", "scheme": "http", "authority": f"127.0.0.1:{port}", "path": "/v1/chat/completions",
            "headers": (("date", format_datetime(self.now, usegmt=True)),),
            "content": b'{"messages": [{"role": "user", "content": "hello"}]}',
        }  # fmt: skip
        return Request(**(fields | changes))

    def seal(self, content: bytes) -> Sealed:
        return seal_request(*chosen(parse(self.keys.collection(self.now))), content)

    def post(self, content: bytes) -> Outgoing:
        return self.gateway.handle(Incoming(method="POST", path=GATEWAY_PATH, media_type=REQUEST_TYPE, content=content))

    def ask(self, content: bytes | Request) -> Response:
        sealed = self.seal(encode(content) if isinstance(content, Request) else content)
        reply = self.post(sealed.request)
        assert (reply.status, reply.media_type) == (200, RESPONSE_TYPE)
        message = decode(sealed.open(reply.content))
        assert isinstance(message, Response)
        return message


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with endpoint.serving() as cloud:
        yield Place(tmp_path, cloud)


def test_a_question_is_passed_on_and_its_answer_sealed(place: Place) -> None:
    response = place.ask(place.request())
    assert response.status == 200
    assert b"HELLO" in response.content
    assert response.headers == (("content-type", "application/json"),)
    assert place.gateway.outcomes == {"answered": 1}


def test_only_headers_that_say_nothing_of_a_person_are_passed_on_or_handed_back(place: Place) -> None:
    said = (*place.request().headers, ("cookie", "id=7"), ("user-agent", "mine"), ("x-forwarded-for", "192.0.2.1"))
    place.cloud.acts = [endpoint.text(200, "{}", Set_Cookie="id=8", Location="https://elsewhere.example")]
    response = place.ask(place.request(headers=(*said, ("content-type", "application/json"))))
    assert {name for name, _ in response.headers} == {"content-type"}
    assert {name.lower() for name in place.cloud.headers[0]} == {"host", "content-length", "content-type"}


def test_the_keys_are_published(place: Place) -> None:
    reply = place.gateway.handle(Incoming(method="GET", path=GATEWAY_PATH, media_type="", content=b""))
    assert (reply.status, reply.media_type) == (200, MEDIA_TYPE)
    assert parse(reply.content)


@pytest.mark.parametrize(("path", "kind", "status"), [("/", REQUEST_TYPE, 404), (GATEWAY_PATH, "text/plain", 415)])
def test_what_is_no_sealed_request_is_refused_in_the_clear(place: Place, path: str, kind: str, status: int) -> None:
    incoming = Incoming(method="POST", path=path, media_type=kind, content=b"")
    assert place.gateway.handle(incoming).status == status


@pytest.mark.parametrize("content", [b"", b"\x00" * 60, b"x" * 5000])
def test_what_is_not_sealed_for_it_is_refused_with_the_problem_of_keys(place: Place, content: bytes) -> None:
    reply = place.post(content)
    assert reply.status == 400
    assert is_problem(reply.content, KEY_PROBLEM)


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, encode(Response(status=200))])
def test_what_is_no_request_inside_is_refused_sealed(place: Place, content: bytes) -> None:
    assert place.ask(content).status == 400


@pytest.mark.parametrize("offset", [-301, 301, None])
def test_a_wrong_date_is_answered_with_the_right_one_and_not_passed_on(place: Place, offset: int | None) -> None:
    place.now = NOON + timedelta(hours=1)
    date = () if offset is None else (("date", format_datetime(place.now + timedelta(seconds=offset), usegmt=True)),)
    response = place.ask(place.request(headers=date))
    assert response.status == 400
    assert is_problem(response.content, DATE_PROBLEM)
    assert response.header("date") == format_datetime(place.now, usegmt=True)
    assert place.cloud.requests == []


def test_a_replay_is_refused_also_much_later(place: Place) -> None:
    sealed = place.seal(encode(place.request()))
    statuses = []
    for offset in (0, 1, 299, 601):
        place.now = NOON + timedelta(seconds=offset)
        message = decode(sealed.open(place.post(sealed.request).content))
        assert isinstance(message, Response)
        statuses.append(message.status)
    assert statuses == [200, 409, 409, 400]
    assert len(place.cloud.requests) == 1


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"authority": "elsewhere.example"}, 403),
        ({"path": "/v1/../admin"}, 403),
        ({"method": "DELETE"}, 403),
        ({"headers": (("date", format_datetime(NOON, usegmt=True)), ("expect", "100-continue"))}, 417),
    ],
)
def test_what_is_for_no_target_is_not_passed_on(place: Place, changes: dict[str, Any], status: int) -> None:
    assert place.ask(place.request(**changes)).status == status
    assert place.cloud.requests == []


@pytest.mark.parametrize(
    ("act", "status"),
    [
        (endpoint.status(503), 503),
        (endpoint.hang_up, 504),
        (endpoint.cut_short, 504),
        (endpoint.text(302, "", Location="https://elsewhere.example"), 302),
        (endpoint.text(200, "x" * (4 * 1024 * 1024 + 1)), 502),
        (endpoint.text(200, "{}", kind="a\r\n b"), 502),
        (endpoint.text(700, "{}"), 502),
    ],
    ids=["refuses", "hangs up", "cut short", "redirects", "too long", "odd header", "odd status"],
)
def test_whatever_the_target_does_is_a_sealed_answer(place: Place, act: endpoint.Act, status: int) -> None:
    place.cloud.acts = [act]
    assert place.ask(place.request()).status == status


def test_answers_of_a_size_class_have_one_length(place: Place) -> None:
    sizes = set()
    for text in ("", "a" * 100, "b" * 3000):
        place.cloud.acts = [endpoint.chat(text)]
        sizes.add(len(place.post(place.seal(encode(place.request())).request).content))
    sizes.add(len(place.post(place.seal(b"nonsense").request).content))
    assert len(sizes) == 1


@pytest.mark.parametrize(
    ("owner", "method", "honest"),
    [
        (DateWindow, "holds", lambda place: place.request(headers=())),
        (Targets, "of", lambda place: place.request(path="/v2/admin")),
    ],
    ids=["no window", "no targets"],
)
def test_without_its_check_a_request_would_reach_the_target(
    place: Place, monkeypatch: pytest.MonkeyPatch, owner: type, method: str, honest: Any
) -> None:
    """Seeded mutants: the tests above notice when a check is gone."""
    request = honest(place)
    assert place.ask(request).status in (400, 403)
    base = Targets([place.cloud.url]).of(place.request())
    monkeypatch.setattr(owner, method, lambda *_: base)
    assert place.ask(request).status == 200
    assert len(place.cloud.requests) == 1


def test_without_its_memory_a_replay_would_reach_the_target(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seeded mutant."""
    monkeypatch.setattr(SeenBefore, "first_time", lambda *_: True)
    sealed = place.seal(encode(place.request()))
    for _ in range(2):
        place.post(sealed.request)
    assert len(place.cloud.requests) == 2


def test_without_padding_answers_would_differ_in_length(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A seeded mutant."""
    monkeypatch.setattr(gateway_module, "size_class", lambda length: length)
    with pytest.raises(AssertionError):
        test_answers_of_a_size_class_have_one_length(place)
