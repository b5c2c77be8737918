"""The commands that make a student: a plan to begin with, the distillation, the bundle."""

import json
from contextlib import nullcontext
from pathlib import Path

import click

from sdk.cli.options import answer, json_option, shown_progress

__all__ = ["distill", "package", "plan"]

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print it on one line.")
def plan(as_json: bool) -> None:
    """Print a plan file with every field at its default."""
    from sdk.build.plan import BuildPlan

    text = BuildPlan().to_json()
    click.echo(json.dumps(json.loads(text)) if as_json else text.rstrip("\n"))


@click.command()
@click.argument("plan_file", metavar="PLAN", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=FOLDER, help="Folder of the student; must not exist.")
@click.option("--work", type=FOLDER, help="Folder for half-done work. [beside the plan, PLAN.work]")
@click.option("--accept-licence", multiple=True, help="A teacher's licence that you accept for a student. Repeatable.")
@json_option
def distill(plan_file: Path, out: Path, work: Path | None, accept_licence: tuple[str, ...], as_json: bool) -> None:
    """Make the student that PLAN describes: trim, prune, read, correct, train, quantise.

    Long: some 200 tokens a second on one core. Ctrl-C keeps what is done; the same call goes on from there. Under
    torchrun several processes share the work: see docs/scale.md.
    """
    from sdk.build.make_student import make_student
    from sdk.build.many import joined

    with joined() as group, shown_progress() if group.first else nullcontext(_silent) as tell:
        told = make_student(
            plan_file,
            out=out,
            work=work or plan_file.with_suffix(".work"),
            accepted=accept_licence,
            progress=tell,
            group=group,
        )
    if not group.first:
        return
    words = (
        f"{told['layers']} layers, {told['vocabulary']} tokens, {told['parameters'] / 1e6:.1f} M parameters, "
        f"{told['bytes'] / 1e6:.1f} MB\n"
        f"{told['steps']} steps, {told['tokens']} tokens, last loss {told['loss']:.3f} nats, "
        f"largest activation {told['largest_activation']:.0f} (float16 holds 65,504)\n"
        f"in {out}"
    )
    answer(told, words, as_json=as_json)


@click.command()
@click.argument("student", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--out", required=True, type=FOLDER, help="Folder of the bundle; one that stands there is replaced.")
@click.option("--name", required=True, help="Name of the bundle, such as limbeck-94m.")
@click.option("--version", required=True, help="Version under that name.")
@click.option("--card", required=True, type=FILE, help="Model card, Markdown.")
@click.option("--scorecard", type=FILE, help="What `limbeck build evaluate --out` wrote.")
@click.option("--router", type=FILE, help="What `limbeck build router --out` wrote for this student.")
@json_option
def package(
    student: Path,
    out: Path,
    name: str,
    version: str,
    card: Path,
    scorecard: Path | None,
    router: Path | None,
    as_json: bool,
) -> None:
    """Put a student, its probes, rehearsal texts, card, bill of materials, scorecard and router into one bundle."""
    from sdk.build.package import package_student

    bundle = package_student(student, out, name=name, version=version, card=card, scorecard=scorecard, router=router)
    size = sum(record.bytes for record in bundle.manifest.files.values())
    facts = {"folder": str(out), "name": name, "version": version, "base_digest": bundle.base_digest, "bytes": size}
    answer(facts, f"{name} {version}, {size / 1e6:.1f} MB\ndigest {bundle.base_digest}\nin     {out}", as_json=as_json)


def _silent(what: str, done: int, total: int) -> None:
    """Progress of a process that is not the first."""
