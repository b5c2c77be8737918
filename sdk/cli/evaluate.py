"""The scorecard's command: a model folder and what to measure it with in, figures on stdout and a page out."""

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from sdk.cli.options import shown_progress

__all__ = ["evaluate"]

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("model", type=FOLDER)
@click.option("--against", type=FOLDER, help="Another model folder or bundle, or a scorecard file, to compare with.")
@click.option("--teacher", type=FOLDER, help="Model folder or bundle whose distributions the model should have.")
@click.option("--text", type=FILE, help="Held-out text, plain or JSON lines with `text`.")
@click.option("--tasks", type=FILE, help="Held-out device tasks: JSON lines with `task`, `prompt` and `answer`.")
@click.option(
    "--data",
    type=FOLDER,
    envvar="LIMBECK_BENCH_DATA",
    help="Folder with snips, blimp, piqa and ifeval. [LIMBECK_BENCH_DATA]",
)
@click.option("--quick", is_flag=True, help="A small part of everything, in about two CPU minutes.")
@click.option("--skip", multiple=True, metavar="LEG", help="Leave a leg out, such as ifeval. Repeatable.")
@click.option("--out", type=FILE, help="Scorecard file, written after each leg; the same call goes on from it.")
@click.option("--page", type=FILE, help="Where an HTML page of the scorecard goes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, without the single items.")
def evaluate(
    model: Path,
    against: Path | None,
    teacher: Path | None,
    text: Path | None,
    tasks: Path | None,
    data: Path | None,
    quick: bool,
    skip: tuple[str, ...],
    out: Path | None,
    page: Path | None,
    as_json: bool,
) -> None:
    """Measure a model: quality, closeness to its teacher, size, speed, memory and energy, each with its interval.

    MODEL is a plain Hugging Face folder or a bundle. What cannot be measured here is not run, with a reason.
    """
    from sdk.build.evaluate import Inputs, read_card, scorecard, write_scorecard_page  # Imports torch.

    inputs = Inputs(text=text, tasks=tasks, data=data, teacher=teacher, quick=quick, skip=frozenset(skip))
    other = None
    with shown_progress() as tell:
        card = scorecard(model, inputs, out=out, told=tell)
        if against is not None and against.is_file():
            other = read_card(against)
        elif against is not None:
            beside = out.with_suffix(".against.json") if out else None
            other = scorecard(against, inputs, out=beside, told=lambda leg, *done: tell(f"{leg} (against)", *done))
    if page is not None:
        write_scorecard_page(page, card, other)
    if as_json:
        click.echo(json.dumps(_facts(card, other), ensure_ascii=False))
    else:
        _show(card, other)


def _facts(card: Any, other: Any) -> dict[str, Any]:
    from sdk.build.evaluate import card_fields, compare

    facts: dict[str, Any] = card_fields(card, items=False)
    if other is not None:
        facts["against"] = card_fields(other, items=False)
        facts["differences"] = [one.to_dict() for one in compare(card, other)]
    return facts


def _show(card: Any, other: Any) -> None:
    from sdk.build.evaluate.figures import LEGS
    from sdk.build.evaluate.wording import rows

    columns = ["", "", "value", "95 % interval", "items"]
    if other is not None:
        columns += [f"against {other.model['name']}", "difference", "95 % interval", ""]
    table = Table(*columns, title=f"scorecard of {card.model['name']}{' (quick)' if card.quick else ''}")
    for row in rows(card, other):
        table.add_row(*row)
    Console().print(table)
    for name, leg in card.legs.items():
        if leg.reason is not None:
            click.echo(f"not run: {LEGS[name]}: {leg.reason}")
