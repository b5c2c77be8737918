"""The report says what the ledger says and no more, loads nothing, escapes everything, and fits every screen."""

import html
import json
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jinja2
import pytest

from privacy import Budget, DpSgdRun, GateRelease, LaplaceRelease, Ledger, epsilon
from privacy.anchor import FileAnchor
from privacy.audit import AuditReport, Canaries, Finding, Membership
from privacy.errors import LedgerError, ReportError
from privacy.events import Neighbours, Unit
from privacy.report import (
    MOST_BLOCKS,
    MOST_POINTS,
    MOST_RUNS,
    chance,
    day,
    moment,
    number,
    render,
    upwards,
    write_report,
)
from privacy.statement import statement
from tests.browser import needs_browser, printed, seen
from tests.privacy.ledgers import KEY, NIGHT, Clock, edit, opened

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(1)>&'
SPENT = epsilon(NIGHT, delta=1e-5, accountant="rdp")  # 1.99996


def audited(*, passed: bool = True, text: str = "largest of 26 records 1.000000 × the clip norm") -> dict[str, Any]:
    """The record of an audit, as `privacy audit` keeps it."""
    return AuditReport(
        at="2026-11-24T05:58:29+00:00",
        run=NIGHT.to_dict(),
        versions={"torch": "2.13.0", "limbeck": text},
        seconds=3.4,
        findings=(
            Finding(leg="clip invariant", claim=text, passed=True, measured=text),
            Finding(leg="noise size", claim="as charged", passed=passed, measured="0.4982 × the charge", p_value=0.0),
        ),
        canaries=Canaries(
            canaries=2500,
            guesses=500,
            correct=412,
            confidence=0.95,
            delta=1e-5,
            claimed_epsilon=4.0,
            epsilon_at_least=1.91,
            gaussian_epsilon_at_least=2.06,
            largest_provable_epsilon=5.07,
            largest_provable_gaussian_epsilon=8.7,
        ),
        membership=Membership(
            members=1240,
            strangers=1260,
            auc=0.741,
            auc_low=0.721,
            auc_high=0.76,
            auc_allowed=0.729,
            false_positive_rate=0.001,
            true_positive_rate=0.01,
            true_positive_rate_low=0.005,
            true_positive_rate_high=0.017,
            true_positive_rate_allowed=0.013,
            confidence=0.95,
            resolved=True,
        ),
    ).to_dict()


def lived(folder: Path, *, nights: int = 5, **more: Any) -> Ledger:
    """A ledger with a life: nights of their own blocks, a gate over two of them, a second scope, one crash."""
    clock = Clock()
    ledger = opened(folder, epsilon=4.0, clock=clock, **more)
    ledger.set_budget(Budget(epsilon=1.0, total_epsilon=2.0, period_epsilon=1.5, period_days=30), scope="usage")
    for count in range(nights):
        receipt = ledger.reserve(NIGHT, blocks=[f"{clock.now:%Y-%m-%d}"])
        ledger.draw(receipt, 10 if count % 2 else 4)
        if count != 2:
            ledger.close(receipt, "admitted" if count % 2 else "rejected")
        clock.move(days=3)
    ledger.reserve(GateRelease(noise_multiplier=12.0), blocks=["2026-11-24", "2026-11-27"], caller="gate")
    ledger.reserve(LaplaceRelease(scale=12.0), blocks=["week 48"], scope="usage", caller="telemetry")
    return ledger


def words(page: str) -> str:
    """What a reader sees: no tags, no style, narrow spaces as plain ones."""
    body = re.sub(r"<(style|title)\b.*?</\1>|<[^>]+>", " ", page, flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(body).replace("\u202f", " "))


class Outline(HTMLParser):
    """Tags and attributes of a page; every tag that opens must close in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture
def page(tmp_path: Path) -> str:
    with lived(tmp_path) as ledger:
        return render(statement(ledger, [audited(), audited()]))


# --- what is said ----------------------------------------------------------------------------------------------------


def test_the_statement_says_what_the_ledger_says(tmp_path: Path) -> None:
    with lived(tmp_path) as ledger:
        said = statement(ledger)
        assert said["entries"] == len(ledger.entries())
        assert said["head"] == ledger.verify().hash
        for name in ledger.scopes():
            scope = said["scopes"][name]
            assert scope["spent_rdp"] == ledger.spent(name) == scope["history"][-1]["spent"]
            assert scope["spent_pld"] == ledger.spent(name, "pld")
            assert scope["in_total"] == ledger.spent_in_total(name) == scope["history"][-1]["in_total"]
            assert scope["blocks"] == ledger.spent_by_block(name)
            assert scope["left"] == ledger.left(name)
        assert said["open_runs"] == len(ledger.open_receipts()) == 3
        assert len(said["runs"]) == 7
        assert json.loads(json.dumps(said)) == said


def test_the_history_never_falls_and_counts_every_run(tmp_path: Path) -> None:
    with lived(tmp_path, nights=9) as ledger:
        history = statement(ledger)["scopes"]["experience"]["history"]
    assert len(history) == 1 + 9 + 1  # The budget, the nights, the gate.
    for key in ("at", "spent", "in_total"):
        assert [point[key] for point in history] == sorted(point[key] for point in history)
    assert history[1]["spent"] == SPENT
    assert history[-1]["in_total"] > history[-1]["spent"] > SPENT


def test_a_ledger_that_does_not_verify_is_not_reported_on(tmp_path: Path) -> None:
    with lived(tmp_path) as ledger:
        edit(tmp_path, "update entries set body = replace(body, '6.798', '99.0') where seq = 4")
        with pytest.raises(LedgerError, match="does not verify"):
            write_report(ledger, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_what_is_not_covered_follows_from_unit_relation_and_anchor(tmp_path: Path) -> None:
    with lived(tmp_path / "none") as ledger:
        without = " ".join(statement(ledger)["not_covered"])
    with lived(tmp_path / "file", anchor=FileAnchor(tmp_path / "anchor")) as ledger:
        anchored = " ".join(statement(ledger)["not_covered"])
    assert "An old copy of the ledger" in without
    assert "An old copy of the ledger" not in anchored
    assert "How many records there are" in without
    assert "one record at a time" in without
    policy = Budget(epsilon=1.0, total_epsilon=1.0, unit=Unit.DAY, neighbours=Neighbours.ADD_OR_REMOVE)
    with Ledger.open(tmp_path / "days.db", key=KEY, budget=policy) as ledger:
        days = " ".join(statement(ledger)["not_covered"])
    assert "many days" in days
    assert "one day at a time" in days
    assert "How many records there are" not in days
    assert "no limit was set for all runs together" not in days


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_is_well_formed_and_loads_nothing(page: str) -> None:
    outline = Outline(page)
    assert outline.open == []
    assert outline.count("script") == outline.count("img") == outline.count("iframe") == 0
    for tag, attributes in outline.tags:
        for name in ("src", "href", "srcset", "data", "action", "xlink:href"):
            link = attributes.get(name)
            assert link is None or link.startswith(("data:", "#")), (tag, link)
    assert not re.search(r"url\(|@import|https?://", page)
    assert "default-src 'none'" in page
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) >= 7


def test_every_section_and_drawing_is_there(page: str) -> None:
    assert re.findall(r"<h2>(.*?)</h2>", page) == [
        "Budget of “experience”", "Budget of “usage”", "All scopes", "What is not covered", "Runs",
        "Is the claim true?", "The ledger", "Glossary",
    ]  # fmt: skip
    for name in ("timeline-1", "blocks-1", "timeline-2", "blocks-2", "scopes", "audit"):
        assert re.search(rf'<figure id="{name}">.*?<svg class="plot".*?</svg>', page, re.S), name
    assert page.count('role="img" aria-label="') == page.count('<svg class="plot"') == 6


def test_every_figure_of_the_ledger_is_on_the_page(page: str) -> None:
    text = words(page)
    worst = epsilon([NIGHT, GateRelease(noise_multiplier=12.0)], delta=1e-5, accountant="rdp")
    spent, sure = upwards(worst), upwards(100 / (1 + math.exp(-worst)), 1)
    for shown in (
        f"No record has lost more than {spent} of the 4.00 that it may ever lose",
        f"ε {spent}", "on any record, of 4.00", "Runs charged 7", "3 never closed; they stay spent", "verified",
        "1 in 100,000", "one record", "one of them replaced by an empty one", "Limit: all runs together 2.00",
        "Limit: in any 30 days 1.50", "Private training (DP-SGD)", "noise 6.798 × the most one can add, 10 steps",
        "Private gate", "Figure with Laplace noise", "2 blocks: 2026-11-24 to 2026-11-27", "usage, for telemetry",
        "4 of 10", "10 of 10", "admitted", "rejected", "never closed; stays spent", "24 Nov 2026, 03:00 UTC",
        f"{sure} % sure today, and 98.3 % when the budget is used up", "An old copy of the ledger",
        "would not be noticed", "passed", "2 of 2 checks held",
        "412 of 500 guesses about 2500 records were right, at 95 % confidence",
        "Shown by the attack 2.06", "Charged by the ledger 4.00", "Most it could have shown 8.70",
        "0.4982 × the charge", "torch 2.13.0", "Earlier: 24 Nov 2026, 05:58 UTC, 2 checks, passed",
    ):  # fmt: skip
        assert shown in text, shown


def test_an_empty_ledger_has_a_page_too(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        page = render(statement(ledger))
    text = words(page)
    assert "Nothing has been spent yet." in text
    assert "No run was ever charged." in text
    assert "No audit is on record." in text
    assert "None" not in text
    assert Outline(page).open == []


def test_a_failed_audit_is_the_first_thing_one_sees_of_it(tmp_path: Path) -> None:
    with lived(tmp_path) as ledger:
        text = words(render(statement(ledger, [audited(passed=False)])))
    assert "Audit failed 1 of 2 checks held" in text
    assert "The engine failed this audit." in text
    assert "Nothing should be trained until an audit passes" in text


def test_names_from_outside_are_escaped_everywhere(tmp_path: Path) -> None:
    with opened(tmp_path, epsilon=4.0) as ledger:
        ledger.set_budget(Budget(epsilon=4.0), scope=EVIL)
        ledger.close(ledger.reserve(NIGHT, blocks=[EVIL], scope=EVIL, caller=EVIL), EVIL)
        ledger.reserve(NIGHT, blocks=[EVIL, "other"])
        page = render(statement(ledger, [audited(text=EVIL)]))
    outline = Outline(page)
    assert outline.open == []
    assert outline.count("script") == outline.count("img") == 0
    assert not any(name.startswith("on") for _, attributes in outline.tags for name in attributes)
    assert words(page).count("<script>alert(1)</script>") >= 6


def test_the_escaping_test_sees_a_template_that_does_not_escape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = jinja2.Environment
    monkeypatch.setattr(jinja2, "Environment", lambda **options: real(**{**options, "autoescape": False}))
    with opened(tmp_path) as ledger:
        page = render(statement(ledger, [audited(text=EVIL)]))
    assert "<script>" in page


def test_spent_figures_are_never_rounded_down(tmp_path: Path) -> None:
    assert (upwards(1.0001), upwards(2.0), upwards(0.12345, 3), upwards(None)) == ("1.01", "2.00", "0.124", "–")
    run = DpSgdRun(noise_multiplier=1e4, sampling_rate=1.0, steps=1)
    with opened(tmp_path) as ledger:
        ledger.reserve(run, blocks=["b"])
        assert 0 < ledger.spent() < 0.01
        assert "No record has lost more than 0.01" in words(render(statement(ledger)))


def test_numbers_and_times_are_written_as_people_read_them() -> None:
    assert (number(-1234.567, 1), number(-0.0004), number(float("nan"))) == ("−1,234.6", "0.00", "–")
    assert (chance(1e-5), chance(0.0)) == ("1 in 100,000", "–")
    assert day("2026-11-04T03:00:00.000000+00:00") == "4 Nov 2026"
    assert moment("2026-11-24T05:58:29+00:00") == "24 Nov 2026, 05:58 UTC"


def test_the_lines_are_as_high_as_their_figures(page: str) -> None:
    drawn = re.search(r'<figure id="timeline-1">.*?</figure>', page, re.S)
    assert drawn
    heights = {
        name: 1000 - float(re.findall(r"[V ]([\d.]+)H1000", path)[-1])
        for name, path in re.findall(r'class="line (\w+)" d="([^"]+)"', drawn[0])
    }
    text = words(drawn[0])
    worst, total = (float(re.search(rf"{name}: ([\d.]+)", text)[1]) for name in ("worst record", "all runs together"))  # type: ignore[index]
    assert heights["spent"] / heights["limit"] == pytest.approx(worst / 4.0, rel=0.01)
    assert heights["total"] / heights["limit"] == pytest.approx(total / 4.0, rel=0.01)


def test_a_long_life_stays_a_short_page(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path, clock=clock) as ledger:
        for _ in range(MOST_RUNS + 5):
            ledger.reserve(NIGHT, blocks=[f"{clock.now:%Y-%m-%d}"])
            clock.move(days=1)
        said = statement(ledger)
    page = render(said)
    text = words(page)
    assert "5 older runs are not shown" in text
    assert f"The {MOST_RUNS + 5 - MOST_BLOCKS} least spent blocks" in text
    point = said["scopes"]["experience"]["history"][-1]
    said["scopes"]["experience"]["history"] *= 20
    said["scopes"]["experience"]["history"][-1] = point
    longest = max(map(len, re.findall(r'd="M[^"]+"', render(said))))
    assert longest < MOST_POINTS * 20


def test_the_report_is_written_whole_and_for_its_owner_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out" / "privacy.html"
    path.parent.mkdir()
    with lived(tmp_path) as ledger:
        write_report(ledger, path)
        assert path.stat().st_mode & 0o777 == 0o600
        old = path.read_text(encoding="utf-8")

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        said = statement(ledger)
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(ReportError, match=r"^cannot write .*: No space left on device; choose another place$"):
            write_report(ledger, path, [audited()])
        assert path.read_text(encoding="utf-8") == old
        assert [entry.name for entry in path.parent.iterdir()] == ["privacy.html"]
        with pytest.raises(ReportError, match="No such file or directory"):
            write_report(ledger, tmp_path / "nowhere" / "privacy.html")
        assert said["entries"] > 0


# --- in a real browser -----------------------------------------------------------------------------------------------


def hostile(folder: Path) -> str:
    """The longest names and the most blocks that a ledger takes."""
    clock = Clock()
    with opened(folder, epsilon=400.0, clock=clock) as ledger:
        for count in range(30):
            ledger.reserve(NIGHT, blocks=[f"{'endless_name_without_a_space_' * 6}{count}"], caller="c" * 200)
        clock.move(seconds=5)
        ledger.set_budget(Budget(epsilon=1e3), scope="s" * 200)
        huge = DpSgdRun(noise_multiplier=0.2, sampling_rate=1.0, steps=20)
        ledger.close(ledger.reserve(huge, blocks=["b"], scope="s" * 200), "o" * 200)
        return render(statement(ledger, [audited(text="x" * 500)]))


@needs_browser
@pytest.mark.parametrize("kind", ["lived", "hostile", "empty"])
def test_a_browser_shows_the_page_without_overflow_on_phone_and_desk(kind: str, tmp_path: Path, page: str) -> None:
    if kind == "hostile":
        page = hostile(tmp_path / "hostile")
    elif kind == "empty":
        with opened(tmp_path / "empty") as ledger:
            page = render(statement(ledger))
    for width, look in seen(tmp_path, page, (320, 360, 700, 1280)).items():
        assert look["overflow"] <= 0, (width, look["wide"][:5])
        assert look["wide"] == [], width
        assert look["clash"] == [], width
        assert len(look["plots"]) == (0 if kind == "empty" else 6)
        assert all(wide > 240 and high >= 38 for wide, high in look["plots"]), (width, look["plots"])
        assert all(count >= 1 for count in look["shapes"]), (width, look["shapes"])


@needs_browser
def test_the_page_is_dark_where_the_reader_wants_it_dark(tmp_path: Path, page: str) -> None:
    light, dark = (seen(tmp_path, page, (360,), scheme=scheme)["360"] for scheme in ("light", "dark"))
    assert light["paper"] == "rgb(251, 249, 245)"
    assert dark["paper"] == "rgb(22, 19, 15)"


@needs_browser
def test_the_page_prints_as_a_few_sheets_of_paper(tmp_path: Path, page: str) -> None:
    paper = printed(tmp_path, page)
    assert paper.startswith(b"%PDF-")
    sheets = [tuple(map(float, box.split())) for box in re.findall(rb"/MediaBox \[([^]]+)\]", paper)]
    assert 1 <= len(sheets) <= 12
    assert all(590 < right < 615 and 780 < top < 850 for _, _, right, top in sheets)  # A4 or letter, in points.


@needs_browser
def test_the_browser_check_sees_a_page_that_overflows(tmp_path: Path, page: str) -> None:
    wide = page.replace("<h2>Glossary</h2>", '<div style="width:1000px">too wide</div>')
    look = seen(tmp_path, wide, (360, 1280))
    assert look["360"]["overflow"] > 0
    assert look["1280"]["overflow"] <= 0
