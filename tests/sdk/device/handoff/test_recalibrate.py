"""After an adapter has moved the scores, the old threshold misses its risk and the new one holds it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from personalize import Home
from sdk.build.curriculum import curriculum
from sdk.bundle import Bundle
from sdk.cli.app import cli
from sdk.confidence import Calibration, Evidence, Rated, calibrated
from sdk.confidence.evidence import agreement
from sdk.device.assistant import Assistant
from sdk.device.cloud import Cloud
from sdk.device.handoff import recalibrate as module
from sdk.device.handoff.consent import Consent
from sdk.device.handoff.recalibrate import public_tasks, recalibrate, recalibrated
from sdk.device.hybrid import HandOff
from sdk.device.router import Router
from sdk.errors import RouterError
from sdk.scoring import is_right
from tests.sdk.confidence.test_calibration import rated
from tests.tiny import tiny_bundle

TASKS = [{"prompt": str(number), "task": "reply"} for number in range(1000)]


def surer(one: Rated) -> Evidence:
    """The same answer by a model that an adapter has made too sure of itself."""
    fields = one.evidence.to_dict()
    return Evidence.from_dict(fields | {name: fields[name] / 4 for name in ("least", "tenth", "mean", "most_entropy")})


def wrong_and_kept(calibration: Calibration, answers: list[Rated]) -> float:
    kept = [calibration.head.confidence(surer(one).row()) > calibration.threshold for one in answers]
    return sum(keep and not one.right for keep, one in zip(kept, answers, strict=True)) / len(answers)


def test_the_risk_holds_again_after_an_adapter_made_the_model_too_sure() -> None:
    answers = rated(1000)
    old = calibrated(answers, base_digest="x")
    new = recalibrated(
        TASKS,
        lambda prompt: ("", surer(answers[int(prompt)])),
        lambda task, text: answers[int(task["prompt"])].right,
        base_digest="x",
        risk=0.05,
    )
    assert new is not None
    fresh = rated(4000, seed=9)
    assert wrong_and_kept(old, fresh) > 0.08
    assert wrong_and_kept(new, fresh) < 0.06


def test_it_can_be_stopped_and_refuses_too_few_tasks() -> None:
    evidence = rated(1)[0].evidence
    asked: list[str] = []

    def answered(prompt: str) -> tuple[str, Evidence]:
        asked.append(prompt)
        return "", evidence

    told = recalibrated(
        TASKS, answered, lambda task, text: True, base_digest="x", risk=0.05, stop=lambda: len(asked) == 3
    )
    assert (told, len(asked)) == (None, 3)
    with pytest.raises(RouterError, match="cannot calibrate"):
        recalibrated(TASKS[:5], answered, lambda task, text: True, base_digest="x", risk=0.05)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setattr(module, "MOST_TOKENS", 2)
    made = tiny_bundle(tmp_path)
    monkeypatch.setattr("sdk.build.package.open_base", lambda told, home=None: made)
    return made


def test_what_was_measured_in_a_home_decides_for_the_adapter_that_answered_and_no_other(
    bundle: Bundle, tmp_path: Path
) -> None:
    home = Home.open(tmp_path / "home")
    assistant = Assistant.open(home.path, bundle=bundle)
    assistant.adapter_name = "night-1"
    told: list[tuple[str, int, int]] = []
    made = recalibrate(assistant, home, most=60, progress=lambda *now: told.append(now))
    assert made is not None
    assert (made.report["answers"], told[-1]) == (60, ("answer public tasks", 60, 60))
    assert Router.of(bundle, home.path, adapter="night-1") == Router(made)
    assert Router.of(bundle, home.path, adapter="night-2").calibration is None  # The tiny bundle has none of its own.
    before = (home.path / module.FILE).read_bytes()
    assert recalibrate(assistant, home, most=60, stop=lambda: True) is None
    with pytest.raises(RouterError):
        recalibrate(assistant, home, most=20)
    assert (home.path / module.FILE).read_bytes() == before


def test_a_calibration_that_weighs_agreement_has_others_drawn_for_each_answer(bundle: Bundle, tmp_path: Path) -> None:
    home = Home.open(tmp_path / "home")
    assistant = Assistant.open(home.path, bundle=bundle)
    made = recalibrate(assistant, home, most=60, samples=2)
    assert made is not None
    assert (made.samples, made.head.features[-1]) == (2, "self-agreement")
    router = Router.of(bundle, home.path)
    assert router.samples == 2
    session = assistant.session()
    answer = session.answer("the cat", max_new_tokens=4)
    before = list(session.history)
    others = session.samples(2, max_new_tokens=4)
    assert others == session.samples(2, max_new_tokens=4)
    assert session.history == before
    hand_off = HandOff(router, Consent.open(home), Cloud("http://127.0.0.1:9/v1", model="m"))
    decided = hand_off.in_session(session, answer=answer, max_new_tokens=4).decision
    evidence = Evidence.of_steps(answer.steps, agreement=agreement(answer.text, others))
    assert decided == router.decide(evidence)
    blind = router.decide(Evidence.of_steps(answer.steps))
    assert (blind.local, "without all the evidence" in blind.reason) == (False, True)


def test_a_calibration_from_before_the_adapter_says_so(tmp_path: Path) -> None:
    made = calibrated(rated(200), base_digest="sha256:x")
    content = made.to_json()
    (tmp_path / "router.json").write_bytes(content)
    bundle = SimpleNamespace(
        base_digest="sha256:x", folder=tmp_path, require_intact=lambda file: None,
        manifest=SimpleNamespace(files={"router.json": ""}),
    )  # fmt: skip
    plain, worn = (Router.of(bundle, adapter=name) for name in (None, "night-1"))  # type: ignore[arg-type]
    evidence = rated(1)[0].evidence
    assert worn.decide(evidence).reason == f"{plain.decide(evidence).reason}; calibrated without adapter night-1"
    assert worn.decide(evidence).local == plain.decide(evidence).local


def test_the_command_keeps_what_it_measured_and_says_how_many_answers_stay(bundle: Bundle, tmp_path: Path) -> None:
    made = CliRunner().invoke(cli, ["adapter", "calibrate", "--most", "60"])
    assert made.exit_code == 0, made.output
    kept = Calibration.parse((tmp_path / "home" / module.FILE).read_bytes())
    assert made.stdout.strip() == kept.kept_share()
    assert "of 15 answers are kept on the device" in made.stdout


def test_the_public_tasks_are_the_held_out_side_of_the_curriculum() -> None:
    tasks = public_tasks()
    made = curriculum(count=10, held_out=240, seed=4242)
    assert [example.line() for example in made.held_out] == tasks
    assert all(is_right(task["task"], task["answer"], task["answer"], prompt=task["prompt"]) for task in tasks)
