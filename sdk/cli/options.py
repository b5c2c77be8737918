"""Options and progress that several commands share."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

__all__ = [
    "Tell",
    "adapter_option",
    "answer",
    "engine_option",
    "home_option",
    "json_option",
    "one_source",
    "passphrase",
    "passphrase_option",
    "risk_option",
    "shown_progress",
    "shown_wait",
    "source_options",
]

Command = Callable[..., Any]
Tell = Callable[[str, int, int], None]
"""Told (what is done now, done, total)."""

home_option = click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    default=lambda: os.environ.get("LIMBECK_HOME"),
    help="Folder of experience, ledger and adapters. [LIMBECK_HOME, else the user's data folder]",
)
adapter_option = click.option("--adapter", "line", help="Name of the adapter. [the one that `adapter use` chose]")
engine_option = click.option(
    "--engine",
    type=click.Choice(["auto", "coreml", "portable", "torch"]),
    default=lambda: os.environ.get("LIMBECK_ENGINE", "auto"),
    help="What computes the answers. [LIMBECK_ENGINE, else the fastest that runs here]",
)
passphrase_option = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="File whose first line is the passphrase; - reads stdin. [LIMBECK_PASSPHRASE, else it is asked for]",
)
risk_option = click.option(
    "--risk",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.05,
    show_default=True,
    help="Highest chance that an answer is wrong and kept on the device.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")


def source_options(command: Command) -> Command:
    """Where a person's text comes from: at most one of four."""
    existing = click.Path(path_type=Path)
    options = (
        click.option("--git", type=existing, help="A git repository: commit messages, touched files as prompt."),
        click.option("--author", help="With --git: e-mail address of the author. [whoever wrote most]"),
        click.option("--mbox", type=existing, help="A mailbox file: what its main author wrote."),
        click.option("--jsonl", type=existing, help="A file of JSON objects with answer, prompt and at."),
        click.option("--text", type=existing, help="A text file: its paragraphs."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def one_source(**paths: Path | None) -> None:
    """Refuse more than one source.

    Raises:
        click.UsageError: Two or more were given.
    """
    given = [f"--{name}" for name, path in paths.items() if path is not None]
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)} were given; choose one source")


def passphrase(file: Path | None, *, confirm: bool) -> str:
    """A passphrase from `file`, from LIMBECK_PASSPHRASE or typed; `confirm` has it typed twice."""
    if file is None and (given := os.environ.get("LIMBECK_PASSPHRASE")):
        return given
    if file is None:
        typed: str = click.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
        return typed
    text = sys.stdin.readline() if str(file) == "-" else file.read_text(encoding="utf-8").partition("\n")[0]
    return text.rstrip("\r\n")


def answer(facts: dict[str, Any], words: str, *, as_json: bool) -> None:
    """Print the answer on stdout, as JSON or as words."""
    click.echo(json.dumps(facts, ensure_ascii=False) if as_json else words)


@contextmanager
def shown_progress() -> Iterator[Tell]:
    """A progress bar on stderr once there is something to tell; yields a function to tell it (what, done, total)."""
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    bar, tasks = Progress(*columns, console=Console(stderr=True)), dict[str, Any]()

    def tell(what: str, done: int, total: int) -> None:
        bar.start()
        name = what.partition(",")[0]  # What follows a comma changes on the way, such as a loss.
        if name not in tasks:
            tasks[name] = bar.add_task(what, total=total)
        bar.update(tasks[name], description=what, completed=done, total=total)

    try:
        yield tell
    finally:
        if tasks:  # Without any, stopping would print an empty line.
            bar.stop()


@contextmanager
def shown_wait(words: str) -> Iterator[None]:
    """A moving sign on a terminal's stderr while something takes seconds; nothing where stderr is none."""
    with Console(stderr=True).status(words):
        yield
