"""Files of text and of task items in, token sequences out, in one fixed order.

A stretch of text counts at every position but its first; a task item counts at its answer only, because the student is
to answer requests, not to write them.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerFast

from sdk.errors import PlanError
from sdk.tokens import chat_tokens, text_tokens

__all__ = [
    "TaskItem",
    "TokenSequence",
    "answered_by",
    "batches",
    "documents",
    "read_items",
    "read_texts",
    "side_by_side",
    "task_sequence",
    "text_sequences",
]


class TaskItem(NamedTuple):
    """One request and what is to be answered."""

    prompt: str
    answer: str
    task: str
    """What the request asks for, such as action; empty where the file does not say."""


@dataclass(frozen=True, kw_only=True)
class TokenSequence:
    """One stretch of tokens that is learned as a whole."""

    ids: tuple[int, ...]
    """Student tokens; 2 or more."""
    first: int
    """Index of the first token that is predicted, ≥ 1; all after it are too."""

    @property
    def counted(self) -> int:
        """Tokens that are predicted."""
        return len(self.ids) - self.first


def read_texts(files: Iterable[Path]) -> list[str]:
    """The `text` of each line, shuffled once by content so that a prefix of them is a fair sample of all files.

    Raises:
        PlanError: A file that is missing or not of this form.
    """
    texts = [row["text"] for file in files for row in _rows(file, ("text",))]
    Random(0).shuffle(texts)
    return texts


def read_items(files: Iterable[Path]) -> list[TaskItem]:
    """`prompt`, `answer` and, where there is one, `task` of each line, shuffled once.

    Raises:
        PlanError: A file that is missing or not of this form.
    """
    rows = (row for file in files for row in _rows(file, ("prompt", "answer")))
    items = [TaskItem(row["prompt"], row["answer"], str(row.get("task", ""))) for row in rows]
    Random(0).shuffle(items)
    return items


def answered_by(files: Iterable[Path]) -> list[tuple[str, str]]:
    """(`teacher`, `teacher_licence`) of all different teachers whose answers are among task items, sorted.

    Raises:
        PlanError: A file that is missing or not of this form.
    """
    rows = (row for file in files for row in _rows(file, ("prompt", "answer")))
    written = (row for row in rows if "teacher" in row or "teacher_licence" in row)
    return sorted({(str(row.get("teacher", "unknown")), str(row.get("teacher_licence", "unknown"))) for row in written})


def _rows(file: Path, fields: Sequence[str]) -> Iterator[dict[str, Any]]:
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                row = json.loads(line)
                if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in fields):
                    raise PlanError(f"line {number} of {file} lacks a text under {' or '.join(fields)}; mend it")
                yield row
    except (OSError, ValueError) as cause:
        raise PlanError(f"{file} cannot be read as JSON lines ({cause}); name another file in the plan") from cause


def documents(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> Iterator[list[int]]:
    """Token ids of texts, one list each."""
    for text in texts:
        yield text_tokens(tokenizer, text)


def text_sequences(
    tokenizer: PreTrainedTokenizerFast, texts: Iterable[str], *, length: int, tokens: int
) -> list[TokenSequence]:
    """Documents end to end, an end-of-text token before each, cut into stretches of `length` tokens.

    Args:
        tokenizer: The student's.
        texts: Documents.
        length: Tokens of a stretch, ≥ 2.
        tokens: Stop after about so many; the last stretch that is not full is left out.
    """
    between = int(tokenizer.convert_tokens_to_ids("<|endoftext|>"))  # type: ignore[arg-type]
    made: list[TokenSequence] = []
    waiting: list[int] = []
    for ids in documents(tokenizer, texts):
        waiting += [between, *ids]
        while len(waiting) >= length and len(made) * length < tokens:
            made.append(TokenSequence(ids=tuple(waiting[:length]), first=1))
            waiting = waiting[length:]
        if len(made) * length >= tokens:
            break
    return made


def task_sequence(tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str, *, length: int) -> TokenSequence | None:
    """One chat turn as the runtime asks for it; None where it is over `length` tokens."""
    before = chat_tokens(tokenizer, [{"role": "user", "content": prompt}])
    after = text_tokens(tokenizer, answer)
    ids = (*before, *after, int(tokenizer.convert_tokens_to_ids("<|im_end|>")))  # type: ignore[arg-type]
    return TokenSequence(ids=ids, first=len(before)) if len(ids) <= length else None


def batches(lengths: Sequence[int], *, tokens: int, seed: int) -> list[list[int]]:
    """Indices of sequences in batches of about `tokens`, alike in length inside a batch, in shuffled order.

    Args:
        lengths: Tokens of each sequence.
        tokens: Largest product of a batch's size and its longest sequence; a longer sequence stands alone.
        seed: Decides the order, and who meets whom among equals.
    """
    random = Random(seed)
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], random.random()))
    made = side_by_side(order, lengths, tokens=tokens)
    random.shuffle(made)
    return made


def side_by_side(order: Iterable[int], lengths: Sequence[int], *, tokens: int) -> list[list[int]]:
    """Indices in their order, of rising length, in groups that take at most `tokens` when padded."""
    made: list[list[int]] = []
    for index in order:
        if made and (len(made[-1]) + 1) * lengths[index] <= tokens:
            made[-1].append(index)
        else:
            made.append([index])
    return made
