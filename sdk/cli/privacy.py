"""The privacy engineer's commands: a home's ledger in, what was spent and may be spent out."""

from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from sdk.cli.options import answer, home_option, json_option

__all__ = ["privacy"]


@click.group()
def privacy() -> None:
    """Audit what was spent, and prove it."""


@privacy.command()
@home_option
@json_option
def budget(home: Path | None, as_json: bool) -> None:
    """Show what was spent and what is left, for each block of records."""
    from personalize import Home
    from personalize.learner import open_ledger

    with open_ledger(Home.open(home)) as ledger:
        policy = ledger.budget()
        blocks = ledger.spent_by_block()
        facts = {
            "lifetime_budget": policy.epsilon,
            "delta": policy.delta,
            "unit": policy.unit.value,
            "neighbours": policy.neighbours.value,
            "epsilon_spent": ledger.spent(),
            "epsilon_spent_pld": ledger.spent(accountant="pld"),
            "epsilon_left": ledger.left(),
            "blocks": blocks,
        }
    spent = f"{facts['epsilon_spent']:.4f} spent at most on any {facts['unit']}"
    left = f"{facts['epsilon_left']:.4f} left of {policy.epsilon:g} at delta {policy.delta:g}"
    lines = [f"epsilon {spent} (RDP, enforced; PLD {facts['epsilon_spent_pld']:.4f}), {left}"]
    lines += [f"  block {name}: {spent:.4f}" for name, spent in blocks.items()]
    answer(facts, "\n".join(lines), as_json=as_json)


@privacy.command()
@home_option
@json_option
def ledger(home: Path | None, as_json: bool) -> None:
    """List every entry of the ledger, after checking the whole chain."""
    from personalize import Home
    from personalize.learner import open_ledger

    with open_ledger(Home.open(home)) as opened:
        head = opened.verify()
        entries = [asdict(entry) | {"body": entry.facts()} for entry in opened.entries()]
        facts = {"verified": True, "head": head.hash, "entries": entries}
    if as_json:
        answer(facts, "", as_json=True)
        return
    table = Table(title=f"{len(entries)} entries, chain verified")
    for column in ("#", "at", "what", "scope", "receipt", "facts"):
        table.add_column(column)
    for entry in entries:
        words = ", ".join(f"{key} {value}" for key, value in entry["body"].items() if key not in ("run", "orders"))
        table.add_row(
            str(entry["seq"]), entry["at"][:19], entry["kind"], entry["scope"], entry["receipt"][:12], words[:70]
        )
    Console().print(table)
