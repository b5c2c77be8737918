"""A student's folder in, one .mlpackage with a prefill and a decode function that share their weights out.

(1) read the student and take it apart;
(2) lay each function out and trace it;
(3) convert each trace (iOS 18, float16) and put compressed weights in place of the dense ones, exactly; likewise the
    functions that learn, where they are wanted (learning_package.py);
(4) join the functions; equal weights are stored once;
(5) add contract, tokenizer and the torch line of every operation;
(6) run the package on a few tokens and compare it with torch: a package that differs is not left.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from sdk.build.coreml.contract import DECODE, PREFILL, Contract, contract_of
from sdk.build.coreml.conversation import Conversation
from sdk.build.coreml.encoding import encodings_of
from sdk.build.coreml.families import Parts, parts_of
from sdk.build.coreml.layout import MAX_DIMENSION, TARGETS, AdapterSlots, Cache, NeuralEngineDecoder, Shape
from sdk.build.coreml.learning_package import BELOW, Learning, directions_of
from sdk.build.coreml.library import coremltools, quiet
from sdk.build.coreml.origin import lines_of
from sdk.build.coreml.placed import encode, on_grid, saved
from sdk.build.coreml.program import EXTRAS, Name, Package
from sdk.build.coreml.student import Student
from sdk.build.coreml.worn import LearningShape
from sdk.errors import ConversionError

__all__ = ["Plan", "Report", "convert", "difference", "laid_out"]

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
    learns: str = ""
    """One of personalize.trainable.KINDS: the package can learn such an adapter. Empty: it only answers."""
    records: int = 4
    """Records of one call of the learning step."""
    record_positions: int = 64
    """Positions of a record, padding included."""

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
    learning: Mapping[str, float]
    """Precision to |clipped sums − torch's| / |torch's| of one step; empty for a package that does not learn."""
    contract: Contract


def convert(
    student: Path, out: Path, plan: Plan | None = None, *, basis: Path | None = None, progress: Tell | None = None
) -> Report:
    """Compile a student for Core ML.

    Args:
        student: Folder of a bundle or checkpoint; what `build compress` wrote keeps its compressed form.
        out: Where the package goes; must not exist, must end in .mlpackage.
        plan: Sizes; None for the defaults.
        basis: For a plan that learns `basis`: the pack of directions, `basis/NAME` of the bundle.
        progress: Told what is done.

    Raises:
        ConversionError: Another family, sizes that do not fit, or a package that differs from torch; nothing is left.
        PackError: The pack is damaged or of another base.
    """
    plan, told = plan or Plan(), progress or (lambda what, done, total: None)
    if out.suffix != ".mlpackage" or out.exists():
        raise ConversionError(f"{out} must end in .mlpackage and not exist yet; remove it or choose another name")
    opened = Student.open(student)
    parts = parts_of(opened.model)
    encoded = on_grid(parts, encodings_of(opened.folder))
    decoders, learning = laid_out(parts, plan), _learning(parts, plan, opened.base_digest, basis)
    if learning is not None and learning.below is not None:
        decoders[BELOW] = learning.below
    steps = _steps([*decoders, *(learning.modules if learning else ())], told)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".coreml-") as work, quiet():
        pieces, lines = {}, {}
        for name, decoder in decoders.items():
            next(steps)
            trace = _traced(decoder)
            program = _program(trace, decoder)
            lines[name] = lines_of(trace, decoder.outputs)
            encode(program, encoded)
            pieces[name] = Path(work) / f"{name}.mlpackage"
            saved(program, pieces[name])
        if learning is not None:
            for name in learning.modules:
                next(steps)
                pieces[name] = Path(work) / f"{name}.mlpackage"
                saved(learning.program(name, encoded), pieces[name])
        next(steps)
        staged = Path(work) / out.name
        _join(pieces, staged)
        contract = contract_of(parts, decoders, base_digest=opened.base_digest)
        contract = _complete(Package.open(staged), contract, learning)
        _add_extras(staged, Path(work), opened, parts, contract, lines)
        next(steps)
        off = difference(Conversation.open(staged), opened.model)
        learned = learning.differences(staged, opened.model) if learning else {}
        staged.rename(out)
    next(steps)
    package = Package.open(out)
    return Report(
        package=out,
        bytes=sum(file.stat().st_size for file in out.rglob("*") if file.is_file()),
        operations={name: _work(package, name) for name in pieces},
        encoded=len(encoded),
        difference=off,
        learning=learned,
        contract=contract,
    )


def _steps(functions: Sequence[str], told: Tell) -> Iterator[None]:
    """Tell what is done now, each time one asks for the next."""
    names = [*(f"convert {name}" for name in functions), "join the functions", "compare with torch", "done"]
    for at, name in enumerate(names):
        told(name, at, len(names) - 1)
        yield


def _learning(parts: Parts, plan: Plan, base_digest: str, basis: Path | None) -> Learning | None:
    if not plan.learns:
        if basis is not None:
            raise ConversionError("a pack of directions is for a package that learns them; add --learns basis")
        return None
    count = len(parts.layers)
    shape = LearningShape(
        layers=tuple(range(count - plan.adapter_layers, count)),
        records=plan.records,
        positions=plan.record_positions,
        rank=plan.adapter_rank,
        kind=plan.learns,
    )
    return Learning.of(parts, shape, directions_of(basis, base_digest) if basis else None)


def laid_out(parts: Parts, plan: Plan) -> dict[str, NeuralEngineDecoder]:
    """The functions that answer, PREFILL and DECODE, in a plan's sizes.

    Raises:
        ConversionError: The student has fewer layers than are to be adapted, or is too wide for the unit.
    """
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


def _join(pieces: Mapping[str, Path], out: Path) -> None:
    utilities = coremltools().utils
    joined = utilities.MultiFunctionDescriptor()
    for name, piece in pieces.items():
        joined.add_function(str(piece), src_function_name="main", target_function_name=name)
    joined.default_function_name = DECODE
    utilities.save_multifunction(joined, str(out))


def _complete(package: Package, contract: Contract, learning: Learning | None) -> Contract:
    """The contract with how to learn, and what only the package tells: the head's constants, where their rows stand."""
    operations = package.function(DECODE).operations
    heads = []
    for output in (name for name in contract.functions[DECODE]["outputs"] if name.startswith("logits_")):
        (weight,) = next(op.inputs["weight"] for op in operations if op.outputs and op.outputs[0].name == output)
        assert isinstance(weight, Name)
        heads.append(weight.name)
    made = {output.name: op for op in operations for output in op.outputs}
    embedding = [{"rows": _places(package, made[name], made)} for name in heads] if contract.tied else []
    taught = {"learning": learning.contract()} if learning else {}
    return replace(contract, head=tuple(heads), extra={"embedding": embedding, **taught})


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


def difference(conversation: Conversation, model: Any) -> float:
    """Largest difference of a logit from torch over a few tokens, as a share of the largest logit.

    Args:
        conversation: With the package, at its beginning.
        model: The student.

    Raises:
        ConversionError: It is over TOLERANCE.
    """
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
