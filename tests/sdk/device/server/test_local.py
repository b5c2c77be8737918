"""What the server says is what the model says: greedy text, probabilities, stops, schemas, tools, adapters, reuse."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from personalize.adapter import Adapter, fresh
from personalize.home import Home
from personalize.shelf import Shelf
from sdk.bundle import Bundle
from sdk.device.answers import decoding
from sdk.device.answers.records import Step
from sdk.device.night import base_of
from sdk.device.runtime import Runtime
from sdk.device.server import local as local_module
from sdk.device.server.answering import Ask, End, Piece, Tool
from sdk.device.server.conversation import conversation
from sdk.device.server.local import Local
from sdk.device.server.refusal import Refusal
from sdk.errors import PromptTooLongError
from tests.tiny import tiny_bundle

TURN = {"role": "user", "content": "the cat"}
NUMBER = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}}, "required": ["n"]}
ADD = Tool(name="add", description="Add.", parameters=NUMBER | {"additionalProperties": False})


def ask(**more: Any) -> Ask:
    usual: dict[str, Any] = {
        "model": "limbeck", "messages": [TURN], "most_tokens": 12, "temperature": 0.0, "seed": None, "stop": [],
        "schema": None, "tools": [], "tool_choice": "auto", "top": None,
    }  # fmt: skip
    return Ask(**usual | more)


def answered(local: Local, **more: Any) -> tuple[str, list[Piece], End]:
    *pieces, end = local.pieces(ask(**more), lambda: False)
    assert isinstance(end, End)
    told = [piece for piece in pieces if isinstance(piece, Piece)]
    return "".join(piece.text for piece in told), told, end


def test_greedy_text_and_probabilities_are_the_models_own(local: Local, roomy: Bundle) -> None:
    runtime = Runtime.open(roomy)
    text, pieces, end = answered(local, top=3)
    prompt = runtime.encode([TURN])
    model: Any = runtime.model
    tokens = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[0]
    written = tokens[len(prompt) :].tolist()
    assert (end.finish, end.answer_tokens, end.prompt_tokens) == ("length", 12, len(prompt))
    with torch.no_grad():
        logs = torch.log_softmax(runtime.model(tokens[None]).logits[0, len(prompt) - 1 : -1].double(), -1)
    expected = logs[range(12), written].numpy()
    told = [token for piece in pieces for token in piece.tokens]
    assert b"".join(token.content for token in told).decode("utf-8", "replace").startswith(text)
    assert local.fingerprint.startswith("torch-")
    np.testing.assert_allclose([token.log_probability for token in told], expected, atol=1e-5)
    np.testing.assert_allclose([[value for _, value in token.top] for token in told], logs.topk(3).values, atol=1e-5)


def test_a_seed_repeats_a_sampled_answer_and_another_changes_it(local: Local) -> None:
    said = [answered(local, temperature=1.0, seed=seed)[0] for seed in (1, 1, 2, -1)]
    assert said[0] == said[1]
    assert len(set(said)) == 3


def test_nothing_of_a_stop_is_told(local: Local) -> None:
    whole = answered(local, most_tokens=40, temperature=1.0, seed=5)[0]
    for start in range(2, 12):
        stop = whole[start : start + 3]
        text, pieces, end = answered(local, most_tokens=40, temperature=1.0, seed=5, stop=["\0never", stop])
        assert text == whole[: whole.find(stop)]
        assert all(stop not in piece.text for piece in pieces)
        assert end.finish == "stop"


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_an_answer_fits_its_schema(local: Local, temperature: float) -> None:
    schema = {"type": "object", "properties": {"kind": {"enum": ["cat", "dog"]}, **NUMBER["properties"]},  # type: ignore[dict-item]
              "required": ["kind", "n"], "additionalProperties": False}  # fmt: skip
    text, _, end = answered(local, schema=schema, most_tokens=200, temperature=temperature, seed=1)
    told = json.loads(text)
    assert (told["kind"] in ("cat", "dog"), 0 <= told["n"] <= 99, end.finish) == (True, True, "stop")


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"$ref": "#"}, {"not": {}}, {"$ref": "http://x.example/y"}])
def test_a_schema_that_cannot_guide_is_refused_before_the_first_piece(local: Local, schema: dict[str, Any]) -> None:
    with pytest.raises(Refusal, match="cannot guide"):
        next(local.pieces(ask(schema=schema), lambda: False))
    assert answered(local)[2].finish == "length"


@pytest.mark.parametrize("choice", ["required", "add"])
def test_a_tool_that_must_be_called_is_called_with_arguments_that_fit(local: Local, choice: str) -> None:
    other = Tool(name="other", description="", parameters={"type": "object", "properties": {}})
    text, _, end = answered(local, tools=[ADD, other], tool_choice=choice, most_tokens=300)
    assert (text, end.finish) == ("", "tool")
    assert end.calls[0].name in (("add",) if choice == "add" else ("add", "other"))
    assert isinstance(json.loads(end.calls[0].arguments), dict)


TREE = {"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": False}
NAMED: dict[str, Any] = {
    "type": "object", "properties": {"of": {"$ref": "#/$defs/Kind"}, "at": {"const": "#/$defs/Kind"}},
    "required": ["of", "at"], "$defs": {"Kind": {"enum": ["cat", "dog"]}},
}  # fmt: skip


@pytest.mark.parametrize("choice", ["tree", "named", "other"])
def test_a_tools_schema_may_refer_to_its_own_parts(local: Local, choice: str) -> None:
    """As pydantic writes them; "$defs" of two tools with the same names are two things, and data is left alone."""
    other = {**NAMED, "$defs": {"Kind": {"enum": ["owl"]}}}
    tools = [
        Tool(name=name, description="", parameters=schema)
        for name, schema in (("tree", TREE), ("named", NAMED), ("other", other))
    ]
    text, _, end = answered(local, tools=tools, tool_choice=choice, most_tokens=120)
    if choice == "tree":  # A tree of chance may not end.
        assert end.calls or text.startswith('{"name":"tree","arguments":{"next":{')
        return
    told = json.loads(end.calls[0].arguments)
    assert (told["of"] in (("owl",) if choice == "other" else ("cat", "dog")), told["at"]) == (True, "#/$defs/Kind")


def test_a_reference_left_where_it_was_would_be_refused(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdk.device.answers.grammar._moved", lambda schema, to: schema)
    tools = [Tool(name="named", description="", parameters=NAMED)]
    with pytest.raises(Refusal, match="points to nothing") as refused:
        answered(local, tools=tools, tool_choice="required")
    assert (refused.value.status, refused.value.param) == (400, "tools")


def test_nobody_measures_probabilities_that_nobody_asked_for(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []
    real = decoding._step

    def step(token: int, *rest: Any) -> Step:
        measured.append(token)
        return real(token, *rest)

    monkeypatch.setattr(decoding, "_step", step)
    plain = answered(local)
    assert measured == []
    assert answered(local, top=0)[0] == plain[0]
    assert len(measured) == plain[2].answer_tokens


def test_a_tool_that_may_be_called_leaves_room_for_text(local: Local) -> None:
    text, _, end = answered(local, tools=[ADD])
    assert text
    assert end.calls == []


def test_results_of_tools_are_part_of_the_conversation(local: Local) -> None:
    calls = [{"id": "call_1", "name": "add", "arguments": '{"n":5}'}]
    asked = [
        TURN,
        {"role": "assistant", "content": "", "calls": calls},
        {"role": "tool", "content": "7", "call": "call_1"},
    ]
    turns = conversation(ask(messages=asked))
    assert [turn["content"] for turn in turns] == ["the cat", '{"name":"add","arguments":{"n":5}}', "Result of add: 7"]
    assert answered(local, messages=asked)[0]


def test_a_prompt_that_was_known_is_not_read_again_and_the_answer_is_the_same(roomy: Bundle, tmp_path: Path) -> None:
    local = Local.open(tmp_path, bundle=roomy)
    first, _, end = answered(local)
    again, _, known = answered(local)
    assert (end.cached_tokens, known.cached_tokens) == (0, end.prompt_tokens - 1)
    assert first == again
    longer = [TURN, {"role": "assistant", "content": "sat"}, TURN]
    turned = answered(local, messages=longer)
    assert turned[2].cached_tokens > 0
    assert turned[0] == answered(Local.open(tmp_path, bundle=roomy), messages=longer)[0]


def test_what_is_too_long_is_refused_and_what_just_fits_is_cut(local: Local) -> None:
    with pytest.raises(PromptTooLongError, match="2048"):
        answered(local, messages=[{"role": "user", "content": "x" * 5000}])
    _, _, end = answered(local, messages=[{"role": "user", "content": "x" * 2000}], most_tokens=500)
    assert end.prompt_tokens + end.answer_tokens == 2048


@pytest.mark.parametrize("after", [0, 3])
def test_a_cancelled_answer_ends_within_a_token(local: Local, after: int) -> None:
    looks = iter(range(1000))
    *_, end = local.pieces(ask(most_tokens=500), lambda: next(looks) >= after)
    assert isinstance(end, End)
    assert (end.finish, end.answer_tokens) == ("cancelled", after)


def test_each_model_id_wears_its_own_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = tiny_bundle(tmp_path)
    base = base_of(bundle)
    start = fresh(base.model, base.spec, fits_base=base.digest)

    def strong(seed: int) -> Adapter:
        draw = torch.Generator().manual_seed(seed)
        b = {site: torch.randn(value.shape, generator=draw) for site, value in start.b.items()}
        return Adapter(spec=start.spec, fits_base=start.fits_base, a=start.a, b=b)

    home = Home.open(tmp_path)
    for name, seed in (("work", 1), ("home", 2)):
        strong(seed).save(home.adapters / f"{name}-1")
    home.update_state(lines={"work": ["work-1"], "home": ["home-1"], "empty": []}, line="work")
    local = Local.open(tmp_path, bundle=bundle)
    assert [model.id for model in local.models()] == ["limbeck", "limbeck-base", "limbeck:home", "limbeck:work"]
    said = {model.id: answered(local, model=model.id)[0] for model in local.models()}
    assert said["limbeck"] == said["limbeck:work"]
    assert len(set(said.values())) == 3
    assert answered(local, model="limbeck:home")[2].cached_tokens > 0
    monkeypatch.setattr(Shelf, "in_use", None)  # An adapter that was rolled back while the server runs.
    assert answered(local)[0] == said["limbeck-base"]


def test_memory_of_earlier_prompts_is_bounded(roomy: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_module, "KEPT_TOKENS", 100)
    local = Local.open(tmp_path, bundle=roomy)
    for word in ("a", "b", "c", "d", "e", "f"):
        answered(local, messages=[{"role": "system", "content": word * 20}, TURN])
    assert sum(len(track.tokens) for track in local._writer.tracks._kept) <= 100
