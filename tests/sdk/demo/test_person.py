"""Sources become persons: split by time, with a control and public people that are neither."""

import json
import subprocess
from pathlib import Path

import pytest

from personalize.errors import SourceError
from sdk.build.people import spread
from sdk.demo import presidents
from sdk.demo.person import Source, open_person


def test_the_default_person_is_split_by_time_and_the_public_people_are_others() -> None:
    person = open_person(Source())
    assert person.name == presidents.DEFAULT
    assert person.wrong_name == presidents.CONTROL
    assert len(person.test) == (len(person.train) + len(person.test)) // 5
    assert max(item.at for item in person.train) <= min(item.at for item in person.test)
    assert {person.name, person.wrong_name}.isdisjoint(person.public)
    assert len(person.public) >= 36
    for name, items in person.public.items():  # Whole people, never filtered by what the person wrote: that would leak.
        assert items == presidents.records_of(name)


def test_at_least_39_presidents_have_50_paragraphs() -> None:
    assert len(presidents.names()) >= 39
    assert all(len(presidents.records_of(name)) >= presidents.MIN_RECORDS for name in presidents.names())


def test_a_part_of_a_name_is_enough_when_one_president_has_it() -> None:
    assert presidents.records_of("lincoln") == presidents.records_of("Abraham Lincoln")


@pytest.mark.parametrize("name", ["Roosevelt", "Nobody", ""])
def test_an_unclear_name_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(SourceError) as refused:
        presidents.records_of(name)
    assert "\n" not in str(refused.value)


def test_the_control_of_the_control_person_is_somebody_else() -> None:
    person = open_person(Source(president=presidents.CONTROL))
    assert person.wrong_name == presidents.DEFAULT


def test_a_file_of_too_few_records_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "few.jsonl"
    file.write_text("".join(json.dumps({"answer": f"note number {row} of a few"}) + "\n" for row in range(22)))
    with pytest.raises(SourceError, match="without the latest fifth"):
        open_person(Source(jsonl=file))


def commit(folder: Path, author: str, message: str, day: int) -> None:
    (folder / "file.txt").write_text(f"{author} {day}\n")
    when = f"2024-01-{day:02d}T12:00:00+00:00"
    subprocess.run(["git", "add", "."], cwd=folder, check=True)
    subprocess.run(
        ["git", "-c", "user.name=A", "-c", f"user.email={author}", "commit", "-qm", message],
        cwd=folder, check=True, env={"GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when, "PATH": "/usr/bin:/bin"},
    )  # fmt: skip


def test_another_author_of_the_repository_is_the_control(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    for day in range(1, 28):
        commit(tmp_path, "ana@example.org", f"Mend the parser for case {day}", day)
        commit(tmp_path, "ben@example.org", f"Write about chapter {day} of the guide", day)
    person = open_person(Source(git=tmp_path, author="ana@example.org"))
    assert person.wrong_name == "ben@example.org"
    assert all("parser" in item.answer for item in [*person.train, *person.test])
    assert all("guide" in item.answer for item in person.wrong)
    assert person.public == {}


def test_spread_takes_evenly_and_keeps_the_order() -> None:
    items = presidents.records_of("lincoln")
    taken = spread(items, 10)
    assert taken == sorted(taken, key=lambda item: item.at)
    assert len(taken) == 10
    assert taken[0] == items[0]
    assert spread(items, None) == items
