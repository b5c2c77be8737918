"""Measured figures in, an aligned table for people or one JSON object for scripts out: what the benches print."""

import json
import os
import platform
import time
from collections.abc import Sequence
from typing import Any

import click

__all__ = ["machine", "show", "table"]


def machine() -> dict[str, Any]:
    """Say where and when a figure was measured, as far as it moves figures; no name of the machine."""
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "processor": platform.machine(),
        "cores": os.cpu_count() or 0,
        "load": load,
    }


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align `rows` under `columns`: the first to the left, all others to the right."""
    widths = [max(len(row[index]) for row in (columns, *rows)) for index in range(len(columns))]

    def line(row: Sequence[str]) -> str:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        return "  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip()

    return "\n".join([line(columns), "  ".join("-" * width for width in widths), *map(line, rows)])


def show(facts: dict[str, Any], words: str, *, as_json: bool) -> None:
    """Print the answer on stdout: words, or the facts with the machine beside them."""
    where = machine()
    if as_json:
        click.echo(json.dumps({**facts, "machine": where}))
        return
    place = ", ".join(f"{name} {value}" for name, value in where.items())
    click.echo(f"{words}\n({place})")
