"""A model, records and trained numbers in; clipped sums by plain autograd out, one record at a time.

The oracle shares nothing with the engine: whole model, weights that are really changed (W + B A), full logits, torch's
own cross-entropy, no padding, no batch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from personalize.adapter import Adapter
from personalize.forward import Encoded
from personalize.trainable import Basis

Factors = Mapping[str, tuple[Tensor, Tensor]]
"""Site name to A and B, as functions of the trained numbers."""


def factors_of(kind: str, model: Any, start: Adapter, basis: Basis | None) -> Callable[[Sequence[Tensor]], Factors]:
    """How trained numbers, in the order of Trainable.parameters, become the factors of each site.

    `model` is the one that the night runs on: the cores of `xs` stand on singular vectors of its weights, to the bit.
    """
    names = list(start.a)
    if kind == "lora":
        return lambda numbers: {name: (numbers[row], numbers[len(names) + row]) for row, name in enumerate(names)}
    if kind == "frozen-a":
        return lambda numbers: {name: (start.a[name], numbers[row]) for row, name in enumerate(names)}
    if kind == "xs":
        left = {
            name: torch.linalg.svd(model.get_submodule(name).weight, full_matrices=False)
            .U[:, : start.spec.rank]
            .to(start.b[name].dtype)
            for name in names
        }
        return lambda numbers: {
            name: (start.a[name], start.b[name] + left[name] @ numbers[row]) for row, name in enumerate(names)
        }
    assert basis is not None
    return lambda numbers: {
        name: (start.a[name], start.b[name] + torch.einsum("k,kor->or", numbers[0], basis.directions[name]))
        for name in names
    }


def loss_of(model: Any, record: Encoded, factors: Factors) -> Tensor:
    """Loss of one record in nats, under weights that are really changed."""
    weights = {f"{name}.weight": model.get_submodule(name).weight + b @ a for name, (a, b) in factors.items()}
    ids = torch.tensor([record.ids])  # (1, seq)
    logits = functional_call(model, weights, (), {"input_ids": ids, "use_cache": False}).logits[0]  # (seq, vocab)
    answer = slice(record.completion - 1, len(record.ids) - 1)
    return torch.nn.functional.cross_entropy(logits[answer], ids[0, record.completion :], reduction="sum")


def gradients_one_by_one(
    model: Any,
    records: Sequence[Encoded],
    start: Adapter,
    numbers: Sequence[Tensor],
    kind: str,
    basis: Basis | None,
    *,
    night: Any = None,
) -> list[list[Tensor]]:
    """The gradient of each record alone: for each record, one tensor a parameter.

    `night` is the model that the engine ran on, where `model` is a more precise copy of it.
    """
    made = []
    factors = factors_of(kind, night or model, start, basis)
    for record in records:
        leaves = [value.detach().clone().requires_grad_(True) for value in numbers]
        made.append(list(torch.autograd.grad(loss_of(model, record, factors(leaves)), leaves)))
    return made


def clip_and_add(gradients: Sequence[Sequence[Tensor]], clip_norm: float) -> list[Tensor]:
    """Abadi et al. 2016, algorithm 1: scale each to at most `clip_norm`, then add."""
    total = [torch.zeros_like(part) for part in gradients[0]]
    for parts in gradients:
        factor = min(1.0, clip_norm / (norm_of(parts) + 1e-6))
        for place, part in zip(total, parts, strict=True):
            place += factor * part
    return total


def norm_of(parts: Sequence[Tensor]) -> float:
    """L2 norm over all parameters."""
    return float(torch.cat([part.flatten() for part in parts]).norm())


def relative_error(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """L2 distance over L2 norm of `theirs`."""
    difference = [one.double() - other.double() for one, other in zip(ours, theirs, strict=True)]
    return norm_of(difference) / norm_of([other.double() for other in theirs])
