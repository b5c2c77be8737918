"""Commands for students of another shape: experts in place of feed-forwards, and tokens that leave early."""

from pathlib import Path

import click

from sdk.cli.options import answer, json_option

__all__ = ["exits", "experts"]

FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.argument("student", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--out", required=True, type=FOLDER, help="Folder of the new student; must not exist.")
@click.option("--copies", type=click.IntRange(2), default=4, show_default=True, help="Of each part of a feed-forward.")
@click.option("--shards", type=click.IntRange(1), default=2, show_default=True, help="Parts of a feed-forward.")
@click.option("--active", type=click.IntRange(1), default=1, show_default=True, help="Copies that a token meets.")
@click.option("--noise", type=click.FloatRange(0), default=0.0, show_default=True, help="On copies, over their spread.")
@json_option
def experts(student: Path, out: Path, copies: int, shards: int, active: int, noise: float, as_json: bool) -> None:
    """Make a mixture of experts that computes what STUDENT does, to be trained further."""
    from sdk.build.experts import ExpertsPlan, upcycle_folder

    try:
        plan = ExpertsPlan(copies=copies, shards=shards, active=active, noise=noise)
    except ValueError as cause:
        raise click.UsageError(str(cause)) from cause
    made = upcycle_folder(student, out, plan)
    words = (
        f"{made['experts']} experts a layer, {made['chosen']} for a token; {made['active'] / 1e6:.1f} M of "
        f"{made['held'] / 1e6:.1f} M parameters meet a token\nin {out}"
    )
    answer(made, words, as_json=as_json)


@click.command()
@click.argument("student", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option(
    "--text",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="JSON lines with `text`, not trained on.",
)
@click.option("--tokens", type=click.IntRange(512), default=8_192, show_default=True, help="Read at most.")
@click.option(
    "--agreement",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    multiple=True,
    default=(0.9, 0.95, 0.99),
    show_default=True,
    help="With the last layer, over all tokens. Repeatable.",
)
@json_option
def exits(student: Path, text: Path, tokens: int, agreement: tuple[float, ...], as_json: bool) -> None:
    """Measure how early STUDENT's tokens could leave: what each layer already knows."""
    from sdk.build.exits import exit_table

    made = exit_table(student, text, tokens=tokens, agreements=agreement)
    lines = [f"{made['positions']} positions", "after layer  agreement      KL"]
    lines += [f"{row['layer']:11d}  {row['agreement']:9.3f}  {row['kl']:6.3f}" for row in made["layers"]]
    lines += ["agreement wanted  found  threshold  leave early  layers run"]
    lines += [
        f"{row['wanted']:16.3f}  {row['agreement']:5.3f}  {row['threshold']:9.2f}  {1 - row['leaving'][-1]:11.3f}"
        f"  {row['layers_run']:10.1f}"
        for row in made["exits"]
    ]
    answer(made, "\n".join(lines), as_json=as_json)
