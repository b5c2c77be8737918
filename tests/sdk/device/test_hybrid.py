"""The joint use: the device first, the person asked, what leaves redacted, and the device's answer whatever fails."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from personalize import Home
from personalize.learner import Learner
from sdk.confidence import FEATURES, Calibration, Head
from sdk.device.assistant import Assistant
from sdk.device.cloud import Cloud
from sdk.device.handoff.consent import Consent, Preview
from sdk.device.hybrid import NOT_ASKED, STOPPED, Ask, HandOff, HybridAnswer
from sdk.device.router import Router
from sdk.errors import PromptTooLongError
from tests import endpoint
from tests.tiny import tiny_bundle

QUESTION = "write to Ana Keller, +1 415 555 2671, about the heron"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Assistant:
    folder = tmp_path_factory.mktemp("device")
    return Assistant.open(folder / "home", bundle=tiny_bundle(folder / "tiny"), engine="torch")


@pytest.fixture
def cloud() -> Iterator[endpoint.Service]:
    with endpoint.serving() as service:
        yield service


def router(threshold: float) -> Router:
    """Sure by the mean log-probability of an answer; 1 keeps none, 0 keeps all."""
    head = Head(features=FEATURES[:4], lows=(-30.0,) * 4, highs=(30.0,) * 4, weights=(0, 0, 0, 1.0), intercept=0.0)
    calibration = Calibration(base_digest="sha256:0", risk=0.05, threshold=threshold, head=head, report={})
    return Router(calibration)


def answered(
    local: Assistant, service: endpoint.Service, home: Path, *, threshold: float = 1.0, url: str = "",
    ask: Ask | None = lambda _: True, question: str = QUESTION,
) -> HybridAnswer:  # fmt: skip
    """The device's answer to a question in a new session, and what becomes of it."""
    cloud = Cloud(url or service.url, model="large", deadline=30)
    hand_off = HandOff(router(threshold), Consent.open(Home.open(home)), cloud, names=["Ana Keller"])
    session = local.session()
    answer = session.answer(question, max_new_tokens=8)
    made = hand_off.in_session(session, answer=answer, ask=ask, max_new_tokens=8)
    assert session.history[-1]["content"] == made.text
    return made


def test_a_sure_answer_stays_and_nobody_is_asked(local: Assistant, cloud: endpoint.Service, tmp_path: Path) -> None:
    answer = answered(local, cloud, tmp_path, threshold=0.0, ask=lambda _: pytest.fail("asked"))
    assert (answer.route, answer.text, answer.preview, answer.cloud) == ("local", answer.local_text, None, None)
    assert 0 < answer.decision.confidence < 1
    assert cloud.requests == []


def test_an_unsure_one_goes_to_the_cloud_redacted_and_comes_back_whole(
    local: Assistant, cloud: endpoint.Service, tmp_path: Path
) -> None:
    shown: list[Preview] = []

    def yes(preview: Preview) -> bool:
        shown.append(preview)
        return True

    answer = answered(local, cloud, tmp_path, ask=yes)
    (request,) = cloud.requests
    sent = request["messages"][0]["content"]
    assert "Keller" not in sent
    assert "2671" not in sent
    assert shown == [answer.preview]
    assert sent.encode() in shown[0].content
    assert answer.route == "cloud"
    assert answer.cloud
    assert answer.cloud.text == sent.upper()
    assert "2671" in answer.text  # Put back on the device.


@pytest.mark.parametrize("said", [None, False, "yes"])
def test_without_a_clear_yes_nothing_is_sent(
    local: Assistant, cloud: endpoint.Service, tmp_path: Path, said: object
) -> None:
    ask = None if said is None else lambda _: said
    answer = answered(local, cloud, tmp_path, ask=ask)  # type: ignore[arg-type]
    assert (answer.route, answer.text, answer.reason) == ("local", answer.local_text, NOT_ASKED)
    assert cloud.requests == []


@pytest.mark.parametrize(
    ("act", "why"),
    [
        (endpoint.status(401), "401"),
        (endpoint.status(500), "500"),
        (endpoint.page(), "HTML"),
        (endpoint.hang_up, "broke"),
        (endpoint.text(302, "", Location="https://elsewhere.example"), "redirects"),
    ],
)
def test_whatever_fails_the_devices_answer_stands_with_its_confidence_and_the_reason(
    local: Assistant, cloud: endpoint.Service, tmp_path: Path, act: endpoint.Act, why: str
) -> None:
    cloud.acts = [act]
    answer = answered(local, cloud, tmp_path)
    assert (answer.route, answer.text) == ("local", answer.local_text)
    assert why in answer.reason
    assert 0 < answer.decision.confidence < 1
    assert len(cloud.requests) == 1


def test_offline_the_devices_answer_stands(local: Assistant, cloud: endpoint.Service, tmp_path: Path) -> None:
    answer = answered(local, cloud, tmp_path, url="http://127.0.0.1:9/v1")
    assert answer.route == "local"
    assert "cannot be reached" in answer.reason


def test_what_cannot_be_redacted_stays_and_says_why(local: Assistant, cloud: endpoint.Service, tmp_path: Path) -> None:
    hand_off = HandOff(
        router(1.0), Consent.open(Home.open(tmp_path)), Cloud(cloud.url, model="large"), names=["x" * 200]
    )
    session = local.session()
    answer = session.answer(QUESTION, max_new_tokens=4)
    made = hand_off.in_session(session, answer=answer, ask=lambda _: True, max_new_tokens=4)
    assert (made.route, made.preview, cloud.requests) == ("local", None, [])
    assert "nothing may leave" in made.reason


def test_an_answer_that_was_stopped_is_not_handed_on(local: Assistant, cloud: endpoint.Service, tmp_path: Path) -> None:
    hand_off = HandOff(router(1.0), Consent.open(Home.open(tmp_path)), Cloud(cloud.url, model="large"))
    session = local.session()
    pieces = session.stream(QUESTION, max_new_tokens=100)
    next(pieces)
    session.cancel()
    (answer,) = [piece.answer for piece in pieces if piece.answer]
    made = hand_off.in_session(session, answer=answer, ask=lambda _: True, max_new_tokens=4)
    assert (made.reason, made.route, cloud.requests) == (STOPPED, "local", [])


def test_a_prompt_over_the_context_is_refused_by_the_device_and_sent_nowhere(
    local: Assistant, cloud: endpoint.Service, tmp_path: Path
) -> None:
    with pytest.raises(PromptTooLongError):
        answered(local, cloud, tmp_path, question="heron " * 500)
    assert cloud.requests == []


def test_nothing_is_learned_unless_somebody_says_so(local: Assistant, cloud: endpoint.Service, tmp_path: Path) -> None:
    made = answered(local, cloud, tmp_path)
    assert not list(tmp_path.rglob("experience.db"))
    local.feedback(made.answer, "accepted")
    learner = Learner(local._home, None)
    (kept,) = [record.experience for record in learner.store.all()]
    learner.close()
    assert (kept.prompt, kept.answer, made.route) == (QUESTION, made.text, "cloud")
