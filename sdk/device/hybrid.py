"""A session's answer in, the same or a larger model's if the person permits it out: the joint use of the parts.

The order, which nothing changes:

(1) The device has answered. (2) The router says whether that answer is good enough; if so, it is the answer.
(3) What would leave is made ready: roles and texts, redacted. (4) The person is asked, unless consent stands.
(5) The cloud is asked once, by its deadline. (6) Its answer gets back what was taken out, and stands in the session.

Whatever fails or is refused from (3) on, the device's answer is the answer, with its confidence and the reason. Nothing
is learned from an answer of the cloud, unless somebody passes it to `Assistant.feedback`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from sdk.confidence.evidence import agreement
from sdk.device.answers.records import Answer
from sdk.device.answers.session import Session
from sdk.device.cloud import Cloud, CloudAnswer
from sdk.device.handoff.consent import Consent, Preview
from sdk.device.handoff.outgoing import prepared
from sdk.device.router import Decision, Evidence, Router
from sdk.errors import CloudError, HandOffError

__all__ = ["Ask", "HandOff", "HybridAnswer"]

Ask = Callable[[Preview], bool]
"""Shows a preview to the person; True is yes."""
NOT_ASKED = "sending it was not permitted"
STOPPED = "it was stopped while it was written"


@dataclass(frozen=True, kw_only=True)
class HybridAnswer:
    """An answer, and how it came about."""

    answer: Answer
    """As it stands: its text and its route, `local` or `cloud`; all else is of the device's own."""
    local_text: str
    """What the device itself said."""
    decision: Decision
    """The router's, with the confidence of the device's answer."""
    reason: str
    """Why it came from there, in one clause for a person."""
    preview: Preview | None = None
    """What left, or what would have; None where nothing was to leave."""
    cloud: CloudAnswer | None = None
    """The cloud's answer as it came, before anything was put back; None for `local`."""

    @property
    def text(self) -> str:
        """What a person reads."""
        return self.answer.text

    @property
    def route(self) -> str:
        """`local` or `cloud`."""
        return self.answer.route


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

    def in_session(
        self, session: Session, *, answer: Answer, kind: str = "question", ask: Ask | None = None, max_new_tokens: int
    ) -> HybridAnswer:
        """Steps (2) to (6) for the last answer of a session, which goes on with the answer that stands.

        Args:
            session: Its question leaves with the turns before it, after the preview has shown all of them.
            answer: The session's answer to it. One that somebody stopped is kept.
            kind: Kind of request, by which the person may have consented.
            ask: Shows the preview and returns True for yes; None where nobody can be asked.
            max_new_tokens: The cloud's answer stops there at the latest.

        Raises:
            SessionError: Nothing was asked in the session.
        """
        evidence = Evidence.of_steps(answer.steps, valid=answer.fits)
        if answer.finish != "cancelled" and (count := self._router.samples):
            others = session.samples(count, max_new_tokens=max_new_tokens)
            evidence = replace(evidence, agreement=agreement(answer.text, others))
        decision = self._router.decide(evidence)
        kept = HybridAnswer(answer=answer, local_text=answer.text, decision=decision, reason=decision.reason)
        if answer.finish == "cancelled":
            return replace(kept, reason=STOPPED)
        made = kept if decision.local else self._handed_on(session, kept, kind, ask, max_new_tokens)
        if made.route == "cloud":
            session.replace_answer(made.text)
        return made

    def _handed_on(
        self, session: Session, kept: HybridAnswer, kind: str, ask: Ask | None, max_new_tokens: int
    ) -> HybridAnswer:
        """Steps (3) to (6)."""
        asked, preview = session.question(), None
        try:
            outgoing = prepared(asked, kind=kind, host=self._cloud.host, names=self._names, region=self._region)
            preview = outgoing.preview
            permission = self._consent.asked(preview, ask)
            if permission is None:
                return replace(kept, reason=NOT_ASKED, preview=preview)
            said = self._cloud.ask(outgoing.messages, permission, max_new_tokens=max_new_tokens)
        except (CloudError, HandOffError) as failed:
            return replace(kept, reason=str(failed), preview=preview)
        restored = replace(kept.answer, text=outgoing.redacted.restored(said.text), route="cloud")
        return replace(kept, answer=restored, preview=preview, cloud=said)
