"""Texts in, whether a new one is nearly one of them out.

Min-wise hashing finds the few that may be close; these are then compared in full, so that what is called near is near.

Sources: Broder, "On the resemblance and containment of documents", 1997; banding as in Leskovec, Rajaraman and Ullman,
"Mining of Massive Datasets", section 3.4; both by the library datasketch.
"""

from collections.abc import Iterable

from datasketch import MinHash, MinHashLSH

__all__ = ["NEAR", "Near"]

NEAR = 0.8  # Jaccard similarity from which two texts count as the same, in [0, 1].
SHINGLE_CHARACTERS = 4  # Requests are short: with runs of words, one other name would make two of them strangers.
PERMUTATIONS = 128
FOUND_FROM = 0.6  # The search is approximate; asked for less, it misses next to nothing of what NEAR wants.


class Near:
    """A set of texts that knows whether another is nearly one of them."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._index = MinHashLSH(threshold=FOUND_FROM, num_perm=PERMUTATIONS)
        self._shingles: dict[str, frozenset[str]] = {}
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        """Put a text in; the same again changes nothing."""
        if text not in self._shingles:
            self._shingles[text] = shingles(text)
            self._index.insert(text, _signature(self._shingles[text]), check_duplication=False)

    def holds(self, text: str) -> bool:
        """Whether some text of the set is at least NEAR to this one."""
        mine = shingles(text)
        candidates = self._index.query(_signature(mine)) if self._shingles else []
        return any(similarity(mine, self._shingles[other]) >= NEAR for other in candidates)


def shingles(text: str) -> frozenset[str]:
    """All runs of SHINGLE_CHARACTERS characters, whatever the case and the white space."""
    folded = " ".join(text.lower().split())
    return frozenset(folded[at : at + SHINGLE_CHARACTERS] for at in range(max(1, len(folded) - SHINGLE_CHARACTERS + 1)))


def similarity(one: frozenset[str], other: frozenset[str]) -> float:
    """Jaccard similarity, in [0, 1]."""
    return len(one & other) / len(one | other)


def _signature(runs: frozenset[str]) -> MinHash:
    made = MinHash(num_perm=PERMUTATIONS, seed=1)
    made.update_batch([run.encode() for run in sorted(runs)])
    return made
