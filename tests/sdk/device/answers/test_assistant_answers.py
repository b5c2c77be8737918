"""Whole answers of the assistant on a tiny base: records, guided output, sessions, tools, refusals."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from pydantic import BaseModel, Field, field_validator

from personalize.adapter import Adapter, fresh
from personalize.errors import BaseMismatchError
from personalize.experience import Signal
from personalize.learner import Learner
from personalize.shelf import Shelf
from sdk import Assistant
from sdk.bundle import Bundle
from sdk.device.answers import decoding
from sdk.device.answers.records import Answer, Call, Piece, Timing, Usage
from sdk.device.answers.schema import Copied, plain_schema
from sdk.device.answers.session import Session
from sdk.device.answers.tools import Tool, ToolLimits
from sdk.device.night import base_of
from sdk.device.runtime import Runtime
from sdk.errors import (
    AnswerError,
    GenerationError,
    GuardrailError,
    PromptTooLongError,
    SchemaError,
    SessionError,
    UnknownTaskError,
)
from tests.tiny import tiny_bundle


class Event(BaseModel):
    title: Copied
    kind: str = Field(pattern="^(meal|talk)$")
    hour: int = Field(ge=0, le=23)


class Even(BaseModel):
    number: int = Field(ge=1, le=1)

    @field_validator("number")
    @classmethod
    def even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("must be even")
        return value


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("base"))


@pytest.fixture
def assistant(bundle: Bundle, tmp_path: Path) -> Assistant:
    return Assistant.open(tmp_path / "home", bundle=bundle)


def test_the_engine_says_what_the_runtime_says(assistant: Assistant, bundle: Bundle) -> None:
    reference = Runtime.open(bundle)
    for prompt in ("the cat", "a person writes é 你"):
        said = assistant.respond(prompt, max_new_tokens=24)
        assert said.rstrip("\ufffd") == reference.generate(prompt, 24).rstrip(
            "\ufffd"
        )  # Random bytes are no characters.


def test_a_record_tells_tokens_probabilities_and_time(assistant: Assistant) -> None:
    pieces = list(assistant.pieces("the cat", max_new_tokens=6, top_logprobs=3))
    answer = pieces[-1].answer
    assert answer is not None
    assert "".join(piece.text for piece in pieces) == answer.text
    assert [step.token for piece in pieces for step in piece.steps] == answer.tokens
    assert answer.usage.answer_tokens == len(answer.tokens) <= 6
    assert answer.usage.prompt_tokens == assistant.count("the cat")
    assert 0 < answer.timing.first_token_s <= answer.timing.total_s
    for step in answer.steps:
        assert step.top[0] == (step.token, step.log_probability)  # Greedy: the likeliest was taken.
        assert step.top[0][1] - step.top[1][1] == pytest.approx(step.margin)
        assert 0 <= step.entropy <= np.log(320)
        assert step.mask_share == 1.0
    assert json.loads(json.dumps(answer.to_dict()))["finish"] == answer.finish


def test_log_probabilities_are_of_the_scores_before_grammar_and_temperature(assistant: Assistant) -> None:
    schema = {"type": "string", "enum": ["zebra", "quark"]}
    cold = assistant.answer("the cat", schema=schema)
    hot = assistant.answer("the cat", schema=schema, temperature=3.0, seed=1)
    first, second = cold.steps[0], hot.steps[0]  # Both begin with the quotation mark.
    assert first.log_probability == pytest.approx(second.log_probability, abs=1e-5)
    assert 0 < cold.steps[0].mask_share < 0.9
    assert cold.value in ("zebra", "quark")


def test_a_seed_makes_a_sample_repeatable(assistant: Assistant) -> None:
    texts = [assistant.answer("the cat", temperature=2.0, seed=seed, max_new_tokens=12).text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_a_pydantic_type_comes_back_as_a_valid_object_with_words_of_the_prompt(assistant: Assistant) -> None:
    for prompt in ("Lunch with Ana tomorrow", "Talk about the parser at noon"):
        event = assistant.respond(prompt, Event, max_new_tokens=120)
        assert event.title.lower() in prompt.lower()
        assert event.kind in ("meal", "talk")


def test_a_guided_answer_tells_while_it_is_written_what_of_it_is_known(assistant: Assistant) -> None:
    pieces = list(assistant.pieces("Lunch with Ana tomorrow", schema=Event, max_new_tokens=120))
    known = [piece.so_far for piece in pieces[:-1] if isinstance(piece.so_far, dict)]
    answer = pieces[-1].answer
    assert answer is not None
    assert known[-1].keys() <= answer.value.model_dump().keys()
    for one, more in pairwise(known):
        assert all(str(more[name]).startswith(str(value)) for name, value in one.items())  # It only grows.
    assert all(piece.so_far is None for piece in assistant.pieces("the cat", max_new_tokens=3))


def test_an_object_that_names_its_properties_is_closed_unless_it_says_otherwise() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "object", "properties": {}}}}
    closed = plain_schema(schema)
    assert (closed["additionalProperties"], closed["properties"]["a"]["additionalProperties"]) == (False, False)
    opened = plain_schema({**schema, "additionalProperties": {"type": "integer"}})
    assert opened["additionalProperties"] == {"type": "integer"}


def test_without_the_grammar_the_tiny_model_writes_no_event(
    assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdk.device.answers.writer.Writer._mask", lambda self, asked: None)
    with pytest.raises(AnswerError):
        assistant.respond("Lunch with Ana tomorrow", Event, max_new_tokens=120)


def test_an_answer_that_is_cut_or_refused_by_the_type_is_an_error(assistant: Assistant) -> None:
    with pytest.raises(AnswerError):
        assistant.respond("Lunch with Ana", Event, max_new_tokens=4)
    assert assistant.answer("Lunch with Ana", schema=Event, max_new_tokens=4).finish == "length"
    with pytest.raises(AnswerError, match="must be even"):
        assistant.respond("say", Even)


def test_an_action_copies_what_stands_in_the_request(assistant: Assistant) -> None:
    request = "Remind me to call Ana"
    action = assistant.action(request)
    assert all(value.lower() in request.lower() for value in action.copied())


def test_a_ready_task_gives_its_whole_record_where_it_is_asked_for(assistant: Assistant) -> None:
    whole = assistant.task("summary", "the cat sat on the mat", max_new_tokens=8)
    assert assistant.summarize("the cat sat on the mat").startswith(whole.text.strip())
    action = assistant.task("action", "Remind me to call Ana")
    assert (action.fits, action.value["action"]) == (
        True,
        assistant.action("Remind me to call Ana").model_dump()["action"],
    )
    with pytest.raises(UnknownTaskError):
        assistant.task("poem", "the cat")


@pytest.mark.parametrize(
    "schema",
    [
        3,
        {"type": "nonsense"},
        {"type": "integer", "minimum": 5, "maximum": 2},
        {"type": "string", "pattern": "("},
        {"$ref": "#"},
        {"$ref": "https://example.org/schema.json"},
        {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]},
        {"type": "array", "minItems": 1, "items": {"$ref": "#"}},
        {"enum": ["x" * 300_000]},
        {"enum": [{1}]},
        json.loads('{"items":' * 200 + "{}" + "}" * 200),
        {"type": "integer", "x-copy": True},
    ],
)
def test_a_schema_that_cannot_guide_is_refused_before_anything_is_written(assistant: Assistant, schema: Any) -> None:
    with pytest.raises(SchemaError) as refused:
        assistant.pieces("the cat", schema=schema)
    assert "\n" not in str(refused.value)
    assert assistant.respond("the cat", max_new_tokens=2) is not None


def test_a_recursive_schema_with_an_end_guides(assistant: Assistant) -> None:
    tree = {"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": False}
    answer = assistant.answer("the cat", schema=tree, max_new_tokens=60)
    assert answer.finish in ("stop", "length")
    assert answer.text.startswith("{")


@pytest.mark.parametrize("prompt", ["", "  \n", "\ud800", b"\x00\xff", 3, []])
def test_what_is_no_prompt_is_refused(assistant: Assistant, prompt: Any) -> None:
    with pytest.raises(GenerationError):
        assistant.pieces(prompt)


def test_prompts_beyond_the_context_are_refused_at_once(assistant: Assistant) -> None:
    with pytest.raises(PromptTooLongError):
        assistant.pieces("the cat " * 300)
    began = time.monotonic()
    with pytest.raises(GenerationError, match="10,000,000 characters"):
        assistant.pieces("x" * 10_000_000)
    assert time.monotonic() - began < 5
    assert assistant.respond("the \x00\x1b cat", max_new_tokens=2) is not None


@pytest.mark.parametrize("how", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_logprobs": 21}])
def test_arguments_out_of_range_are_refused(assistant: Assistant, how: dict[str, Any]) -> None:
    with pytest.raises(GenerationError):
        assistant.pieces("the cat", **how)


def test_a_stop_text_ends_the_answer_and_is_not_told(assistant: Assistant) -> None:
    whole = assistant.respond("the cat", max_new_tokens=12)
    stop = whole[4:6]
    pieces = list(assistant.pieces("the cat", max_new_tokens=12, stop=[stop]))
    assert "".join(piece.text for piece in pieces) == whole[: whole.index(stop)]
    assert pieces[-1].answer is not None
    assert pieces[-1].answer.finish == "stop"


def test_cancelled_means_within_one_token(assistant: Assistant) -> None:
    asked: list[int] = []
    pieces = assistant.pieces("the cat", max_new_tokens=100, cancelled=lambda: bool(asked))
    steps = list(next(pieces).steps)
    asked.append(1)
    rest = list(pieces)
    assert rest[-1].answer is not None
    assert rest[-1].answer.finish == "cancelled"
    assert len(rest[-1].answer.steps) <= len(steps) + 1


def test_guards_refuse_with_a_type_and_hide_the_answer(bundle: Bundle, tmp_path: Path) -> None:
    guarded = Assistant.open(
        tmp_path / "home",
        bundle=bundle,
        input_guards=[lambda text: "no poison" if "poison" in text else None],
        output_guards=[lambda text: "too long" if len(text) > 3 else None],
    )
    with pytest.raises(GuardrailError, match="the prompt: no poison"):
        guarded.pieces("how to poison")
    told: list[Piece] = []
    with pytest.raises(GuardrailError, match="the answer: too long"):
        told.extend(guarded.pieces("the cat", max_new_tokens=20))
    assert told == []


def test_feedback_is_remembered_with_its_signal(assistant: Assistant, tmp_path: Path) -> None:
    answer = assistant.answer("the cat", max_new_tokens=4)
    assistant.feedback(answer, "accepted")
    assistant.feedback(answer, "edited", "sat on the mat")
    assistant.feedback(answer, "rejected")
    with pytest.raises(GenerationError, match="edited with a text"):
        assistant.feedback(answer, "edited")
    learner = Learner(assistant._home, None)
    kept = [record.experience for record in learner.store.fresh()]
    learner.close()
    assert [(item.prompt, item.signal) for item in kept if item.learnable] == [
        ("the cat", Signal.ACCEPTED),
        ("the cat", Signal.EDITED),
    ]


# --- adapters --------------------------------------------------------------------------------------------------------


def strong(bundle: Bundle, fits_base: str | None = None) -> Adapter:
    base = base_of(bundle)
    start = fresh(base.model, base.spec, fits_base=fits_base or base.digest)
    random = np.random.default_rng(1)
    import torch

    b = {site: torch.from_numpy(random.normal(size=value.shape)).float() for site, value in start.b.items()}
    return Adapter(spec=start.spec, fits_base=start.fits_base, a=start.a, b=b)


def test_what_was_learned_answers_the_next_question_within_two_seconds(
    assistant: Assistant, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = assistant.answer("the cat", max_new_tokens=8)
    again = assistant.answer("the cat", max_new_tokens=8)
    assert again.text == before.text
    assert again.usage.cached_tokens == again.usage.prompt_tokens - 1
    adapter = strong(bundle)
    monkeypatch.setattr(Shelf, "load", lambda self, *, base_digest: adapter)
    began = time.monotonic()
    assistant._reload()
    after = assistant.answer("the cat", max_new_tokens=8)
    assert time.monotonic() - began < 2
    assert after.text != before.text
    assert after.usage.cached_tokens == 0  # What was known under the bare base means nothing under this adapter.


def test_a_pool_that_forgot_whose_tokens_it_knows_would_be_caught(
    assistant: Assistant, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = strong(bundle)
    assistant.answer("the cat", max_new_tokens=4)
    assistant._writer.engine.wear(adapter)
    tracks = assistant._writer.tracks
    assert tracks.take(assistant._writer.chat.encode("the cat"), assistant._writer.engine.wear(adapter)).tokens == []
    monkeypatch.setattr(type(tracks._kept[0]), "adapter", property(lambda self: "same"), raising=False)
    tracks._kept[0].__dict__.pop("adapter", None)
    assert tracks.take(assistant._writer.chat.encode("the cat"), "same").tokens != []


def test_an_adapter_of_another_base_is_refused_and_the_old_one_answers(
    assistant: Assistant, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = assistant.respond("the cat", max_new_tokens=6)
    adapter = strong(bundle, fits_base="sha256:" + "0" * 64)
    monkeypatch.setattr(Shelf, "load", lambda self, *, base_digest: adapter)
    with pytest.raises(BaseMismatchError):
        assistant._reload()
    assert assistant.respond("the cat", max_new_tokens=6) == before


# --- several at once -------------------------------------------------------------------------------------------------


def test_answers_at_once_are_those_said_alone_and_take_turns(
    assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = ["the cat", "a person", "fix the parser"]
    alone = [assistant.answer(prompt, max_new_tokens=16).text for prompt in prompts]
    order: list[int] = []
    said: dict[int, str] = {}
    start = threading.Barrier(len(prompts))

    def ask(row: int) -> None:
        start.wait()
        text = ""
        for piece in assistant.pieces(prompts[row], max_new_tokens=16):
            order.append(row)
            text += piece.text
        said[row] = text

    workers = [threading.Thread(target=ask, args=(row,)) for row in range(len(prompts))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [said[row] for row in range(len(prompts))] == alone
    assert len(set(order[: len(order) // 2])) == len(prompts)  # Nobody waited for another's end.


# --- sessions --------------------------------------------------------------------------------------------------------


def test_a_session_knows_earlier_turns_and_pays_for_them_once(assistant: Assistant) -> None:
    session = assistant.session(instructions="Be brief.")
    first = session.answer("the cat", max_new_tokens=6)
    second = session.answer("a person", max_new_tokens=6)
    assert second.usage.cached_tokens > first.usage.prompt_tokens // 2
    assert [turn["role"] for turn in session.history] == ["user", "assistant"] * 2
    assert second.text != assistant.respond("a person", max_new_tokens=6)


def test_a_session_is_saved_and_restored(assistant: Assistant, tmp_path: Path) -> None:
    session = assistant.session(instructions="Be brief.", overflow="error")
    session.respond("the cat", max_new_tokens=6)
    session.save(tmp_path / "talk.json")
    again = assistant.session(restore=tmp_path / "talk.json")
    assert (again.history, again.instructions, again.overflow) == (session.history, "Be brief.", "error")
    assert again.respond("a person", max_new_tokens=6) == session.respond("a person", max_new_tokens=6)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format":"session/2"}', '{"format":"session/1","history":[{"role":"god"}]}', "[" * 100_000]
)
def test_a_damaged_session_file_is_refused_and_changes_nothing(
    assistant: Assistant, tmp_path: Path, content: str
) -> None:
    session = assistant.session()
    session.respond("the cat", max_new_tokens=3)
    before = list(session.history)
    (tmp_path / "talk.json").write_text(content)
    with pytest.raises(SessionError):
        session.restore(tmp_path / "talk.json")
    assert session.history == before
    with pytest.raises(SessionError):
        session.save(tmp_path / "nowhere" / "talk.json")


@pytest.mark.parametrize("overflow", ["slide", "summarize", "error"])
def test_a_history_that_is_full_is_met_by_its_policy(assistant: Assistant, overflow: Any) -> None:
    session = assistant.session(instructions="Be brief.", overflow=overflow)
    session.history = [
        {"role": role, "content": "the cat sat on the mat and the dog " * 2}
        for _ in range(8)
        for role in ("user", "assistant")
    ]
    full = list(session.history)
    if overflow == "error":
        with pytest.raises(PromptTooLongError):
            session.respond("a person", max_new_tokens=16)
        assert session.history == full
        return
    answer = session.answer("a person", max_new_tokens=16)
    assert answer.usage.prompt_tokens + 16 <= assistant.context_tokens
    assert len(session.history) < len(full)
    assert session.history[0]["role"] == "user"
    assert bool(session.earlier) == (overflow == "summarize")
    with pytest.raises(PromptTooLongError):
        session.respond("the cat " * 300)
    assert session.respond("the cat", max_new_tokens=3) is not None


def test_a_session_is_cancelled_from_another_thread_and_stays_usable(assistant: Assistant) -> None:
    session = assistant.session()
    pieces = session.stream("the cat", max_new_tokens=150)
    next(pieces)
    canceller = threading.Thread(target=session.cancel)
    canceller.start()
    canceller.join()
    rest = list(pieces)
    assert rest[-1].answer is not None
    assert rest[-1].answer.finish == "cancelled"
    assert session.answer("the cat", max_new_tokens=3).finish in ("length", "stop")


def test_async_twins_say_the_same_and_leaving_cancels(assistant: Assistant) -> None:
    expected = assistant.session().respond("the cat", max_new_tokens=8)

    async def both() -> tuple[str, str, int]:
        told = await assistant.session().arespond("the cat", max_new_tokens=8)
        streamed = "".join([piece.text async for piece in assistant.session().astream("the cat", max_new_tokens=8)])
        left, read = assistant.session(), 0
        stream = left.astream("the cat", max_new_tokens=150)
        async for _ in stream:
            read += 1
            break
        await stream.aclose()  # type: ignore[attr-defined]
        return str(told), streamed, read

    assert asyncio.run(both()) == (expected, expected, 1)


def test_the_assistant_itself_has_async_twins_and_each_of_many_tasks_gets_its_own_answer(assistant: Assistant) -> None:
    prompts = [f"the cat {number}" for number in range(12)]  # More than a small machine's pool has threads.
    alone = [assistant.respond(prompt, max_new_tokens=3) for prompt in prompts]

    async def all_at_once() -> tuple[list[Any], str, Any]:
        told = await asyncio.gather(*(assistant.arespond(prompt, max_new_tokens=3) for prompt in prompts))
        streamed = "".join([text async for text in assistant.astream(prompts[0], max_new_tokens=3)])
        with pytest.raises(GenerationError, match="empty"):
            await assistant.aanswer("")
        return told, streamed, await assistant.arespond("Lunch with Ana", Event, max_new_tokens=120)

    told, streamed, event = asyncio.run(all_at_once())
    assert (told, streamed) == (alone, alone[0])
    assert event.title.lower() in "lunch with ana"


def test_a_task_that_is_cancelled_ends_its_own_answer_and_no_other_of_the_session() -> None:
    """The first answer is held open while a second one, which waits for it, is given up."""
    begun, go_on = threading.Event(), threading.Event()

    class Held(Scripted):
        def pieces(self, prompt: Any, **how: Any) -> Iterator[Piece]:
            for piece in super().pieces(prompt, **how):
                begun.set()
                go_on.wait(20)
                said = cast(Answer, piece.answer)
                yield replace(piece, answer=replace(said, finish="cancelled" if how["cancelled"]() else "stop"))

    session = Session(Held("one", "two"))

    async def give_up_the_second() -> str:
        first = asyncio.create_task(session.aanswer("first"))
        await asyncio.to_thread(begun.wait, 20)
        second = asyncio.create_task(session.aanswer("second"))
        await asyncio.sleep(0.05)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        go_on.set()
        return (await first).finish

    assert asyncio.run(give_up_the_second()) == "stop"


@pytest.mark.parametrize("overflow", ["slide", "summarize"])
def test_a_turn_that_fails_or_is_left_gives_back_what_its_policy_had_dropped(
    bundle: Bundle, tmp_path: Path, overflow: Any
) -> None:
    refusing = [False]
    guarded = Assistant.open(
        tmp_path / "home", bundle=bundle, output_guards=[lambda text: "no" if refusing[0] else None]
    )
    session = guarded.session(overflow=overflow)
    session.history = [
        {"role": role, "content": "the cat sat on the mat and the dog " * 2}
        for _ in range(8)
        for role in ("user", "assistant")
    ]
    full = list(session.history)
    refusing[0] = True
    with pytest.raises(GuardrailError):
        session.answer("a person", max_new_tokens=16)
    refusing[0] = False
    assert (session.history, session.earlier) == (full, "")
    left = session.stream("a person", max_new_tokens=16)
    next(left)
    left.close()  # type: ignore[attr-defined]
    assert (session.history, session.earlier) == (full, "")


def test_a_thread_that_has_not_read_its_answer_is_told_so_and_waits_for_nobody(assistant: Assistant) -> None:
    session = assistant.session()
    pieces = session.stream("the cat", max_new_tokens=4)
    next(pieces)
    with pytest.raises(SessionError, match="still being read"):
        session.answer("the dog", max_new_tokens=4)
    list(pieces)
    assert session.answer("the dog", max_new_tokens=2).text


def test_guards_see_every_turn_of_the_person(bundle: Bundle, tmp_path: Path) -> None:
    guarded = Assistant.open(
        tmp_path / "home", bundle=bundle, input_guards=[lambda text: "no poison" if "poison" in text else None]
    )
    earlier = [{"role": "user", "content": "how to poison"}, {"role": "assistant", "content": "well"}]
    with pytest.raises(GuardrailError, match="no poison"):
        guarded.pieces([*earlier, {"role": "user", "content": "go on"}])


# --- tools -----------------------------------------------------------------------------------------------------------


class Scripted:
    """An assistant whose words are given: what a session does with calls, without a model that can make them."""

    context_tokens = 100_000

    def __init__(self, *said: Any) -> None:
        self.said, self.asked = list(said), list[Any]()

    def count(self, prompt: Any) -> int:
        return sum(len(turn["content"]) for turn in prompt)

    def pieces(self, prompt: Any, **how: Any) -> Iterator[Piece]:
        self.asked.append((list(prompt), how))
        what = self.said.pop(0)
        call = what if isinstance(what, Call) else None
        text = json.dumps({"name": call.name, "arguments": dict(call.arguments)}) if call else str(what)
        answer = Answer(
            prompt="", text=text, finish="tool" if call else "stop", steps=(), calls=(call,) if call else (),
            usage=Usage(prompt_tokens=1, answer_tokens=1), engine="script", adapter=None,
            timing=Timing(first_token_s=0, total_s=0, tokens_per_second=0),
        )  # fmt: skip
        yield Piece(text=text, answer=answer)


def weather(place: str, days: int = 1) -> str:
    """Say the weather."""
    return f"sun in {place} for {days}"


def results(*calls: Call, tool: Any = weather, **how: Any) -> list[str]:
    script = Scripted(*calls, "done")
    session = Session(script, tools=[tool], **how)
    assert session.respond("how is it?") == "done"
    return [turn["content"] for turn in script.asked[-1][0] if turn["content"].startswith("Result of")]


def test_a_tool_is_called_with_typed_arguments_and_its_result_is_told() -> None:
    assert results(Call(name="weather", arguments={"place": "Rome", "days": 2})) == [
        "Result of weather: sun in Rome for 2"
    ]


def test_bad_arguments_and_what_a_tool_raises_are_told_to_the_model() -> None:
    def broken(place: str) -> str:
        raise RuntimeError(f"no {place}")

    (told,) = results(Call(name="weather", arguments={"place": "Rome", "days": "many"}))
    assert told.startswith("Result of weather: error: days:")
    assert results(Call(name="broken", arguments={"place": "Rome"}), tool=broken) == [
        "Result of broken: error: RuntimeError: no Rome"
    ]


def test_a_tool_that_hangs_is_not_waited_for_and_one_that_floods_is_cut() -> None:
    held = threading.Event()

    def hang(place: str) -> None:
        held.wait(30)

    def flood(place: str) -> str:
        return "x" * 50_000_000

    limits = ToolLimits(seconds=1.0, characters=100)
    began = time.monotonic()
    (told,) = results(Call(name="hang", arguments={"place": "a"}), tool=hang, limits=limits)
    held.set()
    assert told == "Result of hang: error: no result after 1 seconds"
    assert time.monotonic() - began < 20
    (told,) = results(Call(name="flood", arguments={"place": "a"}), tool=flood, limits=ToolLimits(characters=100))
    assert told.endswith("… (cut: 50,000,000 characters in all)")
    assert len(told) < 200


def test_a_call_that_is_not_approved_does_not_run_and_loops_end() -> None:
    ran: list[str] = []

    def note(text: str) -> None:
        ran.append(text)

    call = Call(name="note", arguments={"text": "a"})
    (told,) = results(call, tool=note, approve=lambda asked: False)
    assert told == "Result of note: error: the person did not allow this call"
    assert ran == []
    results(call, call, tool=note, limits=ToolLimits(rounds=2))
    assert ran == ["a", "a"]
    script = Scripted(call, call, "done")
    Session(script, tools=[note], limits=ToolLimits(rounds=2)).respond("go")
    assert [bool(how["tools"]) for _, how in script.asked] == [True, True, False]


def test_an_async_tool_is_waited_for_and_ended_in_time_and_one_that_exits_ends_nothing() -> None:
    ended: list[str] = []

    async def look(place: str) -> str:
        try:
            await asyncio.sleep(0 if place == "Rome" else 30)
        except asyncio.CancelledError:
            ended.append(place)
            raise
        return f"saw {place}"

    def leave(place: str) -> None:
        raise SystemExit(3)

    assert results(Call(name="look", arguments={"place": "Rome"}), tool=look) == ["Result of look: saw Rome"]
    limits = ToolLimits(seconds=0.3)
    (told,) = results(Call(name="look", arguments={"place": "Mars"}), tool=look, limits=limits)
    assert told.startswith("Result of look: error: ")
    until = time.monotonic() + 10
    while not ended and time.monotonic() < until:
        time.sleep(0.01)
    assert ended == ["Mars"]
    assert results(Call(name="leave", arguments={"place": "a"}), tool=leave) == [
        "Result of leave: error: SystemExit: 3"
    ]


def test_a_tool_is_spoken_of_only_where_it_can_be_called() -> None:
    call = Call(name="weather", arguments={"place": "Rome"})
    script = Scripted("sunny", '{"a":1}', call, "done")
    session = Session(script, tools=[weather], limits=ToolLimits(rounds=1))
    session.respond("rain?")
    session.answer("rain?", {"type": "object"})
    session.respond("rain?")
    told = ["You can call these tools" in messages[0]["content"] for messages, _ in script.asked]
    assert told == [True, False, True, False]  # Not where a schema decides, nor once the calls are used up.


def test_after_a_tool_the_answer_is_remembered_by_what_the_person_said() -> None:
    answer = Session(Scripted(Call(name="weather", arguments={"place": "Rome"}), "sunny"), tools=[weather]).answer(
        "rain?"
    )
    assert (answer.prompt, answer.text) == ("rain?", "sunny")


class NoJson:
    pass


def untyped(place):  # type: ignore[no-untyped-def]
    return place


def odd(place: NoJson) -> None: ...


def hidden(_place: str) -> None: ...


def unknown(place: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821


def many(*places: str) -> None: ...


@pytest.mark.parametrize("function", [untyped, odd, hidden, unknown, many, lambda: 1, partial(weather), print, 3])
def test_what_the_model_cannot_call_by_name_and_type_is_no_tool(function: Any) -> None:
    with pytest.raises(SessionError, match="tool") as refused:
        Tool.of(function)
    assert "\n" not in str(refused.value)


def test_a_parameter_may_be_called_as_a_method_of_pydantic_is_but_two_tools_not_alike() -> None:
    def keep(json: str, copy: bool = False) -> str:
        return f"{json} {copy}"

    assert results(Call(name="keep", arguments={"json": "a", "copy": True}), tool=keep) == ["Result of keep: a True"]
    with pytest.raises(SessionError, match="two tools have one name"):
        Session(Scripted(), tools=[weather, weather])


def test_the_model_itself_can_call_a_tool_through_the_grammar(
    assistant: Assistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = decoding._chosen

    def prefers_calls(scores: Any, allowed: Any, temperature: float, random: Any) -> int:
        brace = assistant._writer.chat.tokenizer.get_vocab()["{"]
        pushed = scores.copy()
        pushed[brace] += 100 if allowed is not None and allowed[brace] else 0
        return real(pushed, allowed, temperature, random)

    monkeypatch.setattr(decoding, "_chosen", prefers_calls)

    class Place(BaseModel):
        name: str = Field(max_length=3)

    def go(place: Place, fast: bool) -> str:
        return f"went to {place.name}"

    schema = Tool.of(go).parameters
    pieces = list(assistant.pieces("go", tools={"go": schema}, max_new_tokens=120))
    answer = pieces[-1].answer
    assert answer is not None
    assert answer.finish == "tool"
    assert "".join(piece.text for piece in pieces) == ""  # A call is nothing that a person reads.
    assert len([step for piece in pieces for step in piece.steps]) == answer.usage.answer_tokens
    cut = list(assistant.pieces("go", tools={"go": schema}, max_new_tokens=3))
    assert "".join(piece.text for piece in cut).startswith("{")  # What became no call is text after all.
    assert answer.calls[0].name == "go"
    assert set(answer.calls[0].arguments) == {"place", "fast"}
