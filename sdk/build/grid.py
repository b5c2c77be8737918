"""Weights in, the grid of sdk.packed out: scales and zeros, rounding, and rounding that training can see through.

Three ways onto the grid, from cheap to good:

    Grid.fitted(...).values(weights)     nearest values;
    compensated(weights, gram)           each column's rounding error is made up for by the columns after it (GPTQ);
    Grid.seen(weights)                   nearest values forward, identity backward, so that training learns around them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sdk.packed import BLOCK, pack4, rounded_scales

__all__ = ["Grid", "compensated", "packed8"]

TOP = 15  # Largest 4-bit code.
SHRINKS = tuple(1 - 0.04 * step for step in range(10))  # Ranges that a fit tries, as shares of the block's own.
DAMPING = 0.01  # Share of the mean diagonal added to a Gram matrix before it is inverted.


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Scales and zeros of a matrix at 4 bits."""

    scales: Tensor
    """Shape (out, blocks), float32, as sdk.packed.rounded_scales leaves them."""
    zeros: Tensor
    """Shape (out, blocks), whole numbers in 0..15, float32."""

    @classmethod
    def fitted(cls, weights: Tensor, *, importance: Tensor | None = None) -> "Grid":
        """The grid of least squared error among a few ranges, block by block.

        Args:
            weights: Shape (out, in); `in` a multiple of BLOCK.
            importance: Mean square of each input, shape (in,); None counts all alike.
        """
        blocks = weights.detach().view(len(weights), -1, BLOCK)  # (out, blocks, BLOCK)
        matter = torch.ones(blocks.shape[1:]) if importance is None else importance.view(blocks.shape[1:])
        low, high = blocks.amin(2).clamp(max=0), blocks.amax(2).clamp(min=0)  # (out, blocks)
        best = torch.full_like(low, torch.inf)
        scales, zeros = torch.ones_like(low), torch.zeros_like(low)
        for shrink in SHRINKS:
            scale = rounded_scales((high - low) * shrink / TOP, bits=4)
            zero = (-low * shrink / scale).round().clamp(0, TOP)
            tried = cls(scales=scale, zeros=zero)
            error = ((tried.values(weights).view_as(blocks) - blocks).square() * matter).sum(2)
            better = error < best
            best = torch.where(better, error, best)
            scales, zeros = torch.where(better, scale, scales), torch.where(better, zero, zeros)
        return cls(scales=scales, zeros=zeros)

    def codes(self, weights: Tensor) -> Tensor:
        """Nearest codes, shape (out, in), whole numbers in 0..15, float32."""
        return self._steps(weights).clamp(0, TOP).reshape(weights.shape)

    def values(self, weights: Tensor) -> Tensor:
        """Nearest values on the grid, shape (out, in)."""
        return self._of(self.codes(weights))

    def seen(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """values(weights), and where their gradient is passed on to `weights`: within the range of the codes, bool.

        Source: straight-through estimator, arXiv:1308.3432; clipped as in arXiv:1902.08153.
        """
        wanted = self._steps(weights)
        codes = wanted.clamp(0, TOP)
        return self._of(codes.view_as(weights)), (codes == wanted).view_as(weights)

    def packed(self, weights: Tensor) -> dict[str, Tensor]:
        """The parts that sdk.packed stores: codes, scales, zeros."""
        return {
            "codes": pack4(self.codes(weights)),
            "scales": self.scales.half(),
            "zeros": pack4(self.zeros),
        }

    def _steps(self, weights: Tensor) -> Tensor:
        """Nearest whole numbers before the ends of the range hold them, shape (out, blocks, BLOCK)."""
        steps = weights.detach().view(len(weights), -1, BLOCK) / self.scales[:, :, None]
        return steps.round() + self.zeros[:, :, None]

    def _of(self, codes: Tensor) -> Tensor:
        steps = codes.view(len(codes), -1, BLOCK) - self.zeros[:, :, None]
        return (steps * self.scales[:, :, None]).reshape(codes.shape)


def compensated(weights: Tensor, gram: Tensor) -> tuple[Grid, Tensor]:
    """Round column by column; what a column's rounding does to the outputs, later columns undo as far as they can.

    Args:
        weights: Shape (out, in).
        gram: Sum over inputs x of x xᵀ, shape (in, in), float32 or float64.

    Returns:
        The grid and weights on it, shape (out, in).

    Source: GPTQ, arXiv:2210.17323, algorithm 1, in the natural column order, grids fitted as their block is reached.
    """
    upper = _inverse_factor(gram)
    left, rounded = weights.detach().clone(), torch.empty_like(weights)
    importance = gram.diagonal().float()
    scales, zeros = [], []
    for start in range(0, weights.shape[1], BLOCK):
        block = slice(start, start + BLOCK)
        grid = Grid.fitted(left[:, block].contiguous(), importance=importance[block])
        scales.append(grid.scales)
        zeros.append(grid.zeros)
        errors = torch.zeros_like(left[:, block])
        for column in range(start, start + BLOCK):
            steps = (left[:, column] / grid.scales[:, 0]).round() + grid.zeros[:, 0]
            rounded[:, column] = (steps.clamp(0, TOP) - grid.zeros[:, 0]) * grid.scales[:, 0]
            error = (left[:, column] - rounded[:, column]) / upper[column, column]  # (out,)
            inside = slice(column + 1, start + BLOCK)
            left[:, inside] -= error[:, None] * upper[column, inside]
            errors[:, column - start] = error
        left[:, start + BLOCK :] -= errors @ upper[block, start + BLOCK :]
    return Grid(scales=torch.cat(scales, 1), zeros=torch.cat(zeros, 1)), rounded


def _inverse_factor(gram: Tensor) -> Tensor:
    """Upper Cholesky factor of the damped Gram matrix's inverse, shape (in, in), float32."""
    damped = gram.double() + DAMPING * gram.diagonal().mean().double() * torch.eye(len(gram), dtype=torch.float64)
    factor: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    return factor.float()


def packed8(weights: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """A matrix at 8 bits: the parts that sdk.packed stores, and the values they stand for, shape (out, in)."""
    blocks = weights.detach().view(len(weights), -1, BLOCK)
    wanted = blocks.abs().amax(2) / 127
    scales = rounded_scales(wanted, bits=8)
    scales = torch.where(scales < wanted, rounded_scales(scales * (1 + 2.0**-3), bits=8), scales)  # Ends stay inside.
    codes = (blocks / scales[:, :, None]).round().clamp(-127, 127)
    values = (codes * scales[:, :, None]).reshape(weights.shape)
    return {"codes": codes.to(torch.int8).reshape(weights.shape), "scales": scales.half()}, values
