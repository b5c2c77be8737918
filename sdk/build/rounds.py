"""A round of a plan and the sizes of what there is to learn in, which of it the round learns out.

A student may be trained in several rounds, one after another, each with its own rate and its own share of the text and
the tasks. A round begins with what the one before has learned, before it was put on its grid: from rounded weights
small steps fall back to where they began (docs/log.md). AdamW's moments begin anew.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sdk.errors import PlanError

__all__ = ["Round", "picked"]


@dataclass(frozen=True, kw_only=True)
class Round:
    """One run of training among those of a plan. A plan file may leave out what its own field of that name says."""

    name: str
    """Names its state in the folder of work and its row in training.json: up to 32 lower-case letters, digits, -."""
    text: tuple[int, ...] = ()
    """Stretches of text that it learns: the first, and the first that it does not; empty: all, (0, 0): none."""
    items: tuple[int, ...] = ()
    """The same for task items, in their shuffled order, those over `sequence` tokens not counted."""
    tasks: Mapping[str, int] = field(default_factory=dict)
    """Of those items, only these tasks (the `task` beside a prompt), each up to so many tokens; empty: all."""
    taught: bool = True
    """Whether it learns from the teacher's probabilities where there are some, or from the texts alone."""
    rate: float
    """AdamW's highest rate."""
    last_rate: float = 0.1
    """The rate at the end, as a share of the highest, in (0, 1]; 1: constant."""
    passes: int
    """Times that it sees what the teacher told; items without a teacher it sees once."""
    batch_tokens: int
    """Tokens of a step."""
    quantised_share: float
    """Share of the steps, at the end, in which training sees weights on the 4-bit grid, in [0, 1]."""
    seed: int
    """Decides the order."""

    def __post_init__(self) -> None:
        """Refuse what no training can do.

        Raises:
            PlanError: A number outside its range.
        """
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,31}", self.name):
            raise PlanError(f"{self.name!r} cannot name a round; use up to 32 lower-case letters, digits and hyphens")
        for field_name in ("text", "items"):
            span = getattr(self, field_name)
            if span and not (len(span) == 2 and 0 <= span[0] <= span[1]):
                raise PlanError(f"{field_name} of round {self.name!r} must be [from, to], got {list(span)}")
        if any(tokens < 1 for tokens in self.tasks.values()):
            raise PlanError(f"round {self.name!r} gives a task no tokens; leave the task out")
        for field_name in ("rate", "last_rate"):
            if not 0 < getattr(self, field_name) <= 1:
                raise PlanError(f"{field_name} of round {self.name!r} must lie between 0 and 1")
        if not 0 <= self.quantised_share <= 1:
            raise PlanError(f"quantised_share of round {self.name!r} must lie in 0 to 1, got {self.quantised_share}")
        for field_name in ("passes", "batch_tokens"):
            if getattr(self, field_name) < 1:
                raise PlanError(f"{field_name} of round {self.name!r} must be at least 1")


def picked(one: Round, stretches: int, items: Sequence[tuple[str, int]]) -> list[int]:
    """What a round learns: indices into all stretches of text followed by all items, rising.

    Args:
        one: The round.
        stretches: How many stretches of text there are.
        items: Task and tokens of each item, in order.

    Raises:
        PlanError: It would learn nothing, or names a task that none of its items has.
    """
    span = range(len(items))[slice(*one.items)] if one.items else range(len(items))
    if missing := one.tasks.keys() - {items[index][0] for index in span}:
        raise PlanError(f"round {one.name!r} asks for task {min(missing)!r}, which none of its items has")
    text = range(stretches)[slice(*one.text)] if one.text else range(stretches)
    found = [*text, *(stretches + index for index in _within(one.tasks, items, span))]
    if not found:
        raise PlanError(
            f"round {one.name!r} has nothing to learn; give the plan text or tasks, or the round more of it"
        )
    return found


def _within(tokens: Mapping[str, int], items: Sequence[tuple[str, int]], span: range) -> Iterator[int]:
    """Items of the span until each task has its tokens."""
    left = dict(tokens)
    for index in span:
        task, size = items[index]
        if not tokens:
            yield index
        elif left.get(task, 0) > 0:
            left[task] -= size
            yield index
