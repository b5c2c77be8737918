"""The joint use: the device first, the person asked, what leaves redacted, and the device's answer whatever fails."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from personalize import Home
from sdk.confidence import FEATURES, Calibration, Head
from sdk.device.cloud import Cloud
from sdk.device.engines.torch_engine import TorchEngine
from sdk.device.handoff.consent import Consent, Preview
from sdk.device.hybrid import NOT_ASKED, EngineAnswers, Hybrid, keep
from sdk.device.router import Router
from sdk.device.runtime import Runtime
from sdk.errors import PromptTooLongError
from tests import endpoint
from tests.tiny import tiny_bundle

QUESTION = "write to Ana Keller, +1 415 555 2671, about the heron"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> EngineAnswers:
    bundle = tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")
    runtime = Runtime.open(bundle)
    return EngineAnswers(TorchEngine(runtime), runtime.chat)


@pytest.fixture
def cloud() -> Iterator[endpoint.Service]:
    with endpoint.serving() as service:
        yield service


def router(threshold: float) -> Router:
    """Sure by the mean log-probability of an answer; 1 keeps none, 0 keeps all."""
    head = Head(features=FEATURES[:4], lows=(-30.0,) * 4, highs=(30.0,) * 4, weights=(0, 0, 0, 1.0), intercept=0.0)
    calibration = Calibration(base_digest="sha256:0", risk=0.05, threshold=threshold, head=head, report={})
    return Router(calibration)


def hybrid(
    local: EngineAnswers, service: endpoint.Service, home: Path, *, threshold: float = 1.0, url: str = ""
) -> Hybrid:
    cloud = Cloud(url or service.url, model="large", deadline=30)
    return Hybrid(local, router(threshold), Consent.open(Home.open(home)), cloud, names=["Ana Keller"])


def test_a_sure_answer_stays_and_nobody_is_asked(local: EngineAnswers, cloud: endpoint.Service, tmp_path: Path) -> None:
    answer = hybrid(local, cloud, tmp_path, threshold=0.0).answer(QUESTION, ask=lambda _: pytest.fail("asked"))
    assert (answer.route, answer.text, answer.preview, answer.cloud) == ("local", answer.local_text, None, None)
    assert 0 < answer.decision.confidence < 1
    assert cloud.requests == []


def test_an_unsure_one_goes_to_the_cloud_redacted_and_comes_back_whole(
    local: EngineAnswers, cloud: endpoint.Service, tmp_path: Path
) -> None:
    shown: list[Preview] = []

    def yes(preview: Preview) -> bool:
        shown.append(preview)
        return True

    answer = hybrid(local, cloud, tmp_path).answer(QUESTION, ask=yes)
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
    local: EngineAnswers, cloud: endpoint.Service, tmp_path: Path, said: object
) -> None:
    ask = None if said is None else lambda _: said
    answer = hybrid(local, cloud, tmp_path).answer(QUESTION, ask=ask)  # type: ignore[arg-type]
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
    local: EngineAnswers, cloud: endpoint.Service, tmp_path: Path, act: endpoint.Act, why: str
) -> None:
    cloud.acts = [act]
    answer = hybrid(local, cloud, tmp_path).answer(QUESTION, ask=lambda _: True)
    assert (answer.route, answer.text) == ("local", answer.local_text)
    assert why in answer.reason
    assert 0 < answer.decision.confidence < 1
    assert len(cloud.requests) == 1


def test_offline_the_devices_answer_stands(local: EngineAnswers, cloud: endpoint.Service, tmp_path: Path) -> None:
    answer = hybrid(local, cloud, tmp_path, url="http://127.0.0.1:9/v1").answer(QUESTION, ask=lambda _: True)
    assert answer.route == "local"
    assert "cannot be reached" in answer.reason


def test_what_cannot_be_redacted_stays(local: EngineAnswers, cloud: endpoint.Service, tmp_path: Path) -> None:
    """A turn of another shape is refused by the device itself, before anything is made ready."""
    with pytest.raises(Exception, match="a message needs a role"):
        hybrid(local, cloud, tmp_path).answer([{"role": "tool", "content": QUESTION}], ask=lambda _: True)
    assert cloud.requests == []


def test_a_prompt_over_the_context_is_refused_by_the_device_and_sent_nowhere(
    local: EngineAnswers, cloud: endpoint.Service, tmp_path: Path
) -> None:
    with pytest.raises(PromptTooLongError):
        hybrid(local, cloud, tmp_path).answer("heron " * 500, ask=lambda _: True)
    assert cloud.requests == []


def test_nothing_is_learned_unless_somebody_keeps_it(
    local: EngineAnswers, cloud: endpoint.Service, tmp_path: Path
) -> None:
    answer = hybrid(local, cloud, tmp_path).answer(QUESTION, ask=lambda _: True)
    before = {file.name for file in tmp_path.rglob("*")}
    assert "experience.db" not in before
    kept: list[dict[str, str]] = []

    def remember(**fields: str) -> str:
        kept.append(fields)
        return "id"

    assert keep(answer, QUESTION, remember) == "id"
    assert kept == [{"prompt": QUESTION, "answer": answer.text}]
