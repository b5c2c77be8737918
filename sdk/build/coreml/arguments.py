"""Arguments of an operation as Core ML writes them in, as torch wants them out."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sdk.errors import PackageError

__all__ = ["Given", "axes_of", "flags", "floating", "number", "tensor", "whole", "wholes"]

Given = Mapping[str, Any]
"""Parameter to value: a tensor, a Python number, text, a tuple of whole numbers, or a list of these."""


def tensor(value: Any) -> Tensor:
    """Any value as a tensor."""
    return value if isinstance(value, Tensor) else torch.as_tensor(value)


def floating(value: Any) -> Tensor:
    """A value as a tensor, floating point ones in float32."""
    made = tensor(value)
    return made.float() if made.is_floating_point() else made


def wholes(given: Given, name: str, default: Any = None) -> list[int]:
    """A parameter as whole numbers.

    Raises:
        PackageError: It is missing and has no default.
    """
    value = given.get(name, default)
    if value is None:
        raise PackageError(f"an operation has no parameter {name}; the model is damaged")
    if isinstance(value, Tensor):
        return [int(entry) for entry in value.reshape(-1).tolist()]
    return [int(entry) for entry in value] if isinstance(value, list | tuple) else [int(value)]


def whole(given: Given, name: str, default: int | None = None) -> int:
    """A parameter as one whole number."""
    return wholes(given, name, default)[0]


def number(given: Given, name: str, default: float) -> float:
    """A parameter as one number."""
    value = given.get(name)
    return default if value is None else float(value)


def flags(given: Given, name: str, count: int) -> list[bool]:
    """A parameter as one flag a dimension; all false where it was left out."""
    return [bool(entry) for entry in wholes(given, name, [0] * count)]


def axes_of(given: Given, rank: int) -> list[int]:
    """The parameter `axes`, every axis where it was left out."""
    return wholes(given, "axes") if given.get("axes") is not None else list(range(rank))
