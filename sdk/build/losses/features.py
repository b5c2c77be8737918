"""Hidden states of student and teacher in, how unlike they are out; and which layers to compare.

A pruned student's layer hands on to the next layer that was *kept*. So after student layer j its state must be what the
teacher feeds into that layer, which may lie several teacher layers further on. Pairs counted evenly instead compare
states that were never meant to agree.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor

__all__ = ["LayerPair", "feature_mse", "layer_pairs"]

SMALLEST_SQUARE = 1e-12  # Under the root of a mean square: a state of zeros stays one of zeros.


class LayerPair(NamedTuple):
    """Two places that should hold the same state, as indices into `hidden_states` of a Hugging Face model.

    `hidden_states[i]` is what goes into layer i; the last entry is the last layer's output after the final norm.
    """

    student: int
    teacher: int


def layer_pairs(kept: Sequence[int], teacher_layers: int, *, points: int | None = None) -> tuple[LayerPair, ...]:
    """Where to compare a student that kept some of its teacher's layers.

    Args:
        kept: Index in the teacher of each student layer, rising.
        teacher_layers: Layers of the teacher.
        points: Take so many, spread evenly and ending with the last; None takes one after each student layer.

    Raises:
        ValueError: `kept` does not rise or leaves the teacher, or `points` is not in 1..layers.

    Source: original indices, as optipfair's issue 41 asks; compare the uniform map of TinyBERT, arXiv:1909.10351.
    """
    rising = all(first < second for first, second in pairwise(kept))
    if not kept or not rising or kept[0] < 0 or kept[-1] >= teacher_layers:
        raise ValueError(f"kept layers must rise within 0..{teacher_layers - 1}, got {list(kept)}")
    every = [LayerPair(place, layer) for place, layer in enumerate((*kept[1:], teacher_layers), start=1)]
    if points is None:
        return tuple(every)
    if not 1 <= points <= len(every):
        raise ValueError(f"points must be in 1..{len(every)}, got {points}")
    return tuple(every[len(every) * (point + 1) // points - 1] for point in range(points))


def feature_mse(student: Tensor, teacher: Tensor, weights: Tensor, *, projection: Tensor | None = None) -> Tensor:
    """Σ over positions of weight · mean over width of (s / rms(s) - t / rms(t))², a scalar.

    States are scaled to root mean square 1 first: their size differs a hundredfold between layers and does not pass the
    next norm anyway. The first position of each sequence is left out: it is where attention rests, with activations of
    tens of thousands that would drown all others.

    Args:
        student: Shape (batch, seq, width).
        teacher: Shape (batch, seq, teacher width); no gradient flows into it.
        weights: Shape (batch, seq).
        projection: Shape (width, teacher width), where the widths differ.

    Raises:
        ValueError: The widths differ and there is no projection.

    Source: arXiv:1412.6550 (hints); scaling as above is ours.
    """
    ours = student if projection is None else student @ projection
    if ours.shape != teacher.shape:
        raise ValueError(f"states of shape {tuple(ours.shape)} and {tuple(teacher.shape)}; give a projection")
    apart = (_unit(ours) - _unit(teacher.detach())).square().mean(-1)  # (batch, seq)
    return (apart * weights)[:, 1:].sum()


def _unit(states: Tensor) -> Tensor:
    return states * (states.square().mean(-1, keepdim=True) + SMALLEST_SQUARE).rsqrt()
