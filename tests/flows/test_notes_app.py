"""The notes app, whole, on a tiny base: lines in, notes kept, answers judged, a night learned, and gone on with."""

import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from personalize.experience import Signal
from personalize.home import Home
from personalize.learner import Learner
from tests.tiny import tiny_bundle

SCRIPT = Path(__file__).parents[2] / "examples" / "4_notes_app.py"


def kept(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "notes.json").read_text(encoding="utf-8"))
    return found


def test_it_keeps_what_was_accepted_or_mended_and_learns_from_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base, folder, script = tiny_bundle(tmp_path).folder, tmp_path / "notes", tmp_path / "lines"

    def say(*lines: str) -> str:
        script.write_text("\n".join(lines), encoding="utf-8")
        words = [os.fspath(SCRIPT), "--folder", os.fspath(folder), "--base", os.fspath(base), "--script", str(script)]
        monkeypatch.setattr(sys, "argv", words)
        runpy.run_path(os.fspath(SCRIPT), run_name="__main__")
        return capsys.readouterr().out

    mended = ["tea at 4", "event", "title: tea", "colour: red", "day: today", "day:", "y"]
    told = say("a cat", "y", "", *mended, "a dog", "n", "history", "nothing like that", "what?", "n", "notes", "quit")
    assert "colour: Extra inputs are not permitted" in told
    assert "y keeps it, n throws it away" in told
    assert "2 kept" in told
    notes, history = kept(folder)["notes"], kept(folder)["history"]
    assert notes[1]["action"] == "create_event"
    assert (notes[1]["title"], "day" in notes[1]) == ("tea", False)
    assert all(value in "a cat" for name, value in notes[0].items() if name != "action")  # Words of the request.
    assert [one["how"] for one in history] == ["accepted", "edited", "rejected", "rejected"]

    learner = Learner(Home.open(folder / "home"), None)
    signals = {item.experience.signal for item in learner.store.fresh() if item.experience.learnable}
    learner.close()
    assert signals == {Signal.ACCEPTED, Signal.EDITED}

    assert "a night needs 20" in say("night")  # Refused in one line; what was kept is still there.
    told = say(*(line for number in range(18) for line in (f"a cat {number}", "y")))
    assert "20 of 20 answers for the next night" in told
    assert "epsilon" in told
    assert (kept(folder)["fresh"], len(kept(folder)["notes"])) == (0, 20)
    assert "1 of 20" in say("a cat", "y")


@pytest.mark.parametrize(("content", "words"), [("[1", "holds no notes"), ('{"notes": []}', "holds no notes")])
def test_damaged_notes_are_one_line_and_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, words: str
) -> None:
    (tmp_path / "notes.json").write_text(content, encoding="utf-8")
    base = os.fspath(tiny_bundle(tmp_path).folder)
    monkeypatch.setattr(sys, "argv", [os.fspath(SCRIPT), "--folder", os.fspath(tmp_path), "--base", base])
    with pytest.raises(SystemExit, match=words):
        runpy.run_path(os.fspath(SCRIPT), run_name="__main__")
    assert (tmp_path / "notes.json").read_text(encoding="utf-8") == content
