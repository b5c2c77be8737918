import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from privacy.errors import EventError, PrivacyError
from privacy.events import (
    MAX_USES,
    DpSgdRun,
    Event,
    GateRelease,
    GaussianRelease,
    LaplaceRelease,
    MatrixFactorisationRun,
    Neighbours,
    Unit,
    event_from_dict,
)
from tests.privacy.strategies import events

STREAM = {"noise_multiplier": 4.0, "steps": 12, "bands": 4, "min_separation": 3, "max_participations": 2}


@given(events())
def test_writing_and_reading_a_fact_is_identity(event: Event) -> None:
    assert event_from_dict(json.loads(json.dumps(event.to_dict()))) == event


def test_a_stream_is_written_and_read_too() -> None:
    event = MatrixFactorisationRun(**STREAM, unit=Unit.DAY, neighbours=Neighbours.REPLACE)  # type: ignore[arg-type]
    assert event_from_dict(event.to_dict()) == event
    assert event.uses == 12


def test_a_message_is_a_record() -> None:
    assert Unit("message") is Unit.RECORD
    assert [unit.name for unit in Unit] == ["RECORD", "CONVERSATION", "DAY"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("noise_multiplier", 0),
        ("noise_multiplier", -1.0),
        ("noise_multiplier", float("nan")),
        ("noise_multiplier", float("inf")),
        pytest.param("noise_multiplier", 10**400, id="noise-of-400-digits"),
        ("noise_multiplier", "1"),
        ("noise_multiplier", True),
        ("noise_multiplier", None),
        ("noise_multiplier", 1e10),
        ("sampling_rate", 1e-13),
        ("sampling_rate", 0.0),
        ("sampling_rate", 1.01),
        ("sampling_rate", -0.1),
        ("sampling_rate", float("nan")),
        ("steps", 0),
        ("steps", -3),
        ("steps", 1.5),
        ("steps", True),
        ("steps", MAX_USES + 1),
        pytest.param("steps", 10**5000, id="steps-of-5000-digits"),
        ("clip_norm", 0.0),
        ("unit", "person"),
        ("neighbours", "nobody"),
    ],
)
def test_what_no_mechanism_can_do_is_refused_in_one_line(field: str, value: Any) -> None:
    values: dict[str, Any] = {"noise_multiplier": 1.0, "sampling_rate": 0.1, "steps": 10, field: value}
    with pytest.raises(EventError) as caught:
        DpSgdRun(**values)
    assert field in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("kind", [GaussianRelease, GateRelease])
def test_releases_refuse_no_noise_and_no_release(kind: type[GaussianRelease] | type[GateRelease]) -> None:
    with pytest.raises(EventError, match="noise_multiplier"):
        kind(noise_multiplier=0)
    with pytest.raises(EventError, match="count"):
        kind(noise_multiplier=1, count=0)


def test_a_laplace_release_refuses_scale_zero() -> None:
    with pytest.raises(EventError, match="scale"):
        LaplaceRelease(scale=0)


@pytest.mark.parametrize(("field", "value"), [("bands", 13), ("bands", 0), ("steps", 10**7), ("min_separation", 0)])
def test_a_stream_refuses_an_impossible_shape(field: str, value: int) -> None:
    with pytest.raises(EventError):
        MatrixFactorisationRun(**{**STREAM, field: value})  # type: ignore[arg-type]


def test_whole_numbers_of_numpy_are_normalised_to_plain_ones() -> None:
    run = DpSgdRun(noise_multiplier=np.float32(1.5), sampling_rate=np.float64(0.5), steps=np.int64(7))  # type: ignore[arg-type]
    assert [type(value) for value in (run.noise_multiplier, run.sampling_rate, run.steps)] == [float, float, int]
    json.dumps(run.to_dict())


@pytest.mark.parametrize(
    "written",
    [
        {},
        {"event": "dp_sgd_run/2"},
        {"event": "teleport/1"},
        {"event": ["dp_sgd_run/1"]},
        {**GaussianRelease(noise_multiplier=1).to_dict(), "extra": 1},
        {name: value for name, value in GaussianRelease(noise_multiplier=1).to_dict().items() if name != "count"},
        {**GaussianRelease(noise_multiplier=1).to_dict(), "noise_multiplier": 0},
        {**GaussianRelease(noise_multiplier=1).to_dict(), "unit": "person"},
        [],
        None,
        "dp_sgd_run/1",
    ],
)
def test_unknown_types_versions_and_fields_are_refused(written: Any) -> None:
    with pytest.raises(PrivacyError) as caught:
        event_from_dict(written)
    assert isinstance(caught.value, EventError)


def test_facts_are_frozen() -> None:
    with pytest.raises(AttributeError):
        GaussianRelease(noise_multiplier=1).count = 2  # type: ignore[misc]


@pytest.mark.parametrize("noise", [5e-324, 1e-301])
def test_noise_so_small_that_halving_it_gives_nothing_is_refused(noise: float) -> None:
    with pytest.raises(EventError, match="no noise at all"):
        LaplaceRelease(scale=noise)


def test_a_fact_without_a_mechanism_cannot_exist() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Event()  # type: ignore[abstract]
