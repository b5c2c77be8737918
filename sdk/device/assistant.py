"""What an app calls: answer, stream, remember, learn, on the device."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from personalize import Experience, Home
from personalize.adapter import attached
from personalize.learner import Learner, NightReport
from personalize.nightly import NoNight, learn_noted, learn_when_idle
from personalize.plan import NightPlan
from personalize.removal import Removal
from personalize.schedule import NightPolicy
from personalize.shelf import Shelf
from personalize.stopping import Stop
from privacy import Unit
from sdk.bundle import Bundle, default_bundle
from sdk.device.night import base_of, plan_of
from sdk.device.runtime import Runtime
from sdk.device.slots import lease

__all__ = ["Assistant"]


class Assistant:
    """A base model with the newest admitted adapter of one home."""

    def __init__(self, runtime: Runtime, home: Home, *, adapter: bool = True, line: str | None = None) -> None:
        """Use `open`.

        Args:
            runtime: The loaded base.
            home: Where experience, ledger and adapters are kept.
            adapter: Whether to answer with the adapter in use.
            line: Which of the home's adapters; None is the one that was chosen last.
        """
        self._runtime, self._home, self._wanted, self._line = runtime, home, adapter, line
        self.adapter_name: str | None = None
        self._lease = lease(runtime.bundle)  # While this assistant lives, no update overwrites the slot it reads.
        self._attached = ExitStack()
        self._reload()

    @classmethod
    def open(
        cls,
        home: Path | None = None,
        *,
        bundle: Bundle | None = None,
        adapter: bool = True,
        line: str | None = None,
    ) -> "Assistant":
        """Open the base model and the home.

        Args:
            home: The home's folder; default: LIMBECK_HOME, else the user's data folder.
            bundle: The base; default: an installed update, else the shipped one, else the one in the cache.
            adapter: False answers with the bare base.
            line: Name of one of the home's adapters, for answers and for `learn`; None is the one that was chosen last.

        Raises:
            NoBaseError: There is no base on this machine yet; `limbeck build base` makes one.
            BaseMismatchError: The adapter in use was learned on another base.
        """
        return cls(Runtime.open(bundle or default_bundle(home)), Home.open(home), adapter=adapter, line=line)

    def respond(self, prompt: str, *, max_new_tokens: int = 128, temperature: float = 0.0) -> str:
        """The whole answer to a prompt; arguments and errors as `stream`."""
        return "".join(self.stream(prompt, max_new_tokens=max_new_tokens, temperature=temperature))

    def stream(self, prompt: str, *, max_new_tokens: int = 128, temperature: float = 0.0) -> Iterator[str]:
        """The answer to a prompt, piece by piece.

        Args:
            prompt: One user turn.
            max_new_tokens: The answer stops here at the latest, in tokens.
            temperature: 0 takes the likeliest token.

        Raises:
            PromptTooLongError: Prompt and answer pass the model's context.
            GenerationError: The arguments are out of range.
        """
        return self._runtime.stream(prompt, max_new_tokens, temperature=temperature)

    def remember(self, *, prompt: str, answer: str, contact: str | None = None) -> str:
        """Keep one experience for the next night, encrypted on this device; returns its id."""
        learner = Learner(self._home, None)
        try:
            kept = Experience(prompt=prompt, answer=answer, contact=contact, at=datetime.now(UTC))
            return learner.remember([kept])[0]
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
        """A learner on the bare base, and a plan for it; afterwards the newest admitted adapter is on again."""
        base = base_of(self._runtime.bundle, runtime=self._runtime)
        learner = Learner(self._home, base, adapter=self._line)
        self._attached.close()  # A night starts from the bare base.
        try:
            yield learner, plan_of(base, records=learner.public_count(Unit.RECORD))
        finally:
            learner.close()
            self._reload()

    def _reload(self) -> None:
        """Attach the newest admitted adapter in place of the one before; it stays on for all answers."""
        self._attached.close()
        shelf = Shelf(self._home, self._line)
        adapter = shelf.load(base_digest=self._runtime.bundle.base_digest) if self._wanted else None
        self.adapter_name = shelf.in_use if adapter else None
        if adapter:
            self._attached.enter_context(attached(self._runtime.model, adapter))
