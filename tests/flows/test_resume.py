"""A night that is stopped or killed anywhere, and the one that goes on with it: one receipt, no step taken twice."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from personalize import train as training
from personalize.checkpoint import FILE, Checkpoints, TrainingState
from personalize.errors import NightStoppedError, StoreError, TrainingError
from personalize.learner import Learner
from personalize.night import NightReport
from privacy import DpSgd
from tests.forked import KILLED, kill_myself, needs_fork, run_forked
from tests.nights import DIGEST, PLAN, one_day, opened_learner, tiny_base

BASE = tiny_base()
LONG = replace(PLAN, steps=3)
DAY = timedelta(days=1)


@pytest.fixture
def learner(tmp_path: Path) -> Iterator[Learner]:
    opened = opened_learner(tmp_path / "home", BASE)
    opened.remember(one_day())
    yield opened
    opened.close()


class After:
    """A stop that says yes from the n-th time on that it is asked."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def kinds(learner: Learner) -> list[str]:
    return [entry.kind for entry in learner.ledger.entries()]


def ended(learner: Learner, plan: Any = LONG, tries: int = 400, first: int = 0) -> NightReport:
    """Stop the night again and again, a little later each time, until it ends."""
    for times in range(first, tries):
        try:
            return learner.learn(plan, stop=After(times))
        except NightStoppedError:
            assert len(learner.ledger.open_receipts()) == 1
    raise AssertionError("the night never ended")


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file to which each step that has an output writes its number, also from a forked copy."""
    real, notes = DpSgd._privatise, tmp_path / "outputs"
    notes.touch()

    def noted(self: DpSgd, sums: list[torch.Tensor]) -> list[torch.Tensor]:
        with notes.open("a") as file:
            file.write(f"{self.steps_drawn}\n")
        return real(self, sums)

    monkeypatch.setattr(DpSgd, "_privatise", noted)
    return notes


def require_no_step_twice(learner: Learner, outputs: Path) -> None:
    """Each step has one output at most, and a draw of its own that came before it."""
    taken = outputs.read_text().split()
    assert len(set(taken)) == len(taken), f"a step has two outputs: {taken}"
    assert len(taken) <= kinds(learner).count("draw") <= LONG.steps, "a step has an output and was never drawn"
    assert kinds(learner).count("reserve") == 1, "one night was charged twice"


# Stopped


def test_a_night_that_is_stopped_again_and_again_ends_under_one_receipt(learner: Learner, outputs: Path) -> None:
    report = ended(learner, first=8)
    assert report.resumed
    assert report.verdict.admitted
    assert report.records == 24
    require_no_step_twice(learner, outputs)
    assert outputs.read_text().split() == ["1", "2", "3"], "a step that was stopped before its noise is not lost"
    assert kinds(learner) == ["genesis", "budget", "reserve", "draw", "draw", "draw", "close"]
    assert report.epsilon == pytest.approx(learner.ledger.spent())
    assert "no new charge" in report.summary()
    assert learner.status()["can_go_on"] is None
    assert not (learner.home.path / FILE).exists()


@pytest.mark.parametrize("kind", ["xs", "lora"])
def test_without_noise_a_night_in_pieces_is_the_night_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(
        training, "DpSgd", lambda run, **given: DpSgd(run, **given, gaussian=lambda shape: torch.zeros(shape))
    )
    plan, found = replace(LONG, kind=kind), []
    for name in ("whole", "pieces"):
        learner = opened_learner(tmp_path / name, BASE)
        learner.remember(one_day())
        report = learner.learn(plan) if name == "whole" else ended(learner, plan, first=8)
        assert report.resumed == (name == "pieces")
        found.append(learner.shelf.load(base_digest=DIGEST))
        learner.close()
    whole, pieces = found
    assert whole is not None
    assert pieces is not None
    for site in whole.b:
        torch.testing.assert_close(pieces.b[site], whole.b[site], rtol=0, atol=0)


def test_status_says_how_far_a_stopped_night_is(learner: Learner) -> None:
    def stop_after_a_step() -> bool:
        return kinds(learner).count("draw") == 2

    with pytest.raises(NightStoppedError, match="learn again to go on"):
        learner.learn(LONG, stop=stop_after_a_step)
    assert learner.status()["can_go_on"] == {"receipt": learner.ledger.open_receipts()[0].id, "step": 1, "steps": 3}
    assert learner.learnable(LONG) == 1, "a night that is paid for waits"
    assert learner.shelf.in_use is None


def test_a_stop_in_the_gate_takes_no_step_again(learner: Learner, outputs: Path) -> None:
    phases: list[str] = []
    with pytest.raises(NightStoppedError):
        learner.learn(LONG, progress=lambda phase, done, total: phases.append(phase), stop=lambda: "checking" in phases)
    assert learner.learn(LONG).verdict.admitted
    require_no_step_twice(learner, outputs)
    assert outputs.read_text().split() == ["1", "2", "3"]


def test_a_stopped_night_keeps_its_own_plan(learner: Learner) -> None:
    with pytest.raises(NightStoppedError):
        learner.learn(LONG, stop=lambda: "draw" in kinds(learner))
    report = learner.learn(replace(PLAN, steps=7))
    assert (report.steps, report.resumed) == (3, True)


def test_what_was_forgotten_meanwhile_is_not_learned(learner: Learner, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NightStoppedError):
        learner.learn(LONG, stop=lambda: "draw" in kinds(learner))
    gone = [record.id for record in learner.store.fresh()][:3]
    learner.forget(ids=gone)
    report = learner.learn(LONG)
    assert (report.records, report.resumed) == (21, True)


# Given up


def require_begun_anew(learner: Learner, report: NightReport) -> None:
    assert not report.resumed
    outcomes = [entry.facts()["outcome"] for entry in learner.ledger.entries() if entry.kind == "close"]
    assert outcomes == ["abandoned", "admitted"]
    assert kinds(learner).count("reserve") == 2, "what was charged stays spent"
    assert learner.ledger.open_receipts() == []


def stopped(learner: Learner) -> None:
    with pytest.raises(NightStoppedError):
        learner.learn(LONG, stop=lambda: kinds(learner).count("draw") == 2)


def test_a_night_may_be_given_up(learner: Learner) -> None:
    stopped(learner)
    require_begun_anew(learner, learner.learn(LONG, anew=True))


def test_a_night_on_another_base_is_given_up(learner: Learner) -> None:
    stopped(learner)
    learner.base = replace(BASE, digest="sha256:" + "7" * 64)
    require_begun_anew(learner, learner.learn(LONG))


def test_a_night_with_too_few_records_left_is_given_up(learner: Learner) -> None:
    stopped(learner)
    learner.forget(ids=[record.id for record in learner.store.fresh()][:10])
    learner.remember([replace(item, at=item.at + DAY) for item in one_day()])
    report = learner.learn(LONG)
    require_begun_anew(learner, report)
    assert len(report.blocks) == 2


def test_a_night_whose_file_was_damaged_begins_anew_and_stays_charged(learner: Learner) -> None:
    stopped(learner)
    (learner.home.path / FILE).write_bytes(b"damaged")
    report = learner.learn(LONG)
    assert not report.resumed
    assert kinds(learner).count("reserve") == 2


def test_a_night_that_is_ahead_of_the_ledger_is_refused() -> None:
    with pytest.raises(StoreError, match="is at step 2 and the ledger has drawn 1"):
        TrainingState(step=2, tensors={}).after_draws(1)
    state = TrainingState(step=2, drawn=True, tensors={})
    assert state.after_draws(3) is state
    assert state.after_draws(4) == TrainingState(step=4, tensors={})
    assert TrainingState(step=2, tensors={}).after_draws(3).step == 3


def test_the_file_opens_only_with_the_key_of_the_device(learner: Learner) -> None:
    stopped(learner)
    kept = (learner.home.path / FILE).read_bytes()
    assert b"parameter" not in kept
    assert b'"xs"' not in kept  # As JSON has it: two bytes alone come up in sealed ones by chance.
    assert Checkpoints(learner.home, key=bytes(32)).load() is None


def test_a_night_that_fails_is_not_gone_on_with(learner: Learner) -> None:
    def fail(phase: str, done: int, total: int) -> None:
        if (phase, done) == ("learning", 1):
            raise TrainingError("the machine is on fire; put it out")

    with pytest.raises(TrainingError):
        learner.learn(LONG, progress=fail)
    assert learner.ledger.open_receipts() == []
    assert not learner.learn(LONG).resumed


# Killed


def _dies(after: bool, holder: Any, name: str, at: int) -> Callable[[pytest.MonkeyPatch], None]:
    """Kill this process before or after the `at`-th call of a method."""

    def arm(patch: pytest.MonkeyPatch) -> None:
        real, count = getattr(holder, name), 0

        def deadly(*args: Any, **given: Any) -> Any:
            nonlocal count
            count += 1
            if count == at and not after:
                kill_myself()
            made = real(*args, **given)
            if count == at and after:
                kill_myself()
            return made

        patch.setattr(holder, name, deadly)

    return arm


DEATHS = [
    (name, after, at)
    for name, times in (("save", 4), ("_privatise", 3), ("draw", 3), ("reserve", 1), ("close", 1), ("mark_trained", 1))
    for after in (False, True)
    for at in range(1, times + 1)
]


def die(learner: Learner, name: str, after: bool, at: int) -> None:
    holder = {
        "save": Checkpoints, "_privatise": DpSgd, "mark_trained": learner.store,
    }.get(name, learner.ledger)  # fmt: skip
    _dies(after, holder, name, at)(pytest.MonkeyPatch())
    learner.learn(LONG)


@needs_fork
@pytest.mark.parametrize(("name", "after", "at"), DEATHS)
def test_killed_anywhere_the_next_night_goes_on_or_begins_anew(
    tmp_path: Path, outputs: Path, name: str, after: bool, at: int
) -> None:
    opened = opened_learner(tmp_path / "home", BASE)
    opened.remember(one_day())
    opened.close()
    assert run_forked(lambda: die(opened_learner(tmp_path / "home", BASE), name, after, at)) == KILLED
    learner = opened_learner(tmp_path / "home", BASE)
    if not list(learner.store.fresh()) and learner.status()["can_go_on"] is None:
        assert learner.shelf.in_use is not None, "records are used up and no adapter has them"
        return
    report = learner.learn(LONG)
    assert report.verdict.admitted
    begun_anew = not report.resumed
    assert begun_anew == (name == "reserve" or (name, after, at) == ("save", False, 1)), "a charge was wasted"
    if not begun_anew:
        require_no_step_twice(learner, outputs)
    learner.close()


@needs_fork
def test_killed_while_a_stopped_step_is_taken_again_it_is_not_taken_a_third_time(
    learner: Learner, outputs: Path
) -> None:
    stopped(learner)
    home = learner.home.path

    def go_on_and_die() -> None:
        again = opened_learner(home, BASE)
        die(again, "_privatise", True, 1)

    assert run_forked(go_on_and_die) == KILLED
    assert learner.learn(LONG).resumed
    require_no_step_twice(learner, outputs)
    assert outputs.read_text().split() == ["1", "2", "3"]


# The checks above can fail


def killed_after_noise(learner: Learner) -> None:
    home = learner.home.path
    assert run_forked(lambda: die(opened_learner(home, BASE), "_privatise", True, 2)) == KILLED


@needs_fork
def test_a_step_that_is_taken_twice_is_caught(learner: Learner, outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A night that goes on where the file says, whatever the ledger has drawn, and takes that step under its draw."""
    killed_after_noise(learner)
    monkeypatch.setattr(TrainingState, "after_draws", lambda self, draws: replace(self, drawn=draws > self.step))
    learner.learn(LONG)
    with pytest.raises(AssertionError, match="a step has two outputs: \\['1', '2', '2', '3'\\]"):
        require_no_step_twice(learner, outputs)


def test_a_step_without_a_draw_is_caught(learner: Learner, outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(learner)
    monkeypatch.setattr(learner.ledger, "draw", lambda receipt: 0)
    learner.learn(LONG)
    with pytest.raises(AssertionError, match="never drawn"):
        require_no_step_twice(learner, outputs)


@needs_fork
def test_a_note_that_is_not_used_up_before_the_step_is_caught(
    learner: Learner, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stopped step is begun again, and the file still says that it may be."""
    stopped(learner)
    home, real = learner.home.path, Checkpoints.save

    def forgetful(self: Checkpoints, night: Any) -> None:
        if night.state.taken == night.state.step:
            real(self, night)

    monkeypatch.setattr(Checkpoints, "save", forgetful)
    assert run_forked(lambda: die(opened_learner(home, BASE), "_privatise", True, 1)) == KILLED
    monkeypatch.setattr(Checkpoints, "save", real)
    learner.learn(LONG)
    with pytest.raises(AssertionError, match="a step has two outputs"):
        require_no_step_twice(learner, outputs)


def test_a_stop_is_heard_at_once(learner: Learner) -> None:
    asked: list[float] = []

    def stop() -> bool:
        asked.append(time.process_time())
        return len(asked) > 12

    with pytest.raises(NightStoppedError):
        learner.learn(LONG, stop=stop)
    assert time.process_time() - asked[12] < 1
    assert (learner.home.path / FILE).exists()
