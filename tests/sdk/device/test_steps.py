"""The steps of an update: from every sight one step, and from every sight an end."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sdk.device.steps import MAX_TRIES, Seen, Step, next_step

START = Seen(wanted="2", active="1")


def test_the_way_with_a_delta_and_the_way_without() -> None:
    assert next_step(replace(START, delta=True)) is Step.FETCH_DELTA
    assert next_step(replace(START, delta=True, delta_here=True)) is Step.REBUILD
    assert next_step(START) is Step.FETCH_FILES
    assert next_step(replace(START, files_here=True)) is Step.ASSEMBLE


def test_what_is_staged_is_tried_then_switched_to_or_given_up() -> None:
    staged = replace(START, staged="2")
    assert next_step(staged) is Step.TRY
    assert next_step(replace(staged, passed=True)) is Step.COMMIT
    assert next_step(replace(staged, passed=False)) is Step.GIVE_UP
    assert next_step(replace(staged, tries=MAX_TRIES)) is Step.GIVE_UP
    assert next_step(replace(staged, active="2")) is Step.DONE


def test_what_is_staged_for_another_release_does_not_count() -> None:
    assert next_step(replace(START, staged="3", passed=True)) is Step.FETCH_FILES


def after(seen: Seen, step: Step) -> Seen:
    """What a step that works changes."""
    return {
        Step.FETCH_DELTA: replace(seen, delta_here=True),
        Step.REBUILD: replace(seen, staged=seen.wanted),
        Step.FETCH_FILES: replace(seen, files_here=True),
        Step.ASSEMBLE: replace(seen, staged=seen.wanted),
        Step.TRY: replace(seen, passed=True),
        Step.COMMIT: replace(seen, active=seen.wanted),
    }[step]


@given(
    st.builds(
        Seen,
        wanted=st.just("2"),
        active=st.sampled_from(["", "1", "2"]),
        staged=st.sampled_from([None, "1", "2"]),
        delta=st.booleans(),
        delta_here=st.booleans(),
        files_here=st.booleans(),
        passed=st.sampled_from([None, True]),
        tries=st.integers(0, MAX_TRIES - 1),
    )
)
def test_from_anywhere_where_nothing_failed_the_way_ends_at_the_new_bundle(seen: Seen) -> None:
    for _ in range(5):
        step = next_step(seen)
        if step is Step.DONE:
            break
        seen = after(seen, step)
    assert seen.active == "2"
