"""A question in, the device's answer out, or a larger model's if the person permits it: the joint use of the parts.

The order, which nothing changes:

(1) The device answers. (2) The router says whether that answer is good enough; if so, it is the answer.
(3) What would leave is made ready: roles and texts, redacted. (4) The person is asked, unless consent stands.
(5) The cloud is asked once, by its deadline. (6) Its answer gets back what was taken out.

Whatever fails or is refused from (3) on, the device's answer is the answer, with its confidence and the reason. Nothing
is learned from an answer of the cloud: that is `keep`, which somebody must call.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from sdk.confidence.evidence import agreement
from sdk.device.answers.decoding import Decoding, decode
from sdk.device.answers.records import Answer
from sdk.device.answers.session import Session
from sdk.device.chat import Chat
from sdk.device.cloud import Cloud, CloudAnswer
from sdk.device.engines.protocol import Engine
from sdk.device.handoff.consent import Consent, Preview
from sdk.device.handoff.outgoing import prepared
from sdk.device.router import Decision, Evidence, Router
from sdk.errors import CloudError, HandOffError, PromptTooLongError

__all__ = ["Answers", "Ask", "EngineAnswers", "HandOff", "Hybrid", "HybridAnswer", "keep"]

Messages = Sequence[Mapping[str, Any]]
Ask = Callable[[Preview], bool]
"""Shows a preview to the person; True is yes."""
NOT_ASKED = "sending it was not permitted"
STOPPED = "it was stopped while it was written"


class Answers(Protocol):
    """The device's own way to answer."""

    def answered(self, messages: Messages, max_new_tokens: int) -> tuple[str, Evidence]:
        """The answer, and what tells how sure it is.

        Raises:
            GenerationError: It cannot answer this at all.
        """


@dataclass(frozen=True, kw_only=True)
class HybridAnswer:
    """An answer, and how it came about."""

    text: str
    route: str
    """`local` or `cloud`."""
    local_text: str
    """What the device itself said."""
    decision: Decision
    """The router's, with the confidence of the device's answer."""
    reason: str
    """Why it came from there, in one clause for a person."""
    preview: Preview | None
    """What left, or what would have; None where nothing was to leave."""
    cloud: CloudAnswer | None
    """The cloud's answer as it came, before anything was put back; None for `local`."""


class HandOff:
    """What becomes of an answer that the device has given: kept, or a larger model's in its place."""

    def __init__(
        self, router: Router, consent: Consent, cloud: Cloud, *, names: Iterable[str] = (), region: str = "US"
    ) -> None:
        """Put the parts together; nothing is asked.

        Args:
            router: Says which answers are good enough.
            consent: What the person has said about sending.
            cloud: The larger model.
            names: People and places that must not leave; from the user's own contacts.
            region: Where telephone numbers without a country code are from.
        """
        self._router, self._consent, self._cloud = router, consent, cloud
        self._names, self._region = tuple(names), region

    def considered(
        self,
        messages: Messages,
        text: str,
        evidence: Evidence,
        *,
        kind: str = "question",
        ask: Ask | None = None,
        max_new_tokens: int = 128,
    ) -> HybridAnswer:
        """Steps (2) to (6).

        Args:
            messages: What was asked.
            text: The device's answer.
            evidence: What tells how sure it is.
            kind: Kind of request, by which the person may have consented.
            ask: Shows the preview and returns True for yes; None where nobody can be asked.
            max_new_tokens: The cloud's answer stops there at the latest.
        """
        decision = self._router.decide(evidence)
        if decision.local:
            return _kept(text, decision, decision.reason, None)
        preview: Preview | None = None
        try:
            outgoing = prepared(messages, kind=kind, host=self._cloud.host, names=self._names, region=self._region)
            preview = outgoing.preview
            permission = self._consent.asked(preview, ask)
            if permission is None:
                return _kept(text, decision, NOT_ASKED, preview)
            said = self._cloud.ask(outgoing.messages, permission, max_new_tokens=max_new_tokens)
        except (CloudError, HandOffError) as failed:
            return _kept(text, decision, str(failed), preview)
        return HybridAnswer(
            text=outgoing.redacted.restored(said.text), route="cloud", local_text=text, decision=decision,
            reason=decision.reason, preview=preview, cloud=said,
        )  # fmt: skip

    def in_session(
        self, session: Session, *, answer: Answer, kind: str = "question", ask: Ask | None = None, max_new_tokens: int
    ) -> HybridAnswer:
        """The same for the last answer of a session, which goes on with the answer that stands.

        Args:
            session: Its question leaves with the turns before it, after the preview has shown all of them.
            answer: The session's answer to it. One that somebody stopped is kept.
            kind: As above.
            ask: As above.
            max_new_tokens: As above.

        Raises:
            SessionError: Nothing was asked in the session.
        """
        evidence = Evidence.of_steps(answer.steps, valid=answer.fits)
        if answer.finish != "cancelled" and (count := self._router.samples):
            others = session.samples(count, max_new_tokens=max_new_tokens)
            evidence = replace(evidence, agreement=agreement(answer.text, others))
        if answer.finish == "cancelled":
            return _kept(answer.text, self._router.decide(evidence), STOPPED, None)
        made = self.considered(
            session.question(), answer.text, evidence, kind=kind, ask=ask, max_new_tokens=max_new_tokens
        )
        if made.route == "cloud":
            session.replace_answer(made.text)
        return made


class Hybrid:
    """A device's answers, with a larger model behind them."""

    def __init__(
        self,
        local: Answers,
        router: Router,
        consent: Consent,
        cloud: Cloud,
        *,
        names: Iterable[str] = (),
        region: str = "US",
    ) -> None:
        """Put the parts together; nothing is asked.

        Args:
            local: Answers on the device.
            router: As HandOff, and so all that follow.
            consent: What the person has said about sending.
            cloud: The larger model.
            names: People and places that must not leave.
            region: Where telephone numbers without a country code are from.
        """
        self._local, self._hand_off = local, HandOff(router, consent, cloud, names=names, region=region)

    def answer(
        self, prompt: str | Messages, *, kind: str = "question", ask: Ask | None = None, max_new_tokens: int = 128
    ) -> HybridAnswer:
        """Answer.

        Args:
            prompt: One user turn, or a conversation.
            kind: Kind of request, by which the person may have consented.
            ask: Shows the preview and returns True for yes; None where nobody can be asked.
            max_new_tokens: Either answer stops there at the latest.

        Raises:
            GenerationError: The device cannot answer this at all; nothing was sent.
        """
        messages: Messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        text, evidence = self._local.answered(messages, max_new_tokens)
        return self._hand_off.considered(messages, text, evidence, kind=kind, ask=ask, max_new_tokens=max_new_tokens)


def keep(answer: HybridAnswer, prompt: str, remember: Callable[..., str]) -> str:
    """Let the device learn from an answer: an explicit choice, made for each answer.

    Args:
        answer: What was accepted.
        prompt: What was asked.
        remember: `Assistant.remember`, or what else keeps an experience on this device.

    Returns:
        Its id.
    """
    return remember(prompt=prompt, answer=answer.text)


def _kept(text: str, decision: Decision, reason: str, preview: Preview | None) -> HybridAnswer:
    return HybridAnswer(
        text=text, route="local", local_text=text, decision=decision, reason=reason, preview=preview, cloud=None
    )


class EngineAnswers:
    """Greedy answers of an engine, with the evidence of each token."""

    def __init__(self, engine: Engine, chat: Chat, *, adapter: str | None = None) -> None:
        """Answer with `engine`, whose text side is `chat`, under the adapter of a key."""
        self._engine, self._chat, self._adapter = engine, chat, adapter

    def answered(self, messages: Messages, max_new_tokens: int) -> tuple[str, Evidence]:
        """See Answers.

        Raises:
            PromptTooLongError: The prompt leaves no room for an answer.
        """
        tokens = self._chat.encode([{"role": one["role"], "content": one["content"]} for one in messages])
        room = min(max_new_tokens, self._engine.context_tokens - len(tokens))
        if room < 1:
            raise PromptTooLongError(
                prompt_tokens=len(tokens), answer_tokens=1, context_tokens=self._engine.context_tokens
            )
        track = self._engine.begin(self._adapter)
        try:
            steps = list(decode(track, tokens, Decoding(max_new_tokens=room, stop=self._chat.stop_tokens)))
        finally:
            track.close()
        said = self._chat.tokenizer.decode([step.token for step in steps])
        return str(said).strip(), Evidence.of_steps(steps)
