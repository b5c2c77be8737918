"""From public text to a pack inside a bundle, and from there into a night."""

import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from personalize.errors import TrainingError
from sdk.build import package
from sdk.build.people import read_people
from sdk.bundle import Bundle
from sdk.cli.app import cli
from sdk.device.night import base_of, plan_of
from sdk.errors import BasisError, BuildError, BundleError
from tests.tiny import SENTENCES, tiny_bundle

NAMED = ("--licence", "CC0-1.0", "--origin", "made up", "--directions", "4", "--passes", "1")


@pytest.fixture
def public(tmp_path: Path) -> Path:
    lines = [
        {"person": f"person {row}", "prompt": "say", "answer": f"{SENTENCES[row % 4]} {row} {number}"}
        for row in range(6)
        for number in range(12)
    ]
    file = tmp_path / "public.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def call(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli, ["build", "basis", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return 1, "", str(result.exception)
    return result.exit_code, result.stdout, result.stderr


def test_a_pack_is_learned_into_a_bundle_and_a_night_begins_with_it(public: Path, tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    code, out, _ = call("--people", str(public), "--name", "notes", *NAMED, "--bundle", str(bundle.folder), "--json")
    assert code == 0
    facts = json.loads(out)
    assert facts["people"] == 6
    assert facts["records"] == 72
    after = Bundle.open(bundle.folder, verify="digests")
    assert after.base_digest == bundle.base_digest
    assert set(after.packs()) == {"notes"}
    card = json.loads((after.packs()["notes"] / "basis.json").read_text())
    assert card["facts"]["licence"] == "CC0-1.0"
    base = base_of(after)
    assert base.start is not None
    assert base.basis is not None
    assert len(base.basis) == facts["directions"]
    assert plan_of(base, kind="basis").clip_norm == pytest.approx(0.75 * facts["directions"] ** 0.5)


def test_with_several_packs_one_is_named_or_none_is_used(public: Path, tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    for name in ("notes", "letters"):
        call("--people", str(public), "--name", name, *NAMED, "--bundle", str(bundle.folder))
    both = Bundle.open(bundle.folder)
    assert set(both.packs()) == {"notes", "letters"}
    assert base_of(both).basis is None
    assert base_of(both, pack="letters").basis is not None
    with pytest.raises(TrainingError, match="it has letters, notes"):
        base_of(both, pack="poems")


def test_a_changed_pack_is_refused_before_it_is_read(public: Path, tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    call("--people", str(public), "--name", "notes", *NAMED, "--bundle", str(bundle.folder))
    card = bundle.folder / "basis" / "notes" / "basis.json"
    card.write_text(card.read_text().replace("CC0-1.0", "CC0-1.1"))
    with pytest.raises(BundleError, match="does not match its digest"):
        base_of(Bundle.open(bundle.folder))


@pytest.mark.parametrize("name", ["../up", "Notes", "a b", "", "x" * 33])
def test_a_name_that_is_no_folder_of_its_own_is_refused(public: Path, tmp_path: Path, name: str) -> None:
    bundle = tiny_bundle(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    code, _, line = call("--people", str(public), "--name", name, *NAMED, "--bundle", str(bundle.folder))
    assert code == 1
    assert "cannot name a kind of text" in line
    assert Bundle.open(bundle.folder).packs() == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_packs_that_weigh_too_much_leave_the_bundle_as_it_was(
    public: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tiny_bundle(tmp_path)
    monkeypatch.setattr(package, "MAX_BASIS_BYTES", 1000)
    code, _, line = call("--people", str(public), "--name", "notes", *NAMED, "--bundle", str(bundle.folder))
    assert code == 1
    assert "lower --directions" in line
    assert Bundle.open(bundle.folder, verify="digests").packs() == {}


def test_a_pack_of_another_base_does_not_get_in(public: Path, tmp_path: Path) -> None:
    from personalize.pack import DomainPack

    bundle = tiny_bundle(tmp_path)
    call("--people", str(public), "--name", "notes", *NAMED, "--bundle", str(bundle.folder))
    pack = DomainPack.load(bundle.folder / "basis" / "notes", base_digest=bundle.base_digest)
    with pytest.raises(BuildError, match="learn it on this base"):
        package.add_pack(tiny_bundle(tmp_path, seed=1), pack, name="notes")


@pytest.mark.parametrize(
    "line", ["no json", "[]", "3", '{"person": "a"}', '{"person": 1, "answer": "b"}', '{"person": "a", "answer": " "}']
)
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "public.jsonl"
    file.write_text('{"person": "a", "answer": "b"}\n' + line + "\n")
    with pytest.raises(BasisError, match="line 2"):
        read_people([file])


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "public.jsonl"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BasisError, match="UTF-8"):
        read_people([file])


def git(folder: Path, person: str, *arguments: str) -> None:
    identity = ["-c", f"user.name={person}", "-c", f"user.email={person}@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_every_author_of_a_repository_is_a_person(tmp_path: Path) -> None:
    git(tmp_path, "ana", "init", "-q")
    for person in ("ana", "bo"):
        for number in range(8):
            git(tmp_path, person, "commit", "-q", "--allow-empty", "-m", f"Change number {number} by {person}")
    people = read_people([], [tmp_path], records_each=5)
    assert {person: len(rows) for person, rows in people.items()} == {"ana@example.org": 5, "bo@example.org": 5}
    with pytest.raises(BasisError):
        read_people([], [tmp_path / "nowhere"])
