"""Many clients at once, clients that leave, a server that stops: each gets an answer or a clean refusal, none hangs."""

import asyncio
import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from sdk.device.server.limits import Limits
from sdk.device.server.listen import running
from sdk.device.server.turns import Turns
from sdk.errors import GenerationError, PromptTooLongError
from tests.answering import Scripted, body
from tests.sdk.device.server.test_guard import chat


def until(true: Callable[[], bool]) -> bool:
    """Whether it becomes true while somebody would still wait."""
    end = time.monotonic() + 60
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return true()


def test_two_hundred_clients_at_once_are_answered_or_told_to_come_back() -> None:
    answering = Scripted(seconds=0.002)
    limits = Limits(at_once=4, waiting=32, per_minute=100_000)
    content = json.dumps(body(user="x" * 50_000)).encode()
    with running(answering, limits=limits) as url, ThreadPoolExecutor(200) as clients:
        before = psutil.Process().memory_info().rss
        told = list(clients.map(lambda _: chat(url, content), range(240)))
        grown = psutil.Process().memory_info().rss - before
    statuses = Counter(status for status, _, _ in told)
    assert set(statuses) <= {200, 503}
    assert statuses[200] == len(answering.asks) >= 36
    assert answering.most_under_way <= 4
    assert all(
        answer["choices"][0]["message"]["content"] == "the cat sat" for status, answer, _ in told if status == 200
    )
    assert all("retry-after" in headers for status, _, headers in told if status == 503)
    assert grown < 150e6  # Most of it is the clients' own threads.


def test_what_waits_is_bounded_in_number_and_in_time() -> None:
    answering = Scripted(go=threading.Event())
    with (
        running(answering, limits=Limits(at_once=1, waiting=1, wait_seconds=1.0)) as url,
        ThreadPoolExecutor(5) as clients,
    ):
        first = clients.submit(chat, url)
        assert until(lambda: answering.under_way == 1)
        told = [each.result() for each in [clients.submit(chat, url) for _ in range(4)]]
        assert {(status, answer["error"]["code"]) for status, answer, _ in told} == {(503, "busy")}
        words = Counter(answer["error"]["message"] for _, answer, _ in told)
        assert words["no turn came within 1 s; try again"] >= 1
        assert words["1 requests wait already; try again"] >= 1
        assert answering.go is not None
        answering.go.set()
        assert first.result()[0] == 200
        assert chat(url)[0] == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wait", [False, True], ids=["while it is written", "while it waits"])
def test_a_client_that_leaves_ends_its_answer(stream: bool, wait: bool) -> None:
    answering = Scripted(words=["word "] * 2000, seconds=0.01)
    if wait:
        answering.go = threading.Event()
    with running(answering, limits=Limits(at_once=1)) as url:
        connection = http.client.HTTPConnection(url.split("/")[2], timeout=120)
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(body(stream=stream)), {"Content-Type": "application/json"}
        )
        assert until(lambda: answering.under_way == 1)
        if stream and not wait:
            connection.getresponse().read(10)
        connection.close()
        assert until(lambda: answering.cancelled == 1)
        assert until(lambda: answering.under_way == 0)
        answering.words, answering.go = ("still ", "here"), None
        assert chat(url)[1]["choices"][0]["message"]["content"] == "still here"


def test_a_client_that_leaves_the_queue_takes_no_turn() -> None:
    answering = Scripted(go=threading.Event())
    with running(answering, limits=Limits(at_once=1)) as url, ThreadPoolExecutor(1) as clients:
        first = clients.submit(chat, url)
        assert until(lambda: answering.under_way == 1)
        connection = http.client.HTTPConnection(url.split("/")[2], timeout=120)
        connection.request("POST", "/v1/chat/completions", json.dumps(body()), {"Content-Type": "application/json"})
        time.sleep(1)
        connection.close()
        time.sleep(1)
        assert answering.go is not None
        answering.go.set()
        assert first.result()[0] == 200
        assert chat(url)[0] == 200
        assert len(answering.asks) == 2


def test_an_answer_that_takes_too_long_is_cut() -> None:
    answering = Scripted(words=["word "] * 500, seconds=0.02)
    with running(answering, limits=Limits(answer_seconds=1.0)) as url:
        status, told, _ = chat(url)
        assert (status, told["choices"][0]["finish_reason"]) == (200, "length")
        assert 0 < told["usage"]["completion_tokens"] < 500


def test_a_server_that_stops_ends_what_is_under_way_and_refuses_what_waits() -> None:
    answering = Scripted(words=["word "] * 5000, seconds=0.02)
    with ThreadPoolExecutor(2) as clients:
        with running(answering, limits=Limits(at_once=1, stop_seconds=1.0)) as url:
            first = clients.submit(chat, url)
            assert until(lambda: answering.under_way == 1)
            second = clients.submit(chat, url)
            time.sleep(1)
            began = time.monotonic()
        assert time.monotonic() - began < 20
        assert first.result()[1]["choices"][0]["finish_reason"] == "length"
        assert second.result()[1]["error"]["code"] == "stopping"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (PromptTooLongError(prompt_tokens=9, answer_tokens=9, context_tokens=9), 400, "context_length_exceeded"),
        (GenerationError("temperature must be 0"), 400, None),
        (ValueError("secret"), 500, "failed"),
    ],
)
def test_an_answer_that_fails_is_told_with_its_status_and_in_a_stream_as_an_event(
    error: Exception, status: int, code: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with running(Scripted(words=[], error=error)) as url:
        for stream in (False, True):
            told = chat(url, json.dumps(body(stream=stream)).encode())
            assert (told[0], told[1]["error"]["code"]) == (status, code)
            assert "secret" not in json.dumps(told[1])
    assert ("an answer failed" in caplog.text) == (status == 500)
    with running(Scripted(error=error)) as url:
        events = chat(url, json.dumps(body(stream=True)).encode())[1].decode().split("\n\n")
    assert "[DONE]" not in events[-2]
    assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == code


def test_without_its_bound_the_queue_would_hold_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    async def take(self: Turns) -> None:
        await self._free.acquire()

    monkeypatch.setattr(Turns, "_take_turn", take)
    answering = Scripted(go=threading.Event())
    with running(answering, limits=Limits(at_once=1, waiting=0)) as url, ThreadPoolExecutor(2) as clients:
        both = [clients.submit(chat, url) for _ in range(2)]
        assert until(lambda: answering.under_way == 1)
        time.sleep(1)
        assert not any(each.done() for each in both)
        assert answering.go is not None
        answering.go.set()
        assert {each.result()[0] for each in both} == {200}


def test_a_turn_is_given_back_also_when_nobody_listens_any_more() -> None:
    async def leave() -> int:
        turns = Turns(Scripted(words=["word"] * 3), Limits(at_once=1))
        for _ in range(5):
            pieces = turns.answer(None)  # type: ignore[arg-type]
            await anext(pieces)
            await pieces.aclose()
        await turns.close()
        return turns._free._value

    assert asyncio.run(leave()) == 1
