"""The coreml engine beyond the conformance suite: array caches, what it refuses, when it is chosen. No Core ML here."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from personalize.adapter import AdapterSpec, fresh
from personalize.errors import AdapterError
from sdk.build.coreml.convert import Plan, convert
from sdk.build.coreml.layout import Cache
from sdk.bundle import Bundle, write_manifest
from sdk.device.engines import coreml_engine
from sdk.device.engines.choice import choose, open_engine
from sdk.device.engines.compiled import Compiled, contract_file
from sdk.device.engines.coreml_engine import CoreMLEngine, package_of
from sdk.device.runtime import Runtime
from sdk.errors import BundleError, EngineError
from tests.interpreted import Interpreted
from tests.tiny import tiny_packed_bundle

PROMPT = [1, 87, 12, 300, 45, 45, 9, 201, 33, 2, 7]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A base of one layer with its package, whose cache is arrays."""
    made = tiny_packed_bundle(tmp_path_factory.mktemp("base"), head=16, layers=1)
    plan = Plan(context=32, prefill_positions=4, adapter_layers=1, adapter_rank=2, cache=Cache.ARRAYS)
    convert(made.folder, made.folder / "Student.mlpackage", plan)
    manifest = made.manifest
    return write_manifest(
        made.folder, name=manifest.name, version=manifest.version, base_id=manifest.base_id,
        licence=manifest.licence, origin=manifest.origin,
    )  # fmt: skip


@pytest.fixture
def package(bundle: Bundle) -> Path:
    found = package_of(bundle)
    assert found is not None
    assert found.name == "Student.mlpackage"
    return found


def test_a_cache_of_arrays_is_the_callers_to_fill(bundle: Bundle, package: Path) -> None:
    engine, runtime = CoreMLEngine(bundle, package, Interpreted(package)), Runtime.open(bundle)
    adapter = fresh(runtime.model, AdapterSpec(layers=(0,), rank=2), fits_base=bundle.base_digest)
    adapter = replace(adapter, b={site: torch.full_like(b, 0.3) for site, b in adapter.b.items()})
    bare, worn = engine.begin(), engine.begin(engine.wear(adapter))
    with torch.no_grad():
        wanted = runtime.model(input_ids=torch.tensor([PROMPT])).logits[0].numpy()
    for start in range(0, len(PROMPT), 6):
        worn.extend(PROMPT[start : start + 6])
        found = bare.extend(PROMPT[start : start + 6], keep=2 if start == 0 else 5)
        end = min(start + 6, len(PROMPT))
        np.testing.assert_allclose(found, wanted[end - len(found) : end], atol=2e-4)
    bare.rewind(3)
    np.testing.assert_allclose(bare.extend(PROMPT[3:])[0], wanted[-1], atol=2e-4)


def test_an_adapter_of_a_larger_rank_than_the_slots_is_refused(bundle: Bundle, package: Path) -> None:
    engine, runtime = CoreMLEngine(bundle, package, Interpreted(package)), Runtime.open(bundle)
    adapter = fresh(runtime.model, AdapterSpec(layers=(0,), rank=3), fits_base=bundle.base_digest)
    with pytest.raises(AdapterError, match="takes rank 2 at most"):
        engine.wear(adapter)


def test_a_package_of_another_base_or_without_a_contract_is_refused(
    bundle: Bundle, package: Path, tmp_path: Path
) -> None:
    other = tiny_packed_bundle(tmp_path, head=16, layers=1, seed=1)
    with pytest.raises(EngineError, match="another base"):
        CoreMLEngine(other, package, Interpreted(package))
    with pytest.raises(EngineError, match="no contract"):
        Compiled.read(tmp_path / "none.mlpackage")
    copy = contract_file(tmp_path / "Copy.mlpackage")
    copy.parent.mkdir(parents=True)
    text = contract_file(package).read_text()
    copy.write_text(text.replace("coreml-contract/1", "coreml-contract/9"))
    with pytest.raises(EngineError, match="another format"):
        Compiled.read(tmp_path / "Copy.mlpackage")
    copy.write_text(text[:200])
    with pytest.raises(BundleError, match="cannot be read"):
        Compiled.read(tmp_path / "Copy.mlpackage")


def test_core_ml_is_asked_for_on_a_mac_only(bundle: Bundle) -> None:
    assert choose(bundle).name == "portable"
    asked = choose(bundle, "coreml")
    assert (asked.name, asked.fallback) == ("portable", True)
    assert "Apple's systems only" in asked.why


def test_on_a_mac_the_package_goes_first(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdk.device.engines.choice._is_mac", lambda: True)
    assert choose(tiny_packed_bundle(tmp_path, head=16)).name == "portable"  # It has no package.
    with monkeypatch.context() as here:
        here.setattr(coreml_engine, "loaded", Interpreted)
        opened = open_engine(bundle)
    assert (opened.engine.name, opened.choice.why) == ("coreml", "Core ML runs Student.mlpackage of this base")
    assert opened.engine.begin().extend(PROMPT).shape == (1, 320)


@pytest.mark.filterwarnings("ignore")  # coremltools says on import what it was not tested with.
def test_where_core_ml_does_not_take_the_package_the_next_engine_answers(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdk.device.engines.choice._is_mac", lambda: True)
    opened = open_engine(bundle, "coreml")  # Its own runtime is asked, which is not on this machine.
    assert opened.engine.name == opened.choice.name == "portable"
    assert opened.choice.fallback
    assert "Core ML cannot run Student.mlpackage" in opened.choice.why
