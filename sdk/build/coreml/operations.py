"""Arguments of one operation of an ML Program in, its outputs out: what the interpreter can do, by torch on a CPU.

Defaults are those of the definitions in coremltools (converters/mil/mil/ops/defs): a package leaves them out.
Layers and movements have files of their own; OPERATIONS is all of them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sdk.build.coreml.arguments import Given, axes_of, floating, number, tensor, whole
from sdk.build.coreml.layers import LAYERS
from sdk.build.coreml.movements import MOVEMENTS

__all__ = ["OPERATIONS"]

Run = Callable[[Given], Any]


def _one(function: Callable[[Tensor], Tensor]) -> Run:
    return lambda given: function(floating(given["x"]))


def _two(function: Callable[[Tensor, Tensor], Tensor]) -> Run:
    return lambda given: function(floating(given["x"]), floating(given["y"]))


def _reduced(function: Callable[[Tensor, list[int], bool], Tensor]) -> Run:
    def run(given: Given) -> Tensor:
        inputs = floating(given["x"])
        return function(inputs, axes_of(given, inputs.dim()), bool(given.get("keep_dims", False)))

    return run


def _chosen(function: Callable[..., Tensor]) -> Run:
    return lambda given: function(tensor(given["x"]), whole(given, "axis", -1), bool(given.get("keep_dims", False)))


def _divided(left: Tensor, right: Tensor) -> Tensor:
    if left.is_floating_point() or right.is_floating_point():
        return left / right
    return torch.div(left, right, rounding_mode="trunc")


def _gelu(given: Given) -> Tensor:
    inputs, mode = floating(given["x"]), given.get("mode", "EXACT")
    if mode == "SIGMOID_APPROXIMATION":
        return inputs * torch.sigmoid(1.702 * inputs)
    return functional.gelu(inputs, approximate="tanh" if mode == "TANH_APPROXIMATION" else "none")


def _cast(given: Given) -> Tensor:
    inputs, wanted = tensor(given["x"]), str(given["dtype"])
    if wanted.startswith("fp"):
        return inputs.float()
    return inputs.bool() if wanted == "bool" else inputs.to(torch.int32)


def _prelu(given: Given) -> Tensor:
    return functional.prelu(floating(given["x"]), floating(given["alpha"]).reshape(-1))


COMPARISONS: Mapping[str, Run] = {
    "equal": _two(torch.eq),
    "not_equal": _two(torch.ne),
    "less": _two(torch.lt),
    "less_equal": _two(torch.le),
    "greater": _two(torch.gt),
    "greater_equal": _two(torch.ge),
    "logical_and": _two(torch.logical_and),
    "logical_or": _two(torch.logical_or),
    "logical_xor": _two(torch.logical_xor),
    "logical_not": _one(torch.logical_not),
}
ARITHMETIC: Mapping[str, Run] = {
    "add": _two(torch.add),
    "sub": _two(torch.sub),
    "mul": _two(torch.mul),
    "real_div": _two(_divided),
    "floor_div": _two(torch.floor_divide),
    "mod": _two(torch.remainder),
    "maximum": _two(torch.maximum),
    "minimum": _two(torch.minimum),
    "pow": _two(torch.pow),
    "abs": _one(torch.abs),
    "ceil": _one(torch.ceil),
    "clip": lambda given: floating(given["x"]).clamp(float(given["alpha"]), float(given["beta"])),
    "cos": _one(torch.cos),
    "exp": _one(torch.exp),
    "exp2": _one(torch.exp2),
    "floor": _one(torch.floor),
    "inverse": lambda given: 1 / (floating(given["x"]) + number(given, "epsilon", 1e-4)),
    "log": lambda given: torch.log(floating(given["x"]) + number(given, "epsilon", 1e-45)),
    "round": _one(torch.round),
    "rsqrt": lambda given: torch.rsqrt(floating(given["x"]) + number(given, "epsilon", 1e-12)),
    "sign": _one(torch.sign),
    "sin": _one(torch.sin),
    "sqrt": _one(torch.sqrt),
    "square": _one(torch.square),
    "threshold": lambda given: torch.clamp(floating(given["x"]), min=float(given["alpha"])),
}
ACTIVATIONS: Mapping[str, Run] = {
    "elu": lambda given: functional.elu(floating(given["x"]), number(given, "alpha", 1.0)),
    "erf": _one(torch.erf),
    "gelu": _gelu,
    "identity": lambda given: given["x"],
    "leaky_relu": lambda given: functional.leaky_relu(floating(given["x"]), number(given, "alpha", 0.01)),
    "linear_activation": lambda given: floating(given["x"]) * float(given["alpha"]) + number(given, "beta", 0.0),
    "prelu": _prelu,
    "relu": _one(torch.relu),
    "relu6": _one(functional.relu6),
    "sigmoid": _one(torch.sigmoid),
    "sigmoid_hard": lambda given: torch.clamp(
        number(given, "alpha", 0.2) * floating(given["x"]) + number(given, "beta", 0.5), 0, 1
    ),
    "silu": _one(functional.silu),
    "softmax": lambda given: torch.softmax(floating(given["x"]), whole(given, "axis", -1)),
    "softplus": _one(functional.softplus),
    "scaled_tanh": lambda given: number(given, "alpha", 1.0) * torch.tanh(number(given, "beta", 1.0) * given["x"]),
    "softsign": _one(functional.softsign),
    "tanh": _one(torch.tanh),
    "thresholded_relu": lambda given: functional.threshold(floating(given["x"]), number(given, "alpha", 1.0), 0.0),
}
REDUCTIONS: Mapping[str, Run] = {
    "reduce_argmax": _chosen(torch.argmax),
    "reduce_argmin": _chosen(torch.argmin),
    "reduce_l1_norm": _reduced(lambda x, axes, kept: x.abs().sum(axes, kept)),
    "reduce_l2_norm": _reduced(lambda x, axes, kept: (x * x).sum(axes, kept).sqrt()),
    "reduce_log_sum_exp": _reduced(torch.logsumexp),
    "reduce_max": _reduced(torch.amax),
    "reduce_mean": _reduced(lambda x, axes, kept: x.mean(axes, kept)),
    "reduce_min": _reduced(torch.amin),
    "reduce_sum": _reduced(lambda x, axes, kept: x.sum(axes, kept)),
    "reduce_sum_square": _reduced(lambda x, axes, kept: (x * x).sum(axes, kept)),
}
OTHERS: Mapping[str, Run] = {
    "cast": _cast,
    "fill": lambda given: torch.full([int(size) for size in tensor(given["shape"]).tolist()], given["value"]),
    "fill_like": lambda given: torch.full(tensor(given["ref_tensor"]).shape, given["value"]),
    "select": lambda given: torch.where(tensor(given["cond"]).bool(), floating(given["a"]), floating(given["b"])),
    "cumsum": lambda given: torch.cumsum(floating(given["x"]), whole(given, "axis", 0)),
}
OPERATIONS: Mapping[str, Run] = {
    **COMPARISONS, **ARITHMETIC, **ACTIVATIONS, **REDUCTIONS, **OTHERS, **LAYERS, **MOVEMENTS,
}  # fmt: skip
"""Kind of operation to what runs it."""
