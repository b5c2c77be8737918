"""Hidden states of requests that a model is made for in, how far another request is from all of them out.

The distance is Mahalanobis' to the nearest class, all classes sharing one covariance: what matters is the direction in
which a state is strange, not its length. From it the distance to all requests taken as one is taken away, since a state
may be odd in ways that have nothing to do with what is asked for: long, or with a rare word. What is left grows where a
request is odd for every class and ordinary as a request. The covariances are shrunk towards their diagonals, since
there are about as many numbers in them as states to learn them from.

Sources: Lee et al., arXiv:1807.03888; the background taken away: Ren et al., arXiv:2106.09022; shrinkage of the
off-diagonal: Schäfer and Strimmer, 2005, with a fixed share.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdk.errors import RouterError

__all__ = ["Scope"]

SHRUNK = 0.1  # Share of the off-diagonal that is given up.
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scope:
    """Where in-scope requests lie."""

    whitening: Array
    """Maps a state to where the covariance within classes is the identity, shape (width, width)."""
    means: Array
    """Of each class, whitened, shape (classes, width)."""
    background: Array
    """Maps a state to where the covariance of all requests is the identity, shape (width, width)."""
    center: Array
    """Mean of all requests, mapped by `background`, shape (width,)."""

    @classmethod
    def fit(cls, states: Array, classes: Sequence[str]) -> "Scope":
        """Learn from in-scope requests alone.

        Args:
            states: One row each, shape (requests, width).
            classes: What each asks for.

        Raises:
            RouterError: Fewer than two requests a class on average, or a state that is not finite.
        """
        names, place = np.unique(np.asarray(classes), return_inverse=True)
        if len(states) < 2 * len(names) or not bool(np.isfinite(states).all()):
            raise RouterError(
                f"{len(states)} requests of {len(names)} classes say too little, or hold a non-finite state"
            )
        means = np.stack([states[place == number].mean(0) for number in range(len(names))])  # (classes, width)
        whitening, background = _whitening(states - means[place]), _whitening(states - states.mean(0))
        return cls(whitening, means @ whitening, background, states.mean(0) @ background)

    def distances(self, states: Array) -> Array:
        """Distance of each request to its nearest class, shape (requests,); larger is stranger."""
        nearest: Array = np.sqrt(self._nearest(states))
        return nearest

    def strangeness(self, states: Array) -> Array:
        """The same squared, less that to all requests as one, shape (requests,); larger is stranger."""
        whole = ((states @ self.background - self.center) ** 2).sum(1)  # (requests,)
        strange: Array = self._nearest(states) - whole
        return strange

    def _nearest(self, states: Array) -> Array:
        at = states @ self.whitening  # (requests, width)
        squares = (at**2).sum(1)[:, None] - 2 * at @ self.means.T + (self.means**2).sum(1)  # (requests, classes)
        nearest: Array = np.maximum(squares.min(1), 0)
        return nearest


def _whitening(apart: Array) -> Array:
    """What maps differences, shape (requests, width), to where their covariance is the identity."""
    covariance = apart.T @ apart / len(apart)
    covariance = (1 - SHRUNK) * covariance + SHRUNK * np.diag(np.diag(covariance) + 1e-9)
    values, vectors = np.linalg.eigh(covariance)
    matrix: Array = vectors / np.sqrt(np.maximum(values, 1e-12))  # (width, width)
    return matrix
