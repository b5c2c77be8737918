"""A student's folder in, one .mlpackage with a prefill and a decode function that share their weights out.

(1) read the student and take it apart;
(2) lay each function out and trace it;
(3) convert each trace (iOS 18, float16) and put compressed weights in place of the dense ones, exactly;
(4) join the functions; equal weights are stored once;
(5) add contract, tokenizer and the torch line of every operation;
(6) run the package on a few tokens and compare it with torch: a package that differs is not left.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from sdk.build.coreml.contract import DECODE, PREFILL, Contract, contract_of
from sdk.build.coreml.conversation import Conversation
from sdk.build.coreml.encoded import Encoded
from sdk.build.coreml.encoding import encodings_of
from sdk.build.coreml.families import Parts, Weight, parts_of
from sdk.build.coreml.layout import MAX_DIMENSION, TARGETS, AdapterSlots, Cache, NeuralEngineDecoder, Shape
from sdk.build.coreml.library import coremltools, quiet
from sdk.build.coreml.origin import lines_of
from sdk.build.coreml.program import EXTRAS, Name, Package
from sdk.build.coreml.student import Student
from sdk.errors import ConversionError

__all__ = ["Plan", "Report", "convert", "encode", "saved"]

Tell = Callable[[str, int, int], None]
"""Told (what is done now, done, total)."""

TOLERANCE = 5e-3  # Of the largest logit: what float16 weights may move in 30 layers (research: 5e-3 at worst).
CHECKED_TOKENS = 8


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a student is compiled."""

    context: int = 512
    """Positions of the cache; a multiple of 32."""
    prefill_positions: int = 32
    """Positions of one prefill call; 2 or more."""
    cache: Cache = Cache.STATE
    adapter_layers: int = 4
    """Upper layers that can carry an adapter; 0 for none."""
    adapter_rank: int = 8

    def __post_init__(self) -> None:
        if self.context < 32 or self.context % 32 or self.context > MAX_DIMENSION:
            raise ConversionError(f"context must be a multiple of 32 up to {MAX_DIMENSION}, got {self.context}")
        if not 2 <= self.prefill_positions <= self.context:
            raise ConversionError(f"prefill must be 2 to {self.context} positions, got {self.prefill_positions}")
        if self.adapter_layers < 0 or self.adapter_rank < 1:
            raise ConversionError("adapter layers must be 0 or more and the rank 1 or more")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was made."""

    package: Path
    bytes: int
    operations: Mapping[str, int]
    """Function to operations, constants not counted."""
    encoded: int
    """Weights that stand compressed in the package."""
    difference: float
    """Largest difference of a logit from torch, as a share of the largest logit, over a few tokens."""
    contract: Contract


def convert(student: Path, out: Path, plan: Plan | None = None, *, progress: Tell | None = None) -> Report:
    """Compile a student for Core ML.

    Args:
        student: Folder of a bundle or checkpoint; what `build compress` wrote keeps its compressed form.
        out: Where the package goes; must not exist, must end in .mlpackage.
        plan: Sizes; None for the defaults.
        progress: Told what is done.

    Raises:
        ConversionError: Another family, sizes that do not fit, or a package that differs from torch; nothing is left.
    """
    plan, tell = plan or Plan(), progress or (lambda what, done, total: None)
    if out.suffix != ".mlpackage" or out.exists():
        raise ConversionError(f"{out} must end in .mlpackage and not exist yet; remove it or choose another name")
    tell("read the student", 0, 6)
    opened = Student.open(student)
    parts = parts_of(opened.model)
    encoded = _on_grid(parts, encodings_of(opened.folder))
    decoders = _laid_out(parts, plan)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".coreml-") as work, quiet():
        pieces, lines = {}, {}
        for at, (name, decoder) in enumerate(decoders.items()):
            tell(f"convert {name}", 1 + at, 6)
            trace = _traced(decoder)
            program = _program(trace, decoder)
            lines[name] = lines_of(trace, decoder.outputs)
            encode(program, encoded)
            pieces[name] = Path(work) / f"{name}.mlpackage"
            saved(program, pieces[name])
        tell("join the functions", 3, 6)
        staged = Path(work) / out.name
        _join(pieces, staged)
        contract = contract_of(parts, decoders, base_digest=opened.base_digest)
        contract = _complete(Package.open(staged), contract)
        tell("add contract and tokenizer", 4, 6)
        _add_extras(staged, Path(work), opened, parts, contract, lines)
        tell("compare with torch", 5, 6)
        difference = _difference(staged, opened.model)
        staged.rename(out)
    tell("done", 6, 6)
    package = Package.open(out)
    return Report(
        package=out,
        bytes=sum(file.stat().st_size for file in out.rglob("*") if file.is_file()),
        operations={name: _work(package, name) for name in decoders},
        encoded=len(encoded),
        difference=difference,
        contract=contract,
    )


def _laid_out(parts: Parts, plan: Plan) -> dict[str, NeuralEngineDecoder]:
    count = len(parts.layers)
    if plan.adapter_layers > count:
        raise ConversionError(f"{plan.adapter_layers} adapted layers were asked for, the student has {count}")
    widest = max(weight.values.shape[0] for layer in parts.layers for weight in layer.maps.values())
    if max(widest, parts.geometry.width) > MAX_DIMENSION:
        raise ConversionError(
            f"the student has a map of {max(widest, parts.geometry.width)} channels and the Neural Engine takes "
            f"{MAX_DIMENSION}; distil it narrower"
        )
    layers = tuple(range(count - plan.adapter_layers, count))
    slots = AdapterSlots(layers=layers, rank=plan.adapter_rank, targets=TARGETS) if layers else None
    sizes = {PREFILL: plan.prefill_positions, DECODE: 1}
    return {
        name: NeuralEngineDecoder(
            parts, Shape(context=plan.context, positions=positions, cache=plan.cache, slots=slots)
        ).eval()
        for name, positions in sizes.items()
    }


def _traced(decoder: NeuralEngineDecoder) -> Any:
    with torch.no_grad():
        examples = tuple(torch.zeros(size) for size in decoder.inputs.values())
        return torch.jit.trace(decoder, examples, check_trace=False)


def _program(trace: Any, decoder: NeuralEngineDecoder) -> Any:
    """The trace as a MIL program in float16."""
    library = coremltools()
    states = [
        library.StateType(wrapped_type=library.TensorType(shape=decoder.cache_size, dtype=np.float16), name=name)
        for name in ("keys", "values")
        if decoder.shape.cache is Cache.STATE
    ]
    return library.convert(
        trace,
        inputs=[library.TensorType(name=name, shape=shape, dtype=np.float16) for name, shape in decoder.inputs.items()],
        outputs=[library.TensorType(name=name, dtype=np.float16) for name in decoder.outputs],
        states=states or None,
        minimum_deployment_target=library.target.iOS18,
        compute_precision=library.precision.FLOAT16,
        convert_to="milinternal",
    )


def _weights(parts: Parts) -> dict[str, Weight]:
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


def _on_grid(parts: Parts, encodings: Mapping[str, Encoded]) -> dict[str, Encoded]:
    """Name of each compressed constant in a program to its codes.

    Raises:
        ConversionError: A weight is not what its codes say.
    """
    found = {}
    for name, weight in _weights(parts).items():
        if weight.tensor in encodings:
            found[name] = encodings[weight.tensor].rows(weight.first, len(weight.values))
            if not torch.equal(found[name].values(), weight.values):
                raise ConversionError(f"{weight.tensor} is not on its grid any more; compress the student again")
    return found


def encode(program: Any, encoded: Mapping[str, Encoded]) -> None:
    """Put compressed weights in place of the dense ones of the same name."""
    from coremltools.converters.mil.mil import Builder, types
    from coremltools.converters.mil.mil.scope import ScopeInfo

    block = program.functions["main"]
    constants = {op.name.removesuffix("_to_fp16"): op for op in block.operations if op.op_type == "const"}
    with block:
        for name, codes in encoded.items():
            old = constants[name]
            scopes = [
                ScopeInfo(source=source, data=data)
                for source, data in old.scopes.items()
                if source.name.startswith("TORCHSCRIPT")
            ]
            with Builder.scope(*scopes):  # The new constant belongs to the module of the old one.
                new = codes.emit(Builder, types, name=f"{name}_encoded", before=old)
            block.replace_uses_of_var_after_op(
                anchor_op=old, old_var=old.outputs[0], new_var=new, no_check_var_types=True
            )
            block.remove_ops([old])


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


def _join(pieces: Mapping[str, Path], out: Path) -> None:
    utilities = coremltools().utils
    joined = utilities.MultiFunctionDescriptor()
    for name, piece in pieces.items():
        joined.add_function(str(piece), src_function_name="main", target_function_name=name)
    joined.default_function_name = DECODE
    utilities.save_multifunction(joined, str(out))


def _complete(package: Package, contract: Contract) -> Contract:
    """The contract with what is known of the package only: the head's constants, and where their rows stand."""
    operations = package.function(DECODE).operations
    heads = []
    for output in (name for name in contract.functions[DECODE]["outputs"] if name.startswith("logits_")):
        (weight,) = next(op.inputs["weight"] for op in operations if op.outputs and op.outputs[0].name == output)
        assert isinstance(weight, Name)
        heads.append(weight.name)
    made = {output.name: op for op in operations for output in op.outputs}
    embedding = [{"rows": _places(package, made[name], made)} for name in heads] if contract.tied else []
    return replace(contract, head=tuple(heads), extra={"embedding": embedding})


def _places(package: Package, operation: Any, made: Mapping[str, Any]) -> dict[str, Any]:
    """Where the parts of a constant stand in the package's weight file, in bytes."""
    found: dict[str, Any] = {"kind": operation.kind}
    given = {key: value[0] for key, value in operation.inputs.items()} | dict(operation.attributes)
    for key, value in given.items():
        if isinstance(value, Name):
            found[key] = _places(package, made[value.name], made)
        elif key != "name" and value.file:
            first, count = package.weights(value.file).place(value.offset)
            found[key] = {"first_byte": first, "bytes": count, "dtype": value.dtype, "size": list(value.size)}
    return found


def _add_extras(
    staged: Path, work: Path, student: Student, parts: Parts, contract: Contract, lines: Mapping[str, Mapping[str, str]]
) -> None:
    from coremltools.libmodelpackage import ModelPackage

    folder = work / "extras"
    folder.mkdir()
    (folder / "contract.json").write_text(contract.to_json(), encoding="utf-8")
    (folder / "lines.json").write_text(json.dumps(lines), encoding="utf-8")
    if not parts.tied:
        save_file({"embedding": parts.embedding.half().contiguous()}, folder / "embedding.safetensors")
    for file in student.files():
        shutil.copy(file, folder)
    holder = ModelPackage(str(staged))
    for file in sorted(folder.iterdir()):
        holder.addItem(str(file), file.name, EXTRAS, "what a caller of the model needs")


def _difference(staged: Path, model: Any) -> float:
    """Largest difference of a logit from torch over a few tokens, as a share of the largest logit.

    Raises:
        ConversionError: It is over TOLERANCE.
    """
    conversation = Conversation.open(staged)
    vocabulary = conversation.contract.vocabulary
    tokens = [(7 * step + 11) % vocabulary for step in range(CHECKED_TOKENS)]
    with torch.no_grad():
        wanted = model(torch.tensor([tokens])).logits[0].float()  # (tokens, vocabulary)
    cut = CHECKED_TOKENS - 2
    found = [conversation.read(tokens[:cut]), *(conversation.read([token]) for token in tokens[cut:])]
    off = max(
        float((logits - wanted[cut - 1 + step]).abs().max()) / float(wanted[cut - 1 + step].abs().max())
        for step, logits in enumerate(found)
    )
    if not off <= TOLERANCE:
        raise ConversionError(
            f"the package differs from torch by {off:.1%} of the largest logit, more than {TOLERANCE:.1%}; it was not "
            "kept: watch its activations with `limbeck build execute --watch`"
        )
    return off


def _work(package: Package, function: str) -> int:
    kinds = [operation.kind for operation in package.function(function).operations]
    return sum(kind != "const" and not kind.startswith("constexpr") for kind in kinds)
