"""People's gradients at a domain adapter in, directions for how their texts differ out.

    1. Of each person: the mean gradient of two disjoint halves of their records, and some single records.
    2. Candidates: the principal axes of single public records, each scaled so that a record moves it by one unit. There
       are more of them than people, so they reach further than the span of people's means (docs/log.md).
    3. How far people lie apart along each: the product of a person's two halves, averaged over people. One half alone
       would mistake the sampling noise of its records for a person.
    4. That is too kind where a person's own records made the axis, so it is scaled down by what axes made without a
       quarter of the people show of that quarter.
Only the upper layers move: at SmolLM2-135M's adapter the last two of four hold 0.87 of the squared gradient.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from personalize.adapter import Adapter
from personalize.forward import Prefix, collate, completion_losses
from personalize.learner import Base
from personalize.plan import NightPlan
from personalize.trainable import Basis, FrozenA
from privacy.per_example import take_grad_sample
from sdk.errors import NoDirectionsError

__all__ = ["Seen", "directed", "directions_of", "seen_of"]

DIRECTED_LAYERS = 2  # The uppermost: 83,000 numbers a direction instead of 166,000.
SINGLES = 12  # Records of a person that the axes are made from.
FOLDS = 4
LEAST_VARIANCE = 0.003  # Below it 300 records of a person say more about noise than about them.
MICROBATCH = 16
HEAD_ROWS = NightPlan().head_rows  # The night looks at the same part of the vocabulary.


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is kept of one public person, as gradients of B in the directed layers."""

    first: Tensor
    """Mean over the even records, shape (numbers,)."""
    second: Tensor
    """Mean over the odd records, shape (numbers,)."""
    singles: Tensor
    """Some single records, shape (records, numbers), fp16."""


def directed(start: Adapter) -> FrozenA:
    """The part of an adapter that gets directions."""
    return FrozenA(start, layers=start.spec.layers[-DIRECTED_LAYERS:])


def seen_of(base: Base, start: Adapter, person: Sequence[Prefix]) -> Seen:
    """Look at one person's records, shape of the gradients (records, numbers)."""
    made = []
    parts = directed(start)
    with parts.attached(base.model):
        for first in range(0, len(person), MICROBATCH):
            batch = collate(person[first : first + MICROBATCH])
            losses = completion_losses(base.model, batch, cut=base.spec.cut, head_rows=HEAD_ROWS)
            losses.sum().backward()
            taken = [take_grad_sample(parameter) for parameter in parts.parameters]
            made.append(torch.cat([gradient.flatten(1) for gradient in taken if gradient is not None], dim=1))
    gradients = torch.cat(made)
    return Seen(first=gradients[0::2].mean(0), second=gradients[1::2].mean(0), singles=gradients[:SINGLES].half())


def directions_of(people: Sequence[Seen], shapes: Mapping[str, torch.Size], *, count: int) -> Basis:
    """Make at most `count` directions, those along which people differ most first.

    Args:
        people: Public people.
        shapes: Site name to the shape of B, in the order of the gradients' numbers.
        count: Largest number of directions, ≥ 1.

    Raises:
        NoDirectionsError: The halves of people agree along no axis; there is nothing to learn from.
    """
    rows = torch.cat([person.singles for person in people]).float()  # (records, numbers)
    axes = _axes(rows, 2 * count)
    apart = _apart(axes, *_halves(people)) * _kindness(people, count)
    kept = [index for index in apart.argsort(descending=True)[:count].tolist() if apart[index] > LEAST_VARIANCE]
    if not kept:
        raise NoDirectionsError(
            "the two halves of no public person agree; there is nothing to learn from, add public text"
        )
    split = axes[kept].split([shape.numel() for shape in shapes.values()], dim=1)
    directions = {site: part.reshape(-1, *shape) for (site, shape), part in zip(shapes.items(), split, strict=True)}
    return Basis(directions=directions, variance=apart[kept])


def _axes(rows: Tensor, count: int) -> Tensor:
    """Principal axes of single records, strongest first, a record moving each by one unit: shape (count, numbers)."""
    size, ways = torch.linalg.eigh((rows @ rows.t()).double())
    size, ways = size.flip(0)[:count], ways.flip(1)[:, :count]
    held = size > size.max() * 1e-9
    scaled: Tensor = (ways[:, held] / size[held] * len(rows) ** 0.5).t().float() @ rows
    return scaled


def _apart(axes: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Between-people variance along each axis, shape (count,); below 0 where the halves disagree."""
    return ((first @ axes.t()) * (second @ axes.t())).mean(0)


def _kindness(people: Sequence[Seen], count: int) -> float:
    """What axes show of people who did not make them, over what they show of people who did; in [0, 1]."""
    others = own = 0.0
    for fold in range(FOLDS):
        out = people[fold::FOLDS]
        within = [person for index, person in enumerate(people) if index % FOLDS != fold]
        axes = _axes(torch.cat([person.singles for person in within]).float(), count)
        others += float(_apart(axes, *_halves(out)).sum())
        own += float(_apart(axes, *_halves(within)).sum())
    return min(1.0, max(0.0, others / own)) if own > 0 else 0.0


def _halves(people: Sequence[Seen]) -> tuple[Tensor, Tensor]:
    return torch.stack([person.first for person in people]), torch.stack([person.second for person in people])
