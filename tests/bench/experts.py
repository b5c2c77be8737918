"""Real text in, a dense student and one of experts at equal active parameters side by side out.

Run with `python -m tests.bench.experts --student FOLDER [--full] [--json]`. Smoke, the default: a few steps, under a
CPU-minute, tells nothing about quality. Full: about 20 CPU-minutes. Without --student two layers of the base are taken
as student, untrained.

Both students begin as the same function, see the same batches in the same order, and learn from the base model's
distribution (weight 1) and from the text (weight 0.5) with AdamW at the same rate. A token meets equally many weights
in both (router aside); the student of experts holds --copies times as many in its feed-forwards.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, MixtralForCausalLM

from sdk.build.experts import ExpertsPlan, active_parameters, balancing_loss, expert_shares, upcycle
from sdk.build.losses import Dense, LossWeights, head_loss
from sdk.build.package import make_base
from sdk.build.student import shallower
from sdk.bundle import cache_folder
from sdk.demo.presidents import names, records_of
from tests.figures import show, table

SEQ, BATCH = 128, 4
MIX = LossWeights(cross_entropy=0.5, forward_kl=1.0)
RATE = 4e-4
HELD_OUT = 4  # The latest presidents, whom nobody trains on.


def texts(people: list[str]) -> list[str]:
    return [record.answer for name in people for record in records_of(name)]


def stretches(tokenizer: Any, people: list[str], tokens: int) -> tuple[Tensor, int]:
    """Token ids, shape (stretches, SEQ), and the bytes that they spell."""
    ids: list[int] = []
    for text in texts(people):
        ids += [tokenizer.eos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        if len(ids) >= tokens:
            break
    kept = torch.tensor(ids[: len(ids) // SEQ * SEQ]).view(-1, SEQ)
    return kept, sum(len(text.encode()) for text in tokenizer.batch_decode(kept[:, 1:], skip_special_tokens=True))


def teacher_head(teacher: Any, its: Any, ours: Any) -> tuple[Tensor, Tensor]:
    """The teacher's ids of the student's tokens, shape (vocab,), and its head for them."""
    vocabulary = its.get_vocab()
    ids = torch.tensor([vocabulary[token] for token in ours.convert_ids_to_tokens(range(len(ours)))])
    return ids, teacher.lm_head.weight[ids].detach()


def loss_of(model: Any, told: Dense, ids: Tensor) -> tuple[Any, Any]:
    """The head's loss at every position but the last, and what the model made besides."""
    made = model.model(ids, use_cache=False, output_router_logits=isinstance(model, MixtralForCausalLM))
    weights = torch.ones(ids.shape[0], SEQ - 1)
    hidden = made.last_hidden_state[:, :-1]
    return head_loss(hidden, model.lm_head.weight, mix=MIX, weights=weights, targets=ids[:, 1:], teacher=told), made


def train(model: Any, batches: Iterator[tuple[Tensor, Dense]], steps: int, balance: float) -> float:
    """Train in place; returns tokens per CPU-second of the student alone."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    spent, seen = 0.0, 0
    for ids, told in batches:
        began = time.process_time()
        loss, made = loss_of(model, told, ids)
        total = loss.total / loss.count
        if isinstance(model, MixtralForCausalLM):
            everywhere = torch.ones_like(ids)
            total = total + balance * balancing_loss(
                made.router_logits, everywhere, chosen=model.config.num_experts_per_tok
            )
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        spent, seen = spent + time.process_time() - began, seen + ids.numel()
    return seen / spent


@torch.no_grad()
def scores(model: Any, batches: Iterator[tuple[Tensor, Dense]], size: int) -> dict[str, float]:
    """Bits per byte of the text, divergence from the teacher in nats, share of equal first choices."""
    model.eval()
    bits = apart = alike = count = 0.0
    for ids, told in batches:
        loss, made = loss_of(model, told, ids)
        bits += float(loss.parts["cross_entropy"]) / 0.6931471805599453
        apart += float(loss.parts["forward_kl"])
        mine = (made.last_hidden_state[:, :-1] @ model.lm_head.weight.t()).argmax(-1)
        alike += float((mine == told.logits(slice(None)).argmax(-1)).sum())
        count += float(loss.count)
    return {"bits_per_byte": bits / size, "kl": apart / count, "agreement": alike / count}


@torch.no_grad()
def shares(model: MixtralForCausalLM, ids: Tensor) -> Tensor:
    """Share of a layer's assignments that its busiest expert gets, shape (layers,)."""
    logits = model.model(ids, use_cache=False, output_router_logits=True).router_logits
    return expert_shares(logits, torch.ones_like(ids), chosen=model.config.num_experts_per_tok).max(1).values


def measure(student: Path | None, tokens: int, tested: int, plan: ExpertsPlan) -> dict[str, Any]:
    base = make_base(cache_folder()).folder / "checkpoint"
    teacher = AutoModelForCausalLM.from_pretrained(base).eval()
    its = AutoTokenizer.from_pretrained(base)
    dense = LlamaForCausalLM.from_pretrained(student) if student else shallower(teacher, (0, 1))
    ours = AutoTokenizer.from_pretrained(student) if student else its
    to_teacher, head = teacher_head(teacher, its, ours)

    def told(rows: Tensor) -> Iterator[tuple[Tensor, Dense]]:
        for ids in rows.split(BATCH):
            with torch.no_grad():
                hidden = teacher.model(to_teacher[ids], use_cache=False).last_hidden_state[:, :-1]
            yield ids, Dense(hidden=hidden, head=head)

    people = names()
    order = torch.randperm(1_000_000, generator=torch.Generator().manual_seed(0))
    read, _ = stretches(ours, people[:-HELD_OUT][::-1], tokens)
    read = read[order[order < len(read)]]
    test, size = stretches(ours, people[-HELD_OUT:], tested)
    found: dict[str, Any] = {"tokens": read.numel(), "tested_tokens": test.numel(), "seq": SEQ, "rate": RATE}
    found["start"] = scores(dense, told(test), size)
    for name in ("experts", "dense"):
        model = upcycle(dense, plan) if name == "experts" else dense
        row: dict[str, float] = {
            "active": active_parameters(model),
            "held": sum(weights.numel() for weights in model.parameters()),
        }
        if isinstance(model, MixtralForCausalLM):
            found["experts_start"] = scores(model, told(test), size)
        row["tokens_per_cpu_second"] = train(model, told(read), -(-len(read) // BATCH), plan.balance)
        found[name] = row | scores(model, told(test), size)
        if isinstance(model, MixtralForCausalLM):
            found["busiest"] = shares(model, test[:BATCH]).tolist()
        del model
    return found


@click.command()
@click.option("--student", type=click.Path(path_type=Path, exists=True, file_okay=False), help="A Llama's folder.")
@click.option("--full", is_flag=True, help="20,000 tokens; the default is a smoke run of 1,024.")
@click.option("--copies", type=click.IntRange(2), default=4, show_default=True, help="Of each half feed-forward.")
@click.option("--noise", type=float, default=0.0, show_default=True, help="On each copy, over its weights' spread.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(student: Path | None, full: bool, copies: int, noise: float, as_json: bool) -> None:
    """Compare a dense student with one of experts at equal active parameters."""
    torch.set_num_threads(1)
    tokens, tested = (20_000, 12_000) if full else (1_024, 512)
    found = measure(student, tokens, tested, ExpertsPlan(copies=copies, shards=2, active=1, noise=noise))
    rows = [
        [
            name,
            *(f"{found[name].get(key, 0) / 1e6:.1f}" for key in ("active", "held")),
            *(f"{found[name][key]:.4f}" for key in ("bits_per_byte", "kl", "agreement")),
            f"{found[name].get('tokens_per_cpu_second', 0):.0f}",
        ]
        for name in ("start", "experts_start", "dense", "experts")
    ]
    columns = ["", "active M", "held M", "bits/byte", "KL", "agreement", "tok/cpu-s"]
    words = f"{found['tokens']} tokens, tested on {found['tested_tokens']}; busiest expert of 8 gets at most "
    words = words.replace("of 8", f"of {2 * copies}") + f"{max(found['busiest']):.2f} of a layer's assignments"
    show(found, f"{words}\n{table(columns, rows)}", as_json=as_json)


if __name__ == "__main__":
    main()
