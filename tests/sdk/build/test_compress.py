"""A compressed student holds what was meant: on its grid, read back, and no silent failure."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sdk.build import compress as module
from sdk.build.compress import SCHEMES, compress, lost_change
from sdk.build.coreml.encoding import encodings_of
from sdk.build.coreml.student import Student
from sdk.errors import CompressionError
from tests.sdk.build.coreml.compiled import packed, plain


@pytest.fixture
def student(tmp_path: Path) -> Path:
    return plain(tmp_path / "student", layers=1)


def gaussian(rows: int = 64, columns: int = 64) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))


# Relative error of a Gaussian: int8 a row 0.01 (peak/127/sqrt 12); Lloyd-Max at 4 bits 0.0975 and 6 bits 0.027
# (Max 1960, table I: distortions 0.009501 and, for 64 levels, 0.0007); half of a Gaussian's energy below its median
# size is 0.0716 of the whole, so 0.268 for pruning.
@pytest.mark.parametrize(
    ("scheme", "expected"),
    [("int8", 0.007), ("palette4", 0.0975), ("palette6", 0.026), ("sparse", 0.268), ("sparse-int8", 0.268)],
)
def test_errors_are_those_of_theory_on_gaussian_weights(scheme: str, expected: float) -> None:
    weights = gaussian(256, 256)
    error = float((SCHEMES[scheme](weights).values() - weights).norm() / weights.norm())
    assert error == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("scheme", list(SCHEMES))
def test_every_scheme_is_written_and_read_back_by_torch(scheme: str, student: Path, tmp_path: Path) -> None:
    made = compress(student, tmp_path / "small", scheme)
    model = Student.open(tmp_path / "small").model
    codes = encodings_of(tmp_path / "small")
    for name, value in model.state_dict().items():
        if name in codes:
            assert torch.equal(codes[name].values(), value)
    assert codes.keys() == made.errors.keys()
    assert max(made.errors.values()) < 0.45
    with torch.no_grad():
        assert bool(model(torch.tensor([[5, 6, 7]])).logits.isfinite().all())


def test_bits_are_what_the_scheme_says() -> None:
    weights = gaussian(64, 64)
    assert 8 * SCHEMES["int4"](weights).bytes / weights.numel() == 4 + 20 / 32  # Codes; scale and zero of each block.
    assert SCHEMES["palette4"](weights).bytes == 64 * 64 // 2 + 2 * 16
    assert SCHEMES["sparse"](weights).bytes == pytest.approx(64 * 64 * (1 + 1 / 8), rel=0.03)


def test_grouped_palettes_are_nearer_than_one_for_all() -> None:
    weights = gaussian() * torch.logspace(-2, 0, 64)[:, None]
    off = {name: float((SCHEMES[name](weights).values() - weights).norm()) for name in ("palette4", "palette4-grouped")}
    assert off["palette4-grouped"] < off["palette4"]


def test_a_rewritten_grid_is_refused(student: Path, tmp_path: Path) -> None:
    compress(student, tmp_path / "once", "int8")
    with pytest.raises(CompressionError, match="stands on a grid already"):
        compress(tmp_path / "once", tmp_path / "twice", "palette4")
    with pytest.raises(CompressionError, match="stands on a grid already"):
        compress(packed(tmp_path / "packed", layers=1), tmp_path / "twice", "palette4")
    assert not (tmp_path / "twice").exists()


def changed(student: Path, out: Path, name: str, value: Tensor) -> Path:
    out.mkdir()
    for file in (file for file in student.iterdir() if file.name != "encoding.safetensors"):
        (out / file.name).write_bytes(file.read_bytes())
    save_file(load_file(out / "model.safetensors") | {name: value}, out / "model.safetensors")
    return out


NAME = "model.layers.0.mlp.up_proj.weight"


def test_a_small_change_that_snaps_back_is_refused_and_a_large_one_is_not(student: Path, tmp_path: Path) -> None:
    compress(student, tmp_path / "old", "int4")
    values = load_file(tmp_path / "old" / "model.safetensors")[NAME].float()
    step = torch.randn(values.shape, generator=torch.Generator().manual_seed(1))
    small = changed(tmp_path / "old", tmp_path / "healed", NAME, values + 1e-4 * step)
    with pytest.raises(CompressionError, match="snaps back to the grid it came from"):
        compress(small, tmp_path / "x", "int4", healed_from=tmp_path / "old")
    assert not (tmp_path / "x").exists()
    large = changed(tmp_path / "old", tmp_path / "new", NAME, 0.15 * step)
    compress(large, tmp_path / "y", "int4", healed_from=tmp_path / "old")


def test_lost_change_is_the_share_along_the_way_back() -> None:
    old, healed = torch.zeros(4), torch.ones(4)
    assert lost_change(old, healed, healed) == 0
    assert lost_change(old, healed, old) == 1
    assert lost_change(old, healed, torch.full((4,), 0.25)) == pytest.approx(0.75)


def test_pruning_that_prunes_nothing_is_caught(student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_threshold", lambda sizes: 0.0)  # What a NaN percentile amounts to elsewhere.
    with pytest.raises(CompressionError, match=r"pruning was to zero 50% and zeroes 0\.0%"):
        compress(student, tmp_path / "x", "sparse")


@pytest.mark.parametrize(("value", "words"), [(float("nan"), "not finite"), (1e6, "not finite in float16")])
def test_numbers_that_float16_cannot_hold_are_refused(student: Path, tmp_path: Path, value: float, words: str) -> None:
    weights = load_file(student / "model.safetensors")[NAME]
    weights[0, 0] = value
    bad = changed(student, tmp_path / "bad", NAME, weights)
    with pytest.raises(CompressionError, match=words):
        compress(bad, tmp_path / "x", "palette4")


def test_a_row_of_tiny_weights_does_not_become_nan() -> None:
    weights = gaussian() * 1e-12
    assert bool(SCHEMES["int8"](weights).values().isfinite().all())


def test_what_reads_back_otherwise_is_caught(student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = load_file

    def flipped(file: Path) -> dict[str, Tensor]:
        found = real(file)
        found[NAME] = found[NAME].clone()
        found[NAME][0, 0] += 1
        return found

    monkeypatch.setattr(module, "load_file", flipped)
    with pytest.raises(CompressionError, match="reads back otherwise"):
        compress(student, tmp_path / "x", "int8")
    assert not (tmp_path / "x").exists()


def test_an_unknown_scheme_lists_those_there_are(student: Path, tmp_path: Path) -> None:
    with pytest.raises(CompressionError, match="choose one of int8, int4"):
        compress(student, tmp_path / "x", "int3")


# --- the scales of the version before --------------------------------------------------------------------------------


def nudged(student: Path, out: Path, step: float) -> Path:
    """Every weight of a student moved a little, as by a light fine-tune."""
    chance = torch.Generator().manual_seed(2)
    weights = load_file(student / "model.safetensors")
    moved = {name: value + step * torch.randn(value.shape, generator=chance) for name, value in weights.items()}
    out.mkdir()
    for file in student.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    save_file(moved, out / "model.safetensors")
    return out


def same_share(one: Tensor | None, other: Tensor | None) -> float:
    assert one is not None
    assert other is not None
    return float((one == other).float().mean())


@pytest.mark.parametrize("scheme", ["int4", "int8"])
def test_the_scales_of_the_version_before_are_kept_and_few_codes_change(
    student: Path, tmp_path: Path, scheme: str
) -> None:
    compress(student, tmp_path / "old", scheme)
    new = nudged(student, tmp_path / "new", 1e-5)
    fresh = compress(new, tmp_path / "fresh", scheme)
    kept = compress(new, tmp_path / "kept", scheme, grid_of=tmp_path / "old")
    assert fresh.kept_scales is None
    assert kept.kept_scales is not None
    assert kept.kept_scales > 0.9
    old, one, other = (encodings_of(tmp_path / name)[NAME] for name in ("old", "fresh", "kept"))
    assert (other.codes != old.codes).float().mean() < 0.01
    assert same_share(other.scales, old.scales) >= same_share(one.scales, old.scales)
    for name in kept.errors:
        assert kept.errors[name] <= fresh.errors[name] * module.KEPT_ERROR**0.5 + 1e-9


def test_a_scale_that_no_longer_suits_is_not_kept(student: Path, tmp_path: Path) -> None:
    compress(student, tmp_path / "old", "int4")
    weights = load_file(student / "model.safetensors")
    new = changed(student, tmp_path / "new", NAME, 3 * weights[NAME])
    fresh = compress(new, tmp_path / "fresh", "int4")
    kept = compress(new, tmp_path / "kept", "int4", grid_of=tmp_path / "old")
    assert kept.errors[NAME] <= fresh.errors[NAME] * module.KEPT_ERROR**0.5
    old, other = (encodings_of(tmp_path / name)[NAME] for name in ("old", "kept"))
    assert same_share(other.scales, old.scales) < 0.2


def test_without_the_look_at_the_error_old_scales_would_spoil_a_matrix(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant: kept whatever it costs."""
    compress(student, tmp_path / "old", "int4")
    new = changed(student, tmp_path / "new", NAME, 3 * load_file(student / "model.safetensors")[NAME])
    fresh = compress(new, tmp_path / "fresh", "int4")
    monkeypatch.setattr(module, "KEPT_ERROR", float("inf"))
    assert compress(new, tmp_path / "kept", "int4", grid_of=tmp_path / "old").errors[NAME] > 2 * fresh.errors[NAME]


def test_a_version_without_scales_or_of_another_form_changes_nothing(student: Path, tmp_path: Path) -> None:
    with pytest.raises(CompressionError, match="has no scales that could be kept"):
        compress(student, tmp_path / "out", "int4", grid_of=student)
    assert not (tmp_path / "out").exists()
    compress(student, tmp_path / "int8", "int8")
    mixed = compress(student, tmp_path / "int4", "int4", grid_of=tmp_path / "int8")
    assert mixed.errors == compress(student, tmp_path / "again", "int4").errors
