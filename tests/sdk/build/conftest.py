"""A whole small build on disk, for tests of the still."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdk.build.checkpoint import save_checkpoint
from sdk.build.plan import BuildPlan
from tests.tiny import SENTENCES, VOCABULARY, tiny_model, tiny_tokenizer

Still = Callable[..., Path]


@pytest.fixture
def still(tmp_path: Path) -> Still:
    """Writes a teacher, text, tasks and a plan; returns the plan file."""

    def made(**changed: Any) -> Path:
        teacher = tmp_path / "teacher"
        if not teacher.exists():
            save_checkpoint(tiny_model(layers=4), tiny_tokenizer(), teacher)
            (teacher / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
        (tmp_path / "text.jsonl").write_text(
            "".join(json.dumps({"text": text}) + "\n" for text in SENTENCES * 4), encoding="utf-8"
        )
        (tmp_path / "tasks.jsonl").write_text(
            "".join(json.dumps({"prompt": f"say {n}", "answer": SENTENCES[n % 4]}) + "\n" for n in range(12)),
            encoding="utf-8",
        )
        plan = BuildPlan(
            teacher="teacher",
            layers=(0, 1, 3),
            vocabulary=VOCABULARY - 10,
            frozen_layers=1,
            text=("text.jsonl",),
            tasks=("tasks.jsonl",),
            text_tokens=256,
            corrected_items=6,
            sequence=32 * 4,
            top_k=8,
            passes=1,
            batch_tokens=256,
        )
        file = tmp_path / "plan.json"
        file.write_text(json.dumps({**json.loads(plan.to_json()), **changed}), encoding="utf-8")
        return file

    return made
