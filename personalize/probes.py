"""Probe items of a bundle in, one number an item out: how well a model still does what it could.

A `loss` item scores the mean loss of its answer's tokens, in nats; an `open` one does so for a text that would go on,
and leaves its end out. A `pair` item scores the probability, in percentage points, that the model puts on the bad
sentence of a good and a bad one; a `choice` item does so for the first token in which the two differ, and so costs
half. Lower is better for all.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from personalize.adapter import Adapter, attached
from personalize.errors import ProbeError
from personalize.forward import Encoded, Prefix, choice_logits, collate, completion_losses, encode, prefixes

__all__ = ["UNITS", "Probes"]

FORMAT = "probe/1"
UNITS = {
    "loss": "nats per token",
    "open": "nats of divergence",
    "pair": "percentage points",
    "choice": "points of choice",
}
PER_LOSS = {"loss": 1.0, "open": 0.5, "pair": 4.0, "choice": 1.0}
"""Items of a kind for each loss item of a quicker gate: with 30 pairs the bound is wider than its margin, and good
adapters are refused; open texts are long, and their margin is wide."""
MAX_PROBE_TOKENS = 96  # Probe answers are short; none may be cut, or two items could become one.


_Item = tuple[str, list[Encoded]]  # Its stratum, and its one or two sides.


@dataclass(frozen=True, kw_only=True)
class _Leg:
    kind: str
    items: tuple[Encoded, ...]  # A pair takes two places: good, bad. Of a choice the good one stands here.
    strata: tuple[str, ...]  # What the item was drawn as, (items,)
    others: tuple[int, ...] = ()  # What a choice's last token might have been: the bad ones, (items,)


class Probes:
    """The public probes, with what the frozen layers make of them kept for the next use."""

    def __init__(self, rows: Iterable[Mapping[str, Any]], tokenizer: Any, *, per_leg: int | None = None) -> None:
        """Read probe items.

        Args:
            rows: Objects of `probes.jsonl`.
            tokenizer: Of the base.
            per_leg: Use only about so many items of each leg, as PER_LOSS says for its kind; evenly spread. None uses
                all.

        Raises:
            ProbeError: An item of another format or kind, or none at all.
        """
        found: dict[str, tuple[str, list[_Item]]] = {}
        try:
            for row in rows:
                if row["format"] != FORMAT or row["kind"] not in UNITS:
                    raise ProbeError(
                        f"probe {row['id']} has format {row['format']!r} and kind {row['kind']!r}; update limbeck"
                    )
                texts = (row["answer"],) if row["kind"] in ("loss", "open") else (row["good"], row["bad"])
                kind, items = found.setdefault(row["leg"], (row["kind"], []))
                if kind != row["kind"]:
                    raise ProbeError(f"leg {row['leg']} mixes kinds {kind} and {row['kind']}; rebuild the base bundle")
                sides = _parted(row["id"], [_encoded(tokenizer, row, text) for text in texts])
                items.append((str(row["id"]).rpartition("-")[0], sides))
        except (KeyError, TypeError) as cause:
            raise ProbeError(f"a probe has no field {cause}; rebuild the base bundle") from cause
        if not found:
            raise ProbeError("the base bundle has no probes, so nothing could be admitted; rebuild it")
        self._legs = {leg: _leg(kind, _spread(items, _limit(kind, per_leg))) for leg, (kind, items) in found.items()}
        self._kept: tuple[int, dict[str, list[Prefix]]] | None = None
        self._bare: tuple[int, dict[str, Tensor]] | None = None

    def units(self) -> dict[str, str]:
        """Unit of each leg's scores."""
        return {name: UNITS[leg.kind] for name, leg in self._legs.items()}

    def strata(self) -> dict[str, tuple[str, ...]]:
        """Of each leg, the kind that each item was drawn as: the part of its id before the last dash."""
        return {name: leg.strata for name, leg in self._legs.items()}

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
        losses = torch.zeros(len(kept), dtype=torch.float64)  # (sequences,) sums in nats, or a choice's score
        for start in range(0, len(order), 32):
            rows = order[start : start + 32]
            batch = collate([kept[row] for row in rows])
            if leg.kind == "choice":
                tokens = torch.tensor([[kept[row].record.ids[-1], leg.others[row]] for row in rows])  # (batch, 2)
                logits = choice_logits(model, batch, tokens, cut=cut).double()
                losses[rows] = 100.0 * torch.softmax(logits, 1)[:, 1]
            else:
                losses[rows] = completion_losses(model, batch, cut=cut).double()
        if leg.kind == "choice":
            return losses
        if leg.kind == "pair":
            return 100.0 * torch.sigmoid(losses[0::2] - losses[1::2])  # P(bad) between the two, (items,)
        counts = [len(item.ids) - item.completion for item in leg.items]
        return losses / torch.tensor(counts, dtype=torch.float64)


def _encoded(tokenizer: Any, row: Mapping[str, Any], text: str) -> Encoded:
    made = encode(tokenizer, str(row["prompt"]), text, max_tokens=MAX_PROBE_TOKENS)
    return replace(made, ids=made.ids[:-1]) if row["kind"] == "open" else made


def _parted(name: str, sides: list[Encoded]) -> list[Encoded]:
    """The sides of a pair as completions from where they part: what they share scores alike and is not computed."""
    if len(sides) == 1:
        return sides
    good, bad = sides
    alike = [one == other for one, other in zip(good.ids, bad.ids, strict=False)]
    if all(alike):
        raise ProbeError(f"the sides of probe {name} are the same; rebuild the base bundle")
    return [replace(side, completion=alike.index(False)) for side in sides]


def _leg(kind: str, items: Sequence[_Item]) -> _Leg:
    strata = tuple(stratum for stratum, _ in items)
    if kind != "choice":
        return _Leg(kind=kind, items=tuple(part for _, sides in items for part in sides), strata=strata)
    stems = tuple(replace(good, ids=good.ids[: good.completion + 1]) for _, (good, _) in items)
    others = tuple(bad.ids[bad.completion] for _, (_, bad) in items)
    return _Leg(kind=kind, items=stems, strata=strata, others=others)


def _limit(kind: str, per_leg: int | None) -> int | None:
    return None if per_leg is None else max(2, int(PER_LOSS[kind] * per_leg))


def _spread(items: Sequence[_Item], limit: int | None) -> list[_Item]:
    """At most `limit` items: as many of each kind as of any other, and evenly spread inside a kind."""
    if limit is None or len(items) <= limit:
        return list(items)
    kinds: dict[str, list[int]] = {}
    for place, (stratum, _) in enumerate(items):
        kinds.setdefault(stratum, []).append(place)
    shares = dict.fromkeys(kinds, 0)
    while (missing := limit - sum(shares.values())) > 0:
        for kind in [kind for kind in kinds if shares[kind] < len(kinds[kind])][:missing]:
            shares[kind] += 1
    chosen = [
        places[index * len(places) // shares[kind]] for kind, places in kinds.items() for index in range(shares[kind])
    ]
    return [items[place] for place in sorted(chosen)]


def _by_length(model: Any, items: Sequence[Encoded], cut: int) -> list[Prefix]:
    """Prefixes in the items' order, computed in the order of their length: less padding."""
    order = sorted(range(len(items)), key=lambda index: len(items[index].ids))
    made = list(prefixes(model, [items[index] for index in order], cut=cut, batch=32))
    placed = dict(zip(order, made, strict=True))
    return [placed[index] for index in range(len(items))]
