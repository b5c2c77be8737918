"""Every rule fires on a model that breaks it, and our own layout is clean."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sdk.build.coreml.layout import Cache
from sdk.build.coreml.lint import OWN_LAYOUT, Suppression, lint, read_suppressions, standing
from sdk.build.coreml.rules import RULES
from sdk.errors import PackageError
from tests.sdk.build.coreml.compiled import compiled
from tests.sdk.build.coreml.test_execute import converted


class Careless(nn.Module):
    """Breaks many rules at once."""

    blocked: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(16, 16)
        self.register_buffer("blocked", torch.tensor([float("-inf"), 0.0]).reshape(1, 1, 1, 1, 2))
        self.register_buffer("table", torch.randn(50, 16))
        self.wide = nn.Linear(16, 20_000, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5)
        x = self.map(x).reshape(1, 2, 2, 2, 2)
        x = torch.maximum(x, self.blocked).reshape(1, 16)
        found: Tensor = self.wide(x)
        return found.argmax(-1)


def test_a_careless_model_breaks_the_rules_it_was_made_to_break(tmp_path: Path) -> None:
    converted(Careless().eval(), torch.randn(1, 16), "iOS18", tmp_path / "x.mlpackage")
    hits = lint(tmp_path / "x.mlpackage")
    assert {"linear", "rank-over-4", "dimension-over-16384", "square-overflow", "infinite-constant"} <= {
        hit.rule for hit in hits
    }
    assert [hit.severity for hit in hits] == sorted(
        (hit.severity for hit in hits), key=["error", "warning", "note"].index
    )
    assert all(hit.tensor or hit.operation == "package" for hit in hits)


def test_gathers_and_fused_attention_are_found(tmp_path: Path) -> None:
    class Asked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(50, 16)

        def forward(self, ids: Tensor) -> Tensor:
            x = self.embed(ids)[None]
            return nn.functional.scaled_dot_product_attention(x, x, x)

    converted(Asked().eval(), torch.randint(0, 50, (1, 9)), "iOS18", tmp_path / "x.mlpackage")
    assert {"gather", "fused-attention"} <= {hit.rule for hit in lint(tmp_path / "x.mlpackage")}


@pytest.mark.parametrize(("form", "cache"), [("packed", Cache.STATE), ("plain", Cache.ARRAYS)])
def test_our_own_layout_has_no_error_and_only_accepted_warnings(form: str, cache: Cache) -> None:
    left = standing(lint(compiled(form, cache).package))
    assert {hit.rule for hit in left} <= {"int4-blocks"}  # True of a 4-bit student, and for its maker to accept.


def test_every_acceptance_of_our_own_is_needed() -> None:
    used = {(hit.reason, hit.function) for hit in lint(compiled("packed", Cache.STATE).package) if hit.reason}
    for entry in OWN_LAYOUT:
        assert any(reason == entry.reason and entry.function in ("*", function) for reason, function in used)


def test_a_suppression_needs_a_rule_and_a_reason_and_covers_its_tensors(tmp_path: Path) -> None:
    file = tmp_path / "allow.json"
    file.write_text(json.dumps([{"rule": "int4-blocks", "reason": "tested on the devices we ship to"}]))
    package = compiled("packed", Cache.STATE).package
    assert standing(lint(package, read_suppressions(file))) == []
    assert standing(lint(package, [Suppression(rule="int4-blocks", reason="no", tensor="head*")]))
    for bad in (
        '[{"rule": "int4-blocks"}]',
        '[{"rule": "int4-blocks", "reason": " "}]',
        '[{"rule": "x", "reason": "y"}]',
        "{",
    ):
        file.write_text(bad)
        with pytest.raises(PackageError):
            read_suppressions(file)


def test_every_rule_says_what_to_do_and_names_its_source() -> None:
    assert all(rule.says and rule.source and rule.severity in ("error", "warning", "note") for rule in RULES.values())
