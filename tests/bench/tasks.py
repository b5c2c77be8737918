"""P2, TASK-STREAM: intents in tasks one after the other in, what is known and what was forgotten after each out.

Run with `python -m tests.bench.tasks [--full --rows FILE] [--minutes M] [--json]`. Smoke, the default: a few classes of
each set, about two CPU-minutes. Full: CLINC150 in 15 tasks of 10 classes in the order of its file, and HWU64 by
scenario; each run of an arm is appended to FILE as one JSON line, and what stands there is not run again. What the
frozen layers make of the texts is computed once and kept in the cache folder.

Class-incremental: at every moment each text may belong to any class seen so far, and nobody says which task it is from.
With a[i][j] = accuracy (per cent) on task j after task i, of T tasks:
    ACC = mean_j a[T][j]    Abar = mean_i mean_{j<=i} a[i][j]    BWT = mean_{j<T} (a[T][j] - a[j][j])
    forgetting = mean_{j<T} (max_i a[i][j] - a[T][j])
    FWT = mean_{j>1} (p[j-1][j] - p[0][j]), where p[i][j] is the accuracy among the classes of task j of nearest class
    means on the features after task i: a class that was never seen cannot be named, so transfer is read off features.

Arms: `means` and `lda` on frozen features keep sums per class and no text; `lora` trains LoRA and a linear head on one
task after the other with no safeguard; `rehearsal` keeps a few texts of each class; `joint` has all tasks at once.
"""

import hashlib
import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from personalize.adapter import Adapter, AdapterSpec, attached, fresh
from personalize.forward import Batch, encode, prefixes, upper_states
from personalize.train import Adam
from personalize.trainable import trainable
from sdk.build.package import make_base
from sdk.bundle import Bundle, cache_folder
from sdk.device.night import ADAPTED_LAYERS
from sdk.device.runtime import Runtime
from tests.bench.people import DATA, data_folder
from tests.figures import show, table

ARMS = ("means", "lda", "lora", "rehearsal", "joint")
RATE, BATCH, EPOCHS = 1e-3, 16, 3
KEPT = 5  # Texts of each class in the rehearsal buffer: a twentieth of CLINC150.
SHRINKAGE = 0.1  # Of the shared covariance toward its diagonal mean, fixed in advance.
FIGURES = ("ACC", "Abar", "BWT", "FWT", "forgetting")
PUBLISHED = (  # No stored texts, 15 tasks of CLINC150; ACC.
    ("published, Pythia-410m: SEQ", 12.3),
    ("published, Pythia-410m: LAMOL_t", 43.4),
    ("published, Pythia-410m: PCLL", 47.1),
    ("published, Pythia-410m: SEQ*", 84.5),
)

Vector = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Texts with their classes."""

    rows: tuple[int, ...]
    """Where each text stands in the features."""
    labels: tuple[int, ...]
    """Number of each text's class, in the order in which classes appear in the stream."""


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Tasks in their order."""

    name: str
    texts: tuple[str, ...]
    train: tuple[Part, ...]
    test: tuple[Part, ...]


# Data


def clinc(tasks: int, classes: int, per_train: int, per_test: int) -> Stream | None:
    """CLINC150: `tasks` tasks of `classes` classes in the order of the file. None without the data."""
    if (folder := data_folder("clinc150")) is None:
        return None
    held = json.loads((folder / "data_full.json").read_text(encoding="utf-8"))
    train, test = ([(text, label) for text, label in held[part]] for part in ("train", "test"))
    order = list(dict.fromkeys(label for _, label in train))
    groups = [order[task * classes : (task + 1) * classes] for task in range(tasks)]
    return _stream("CLINC150", groups, train, test, per_train, per_test)


def hwu(tasks: int, classes: int, per_train: int, per_test: int) -> Stream | None:
    """HWU64: a scenario a task, in the order of the file. None without the data."""
    if (folder := data_folder("hwu64")) is None:
        return None
    (lines,), (nested,) = list(folder.glob("*.csv")), list(folder.glob("*.json"))
    train = [tuple(line.rsplit(",", 1)) for line in lines.read_text(encoding="utf-8").splitlines() if "," in line]
    examples = json.loads(nested.read_text(encoding="utf-8"))["rasa_nlu_data"]["common_examples"]
    test = [(row["text"], row["intent"]) for row in examples]
    scenarios = defaultdict(list)
    for label in dict.fromkeys(label for _, label in train):
        scenarios[label.split("_")[0]].append(label)
    groups = [labels[:classes] for labels in scenarios.values()][:tasks]
    return _stream("HWU64", groups, train, test, per_train, per_test)  # type: ignore[arg-type]


def _stream(
    name: str,
    groups: Sequence[Sequence[str]],
    train: Sequence[tuple[str, str]],
    test: Sequence[tuple[str, str]],
    per_train: int,
    per_test: int,
) -> Stream:
    number = {label: place for place, label in enumerate(label for group in groups for label in group)}
    texts: list[str] = []

    def part(rows: Sequence[tuple[str, str]], group: Sequence[str], limit: int) -> Part:
        taken: dict[str, int] = defaultdict(int)
        places, labels = [], []
        for text, label in rows:
            if label in group and taken[label] < limit:
                taken[label] += 1
                places.append(len(texts))
                labels.append(number[label])
                texts.append(text)
        return Part(rows=tuple(places), labels=tuple(labels))

    parts = [(part(train, group, per_train), part(test, group, per_test)) for group in groups]
    return Stream(
        name=name, texts=tuple(texts), train=tuple(one for one, _ in parts), test=tuple(other for _, other in parts)
    )


# Features


@dataclass(frozen=True, kw_only=True)
class Features:
    """What the frozen layers make of every text of a stream."""

    model: Any
    spec: AdapterSpec
    hidden: tuple[Tensor, ...]
    """One tensor a text, shape (tokens, width), half precision."""

    def batch(self, rows: Sequence[int]) -> tuple[Batch, Tensor]:
        """Texts side by side, and the mask of their tokens, (batch, seq, 1)."""
        width, length = self.hidden[0].shape[1], max(len(self.hidden[row]) for row in rows)
        hidden, mask = torch.zeros(len(rows), length, width), torch.zeros(len(rows), length, 1)
        for at, row in enumerate(rows):
            hidden[at, : len(self.hidden[row])] = self.hidden[row].float()
            mask[at, : len(self.hidden[row])] = 1.0
        empty = torch.zeros(hidden.shape[:2], dtype=torch.long)
        return Batch(hidden=hidden, targets=empty, weights=mask[..., 0]), mask

    def pooled(self, rows: Sequence[int]) -> Tensor:
        """Mean over a text's tokens of what the upper layers make of it, adapter on or not, (texts, width)."""
        batch, mask = self.batch(rows)
        return (upper_states(self.model, batch, cut=self.spec.cut) * mask).sum(1) / mask.sum(1)

    def frozen(self, rows: Sequence[int]) -> Vector:
        """The same of the frozen layers alone, (texts, width)."""
        return np.stack([self.hidden[row].double().mean(0).numpy() for row in rows])


def features(stream: Stream, bundle: Bundle, cache: Path) -> Features:
    """Load what is cached, or compute and keep it."""
    runtime = Runtime.open(bundle)
    layers = len(runtime.model.model.layers)
    spec = AdapterSpec(layers=tuple(range(layers - ADAPTED_LAYERS, layers)))
    name = hashlib.sha256(json.dumps([bundle.base_digest, spec.cut, stream.texts]).encode()).hexdigest()[:20]
    file, records = cache / f"tasks-{name}.npy", [encode(runtime.tokenizer, "", text) for text in stream.texts]
    lengths = [len(record.ids) for record in records]
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        order = sorted(range(len(records)), key=lengths.__getitem__)
        made: dict[int, Tensor] = {}
        for place, prefix in zip(
            order, prefixes(runtime.model, [records[row] for row in order], cut=spec.cut, batch=32), strict=True
        ):
            made[place] = prefix.hidden.half()
        np.save(file.with_suffix(".part.npy"), torch.cat([made[row] for row in range(len(records))]).numpy())
        file.with_suffix(".part.npy").replace(file)
    hidden = torch.from_numpy(np.load(file)).split(lengths)
    return Features(model=runtime.model, spec=spec, hidden=tuple(hidden))


# Arms: each yields, after each task, a function from rows to class numbers, and the adapter that its features have


Namer = Callable[[Sequence[int]], list[int]]


@dataclass(kw_only=True)
class _Sums:
    """What the frozen arms keep: numbers per class, no text."""

    count: dict[int, int] = field(default_factory=dict)
    total: dict[int, Vector] = field(default_factory=dict)
    scatter: Any = 0.0  # Sum over texts of x x', (width, width)

    def add(self, vectors: Vector, labels: Sequence[int]) -> None:
        for vector, label in zip(vectors, labels, strict=True):
            self.count[label] = self.count.get(label, 0) + 1
            self.total[label] = self.total.get(label, 0.0) + vector
        self.scatter = self.scatter + vectors.T @ vectors


def frozen_arm(held: Features, stream: Stream, *, covariance: bool) -> Iterator[tuple[Namer, Adapter | None]]:
    """Nearest class means by cosine, or linear discriminants with one shared, shrunk covariance.

    Source: streaming linear discriminant analysis, arXiv:1909.01520; both are the same in any order of tasks.
    """
    sums, mean = _Sums(), None
    for part in stream.train:
        vectors = held.frozen(part.rows)
        mean = vectors.mean(0) if mean is None else mean  # Centred by the first task: no look ahead.
        sums.add(vectors - mean, part.labels)
        classes = sorted(sums.count)
        means = np.stack([sums.total[label] / sums.count[label] for label in classes])
        weights, bias = _discriminants(sums, classes, means) if covariance else (_unit(means), np.zeros(len(classes)))

        def name(
            rows: Sequence[int], w: Vector = weights, b: Vector = bias, at: Vector = mean, of: list[int] = classes
        ) -> list[int]:
            return [of[best] for best in ((held.frozen(rows) - at) @ w.T + b).argmax(1)]

        yield name, None


def _discriminants(sums: _Sums, classes: Sequence[int], means: Vector) -> tuple[Vector, Vector]:
    counts = np.array([sums.count[label] for label in classes])
    within = (sums.scatter - (means * counts[:, None]).T @ means) / counts.sum()
    within = (1 - SHRINKAGE) * within + SHRINKAGE * np.trace(within) / len(within) * np.eye(len(within))
    weights = np.linalg.solve(within, means.T).T
    return weights, -0.5 * (weights * means).sum(1)


def _unit(rows: Vector) -> Vector:
    norms: Vector = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / norms


def trained_arm(
    held: Features, stream: Stream, *, kept: int, joint: bool, epochs: int, seed: int
) -> Iterator[tuple[Namer, Adapter | None]]:
    """LoRA on the upper layers and a linear head over all classes seen so far.

    Args:
        held: Features of the frozen layers.
        stream: Tasks; `joint` puts them all into the first one.
        kept: Texts of each class that are kept and mixed in, half of each batch; 0 keeps none.
        joint: Whether to train on everything at once and to yield once.
        epochs: Passes over a task.
        seed: Of order and choice.
    """
    rng, spec = random.Random(seed), held.spec
    parts = trainable("lora", fresh(held.model, spec, fits_base="sha256:0"), model=held.model)
    parts.summed = True
    width, classes = held.hidden[0].shape[1], 1 + max(label for part in stream.train for label in part.labels)
    head = torch.zeros(classes, width, requires_grad=True)
    update = Adam([*parts.parameters, head], rate=RATE)
    buffer: list[tuple[int, int]] = []
    tasks = (
        [[pair for part in stream.train for pair in zip(part.rows, part.labels, strict=True)]]
        if joint
        else [list(zip(part.rows, part.labels, strict=True)) for part in stream.train]
    )
    seen = 0
    for task in tasks:
        seen = max(seen, 1 + max(label for _, label in task))
        for _ in range(epochs):
            rng.shuffle(task)
            for start in range(0, len(task), BATCH):
                chosen = task[start : start + BATCH]
                if buffer:
                    chosen = chosen + rng.sample(buffer, min(len(buffer), len(chosen)))
                with parts.attached(held.model):
                    scores = held.pooled([row for row, _ in chosen]) @ head[:seen].t()  # (batch, classes)
                    wanted = torch.tensor([label for _, label in chosen])
                    torch.nn.functional.cross_entropy(scores, wanted).backward()
                grads = [
                    torch.zeros_like(value) if value.grad is None else value.grad for value in update_of(parts, head)
                ]
                with torch.no_grad():
                    update(update_of(parts, head), [grad.clone() for grad in grads])
        by_class = defaultdict(list)
        for row, label in sorted(task):
            by_class[label].append((row, label))
        buffer += [pair for pairs in by_class.values() for pair in rng.sample(pairs, min(kept, len(pairs)))]
        adapter, weights = parts.adapter(), head.detach()[:seen].clone()

        def name(rows: Sequence[int], adapter: Adapter = adapter, weights: Tensor = weights) -> list[int]:
            with torch.no_grad(), attached(held.model, adapter):
                return [int(best) for best in (_pooled_all(held, rows) @ weights.t()).argmax(1)]

        yield name, adapter


def update_of(parts: Any, head: Tensor) -> list[Tensor]:
    """All that the trained arms train."""
    return [*parts.parameters, head]


def _pooled_all(held: Features, rows: Sequence[int]) -> Tensor:
    return torch.cat([held.pooled(rows[start : start + 64]) for start in range(0, len(rows), 64)])


# Figures


def metrics(accuracy: Sequence[Sequence[float]], transfer: Sequence[float]) -> dict[str, float | None]:
    """The five figures of a stream.

    Args:
        accuracy: Row i holds a[i][j] of the tasks j <= i, in per cent. One row of all tasks for joint training.
        transfer: Of each task but the first: p[j-1][j] - p[0][j].
    """
    last, count = accuracy[-1], len(accuracy)
    found: dict[str, float | None] = dict.fromkeys(FIGURES)
    found["ACC"] = float(np.mean(last))
    if count == len(last) > 1:
        before = range(count - 1)
        found["Abar"] = float(np.mean([np.mean(row) for row in accuracy]))
        found["BWT"] = float(np.mean([last[task] - accuracy[task][task] for task in before]))
        found["forgetting"] = float(
            np.mean([max(row[task] for row in accuracy[task:]) - last[task] for task in before])
        )
    if transfer:
        found["FWT"] = float(np.mean(transfer))
    return found


def _accuracy(name: Namer, part: Part) -> float:
    right = sum(given == true for given, true in zip(name(part.rows), part.labels, strict=True))
    return 100.0 * right / len(part.rows)


def _probe(held: Features, adapter: Adapter | None, train: Part, test: Part) -> float:
    """Accuracy among the classes of one task of nearest class means on pooled upper features, in per cent."""
    bare = fresh(held.model, held.spec, fits_base="sha256:0")
    with torch.no_grad(), attached(held.model, adapter or bare):
        vectors, asked = (_pooled_all(held, part.rows).double().numpy() for part in (train, test))
    centre, labels = vectors.mean(0), np.array(train.labels)
    classes = sorted(set(train.labels))
    means = _unit(np.stack([(vectors - centre)[labels == label].mean(0) for label in classes]))
    named = ((asked - centre) @ means.T).argmax(1)
    return 100.0 * float(np.mean([classes[best] == true for best, true in zip(named, test.labels, strict=True)]))


def run(arm: str, held: Features, stream: Stream, *, epochs: int, seed: int) -> dict[str, Any]:
    """Live one arm through a stream."""
    began = time.process_time()
    made: Mapping[str, Callable[[], Iterator[tuple[Namer, Adapter | None]]]] = {
        "means": lambda: frozen_arm(held, stream, covariance=False),
        "lda": lambda: frozen_arm(held, stream, covariance=True),
        "lora": lambda: trained_arm(held, stream, kept=0, joint=False, epochs=epochs, seed=seed),
        "rehearsal": lambda: trained_arm(held, stream, kept=KEPT, joint=False, epochs=epochs, seed=seed),
        "joint": lambda: trained_arm(held, stream, kept=0, joint=True, epochs=epochs, seed=seed),
    }
    accuracy, transfer = [], []
    for task, (name, adapter) in enumerate(made[arm]()):
        known = stream.test if arm == "joint" else stream.test[: task + 1]
        accuracy.append([_accuracy(name, part) for part in known])
        if adapter and arm != "joint" and task + 1 < len(stream.train):
            later = stream.train[task + 1], stream.test[task + 1]
            transfer.append(_probe(held, adapter, *later) - _probe(held, None, *later))
        print(f"{stream.name} {arm}: task {task + 1}, accuracy {np.mean(accuracy[-1]):.1f}", file=sys.stderr)
    sizes = {"tasks": len(stream.train), "classes": 1 + max(stream.train[-1].labels), "texts": len(stream.texts)}
    seconds = {"cpu_seconds": round(time.process_time() - began, 1)}
    return {"set": stream.name, "arm": arm, "seed": seed, "epochs": epochs, **sizes, **seconds} | {
        "accuracy": accuracy,
        **metrics(accuracy, transfer),
    }


# Words


def words(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lay out what was measured, a table for each stream, with what was published beside it."""
    blocks = []
    streams = dict.fromkeys((row["set"], row["tasks"], row["classes"]) for row in rows)
    for name, tasks, classes in streams:
        here = [row for row in rows if (row["set"], row["tasks"], row["classes"]) == (name, tasks, classes)]
        lines = []
        for arm in ARMS:
            mine = [row for row in here if row["arm"] == arm]
            cells = [[row[figure] for row in mine if row[figure] is not None] for figure in FIGURES]
            if mine:
                seconds = f"{np.mean([row['cpu_seconds'] for row in mine]):.0f}"
                lines.append((arm, str(len(mine)), *(f"{np.mean(one):.1f}" if one else "–" for one in cells), seconds))
        if (name, tasks, classes) == ("CLINC150", 15, 150):
            lines += [(said, "–", f"{figure:.1f}", *["–"] * 5) for said, figure in PUBLISHED]
        columns = (f"{name}, {tasks} tasks, {classes} classes", "runs", *FIGURES, "CPU s")
        blocks.append(table(columns, lines))
    return "\n\n".join(blocks)


def _known(file: Path | None) -> list[dict[str, Any]]:
    if file is None or not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@click.command()
@click.option(
    "--full", is_flag=True, help="All tasks and texts; hours. Without it: a few classes, about 2 CPU-minutes."
)
@click.option(
    "--rows", type=click.Path(path_type=Path, dir_okay=False), help="JSON lines to append to and resume from."
)
@click.option("--minutes", type=float, help="Begin no further run after so long.")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Runs of each trained arm.")
@click.option("--cache", type=click.Path(path_type=Path, file_okay=False), help="Folder of base and features.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def main(full: bool, rows: Path | None, minutes: float | None, seeds: int, cache: Path | None, as_json: bool) -> None:
    """Learn intents task by task: what is known in the end, and what was forgotten on the way."""
    torch.set_num_threads(1)
    began, place = time.monotonic(), cache or cache_folder()
    sizes = ((15, 10, 100, 30), (18, 99, 200, 60)) if full else ((4, 5, 12, 8), (3, 4, 12, 8))
    streams = [clinc(*sizes[0]), hwu(*sizes[1])]
    if not any(streams):
        print(f"skipped: CLINC150 and HWU64 are not there; set {DATA} to the folder that has them", file=sys.stderr)
        return
    bundle, found = make_base(place), _known(rows)
    for stream in streams:
        held = features(stream, bundle, place / "tasks") if stream else None
        for seed, arm in ((seed, arm) for seed in range(seeds) for arm in ARMS):
            late = minutes is not None and time.monotonic() - began > 60 * minutes
            if held is None or stream is None or late or (seed and arm in ("means", "lda")):
                continue
            marks = {"set": stream.name, "arm": arm, "seed": seed, "texts": len(stream.texts), "epochs": EPOCHS}
            if any(marks.items() <= row.items() for row in found):
                continue
            found.append(run(arm, held, stream, epochs=EPOCHS, seed=seed))
            if rows:
                with rows.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(found[-1]) + "\n")
    show({"rows": found}, words(found), as_json=as_json)


if __name__ == "__main__":
    main()
