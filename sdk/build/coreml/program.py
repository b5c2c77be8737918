"""A .mlpackage folder in, its functions as plain values out. Nothing runs here and no weight is read before it is used.

Opening refuses: a folder without its manifest or model, a model that cannot be parsed, anything but an ML Program, a
specification newer than this reader, and names that no operation defines.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from sdk.build.coreml.library import coremltools
from sdk.build.coreml.weight_file import Array, WeightFile, array_of
from sdk.errors import PackageError

__all__ = ["Constant", "Function", "Name", "Operation", "Package", "Typed"]

NEWEST_SPECIFICATION = 10  # iOS 26. A newer one may mean the same words differently.
EXTRAS = "limbeck"
"""Folder inside the package that holds contract, tokenizer and lines; Core ML passes over it."""


@dataclass(frozen=True, kw_only=True)
class Typed:
    """A named value: input, state or output."""

    name: str
    dtype: str
    """float16, float32, int32, …, bool, string."""
    size: tuple[int, ...]
    """-1 where a dimension is not fixed."""


@dataclass(frozen=True)
class Name:
    """An argument that an earlier operation, an input or a state defines."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Constant:
    """An argument or attribute that stands in the package."""

    dtype: str
    size: tuple[int, ...]
    raw: bytes | None = field(default=None, repr=False)
    """Its bytes, where they stand in the program."""
    plain: tuple[Any, ...] | None = field(default=None, repr=False)
    """Its values, where they stand in the program as numbers or text."""
    file: str = ""
    """Weight file that holds it, else empty."""
    offset: int = 0
    """Byte of its record there."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One step of a function."""

    kind: str
    """Type of the operation, such as matmul."""
    inputs: Mapping[str, tuple[Name | Constant, ...]]
    """Parameter to its arguments; most have one."""
    attributes: Mapping[str, Constant]
    outputs: tuple[Typed, ...]
    nested: int = 0
    """Blocks inside it, as loops and branches have."""


@dataclass(frozen=True, kw_only=True)
class Function:
    """One entry point of the program."""

    name: str
    inputs: tuple[Typed, ...]
    states: tuple[Typed, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Package:
    """An opened package."""

    folder: Path
    functions: Mapping[str, Function]
    default: str
    """Function that runs where none is named."""
    specification: int
    """Version of the model specification; 9 is iOS 18."""
    spec: Any = field(repr=False)
    """The parsed protobuf message."""
    _weights: dict[str, WeightFile] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, folder: Path) -> "Package":
        """Read a package's program.

        Raises:
            PackageError: One of the checks that the module's docstring lists.
        """
        model = _model_file(folder)
        spec = coremltools().proto.Model_pb2.Model()
        try:
            spec.ParseFromString(model.read_bytes())
        except Exception as cause:  # protobuf's error classes differ between its implementations.
            raise PackageError(
                f"{model.name} is cut short or no Core ML model ({cause}); copy {folder} again"
            ) from cause
        kind = spec.WhichOneof("Type")
        if kind != "mlProgram":
            raise PackageError(f"{folder} holds a {kind or 'model without content'}; only ML Programs run here")
        if spec.specificationVersion > NEWEST_SPECIFICATION:
            raise PackageError(
                f"{folder} has specification {spec.specificationVersion}, this reader knows {NEWEST_SPECIFICATION}; "
                "convert for an older system or update limbeck"
            )
        functions = {name: _function(name, value) for name, value in spec.mlProgram.functions.items()}
        if not functions:
            raise PackageError(f"{folder} has no function; the model is cut short, copy it again")
        default = spec.description.defaultFunctionName or "main"
        return cls(
            folder=folder,
            functions=functions,
            default=default if default in functions else sorted(functions)[0],
            specification=int(spec.specificationVersion),
            spec=spec,
        )

    def function(self, name: str | None = None) -> Function:
        """A function by name, else the default one."""
        wanted = name or self.default
        if wanted not in self.functions:
            raise PackageError(f"{self.folder} has no function {wanted}; it has {', '.join(sorted(self.functions))}")
        return self.functions[wanted]

    def weights(self, file: str) -> WeightFile:
        """A weight file of the package, mapped once."""
        if file not in self._weights:
            self._weights[file] = WeightFile(_model_file(self.folder).parent / file)
        return self._weights[file]

    def values(self, constant: Constant) -> Array:
        """The values of a constant as an array."""
        if constant.plain is not None:
            kind = np.dtype(np.str_) if constant.dtype == "string" else np.dtype(constant.dtype)
            return np.array(constant.plain, dtype=kind).reshape(constant.size)
        raw = self.weights(constant.file).blob(constant.offset) if constant.file else constant.raw or b""
        return array_of(raw, constant.dtype, constant.size)

    def extra(self, name: str) -> Path:
        """A file that our converter put into the package."""
        return self.folder / "Data" / EXTRAS / name


def _model_file(folder: Path) -> Path:
    try:
        manifest = json.loads((folder / "Manifest.json").read_text(encoding="utf-8"))
        root = PurePosixPath(manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"])
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise PackageError(f"{folder} is no .mlpackage: its Manifest.json is missing or damaged ({cause!r})") from cause
    if root.is_absolute() or ".." in root.parts:
        raise PackageError(f"{folder} names a model outside itself ({root}); do not use it")
    model = folder / "Data" / root
    if not model.is_file():
        raise PackageError(f"{folder} has no {root}; copy the whole package again")
    return model


def _function(name: str, proto: Any) -> Function:
    if proto.opset not in proto.block_specializations:
        raise PackageError(f"function {name} has no block for {proto.opset or 'any system'}; copy the package again")
    block = proto.block_specializations[proto.opset]
    inputs, states = [], []
    for given in proto.inputs:
        if given.type.WhichOneof("type") == "stateType":
            states.append(_typed(given.name, given.type.stateType.wrappedType))
        else:
            inputs.append(_typed(given.name, given.type))
    operations = tuple(_operation(operation) for operation in block.operations)
    function = Function(
        name=name, inputs=tuple(inputs), states=tuple(states), operations=operations, outputs=tuple(block.outputs)
    )
    _refuse_undefined(function)
    return function


def _refuse_undefined(function: Function) -> None:
    known = {given.name for given in (*function.inputs, *function.states)}
    for operation in function.operations:
        if operation.nested:
            return  # What a nested block sees is its own affair; the interpreter refuses the operation by name.
        for arguments in operation.inputs.values():
            for argument in arguments:
                if isinstance(argument, Name) and argument.name not in known:
                    raise PackageError(
                        f"{operation.kind} in {function.name} uses {argument.name}, which nothing defines; "
                        "the model is damaged"
                    )
        known.update(output.name for output in operation.outputs)
    for output in function.outputs:
        if output not in known:
            raise PackageError(f"output {output} of {function.name} is never computed; the model is cut short")


def _operation(proto: Any) -> Operation:
    return Operation(
        kind=proto.type,
        inputs={
            key: tuple(
                Name(binding.name) if binding.WhichOneof("binding") == "name" else _constant(binding.value)
                for binding in argument.arguments
            )
            for key, argument in proto.inputs.items()
        },
        attributes={key: _constant(value) for key, value in proto.attributes.items()},
        outputs=tuple(_typed(output.name, output.type) for output in proto.outputs),
        nested=len(proto.blocks),
    )


def _typed(name: str, proto: Any) -> Typed:
    if proto.WhichOneof("type") != "tensorType":
        return Typed(name=name, dtype=str(proto.WhichOneof("type")), size=())
    tensor = proto.tensorType
    return Typed(name=name, dtype=_dtype(tensor.dataType), size=_size(tensor))


def _dtype(number: int) -> str:
    names = {"FLOAT": "float", "INT": "int", "UINT": "uint"}
    label: str = coremltools().proto.MIL_pb2.DataType.Name(number)
    for stem, ours in names.items():
        if label.startswith(stem) and label[len(stem) :].isdigit():
            return ours + label[len(stem) :]
    return label.lower()


def _size(tensor: Any) -> tuple[int, ...]:
    return tuple(
        int(dimension.constant.size) if dimension.WhichOneof("dimension") == "constant" else -1
        for dimension in tensor.dimensions
    )


def _constant(proto: Any) -> Constant:
    tensor = proto.type.tensorType
    dtype, size = _dtype(tensor.dataType), _size(tensor)
    if proto.WhichOneof("value") == "blobFileValue":
        blob = proto.blobFileValue
        file = PurePosixPath(blob.fileName.removeprefix("@model_path/"))
        if file.is_absolute() or ".." in file.parts:
            raise PackageError(f"a constant stands outside the package ({file}); do not use it")
        return Constant(dtype=dtype, size=size, file=str(file), offset=int(blob.offset))
    values = proto.immediateValue.tensor
    kind = values.WhichOneof("value")
    if kind == "bytes":
        return Constant(dtype=dtype, size=size, raw=bytes(values.bytes.values))
    return Constant(dtype=dtype, size=size, plain=tuple(getattr(values, kind).values) if kind else ())
