"""An answer and the wanted one in, how good it is out: pure functions, one item at a time, then over many.

An item's score is either a share in [0, 1] or a count. Over many items shares are averaged, and counts are summed
before they are divided, so that a request weighs as much as it has slots.

Sources: slot F1 as in CoNLL-2000 (name and value exact); ROUGE-L: Lin, "ROUGE: a package for automatic evaluation of
summaries", 2004, sentence level with beta 1; edit F0.5: Dahlmeier and Ng, "Better evaluation for grammatical error
correction", 2012, with edits found by difflib over words and one reference.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from types import MappingProxyType
from typing import Any

from sdk.errors import AnswerError, UnknownTaskError
from sdk.tasks import STRUCTURED, TASKS, Action, Intent, read_answer, text_of

__all__ = ["BETA", "COUNTS", "HEADLINE", "RIGHT_FROM", "averaged", "edits", "is_right", "rouge_l", "score"]

HEADLINE: Mapping[str, str] = MappingProxyType(
    {task: "exact" if task in STRUCTURED else "f0_5" if task == "proofread" else "rouge_l" for task in TASKS}
)
"""Task to the one figure of `averaged` that stands for it, in [0, 1], higher is better."""
COUNTS = ("slots_right", "slots_said", "slots_wanted", "edits_right", "edits_made", "edits_wanted")
"""Fields of a score that are counts, not shares."""
BETA = 0.5  # A wrong correction annoys more than a missed one.
RIGHT_FROM = 0.5  # Of edit F0.5 or ROUGE-L: one reference is no judge of a good reply, so "wrong" errs on that side.
WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")


def score(task: str, answer: str, wanted: str, *, prompt: str) -> dict[str, float]:
    """How good one answer is.

    Args:
        task: One of `sdk.tasks.TASKS`.
        answer: What the model wrote; white space around it does not count.
        wanted: The right answer.
        prompt: The user turn, as `sdk.tasks.prompt` makes it; what is corrected in `proofread`, copied from elsewhere.

    Returns:
        "exact" for every task. Structured: "valid" (fits the schema), "named" (right action or intent), "copied" (share
        of its open values that stand in the prompt), "slots_right", "slots_said", "slots_wanted". Proofread:
        "edits_right", "edits_made", "edits_wanted". Other texts: "rouge_l".

    Raises:
        UnknownTaskError: There is no such task.
        AnswerError: The wanted answer itself does not fit the task.
    """
    answer, wanted = answer.strip(), wanted.strip()
    if task not in TASKS:
        raise UnknownTaskError(task, known=TASKS)
    if task in STRUCTURED:
        return _structured(task, answer, wanted, text_of(task, prompt))
    exact = {"exact": float(answer == wanted)}
    if task == "proofread":
        return exact | _corrections(text_of(task, prompt), answer, wanted)
    return exact | {"rouge_l": rouge_l(answer, wanted)}


def is_right(task: str, answer: str, wanted: str, *, prompt: str) -> bool:
    """Whether an answer counts as right: the wanted action or intent, else RIGHT_FROM or more of its figure.

    Errors as `score`.
    """
    found = score(task, answer, wanted, prompt=prompt)
    if task in STRUCTURED or found["exact"]:
        return bool(found["exact"])
    if "edits_made" in found:
        bottom = BETA**2 * found["edits_wanted"] + found["edits_made"]
        return bottom > 0 and (1 + BETA**2) * found["edits_right"] / bottom >= RIGHT_FROM
    return found["rouge_l"] >= RIGHT_FROM


def averaged(task: str, scores: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The figures of many items of one task, each in [0, 1], and "items", how many there are.

    Shares are averaged. Counts become "precision", "recall" and "f1" (slots) or "f0_5" (edits).

    Raises:
        ValueError: There are no scores.
    """
    rows = list(scores)
    if not rows:
        raise ValueError(f"no scores of {task}")
    figures = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0] if name not in COUNTS}
    sums = {name: sum(row.get(name, 0.0) for row in rows) for name in COUNTS}
    if task in STRUCTURED:
        figures |= _rates(sums["slots_right"], sums["slots_said"], sums["slots_wanted"], 1.0, "f1")
    if task == "proofread":
        figures |= _rates(sums["edits_right"], sums["edits_made"], sums["edits_wanted"], BETA, "f0_5")
    return {"items": float(len(rows)), **figures}


def rouge_l(answer: str, wanted: str) -> float:
    """F1 of the longest common subsequence of words, whatever their case, in [0, 1]."""
    one, other = ([word.lower() for word in WORD.findall(text)] for text in (answer, wanted))
    if not one or not other:
        return float(one == other)
    lengths = [0] * (len(other) + 1)
    for word in one:
        before = lengths[:]
        for at, match in enumerate(other, start=1):
            lengths[at] = before[at - 1] + 1 if word == match else max(before[at], lengths[at - 1])
    return 2 * lengths[-1] / (len(one) + len(other))


def edits(source: str, target: str) -> Counter[tuple[int, int, str]]:
    """What turns `source` into `target`: places from and to in words of the source, and the new words."""
    before, after = WORD.findall(source), WORD.findall(target)
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    return Counter(
        (start, end, " ".join(after[new_start:new_end]))
        for kind, start, end, new_start, new_end in matcher.get_opcodes()
        if kind != "equal"
    )


def _structured(task: str, answer: str, wanted: str, text: str) -> dict[str, float]:
    right = read_answer(task, wanted)
    try:
        said = read_answer(task, answer)
    except AnswerError:
        return _slots(Counter(), _pairs(right)) | {"exact": 0.0, "valid": 0.0, "named": 0.0, "copied": 0.0}
    open_values = said.copied()
    return _slots(_pairs(said), _pairs(right)) | {
        "exact": float(said == right),
        "valid": 1.0,
        "named": float(_name(said) == _name(right)),
        "copied": sum(value.lower() in text.lower() for value in open_values) / len(open_values)
        if open_values
        else 1.0,
    }


def _slots(said: Counter[tuple[str, str]], wanted: Counter[tuple[str, str]]) -> dict[str, float]:
    return {
        "slots_right": float((said & wanted).total()),
        "slots_said": float(said.total()),
        "slots_wanted": float(wanted.total()),
    }


def _pairs(structured: Action | Intent) -> Counter[tuple[str, str]]:
    """Slots with their values; a list counts value by value. The action's name is no slot."""
    fields: Mapping[str, Any] = (
        structured.slots if isinstance(structured, Intent) else structured.model_dump(by_alias=True, exclude_none=True)
    )
    return Counter(
        (name, part)
        for name, value in fields.items()
        if isinstance(structured, Intent) or name != "action"
        for part in ([value] if isinstance(value, str) else value)
    )


def _name(structured: Action | Intent) -> str:
    return structured.intent if isinstance(structured, Intent) else str(structured.model_dump()["action"])


def _corrections(source: str, answer: str, wanted: str) -> dict[str, float]:
    made, right = edits(source, answer), edits(source, wanted)
    return {
        "edits_right": float((made & right).total()),
        "edits_made": float(made.total()),
        "edits_wanted": float(right.total()),
    }


def _rates(right: float, said: float, wanted: float, beta: float, name: str) -> dict[str, float]:
    """Precision, recall and F; nothing said or nothing wanted counts as no error of that kind."""
    precision = right / said if said else 1.0
    recall = right / wanted if wanted else 1.0
    weighted = beta**2 * precision + recall
    return {
        "precision": precision,
        "recall": recall,
        name: (1 + beta**2) * precision * recall / weighted if weighted else 0.0,
    }
