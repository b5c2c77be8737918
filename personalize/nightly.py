"""A policy, a plan and a learner in; a night, or why there was none, out; and a note of it that `status` shows.

What a scheduler calls every so often: it looks at the device, learns if nothing stands against it, and stops within a
second when something comes up. The next call goes on where this one was stopped, at no new charge.
"""

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from personalize.errors import NightStoppedError, PersonalizeError
from personalize.learner import Learner, NightReport
from personalize.material import Progress
from personalize.plan import NightPlan
from personalize.schedule import Decision, NightPolicy, decide
from personalize.sensors import Sensors, Watch
from personalize.stopping import Stop
from privacy import PrivacyError

__all__ = ["NoNight", "learn_noted", "learn_when_idle"]

FORMAT = "last_night/1"
ASKED = "asked for now"


@dataclass(frozen=True, kw_only=True)
class NoNight:
    """Why a night was not begun, or not ended."""

    decision: Decision
    """What stood against it."""
    stopped: bool = False
    """Whether it had begun; the next call goes on with it."""

    def summary(self) -> str:
        """One line for a person."""
        done = "stopped, the next call goes on at no new charge" if self.stopped else "nothing was learned"
        return f"{done}: {self.decision.why()}"

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        return {"ran": False, "stopped": self.stopped, **self.decision.to_dict(), "why": self.decision.why()}


def learn_noted(
    learner: Learner,
    plan: NightPlan,
    *,
    why: str = ASKED,
    at: datetime | None = None,
    **options: Any,
) -> NightReport:
    """`Learner.learn`, with a note in the home of what became of it.

    Args:
        learner: Of the home.
        plan: As `Learner.learn`.
        why: Why it is run now.
        at: When; None is now.
        options: As `Learner.learn`.

    Raises:
        PersonalizeError, PrivacyError: As `Learner.learn`; noted too, unless another process is learning.
    """
    began = at or datetime.now(UTC)
    try:
        report = learner.learn(plan, **options)
    except (PersonalizeError, PrivacyError) as refused:
        _note(learner, began, ran=False, outcome=_word(refused), why=f"{why}; {refused}")
        raise
    except KeyboardInterrupt:
        _note(learner, began, ran=False, outcome="stopped", why=f"{why}; interrupted")
        raise
    outcome = "admitted" if report.verdict.admitted else "rejected"
    _note(learner, began, ran=True, outcome=outcome, why=why, adapter=report.adapter)
    return report


def learn_when_idle(
    learner: Learner,
    plan: NightPlan,
    policy: NightPolicy,
    *,
    sensors: Sensors | None = None,
    stop: Stop = lambda: False,
    progress: Progress = lambda phase, done, total: None,
    watch_seconds: float | None = None,
    **options: Any,
) -> NightReport | NoNight:
    """Learn if the device allows it, and stop when it no longer does.

    Args:
        learner: Of the home.
        plan: As `Learner.learn`.
        policy: When a night may run.
        sensors: What to read; None reads this machine.
        stop: Another reason to stop, such as Ctrl-C.
        progress: As `Learner.learn`.
        watch_seconds: How often the sensors are read while it runs; None is every 5 seconds.
        options: As `Learner.learn`.

    Returns:
        The report, or what stood against it.

    Raises:
        NightStoppedError: `stop` said yes.
        PersonalizeError, PrivacyError: As `Learner.learn`.
    """
    sensors = sensors or Sensors()
    now = sensors.read(learner.home.path)
    decision = decide(policy, now, learnable=learner.learnable(plan))
    if not decision.run:
        _note(learner, now.at, ran=False, outcome="not begun", why=decision.why())
        return NoNight(decision=decision)
    pace = {} if watch_seconds is None else {"seconds": watch_seconds}
    watch = Watch(policy, sensors, learner.home.path, **pace)
    try:
        return learn_noted(
            learner,
            plan,
            why=decision.why(),
            at=now.at,
            stop=lambda: stop() or watch(),
            progress=progress,
            **options,
        )
    except NightStoppedError:
        if watch.decision.run:
            raise  # It was the caller's stop.
        _note(learner, now.at, ran=False, outcome="stopped", why=watch.decision.why())
        return NoNight(decision=watch.decision, stopped=True)


def _note(learner: Learner, at: datetime, *, ran: bool, outcome: str, why: str, adapter: str | None = None) -> None:
    """Write what became of a night into the home; whoever is learning there meanwhile writes a note of its own."""
    note = {"format": FORMAT, "at": at.isoformat(timespec="seconds"), "ran": ran, "outcome": outcome, "why": why}
    with suppress(PersonalizeError), learner.home.lock():  # No room, or busy: a note must not hide what happened.
        learner.home.update_state(last_night=note | ({"adapter": adapter} if adapter else {}))


def _word(refused: Exception) -> str:
    return "stopped" if isinstance(refused, NightStoppedError) else "refused"
