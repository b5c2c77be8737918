"""A plan in coremltools' own classes is read, and set beside the guess; without a Mac one clear line."""

import platform
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sdk.build.coreml.library import coremltools, quiet
from sdk.build.coreml.lint import lint
from sdk.build.coreml.placement import UNIT, compared, placed_of, placements
from sdk.build.coreml.program import Package
from sdk.build.coreml.rules import RULES
from sdk.errors import PackageError
from tests.sdk.build.coreml.test_execute import converted


class Mixed(nn.Module):
    """A convolution, which fits the unit, and a look-up by index, which a rule says does not."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.map = nn.Embedding(50, 16), nn.Conv1d(16, 16, 1)

    def forward(self, ids: Tensor) -> Tensor:
        return torch.relu(self.map(self.embed(ids).transpose(1, 2)))


@dataclass
class RecordedPlan:
    """What MLComputePlan answers, for a package's operations: a device by kind, and half of the cost for `conv`."""

    model_structure: Any
    devices: dict[str, Any]

    def get_compute_device_usage_for_mlprogram_operation(self, operation: Any) -> Any:
        from coremltools.models.compute_plan import MLComputePlanDeviceUsage

        kind = operation.operator_name.removeprefix("ios18.")
        if kind == "const":
            return None
        device = self.devices.get(kind, self.devices[""])
        return MLComputePlanDeviceUsage(preferred_compute_device=device, supported_compute_devices=[device])

    def get_estimated_cost_for_mlprogram_operation(self, operation: Any) -> Any:
        from coremltools.models.compute_plan import MLComputePlanCost

        return MLComputePlanCost(weight=0.5) if operation.operator_name == "ios18.conv" else None


def structure_of(package: Package) -> Any:
    """The package's operations in the classes that Core ML's answer comes in."""
    from coremltools.models import compute_plan as plan

    kind = plan.MLModelStructureProgramValueType()
    functions = {}
    for name, function in package.functions.items():
        operations = [
            plan.MLModelStructureProgramOperation(
                inputs={},
                operator_name=f"ios18.{operation.kind}" if operation.kind != "const" else "const",
                outputs=[
                    plan.MLModelStructureProgramNamedValueType(name=output.name, type=kind)
                    for output in operation.outputs
                ],
                blocks=[],
                __proxy__=None,
            )
            for operation in function.operations
        ]
        block = plan.MLModelStructureProgramBlock(inputs=[], operations=operations, output_names=[])
        functions[name] = plan.MLModelStructureProgramFunction(inputs=[], block=block)
    program = plan.MLModelStructureProgram(functions=functions)
    return plan.MLModelStructure(neuralnetwork=None, program=program, pipeline=None)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    coremltools()
    folder = tmp_path_factory.mktemp("placement") / "x.mlpackage"
    with quiet():
        return converted(Mixed().eval(), torch.randint(0, 50, (1, 9)), "iOS18", folder)


def devices(**kinds: str) -> dict[str, Any]:
    from coremltools.models import compute_device as device

    made = {
        UNIT: object.__new__(device.MLNeuralEngineComputeDevice),  # Only macOS has what their makers want.
        "cpu": object.__new__(device.MLCPUComputeDevice),
        "gpu": object.__new__(device.MLGPUComputeDevice),
    }
    return {"": made[UNIT]} | {kind: made[name] for kind, name in kinds.items()}


def test_every_operation_but_constants_is_placed_with_its_device_and_cost(package: Package) -> None:
    placed = placed_of(RecordedPlan(structure_of(package), devices(gather="cpu", relu="gpu")))
    assert len(placed) == sum(operation.kind != "const" for operation in package.function().operations)
    found = {one.operation: one for one in placed}
    assert (found["gather"].device, found["relu"].device, found["conv"].device) == ("cpu", "gpu", UNIT)
    assert (found["conv"].share, found["relu"].share) == (0.5, 0.0)


def test_what_the_guess_missed_and_what_it_said_in_vain_is_named(package: Package) -> None:
    hits = lint(package.folder)
    assert any(hit.rule == "gather" and RULES[hit.rule].severity == "error" for hit in hits)
    as_guessed = compared(placed_of(RecordedPlan(structure_of(package), devices(gather="cpu"))), hits)
    assert as_guessed.unforeseen == ()
    assert as_guessed.elsewhere == 1
    other = compared(placed_of(RecordedPlan(structure_of(package), devices(conv="gpu", relu="cpu"))), hits)
    assert [one.operation for one in other.unforeseen] == ["conv", "relu"]  # The costly one first.
    assert {hit.rule for hit in other.needless} >= {"gather"}
    assert other.on_unit + other.elsewhere == as_guessed.on_unit + as_guessed.elsewhere


def test_a_plan_of_another_kind_of_model_and_a_machine_without_core_ml_are_refused(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coremltools.models.compute_plan import MLModelStructure

    empty: Any = MLModelStructure(neuralnetwork=None, program=None, pipeline=None)
    with pytest.raises(PackageError, match="no ML Program"):
        placed_of(RecordedPlan(empty, devices()))
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    with pytest.raises(PackageError, match=r"needs macOS 14\.4; leave --placement out"):
        placements(package.folder)
    monkeypatch.setattr(platform, "system", lambda: "Darwin")  # As on a Mac whose Core ML cannot compile the package.
    with pytest.raises(PackageError, match=r"gives no plan for x\.mlpackage"):
        placements(package.folder)
