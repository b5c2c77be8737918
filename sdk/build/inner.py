"""A teacher at hand and the student's states in, how unlike the two are inside out: hidden states and attention.

Inner states are too large to keep on disk (6 kB a token where logits take 400 bytes), so this teacher reads each batch
again. It is the teacher as it is now: corrected, where it was corrected.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, repeat_kv

from personalize.forward import decoder_layers
from sdk.build.losses import LossWeights, attention_kl, feature_mse, layer_pairs

__all__ = ["InnerTeacher", "attention_maps"]


@dataclass(frozen=True, kw_only=True)
class InnerTeacher:
    """A teacher that a pruned student is compared with."""

    model: LlamaForCausalLM
    """Its vocabulary is the student's."""
    kept: tuple[int, ...]
    """The teacher's layer that each student layer was, rising."""

    def loss(
        self, student: LlamaForCausalLM, states: Mapping[int, Tensor], ids: Tensor, weights: Tensor, mix: LossWeights
    ) -> Tensor:
        """Weighted sum over positions: features averaged over all trained layers, attention of the last layer.

        Args:
            student: Whose layers made the states.
            states: What goes into each trained student layer, under its number, and the state after the final norm
                under the number of layers; shape (batch, seq, width) each.
            ids: Token ids, shape (batch, seq).
            weights: How much each position counts, shape (batch, seq).
            mix: Weights of features and attention.
        """
        total = weights.new_zeros(())
        theirs = self._states(ids)
        pairs = [pair for pair in layer_pairs(self.kept, len(theirs) - 1) if pair.student in states]
        if mix.features:
            apart = [feature_mse(states[pair.student], theirs[pair.teacher], weights) for pair in pairs]
            total = total + mix.features * torch.stack(apart).mean()
        if mix.attention:
            last = len(self.kept) - 1
            ours = attention_maps(student, last, states[last])
            with torch.no_grad():
                told = attention_maps(self.model, self.kept[last], theirs[self.kept[last]])
            total = total + mix.attention * attention_kl(ours, told, weights)
        return total

    @torch.no_grad()
    def _states(self, ids: Tensor) -> list[Tensor]:
        """The input of each layer, and the output of the final norm."""
        states = [self.model.model.embed_tokens(ids)]
        for layer in range(len(self.model.model.layers)):
            states.append(decoder_layers(self.model, states[-1], layer, layer + 1))
        return [*states[:-1], self.model.model.norm(states[-1])]


def attention_maps(model: LlamaForCausalLM, layer: int, hidden: Tensor) -> Tensor:
    """Where a layer looks, computed again from its input, so that the fast attention may run everywhere.

    Args:
        model: A Llama.
        layer: Its number.
        hidden: What goes into the layer, shape (batch, seq, width).

    Returns:
        Shape (batch, heads, seq, seq), rows summing to 1, nothing on the future.
    """
    block = model.model.layers[layer]
    attention, rows = block.self_attn, block.input_layernorm(hidden)
    shape = (*rows.shape[:2], -1, attention.head_dim)
    query, key = (part(rows).view(shape).transpose(1, 2) for part in (attention.q_proj, attention.k_proj))
    cos, sin = model.model.rotary_emb(hidden, torch.arange(hidden.shape[1])[None])
    query, key = apply_rotary_pos_emb(query, key, cos, sin)
    key = repeat_kv(key, attention.num_key_value_groups)  # (batch, heads, seq, head_dim)
    scores = query @ key.transpose(2, 3) * attention.scaling
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    maps: Tensor = scores.masked_fill(future, float("-inf")).softmax(-1)
    return maps
