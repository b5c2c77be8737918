"""An adapter in, its key out, or a refusal: what wearing means in every engine, and what each asks before it does.

(1) It was made for this base.
(2) Each of its maps is one that the model has, of that shape: no factor is left over.
(3) Under it the scores of a few tokens differ from those of the base: an engine that lost a factor on the way says
    nothing and answers like the base.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from personalize.adapter import Adapter
from personalize.errors import AdapterError, BaseMismatchError
from sdk.device.engines.protocol import Track
from sdk.device.engines.track import KeptTrack, Memory

__all__ = ["Wearing", "check_fits", "check_moves", "key_of", "probe_scores"]

Fit = TypeVar("Fit")
"""An adapter as one engine takes it."""

PROBE_TOKENS = 8  # As many as show that an adapter acts; they cost milliseconds.


def key_of(adapter: Adapter) -> str:
    """Digest of an adapter's base, sites and weights, `sha256:…`: equal for equal adapters, wherever they stand."""
    state = hashlib.sha256(adapter.fits_base.encode())
    for site in sorted(adapter.a):
        for factor in (adapter.a[site], adapter.b[site]):
            values = factor.detach().float().contiguous().numpy()
            state.update(f"\n{site} {values.shape}\n".encode())
            state.update(values.tobytes())
    return f"sha256:{state.hexdigest()}"


def check_fits(adapter: Adapter, *, base_digest: str, maps: Mapping[str, tuple[int, int]]) -> None:
    """Checks (1) and (2).

    Args:
        adapter: What is to be worn.
        base_digest: The engine's base.
        maps: Each linear map of the model by its full name: (in, out).

    Raises:
        BaseMismatchError: It was made for another base.
        AdapterError: It has a map that the model has not, or of another shape.
    """
    if adapter.fits_base != base_digest:
        raise BaseMismatchError(
            f"the adapter was learned on base {adapter.fits_base[:19]}…, this base is {base_digest[:19]}…; "
            "install the base it fits, or learn again"
        )
    for site, a in adapter.a.items():
        shape = (a.shape[1], adapter.b[site].shape[0])  # (in, out)
        if maps.get(site) != shape:
            raise AdapterError(
                f"the adapter has a map {site} of {shape[0]} to {shape[1]}, this model has "
                f"{maps.get(site, 'none of that name')}; the adapter is for another model"
            )


def probe_scores(track: KeptTrack) -> NDArray[np.float32]:
    """Scores of a few tokens from all over the vocabulary on a track that is new and closed afterwards."""
    try:
        tokens = np.linspace(0, track.vocabulary - 1, PROBE_TOKENS).astype(int).tolist()
        return track.extend(tokens, keep=PROBE_TOKENS)  # (PROBE_TOKENS, vocab)
    finally:
        track.close()


def check_moves(bare: NDArray[np.float32], worn: NDArray[np.float32]) -> None:
    """Check (3) on the scores of the same tokens without and with the adapter, shape (tokens, vocab).

    Raises:
        AdapterError: They are the same, or no longer numbers.
    """
    if not np.isfinite(worn).all():
        raise AdapterError("under the adapter the scores are no numbers; roll back or learn again")
    if np.array_equal(bare, worn):
        raise AdapterError("the adapter changes nothing: it is empty or was not taken in; roll back or learn again")


class Wearing(ABC, Generic[Fit]):
    """The part of an engine that is the same in all: adapters by their keys, and tracks under them."""

    def __init__(
        self, *, base_digest: str, maps: Mapping[str, tuple[int, int]], context_tokens: int, vocabulary: int
    ) -> None:
        """Nothing is worn yet.

        Args:
            base_digest: Of the loaded base.
            maps: Each linear map that an adapter may sit on, by its full name: (in, out).
            context_tokens: Most tokens of a track.
            vocabulary: Length of the scores.
        """
        self.context_tokens, self.vocabulary = context_tokens, vocabulary
        self._base_digest, self._maps = base_digest, maps
        self._worn: dict[str, Fit] = {}

    @abstractmethod
    def fit(self, adapter: Adapter) -> Fit:
        """An adapter that was checked to fit, as the engine takes it; an AdapterError where it cannot."""

    @abstractmethod
    def memory(self, fit: Fit | None) -> Memory:
        """What a new track keeps, under an adapter or the base alone."""

    def wear(self, adapter: Adapter) -> str:
        """See Engine.wear."""
        key = key_of(adapter)
        if key not in self._worn:
            check_fits(adapter, base_digest=self._base_digest, maps=self._maps)
            fit = self.fit(adapter)
            check_moves(probe_scores(self._track(None, None)), probe_scores(self._track(fit, key)))
            self._worn[key] = fit
        return key

    def drop(self, key: str) -> None:
        """See Engine.drop; open tracks hold what they wear."""
        self._worn.pop(key, None)

    def begin(self, adapter: str | None = None) -> Track:
        """See Engine.begin.

        Raises:
            AdapterError: No adapter of this key is worn.
        """
        if adapter is None:
            return self._track(None, None)
        if adapter not in self._worn:
            raise AdapterError(f"adapter {adapter[:19]}… is not worn by this engine; wear it first")
        return self._track(self._worn[adapter], adapter)

    def close(self) -> None:
        """See Engine.close."""
        self._worn.clear()

    def _track(self, fit: Fit | None, key: str | None) -> KeptTrack:
        return KeptTrack(self.memory(fit), adapter=key, context_tokens=self.context_tokens, vocabulary=self.vocabulary)
