"""What the documents say is so: their code runs, their links lead somewhere, and every command is explained."""

import ast
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from sdk.cli.app import cli

REPOSITORY = Path(__file__).parent.parent
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]+\]\((?P<target>[^)\s]+)\)")
PATH = re.compile(r"`(?P<path>(?:sdk|personalize|privacy|tests|docs|examples)/[\w./-]+)`")


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block of a document."""

    document: Path
    line: int
    info: tuple[str, ...]
    code: str


def blocks(document: Path) -> Iterator[Block]:
    text = document.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start()) + 2
        yield Block(document=document, line=line, info=tuple(found["info"].split()), code=found["code"])


def names(document: Path) -> str:
    return document.relative_to(REPOSITORY).as_posix()


def prose(document: Path) -> str:
    return FENCE.sub("", document.read_text(encoding="utf-8"))


def slugs(document: Path) -> set[str]:
    """Anchors of a document's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(document: Path) -> list[str]:
    dead = []
    for found in LINK.finditer(prose(document)):
        target, _, anchor = found["target"].partition("#")
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        file = (document.parent / target).resolve() if target else document
        if not file.exists() or (anchor and anchor not in slugs(file)):
            dead.append(found["target"])
    return dead


def missing_paths(document: Path) -> list[str]:
    return [found["path"] for found in PATH.finditer(prose(document)) if not (REPOSITORY / found["path"]).exists()]


def commands(group: click.Group, prefix: str = "limbeck") -> Iterator[tuple[str, click.Command]]:
    """Every command with its full name, groups first."""
    for name, command in sorted(group.commands.items()):
        yield f"{prefix} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix} {name}")


ALL_COMMANDS = list(commands(cli))


@pytest.mark.parametrize("document", DOCUMENTS, ids=names)
def test_python_in_a_document_is_python_and_runs_where_marked(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """A block opened with ```python run is executed, after those before it; ```python run real gets the base."""
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(document):
        if block.info[:1] != ("python",):
            continue
        tree = ast.parse(block.code, filename=f"{names(document)}:{block.line}")
        if "real" in block.info:
            monkeypatch.setenv("LIMBECK_CACHE", os.fspath(request.getfixturevalue("base_cache")))
            request.getfixturevalue("base_bundle")
        if "run" in block.info:
            exec(compile(tree, f"{names(document)}:{block.line}", "exec"), scope)


@pytest.mark.parametrize("document", DOCUMENTS, ids=names)
def test_every_link_leads_to_a_file_and_a_heading(document: Path) -> None:
    assert dead_links(document) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=names)
def test_every_file_that_a_document_names_exists(document: Path) -> None:
    assert missing_paths(document) == []


@pytest.mark.parametrize(("name", "command"), ALL_COMMANDS, ids=[name for name, _ in ALL_COMMANDS])
def test_every_command_and_every_option_has_help(name: str, command: click.Command) -> None:
    assert command.help, f"{name} has no help"
    mute = [option.name for option in command.params if isinstance(option, click.Option) and not option.help]
    assert mute == [], f"{name}: options without help"


@pytest.mark.parametrize(("name", "command"), ALL_COMMANDS, ids=[name for name, _ in ALL_COMMANDS])
def test_every_command_and_every_option_stands_in_the_documents(name: str, command: click.Command) -> None:
    text = (REPOSITORY / "docs" / "cli.md").read_text(encoding="utf-8")
    assert name in text
    options = [flag for option in command.params for flag in option.opts if flag.startswith("--")]
    assert [flag for flag in options if flag not in text] == [], f"{name}: options that docs/cli.md does not name"


@pytest.mark.parametrize(("name", "command"), ALL_COMMANDS, ids=[name for name, _ in ALL_COMMANDS])
def test_every_answering_command_can_print_json(name: str, command: click.Command) -> None:
    if not isinstance(command, click.Group):
        assert "--json" in {flag for option in command.params for flag in option.opts}, name


def test_a_dead_link_and_a_missing_file_are_found(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(
        "# Here we are\n[a](nowhere.md) [b](#here-we-are) [c](#not-here) [d](https://example.org) `sdk/nowhere.py`\n"
        "```\n[e](in-a-block.md)\n```\n",
        encoding="utf-8",
    )
    assert dead_links(document) == ["nowhere.md", "#not-here"]
    assert missing_paths(document) == ["sdk/nowhere.py"]


def test_make_alone_lists_every_target() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    phony = next(line for line in makefile.splitlines() if line.startswith(".PHONY:")).split()[1:]
    explained = re.findall(r"^([a-z]+):.*## ", makefile, re.MULTILINE)
    assert sorted(explained) == sorted(phony)
    assert len(makefile.splitlines()) < 40
