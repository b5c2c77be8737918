"""A package on a Mac in, where Core ML means to run each operation out, beside what the lint guessed.

`MLComputePlan` is Core ML's own statement, and needs macOS 14.4. This project has no Mac: reading a plan is tested with
the structure that coremltools documents, filled with the operations of a real package; the call itself never ran.
"""

import platform
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdk.build.coreml.library import coremltools
from sdk.build.coreml.lint import Hit
from sdk.errors import PackageError

__all__ = ["UNIT", "Comparison", "Placed", "compared", "placed_of", "placements"]

UNIT = "neural engine"
LEAVES = frozenset({"error"})
"""Severities that guess that an operation leaves the unit; a warning guesses that it is slow."""


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Where one operation is to run."""

    function: str
    operation: str
    output: str
    device: str
    """`neural engine`, `gpu` or `cpu`."""
    share: float
    """Of the function's estimated cost, in [0, 1]; 0 where Core ML states none."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The plan beside the guess, of one package."""

    on_unit: int
    """Operations that the plan puts on the Neural Engine."""
    elsewhere: int
    unforeseen: tuple[Placed, ...]
    """Elsewhere, and no rule said so: what the lint does not know yet. Costly ones first."""
    needless: tuple[Hit, ...]
    """A rule said that it would leave, and the plan keeps it: the rule may be out of date."""


def placements(folder: Path) -> list[Placed]:
    """Ask Core ML where the operations of a package would run on this Mac.

    Raises:
        PackageError: This is no Mac, the system is too old, or Core ML cannot compile the package.
    """
    if platform.system() != "Darwin":
        raise PackageError("placement is Core ML's own answer and needs macOS 14.4; leave --placement out elsewhere")
    library = coremltools()
    try:
        from coremltools.models.compute_plan import MLComputePlan

        with tempfile.TemporaryDirectory(prefix="limbeck-") as work:
            compiled = library.models.utils.compile_model(str(folder), str(Path(work) / f"{folder.stem}.mlmodelc"))
            return placed_of(MLComputePlan.load_from_path(path=compiled, compute_units=library.ComputeUnit.ALL))
    except Exception as cause:  # Core ML raises what Objective-C gives it, under no common name.
        raise PackageError(f"Core ML gives no plan for {folder.name} ({cause}); it needs macOS 14.4") from cause


def placed_of(plan: Any) -> list[Placed]:
    """Read a coremltools MLComputePlan: every operation that it places, in the order of the program."""
    program = plan.model_structure.program
    if program is None:
        raise PackageError("the plan is of no ML Program; only those are placed operation by operation")
    found = []
    for name, function in program.functions.items():
        for operation in function.block.operations:
            usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
            if usage is None or not operation.outputs:  # Constants have no place.
                continue
            cost = plan.get_estimated_cost_for_mlprogram_operation(operation)
            found.append(
                Placed(
                    function=name,
                    operation=operation.operator_name.rsplit(".", 1)[-1],  # `ios18.conv` in a plan.
                    output=operation.outputs[0].name,
                    device=_device(usage.preferred_compute_device),
                    share=0.0 if cost is None else float(cost.weight),
                )
            )
    return found


def compared(placed: Sequence[Placed], hits: Iterable[Hit]) -> Comparison:
    """Set a plan against the lint's guess; accepted hits count too, since accepting moves nothing."""
    guessed = {(hit.function, hit.tensor): hit for hit in hits if hit.severity in LEAVES}
    at = {(one.function, one.output): one for one in placed}
    unforeseen = [one for place, one in at.items() if one.device != UNIT and place not in guessed]
    return Comparison(
        on_unit=sum(one.device == UNIT for one in placed),
        elsewhere=sum(one.device != UNIT for one in placed),
        unforeseen=tuple(sorted(unforeseen, key=lambda one: -one.share)),
        needless=tuple(hit for place, hit in guessed.items() if place in at and at[place].device == UNIT),
    )


def _device(device: Any) -> str:
    kinds = {"MLNeuralEngineComputeDevice": UNIT, "MLGPUComputeDevice": "gpu", "MLCPUComputeDevice": "cpu"}
    return kinds.get(type(device).__name__, type(device).__name__)
