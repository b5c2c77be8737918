"""The adapters of a home: lines of them by name, which is in use, what came before, what each cost and proved.

Rules:
    1. Only an AdmittedAdapter gets a place. Its folder is whole and on the disk before `state.json` names it.
    2. `state.json` is replaced in one step, so the adapter in use is always a whole one: the old or the new.
    3. A folder that no line names was left by a crash; the next admission sweeps it.
    4. A line is the adapters of one app or task, oldest first. All lines of a home share its store and its ledger.
    5. What an adapter carries from other devices is said by every adapter that goes on from it.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from personalize.adapter import Adapter
from personalize.errors import AdapterError
from personalize.home import Home
from personalize.retention import AdmittedAdapter

__all__ = ["DEFAULT", "Shelf", "count_gate_use", "gate_uses", "lines_of"]

DEFAULT = "default"
"""The line of whoever names none."""

LABEL_FORMAT = "label/1"
KEPT = 8  # Earlier adapters of a line kept for rollback; one is about 1 MB.
MAX_LINES = 64  # More is a mistake of a script, and 64 lines of 8 are 512 MB.
_LINE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")

Line = tuple[str | None, ...]
"""Adapters of one line, oldest first; the last is in use. None stands for the bare base."""


class Shelf:
    """One line of admitted adapters on disk."""

    def __init__(self, home: Home, name: str | None = None) -> None:
        """Look at a line of `home`; it need not exist yet.

        Args:
            home: Where the adapters are.
            name: Name of the line: 1 to 32 small letters, digits and hyphens, no hyphen at either end. None takes the
                line that `select` chose, else `default`.

        Raises:
            AdapterError: It is no name for a line.
        """
        self._home = home
        self.name = _checked(name if name is not None else _selected(home))

    @property
    def in_use(self) -> str | None:
        """Name of the adapter in use, or None: the bare base."""
        line = self.history
        return line[-1] if line else None

    @property
    def history(self) -> Line:
        """The adapters that are kept, oldest first; the last is in use."""
        return lines_of(self._home).get(self.name, ())

    def load(self, *, base_digest: str) -> Adapter | None:
        """The adapter in use, or None.

        Raises:
            AdapterError, BaseMismatchError: It is damaged or fits another base.
        """
        name = self.in_use
        return Adapter.load(self._folder(name), base_digest=base_digest) if name else None

    def folder(self, name: str) -> Path:
        """Where a kept adapter lies."""
        return self._folder(name)

    def label(self) -> dict[str, Any] | None:
        """What the adapter in use cost and proved: unit, epsilon, delta, accountant, verdict; None without one."""
        name = self.in_use
        return self.label_of(name) if name else None

    def put(self, admitted: AdmittedAdapter, name: str, label: Mapping[str, Any]) -> None:
        """Put an admitted adapter in use; the one before stays for `roll_back`. Hold the home's lock.

        Args:
            admitted: What the gate let through.
            name: A name that no adapter of this home has; it becomes a folder.
            label: What it cost and proved. What the adapter in use carries from other devices is added (rule 5), unless
                the label has `carried` already because the adapter does not go on from that one.

        Raises:
            AdapterError, HomeError: Nothing changed; the adapter before stays in use.
        """
        self.sweep()
        line, carried = self.history, {}
        if "carried" not in label and (before := self.label()) and before.get("carried"):
            carried = {"carried": before["carried"]}
        content = {"format": LABEL_FORMAT, "adapter": name, **carried, **label}
        admitted.adapter.save(self._folder(name), extra={"label.json": content})
        self._write((*line, name))

    def put_bare(self) -> None:
        """Let the bare base answer on this line; the adapter before stays for `roll_back`. Hold the home's lock."""
        self._write((*self.history, None))

    def select(self) -> None:
        """Make this the line of whoever names none. Hold the home's lock."""
        self._home.update_state(line=self.name)

    def roll_back(self) -> str | None:
        """Put the adapter before in use and return its name (None: the bare base). Spends and refunds nothing.

        Raises:
            AdapterError: There is no adapter in use.
        """
        line = self.history
        if not line:
            raise AdapterError("no adapter is in use, so there is nothing to roll back; learn first")
        self._write(line[:-1])
        return self.in_use

    def undo(self, name: str) -> list[str]:
        """Take an adapter and all that came after it on this line out of use, and delete them. Hold the home's lock.

        Returns:
            Names of the deleted adapters, oldest first; the one before `name` (or the bare base) is in use afterwards.

        Raises:
            AdapterError: This line has no such adapter; nothing changed.
        """
        line = self.history
        if name not in line:
            raise AdapterError(f"line {self.name} has no adapter {name}; `limbeck adapter list` names those it has")
        kept, undone = line[: line.index(name)], self.since(name)
        self._write(kept)
        for gone in undone:
            shutil.rmtree(self._folder(gone))
        return undone

    def since(self, name: str) -> list[str]:
        """Names of an adapter of this line and of all that came after it, oldest first."""
        return [later for later in self.history[self.history.index(name) :] if later]

    def label_of(self, name: str) -> dict[str, Any]:
        """What an adapter of this home cost and proved.

        Raises:
            AdapterError: There is no such label, or it cannot be read.
        """
        try:
            label = dict(json.loads((self._folder(name) / "label.json").read_text()))
            if label["format"] != LABEL_FORMAT:
                raise AdapterError(f"the label of adapter {name} has format {label['format']!r}; update limbeck")
            return label
        except (OSError, ValueError, TypeError, KeyError) as cause:
            raise AdapterError(f"the label of adapter {name} cannot be read; roll back or learn again") from cause

    def _write(self, line: Line) -> None:
        lines = lines_of(self._home)
        if self.name not in lines and len(lines) >= MAX_LINES:
            raise AdapterError(f"this home has {len(lines)} lines of adapters, the most it may have; use one of them")
        # The keys of a home with one line go, or it would say two things.
        self._home.update_state(lines=lines | {self.name: line[-KEPT:]}, adapter=None, adapters=None)

    def sweep(self) -> None:
        """Delete what no line names: adapters that were half written or half deleted. Hold the home's lock."""
        named = {name for line in lines_of(self._home).values() for name in line}
        for folder in self._home.adapters.iterdir():
            if folder.name not in named:
                shutil.rmtree(folder, ignore_errors=True)

    def _folder(self, name: str) -> Path:
        if not name.replace("-", "").isalnum():
            raise AdapterError(f"adapter name {name!r} is not one that this home gave; restore state.json")
        return self._home.adapters / name


def lines_of(home: Home) -> dict[str, Line]:
    """Every line of a home that has or had an adapter, by name.

    Raises:
        AdapterError: `state.json` holds something else in their place; nothing was changed.
    """
    state = home.state()
    single = state.get("adapters") or ([state["adapter"]] if state.get("adapter") else [])
    lines = state.get("lines", {DEFAULT: single} if single else {})  # A home from before there were lines had one.
    try:
        read = {_checked(name): tuple(line) for name, line in lines.items()}
        if not all(name is None or isinstance(name, str) for line in read.values() for name in line):
            raise TypeError("a name is no text")
    except (AttributeError, TypeError) as cause:
        raise AdapterError("the adapters in state.json are not lists of names; restore state.json") from cause
    return read


def gate_uses(home: Home) -> int:
    """How often this home's gate was asked outside a night: for merges, imports and migrations."""
    return int(home.state().get("gate_uses", 0))


def count_gate_use(home: Home) -> int:
    """Count one more use of the gate before it is asked, and return the new number. Hold the home's lock.

    Every look at the gate spends some of the home's one chance of error (personalize.spending), so no two looks may
    have the same number: a night's is the runs reserved so far plus `gate_uses`, another's the same after counting
    itself.
    """
    uses = gate_uses(home) + 1
    home.update_state(gate_uses=uses)
    return uses


def _selected(home: Home) -> str:
    return str(home.state().get("line", DEFAULT))


def _checked(name: str) -> str:
    if not _LINE_NAME.fullmatch(name):
        raise AdapterError(
            f"{name!r:.60} is no name for a line of adapters; use 1 to 32 small letters, digits and hyphens"
        )
    return name
