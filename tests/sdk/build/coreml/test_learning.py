"""The learning step gives privacy.dp_sgd's clipped sums for every kind, as a program too, and a phone can use it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from personalize.adapter import Adapter, AdapterSpec, attached, fresh
from personalize.forward import Batch, completion_losses
from personalize.pack import DomainPack
from personalize.trainable import KINDS, Basis, Trainable, trainable
from privacy.dp_sgd import ClippedSum
from sdk.build.coreml import learning_package
from sdk.build.coreml.contract import Contract
from sdk.build.coreml.conversation import Conversation
from sdk.build.coreml.convert import convert
from sdk.build.coreml.execute import PRECISIONS, Session
from sdk.build.coreml.families import parts_of
from sdk.build.coreml.feed import arrays_of
from sdk.build.coreml.layout import TARGETS, Cache
from sdk.build.coreml.learning_package import BELOW, LEARN, WORN, Learning, examples_of
from sdk.build.coreml.library import quiet
from sdk.build.coreml.placed import saved
from sdk.build.coreml.program import Name, Package
from sdk.build.coreml.student import Student
from sdk.build.coreml.worn import LearningShape
from sdk.errors import ConversionError
from tests.sdk.build.coreml.compiled import PLAN, compiled, pack_of, student
from tests.tiny import tiny_model

LAYER, RECORDS, POSITIONS, RANK, SCALE = 1, 3, 12, 3, 8.0
SITES = {
    target: f"model.layers.{LAYER}.{'mlp' if target in ('gate_proj', 'up_proj', 'down_proj') else 'self_attn'}.{target}"
    for target in TARGETS
}


def model_of() -> Any:
    """A tiny student whose weights are float16 numbers."""
    model = tiny_model(layers=2)
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    return model


def basis_of(model: Any) -> Basis:
    generator = torch.Generator().manual_seed(4)
    directions = {
        SITES[target]: torch.randn(5, model.get_submodule(SITES[target]).out_features, RANK, generator=generator)
        for target in ("q_proj", "up_proj")
    }
    return Basis(directions=directions, variance=torch.ones(5))


def learning_of(kind: str, model: Any, *, records: int = RECORDS, positions: int = POSITIONS) -> Learning:
    shape = LearningShape(layers=(LAYER,), records=records, positions=positions, rank=RANK, kind=kind)
    directions = {f"{LAYER}.{site.rsplit('.', 1)[-1]}": value for site, value in basis_of(model).directions.items()}
    return Learning.of(parts_of(model), shape, directions if kind == "basis" else None)


def adapter_of(model: Any, given: dict[str, Tensor]) -> Adapter:
    """The adapter that a step's inputs hold."""
    made = fresh(model, AdapterSpec(layers=(LAYER,), rank=RANK), fits_base="none")
    a = {site: given[f"{target}_a"][0, 0].clone() for target, site in SITES.items()}
    b = {site: given[f"{target}_b"][0, 0].clone() for target, site in SITES.items()}
    return replace(made, a=a, b=b)


def trained_of(kind: str, model: Any, given: dict[str, Tensor]) -> tuple[Trainable, dict[str, Tensor]]:
    """What personalize trains, at a step's inputs, and its parameters by the step's names."""
    trained = trainable(kind, adapter_of(model, given), model=model, basis=basis_of(model) if kind == "basis" else None)
    suffixes = {"lora": ["a", "b"], "frozen-a": ["b"], "xs": ["core"]}.get(kind, [])
    order = [target for site in trained.start.a for target in TARGETS if SITES[target] == site]
    names = ["theta"] if kind == "basis" else [f"{target}_{suffix}" for suffix in suffixes for target in order]
    named = dict(zip(names, trained.parameters, strict=True))
    for name, parameter in named.items():
        parameter.data.copy_(given[name].reshape(parameter.shape))
    return trained, named


def engine(kind: str, model: Any, given: dict[str, Tensor], tokens: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Clipped sums by name, and norms, of the privacy engine on a step's inputs."""
    trained, named = trained_of(kind, model, given)
    with trained.attached(model):
        clipped = ClippedSum(trained.parameters, float(given["clip"]))
        batch = Batch(hidden=given["states"].transpose(1, 2), targets=tokens, weights=given["weights"])
        norms = clipped.add(completion_losses(model, batch, cut=LAYER))
    return dict(zip(named, clipped.sums, strict=True)), norms


def tokens_of(model: Any, given: dict[str, Tensor]) -> Tensor:
    """The tokens whose rows of the head a step was given."""
    head = model.lm_head.weight.detach()
    return torch.cdist(given["targets"].flatten(0, 1), head).argmin(-1).reshape(given["weights"].shape)


def compare(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    """Euclidean over all sums of one step."""
    mine = torch.cat([found[f"sum_{name}"].flatten() / SCALE for name in wanted])
    theirs = torch.cat([value.flatten() for value in wanted.values()])
    assert float((mine - theirs).norm()) <= tolerance * float(theirs.norm())


@pytest.mark.parametrize("clip", [0.5, 1e6])
@pytest.mark.parametrize("kind", KINDS)
def test_clipped_sums_are_those_of_the_privacy_engine(kind: str, clip: float) -> None:
    model = model_of()
    step = learning_of(kind, model).step
    given = examples_of(step, model) | {"clip": torch.tensor([clip])}
    frozen = [value.float() for value in step.frozen.values()]
    found = dict(zip(step.outputs, step(*given.values(), *frozen), strict=True))
    wanted, norms = engine(kind, model, given, tokens_of(model, given))
    assert bool((norms > 0.5).all())  # So the smaller clip binds every record.
    compare(found, wanted, 3e-4)  # The tight bound takes 1.2e-4 off a record that is clipped.
    assert bool((found["norms"] / SCALE >= norms).all())
    assert bool((found["norms"] / SCALE <= norms * (1 + 3e-4)).all())


@pytest.mark.parametrize("kind", ["lora", "xs"])  # The others: the package below, and tests.bench.learning_step.
def test_the_program_gives_the_engines_sums_in_its_declared_types(kind: str, tmp_path: Path) -> None:
    model = model_of()
    learning = learning_of(kind, model, records=2, positions=8)
    with quiet():
        saved(learning.program(LEARN, {}), tmp_path / "x.mlpackage")
    package = Package.open(tmp_path / "x.mlpackage")
    given = examples_of(learning.step, model)
    wanted, norms = engine(kind, model, given, tokens_of(model, given))
    assert bool((norms > given["clip"]).any())
    for precision in PRECISIONS:
        compare(Session(package, precision=precision).run(given), wanted, 1e-3)
    if kind == "lora":
        wrong_unit(package, learning, given)


def wrong_unit(package: Package, learning: Learning, given: dict[str, Tensor]) -> None:
    """A unit that computes all in float16, whatever the types say: a record still moves the sum by its clip at most."""

    class Halved(Session):
        def _rounded(self, value: Tensor, dtype: str) -> Tensor:
            return value.half().float() if value.is_floating_point() else value

    outputs = Halved(package, precision="declared").run(given)
    total = torch.cat([outputs[name].flatten() for name in outputs if name.startswith("sum_")])
    exact = torch.stack([one_record(learning, given, record) for record in range(learning.shape.records)])
    assert bool((outputs["norms"] >= exact).all())
    assert bool((outputs["norms"] > 1.02 * exact).all())  # It found out, and took the wide bound.
    assert float(total.norm()) <= learning.shape.records * float(given["clip"]) * SCALE


def one_record(learning: Learning, given: dict[str, Tensor], record: int) -> Tensor:
    """The true norm of one record's gradient, times scale."""
    weights = torch.zeros_like(given["weights"])
    weights[record] = given["weights"][record]
    frozen = [value.float() for value in learning.step.frozen.values()]
    *sums, _ = learning.step(*(given | {"weights": weights, "clip": torch.tensor([1e6])}).values(), *frozen)
    norm: Tensor = torch.cat([value.flatten() for value in sums]).norm()
    return norm


def test_a_phone_learns_with_the_package_alone_what_personalize_learns() -> None:
    """Order of calls of contract.json: below, learn, (noise left out), worn, decode."""
    opened, made = Student.open(student("packed")), compiled("packed", Cache.STATE)
    pack = DomainPack.load(pack_of(student("packed")), base_digest=opened.base_digest)
    conversation = Conversation.open(made.package)
    tokens = torch.randint(3, 320, (2, 10), generator=torch.Generator().manual_seed(1))
    states = states_of(conversation, tokens)
    with torch.no_grad():
        wanted_states = opened.model.model(tokens, output_hidden_states=True).hidden_states[LAYER]
    assert float((states.transpose(1, 2) - wanted_states).abs().max()) <= 2e-3 * float(wanted_states.abs().max())
    starts = {f"{target}_{part}": stacked(pack.start, target, part) for target in TARGETS for part in "ab"}
    weights = torch.ones(2, 10)
    weights[:, :3] = weights[:, -1] = 0
    given = starts | {
        "states": states,
        "targets": conversation.embedding[tokens.roll(-1, 1)],
        "weights": weights,
        "clip": torch.tensor([0.5]),
        "scale": torch.tensor([SCALE]),
        "theta": torch.zeros(6),
    }
    outputs = conversation.session.run(given, function=LEARN)
    trained = trainable("basis", pack.start, model=opened.model, basis=pack.basis)
    with trained.attached(opened.model):
        clipped = ClippedSum(trained.parameters, 0.5)
        batch = Batch(hidden=wanted_states, targets=tokens.roll(-1, 1), weights=weights)
        clipped.add(completion_losses(opened.model, batch, cut=LAYER))
    compare(outputs, {"theta": clipped.sums[0]}, 1e-3)
    theta = given["theta"] - 0.3 * outputs["sum_theta"] / SCALE
    begun = {name: value for name, value in starts.items() if name.endswith("_b")}
    worn = conversation.session.run(begun | {"theta": theta}, function=WORN)
    trained.parameters[0].data.copy_(theta)
    adapter = trained.adapter()
    for target in TARGETS:
        assert torch.allclose(worn[f"worn_{target}_b"], stacked(adapter, target, "b"), rtol=1e-3, atol=1e-4)
    conversation.adapter = starts | {name.removeprefix("worn_"): value.half().float() for name, value in worn.items()}
    prompt = tokens[0].tolist()
    with torch.no_grad(), attached(opened.model, adapter):
        logits = opened.model(torch.tensor([prompt])).logits[0, -1]
    assert float((conversation.read(prompt) - logits).abs().max()) <= 5e-3 * float(logits.abs().max())


def states_of(conversation: Conversation, tokens: Tensor) -> Tensor:
    """States of each record by the package's own function, (records, width, positions)."""
    made = []
    for record in tokens:
        arrays = arrays_of(conversation.contract, BELOW, conversation.embedding[record], start=0)
        made.append(conversation.session.run(arrays, function=BELOW)["states"][0, :, 0])
    return torch.stack(made)


def stacked(adapter: Adapter, target: str, part: str) -> Tensor:
    return {"a": adapter.a, "b": adapter.b}[part][SITES[target]][None, None]


def test_the_contract_declares_every_array_of_the_learning_functions() -> None:
    package = Package.open(compiled("packed", Cache.STATE).package)
    contract = Contract.parse(package.extra("contract.json").read_text(encoding="utf-8"))
    assert Contract.parse(contract.to_json()) == contract
    learning = contract.extra["learning"]
    assert (learning["kind"], learning["trained"]) == ("basis", ["theta"])
    for name, arrays in learning["functions"].items():
        function = package.function(name)
        declared = {key: (tuple(fact["size"]), fact["dtype"]) for key, fact in arrays["inputs"].items()}
        assert declared == {given.name: (given.size, given.dtype) for given in function.inputs}
        made = {output.name: output for operation in function.operations for output in operation.outputs}
        assert arrays["outputs"].keys() == set(function.outputs)
        for key, fact in arrays["outputs"].items():
            assert (tuple(fact["size"]), fact["dtype"]) == (made[key].size, made[key].dtype)


def codes_of(package: Package, name: str) -> dict[str, tuple[str, int]]:
    """Compressed constant of a function to the type and the place of its codes."""
    function = package.function(name)
    plain = {op.outputs[0].name: op.attributes["val"] for op in function.operations if op.kind == "const"}
    found = {}
    for operation in function.operations:
        if operation.kind == "constexpr_blockwise_shift_scale":
            given = operation.attributes.get("data") or operation.inputs["data"][0]
            codes: Any = plain[given.name] if isinstance(given, Name) else given
            found[operation.outputs[0].name] = (codes.dtype, codes.offset)
    return found


def test_learning_shares_decodes_weights_and_keeps_directions_in_four_bits() -> None:
    package = Package.open(compiled("packed", Cache.STATE).package)
    decode, learn = codes_of(package, "decode"), codes_of(package, LEARN)
    directions = {name: codes for name, codes in learn.items() if name.startswith("directions")}
    assert set(learn.values()) - set(directions.values()) <= set(decode.values())  # The same bytes, stored once.
    assert len(directions) == len(TARGETS)
    assert {dtype for dtype, _ in directions.values()} == {"uint4"}
    assert directions == codes_of(package, WORN)


def test_a_step_that_differs_from_torch_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Student.open(student("packed"))
    learning = Learning.of(
        parts_of(opened.model),
        LearningShape(layers=(1,), records=2, positions=10, rank=4, kind="basis"),
        learning_package.directions_of(pack_of(student("packed")), opened.base_digest),
    )
    monkeypatch.setitem(learning_package.TOLERANCE, "declared", 1e-9)
    with pytest.raises(ConversionError, match="differ from torch's by"):
        learning.differences(compiled("packed", Cache.STATE).package, opened.model)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"layers": (0,)}, "uppermost of 2 layers"),
        ({"layers": ()}, "uppermost of 2 layers"),
        ({"kind": "dora"}, "kind 'dora' has no learning step"),
        ({"kind": "basis"}, "directions go with kind basis"),
        ({"records": 9}, "1 to 8"),
        ({"positions": 1}, "at least 2 positions"),
    ],
)
def test_steps_that_cannot_be_are_refused(fields: dict[str, Any], words: str) -> None:
    shape = LearningShape(**({"layers": (1,), "kind": "lora"} | fields))
    with pytest.raises(ConversionError, match=words):
        Learning.of(parts_of(tiny_model(layers=2)), shape)


def test_directions_of_other_sizes_and_a_pack_without_a_step_are_refused(tmp_path: Path) -> None:
    shape = LearningShape(layers=(1,), kind="basis", rank=3)
    with pytest.raises(ConversionError, match=r"directions at 1\.q_proj have size \(5, 32, 4\)"):
        Learning.of(parts_of(tiny_model(layers=2)), shape, {"1.q_proj": torch.zeros(5, 32, 4)})
    with pytest.raises(ConversionError, match="add --learns basis"):
        convert(student("plain"), tmp_path / "x.mlpackage", PLAN, basis=tmp_path)
    assert list(tmp_path.iterdir()) == []
