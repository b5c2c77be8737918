"""The real training loop in two processes (gloo) against the same loop in one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sdk.build import outputs
from sdk.build.distill import Recipe, train
from sdk.build.losses import LossWeights
from sdk.build.many import ALONE, Group
from sdk.build.outputs import Lesson, lessons
from sdk.build.sequences import TokenSequence
from sdk.build.worked import Worked
from tests.forked import needs_fork
from tests.sdk.build.test_many import on_two
from tests.tiny import VOCABULARY, tiny_model

pytestmark = needs_fork
SEQUENCES = 14


def sequences() -> list[TokenSequence]:
    """Sequences of unequal length, of which unequally many tokens count."""
    random, made = torch.Generator().manual_seed(0), []
    for number in range(SEQUENCES):
        ids = torch.randint(VOCABULARY, (6 + number,), generator=random).tolist()
        made.append(TokenSequence(ids=tuple(ids), first=1 + number % 5))
    return made


def learned(folder: Path, group: Group) -> tuple[Any, list[Lesson]]:
    """An untrained student and its lessons: ten with a teacher, four without."""
    student, teacher = tiny_model(seed=1), tiny_model(seed=2)
    made: list[Lesson] = []
    for name, part, told in (("taught", sequences()[:10], teacher), ("alone", sequences()[10:], None)):
        made += lessons(
            part,
            student=student,
            frozen=1,
            teacher=told,
            top_k=16,
            worked=Worked(folder),
            name=name,
            progress=lambda *_: None,
            group=group,
        )
    return student, made


def run(folder: Path, group: Group, *, quantised: float = 0.0, stop_after: int | None = None) -> dict[str, Any]:
    """Losses and weights of a training; it can be interrupted after some steps."""
    student, made = learned(folder, group)
    mix = LossWeights(cross_entropy=0.5, forward_kl=1.0, self_distillation=0.1)
    recipe = Recipe(frozen=1, mix=mix, rate=2e-3, passes=4, batch_tokens=50, quantised_share=quantised, exits=(2,))

    def told(what: str, done: int, total: int) -> None:
        if done == stop_after:
            raise KeyboardInterrupt

        began.append(done - 1)

    found, began = None, list[int]()
    try:
        found = train(student, made, recipe, worked=Worked(folder), name="train", progress=told, group=group)
    except KeyboardInterrupt:
        assert stop_after is not None
    return {
        "began": began[0],
        "losses": [] if found is None else list(found.losses),
        "tokens": found and found.tokens,
        "largest": found and found.largest,
        "weights": {name: value.detach() for name, value in student.state_dict().items()},
    }


def alike(found: dict[str, Any], alone: dict[str, Any], *, within: float) -> None:
    assert [step for step, _ in found["losses"]] == [step for step, _ in alone["losses"]]
    assert [loss for _, loss in found["losses"]] == pytest.approx([loss for _, loss in alone["losses"]], rel=within)
    assert found["tokens"] == alone["tokens"]
    assert found["largest"] == pytest.approx(alone["largest"], rel=1e-4)


def test_two_processes_distil_what_one_does(tmp_path: Path) -> None:
    alone = run(tmp_path / "one", ALONE)
    assert len(alone["losses"]) > 12
    losses = [loss for _, loss in alone["losses"]]
    assert sum(losses[-4:]) < sum(losses[:4])
    for found in on_two(lambda group: run(tmp_path / "two", group), tmp_path):
        alike(found, alone, within=1e-5)
        for name, weights in alone["weights"].items():
            assert torch.allclose(found["weights"][name], weights, atol=1e-4), name


def test_two_processes_meet_the_grid_where_one_does(tmp_path: Path) -> None:
    alone = run(tmp_path / "one", ALONE, quantised=0.4)
    first, second = on_two(lambda group: run(tmp_path / "two", group, quantised=0.4), tmp_path)
    alike(first, alone, within=0.01)  # A weight between two values of the grid may fall on either side.
    for name, weights in first["weights"].items():
        assert torch.equal(weights, second["weights"][name]), name


def test_two_processes_go_on_from_what_one_left(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", ALONE)
    run(tmp_path / "torn", ALONE, stop_after=5)
    for found in on_two(lambda group: run(tmp_path / "torn", group), tmp_path):
        assert found["began"] == 5
        alike(found, whole, within=1e-5)


def test_each_process_reads_its_share_of_the_shards_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "PER_SHARD", 3)
    whole = outputs._shard

    def counted(group: Group) -> tuple[int, list[torch.Tensor]]:
        made = 0

        def noted(*arguments: Any) -> Any:
            nonlocal made
            made += 1
            return whole(*arguments)

        outputs._shard = noted  # type: ignore[assignment]
        states = [lesson.hidden for lesson in learned(tmp_path / "two", group)[1]]
        return made, states

    (first, ours), (second, theirs) = on_two(counted, tmp_path)
    assert (first, second) == (3, 3)  # Four shards of taught sequences, two of others.
    alone = learned(tmp_path / "one", ALONE)[1]
    for one, two, three in zip(alone, ours, theirs, strict=True):
        assert torch.equal(one.hidden, two)
        assert torch.equal(one.hidden, three)


def every_process_writes(group: Group) -> bool:
    return True


def written_by_second(folder: Path, tmp_path: Path) -> bool:
    """Whether the second process wrote a state of the training."""

    def work(group: Group) -> bool:
        wrote = False
        keep = Worked.keep

        def noted(self: Worked, name: str, tensors: Any) -> None:
            nonlocal wrote
            wrote = wrote or name == "train"
            keep(self, name, tensors)

        Worked.keep = noted  # type: ignore[method-assign]
        run(folder, group)
        return wrote

    first, second = on_two(work, tmp_path)
    assert first
    return bool(second)


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not written_by_second(tmp_path / "two", tmp_path)
    monkeypatch.setattr(Group, "first", property(every_process_writes))
    assert written_by_second(tmp_path / "mutant", tmp_path)
