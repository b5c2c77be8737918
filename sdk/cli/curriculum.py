"""The maker's command for device tasks: weights in, training and held-out examples out."""

from pathlib import Path
from typing import Any

import click

from sdk.cli.options import answer, json_option

__all__ = ["curriculum"]


@click.command()
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="Where the training set goes."
)
@click.option("--count", type=click.IntRange(1), default=8000, show_default=True, help="Training examples.")
@click.option("--held-out", type=click.Path(path_type=Path, dir_okay=False), help="Where the held-out set goes.")
@click.option("--held-out-count", type=click.IntRange(1), default=800, show_default=True, help="Held-out examples.")
@click.option("--weights", metavar="TASK=WEIGHT,...", help="Share of each task; normalised. [the shares in the docs]")
@click.option("--seed", type=int, default=0, show_default=True, help="Another one draws other examples.")
@click.option(
    "--snips", type=click.Path(path_type=Path), help="Folder of the SNIPS training files, for the task intent."
)
@click.option(
    "--teacher-written",
    multiple=True,
    type=click.Path(path_type=Path),
    help="JSON lines with task, prompt and answer, filtered and added to the training set. Repeatable.",
)
@json_option
def curriculum(
    out: Path,
    count: int,
    held_out: Path | None,
    held_out_count: int,
    weights: str | None,
    seed: int,
    snips: Path | None,
    teacher_written: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Make device tasks to train on, and others to test with that share no template and no value with them.

    The same arguments give the same bytes.
    """
    from sdk.build.curriculum import build_curriculum, parsed_weights

    facts = build_curriculum(
        out,
        held_out,
        count=count,
        held_out_count=held_out_count,
        weights=parsed_weights(weights) if weights is not None else None,
        seed=seed,
        snips_folder=snips,
        written=teacher_written,
    )
    answer(facts, _lines(facts), as_json=as_json)


def _lines(facts: dict[str, Any]) -> str:
    sets = [facts, facts["held_out"]] if facts["held_out"] else [facts]
    lines = [f"{one['examples']} examples in {one['out']}: {_numbers(one['tasks'])}" for one in sets]
    if facts["written"]:
        refused = {reason: number for reason, number in facts["written"]["refused"].items() if number}
        lines.append(
            f"of the teacher's answers kept {facts['written']['kept']}, refused: {_numbers(refused) or 'none'}"
        )
    return "\n".join(lines)


def _numbers(named: dict[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in named.items())
