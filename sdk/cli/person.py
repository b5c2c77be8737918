"""The person's commands: what to remember and forget, a night of learning, a question, how things stand."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdk.cli.options import Tell, answer, home_option, json_option, one_source, shown_progress, source_options

if TYPE_CHECKING:
    from sdk.bundle import Bundle

__all__ = ["ask", "forget", "learn", "remember", "status"]


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
@home_option
@json_option
def forget(
    ids: tuple[str, ...],
    before: datetime | None,
    contact: str | None,
    everything: bool,
    yes: bool,
    home: Path | None,
    as_json: bool,
) -> None:
    """Remove records and everything cached from them. What was spent stays spent."""
    given = [bool(ids), before is not None, contact is not None, everything]
    if sum(given) != 1:
        raise click.UsageError("say what to forget: IDS, --before DATE, --contact NAME or --all")
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
        gone = learner.forget(**which)
        left = learner.store.count()
    finally:
        learner.close()
    traces = ""
    if gone.trained_blocks:
        traces = f"; adapters learned from {len(gone.trained_blocks)} of their blocks, within epsilon"
    answer(
        {"forgotten": gone.count, "left": left, "trained_blocks": list(gone.trained_blocks)},
        f"forgot {gone.count} records, {left} left{traces}",
        as_json=as_json,
    )


@click.command()
@click.option("--epsilon", type=float, default=2.0, show_default=True, help="Privacy budget of tonight, per record.")
@click.option("--delta", type=float, default=1e-5, show_default=True, help="Probability that goes with epsilon.")
@click.option("--steps", type=click.IntRange(1, 1000), default=8, show_default=True, help="Steps of the night.")
@click.option(
    "--kind",
    type=click.Choice(["xs", "frozen-a", "lora"]),
    default="xs",
    show_default=True,
    help="What of the adapter is trained: from few numbers to many.",
)
@home_option
@json_option
def learn(epsilon: float, delta: float, steps: int, kind: str, home: Path | None, as_json: bool) -> None:
    """Learn from the fresh records within the privacy budget; pass the gate, or change nothing."""
    from personalize import Home
    from personalize.learner import Learner
    from sdk.device.night import base_of, plan_of

    plan = plan_of(kind=kind, epsilon=epsilon, delta=delta, steps=steps)
    place = Home.open(home)
    with shown_progress() as tell:
        learner = Learner(place, base_of(_bundle(tell)))
        try:
            report = learner.learn(plan, progress=tell)
        finally:
            learner.close()
    answer(report.to_dict(), report.summary(), as_json=as_json)


def _bundle(tell: Tell) -> "Bundle":
    from sdk.build.package import open_base

    return open_base(progress=lambda step, done: tell(step, round(100 * done), 100))


@click.command()
@click.argument("prompt")
@click.option("--tokens", type=click.IntRange(1, 4096), default=64, show_default=True, help="Longest answer.")
@click.option(
    "--temperature", type=click.FloatRange(0, 4), default=0.0, show_default=True, help="0 is the likeliest answer."
)
@click.option("--bare", is_flag=True, help="Without the learned adapter.")
@home_option
@json_option
def ask(prompt: str, tokens: int, temperature: float, bare: bool, home: Path | None, as_json: bool) -> None:
    """Ask the base model with the newest admitted adapter; nothing leaves the device. PROMPT - reads stdin."""
    from sdk.device.assistant import Assistant

    if prompt == "-":
        prompt = sys.stdin.read()
    with shown_progress() as tell:
        assistant = Assistant.open(home, bundle=_bundle(tell), adapter=not bare)
    pieces: list[str] = []
    for piece in assistant.stream(prompt, max_new_tokens=tokens, temperature=temperature):
        pieces.append(piece)
        if not as_json:
            click.echo(piece, nl=False)
    if as_json:
        answer({"answer": "".join(pieces), "adapter": assistant.adapter_name}, "", as_json=True)
    else:
        click.echo()


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
    spent = f"{facts['epsilon_spent']:.3f} spent at most on any {facts['unit']}"
    left = f"{facts['epsilon_left']:.3f} left of {facts['lifetime_budget']:g}"
    lines = [
        f"home        {facts['home']}",
        f"records     {facts['records']} ({facts['fresh']} fresh, {facts['trained']} trained)",
        f"adapter     {facts['adapter'] or 'none yet: the bare base answers'}",
        f"epsilon     {spent}, {left} (delta {facts['delta']:g}, {facts['neighbours']})",
        f"ledger      {facts['ledger_entries']} entries, verified",
        f"rollback    of the ledger file is noticed by: {facts['rollback_protection']}",
    ]
    if facts["unfinished_nights"]:
        lines.append(f"unfinished  {facts['unfinished_nights']} nights were stopped; what they reserved stays spent")
    if facts["label"]:
        night = facts["label"]["night"]
        lines.append(
            f"label       epsilon {night['epsilon']:.3f}, delta {night['delta']:g}, unit {night['unit']}, "
            f"{night['records']} records, alpha {night['alpha']:g}"
        )
    answer(facts, "\n".join(lines), as_json=as_json)
