"""A student in, its learning step as an .mlpackage out, compared with torch before it is kept."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from personalize.pack import DomainPack
from sdk.build.coreml.execute import PRECISIONS, Session
from sdk.build.coreml.families import parts_of
from sdk.build.coreml.learning import LearningShape, LearningStep, traced
from sdk.build.coreml.library import coremltools, quiet
from sdk.build.coreml.program import EXTRAS, Package
from sdk.build.coreml.student import Student, checkpoint_of
from sdk.errors import ConversionError

__all__ = ["LearningReport", "convert_learning", "directions_of", "examples_of", "upper_layers"]

FORMAT = "learning-step/1"
TOLERANCE = 1e-2  # Of the sums' norm, every operation rounded to float16; measured about 2e-3 on tiny students.


@dataclass(frozen=True, kw_only=True)
class LearningReport:
    """What was made."""

    package: Path
    bytes: int
    operations: int
    differences: Mapping[str, float]
    """Precision to |sums − torch's| / |torch's|, Euclidean over all sums of one call."""


def convert_learning(
    student: Path, out: Path, shape: LearningShape | None = None, directions: Mapping[str, Tensor] | None = None
) -> LearningReport:
    """Compile one step of private learning for Core ML.

    Args:
        student: Folder of a bundle or checkpoint.
        out: Where the package goes; must not exist, must end in .mlpackage.
        shape: Sizes; None for kind frozen-a on the four upper layers.
        directions: For kind basis: site (`26.q_proj`) to (count, out, rank).

    Raises:
        ConversionError: The student has no such step, or its package differs from torch; nothing is left.
    """
    if out.suffix != ".mlpackage" or out.exists():
        raise ConversionError(f"{out} must end in .mlpackage and not exist yet; remove it or choose another name")
    opened = Student.open(student)
    for parameter in opened.model.parameters():  # What the package holds: so that only the program is compared.
        parameter.data = parameter.data.half().float()
    parts = parts_of(opened.model)
    count = len(parts.layers)
    step = LearningStep(parts, shape or LearningShape(layers=tuple(range(max(0, count - 4), count))), directions).eval()
    names = [*(f"sum_{name}" for name in step.trained), "norms"]
    library = coremltools()
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".coreml-") as work, quiet():
        made = library.convert(
            traced(step),
            inputs=[library.TensorType(name=name, shape=size, dtype=np.float16) for name, size in step.inputs.items()],
            outputs=[library.TensorType(name=name, dtype=np.float16) for name in names],
            minimum_deployment_target=library.target.iOS18,
            compute_precision=library.precision.FLOAT16,
            skip_model_load=True,
        )
        staged = Path(work) / out.name
        made.save(str(staged))
        del made
        _add_contract(staged, Path(work), step, names, opened.base_digest)
        differences = _differences(staged, step, names, opened.model)
        staged.rename(out)
    operations = [operation.kind for operation in Package.open(out).function().operations]
    return LearningReport(
        package=out,
        bytes=sum(file.stat().st_size for file in out.rglob("*") if file.is_file()),
        operations=sum(kind != "const" for kind in operations),
        differences=differences,
    )


def upper_layers(student: Path, *, layers: int, rank: int, records: int, positions: int, kind: str) -> LearningShape:
    """Sizes of a step of the `layers` uppermost layers of a student."""
    config = json.loads((checkpoint_of(student) / "config.json").read_text(encoding="utf-8"))
    count = int(config["num_hidden_layers"])
    return LearningShape(
        layers=tuple(range(max(0, count - layers), count)), records=records, positions=positions, rank=rank, kind=kind
    )


def directions_of(student: Path, basis: Path) -> dict[str, Tensor]:
    """The directions of a pack that `build basis` put into the bundle, by short site (`26.q_proj`).

    Raises:
        PackError: The pack is damaged or of another base.
    """
    pack = DomainPack.load(basis, base_digest=Student.open(student).base_digest)
    return {f"{site.split('.')[2]}.{site.rsplit('.', 1)[-1]}": value for site, value in pack.basis.directions.items()}


def examples_of(step: LearningStep, model: Any = None) -> dict[str, Tensor]:
    """Inputs of a step's size that a float16 device could be given: made-up tokens, padding, a small adapter, a clip.

    Args:
        step: The step.
        model: The student, whose lower layers make the hidden states; None makes them up too.
    """
    generator = torch.Generator().manual_seed(0)
    made = {name: torch.randn(size, generator=generator) for name, size in step.inputs.items()}
    for name, value in made.items():
        if name.startswith(("a_", "b_")):
            made[name] = value * (value.shape[1] ** -0.5 if name.startswith("a_") else 0.01)
    tokens = torch.randint(0, len(step.head), made["weights"].shape, generator=generator)
    if model is not None:
        with torch.no_grad():
            states = model.model(tokens, output_hidden_states=True).hidden_states
        made["hidden"] = states[step.shape.layers[0]].float()
    made["targets"], made["weights"] = step.head[tokens], torch.ones_like(made["weights"])
    made["weights"][:, : step.shape.positions // 4] = 0  # The prompt.
    made["weights"][0, step.shape.positions // 2 :] = 0  # A short record.
    made["clip"], made["scale"] = torch.tensor([1.0]), torch.tensor([1.0])
    return {name: value.half().float() for name, value in made.items()}


def _add_contract(staged: Path, work: Path, step: LearningStep, names: list[str], base_digest: str) -> None:
    from coremltools.libmodelpackage import ModelPackage

    facts = {
        "format": FORMAT,
        "base_digest": base_digest,
        "kind": step.shape.kind,
        "layers": step.shape.layers,
        "rank": step.shape.rank,
        "inputs": step.inputs,
        "outputs": names,
        "order": [
            "hidden: what the frozen layers below the adapted ones made of each record",
            "targets: the head's row of each next token; weights: one where it is learned, else and in padding zero",
            "add the sums of all calls up in float32 and divide by scale; then add noise once, of clip × the noise "
            "multiplier; no sum leaves the device without it",
            "norms are upper bounds, times scale; they are private",
        ],
    }
    file = work / "learning.json"
    file.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    ModelPackage(str(staged)).addItem(str(file), file.name, EXTRAS, "what a caller of the step needs")


def _differences(staged: Path, step: LearningStep, names: list[str], model: Any) -> dict[str, float]:
    """Precision to the difference from torch.

    Raises:
        ConversionError: One is over TOLERANCE.
    """
    given = examples_of(step, model)
    wanted = dict(zip(names, step(*given.values()), strict=True))
    found = {}
    for precision in PRECISIONS:
        outputs = Session(Package.open(staged), precision=precision).run(given)
        off = sum(float((outputs[name] - wanted[name]).square().sum()) for name in names[:-1]) ** 0.5
        found[precision] = off / sum(float(wanted[name].square().sum()) for name in names[:-1]) ** 0.5
        if not found[precision] <= TOLERANCE:
            raise ConversionError(
                f"the step differs from torch by {found[precision]:.1%} ({precision}); it was not kept"
            )
    return found
