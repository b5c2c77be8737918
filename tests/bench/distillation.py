"""Real text in, ways to teach the same student side by side out: each technique, the mix, the pipeline, and two peers.

Run with `python -m tests.bench.distillation --student FOLDER --rows FILE [--full] [--json]`. Smoke, the default: two
steps on layers 0 and 1 of the base, tells nothing about quality. Full: 8,192 tokens an arm, half a CPU-hour in all.
Arms that stand in --rows are not run again; each runs in a process of its own, for its memory.

Every arm begins with the same student and sees the same batches in the same order, with AdamW at the same rate. The
teacher is the base with the student's vocabulary. `pipeline` is what `limbeck build distill` does: lower layers frozen,
what they and the teacher say computed once; all other arms train every layer and ask the teacher at every step. Peers:
TRL's GKDTrainer on the given text (lmbda 0) with forward KL (beta 0), and Hugging Face's Trainer with cross-entropy;
TRL's own DistillationTrainer learns only from what the student generates. Without trl its arm is skipped.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import click
import torch
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, Trainer, TrainingArguments

from sdk.build.distill import Recipe
from sdk.build.distill import train as train_pipeline
from sdk.build.losses import (
    Dense,
    HeadLoss,
    LossWeights,
    attention_kl,
    feature_mse,
    head_loss,
    layer_pairs,
    self_distillation,
)
from sdk.build.outputs import lessons
from sdk.build.package import make_base
from sdk.build.plan import BuildPlan
from sdk.build.sequences import TokenSequence
from sdk.build.student import shallower
from sdk.build.vocabulary import Trimmed, trimmed_model
from sdk.build.worked import Worked
from sdk.bundle import cache_folder
from sdk.demo.presidents import names
from tests.bench.experts import HELD_OUT, texts
from tests.figures import show, table

SEQ, BATCH = 256, 4
RATE = 4e-4
POINTS, MAPS = 5, 3  # Layers whose states and whose attention are compared.
NONE = {"cross_entropy": 0.0, "forward_kl": 0.0}
ARMS = {
    "cross-entropy": LossWeights(**{**NONE, "cross_entropy": 1.0}),
    "logits": LossWeights(**{**NONE, "forward_kl": 1.0}),
    "attention": LossWeights(**NONE, attention=1.0),
    "features": LossWeights(**NONE, features=1.0),
    "self": LossWeights(**NONE, self_distillation=1.0),
    "mix": LossWeights(cross_entropy=0.5, forward_kl=1.0, features=1.0),
}
OTHERS = ("pipeline", "trl", "hf trainer")
LN2 = 0.6931471805599453


class Setting:
    """Teacher, student and text that all arms share."""

    def __init__(self, folder: Path | None, tokens: int, tested: int, *, eager: bool) -> None:
        base = make_base(cache_folder()).folder / "checkpoint"
        how: dict[str, Any] = {"attn_implementation": "eager" if eager else "sdpa", "dtype": torch.float32}
        teacher: Any = AutoModelForCausalLM.from_pretrained(base, **how).eval()
        its: Any = AutoTokenizer.from_pretrained(base)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder) if folder else its
        self.kept = BuildPlan().layers if folder else (0, 1)
        if folder:
            vocabulary = its.get_vocab()
            kept = [
                vocabulary[token] for token in self.tokenizer.convert_ids_to_tokens(list(range(len(self.tokenizer))))
            ]
            teacher = trimmed_model(teacher, Trimmed(tokenizer=cast(Any, self.tokenizer), kept=torch.tensor(kept)))
        self.teacher: Any = teacher.eval().requires_grad_(False)
        self.teacher.set_attn_implementation(how["attn_implementation"])
        self.student: Any = (
            LlamaForCausalLM.from_pretrained(folder, **how) if folder else shallower(teacher, self.kept).float()
        )
        self.student.requires_grad_(True)
        people = names()
        self.read, _ = self._stretches(people[:-HELD_OUT][::-1], tokens)
        self.test, self.bytes = self._stretches(people[-HELD_OUT:], tested)
        self.steps = len(self.read) // BATCH

    def _stretches(self, people: list[str], tokens: int) -> tuple[Tensor, int]:
        ids: list[int] = []
        for text in texts(people):
            ids += [self.tokenizer.eos_token_id, *self.tokenizer(text, add_special_tokens=False)["input_ids"]]
            if len(ids) >= tokens:
                break
        rows = torch.tensor(ids[: tokens // SEQ * SEQ]).view(-1, SEQ)
        spelt = self.tokenizer.batch_decode(rows[:, 1:], skip_special_tokens=True)
        return rows, sum(len(text.encode()) for text in spelt)


def loss_of(setting: Setting, ids: Tensor, mix: LossWeights) -> tuple[Tensor, Tensor]:
    """The loss of a batch that an arm of ours lessens, and how many positions count."""
    states, maps = bool(mix.features or mix.self_distillation), bool(mix.attention)
    asked = {"use_cache": False, "output_hidden_states": states, "output_attentions": maps}
    made = setting.student.model(ids, **asked)
    told = None
    if mix.forward_kl or mix.features or mix.attention:
        with torch.no_grad():
            told = setting.teacher.model(ids, **asked)
    weights, head = torch.ones(ids.shape[0], SEQ - 1), setting.student.lm_head.weight
    total, everywhere = torch.zeros(()), torch.ones(ids.shape)
    if mix.cross_entropy or mix.forward_kl:
        dense = Dense(hidden=told.last_hidden_state[:, :-1], head=setting.teacher.lm_head.weight) if told else None
        total = head_loss(
            made.last_hidden_state[:, :-1], head, mix=mix, weights=weights, targets=ids[:, 1:], teacher=dense
        ).total
    layers = setting.teacher.config.num_hidden_layers
    if mix.features and told:
        for ours, theirs in layer_pairs(setting.kept, layers, points=min(POINTS, len(setting.kept))):
            states_apart = feature_mse(made.hidden_states[ours], told.hidden_states[theirs], everywhere)
            total = total + mix.features * states_apart
    if mix.attention and told:
        for place in range(0, len(setting.kept), max(1, len(setting.kept) // MAPS)):
            seen = told.attentions[setting.kept[place]]
            total = total + mix.attention * attention_kl(made.attentions[place], seen, everywhere)
    if mix.self_distillation:
        last = len(setting.kept)
        exits = {
            place: setting.student.model.norm(made.hidden_states[place])[:, :-1]
            for place in (last // 2, last * 3 // 4)
            if 0 < place < last
        }
        total = total + self_distillation(exits, made.last_hidden_state[:, :-1], head, weights=weights).total
    return total, weights.sum()


def train_ours(setting: Setting, mix: LossWeights) -> list[float]:
    model = setting.student.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, setting.steps)
    losses = []
    for ids in setting.read.split(BATCH):
        total, count = loss_of(setting, ids, mix)
        loss = total / count
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses


def train_as_built(setting: Setting) -> list[float]:
    """The pipeline on the same text: lessons read once, then one pass over them, everything counted."""
    frozen = min(BuildPlan().frozen_layers, len(setting.kept) // 2)
    worked, tell = Worked(None), lambda what, done, total: None
    sequences = [TokenSequence(ids=tuple(row.tolist()), first=1) for row in setting.read]
    with torch.no_grad():
        made = lessons(
            sequences,
            student=setting.student,
            frozen=frozen,
            teacher=setting.teacher,
            top_k=BuildPlan().top_k,
            worked=worked,
            name="text",
            progress=tell,
        )
    setting.teacher = setting.teacher.to("meta")  # It has said all that it is asked.
    recipe = Recipe(frozen=frozen, mix=LossWeights(), rate=RATE, batch_tokens=SEQ * BATCH)
    trained = train_pipeline(setting.student, made, recipe, worked=worked, name="train", progress=tell)
    return [loss for _, loss in trained.losses]


def train_with_peer(setting: Setting, arm: str) -> list[float]:
    """TRL's GKDTrainer or Hugging Face's Trainer, on the same batches in the same order."""
    arguments: Any = TrainingArguments
    kind: Any = Trainer
    special: dict[str, Any] = {}
    if arm == "trl":
        peer = import_module("trl.experimental.gkd")
        arguments, kind = peer.GKDConfig, peer.GKDTrainer
        special = {"lmbda": 0.0, "beta": 0.0, "temperature": 1.0, "disable_dropout": False}
    losses: list[float] = []

    class InOrder(kind):  # type: ignore[misc]
        def _get_train_sampler(self, dataset: Any = None) -> SequentialSampler:
            return SequentialSampler(dataset if dataset is not None else self.train_dataset)

        def compute_loss(self, *args: Any, **named: Any) -> Any:
            made = super().compute_loss(*args, **named)
            losses.append(float((made[0] if isinstance(made, tuple) else made).detach()))
            return made

    settings = arguments(
        output_dir=str(Path("/dev/shm") / "limbeck-bench-peer"),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=RATE,
        adam_beta2=0.95,
        weight_decay=0.0,
        lr_scheduler_type="cosine",
        max_grad_norm=1.0,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
        **special,
    )
    extra = {"teacher_model": setting.teacher, "processing_class": setting.tokenizer} if arm == "trl" else {}
    rows = import_module("datasets").Dataset.from_dict({"input_ids": setting.read.tolist()})
    InOrder(
        model=setting.student, args=settings, train_dataset=rows, data_collator=_collated_for_peers, **extra
    ).train()
    return losses


def _collated_for_peers(rows: Sequence[dict[str, list[int]]]) -> dict[str, Tensor]:
    ids = torch.tensor([row["input_ids"] for row in rows])
    labels = ids.clone()
    labels[:, 0] = -100  # It is not predicted; peers divide by the labels that count.
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


@torch.no_grad()
def scores(setting: Setting, teacher: Any) -> dict[str, float]:
    """Bits per byte of held-out text, divergence from the teacher in nats, share of equal first choices."""
    model, mix = setting.student.eval(), LossWeights(cross_entropy=1.0, forward_kl=1.0)
    bits = apart = alike = count = 0.0
    for ids in setting.test.split(BATCH):
        mine = model.model(ids, use_cache=False).last_hidden_state[:, :-1]
        told = Dense(hidden=teacher.model(ids, use_cache=False).last_hidden_state[:, :-1], head=teacher.lm_head.weight)
        weights = torch.ones(ids.shape[0], SEQ - 1)
        loss: HeadLoss = head_loss(
            mine, model.lm_head.weight, mix=mix, weights=weights, targets=ids[:, 1:], teacher=told
        )
        bits += float(loss.parts["cross_entropy"]) / LN2
        apart += float(loss.parts["forward_kl"])
        alike += float(((mine @ model.lm_head.weight.t()).argmax(-1) == told.logits(slice(None)).argmax(-1)).sum())
        count += float(loss.count)
    return {"bits_per_byte": bits / setting.bytes, "kl": apart / count, "agreement": alike / count}


def peak_megabytes() -> float:
    """Largest resident memory of this process since it was last forgotten; nan where /proc does not say."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return float("nan")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1e3


def forget_peak() -> None:
    """Begin to count the largest resident memory anew, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def measure(arm: str, student: Path | None, tokens: int, tested: int) -> dict[str, Any]:
    """One arm, in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    setting = Setting(student, tokens, tested, eager=arm == "attention")
    teacher = setting.teacher
    row: dict[str, Any] = {"arm": arm, "tokens": setting.read.numel(), "tested_tokens": setting.test.numel()}
    if arm == "start":
        return row | scores(setting, teacher)
    runs: dict[str, Callable[[], list[float]]] = {
        "pipeline": lambda: train_as_built(setting),
        "trl": lambda: train_with_peer(setting, arm),
        "hf trainer": lambda: train_with_peer(setting, arm),
    }
    run = runs[arm] if arm in runs else lambda: train_ours(setting, ARMS[arm])
    forget_peak()
    began = time.process_time()
    losses = run()
    row |= {
        "tokens_per_cpu_second": setting.read.numel() / (time.process_time() - began),
        "peak_mb": peak_megabytes(),
        "losses": losses,
    }
    if arm == "pipeline":  # Its teacher is gone; another one reads the held-out text.
        teacher = Setting(student, SEQ, SEQ, eager=False).teacher
    return row | scores(setting, teacher)


def rows_of(file: Path) -> dict[str, dict[str, Any]]:
    """What is measured already."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return {row["arm"]: row for row in map(json.loads, lines)}


def missing(file: Path, arms: Sequence[str], student: Path | None, size: Sequence[str]) -> Iterator[str]:
    """Run what is not in the file yet, one process an arm; yields what could not be run and why."""
    for arm in arms:
        if arm in rows_of(file):
            continue
        if arm in ("trl", "hf trainer") and find_spec("trl" if arm == "trl" else "datasets") is None:
            yield f"{arm}: not installed here; take a venv of --system-site-packages and pip install trl==1.16.0"
            continue
        given = ["--student", str(student)] if student else []
        command = [sys.executable, "-m", "tests.bench.distillation", "--arm", arm, "--rows", str(file), *given, *size]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            yield f"{arm}: {(done.stderr.strip().splitlines() or ['ended without a word'])[-1]}"


@click.command()
@click.option("--student", type=click.Path(path_type=Path, exists=True, file_okay=False), help="A Llama's folder.")
@click.option("--rows", required=True, type=click.Path(path_type=Path, dir_okay=False), help="JSON lines, one an arm.")
@click.option("--full", is_flag=True, help="8,192 tokens an arm; the default is a smoke run of two steps.")
@click.option("--arm", type=click.Choice(["start", *ARMS, *OTHERS]), help="Only this one, in this process.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(student: Path | None, rows: Path, full: bool, arm: str | None, as_json: bool) -> None:
    """Compare ways to teach the same student."""
    tokens, tested = (8_192, 4_096) if full else (2_048, 1_024)
    if arm:
        row = measure(arm, student, tokens, tested)
        with rows.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")
        return
    skipped = list(missing(rows, ["start", *ARMS, *OTHERS], student, ["--full"] if full else []))
    found = rows_of(rows)
    lines = [
        [
            name,
            *(f"{row[key]:.4f}" for key in ("bits_per_byte", "kl", "agreement")),
            *(f"{row[key]:.0f}" if key in row else "" for key in ("tokens_per_cpu_second", "peak_mb")),
        ]
        for name, row in found.items()
    ]
    words = table(["", "bits/byte", "KL", "agreement", "tok/cpu-s", "peak MB"], lines)
    words += "".join(f"\nskipped {line}" for line in skipped)
    facts: dict[str, Any] = {"arms": found, "skipped": skipped}
    for ours, theirs in (("logits", "trl"), ("cross-entropy", "hf trainer")):
        if ours in found and theirs in found:
            apart = max(abs(a - b) for a, b in zip(found[ours]["losses"], found[theirs]["losses"], strict=True))
            facts[f"largest difference of losses, {ours} and {theirs}"] = apart
            words += f"\nlosses of {ours} and {theirs} differ by at most {apart:.1e}"
    show(facts, words, as_json=as_json)


if __name__ == "__main__":
    main()
