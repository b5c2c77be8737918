import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personalize import errors
from personalize.errors import PersonalizeError


@given(message=st.text(st.characters(codec=None)))
def test_an_error_is_always_one_printable_line(message: str) -> None:
    shown = str(PersonalizeError(message))
    assert len(shown.splitlines()) <= 1
    assert "\x1b" not in shown
    shown.encode()  # No lone surrogate is left that would break the terminal.


def test_a_message_as_long_as_a_hostile_line_is_cut() -> None:
    assert len(str(PersonalizeError("x" * 1_000_000))) < 1_000


@pytest.mark.parametrize("kind", [kind for _, kind in inspect.getmembers(errors, inspect.isclass)])
def test_every_error_has_the_one_root_and_stands_in_the_tree(kind: type[Exception]) -> None:
    assert issubclass(kind, PersonalizeError)
    assert kind.__name__ in (errors.__doc__ or "")
