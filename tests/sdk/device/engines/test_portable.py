"""The portable engine's own: weights carried over bit for bit, memory that grows, a fast mode that stays near."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from personalize.adapter import Adapter, AdapterSpec, fresh
from personalize.errors import AdapterError
from sdk import Assistant
from sdk.build.grid import Grid, packed8
from sdk.bundle import Bundle, shipped_bundle
from sdk.device.engines.portable import engine as portable
from sdk.device.engines.portable.engine import PortableEngine, default_threads
from sdk.device.engines.portable.weights import beside
from sdk.device.engines.rows import Rows
from sdk.device.engines.torch_engine import TorchEngine
from sdk.device.night import plan_of
from sdk.device.runtime import Runtime
from sdk.packed import BLOCK, Packed, parts_of, unpack4
from tests.tiny import SENTENCES, tiny_bundle, tiny_packed_bundle

PROMPT = [1, 87, 12, 300, 45, 45, 9, 201, 33, 2, 7]


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_packed_bundle(tmp_path_factory.mktemp("base"), head=16, context_tokens=900)


def packed(rows: int, columns: int, *, seed: int, bits: int = 4) -> Packed:
    weights = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    parts = Grid.fitted(weights).packed(weights) if bits == 4 else packed8(weights)[0]
    found = parts_of({f"m.{part}": value for part, value in parts.items()})["m"]
    assert isinstance(found, Packed)
    return found


def adapter_of(runtime: Runtime, *, size: float = 0.5) -> Adapter:
    layers = runtime.model.config.num_hidden_layers
    made = fresh(runtime.model, AdapterSpec(layers=(layers - 1,), rank=4), fits_base=runtime.bundle.base_digest)
    random = torch.Generator().manual_seed(3)
    return replace(made, b={site: torch.randn(b.shape, generator=random) * size for site, b in made.b.items()})


def test_packed_maps_stand_side_by_side_with_every_number_as_it_was() -> None:
    maps = [packed(24, 3 * BLOCK, seed=1), packed(8, 3 * BLOCK, seed=2)]
    matrix = beside(maps)
    codes, scales, zeros = (torch.from_numpy(constant) for constant in matrix.constants)
    steps = unpack4(codes.reshape(32, -1), 3 * BLOCK).float().view(32, 3, BLOCK) - unpack4(zeros, 3)[:, :, None].float()
    values = (steps * scales[:, :, None]).reshape(32, 3 * BLOCK)
    assert torch.equal(values, torch.cat([each.values() for each in maps]))
    assert (matrix.bits, matrix.inputs, matrix.outputs) == (4, 3 * BLOCK, 32)


def test_bytes_stand_above_the_operators_zero_of_128() -> None:
    whole = packed(16, 2 * BLOCK, seed=1, bits=8)
    codes, scales = beside([whole]).constants
    values = ((codes.astype(np.float32) - 128) * scales[:, :, None]).reshape(16, -1)
    assert np.array_equal(values, whole.values().numpy())


def test_maps_of_different_forms_become_one_plain_matrix() -> None:
    plain = torch.randn(4, BLOCK)
    matrix = beside([packed(8, BLOCK, seed=1), plain, packed(8, BLOCK, seed=2, bits=8)])
    assert (matrix.bits, matrix.constants[0].shape) == (32, (BLOCK, 20))
    assert np.array_equal(matrix.constants[0][:, 8:12].T, plain.numpy())


@pytest.mark.parametrize("bits", [4, 8])
def test_the_embedding_is_read_row_by_row(bits: int) -> None:
    whole = packed(20, 2 * BLOCK, seed=5, bits=bits)
    assert np.array_equal(Rows(whole)([3, 19, 3]), whole.values()[[3, 19, 3]].numpy()[None])
    plain = whole.values().half()
    assert np.array_equal(Rows(plain)([7]), plain[[7]].float().numpy()[None])


def test_a_track_that_outgrows_its_memory_keeps_what_it_knew(roomy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = (PROMPT * 60)[:600]
    engine = PortableEngine(roomy, exact=True)
    grown, wide = engine.begin(), engine.begin()
    monkeypatch.setattr(portable, "FIRST_TOKENS", 16)
    for start in range(0, 600, 50):
        last = grown.extend(tokens[start : start + 50])
    monkeypatch.setattr(portable, "FIRST_TOKENS", 600)
    np.testing.assert_allclose(last, wide.extend(tokens), atol=2e-4)


def test_an_adapter_that_is_lost_on_the_way_is_refused(roomy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, adapter = PortableEngine(roomy), adapter_of(Runtime.open(roomy))
    with monkeypatch.context() as broken:
        broken.setattr(portable, "slots_of", lambda adapter, maps: {})
        with pytest.raises(AdapterError, match="changes nothing"):
            engine.wear(adapter)
    engine.wear(adapter)


def test_a_failure_of_the_library_closes_the_track_and_no_other(roomy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = PortableEngine(roomy)
    hurt, well = engine.begin(), engine.begin()
    hurt.extend(PROMPT)
    with monkeypatch.context() as broken:
        broken.setattr(engine, "embedded", lambda tokens: np.zeros((1, len(tokens), 7), np.float32))
        with pytest.raises(Exception, match="the engine failed"):
            hurt.extend([1])
    with pytest.raises(Exception, match="closed"):
        hurt.extend([1])
    assert np.isfinite(well.extend(PROMPT)).all()


def test_the_fast_mode_rounds_activations_and_stays_near(roomy: Bundle) -> None:
    exact = PortableEngine(roomy, exact=True).begin().extend(PROMPT, keep=len(PROMPT))
    fast = PortableEngine(roomy).begin().extend(PROMPT, keep=len(PROMPT))
    assert 0 < float(np.abs(fast - exact).mean()) < 0.05 * float(exact.std())


def test_one_core_is_left_to_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, threads in ((1, 1), (2, 1), (4, 3), (64, 4)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        assert default_threads() == threads


def test_the_shipped_base_says_the_same_in_both_engines() -> None:
    """Exact: the same likeliest tokens. Fast: log-likelihoods of public answers within a tenth of a nat."""
    bundle = shipped_bundle()
    if bundle is None or not (bundle.checkpoint / "model.safetensors").exists():
        pytest.skip("no shipped base in this checkout")
    runtime = Runtime.open(bundle)
    reference, exact, fast = TorchEngine(runtime), PortableEngine(bundle, exact=True), PortableEngine(bundle)
    asked = [item for item in bundle.rehearsal() if 20 < len(item["answer"]) < 200][:2]
    differences = []
    for item in asked:
        prompt = runtime.encode(item["prompt"])[-80:]
        answer = runtime.tokenizer.backend_tokenizer.encode(item["answer"], add_special_tokens=False).ids
        whole, keep = [*prompt, *answer], len(answer) + 1
        wanted = reference.begin().extend(whole, keep=keep)
        found = exact.begin().extend(whole, keep=keep)
        np.testing.assert_allclose(found, wanted, atol=5e-3)
        assert np.array_equal(found.argmax(1), wanted.argmax(1))
        near = fast.begin().extend(whole, keep=keep)
        differences += (_logs(near, answer) - _logs(wanted, answer)).tolist()
    assert abs(np.mean(differences)) < 0.1
    assert len(differences) > 20


def _logs(scores: np.ndarray, answer: list[int]) -> np.ndarray:
    """Log-probabilities of an answer's tokens."""
    logs = torch.tensor(scores[:-1]).log_softmax(-1)
    return logs[torch.arange(len(answer)), answer].numpy()


def test_a_night_runs_beside_the_engine_and_what_it_admits_answers_next(tmp_path: Path) -> None:
    """The model is loaded in torch for the night only; the engine that is loaded takes the adapter."""
    bundle = tiny_bundle(tmp_path, head=16)  # Plain weights, so that both engines compute alike.
    assistant = Assistant.open(tmp_path / "home", bundle=bundle)
    assert assistant.engine_name == "portable"
    for row in range(20):
        assistant.remember(prompt=f"say {row}", answer=SENTENCES[row % 4])
    report = assistant.learn(plan_of(steps=1))
    answered = assistant.answer("say 1", max_new_tokens=6)
    assert answered.adapter == report.adapter is not None
    in_torch = Assistant.open(tmp_path / "home", bundle=bundle, engine="torch").answer("say 1", max_new_tokens=6)
    assert (in_torch.engine, in_torch.adapter, in_torch.tokens) == ("torch", report.adapter, answered.tokens)


def test_a_new_adapter_answers_on_the_shipped_base_within_two_seconds() -> None:
    bundle = shipped_bundle()
    if bundle is None or not (bundle.checkpoint / "model.safetensors").exists():
        pytest.skip("no shipped base in this checkout")
    engine, runtime = PortableEngine(bundle), Runtime.open(bundle)
    adapter = adapter_of(runtime, size=0.05)
    began = time.thread_time()  # Of this thread, since the machine may be busy: with one engine thread, that is all.
    key = engine.wear(adapter)
    assert np.isfinite(engine.begin(key).extend(PROMPT)).all()
    assert time.thread_time() - began < 2
