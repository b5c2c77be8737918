"""One process's training step in, the same step made by many processes together out.

Rules:
    - Every process has the same model and goes through the same batches in the same order; of each batch it takes every
      n-th item, so what is learned does not depend on how many processes there are.
    - Losses are sums. They are divided once, by the count of all processes: a mean of means would favour short items.
    - What is decided (a step, a stop, a number that is no number) is decided from what all know, so that all decide
      alike; a process that left the others would keep them waiting for ever.
    - Only the first process writes. Others read after `wait`.

Without torchrun there is one process, and nothing here costs anything.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

__all__ = ["ALONE", "Group", "joined", "shard_weights"]

BUCKET_NUMBERS = 8_000_000  # Of one message: 32 MB, few messages and little copied at once.

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Group:
    """This process among those that train together."""

    rank: int = 0
    """Its number, 0 to size - 1."""
    size: int = 1
    """How many there are."""

    @property
    def first(self) -> bool:
        """Whether this process writes and talks."""
        return self.rank == 0

    def shard(self, items: Sequence[Item]) -> list[Item]:
        """This process's share of a batch: every size-th item, in order. It may be empty; all shares make the batch."""
        return list(items[self.rank :: self.size])

    def summed(self, number: Tensor) -> Tensor:
        """The sum over all processes, without gradient; all get the same."""
        total = number.detach().clone()
        if self.size > 1:
            distributed.all_reduce(total)
        return total

    def most(self, number: float) -> float:
        """The largest over all processes; all get the same."""
        if self.size == 1:
            return number
        found = torch.tensor(number, dtype=torch.float64)
        distributed.all_reduce(found, op=distributed.ReduceOp.MAX)
        return float(found)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Put the sum over all processes in place of each gradient; a parameter without one counts as zero.

        The loss must have been divided by the count of all processes before. A few large messages go out instead of
        one a parameter.
        """
        if self.size == 1:
            return
        bucket: list[nn.Parameter] = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            alike = not bucket or bucket[0].grad is None or parameter.grad.dtype == bucket[0].grad.dtype
            if bucket and (not alike or sum(map(torch.numel, [*bucket, parameter])) > BUCKET_NUMBERS):
                _sum(bucket)
                bucket = []
            bucket.append(parameter)
        if bucket:
            _sum(bucket)

    def wait(self) -> None:
        """Go on when all processes are here."""
        if self.size > 1:
            distributed.barrier()


ALONE = Group()
"""The one process of a run without torchrun."""


@contextmanager
def joined() -> Iterator[Group]:
    """Join the processes that torchrun started, for the time of a `with` block; without torchrun there is one.

    `torchrun --nproc-per-node 8 -m sdk.cli.app build distill …` starts eight on one machine; `--nnodes` and
    `--rdzv-endpoint` join several machines, which then need a common disk for the half-done work. GPUs talk through
    NCCL, CPUs through gloo.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Group(rank=distributed.get_rank(), size=size)
    finally:
        distributed.destroy_process_group()


def shard_weights(module: nn.Module, blocks: Iterable[nn.Module], group: Group) -> None:
    """Split weights, gradients and optimizer state over all processes (FSDP), in place; one process is left alone.

    For models that do not fit one GPU beside their optimizer: each process holds 1/size of everything, and a block's
    weights are gathered just while it works. Gradients are then already summed: `sum_gradients` is not called. The
    loss must be computed inside `module`'s forward, which is what gathers the head and the norm, and every process
    needs a share of every batch, because all of them gather together.

    Run on CPUs with gloo only, so far; not on a GPU.

    Args:
        module: What is called with a batch and returns the loss.
        blocks: Its parts that are gathered one at a time, such as the layers of a model.
        group: The processes.

    Source: PyTorch FSDP, arXiv:2304.11277, in its second form (`fully_shard`).
    """
    if group.size == 1:
        return
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = init_device_mesh(kind, (group.size,))
    for part in (*blocks, module):
        fully_shard(part, mesh=mesh)
        assert isinstance(part, FSDPModule)
        part.set_force_sum_reduction_for_comms(True)  # Gloo knows no other.
        part.set_gradient_divide_factor(1.0)  # Sums, not means.


def _sum(parameters: Sequence[nn.Parameter]) -> None:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
