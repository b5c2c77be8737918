"""The client before a gateway whose clock and keys differ from its own, and before relays that answer anything."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sdk.device.oblivious.binary_http import Request
from sdk.device.oblivious.client import ObliviousClient
from sdk.device.oblivious.encapsulation import RESPONSE_TYPE
from sdk.device.oblivious.gateway import Gateway
from sdk.device.oblivious.key_configurations import GATEWAY_PATH
from sdk.device.oblivious.key_file import KeyFile, rotate
from sdk.device.oblivious.key_source import KeySource
from sdk.device.oblivious.problems import DATE_PROBLEM, is_problem
from sdk.device.oblivious.service import Incoming, Outgoing, Service
from sdk.device.oblivious.wire import Deadline
from sdk.errors import CloudError, CloudGarbledError, EncapsulationError, ObliviousError
from tests import endpoint
from tests.sdk.device.oblivious.served import served


class Place:
    """A gateway that is its own relay, with a hand on its clock and on what it answers."""

    def __init__(self, folder: Path, cloud: endpoint.Service) -> None:
        self.path, self.cloud, self.ahead = folder / "keys", cloud, timedelta(0)
        rotate(self.path, overlap=timedelta(days=1), now=datetime.now(UTC))
        self.gateway = Gateway(KeyFile(self.path), [cloud.url], now=lambda: datetime.now(UTC) + self.ahead)
        self.instead: Outgoing | None = None
        self.questions: list[bytes] = []

    def handle(self, incoming: Incoming) -> Outgoing:
        if incoming.method == "POST":
            self.questions.append(incoming.content)
            return self.instead or self.gateway.handle(incoming)
        return self.gateway.handle(incoming)

    def ask(self, url: str) -> tuple[int, bytes]:
        pin = KeyFile(self.path)._keys[0].key.configuration.pin
        client = ObliviousClient(f"{url}{GATEWAY_PATH}", KeySource(f"{url}{GATEWAY_PATH}", pins=[pin]))
        port = self.cloud.url.split(":")[2].partition("/")[0]
        request = Request(
            method="POST", scheme="http", authority=f"127.0.0.1:{port}", path="/v1/chat/completions",
            content=b'{"messages": [{"content": "hello"}]}',
        )  # fmt: skip
        response, traffic = client.ask(request, Deadline(30))
        assert traffic.sent_bytes == sum(map(len, self.questions))
        return response.status, response.content


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with endpoint.serving() as cloud:
        yield Place(tmp_path, cloud)


@contextmanager
def asked_by(place: Place) -> Iterator[str]:
    with served(Service("127.0.0.1", 0, place.handle)) as url:
        yield url


@pytest.mark.parametrize("hours", [-3, 3])
def test_a_clock_that_is_hours_off_is_corrected_for_this_question_once(place: Place, hours: int) -> None:
    place.ahead = timedelta(hours=hours)
    if hours < 0:  # A gateway that began before its clock went back.
        place.gateway = Gateway(KeyFile(place.path), [place.cloud.url], now=lambda: datetime.now(UTC) + place.ahead)
    with asked_by(place) as url:
        status, content = place.ask(url)
    assert status == 200
    assert b"HELLO" in content
    assert len(place.questions) == 2
    assert place.questions[0][7:39] != place.questions[1][7:39]  # Sealed anew.
    assert len(place.cloud.requests) == 1


def test_a_gateway_that_never_likes_a_date_is_asked_twice_and_no_more(place: Place) -> None:
    place.gateway._window.seconds = -1.0
    with asked_by(place) as url:
        status, content = place.ask(url)
    assert status == 400
    assert is_problem(content, DATE_PROBLEM)
    assert len(place.questions) == 2


@pytest.mark.parametrize(
    ("reply", "error", "why"),
    [
        (Outgoing(status=502), ObliviousError, "answers 502"),
        (Outgoing(status=302, headers={"Location": "https://elsewhere.example"}), ObliviousError, "answers 302"),
        (Outgoing(status=200, media_type="text/html", content=b"<html>"), CloudGarbledError, "login page"),
        (Outgoing(status=200, media_type=RESPONSE_TYPE, content=b"x" * 100), EncapsulationError, "not sealed for this"),
        (Outgoing(status=200, media_type=RESPONSE_TYPE, content=b"x"), EncapsulationError, "too short"),
    ],
)
def test_whatever_a_relay_answers_is_one_typed_line_after_one_question(
    place: Place, reply: Outgoing, error: type[CloudError], why: str
) -> None:
    place.instead = reply
    with asked_by(place) as url, pytest.raises(error, match=why):
        place.ask(url)
    assert len(place.questions) == 1


def test_a_gateway_that_denies_its_published_key_is_asked_once(place: Place) -> None:
    honest = place.gateway.handle

    def denying(incoming: Incoming) -> Outgoing:
        if incoming.method == "POST":
            return honest(
                Incoming(method="POST", path=incoming.path, media_type=incoming.media_type, content=b"x" * 60)
            )
        return honest(incoming)

    place.gateway.handle = denying  # type: ignore[method-assign]
    with asked_by(place) as url, pytest.raises(ObliviousError, match="does not know its own published key"):
        place.ask(url)
    assert len(place.questions) == 1
