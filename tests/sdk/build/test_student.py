"""A smaller student: which layers matter, and that leaving them out leaves the rest as it is."""

import pytest
import torch

from personalize.forward import decoder_layers
from sdk.build.frozen import freeze
from sdk.build.grid import Grid
from sdk.build.sequences import TokenSequence
from sdk.build.student import block_influence, chosen_layers, shallower
from sdk.errors import BuildError
from tests.tiny import VOCABULARY, tiny_model


def texts(count: int = 12, length: int = 24) -> torch.Tensor:
    """Random token ids."""
    return torch.randint(3, VOCABULARY, (count, length), generator=torch.Generator().manual_seed(0))


def sequences() -> list[TokenSequence]:
    """The same as sequences."""
    return [TokenSequence(ids=tuple(row), first=1) for row in texts().tolist()]


def test_a_layer_that_does_nothing_has_no_influence() -> None:
    model = tiny_model(layers=4)
    with torch.no_grad():
        model.model.layers[2].self_attn.o_proj.weight.zero_()
        model.model.layers[2].mlp.down_proj.weight.zero_()
    influence = block_influence(model, texts().split(4))
    assert influence.shape == (4,)
    assert int(influence.argmin()) == 2
    assert float(influence[2]) == pytest.approx(0, abs=1e-6)
    assert chosen_layers(influence, count=3) == (0, 1, 3)


def test_influence_is_the_mean_angle_of_hidden_states() -> None:
    model, ids = tiny_model(layers=2), texts(2, 9)
    with torch.no_grad():
        states = model(input_ids=ids, output_hidden_states=True).hidden_states
    wanted = 1 - torch.cosine_similarity(states[0], states[1], dim=-1).mean()  # Layer 0: both states are before norms.
    assert float(block_influence(model, [ids])[0]) == pytest.approx(float(wanted), abs=1e-6)


def test_a_shallower_student_runs_the_kept_layers() -> None:
    model, ids = tiny_model(layers=4), texts(2, 9)
    student = shallower(model, (0, 3))
    with torch.no_grad():
        hidden = decoder_layers(model, model.model.embed_tokens(ids), 0, 1)
        wanted = model.lm_head(model.model.norm(decoder_layers(model, hidden, 3, 4)))
        assert torch.allclose(student(input_ids=ids).logits, wanted, atol=1e-5)
        whole = student(input_ids=ids).logits[:, -1]
        cache = student(input_ids=ids[:, :-1], use_cache=True).past_key_values  # Layers are numbered anew for it.
        last = student(input_ids=ids[:, -1:], past_key_values=cache).logits[:, -1]
        assert torch.allclose(last, whole, atol=1e-5)
        student.model.layers[0].mlp.up_proj.weight.zero_()
    assert bool(model.model.layers[0].mlp.up_proj.weight.any())


@pytest.mark.parametrize("layers", [(), (1, 0), (0, 0), (0, 4), (-1, 2)])
def test_layers_that_cannot_be_kept_are_refused(layers: tuple[int, ...]) -> None:
    with pytest.raises(BuildError, match="kept layers"):
        shallower(tiny_model(layers=4), layers)


@pytest.mark.parametrize("count", [0, 5])
def test_counts_that_cannot_be_kept_are_refused(count: int) -> None:
    with pytest.raises(BuildError, match="cannot be kept"):
        chosen_layers(torch.rand(4), count=count)


def test_no_text_no_influence() -> None:
    with pytest.raises(BuildError, match="at least one"):
        block_influence(tiny_model(), [])


def test_frozen_parts_lie_on_their_grids_and_the_rest_is_untouched() -> None:
    model = tiny_model(layers=4)
    student = shallower(model, (0, 1, 3))
    parts = freeze(student, sequences(), frozen=2)
    assert len(parts.grids) == 2 * 7
    weights = dict(student.named_parameters())
    for name, grid in parts.grids.items():
        assert torch.equal(grid.values(weights[name]), weights[name])
        assert not torch.equal(weights[name], dict(model.named_parameters())[name])
    assert torch.equal(student.model.layers[2].mlp.up_proj.weight, model.model.layers[3].mlp.up_proj.weight)
    assert student.lm_head.weight.data_ptr() == student.model.embed_tokens.weight.data_ptr()


def test_compensated_rounding_stays_closer_than_nearest_values() -> None:
    model, ids = tiny_model(layers=4), texts()
    rounded, nearest = shallower(model, range(4)), shallower(model, range(4))
    freeze(rounded, sequences(), frozen=3)
    with torch.no_grad():
        nearest.model.embed_tokens.weight.copy_(rounded.model.embed_tokens.weight)
        for layer in nearest.model.layers[:3]:
            for module in layer.modules():
                if isinstance(module, torch.nn.Linear):
                    module.weight.copy_(Grid.fitted(module.weight).values(module.weight))
        wanted = model(input_ids=ids).logits
        errors = [float((other(input_ids=ids).logits - wanted).square().mean()) for other in (rounded, nearest)]
    assert errors[0] < errors[1]
