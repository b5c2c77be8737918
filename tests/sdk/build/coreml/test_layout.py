"""The layout computes what transformers computes, for every family, cache form and length of call."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sdk.build.coreml import layout
from sdk.build.coreml.contract import DECODE, PREFILL, Contract, contract_of
from sdk.build.coreml.families import parts_of
from sdk.build.coreml.feed import arrays_of, no_adapter
from sdk.build.coreml.layout import AdapterSlots, Cache, NeuralEngineDecoder, Shape
from sdk.errors import ConversionError
from tests.sdk.build.coreml.compiled import family
from tests.tiny import tiny_model

PROMPT, WRITTEN, PIECE, CONTEXT = 21, 4, 8, 64


def logits_of(model: Any, cache: Cache, *, slots: AdapterSlots | None = None) -> tuple[Tensor, Tensor]:
    """Logits of the layout and of transformers after each call of a prompt in pieces and some single tokens."""
    parts = parts_of(model)
    decoders = {
        name: NeuralEngineDecoder(parts, Shape(context=CONTEXT, positions=count, cache=cache, slots=slots))
        for name, count in ((PREFILL, PIECE), (DECODE, 1))
    }
    contract = Contract.parse(contract_of(parts, decoders, base_digest="none").to_json())
    if cache is Cache.STATE:
        decoders[DECODE].keys, decoders[DECODE].values = decoders[PREFILL].keys, decoders[PREFILL].values
    ids = torch.randint(3, 320, (PROMPT + WRITTEN,), generator=torch.Generator().manual_seed(2))
    held = {name: torch.zeros(decoders[DECODE].cache_size) for name in ("keys", "values")}
    calls = [(PREFILL, min(PIECE, PROMPT - start)) for start in range(0, PROMPT, PIECE)] + [(DECODE, 1)] * WRITTEN
    found, ends, position = [], [], 0
    with torch.no_grad():
        wanted = model(ids[None]).logits[0]
        for function, count in calls:
            arrays = arrays_of(contract, function, parts.embedding[ids[position : position + count]], start=position)
            arrays |= no_adapter(contract, function) | (held if cache is Cache.ARRAYS else {})
            decoder = decoders[function]
            outputs = dict(zip(decoder.outputs, decoder(*(arrays[name] for name in decoder.inputs)), strict=True))
            if cache is Cache.ARRAYS:
                for name, whole in held.items():
                    whole[..., position : position + count] = outputs[f"new_{name}"][..., :count]
            position += count
            found.append(torch.cat([values.flatten() for name, values in outputs.items() if "logits" in name]))
            ends.append(position - 1)
    return torch.stack(found), wanted[ends]


@pytest.mark.parametrize("cache", [Cache.STATE, Cache.ARRAYS])
def test_a_llama_laid_out_gives_the_same_logits(cache: Cache) -> None:
    found, wanted = logits_of(tiny_model(), cache, slots=AdapterSlots(layers=(2, 3), rank=4))
    assert (found - wanted).abs().max() <= 1e-4  # Float32 against float32; the contract of the real base is 1e-3.


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "phi3", "gemma3"])
@pytest.mark.parametrize("cache", [Cache.STATE, Cache.ARRAYS])
def test_other_families_laid_out_give_the_same_logits(name: str, cache: Cache) -> None:
    found, wanted = logits_of(family(name), cache)
    assert (found - wanted).abs().max() <= 1e-4


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_a_decoder_cut_off_gives_the_states_between_the_layers(name: str) -> None:
    model = tiny_model() if name == "llama" else family(name)
    parts, cut = parts_of(model), len(model.model.layers) - 1
    whole = NeuralEngineDecoder(parts, Shape(context=CONTEXT, positions=1))
    lower = NeuralEngineDecoder(parts, Shape(context=0, positions=PROMPT, cache=Cache.NONE, lower=cut))
    contract = contract_of(parts, {DECODE: whole, "below": lower}, base_digest="none")
    contract = replace(contract, slots=AdapterSlots(layers=(cut,), rank=1))
    ids = torch.randint(3, 320, (PROMPT,), generator=torch.Generator().manual_seed(2))
    arrays = arrays_of(contract, "below", parts.embedding[ids], start=0)
    with torch.no_grad():
        (found,) = lower(*(arrays[name] for name in lower.inputs))
        wanted = model.model(ids[None], output_hidden_states=True).hidden_states[cut]
    assert torch.allclose(found[0, :, 0].t(), wanted[0], rtol=1e-4, atol=1e-4)


@pytest.mark.real
def test_the_real_base_laid_out_gives_the_same_logits(base_bundle: Any) -> None:
    from sdk.device.runtime import Runtime

    found, wanted = logits_of(Runtime.open(base_bundle).model, Cache.STATE)
    assert (found - wanted).abs().max() <= 1e-3
    assert torch.equal(found.argmax(-1), wanted.argmax(-1))


def test_a_head_over_the_largest_dimension_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MAX_DIMENSION", 128)
    found, wanted = logits_of(tiny_model(), Cache.STATE)
    assert found.shape == wanted.shape == (7, 320)
    assert (found - wanted).abs().max() <= 1e-4


def test_the_norm_is_exact_and_holds_in_float16() -> None:
    """Hidden states of the real base reach 22,552 (research); squares of that are beyond float16."""
    states = torch.randn(1, 576, 1, 3, generator=torch.Generator().manual_seed(0))
    states[0, 7] = 22_552.0
    norm = layout._Norm(torch.ones(576), 1e-5)
    wanted = states * torch.rsqrt((states * states).mean(1, keepdim=True) + 1e-5)
    assert torch.allclose(norm(states), wanted, rtol=1e-5)
    half = norm.half()(states.half()).float()
    assert torch.allclose(half, wanted, rtol=5e-3, atol=1e-5)
    naive = states.half() * torch.rsqrt((states.half() * states.half()).mean(1, keepdim=True) + 1e-5)
    assert bool((naive == 0).all())  # What the norm is there to prevent.


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0])
def test_the_norm_keeps_the_exact_epsilon(scale: float) -> None:
    states = scale * torch.randn(1, 64, 1, 2, generator=torch.Generator().manual_seed(1))
    wanted = states * torch.rsqrt((states * states).mean(1, keepdim=True) + 1e-5)
    assert torch.allclose(layout._Norm(torch.ones(64), 1e-5)(states), wanted, rtol=1e-4, atol=1e-12)


def test_a_mixture_of_experts_is_refused_by_name() -> None:
    with pytest.raises(ConversionError, match=r"mixture of experts .*distil it into a dense student"):
        parts_of(family("mixtral"))
