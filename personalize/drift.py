"""Labels of admitted adapters and the adapters themselves in, a report on how far a person's model has moved out.

Everything here is public or an output of the mechanism: how many records a wall-clock block holds, how large each
admitted adapter is, how far it lies from the one before, what the gate measured on public probes. Nothing looks at a
record, so the report costs nothing and may be shown every day. Drift of the private text itself is not measured: that
would cost budget.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from personalize.adapter import Adapter
from personalize.errors import AdapterError
from personalize.shelf import Shelf

__all__ = ["Drift", "Step", "distance", "drift", "drift_of", "norm"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One admitted adapter."""

    name: str
    """Name of the adapter."""
    norm: float
    """Frobenius norm of all its B A together, in units of weights."""
    distance: float
    """Norm of the difference from the admitted adapter before, from nothing for the first."""
    cosine: float | None
    """Between this change and the change before, in [-1, 1]: near 1 goes on the same way, near -1 turns back; None for
    the first two, or where nothing moved."""
    drops: Mapping[str, float]
    """Leg to mean drop against the bare base, in the leg's unit, as the gate saw it; empty where it is not known."""


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How a home's model has moved, night by night."""

    records: Mapping[str, int]
    """Wall-clock block to number of records; public under the zero-out relation."""
    steps: tuple[Step, ...]
    """Admitted adapters, oldest first."""
    nearest: Mapping[str, float]
    """Leg to the share of its margin that the newest adapter has used up; at 1 the gate refuses."""

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)


def drift(
    nights: Sequence[tuple[str, Adapter, Mapping[str, Any] | None]], *, records: Mapping[str, int] | None = None
) -> Drift:
    """Report on admitted adapters.

    Args:
        nights: Name, adapter and label (as `Shelf.label` gives it, or None) of each admitted adapter, oldest first. All
            of one shape; those of an older base have to be left out.
        records: Wall-clock block to number of records.
    """
    steps: list[Step] = []
    before: Adapter | None = None
    last: Adapter | None = None  # The one before `before`.
    for name, adapter, label in nights:
        legs = _legs(label)
        turned = None
        if before is not None and last is not None:
            lengths = distance(adapter, before) * distance(before, last)
            turned = _turn(adapter, before, last) / lengths if lengths > 0 else None
        drops = {leg: float(facts["drop"]) for leg, facts in legs.items()}
        steps.append(
            Step(name=name, norm=norm(adapter), distance=distance(adapter, before), cosine=turned, drops=drops)
        )
        last, before = before, adapter
    newest = _legs(nights[-1][2]) if nights else {}
    nearest = {leg: max(0.0, float(facts["upper"]) / float(facts["margin"])) for leg, facts in newest.items()}
    return Drift(records=dict(records or {}), steps=tuple(steps), nearest=nearest)


def drift_of(shelf: Shelf) -> Drift:
    """Report on the adapters that a shelf keeps, as far as they have the base and the shape of the one in use.

    Raises:
        AdapterError: One of them is damaged.
    """
    nights: list[tuple[str, Adapter, Mapping[str, Any] | None]] = []
    records: dict[str, int] = {}
    for name in (name for name in shelf.history if name):
        folder, label = shelf.folder(name), shelf.label_of(name)
        try:
            fits = str(json.loads((folder / "adapter.json").read_text())["fits_base"])
        except (OSError, ValueError, KeyError, TypeError) as cause:
            raise AdapterError(f"adapter {name} cannot be read ({cause}); roll back or learn again") from cause
        nights.append((name, Adapter.load(folder, base_digest=fits), label))
        if "night" in label:
            records[", ".join(label["night"]["blocks"])] = int(label["night"]["records"])
    newest = nights[-1][1] if nights else None
    alike = [
        night for night in nights if newest and (night[1].fits_base, night[1].spec) == (newest.fits_base, newest.spec)
    ]
    return drift(alike, records=records)


def norm(adapter: Adapter) -> float:
    """Frobenius norm of B A over all sites."""
    return math.sqrt(_inner(adapter, adapter))


def distance(one: Adapter, other: Adapter | None) -> float:
    """Frobenius norm of the difference of two adapters' B A; `other` None stands for the bare base."""
    if other is None:
        return norm(one)
    return math.sqrt(max(0.0, _inner(one, one) - 2 * _inner(one, other) + _inner(other, other)))


def _turn(now: Adapter, before: Adapter, last: Adapter) -> float:
    """Inner product of the last change and the change before it."""
    return _inner(now, before) - _inner(now, last) - _inner(before, before) + _inner(before, last)


def _inner(one: Adapter, other: Adapter) -> float:
    """Inner product of two adapters' B A, without forming them: tr((B A)^T (D C)) = sum of (B^T D) * (A C^T)."""
    total = torch.zeros((), dtype=torch.float64)
    for site in one.b:
        columns: Tensor = one.b[site].double().t() @ other.b[site].double()  # (rank, rank)
        rows: Tensor = one.a[site].double() @ other.a[site].double().t()  # (rank, rank)
        total += (columns * rows).sum()
    return float(total)


def _legs(label: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    night = (label or {}).get("night") or label or {}
    return {leg["leg"]: leg for leg in night.get("retention", [])}
