"""Held-out records and adapters in; bits per character and next-word accuracy out, with their uncertainty."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from personalize.adapter import Adapter, attached
from personalize.forward import Encoded, Prefix, collate, encode, prefixes, token_scores

__all__ = ["Held", "Score"]

BATCH = 32
RESAMPLES = 2000  # Bootstrap over records: enough for two digits of a 95 % interval.


@dataclass(frozen=True, kw_only=True)
class Score:
    """How well one model predicts held-out records."""

    bits: np.ndarray
    """Bits of each record's completion, shape (records,)."""
    characters: np.ndarray
    """Its characters, shape (records,)."""
    words_right: int
    """Words all of whose tokens were the likeliest ones."""
    words: int
    """Words in all."""

    @property
    def bits_per_char(self) -> float:
        """All bits over all characters."""
        return float(self.bits.sum() / self.characters.sum())

    @property
    def next_word_accuracy(self) -> float:
        """Share of words predicted right."""
        return self.words_right / max(1, self.words)

    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of bits per character over records; the same resamples for every model."""
        draws = np.random.default_rng(0).integers(0, len(self.bits), (RESAMPLES, len(self.bits)))
        ratios = self.bits[draws].sum(1) / self.characters[draws].sum(1)
        low, high = np.quantile(ratios, [0.025, 0.975])
        return float(low), float(high)

    def gain_over(self, other: "Score") -> tuple[float, float, float]:
        """Relative saving of bits against another model on the same records: mean, and its paired 95 % interval."""
        draws = np.random.default_rng(0).integers(0, len(self.bits), (RESAMPLES, len(self.bits)))
        gains = 1 - self.bits[draws].sum(1) / other.bits[draws].sum(1)
        low, high = np.quantile(gains, [0.025, 0.975])
        return 1 - float(self.bits.sum() / other.bits.sum()), float(low), float(high)


class Held:
    """Held-out records after the frozen layers, ready to be scored under several adapters."""

    def __init__(
        self, model: Any, tokenizer: Any, records: Sequence[tuple[str, str]], *, cut: int, max_tokens: int
    ) -> None:
        """Encode (prompt, answer) pairs and run the frozen layers once."""
        self._model, self._cut = model, cut
        encoded = [encode(tokenizer, prompt, answer, max_tokens=max_tokens) for prompt, answer in records]
        encoded.sort(key=lambda record: len(record.ids))
        self._rows: list[Prefix] = list(prefixes(model, encoded, cut=cut))
        self._starts = {token for token, piece in _pieces(tokenizer, encoded).items() if piece[:1].isspace()}

    def score(self, adapter: Adapter) -> Score:
        """Score every record under an adapter."""
        bits: list[float] = []
        right = total = 0
        with attached(self._model, adapter):
            for first in range(0, len(self._rows), BATCH):
                rows = self._rows[first : first + BATCH]
                losses, hits = token_scores(self._model, collate(rows), cut=self._cut)
                bits.extend((losses.sum(1) / math.log(2)).tolist())
                for row, prefix in enumerate(rows):
                    ids, start = prefix.record.ids, prefix.record.completion
                    word_hits = self._word_hits(ids[start:], hits[row, start - 1 : len(ids) - 1])
                    right, total = right + sum(word_hits), total + len(word_hits)
        characters = np.array([prefix.record.characters for prefix in self._rows], dtype=float)
        return Score(bits=np.array(bits), characters=characters, words_right=right, words=total)

    def _word_hits(self, ids: Sequence[int], hits: torch.Tensor) -> list[bool]:
        """One entry a word: whether all its tokens were predicted. A token that starts with a blank begins a word."""
        words: list[bool] = []
        for token, hit in zip(ids, hits.tolist(), strict=True):
            if token in self._starts or not words:
                words.append(bool(hit))
            else:
                words[-1] = words[-1] and bool(hit)
        return words


def _pieces(tokenizer: Any, records: Sequence[Encoded]) -> dict[int, str]:
    return {token: tokenizer.decode([token]) for token in {token for record in records for token in record.ids}}
