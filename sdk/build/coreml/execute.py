"""A package and arrays in, its outputs out: ML Programs interpreted on any CPU by torch.

Two precisions. `fp32` computes in float32 whatever the package declares: is the graph right? `declared` rounds every
operation's output to the type that the package declares for it: does the graph hold in float16? Constants have their
declared type in both. Neither says where a device would run an operation, how fast, or how it accumulates.

A session keeps the states of one conversation. Functions of one session share states and constants, as on a device.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdk.build.coreml.constants import DENSE
from sdk.build.coreml.operations import OPERATIONS
from sdk.build.coreml.program import Constant, Function, Name, Operation, Package, Typed
from sdk.errors import PackageError, UnknownOperationError

__all__ = ["PRECISIONS", "Finding", "Session"]

PRECISIONS = ("fp32", "declared")
SHORT = 16  # A constant of so few whole numbers is a shape or a list of axes: kept as a tuple.
SMALLEST_NORMAL = 2.0**-14  # Of float16; below it digits are lost, and some units flush to zero.
OFTEN = 0.5  # Share of an output's nonzero values under SMALLEST_NORMAL from which it is worth a line.
MEANT_TO_BE_SMALL = frozenset({"softmax", "exp", "sigmoid"})  # Vanishing values are what they are for.


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A number that went wrong in an operation's output."""

    kind: str
    """overflow: infinite in the declared type, finite in float32. nan. subnormal: mostly below the smallest normal."""
    operation: str
    output: str
    calls: int = 1
    """Calls in which it happened."""


@dataclass(frozen=True)
class _Step:
    run: Callable[[Mapping[str, Any]], Any]
    operation: Operation
    fixed: Mapping[str, Any]
    """Arguments that stand in the program."""
    looked_up: tuple[tuple[str, str], ...]
    """Parameter and the name of its value."""
    lists: Mapping[str, tuple[Any, ...]]
    """Parameter to names (Name) and values."""
    dead: tuple[str, ...]
    """Values that nothing needs after this step."""
    in_place: bool
    """A slice_update of a state that is written back next: the state itself may change."""


@dataclass
class Session:
    """A package made ready to run."""

    package: Package
    precision: str = "fp32"
    """One of PRECISIONS."""
    watch: bool = False
    """Look at every output for overflow, NaN and subnormal numbers; slower."""
    states: dict[str, Tensor] = field(default_factory=dict)
    """Keys and values and the like, zero at first."""
    _found: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    _constants: dict[Any, Any] = field(default_factory=dict)
    _ready: dict[str, tuple[list[_Step], dict[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise PackageError(f"precision {self.precision!r} is unknown; choose one of {', '.join(PRECISIONS)}")

    def reset(self) -> None:
        """Forget the conversation: all states are zero again."""
        self.states.clear()

    @property
    def findings(self) -> list[Finding]:
        """What `watch` saw, most frequent first."""
        return [
            Finding(kind=kind, operation=operation, output=output, calls=calls)
            for (kind, operation, output), calls in self._found.most_common()
        ]

    @torch.no_grad()
    def run(self, inputs: Mapping[str, Tensor], *, function: str | None = None) -> dict[str, Tensor]:
        """Call a function once.

        Args:
            inputs: Every input by name, with the size that the package declares.
            function: Its name; None is the package's default.

        Returns:
            Outputs by name, float32 or int32.

        Raises:
            UnknownOperationError: The function uses an operation that is not interpreted; names it.
            PackageError: An input is missing or of another size, or a constant cannot be read.
        """
        called = self.package.function(function)
        steps, constants = self._prepared(called)
        values: dict[str, Any] = {}
        for given in called.inputs:
            values[given.name] = self._rounded(_fitting(given, inputs, called.name), given.dtype)
        for state in called.states:
            if state.name not in self.states:
                self.states[state.name] = torch.zeros(state.size)
        for step in steps:
            self._step(step, values)
        return {name: values[name] if name in values else constants[name] for name in called.outputs}

    def constant(self, name: str, *, function: str | None = None) -> Tensor:
        """The dense values of a named constant of a function.

        Raises:
            PackageError: It has no such constant.
        """
        found = self._prepared(self.package.function(function))[1].get(name)
        if not isinstance(found, Tensor):
            raise PackageError(f"{self.package.folder} has no constant {name}; the contract is of another package")
        return found

    def _step(self, step: _Step, values: dict[str, Any]) -> None:
        kind = step.operation.kind
        if kind == "read_state":
            values[step.operation.outputs[0].name] = self.states[step.looked_up[0][1]]
            return
        if kind == "write_state":
            names = dict(step.looked_up)
            self.states[names["input"]] = values[names["data"]]
        else:
            given = dict(step.fixed)
            for parameter, name in step.looked_up:
                given[parameter] = values[name]
            for parameter, entries in step.lists.items():
                given[parameter] = [values[entry.name] if isinstance(entry, Name) else entry for entry in entries]
            if step.in_place:
                given["in_place"] = not _seen_elsewhere(given["x"], step, values)
            results = step.run(given)
            for output, result in zip(
                step.operation.outputs, results if isinstance(results, tuple | list) else (results,), strict=False
            ):
                values[output.name] = self._checked(result, output, kind)
        for name in step.dead:
            del values[name]

    def _checked(self, result: Any, output: Typed, kind: str) -> Any:
        if not isinstance(result, Tensor) or not result.is_floating_point():
            return result
        rounded = self._rounded(result, output.dtype)
        if self.watch:
            for trouble in _troubles(result, output.dtype, kind):
                self._found[trouble, kind, output.name] += 1
        return rounded

    def _rounded(self, value: Tensor, dtype: str) -> Tensor:
        if self.precision == "declared" and dtype == "float16" and value.is_floating_point():
            return value.half().float()
        return value

    def _prepared(self, function: Function) -> tuple[list[_Step], dict[str, Any]]:
        """Steps and constants of a function, made once; constants of several functions are decompressed once."""
        if function.name not in self._ready:
            constants: dict[str, Any] = {}
            rest = []
            for operation in function.operations:
                if operation.kind == "const" or operation.kind in DENSE:
                    self._decompress(operation, constants)
                else:
                    rest.append(operation)
            self._ready[function.name] = _steps(rest, function, constants, self._plain), constants
        return self._ready[function.name]

    def _decompress(self, operation: Operation, constants: dict[str, Any]) -> None:
        if operation.kind == "const":
            constants[operation.outputs[0].name] = self._plain(operation.attributes["val"])
            return
        given = {name: arguments[0] for name, arguments in operation.inputs.items()} | dict(operation.attributes)
        raw = {key: value for key, value in given.items() if key != "name"}
        place = (operation.kind, *sorted((key, _identity(value)) for key, value in raw.items()))
        if place not in self._constants or any(entry == "?" for _, entry in place[1:]):
            arrays = {key: self._array(value, constants) for key, value in raw.items()}
            self._constants[place] = DENSE[operation.kind](arrays, operation.outputs[0].size)
        for output, dense in zip(operation.outputs, self._constants[place], strict=True):
            constants[output.name] = _as_declared(dense, output.dtype)

    def _array(self, value: Name | Constant, constants: Mapping[str, Any]) -> Any:
        if isinstance(value, Constant):
            return self.package.values(value)
        found = constants[value.name]
        return found.numpy() if isinstance(found, Tensor) else np.asarray(found)

    def _plain(self, constant: Constant) -> Any:
        """A constant as the operations want it: number, text, short tuple, or tensor."""
        place = (constant.file, constant.offset, constant.dtype, constant.size)
        if constant.file and place in self._constants:
            return self._constants[place]
        array = self.package.values(constant)
        if constant.dtype == "string":
            return str(array.reshape(-1)[0]) if array.size == 1 else tuple(str(entry) for entry in array)
        if array.ndim == 0:
            return array.item()
        if array.ndim == 1 and array.dtype.kind in "iub" and array.size <= SHORT:
            return tuple(array.tolist())
        made = _as_declared(array, constant.dtype)
        if constant.file:
            self._constants[place] = made
        return made


def _as_declared(array: Any, dtype: str) -> Tensor:
    array = np.asarray(array)
    if array.dtype.kind == "f":
        declared = array.astype(np.float16) if dtype == "float16" else array
        return torch.from_numpy(np.array(declared, dtype=np.float32))
    if array.dtype.kind in "iu" and array.dtype.itemsize > 1:
        return torch.from_numpy(array.astype(np.int32))
    return torch.from_numpy(np.array(array))


def _identity(value: Name | Constant) -> Any:
    if isinstance(value, Name):
        return "?"  # Made of another constant: not shared.
    return (value.file, value.offset) if value.file else (value.dtype, value.size, value.raw, value.plain)


def _fitting(given: Typed, inputs: Mapping[str, Tensor], function: str) -> Tensor:
    if given.name not in inputs:
        raise PackageError(f"input {given.name} of {function} is missing; it needs a value of size {given.size}")
    value = inputs[given.name]
    fits = len(value.shape) == len(given.size) and all(
        wanted in (-1, found) for wanted, found in zip(given.size, value.shape, strict=True)
    )
    if not fits:
        raise PackageError(f"input {given.name} of {function} has size {tuple(value.shape)}, it needs {given.size}")
    return value.float() if value.is_floating_point() else value


def _steps(
    operations: list[Operation], function: Function, constants: Mapping[str, Any], plain: Callable[[Constant], Any]
) -> list[_Step]:
    last: dict[str, int] = {}
    for at, operation in enumerate(operations):
        for arguments in operation.inputs.values():
            last.update({argument.name: at for argument in arguments if isinstance(argument, Name)})
    kept = {*function.outputs, *constants, *(state.name for state in function.states)}  # Constants stand in the steps.
    unread = [[output.name for output in operation.outputs if output.name not in last] for operation in operations]
    dead: list[set[str]] = [{name for name in names if name not in kept} for names in unread]
    for name, at in last.items():
        if name not in kept:
            dead[at].add(name)

    def known(argument: Name | Constant) -> Any:
        if isinstance(argument, Constant):
            return plain(argument)
        return constants.get(argument.name, argument)

    return [_step_of(operation, at, operations, dead[at], known) for at, operation in enumerate(operations)]


def _step_of(
    operation: Operation, at: int, operations: list[Operation], dead: set[str], known: Callable[[Name | Constant], Any]
) -> _Step:
    kind = operation.kind
    if kind not in OPERATIONS and kind not in ("read_state", "write_state"):
        raise UnknownOperationError(
            operation=kind, output=operation.outputs[0].name if operation.outputs else "nothing"
        )
    fixed = {key: known(value) for key, value in operation.attributes.items() if key != "name"}
    looked_up, lists = [], {}
    for parameter, arguments in operation.inputs.items():
        if len(arguments) > 1 or parameter == "values":
            lists[parameter] = tuple(known(argument) for argument in arguments)
        elif isinstance(value := known(arguments[0]), Name):
            looked_up.append((parameter, value.name))
        else:
            fixed[parameter] = value
    return _Step(
        run=OPERATIONS.get(kind, lambda given: None),
        operation=operation,
        fixed=fixed,
        looked_up=tuple(looked_up),
        lists=lists,
        dead=tuple(dead) if kind != "read_state" else (),
        in_place=kind == "slice_update" and _is_written_next(operation, at, operations),
    )


def _is_written_next(operation: Operation, at: int, operations: list[Operation]) -> bool:
    """Whether an update of what was read from a state goes back into that state before anything else runs."""
    (source,), result = operation.inputs["x"], operation.outputs[0].name
    following = operations[at + 1] if at + 1 < len(operations) else None
    if not isinstance(source, Name) or following is None or following.kind != "write_state":
        return False
    readers = [past for past in operations[:at] if past.outputs and past.outputs[0].name == source.name]
    read_from = readers[0].inputs["input"] if readers and readers[0].kind == "read_state" else None
    return following.inputs["data"] == (Name(result),) and following.inputs["input"] == read_from


def _seen_elsewhere(value: Tensor, step: _Step, values: Mapping[str, Any]) -> bool:
    """Whether a living value other than the one that dies here shares the storage."""
    storage = value.untyped_storage().data_ptr()
    return any(
        isinstance(other, Tensor) and other.untyped_storage().data_ptr() == storage
        for name, other in values.items()
        if name not in step.dead
    )


def _troubles(result: Tensor, dtype: str, kind: str) -> list[str]:
    found = ["nan"] if bool(result.isnan().any()) else []
    if dtype == "float16":
        if bool((result.half().isinf() & result.isfinite()).any()):
            found.append("overflow")
        nonzero = result != 0
        small = nonzero & (result.abs() < SMALLEST_NORMAL)
        if kind not in MEANT_TO_BE_SMALL and int(small.sum()) > OFTEN * int(nonzero.sum()) > 0:
            found.append("subnormal")
    return found
