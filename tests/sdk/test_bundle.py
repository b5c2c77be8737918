"""A bundle opens exactly when it is what its manifest says."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdk.bundle import (
    BASE_FILES,
    MAX_MANIFEST_BYTES,
    Bundle,
    FileRecord,
    Manifest,
    cache_folder,
    default_bundle,
    write_manifest,
)
from sdk.errors import BundleError, NoBaseError
from tests.tiny import tiny_bundle

DIGEST = "0" * 64


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path)


def edit_manifest(bundle: Bundle, change: Callable[[dict[str, Any]], object]) -> None:
    file = bundle.folder / "manifest.json"
    fields = json.loads(file.read_bytes())
    change(fields)
    file.write_text(json.dumps(fields), encoding="utf-8")


def test_a_written_bundle_opens_with_every_digest_checked(bundle: Bundle) -> None:
    assert Bundle.open(bundle.folder, verify="digests").manifest == bundle.manifest


def test_the_manifest_names_every_file_but_itself(bundle: Bundle) -> None:
    on_disk = {path.relative_to(bundle.folder).as_posix() for path in bundle.folder.rglob("*") if path.is_file()}
    assert set(bundle.manifest.files) == on_disk - {"manifest.json"}


def test_the_base_digest_follows_from_config_weights_and_tokenizer(bundle: Bundle) -> None:
    lines = ""
    for path in ("checkpoint/config.json", "checkpoint/model.safetensors", "checkpoint/tokenizer.json"):
        lines += hashlib.sha256((bundle.folder / path).read_bytes()).hexdigest() + "  " + path + "\n"
    assert bundle.base_digest == "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


def test_other_weights_have_another_base_digest_and_the_same_weights_the_same(bundle: Bundle, tmp_path: Path) -> None:
    assert tiny_bundle(tmp_path / "again").base_digest == bundle.base_digest
    assert tiny_bundle(tmp_path / "other", seed=1).base_digest != bundle.base_digest


def test_other_probes_leave_the_base_digest_alone(bundle: Bundle) -> None:
    (bundle.folder / "probes.jsonl").write_text('{"id": "new"}\n', encoding="utf-8")
    again = write_manifest(bundle.folder, name="n", version="2", base_id="b", licence="l", origin="o")
    assert again.base_digest == bundle.base_digest


def test_probes_and_rehearsal_are_read_as_objects(bundle: Bundle) -> None:
    assert {item["leg"] for item in bundle.probes()} == {"english"}
    assert all(item["answer"] for item in bundle.rehearsal())


def test_probes_changed_under_the_same_size_are_refused_when_read(bundle: Bundle) -> None:
    file = bundle.folder / "probes.jsonl"
    file.write_bytes(file.read_bytes().replace(b"english", b"ENGLISH"))
    opened = Bundle.open(bundle.folder)
    with pytest.raises(BundleError, match=r"probes\.jsonl does not match its digest"):
        opened.probes()


def test_a_bundle_without_probes_opens_and_refuses_when_asked_for_them(bundle: Bundle) -> None:
    (bundle.folder / "probes.jsonl").unlink()
    again = write_manifest(bundle.folder, name="n", version="2", base_id="b", licence="l", origin="o")
    with pytest.raises(BundleError, match=r"has no probes\.jsonl"):
        again.probes()


def test_a_line_that_is_no_object_is_refused(bundle: Bundle) -> None:
    (bundle.folder / "probes.jsonl").write_text("[1]\n", encoding="utf-8")
    again = write_manifest(bundle.folder, name="n", version="2", base_id="b", licence="l", origin="o")
    with pytest.raises(BundleError, match="list where an object belongs"):
        again.probes()


def test_sizes_alone_miss_a_flipped_byte_and_digests_find_it(bundle: Bundle) -> None:
    file = bundle.checkpoint / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    Bundle.open(bundle.folder)
    with pytest.raises(BundleError, match=r"model\.safetensors does not match its digest"):
        Bundle.open(bundle.folder, verify="digests")


def test_a_shorter_file_is_refused_with_both_sizes(bundle: Bundle) -> None:
    file = bundle.checkpoint / "model.safetensors"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(BundleError, match=rf"has {size - 7} bytes, the manifest says {size}"):
        Bundle.open(bundle.folder)


def test_a_missing_file_is_refused(bundle: Bundle) -> None:
    (bundle.folder / "rehearsal.jsonl").unlink()
    with pytest.raises(BundleError, match=r"rehearsal\.jsonl is missing"):
        Bundle.open(bundle.folder)


def test_an_extra_file_is_refused_wherever_it_hides(bundle: Bundle) -> None:
    (bundle.checkpoint / "deep").mkdir()
    (bundle.checkpoint / "deep" / "extra.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BundleError, match=r"checkpoint/deep/extra\.json .* is not named"):
        Bundle.open(bundle.folder)


@pytest.mark.skipif(os.name != "posix", reason="making a link needs rights on Windows")
@pytest.mark.parametrize("to_folder", [False, True])
def test_a_link_is_refused_even_when_it_points_to_the_same_bytes(
    bundle: Bundle, tmp_path: Path, to_folder: bool
) -> None:
    linked = bundle.checkpoint if to_folder else bundle.folder / "probes.jsonl"
    moved = tmp_path / "elsewhere"
    linked.rename(moved)
    linked.symlink_to(moved)
    with pytest.raises(BundleError, match="is a link or a special file"):
        Bundle.open(bundle.folder)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such thing")
def test_a_linked_manifest_is_no_manifest(bundle: Bundle, tmp_path: Path) -> None:
    moved = tmp_path / "manifest.json"
    (bundle.folder / "manifest.json").rename(moved)
    (bundle.folder / "manifest.json").symlink_to(moved)
    with pytest.raises(BundleError, match="is not a bundle"):
        Bundle.open(bundle.folder)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such thing")
def test_a_pipe_in_the_folder_is_refused_and_not_read(bundle: Bundle) -> None:
    os.mkfifo(bundle.folder / "pipe.json")
    with pytest.raises(BundleError, match=r"pipe\.json .* special file"):
        Bundle.open(bundle.folder)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".py", ".so", ""])
def test_a_file_that_could_hold_code_is_refused_when_written_and_when_named(bundle: Bundle, suffix: str) -> None:
    (bundle.folder / f"weights{suffix}").write_bytes(b"x")
    with pytest.raises(BundleError, match="of a kind that a bundle never holds"):
        write_manifest(bundle.folder, name="n", version="2", base_id="b", licence="l", origin="o")
    record = {"sha256": hashlib.sha256(b"x").hexdigest(), "bytes": 1}
    edit_manifest(bundle, lambda fields: fields["files"].update({f"weights{suffix}": record}))
    with pytest.raises(BundleError, match="of a kind that a bundle never holds"):
        Bundle.open(bundle.folder)


def test_raw_weights_are_allowed_inside_a_compiled_model_only(bundle: Bundle) -> None:
    inside = bundle.folder / "student.mlpackage" / "Data" / "weights"
    inside.mkdir(parents=True)
    (inside / "weight.bin").write_bytes(b"x")
    again = write_manifest(bundle.folder, name="n", version="2", base_id="b", licence="l", origin="o")
    assert "student.mlpackage/Data/weights/weight.bin" in again.manifest.files


@pytest.mark.parametrize(
    "name",
    [
        "../outside.json",
        "checkpoint/../../outside.json",
        "/etc/outside.json",
        "C:/outside.json",
        "checkpoint\\outside.json",
        "checkpoint//config.json",
        "./probes.jsonl",
        "checkpoint/./config.json",
        ".hidden.json",
        "a\0b.json",
        "",
        "manifest.json",
    ],
)
def test_a_name_that_leaves_the_folder_or_has_two_spellings_is_refused(bundle: Bundle, name: str) -> None:
    edit_manifest(bundle, lambda fields: fields["files"].update({name: {"sha256": DIGEST, "bytes": 0}}))
    with pytest.raises(BundleError, match="is not allowed in a bundle"):
        Bundle.open(bundle.folder)


@pytest.mark.parametrize("known", ["bundle/2", "bundle/0", "", None, 1])
def test_another_format_is_refused_by_name(bundle: Bundle, known: object) -> None:
    edit_manifest(bundle, lambda fields: fields.update(format=known))
    with pytest.raises(BundleError, match=r"this version reads 'bundle/1'"):
        Bundle.open(bundle.folder)


def test_a_base_digest_that_does_not_follow_from_the_files_is_refused(bundle: Bundle) -> None:
    edit_manifest(bundle, lambda fields: fields.update(base_digest=f"sha256:{DIGEST}"))
    with pytest.raises(BundleError, match="base digest does not follow"):
        Bundle.open(bundle.folder)


@pytest.mark.parametrize("path", BASE_FILES)
def test_a_manifest_without_a_part_of_the_checkpoint_is_refused(bundle: Bundle, path: str) -> None:
    edit_manifest(bundle, lambda fields: fields["files"].pop(path))
    with pytest.raises(BundleError, match="no complete checkpoint"):
        Bundle.open(bundle.folder)
    (bundle.folder / path).unlink()
    with pytest.raises(BundleError, match="needs a complete checkpoint"):
        write_manifest(bundle.folder, name="n", version="2", base_id="b", licence="l", origin="o")


@pytest.mark.parametrize(
    "record",
    [
        None,
        {},
        {"sha256": DIGEST},
        {"sha256": DIGEST, "bytes": -1},
        {"sha256": DIGEST, "bytes": 1.5},
        {"sha256": DIGEST, "bytes": True},
        {"sha256": DIGEST[:-1], "bytes": 1},
        {"sha256": DIGEST[:-1] + "G", "bytes": 1},
        {"sha256": DIGEST, "bytes": 1, "mode": "x"},
    ],
)
def test_a_malformed_entry_is_refused(bundle: Bundle, record: object) -> None:
    edit_manifest(bundle, lambda fields: fields["files"].update({"probes.jsonl": record}))
    with pytest.raises(BundleError, match=r"entry of probes\.jsonl is malformed"):
        Bundle.open(bundle.folder)


@pytest.mark.parametrize("key", ["name", "version", "base_id", "licence", "origin"])
@pytest.mark.parametrize("text", [None, "", 3])
def test_a_missing_or_empty_text_is_refused(bundle: Bundle, key: str, text: object) -> None:
    edit_manifest(bundle, lambda fields: fields.update({key: text}))
    with pytest.raises(BundleError, match=f"'{key}' must be a text"):
        Bundle.open(bundle.folder)


def test_files_of_another_type_are_refused(bundle: Bundle) -> None:
    edit_manifest(bundle, lambda fields: fields.update(files=[]))
    with pytest.raises(BundleError, match="'files' must be an object"):
        Bundle.open(bundle.folder)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"[" * 100_000])
def test_a_manifest_that_is_no_json_object_is_one_clear_error(bundle: Bundle, content: bytes) -> None:
    (bundle.folder / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError) as refusal:
        Bundle.open(bundle.folder)
    assert "\n" not in str(refusal.value)


def test_a_huge_manifest_is_refused_before_it_is_parsed(bundle: Bundle) -> None:
    (bundle.folder / "manifest.json").write_bytes(b"[" * (MAX_MANIFEST_BYTES + 1))
    with pytest.raises(BundleError, match=f"over {MAX_MANIFEST_BYTES} bytes"):
        Bundle.open(bundle.folder)


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_a_folder_that_is_no_bundle_says_so(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match="is not a bundle"):
        Bundle.open(tmp_path / name)


TEXT = st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable())
RECORD = st.builds(
    FileRecord, sha256=st.text(alphabet="0123456789abcdef", min_size=64, max_size=64), bytes=st.integers(0, 2**40)
)


@given(
    texts=st.fixed_dictionaries(dict.fromkeys(("name", "version", "base_id", "licence", "origin"), TEXT)),
    base=st.fixed_dictionaries(dict.fromkeys(BASE_FILES, RECORD)),
    others=st.dictionaries(st.from_regex(r"[a-z]{1,9}(/[a-z]{1,9})?\.(json|jsonl|md)", fullmatch=True), RECORD),
)
def test_writing_and_reading_a_manifest_is_identity(
    texts: dict[str, str], base: dict[str, FileRecord], others: dict[str, FileRecord]
) -> None:
    others.pop("manifest.json", None)
    manifest = Manifest(**texts, files={**others, **base})
    again = Manifest.parse(manifest.to_json())
    assert again == manifest
    assert again.to_json() == manifest.to_json()


def test_the_cache_folder_is_chosen_by_the_environment_else_by_the_platform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path / "chosen"))
    assert cache_folder() == tmp_path / "chosen"
    monkeypatch.delenv("LIMBECK_CACHE")
    assert cache_folder().name == "limbeck"


def test_without_a_base_the_error_names_the_command_that_makes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path))
    monkeypatch.setattr("sdk.bundle.SHIPPED", tmp_path / "none")
    with pytest.raises(NoBaseError, match="`limbeck build base`"):
        default_bundle()


def test_the_default_bundle_is_the_one_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = tiny_bundle(tmp_path)
    built.folder.rename(tmp_path / "base")
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path))
    monkeypatch.setattr("sdk.bundle.SHIPPED", tmp_path / "none")
    assert default_bundle().base_digest == built.base_digest


def test_a_shipped_student_comes_before_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tiny_bundle(tmp_path, seed=3)
    shipped.folder.rename(tmp_path / "base")
    monkeypatch.setattr("sdk.bundle.SHIPPED", tmp_path / "base")
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path / "cache"))
    tiny_bundle(tmp_path / "cache").folder.rename(tmp_path / "cache" / "base")
    assert default_bundle().base_digest == shipped.base_digest
