"""Forgotten records in, what may still hold a trace of them out; and the exact way: back to before they were learned.

Rules:
    1. An adapter holds a trace of a record if it was trained on it, goes on from one that was, or was merged from one.
       A trace is bounded by what the record's block was charged.
    2. Exact removal takes every adapter with a trace out of use, on every line, and deletes it: what answers afterwards
       was made before the record was first learned.
    3. Later nights went on from what was taken out, so they go with it. Their records that are still remembered are
       fresh again: the next night may learn from them once more, charged once more, as far as their blocks can pay.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from personalize.errors import AdapterError
from personalize.home import Home
from personalize.shelf import Shelf, lines_of
from personalize.store import Forgotten, Store

__all__ = ["Removal", "Undone", "adapter_of", "take_out", "traces"]


@dataclass(frozen=True, kw_only=True)
class Undone:
    """What exact removal took out."""

    adapters: tuple[str, ...]
    """Deleted adapters, oldest first."""
    runs: tuple[str, ...]
    """Ids of their nights."""
    fresh: int
    """Records that are still remembered and no adapter has any more: the next night may learn from them again."""


@dataclass(frozen=True, kw_only=True)
class Removal(Forgotten):
    """What was forgotten, and what may still hold a trace of it."""

    adapters: tuple[str, ...] = ()
    """Adapters that may hold a trace of a removed record, oldest first; none after exact removal."""
    epsilon: float = 0.0
    """The most that any removed record was charged, in nats: the bound of every trace."""
    delta: float = 0.0
    """Probability that goes with it."""
    texts: int = 0
    """Generated texts that were deleted because such an adapter wrote them."""
    undone: Undone | None = None
    """What exact removal took out; None where it was not asked for."""

    def to_dict(self) -> dict[str, Any]:
        """What may still be there, as plain values."""
        return {
            "trained_blocks": list(self.trained_blocks),
            "adapters": list(self.adapters),
            "epsilon": self.epsilon,
            "delta": self.delta,
            "texts": self.texts,
            "undone": None
            if self.undone is None
            else {"adapters": list(self.undone.adapters), "fresh": self.undone.fresh},
            "remains": self.remains(),
        }

    def remains(self) -> str:
        """What may still be there, in words for a person."""
        if not self.trained_blocks:
            return "no adapter had learned from them"
        if self.undone is not None:
            gone = f"{len(self.undone.adapters)} adapters that had learned from them are deleted"
            return f"{gone}; what answers now was made before that; {self.undone.fresh} other records are fresh again"
        if not self.adapters:
            return "no adapter that is kept has learned from them"
        odds = math.exp(self.epsilon)
        return (
            f"{', '.join(self.adapters)} may hold a trace: who sees them can raise the odds that a record was "
            f"there {odds:.1f} times at most (epsilon {self.epsilon:.2f}), except with probability {self.delta:g}; "
            "--exact goes back to before"
        )


def adapter_of(run: str) -> str:
    """Name of the adapter that a night admits."""
    return f"night-{run}"


def traces(home: Home, runs: Collection[str]) -> list[str]:
    """Adapters, on any line, that may hold a trace of what these nights learned: rule 1."""
    found: list[str] = []
    wanted = {adapter_of(run) for run in runs}
    lines = {name: Shelf(home, name) for name in lines_of(home)}
    for _ in range(
        1 + sum(len(shelf.history) for shelf in lines.values())
    ):  # A merge may pass a trace to another line.
        before = len(found)
        for shelf in lines.values():
            tainted = False
            for adapter in shelf.history:
                if adapter is None:
                    tainted = False  # The bare base: what comes after goes on from nothing.
                    continue
                tainted = tainted or adapter in wanted or not wanted.isdisjoint(_parts(shelf, adapter))
                if tainted and adapter not in found:
                    found.append(adapter)
                    wanted.add(adapter)
        if len(found) == before:
            break
    return found


def take_out(home: Home, store: Store, runs: Collection[str], *, everything: bool = False) -> Undone:
    """Go back, on every line, to before the first adapter with a trace: rules 2 and 3. Hold the home's lock.

    Args:
        home: Where the adapters are.
        store: Where the records of later nights are.
        runs: Nights that learned from what was forgotten.
        everything: Every adapter of every line goes, so no one before it need be kept.

    Raises:
        AdapterError: The adapter before it is no longer kept, so there is nothing exact to go back to; nothing changed.
    """
    tainted = {name for line in lines_of(home).values() for name in line if name} if everything else traces(home, runs)
    shelves = [Shelf(home, name) for name in lines_of(home)]
    first = {shelf: next((one for one in shelf.history if one in tainted), None) for shelf in shelves}
    if not everything:
        for shelf, adapter in first.items():
            _require_predecessor(shelf, adapter)
    gone = {shelf: shelf.since(adapter) for shelf, adapter in first.items() if adapter is not None}
    undone = [name for names in gone.values() for name in names]
    later = {name.removeprefix("night-") for name in undone if name.startswith("night-")} - set(runs)
    # Whoever is killed anywhere here may ask again: what `runs` learned is marked as learned until the end.
    fresh = store.unmark_trained(later)
    for shelf, names in gone.items():
        shelf.undo(names[0])
    Shelf(home).sweep()  # What an earlier call took from its line and did not come to delete.
    nights = tuple(sorted(later | set(runs)))
    return Undone(adapters=tuple(undone), runs=nights, fresh=fresh + store.unmark_trained(runs))


def _require_predecessor(shelf: Shelf, adapter: str | None) -> None:
    """Refuse where the line was cut short just there: the start of what is kept is not the start of what was."""
    if adapter is None or shelf.history.index(adapter) > 0:
        return
    before = _label(shelf, adapter).get("before")
    if before:
        raise AdapterError(
            f"the adapter before {adapter}, {before}, is no longer kept, so nothing exact can be gone back to; "
            f"`limbeck forget --all --exact` goes back to the public start"
        )


def _parts(shelf: Shelf, adapter: str) -> set[str]:
    """Adapters that this one was merged from."""
    merge = _label(shelf, adapter).get("merge") or {}
    return {str(part.get("adapter")) for part in merge.get("parts", ())}


def _label(shelf: Shelf, adapter: str) -> dict[str, Any]:
    try:
        return shelf.label_of(adapter)
    except AdapterError:
        return {"before": "unknown"}  # Unreadable: the careful answer.
