"""An adapter as a value: on a model and off again, to disk and back, and refused where it does not fit."""

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from personalize.adapter import TARGETS, AdaptedLinear, Adapter, AdapterSpec, attached, fresh, sites
from personalize.errors import AdapterError, BaseMismatchError
from tests.forked import needs_fork, run_forked
from tests.nights import DIGEST, SPEC, warm_adapter
from tests.tiny import tiny_model

MODEL = tiny_model().requires_grad_(False)
IDS = torch.arange(3, 60).view(1, -1)

# transformers renamed this property; peft still asks for the old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


def logits(adapter: Adapter | None = None) -> torch.Tensor:
    with torch.no_grad(), nullcontext() if adapter is None else attached(MODEL, adapter):
        made: torch.Tensor = MODEL(IDS).logits
        return made


def same(one: Adapter, other: Adapter) -> bool:
    """Whether two adapters are equal in every bit."""
    factors = ((one.a, other.a), (one.b, other.b))
    return (one.spec, one.fits_base, one.kind) == (other.spec, other.fits_base, other.kind) and all(
        mine.keys() == theirs.keys() and all(torch.equal(mine[site], theirs[site]) for site in mine)
        for mine, theirs in factors
    )


# On a model


def test_a_fresh_adapter_changes_no_logit() -> None:
    assert torch.equal(logits(fresh(MODEL, SPEC, fits_base=DIGEST)), logits())


def test_a_fresh_frame_is_orthonormal_and_the_same_everywhere() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(99)
        one = fresh(MODEL, SPEC, fits_base=DIGEST)
    assert same(one, fresh(tiny_model(seed=5), SPEC, fits_base=DIGEST))
    for frame in one.a.values():
        torch.testing.assert_close(frame @ frame.t(), torch.eye(3), atol=1e-5, rtol=0)
    frames = list(one.a.values())
    assert not torch.equal(frames[0], frames[1])


def test_an_adapter_is_w_plus_b_a() -> None:
    adapter, changed = warm_adapter(MODEL), tiny_model()
    for site in adapter.a:
        weight = changed.get_parameter(f"{site}.weight")
        weight.data += adapter.b[site] @ adapter.a[site]
    with torch.no_grad():
        torch.testing.assert_close(logits(adapter), changed(IDS).logits, rtol=1e-4, atol=1e-4)


def test_afterwards_the_model_is_exactly_what_it_was() -> None:
    before, modules = logits(), dict(MODEL.named_modules())
    with attached(MODEL, warm_adapter(MODEL)) as wrapped:
        assert all(isinstance(MODEL.get_submodule(name), AdaptedLinear) for name in wrapped)
        assert not torch.equal(MODEL(IDS).logits, before)
    assert torch.equal(logits(), before)
    assert dict(MODEL.named_modules()) == modules


def test_an_error_inside_takes_the_adapter_off_too() -> None:
    before, modules = logits(), dict(MODEL.named_modules())
    with pytest.raises(KeyboardInterrupt), attached(MODEL, warm_adapter(MODEL)):
        raise KeyboardInterrupt
    assert torch.equal(logits(), before)
    assert dict(MODEL.named_modules()) == modules


def test_one_adapter_over_another_replaces_it_for_the_time() -> None:
    outer, inner = warm_adapter(MODEL, seed=1), warm_adapter(MODEL, seed=2)
    with torch.no_grad(), attached(MODEL, outer):
        seen = MODEL(IDS).logits
        with attached(MODEL, inner):
            assert torch.equal(MODEL(IDS).logits, logits(inner))
        assert torch.equal(MODEL(IDS).logits, seen)


def test_a_map_with_a_bias_keeps_it() -> None:
    base = torch.nn.Linear(4, 3)
    wrapped = AdaptedLinear(base, torch.randn(2, 4), torch.zeros(3, 2))
    rows = torch.randn(1, 5, 4)
    torch.testing.assert_close(wrapped(rows), base(rows))


def test_sites_are_the_named_maps_of_the_named_layers_in_a_fixed_order() -> None:
    spec = AdapterSpec(layers=(1, 3), targets=("q_proj", "down_proj"))
    names = ["self_attn.q_proj", "mlp.down_proj"]
    assert list(sites(MODEL, spec)) == [f"model.layers.{layer}.{name}" for layer in (1, 3) for name in names]


def test_layer_1_is_not_layer_10() -> None:
    deep = tiny_model(layers=11)
    assert len(sites(deep, AdapterSpec(layers=(1,)))) == len(TARGETS)


@pytest.mark.parametrize(
    "spec", [AdapterSpec(layers=(2, 9)), AdapterSpec(layers=(2,), targets=("q_proj", "gate")), AdapterSpec(layers=(4,))]
)
def test_a_model_without_such_a_map_is_refused(spec: AdapterSpec) -> None:
    with pytest.raises(AdapterError, match=r"model has \d+ of the \d+ adapted maps; the adapter is for a deeper"):
        fresh(MODEL, spec, fits_base=DIGEST)


@pytest.mark.parametrize("layers", [(), (3, 2), (2, 2), (-1, 0)])
def test_a_spec_names_ascending_layers(layers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="layers must be ascending and not empty"):
        AdapterSpec(layers=layers)


def test_a_spec_has_a_rank() -> None:
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        AdapterSpec(layers=(1,), rank=0)


# Between two adapters


def test_the_way_from_one_adapter_to_another_is_straight() -> None:
    start, end = fresh(MODEL, SPEC, fits_base=DIGEST), warm_adapter(MODEL)
    assert same(start.toward(end, 0.0), start)
    assert same(start.toward(end, 1.0), end)
    quarter = start.toward(end, 0.25)
    for site in end.b:
        torch.testing.assert_close(quarter.b[site] @ quarter.a[site], 0.25 * end.b[site] @ end.a[site])


def test_adapters_of_another_shape_or_base_have_no_way_between_them() -> None:
    start = fresh(MODEL, SPEC, fits_base=DIGEST)
    others = (
        fresh(MODEL, AdapterSpec(layers=(3,), rank=3), fits_base=DIGEST),
        fresh(MODEL, SPEC, fits_base="sha256:" + "0" * 64),
    )
    for other in others:
        with pytest.raises(AdapterError, match="cannot interpolate adapters of different shape or base"):
            start.toward(other, 0.5)


# On disk


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    adapter = warm_adapter(MODEL)
    adapter.save(tmp_path / "one", extra={"label.json": {"cost": 1}})
    loaded = Adapter.load(tmp_path / "one", base_digest=DIGEST)
    assert same(loaded, adapter)
    assert torch.equal(logits(loaded), logits(adapter))
    assert json.loads((tmp_path / "one" / "label.json").read_text()) == {"cost": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_a_saved_adapter_holds_only_safetensors_and_json(tmp_path: Path) -> None:
    warm_adapter(MODEL).save(tmp_path / "one")
    files = {path.name for path in (tmp_path / "one").iterdir()}
    assert files == {"adapter.json", "adapter_config.json", "adapter_model.safetensors"}
    assert json.loads((tmp_path / "one" / "adapter.json").read_text())["format"] == "adapter/1"


def test_peft_loads_what_we_save_with_equal_logits(tmp_path: Path) -> None:
    adapter = warm_adapter(MODEL)
    adapter.save(tmp_path / "one")
    theirs = PeftModel.from_pretrained(tiny_model(), tmp_path / "one").eval()
    with torch.no_grad():
        assert not torch.equal(theirs(IDS).logits, logits())
        torch.testing.assert_close(theirs(IDS).logits, logits(adapter), rtol=0, atol=1e-5)
        theirs.unload()


def test_an_adapter_as_bytes_is_the_same_adapter_and_fits_the_same_base() -> None:
    adapter = warm_adapter(MODEL)
    assert same(Adapter.from_bytes(adapter.to_bytes(), base_digest=DIGEST), adapter)
    with pytest.raises(BaseMismatchError, match=r"adapter in the file was learned on base sha256:5+…"):
        Adapter.from_bytes(adapter.to_bytes(), base_digest="sha256:" + "0" * 64)


@pytest.mark.parametrize("kept", [0, 7, 8, 100, -1])
def test_bytes_that_were_cut_are_refused_in_one_line(kept: int) -> None:
    with pytest.raises(AdapterError, match="adapter in the file cannot be read"):
        Adapter.from_bytes(warm_adapter(MODEL).to_bytes()[:kept], base_digest=DIGEST)


def test_bytes_of_an_adapter_with_a_number_that_is_none_are_refused() -> None:
    adapter = warm_adapter(MODEL)
    next(iter(adapter.b.values()))[0, 0] = float("nan")
    with pytest.raises(AdapterError, match="not one finite pair"):
        Adapter.from_bytes(adapter.to_bytes(), base_digest=DIGEST)


def test_a_share_of_an_adapter_is_that_share_of_its_change_and_none_of_it_changes_nothing() -> None:
    adapter = warm_adapter(MODEL)
    assert torch.equal(logits(adapter.scaled(0.0)), logits())
    for site in adapter.a:
        half = adapter.scaled(0.5)
        torch.testing.assert_close(half.b[site] @ half.a[site], 0.5 * adapter.b[site] @ adapter.a[site])


def test_saving_over_an_adapter_is_refused_and_leaves_it(tmp_path: Path) -> None:
    first = warm_adapter(MODEL, seed=1)
    first.save(tmp_path / "one")
    with pytest.raises(AdapterError, match="adapter not saved to one"):
        warm_adapter(MODEL, seed=2).save(tmp_path / "one")
    assert same(Adapter.load(tmp_path / "one", base_digest=DIGEST), first)
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    warm_adapter(MODEL).save(tmp_path / "one")
    with pytest.raises(
        BaseMismatchError, match=r"adapter one was learned on base sha256:5+…, this base is sha256:7+…; in"
    ):
        Adapter.load(tmp_path / "one", base_digest="sha256:" + "7" * 64)


def test_an_adapter_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    warm_adapter(MODEL).save(tmp_path / "one")
    card = tmp_path / "one" / "adapter.json"
    card.write_text(card.read_text().replace("adapter/1", "adapter/2"))
    with pytest.raises(AdapterError, match="adapter one has format 'adapter/2', this version reads adapter/1; update"):
        Adapter.load(tmp_path / "one", base_digest=DIGEST)


def change_card(**changes: Any) -> Callable[[Path], None]:
    """Damage: another value in the card."""

    def damage(folder: Path) -> None:
        card = json.loads((folder / "adapter.json").read_text())
        (folder / "adapter.json").write_text(json.dumps({**card, **changes}))

    return damage


def change_tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """Damage: other tensors."""

    def damage(folder: Path) -> None:
        tensors = {name: value.clone() for name, value in load_file(folder / "adapter_model.safetensors").items()}
        change(tensors)
        save_file(tensors, folder / "adapter_model.safetensors")

    return damage


def halve(name: str) -> Callable[[Path], None]:
    """Damage: the second half of a file is lost."""

    def damage(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])

    return damage


A_SITE = "base_model.model.model.layers.3.mlp.down_proj.lora_B.weight"
DAMAGES: dict[str, Callable[[Path], object]] = {
    "no folder": shutil.rmtree,
    "no card": lambda folder: (folder / "adapter.json").unlink(),
    "no weights": lambda folder: (folder / "adapter_model.safetensors").unlink(),
    "half a card": halve("adapter.json"),
    "half of the weights": halve("adapter_model.safetensors"),
    "empty weights": lambda folder: (folder / "adapter_model.safetensors").write_bytes(b""),
    "a card that is no text": lambda folder: (folder / "adapter.json").write_bytes(b"\xff\xfe\x00"),
    "a card that is a list": lambda folder: (folder / "adapter.json").write_text("[]"),
    "a card that is null": lambda folder: (folder / "adapter.json").write_text("null"),
    "a card without a kind": lambda folder: (folder / "adapter.json").write_text(
        json.dumps({"format": "adapter/1", "fits_base": DIGEST, "layers": [2, 3], "rank": 3, "targets": list(TARGETS)})
    ),
    "a base that is a number": change_card(fits_base=5),
    "a rank that is a word": change_card(rank="three"),
    "another rank": change_card(rank=4),
    "layers that descend": change_card(layers=[3, 2]),
    "other layers": change_card(layers=[1, 2]),
    "more layers": change_card(layers=[1, 2, 3]),
    "other targets": change_card(targets=["q_proj"]),
    "one factor missing": change_tensors(lambda tensors: tensors.pop(A_SITE)),
    "one tensor more": change_tensors(lambda tensors: tensors.update({"else": torch.zeros(1)})),
    "a factor of another width": change_tensors(lambda tensors: tensors.update({A_SITE: torch.zeros(32, 2)})),
    "a factor of another shape": change_tensors(lambda tensors: tensors.update({A_SITE: torch.zeros(3)})),
    "a number that is not finite": change_tensors(lambda tensors: tensors[A_SITE].fill_(torch.nan)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_adapter_is_refused_in_one_line(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    folder = tmp_path / "one"
    warm_adapter(MODEL).save(folder)
    damage(folder)
    with pytest.raises(AdapterError) as refused:
        Adapter.load(folder, base_digest=DIGEST)
    assert "adapter one" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert any(advice in str(refused.value) for advice in ("learn again", "roll back"))


@needs_fork
def test_no_room_for_the_adapter_leaves_nothing(tmp_path: Path) -> None:
    """A real limit of the system on the size of a file, from no byte at all to one too few."""
    import resource  # Only where there is fork, too.

    adapter = warm_adapter(MODEL)
    adapter.save(tmp_path / "whole")
    size = (tmp_path / "whole" / "adapter_model.safetensors").stat().st_size
    limits = [0, 100, 1_000, size // 2, size - 1]

    def save_under_limits() -> None:
        for limit in limits:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            with pytest.raises(AdapterError, match=f"adapter not saved to cut-{limit}: .*; free some space and learn"):
                adapter.save(tmp_path / f"cut-{limit}")

    assert run_forked(save_under_limits) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]
