"""A whole night, lived to its end, interrupted at every sign of life, and killed at many of its operations."""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

from personalize.adapter import Adapter, attached
from personalize.checkpoint import FILE
from personalize.errors import TrainingError
from personalize.learner import LIFETIME, Learner
from personalize.retention import AdmittedAdapter
from personalize.shelf import Shelf
from privacy import BudgetExhaustedError, DpSgd, epsilon
from sdk.device.assistant import Assistant
from sdk.device.night import plan_of
from tests.checks import require_nothing_refunded
from tests.forked import KILLED, end_of, forked, kill_myself, needs_fork, run_forked
from tests.nights import DIGEST, PLAN, RECKLESS, one_day, opened_learner, tiny_base
from tests.tiny import SENTENCES, tiny_bundle

BASE = tiny_base()
FIRST, SECOND, THIRD = "2026-11-20", "2026-11-21", "2026-11-22"
SIGNS_OF_LIFE = 25 + 3 + 1
"""Progress calls of a night that passes at once: 24 records read, 2 steps, 1 share probed."""


class Evening:
    """A home with one admitted night behind it and another before it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def prepared(cls, folder: Path) -> "Evening":
        learner = opened_learner(folder, BASE)
        learner.remember(one_day(FIRST))
        assert learner.learn(PLAN).verdict.admitted
        learner.remember(one_day(SECOND))
        learner.close()
        return cls(folder)

    def copied(self, folder: Path) -> "Evening":
        shutil.copytree(self.folder, folder)
        return Evening(folder)

    def learner(self) -> Learner:
        return opened_learner(self.folder, BASE)

    def in_use(self) -> tuple[str, Adapter]:
        learner = self.learner()
        name, adapter = learner.shelf.in_use, learner.shelf.load(base_digest=DIGEST)
        learner.close()
        assert name is not None
        assert adapter is not None
        return name, adapter


@pytest.fixture(scope="module")
def evening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evening]:
    folder = tmp_path_factory.mktemp("evening")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIMBECK_ANCHORS", str(folder / "anchors"))
        yield Evening.prepared(folder / "home")


@pytest.fixture
def home(evening: Evening, tmp_path: Path) -> Evening:
    return evening.copied(tmp_path / "home")


def same(one: Adapter, other: Adapter) -> bool:
    return all(torch.equal(one.b[site], other.b[site]) for site in one.b)


def require_sound(home: Evening, old: tuple[str, Adapter], steps_taken: int) -> None:
    """What must hold after a night that ended anyhow, before anything else is done.

    Args:
        home: Where it was lived.
        old: Name and content of the adapter that was in use before.
        steps_taken: Gradients of private records that were begun.
    """
    name, adapter = home.in_use()  # Opening is the next start: store, ledger and shelf check themselves.
    learner = home.learner()
    learner.ledger.verify()
    reserved = [entry for entry in learner.ledger.entries() if entry.kind == "reserve"]
    drawn = sum(entry.kind == "draw" for entry in learner.ledger.entries())
    assert len(reserved) in (1, 2)
    assert drawn >= 2 + steps_taken, "a step was taken that was never drawn"
    assert len(reserved) == 2 or steps_taken == 0, "a step was taken that was never reserved"
    require_nothing_refunded(learner.ledger, [PLAN.run()], FIRST)
    if len(reserved) == 2:
        require_nothing_refunded(learner.ledger, [PLAN.run()], SECOND)
    if name == old[0]:
        assert same(adapter, old[1]), "the adapter in use was changed in place"
    else:
        assert name == f"night-{reserved[1].receipt}"
        assert list(learner.store.fresh()) == [], "an adapter is in use whose records may be learned again"
    with torch.no_grad(), attached(BASE.model, adapter):
        assert BASE.model(torch.arange(3, 20).view(1, -1)).logits.isfinite().all()
    learner.close()


def require_next_night_works(home: Evening) -> None:
    """The next night goes on, or learns what is left, or what comes next, and no block passes its lifetime budget."""
    learner = home.learner()
    if not list(learner.store.fresh()):
        learner.remember(one_day(THIRD))
    report = learner.learn(PLAN)
    assert report.verdict.admitted
    if report.resumed and list(learner.store.fresh()):
        assert learner.learn(PLAN).verdict.admitted
    assert list(learner.store.fresh()) == []
    assert learner.status()["can_go_on"] is None
    assert {record.trained_run is None for record in learner.store.all()} == {False}
    for block, spent in learner.ledger.spent_by_block().items():
        nights = sum(block in entry.facts()["blocks"] for entry in learner.ledger.entries() if entry.kind == "reserve")
        assert epsilon([PLAN.run()] * nights, delta=1e-5, accountant="rdp") == pytest.approx(spent)
        assert spent <= LIFETIME.epsilon
    assert Shelf(learner.home).load(base_digest=DIGEST) is not None
    learner.close()


# To its end


def test_an_assistant_remembers_learns_and_answers_on_the_bundle(tmp_path: Path) -> None:
    assistant = Assistant.open(tmp_path / "home", bundle=tiny_bundle(tmp_path))
    before = assistant.respond("the cat", max_new_tokens=8)
    for row in range(20):
        assistant.remember(prompt="the cat", answer=f"{SENTENCES[row % 4]} {row}")
    plan = plan_of(kind="lora", steps=2)
    report = assistant.learn(plan)
    assert report.records == 20
    assert report.epsilon <= plan.epsilon
    assert assistant.adapter_name == report.adapter
    again = Assistant.open(tmp_path / "home", bundle=tiny_bundle(tmp_path / "again"))
    assert again.adapter_name == report.adapter
    assert again.respond("the cat", max_new_tokens=8) == assistant.respond("the cat", max_new_tokens=8)
    bare = Assistant.open(tmp_path / "home", bundle=tiny_bundle(tmp_path / "bare"), adapter=False)
    assert bare.respond("the cat", max_new_tokens=8) == before


def test_a_rejected_night_leaves_the_answers_of_the_evening(home: Evening) -> None:
    old = home.in_use()
    learner = home.learner()
    report = learner.learn(RECKLESS)
    learner.close()
    assert not report.verdict.admitted
    assert (report.adapter, home.in_use()[0]) == (old[0], old[0])
    assert same(home.in_use()[1], old[1])


def test_three_nights_cost_each_record_one(home: Evening) -> None:
    for label in (SECOND, THIRD):
        learner = home.learner()
        learner.remember(one_day(THIRD) if label == THIRD else [])
        report = learner.learn(PLAN)
        assert report.blocks == (label,)
        assert learner.ledger.spent() == pytest.approx(report.epsilon)
        learner.close()


# Interrupted


@pytest.mark.parametrize("sign", range(SIGNS_OF_LIFE))
def test_interrupted_at_any_sign_of_life_the_next_night_works(home: Evening, sign: int) -> None:
    old, learner, seen = home.in_use(), home.learner(), 0

    def interrupt(phase: str, done: int, total: int) -> None:
        nonlocal seen
        seen += 1
        if seen == sign + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learner.learn(PLAN, progress=interrupt)
    spent = learner.ledger.spent_by_block()
    learner.close()
    require_sound(home, old, steps_taken=max(0, min(2, sign - 25)))
    assert home.in_use()[0] == old[0]
    require_next_night_works(home)
    learner = home.learner()
    assert learner.ledger.spent_by_block() == spent, "a night that was interrupted is ended under the receipt it has"
    learner.close()


def test_those_were_all_signs_of_life(home: Evening) -> None:
    learner, told = home.learner(), []
    assert learner.learn(PLAN, progress=lambda *now: told.append(now)).verdict.alpha == 1.0
    learner.close()
    assert len(told) == SIGNS_OF_LIFE


# Killed


def is_operation(event: str, argument: object) -> bool:
    """Whether something outside the process is about to change, or has just changed."""
    named = getattr(argument, "__name__", "")
    return event in ("c_call", "c_return") and named in OPERATIONS


OPERATIONS = {
    "execute", "executemany", "commit", "open", "write", "fsync", "replace", "rename", "link", "mkdir", "unlink",
    "rmdir", "scandir", "serialize_file", "flock", "close", "urandom",
}  # fmt: skip
"""Calls into SQLite and the operating system that a night makes."""


class Watched:
    """A night in a forked copy of this process, with every operation counted and every private step noted."""

    def __init__(self, home: Evening, notes: Path) -> None:
        self.home, self.notes = home, notes

    def live(self, *, die_at: int | None = None) -> int:
        """Live the night; at operation number `die_at` the process is killed. Returns how the process ended."""

        def night() -> None:
            learner = self.home.learner()
            notes = os.open(self.notes, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            real, count = DpSgd.step, 0

            def noted(engine: DpSgd, losses_of: Any, *, microbatch: int = 16) -> Any:
                os.write(notes, b"step\n")
                return real(engine, losses_of, microbatch=microbatch)

            def watch(frame: FrameType, event: str, argument: object) -> None:
                nonlocal count
                if is_operation(event, argument):
                    count += 1
                    if count == die_at:
                        kill_myself()

            pytest.MonkeyPatch().setattr(DpSgd, "step", noted)
            sys.setprofile(watch)
            learner.learn(PLAN)
            sys.setprofile(None)
            os.write(notes, f"{count}\n".encode())

        return run_forked(night)

    @property
    def steps_taken(self) -> int:
        return self.notes.read_text().count("step") if self.notes.exists() else 0

    @property
    def operations(self) -> int:
        return int(self.notes.read_text().split()[-1])


@pytest.fixture(scope="module")
def operations(evening: Evening, tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many operations a whole night makes."""
    folder = tmp_path_factory.mktemp("watched")
    watched = Watched(evening.copied(folder / "home"), folder / "notes")
    assert watched.live() == 0
    assert watched.steps_taken == 2
    return watched.operations


KILLS = 24
OPENING = 60
"""Operations before the first that could matter: the store is read, nothing is written."""


@needs_fork
@pytest.mark.parametrize("kill", range(KILLS))
def test_killed_at_any_operation_the_next_night_works(
    home: Evening, tmp_path: Path, operations: int, kill: int
) -> None:
    old, watched = home.in_use(), Watched(home, tmp_path / "notes")
    point = OPENING + kill * (operations - OPENING) // (KILLS - 1)
    assert watched.live(die_at=point) == KILLED
    require_sound(home, old, watched.steps_taken)
    require_next_night_works(home)


@needs_fork
def test_killed_night_after_night_no_record_passes_its_budget(home: Evening, tmp_path: Path) -> None:
    old = home.in_use()

    def die_in_training(phase: str, done: int, total: int) -> None:
        if (phase, done) == ("learning", 1):
            kill_myself()

    def night() -> None:
        (home.folder / FILE).unlink(missing_ok=True)  # Nothing to go on with: each begins anew.
        with pytest.raises(BudgetExhaustedError):
            home.learner().learn(PLAN, progress=die_in_training)

    ends = [run_forked(night) for _ in range(6)]
    nights = ends.count(KILLED)
    assert ends == [KILLED] * nights + [0] * (6 - nights)
    assert 0 < nights < 6
    learner = home.learner()
    assert len(learner.ledger.open_receipts()) == nights
    require_nothing_refunded(learner.ledger, [PLAN.run()] * nights, SECOND)
    assert learner.ledger.spent() <= LIFETIME.epsilon
    with pytest.raises(BudgetExhaustedError, match="is left"):
        learner.learn(PLAN)
    learner.remember(one_day(THIRD))
    assert learner.learn(PLAN).blocks == (THIRD,), "what comes next is not held back"
    learner.close()
    assert home.in_use()[0] != old[0]


@needs_fork
@pytest.mark.parametrize("sign", ["reading 24", "learning 0", "learning 1", "learning 2", "checking 0"])
def test_killed_from_outside_the_next_night_works(home: Evening, sign: str) -> None:
    old, (here, there) = home.in_use(), os.pipe()

    def tell(phase: str, done: int, total: int) -> None:
        os.write(there, f"{phase} {done}\n".encode())

    def night() -> None:
        home.learner().learn(PLAN, progress=tell)

    child = forked(night)
    os.close(there)
    with os.fdopen(here) as signs:
        for line in signs:
            if line.strip() == sign:
                os.kill(child, signal.SIGKILL)
                break
        assert end_of(child) == KILLED
    require_sound(home, old, steps_taken=int(sign == "learning 1") + 2 * (sign == "learning 2"))
    require_next_night_works(home)


# The checks above can fail


def crashed_night(home: Evening, error: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shelf, "put", error)
    learner = home.learner()
    with pytest.raises(TrainingError):
        learner.learn(PLAN)
    learner.close()
    monkeypatch.undo()


def test_an_adapter_that_is_swapped_before_it_is_whole_is_caught(
    home: Evening, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hasty(self: Shelf, admitted: AdmittedAdapter, name: str, label: dict[str, Any]) -> None:
        self._home.update_state(lines={self.name: [name]})
        raise TrainingError("no room")

    old = home.in_use()
    crashed_night(home, hasty, monkeypatch)
    with pytest.raises(Exception, match="cannot be read"):
        require_sound(home, old, steps_taken=2)


def test_an_adapter_that_is_written_over_is_caught(home: Evening, monkeypatch: pytest.MonkeyPatch) -> None:
    def over(self: Shelf, admitted: AdmittedAdapter, name: str, label: dict[str, Any]) -> None:
        shutil.rmtree(self._home.adapters / str(self.in_use))
        admitted.adapter.save(self._home.adapters / str(self.in_use))
        raise TrainingError("no room")

    old = home.in_use()
    crashed_night(home, over, monkeypatch)
    with pytest.raises(AssertionError, match="changed in place"):
        require_sound(home, old, steps_taken=2)


def test_a_step_that_is_taken_before_it_is_drawn_is_caught(home: Evening) -> None:
    with pytest.raises(AssertionError, match="a step was taken that was never drawn"):
        require_sound(home, home.in_use(), steps_taken=1)
