import inspect
import pickle
import re

import pytest

from privacy import errors
from privacy.errors import MAX_MESSAGE_CHARS, BudgetExhaustedError, LedgerTamperedError, PrivacyError, shown


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    classes = [item for _, item in inspect.getmembers(errors, inspect.isclass) if issubclass(item, PrivacyError)]
    assert set(re.findall(r"\w+Error\b", errors.__doc__ or "")) == {item.__name__ for item in classes}


def test_every_error_has_one_root() -> None:
    for _, item in inspect.getmembers(errors, inspect.isclass):
        if item.__module__ == errors.__name__:
            assert issubclass(item, PrivacyError)


def test_an_exhausted_budget_says_how_much_and_what_next_in_one_line_and_rounds_against_the_user() -> None:
    message = str(BudgetExhaustedError(wanted=1.201, left=0.409, where="block 2026-11-24"))
    assert "needs epsilon 1.21 but 0.40 is left in block 2026-11-24" in message
    assert "fewer steps" in message
    assert "\n" not in message


def test_an_exhausted_budget_survives_a_process_border() -> None:
    error = pickle.loads(pickle.dumps(BudgetExhaustedError(wanted=1.2, left=0.4, where="x")))
    assert (error.wanted, error.left, error.where) == (1.2, 0.4, "x")
    with pytest.raises(BudgetExhaustedError, match="inf"):
        raise BudgetExhaustedError(wanted=float("inf"), left=0.4)


def test_a_message_is_one_printable_line_whatever_was_quoted_in_it() -> None:
    quoted = LedgerTamperedError("damaged (create\n  table \x1b[2J \ud800 x" + "y" * 5000 + ")")
    assert str(quoted).startswith("damaged (create table [2J x")
    assert str(quoted).isprintable()
    assert len(str(quoted)) == MAX_MESSAGE_CHARS


def test_what_is_quoted_is_short_even_when_python_will_not_write_it() -> None:
    assert shown(7) == "7"
    assert shown(10**5000) == "a huge int"
    assert len(shown("x" * 5000)) == 60
