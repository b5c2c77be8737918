"""The label says what was spent, by whose arithmetic, and what an audit of this very engine could show."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from privacy import AccountingError, PrivacyError, Unit, epsilon, versions
from privacy.audit import AuditReport, audit, keep, kept_audits, newest_audit
from privacy.errors import AuditError, ReportError
from privacy.label import FORMAT, label, lines
from tests.privacy.ledgers import NIGHT, opened


@pytest.fixture(scope="module")
def trained() -> AuditReport:
    """An audit that attacked a training."""
    return audit(canaries=100)


@pytest.fixture(scope="module")
def quick() -> AuditReport:
    """An audit that looked at the mechanism only."""
    return audit(canaries=0)


def at(report: AuditReport, when: str, **changes: Any) -> AuditReport:
    return replace(report, at=f"2026-11-{when}T03:00:00+00:00", **changes)


def made(audited: AuditReport | None = None, **changes: Any) -> dict[str, Any]:
    facts = {"delta": 1e-5, "spent": 2.5, "spent_pld": 2.2, **changes}
    return label(NIGHT, audit=audited, **facts)


def test_a_label_says_what_was_spent_for_which_unit_and_by_which_accountant(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        for _ in range(2):
            ledger.reserve(NIGHT, blocks=["2026-11-24"])
        spent, beside = ledger.spent(), ledger.spent(accountant="pld")
    said = label(NIGHT, delta=1e-5, spent=spent, spent_pld=beside)
    assert (said["format"], said["unit"], said["neighbours"], said["delta"]) == (FORMAT, "record", "zero_out", 1e-5)
    assert (said["epsilon"], said["epsilon_pld"]) == (spent, beside)
    assert spent == epsilon([NIGHT, NIGHT], delta=1e-5, accountant="rdp") > beside
    assert said["epsilon_tonight"] == epsilon(NIGHT, delta=1e-5, accountant="rdp") < spent
    assert said["epsilon_tonight_pld"] == epsilon(NIGHT, delta=1e-5)
    assert said["mechanism"] == NIGHT.to_dict()
    assert set(said["accountants"]) == {"enforced", "beside"}
    assert "fixed in advance" in said["validity"]["pld"]
    assert said["audit"] == {"status": "not audited"}
    assert {"limbeck", "torch", "dp-accounting", "engine"} <= set(said["versions"])
    assert json.loads(json.dumps(said)) == said


def test_a_label_names_a_larger_unit() -> None:
    said = label(replace(NIGHT, unit=Unit.DAY), delta=1e-5, spent=2.5, spent_pld=2.2)
    assert said["unit"] == "day"
    assert "at most for any day" in lines(said)[0]


@pytest.mark.parametrize("spent", [0.0, 1.9, float("nan"), -1.0])
def test_a_label_that_would_say_less_than_the_run_costs_is_refused(spent: float) -> None:
    with pytest.raises(AccountingError, match=r"this run alone costs 2\.0000; reserve the run first"):
        made(spent=spent)


def test_the_figure_beside_is_never_below_the_run_nor_above_the_enforced_one() -> None:
    assert made(spent_pld=0.0)["epsilon_pld"] == epsilon(NIGHT, delta=1e-5)
    assert made(spent_pld=9.0)["epsilon_pld"] == 2.5


def test_a_label_cites_the_audit_and_the_most_it_could_have_shown(trained: AuditReport) -> None:
    cited = made(trained)["audit"]
    assert trained.canaries is not None
    assert cited["status"] == "passed"
    assert cited["at"] == trained.at
    assert cited["epsilon_at_least"] == trained.canaries.lower_bound()
    assert cited["largest_provable_epsilon"] == max(
        trained.canaries.largest_provable_epsilon, trained.canaries.largest_provable_gaussian_epsilon or 0.0
    )
    assert cited["epsilon_at_least"] < cited["claimed_epsilon"]
    assert cited["engine"] == versions.engine_digest()


def test_the_lines_of_a_label_round_against_the_spender(trained: AuditReport, quick: AuditReport) -> None:
    cost, audited, versioned = lines(made(trained, spent=2.00001, spent_pld=1.9991))
    assert cost.startswith("privacy     epsilon 2.001 at most for any record (RDP, enforced; PLD 2.000), delta 1e-05")
    assert "it could have shown up to" in audited
    assert "limbeck" in versioned
    assert "no training was attacked" in lines(made(quick))[1]
    assert lines(made())[1] == "audit       not audited: run limbeck privacy audit"
    failed = replace(quick, findings=(replace(quick.findings[0], passed=False), *quick.findings[1:]))
    assert lines(made(failed))[1].endswith("clip invariant; train nothing")


@pytest.mark.parametrize("written", [None, {}, [], "label", {"format": "privacy_label/2"}, {"format": FORMAT}, 7])
def test_what_is_no_label_is_refused_in_one_line(written: Any) -> None:
    with pytest.raises(ReportError, match="privacy label") as refused:
        lines(written)
    assert "\n" not in str(refused.value)


# --- which audit is cited --------------------------------------------------------------------------------------------


def test_an_audit_that_was_kept_is_read_back(tmp_path: Path, quick: AuditReport) -> None:
    assert newest_audit(tmp_path) is None
    file = keep(quick, tmp_path)
    assert file.stat().st_mode & 0o077 == 0
    assert kept_audits(tmp_path) == [quick]
    assert newest_audit(tmp_path) == quick


def test_the_newest_audit_with_a_lower_bound_is_cited(tmp_path: Path, trained: AuditReport, quick: AuditReport) -> None:
    for report in (at(trained, "01"), at(trained, "03"), at(quick, "04")):
        keep(report, tmp_path)
    assert newest_audit(tmp_path) == at(trained, "03")


def test_a_newer_audit_that_failed_is_not_passed_over(tmp_path: Path, trained: AuditReport, quick: AuditReport) -> None:
    failed = at(quick, "04", findings=(replace(quick.findings[0], passed=False),))
    for report in (at(trained, "03"), failed):
        keep(report, tmp_path)
    assert newest_audit(tmp_path) == failed


def test_an_audit_of_another_engine_is_not_cited(tmp_path: Path, trained: AuditReport) -> None:
    keep(at(trained, "01", versions={**trained.versions, "engine": "sha256:other"}), tmp_path)
    assert newest_audit(tmp_path) is None
    assert newest_audit(tmp_path, engine="sha256:other") is not None


def test_a_change_of_the_engine_is_a_change_of_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(versions.__file__).parent
    for name in ("dp_sgd.py", "noise.py", "per_example.py"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    monkeypatch.setattr(versions, "__file__", str(tmp_path / "versions.py"))
    fresh = versions.engine_digest.__wrapped__
    assert fresh() == versions.engine_digest()
    with (tmp_path / "noise.py").open("a") as file:
        file.write("# quieter\n")
    assert fresh() != versions.engine_digest()
    (tmp_path / "noise.py").unlink()
    assert fresh() == "unknown"


@pytest.mark.parametrize("damage", ["", "{", '{"format": "audit/9"}', "[" * 100_000, " " * 2_000_000])
def test_a_damaged_audit_is_named(damage: str, tmp_path: Path) -> None:
    (tmp_path / "audit-2026-11-24T000000.json").write_text(damage)
    with pytest.raises(AuditError, match=r"audit-2026-11-24T000000\.json cannot be read; delete that file"):
        kept_audits(tmp_path)


def test_every_refusal_of_a_label_is_a_privacy_error() -> None:
    for error in (AccountingError, ReportError, AuditError):
        assert issubclass(error, PrivacyError)
    assert math.isfinite(made()["epsilon"])
