"""One person's text in; one private night out: what it gained, what it forgot, what it spent.

The flow is `run`. What is private goes through personalize.Learner and its ledger, in a home of its own; the two
controls (no privacy, another person) are trained beside it and thrown away.
"""

import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from personalize import rehearsal
from personalize.adapter import Adapter
from personalize.errors import PackError, TrainingError
from personalize.experience import Experience
from personalize.forward import encode, prefixes
from personalize.home import Home
from personalize.learner import LIFETIME, Base, Learner, NightReport
from personalize.pack import DomainPack
from personalize.plan import NightPlan, clip_norm_of
from personalize.sources import MIN_RECORDS
from personalize.train import train
from personalize.trainable import trainable
from sdk.build.basis import learn_domain, pack_key
from sdk.build.people import spread
from sdk.bundle import Bundle, cache_folder
from sdk.demo.pace import Pace
from sdk.demo.person import Person
from sdk.demo.scores import Held, Score
from sdk.device.night import base_of, plan_of
from sdk.errors import NoDirectionsError

__all__ = ["NightResult", "run"]

DOMAIN_PASSES = 2  # Over a few records of each other person; reading them once costs as much as a pass.

Progress = Callable[[str, int, int], None]
"""Called with (what is done now, done, total)."""


@dataclass
class _Clock:
    """Seconds of each phase."""

    phases: list[dict[str, Any]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.phases.append({"name": name, "seconds": round(time.monotonic() - start, 2)})


NightResult = dict[str, Any]
"""What `limbeck demo --json` prints."""


def run(
    bundle: Bundle,
    person: Person,
    plan: NightPlan,
    *,
    home: Path,
    full: bool = False,
    nights: int = 1,
    progress: Progress = lambda what, done, total: None,
) -> NightResult:
    """Live one person's nights and measure them on their later text.

    Args:
        bundle: The base model.
        person: Text, controls and, where there is, public text of the same kind.
        plan: Settings of each night. Where there is no public text to take a basis from, the plan of an app.
        home: A new folder for the demo's own store, ledger and adapters.
        full: Take all records and probes, however long it takes; else what this machine manages in minutes.
        nights: Number of wall-clock blocks that the earlier text is split into; each is one night.
        progress: Told what is done now.
    """
    clock = _Clock()
    with clock.phase("open the base model"):
        base = base_of(bundle)
        pace = Pace() if full else Pace.of_machine(base)
        base = replace(base, probes_per_leg=pace.probes_per_leg)
    mine, later = spread(person.train, pace.train_records), spread(person.test, pace.test_records)
    night_of = _equal_nights(mine, nights)
    if person.public:
        with clock.phase("learn from other people's public text"):
            base = _begun_from_others(base, person, plan, pace, progress)
    if person.public and base.basis is not None:
        plan = replace(plan, clip_norm=clip_norm_of(len(base.basis)))
    else:
        steps = plan.steps if person.public and not full else None  # A demo of minutes: as few as directions need.
        plan = plan_of(base, epsilon=plan.epsilon, delta=plan.delta, records=len(mine), steps=steps)
    with clock.phase("private nights"):
        learner = Learner(Home.open(home), base, night_of=night_of)
        try:
            learner.remember(mine)
            reports = [
                learner.learn(plan, blocks=[block], progress=_named(progress, f"night {number + 1} of {nights}"))
                for number, block in enumerate(learner.store.blocks(trained=False))
            ]
            learned = learner.shelf.load(base_digest=base.digest) or base.first()
        finally:
            learner.close()
    with clock.phase("same night without privacy"):
        free = _control(base, plan, mine, private=False, progress=_named(progress, "without privacy"))
    with clock.phase("another person's night"):
        other = spread(person.wrong[: -(len(person.wrong) // 5)], len(mine))
        wrong = _control(base, plan, other, private=True, progress=_named(progress, "another person"))
    with clock.phase("test on later text"):
        began, share = base.first(), reports[-1].verdict.alpha or 1.0
        controls = {"wrong_user": wrong, "nonprivate": free}  # At the share that the gate let in: like against like.
        arms = {"base": base.bare(), "adapter": learned}
        arms |= {arm: began.toward(control, share) for arm, control in controls.items()}
        if base.start is not None:
            arms["start"] = base.start
        scores = _scores(base, plan, later, arms, progress)
    return _result(person, plan, reports, scores, clock, mine=len(mine), later=len(later))


def _begun_from_others(base: Base, person: Person, plan: NightPlan, pace: Pace, progress: Progress) -> Base:
    """The base with what public people teach: a start, and directions if they differ in anything that can be shown."""
    try:
        pack = _domain(base, person, plan, pace, progress)
    except NoDirectionsError as none:
        return replace(base, start=none.start)
    return replace(base, start=pack.start, basis=pack.basis)


def _domain(base: Base, person: Person, plan: NightPlan, pace: Pace, progress: Progress) -> DomainPack:
    """The public pack of this kind of text, from the cache or learned now."""
    people = {
        name: [(item.prompt, item.answer) for item in spread(items, pace.public_records)]
        for name, items in spread(list(person.public.items()), pace.public_people)
    }
    folder = cache_folder() / "domains" / pack_key(base, people)
    try:
        return DomainPack.load(folder, base_digest=base.digest)
    except PackError:
        pack = learn_domain(base, people, max_tokens=plan.max_tokens, passes=DOMAIN_PASSES, progress=progress)
        pack.save(folder)
        return pack


def _equal_nights(records: list[Experience], nights: int) -> Callable[[datetime], str]:
    """Wall-clock blocks of equal length from the first record's time to the last one's: times are public."""
    first, last = records[0].at, records[-1].at

    def night_of(at: datetime) -> str:
        share = (at - first) / (last - first) if last > first else 0.0
        return f"night-{min(nights, 1 + int(share * nights)):02d}"

    counts = Counter(night_of(item.at) for item in records)
    if len(counts) < nights or min(counts.values()) < MIN_RECORDS:
        fewest = min(counts.values()) if len(counts) == nights else 0
        raise TrainingError(
            f"a night of {nights} would have {fewest} records, it needs {MIN_RECORDS}; use fewer --nights"
        )
    return night_of


def _control(base: Base, plan: NightPlan, records: list[Experience], *, private: bool, progress: Progress) -> Adapter:
    """The same night outside the ledger: on public text, or without privacy for comparison. Never admitted."""
    mine = [encode(base.tokenizer, item.prompt, item.answer, max_tokens=plan.max_tokens) for item in records]
    mine.sort(key=lambda record: len(record.ids))
    rows = list(prefixes(base.model, mine, cut=base.spec.cut))
    texts = rehearsal.anchors(base.rehearsal, base.tokenizer, count=plan.steps * plan.rehearsal_per_step)
    public = list(prefixes(base.model, texts, cut=base.spec.cut))
    parts = trainable(plan.kind, base.first(), model=base.model, basis=base.basis)
    run = plan.run() if private else None
    return train(
        base.model, parts, rows, public, plan, run=run, progress=lambda done, steps: progress("learning", done, steps)
    )


def _scores(
    base: Base, plan: NightPlan, later: list[Experience], arms: dict[str, Adapter], progress: Progress
) -> dict[str, Score]:
    pairs = [(item.prompt, item.answer) for item in later]
    held = Held(base.model, base.tokenizer, pairs, cut=base.spec.cut, max_tokens=plan.max_tokens)
    scores = {}
    for done, (arm, adapter) in enumerate(arms.items()):
        progress("testing on later text", done, len(arms))
        scores[arm] = held.score(adapter)
    return scores


def _named(progress: Progress, prefix: str) -> Progress:
    return lambda what, done, total: progress(f"{prefix}: {what}", done, total)


def _result(
    person: Person,
    plan: NightPlan,
    reports: list[NightReport],
    scores: dict[str, Score],
    clock: _Clock,
    *,
    mine: int,
    later: int,
) -> NightResult:
    last = reports[-1]
    began_at = scores.get("start", scores["base"])
    gains = (began_at.bits - scores["adapter"].bits) / began_at.characters
    result: NightResult = {
        "person": person.name,
        "source": person.source,
        "wrong_user": person.wrong_name,
        "records": mine + later,
        "train_records": mine,
        "test_records": later,
        "nights": len(reports),
    }
    for arm, score in scores.items():
        result[f"{arm}_bits_per_char"] = score.bits_per_char
        result[f"{arm}_next_word_accuracy"] = score.next_word_accuracy
    return result | {
        "intervals": {arm: list(score.interval()) for arm, score in scores.items()},
        "gain": dict(zip(("mean", "low", "high"), scores["adapter"].gain_over(began_at), strict=True)),
        "gain_over_wrong_user": dict(
            zip(("mean", "low", "high"), scores["adapter"].gain_over(scores["wrong_user"]), strict=True)
        ),
        "gains": gains.tolist(),
        "kind": plan.kind,
        "epsilon": max(report.epsilon for report in reports),
        "epsilon_pld": max(report.epsilon_pld for report in reports),
        "delta": last.delta,
        "unit": last.unit,
        "neighbours": last.neighbours,
        "epsilon_left": last.epsilon_left,
        "lifetime_budget": LIFETIME.epsilon,
        "noise_multiplier": last.noise_multiplier,
        "steps": last.steps,
        "retention": last.to_dict()["retention"],
        "admitted": last.verdict.admitted,
        "alpha": last.verdict.alpha,
        "phases": clock.phases,
        "seconds": round(time.monotonic() - clock.began, 1),
        "peak_megabytes": round(_peak_bytes() / 1e6, 1),
    }


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts kilobytes.
