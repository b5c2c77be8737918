"""Looking ahead changes the number of steps and nothing else."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sdk.device.engines.ahead import MOST_GUESSES, Ahead
from sdk.device.engines.track import KeptTrack
from sdk.errors import GenerationError, PromptTooLongError

CONTEXT, VOCABULARY = 40, 8


class Counting:
    """A memory whose scores follow from all tokens before, as a model's do, and that counts its steps."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.steps = 0

    def run(self, tokens: list[int], *, taken: int, keep: int) -> NDArray[np.float32]:
        assert taken <= len(self.seen)
        self.seen, self.steps = self.seen[:taken], self.steps + 1
        rows = []
        for token in tokens:
            self.seen.append(token)
            rows.append(np.random.default_rng(self.seen).random(VOCABULARY))
        return np.array(rows[-keep:], np.float32)

    def cut(self, length: int, *, taken: int) -> None:
        self.seen = self.seen[:length]


def pair() -> tuple[KeptTrack, Ahead, Counting, Counting]:
    plain, guessed = Counting(), Counting()
    tracks = [KeptTrack(each, adapter=None, context_tokens=CONTEXT, vocabulary=VOCABULARY) for each in (plain, guessed)]
    return tracks[0], Ahead(tracks[1], context_tokens=CONTEXT), plain, guessed


STEPS = st.lists(
    st.one_of(
        st.integers(0, 1).map(lambda token: ("one", [token])),  # Two tokens only, so that pairs come again.
        st.lists(st.integers(0, 2), min_size=1, max_size=4).map(lambda tokens: ("some", tokens)),
        st.integers(0, 20).map(lambda length: ("back", [length])),
    ),
    max_size=30,
)


@settings(max_examples=60)
@given(steps=STEPS)
def test_whatever_is_taken_and_taken_back_the_scores_are_those_of_the_track_itself(
    steps: Sequence[tuple[str, list[int]]],
) -> None:
    plain, ahead, _, _ = pair()
    for kind, tokens in steps:
        if kind == "back":
            length = min(tokens[0], len(plain.tokens))
            plain.rewind(length)
            ahead.rewind(length)
        else:
            keep = 1 if kind == "one" else len(tokens)
            try:
                wanted = plain.extend(tokens, keep=keep)
            except PromptTooLongError:
                with pytest.raises(PromptTooLongError):
                    ahead.extend(tokens, keep=keep)
            else:
                assert np.array_equal(ahead.extend(tokens, keep=keep), wanted)
        assert list(ahead.tokens) == list(plain.tokens)


def test_what_repeats_takes_fewer_steps() -> None:
    plain, ahead, slow, fast = pair()
    for token in [3, 1, 4, 1, 5, 2, 6] * 5:
        assert np.array_equal(ahead.extend([token]), plain.extend([token]))
    assert slow.steps == 35
    assert fast.steps < 20


def test_where_nothing_repeats_nothing_is_guessed() -> None:
    _, ahead, _, fast = pair()
    for token in range(VOCABULARY):
        ahead.extend([token])
    assert (fast.steps, len(fast.seen)) == (VOCABULARY, VOCABULARY)


def test_wrong_guesses_are_taken_back_and_become_fewer() -> None:
    _, ahead, _, fast = pair()
    ahead.extend([1, 2, 3, 4, 5, 1])
    ahead.extend([2])
    assert len(fast.seen) == 7 + MOST_GUESSES
    ahead.extend([6])
    assert fast.seen == [1, 2, 3, 4, 5, 1, 2, 6]
    ahead.extend([1])
    ahead.extend([2])
    assert len(fast.seen) == 10 + 1


def test_a_guess_never_passes_the_context_and_a_closed_track_says_so() -> None:
    plain, ahead, _, fast = pair()
    for token in ([1, 2, 3] * 14)[:CONTEXT]:
        assert np.array_equal(ahead.extend([token]), plain.extend([token]))
    assert len(fast.seen) == CONTEXT
    with pytest.raises(PromptTooLongError):
        ahead.extend([1])
    with pytest.raises(GenerationError, match="cannot go back"):
        ahead.rewind(CONTEXT + 1)
    ahead.close()
    with pytest.raises(GenerationError):
        ahead.extend([1])
