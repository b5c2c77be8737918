"""The command that gathers text to learn from: files, folders and packages in, JSON lines and their record out."""

from pathlib import Path

import click

from sdk.cli.options import answer, json_option, shown_progress

__all__ = ["text"]


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="JSON lines to write.")
@click.option(
    "--file",
    "files",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Plain text, Markdown, a page, or JSON lines that an earlier call wrote. Repeatable.",
)
@click.option(
    "--folder",
    "folders",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="All such files in it. Repeatable.",
)
@click.option("--package", "packages", multiple=True, help="An installed Python package with text in it. Repeatable.")
@click.option("--licence", default="", help="SPDX identifier of what does not say its own.")
@click.option("--source", default="", help="Name that the share counts by. [the file's or folder's]")
@click.option("--origin", default="", help="Where it is from; it is written into the record. [its name]")
@click.option("--accept-licence", "accepted", multiple=True, help="Take this licence, known or not. Repeatable.")
@click.option(
    "--share",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Most of all characters that one source may give.",
)
@click.option("--most-characters", type=click.IntRange(200), help="Most characters of one source.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the shuffle.")
@json_option
def text(
    out: Path,
    files: tuple[Path, ...],
    folders: tuple[Path, ...],
    packages: tuple[str, ...],
    licence: str,
    source: str,
    origin: str,
    accepted: tuple[str, ...],
    share: float,
    most_characters: int | None,
    seed: int,
    as_json: bool,
) -> None:
    """Gather English prose with its licences, for a student to learn from.

    One call for each licence, then one over what they wrote, which balances: --file A.jsonl --file B.jsonl --share 0.3.
    """
    if not (files or folders or packages):
        raise click.UsageError("say which text: --file, --folder or --package")
    from sdk.build.text import choose, write
    from sdk.build.text_files import read_package, read_path

    found = [
        document
        for path in (*files, *folders)
        for document in read_path(path, licence=licence, source=source, origin=origin)
    ]
    found += [document for name in packages for document in read_package(name, licence=licence)]
    with shown_progress() as tell:
        kept = choose(found, share=share, most_characters=most_characters, seed=seed, accepted=accepted, progress=tell)
    record = write(kept, out)
    facts = {
        "file": str(out),
        "record": str(record),
        "documents": len(kept.documents),
        "characters": sum(len(item.text) for item in kept.documents),
        "words": sum(len(item.text.split()) for item in kept.documents),
        "sources": len({item.source for item in kept.documents}),
        "licences": sorted({item.licence for item in kept.documents}),
        "left_out": kept.left_out,
    }
    words = f"{facts['documents']:,} documents, {facts['words']:,} words of {facts['sources']} sources in {out}"
    answer(facts, f"{words}; record in {record}", as_json=as_json)
