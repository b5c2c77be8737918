"""A program of coremltools and a student's matrices in, the program with each matrix in its stored form out.

A map is stored once in a package, as a 1 × 1 convolution's weight under its own name: plain in float16, or as the codes
of its grid. Functions that hold the same constants share them when they are joined.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdk.build.coreml.encoded import Encoded
from sdk.build.coreml.families import Parts, Weight
from sdk.build.coreml.layout import MAX_DIMENSION
from sdk.build.coreml.library import coremltools
from sdk.errors import ConversionError

__all__ = ["encode", "fill", "on_grid", "saved", "weights_of"]


def weights_of(parts: Parts) -> dict[str, Weight]:
    """Name of each map's constant in a program to the rows of the checkpoint that it holds."""
    found = {
        f"layers.{index}.maps.{name}.weight": weight
        for index, layer in enumerate(parts.layers)
        for name, weight in layer.maps.items()
    }
    for chunk, start in enumerate(range(0, parts.geometry.vocabulary, MAX_DIMENSION)):
        rows = parts.head.values[start : start + MAX_DIMENSION]
        found[f"head.{chunk}.weight"] = replace(parts.head, values=rows, first=start)
    return found


def on_grid(parts: Parts, encodings: Mapping[str, Encoded]) -> dict[str, Encoded]:
    """Name of each compressed constant in a program to its codes.

    Raises:
        ConversionError: A weight is not what its codes say.
    """
    found = {}
    for name, weight in weights_of(parts).items():
        if weight.tensor in encodings:
            found[name] = encodings[weight.tensor].rows(weight.first, len(weight.values))
            if not torch.equal(found[name].values(), weight.values):
                raise ConversionError(f"{weight.tensor} is not on its grid any more; compress the student again")
    return found


def encode(program: Any, encoded: Mapping[str, Encoded]) -> None:
    """Put compressed weights in place of the dense constants of the same name, as far as the program has them."""
    from coremltools.converters.mil.mil import Builder, types
    from coremltools.converters.mil.mil.scope import ScopeInfo

    block = program.functions["main"]
    constants = {op.name.removesuffix("_to_fp16"): op for op in block.operations if op.op_type == "const"}
    with block:
        for name in encoded.keys() & constants.keys():
            old = constants[name]
            scopes = [
                ScopeInfo(source=source, data=data)
                for source, data in old.scopes.items()
                if source.name.startswith("TORCHSCRIPT")
            ]
            with Builder.scope(*scopes):  # The new constant belongs to the module of the old one.
                new = encoded[name].emit(Builder, types, name=f"{name}_encoded", before=old)
            block.replace_uses_of_var_after_op(
                anchor_op=old, old_var=old.outputs[0], new_var=new, no_check_var_types=True
            )
            block.remove_ops([old])


def fill(program: Any, matrices: Mapping[str, Tensor], encoded: Mapping[str, Encoded]) -> None:
    """Take inputs of a program away and put constants in their place.

    Args:
        program: Its inputs of these names, with `_` for `.`, are matrices, (out, in).
        matrices: Name to values, of the input's type.
        encoded: Name to codes, for those that are stored compressed.
    """
    from coremltools.converters.mil.mil import Builder, types
    from coremltools.converters.mil.mil.scope import ScopeInfo, ScopeSource

    block = program.functions["main"]
    first = next(iter(block.operations))
    sources = (ScopeSource.TORCHSCRIPT_MODULE_NAME, ScopeSource.TORCHSCRIPT_MODULE_TYPE)
    with block, Builder.scope(*(ScopeInfo(source=source, data=["frozen"]) for source in sources)):
        for name, values in matrices.items():
            old = block.inputs[name.replace(".", "_")]
            if name in encoded:
                stored = encoded[name].emit(Builder, types, name=f"{name}_encoded", before=first)
            else:
                stored = Builder.const(val=values[:, :, None, None].numpy(), name=name, before_op=first)
            flat = Builder.squeeze(x=stored, axes=[2, 3], name=f"{name}_flat", before_op=first)
            block.replace_uses_of_var_after_op(anchor_op=flat.op, old_var=old, new_var=flat, no_check_var_types=True)
    for name in matrices:
        del block.inputs[name.replace(".", "_")]


def saved(program: Any, path: Path) -> None:
    """Write a MIL program as a package of its own, as it is."""
    library = coremltools()
    model = library.convert(
        program,
        source="milinternal",
        convert_to="mlprogram",
        minimum_deployment_target=library.target.iOS18,
        compute_precision=library.precision.FLOAT32,  # Types stand in the program; nothing is cast again.
        pass_pipeline=library.PassPipeline.EMPTY,
        skip_model_load=True,
    )
    model.save(str(path))
