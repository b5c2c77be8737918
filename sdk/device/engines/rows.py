"""A checkpoint's weights in, float32 arrays out: all of a tensor, or the rows of the embedding that a step needs."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdk.packed import Packed

__all__ = ["Rows", "array"]


def array(weights: Packed | Tensor) -> NDArray[np.float32]:
    """Weights in float32, packed or not, of any shape."""
    values = weights.values() if isinstance(weights, Packed) else weights.float()
    found: NDArray[np.float32] = values.numpy()
    return found


class Rows:
    """The embedding, looked up as it stands: the rows of a step's tokens are unpacked, never the whole of it."""

    def __init__(self, embedding: Packed | Tensor) -> None:
        """An embedding of shape (vocab, hidden); a packed one is copied, so that the file need not stay mapped."""
        if isinstance(embedding, Packed):
            zeros = None if embedding.zeros is None else embedding.zeros.clone()
            embedding = Packed(codes=embedding.codes.clone(), scales=embedding.scales.clone(), zeros=zeros)
        self._embedding = embedding

    def __call__(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Token ids in, shape (1, tokens, hidden) out."""
        rows, whole = torch.tensor(list(tokens)), self._embedding
        if isinstance(whole, Packed):
            zeros = None if whole.zeros is None else whole.zeros[rows]
            whole = Packed(codes=whole.codes[rows], scales=whole.scales[rows], zeros=zeros)
        else:
            whole = whole[rows]
        return array(whole)[None]
