"""Hidden states of requests that a model is made for in, how far another request is from all of them out.

The distance is Mahalanobis' to the nearest class, all classes sharing one covariance: what matters is the direction in
which a state is strange, not its length. The covariance is shrunk towards its diagonal, since there are about as many
numbers in it as states to learn it from.

Sources: Lee et al., arXiv:1807.03888; shrinkage of the off-diagonal: Schäfer and Strimmer, 2005, with a fixed share.
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
    """Maps a state to where the shared covariance is the identity, shape (width, width)."""
    means: Array
    """Of each class, whitened, shape (classes, width)."""

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
        apart = states - means[place]  # (requests, width)
        covariance = apart.T @ apart / len(states)
        covariance = (1 - SHRUNK) * covariance + SHRUNK * np.diag(np.diag(covariance) + 1e-9)
        values, vectors = np.linalg.eigh(covariance)
        whitening = vectors / np.sqrt(np.maximum(values, 1e-12))  # (width, width)
        return cls(whitening, means @ whitening)

    def distances(self, states: Array) -> Array:
        """Distance of each request to its nearest class, shape (requests,); larger is stranger."""
        at = states @ self.whitening  # (requests, width)
        squares = (at**2).sum(1)[:, None] - 2 * at @ self.means.T + (self.means**2).sum(1)  # (requests, classes)
        nearest: Array = np.sqrt(np.maximum(squares.min(1), 0))
        return nearest
