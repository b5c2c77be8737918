"""The plan file: what it decides, and that nothing in it goes unread."""

import json
from pathlib import Path
from typing import Any

import pytest

from sdk.build.losses import LossWeights
from sdk.build.plan import BuildPlan
from sdk.errors import PlanError


def file_of(folder: Path, **changed: Any) -> Path:
    """A plan file with some fields changed."""
    file = folder / "plan.json"
    file.write_text(json.dumps({**json.loads(BuildPlan().to_json()), **changed}), encoding="utf-8")
    return file


def test_a_plan_comes_back_as_it_was(tmp_path: Path) -> None:
    plan = BuildPlan(text=("a.jsonl",), layers=(0, 1), frozen_layers=1, weights=LossWeights(features=0.5))
    file = tmp_path / "plan.json"
    file.write_text(plan.to_json(), encoding="utf-8")
    assert BuildPlan.read(file) == plan
    assert BuildPlan.read(file).digest == plan.digest != BuildPlan().digest


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"vocabulry": 1}, "unknown field 'vocabulry'"),
        ({"weights": {"logit": 1.0}}, "unknown field 'logit'"),
        ({"weights": {"cross_entropy": 0, "forward_kl": 0}}, "nothing to learn"),
        ({"weights": {"cross_entropy": -1}}, "at least 0"),
        ({"format": "build-plan/9"}, "not of format"),
        ({"passes": "two"}, "another type"),
        ({"passes": True}, "another type"),
        ({"text": "a.jsonl"}, "another type"),
        ({"passes": 0}, "passes must be at least 1"),
        ({"layers": [3, 1]}, "layers must rise"),
        ({"frozen_layers": 99}, "frozen_layers"),
        ({"quantised_share": 1.5}, "quantised_share"),
        ({"rate": 0}, "rates"),
        ({"text_tokens": -1}, "negative"),
    ],
)
def test_what_no_build_can_do_is_refused(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        BuildPlan.read(file_of(tmp_path, **changed))


@pytest.mark.parametrize("content", [None, b"{", b"[]", b"\xff\xfe"])
def test_what_is_no_plan_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(PlanError, match="limbeck build plan"):
        BuildPlan.read(tmp_path / "plan.json")
