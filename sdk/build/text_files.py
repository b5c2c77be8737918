"""A file, folder or installed package in; its documents with licence and origin out."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from sdk.build.prose import documents, paragraphs_of_html, paragraphs_of_text
from sdk.errors import TextError

__all__ = ["Document", "read_package", "read_path"]

MAX_FILE_BYTES = 100_000_000  # Of one file; a larger one was hardly meant, and all is held in memory.
PAGES = frozenset({".htm", ".html", ".xhtml"})
WRITTEN = PAGES | {".jsonl", ".md", ".markdown", ".txt"}
"""Endings of files that are read in a folder or package; a file given by itself is read whatever its ending."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """One stretch of prose with whom it is from."""

    text: str
    """200 to 6,000 characters once chosen."""
    source: str
    """Name that the share counts by."""
    licence: str
    """SPDX identifier or expression."""
    origin: str
    """Where it is from, for the record: a package and its version, a file."""


def read_path(path: Path, *, licence: str = "", source: str = "", origin: str = "") -> list[Document]:
    """Read a file, or all pages, Markdown and text files of a folder.

    Args:
        path: File or folder. A line of a `.jsonl` file has `text` and keeps its own `source`, `licence` and `origin`.
        licence: Of everything else.
        source: Name; the file's or folder's by default.
        origin: Where it is from; the file's or folder's name by default.

    Raises:
        TextError: It cannot be read or holds no such file; or no licence was given for something without its own.
    """
    name = path.stem if path.is_file() else path.name
    given = {"source": source or name, "licence": licence, "origin": origin or path.name}
    files = sorted(_written(path)) if path.is_dir() else [path]
    if not files:
        raise TextError(f"{path} holds no file of {', '.join(sorted(WRITTEN))}; give the folder that does")
    found = [document for file in files for document in _documents(file, given)]
    if any(not document.licence for document in found):
        raise TextError(
            f"{path} does not say its licence; give it with --licence, as an SPDX identifier such as CC-BY-4.0"
        )
    return found


def read_package(name: str, *, licence: str = "") -> list[Document]:
    """Read the text files of a Python package that is installed here.

    Args:
        name: As pip lists it.
        licence: Of its text; by default what the package's metadata says of the whole.

    Raises:
        TextError: Not installed, without text files, or its metadata names no licence.
    """
    try:
        package = distribution(name)
    except (PackageNotFoundError, ValueError) as cause:
        raise TextError(f"no Python package {name!r} is installed here; `pip install` it, or give --folder") from cause
    files = [Path(str(file.locate())) for file in package.files or () if ".dist-info" not in str(file)]
    files = sorted(file for file in files if file.suffix.lower() in WRITTEN and file.is_file())
    said = licence or _licence_of(package)
    if not files or not said:
        lacks = "holds no text files" if not files else "does not say its licence; give it with --licence"
        raise TextError(f"the package {name} {package.version} {lacks}")
    given = {"source": name, "licence": said, "origin": f"{name} {package.version}"}
    return [document for file in files for document in _documents(file, given)]


def _written(folder: Path) -> Iterator[Path]:
    for file in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if file.suffix.lower() in WRITTEN and not hidden and file.is_file():
            yield file


def _documents(file: Path, given: dict[str, str]) -> Iterator[Document]:
    try:
        if (size := file.stat().st_size) > MAX_FILE_BYTES:
            raise TextError(f"{file} has {size / 1e6:,.0f} MB, at most {MAX_FILE_BYTES / 1e6:.0f} are read; split it")
        content = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as cause:
        raise TextError(f"{file} cannot be read as UTF-8 text ({cause}); convert it or leave it out") from cause
    if file.suffix.lower() == ".jsonl":
        for number, line in enumerate(content.split("\n"), 1):
            if line.strip():
                row = {**given, **_row(line, f"{file}, line {number}")}
                yield from (Document(**{**row, "text": text}) for text in documents(row["text"].split("\n\n")))
        return
    paragraphs = paragraphs_of_html if file.suffix.lower() in PAGES else paragraphs_of_text
    yield from (Document(text=text, **given) for text in documents(paragraphs(content)))


def _row(line: str, where: str) -> dict[str, str]:
    try:
        row = json.loads(line)
        fields = {
            name: row[name] for name in ("text", "source", "licence", "origin") if name == "text" or row.get(name)
        }
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as cause:
        raise TextError(f"{where} is no object with `text`; mend or remove the line") from cause
    if not all(isinstance(value, str) for value in fields.values()):
        raise TextError(f"{where}: `text`, `source`, `licence` and `origin` must be text; mend the line")
    return fields


def _licence_of(package: Distribution) -> str:
    about = package.metadata
    fields = [name for name in ("License-Expression", "License") if name in about]
    said = about[fields[0]].strip() if fields else ""
    return said if "\n" not in said and said != "UNKNOWN" else ""  # Some put the whole text there.
