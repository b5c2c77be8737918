"""Prompts in, the model's greedy answers out: left-padded batches over a cache of keys and values.

A batch gives the tokens that each prompt would get alone: padding is masked, and positions count from a prompt's own
first token. Rows whose answer has ended leave the batch, so a long answer does not keep short ones computing.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from sdk.build.evaluate.likelihood import Told
from sdk.errors import EvaluationError, NotRunError
from sdk.tokens import chat_tokens as encoded

__all__ = ["chat_tokens", "greedy", "greedy_texts"]

BATCH = 32  # Prompts at once; bounds the cache of keys and values.


def chat_tokens(tokenizer: Any, prompt: str) -> list[int]:
    """One user turn in the model's chat format, ending where the assistant begins to speak.

    Raises:
        EvaluationError: The tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise NotRunError("the tokenizer has no chat template; the model cannot be asked anything")
    return encoded(tokenizer, [{"role": "user", "content": prompt}])


def greedy_texts(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    told: Told = lambda done, total: None,
) -> list[str]:
    """The model's likeliest answer to each user turn, as text without control tokens, in the order of the prompts."""
    encoded = [chat_tokens(tokenizer, prompt) for prompt in prompts]
    stops = frozenset(tokenizer.all_special_ids)
    answers = greedy(model, encoded, max_new_tokens=max_new_tokens, stops=stops, told=told)
    return [tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]


@torch.no_grad()
def greedy(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stops: frozenset[int],
    batch: int = BATCH,
    told: Told = lambda done, total: None,
) -> list[list[int]]:
    """The likeliest next token, again and again, for each prompt.

    Args:
        model: A causal language model with a cache.
        prompts: Token ids, each at least one.
        max_new_tokens: An answer ends here at the latest, in tokens, ≥ 1.
        stops: Tokens that end an answer; they are not part of it.
        batch: Prompts at once.
        told: Told how many are done.

    Raises:
        EvaluationError: A prompt does not fit the context, or a logit is not a number.
    """
    context = int(model.config.max_position_embeddings)
    if (longest := max((len(prompt) for prompt in prompts), default=0)) + max_new_tokens > context:
        raise NotRunError(f"a prompt of {longest} tokens and {max_new_tokens} more pass the context of {context}")
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    answers: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        _continue(model, [prompts[row] for row in rows], [answers[row] for row in rows], max_new_tokens, stops)
        told(start + len(rows), len(prompts))
    return answers


def _continue(
    model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[list[int]], limit: int, stops: frozenset[int]
) -> None:
    """Write the answers of one batch into `answers`."""
    ids, mask = _left_padded(prompts)  # (batch, seq) each
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    cache, live = DynamicCache(config=model.config), list(answers)
    for _ in range(limit):
        made = model(
            input_ids=ids,
            attention_mask=mask if bool((mask == 0).any()) else None,  # Without one the fast causal kernel runs.
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = made.logits[:, -1]  # (batch, vocab)
        if not bool(torch.isfinite(logits).all()):
            raise EvaluationError(
                "the model's logits are not finite numbers (NaN or infinite); its weights are damaged"
            )
        tokens = logits.argmax(1)  # (batch,)
        going = [row for row, token in enumerate(tokens.tolist()) if token not in stops]
        for row in going:
            live[row].append(int(tokens[row]))
        if not going:
            return
        if len(going) < len(live):
            kept = torch.tensor(going)
            cache.batch_select_indices(kept)
            live, tokens = [live[row] for row in going], tokens[kept]
            mask, positions = mask[kept], positions[kept]
        ids, positions = tokens[:, None], positions[:, -1:] + 1  # (batch, 1)
        mask = torch.cat((mask, mask.new_ones(len(mask), 1)), 1)


def _left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and mask, both (batch, seq); padding stands on the left and is masked."""
    length = max(len(prompt) for prompt in prompts)
    ids, mask = torch.zeros(len(prompts), length, dtype=torch.long), torch.zeros(len(prompts), length, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt) :] = torch.tensor(prompt)
        mask[row, length - len(prompt) :] = 1
    return ids, mask
