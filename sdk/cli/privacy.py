"""The privacy engineer's commands: a home's ledger in, what was spent, may be spent and is proved out."""

import math
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sdk.cli.options import answer, home_option, json_option, shown_progress

__all__ = ["privacy"]


def _up(epsilon: float) -> str:
    """What was spent, to 4 digits after the point, never made to look smaller."""
    return f"{math.ceil(epsilon * 1e4 - 1e-6) / 1e4:.4f}"


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
        facts: dict[str, Any] = {
            "lifetime_budget": policy.epsilon,
            "delta": policy.delta,
            "unit": policy.unit.value,
            "neighbours": policy.neighbours.value,
            "epsilon_spent": ledger.spent(),
            "epsilon_spent_pld": ledger.spent(accountant="pld"),
            "epsilon_left": ledger.left(),
            "blocks": blocks,
        }
    spent = f"{_up(facts['epsilon_spent'])} spent at most on any {facts['unit']}"
    left = f"{math.floor(facts['epsilon_left'] * 1e4) / 1e4:.4f} left of {policy.epsilon:g} at delta {policy.delta:g}"
    lines = [f"epsilon {spent} (RDP, enforced; PLD {_up(facts['epsilon_spent_pld'])}), {left}"]
    lines += [f"  block {name}: {_up(spent)}" for name, spent in blocks.items()]
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


@privacy.command()
@click.option("--epsilon", type=float, required=True, help="Budget of the run for each record (nats), above 0.")
@click.option("--delta", type=float, default=1e-5, show_default=True, help="Probability that goes with epsilon.")
@click.option("--sampling-rate", type=float, default=1.0, show_default=True, help="Chance of a record to join a step.")
@click.option("--steps", type=int, required=True, help="Steps of the run.")
@click.option(
    "--accountant",
    type=click.Choice(["rdp", "pld"]),
    default="rdp",
    show_default=True,
    help="Which figure must hold the budget: the enforced one, or the tighter one for runs fixed in advance.",
)
@json_option
def calibrate(
    epsilon: float, delta: float, sampling_rate: float, steps: int, accountant: Literal["rdp", "pld"], as_json: bool
) -> None:
    """Say how much noise a run needs to hold a budget, to 4 digits, rounded up."""
    from privacy import DpSgdRun, noise_multiplier
    from privacy import epsilon as cost

    noise = noise_multiplier(
        epsilon=epsilon, delta=delta, sampling_rate=sampling_rate, steps=steps, accountant=accountant
    )
    run = DpSgdRun(noise_multiplier=noise, sampling_rate=sampling_rate, steps=steps)
    facts: dict[str, Any] = {
        "noise_multiplier": noise,
        "epsilon": epsilon,
        "epsilon_rdp": cost(run, delta=delta, accountant="rdp"),
        "epsilon_pld": cost(run, delta=delta, accountant="pld"),
        "delta": delta,
        "sampling_rate": sampling_rate,
        "steps": steps,
        "accountant": accountant,
        "unit": run.unit.value,
        "neighbours": run.neighbours.value,
    }
    words = (
        f"noise multiplier {noise:g} (times the clip norm, on the sum) over {steps} steps at sampling rate "
        f"{sampling_rate:g}\nepsilon {_up(facts['epsilon_rdp'])} (RDP; PLD {_up(facts['epsilon_pld'])}) of {epsilon:g} "
        f"at delta {delta:g} for each {run.unit.value} ({run.neighbours.value})"
    )
    answer(facts, words, as_json=as_json)


@privacy.command()
@click.option("--csv", "as_csv", is_flag=True, help="One line an entry, for a spreadsheet; cannot be verified.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write. [stdout]")
@home_option
@json_option
def export(as_csv: bool, out: Path | None, home: Path | None, as_json: bool) -> None:
    """Print the whole ledger as canonical JSON, which anybody can verify without this device.

    The export is itself one JSON object; with --out, --json says what was written.
    """
    if as_csv and as_json and out is None:
        raise click.UsageError("--csv and --json were given; choose one, or write the lines to --out FILE")
    from personalize import Home
    from personalize.learner import open_ledger
    from privacy.whole_file import write_whole

    with open_ledger(Home.open(home)) as opened:
        text = opened.export_csv() if as_csv else opened.export()
        entries = len(opened.entries())
    if out is None:
        click.echo(text, nl=not as_csv)
    else:
        write_whole(out, text)
        answer({"export": str(out), "entries": entries}, f"{entries} entries in {out}", as_json=as_json)


@privacy.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@home_option
@json_option
def verify(file: Path | None, home: Path | None, as_json: bool) -> None:
    """Recompute everything that a ledger claims, by an accountant that others maintain.

    FILE is an export from any device; - reads stdin. Without FILE: this home's ledger, with seals and rollback.
    """
    from privacy.verify import MAX_EXPORT_BYTES, verify_export, verify_file

    if file is None:
        from personalize import Home
        from personalize.learner import open_ledger
        from privacy import DeviceKey

        place = Home.open(home)
        with open_ledger(place) as opened:
            opened.verify()
            verdict = verify_export(opened.export(), key=DeviceKey.open(place.path).derive("ledger"))
    elif str(file) == "-":
        verdict = verify_export(sys.stdin.buffer.read(MAX_EXPORT_BYTES + 1).decode("utf-8", "replace"))
    else:
        verdict = verify_file(file)
    facts: dict[str, Any] = {"verified": True, **asdict(verdict)}
    lines = [f"verified: {verdict.entries} entries and {verdict.runs} runs of ledger {verdict.ledger[:8]}"]
    for scope, spent in verdict.spent.items():
        beside = f"; PLD {_up(verdict.spent_beside[scope])}" if scope in verdict.spent_beside else ""
        where = f"at delta {verdict.delta[scope]:g}, {verdict.unit[scope]}"
        lines.append(f"  {scope}: epsilon {_up(spent)} at most on any of its units (RDP{beside}) {where}")
    seals = "checked" if verdict.sealed else "not checked: only the device that wrote it can"
    lines.append(f"  device seals {seals}; rollback is noticed by: {verdict.rollback_protection}")
    answer(facts, "\n".join(lines), as_json=as_json)


@privacy.command()
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Where the page goes. [in the home]")
@home_option
@json_option
def report(out: Path | None, home: Path | None, as_json: bool) -> None:
    """Write one page that a person can read, mail and print: what was spent, on what, and what is not covered."""
    from personalize import Home
    from personalize.learner import open_ledger
    from privacy.audit import kept_audits
    from privacy.report import render
    from privacy.statement import statement
    from privacy.whole_file import write_whole

    place = Home.open(home)
    page = out or place.reports / "privacy.html"
    with open_ledger(place) as opened:
        said = statement(opened, [found.to_dict() for found in kept_audits(place.reports)])
    write_whole(page, render(said))
    answer(said | {"report": str(page)}, f"report {page}", as_json=as_json)


@privacy.command("write-off")
@click.option("--yes", is_flag=True, help="Do not ask.")
@home_option
@json_option
def write_off(yes: bool, home: Path | None, as_json: bool) -> None:
    """Go on after the end of the ledger was lost: what the lost entries may have charged counts as charged.

    For a home that came back from a backup, or is gone, while its anchor remembers more. Every block of the ledger and
    of every record that is still there, and today's, is charged with all that it has left. What is remembered from then
    on can be learned.
    """
    from personalize import Home, Store
    from personalize.learner import LIFETIME
    from privacy import DeviceKey
    from privacy.anchor import open_anchor
    from privacy.write_off import write_off as write_off_lost

    if not yes:
        click.confirm(
            "Charge every block of this home with all that it has left? This cannot be undone", abort=True, err=True
        )
    place = Home.open(home)
    key = DeviceKey.open(place.path)
    with place.lock(), Store.open(place.experience_db, key=key.derive("experience")) as store:
        blocks = [*store.blocks(), datetime.now(UTC).date().isoformat()]
        done = write_off_lost(
            place.ledger_db,
            key=key.derive("ledger"),
            anchor=open_anchor(place.path),
            budget=LIFETIME,
            blocks=list(dict.fromkeys(blocks)),
        )
    words = (
        f"the anchor remembers {done.remembered} entries and the ledger had {done.found}; "
        f"{len(done.blocks)} blocks were charged with all that they had left"
    )
    answer(asdict(done), words, as_json=as_json)


@privacy.command()
@click.option("--quick", is_flag=True, help="Check the mechanism and the sums only; no training.")
@click.option("--canaries", type=int, help="Records that are in the audited training by a coin, 50 to 20000. [2500]")
@home_option
@json_option
def audit(quick: bool, canaries: int | None, home: Path | None, as_json: bool) -> None:
    """Check that the engine does what the ledger charges for, by mechanism checks and one training with canaries.

    Takes seconds, costs no budget and reads no experience. The result is kept in the home for `privacy report`.
    """
    if quick and canaries is not None:
        raise click.UsageError("--quick trains nothing, so it takes no --canaries")
    from personalize import Home
    from privacy.audit import DEFAULT_CANARIES, keep
    from privacy.audit import audit as run_audit
    from privacy.errors import AuditError

    place = Home.open(home)
    wanted = 0 if quick else DEFAULT_CANARIES if canaries is None else canaries
    if wanted == 0 and not quick:
        raise click.UsageError("--canaries must be above 0; use --quick to train nothing")
    with shown_progress() as tell:
        found = run_audit(canaries=wanted, progress=lambda what, done, total: tell("audit", done, total))
    facts = found.to_dict()
    keep(found, place.reports)
    if as_json:
        answer(facts, "", as_json=True)
    else:
        table = Table(title=f"{len(found.findings)} checks in {found.seconds:.0f} seconds")
        for column in ("check", "", "seen", "p"):
            table.add_column(column)
        for each in found.findings:
            chance = "exact" if each.p_value is None else f"{each.p_value:.2g}"
            verdict = "held" if each.passed else "[bold]FAILED[/bold]"
            table.add_row(escape(each.leg), verdict, escape(each.measured), chance)
        Console().print(table)
    if not found.passed:
        raise AuditError(f"the engine failed its audit ({', '.join(found.failed)}); train nothing until it passes")
