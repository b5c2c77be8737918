"""A distilled student in, a folder on disk out that evaluation, compilers and the package read.

config.json, tokenizer.json, …   as Hugging Face writes them
model.safetensors                packed (sdk.packed)
plan.json                        what it was made by
training.json                    what happened: steps, tokens, losses, largest activation, kept tokens of the teacher,
                                 where the plan has rounds the first four of each round, and where it names a start
                                 digest, steps and tokens of that
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from sdk.build.checkpoint import write_config
from sdk.build.distill import Trained
from sdk.build.plan import BuildPlan
from sdk.build.start import PLAN, TRAINING
from sdk.build.still import Distilled
from sdk.errors import DistillError

__all__ = ["PLAN", "TRAINING", "totals", "write_student"]

LOSSES_KEPT = 200  # Points of the curve that are written.


def write_student(made: Distilled, plan: BuildPlan, folder: Path, *, facts: Mapping[str, Any]) -> None:
    """Write the folder, whole or not at all.

    Args:
        made: The student.
        plan: What it was made by.
        folder: Must not exist.
        facts: What else training.json tells, such as who taught.

    Raises:
        DistillError: The folder exists, or the disk; nothing is left of it.
    """
    if folder.exists():
        raise DistillError(f"{folder} exists; name another folder or remove it")
    staged = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(staged, ignore_errors=True)
    try:
        staged.mkdir(parents=True)
        write_config(made.model.config, staged)
        save_file(made.tensors, staged / "model.safetensors", metadata={"format": "pt"})
        made.trimmed.tokenizer.save_pretrained(staged)
        (staged / PLAN).write_text(plan.to_json(), encoding="utf-8")
        (staged / TRAINING).write_text(json.dumps(_told(made, plan, facts)) + "\n", encoding="utf-8")
        staged.rename(folder)
    except OSError as cause:
        shutil.rmtree(staged, ignore_errors=True)
        raise DistillError(f"the student cannot be written to {folder} ({cause.strerror}); free some room") from cause


def _told(made: Distilled, plan: BuildPlan, facts: Mapping[str, Any]) -> dict[str, Any]:
    told = {**facts, **totals(made.rounds), "losses": _curve(made.rounds)}
    if plan.rounds:
        told["rounds"] = [
            {"name": one.name, **totals([trained]), "losses": _curve([trained])}
            for one, trained in zip(plan.rounds, made.rounds, strict=True)
        ]
    return {**told, "kept_tokens": made.trimmed.kept.tolist()}


def totals(rounds: Sequence[Trained]) -> dict[str, Any]:
    """Steps and tokens of some trainings, and the largest activation of them all."""
    return {
        "steps": sum(one.steps for one in rounds),
        "tokens": sum(one.tokens for one in rounds),
        "largest_activation": max(one.largest for one in rounds),
    }


def _curve(rounds: Sequence[Trained]) -> list[list[float]]:
    """Points of the losses of trainings end to end, step and nats."""
    losses: list[tuple[int, float]] = []
    before = 0
    for one in rounds:
        losses += [(before + step, loss) for step, loss in one.losses]
        before += one.steps
    return [[step, round(loss, 4)] for step, loss in losses[:: max(1, len(losses) // LOSSES_KEPT)]]
