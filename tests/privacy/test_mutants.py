"""Each safeguard is taken out once: the check that stands behind it must notice. Without the mutant, it must not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from privacy import accounting, books, chain, ledger_file, rdp
from privacy.anchor import FileAnchor
from privacy.books import Account, Books
from privacy.budget import Budget
from privacy.errors import LedgerError, PrivacyError
from privacy.events import DpSgdRun, GaussianRelease, Neighbours
from privacy.ledger import Ledger
from privacy.verify import verify_export
from tests.privacy.ledgers import KEY, NIGHT, edit, opened

Check = Callable[[Path], None]
Mutate = Callable[[pytest.MonkeyPatch], None]


# Checks


def crash_keeps_its_charge(folder: Path) -> None:
    with opened(folder) as ledger:
        ledger.reserve(NIGHT, blocks=["b"])
        spent = ledger.spent()
    with opened(folder) as ledger:
        for receipt in ledger.open_receipts():
            ledger.close(receipt, "crashed")
        assert ledger.spent() == spent > 1.9, "a crash was refunded"


def independent_path_agrees(folder: Path) -> None:
    with opened(folder, epsilon=4.0) as ledger:
        for index in range(12):
            run = NIGHT if index % 2 else DpSgdRun(noise_multiplier=2.0, sampling_rate=0.05, steps=50)
            try:
                ledger.reserve(run, blocks=["often" if index < 9 else f"once {index}"])
            except PrivacyError:
                continue
        verdict = verify_export(ledger.export(beside=False), key=KEY)
        assert verdict.spent["experience"] == ledger.spent()


def tampering_is_noticed(folder: Path) -> None:
    with opened(folder) as ledger:
        ledger.reserve(NIGHT, blocks=["b"])
        ledger.reserve(NIGHT, blocks=["b"])
    edit(folder, "update entries set body = replace(body, '6.798', '99.0') where seq = 3")
    with pytest.raises(LedgerError):
        Ledger.open(folder / "ledger.db", key=KEY)


def shortening_is_noticed(folder: Path) -> None:
    with opened(folder) as ledger:
        ledger.reserve(NIGHT, blocks=["b"])
    edit(folder, "delete from entries where seq = 3")
    with pytest.raises(LedgerError):
        Ledger.open(folder / "ledger.db", key=KEY)


def rolling_back_is_noticed(folder: Path) -> None:
    anchor = FileAnchor(folder / "anchor")
    with opened(folder, anchor=anchor) as ledger:
        old = (folder / "ledger.db").read_bytes() if not (folder / "ledger.db-wal").exists() else b""
    old = old or (folder / "ledger.db").read_bytes()
    with opened(folder, anchor=anchor) as ledger:
        ledger.reserve(NIGHT, blocks=["b"])
    (folder / "ledger.db").write_bytes(old)
    with pytest.raises(LedgerError):
        opened(folder, anchor=anchor)


def another_relation_costs_more(folder: Path) -> None:
    with opened(folder, epsilon=9.0) as ledger:
        ledger.set_budget(Budget(epsilon=9.0, neighbours=Neighbours.REPLACE), allow_raise=True)
        ledger.reserve(GaussianRelease(noise_multiplier=4, neighbours=Neighbours.REPLACE), blocks=["b"])
        verify_export(ledger.export(beside=False), key=KEY)


# Mutants


def refund_after_a_crash(patch: pytest.MonkeyPatch) -> None:
    close = Books._take_close

    def refunding(self: Books, entry: Any, facts: Any) -> None:
        close(self, entry, facts)
        if facts["outcome"] == "crashed":
            run = self.reservations[entry.receipt].receipt.run
            for account in self.accounts.values():
                account.curve = account.curve - accounting.rdp_curve(run)

    patch.setattr(Books, "_take_close", refunding)


def every_third_charge_dropped(patch: pytest.MonkeyPatch) -> None:
    charge, calls = Account.charge, [0]

    def forgetful(self: Account, *rest: Any) -> None:
        calls[0] += 1
        if calls[0] % 3:
            charge(self, *rest)

    patch.setattr(Account, "charge", forgetful)


def least_block_instead_of_the_worst(patch: pytest.MonkeyPatch) -> None:
    def least(self: Books, scope: str, accountant: Any = "rdp") -> float:
        return min(self.spent_by_block(scope).values(), default=0.0)

    patch.setattr(Books, "spent", least)


def any_run_admitted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(books, "_require_room", lambda *_: None)


def half_the_divergence(patch: pytest.MonkeyPatch) -> None:
    gaussian = rdp.gaussian
    rdp.sampled_gaussian.cache_clear()
    patch.setattr(rdp, "gaussian", lambda noise: gaussian(noise) / 2)


def steps_not_counted(patch: pytest.MonkeyPatch) -> None:
    reduce = accounting.reduce
    patch.setattr(accounting, "reduce", lambda event: (reduce(event)[0], 1))


def replacement_counted_once(patch: pytest.MonkeyPatch) -> None:
    once = accounting.Mechanism("gaussian", 4.0)
    patch.setattr(accounting, "reduce", lambda event: (once, 1))


def chain_not_checked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(chain, "check", lambda entry, head, key: chain.Head(seq=entry.seq, hash=entry.hash, at=entry.at))


def end_not_checked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ledger_file.LedgerFile, "_require_head", lambda self: None)


def anchor_not_asked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ledger_file.LedgerFile, "_require_not_rolled_back", lambda self, remembered: None)


PAIRS: list[tuple[Check, Mutate]] = [
    (crash_keeps_its_charge, refund_after_a_crash),
    (independent_path_agrees, every_third_charge_dropped),
    (independent_path_agrees, least_block_instead_of_the_worst),
    (independent_path_agrees, any_run_admitted),
    (independent_path_agrees, half_the_divergence),
    (independent_path_agrees, steps_not_counted),
    (another_relation_costs_more, replacement_counted_once),
    (tampering_is_noticed, chain_not_checked),
    (shortening_is_noticed, end_not_checked),
    (rolling_back_is_noticed, anchor_not_asked),
]


@pytest.mark.parametrize(("check", "mutate"), PAIRS, ids=lambda item: item.__name__)
def test_a_safeguard_that_is_taken_out_is_missed(
    check: Check, mutate: Mutate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(tmp_path / "sound")
    mutate(monkeypatch)
    with pytest.raises((AssertionError, PrivacyError, pytest.fail.Exception)):
        check(tmp_path / "mutant")
    monkeypatch.undo()
    rdp.sampled_gaussian.cache_clear()


def test_books_that_lag_behind_the_file_cannot_append(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even without reading the newest entries first, the tables refuse a second entry in the same place."""
    with opened(tmp_path) as one, opened(tmp_path) as other:
        one.reserve(NIGHT, blocks=["b"])
        monkeypatch.setattr(ledger_file.LedgerFile, "_catch_up", lambda self: None)
        with pytest.raises(LedgerError):
            other.reserve(NIGHT, blocks=["b"])
        monkeypatch.undo()
        assert len(one.entries()) == 3
        one.verify()
