"""The bench's hostile input, some hundred cases of it; and that it finds what it is there to find."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from privacy import accounting, budget, chain, errors, ledger_file, verify
from privacy.accounting import epsilon
from tests.bench import fuzz
from tests.bench.fuzz import Base, Violation, knock, main, write_base

SEED = 11


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """The sound ledger that is attacked."""
    return write_base(tmp_path_factory.mktemp("base"))


def test_hostile_input_is_refused_in_one_line_or_answered_right(base: Base) -> None:
    doors = {knock(SEED, case, base)[0] for case in range(400)}
    assert doors == set(fuzz.DOORS)


def _trust_any_seal(patch: pytest.MonkeyPatch) -> None:
    check = chain.check

    def trusting(entry: Any, head: Any, *, key: bytes) -> Any:
        try:
            return check(entry, head, key=key)
        except errors.LedgerTamperedError:
            return chain.Head(seq=entry.seq, hash=entry.hash, at=entry.at)

    patch.setattr(chain, "check", trusting)
    patch.setattr(ledger_file.LedgerFile, "_require_head", lambda self: None)


def _forget_the_anchor(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ledger_file.LedgerFile, "_require_not_rolled_back", lambda self, remembered: None)


def _let_the_messages_of_others_through(patch: pytest.MonkeyPatch) -> None:
    patch.delattr(errors.PrivacyError, "__str__")


def _skip_unknown_fields(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(verify.replay, "_known_budget", lambda budget: budget)


def _believe_claims(patch: pytest.MonkeyPatch) -> None:
    for module in (verify.replay, verify.claims):
        patch.setattr(module, "compare", lambda *rest: None)


def _round_down(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fuzz, "epsilon", lambda *events, **rest: 0.8 * epsilon(*events, **rest))


def _allow_any_limit(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(budget, "_limit", lambda name, value: value)


def _crash_on_odd_numbers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(accounting, "_real", lambda value: value)


@pytest.mark.parametrize(
    ("mutant", "door"),
    [
        (_trust_any_seal, "hand-edited rows"),
        (_forget_the_anchor, "older copies, garbled anchors"),
        (_let_the_messages_of_others_through, "damaged and swapped files"),
        (_skip_unknown_fields, "forged export"),
        (_believe_claims, "changed export"),
        (_round_down, "epsilon of odd numbers"),
        (_allow_any_limit, "Budget"),
        (_crash_on_odd_numbers, "noise for an odd budget"),
    ],
)
def test_a_removed_safeguard_is_found(
    base: Base, monkeypatch: pytest.MonkeyPatch, mutant: Callable[[pytest.MonkeyPatch], None], door: str
) -> None:
    monkeypatch.setattr(fuzz, "DOORS", {door: fuzz.DOORS[door]})
    mutant(monkeypatch)

    def attack() -> None:
        for case in range(600):
            knock(SEED, case, base)

    with pytest.raises(Violation):
        attack()


def test_a_case_that_hangs_is_found(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(chance: random.Random, base: Base, folder: Path) -> str:
        while True:
            math.sqrt(2)

    monkeypatch.setattr(fuzz, "DOORS", {"endless": (endless, 1)})
    monkeypatch.setattr(fuzz, "MAX_CASE_SECONDS", 0.05)
    with pytest.raises(Violation, match="CPU"):
        knock(SEED, 0, base)


def test_the_command_tells_counts_and_seed_and_ends_with_1_only_on_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = CliRunner().invoke(main, ["--seconds", "0.3", "--seed", "5", "--json"])
    assert sound.exit_code == 0, sound.output
    told = json.loads(sound.stdout)
    assert told["seed"] == 5
    assert sum(one["count"] for one in told["outcomes"]) == told["cases"] > 0

    def wrong(chance: random.Random, base: Base, folder: Path) -> str:
        raise Violation("epsilon fell")

    monkeypatch.setattr(fuzz, "DOORS", {"wrong": (wrong, 1)})
    found = CliRunner().invoke(main, ["--seconds", "5", "--seed", "5"])
    assert found.exit_code == 1
    assert "epsilon fell" in found.stdout
    assert "--seed 5 --case 0" in found.stdout
