"""A teacher in, a smaller student out that nobody has trained yet: fewer layers, by what each layer does.

A layer that hardly turns its input can be left out; which ones those are is measured, because the obvious choices
(every other one, the middle, keep the ends) cost this family of models everything (docs/log.md).
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from sdk.checkpoint import model_of
from sdk.errors import BuildError

__all__ = ["block_influence", "chosen_layers", "shallower"]


@torch.no_grad()
def block_influence(model: LlamaForCausalLM, batches: Iterable[Tensor]) -> Tensor:
    """How much each layer turns the hidden state: mean over tokens of 1 − cos(input, output), shape (layers,).

    Args:
        model: A Llama.
        batches: Token ids, each of shape (batch, seq), without padding.

    Source: ShortGPT, arXiv:2403.03853, equation 1.
    """
    turned, tokens = torch.zeros(len(model.model.layers), dtype=torch.float64), 0
    for ids in batches:
        for layer, (before, after) in enumerate(pairwise(_states(model, ids))):
            turned[layer] += (1 - torch.cosine_similarity(before, after, dim=-1)).double().sum()
        tokens += ids.numel()
    if not tokens:
        raise BuildError("block influence needs at least one batch of text")
    return turned / tokens


def _states(model: LlamaForCausalLM, ids: Tensor) -> list[Tensor]:
    """Input of each layer and of the final norm, each of shape (batch, seq, width)."""
    states: list[Tensor] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        states.append(inputs[0])

    hooks = [module.register_forward_pre_hook(note) for module in (*model.model.layers, model.model.norm)]
    try:
        model.model(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return states


def chosen_layers(influence: Tensor, *, count: int) -> tuple[int, ...]:
    """The `count` layers of largest influence, in their order.

    Raises:
        BuildError: More layers than there are, or none.
    """
    if not 1 <= count <= len(influence):
        raise BuildError(f"the teacher has {len(influence)} layers, {count} cannot be kept")
    return tuple(sorted(influence.argsort(descending=True)[:count].tolist()))


def shallower(model: LlamaForCausalLM, layers: Sequence[int]) -> LlamaForCausalLM:
    """A Llama of some layers of another one, numbered anew; its weights are copies, so the teacher stays as it is.

    Raises:
        BuildError: Layers that are not there, out of order or named twice.
    """
    there = len(model.model.layers)
    if list(layers) != sorted(set(layers)) or not layers or not 0 <= layers[0] <= layers[-1] < there:
        raise BuildError(f"kept layers must rise and lie in 0 to {there - 1}, got {list(layers)}")
    weights = {}
    for name, value in model.state_dict().items():
        if not name.startswith("model.layers."):
            weights[name] = value.clone()
            continue
        layer, _, rest = name.removeprefix("model.layers.").partition(".")
        if int(layer) in layers:
            weights[f"model.layers.{list(layers).index(int(layer))}.{rest}"] = value.clone()
    if model.config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    return model_of(type(model.config)(**{**model.config.to_dict(), "num_hidden_layers": len(layers)}), weights)
