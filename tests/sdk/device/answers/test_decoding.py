"""What a step tells of its token is what a whole sort and a softmax in double precision tell."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sdk.device.answers.decoding import _best, _step

SCORES = arrays(np.float32, st.integers(2, 60), elements=st.integers(-40, 40).map(lambda tenth: tenth / 4))


@given(scores=SCORES, count=st.integers(1, 20))
def test_the_likeliest_are_those_of_a_whole_sort_the_first_of_equals_first(scores: np.ndarray, count: int) -> None:
    most = min(count, len(scores))
    assert _best(scores, most).tolist() == np.argsort(-scores, kind="stable")[:most].tolist()


@given(scores=SCORES, data=st.data())
def test_a_step_tells_what_a_softmax_in_double_precision_tells(scores: np.ndarray, data: st.DataObject) -> None:
    token = data.draw(st.integers(0, len(scores) - 1))
    allowed = np.arange(len(scores)) % 2 == 0
    step = _step(token, scores, allowed, 2)
    wide = scores.astype(np.float64)
    logs = wide - wide.max() - math.log(np.exp(wide - wide.max()).sum())
    assert step.log_probability == pytest.approx(logs[token], abs=1e-5)
    assert step.entropy == pytest.approx(-float((np.exp(logs) * logs).sum()), abs=1e-4)
    assert step.mask_share == pytest.approx(float(np.exp(logs)[allowed].sum()), abs=1e-5)
    assert step.margin == pytest.approx(float(np.subtract(*np.sort(logs)[:-3:-1])), abs=1e-5)
    assert [value for _, value in step.top] == pytest.approx(np.sort(logs)[:-3:-1].tolist(), abs=1e-5)


def test_a_score_of_minus_infinity_is_a_chance_of_nothing() -> None:
    step = _step(0, np.array([1.0, -np.inf, 1.0], np.float32), None, 3)
    assert step.entropy == pytest.approx(math.log(2))
    assert step.top[2] == (1, -math.inf)
