"""Adapters and their weights in, one adapter out whose correction is the weighted sum of theirs.

The sum of w_i B_i A_i is exact where all share A (kinds frozen-a, xs and basis do, by their public frame): then only B
is summed. Else the factors stand side by side, which is exact too but as wide as all of them together; asked for a
smaller rank, the best approximation of that rank is taken, and what it loses is told.

A merge is post-processing: no record is read, nothing is charged. It is a candidate like any other; the gate decides.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from personalize.adapter import Adapter
from personalize.errors import AdapterError

__all__ = ["Merged", "merge"]

MAX_WEIGHT = 4.0  # Beyond it a weight is a typing error: the gate would only say no after minutes.


@dataclass(frozen=True, kw_only=True)
class Merged:
    """A weighted sum of adapters."""

    adapter: Adapter
    """The sum; a standard LoRA."""
    lost: float
    """Share of the sum's squared Frobenius norm, over all maps, that the rank could not hold, in [0, 1]; 0 is exact."""


def merge(parts: Sequence[tuple[Adapter, float]], *, rank: int | None = None) -> Merged:
    """Sum adapters by weight.

    Args:
        parts: Adapters of one base on the same layers and maps, each with its weight, at most MAX_WEIGHT in size. A
            negative weight takes away what an adapter added.
        rank: Rank of the sum, ≥ 1; None keeps it exact.

    Raises:
        AdapterError: No parts, a weight out of range, or adapters that do not go together; nothing was changed.

    Source: task arithmetic, arXiv:2212.04089; factors side by side as peft's `add_weighted_adapter`; the best
    approximation of a rank, Eckart and Young 1936.
    """
    first = _checked(parts, rank)
    if all(torch.equal(first.a[site], other.a[site]) for other, _ in parts for site in first.a):
        b = {site: _sum([weight * other.b[site] for other, weight in parts]) for site in first.b}
        kinds = {other.kind for other, _ in parts}
        whole = replace(first, b=b, kind=kinds.pop() if len(kinds) == 1 else "frozen-a")
    else:
        whole = replace(
            first,
            spec=replace(first.spec, rank=sum(other.spec.rank for other, _ in parts)),
            a={site: torch.cat([other.a[site] for other, _ in parts]) for site in first.a},  # (sum of ranks, in)
            b={site: torch.cat([weight * other.b[site] for other, weight in parts], 1) for site in first.b},
            kind="lora",
        )
    return Merged(adapter=whole, lost=0.0) if rank is None or rank >= whole.spec.rank else _cut(whole, rank)


def _checked(parts: Sequence[tuple[Adapter, float]], rank: int | None) -> Adapter:
    """The first part, after every check."""
    if not parts:
        raise AdapterError("a merge needs at least one adapter; name those to merge")
    if rank is not None and rank < 1:
        raise AdapterError(f"rank {rank} is below 1; ask for a rank of at least 1")
    first = parts[0][0]
    for other, weight in parts:
        if not math.isfinite(weight) or abs(weight) > MAX_WEIGHT:
            raise AdapterError(
                f"weight {weight:g} is out of range; choose one between -{MAX_WEIGHT:g} and {MAX_WEIGHT:g}"
            )
        if other.fits_base != first.fits_base:
            raise AdapterError("the adapters were learned on different bases; migrate them to one base first")
        if (other.spec.layers, other.spec.targets) != (first.spec.layers, first.spec.targets):
            raise AdapterError("the adapters sit on different layers or maps; only adapters of one release merge")
    return first


def _sum(terms: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum(0)


def _cut(whole: Adapter, rank: int) -> Merged:
    """The nearest adapter of a smaller rank, and the share it loses."""
    a, b, lost, total = {}, {}, 0.0, 0.0
    for site in whole.a:
        left, left_core = torch.linalg.qr(whole.b[site].double())  # (out, wide), (wide, wide)
        right, right_core = torch.linalg.qr(whole.a[site].double().t())  # (in, wide), (wide, wide)
        u, sizes, v = torch.linalg.svd(left_core @ right_core.t())  # Of B A, without forming (out, in).
        lost += float(sizes[rank:].square().sum())
        total += float(sizes.square().sum())
        b[site] = (left @ (u[:, :rank] * sizes[:rank])).to(whole.b[site].dtype).contiguous()
        a[site] = (v[:rank] @ right.t()).to(whole.a[site].dtype).contiguous()
    adapter = replace(whole, spec=replace(whole.spec, rank=rank), a=a, b=b, kind="lora")
    return Merged(adapter=adapter, lost=lost / total if total else 0.0)
