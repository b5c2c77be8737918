"""A distilled student in, a folder on disk out that evaluation, compilers and the package read.

config.json, tokenizer.json, …   as Hugging Face writes them
model.safetensors                packed (sdk.packed)
plan.json                        what it was made by
training.json                    what happened: steps, tokens, losses, largest activation, kept tokens of the teacher
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from sdk.build.checkpoint import write_config
from sdk.build.plan import BuildPlan
from sdk.build.still import Distilled
from sdk.errors import DistillError

__all__ = ["PLAN", "TRAINING", "write_student"]

PLAN, TRAINING = "plan.json", "training.json"

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
        (staged / TRAINING).write_text(json.dumps(_told(made, facts)) + "\n", encoding="utf-8")
        staged.rename(folder)
    except OSError as cause:
        shutil.rmtree(staged, ignore_errors=True)
        raise DistillError(f"the student cannot be written to {folder} ({cause.strerror}); free some room") from cause


def _told(made: Distilled, facts: Mapping[str, Any]) -> dict[str, Any]:
    trained = made.trained
    every = max(1, len(trained.losses) // LOSSES_KEPT)
    return {
        **facts,
        "steps": trained.steps,
        "tokens": trained.tokens,
        "largest_activation": trained.largest,
        "losses": [[step, round(loss, 4)] for step, loss in trained.losses[::every]],
        "kept_tokens": made.trimmed.kept.tolist(),
    }
