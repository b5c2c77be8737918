"""A conversation in, pieces of its answer out: the one way from text to tokens and back, for every caller.

Everything that can be refused is refused by the call, before the first piece is asked for.
"""

import codecs
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sdk.device.answers.decoding import Decoding, decode
from sdk.device.answers.grammar import Grammar, Vocabulary, call_schema
from sdk.device.answers.records import Answer, Call, Finish, Piece, Step, Timing, Usage
from sdk.device.answers.schema import Schema, begun_value, value_of
from sdk.device.answers.tracks import KEPT_TOKENS, Tracks, Turns
from sdk.device.chat import Chat, Message
from sdk.device.engines.protocol import Engine
from sdk.errors import AnswerError, GenerationError, PromptTooLongError

__all__ = ["Asked", "Writer"]

MAX_CHARACTERS = 2_000_000  # Refused before it is cut into tokens, which takes seconds; a context holds far less.


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One question with all that shapes its answer."""

    messages: Sequence[Message]
    schema: Schema | None = None
    """What the answer must fit; None is free text."""
    tools: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name of each tool that the model may call to its arguments' schema; calls are returned, not made."""
    must_call: bool = False
    """Whether the answer can only be a call of one of the tools."""
    copy_from: str | None = None
    """Text of copied strings; None is the last user turn."""
    max_new_tokens: int = 128
    cut: bool = False
    """Whether an answer ends where the context does; else one that could pass it is refused."""
    temperature: float = 0.0
    seed: int | None = None
    stop: Sequence[str] = ()
    """Texts before which the answer ends."""
    top_logprobs: int = 0
    measured: bool = True
    """Whether each step says how likely it was."""


class Writer:
    """One engine with its text side."""

    def __init__(self, engine: Engine, chat: Chat, *, kept_tokens: int = KEPT_TOKENS) -> None:
        """Answer with `engine`, whose tokens are those of `chat`; keep so many tokens for later prompts."""
        self.engine, self.chat = engine, chat
        self.tracks, self.turns = Tracks(engine, most_tokens=kept_tokens), Turns()

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Read at the first guided answer."""
        return Vocabulary(self.chat.tokenizer)

    def count(self, messages: Sequence[Message]) -> int:
        """Tokens of a conversation, before anything is asked."""
        return len(self._encoded(messages))

    def pieces(
        self,
        asked: Asked,
        *,
        key: str | None = None,
        adapter: str | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[Piece]:
        """The answer, piece by piece; the last piece has it whole.

        Args:
            asked: The question.
            key: The engine's key of the adapter that answers.
            adapter: Its name, for the record.
            cancelled: Once it says yes the answer ends within one token, with finish "cancelled".

        Raises:
            GenerationError: The conversation is empty or malformed, or an argument is out of range.
            PromptTooLongError: Prompt and answer pass the context.
            SchemaError: Nothing can be guided by the schema.
        """
        began, prompt = time.monotonic(), self._encoded(asked.messages)
        room = self.engine.context_tokens - len(prompt)
        if room < (1 if asked.cut else asked.max_new_tokens):
            raise PromptTooLongError(
                prompt_tokens=len(prompt),
                answer_tokens=1 if asked.cut else asked.max_new_tokens,
                context_tokens=self.engine.context_tokens,
            )
        request = Decoding(
            max_new_tokens=min(asked.max_new_tokens, room),
            temperature=asked.temperature,
            seed=asked.seed,
            stop=self.chat.stop_tokens,
            mask=self._mask(asked),
            top_logprobs=asked.top_logprobs,
            measured=asked.measured,
        )
        return _Writing(self, asked, prompt, request, key, adapter, cancelled, began).run()

    def content(self, token: int) -> bytes:
        """The bytes of a token; they may be half a character."""
        written = self.chat.tokenizer.convert_ids_to_tokens(token)
        return bytes(_BYTES[letter] for letter in str(written) if letter in _BYTES)

    def _encoded(self, messages: Sequence[Message]) -> list[int]:
        for message in messages:
            text = message.get("content")
            if not isinstance(text, str) or any("\ud800" <= letter <= "\udfff" for letter in text[:MAX_CHARACTERS]):
                raise GenerationError(f"a message needs a role and a text, got {message!r:.80}")
            if len(text) > MAX_CHARACTERS:
                raise GenerationError(
                    f"a message of {len(text):,} characters passes any context; give at most {MAX_CHARACTERS:,}"
                )
        if messages and not str(messages[-1].get("content", "")).strip():
            raise GenerationError("the prompt is empty; ask something")
        return self.chat.encode(messages)

    def _mask(self, asked: Asked) -> Grammar | None:
        if asked.tools and asked.must_call:
            grammar = Grammar.of_schema(call_schema(asked.tools), self.vocabulary)
        elif asked.schema is not None:
            source = asked.messages[-1]["content"] if asked.copy_from is None else asked.copy_from
            grammar = Grammar.of_schema(asked.schema, self.vocabulary, copy_from=source)
        elif asked.tools:
            grammar = Grammar.of_tools(asked.tools, self.vocabulary)
        else:
            return None
        grammar.allowed(self.engine.vocabulary)  # What nothing can begin is refused now.
        return grammar


@dataclass
class _Writing:
    """One answer under way."""

    writer: Writer
    asked: Asked
    prompt: list[int]
    request: Decoding
    key: str | None
    adapter: str | None
    cancelled: Callable[[], bool]
    began: float

    def run(self) -> Iterator[Piece]:
        """Write; a track that an error or a reader who left finds half way is closed."""
        track = self.writer.tracks.take(self.prompt, self.key)
        cached, steps, text, held = len(track.tokens), list[Step](), "", ""
        first: float | None = None
        guided = self.asked.schema is not None and not self._may_call
        decode_bytes = codecs.getincrementaldecoder("utf-8")("replace").decode
        stopped = False
        try:
            for step in decode(track, self.prompt, self.request, self.cancelled, self.writer.turns):
                first = first or time.monotonic()
                steps.append(step)
                held += decode_bytes(self.writer.content(step.token))
                if (cut := _first_of(held, self.asked.stop)) is not None:
                    held, stopped = held[:cut], True
                    break
                free, held = self._free(text, held)
                text += free
                yield Piece(text=free, steps=(step,), so_far=begun_value(text) if guided else None)
        except BaseException:
            track.close()
            raise
        self.writer.tracks.give_back(track)
        # Half a character at the end, where the length cut it, is told nobody.
        answer = self._answer(text + held, steps, stopped, cached, first)
        last = (steps[-1],) if stopped else ()
        yield Piece(text="" if answer.calls else held, steps=last, answer=answer)

    def _free(self, told: str, held: str) -> tuple[str, str]:
        """What of the text can be told now, and what is held: a tool's call, and what may begin a stop."""
        if self._may_call and not told and held.startswith("{"):
            return "", held
        waits = may_begin(held, self.asked.stop)
        return held[: len(held) - waits], held[len(held) - waits :]

    @property
    def _may_call(self) -> bool:
        return bool(self.asked.tools) and (self.asked.must_call or self.asked.schema is None)

    def _answer(self, text: str, steps: list[Step], stopped: bool, cached: int, first: float | None) -> Answer:
        finish, value, calls = self._finish(steps, stopped), None, tuple[Call, ...]()
        fits = None if self.asked.schema is None or self._may_call else False
        if finish == "stop" and self.asked.schema is not None and fits is not None:
            with suppress(AnswerError):
                value, fits = value_of(self.asked.schema, text), True
        if finish == "stop" and not stopped and self._may_call and text.startswith("{"):
            called = json.loads(text)
            finish, calls = "tool", (Call(name=called["name"], arguments=called["arguments"]),)
        end = time.monotonic()
        rest = end - first if first else 0.0
        return Answer(
            prompt=self.asked.messages[-1]["content"],
            text=text,
            value=value,
            fits=fits,
            finish=finish,
            steps=tuple(steps),
            calls=calls,
            usage=Usage(prompt_tokens=len(self.prompt), answer_tokens=len(steps), cached_tokens=cached),
            timing=Timing(
                first_token_s=(first or end) - self.began,
                total_s=end - self.began,
                tokens_per_second=(len(steps) - 1) / rest if len(steps) > 1 and rest > 0 else 0.0,
            ),
            engine=self.writer.engine.name,
            adapter=self.adapter,
        )

    def _finish(self, steps: list[Step], stopped: bool) -> Finish:
        mask = self.request.mask
        if stopped or (mask is not None and mask.ended):
            return "stop"
        if len(steps) == self.request.max_new_tokens:
            return "length"
        return "cancelled" if self.cancelled() else "stop"


def _byte_alphabet() -> dict[str, int]:
    """Letter of a byte-level tokenizer to its byte: printable bytes stand for themselves, the others from U+0100 on."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTES = _byte_alphabet()


def _first_of(text: str, stops: Sequence[str]) -> int | None:
    return min((place for stop in stops if (place := text.find(stop)) >= 0), default=None)


def may_begin(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` that may turn out to begin a stop."""
    ends = ((size, stop) for stop in stops for size in range(1, len(stop)))
    return max((size for size, stop in ends if text.endswith(stop[:size])), default=0)
