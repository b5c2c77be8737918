"""Turns of one conversation in, answers that know the turns before out; saved and restored as JSON.

Rules: one answer at a time; a second thread waits. A turn that is refused, fails or is not read to its end leaves the
history as it was, also what its policy had dropped; one that is cancelled keeps what was said. The file is replaced in
one step, so that a crash leaves the old one or the new.
"""

import json
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

from sdk.device.answers.records import Answer, Piece
from sdk.device.answers.schema import Schema, value_of
from sdk.device.answers.tools import Approve, Tool, ToolLimits, described
from sdk.device.answers.waiting import Left, each, in_thread, or_left
from sdk.device.chat import ROLES, Message
from sdk.errors import GenerationError, PromptTooLongError, SessionError
from sdk.tasks import prompt as task_prompt

__all__ = ["Answering", "Overflow", "Session", "drawn"]

FORMAT = "session/1"
MAX_FILE_BYTES = 16 * 1024 * 1024  # Refused before parsing; a context of 8,192 tokens is under 100 KB.
SUMMARY_TOKENS = 96
SAMPLED_AT = 0.7  # Temperature at which answers differ where the model is unsure, and are still its own.

Overflow = Literal["slide", "summarize", "error"]


class Answering(Protocol):
    """What a session needs of an assistant."""

    @property
    def pieces(self) -> Callable[..., Iterator[Piece]]:
        """See Assistant.pieces."""

    def count(self, prompt: Sequence[Message]) -> int:
        """See Assistant.count."""

    @property
    def context_tokens(self) -> int:
        """Most tokens of prompt and answer together."""


class Session:
    """One conversation."""

    def __init__(
        self,
        assistant: Answering,
        *,
        instructions: str = "",
        tools: Sequence[Callable[..., Any] | Tool] = (),
        overflow: Overflow = "slide",
        approve: Approve | None = None,
        limits: ToolLimits | None = None,
    ) -> None:
        """Begin.

        Args:
            assistant: Who answers.
            instructions: The system's words, before all turns.
            tools: Functions that the model may call, with typed parameters.
            overflow: What happens when the history no longer fits: "slide" drops the oldest turns, "summarize" keeps
                one sentence about them, "error" refuses.
            approve: Asked before each call of a tool; None allows all.
            limits: Of tools; None takes the defaults.

        Raises:
            SessionError: A tool cannot be offered, two have one name, or there is no such policy.
        """
        if overflow not in ("slide", "summarize", "error"):
            raise SessionError(f"overflow must be slide, summarize or error, got {overflow!r}")
        self._assistant, self.instructions, self.overflow = assistant, instructions, overflow
        offered = [Tool.of(tool) for tool in tools]
        self.tools = {tool.name: tool for tool in offered}
        if len(self.tools) < len(offered):
            raise SessionError(f"two tools have one name, of {', '.join(tool.name for tool in offered)}; rename one")
        self._approve, self._limits = approve, limits or ToolLimits()
        self.history: list[Message] = []
        self.earlier = ""
        """What `summarize` keeps of turns that were dropped."""
        self._busy, self._cancelled = threading.Lock(), threading.Event()
        self._reader: int | None = None  # The thread that reads an answer.
        self._question: tuple[int, Message] | None = None  # The last one, and how many turns stood before it.

    def respond(self, prompt: str, schema: Schema | None = None, **how: Any) -> Any:
        """The answer's text, or with `schema` its validated object; arguments and errors as `stream`.

        Raises:
            AnswerError: The answer ended before it was whole, or the type's validators refuse it.
        """
        answer = self.answer(prompt, schema, **how)
        return (
            answer.text
            if schema is None
            else answer.value
            if answer.value is not None
            else value_of(schema, answer.text)
        )

    def answer(self, prompt: str, schema: Schema | None = None, **how: Any) -> Answer:
        """The whole record of an answer; arguments and errors as `stream`."""
        last: Answer | None = None
        for piece in self.stream(prompt, schema, **how):
            last = piece.answer or last
        if last is None:
            raise GenerationError("the answer ended without a record; ask again")
        return last

    def stream(self, prompt: str, schema: Schema | None = None, **how: Any) -> Iterator[Piece]:
        """The answer piece by piece, the last with its `answer`; tools are called on the way.

        Args:
            prompt: The person's turn.
            schema: What the answer must fit; tools are not offered for it.
            how: As Assistant.pieces: max_new_tokens, temperature, seed, stop, top_logprobs, copy_from, cancelled.

        Raises:
            SessionError: This thread has not read the answer before to its end, and would wait for itself.
            PromptTooLongError: It does not fit by the policy; also a single turn that is too long.
            GenerationError, SchemaError, GuardrailError: See Assistant.pieces.
        """
        with self._alone() as before:
            turns: list[Message] = [{"role": "user", "content": prompt}]
            for round_ in range(self._limits.rounds + 1):
                offered = {} if schema is not None or round_ == self._limits.rounds else self.tools
                answer: Answer | None = None
                for piece in self._pieces(turns, schema, offered, how):
                    answer = piece.answer
                    if answer is None:
                        yield piece
                    elif answer.finish != "tool":
                        # What the person said is what feedback remembers, not what a tool said last.
                        yield replace(piece, answer=replace(answer, prompt=prompt))
                if answer is None or answer.finish != "tool":
                    break
                turns += self._called(answer)
            text = answer.text if answer else ""
            if not text:  # Nothing was said, so nothing of what was said before is given up for it.
                self.history, self.earlier = before
            self._question = len(self.history), turns[0]
            if text:
                self.history += [*turns, {"role": "assistant", "content": text}]

    @contextmanager
    def _alone(self) -> Iterator[tuple[list[Message], str]]:
        """Hold the session for one answer, and tell the history before; whatever ends it early puts that back."""
        if not self._busy.acquire(blocking=self._reader != threading.get_ident()):
            raise SessionError("the answer before is still being read here; read it to its end, or close it")
        self._reader = threading.get_ident()
        before = list(self.history), self.earlier
        self._cancelled.clear()
        try:
            yield before
        except BaseException:
            self.history, self.earlier = before
            raise
        finally:
            self._reader = None
            self._busy.release()

    def question(self) -> list[Message]:
        """The last question, after the system's words and the turns before; tools and what they said are left out.

        Raises:
            SessionError: Nothing was asked yet.
        """
        before, asked = self._asked()
        return [*self._system(()), *self.history[:before], asked]

    def samples(self, count: int, *, max_new_tokens: int) -> list[str]:
        """Other answers to the last question, drawn at random and the same each time; the history stays as it is.

        Raises:
            SessionError: Nothing was asked yet.
            PromptTooLongError: Question and answer pass the context.
        """
        asked = self.question()
        return [
            drawn(self._assistant, asked, seed=seed, max_new_tokens=max_new_tokens, cancelled=self._cancelled.is_set)
            for seed in range(count)
        ]

    def replace_answer(self, text: str) -> None:
        """Let `text` be the answer to the last question, such as a larger model's.

        Raises:
            SessionError: Nothing was asked yet.
        """
        before, asked = self._asked()
        self.history[before:] = [asked, {"role": "assistant", "content": text}]

    def cancel(self) -> None:
        """End the answer under way within one token; from any thread, safe when there is none."""
        self._cancelled.set()

    async def arespond(self, prompt: str, schema: Schema | None = None, **how: Any) -> Any:
        """The async twin of `respond`; a cancelled task cancels this answer, and no other of the session."""
        return await in_thread(lambda left: self.respond(prompt, schema, **or_left(how, left)))

    async def aanswer(self, prompt: str, schema: Schema | None = None, **how: Any) -> Answer:
        """The async twin of `answer`."""
        return await in_thread(lambda left: self.answer(prompt, schema, **or_left(how, left)))

    def astream(self, prompt: str, schema: Schema | None = None, **how: Any) -> AsyncIterator[Piece]:
        """The async twin of `stream`; leaving the loop cancels this answer."""
        return each(lambda left: self.stream(prompt, schema, **or_left(how, left)))

    def save(self, file: Path) -> None:
        """Write instructions and history as JSON, in one step.

        Raises:
            SessionError: The file cannot be written; an older one is as it was.
        """
        fields = {
            "format": FORMAT, "instructions": self.instructions, "overflow": self.overflow,
            "earlier": self.earlier, "history": self.history,
        }  # fmt: skip
        try:
            with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False, encoding="utf-8") as temporary:
                json.dump(fields, temporary, ensure_ascii=False)
                temporary.flush()
                os.fsync(temporary.fileno())
            Path(temporary.name).replace(file)
        except OSError as cause:
            raise SessionError(
                f"cannot write {file} ({cause.strerror or cause}); free some room or choose another place"
            ) from cause

    def restore(self, file: Path) -> None:
        """Go on from what `save` wrote; tools are given anew by whoever made this session.

        Raises:
            SessionError: It cannot be read, or is no session of this version; this session is as it was.
        """
        try:
            if file.stat().st_size > MAX_FILE_BYTES:
                raise ValueError("too large")
            fields = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(fields, dict) or fields.get("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            history = [{"role": str(one["role"]), "content": str(one["content"])} for one in fields["history"]]
            if any(one["role"] not in ROLES for one in history) or fields["overflow"] not in (
                "slide",
                "summarize",
                "error",
            ):
                raise ValueError("a role or policy is unknown")
            instructions, earlier = str(fields["instructions"]), str(fields["earlier"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as cause:
            raise SessionError(f"{file} is no saved session ({cause!s:.100}); move it away to begin anew") from cause
        self._question = None
        self.history, self.instructions, self.earlier, self.overflow = (
            history,
            instructions,
            earlier,
            fields["overflow"],
        )

    def _asked(self) -> tuple[int, Message]:
        if self._question is None:
            raise SessionError("nothing was asked in this session yet")
        return self._question

    def _pieces(
        self, turns: list[Message], schema: Schema | None, offered: dict[str, Tool], how: dict[str, Any]
    ) -> Iterator[Piece]:
        copy_from = how.get("copy_from", turns[0]["content"])
        how = {**or_left(how, self._cancelled.is_set), "copy_from": copy_from}
        told = [*offered.values()]  # What cannot be called is not spoken of: a small model would call it in words.
        messages = self._fitting(turns, told, int(how.get("max_new_tokens", 128)), how["cancelled"])
        parameters = {name: tool.parameters for name, tool in offered.items()}
        return self._assistant.pieces(messages, schema=schema, tools=parameters, **how)

    def _called(self, answer: Answer) -> list[Message]:
        """The turns of a call and its result, for the model to read."""
        call = answer.calls[0]
        result = self.tools[call.name].run(call, self._limits, self._approve)
        return [
            {"role": "assistant", "content": answer.text},
            {"role": "user", "content": f"Result of {call.name}: {result}"},
        ]

    def _fitting(
        self, turns: list[Message], tools: Sequence[Tool], answer_tokens: int, cancelled: Left
    ) -> list[Message]:
        """System, history and the new turns, by the policy of overflow."""
        dropped: list[Message] = []
        while True:
            messages = [*self._system(tools), *self.history, *turns]
            count = self._assistant.count(messages)
            if count + answer_tokens <= self._assistant.context_tokens:
                break
            if self.overflow == "error" or not self.history:
                raise PromptTooLongError(
                    prompt_tokens=count, answer_tokens=answer_tokens, context_tokens=self._assistant.context_tokens
                )
            dropped += self.history[:1]
            self.history = self.history[1:]
            while self.history and self.history[0]["role"] != "user":
                dropped.append(self.history.pop(0))
        if dropped and self.overflow == "summarize":
            self.earlier = self._summary(dropped, cancelled)
            return self._fitting(turns, tools, answer_tokens, cancelled)
        return messages

    def _summary(self, dropped: list[Message], cancelled: Left) -> str:
        """One sentence about turns that no longer fit, and about what was kept of those before them."""
        told = " ".join([self.earlier, *(f"{one['role']}: {one['content']}" for one in dropped)]).strip()
        letters = max(200, 2 * self._assistant.context_tokens)  # At least one token a letter never passes the context.
        asked = [{"role": "user", "content": task_prompt("summary", told[-min(letters, len(told)) :])}]
        room = self._assistant.context_tokens - self._assistant.count(asked)
        if room < 1:
            return ""
        most = min(SUMMARY_TOKENS, room, self._assistant.context_tokens // 8)
        pieces = list(self._assistant.pieces(asked, max_new_tokens=most, cancelled=cancelled))
        return pieces[-1].answer.text if pieces[-1].answer else ""

    def _system(self, tools: Sequence[Tool]) -> list[Message]:
        parts = [self.instructions, described(tools) if tools else ""]
        if self.earlier:
            parts.append(f"Earlier in this conversation: {self.earlier}")
        text = "\n\n".join(part for part in parts if part)
        return [{"role": "system", "content": text}] if text else []


def drawn(assistant: Answering, prompt: str | Sequence[Message], *, seed: int, **how: Any) -> str:
    """One answer drawn at SAMPLED_AT; arguments and errors as Assistant.pieces."""
    pieces = list(assistant.pieces(prompt, temperature=SAMPLED_AT, seed=seed, **how))
    return pieces[-1].answer.text if pieces[-1].answer else ""
