"""An adapter on a new base: most of what it did survives, nothing private is read, and what is told is true."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

from personalize import migrate as module
from personalize.adapter import Adapter, AdapterSpec, attached
from personalize.errors import AdapterError, TrainingError
from personalize.forward import encode
from personalize.migrate import Migrated, MigrationPlan, Side, migrate, same_function, same_tokenizer
from tests.nights import DIGEST, SPEC, taught_model, warm_adapter
from tests.tiny import SENTENCES, tiny_model, tiny_tokenizer

NEW_DIGEST = "sha256:" + "6" * 64
PLAN = MigrationPlan(texts=160, steps=100, rate=1e-2)
SHORT = replace(PLAN, texts=40, steps=3)
TOKENIZER = tiny_tokenizer()


@cache
def texts() -> list[dict[str, str]]:
    """Public texts of the words that the tiny base was taught."""
    rng, words = Random(4), " ".join(SENTENCES).split()
    return [{"prompt": " ".join(rng.sample(words, 2)), "answer": " ".join(rng.sample(words, 6))} for _ in range(160)]


@cache
def near() -> Any:
    """The taught model after an update: every weight moved by 2 % of its spread."""
    model, generator = copy.deepcopy(taught_model()), torch.Generator().manual_seed(9)
    with torch.no_grad():
        for value in model.parameters():
            value += 0.003 * torch.randn(value.shape, generator=generator)
    return model


@cache
def renumbered() -> Any:
    """The taught model with the neurons of its upper layers in another order.

    The same function, so all of a shift could survive, but the old factors sit on the wrong neurons.
    """
    model, generator = copy.deepcopy(taught_model()), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for layer in SPEC.layers:
            maps = model.model.layers[layer].mlp
            order = torch.randperm(maps.gate_proj.out_features, generator=generator)
            for value in (maps.gate_proj.weight, maps.up_proj.weight):
                value.copy_(value[order].clone())
            maps.down_proj.weight.copy_(maps.down_proj.weight[:, order].clone())
    return model


@cache
def deeper() -> Any:
    """The taught model with one more layer at its bottom, which does nothing."""
    model = tiny_model(layers=5).requires_grad_(False)
    for name, value in taught_model().state_dict().items():
        place = name.split(".")
        if place[1] == "layers":
            place[2] = str(int(place[2]) + 1)
        model.get_parameter(".".join(place)).data.copy_(value)
    for value in (model.model.layers[0].self_attn.o_proj.weight, model.model.layers[0].mlp.down_proj.weight):
        value.data.zero_()
    return model


def side(model: Any, digest: str = NEW_DIGEST, spec: AdapterSpec = SPEC) -> Side:
    return Side(model=model, tokenizer=TOKENIZER, digest=digest, spec=spec)


def old() -> Side:
    return side(taught_model(), DIGEST)


def adapter(kind: str = "xs") -> Adapter:
    return replace(warm_adapter(taught_model(), size=0.15), kind=kind)


def shift(model: Any, made: Adapter) -> Tensor:
    """What an adapter adds to the log-probabilities of fresh text's own tokens, by plain forward passes, (tokens,)."""
    found = []
    for text in ("a person reads the note and the cat sat", "add a test for the states and the dog"):
        record = encode(TOKENIZER, "say", text)
        ids, first = torch.tensor([record.ids]), record.completion
        with torch.no_grad():
            before = torch.log_softmax(model(ids).logits, -1)
            with attached(model, made):
                after = torch.log_softmax(model(ids).logits, -1)
        found.append((after - before)[0, first - 1 : -1].gather(1, ids[0, first:, None])[:, 0])
    return torch.cat(found)


def explained(model: Any, made: Adapter) -> float:
    """The definition of what survives, on texts that no migration has seen."""
    wanted = shift(taught_model(), adapter())
    return float(1 - (shift(model, made) - wanted).square().sum() / wanted.square().sum())


@cache
def migrated(to: Callable[[], Any]) -> Migrated:
    return migrate(old(), side(to()), adapter(), texts(), plan=PLAN)


def test_an_adapter_on_a_base_that_changed_a_little_keeps_nearly_all_that_it_did() -> None:
    made = migrated(near)
    assert (made.decision, made.adapter.fits_base, made.adapter.kind) == ("distil", NEW_DIGEST, "xs")
    assert made.adapter.spec == SPEC
    assert made.kept >= made.kept_untrained
    assert made.kept > 0.9
    assert explained(near(), made.adapter) > 0.9
    assert made.shift_nats == pytest.approx(float(shift(taught_model(), adapter()).square().mean().sqrt()), rel=0.5)
    assert made.positions > 200
    assert min(made.texts) > 40


def test_distilling_brings_back_what_the_old_factors_lose() -> None:
    made = migrated(renumbered)
    assert made.kept_untrained < 0.2
    assert made.kept > 0.75
    assert explained(renumbered(), made.adapter) > 0.7
    assert made.kept == pytest.approx(explained(renumbered(), made.adapter), abs=0.15), "what is told is true"


def test_on_a_base_that_computes_the_same_the_adapter_is_kept_bit_for_bit() -> None:
    made = migrate(old(), side(copy.deepcopy(taught_model())), adapter(), texts(), plan=SHORT)
    assert (made.decision, made.adapter.fits_base) == ("keep", NEW_DIGEST)
    assert made.kept == pytest.approx(1.0, abs=1e-6)
    assert all(torch.equal(made.adapter.b[site], value) for site, value in adapter().b.items())


def test_equal_adapted_layers_over_changed_lower_ones_are_not_the_same_function() -> None:
    changed = copy.deepcopy(taught_model())
    with torch.no_grad():
        changed.model.layers[0].mlp.down_proj.weight += 0.05
    assert not same_function(taught_model(), changed)
    assert migrate(old(), side(changed), adapter(), texts(), plan=SHORT).decision == "distil"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rms_norm_eps", 0.1),
        ("num_attention_heads", 2),
        ("rope_parameters", {"rope_type": "default", "rope_theta": 9.0}),
    ],
)
def test_equal_weights_that_are_read_otherwise_are_not_the_same_function(name: str, value: Any) -> None:
    other = copy.deepcopy(taught_model())
    setattr(other.config, name, value)
    assert same_function(taught_model(), copy.deepcopy(taught_model()))
    assert not same_function(taught_model(), other)


def test_a_base_of_another_depth_learns_the_shift_from_nothing() -> None:
    made = migrate(old(), side(deeper(), spec=AdapterSpec(layers=(3, 4), rank=8)), adapter(), texts(), plan=PLAN)
    assert (made.decision, made.kept_untrained) == ("distil", 0.0)
    assert (made.adapter.spec.layers, made.adapter.spec.rank) == ((3, 4), SPEC.rank)
    assert made.kept > 0.75
    assert explained(deeper(), made.adapter) > 0.7


@pytest.mark.parametrize("kind", ["lora", "frozen-a", "basis"])
def test_an_adapter_of_any_kind_stays_of_its_kind(kind: str) -> None:
    made = migrate(old(), side(renumbered()), adapter(kind), texts(), plan=replace(SHORT, steps=10))
    assert made.kept > made.kept_untrained
    assert made.adapter.kind == kind
    frames = [torch.equal(made.adapter.a[site], value) for site, value in adapter().a.items()]
    assert any(frames) == (kind != "lora"), "the public frame stays, so that the next night adds up with it"


def test_an_adapter_that_does_nothing_has_nothing_to_lose() -> None:
    idle = adapter().scaled(0.0)
    made = migrate(old(), side(near()), idle, texts(), plan=SHORT)
    assert (made.kept, made.shift_nats) == (1.0, 0.0)


def test_both_bases_are_exactly_what_they_were() -> None:
    before = [copy.deepcopy(model.state_dict()) for model in (taught_model(), near())]
    modules = [dict(model.named_modules()) for model in (taught_model(), near())]
    migrate(old(), side(near()), adapter(), texts(), plan=SHORT)
    for model, state in zip((taught_model(), near()), before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [dict(model.named_modules()) for model in (taught_model(), near())] == modules


def test_two_migrations_with_one_seed_are_the_same() -> None:
    one, again = (migrate(old(), side(near()), adapter(), texts(), plan=SHORT) for _ in range(2))
    assert all(torch.equal(again.adapter.b[site], value) for site, value in one.adapter.b.items())


def test_progress_tells_every_phase_in_order() -> None:
    told: list[tuple[str, int, int]] = []
    migrate(old(), side(near()), adapter(), texts(), plan=SHORT, progress=lambda *seen: told.append(seen))
    assert list(dict.fromkeys(phase for phase, _, _ in told)) == ["writing", "reading", "distilling"]
    assert told[-1] == ("distilling", 3, 3)


def test_another_tokenizer_is_refused_before_anything_is_computed() -> None:
    other = tiny_tokenizer()
    other.add_tokens(["<|new|>"])
    assert same_tokenizer(TOKENIZER, tiny_tokenizer())
    with pytest.raises(
        AdapterError, match="the bases cut text into other tokens, so nothing carries over; learn again"
    ):
        migrate(old(), replace(side(near()), tokenizer=other), adapter(), texts(), plan=PLAN)


def test_too_few_public_texts_are_refused() -> None:
    with pytest.raises(AdapterError, match="4 public texts are too few to carry an adapter over, 20 are needed"):
        migrate(old(), side(near()), adapter(), texts()[:4], plan=PLAN)


def test_numbers_that_blow_up_stop_it() -> None:
    with pytest.raises(TrainingError, match=r"of the migration left numbers that are not finite; nothing changed"):
        migrate(old(), side(near()), adapter(), texts(), plan=replace(SHORT, rate=1e30))


@pytest.mark.parametrize("changes", [{"texts": 19}, {"steps": 0}, {"rate": 0.0}, {"top": 0}])
def test_a_plan_out_of_range_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="out of range"):
        replace(PLAN, **changes)


# The checks above can fail


def no_shift(model: Any, row: Any, seen: Any, cut: int) -> Tensor:
    """A target that is the new base alone: the person's part is forgotten."""
    return module._bucketed(module._log_probs(model, [row], cut), seen.tokens).detach()


def no_step(*seen: object) -> None:
    """An optimizer that does nothing."""


@pytest.mark.parametrize(
    ("name", "broken"), [("_target", no_shift), ("Adam", lambda parameters, rate: no_step)], ids=["target", "optimizer"]
)
def test_a_distillation_that_teaches_something_else_is_caught(
    name: str, broken: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, broken)
    migrated.cache_clear()
    try:
        with pytest.raises(AssertionError):
            test_distilling_brings_back_what_the_old_factors_lose()
    finally:
        migrated.cache_clear()


def test_a_figure_that_always_says_all_is_kept_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_explained", lambda new, made, held: 1.0)
    migrated.cache_clear()
    try:
        with pytest.raises(AssertionError):
            test_distilling_brings_back_what_the_old_factors_lose()
    finally:
        migrated.cache_clear()


def test_a_wild_model_shows_that_little_survives() -> None:
    made = migrate(
        old(), side(tiny_model(seed=3).requires_grad_(False)), adapter(), texts(), plan=replace(PLAN, steps=1)
    )
    assert made.kept < 0.5
