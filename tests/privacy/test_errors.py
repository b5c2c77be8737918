import inspect
import pickle
import re

import pytest

from privacy import errors
from privacy.errors import BudgetExhaustedError, PrivacyError


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
