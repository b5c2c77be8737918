"""A package in, the floor under each operation's time out: the larger of its arithmetic and of the bytes it must move.

    flops    2 for each multiply-add of convolutions and products, 1 for each number of any other output
    weights  bytes of its constants as they are stored, compressed ones too
    moved    bytes of its other inputs and its outputs, as if nothing were fused with its neighbours

An estimate to compare operations and forms of a student with, not a prediction: no device was asked.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sdk.build.coreml.origin import Origin, is_constant
from sdk.build.coreml.program import Constant, Function, Name, Operation, Package, Typed
from sdk.build.coreml.weight_file import BITS

__all__ = ["DEFAULT_UNIT", "Cost", "Total", "Unit", "by_block", "costs", "total", "unit_of"]

VIEWS = frozenset({"reshape", "squeeze", "expand_dims", "read_state", "write_state", "identity"})
"""Names for numbers that stand already."""
SETTINGS = frozenset({"string", "bool", "int32"})
"""Types of strides, axes and the like, which are part of the program and no weights."""
PARTS = frozenset({"slice_by_index", "slice_by_size", "slice_update", "split", "gather", "gather_along_axis"})
"""What reads or writes a part of its input."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What a unit can do at its best."""

    name: str
    flops: float
    """Float16 operations a second; a multiply-add is two."""
    bytes: float
    """Bytes a second from and to memory."""
    source: str


DEFAULT_UNIT = Unit(
    name="Neural Engine of an M1",
    flops=5.5e12,
    bytes=55e9,
    source="11 trillion operations a second (Apple, 2020), half of them taken for float16; 55 GB/s (ANEMLL's bench)",
)
"""The slowest unit that runs packages for macOS 15."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One operation."""

    function: str
    block: str
    """Part of the student: `layers.7`, `head`, or `all` where the package does not tell."""
    kind: str
    output: str
    line: str
    flops: int
    weights: int
    """Bytes."""
    moved: int
    """Bytes."""

    def seconds(self, unit: Unit) -> float:
        """The floor under its time."""
        return max(self.flops / unit.flops, (self.weights + self.moved) / unit.bytes)

    def bound(self, unit: Unit) -> str:
        """What the floor is made of: `arithmetic` or `bytes`."""
        return "arithmetic" if self.flops / unit.flops > (self.weights + self.moved) / unit.bytes else "bytes"


@dataclass(kw_only=True)
class Total:
    """Several operations together."""

    operations: int = 0
    flops: int = 0
    weights: int = 0
    moved: int = 0
    seconds: float = 0.0
    """Sum of the operations' floors: they run one after the other."""
    kinds: dict[str, int] = field(default_factory=dict)
    """Kind of operation to how many there are."""

    def add(self, cost: Cost, unit: Unit) -> None:
        """Count one more."""
        self.operations += 1
        self.flops += cost.flops
        self.weights += cost.weights
        self.moved += cost.moved
        self.seconds += cost.seconds(unit)
        self.kinds[cost.kind] = self.kinds.get(cost.kind, 0) + 1


def unit_of(tflops: float | None = None, gigabytes: float | None = None) -> Unit:
    """DEFAULT_UNIT, or one that the caller describes in TFLOP/s and GB/s; what is left out is the default's."""
    if tflops is None and gigabytes is None:
        return DEFAULT_UNIT
    return Unit(
        name="given unit",
        flops=DEFAULT_UNIT.flops if tflops is None else tflops * 1e12,
        bytes=DEFAULT_UNIT.bytes if gigabytes is None else gigabytes * 1e9,
        source="as given by the caller",
    )


def costs(package: Package) -> list[Cost]:
    """Every operation of every function that is no constant, in the order of the program."""
    return [cost for function in package.functions.values() for cost in _of_function(package, function)]


def by_block(found: list[Cost], unit: Unit) -> dict[str, dict[str, Total]]:
    """Function to block to its total, in the order of the program."""
    totals: dict[str, dict[str, Total]] = {}
    for cost in found:
        totals.setdefault(cost.function, {}).setdefault(cost.block, Total()).add(cost, unit)
    return totals


def total(found: list[Cost], unit: Unit) -> Total:
    """All of them."""
    made = Total()
    for cost in found:
        made.add(cost, unit)
    return made


def _of_function(package: Package, function: Function) -> Iterator[Cost]:
    origin = Origin.of(package, function)
    typed = {given.name: given for given in (*function.inputs, *function.states)}
    typed |= {output.name: output for operation in function.operations for output in operation.outputs}
    stored: dict[str, int] = {}
    for operation, block in zip(function.operations, origin.blocks, strict=True):
        if is_constant(operation):
            size = sum(_bytes_of(given, typed, stored) for given in _arguments(operation))
            stored |= {output.name: size for output in operation.outputs}
            continue
        inputs = [given.name for given in _arguments(operation) if isinstance(given, Name)]
        viewed = [given.name for given in operation.inputs.get("x", ()) if isinstance(given, Name)]
        if operation.kind in VIEWS and viewed and viewed[0] in stored:  # Still the constant, in another shape.
            stored |= {output.name: stored[viewed[0]] for output in operation.outputs}
        output = operation.outputs[0] if operation.outputs else Typed(name="", dtype="float16", size=())
        moves = 0 if operation.kind in VIEWS else 1
        yield Cost(
            function=function.name,
            block=block,
            kind=operation.kind,
            output=output.name,
            line=origin.lines.get(output.name, ""),
            flops=_flops(operation, typed) * moves,
            weights=sum(stored[name] for name in inputs if name in stored) * moves,
            moved=_moved(operation, [typed[name] for name in inputs if name in typed and name not in stored]) * moves,
        )


def _moved(operation: Operation, inputs: list[Typed]) -> int:
    made = sum(_bytes(output) for output in operation.outputs)
    if operation.kind in PARTS:  # Only the part itself is read and written, not what it is a part of.
        part = operation.inputs.get("update")
        held = next((value for value in inputs if part and part[0] == Name(value.name)), None)
        return 2 * (made if held is None else _bytes(held))
    return made + sum(_bytes(value) for value in inputs)


def _arguments(operation: Operation) -> Iterator[Name | Constant]:
    for arguments in operation.inputs.values():
        yield from arguments
    yield from operation.attributes.values()


def _bytes_of(given: Name | Constant, typed: Mapping[str, Typed], stored: Mapping[str, int]) -> int:
    """Bytes of an argument of a constant: what it is itself, or what it is made of."""
    if isinstance(given, Name):
        return stored.get(given.name) or _bytes(typed[given.name])
    return 0 if given.dtype in SETTINGS else _bytes(Typed(name="", dtype=given.dtype, size=given.size))


def _count(size: tuple[int, ...]) -> int:
    return math.prod(max(1, extent) for extent in size)  # A size that only the call fixes counts as one.


def _bytes(value: Typed) -> int:
    return -(-_count(value.size) * BITS.get(value.dtype, 0) // 8)


def _flops(operation: Operation, typed: Mapping[str, Typed]) -> int:
    made = sum(_count(output.size) for output in operation.outputs)
    sizes = {
        name: typed[given[0].name].size
        for name, given in operation.inputs.items()
        if len(given) == 1 and isinstance(given[0], Name) and given[0].name in typed
    }
    if operation.kind in ("conv", "conv_transpose", "linear") and "weight" in sizes:
        weight = sizes["weight"]
        return 2 * made * _count(weight[1:])  # (out, in a group, kernel …): so many products for each number made.
    if operation.kind == "matmul" and "x" in sizes:
        (rows,), x = operation.outputs[0].size[-2:-1] or (1,), sizes["x"]
        turned = len(x) > 1 and x[-1] == rows != x[-2]
        return 2 * made * max(1, x[-2] if turned else x[-1])
    return made
