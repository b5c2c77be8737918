"""Held-out device tasks in; how well the model does them out: exact answers, slots, valid JSON, texts, corrections.

The file is the curriculum's: a JSON object a line with `task`, `prompt` (the whole user turn) and `answer`. Answers are
decoded greedily and scored by sdk.scoring. `quality` is the mean over tasks of the mean over a task's
items of its headline figure (exact answers for structured tasks, ROUGE-L for texts, an item's edit F0.5 for
proofreading), so that a task with many items does not drown the others.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from sdk.build.evaluate.card import Leg
from sdk.build.evaluate.decoding import greedy_texts
from sdk.build.evaluate.interval import Estimate
from sdk.build.evaluate.likelihood import Told
from sdk.errors import AnswerError, EvaluationError
from sdk.scoring import BETA, HEADLINE, score
from sdk.tasks import STRUCTURED, TASKS, text_of

__all__ = [
    "MAX_NEW_TOKENS",
    "STRUCTURED_SCORES",
    "Task",
    "answered",
    "read_tasks",
    "task_of",
    "task_score",
    "tasks_leg",
]

SEED = 7
MAX_NEW_TOKENS = 96  # The longest answers, messages to be sent word by word, have about 80 in the 16k vocabulary.
STRUCTURED_SCORES = ("valid", "named", "slot_f1", "exact", "copied")
SCORES = ("quality", *STRUCTURED_SCORES, "rouge_l", "edit_f")

Score = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One request and the answer that is wanted."""

    name: str
    group: str
    """What it is one of: its task, or an intent."""
    task: str
    """One of sdk.tasks.TASKS."""
    prompt: str
    """The whole user turn."""
    wanted: str
    """The whole assistant turn."""


def task_score(model: Any, tokenizer: Any, items: Sequence[Mapping[str, str]]) -> dict[str, Estimate]:
    """Figures of device tasks with their intervals: quality; valid, named, slot_f1, exact, copied; rouge_l; edit_f.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer, with a chat template.
        items: Objects with `task`, `prompt` and `answer`.

    Raises:
        EvaluationError: An item is no device task, or a logit is not a number.
    """
    try:
        tasks = [task_of(place, item) for place, item in enumerate(items)]
    except (ValueError, KeyError, AnswerError) as cause:
        raise EvaluationError(f"an item is no device task ({cause!r:.60})") from cause
    return tasks_leg(model, tokenizer, tasks).estimates()


def tasks_leg(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[Task],
    told: Told = lambda done, total: None,
    *,
    scores: Sequence[str] = SCORES,
) -> Leg:
    """Answer every request greedily and score the answers."""
    asked = [task.prompt for task in tasks]
    return answered(tasks, greedy_texts(model, tokenizer, asked, max_new_tokens=MAX_NEW_TOKENS, told=told), scores)


def answered(tasks: Sequence[Task], answers: Sequence[str], scores: Sequence[str] = SCORES) -> Leg:
    """Compare what was answered with what was wanted; a score counts the items that have it."""
    counts = Counter(task.task for task in tasks)
    rows = [_scores(task, answer, counts[task.task]) for task, answer in zip(tasks, answers, strict=True)]
    return Leg(
        ids=tuple(task.name for task in tasks),
        groups=tuple(task.group for task in tasks),
        scores={
            name: tuple(zip(*(row.get(name, (0.0, 0.0)) for row in rows), strict=True))  # type: ignore[misc]
            for name in scores
            if any(name in row for row in rows)
        },
        facts={"max_new_tokens": MAX_NEW_TOKENS},
    )


def read_tasks(file: Path, *, most: int | None) -> list[Task]:
    """The tasks of a file, or a seeded choice of them in which each task has as many items as any other.

    Raises:
        EvaluationError: The file cannot be read, is empty or holds another kind of line.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        tasks = [task_of(place, json.loads(line)) for place, line in enumerate(lines) if line.strip()]
    except OSError as cause:
        raise EvaluationError(f"cannot read the device tasks {file}: {cause.strerror}") from cause
    except (ValueError, KeyError, TypeError, AnswerError) as cause:
        raise EvaluationError(f"{file} holds a line that is no device task ({cause!r:.80})") from cause
    if not tasks:
        raise EvaluationError(f"{file} holds no device tasks")
    if most is None or len(tasks) <= most:
        return tasks
    turns: Counter[str] = Counter()
    ranked = []
    for task in Random(SEED).sample(tasks, len(tasks)):  # The first of each task, then the second, and so on.
        ranked.append((turns[task.task], task))
        turns[task.task] += 1
    return [task for _, task in sorted(ranked, key=lambda pair: pair[0])[:most]]


def task_of(place: int, fields: Mapping[str, Any]) -> Task:
    """One line of a task file.

    Raises:
        ValueError: No such task, or a prompt of another one.
        AnswerError: The answer does not fit the task: a wrong key would make every right answer wrong.
        KeyError: A field is missing.
    """
    task, prompt, wanted = str(fields["task"]), str(fields["prompt"]), str(fields["answer"])
    if task not in TASKS:
        raise ValueError(f"there is no task {task}")
    text_of(task, prompt)
    score(task, wanted, wanted, prompt=prompt)
    return Task(name=f"{task}-{place}", group=task, task=task, prompt=prompt, wanted=wanted)


def _scores(task: Task, answer: str, count: int) -> dict[str, Score]:
    """Tops and bottoms of one answer; its weight in the quality is its share of its task."""
    found = score(task.task, answer, task.wanted, prompt=task.prompt)
    if task.task in STRUCTURED:
        slots = (2 * found["slots_right"], found["slots_said"] + found["slots_wanted"])
        shares = {name: (found[name], 1.0) for name in STRUCTURED_SCORES if name in found}
        return shares | {"slot_f1": slots, "quality": (found[HEADLINE[task.task]] / count, 1 / count)}
    if "edits_made" in found:
        square = BETA**2
        top, bottom = (1 + square) * found["edits_right"], square * found["edits_wanted"] + found["edits_made"]
        return {"edit_f": (top, bottom), "quality": ((top / bottom if bottom else 1.0) / count, 1 / count)}
    return {"rouge_l": (found["rouge_l"], 1.0), "quality": (found[HEADLINE[task.task]] / count, 1 / count)}
