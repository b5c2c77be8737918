"""Exact forgetting killed before each of its changes to the disk: asked again, it ends as if nothing had happened."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from personalize import learner as module
from personalize import removal
from personalize.home import Home
from personalize.learner import Learner
from personalize.shelf import Shelf
from personalize.store import Store
from tests.forked import KILLED, kill_myself, needs_fork, run_forked
from tests.nights import DIGEST, PLAN, one_day, opened_learner, tiny_base

pytestmark = needs_fork
BASE = tiny_base()
DAYS = ("2026-11-20", "2026-11-21", "2026-11-22")
CHANGES = {"replace", "rename", "unlink", "remove", "rmdir", "fsync", "execute", "executemany", "commit"}
STRIDE = 2  # Each second call is a place to be killed at.


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three nights in a home; the second learned from the record that is forgotten, the third went on from it."""
    folder = tmp_path_factory.mktemp("removal") / "home"
    learner = opened_learner(folder, BASE)
    for day in DAYS:
        experiences = one_day(day)
        learner.remember([replace(experiences[0], contact=f"Ana {day}"), *experiences[1:]])
        assert learner.learn(PLAN).verdict.admitted
    learner.close()
    return folder


def killed_at(count: int) -> Callable[[FrameType, str, Any], None]:
    """A profile that kills this process before its `count`-th call that may change the disk."""
    left = [count]

    def profile(frame: FrameType, event: str, what: Any) -> None:
        if event == "c_call" and getattr(what, "__name__", "") in CHANGES:
            left[0] -= 1
            if left[0] < 0:
                kill_myself()

    return profile


def forget(home: Path, count: int | None = None) -> None:
    learner = Learner(Home.open(home), BASE)
    sys.setprofile(killed_at(count) if count is not None else None)
    learner.forget(contact=f"Ana {DAYS[1]}", exact=True)
    sys.setprofile(None)
    learner.close()


def require_forgotten(home: Path) -> None:
    learner = Learner(Home.open(home), BASE)
    try:
        assert len(learner.shelf.history) == 1, "an adapter with a trace is still listed"
        assert {folder.name for folder in learner.home.adapters.iterdir()} == set(learner.shelf.history), (
            "an adapter with a trace is still on the disk"
        )
        assert learner.shelf.load(base_digest=DIGEST) is not None, "what answered before that night answers no more"
        assert learner.store.count() == 71, "the record is still there"
        assert sum(1 for _ in learner.store.fresh()) == 47, "the other records are not fresh again"
    finally:
        learner.close()


def swept(learned: Path, folder: Path) -> int:
    """Kill at each place, ask again, and check; returns how many places there were."""
    for places, count in enumerate(range(0, 1000, STRIDE)):
        home = folder / str(count)
        shutil.copytree(learned, home)
        ended = run_forked(partial(forget, home, count))
        if ended == 0:
            require_forgotten(home)
            return places
        assert ended == KILLED
        forget(home)
        require_forgotten(home)
        shutil.rmtree(home)
    raise AssertionError("forgetting does not end")


def test_forgetting_that_is_killed_anywhere_is_finished_by_asking_again(learned: Path, tmp_path: Path) -> None:
    assert swept(learned, tmp_path) > 10


def test_forgetting_the_record_before_the_adapter_is_caught(
    learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in between, nobody would know any more which adapters had learned from it."""
    taken_out, gone = removal.take_out, Store.forget

    def record_first(home: Home, store: Store, runs: set[str], **more: Any) -> Any:
        gone(store, contact=f"Ana {DAYS[1]}")
        return taken_out(home, store, runs, **more)

    monkeypatch.setattr(module, "take_out", record_first)
    with pytest.raises(AssertionError, match="still listed"):
        swept(learned, tmp_path)


def test_leaving_what_was_half_deleted_is_caught(
    learned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shelf, "sweep", lambda self: None)
    with pytest.raises(AssertionError, match="still on the disk"):
        swept(learned, tmp_path)
