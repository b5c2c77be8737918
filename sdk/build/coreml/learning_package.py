"""A student's parts and an adapter kind in, the functions of a package that learn out, and their check against torch.

    below   states of a record above the frozen layers (layout.py, cut off there)
    learn   clipped per-example gradients of a few records, summed (learning.py)
    worn    for xs and basis: what is trained as the factors B that prefill and decode take (worn.py)

Products with the frozen maps of the MLP, which are most of the work, are typed float16, all else float32: a gradient is
a sum of many small numbers, and errors of scores and logits are exponents. The maps are decode's constants.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from personalize.pack import DomainPack
from sdk.build.coreml.encoded import Encoded
from sdk.build.coreml.execute import PRECISIONS, Session
from sdk.build.coreml.explicit import explicit
from sdk.build.coreml.families import Parts
from sdk.build.coreml.layout import Cache, NeuralEngineDecoder, Shape
from sdk.build.coreml.learning import LearningStep
from sdk.build.coreml.library import coremltools
from sdk.build.coreml.placed import fill
from sdk.build.coreml.program import Package
from sdk.build.coreml.worn import LearningShape, Worn
from sdk.errors import ConversionError

__all__ = ["BELOW", "LEARN", "WORN", "Learning", "directions_of", "examples_of"]

BELOW, LEARN, WORN = "below", "learn", "worn"
TOLERANCE = {"fp32": 1e-4, "declared": 1e-3}  # |sums − torch's| / |torch's|, Euclidean over all sums of one call.
HALVED = ("gate_proj_weight", "up_proj_weight", "down_proj_weight")
LEVELS = 7  # Of personalize.pack: whole numbers from -7 to 7, times a step for each GROUP numbers.
GROUP = 64

ORDER_OF_CALLS = (
    "below, once a record: hidden, cosine, sine as for prefill from position 0; mask: 0 up to its own position",
    "states: below's outputs, one record after the other; without that function the embeddings themselves",
    "targets: the head's row of each next token; weights: one where it is learned, else and in padding zero",
    "factors, and what is trained, as they are now; what is trained stays float32 between steps",
    "scale: a power of two that keeps small gradients above float16's smallest, such as 8; clip: the clip norm",
    "add the sums of all calls of a step up in float32 and divide by scale; then add noise of clip × the noise "
    "multiplier, once; divide by the public expected batch, never by the number of records drawn",
    "no sum leaves the device without noise; norms are upper bounds, times scale, and private",
    "worn (xs, basis): the factors B that learning began with, and what is trained, give the factors to answer with",
)


@dataclass(frozen=True, kw_only=True)
class Learning:
    """The learning functions of one package."""

    shape: LearningShape
    step: LearningStep
    below: NeuralEngineDecoder | None
    """None where every layer is adapted."""

    @classmethod
    def of(cls, parts: Parts, shape: LearningShape, directions: Mapping[str, Tensor] | None = None) -> "Learning":
        """Lay the functions out.

        Raises:
            ConversionError: The student has no such step.
        """
        worn = Worn(parts, shape, directions)
        cut = shape.layers[0]
        lower = Shape(context=0, positions=shape.positions, cache=Cache.NONE, lower=cut)
        return cls(
            shape=shape,
            step=LearningStep(parts, worn).eval(),
            below=NeuralEngineDecoder(parts, lower).eval() if cut else None,
        )

    @property
    def modules(self) -> dict[str, LearningStep | Worn]:
        """Function to the module that it is traced from; `below` is a decoder and converted as one."""
        worn = {WORN: self.step.worn} if self.shape.kind in ("xs", "basis") else {}
        return {LEARN: self.step} | worn

    def program(self, name: str, encoded: Mapping[str, Encoded]) -> Any:
        """A function as a MIL program, decode's constants in place."""
        module, library = self.modules[name], coremltools()
        frozen, types = module.frozen, self._types(name)
        sizes = {**module.inputs, **{key: tuple(value.shape) for key, value in frozen.items()}}
        program = library.convert(
            explicit(module.forward, list(sizes.values())),
            inputs=[
                library.TensorType(name=key.replace(".", "_"), shape=size, dtype=types[key])
                for key, size in sizes.items()
            ],
            outputs=[library.TensorType(name=key, dtype=types[key]) for key in module.outputs],
            minimum_deployment_target=library.target.iOS18,
            compute_precision=library.transform.FP16ComputePrecision(op_selector=_by_a_map),
            convert_to="milinternal",
        )
        steps = {
            key: found for key, value in frozen.items() if value.dtype == torch.float32 and (found := _grid(value))
        }
        fill(program, frozen, {**encoded, **steps})
        return program

    def contract(self) -> dict[str, Any]:
        """What a caller must know, for contract.json."""
        functions = {
            name: {
                "inputs": {key: {"size": size, "dtype": self._dtype(name, key)} for key, size in module.inputs.items()},
                "outputs": {
                    key: {"size": size, "dtype": self._dtype(name, key)} for key, size in module.outputs.items()
                },
            }
            for name, module in self.modules.items()
        }
        shape = self.shape
        return {
            "kind": shape.kind,
            "layers": shape.layers,
            "records": shape.records,
            "positions": shape.positions,
            "rank": shape.rank,
            "trained": list(self.step.worn.trained),
            "functions": functions,
            "order_of_calls": ORDER_OF_CALLS,
        }

    def differences(self, package: Path, model: Any) -> dict[str, float]:
        """Precision to how far the package's sums are from torch's, on made-up records.

        Raises:
            ConversionError: One is over its TOLERANCE.
        """
        given = examples_of(self.step, model)
        wanted = self.step(*given.values(), *(value.float() for value in self.step.frozen.values()))[:-1]
        found = {}
        for precision in PRECISIONS:
            outputs = Session(Package.open(package), precision=precision).run(given, function=LEARN)
            pairs = [(outputs[name], sums) for name, sums in zip(self.step.outputs, wanted, strict=False)]
            off = sum(float((mine - theirs).square().sum()) for mine, theirs in pairs) ** 0.5
            found[precision] = off / sum(float(theirs.square().sum()) for _, theirs in pairs) ** 0.5
            if not found[precision] <= TOLERANCE[precision]:
                raise ConversionError(
                    f"the step's sums differ from torch's by {found[precision]:.2%} ({precision}), more than "
                    f"{TOLERANCE[precision]:.2%}; the package was not kept"
                )
        return found

    def _types(self, name: str) -> dict[str, Any]:
        module = self.modules[name]
        types = {key: self._dtype(name, key) for key in (*module.inputs, *module.outputs)}
        types |= {key: "float16" if value.dtype == torch.float16 else "float32" for key, value in module.frozen.items()}
        return {key: np.dtype(kind).type for key, kind in types.items()}

    def _dtype(self, name: str, array: str) -> str:
        """float32 for what is trained, its sums and the clip; float16 for what decode has or takes in float16."""
        exact = {"clip", "scale", "norms", *self.step.worn.trained}
        return "float32" if array in exact or array.startswith("sum_") else "float16"


def _by_a_map(operation: Any) -> bool:
    """Whether it is a product with a frozen map of an MLP, which is computed in float16."""

    def source(variable: Any) -> str:
        while variable.op is not None and variable.op.op_type in ("cast", "transpose"):
            variable = variable.op.x
        return str(variable.name) if variable.op is None else ""

    return operation.op_type == "matmul" and any(
        source(factor).endswith(HALVED) for factor in (operation.x, operation.y)
    )


def _grid(values: Tensor) -> Encoded | None:
    """The 4-bit codes of a pack's directions, (count, numbers), with float32 scales; None where on no grid."""
    if values.shape[1] % GROUP:
        return None
    groups = values.reshape(len(values), -1, GROUP)
    steps = groups.abs().amax(2) / LEVELS  # The largest of a group has the largest code.
    codes = (groups / steps[..., None].clamp_min(torch.finfo(torch.float32).tiny)).round()
    if not torch.allclose(codes * steps[..., None], groups, rtol=1e-6, atol=0.0):
        return None
    return Encoded(
        codes=(codes + 8).to(torch.uint8).reshape(values.shape),
        bits=4,
        scales=steps,
        zeros=torch.full_like(steps, 8, dtype=torch.uint8),
    )


def directions_of(basis: Path, base_digest: str) -> dict[str, Tensor]:
    """The directions of a pack that `build basis` put into the bundle, by short site (`26.q_proj`).

    Raises:
        PackError: The pack is damaged or of another base.
    """
    pack = DomainPack.load(basis, base_digest=base_digest)
    return {f"{site.split('.')[2]}.{site.rsplit('.', 1)[-1]}": value for site, value in pack.basis.directions.items()}


def examples_of(step: LearningStep, model: Any) -> dict[str, Tensor]:
    """Inputs of a step's size that a device could give: made-up tokens, padding, a small adapter, a clip.

    Args:
        step: The step.
        model: The student, whose lower layers make the states.
    """
    generator = torch.Generator().manual_seed(0)
    sizes = step.inputs
    made = {name: torch.randn(size, generator=generator) for name, size in sizes.items()}
    for name, value in made.items():
        if name in step.worn.factors:
            made[name] = value * (value.shape[-1] ** -0.5 if name.endswith("_a") else 0.01)
        elif name in step.worn.trained:
            made[name] = value * 0.01
    head = model.lm_head.weight.detach().float()
    tokens = torch.randint(0, len(head), sizes["weights"], generator=generator)
    with torch.no_grad():
        states = model.model(tokens, output_hidden_states=True).hidden_states[step.shape.layers[0]]
    made["states"], made["targets"] = states.float().transpose(1, 2), head[tokens.roll(-1, 1)]
    made["weights"] = torch.ones(sizes["weights"])
    made["weights"][:, : step.shape.positions // 4] = 0  # The prompt.
    made["weights"][0, step.shape.positions // 2 :] = 0  # A short record.
    made["weights"][:, -1] = 0  # Its next token is not there.
    made["clip"], made["scale"] = torch.tensor([1.0]), torch.tensor([8.0])
    exact = {"clip", "scale", *step.worn.trained}
    return {name: value if name in exact else value.half().float() for name, value in made.items()}
