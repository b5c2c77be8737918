"""Arguments of a layer of an ML Program in, its output out: convolutions, matrix products, pools, norms, attention."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sdk.build.coreml.arguments import Given, axes_of, floating, number, tensor, whole, wholes
from sdk.errors import PackageError

__all__ = ["LAYERS"]

CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def _padding(given: Given, sizes: list[int], kernel: list[int], strides: list[int], dilations: list[int]) -> list[int]:
    """Padding before and after each spatial dimension, in their order."""
    kind = given.get("pad_type", "valid")
    if kind == "valid":
        return [0] * (2 * len(kernel))
    if kind == "custom":
        return wholes(given, "pad", [0] * (2 * len(kernel)))
    padding: list[int] = []
    for size, extent, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        missing = max(0, (-(-size // stride) - 1) * stride + (extent - 1) * dilation + 1 - size)
        less = missing // 2
        padding += [less, missing - less] if kind == "same" else [missing - less, less]
    return padding


def _padded(inputs: Tensor, padding: list[int], value: float = 0.0) -> Tensor:
    if not any(padding):
        return inputs
    pairs = [padding[at : at + 2] for at in range(0, len(padding), 2)]
    return functional.pad(inputs, [amount for pair in reversed(pairs) for amount in pair], value=value)


def _convolution(given: Given) -> Tensor:
    inputs, weight, bias = given["x"], given["weight"], given.get("bias")
    spatial = weight.dim() - 2
    if _is_pointwise(given, inputs, weight):  # A matrix product, which torch runs faster than a 1 × 1 convolution.
        out = torch.matmul(weight.view(weight.shape[:2]), inputs.view(inputs.shape[1], -1))
        out = out if bias is None else out + bias[:, None]
        return out.view(1, -1, *inputs.shape[2:])
    strides = wholes(given, "strides", [1] * spatial)
    dilations = wholes(given, "dilations", [1] * spatial)
    padding = _padding(given, list(inputs.shape[2:]), list(weight.shape[2:]), strides, dilations)
    return CONVOLUTIONS[spatial](
        _padded(inputs, padding), weight, bias, stride=strides, dilation=dilations, groups=whole(given, "groups", 1)
    )


def _is_pointwise(given: Given, inputs: Tensor, weight: Tensor) -> bool:
    return (
        inputs.shape[0] == 1
        and all(size == 1 for size in weight.shape[2:])
        and whole(given, "groups", 1) == 1
        and all(stride == 1 for stride in wholes(given, "strides", [1]))
        and not (given.get("pad_type") == "custom" and any(wholes(given, "pad", [0])))
        and inputs.is_contiguous()
    )


def _transposed_convolution(given: Given) -> Tensor:
    inputs, weight = given["x"], given["weight"]
    spatial = weight.dim() - 2
    strides = wholes(given, "strides", [1] * spatial)
    padding = wholes(given, "pad", [0] * (2 * spatial)) if given.get("pad_type") == "custom" else [0] * (2 * spatial)
    if given.get("pad_type", "valid") not in ("valid", "custom"):
        raise PackageError(
            f"conv_transpose with padding {given['pad_type']} is not interpreted; pad by numbers instead"
        )
    whole_output = TRANSPOSED[spatial](
        inputs,
        weight,
        given.get("bias"),
        stride=strides,
        dilation=wholes(given, "dilations", [1] * spatial),
        groups=whole(given, "groups", 1),
    )
    wanted = wholes(given, "output_shape")[2:] if given.get("output_shape") is not None else None
    for at in range(spatial):  # Padding of a transposed convolution is what is cut off its output.
        before, after = padding[2 * at : 2 * at + 2]
        size = wanted[at] if wanted else whole_output.shape[2 + at] - before - after
        missing = before + size - whole_output.shape[2 + at]
        if missing > 0:
            whole_output = functional.pad(whole_output, [0, 0] * (spatial - 1 - at) + [0, missing])
        whole_output = whole_output.narrow(2 + at, before, size)
    return whole_output


def _product(given: Given) -> Tensor:
    left, right = floating(given["x"]), floating(given["y"])
    left = left.transpose(-1, -2) if given.get("transpose_x") else left
    right = right.transpose(-1, -2) if given.get("transpose_y") else right
    return torch.matmul(left, right)


def _linear(given: Given) -> Tensor:
    return functional.linear(floating(given["x"]), floating(given["weight"]), given.get("bias"))


def _einsum(given: Given) -> Tensor:
    return torch.einsum(str(given["equation"]), *(floating(value) for value in given["values"]))


def _attention(given: Given) -> Tensor:
    mask = given.get("attn_mask")
    return functional.scaled_dot_product_attention(given["query"], given["key"], given["value"], attn_mask=mask)


def _layer_norm(given: Given) -> Tensor:
    inputs = floating(given["x"])
    axes = [axis % inputs.dim() for axis in axes_of(given, inputs.dim())]
    centred = inputs - inputs.mean(axes, keepdim=True)
    outputs = centred * torch.rsqrt((centred * centred).mean(axes, keepdim=True) + number(given, "epsilon", 1e-5))
    shape = [inputs.shape[at] if at in axes else 1 for at in range(inputs.dim())]
    return _affine(outputs, given, shape)


def _batch_norm(given: Given) -> Tensor:
    inputs = given["x"]
    shape = [1, -1] + [1] * (inputs.dim() - 2)
    mean, variance = given["mean"].reshape(shape), given["variance"].reshape(shape)
    return _affine((inputs - mean) * torch.rsqrt(variance + number(given, "epsilon", 1e-5)), given, shape)


def _instance_norm(given: Given) -> Tensor:
    inputs = given["x"]
    centred = inputs - inputs.mean(list(range(2, inputs.dim())), keepdim=True)
    variance = (centred * centred).mean(list(range(2, inputs.dim())), keepdim=True)
    outputs = centred * torch.rsqrt(variance + number(given, "epsilon", 1e-5))
    return _affine(outputs, given, [1, -1] + [1] * (inputs.dim() - 2))


def _affine(outputs: Tensor, given: Given, shape: list[int]) -> Tensor:
    if given.get("gamma") is not None:
        outputs = outputs * given["gamma"].reshape(shape)
    return outputs if given.get("beta") is None else outputs + given["beta"].reshape(shape)


def _l2_norm(given: Given) -> Tensor:
    inputs = given["x"]
    squares = (inputs * inputs).sum(list(range(inputs.dim() - 3, inputs.dim())), keepdim=True)
    normed: Tensor = inputs * torch.rsqrt(squares + number(given, "epsilon", 1e-6))
    return normed


def _pool(largest: bool) -> Callable[[Given], Tensor]:
    def run(given: Given) -> Tensor:
        inputs, kernel = given["x"], wholes(given, "kernel_sizes")
        strides = wholes(given, "strides", [1] * len(kernel))
        padding = _padding(given, list(inputs.shape[2:]), kernel, strides, [1] * len(kernel))
        if given.get("ceil_mode"):
            raise PackageError("a pool with ceil_mode is not interpreted; pad by numbers instead")
        windows = _padded(inputs, padding, float("-inf") if largest else 0.0)
        for at, (extent, stride) in enumerate(zip(kernel, strides, strict=True)):
            windows = windows.unfold(2 + at, extent, stride)
        axes = list(range(-len(kernel), 0))
        if largest:
            return windows.amax(axes)
        if given.get("exclude_padding_from_average"):
            ones = dict(given) | {"x": torch.ones_like(inputs), "exclude_padding_from_average": False}
            return windows.mean(axes) / run(ones)
        return windows.mean(axes)

    return run


def _resized(given: Given) -> Tensor:
    factors = (number(given, "scale_factor_height", 1.0), number(given, "scale_factor_width", 1.0))
    return functional.interpolate(given["x"], scale_factor=factors, mode="nearest")


def _resized_bilinear(given: Given) -> Tensor:
    factors = (number(given, "scale_factor_height", 1.0), number(given, "scale_factor_width", 1.0))
    aligned = bool(given.get("align_corners", True))
    return functional.interpolate(given["x"], scale_factor=factors, mode="bilinear", align_corners=aligned)


def _pixel_shuffle(given: Given) -> Tensor:
    return functional.pixel_shuffle(tensor(given["x"]), whole(given, "upscale_factor"))


LAYERS: Mapping[str, Callable[[Given], Any]] = {
    "avg_pool": _pool(largest=False),
    "batch_norm": _batch_norm,
    "conv": _convolution,
    "conv_transpose": _transposed_convolution,
    "einsum": _einsum,
    "instance_norm": _instance_norm,
    "l2_norm": _l2_norm,
    "layer_norm": _layer_norm,
    "linear": _linear,
    "matmul": _product,
    "max_pool": _pool(largest=True),
    "pixel_shuffle": _pixel_shuffle,
    "scaled_dot_product_attention": _attention,
    "upsample_bilinear": _resized_bilinear,
    "upsample_nearest_neighbor": _resized,
}
"""Kind of operation to what runs it."""
