"""A tokenizer and counts of its tokens in; a smaller tokenizer out that cuts most text the same way.

Byte-pair merges have one pair of parents each, so a vocabulary that holds the parents of all it holds can still make
each of its tokens by the merges that made them before. Then:

    a word whose pieces all survive is cut into the same pieces as before;
    any text decodes to itself, because the single bytes survive.

Source: Sennrich et al., arXiv:1508.07909 (merges apply in rank order within a word); measured in tests and docs/log.md.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from sdk.checkpoint import model_of
from sdk.errors import BuildError

__all__ = ["Trimmed", "count_tokens", "trim_tokenizer", "trimmed_model"]

BYTES = 256
"""Single-byte tokens that a byte-level vocabulary may have."""


@dataclass(frozen=True, kw_only=True)
class Trimmed:
    """A smaller tokenizer and where its tokens stood in the larger one."""

    tokenizer: PreTrainedTokenizerFast
    """The smaller tokenizer; same controls and chat template."""
    kept: Tensor
    """Old id of each new id, ascending, shape (new vocabulary,), int64: new ids keep the old order."""


def count_tokens(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> Counter[int]:
    """How often each token occurs in texts."""
    counts: Counter[int] = Counter()
    for text in texts:
        counts.update(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)
    return counts


def trim_tokenizer(tokenizer: PreTrainedTokenizerFast, counts: Counter[int], *, size: int) -> Trimmed:
    """Keep controls, bytes and the commonest tokens with all their parents: exactly `size` tokens.

    Args:
        tokenizer: Byte-level BPE.
        counts: Occurrences in text like that which the student will see; ties go to the older token.
        size: Tokens to keep; a size at or over the tokenizer's own is refused, there would be nothing to trim.

    Raises:
        BuildError: Not a byte-level BPE tokenizer, or a size that does not hold the controls and bytes.
    """
    described: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    model = described["model"]
    if model.get("type") != "BPE":
        raise BuildError(f"only BPE vocabularies can be trimmed, this one is {model.get('type')}")
    vocabulary: dict[str, int] = model["vocab"]
    parents = {vocabulary[left + right]: (vocabulary[left], vocabulary[right]) for left, right in model["merges"]}
    kept = _chosen(vocabulary, described["added_tokens"], parents, counts, size)
    order = sorted(kept)
    new_id = {old: new for new, old in enumerate(order)}
    model["vocab"] = {token: new_id[old] for token, old in vocabulary.items() if old in kept}
    model["merges"] = [
        pair for pair in model["merges"] if all(part in model["vocab"] for part in (*pair, pair[0] + pair[1]))
    ]
    for added in described["added_tokens"]:
        added["id"] = new_id[added["id"]]
    smaller = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(described)),
        model_max_length=tokenizer.model_max_length,
        clean_up_tokenization_spaces=False,
        chat_template=tokenizer.chat_template,
        **tokenizer.special_tokens_map,
    )
    return Trimmed(tokenizer=smaller, kept=torch.tensor(order))


def _chosen(
    vocabulary: dict[str, int],
    added: Sequence[dict[str, Any]],
    parents: dict[int, tuple[int, int]],
    counts: Counter[int],
    size: int,
) -> set[int]:
    made = parents.keys()
    kept = {token for token in vocabulary.values() if token not in made}  # Bytes, controls and other whole words.
    kept |= {token["id"] for token in added}
    if not len(kept) < size < len(vocabulary):
        raise BuildError(
            f"a trimmed vocabulary has from {len(kept) + 1} to {len(vocabulary) - 1} tokens here, not {size}"
        )
    for token in sorted(made, key=lambda token: (-counts[token], token)):
        wanted = _with_parents(token, parents, kept)
        if len(kept) + len(wanted) <= size:
            kept |= wanted
        if len(kept) == size:
            break
    return kept


def _with_parents(token: int, parents: dict[int, tuple[int, int]], kept: set[int]) -> set[int]:
    wanted, pending = set(), [token]
    while pending:
        if (one := pending.pop()) not in kept and one not in wanted:
            wanted.add(one)
            pending += parents.get(one, ())
    return wanted


def trimmed_model(model: LlamaForCausalLM, trimmed: Trimmed) -> LlamaForCausalLM:
    """The same model whose embedding and head know only the kept tokens; its other weights are shared, not copied.

    A probability over the kept tokens is the old one, renormalised: softmax over a subset of the same logits.
    """
    weights = dict(model.state_dict())
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][trimmed.kept].clone()
    if model.config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    tokenizer = trimmed.tokenizer
    changed = {
        "vocab_size": len(trimmed.kept),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return model_of(type(model.config)(**{**model.config.to_dict(), **changed}), weights)
