"""Updates that a merged adapter made: sent as factors, bit for bit, small, and refused where they do not fit."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard

from sdk.bundle import Bundle
from sdk.errors import PatchError
from sdk.low_rank import Factors
from sdk.patch import MAGICS
from sdk.release import runs
from sdk.release.delta import make_delta
from sdk.release.factored import factored
from tests.sdk.release.test_delta import bundle_of, contents, rebuilt

SHAPE, RANK = (384, 256), 4


def matrices(*, size: float = 0.01, rank: int = RANK) -> tuple[np.ndarray, np.ndarray]:
    """A float16 matrix before and after an adapter of that rank was merged."""
    chance = np.random.default_rng(0)
    old = chance.normal(size=SHAPE).astype("<f2")
    change = chance.normal(size=(SHAPE[0], rank)) @ chance.normal(size=(rank, SHAPE[1]))
    return old, (old + size * change).astype("<f2")


def pair(folder: Path) -> tuple[Bundle, Bundle]:
    old, new = matrices()
    kept = np.arange(512, dtype="<f2").reshape(16, 32)
    return (
        bundle_of(folder / "old", {"a": kept, "w": old, "z": kept}, version="1"),
        bundle_of(folder / "new", {"a": kept, "w": new, "z": kept + np.float16(1)}, version="2"),
    )


def test_a_merged_adapter_is_found_and_leads_almost_everywhere_to_the_same_bits() -> None:
    old, new = matrices()
    found = factored(old, new)
    assert found is not None
    assert found.left.shape == (SHAPE[0], RANK)
    led = found.after(old.view(np.uint8).ravel(), 0).view("<f2").reshape(SHAPE)
    assert (led == new).mean() > 0.8
    assert (old == new).mean() < 0.2
    later = found.after(old[100:].view(np.uint8).ravel(), 100).view("<f2")
    assert np.array_equal(later, led[100:].ravel()), "rows may be asked for in any pieces"


def test_a_change_without_a_rank_is_none() -> None:
    old, new = matrices(rank=256, size=1e-3)
    assert factored(old, new) is None
    assert factored(old, old) is None
    spoiled = new.copy()
    spoiled[3, 3] = np.nan
    assert factored(old, spoiled) is None


def test_factors_come_back_and_every_old_pattern_leads_somewhere_defined() -> None:
    every = np.arange(65_536, dtype="<u2").view("<f2").reshape(256, 256)
    chance = np.random.default_rng(1)
    left, right = (chance.integers(-32_768, 32_767, shape).astype(np.int16) for shape in ((256, 64), (64, 256)))
    made = Factors(left=left, right=right, shift=12)
    again = Factors.from_bytes(made.to_bytes(), 256, 256, 64, 12)
    assert np.array_equal(again.left, left)
    assert np.array_equal(again.right, right)
    led = made.after(every.view(np.uint8).ravel(), 0).view("<u2").reshape(256, 256)
    strange = ~np.isfinite(every)
    assert np.array_equal(led[strange], every.view("<u2")[strange])


def test_the_product_of_the_factors_is_exact_in_whole_numbers() -> None:
    """So that no order of summing, and so no machine, can come to another bit."""
    left, right = np.full((2, 64), -32_768, np.int16), np.full((64, 3), 32_767, np.int16)
    exact = left.astype(object) @ right.astype(object)
    assert np.array_equal((left.astype(np.float64) @ right.astype(np.float64)).astype(object), exact)


def test_a_merged_update_comes_back_bit_for_bit_and_much_smaller(tmp_path: Path) -> None:
    old, new = pair(tmp_path)
    report = make_delta(old, new, tmp_path / "p")
    assert (tmp_path / "p").read_bytes().startswith(MAGICS["patch/3"])
    assert rebuilt(tmp_path / "p", old, new) == contents(new)
    with pytest.MonkeyPatch.context() as without:
        without.setattr(runs, "factored", lambda old, new: None)  # The mutant.
        plain = make_delta(old, new, tmp_path / "plain")
    assert rebuilt(tmp_path / "plain", old, new) == contents(new)
    assert report.bytes * 3 < plain.bytes


def changed(file: Path, change: Callable[[list[object]], None]) -> Path:
    """The patch with another entry for the matrix in its index."""
    content = file.read_bytes()
    head = len(MAGICS["patch/3"])
    size = int.from_bytes(content[head : head + 4], "little")
    fields = json.loads(zstandard.ZstdDecompressor().decompress(content[head + 4 : head + 4 + size]))
    factored = [part for row in fields["files"] for part in row.get("parts", ()) if part[0] == "low-rank"]
    change(max(factored, key=lambda part: int(str(part[1]))))
    packed = zstandard.ZstdCompressor().compress(json.dumps(fields).encode())
    out = file.with_name("changed")
    out.write_bytes(content[:head] + len(packed).to_bytes(4, "little") + packed + content[head + 4 + size :])
    return out


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (4, 65, "does not fit"),  # More factors than a device holds.
        (4, 5, "come out|ends before|another content|more than"),
        (4, -1, "damaged"),
        (5, 0, "does not fit|damaged"),
        (5, 7, "does not fit"),
        (5, 2**40, "does not fit"),
        (6, 65, "does not fit"),
        (6, 1, "another content"),
        (6, "x", "damaged"),
        (3, "9", "does not fit"),
        (0, "16", "does not fit"),  # Another way may not bring factors along.
    ],
)
def test_factors_that_do_not_fit_are_refused(tmp_path: Path, at: int, value: object, words: str) -> None:
    old, new = pair(tmp_path)
    make_delta(old, new, tmp_path / "p")

    def change(part: list[object]) -> None:
        part[at] = value

    wrong = changed(tmp_path / "p", change)
    with pytest.raises(PatchError, match=words):
        rebuilt(wrong, old, new)
