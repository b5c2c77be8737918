"""MinHash estimates the share of common runs, and near-duplicates are left out whatever the order."""

import random

from sdk.build.repeats import SAME, first_of_each, signature

WORDS = [f"word{number}" for number in range(2_000)]


def text_of(rng: random.Random, words: int = 120) -> list[str]:
    return [rng.choice(WORDS) for _ in range(words)]


def runs(words: list[str]) -> set[str]:
    return {" ".join(words[at : at + 5]) for at in range(len(words) - 4)}


def test_the_estimate_is_the_share_of_common_runs_within_its_error() -> None:
    rng = random.Random(1)
    errors = []
    for kept in (30, 60, 90, 120) * 15:
        one = text_of(rng)
        other = one[:kept] + text_of(rng, 120 - kept)
        share = len(runs(one) & runs(other)) / len(runs(one) | runs(other))
        estimate = float((signature(" ".join(one)) == signature(" ".join(other))).mean())
        errors.append(estimate - share)
    assert abs(sum(errors) / len(errors)) < 0.03  # Unbiased: 60 estimates of standard error at most 0.0625 each.
    assert max(map(abs, errors)) < 4.5 * 0.0625


def test_changed_copies_are_left_out_and_half_new_texts_stay() -> None:
    rng = random.Random(2)
    texts, wanted = [], []
    for _ in range(60):
        words = text_of(rng)
        changed = [*words]
        changed[rng.randrange(120)] = "another"  # At most 5 of 116 runs differ.
        half = words[:60] + text_of(rng, 60)  # A third of the runs of both are common.
        texts += [" ".join(words), " ".join(changed), " ".join(half)]
        wanted += [True, False, True]
    assert first_of_each(texts) == wanted


def test_case_punctuation_and_line_breaks_do_not_make_a_text_new() -> None:
    assert first_of_each(["Call me Ishmael, he said to me.", "call me\nIshmael he said -- to ME", "Call me"]) == [
        True,
        False,
        True,
    ]


def test_the_threshold_lies_between_a_changed_word_and_half_a_text() -> None:
    assert 1 / 3 < SAME < 111 / 121
