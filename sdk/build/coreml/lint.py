"""A package in, what may keep it off the Neural Engine out: hits of the rules, by operation.

A guess with its sources, not a measurement: nothing here has seen a device.
"""

import fnmatch
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdk.build.coreml.origin import Origin
from sdk.build.coreml.program import Constant, Function, Name, Operation, Package
from sdk.build.coreml.rules import RULES
from sdk.errors import PackageError

__all__ = ["OWN_LAYOUT", "Hit", "Suppression", "lint", "read_suppressions", "standing"]

LARGEST, NARROWEST = 16_384, 32
LARGE_BYTES = 3e9
ARITHMETIC = frozenset({"add", "sub", "mul", "real_div", "floor_div", "mod", "maximum", "minimum", "cast", "select"})


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One place where a rule applies."""

    rule: str
    severity: str
    function: str
    operation: str
    """Kind of the operation; `input`, `state` or `package`."""
    tensor: str
    detail: str
    line: str = ""
    """Module and torch line that computed it, where the package tells."""
    reason: str = ""
    """Why it is suppressed; empty where it stands."""


@dataclass(frozen=True, kw_only=True)
class Suppression:
    """A hit that is known and accepted."""

    rule: str
    reason: str
    tensor: str = "*"
    """Shell pattern of tensors."""
    function: str = "*"
    """Shell pattern of functions."""


LEARNS = "a night's step, which is not in a hurry: its sums want float32, so it is for the CPU or the GPU"
OWN_LAYOUT = (
    Suppression(rule="narrow-last-axis", reason="a decode call has one position; padding of so few arrays is small"),
    Suppression(rule="state", reason="chosen at conversion with --cache; both forms are built and compared"),
    Suppression(rule="*", reason=LEARNS, function="learn"),
    Suppression(rule="*", reason=LEARNS, function="worn"),
)
"""What is accepted in packages of our own converter."""


def read_suppressions(file: Path) -> list[Suppression]:
    """Read a JSON list of objects with `rule`, `reason` and if wanted `tensor` and `function`.

    Raises:
        PackageError: Not such a list, an unknown rule, or one without a reason.
    """
    try:
        entries = [Suppression(**entry) for entry in json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as cause:
        raise PackageError(f"{file} is no list of suppressions ({cause}); each needs rule and reason") from cause
    for entry in entries:
        if entry.rule not in RULES or not entry.reason.strip():
            raise PackageError(f"{file}: rule {entry.rule!r} is unknown or has no reason; rules: {', '.join(RULES)}")
    return entries


def lint(folder: Path, suppressions: Iterable[Suppression] = ()) -> list[Hit]:
    """Check a package against the rules.

    Returns:
        Hits, suppressed ones with their reason, errors first.
    """
    package = Package.open(folder)
    ours = package.extra("contract.json").is_file()
    accepted = [*suppressions, *(OWN_LAYOUT if ours else ())]
    hits = list(_of_package(package))
    for function in package.functions.values():
        lines = Origin.of(package, function).lines
        for rule, operation, tensor, detail in _of_function(package, function):
            hits.append(
                Hit(
                    rule=rule,
                    severity=RULES[rule].severity,
                    function=function.name,
                    operation=operation,
                    tensor=tensor,
                    detail=detail,
                    line=lines.get(tensor, ""),
                )
            )
    order = {"error": 0, "warning": 1, "note": 2}
    return sorted((_judged(hit, accepted) for hit in hits), key=lambda hit: (bool(hit.reason), order[hit.severity]))


def standing(hits: Iterable[Hit]) -> list[Hit]:
    """Errors and warnings that no suppression covers: what --strict refuses."""
    return [hit for hit in hits if not hit.reason and hit.severity in ("error", "warning")]


def _judged(hit: Hit, accepted: Iterable[Suppression]) -> Hit:
    for entry in accepted:
        pairs = ((hit.rule, entry.rule), (hit.tensor, entry.tensor), (hit.function, entry.function))
        if all(fnmatch.fnmatch(name, pattern) for name, pattern in pairs):
            return Hit(**asdict(hit) | {"reason": entry.reason})
    return hit


def _of_package(package: Package) -> Iterator[Hit]:
    size = sum(file.stat().st_size for file in package.folder.rglob("*.bin"))
    if size > LARGE_BYTES:
        yield Hit(
            rule="large", severity="note", function="", operation="package", tensor="", detail=f"{size / 1e9:.1f} GB"
        )


Found = tuple[str, str, str, str]
"""Rule, kind of the operation, tensor, detail."""


def _of_function(package: Package, function: Function) -> Iterator[Found]:
    for given in function.inputs:
        if -1 in given.size:
            yield "dynamic-shape", "input", given.name, f"size {given.size}"
        if given.dtype == "float32":
            yield "float32", "input", given.name, "an input"
        if given.size and 0 < given.size[-1] < NARROWEST:
            yield "narrow-last-axis", "input", given.name, f"size {given.size}"
    for state in function.states:
        yield "state", "state", state.name, f"size {state.size}"
        if state.size and state.size[-1] % NARROWEST:
            yield "state-width", "state", state.name, f"size {state.size}"
    made = {output.name: operation for operation in function.operations for output in operation.outputs}
    for operation in function.operations:
        tensor = operation.outputs[0].name if operation.outputs else ""
        if operation.kind == "const" or operation.kind.startswith("constexpr"):
            found = tuple(_of_constant(package, function, operation))
        else:
            found = (*_of_sizes(operation), *_of_operation(operation, made))
        for rule, detail in found:
            yield rule, operation.kind, tensor, detail


def _of_sizes(operation: Operation) -> Iterator[tuple[str, str]]:
    for output in operation.outputs:
        if len(output.size) > 5:
            yield "rank-over-5", f"size {output.size}"
        elif len(output.size) == 5:
            yield "rank-over-4", f"size {output.size}"
        if output.dtype == "float32":
            yield "float32", f"{operation.kind} in float32"
        if any(size > LARGEST for size in output.size):
            yield "dimension-over-16384", f"size {output.size}"
        if -1 in output.size:
            yield "dynamic-shape", f"size {output.size}"
        if output.dtype.startswith("int") and operation.kind in ARITHMETIC:
            yield "integers", f"{operation.kind} in {output.dtype}"


def _of_operation(operation: Operation, made: Mapping[str, Operation]) -> Iterator[tuple[str, str]]:
    kind = operation.kind
    if kind == "linear" or (kind == "matmul" and _is_constant(operation, "y", made)):
        yield "linear", "constant weights"
    if kind.startswith("gather"):
        yield "gather", kind
    if kind in ("slice_update", "slice_by_index") and not _is_constant(operation, "begin", made):
        yield "runtime-index", kind
    if kind == "scaled_dot_product_attention":
        yield "fused-attention", kind
    if kind in ("lstm", "gru", "rnn"):
        yield "recurrent", kind
    if kind in ("reduce_mean", "reduce_sum") and _squares_unscaled(operation, made):
        yield "square-overflow", kind
    if kind in ("reduce_sum_square", "reduce_l2_norm"):
        yield "square-overflow", kind


def _is_constant(operation: Operation, parameter: str, made: Mapping[str, Operation]) -> bool:
    for argument in operation.inputs.get(parameter, ()):
        source = made.get(argument.name) if isinstance(argument, Name) else None
        if isinstance(argument, Name) and (source is None or not source.kind.startswith("const")):
            return False
    return parameter in operation.inputs or parameter in operation.attributes


def _squares_unscaled(operation: Operation, made: Mapping[str, Operation]) -> bool:
    """Whether a mean runs over x · x where x was not divided by anything."""
    (argument,) = operation.inputs["x"]
    product = made.get(argument.name) if isinstance(argument, Name) else None
    if product is None or product.kind not in ("mul", "square", "pow"):
        return False
    if product.kind == "mul" and product.inputs["x"] != product.inputs["y"]:
        return False
    (factor,) = product.inputs["x"]
    source = made.get(factor.name) if isinstance(factor, Name) else None
    return source is None or source.kind != "real_div"


def _of_constant(package: Package, function: Function, operation: Operation) -> Iterator[tuple[str, str]]:
    if operation.kind == "const":
        value: Constant = operation.attributes["val"]
        if value.dtype in ("float16", "float32") and np.isinf(package.values(value)).any():
            yield "infinite-constant", f"size {value.size}"
        return
    if (
        operation.kind == "constexpr_lut_to_dense"
        and function.states
        and _dtype(operation, "indices", function) == "uint4"
    ):
        yield "palette-and-state", "4-bit palette"
    if operation.kind == "constexpr_blockwise_shift_scale" and _dtype(operation, "data", function) in ("int4", "uint4"):
        yield "int4-blocks", "4-bit blocks"


def _dtype(operation: Operation, parameter: str, function: Function) -> str:
    argument: Any = operation.attributes.get(parameter) or operation.inputs[parameter][0]
    if isinstance(argument, Constant):
        return argument.dtype
    return next(
        output.dtype for other in function.operations for output in other.outputs if output.name == argument.name
    )
