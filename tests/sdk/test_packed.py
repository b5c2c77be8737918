"""The packed checkpoint: the same values in every precision, and refusals."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sdk import packed
from sdk.build.grid import Grid, compensated, packed8
from sdk.errors import BundleError
from sdk.packed import BLOCK, load_weights, pack4, rounded_scales, unpack4, unpacked


def matrix(rows: int = 24, columns: int = 3 * BLOCK, *, seed: int = 0, size: float = 0.1) -> Tensor:
    """A random matrix, some of whose blocks have one sign only."""
    weights = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * size
    weights[0, :BLOCK] = weights[0, :BLOCK].abs() + size
    weights[1, :BLOCK] = 0.0
    return weights


def stored(weights: Tensor) -> dict[str, Tensor]:
    """A matrix at 4 bits as it stands in a file."""
    return {f"m.weight.{part}": value for part, value in Grid.fitted(weights).packed(weights).items()}


@pytest.mark.parametrize("size", [1e-3, 0.1, 30.0])
def test_four_and_eight_bit_values_are_the_same_in_half_precision(size: float) -> None:
    weights = matrix(size=size)
    for values in (Grid.fitted(weights).values(weights), packed8(weights)[1]):
        assert torch.equal(values.half().float(), values)


def test_scales_of_more_bits_would_round_a_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "SCALE_BITS", {4: 11, 8: 11})
    weights = matrix()
    values = Grid.fitted(weights).values(weights)
    assert not torch.equal(values.half().float(), values)


def test_what_is_packed_comes_back_bit_for_bit() -> None:
    weights = matrix()
    parts, eight = packed8(weights)
    tensors = stored(weights) | {f"e.weight.{part}": value for part, value in parts.items()}
    tensors["norm.weight"] = torch.ones(4).half()
    back = unpacked(tensors)
    assert torch.equal(back["m.weight"], Grid.fitted(weights).values(weights))
    assert torch.equal(back["e.weight"], eight)
    assert back.keys() == {"m.weight", "e.weight", "norm.weight"}
    assert {value.dtype for value in back.values()} == {torch.float32}


@pytest.mark.parametrize("columns", [1, 2, 7])
def test_nibbles_come_back_in_their_order(columns: int) -> None:
    codes = torch.randint(16, (5, columns), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    assert torch.equal(unpack4(pack4(codes), columns), codes)


def test_scales_keep_their_size_and_are_never_zero() -> None:
    scales = torch.tensor([0.0, 1e-9, 0.003, 0.7, 12.0])
    found = rounded_scales(scales, bits=4)
    assert bool((found > 0).all())
    assert torch.allclose(found[2:], scales[2:], rtol=2.0**-7)


def test_the_error_is_that_of_a_four_bit_grid() -> None:
    weights = matrix()
    values = Grid.fitted(weights).values(weights)
    step = (weights.amax() - weights.amin()) / 15
    assert float((values - weights).abs().max()) < float(step)
    assert float((values - weights).square().mean().sqrt()) < 0.1 * float(weights.std())


def test_compensation_keeps_outputs_closer_than_nearest_values() -> None:
    weights, random = matrix(), torch.Generator().manual_seed(3)
    inputs = torch.randn(400, weights.shape[1], generator=random) @ torch.randn(
        weights.shape[1], weights.shape[1], generator=random
    )
    grid, rounded = compensated(weights, inputs.t() @ inputs)
    assert torch.equal(grid.values(rounded), rounded)
    nearest = Grid.fitted(weights).values(weights)

    def error(found: Tensor) -> float:
        return float(((found - weights) @ inputs.t()).square().mean())

    assert error(rounded) < 0.7 * error(nearest)


def test_gradients_stop_where_the_range_ends() -> None:
    weights = matrix()
    grid = Grid.fitted(weights)
    assert bool(grid.seen(grid.values(weights))[1].all())
    assert not bool(grid.seen(weights * 10)[1].all())


@pytest.mark.parametrize(
    "damage",
    [
        lambda tensors: tensors.pop("m.weight.scales"),
        lambda tensors: tensors.update({"m.weight.scales": tensors["m.weight.scales"][:, 1:].contiguous()}),
        lambda tensors: tensors.update({"m.weight.scales": tensors["m.weight.scales"].float()}),
        lambda tensors: tensors.update({"m.weight.scales": tensors["m.weight.scales"] * float("nan")}),
        lambda tensors: tensors.update({"m.weight.zeros": tensors["m.weight.zeros"].float()}),
        lambda tensors: tensors.update({"m.weight.codes": tensors["m.weight.codes"][1:].contiguous()}),
        lambda tensors: tensors.pop("m.weight.zeros"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, damage: object) -> None:
    tensors = stored(matrix())
    damage(tensors)  # type: ignore[operator]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(BundleError, match=r"m\.weight has"):
        load_weights(tmp_path)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be read"):
        load_weights(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(BundleError, match="cannot be read"):
        load_weights(tmp_path)


def test_a_plain_checkpoint_stays_as_it_is(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2).half()}, tmp_path / "model.safetensors")
    assert load_weights(tmp_path)["a"].dtype == torch.float16
