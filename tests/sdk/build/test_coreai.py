"""Core AI's runtime says what torch says of the same layout, adapters included; without the extra, one clear line."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from personalize.adapter import attached
from sdk.build.coreai import convert_for_core_ai, opened
from sdk.build.coreml import convert as conversion
from sdk.build.coreml.adapters import arrays_of_adapter
from sdk.build.coreml.layout import Cache
from sdk.build.coreml.student import Student
from sdk.errors import ConversionError
from tests.sdk.build.coreml.compiled import PLAN, student
from tests.sdk.build.coreml.test_convert import PROMPT, learned, torch_tokens

ARRAYS = replace(PLAN, cache=Cache.ARRAYS)


def test_an_asset_answers_as_torch_does_with_and_without_an_adapter(tmp_path: Path) -> None:
    pytest.importorskip("coreai_torch", reason="needs the extra coreai")
    out = tmp_path / "x.aimodel"
    made = convert_for_core_ai(student("packed"), out, ARRAYS)
    assert made.difference <= conversion.TOLERANCE
    model = Student.open(student("packed"))
    embedding = model.model.lm_head.weight.half().float()
    adapter = learned(model.base_digest, model.model)
    with opened(out, embedding) as conversation:
        assert list(conversation.write(PROMPT, 6)) == torch_tokens(model.model, 6)
    with opened(out, embedding, arrays_of_adapter(adapter, made.contract)) as conversation:
        logits = conversation.read(PROMPT)
    with torch.no_grad(), attached(model.model, adapter):
        wanted = model.model(torch.tensor([PROMPT])).logits[0, -1]
    assert float((logits - wanted).abs().max()) <= 5e-3 * float(wanted.abs().max())
    with pytest.raises(ConversionError, match="not exist yet"):
        convert_for_core_ai(student("packed"), out, ARRAYS)
    (out / "metadata.json").write_text("{}")
    with pytest.raises(ConversionError, match="no asset of `limbeck build coreai`"), opened(out, embedding):
        pass


def test_an_asset_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("coreai_torch", reason="needs the extra coreai")
    monkeypatch.setattr(conversion, "TOLERANCE", 1e-9)
    with pytest.raises(ConversionError, match="differs from torch by"):
        convert_for_core_ai(student("packed"), tmp_path / "x.aimodel", ARRAYS)
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_the_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "coreai_torch", None)
    with pytest.raises(ConversionError, match=r"pip install 'limbeck\[coreai\]'"):
        convert_for_core_ai(student("packed"), tmp_path / "x.aimodel", ARRAYS)


def test_plans_and_names_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="cache as arrays"):
        convert_for_core_ai(student("packed"), tmp_path / "x.aimodel", PLAN)
    with pytest.raises(ConversionError, match=r"must end in \.aimodel"):
        convert_for_core_ai(student("packed"), tmp_path / "x.mlpackage", ARRAYS)
