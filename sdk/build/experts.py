"""A dense Llama in, a mixture-of-experts student out that computes the same at the start.

Each feed-forward is cut into `shards` across its inner width, and each shard is copied `copies` times: those are the
experts. A router picks `active` copies of every shard for each token. With `shards` = 2 and `active` = 1 a token meets
exactly as many feed-forward weights as before, out of `copies` times as many: the student can be compared with the
dense one at equal active parameters. With `shards` = 1 this is plain upcycling, and every further active copy costs a
whole feed-forward.

The result is a Hugging Face Mixtral, whose router divides the chosen experts' weights by their sum: that is what lets
equal copies add up to the dense layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from sdk.build.checkpoint import open_checkpoint
from sdk.errors import BuildError

__all__ = ["ExpertsPlan", "active_parameters", "balancing_loss", "expert_shares", "upcycle", "upcycle_folder"]

SHARED_FIELDS = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "hidden_act", "max_position_embeddings", "rms_norm_eps", "rope_parameters", "tie_word_embeddings",
    "bos_token_id", "eos_token_id", "pad_token_id", "dtype",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ExpertsPlan:
    """How the feed-forwards become experts."""

    copies: int = 4
    """Copies of each shard, ≥ 2: times as many feed-forward weights."""
    shards: int = 2
    """Parts of the inner width, ≥ 1; it must divide the width."""
    active: int = 1
    """Copies that a token meets, in 1..copies. At least 2 of copies times shards, or the router learns nothing."""
    noise: float = 0.0
    """Standard deviation of what is added to each copy, over that of its own weights, ≥ 0; 0 changes nothing."""
    router_scale: float = 0.02
    """Standard deviation of the router's first weights, ≥ 0."""
    balance: float = 0.01
    """Weight of balancing_loss in the training loss, ≥ 0."""
    seed: int = 0
    """Of router and noise."""

    def __post_init__(self) -> None:
        """Refuse what makes no mixture."""
        if self.copies < 2 or self.shards < 1:
            raise ValueError(f"a mixture needs at least 2 copies of 1 shard, got {self.copies} of {self.shards}")
        if not 1 <= self.active <= self.copies:
            raise ValueError(f"active must be in 1..{self.copies} copies, got {self.active}")
        if self.active * self.shards < 2:
            raise ValueError("one expert a token has weight 1 whatever the router says; set shards or active to 2")
        if min(self.noise, self.router_scale, self.balance) < 0:
            raise ValueError("noise, router_scale and balance must be at least 0")

    @property
    def experts(self) -> int:
        """Experts a layer."""
        return self.copies * self.shards

    @property
    def chosen(self) -> int:
        """Experts that a token meets."""
        return self.active * self.shards


@torch.no_grad()
def upcycle(dense: LlamaForCausalLM, plan: ExpertsPlan) -> MixtralForCausalLM:
    """Make experts of a model's feed-forwards; the model itself is left as it was.

    All shards of one copy get the same router weights, so that at first a token is sent to a whole feed-forward; the
    down projections are multiplied by `shards`, because the router's weights of one copy add up to 1 over its shards.

    Raises:
        BuildError: A model with biases, or a width that `shards` does not divide.

    Source: sparse upcycling, arXiv:2212.05055; shards and their router, arXiv:2410.07524, section 3.2.
    """
    config = dense.config
    if config.attention_bias or config.mlp_bias:
        raise BuildError("this model has biases, which a Mixtral has no place for; take one without")
    if config.intermediate_size % plan.shards:
        raise BuildError(f"{plan.shards} shards do not divide the inner width of {config.intermediate_size}")
    sparse = MixtralForCausalLM(
        MixtralConfig(
            **{name: getattr(config, name) for name in SHARED_FIELDS},
            intermediate_size=config.intermediate_size // plan.shards,
            num_local_experts=plan.experts,
            num_experts_per_tok=plan.chosen,
            router_aux_loss_coef=plan.balance,
        )
    )
    torch.nn.Module.to(sparse, dense.dtype)
    shared = {name: value for name, value in dense.state_dict().items() if ".mlp." not in name}
    missing = sparse.load_state_dict(shared, strict=False).missing_keys
    assert all(".mlp." in name for name in missing)
    random = torch.Generator().manual_seed(plan.seed)
    for thin, thick in zip(dense.model.layers, sparse.model.layers, strict=True):
        _fill(thick.mlp, thin.mlp, plan, random)
    torch.nn.Module.train(sparse, dense.training)
    return sparse


def upcycle_folder(folder: Path, out: Path, plan: ExpertsPlan) -> dict[str, int]:
    """Read a student, make experts of it, and write a plain Hugging Face folder.

    Returns:
        `experts` and `chosen` of a layer, `active` and `held` parameters.

    Raises:
        BuildError: `out` exists, or the student cannot be cut; nothing was written.
        BundleError: The folder is no checkpoint.
    """
    if out.exists():
        raise BuildError(f"{out} exists; name another folder or remove it")
    dense, tokenizer = open_checkpoint(folder)
    sparse = upcycle(dense, plan)
    sparse.save_pretrained(out)
    tokenizer.save_pretrained(out)
    held = sum(weights.numel() for weights in sparse.parameters())
    return {"experts": plan.experts, "chosen": plan.chosen, "active": active_parameters(sparse), "held": held}


def _fill(sparse: Any, dense: Any, plan: ExpertsPlan, random: torch.Generator) -> None:
    """Put copies of one feed-forward's shards into one layer of experts: all copies of shard 0, then of shard 1, …"""

    def noisy(weights: Tensor) -> Tensor:
        noise = torch.randn(weights.shape, generator=random, dtype=torch.float32).to(weights.dtype)
        return weights + plan.noise * weights.std() * noise

    gates, ups = (layer.weight.chunk(plan.shards) for layer in (dense.gate_proj, dense.up_proj))  # (inner, width)
    downs = (plan.shards * dense.down_proj.weight).chunk(plan.shards, dim=1)  # (width, inner)
    rows = plan.router_scale * torch.randn(plan.copies, downs[0].shape[0], generator=random)  # (copies, width)
    sparse.gate.weight.copy_(rows.repeat(plan.shards, 1))
    for expert in range(plan.experts):
        shard = expert // plan.copies
        sparse.experts.gate_up_proj[expert].copy_(torch.cat([noisy(gates[shard]), noisy(ups[shard])]))
        sparse.experts.down_proj[expert].copy_(noisy(downs[shard]))


def balancing_loss(router_logits: Sequence[Tensor], weights: Tensor, *, chosen: int) -> Tensor:
    """Mean over layers of E Σ_e f_e P_e: 1 where all experts get the same, E / chosen where a few get everything.

    f_e is the share of assignments that went to expert e, P_e the mean of its probability; only P has a gradient. It is
    taken in each layer by itself: pooled over layers, one layer's favourite could hide another's.

    Args:
        router_logits: One tensor a layer, shape (batch · seq, experts), as a Mixtral gives them.
        weights: Positions that count, shape (batch, seq); not all 0.
        chosen: Experts that a token meets.

    Source: Switch Transformer, arXiv:2101.03961, equations 4 to 6, with top-k assignments.
    """
    share = weights.flatten() / weights.sum()  # (positions,)
    losses = []
    for logits in router_logits:
        probabilities = logits.float().softmax(-1)  # (positions, experts)
        losses.append(logits.shape[-1] * (_assigned(probabilities, share, chosen) * (share @ probabilities)).sum())
    return torch.stack(losses).mean()


@torch.no_grad()
def expert_shares(router_logits: Sequence[Tensor], weights: Tensor, *, chosen: int) -> Tensor:
    """Share of assignments that each expert gets, shape (layers, experts), rows summing to 1."""
    share = weights.flatten() / weights.sum()
    return torch.stack([_assigned(logits.float().softmax(-1), share, chosen) for logits in router_logits])


def _assigned(probabilities: Tensor, share: Tensor, chosen: int) -> Tensor:
    picked = torch.zeros_like(probabilities).scatter(-1, probabilities.topk(chosen, -1).indices, 1.0 / chosen)
    return share @ picked  # (experts,)


def active_parameters(model: LlamaForCausalLM | MixtralForCausalLM) -> int:
    """Parameters that one token meets; those of the tied embedding count once."""
    total = sum(parameter.numel() for parameter in model.parameters())
    if isinstance(model, LlamaForCausalLM):
        return total
    idle = 1 - model.config.num_experts_per_tok / model.config.num_local_experts
    held = sum(weights.numel() for name, weights in model.named_parameters() if ".experts." in name)
    return total - round(idle * held)
