"""Costs are those that paper and pencil give, and the page and the command show them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sdk.build.coreml.layout import Cache
from sdk.build.coreml.lint import lint, standing
from sdk.build.coreml.page import grouped, render, write_lint_page
from sdk.build.coreml.program import Package
from sdk.build.coreml.roofline import DEFAULT_UNIT, Unit, by_block, costs, total, unit_of
from sdk.errors import PackageError
from tests.sdk.build.coreml.compiled import compiled
from tests.sdk.build.coreml.test_execute import converted

SLOW = Unit(name="slow", flops=1e6, bytes=1e3, source="made up")


def test_a_convolution_and_a_product_cost_what_their_sizes_say(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Conv2d(64, 32, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            h = self.map(x).reshape(1, 32, 5)
            return torch.matmul(h.transpose(1, 2), h)  # (1, 5, 5)

    package = converted(Two(), torch.randn(1, 64, 1, 5), "iOS18", tmp_path / "x.mlpackage")
    found = {cost.kind: cost for cost in costs(package)}
    convolution, product = found["conv"], found["matmul"]
    assert convolution.flops == 2 * 32 * 64 * 5
    assert convolution.weights == 2 * 32 * 64  # Float16.
    assert convolution.moved == 2 * (64 + 32) * 5
    assert product.flops == 2 * 5 * 5 * 32
    assert product.weights == 0
    assert found["reshape"].moved == found["reshape"].flops == 0
    assert convolution.seconds(SLOW) == pytest.approx((2 * 32 * 64 + 2 * 96 * 5) / 1e3)
    assert convolution.bound(SLOW) == "bytes"
    assert convolution.bound(Unit(name="", flops=1.0, bytes=1e9, source="")) == "arithmetic"


def test_weights_are_counted_once_and_as_they_are_stored() -> None:
    made = compiled("packed", Cache.STATE)
    package = Package.open(made.package)
    blocks = by_block(costs(package), DEFAULT_UNIT)
    assert {"layers.0", "layers.1", "head"} <= blocks["decode"].keys()
    # Seven maps of 4 bits with a 16-bit scale and a 4-bit zero for 32 numbers: (4 + 20 / 32) bits a number.
    numbers = 32 * 32 + 2 * 16 * 32 + 32 * 32 + 3 * 64 * 32
    assert blocks["decode"]["layers.0"].weights == pytest.approx(numbers * (4 + 20 / 32) / 8, rel=0.05)
    assert blocks["decode"]["layers.0"].weights == pytest.approx(blocks["below"]["layers.0"].weights, abs=8)


def test_every_operation_is_in_one_block_and_the_program_is_read_alike_each_time() -> None:
    folder = compiled("packed", Cache.STATE).package
    found, again = costs(Package.open(folder)), costs(Package.open(folder))
    assert sorted(map(repr, found)) == sorted(map(repr, again))
    for name, parts in by_block(found, SLOW).items():
        whole = total([cost for cost in found if cost.function == name], SLOW)
        assert sum(part.operations for part in parts.values()) == whole.operations
        assert sum(part.seconds for part in parts.values()) == pytest.approx(whole.seconds)


def test_writing_one_position_does_not_move_the_whole_cache() -> None:
    package = Package.open(compiled("packed", Cache.STATE).package)
    (state,) = [state for state in package.function("decode").states if state.name == "keys"]
    layer = 2 * torch.Size(state.size[1:]).numel()  # Float16 bytes of one layer's keys.
    updates = [cost for cost in costs(package) if cost.kind == "slice_update" and cost.function == "decode"]
    assert updates
    assert {cost.moved for cost in updates} == {2 * layer}


def test_a_unit_can_be_given_in_parts() -> None:
    assert unit_of() == DEFAULT_UNIT
    given = unit_of(tflops=2.0)
    assert (given.flops, given.bytes) == (2e12, DEFAULT_UNIT.bytes)
    assert unit_of(gigabytes=100.0).bytes == 100e9


def test_the_page_tells_rules_blocks_and_that_no_device_was_asked(tmp_path: Path) -> None:
    folder = compiled("packed", Cache.STATE).package
    hits, found = lint(folder), costs(Package.open(folder))
    page = render("Tiny.mlpackage", hits, found, DEFAULT_UNIT)
    assert f"0 errors and {len(standing(hits))} warnings to look at" in page
    assert "No device was asked" in page
    for text in (
        "layers.1",
        "int4-blocks",
        "apple/coreai-models #55",
        "decode, one call at least",
        DEFAULT_UNIT.source,
    ):
        assert text.replace("'", "&#39;") in page
    assert "<script" not in page
    assert "://" not in page
    assert sum(row["places"] for row in grouped(hits)) == len(hits)
    write_lint_page(tmp_path / "page.html", "Tiny.mlpackage", hits, found, DEFAULT_UNIT)
    assert (tmp_path / "page.html").read_text() == page
    with pytest.raises(PackageError, match="choose another place"):
        write_lint_page(tmp_path / "no" / "page.html", "Tiny.mlpackage", hits, found, DEFAULT_UNIT)


def test_names_in_a_package_cannot_write_into_the_page() -> None:
    assert "<b>" not in render("<b>.mlpackage", [], [], DEFAULT_UNIT)
