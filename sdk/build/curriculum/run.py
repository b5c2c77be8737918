"""Files of teacher-written answers and the shares of the tasks in, the two sets on disk and what they hold out."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

from sdk.build.curriculum.assembly import curriculum
from sdk.build.curriculum.examples import FORMAT, Example
from sdk.build.curriculum.files import write_examples
from sdk.build.curriculum.written import filtered, read_candidates
from sdk.errors import CurriculumError

__all__ = ["build_curriculum", "parsed_weights"]


def build_curriculum(
    out: Path,
    held_out: Path | None,
    *,
    count: int,
    held_out_count: int,
    weights: Mapping[str, float] | None,
    seed: int,
    snips_folder: Path | None,
    written: Sequence[Path] = (),
) -> dict[str, Any]:
    """Make both sets, add what passes of the teacher-written answers to the training set, and write them.

    A teacher's free text takes the place of the templates' answer to the same prompt. The held-out set is always made,
    so that nothing near it is learned; it is written where `held_out` says.

    Returns:
        `out`, `examples`, `tasks` (task to examples), `digest`; the same four of the held-out set under `held_out`, or
        None; `written` (`kept`, and `refused` by reason), or None; `format`, `seed`.

    Raises:
        UnknownTaskError: A weight names no task.
        CurriculumError: The tasks cannot be made as asked, or a file cannot be read; nothing was written.
    """
    if held_out is not None and held_out.resolve() == out.resolve():
        raise CurriculumError(f"{out} cannot hold both sets; give --held-out another file")
    made = curriculum(count=count, held_out=held_out_count, weights=weights, seed=seed, snips_folder=snips_folder)
    candidates = chain.from_iterable(read_candidates(file) for file in written)
    passed = filtered(candidates, known=made.train, held_out=made.held_out)
    train = {example.prompt: example for example in (*made.train, *passed.kept)}
    write_examples(out, train.values())
    if held_out is not None:
        write_examples(held_out, made.held_out)
    return {
        "format": FORMAT,
        "seed": seed,
        **_facts(out, train.values()),
        "held_out": _facts(held_out, made.held_out) if held_out is not None else None,
        "written": {"kept": len(passed.kept), "refused": dict(passed.refused)} if written else None,
    }


def parsed_weights(text: str) -> dict[str, float]:
    """Read "action=2,title=1".

    Raises:
        CurriculumError: It is not of this form, or names a task twice.
    """
    weights: dict[str, float] = {}
    for part in text.split(","):
        task, _, weight = (piece.strip() for piece in part.partition("="))
        try:
            if task in weights:
                raise ValueError("named twice")
            weights[task] = float(weight)
        except ValueError as wrong:
            raise CurriculumError(f"weights are written as action=2,title=1; {part!r} is not: {wrong}") from wrong
    return weights


def _facts(file: Path, examples: Iterable[Example]) -> dict[str, Any]:
    tasks = Counter(example.task for example in examples)
    return {
        "out": str(file),
        "examples": tasks.total(),
        "tasks": dict(sorted(tasks.items())),
        "digest": f"sha256:{sha256(file.read_bytes()).hexdigest()}",
    }
