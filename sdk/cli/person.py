"""The person's commands: what to remember and forget, a night of learning, how things stand."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from personalize.errors import NightStoppedError, TrainingError
from privacy.errors import BudgetExhaustedError
from sdk.cli.options import (
    Tell,
    adapter_option,
    answer,
    home_option,
    json_option,
    one_source,
    shown_progress,
    source_options,
)
from sdk.cli.signals import stop_when_asked

if TYPE_CHECKING:
    from personalize.learner import Learner
    from sdk.bundle import Bundle

__all__ = ["forget", "learn", "remember", "status"]


@click.command()
@click.option("--prompt", default="", help="What was asked, or what led to the text.")
@click.option("--answer", "taught", help="The text to learn from.")
@click.option("--contact", help="Whose conversation it is; `forget --contact` finds it again.")
@source_options
@home_option
@json_option
def remember(
    prompt: str,
    taught: str | None,
    contact: str | None,
    git: Path | None,
    author: str | None,
    mbox: Path | None,
    jsonl: Path | None,
    text: Path | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Keep text for the next night; it is encrypted and stays on this device."""
    one_source(answer=Path("-") if taught is not None else None, git=git, mbox=mbox, jsonl=jsonl, text=text)
    from personalize import Experience, Home, from_git, from_jsonl, from_mbox, from_text
    from personalize.learner import Learner

    if taught is not None:
        kept = [Experience(prompt=prompt, answer=taught, contact=contact, at=datetime.now(UTC))]
    elif git:
        kept = from_git(git, author)
    elif mbox:
        kept = from_mbox(mbox)
    elif jsonl:
        kept = from_jsonl(jsonl)
    elif text:
        kept = from_text(text)
    else:
        raise click.UsageError("say what to remember: --answer TEXT, or one of --git, --mbox, --jsonl, --text")
    learner = Learner(Home.open(home), None)
    try:
        ids = learner.remember(kept)
        fresh = sum(1 for _ in learner.store.fresh())
    finally:
        learner.close()
    answer(
        {"remembered": len(ids), "ids": ids, "fresh": fresh},
        f"remembered {len(ids)}; {fresh} fresh records wait for the next night",
        as_json=as_json,
    )


@click.command()
@click.argument("ids", nargs=-1)
@click.option("--before", type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]), help="Everything older (UTC).")
@click.option("--contact", help="Everything with this contact.")
@click.option("--all", "everything", is_flag=True, help="Everything.")
@click.option("--yes", is_flag=True, help="With --all: do not ask.")
@click.option("--exact", is_flag=True, help="Also go back to before any adapter learned from them, and learn again.")
@click.option("--later", is_flag=True, help="With --exact: leave the learning to the next night.")
@home_option
@json_option
def forget(
    ids: tuple[str, ...],
    before: datetime | None,
    contact: str | None,
    everything: bool,
    yes: bool,
    exact: bool,
    later: bool,
    home: Path | None,
    as_json: bool,
) -> None:
    """Remove records and everything made from them but the adapters. What was spent stays spent."""
    given = [bool(ids), before is not None, contact is not None, everything]
    if sum(given) != 1:
        raise click.UsageError("say what to forget: IDS, --before DATE, --contact NAME or --all")
    if later and not exact:
        raise click.UsageError("--later says when to learn again, which only --exact does")
    if everything and not yes:
        click.confirm("Forget every record?", abort=True, err=True)
    from personalize import Home
    from personalize.learner import Learner

    which: dict[str, Any] = {"everything": True}
    if ids:
        which = {"ids": ids}
    elif before is not None:
        which = {"before": before.replace(tzinfo=UTC)}
    elif contact is not None:
        which = {"contact": contact}
    learner = Learner(Home.open(home), None)
    try:
        gone = learner.forget(exact=exact, **which)
        left = learner.store.count()
        again = _learned_again(learner) if gone.undone and gone.undone.fresh and not later else {}
    finally:
        learner.close()
    facts = {"forgotten": gone.count, "left": left, **gone.to_dict(), **again}
    words = f"forgot {gone.count} records, {left} left; {gone.remains()}"
    answer(facts, "\n".join([words, *again.values()]) if not as_json else "", as_json=as_json)


def _learned_again(learner: "Learner") -> dict[str, Any]:
    """Learn again from what is still remembered: a new night, charged like any other; or a line that says why not."""
    from personalize.nightly import learn_noted
    from sdk.device.night import base_of, plan_of

    with shown_progress() as tell, stop_when_asked() as asked:
        learner.base = base_of(_bundle(tell, learner.home.path), home=learner.home.path)
        try:
            promised = learner.ledger.budget().unit
            plan = plan_of(learner.base, records=learner.public_count(promised)).for_unit(promised)
            report = learn_noted(learner, plan, why="after exact removal", progress=tell, stop=asked)
            return {"learned_again": report.summary()}
        except (TrainingError, BudgetExhaustedError) as refused:
            return {"learned_again": f"not learned again: {refused}"}


@click.command()
@click.option("--epsilon", type=float, default=2.0, show_default=True, help="Privacy budget of tonight, per record.")
@click.option("--delta", type=float, default=1e-5, show_default=True, help="Probability that goes with epsilon.")
@click.option("--steps", type=click.IntRange(1, 1000), help="Steps of the night. [the kind's own]")
@click.option(
    "--kind",
    type=click.Choice(["basis", "xs", "frozen-a", "lora"]),
    help="What of the adapter is trained. [what gained most in the bench for so many records at this epsilon]",
)
@click.option("--pack", help="Kind of text whose public directions to use. [the only one of the base]")
@click.option(
    "--unit",
    type=click.Choice(["record", "conversation", "day"]),
    default="record",
    show_default=True,
    help="Whose presence the night hides; the first night of a home decides for all.",
)
@click.option("--when-idle", is_flag=True, help="Only if the device is idle, charging and cool; else say why not.")
@click.option("--policy", multiple=True, metavar="NAME=VALUE", help="With --when-idle: move a limit, such as load=2.")
@click.option("--gain-check", is_flag=True, help="Hold some records out and look at them once, at a small charge.")
@click.option("--anew", is_flag=True, help="Give up a night that was stopped, instead of going on with it.")
@adapter_option
@home_option
@json_option
def learn(
    epsilon: float,
    delta: float,
    steps: int | None,
    kind: str | None,
    pack: str | None,
    unit: str,
    when_idle: bool,
    policy: tuple[str, ...],
    gain_check: bool,
    anew: bool,
    line: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Learn from the fresh records within the privacy budget; pass the gate, or change nothing."""
    if policy and not when_idle:
        raise click.UsageError("--policy says when a night may run, which only --when-idle asks")
    from personalize import Home
    from personalize.learner import Learner
    from personalize.nightly import learn_noted, learn_when_idle
    from personalize.schedule import NightPolicy
    from privacy import Unit
    from sdk.device.night import base_of, plan_of

    allowed = NightPolicy().changed(policy)
    place = Home.open(home)
    with shown_progress() as tell, stop_when_asked() as asked:
        base = base_of(_bundle(tell, home), pack=pack, home=place.path)
        learner = Learner(place, base, adapter=line)
        try:
            records = learner.public_count(Unit(unit))
            plan = plan_of(base, kind=kind, epsilon=epsilon, delta=delta, steps=steps, records=records)
            plan = plan.for_unit(Unit(unit))
            if when_idle:
                made = learn_when_idle(
                    learner, plan, allowed, progress=tell, stop=asked, anew=anew, gain_check=gain_check
                )
            else:
                made = learn_noted(learner, plan, progress=tell, stop=asked, anew=anew, gain_check=gain_check)
        except NightStoppedError as stopped:
            click.echo(f"limbeck: {stopped}", err=True)
            raise click.Abort from stopped
        finally:
            learner.close()
    answer({"ran": True} | made.to_dict(), made.summary(), as_json=as_json)


def _bundle(tell: Tell, home: Path | None) -> "Bundle":
    from sdk.build.package import open_base

    return open_base(lambda step, done: tell(step, round(100 * done), 100), home=home)


@click.command()
@home_option
@json_option
def status(home: Path | None, as_json: bool) -> None:
    """Say what is remembered, what was learned, what it cost, and what is left."""
    from personalize import Home
    from personalize.learner import Learner

    learner = Learner(Home.open(home), None)
    try:
        facts = learner.status()
    finally:
        learner.close()
    facts |= _engine(home)
    spent = f"{facts['epsilon_spent']:.3f} spent at most on any {facts['unit']}"
    left = f"{facts['epsilon_left']:.3f} left of {facts['lifetime_budget']:g}"
    lines = [
        f"home        {facts['home']}",
        f"records     {facts['records']} ({facts['fresh']} fresh, {facts['trained']} trained)",
        f"adapter     {facts['adapter'] or 'none yet: the bare base answers'}",
        f"engine      {facts['engine'] or 'none'}: {facts['engine_why']}",
        f"epsilon     {spent}, {left} (delta {facts['delta']:g}, {facts['neighbours']})",
        f"ledger      {facts['ledger_entries']} entries, verified",
        f"rollback    of the ledger file is noticed by: {facts['rollback_protection']}",
    ]
    if (lost := facts["unfinished_nights"] - bool(facts["can_go_on"])) > 0:
        lines.append(f"unfinished  {lost} nights ended early; what they reserved stays spent")
    lines += [*_about_nights(facts), *_about_label(facts["label"] or {})]
    answer(facts, "\n".join(lines), as_json=as_json)


def _engine(home: Path | None) -> dict[str, str | None]:
    """Which engine would answer, and why; no model is loaded."""
    from sdk.bundle import default_bundle
    from sdk.device.engines.choice import choose
    from sdk.errors import SdkError

    try:
        choice = choose(default_bundle(home), os.environ.get("LIMBECK_ENGINE", "auto"))
    except SdkError as refused:
        return {"engine": None, "engine_why": str(refused)}
    return {"engine": choice.name, "engine_why": choice.why}


def _about_nights(facts: dict[str, Any]) -> list[str]:
    """What became of the last night, and whether one waits to be gone on with."""
    lines, last, waiting = [], facts["last_night"], facts["can_go_on"]
    if last:
        lines.append(f"last night  {last['at']}: {last['outcome']}; {last['why']}")
    if waiting:
        done = f"step {waiting['step']} of {waiting['steps']}"
        lines.append(f"stopped     a night waits at {done}; `limbeck learn` goes on, at no new charge")
    return lines


def _about_label(label: dict[str, Any]) -> list[str]:
    """What the adapter in use cost and proved."""
    from privacy.label import lines as lines_of

    lines = []
    if night := label.get("night"):
        lines.append(
            f"label       epsilon {night['epsilon']:.3f}, delta {night['delta']:g}, unit {night['unit']}, "
            f"{night['records']} {night['unit']}s, alpha {night['alpha']:g}"
        )
    return lines + (lines_of(label["privacy"]) if "privacy" in label else [])
