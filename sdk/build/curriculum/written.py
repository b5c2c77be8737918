"""Answers that a teacher wrote in; those fit to learn from out, and how many were refused for which reason.

Each candidate is refused for the first reason that holds, in this order:
  malformed        no task, prompt and answer, or the prompt is not of the task's shape
  cut off          the teacher reached its limit of tokens
  length           longer or shorter than an answer of this task can be
  refusal          it says that it cannot or will not
  schema           a structured answer that its task cannot read
  not copied       a structured answer with words that the request does not have
  known            a structured request whose right answer the templates know
  echo             it gives back the text, or the instruction
  held out         the prompt is nearly one of the held-out set
  near duplicate   prompt and answer are nearly those of one that was kept
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdk.build.curriculum.examples import Example, template_id
from sdk.build.curriculum.near import Near
from sdk.errors import AnswerError, CurriculumError
from sdk.tasks import INSTRUCTIONS, STRUCTURED, TASKS, as_answer, read_answer, text_of

__all__ = ["REASONS", "Filtered", "filtered", "read_candidates"]

REASONS = (
    "malformed", "cut off", "length", "refusal", "schema", "not copied", "known", "echo", "held out", "near duplicate",
)  # fmt: skip
REFUSAL = re.compile(
    r"\b(as an? (ai|chatbot|assistant|language model)|language model|chatbot|"
    r"(can ?not|can't|unable to|not able to|won't) "
    r"(assist|help|fulfil|comply|provide|process|answer|rewrite|summari[sz]e)|"
    r"against my (guidelines|programming)|i (do not|don't) have (access|enough information))\b",
    re.IGNORECASE,
)
LENGTHS: Mapping[str, tuple[int, float, int]] = {
    # Task: characters at least; at most so many times the text's, and so many more.
    "action": (10, 2.0, 150),
    "intent": (10, 3.0, 150),
    "summary": (10, 0.8, 20),
    "shorter": (3, 0.95, 0),
    "politer": (3, 2.0, 120),
    "formal": (3, 2.0, 120),
    "reply": (2, 0.0, 200),
    "title": (3, 0.0, 70),
    "commit": (5, 0.0, 90),
    "proofread": (2, 1.2, 20),
}
ECHO_CHARACTERS = 24  # A shorter text may well stand in its answer: "call Ana" in "Could you call Ana?"


@dataclass(frozen=True, kw_only=True)
class Filtered:
    """What passed, and what did not."""

    kept: tuple[Example, ...]
    refused: Mapping[str, int]
    """Reason to how many candidates; every reason is named, 0 included."""


def filtered(
    candidates: Iterable[Any], *, known: Collection[Example] = (), held_out: Collection[Example] = ()
) -> Filtered:
    """Keep the candidates that are fit to learn from.

    Args:
        candidates: Objects with `task`, `prompt`, `answer`; if wanted `finish` ("length" where the answer was cut),
            `teacher` and `teacher_licence`. Other fields are not looked at.
        known: Examples whose structured answers are right by construction.
        held_out: Examples whose prompts must not be learned from.
    """
    right = {example.prompt for example in known if example.task in STRUCTURED}
    tested, seen = Near(text_of(example.task, example.prompt) for example in held_out), Near()
    kept: list[Example] = []
    refused = Counter(dict.fromkeys(REASONS, 0))
    for candidate in candidates:
        reason = _fault(candidate, right, tested, seen)
        if reason is None:
            kept.append(_example(candidate))
            seen.add(_joined(candidate))
        else:
            refused[reason] += 1
    return Filtered(kept=tuple(kept), refused=dict(refused))


def read_candidates(file: Path) -> Iterator[Any]:
    """The candidates of a JSONL file; a line that is no JSON comes as its text, which `filtered` counts as malformed.

    Raises:
        CurriculumError: The file cannot be read as text.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as wrong:
        raise CurriculumError(f"{file} cannot be read as JSON lines: {wrong}") from wrong
    for line in filter(str.strip, lines):
        try:
            yield json.loads(line)
        except (ValueError, RecursionError):
            yield line


def _fault(candidate: Any, right: Collection[str], tested: Near, seen: Near) -> str | None:
    """The first reason against a candidate, in the order of REASONS."""
    if not _well_formed(candidate):
        return "malformed"
    if candidate.get("finish") == "length":
        return "cut off"
    task, answer = candidate["task"], candidate["answer"].strip()
    text = text_of(task, candidate["prompt"])
    checks: dict[str, Callable[[], object]] = {
        "length": lambda: not _fits(task, text, answer),
        "refusal": lambda: REFUSAL.search(answer) and not REFUSAL.search(text),
        "schema": lambda: task in STRUCTURED and not _readable(task, answer),
        "not copied": lambda: task in STRUCTURED and not _copied(task, text, answer),
        "known": lambda: candidate["prompt"] in right,
        "echo": lambda: task not in (*STRUCTURED, "proofread") and _echoes(task, text, answer),
        "held out": lambda: tested.holds(text),
        "near duplicate": lambda: seen.holds(_joined(candidate)),
    }
    return next((reason for reason, holds in checks.items() if holds()), None)


def _well_formed(candidate: Any) -> bool:
    if not isinstance(candidate, dict):
        return False
    task, prompt, answer = (candidate.get(name) for name in ("task", "prompt", "answer"))
    if not (isinstance(task, str) and isinstance(prompt, str) and isinstance(answer, str) and task in TASKS):
        return False
    start = f"{INSTRUCTIONS[task]}\n"
    return prompt.startswith(start) and bool(prompt.removeprefix(start).strip())


def _fits(task: str, text: str, answer: str) -> bool:
    least, times, more = LENGTHS[task]
    one_line = task in ("proofread", "politer", "formal", "shorter") or "\n" not in answer
    return one_line and least <= len(answer) <= times * len(text) + more


def _readable(task: str, answer: str) -> bool:
    try:
        read_answer(task, answer)
    except AnswerError:
        return False
    return True


def _copied(task: str, text: str, answer: str) -> bool:
    return all(value.lower() in text.lower() for value in read_answer(task, answer).copied())


def _echoes(task: str, text: str, answer: str) -> bool:
    said, asked = (" ".join(part.lower().split()) for part in (answer, text))
    instruction = INSTRUCTIONS[task].lower().rstrip(".")
    return said == asked or instruction in said or (len(asked) >= ECHO_CHARACTERS and asked in said)


def _joined(candidate: Mapping[str, str]) -> str:
    return f"{text_of(candidate['task'], candidate['prompt'])}\n{candidate['answer'].strip()}"


def _example(candidate: Mapping[str, Any]) -> Example:
    """The example that a candidate is; a structured answer is brought into the fixed form."""
    task, answer = candidate["task"], candidate["answer"].strip()
    teacher, licence = candidate.get("teacher"), candidate.get("teacher_licence")
    schema = None
    if task in STRUCTURED:
        read = read_answer(task, answer)
        answer, schema = as_answer(read), str(read.model_dump().get("action", "intent"))
    return Example(
        task=task,
        prompt=candidate["prompt"],
        answer=answer,
        template=template_id("teacher", candidate["prompt"]),
        schema=schema,
        teacher=str(teacher or "unknown"),
        teacher_licence=str(licence or "unknown"),
    )
