"""OpenAI's own client and `llm` ask a real server over a tiny model, and one question goes to the real base."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel, ConfigDict, Field

from sdk.device.server.local import Local
from sdk.errors import GenerationError
from tests.answering import Scripted
from tests.simulators import serving

ASKED: list[ChatCompletionMessageParam] = [{"role": "user", "content": "the cat"}]
ADD: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add one.",
        "parameters": {
            "type": "object",
            "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}},
            "required": ["n"],
            "additionalProperties": False,
        },
    },
}


class Pet(BaseModel):
    """What the model is asked for."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["cat", "dog"]
    age: int = Field(ge=0, le=30)


@pytest.fixture
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="none is asked for", max_retries=0)


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["limbeck", "limbeck-base"]
    assert client.models.retrieve("limbeck-base").id == "limbeck-base"
    with pytest.raises(openai.NotFoundError, match="there are limbeck, limbeck-base"):
        client.models.retrieve("gpt-4o")


def test_an_answer_at_once_and_in_pieces_is_the_same(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="limbeck", messages=ASKED, max_tokens=9, seed=1, temperature=1)
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert (whole.usage.completion_tokens, whole.usage.total_tokens) == (9, 9 + whole.usage.prompt_tokens)
    stream = client.chat.completions.create(
        model="limbeck",
        messages=ASKED,
        max_completion_tokens=9,
        seed=1,
        temperature=1,
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, last = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "length"
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 9


def test_the_asynchronous_client_asks_many_at_once(url: str) -> None:
    async def ask() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=0) as client:
            asked = [
                client.chat.completions.create(
                    model="limbeck", messages=ASKED, max_tokens=4, seed=seed % 3, temperature=1
                )
                for seed in range(12)
            ]
            return [answer.choices[0].message.content for answer in await asyncio.gather(*asked)]

    said = asyncio.run(ask())
    assert said[:3] * 4 == said
    assert len(set(said)) == 3


def test_probabilities_are_told_at_once_and_in_pieces(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="limbeck", messages=ASKED, max_tokens=5, logprobs=True, top_logprobs=2)
    assert whole.choices[0].logprobs is not None
    told = whole.choices[0].logprobs.content or []
    assert [len(token.top_logprobs) for token in told] == [2] * 5
    assert all(token.logprob == token.top_logprobs[0].logprob < 0 for token in told)
    stream = client.chat.completions.create(model="limbeck", messages=ASKED, max_tokens=5, logprobs=True, stream=True)
    pieces = [chunk.choices[0].logprobs for chunk in stream]
    assert [token.logprob for piece in pieces if piece for token in piece.content or []] == (
        pytest.approx([token.logprob for token in told], abs=1e-4)
    )


def test_an_answer_of_a_pydantic_type_is_one(client: openai.OpenAI) -> None:
    parsed = client.chat.completions.parse(model="limbeck", messages=ASKED, response_format=Pet, temperature=1, seed=4)
    assert isinstance(parsed.choices[0].message.parsed, Pet)
    with client.chat.completions.stream(model="limbeck", messages=ASKED, response_format=Pet) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Pet)
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model="limbeck", messages=ASKED, response_format=Pet, max_tokens=3)


def test_any_object_is_an_object(client: openai.OpenAI) -> None:
    text = client.chat.completions.create(
        model="limbeck", messages=ASKED, response_format={"type": "json_object"}, max_tokens=30
    ).choices[0]
    assert (text.message.content or "").startswith("{")


def test_a_tool_is_called_its_result_told_and_the_answer_goes_on(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(model="limbeck", messages=ASKED, tools=[ADD], tool_choice="required")
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls"
    assert message.tool_calls
    call = message.tool_calls[0]
    assert call.type == "function"
    assert 0 <= json.loads(call.function.arguments)["n"] <= 9
    result: ChatCompletionMessageParam = {"role": "tool", "tool_call_id": call.id, "content": "6"}
    said: Any = message.model_dump(exclude_none=True)
    again = client.chat.completions.create(
        model="limbeck", messages=[*ASKED, said, result], tools=[ADD], tool_choice="none", max_tokens=5
    )
    assert again.choices[0].message.content
    with client.chat.completions.stream(model="limbeck", messages=ASKED, tools=[ADD], tool_choice="required") as stream:
        streamed = stream.get_final_completion().choices[0]
    assert streamed.finish_reason == "tool_calls"
    assert streamed.message.tool_calls
    assert streamed.message.tool_calls[0].function.arguments == call.function.arguments


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"n": 2}, "n: "),
        ({"top_p": 0.5, "temperature": 1}, "top_p must be 1"),
        ({"logit_bias": {"1": 1}}, "logit_bias is not a field"),
        ({"top_logprobs": 2}, "needs logprobs"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "'text'"),
        ({"messages": [{"role": "user", "content": "x" * 9000}]}, "pass the context of 2048 tokens"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no"}}}}, "guide"),
        ({"tools": [ADD, ADD]}, "same name"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_not_done_is_refused_in_words(
    client: openai.OpenAI, field: dict[str, Any], words: str, stream: bool
) -> None:
    asked: dict[str, Any] = {"model": "limbeck", "messages": ASKED, "max_tokens": 3, "stream": stream} | field
    with pytest.raises(openai.BadRequestError, match=words):
        client.chat.completions.create(**asked)


def test_a_failure_in_the_middle_of_a_stream_is_an_error_of_the_client() -> None:
    with serving(Scripted(error=GenerationError("the engine failed"))) as url:
        stream = openai.OpenAI(base_url=url, api_key="x").chat.completions.create(
            model="limbeck", messages=ASKED, stream=True
        )
        with pytest.raises(openai.APIError, match="the engine failed"):
            list(stream)


def test_the_client_comes_back_by_itself_when_it_is_told_to(local: Local) -> None:
    def ask_too_often(client: openai.OpenAI) -> None:
        while True:
            client.models.list()

    with serving(local, per_minute=30) as url:
        client = openai.OpenAI(base_url=url, api_key="x", max_retries=0)
        with pytest.raises(openai.RateLimitError):
            ask_too_often(client)
        patient = client.with_options(max_retries=5)
        assert patient.chat.completions.create(model="limbeck", messages=ASKED, max_tokens=2).choices


def test_llm_asks_it(url: str, tmp_path: Path) -> None:
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: mine\n  model_name: limbeck\n  api_base: {url}\n  supports_schema: true\n  supports_tools: true\n"
    )
    environment = os.environ | {"LLM_USER_PATH": str(tmp_path), "LLM_LOAD_PLUGINS": "", "OPENAI_API_KEY": "none"}

    def llm(*words: str) -> str:
        command = [sys.executable, "-m", "llm", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    schema = json.dumps(Pet.model_json_schema())
    assert Pet.model_validate_json(llm("prompt", "-m", "mine", "the cat", "-n", "--schema", schema)).age <= 30


@pytest.mark.real
@pytest.mark.slow
def test_the_real_base_answers_a_person(base_bundle: Any, tmp_path: Path) -> None:
    with serving(Local.open(tmp_path, bundle=base_bundle)) as url:
        client = openai.OpenAI(base_url=url, api_key="x")
        asked: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the capital of France?"}]
        said = client.chat.completions.create(model="limbeck", messages=asked, max_tokens=24).choices[0].message
        assert "Paris" in (said.content or "")
        parsed = client.chat.completions.parse(
            model="limbeck", messages=[{"role": "user", "content": "My cat is 3 years old."}], response_format=Pet
        )
        assert isinstance(parsed.choices[0].message.parsed, Pet)
