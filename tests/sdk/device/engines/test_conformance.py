"""Every engine through the same cases: the scores of the model as it was trained, with and without adapters.

The reference is transformers' own forward pass over the whole sequence, with personalize's own attached adapters: no
part of it is an engine's.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from personalize.adapter import TARGETS, Adapter, AdapterSpec, attached, fresh
from personalize.errors import AdapterError, BaseMismatchError
from sdk.build.coreml.convert import Plan, convert
from sdk.bundle import Bundle
from sdk.device.answers.decoding import PART, Decoding, decode
from sdk.device.answers.tracks import Tracks
from sdk.device.engines.coreml_engine import CoreMLEngine
from sdk.device.engines.portable.engine import PortableEngine
from sdk.device.engines.protocol import Engine, Track
from sdk.device.engines.torch_engine import TorchEngine
from sdk.device.runtime import Runtime
from sdk.errors import GenerationError, PromptTooLongError
from tests.interpreted import Interpreted
from tests.tiny import tiny_bundle, tiny_packed_bundle


@cache
def compiled(bundle: Path) -> tuple[Path, Interpreted]:
    """A package of a bundle's folder, and its interpreter: seconds to make, so once a run."""
    package = bundle.with_suffix(".mlpackage")
    convert(bundle, package, Plan(context=192, adapter_layers=2))
    return package, Interpreted(package)


ENGINES: dict[str, Callable[[Runtime], Engine]] = {
    "torch": TorchEngine,
    "portable": lambda runtime: PortableEngine(runtime.bundle, exact=True, ahead=True),
    "coreml": lambda runtime: CoreMLEngine(runtime.bundle, *compiled(runtime.bundle.folder)),
}
"""How each engine is opened on a bundle."""

FORMS: dict[str, Callable[[Path], Bundle]] = {
    "plain": partial(tiny_bundle, head=16, layers=2),  # The portable engine takes heads of 16, 32, 48 … numbers.
    "packed": partial(tiny_packed_bundle, head=16, layers=2),
}
"""How the weights stand in the bundle."""

PROMPT = [1, 87, 12, 300, 45, 45, 9, 201, 33, 2, 7]
OTHER = [1, 5, 250, 250, 18]
TOLERANCE = 2e-4  # Sums in another order; the tiny model's logits reach about 10.


@dataclass
class Case:
    """One engine on one base, and the base as the reference runs it."""

    engine: Engine
    runtime: Runtime

    def adapter(self, seed: int, *, rank: int = 3, targets: tuple[str, ...] = TARGETS) -> Adapter:
        """A random adapter on all layers."""
        spec = AdapterSpec(layers=(0, 1), rank=rank, targets=targets)
        made = fresh(self.runtime.model, spec, fits_base=self.runtime.bundle.base_digest)
        random = torch.Generator().manual_seed(seed)
        return replace(made, b={site: torch.randn(b.shape, generator=random) * 0.5 for site, b in made.b.items()})

    def scores(self, tokens: Sequence[int], adapter: Adapter | None = None) -> NDArray[np.float32]:
        """The reference's logits after each token, shape (tokens, vocab)."""
        worn = attached(self.runtime.model, adapter) if adapter else nullcontext()
        with worn, torch.no_grad():
            logits: NDArray[np.float32] = self.runtime.model(input_ids=torch.tensor([list(tokens)])).logits[0].numpy()
        return logits

    def greedy(self, tokens: Sequence[int], length: int, adapter: Adapter | None = None) -> list[int]:
        """The reference's likeliest continuation."""
        known = list(tokens)
        for _ in range(length):
            known.append(int(self.scores(known, adapter)[-1].argmax()))
        return known[len(tokens) :]


@cache
def runtime_of(form: str, folder: Path) -> Runtime:
    return Runtime.open(FORMS[form](folder))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


CASES = [
    *((engine, form) for engine in ("torch", "portable") for form in FORMS),
    ("coreml", "packed"),  # Plain weights in float32 are rounded to float16 when a package is made.
]


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest, folder: Path) -> Iterator[Case]:
    name, form = request.param
    runtime = runtime_of(form, folder)
    engine = ENGINES[name](runtime)
    assert engine.name == name
    yield Case(engine, runtime)
    engine.close()


def written(track: Track, prompt: Sequence[int], length: int) -> list[int]:
    return [step.token for step in decode(track, prompt, Decoding(max_new_tokens=length))]


def assert_close(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE, rtol=0)


def test_greedy_tokens_and_log_probabilities_are_those_of_the_model(case: Case) -> None:
    wanted = case.greedy(PROMPT, 24)
    steps = list(decode(case.engine.begin(), PROMPT, Decoding(max_new_tokens=24)))
    assert [step.token for step in steps] == wanted
    reference = torch.tensor(case.scores([*PROMPT, *wanted])).log_softmax(-1)[len(PROMPT) - 1 : -1]
    sure = [float(row[token]) for row, token in zip(reference, wanted, strict=True)]
    assert [step.log_probability for step in steps] == pytest.approx(sure, abs=TOLERANCE)


def test_scores_after_each_of_the_last_tokens_are_told(case: Case) -> None:
    found = case.engine.begin().extend(PROMPT, keep=4)
    assert found.shape == (4, case.engine.vocabulary)
    assert found.dtype == np.float32
    assert_close(found, case.scores(PROMPT)[-4:])


def test_scores_that_were_told_do_not_change_afterwards(case: Case) -> None:
    track = case.engine.begin()
    first = track.extend(PROMPT)
    kept = first.copy()
    track.extend([5])
    case.engine.begin().extend(OTHER)
    assert np.array_equal(first, kept)


def test_under_an_adapter_the_scores_are_those_of_the_adapted_model(case: Case) -> None:
    adapter = case.adapter(1)
    key = case.engine.wear(adapter)
    track = case.engine.begin(key)
    assert_close(track.extend(PROMPT, keep=len(PROMPT)), case.scores(PROMPT, adapter))
    assert track.adapter == key
    assert float(np.abs(case.scores(PROMPT, adapter) - case.scores(PROMPT)).max()) > 100 * TOLERANCE
    assert written(case.engine.begin(key), PROMPT, 16) == case.greedy(PROMPT, 16, adapter)


@pytest.mark.parametrize(
    ("rank", "targets"), [(1, ("v_proj",)), (5, ("q_proj", "down_proj")), (2, ("k_proj", "up_proj")), (8, TARGETS)]
)
def test_an_adapter_may_be_of_any_rank_on_any_maps(case: Case, rank: int, targets: tuple[str, ...]) -> None:
    adapter = case.adapter(2, rank=rank, targets=targets)
    found = case.engine.begin(case.engine.wear(adapter)).extend(PROMPT, keep=len(PROMPT))
    assert_close(found, case.scores(PROMPT, adapter))


def test_tracks_under_different_adapters_run_side_by_side(case: Case) -> None:
    adapters = [None, case.adapter(1), case.adapter(2, rank=8, targets=("q_proj", "o_proj", "gate_proj"))]
    tracks = [case.engine.begin(None if adapter is None else case.engine.wear(adapter)) for adapter in adapters]
    for token in range(0, len(PROMPT), 2):
        for track in tracks:
            track.extend(PROMPT[token : token + 2])
    for track, adapter in zip(tracks, adapters, strict=True):
        assert list(track.tokens) == PROMPT
        assert_close(track.extend([99]), case.scores([*PROMPT, 99], adapter)[-1:])


def test_an_adapter_is_swapped_while_another_track_runs(case: Case) -> None:
    before, after = case.adapter(1), case.adapter(2)
    key = case.engine.wear(before)
    answer = decode(case.engine.begin(key), PROMPT, Decoding(max_new_tokens=12))
    begun = [next(answer).token for _ in range(4)]
    fresh_key = case.engine.wear(after)
    case.engine.drop(key)
    assert written(case.engine.begin(fresh_key), PROMPT, 8) == case.greedy(PROMPT, 8, after)
    assert begun + [step.token for step in answer] == case.greedy(PROMPT, 12, before)
    with pytest.raises(AdapterError, match="not worn"):
        case.engine.begin(key)


def test_the_same_adapter_twice_has_one_key(case: Case) -> None:
    assert case.engine.wear(case.adapter(1)) == case.engine.wear(case.adapter(1)) != case.engine.wear(case.adapter(2))
    case.engine.drop("sha256:unknown")


def test_an_adapter_of_another_base_is_refused_and_the_engine_goes_on(case: Case) -> None:
    other = replace(case.adapter(1), fits_base="sha256:" + "0" * 64)
    with pytest.raises(BaseMismatchError, match="this base is"):
        case.engine.wear(other)
    assert_close(case.engine.begin().extend(PROMPT), case.scores(PROMPT)[-1:])


def test_an_adapter_of_another_shape_is_refused(case: Case) -> None:
    adapter = case.adapter(1)
    site = next(iter(adapter.a))
    wider = replace(adapter, a={**adapter.a, site: torch.ones(3, adapter.a[site].shape[1] + 1)})
    with pytest.raises(AdapterError, match="another model"):
        case.engine.wear(wider)
    nowhere = "model.layers.9.mlp.up_proj"
    foreign = replace(adapter, a={**adapter.a, nowhere: adapter.a[site]}, b={**adapter.b, nowhere: adapter.b[site]})
    with pytest.raises(AdapterError, match="none of that name"):
        case.engine.wear(foreign)


@pytest.mark.parametrize(("filling", "why"), [(0.0, "changes nothing"), (float("nan"), "no numbers")])
def test_an_adapter_that_moves_nothing_or_breaks_all_is_refused(case: Case, filling: float, why: str) -> None:
    adapter = case.adapter(1)
    adapter = replace(adapter, b={site: torch.full_like(b, filling) for site, b in adapter.b.items()})
    with pytest.raises(AdapterError, match=why):
        case.engine.wear(adapter)


def test_what_is_known_of_a_prompts_beginning_is_used_again(case: Case) -> None:
    track = case.engine.begin()
    track.extend([*PROMPT, 7, 7, 7])
    for length in (6, 3, 0):
        track.rewind(length)
        assert_close(track.extend(OTHER), case.scores([*PROMPT[:length], *OTHER])[-1:])


def test_a_track_kept_for_the_next_turn_answers_as_a_new_one(case: Case) -> None:
    tracks = Tracks(case.engine)
    track = tracks.take(PROMPT, None)
    first = written(track, PROMPT, 6)
    tracks.give_back(track)
    longer = [*PROMPT, *first, *OTHER]
    again = tracks.take(longer, None)
    assert again is track
    assert len(again.tokens) >= len(PROMPT)
    assert written(again, longer, 6) == case.greedy(longer, 6)


def test_an_answer_ends_within_one_token_of_its_cancellation(case: Case) -> None:
    asked = iter([False] * 4 + [True] * 9)  # Asked once before each token.
    track = case.engine.begin()
    steps = list(decode(track, PROMPT, Decoding(max_new_tokens=50), lambda: next(asked)))
    assert [step.token for step in steps] == case.greedy(PROMPT, 4)
    assert len(track.tokens) == len(PROMPT) + 3


def test_a_long_prompt_is_left_after_one_part(case: Case) -> None:
    asked = iter([False, True])
    track = case.engine.begin()
    assert not list(decode(track, PROMPT * 15, Decoding(max_new_tokens=4), lambda: next(asked)))
    assert len(track.tokens) == PART


def test_a_track_fills_the_context_and_refuses_more(case: Case) -> None:
    tokens = (PROMPT * 30)[: case.engine.context_tokens]
    track = case.engine.begin()
    for start in range(0, len(tokens) - 1, 100):
        track.extend(tokens[:-1][start : start + 100])
    with pytest.raises(PromptTooLongError, match=str(case.engine.context_tokens)):
        track.extend([1, 1])
    assert_close(track.extend(tokens[-1:]), case.scores(tokens)[-1:])
    with pytest.raises(PromptTooLongError):
        track.extend([1])


@pytest.mark.parametrize(("tokens", "keep"), [([-1], 1), ([320], 1), ([], 1), ([1, 2], 3), ([1], 0)])
def test_what_is_no_token_is_refused_and_changes_nothing(case: Case, tokens: list[int], keep: int) -> None:
    track = case.engine.begin()
    track.extend(PROMPT[:-1])
    with pytest.raises(GenerationError):
        track.extend(tokens, keep=keep)
    assert_close(track.extend(PROMPT[-1:]), case.scores(PROMPT)[-1:])


def test_a_closed_track_and_a_closed_engine_say_so(case: Case) -> None:
    track, open_one = case.engine.begin(), case.engine.begin()
    open_one.extend(OTHER)
    track.close()
    track.close()
    with pytest.raises(GenerationError, match="closed"):
        track.extend(PROMPT)
    case.engine.close()
    case.engine.close()
    with pytest.raises(GenerationError, match="closed"):
        open_one.extend(PROMPT)


def test_tracks_of_several_threads_do_not_meet(case: Case) -> None:
    adapter = case.adapter(1)
    key = case.engine.wear(adapter)
    kinds = {None: case.greedy(PROMPT, 10), key: case.greedy(PROMPT, 10, adapter)}
    found: list[tuple[str | None, list[int]]] = []

    def answer(worn: str | None) -> None:
        found.extend((worn, written(case.engine.begin(worn), PROMPT, 10)) for _ in range(3))

    threads = [threading.Thread(target=answer, args=(worn,)) for worn in (*kinds, *kinds)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    assert all(tokens == kinds[worn] for worn, tokens in found)
