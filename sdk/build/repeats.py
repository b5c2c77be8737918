"""Texts in; those that say what an earlier one says left out.

Two texts are near-duplicates where they share most of their runs of five words. MinHash estimates that share from 64
numbers a text; banding finds the candidates without comparing all pairs.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

__all__ = ["first_of_each", "signature"]

RUN_WORDS = 5
BANDS, ROWS = 16, 4  # 64 numbers; two texts that share 70 % of their runs meet in some band with chance 0.99.
SAME = 0.7
"""Estimated share of common runs, in [0, 1], from which the later text is left out."""
_FACTORS = np.random.Generator(np.random.PCG64(0)).integers(0, 1 << 64, (2, BANDS * ROWS), dtype=np.uint64)
_WORD = re.compile(r"\w+")


def signature(text: str) -> NDArray[np.uint64]:
    """MinHash numbers of a text's runs of five words, (64,); of a shorter text's only run.

    Source: Broder 1997, "On the resemblance and containment of documents"; hashing by multiply-shift, which is
    universal for keys of 32 bits (Thorup, arXiv:1504.06804, section 3.3).
    """
    words = [word.casefold() for word in _WORD.findall(text)]
    runs = {" ".join(words[at : at + RUN_WORDS]) for at in range(max(1, len(words) - RUN_WORDS + 1))}
    keys = [int.from_bytes(hashlib.blake2b(run.encode(), digest_size=4).digest()) for run in runs]
    hashed = (np.array(keys, dtype=np.uint64)[:, None] * _FACTORS[0] + _FACTORS[1]) >> np.uint64(32)  # (runs, 64)
    smallest: NDArray[np.uint64] = hashed.min(axis=0)  # (64,)
    return smallest


def first_of_each(texts: Iterable[str]) -> list[bool]:
    """For each text, whether no earlier kept one is the same or nearly so."""
    kept: list[bool] = []
    seen: dict[tuple[int, bytes], list[NDArray[np.uint64]]] = defaultdict(list)
    for text in texts:
        numbers = signature(text)
        keys = [(band, numbers[band * ROWS : (band + 1) * ROWS].tobytes()) for band in range(BANDS)]
        near = (other for key in keys for other in seen[key])
        new = not any(float(np.mean(numbers == other)) >= SAME for other in near)
        kept.append(new)
        if new:
            for key in keys:
                seen[key].append(numbers)
    return kept
