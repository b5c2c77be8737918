"""Weights, a count and a seed in, a training set and a held-out set of device tasks out.

Rules: the same arguments give the same bytes; no prompt stands twice; no template and no open value of the held-out set
is in the training set.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from types import MappingProxyType

from sdk.build.curriculum.actions import action
from sdk.build.curriculum.digests import summary, title
from sdk.build.curriculum.examples import Example
from sdk.build.curriculum.pairs import PAIRED, paired
from sdk.build.curriculum.proofread import proofread
from sdk.build.curriculum.snips import snips
from sdk.build.curriculum.split import Side
from sdk.errors import CurriculumError, UnknownTaskError
from sdk.tasks import TASKS

__all__ = ["DEFAULT_WEIGHTS", "Curriculum", "curriculum"]

DEFAULT_WEIGHTS: Mapping[str, float] = MappingProxyType(
    {
        "action": 0.36,
        "intent": 0.22,
        "summary": 0.06,
        "shorter": 0.05,
        "politer": 0.05,
        "formal": 0.05,
        "reply": 0.05,
        "title": 0.05,
        "commit": 0.04,
        "proofread": 0.07,
    }
)
"""Task to its share; what is given instead is normalised."""
MAX_REPEATS = 200  # Draws in a row without a new prompt before a task counts as used up.
MAKERS: Mapping[str, Callable[[Side, Random], Example]] = MappingProxyType(
    {
        "action": action,
        "summary": summary,
        "title": title,
        "proofread": proofread,
        **{task: partial(paired, task) for task in PAIRED},
    }
)


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """Two sets of worked examples that share no prompt, no template and no open value."""

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]


def curriculum(
    *,
    count: int = 8000,
    held_out: int = 800,
    weights: Mapping[str, float] | None = None,
    seed: int = 0,
    snips_folder: Path | None = None,
) -> Curriculum:
    """Make the device tasks.

    Args:
        count: Training examples, at least 1.
        held_out: Held-out examples, at least 0.
        weights: Task to a weight of at least 0; normalised. A task that is not named gets none. Default:
            DEFAULT_WEIGHTS, without "intent" where there is no `snips_folder`.
        seed: Another one draws other examples from the same templates.
        snips_folder: Training files of SNIPS, for the task "intent".

    Raises:
        UnknownTaskError: A weight names no task.
        CurriculumError: Weights cannot be used, "intent" has no data, or a task has too few different prompts.
    """
    shares = _shares(weights, has_snips=snips_folder is not None)
    return Curriculum(
        train=tuple(_made(Side.TRAIN, count, shares, seed, snips_folder)),
        held_out=tuple(_made(Side.HELD_OUT, held_out, shares, seed, snips_folder)),
    )


def _shares(weights: Mapping[str, float] | None, *, has_snips: bool) -> dict[str, float]:
    given = dict(weights if weights is not None else DEFAULT_WEIGHTS)
    if weights is None and not has_snips:
        del given["intent"]
    for task, weight in given.items():
        if task not in TASKS:
            raise UnknownTaskError(task, known=TASKS)
        if not 0 <= weight < float("inf"):
            raise CurriculumError(f"the weight of {task} must be a number of at least 0, got {weight}")
    total = sum(given.values())
    if total == 0:
        raise CurriculumError("no task has a weight above 0; name at least one, as in action=1")
    if given.get("intent") and not has_snips:
        raise CurriculumError(
            "the task intent needs the training files of SNIPS; give their folder or no weight to intent"
        )
    return {task: weight / total for task, weight in given.items() if weight}


def _made(side: Side, count: int, shares: Mapping[str, float], seed: int, folder: Path | None) -> list[Example]:
    examples: list[Example] = []
    for task, wanted in _counts(count, shares).items():
        rng = Random(f"{seed} {side.value} {task}")
        if task == "intent" and folder is not None:
            examples += _drawn(snips(folder, side), wanted, rng)
        else:
            examples += _different(task, side, wanted, rng)
    Random(f"{seed} {side.value} order").shuffle(examples)
    return examples


def _counts(count: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers in the proportion of the shares that add up to the count: largest remainders get one more."""
    exact = {task: count * share for task, share in shares.items()}
    counts = {task: int(number) for task, number in exact.items()}
    by_remainder = sorted(exact, key=lambda task: (counts[task] - exact[task], task))
    for task in by_remainder[: count - sum(counts.values())]:
        counts[task] += 1
    return counts


def _drawn(pool: list[Example], wanted: int, rng: Random) -> list[Example]:
    if wanted > len(pool):
        raise _used_up("intent", len(pool), wanted)
    return rng.sample(pool, wanted)


def _different(task: str, side: Side, wanted: int, rng: Random) -> list[Example]:
    made: dict[str, Example] = {}
    repeats = 0
    while len(made) < wanted:
        example = MAKERS[task](side, rng)
        if example.prompt in made:
            repeats += 1
            if repeats > MAX_REPEATS:
                raise _used_up(task, len(made), wanted)
        else:
            made[example.prompt] = example
            repeats = 0
    return list(made.values())


def _used_up(task: str, made: int, wanted: int) -> CurriculumError:
    return CurriculumError(
        f"{task} has {made} different prompts but {wanted} were asked for; lower the count or the weight of {task}"
    )
