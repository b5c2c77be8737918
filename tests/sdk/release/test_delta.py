"""Deltas of real bundles: lossless for every pattern, small, bounded, refused when damaged or for another pair."""

import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sdk import codings, differences
from sdk import patch as patches
from sdk.bundle import Bundle, Manifest, write_manifest
from sdk.codings import CODINGS, restored, stored
from sdk.differences import changed_back, changes
from sdk.errors import PatchError
from sdk.patch import MAGIC, MAGICS, rebuild
from sdk.release import runs
from sdk.release.delta import make_delta

GOLDEN = Path(__file__).parents[2] / "golden"

ALL_16 = np.arange(65_536, dtype="<u2")
"""Every pattern of 16 bits: all floats of that width, all NaN payloads, both zeros."""

Tensors = dict[str, NDArray[np.generic]]


def bundle_of(folder: Path, tensors: Tensors, *, version: str, extra: dict[str, bytes] | None = None) -> Bundle:
    """A bundle whose model is only tensors: what a delta sees of one."""
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(safetensors_of(tensors))
    for name, content in {"checkpoint/config.json": b"{}", "checkpoint/tokenizer.json": b"{}", **(extra or {})}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return write_manifest(folder, name="t", version=version, base_id="t", licence="Apache-2.0", origin="numbers")


def safetensors_of(tensors: Tensors) -> bytes:
    """The file by hand, so that types that numpy has not (BF16) can stand in it."""
    kinds = {"<u2": "BF16", "<f2": "F16", "<f4": "F32", "|u1": "U8", "|i1": "I8"}
    head, body = dict[str, object](), b""
    for name, values in tensors.items():
        content = np.ascontiguousarray(values).tobytes()
        offsets = [len(body), len(body) + len(content)]
        head[name] = {"dtype": kinds[values.dtype.str], "shape": list(values.shape), "data_offsets": offsets}
        body += content
    packed = json.dumps(head).encode()
    return len(packed).to_bytes(8, "little") + packed + body


def rebuilt(patch: Path, old: Bundle, new: Bundle) -> dict[str, bytes]:
    return {path: b"".join(pieces) for path, pieces in rebuild(patch, old, new.manifest)}


def contents(bundle: Bundle) -> dict[str, bytes]:
    return {path: (bundle.folder / path).read_bytes() for path in bundle.manifest.files}


@pytest.mark.parametrize("shift", [0, 1, 0x8000, 0x7C00, 12_345])
def test_every_pattern_of_16_bits_comes_back_from_every_other(shift: int) -> None:
    old, new = np.roll(ALL_16, shift).view(np.uint8), ALL_16.view(np.uint8)
    assert changed_back(old, changes(old, new, "16"), "16") == new.tobytes()


def test_a_map_that_merges_both_zeros_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault of an earlier prototype: ordered integers where +0 and −0 are one."""

    def merging(bits: NDArray[np.uint16]) -> NDArray[np.uint16]:
        top = bits.dtype.type(1 << (bits.dtype.itemsize * 8 - 1))
        return np.where(bits & top, top - (bits ^ top), bits | top)

    monkeypatch.setattr(differences, "_ordered", merging)
    old, new = np.roll(ALL_16, 1).view(np.uint8), ALL_16.view(np.uint8)
    assert changed_back(old, changes(old, new, "16"), "16") != new.tobytes()


@pytest.mark.parametrize("how", ["4", "8", "16", "32"])
@settings(max_examples=60, deadline=None)
@given(
    pair=st.integers(1, 64).flatmap(
        lambda n: st.tuples(st.binary(min_size=4 * n, max_size=4 * n), st.binary(min_size=4 * n, max_size=4 * n))
    )
)
def test_the_change_of_any_bytes_comes_back(how: str, pair: tuple[bytes, bytes]) -> None:
    old, new = (np.frombuffer(part, np.uint8) for part in pair)
    assert changed_back(old, changes(old, new, how), how) == pair[1]


class Streams:
    """What `stored` made, taken as a device takes it; never more than was asked for."""

    def __init__(self, pieces: dict[str, bytes]) -> None:
        self.left = dict(pieces)

    def take(self, name: str, size: int) -> bytes:
        piece = self.left.get(name, b"")[:size]
        self.left[name] = self.left.get(name, b"")[size:]
        assert len(piece) == size
        return piece


def as_stored(old: NDArray[np.uint8], new: NDArray[np.uint8], how: str, coding: str) -> bytes:
    streams = Streams(stored(old, new, how, coding))
    made = restored(old, how, coding, streams.take)
    assert not any(streams.left.values()), "something was stored that nobody reads"
    return made


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("how", ["4", "8", "16", "32"])
@settings(max_examples=40, deadline=None)
@given(
    old=st.binary(min_size=4, max_size=400),
    changed=st.dictionaries(st.integers(0, 399), st.integers(0, 255), max_size=40),
)
def test_a_change_here_and_there_comes_back_from_every_coding(
    how: str, coding: str, old: bytes, changed: dict[int, int]
) -> None:
    was = np.frombuffer(old[: len(old) // 4 * 4], np.uint8)
    now = was.copy()
    for place, value in changed.items():
        now[place % len(now)] = value
    assert as_stored(was, now, how, coding) == now.tobytes()


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("shift", [0, 1, 0x8000, 12_345])
def test_every_pattern_of_16_bits_comes_back_from_every_coding(coding: str, shift: int) -> None:
    old, new = np.roll(ALL_16, shift).view(np.uint8), ALL_16.view(np.uint8)
    assert as_stored(old, new, "16", coding) == new.tobytes()


def test_blocks_far_apart_and_at_the_very_end_come_back() -> None:
    """Gaps of 254, 255, 256 and 510 blocks: where one byte is just enough, and just not."""
    blocks = np.cumsum([1, 255, 256, 257, 511, 5])
    old = np.zeros(int(blocks[-1] + 1) * 32 - 5, np.uint8)
    new = old.copy()
    new[blocks * 32] = 7
    new[-1] = 9
    assert as_stored(old, new, "8", "blocks") == new.tobytes()
    mutant = dict(stored(old, new, "8", "blocks"))
    mutant["gaps"] = bytes([0]) + mutant["gaps"][1:]
    assert restored(old, "8", "blocks", Streams(mutant).take) != new.tobytes()


@pytest.mark.parametrize(
    ("gaps", "words"), [([2], "beyond the end"), ([255, 0], "beyond the end"), ([0] * 3, "more bl")]
)
def test_blocks_beyond_the_chunk_are_refused(gaps: list[int], words: str) -> None:
    streams = {"main": len(gaps).to_bytes(4, "little"), "gaps": bytes(gaps), "marks": bytes(99), "low": bytes(99)}
    with pytest.raises(PatchError, match=words):
        restored(np.zeros(64, np.uint8), "8", "blocks", Streams(streams).take)


def test_a_small_change_of_a_float_is_a_small_number_also_across_zero() -> None:
    old, new = np.array([1.0, -0.0, -2.0], "<f2"), np.array([1.0, 0.0, -2.0], "<f2")
    new[0] = np.nextafter(new[0], np.float16(2))
    assert changes(old.view(np.uint8), new.view(np.uint8), "16") == bytes([2, 2, 0, 0, 0, 0])


def packed_student(seed: int, *, moved: float) -> Tensors:
    """A checkpoint in the small form of sdk/packed.py, with a share of its codes and scales moved by one step."""
    fixed, chance = np.random.default_rng(0), np.random.default_rng(seed)
    codes = fixed.integers(0, 16, (64, 512)).astype(np.uint8)
    codes = np.where(chance.random(codes.shape) < moved, np.clip(codes + 1, 0, 15), codes).astype(np.uint8)
    scales = (fixed.integers(65, 128, (64, 16)) / 4096).astype("<f2")
    rows = fixed.integers(-127, 127, (128, 64)).astype(np.int8)
    rows[chance.random(rows.shape) < moved] += 1
    return {
        "a.codes": codes[:, ::2] | codes[:, 1::2] << 4,
        "a.scales": scales * np.float16(1 + moved),
        "embed.codes": rows,
        "norm": fixed.normal(size=64).astype("<f2"),
        "b": ALL_16.reshape(256, 256) if moved else np.roll(ALL_16, 1).reshape(256, 256),
        "c": (fixed.normal(size=(32, 32)) + moved * chance.normal(size=(32, 32))).astype("<f4"),
    }


def test_a_packed_student_comes_back_bit_for_bit_and_small(tmp_path: Path) -> None:
    old = bundle_of(tmp_path / "old", packed_student(1, moved=0.0), version="1", extra={"probes.jsonl": b"{}\n" * 900})
    new = bundle_of(tmp_path / "new", packed_student(2, moved=0.03), version="2", extra={"probes.jsonl": b"{}\n" * 901})
    report = make_delta(old, new, tmp_path / "p")
    assert rebuilt(tmp_path / "p", old, new) == contents(new)
    assert report.bytes == (tmp_path / "p").stat().st_size
    whole = len(zstandard.ZstdCompressor(level=19).compress((new.checkpoint / "model.safetensors").read_bytes()))
    assert report.bytes < whole / 3
    assert (report.from_digest, report.to_digest) == (old.manifest.digest, new.manifest.digest)


@pytest.mark.parametrize("name", ["patch-v1", "patch-v2", "patch-v3"])
def test_a_patch_of_every_released_format_is_read_for_ever(name: str) -> None:
    """Made by the version that wrote the format; the manifest says what must come out."""
    golden = GOLDEN / name
    assert (golden / "patch").read_bytes().startswith(MAGICS[name.replace("-v", "/")])
    old, new = Bundle.open(golden / "old", verify="digests"), Manifest.parse((golden / "new.json").read_bytes())
    made = {path: b"".join(pieces) for path, pieces in rebuild(golden / "patch", old, new)}
    assert {path: len(content) for path, content in made.items()} == {
        path: record.bytes for path, record in new.files.items()
    }


def test_the_smallest_of_all_codings_is_taken(
    pair: tuple[Bundle, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = make_delta(*pair, tmp_path / "all")
    assert (tmp_path / "all").read_bytes().startswith(MAGICS["patch/3"])
    for coding in CODINGS:
        monkeypatch.setattr(runs, "EVERY", (coding,))
        monkeypatch.setattr(runs, "CODINGS_OF", {})
        assert both.bytes <= make_delta(*pair, tmp_path / "one").bytes


def test_a_patch_without_anything_new_is_one_that_older_devices_read(tmp_path: Path) -> None:
    same = {"w": np.arange(64, dtype="<f2")}
    old = bundle_of(tmp_path / "old", same, version="1", extra={"card.md": b"A card. " * 99})
    new = bundle_of(tmp_path / "new", same, version="2", extra={"card.md": b"A card. " * 98})
    make_delta(old, new, tmp_path / "p")
    assert (tmp_path / "p").read_bytes().startswith(MAGICS["patch/1"])
    assert rebuilt(tmp_path / "p", old, new) == contents(new)


def test_files_that_moved_came_or_went_and_tensors_of_other_shapes(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    big = rng.normal(size=(300, 300)).astype("<f2")
    card = b"A card. " * 400
    raw = rng.integers(0, 255, 5 * 1024 * 1024).astype(np.uint8)
    touched = raw.copy()
    touched[::1000] += 1
    program = "ane.mlpackage/weight.bin"
    old = bundle_of(
        tmp_path / "old",
        {"big": big, "gone": big[:2]},
        version="1",
        extra={"card.md": card, "old.txt": b"away", program: raw.tobytes()},
    )
    new = bundle_of(
        tmp_path / "new",
        {"big": big[:299], "come": big[:3], "empty": big[:0]},
        version="2",
        extra={
            "notes/card.md": card,
            "card.md": card[:-20] + b"!",
            "new.txt": b"here",
            "void.txt": b"",
            program: touched.tobytes(),
        },
    )
    make_delta(old, new, tmp_path / "p", level=3)
    assert rebuilt(tmp_path / "p", old, new) == contents(new)
    make_delta(new, old, tmp_path / "back", level=3)
    assert rebuilt(tmp_path / "back", new, old) == contents(old)


def test_the_same_bundles_give_the_same_bytes(pair: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_delta(*pair, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Bundle, Bundle]:
    return (
        bundle_of(tmp_path / "old", packed_student(1, moved=0.0), version="1"),
        bundle_of(tmp_path / "new", packed_student(2, moved=0.03), version="2"),
    )


@pytest.fixture
def patch(pair: tuple[Bundle, Bundle], tmp_path: Path) -> Path:
    make_delta(*pair, tmp_path / "p")
    return tmp_path / "p"


def test_a_patch_for_another_bundle_is_refused_by_name(
    pair: tuple[Bundle, Bundle], patch: Path, tmp_path: Path
) -> None:
    other = bundle_of(tmp_path / "other", packed_student(5, moved=0.5), version="1")
    with pytest.raises(PatchError, match="the patch leads from"):
        rebuilt(patch, other, pair[1])


def test_a_base_that_rotted_on_the_disk_is_seen_in_the_result(pair: tuple[Bundle, Bundle], patch: Path) -> None:
    weights = pair[0].checkpoint / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(PatchError, match="another content than was signed"):
        rebuilt(patch, *pair)


def test_every_damage_to_a_patch_is_one_refusal(pair: tuple[Bundle, Bundle], patch: Path, tmp_path: Path) -> None:
    whole, damaged = patch.read_bytes(), tmp_path / "damaged"
    rng = np.random.default_rng(7)
    cut = [whole[: len(whole) * share // 20] for share in range(20)]
    flipped = [bytes(flip(bytearray(whole), int(at))) for at in rng.integers(0, len(whole), 60)]
    for content in [*cut, *flipped]:
        damaged.write_bytes(content)
        assert refusal(damaged, *pair).count("\n") == 0


def refusal(patch: Path, old: Bundle, new: Bundle) -> str:
    """The one line with which a damaged patch is refused; empty if the damage changed nothing that was made."""
    try:
        assert rebuilt(patch, old, new) == contents(new)
    except PatchError as refused:
        return str(refused)
    return ""


def flip(content: bytearray, at: int) -> bytearray:
    content[at] ^= 1 << (at % 8)
    return content


def forged(pair: tuple[Bundle, Bundle], change: Callable[[list[patches.Entry]], None], body: bytes) -> bytes:
    """A patch whose every file is `whole`, changed, then packed by the real packer."""
    entries = [patches.Entry(path=path, how="whole") for path in sorted(pair[1].manifest.files)]
    change(entries)
    return patches.packed_index(entries, old=pair[0].manifest, new=pair[1].manifest) + body


def test_a_bomb_is_refused_before_it_is_unpacked(pair: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    """A gigabyte of zeros in 30 KB, as a file and as the index: memory stays small and one line comes."""
    engine = zstandard.ZstdCompressor(level=3).compressobj()
    bomb = b"".join(engine.compress(bytes(1 << 20)) for _ in range(1024)) + engine.flush()
    file = tmp_path / "bomb"

    def first(entries: list[patches.Entry]) -> None:
        entries[0] = patches.Entry(path=entries[0].path, how="whole", packed=(len(bomb),))

    for content in (forged(pair, first, bomb), MAGIC + len(bomb).to_bytes(4, "little") + bomb):
        file.write_bytes(content)
        tracemalloc.start()
        with pytest.raises(PatchError, match=r"holds more than its file needs|larger than"):
            rebuilt(file, *pair)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4 << 20


@pytest.mark.parametrize(("window", "stream"), [(27, None), (23, "small"), (23, "gaps")])
def test_a_frame_that_wants_a_giant_window_is_refused(
    pair: tuple[Bundle, Bundle], tmp_path: Path, window: int, stream: str | None
) -> None:
    """Of the first file of all; or of a stream beside `main`, whose windows are open at once."""
    wide = zstandard.ZstdCompressionParameters.from_level(3, window_log=window)
    engine = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    frame = engine.compress(bytes(2)) + engine.flush()

    def first(entries: list[patches.Entry]) -> None:
        if stream is None:
            entries[0] = patches.Entry(path=entries[0].path, how="whole", packed=(len(frame),))
            return
        sizes = tuple(len(frame) if name == stream else 0 for name in codings.STREAMS)
        part = patches.Part(how="8", bytes=2, coding="4" if stream == "small" else "blocks")
        entries[0] = patches.Entry(path=entries[0].path, how="parts", old=entries[0].path, packed=sizes, parts=(part,))

    (tmp_path / "wide").write_bytes(forged(pair, first, frame))
    with pytest.raises(PatchError, match=r"cannot be unpacked|ends before"):
        rebuilt(tmp_path / "wide", *pair)


def test_a_bomb_in_a_stream_beside_the_main_one_is_refused(pair: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    bomb = zstandard.ZstdCompressor(level=3).compress(bytes(1 << 20))

    def first(entries: list[patches.Entry]) -> None:
        sizes = tuple(len(bomb) if name == "small" else 0 for name in codings.STREAMS)
        part = patches.Part(how="8", bytes=2, coding="4")
        entries[0] = patches.Entry(path=entries[0].path, how="parts", old=entries[0].path, packed=sizes, parts=(part,))

    (tmp_path / "bomb").write_bytes(forged(pair, first, bomb))
    with pytest.raises(PatchError, match="holds more than its file needs"):
        rebuilt(tmp_path / "bomb", *pair)


@pytest.mark.parametrize(
    "entry",
    [
        {"how": "same", "old": "../../etc/passwd"},
        {"how": "same", "old": "checkpoint/model.safetensors"},
        {"how": "patch", "old": "/etc/passwd", "packed": (1,)},
        {"how": "pickle"},
        {"how": "parts", "old": "checkpoint/config.json", "parts": (patches.Part(how="same", bytes=2, at=1),)},
        {"how": "parts", "old": "checkpoint/config.json", "parts": (patches.Part(how="64", bytes=2),)},
        {"how": "parts", "old": "checkpoint/config.json", "parts": (patches.Part(how="8", bytes=2, coding="9"),)},
        {"how": "parts", "old": "checkpoint/config.json", "parts": (patches.Part(how="same", bytes=2, coding="2"),)},
        {"how": "parts", "old": "checkpoint/config.json", "parts": (patches.Part(how="whole", bytes=2, coding="2"),)},
        {"how": "parts", "old": "checkpoint/model.safetensors", "parts": (patches.Part(how="16", bytes=2, at=10**12),)},
    ],
)
def test_an_entry_that_reaches_outside_the_two_bundles_is_refused(
    pair: tuple[Bundle, Bundle], tmp_path: Path, entry: dict[str, object]
) -> None:
    def first(entries: list[patches.Entry]) -> None:
        entries[0] = patches.Entry(path=entries[0].path, **entry)  # type: ignore[arg-type]

    (tmp_path / "forged").write_bytes(forged(pair, first, b""))
    with pytest.raises(PatchError, match="does not fit the two bundles"):
        rebuilt(tmp_path / "forged", *pair)


def test_a_lossy_engine_is_caught_before_anything_is_written(
    pair: tuple[Bundle, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The seeded mutant of the proof: a decoder that is off by one in one nibble."""
    true = restored
    monkeypatch.setattr(patches, "restored", lambda *given: bytes([true(*given)[0] ^ 1]) + true(*given)[1:])
    with pytest.raises(PatchError):
        make_delta(*pair, tmp_path / "p")
    assert list(tmp_path.glob("*p")) == []


def test_memory_of_rebuilding_does_not_grow_with_the_tensor(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    one = rng.normal(size=(4096, 1024)).astype("<f2")  # 8.4 MB
    other = one.copy()
    other[::7] = np.nextafter(other[::7], np.float16(9))
    old = bundle_of(tmp_path / "old", {"w": one}, version="1")
    new = bundle_of(tmp_path / "new", {"w": other}, version="2")
    make_delta(old, new, tmp_path / "p", level=1)
    tracemalloc.start()
    for _, pieces in rebuild(tmp_path / "p", old, new.manifest):
        for _ in pieces:
            pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < one.nbytes / 2
    shutil.rmtree(tmp_path / "old")
