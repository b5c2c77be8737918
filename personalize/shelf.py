"""The adapters of a home: which one is in use, which came before, and what each of them cost and proved.

Rules:
    1. Only an AdmittedAdapter gets a place. Its folder is whole and on the disk before `state.json` names it.
    2. `state.json` is replaced in one step, so the adapter in use is always a whole one: the old or the new.
    3. A folder that nothing names was left by a crash; the next admission sweeps it.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from personalize.adapter import Adapter
from personalize.errors import AdapterError
from personalize.home import Home
from personalize.retention import AdmittedAdapter

__all__ = ["Shelf"]

LABEL_FORMAT = "label/1"
KEPT = 8  # Earlier adapters kept for rollback; one is about 1 MB.


class Shelf:
    """Admitted adapters on disk."""

    def __init__(self, home: Home) -> None:
        """Look at the adapters of `home`."""
        self._home = home

    @property
    def in_use(self) -> str | None:
        """Name of the adapter in use, or None before the first admission."""
        name = self._home.state().get("adapter")
        return str(name) if name else None

    def load(self, *, base_digest: str) -> Adapter | None:
        """The adapter in use, or None.

        Raises:
            AdapterError, BaseMismatchError: It is damaged or fits another base.
        """
        name = self.in_use
        return Adapter.load(self._folder(name), base_digest=base_digest) if name else None

    def label(self) -> dict[str, Any] | None:
        """What the adapter in use cost and proved: unit, epsilon, delta, accountant, verdict; None without one."""
        name = self.in_use
        if not name:
            return None
        try:
            label = dict(json.loads((self._folder(name) / "label.json").read_text()))
            if label["format"] != LABEL_FORMAT:
                raise AdapterError(f"the label of adapter {name} has format {label['format']!r}; update limbeck")
            return label
        except (OSError, ValueError, TypeError, KeyError) as cause:
            raise AdapterError(f"the label of adapter {name} cannot be read; roll back or learn again") from cause

    def put(self, admitted: AdmittedAdapter, name: str, label: dict[str, Any]) -> None:
        """Put an admitted adapter in use; the one before stays for `roll_back`. Hold the home's lock.

        Raises:
            AdapterError, HomeError: Nothing changed; the adapter before stays in use.
        """
        self._sweep()
        history = self._history()
        admitted.adapter.save(
            self._folder(name), extra={"label.json": {"format": LABEL_FORMAT, "adapter": name, **label}}
        )
        self._home.update_state(adapter=name, adapters=[*history, name][-KEPT:])

    def roll_back(self) -> str | None:
        """Put the adapter before in use and return its name (None: the bare base). Spends and refunds nothing.

        Raises:
            AdapterError: There is no adapter in use.
        """
        history = self._history()
        if not history:
            raise AdapterError("no adapter is in use, so there is nothing to roll back; learn first")
        kept = history[:-1]
        self._home.update_state(adapter=kept[-1] if kept else None, adapters=kept)
        return kept[-1] if kept else None

    def _history(self) -> list[str]:
        return [str(name) for name in self._home.state().get("adapters", [])]

    def _sweep(self) -> None:
        named = set(self._history())
        for folder in self._home.adapters.iterdir():
            if folder.name not in named:
                shutil.rmtree(folder, ignore_errors=True)

    def _folder(self, name: str) -> Path:
        if not name.replace("-", "").isalnum():
            raise AdapterError(f"adapter name {name!r} is not one that this home gave; restore state.json")
        return self._home.adapters / name
