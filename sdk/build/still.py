"""A plan in, a trained and packed student out: every step of the way, each kept when it is done.

    1. read the teacher; count the tokens of all texts; trim the vocabulary;
    2. leave layers out; put the embedding and the lower layers on their grids;
    3. let teacher and frozen layers read the texts (sdk.build.outputs);
    4. correct a copy of the teacher on task items, since untrained it refuses or echoes (Minitron, arXiv:2408.11796);
    5. let the corrected teacher read those items, the frozen layers alone the others;
    6. train (sdk.build.distill), round after round (sdk.build.rounds), the last steps on the grid.

Where the plan names a student as its start, 1 and 2 are its own: its tokens, its layers, its grids (sdk.build.start).
Work lies in one folder, which belongs to one plan and its files. A build that was stopped goes on where it was.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from sdk.build.distill import Recipe, Trained, train
from sdk.build.frozen import FrozenParts, freeze
from sdk.build.grid import Grid
from sdk.build.inner import InnerTeacher
from sdk.build.losses import LossWeights
from sdk.build.many import ALONE, Group
from sdk.build.outputs import Lesson, lessons
from sdk.build.plan import BuildPlan
from sdk.build.rounds import Round, picked
from sdk.build.sequences import TaskItem, TokenSequence, read_items, read_texts, task_sequence, text_sequences
from sdk.build.start import Start
from sdk.build.student import shallower
from sdk.build.vocabulary import Trimmed, count_tokens, trim_tokenizer, trimmed_model
from sdk.build.worked import Worked
from sdk.errors import DistillError

__all__ = ["Distilled", "distil"]

CALIBRATION = 100  # Stretches of text that say which inputs of the frozen layers matter.
CORRECTED_FROM = 0.6  # Share of the teacher's layers that its correction leaves alone.

Teach = tuple[LlamaForCausalLM, PreTrainedTokenizerFast]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Distilled:
    """A finished student."""

    model: LlamaForCausalLM
    """Float32, every weight on its grid."""
    trimmed: Trimmed
    """Its tokenizer, and which of the teacher's tokens it kept."""
    tensors: dict[str, Tensor]
    """What its model.safetensors holds (sdk.packed)."""
    rounds: tuple[Trained, ...]
    """How each of the plan's trainings went; of their weights and grids only those of the last are kept."""


def distil(
    plan: BuildPlan,
    teach: Teach,
    start: Start | None,
    *,
    folder: Path,
    work: Path,
    progress: Progress,
    group: Group = ALONE,
) -> Distilled:
    """Make the student that a plan describes.

    Args:
        plan: What to do.
        teach: The teacher and its tokenizer.
        start: The student that the plan's `start` names, read; None where it names none.
        folder: Where the plan's relative files stand.
        work: Folder for half-done work: a few GB for a million tokens. Left as it is.
        progress: Told (what, done, total).
        group: The processes that work together; all come back with the same student, only the first has written.

    Raises:
        PlanError: A file of the plan cannot be read.
        DistillError: The work is of another plan, or the training met a number that is none.
    """
    texts = read_texts(folder / file for file in plan.text)
    items = read_items(folder / file for file in plan.tasks)[: plan.task_items]
    if not group.first:
        group.wait()  # Until the first has claimed the folder.
    _claim(work, plan, texts, items, start)
    if group.first:
        group.wait()
    worked = Worked(work)
    teacher, trimmed = _smaller_teacher(teach, texts, items, plan, progress, start)
    student = start.model if start else shallower(teacher, plan.layers)
    stretches = text_sequences(trimmed.tokenizer, texts, length=plan.sequence, tokens=plan.text_tokens)
    made = [(item.task, task_sequence(trimmed.tokenizer, *item[:2], length=plan.sequence)) for item in items]
    tasks = [(task, one) for task, one in made if one is not None]
    sizes = [(task, len(one.ids)) for task, one in tasks]
    shares = [picked(one, len(stretches), sizes) for one in plan.trainings]  # Refused here, hours before it is due.
    parts = start.parts if start else _frozen(student, stretches, plan, worked, progress, group)
    lesson = _Lessons(student, plan, worked, progress, group)
    learned = lesson.of("text", stretches, teacher)
    taught, alone = (
        [one for _, one in part] for part in (tasks[: plan.corrected_items], tasks[plan.corrected_items :])
    )
    if taught:
        _correct(teacher, taught, plan, worked, progress, group)
        learned += lesson.of("taught", taught, teacher)
    learned += lesson.of("alone", alone, None)
    inner = InnerTeacher(model=teacher, kept=plan.layers) if plan.weights.features or plan.weights.attention else None
    del teacher
    trained = _in_rounds(student, learned, shares, plan, worked, progress, group, inner)
    return Distilled(model=student, trimmed=trimmed, tensors=_packed(student, parts, trained[-1]), rounds=trained)


def _in_rounds(
    student: LlamaForCausalLM,
    learned: Sequence[Lesson],
    shares: Sequence[Sequence[int]],
    plan: BuildPlan,
    worked: Worked,
    progress: Progress,
    group: Group,
    inner: InnerTeacher | None,
) -> tuple[Trained, ...]:
    """One training after another; those that are done already are read back."""
    done: list[Trained] = []
    for one, share in zip(plan.trainings, shares, strict=True):
        lesson = [learned[index] for index in share]
        if not one.taught:
            lesson = [replace(some, top_ids=None, top_logs=None) for some in lesson]
        if done:
            student.load_state_dict(dict(done[-1].latent), strict=False)
            done[-1] = replace(done[-1], latent={}, grids={})
        name = f"round-{one.name}" if plan.rounds else one.name
        recipe = _recipe(plan, one)
        done.append(
            train(student, lesson, recipe, worked=worked, name=name, progress=progress, group=group, inner=inner)
        )
    return tuple(done)


def _recipe(plan: BuildPlan, one: Round) -> Recipe:
    return Recipe(
        frozen=plan.frozen_layers,
        mix=plan.weights,
        rate=one.rate,
        last_rate=one.last_rate,
        passes=one.passes,
        batch_tokens=one.batch_tokens,
        quantised_share=one.quantised_share,
        exits=_exits(plan) if plan.weights.self_distillation else (),
        precision=plan.precision,
        seed=one.seed,
    )


def _claim(work: Path, plan: BuildPlan, texts: Sequence[str], items: Sequence[TaskItem], start: Start | None) -> None:
    """Take the folder of work for this plan, or refuse it.

    Raises:
        DistillError: It belongs to another plan, to other text or to another start.
    """
    parts = 3 if plan.rounds else 2  # Without rounds nobody asks which task an item is of.
    read = [texts, [item[:parts] for item in items], *([start.digest] if start else [])]
    content = hashlib.sha256(json.dumps(read).encode()).hexdigest()
    claim = json.dumps({"plan": json.loads(plan.to_json()), "content": content}, indent=2) + "\n"
    file = work / "plan.json"
    if file.exists() and file.read_text(encoding="utf-8") != claim:
        raise DistillError(f"{work} holds work of another plan or of other text; name another folder or remove it")
    work.mkdir(parents=True, exist_ok=True)
    file.write_text(claim, encoding="utf-8")


def _smaller_teacher(
    teach: Teach,
    texts: Sequence[str],
    items: Sequence[TaskItem],
    plan: BuildPlan,
    progress: Progress,
    start: Start | None,
) -> tuple[LlamaForCausalLM, Trimmed]:
    model, tokenizer = teach
    if start:
        start.require_taught_by(tokenizer)
        return trimmed_model(model, start.trimmed), start.trimmed
    progress("count tokens", 0, 1)
    counts = count_tokens(tokenizer, texts or [f"{item.prompt}\n{item.answer}" for item in items])
    trimmed = trim_tokenizer(tokenizer, counts, size=plan.vocabulary)
    progress("count tokens", 1, 1)
    return trimmed_model(model, trimmed), trimmed


def _frozen(
    student: LlamaForCausalLM,
    stretches: Sequence[TokenSequence],
    plan: BuildPlan,
    worked: Worked,
    progress: Progress,
    group: Group,
) -> FrozenParts:
    """Freeze the student, or put back what was frozen before."""
    kept = worked.read("frozen")
    if kept is None:
        progress("round the lower layers", 0, 1)
        parts = freeze(student, stretches[:CALIBRATION], frozen=plan.frozen_layers)
        weights = {name: value for name, value in student.state_dict().items() if _is_frozen(name, plan)}
        kept = {f"weight#{name}": value for name, value in weights.items()}
        for name, grid in parts.grids.items():
            kept |= {f"scales#{name}": grid.scales, f"zeros#{name}": grid.zeros}
        if group.first:
            worked.keep("frozen", kept | {f"embedding#{name}": value for name, value in parts.embedding.items()})
        progress("round the lower layers", 1, 1)
        return parts
    named: dict[str, dict[str, Tensor]] = {"weight": {}, "scales": {}, "zeros": {}, "embedding": {}}
    for key, value in kept.items():
        kind, _, name = key.partition("#")
        named[kind][name] = value
    student.load_state_dict(named["weight"], strict=False)
    student.tie_weights()
    grids = {name: Grid(scales=scales, zeros=named["zeros"][name]) for name, scales in named["scales"].items()}
    return FrozenParts(grids=grids, embedding=named["embedding"])


def _is_frozen(name: str, plan: BuildPlan) -> bool:
    if name.startswith("model.layers."):
        return int(name.split(".")[2]) < plan.frozen_layers
    return name == "model.embed_tokens.weight"


class _Lessons:
    """Sequences in, lessons out, for one student."""

    def __init__(
        self, student: LlamaForCausalLM, plan: BuildPlan, worked: Worked, progress: Progress, group: Group
    ) -> None:
        self._student, self._plan, self._worked, self._progress, self._group = student, plan, worked, progress, group

    def of(self, name: str, sequences: Sequence[TokenSequence], teacher: LlamaForCausalLM | None) -> list[Lesson]:
        return lessons(
            sequences,
            student=self._student,
            frozen=self._plan.frozen_layers,
            teacher=teacher,
            top_k=self._plan.top_k,
            worked=self._worked,
            name=name,
            progress=self._progress,
            group=self._group,
            precision=self._plan.precision,
        )


def _exits(plan: BuildPlan) -> tuple[int, ...]:
    """The trained layers at a third and two thirds of the way, without the last one, which teaches them."""
    trained = range(plan.frozen_layers, len(plan.layers) - 1)
    return tuple(sorted({trained[len(trained) // 3], trained[len(trained) * 2 // 3]})) if trained else ()


def _correct(
    teacher: LlamaForCausalLM,
    tasks: Sequence[TokenSequence],
    plan: BuildPlan,
    worked: Worked,
    progress: Progress,
    group: Group,
) -> None:
    """Train the teacher's upper layers on task items, in place; its copy that read the texts is no longer needed."""
    frozen = round(len(teacher.model.layers) * CORRECTED_FROM)
    learned = lessons(
        tasks,
        student=teacher,
        frozen=frozen,
        teacher=None,
        top_k=plan.top_k,
        worked=worked,
        name="correction",
        progress=progress,
        group=group,
    )
    mix = LossWeights(cross_entropy=1, forward_kl=0)
    recipe = Recipe(frozen=frozen, mix=mix, rate=plan.correction_rate, batch_tokens=plan.batch_tokens, seed=plan.seed)
    train(teacher, learned, recipe, worked=worked, name="correct", progress=progress, group=group)


@torch.no_grad()
def _packed(student: LlamaForCausalLM, parts: FrozenParts, trained: Trained) -> dict[str, Tensor]:
    """The checkpoint's tensors: matrices as codes where they have a grid, all else in float16."""
    grids = {**parts.grids, **trained.grids}
    tensors: dict[str, Tensor] = {}
    for name, value in student.state_dict().items():
        if name == "lm_head.weight":
            continue
        if grid := grids.get(name):
            found = grid.packed(value)
        elif name == "model.embed_tokens.weight":
            found = dict(parts.embedding)
        else:
            found = {"": value.half()}
        tensors |= {f"{name}.{kind}" if kind else name: part.contiguous() for kind, part in found.items()}
    return tensors
