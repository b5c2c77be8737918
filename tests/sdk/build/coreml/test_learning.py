"""The learning step gives privacy.dp_sgd's sums, as a program too, and its norm bound holds in the worst float16."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from personalize.adapter import AdapterSpec, fresh
from personalize.forward import Batch, completion_losses
from personalize.trainable import Basis, trainable
from privacy.dp_sgd import ClippedSum
from sdk.build.coreml import learning
from sdk.build.coreml.execute import Session
from sdk.build.coreml.families import parts_of
from sdk.build.coreml.layout import TARGETS
from sdk.build.coreml.learning import KINDS, LearningShape, LearningStep, norm_bounds
from sdk.build.coreml.learning_package import convert_learning, examples_of
from sdk.build.coreml.program import Package
from sdk.errors import ConversionError
from tests.sdk.build.coreml.compiled import student
from tests.tiny import tiny_model

LAYER, RECORDS, POSITIONS, RANK = 1, 3, 12, 3


def directions_of(parts: Any) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    sizes = {target: len(parts.layers[LAYER].maps[target].values) for target in ("q_proj", "up_proj")}
    return {f"{LAYER}.{target}": torch.randn(5, out, RANK, generator=generator) for target, out in sizes.items()}


def both(kind: str, clip: float) -> tuple[list[Tensor], Tensor, list[Tensor], Tensor]:
    """Sums and norms of the step and of the privacy engine, on the same records, adapter and clip norm."""
    model = tiny_model(layers=2)
    parts = parts_of(model)
    directions = directions_of(parts) if kind == "basis" else None
    shape = LearningShape(layers=(LAYER,), records=RECORDS, positions=POSITIONS, rank=RANK, kind=kind)
    step = LearningStep(parts, shape, directions)
    given = examples_of(step)
    tokens = torch.randint(3, 320, (RECORDS, POSITIONS), generator=torch.Generator().manual_seed(5))
    given |= {"targets": parts.head.values[tokens], "clip": torch.tensor([clip]), "scale": torch.tensor([8.0])}
    *sums, norms = step(*given.values())
    adapter = fresh(model, AdapterSpec(layers=(LAYER,), rank=RANK), fits_base="none")
    short = {site: f"{LAYER}_{site.rsplit('.', 1)[-1]}" for site in adapter.a}
    adapter = replace(
        adapter,
        a={site: given[f"a_{name}"] for site, name in short.items()},
        b={site: given[f"b_{name}"] for site, name in short.items()},
    )
    basis = None
    if directions is not None:
        longer = {
            site: directions[f"{LAYER}.{name[2:]}"]
            for site, name in short.items()
            if f"{LAYER}.{name[2:]}" in directions
        }
        basis = Basis(directions=longer, variance=torch.ones(5))
    trained = trainable(kind, adapter, model=model, basis=basis)
    if kind == "basis":
        trained.parameters[0].data.copy_(given["theta"])
    with trained.attached(model):
        clipped = ClippedSum(trained.parameters, clip)
        batch = Batch(hidden=given["hidden"], targets=tokens, weights=given["weights"])
        wanted_norms = clipped.add(completion_losses(model, batch, cut=LAYER))
    wanted = dict(zip(_names(trained, adapter, kind), clipped.sums, strict=True))
    return [value / 8.0 for value in sums], norms / 8.0, [wanted[name] for name in step.trained], wanted_norms


def _names(trained: Any, adapter: Any, kind: str) -> list[str]:
    if kind == "basis":
        return ["theta"]
    sites = [f"{LAYER}_{site.rsplit('.', 1)[-1]}" for site in adapter.a]
    return [f"{factor}_{site}" for factor in (("a", "b") if kind == "lora" else ("b",)) for site in sites]


@pytest.mark.parametrize("kind", KINDS)
def test_sums_are_those_of_the_privacy_engine_where_nothing_is_clipped(kind: str) -> None:
    sums, norms, wanted, wanted_norms = both(kind, 1e6)
    for found, value in zip(sums, wanted, strict=True):
        assert torch.allclose(found, value, rtol=1e-4, atol=1e-5 * float(value.abs().max()))
    assert bool((norms >= wanted_norms).all())
    assert bool((norms <= 1.25 * wanted_norms).all())


@pytest.mark.parametrize("kind", KINDS)
def test_clipped_sums_are_within_the_bound_and_lose_little(kind: str) -> None:
    sums, norms, wanted, wanted_norms = both(kind, 0.5)
    assert bool((wanted_norms > 0.5).all())
    found = torch.cat([value.flatten() for value in sums])
    exact = torch.cat([value.flatten() for value in wanted])
    share = wanted_norms / norms  # Each record is clipped by its bound: a little shorter, in the same direction.
    assert found.norm() <= exact.norm()
    assert torch.nn.functional.cosine_similarity(found, exact, dim=0) > 0.995
    assert float(found.norm() / exact.norm()) == pytest.approx(float(share.mean()), abs=0.05)


def worst_mean(values: Tensor, axis: int) -> Tensor:
    """A float16 unit at its worst: one number after the other, truncated, subnormal numbers flushed to zero."""
    total = torch.zeros(values.shape[:-1])
    for column in values.unbind(axis):
        total = flushed(down(total + flushed(down(column.float()))))
    return flushed(down(total / values.shape[axis])).half()


def down(values: Tensor) -> Tensor:
    rounded = values.half()
    lower = torch.where(rounded.float() > values, torch.nextafter(rounded, torch.zeros_like(rounded)), rounded)
    return lower.float()


def flushed(values: Tensor) -> Tensor:
    return torch.where(values.abs() < 2.0**-14, 0.0, values)


HARD = {
    "all equal": torch.ones(1, 40_000),
    "one large among small": torch.cat((torch.ones(1, 1), torch.full((1, 40_000), 7e-3)), 1),
    "just under what is flushed": torch.cat((torch.ones(1, 1), torch.full((1, 1_000_000), 4.8e-4)), 1),
    "a slow fall": torch.logspace(0, -4, 40_000)[None],
    "largest numbers": torch.full((1, 4_000), 900.0),
    "tiny": torch.full((1, 5_000), 1e-5),
    "gaussian": torch.randn(1, 40_000, generator=torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize("name", list(HARD))
def test_no_norm_is_reported_too_small_by_the_worst_float16(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = HARD[name].half()
    exact = float(values.double().norm())
    monkeypatch.setattr(Tensor, "mean", lambda self, axis: worst_mean(self, axis))
    bound = float(norm_bounds([values]))
    assert exact <= bound
    if name not in ("tiny", "just under what is flushed"):
        assert bound <= 1.35 * exact  # Loose bounds cost utility, never privacy.


@pytest.mark.parametrize("missing", ["FLUSHED", "LOST"])
def test_each_part_of_the_bound_is_needed(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "RESERVE", 1.0)  # It is for what comes after the norm.
    monkeypatch.setattr(learning, missing, 0.0)
    monkeypatch.setattr(Tensor, "mean", lambda self, axis: worst_mean(self, axis))
    short = [
        name for name, hard in HARD.items() if float(norm_bounds([hard.half()])) < float(hard.half().double().norm())
    ]
    assert short


def test_the_program_gives_the_same_sums(tmp_path: Path) -> None:
    shape = LearningShape(layers=(LAYER,), records=2, positions=8, rank=2)
    made = convert_learning(student("plain"), tmp_path / "step.mlpackage", shape)
    assert made.differences["fp32"] <= 1e-3
    assert made.differences["declared"] <= 5e-3
    step = LearningStep(parts_of(tiny_model(layers=2)), shape)
    given = examples_of(step)
    norms = Session(Package.open(made.package), precision="declared").run(given)["norms"]
    given["clip"] = torch.tensor([1e6])
    alone = []
    for record in range(2):  # The true norm of each record, from sums over that record only.
        weights = torch.zeros_like(given["weights"])
        weights[record] = given["weights"][record]
        *sums, _ = step(*(given | {"weights": weights}).values())
        alone.append(float(torch.cat([value.flatten() for value in sums]).norm()))
    assert bool((norms >= torch.tensor(alone)).all())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"layers": (0,)}, "uppermost of 2 layers"),
        ({"kind": "xs"}, "kind 'xs' has no learning step"),
        ({"kind": "basis"}, "directions go with kind basis"),
        ({"records": 9}, "1 to 8"),
    ],
)
def test_steps_that_cannot_be_are_refused(fields: dict[str, Any], words: str) -> None:
    shape = LearningShape(**({"layers": (1,)} | fields))
    with pytest.raises(ConversionError, match=words):
        LearningStep(parts_of(tiny_model(layers=2)), shape)


def test_every_target_of_an_adapter_is_learned() -> None:
    step = LearningStep(parts_of(tiny_model(layers=2)), LearningShape(layers=(1,), kind="lora"))
    assert {name[4:] for name in step.trained} == set(TARGETS)
