"""Probe items of a bundle in, one number an item out: how well a model still does what it could.

A `loss` item scores the mean loss of its answer's tokens, in nats. A `pair` item scores the probability, in percentage
points, that the model puts on the bad sentence of a good and a bad one. Lower is better for both.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from personalize.adapter import Adapter, attached
from personalize.errors import ProbeError
from personalize.forward import Encoded, Prefix, collate, completion_losses, encode, prefixes

__all__ = ["UNITS", "Probes"]

FORMAT = "probe/1"
UNITS = {"loss": "nats per token", "pair": "percentage points"}
PAIRS_PER_LOSS = 4  # With 30 pairs the bound of a drop is wider than its margin, and good adapters are refused.
MAX_PROBE_TOKENS = 96  # Probe answers are short; none may be cut, or two items could become one.


@dataclass(frozen=True, kw_only=True)
class _Leg:
    kind: str
    items: tuple[Encoded, ...]  # a pair item takes two places: good, bad


class Probes:
    """The public probes, with what the frozen layers make of them kept for the next use."""

    def __init__(self, rows: Iterable[Mapping[str, Any]], tokenizer: Any, *, per_leg: int | None = None) -> None:
        """Read probe items.

        Args:
            rows: Objects of `probes.jsonl`.
            tokenizer: Of the base.
            per_leg: Use only so many loss items of each leg, and four times as many pairs, which are short and need
                numbers; evenly spread. None uses all.

        Raises:
            ProbeError: An item of another format or kind, or none at all.
        """
        found: dict[str, tuple[str, list[list[Encoded]]]] = {}
        try:
            for row in rows:
                if row["format"] != FORMAT or row["kind"] not in UNITS:
                    raise ProbeError(
                        f"probe {row['id']} has format {row['format']!r} and kind {row['kind']!r}; update limbeck"
                    )
                texts = (row["answer"],) if row["kind"] == "loss" else (row["good"], row["bad"])
                kind, items = found.setdefault(row["leg"], (row["kind"], []))
                if kind != row["kind"]:
                    raise ProbeError(f"leg {row['leg']} mixes kinds {kind} and {row['kind']}; rebuild the base bundle")
                prompt = str(row["prompt"])
                items.append([encode(tokenizer, prompt, text, max_tokens=MAX_PROBE_TOKENS) for text in texts])
        except (KeyError, TypeError) as cause:
            raise ProbeError(f"a probe has no field {cause}; rebuild the base bundle") from cause
        if not found:
            raise ProbeError("the base bundle has no probes, so nothing could be admitted; rebuild it")
        self._legs = {
            leg: _Leg(kind=kind, items=tuple(part for item in _spread(items, _limit(kind, per_leg)) for part in item))
            for leg, (kind, items) in found.items()
        }
        self._kept: tuple[int, dict[str, list[Prefix]]] | None = None
        self._bare: tuple[int, dict[str, Tensor]] | None = None

    def units(self) -> dict[str, str]:
        """Unit of each leg's scores."""
        return {name: UNITS[leg.kind] for name, leg in self._legs.items()}

    def prepare(self, model: Any, *, cut: int) -> None:
        """Run the frozen layers over all items once; later scores with this cut start from there."""
        if self._kept is None or self._kept[0] != cut:
            self._kept = cut, {name: _by_length(model, leg.items, cut) for name, leg in self._legs.items()}

    def score(self, model: Any, adapter: Adapter) -> dict[str, Tensor]:
        """Score every item under an adapter.

        Returns:
            Leg to scores, shape (items,), in a fixed order, so that two calls can be compared item by item.
        """
        self.prepare(model, cut=adapter.spec.cut)
        assert self._kept is not None
        with attached(model, adapter):
            return {name: self._leg_scores(model, name, adapter.spec.cut) for name in self._legs}

    def score_bare(self, model: Any, base: Adapter) -> dict[str, Tensor]:
        """The same under an adapter that changes nothing; kept, because every verdict is against it."""
        if self._bare is None or self._bare[0] != base.spec.cut:
            self._bare = base.spec.cut, self.score(model, base)
        return self._bare[1]

    @torch.no_grad()
    def _leg_scores(self, model: Any, name: str, cut: int) -> Tensor:
        leg, kept = self._legs[name], self._kept[1][name]  # type: ignore[index]
        order = sorted(range(len(kept)), key=lambda index: len(kept[index].record.ids))
        losses = torch.zeros(len(kept), dtype=torch.float64)  # (sequences,) sums in nats
        for start in range(0, len(order), 32):
            rows = order[start : start + 32]
            losses[rows] = completion_losses(model, collate([kept[row] for row in rows]), cut=cut).double()
        if leg.kind == "pair":
            return 100.0 * torch.sigmoid(losses[0::2] - losses[1::2])  # P(bad) between the two, (items,)
        counts = [len(item.ids) - item.completion for item in leg.items]
        return losses / torch.tensor(counts, dtype=torch.float64)


def _limit(kind: str, per_leg: int | None) -> int | None:
    return None if per_leg is None else per_leg * (PAIRS_PER_LOSS if kind == "pair" else 1)


def _spread(items: Sequence[list[Encoded]], limit: int | None) -> list[list[Encoded]]:
    if limit is None or len(items) <= limit:
        return list(items)
    return [items[math.floor(index * len(items) / limit)] for index in range(limit)]


def _by_length(model: Any, items: Sequence[Encoded], cut: int) -> list[Prefix]:
    """Prefixes in the items' order, computed in the order of their length: less padding."""
    order = sorted(range(len(items)), key=lambda index: len(items[index].ids))
    made = list(prefixes(model, [items[index] for index in order], cut=cut, batch=32))
    placed = dict(zip(order, made, strict=True))
    return [placed[index] for index in range(len(items))]
