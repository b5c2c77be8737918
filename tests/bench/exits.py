"""A student in, how early its tokens could leave before and after its deeper layers taught its shallower ones out.

Run with `python -m tests.bench.exits --student FOLDER [--full] [--json]`. Smoke, the default: a few steps, under a
CPU-minute. Full: 8,192 tokens of training, about 5 CPU-minutes. Without --student four layers of the base are taken.

Trained twice from the same start on the same presidents' addresses in the same order: once on text alone, once with
self-distillation at EXITS beside it (weight 1), so that what is compared is the self-distillation. Only the upper half
of the layers is trained.
"""

from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from transformers import AutoTokenizer

from sdk.build.checkpoint import open_checkpoint
from sdk.build.exits import Looks, early_exit, look
from sdk.build.losses import LossWeights, head_loss, self_distillation
from sdk.build.package import make_base
from sdk.build.student import shallower
from sdk.bundle import cache_folder
from sdk.demo.presidents import names
from tests.bench.experts import HELD_OUT, SEQ, stretches
from tests.figures import show, table

BATCH, RATE = 4, 2e-4
TEXT = LossWeights(cross_entropy=1, forward_kl=0)
WANTED = (0.9, 0.95, 0.99)


def exits_of(layers: int) -> tuple[int, ...]:
    """Where shallower layers are taught: at five eighths, six eighths and seven eighths of the depth."""
    return tuple(sorted({layers * eighth // 8 for eighth in (5, 6, 7)} - {layers - 1}))


def train(model: Any, read: Tensor, weight: float) -> None:
    """Train the upper half in place."""
    layers = len(model.model.layers)
    model.requires_grad_(False)
    trained = [*model.model.layers[layers // 2 :].parameters(), *model.model.norm.parameters()]
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)
    for ids in read.split(BATCH):
        states = model.model(ids, use_cache=False, output_hidden_states=True).hidden_states
        last, head, weights = states[-1][:, :-1], model.lm_head.weight, torch.ones(len(ids), SEQ - 1)
        loss = head_loss(last, head, mix=TEXT, weights=weights, targets=ids[:, 1:])
        total = loss.total
        if weight:
            shallow = {layer: model.model.norm(states[layer + 1])[:, :-1] for layer in exits_of(layers)}
            total = total + weight * self_distillation(shallow, last, head, weights=weights).total
        (total / loss.count).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def described(looks: Looks) -> dict[str, Any]:
    leaving = {wanted: early_exit(looks, agreement=wanted) for wanted in WANTED}
    return {
        "agreement": dict(zip(looks.layers, looks.agreement.tolist(), strict=True)),
        "kl": dict(zip(looks.layers, looks.kl.tolist(), strict=True)),
        "early": {wanted: 1 - one.leaving[-1] for wanted, one in leaving.items()},
        "found": {wanted: one.agreement for wanted, one in leaving.items()},
        "layers_run": {wanted: one.layers_run for wanted, one in leaving.items()},
    }


def opened(student: Path | None) -> tuple[Any, Any]:
    if student is not None:
        return open_checkpoint(student)
    folder = make_base(cache_folder()).folder / "checkpoint"
    return shallower(open_checkpoint(folder)[0], (0, 1, 28, 29)), AutoTokenizer.from_pretrained(folder)


def bits(model: Any, test: Tensor) -> float:
    """Mean loss on the tested text, in bits a token."""
    with torch.no_grad():
        hidden = model.model(test, use_cache=False).last_hidden_state[:, :-1]
        loss = head_loss(
            hidden, model.lm_head.weight, mix=TEXT, weights=torch.ones(len(test), SEQ - 1), targets=test[:, 1:]
        )
    return float(loss.total / loss.count) / 0.6931471805599453


def measure(student: Path | None, tokens: int, tested: int) -> dict[str, Any]:
    people, found = names(), {}
    for name, weight in (("start", None), ("text alone", 0.0), ("self-distilled", 1.0)):
        model, tokenizer = opened(student)
        layers = len(model.model.layers)
        looked = (*exits_of(layers), layers // 2)
        test, _ = stretches(tokenizer, people[-HELD_OUT:], tested)
        if weight is not None:
            read, _ = stretches(tokenizer, people[:-HELD_OUT][::-1], tokens)
            train(model, read, weight)
        found[name] = described(look(model, test.split(BATCH), layers=looked)) | {"bits_per_token": bits(model, test)}
    return found


@click.command()
@click.option("--student", type=click.Path(path_type=Path, exists=True, file_okay=False), help="A Llama's folder.")
@click.option("--full", is_flag=True, help="8,192 tokens; the default is a smoke run of 512.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(student: Path | None, full: bool, as_json: bool) -> None:
    """Measure early exit before and after self-distillation."""
    torch.set_num_threads(1)
    found = measure(student, *((8_192, 8_192) if full else (512, 512)))
    layers = list(found["start"]["agreement"])
    columns = ["", "bits/token", *(f"after {layer}" for layer in layers), *(f"early at {wanted}" for wanted in WANTED)]
    rows = [
        [
            name,
            f"{one['bits_per_token']:.3f}",
            *(f"{one['agreement'][layer]:.3f} / {one['kl'][layer]:.2f}" for layer in layers),
            *(f"{one['early'][wanted]:.3f} ({one['found'][wanted]:.3f})" for wanted in WANTED),
        ]
        for name, one in found.items()
    ]
    words = "agreement / KL with the last layer; share of tokens that leave early (agreement found)"
    show(found, f"{words}\n{table(columns, rows)}", as_json=as_json)


if __name__ == "__main__":
    main()
