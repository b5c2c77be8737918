"""What an app calls: answer, stream, guided output, sessions, remember, learn, on the device.

Rules: an answer wears the adapter that was in use when it was asked for, to its end. A night runs beside the engine, so
answers go on meanwhile; what it admits answers the next question, with no rebuild of the base.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

from pydantic import BaseModel

from personalize import Experience, Home
from personalize.experience import Signal
from personalize.learner import Learner, NightReport
from personalize.nightly import NoNight, learn_noted, learn_when_idle
from personalize.plan import NightPlan
from personalize.removal import Removal
from personalize.schedule import NightPolicy
from personalize.shelf import Shelf
from personalize.stopping import Stop
from privacy import Unit
from sdk.bundle import Bundle, default_bundle
from sdk.device.answers.ready import ReadyTasks
from sdk.device.answers.records import Answer, Piece
from sdk.device.answers.schema import Schema, value_of
from sdk.device.answers.session import Overflow, Session
from sdk.device.answers.tools import Approve, Tool, ToolLimits
from sdk.device.answers.waiting import each, in_thread, or_left
from sdk.device.answers.writer import Asked, Writer
from sdk.device.chat import Message
from sdk.device.engines.choice import Choice, Opened, open_engine
from sdk.device.night import base_of, plan_of
from sdk.device.slots import lease
from sdk.errors import GenerationError, GuardrailError, NoBaseError, SdkError

__all__ = ["Assistant", "Availability", "Guard"]

Typed = TypeVar("Typed", bound=BaseModel)

Guard = Callable[[str], str | None]
"""An app's own rule: a text in, None to let it pass, or why it is refused."""


@dataclass(frozen=True, kw_only=True)
class Availability:
    """Whether this device can answer."""

    state: Literal["ready", "no_base", "damaged"]
    why: str
    """One line for a person."""


class Assistant(ReadyTasks):
    """A base model with the newest admitted adapter of one home."""

    def __init__(
        self,
        opened: Opened,
        home: Home,
        *,
        adapter: bool = True,
        line: str | None = None,
        input_guards: Sequence[Guard] = (),
        output_guards: Sequence[Guard] = (),
    ) -> None:
        """Use `open`.

        Args:
            opened: The loaded base.
            home: Where experience, ledger and adapters are kept.
            adapter: Whether to answer with the adapter in use.
            line: Which of the home's adapters; None is the one that was chosen last.
            input_guards: Asked about each of the person's turns before the model sees it.
            output_guards: Asked about each answer before anybody sees it, so that streams come in one piece.
        """
        self._opened, self._home, self._wanted, self._line = opened, home, adapter, line
        self.adapter_name: str | None = None
        self._key: str | None = None
        self._lease = lease(self.bundle)  # While this assistant lives, no update overwrites the slot it reads.
        self._writer = Writer(opened.engine, opened.chat)
        self._input_guards, self._output_guards = tuple(input_guards), tuple(output_guards)
        self._reload()

    @classmethod
    def open(
        cls,
        home: Path | None = None,
        *,
        bundle: Bundle | None = None,
        adapter: bool = True,
        line: str | None = None,
        engine: str = "auto",
        input_guards: Sequence[Guard] = (),
        output_guards: Sequence[Guard] = (),
    ) -> "Assistant":
        """Open the base model and the home.

        Args:
            home: The home's folder; default: LIMBECK_HOME, else the user's data folder.
            bundle: The base; default: an installed update, else the shipped one, else the one in the cache.
            adapter: False answers with the bare base.
            line: Name of one of the home's adapters, for answers and for `learn`; None is the one that was chosen last.
            engine: What computes the answers: coreml, portable, torch, or auto for the fastest that runs here. Where
                the one asked for cannot run, another answers, and `engine_choice` says why.
            input_guards: The app's own rules about prompts.
            output_guards: The app's own rules about answers.

        Raises:
            NoBaseError: There is no base on this machine yet; `limbeck build base` makes one.
            BaseMismatchError: The adapter in use was learned on another base.
            EngineError: There is no engine of this name.
        """
        return cls(
            open_engine(bundle or default_bundle(home), engine),
            Home.open(home),
            adapter=adapter,
            line=line,
            input_guards=input_guards,
            output_guards=output_guards,
        )

    @staticmethod
    def availability(home: Path | None = None) -> Availability:
        """Whether `open` would find a base, without loading it."""
        try:
            bundle = default_bundle(home)
        except NoBaseError as missing:
            return Availability(state="no_base", why=str(missing))
        except SdkError as damaged:
            return Availability(state="damaged", why=str(damaged))
        return Availability(state="ready", why=f"{bundle.manifest.name} {bundle.manifest.version} is ready")

    @property
    def bundle(self) -> Bundle:
        """The base that answers."""
        return self._opened.chat.bundle

    @property
    def context_tokens(self) -> int:
        """Most tokens of prompt and answer together."""
        return self._writer.engine.context_tokens

    @property
    def engine_name(self) -> str:
        """What computes the answers: torch, portable or coreml."""
        return self._writer.engine.name

    @property
    def engine_choice(self) -> Choice:
        """Which engine answers, and why."""
        return self._opened.choice

    def count(self, prompt: str | Sequence[Message]) -> int:
        """Tokens of a prompt, before anything is asked; errors as `pieces`."""
        return self._writer.count(_conversation(prompt))

    def prewarm(self) -> None:
        """Do now what the first answer would wait for: one token through the engine, and the grammar's tables."""
        list(self.pieces("Hello", max_new_tokens=1))
        self._writer.vocabulary  # noqa: B018  Cached once it is read.

    def pieces(
        self,
        prompt: str | Sequence[Message],
        *,
        schema: Schema | None = None,
        tools: Mapping[str, Mapping[str, Any]] | None = None,
        copy_from: str | None = None,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
        top_logprobs: int = 0,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Iterator[Piece]:
        """The answer piece by piece; the last piece has the whole record. Safe from several threads at once.

        Args:
            prompt: One user turn, or a whole conversation.
            schema: A pydantic type or JSON Schema that the answer must fit; strings under "x-copy" are words of
                `copy_from`.
            tools: Names of tools the model may call, to the JSON Schema of their arguments; a call is returned in the
                answer, not made. `session` makes calls.
            copy_from: Text of copied strings; None is the last user turn.
            max_new_tokens: The answer stops here at the latest.
            temperature: 0 takes the likeliest token.
            seed: Makes a sampled answer repeatable.
            stop: Texts before which the answer ends.
            top_logprobs: Likeliest tokens to tell at each step, 0 to 20.
            cancelled: Once it says yes the answer ends within one token.

        Raises:
            GenerationError: The prompt is empty, no text or malformed, or an argument is out of range.
            PromptTooLongError: Prompt and answer pass the model's context.
            SchemaError: Nothing can be guided by the schema.
            GuardrailError: A guard refused the prompt, or, at the first piece, the answer.
        """
        messages = _conversation(prompt)
        asked = Asked(
            messages=messages, schema=schema, tools=tools or {}, copy_from=copy_from, max_new_tokens=max_new_tokens,
            temperature=temperature, seed=seed, stop=tuple(stop), top_logprobs=top_logprobs,
        )  # fmt: skip
        self._writer.count(messages)  # What is no prompt at all is refused before an app's guards see it.
        for turn in messages:
            if turn["role"] == "user":
                _guarded(self._input_guards, turn["content"], of="prompt")
        pieces = self._writer.pieces(asked, key=self._key, adapter=self.adapter_name, cancelled=cancelled)
        return self._passed(pieces) if self._output_guards else pieces

    def _passed(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        whole = list(pieces)
        if (answer := whole[-1].answer) is not None:
            _guarded(self._output_guards, answer.text, of="answer")
        yield from whole

    def answer(self, prompt: str | Sequence[Message], **how: Any) -> Answer:
        """The whole record of an answer: text, value, probabilities, timing; arguments and errors as `pieces`."""
        last: Answer | None = None
        for piece in self.pieces(prompt, **how):
            last = piece.answer
        if last is None:
            raise GenerationError("the answer ended without a record; ask again")
        return last

    @overload
    def respond(
        self, prompt: str, schema: None = None, *, max_new_tokens: int = ..., temperature: float = ..., **how: Any
    ) -> str: ...
    @overload
    def respond(
        self, prompt: str, schema: type[Typed], *, max_new_tokens: int = ..., temperature: float = ..., **how: Any
    ) -> Typed: ...
    @overload
    def respond(
        self, prompt: str, schema: Mapping[str, Any], *, max_new_tokens: int = ..., temperature: float = ..., **how: Any
    ) -> Any: ...
    def respond(
        self,
        prompt: str,
        schema: Schema | None = None,
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        **how: Any,
    ) -> Any:
        """The whole answer: its text, or with `schema` a validated object (plain JSON for a JSON Schema).

        Args:
            prompt: One user turn.
            schema: A pydantic type or JSON Schema; None is free text.
            max_new_tokens: The answer stops here at the latest.
            temperature: 0 takes the likeliest token.
            how: What else `pieces` takes.

        Raises:
            AnswerError: The answer ended before it was whole, or the type's own validators refuse it.
            SdkError: As `pieces`.
        """
        answer = self.answer(prompt, schema=schema, max_new_tokens=max_new_tokens, temperature=temperature, **how)
        if schema is None:
            return answer.text
        return answer.value if answer.value is not None else value_of(schema, answer.text)

    def session(
        self,
        *,
        instructions: str = "",
        tools: Sequence[Callable[..., Any] | Tool] = (),
        overflow: Overflow = "slide",
        approve: Approve | None = None,
        limits: ToolLimits | None = None,
        restore: Path | None = None,
    ) -> Session:
        """Begin a conversation, or go on with a saved one; arguments and errors as `Session`."""
        made = Session(self, instructions=instructions, tools=tools, overflow=overflow, approve=approve, limits=limits)
        if restore is not None:
            made.restore(restore)
        return made

    def stream(self, prompt: str, *, max_new_tokens: int = 128, temperature: float = 0.0, **how: Any) -> Iterator[str]:
        """The answer to a prompt, piece by piece.

        Args:
            prompt: One user turn.
            max_new_tokens: The answer stops here at the latest, in tokens.
            temperature: 0 takes the likeliest token.
            how: What else `pieces` takes.

        Raises:
            PromptTooLongError: Prompt and answer pass the model's context.
            GenerationError: The arguments are out of range.
        """
        pieces = self.pieces(prompt, max_new_tokens=max_new_tokens, temperature=temperature, **how)
        return (piece.text for piece in pieces if piece.text)

    async def arespond(self, prompt: str, schema: Schema | None = None, **how: Any) -> Any:
        """The async twin of `respond`; a cancelled task cancels its answer within one token."""
        return await in_thread(lambda left: self.respond(prompt, schema, **or_left(how, left)))

    async def aanswer(self, prompt: str | Sequence[Message], **how: Any) -> Answer:
        """The async twin of `answer`."""
        return await in_thread(lambda left: self.answer(prompt, **or_left(how, left)))

    def astream(self, prompt: str, **how: Any) -> AsyncIterator[str]:
        """The async twin of `stream`; leaving the loop cancels its answer."""
        return each(lambda left: self.stream(prompt, **or_left(how, left)))

    def feedback(self, answer: Answer, signal: Literal["accepted", "edited", "rejected"], text: str = "") -> str:
        """Remember how the person took an answer; a rejected one is kept, and never learned from.

        Args:
            answer: What was shown.
            signal: What the person did with it.
            text: What they made of it, where it was edited.

        Returns:
            The id of the experience.

        Raises:
            GenerationError: An edited answer without its text, or no such signal.
        """
        if signal not in ("accepted", "edited", "rejected") or (signal == "edited") != bool(text):
            raise GenerationError(
                f"feedback is accepted, rejected, or edited with a text; got {signal!r} and {text!r:.40}"
            )
        return self._kept(prompt=answer.prompt, answer=text or answer.text, signal=Signal(signal))

    def remember(self, *, prompt: str, answer: str, contact: str | None = None) -> str:
        """Keep one experience for the next night, encrypted on this device; returns its id."""
        return self._kept(prompt=prompt, answer=answer, contact=contact)

    def contacts(self) -> list[str]:
        """Who is in what this person taught: names that must not leave the device when a question is handed on."""
        if not self._home.experience_db.exists():
            return []
        learner = Learner(self._home, None)
        try:
            return learner.store.contacts()
        finally:
            learner.close()

    def _kept(self, **what: Any) -> str:
        learner = Learner(self._home, None)
        try:
            return learner.remember([Experience(at=datetime.now(UTC), **what)])[0]
        finally:
            learner.close()

    def forget(self, *, exact: bool = False, **which: Any) -> Removal:
        """Remove records and say what may still hold a trace of them; arguments and errors as `Learner.forget`.

        With `exact` later answers come from before the records were learned, until the next night.
        """
        learner = Learner(self._home, None, adapter=self._line)
        try:
            return learner.forget(exact=exact, **which)
        finally:
            learner.close()
            self._reload()

    def learn(self, plan: NightPlan | None = None, *, stop: Stop | None = None) -> NightReport:
        """Learn from what is fresh: private, gated, reversible. Later answers use what was admitted.

        Args:
            plan: Public settings; None takes those of the bench.
            stop: Asked all the time; the night stops within a second once it says yes, and the next one goes on.

        Raises:
            NightStoppedError: It was asked to stop.
            PersonalizeError, PrivacyError: Refused or failed; the adapter before still answers.
        """
        with self._learner() as (learner, suited):
            return learn_noted(learner, plan or suited, stop=stop)

    def learn_when_idle(
        self, policy: NightPolicy | None = None, *, plan: NightPlan | None = None, stop: Stop = lambda: False
    ) -> NightReport | NoNight:
        """Learn if the device is idle, on its charger and cool, and stop when it no longer is; errors as `learn`.

        Args:
            policy: When a night may run; None takes the defaults.
            plan: As `learn`.
            stop: As `learn`.

        Returns:
            The report, or what stood against it.
        """
        with self._learner() as (learner, suited):
            return learn_when_idle(learner, plan or suited, policy or NightPolicy(), stop=stop)

    @contextmanager
    def _learner(self) -> Iterator[tuple[Learner, NightPlan]]:
        """A learner on the bare base in torch and a plan; afterwards the newest adapter answers."""
        base = base_of(self.bundle, runtime=self._opened.runtime, home=self._home.path)
        learner = Learner(self._home, base, adapter=self._line)
        try:
            yield learner, plan_of(base, records=learner.public_count(Unit.RECORD))
        finally:
            learner.close()
            self._reload()

    def _reload(self) -> None:
        """Let the newest admitted adapter answer from now on; answers under way keep theirs."""
        shelf = Shelf(self._home, self._line)
        adapter = shelf.load(base_digest=self.bundle.base_digest) if self._wanted else None
        moves = adapter is not None and any(bool(value.any()) for value in adapter.b.values())
        key = (
            self._writer.engine.wear(adapter) if adapter is not None and moves else None
        )  # One that is zero is the base.
        before, self._key = self._key, key
        self.adapter_name = shelf.in_use if adapter else None
        if before is not None and before != key:
            self._writer.tracks.forget(before)
            self._writer.engine.drop(before)


def _conversation(prompt: str | Sequence[Message]) -> list[Message]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if not isinstance(prompt, list | tuple) or not prompt or not all(isinstance(turn, Mapping) for turn in prompt):
        raise GenerationError(f"a prompt is a text or a list of messages, got {prompt!r:.60}")
    return [dict(turn) for turn in prompt]


def _guarded(guards: Sequence[Guard], text: str, *, of: str) -> None:
    for guard in guards:
        if why := guard(text):
            raise GuardrailError(why, of=of)
