"""A student and text in, how early its tokens could leave out: what each layer already knows through the shared head.

Read at a layer, the model's next-token distribution is softmax(head(norm(state after that layer))). A token leaves at
the first layer whose likeliest token has a probability of at least one threshold, the same for all layers. The
threshold is fitted on one half of the positions and judged on the other.

This looks at each position with all layers run below and before it, as in training. A decoder that really skips layers
lacks keys and values there for the tokens that follow; what it does about that costs some of this (CALM copies states).
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from sdk.build.checkpoint import open_checkpoint
from sdk.build.losses import forward_kl
from sdk.build.sequences import read_texts, text_sequences
from sdk.errors import BuildError

__all__ = ["EarlyExit", "Looks", "early_exit", "exit_table", "look"]

CHUNK = 256  # Positions that meet the head at once.
SEQUENCE = 256  # Tokens of a stretch that is read.


@dataclass(frozen=True, kw_only=True)
class Looks:
    """What each layer would have said, at every position but the last of each sequence."""

    layers: tuple[int, ...]
    """Layers looked at, rising; the last layer of the model ends them."""
    confidence: Tensor
    """Probability of the layer's likeliest token, shape (layers, positions)."""
    agrees: Tensor
    """Whether that is the last layer's likeliest token, shape (layers, positions), bool."""
    kl: Tensor
    """KL(last layer, this layer), mean over positions, in nats, shape (layers,)."""

    @property
    def agreement(self) -> Tensor:
        """Share of positions at which a layer agrees with the last, shape (layers,)."""
        return self.agrees.double().mean(1)


@dataclass(frozen=True, kw_only=True)
class EarlyExit:
    """Leaving at a stated agreement."""

    wanted: float
    """Agreement with the last layer that was asked for, over all tokens."""
    threshold: float
    """Least probability of the likeliest token to leave; above 1 where no token may."""
    agreement: float
    """Agreement found on the positions that the threshold was not fitted on."""
    leaving: tuple[float, ...]
    """Share of those positions that leave at each layer looked at; they sum to 1."""
    layers_run: float
    """Mean layers run for a token, of all the model's layers."""


@torch.no_grad()
def look(model: LlamaForCausalLM, batches: Iterable[Tensor], *, layers: Sequence[int] | None = None) -> Looks:
    """Read the model at its layers.

    Args:
        model: A Llama in evaluation mode.
        batches: Token ids, each of shape (batch, seq), without padding.
        layers: Where to look; the last layer is always added. None looks everywhere, which costs a head a layer.

    Raises:
        BuildError: A layer that is not there, or no text.
    """
    last = len(model.model.layers) - 1
    chosen = tuple(sorted({*(range(last) if layers is None else layers), last}))
    if chosen[0] < 0 or chosen[-1] > last:
        raise BuildError(f"the model has layers 0 to {last}, asked for {list(chosen)}")
    made = [_batch(model, ids, chosen) for ids in batches]
    if not made:
        raise BuildError("early exit needs at least one batch of text; name a file with text")
    confidence, agrees, kl = (torch.cat(part, 1) for part in zip(*made, strict=True))  # (layers, positions) each
    return Looks(layers=chosen, confidence=confidence, agrees=agrees, kl=kl.mean(1))


def _batch(model: LlamaForCausalLM, ids: Tensor, layers: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    states = model.model(ids, use_cache=False, output_hidden_states=True).hidden_states
    after = [states[layer + 1] if layer == len(states) - 2 else model.model.norm(states[layer + 1]) for layer in layers]
    parts = zip(*(state[:, :-1].flatten(0, 1).split(CHUNK) for state in after), strict=True)  # The last is normed.
    made = [_chunk([rows @ model.lm_head.weight.t() for rows in part]) for part in parts]
    confidence, agrees, kl = (torch.cat(part, 1) for part in zip(*made, strict=True))
    return confidence, agrees, kl


def _chunk(logits: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Confidence, agreement and divergence of each layer's logits, shape (layers, chunk) each."""
    likeliest = logits[-1].argmax(-1)
    tops = [one.max(-1) for one in logits]
    confidence = [(top.values - one.logsumexp(-1)).exp() for top, one in zip(tops, logits, strict=True)]
    return (
        torch.stack(confidence),
        torch.stack([top.indices == likeliest for top in tops]),
        torch.stack([forward_kl(one, logits[-1]) for one in logits]),
    )


def early_exit(looks: Looks, *, agreement: float) -> EarlyExit:
    """Fit the threshold on the first half of the positions, and judge it on the second.

    Args:
        looks: At least 4 positions.
        agreement: Of all tokens with the last layer, in (0, 1).

    Raises:
        ValueError: `agreement` outside its range.
        BuildError: Too few positions.

    Source: confident adaptive language modeling, arXiv:2207.07061, with the bound (wrong + 1) / (n + 1) of conformal
        risk control, arXiv:2208.02814, theorem 1, made monotone in the threshold.
    """
    if not 0 < agreement < 1:
        raise ValueError(f"agreement must be in (0, 1), got {agreement}")
    count = looks.confidence.shape[1]
    if count < 4:
        raise BuildError(f"{count} positions are too few to fit a threshold and to judge it; give more text")
    threshold = _threshold(looks.confidence[:, : count // 2], looks.agrees[:, : count // 2], agreement)
    place = _leaves(looks.confidence[:, count // 2 :], threshold)  # (positions,)
    right = looks.agrees[:, count // 2 :].gather(0, place[None])[0]
    leaving = torch.bincount(place, minlength=len(looks.layers)) / len(place)
    run = leaving @ (torch.tensor(looks.layers) + 1.0)
    return EarlyExit(
        wanted=agreement,
        threshold=threshold,
        agreement=float(right.double().mean()),
        leaving=tuple(leaving.tolist()),
        layers_run=float(run),
    )


def exit_table(folder: Path, text: Path, *, tokens: int, agreements: Sequence[float]) -> dict[str, Any]:
    """Measure a model's exits on a file of text.

    Args:
        folder: A checkpoint, packed or plain.
        text: JSON lines with `text`.
        tokens: Read at most so many.
        agreements: Levels to fit a threshold for, each in (0, 1).

    Returns:
        `positions`, `layers` (a list of layer, agreement, kl) and `exits` (a list of EarlyExit as dictionaries).

    Raises:
        BuildError: The text is shorter than one stretch, or cannot be read.
        BundleError: The folder is no checkpoint.
    """
    model, tokenizer = open_checkpoint(folder)
    stretches = text_sequences(tokenizer, read_texts([text]), length=SEQUENCE, tokens=tokens)
    looks = look(model, (torch.tensor([one.ids]) for one in stretches))
    rows = zip(looks.layers, looks.agreement.tolist(), looks.kl.tolist(), strict=True)
    return {
        "positions": looks.confidence.shape[1],
        "layers": [{"layer": layer, "agreement": agreement, "kl": kl} for layer, agreement, kl in rows],
        "exits": [asdict(early_exit(looks, agreement=wanted)) for wanted in agreements],
    }


def _threshold(confidence: Tensor, agrees: Tensor, agreement: float) -> float:
    """Smallest threshold on a grid that keeps the bound, together with all above it."""
    found = 1.01  # Above every probability: nobody leaves.
    for step in range(100, 0, -1):
        place = _leaves(confidence, step / 100)
        wrong = int((~agrees.gather(0, place[None])[0]).sum())
        if (wrong + 1) / (len(place) + 1) > 1 - agreement:
            return found
        found = step / 100
    return found


def _leaves(confidence: Tensor, threshold: float) -> Tensor:
    """Index of the layer at which each position leaves, shape (positions,)."""
    sure = confidence >= threshold
    sure[-1] = True
    return sure.int().argmax(0)
