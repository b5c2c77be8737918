"""The command that prices a distillation on paper."""

from dataclasses import asdict

import click

from sdk.build.cost import Cluster, Job
from sdk.build.cost import cost as cost_of
from sdk.cli.options import answer, json_option

__all__ = ["cost"]


@click.command()
@click.option("--teacher", type=click.FloatRange(0), default=70, show_default=True, help="Billions of parameters.")
@click.option("--student", type=click.FloatRange(0.001), default=3, show_default=True, help="Billions of parameters.")
@click.option(
    "--tokens",
    type=click.FloatRange(0.001),
    multiple=True,
    default=(10, 100, 1000),
    show_default=True,
    help="Billions of distinct tokens. Repeatable.",
)
@click.option("--passes", type=click.IntRange(1), default=1, show_default=True, help="Over all tokens.")
@click.option("--kept", is_flag=True, help="Keep the teacher's answers on disk, so that it reads once.")
@click.option("--gpus", type=click.IntRange(1), default=64, show_default=True, help="H100 SXM.")
@click.option("--price", type=click.FloatRange(0), default=3.0, show_default=True, help="US dollars of a GPU hour.")
@json_option
def cost(
    teacher: float,
    student: float,
    tokens: tuple[float, ...],
    passes: int,
    kept: bool,
    gpus: int,
    price: float,
    as_json: bool,
) -> None:
    """Price a distillation on many GPUs, on paper: see docs/scale.md for the formula and its sources."""
    cluster, rows, facts = Cluster(gpus=gpus, price=price), [], []
    for count in tokens:
        job = Job(teacher=teacher * 1e9, student=student * 1e9, tokens=count * 1e9, passes=passes, kept=kept)
        made = cost_of(job, cluster)
        facts.append({"tokens": job.tokens, "days": made.days, **asdict(made)})
        rows.append(
            f"| {count:,g} | {made.teacher_hours:,.0f} | {made.student_hours:,.0f} | {made.days:,.1f} "
            f"| {made.gpu_hours:,.0f} | {made.dollars:,.0f} | {made.megawatt_hours:,.1f} | {made.terabytes:,.1f} |"
        )
    head = "| billion tokens | teacher h | student h | days | GPU h | US $ | MWh | TB kept |\n" + "|" + " ---: |" * 8
    answer({"rows": facts}, "\n".join([head, *rows]), as_json=as_json)
