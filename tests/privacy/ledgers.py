"""A ledger in a temporary folder: what the tests of the ledger begin with."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from privacy.budget import Budget
from privacy.events import DpSgdRun
from privacy.ledger import Ledger

__all__ = ["KEY", "NIGHT", "Clock", "edit", "opened"]

KEY = b"k" * 32
NIGHT = DpSgdRun(noise_multiplier=6.798, sampling_rate=1.0, steps=10)
"""A night at epsilon 2 (1.99996 by RDP at delta 1e-5)."""


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 24, 3, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def move(self, **by: float) -> None:
        self.now += timedelta(**by)


def opened(folder: Path, *, epsilon: float = 8.0, **more: Any) -> Ledger:
    """Open the ledger of `folder` with a lifetime budget."""
    limits = {name: more.pop(name) for name in list(more) if name.endswith(("_epsilon", "_days"))}
    return Ledger.open(folder / "ledger.db", key=more.pop("key", KEY), budget=Budget(epsilon=epsilon, **limits), **more)


def edit(folder: Path, *statements: str, values: Sequence[object] = (), disarm: bool = True) -> None:
    """Change the file by hand in a SQLite shell; `disarm` takes the triggers away and puts them back."""
    with closing(sqlite3.connect(folder / "ledger.db", isolation_level=None)) as connection:
        triggers = connection.execute("select name, sql from sqlite_master where type = 'trigger'").fetchall()
        for name, _ in triggers if disarm else ():
            connection.execute(f"drop trigger {name}")
        for statement in statements:
            connection.execute(statement, values)
        for _, sql in triggers if disarm else ():
            connection.execute(sql)
