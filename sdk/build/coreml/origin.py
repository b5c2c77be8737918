"""A tensor of a package in, the module and torch line that computed it out.

A converter of ours leaves lines.json beside the program: function to name of a value to `layers.1 layout.py(202)`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sdk.build.coreml.program import Function, Operation, Package
from sdk.errors import PackageError

__all__ = ["Origin", "is_constant", "lines_of"]

ADDED = re.compile(r"(_cast_fp16|_to_fp16|_encoded)+$")  # What passes and compression add to a value's name.
BLOCK = re.compile(r"^(?:[\w.]*?layers\.\d+|[A-Za-z_]\w*)(?=[. ]|$)")
ELSEWHERE = "inputs"
"""Block of what stands before the first operation with a line."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the operations of one function come from."""

    lines: Mapping[str, str]
    """Name of a tensor to its line, where the package tells."""
    blocks: tuple[str, ...]
    """For each operation, `layers.7`, `head` and the like; one without a line belongs to the block before it."""

    @classmethod
    def of(cls, package: Package, function: Function) -> "Origin":
        """Read what a package says of a function; without lines.json every operation is of one block.

        Raises:
            PackageError: lines.json is damaged.
        """
        known = _told(package, function.name)
        lines, blocks = {}, []
        block = ELSEWHERE if known else "all"
        for operation in function.operations:
            for output in operation.outputs:
                line = known.get(_plain(output.name), "")
                if line:
                    lines[output.name] = line
                if line and not is_constant(operation):
                    block = _block(line) or block
            blocks.append(block)
        return cls(lines=lines, blocks=tuple(blocks))


def is_constant(operation: Operation) -> bool:
    """Whether an operation only states a constant, dense or compressed."""
    return operation.kind == "const" or operation.kind.startswith("constexpr")


def lines_of(trace: Any, outputs: Sequence[str] = ()) -> dict[str, str]:
    """Name of a traced value to the module and line that computed it, for lines.json.

    Names are those of coremltools' front end, which numbers the trace's values anew before it converts them, and for
    the trace's outputs those that the package gives them.
    """
    from coremltools.converters.mil.frontend.torch.torchscript_utils import _expand_and_optimize_ir

    found: dict[str, str] = {}
    graph = _expand_and_optimize_ir(trace)[0]
    for node in graph.nodes():
        source = node.sourceRange().strip().splitlines()
        place = source[0].split(": ")[0] if source else ""
        scope = node.scopeName().rsplit("/", 1)[-1].removeprefix("__module.")
        for output in node.outputs():
            if place and "prim::" not in node.kind():
                # `/…/sdk/build/coreml/layout.py(12)` without the folders of this machine.
                found[output.debugName()] = f"{scope} {'/'.join(place.split('/')[-2:])}".strip()
    last = list(graph.outputs())
    results = list(last[0].node().inputs()) if last[0].node().kind() == "prim::TupleConstruct" else last
    for name, result in zip(outputs, results, strict=False):
        found[name] = found.get(result.debugName(), "")
    return found


def _told(package: Package, function: str) -> dict[str, str]:
    file = package.extra("lines.json")
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8")).get(function, {})
        return {name.replace(".", "_"): str(line) for name, line in found.items()}  # As a program spells names.
    except (OSError, ValueError, AttributeError) as cause:
        raise PackageError(f"{file} cannot be read ({cause!r}); convert the student again") from cause


def _plain(tensor: str) -> str:
    """A tensor's name in the trace: `var_20_cast_fp16` was `20`."""
    return ADDED.sub("", tensor).removeprefix("var_")


def _block(line: str) -> str:
    scope = line.split(" ")[0] if " " in line else ""
    found = BLOCK.match(scope)
    return found[0] if found else ""
