"""The report page is self-contained, escapes what people wrote, shows every figure, and fits every screen."""

import html
import os
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jinja2
import pytest

from sdk.demo import page
from sdk.demo.page import write_page
from sdk.errors import SdkError
from tests.browser import needs_browser, seen

Result = dict[str, Any]
EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)>'


def night(**changes: Any) -> Result:
    """A result as a real night makes it: five arms, five legs, 74 later records."""
    draw = random.Random(1)
    legs = [
        ("grammar", -0.21, 0.42, 0.9, 1.0, "percentage points"),
        ("english", 0.006, 0.011, 0.004, 0.02, "nats per token"),
    ]
    legs += [
        ("facts", 0.012, 0.021, 0.015, 0.03, "nats per token"),
        ("tasks", -0.003, 0.008, 0.011, 0.02, "nats per token"),
    ]
    names = ("leg", "drop", "upper", "detectable_drop", "margin", "unit")
    bits = {"base": 1.294, "start": 1.101, "adapter": 1.073, "wrong_user": 1.112, "nonprivate": 1.069}
    accuracy = {"base": 0.331, "start": 0.392, "adapter": 0.401, "wrong_user": 0.388, "nonprivate": 0.403}
    return {
        "records": 370,
        "train_records": 296,
        "test_records": 74,
        "person": "Calvin Coolidge",
        "source": "State of the Union addresses",
        **{f"{arm}_bits_per_char": value for arm, value in bits.items()},
        **{f"{arm}_next_word_accuracy": value for arm, value in accuracy.items()},
        "intervals": {arm: [value - 0.04, value + 0.04] for arm, value in bits.items()},
        "epsilon": 1.998,
        "epsilon_pld": 1.871,
        "epsilon_left": 6.002,
        "lifetime_budget": 8.0,
        "delta": 1e-5,
        "unit": "record",
        "neighbours": "zero_out",
        "noise_multiplier": 8.531,
        "steps": 20,
        "nights": 3,
        "gain": {"mean": 0.0254, "low": 0.0213, "high": 0.0297},
        "gain_over_wrong_user": {"mean": 0.0351, "low": 0.029, "high": 0.041},
        "wrong_user": "Herbert Hoover",
        "retention": [dict(zip(names, leg, strict=True)) | {"passed": True} for leg in legs],
        "admitted": True,
        "alpha": 1.0,
        "seconds": 252.4,
        "peak_megabytes": 1412.6,
        "phases": [{"name": "open the base", "seconds": 1.1}, {"name": "private night", "seconds": 42.7}],
        "gains": [draw.gauss(0.03, 0.05) for _ in range(74)],
        "samples": [
            {"prompt": "1928", "text": "The state of the Union is good.", "base": 1.31, "adapter": 1.12},
            {"prompt": "1929", "base": "It is strong.", "adapter": "It has enjoyed a year of peace."},
        ],
        "report": "report.html",
        **changes,
    }


def refused_night() -> Result:
    legs = [dict(leg, drop=9 * leg["margin"], upper=11 * leg["margin"], passed=False) for leg in night()["retention"]]
    name = "ana.with.a.very.long.address.that.never.ends@subdomain.of.some.example.org"
    source = f"git history of {'a_project_with_one_endless_name_' * 3}"
    return night(
        admitted=False, retention=[*legs[:2], *night()["retention"][2:]], person=name, source=source, alpha=0.0
    )


def rendered(tmp_path: Path, result: Result) -> str:
    path = tmp_path / "report.html"
    write_page(result, path)
    return path.read_text(encoding="utf-8")


def words(source: str) -> str:
    """What a reader sees: no tags, no style, narrow spaces as plain ones."""
    body = re.sub(r"<(style|title)\b.*?</\1>|<[^>]+>", " ", source, flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(body).replace("\u202f", " "))


class Outline(HTMLParser):
    """Tags and attributes of a page, and whether every tag that opens closes in order."""

    VOID = frozenset({"meta", "link", "img", "br", "hr"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


@pytest.mark.parametrize("result", [night(), refused_night(), {}], ids=["good", "refused", "empty"])
def test_the_page_is_well_formed_and_loads_nothing(tmp_path: Path, result: Result) -> None:
    source = rendered(tmp_path, result)
    outline = Outline(source)
    assert outline.open == []
    assert outline.count("script") == outline.count("img") == outline.count("iframe") == 0
    for tag, attributes in outline.tags:
        for name in ("src", "href", "srcset", "data", "action", "xlink:href"):
            link = attributes.get(name)
            assert link is None or link.startswith(("data:", "#")), (tag, link)
    assert not re.search(r"url\(|@import|https?://", source)
    assert outline.count("style") == 1


def test_ids_are_unique(tmp_path: Path) -> None:
    ids = [attributes["id"] for _, attributes in Outline(rendered(tmp_path, night())).tags if "id" in attributes]
    assert len(ids) == len(set(ids)) >= 5


def test_text_from_files_is_escaped_everywhere(tmp_path: Path) -> None:
    evil = night(
        person=EVIL,
        source=EVIL,
        unit=EVIL,
        neighbours=EVIL,
        samples=[{"prompt": EVIL, "text": EVIL, "base": EVIL, "adapter": EVIL}],
        phases=[{"name": EVIL, "seconds": 1.0}],
        retention=[dict(night()["retention"][0], leg=EVIL, unit=EVIL)],
    )
    source = rendered(tmp_path, evil)
    outline = Outline(source)
    assert outline.open == []
    assert outline.count("script") == outline.count("img") == 0
    assert not any(name.startswith("on") for _, attributes in outline.tags for name in attributes)
    assert words(source).count('alert("x")') >= 10


def test_the_escaping_test_sees_a_template_that_does_not_escape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = jinja2.Environment
    monkeypatch.setattr(jinja2, "Environment", lambda **options: real(**{**options, "autoescape": False}))
    assert Outline(rendered(tmp_path, night(samples=[{"text": EVIL}]))).count("script") == 1


def test_every_figure_of_the_result_is_on_the_page(tmp_path: Path) -> None:
    text = words(rendered(tmp_path, night()))
    for shown in (
        "Calvin Coolidge", "State of the Union addresses", "296 records", "74 later",
        "1.294", "1.101", "1.073", "1.112", "1.069", "33.1 %", "39.2 %", "40.1 %", "38.8 %", "40.3 %",
        "1.998", "1.871", "6.00 left of 8.00", "1 in 100,000", "one record", "one of them replaced by an empty one",
        "8.531", "20 a night, 3 nights", "4 min 12 s", "1,413 MB", "open the base", "42.7 s",
        "+2.1 to +3.0 %", "+2.9 to +4.1 %", "The adapter of Herbert Hoover", "admitted 100 % of tonight’s change",
        "grammar", "−0.21", "+0.42", "0.90", "1.00", "nats per token", "4 of 4", "held",
        "The state of the Union is good.", "1.310", "1.120", "It has enjoyed a year of peace.",
    ):  # fmt: skip
        assert shown in text, shown


def test_figures_that_follow_from_the_result_are_right(tmp_path: Path) -> None:
    text = words(rendered(tmp_path, night()))
    assert (
        "3 private nights made the later text of Calvin Coolidge 2.5 % easier to predict" in text
    )  # (1.101 − 1.073) / 1.101
    assert "worth 14.9 % over the base model" in text  # (1.294 − 1.101) / 1.294
    assert (
        "kept 87 % of what it would have gained without privacy" in text
    )  # 0.028 / 0.032 = 0.875, less one bit of rounding
    assert "−17.1 %" in text  # (1.294 − 1.073) / 1.294
    assert "1.0 % harder to predict; this person’s own makes it 2.5 % easier" in text  # (1.112 − 1.101) / 1.101
    assert "at most 88.1 % sure" in text  # e^1.998 / (1 + e^1.998) = 0.88057
    gains = night()["gains"]
    assert f"{round(sum(gain > 0 for gain in gains) / len(gains) * 100)} % of 74 later records" in text


def test_every_section_and_drawing_is_there(tmp_path: Path) -> None:
    source = rendered(tmp_path, night())
    headings = re.findall(r"<h2>(.*?)</h2>", source)
    assert headings == [
        "What it gained", "What it kept", "What it spent", "What this means for a person", "Examples",
        "Time and memory", "Glossary",
    ]  # fmt: skip
    for name in ("bars", "closer", "gains", "retention", "budget", "phases"):
        assert re.search(rf'<figure id="{name}">.*?<svg class="plot".*?</svg>', source, re.S), name
    assert "What is not promised" in source
    assert source.count('role="img" aria-label="') == source.count('<svg class="plot"') == 6


def test_bars_are_as_long_as_their_numbers(tmp_path: Path) -> None:
    source = rendered(tmp_path, night())
    drawn = re.search(r'<figure id="bars">.*?</figure>', source, re.S)
    assert drawn
    widths = dict(re.findall(r'<rect class="(\w+)" x="0" width="([\d.]+)%"', drawn[0]))
    assert float(widths["adapter"]) / float(widths["base"]) == pytest.approx(1.073 / 1.294, abs=1e-4)


def test_a_refused_adapter_is_called_refused(tmp_path: Path) -> None:
    text = words(rendered(tmp_path, refused_night()))
    assert "Tonight’s adapter was refused, and the one before it stays in use." in text
    assert "stays spent" in text
    assert "easier to predict" not in text.split("Not admitted.")[0]
    assert "2 of 4" in text
    assert "beyond this scale" in text
    assert "The gate admitted" not in text


def test_a_night_without_gain_says_so(tmp_path: Path) -> None:
    text = words(rendered(tmp_path, night(adapter_bits_per_char=1.12, gains=[-0.02, 0.01] * 10, nights=1)))
    assert "One private night did not make the later text of Calvin Coolidge easier to predict" in text
    assert "too close to zero to be sure" in text
    assert "kept" not in text.split("What it gained")[0].replace("skills kept", "")
    assert "no gain that is this person’s own" in text


def test_a_gain_whose_interval_holds_zero_is_called_unsure(tmp_path: Path) -> None:
    unsure = night(gain={"mean": 0.025, "low": -0.001, "high": 0.05})
    assert "2.5 % easier to predict, too little to be sure." in words(rendered(tmp_path, unsure))
    assert "too little" not in words(rendered(tmp_path, night()))


def test_a_large_epsilon_is_not_rounded_down_to_safety(tmp_path: Path) -> None:
    assert "at most 99.97 % sure" in words(rendered(tmp_path, night(epsilon=8.0)))  # 1 − 1 / (1 + e^8) = 0.99966
    assert "at most 100.000000 % sure" in words(rendered(tmp_path, night(epsilon=900.0)))
    assert "can promise nothing" in words(rendered(tmp_path, night(epsilon=None)))


def test_the_number_of_records_is_called_public_where_it_is(tmp_path: Path) -> None:
    sentence = "How many records there are"
    assert sentence in words(rendered(tmp_path, night()))
    assert sentence not in words(rendered(tmp_path, night(neighbours="add_or_remove")))


@pytest.mark.parametrize("missing", sorted(night()))
def test_any_one_key_may_be_missing_or_broken(tmp_path: Path, missing: str) -> None:
    without = {key: value for key, value in night().items() if key != missing}
    for result in (without, night(**{missing: None})):
        text = words(rendered(tmp_path, result))
        assert "Glossary" in text
        assert "None" not in text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "7", True])
def test_what_is_not_a_finite_number_is_never_shown_as_one(tmp_path: Path, value: Any) -> None:
    def broken(found: Any) -> Any:
        if isinstance(found, dict):
            return {key: broken(part) for key, part in found.items()}
        if isinstance(found, list):
            return [broken(part) for part in found]
        return value if isinstance(found, int | float) and not isinstance(found, bool) else found

    source = rendered(tmp_path, broken(night()))
    assert Outline(source).open == []
    assert not re.search(r"\b(nan|inf|None|Infinity)\b", words(source), re.I)
    assert not re.search(r'="[^"]*\b(nan|inf)\b', source)


def test_numbers_are_written_as_people_read_them() -> None:
    assert page.number(-1234.567, 1) == "−1,234.6"
    assert page.number(-0.0004, 2) == "0.00"
    assert (page.signed(0.5), page.signed(-0.5), page.signed(0.0), page.signed(None)) == ("+0.50", "−0.50", "0.00", "–")
    assert (page.duration(7.25), page.duration(59.99), page.duration(3600)) == ("7.2 s", "1 min 00 s", "60 min 00 s")
    assert (page.chance(1e-5), page.chance(0), page.chance(None)) == ("1 in 100,000", "–", "–")


def test_only_the_owner_can_read_the_report(tmp_path: Path) -> None:
    write_page(night(), tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_mode & 0o777 == 0o600


def test_a_report_that_cannot_be_written_is_one_clear_line_and_the_old_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        SdkError, match=r"^cannot write the report to .*: No space left on device; choose another place$"
    ):
        write_page(night(), path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(SdkError, match="No such file or directory"):
        write_page(night(), tmp_path / "no" / "report.html")


# --- in a real browser -----------------------------------------------------------------------------------------------


@needs_browser
@pytest.mark.parametrize("result", [night(), refused_night(), {}], ids=["good", "refused", "empty"])
def test_a_browser_shows_the_page_without_overflow_on_phone_and_desk(tmp_path: Path, result: Result) -> None:
    for width, look in seen(tmp_path, rendered(tmp_path, result), (320, 360, 768, 1280)).items():
        assert look["overflow"] <= 0, (width, look["wide"][:5])
        assert look["wide"] == [], width
        assert look["clash"] == [], width
        assert len(look["plots"]) == (6 if result else 0)
        assert all(wide > 240 and high >= 30 for wide, high in look["plots"]), (width, look["plots"])
        assert all(count >= 1 for count in look["shapes"]), (width, look["shapes"])


@needs_browser
def test_the_browser_check_sees_a_page_that_overflows(tmp_path: Path) -> None:
    page = rendered(tmp_path, night())
    wide = page.replace("<h2>Glossary</h2>", '<div style="width:1000px">too wide</div>')
    assert wide != page
    look = seen(tmp_path, wide, (360, 1280))
    assert look["360"]["overflow"] > 0
    assert look["1280"]["overflow"] <= 0
