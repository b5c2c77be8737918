"""An answer is paid for once, never over the limit, and read only in the shape that it must have."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sdk.build.teachers import black_box
from sdk.build.teachers.answer_cache import AnswerCache
from sdk.build.teachers.black_box import BlackBox
from sdk.build.teachers.endpoint import Endpoint, Patience
from sdk.build.teachers.price import Meter, Price
from sdk.build.teachers.protocol import Depth, Sampling, Teacher, opened
from sdk.errors import CostError, EndpointError, TeacherError
from tests.endpoint import Service, chat, hang, serving, status, text

KEY = "sk-test-0123456789abcdef"
PRICE = Price(input_per_million=1.0, output_per_million=10.0)
PATIENT = Patience(attempts=3, first_wait_s=0.01, longest_wait_s=0.02, timeout_s=60)  # A busy machine does not hang.
SHORT = Sampling(max_new_tokens=100)


@pytest.fixture
def service() -> Iterator[Service]:
    with serving() as one:
        yield one


def teacher(service: Service, tmp_path: Path, **changed: object) -> BlackBox:
    parts = {
        "endpoint": Endpoint(service.url, key=KEY, patience=PATIENT),
        "model": "large-1",
        "cache": AnswerCache(tmp_path / "answers.db"),
        "at_once": 1,
    }
    return BlackBox(**(parts | changed))  # type: ignore[arg-type]


def test_it_answers_in_the_order_of_the_prompts_however_many_at_once(service: Service, tmp_path: Path) -> None:
    prompts = [f"prompt {number}" for number in range(20)]
    answers = teacher(service, tmp_path, at_once=8).text(prompts)
    assert [one.text for one in answers] == [prompt.upper() for prompt in prompts]
    assert {one.finish for one in answers} == {"stop"}


def test_it_sends_the_conversation_and_the_settings(service: Service, tmp_path: Path) -> None:
    talk = [{"role": "system", "content": "be short"}, {"role": "user", "content": "hi"}]
    box = teacher(service, tmp_path, extra={"max_tokens": None, "max_completion_tokens": 7})
    box.text([talk], Sampling(max_new_tokens=9, temperature=0.5, seed=3))
    assert service.requests == [
        {
            "path": "/v1/chat/completions",
            "model": "large-1",
            "messages": talk,
            "temperature": 0.5,
            "seed": 3,
            "max_completion_tokens": 7,
        }
    ]


def test_an_answer_is_asked_for_once(service: Service, tmp_path: Path) -> None:
    first = teacher(service, tmp_path).text(["a", "b"])
    assert teacher(service, tmp_path).text(["a", "b"]) == first
    assert len(service.requests) == 2
    teacher(service, tmp_path, model="large-2").text(["a"])
    teacher(service, tmp_path).text(["a"], Sampling(max_new_tokens=7))
    assert len(service.requests) == 4


def test_a_teacher_without_a_cache_is_caught(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AnswerCache, "get", lambda self, digest: None)
    teacher(service, tmp_path).text(["a"])
    teacher(service, tmp_path).text(["a"])
    assert len(service.requests) == 2


def test_neither_the_key_nor_the_prompt_is_in_the_cache(service: Service, tmp_path: Path) -> None:
    service.usual = chat("an answer")
    teacher(service, tmp_path).text(["what nobody else may read"])
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"an answer" in kept
    assert KEY.encode() not in kept
    assert b"nobody else" not in kept
    assert (tmp_path / "answers.db").stat().st_mode & 0o077 == 0


def test_what_was_answered_before_a_failure_is_kept(service: Service, tmp_path: Path) -> None:
    service.acts = [chat(), chat(), status(401)]
    with pytest.raises(EndpointError, match="401"):
        teacher(service, tmp_path).text(["a", "b", "c", "d"])
    answers = teacher(service, tmp_path).text(["a", "b", "c", "d"])
    assert [one.text for one in answers] == ["A", "B", "C", "D"]
    asked = [request["messages"][0]["content"] for request in service.requests]
    assert asked.count("a") == asked.count("b") == 1


def test_one_prompt_that_is_refused_does_not_stop_the_others(service: Service, tmp_path: Path) -> None:
    service.acts = [chat(), status(400, "against the rules")]
    a, b, c = teacher(service, tmp_path).text(["a", "b", "c"])
    assert (a.text, c.text) == ("A", "C")
    assert (b.finish, b.reason) == ("refused", "HTTP 400: against the rules")
    assert teacher(service, tmp_path).text(["b"])[0].text == "B"  # A refusal is not kept.


@pytest.mark.parametrize("answer", [None, ""])
def test_an_empty_answer_is_no_answer(service: Service, tmp_path: Path, answer: str | None) -> None:
    reply = '{"choices": [{"message": {"content": %s}, "finish_reason": "content_filter"}]}'
    service.acts = [text(200, reply % ("null" if answer is None else '""'))]
    (one,) = teacher(service, tmp_path).text(["a"])
    assert (one.finish, one.reason) == ("refused", "an empty answer (content_filter)")


@pytest.mark.parametrize(
    ("reply", "line"),
    [
        ("{}", r"without choices\[0\]\.message\.content \(it has nothing\)"),
        ('{"choices": []}', r"\(it has choices\)"),
        ('{"choices": [{"text": "a"}]}', r"\(it has choices\)"),
        ('{"choices": [{"message": {"content": [1]}}]}', "is it a chat model"),
        ('{"error": {"message": "no"}}', "200 with an error inside"),
    ],
)
def test_a_reply_of_another_shape_is_one_clear_line(service: Service, tmp_path: Path, reply: str, line: str) -> None:
    service.acts = [text(200, reply)]
    with pytest.raises(EndpointError, match=line):
        teacher(service, tmp_path).text(["a"])


def test_the_cost_is_known_before_anything_is_asked(service: Service, tmp_path: Path) -> None:
    box = teacher(service, tmp_path, meter=Meter(price=PRICE))
    box.text(["kept"], SHORT)
    asked = len(service.requests)
    estimate = box.estimate(["kept", "a", "b"], SHORT)
    assert (estimate.requests, estimate.cached, estimate.output_tokens) == (2, 1, 200)
    assert estimate.cost == pytest.approx((estimate.input_tokens * 1 + 200 * 10) / 1e6)
    assert len(service.requests) == asked
    assert teacher(service, tmp_path).estimate(["a"], SHORT).cost is None


def test_the_meter_counts_what_the_endpoint_counts(service: Service, tmp_path: Path) -> None:
    service.usual = chat(usage=(1000, 500))
    box = teacher(service, tmp_path, meter=Meter(price=PRICE))
    box.text(["a", "b"], SHORT)
    assert box.spent == pytest.approx(2 * (1000 * 1 + 500 * 10) / 1e6)
    assert (box.meter.input_tokens, box.meter.output_tokens) == (2000, 1000)


def test_a_request_that_may_pass_the_limit_is_not_made(service: Service, tmp_path: Path) -> None:
    service.usual = chat(usage=(1000, 500))  # 0.006 each, more than estimated.
    box = teacher(service, tmp_path, meter=Meter(price=PRICE, limit=0.013))
    with pytest.raises(CostError, match=r"0\.0120 is spent and the next answer may cost 0\.0010"):
        box.text(["a", "b", "c", "d"], SHORT)
    assert len(service.requests) == 2


def test_a_meter_that_does_not_refuse_is_caught(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Meter, "open", lambda self, *tokens: None)
    service.usual = chat(usage=(1000, 500))
    box = teacher(service, tmp_path, meter=Meter(price=PRICE, limit=0.013))
    box.text(["a", "b", "c", "d"], SHORT)
    assert box.meter.spent > 0.013


def test_requests_under_way_count_towards_the_limit(service: Service, tmp_path: Path) -> None:
    service.usual = chat(usage=(20, 100))
    box = teacher(service, tmp_path, meter=Meter(price=PRICE, limit=0.0045), at_once=8)
    with pytest.raises(CostError):
        box.text([str(number) for number in range(16)], SHORT)
    assert box.meter.spent <= 0.0045


def test_a_request_that_was_lost_is_counted_as_billed(service: Service, tmp_path: Path) -> None:
    service.acts = [hang, chat(usage=(10, 5))]
    hurried = Endpoint(service.url, key=KEY, patience=replace(PATIENT, timeout_s=2))
    box = teacher(service, tmp_path, meter=Meter(price=PRICE), endpoint=hurried)
    box.text(["a"], SHORT)
    assert box.meter.output_tokens == 100 + 5


def test_it_gives_text_and_nothing_else(service: Service, tmp_path: Path) -> None:
    box: Teacher = teacher(service, tmp_path)
    assert box.facts.depth == Depth.TEXT
    assert box.facts.licence == "unknown"
    with pytest.raises(TeacherError, match="gives text only"):
        box.log_probabilities(torch.zeros(1, 2, dtype=torch.long), 4)
    with pytest.raises(TeacherError, match=r"large-1 gives text only, and this needs its weights"):
        opened(box)


def test_a_field_that_is_ours_cannot_be_set_by_hand(service: Service, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stream cannot be set"):
        teacher(service, tmp_path, extra={"stream": True})


def test_a_cache_that_is_something_else_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "answers.db").write_text("not a database at all, but long enough to look like one " * 20)
    with pytest.raises(TeacherError, match=r"cannot be used as a cache of answers .*move it away"):
        AnswerCache(tmp_path / "answers.db")
    with sqlite3.connect(tmp_path / "newer.db") as newer:
        newer.execute("PRAGMA user_version=9")
    newer.close()
    with pytest.raises(TeacherError, match="version 9, only 1 is read"):
        AnswerCache(tmp_path / "newer.db")


def test_a_cache_that_is_damaged_on_the_way_is_one_clear_line(service: Service, tmp_path: Path) -> None:
    box = teacher(service, tmp_path)
    for file in tmp_path.iterdir():
        file.write_bytes(b"rubbish" * 1000)
    with pytest.raises(TeacherError, match="cannot be read"):
        box.text(["a"])
    assert service.requests == []


def test_the_shape_of_a_reply_is_read_in_one_place() -> None:
    found = black_box._read({"choices": [{"message": {"content": "a"}, "finish_reason": "length"}], "usage": {}}, "")
    assert found == {"text": "a", "finish": "length", "used": None}
