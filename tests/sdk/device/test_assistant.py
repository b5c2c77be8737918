"""What an app calls, on a tiny base: answers with what was admitted, also while several are being read."""

from pathlib import Path

import pytest
import torch

from personalize.adapter import Adapter, fresh
from personalize.errors import NightStoppedError
from personalize.home import Home
from personalize.nightly import NoNight
from personalize.schedule import NightPolicy
from personalize.shelf import Shelf
from sdk import Assistant
from sdk.bundle import Bundle
from sdk.device.night import base_of, plan_of
from sdk.errors import NoBaseError
from tests.tiny import SENTENCES, tiny_bundle


def strong(base_folder: Path) -> Adapter:
    """An adapter that visibly changes answers."""
    base = base_of(tiny_bundle(base_folder))
    start = fresh(base.model, base.spec, fits_base=base.digest)
    generator = torch.Generator().manual_seed(1)
    return Adapter(
        spec=start.spec,
        fits_base=start.fits_base,
        a=start.a,
        b={site: torch.randn(value.shape, generator=generator) for site, value in start.b.items()},
    )


def test_it_remembers_learns_and_answers_with_what_was_admitted(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    assistant = Assistant.open(tmp_path / "home", bundle=bundle)
    assert assistant.adapter_name is None
    for row in range(20):
        assert len(assistant.remember(prompt=f"say {row}", answer=SENTENCES[row % 4])) == 32
    report = assistant.learn(plan_of(steps=1))
    assert report.records == 20
    assert assistant.adapter_name == report.adapter
    again = Assistant.open(tmp_path / "home", bundle=bundle)
    assert again.adapter_name == report.adapter
    assert again.respond("say 1", max_new_tokens=6) == assistant.respond("say 1", max_new_tokens=6)


def test_it_stops_goes_on_waits_for_an_idle_device_and_forgets_exactly(tmp_path: Path) -> None:
    assistant = Assistant.open(tmp_path / "home", bundle=tiny_bundle(tmp_path))
    ids = [assistant.remember(prompt=f"say {row}", answer=SENTENCES[row % 4]) for row in range(21)]
    with pytest.raises(NightStoppedError):
        assistant.learn(plan_of(steps=1), stop=lambda: True)
    held = assistant.learn_when_idle(NightPolicy(free_megabytes=1e15), plan=plan_of(steps=1))
    assert isinstance(held, NoNight)
    report = assistant.learn()
    assert report.resumed
    assert assistant.adapter_name == report.adapter
    gone = assistant.forget(ids=ids[:1], exact=True)
    assert gone.undone is not None
    assert gone.undone.adapters == ((report.adapter,) if report.verdict.admitted else ())
    assert assistant.adapter_name is None


def test_two_streams_read_in_turns_say_what_each_says_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = strong(tmp_path)
    bundle = Bundle.open(tmp_path / "tiny-0")
    monkeypatch.setattr(Shelf, "load", lambda self, *, base_digest: adapter)
    assistant = Assistant.open(tmp_path / "home", bundle=bundle)
    alone = [assistant.respond(prompt, max_new_tokens=8) for prompt in ("the cat", "a person")]
    bare = Assistant.open(tmp_path / "home", bundle=bundle, adapter=False)
    assert bare.respond("the cat", max_new_tokens=8) != alone[0]
    streams = [assistant.stream(prompt, max_new_tokens=8) for prompt in ("the cat", "a person")]
    said = ["", ""]
    for _ in range(8):
        for row, stream in enumerate(streams):
            said[row] += next(stream, "")
    assert said == alone
    assert assistant.respond("the cat", max_new_tokens=8) == alone[0]


def test_without_a_base_it_says_how_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdk.bundle.SHIPPED", tmp_path / "none")
    with pytest.raises(NoBaseError, match="limbeck build base"):
        Assistant.open(Home.open(tmp_path / "home").path)
