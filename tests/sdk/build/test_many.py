"""Two real processes (gloo) must learn what one does: the same losses and the same weights."""

import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sdk.build import many
from sdk.build.losses import LossWeights, TopK, head_loss
from sdk.build.many import ALONE, Group, joined, shard_weights
from tests.forked import forked, needs_fork
from tests.tiny import VOCABULARY, tiny_model

MIX = LossWeights(cross_entropy=0.5, forward_kl=1.0)
BATCHES, ITEMS, SEQ = 6, 5, 12  # Five items: two processes get unequal shares.


class Step(nn.Module):
    """A model with its loss: what is called with items, as FSDP needs it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = tiny_model()

    def forward(self, items: list[dict[str, Tensor]], count: Tensor) -> Tensor:
        one = {name: torch.stack([item[name] for item in items]) for name in items[0]}
        hidden = self.model.model(one["ids"], use_cache=False).last_hidden_state
        teacher = TopK(ids=one["top"], log_probs=one["logs"], rest=one["rest"])
        loss = head_loss(
            hidden,
            self.model.lm_head.weight,
            mix=MIX,
            weights=one["weights"],
            targets=one["targets"],
            teacher=teacher,
        )
        return loss.total / count


def batch(number: int) -> list[dict[str, Tensor]]:
    """Items of very different weight, so that a mean of means is another number."""
    random = torch.Generator().manual_seed(number)
    items = []
    for item in range(ITEMS):
        ids = torch.randint(VOCABULARY, (SEQ + 1,), generator=random)
        logs, top = torch.log_softmax(torch.randn(SEQ, VOCABULARY, generator=random), -1).topk(8)
        counted = torch.arange(SEQ) < 1 + item * 2
        items.append(
            {"ids": ids[:-1], "targets": ids[1:], "top": top, "logs": logs, "rest": 1 - logs.exp().sum(-1)}
            | {"weights": counted.float()}
        )
    return items


def count_of(items: list[dict[str, Tensor]]) -> Tensor:
    return torch.stack([torch.zeros(()), *(item["weights"].sum() for item in items)]).sum()


def curve(group: Group, *, sharded: bool = False, items: int = ITEMS) -> dict[str, Any]:
    """A few AdamW steps: the loss of each, and the weights at the end."""
    step = Step()
    if sharded:
        shard_weights(step, step.model.model.layers, group)
    optimizer = torch.optim.AdamW(step.parameters(), lr=1e-3)
    losses, held = [], sum(parameter.numel() for parameter in local(step))
    for number in range(BATCHES):
        mine = group.shard(batch(number)[:items])
        count = group.summed(count_of(mine))
        loss = torch.zeros(())
        if mine:
            loss = step(mine, count)
            loss.backward()
        if not sharded:
            group.sum_gradients(step.parameters())
        nn.utils.clip_grad_norm_(step.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(group.summed(loss)))
    weights = {name: whole(value) for name, value in step.state_dict().items()}
    return {"losses": losses, "weights": weights, "held": held}


def local(step: nn.Module) -> list[Tensor]:
    return [getattr(parameter, "to_local", lambda parameter=parameter: parameter)() for parameter in step.parameters()]


def whole(value: Any) -> Tensor:
    gathered: Tensor = value.full_tensor() if hasattr(value, "full_tensor") else value
    return gathered.detach()


def on_two(work: Callable[[Group], Any], folder: Path) -> list[Any]:
    """What each of two processes makes of `work`."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]

    def one(rank: int) -> None:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        with joined() as group:
            torch.save(work(group), folder / f"{rank}.pt")

    ids = [forked(partial(one, rank)) for rank in range(2)]
    assert [os.waitstatus_to_exitcode(os.waitpid(one, 0)[1]) for one in ids] == [0, 0]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@needs_fork
def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    alone = curve(ALONE)
    for found in on_two(curve, tmp_path):
        assert found["losses"] == pytest.approx(alone["losses"], rel=1e-5)
        for name, weights in alone["weights"].items():
            assert torch.allclose(found["weights"][name], weights, atol=2e-5), name
    assert alone["losses"][-1] < alone["losses"][0]


@needs_fork
def test_weights_split_over_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    alone = curve(ALONE)
    first, second = on_two(lambda group: curve(group, sharded=True), tmp_path)
    assert first["held"] + second["held"] == alone["held"]
    assert first["held"] < 0.6 * alone["held"]
    for found in (first, second):
        assert found["losses"] == pytest.approx(alone["losses"], rel=1e-5)
        for name, weights in alone["weights"].items():
            assert torch.allclose(found["weights"][name], weights, atol=2e-5), name


@needs_fork
def test_a_process_whose_share_is_empty_goes_along(tmp_path: Path) -> None:
    alone = curve(ALONE, items=1)
    for found in on_two(lambda group: curve(group, items=1), tmp_path):
        assert found["losses"] == pytest.approx(alone["losses"], rel=1e-5)


def mean_of_means(self: Group, number: Tensor) -> Tensor:
    return number.detach() * (2.0 if number.numel() == 1 and number > 1 else 1.0)  # Counts are taken for equal.


@needs_fork
@pytest.mark.parametrize(
    ("name", "mutant"),
    [
        ("sum_gradients", lambda self, parameters: None),
        ("shard", lambda self, items: list(items[: len(items) // 2])),
        ("summed", mean_of_means),
    ],
    ids=["gradients that stay at home", "the same share for all", "a mean of means"],
)
def test_a_group_that_breaks_a_rule_is_caught(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, mutant: Any
) -> None:
    alone = curve(ALONE)
    monkeypatch.setattr(Group, name, mutant)
    first, second = on_two(curve, tmp_path)
    assert first["losses"] != pytest.approx(alone["losses"], rel=1e-4) or any(
        not torch.allclose(first["weights"][part], weights, atol=2e-4) for part, weights in alone["weights"].items()
    )
    assert second is not None


def test_shares_make_the_batch() -> None:
    for size in (1, 2, 3, 8):
        shares = [Group(rank=rank, size=size).shard(range(7)) for rank in range(size)]
        assert sorted(item for share in shares for item in share) == list(range(7))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_without_torchrun_there_is_one_process() -> None:
    with joined() as group:
        assert group == ALONE
        assert group.first
        assert group.summed(torch.tensor(3.0)).item() == 3.0
        group.wait()


def gradients(group: Group, bucket: int) -> list[Tensor]:
    many.BUCKET_NUMBERS = bucket
    parameters = [nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(5)), nn.Parameter(torch.zeros(2).double())]
    parameters[0].grad = torch.full((3, 2), 1.0 + group.rank)
    if group.rank:
        parameters[2].grad = torch.full((2,), 7.0).double()
    group.sum_gradients(iter(parameters))
    return [whole(parameter.grad) for parameter in parameters]


@needs_fork
def test_gradients_add_up_whatever_the_message_size_and_type(tmp_path: Path) -> None:
    def work(group: Group) -> list[list[Tensor]]:
        return [gradients(group, bucket) for bucket in (1, 7, 1000)]

    for found in on_two(work, tmp_path):
        for first, second, third in found:
            assert torch.equal(first, torch.full((3, 2), 3.0))
            assert torch.equal(second, torch.zeros(5))
            assert torch.equal(third, torch.full((2,), 7.0).double())
