"""Randomness that an attacker cannot replay: keys from the operating system in, Gaussian noise and coins out."""

import os

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from torch import Tensor

__all__ = ["coins", "gaussian"]

_DRAWS = 4  # Sum of four draws, halved: the rounding of one Box-Muller draw leaks its seed bits, that of four does not.


def _random_bytes(count: int) -> bytes:
    """AES-256 in counter mode under a key that the operating system draws for this call alone, and nobody keeps.

    As hard to predict as that key, and three times as fast as asking the system for every byte. No state outlives the
    call, so a forked process or a restored machine repeats nothing.
    """
    stream = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor()
    return stream.update(bytes(count))


def _uniform(count: int) -> np.ndarray:
    """`count` numbers in (0, 1] with 53 random bits each."""
    words = np.frombuffer(_random_bytes(8 * count), dtype=np.uint64)
    return ((words >> np.uint64(11)).astype(np.float64) + 1.0) * 2.0**-53


def gaussian(shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise, float64; nobody can seed it, nobody can repeat it.

    Args:
        shape: Shape of the result.

    Source: Box and Muller 1958; the sum of four draws follows Holohan and Braghin, arXiv:2107.10138, section 4.
    """
    count = int(np.prod(shape, dtype=np.int64))
    half = (count + 1) // 2
    total = np.zeros(2 * half)
    for _ in range(_DRAWS):
        radius = np.sqrt(-2.0 * np.log(_uniform(half)))
        angle = 2.0 * np.pi * _uniform(half)
        total += np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return torch.from_numpy(total[:count] / np.sqrt(_DRAWS)).view(shape)


def coins(count: int, probability: float) -> list[int]:
    """Indices in [0, count) whose own independent coin came up, each with `probability`.

    Poisson sampling: a coin for each record and step. Shuffling into batches does not earn the amplification that the
    accountant grants (arXiv:2403.17673).
    """
    if probability >= 1:
        return list(range(count))
    return [int(index) for index in np.flatnonzero(_uniform(count) <= probability)]
