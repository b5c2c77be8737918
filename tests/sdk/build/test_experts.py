"""Experts are checked against the dense model that they were made of, and against transformers' own loss."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaForCausalLM, MixtralForCausalLM
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from sdk.build import experts
from sdk.build.checkpoint import save_checkpoint
from sdk.build.experts import ExpertsPlan, active_parameters, balancing_loss, expert_shares, upcycle
from sdk.cli.app import cli
from sdk.errors import BuildError
from tests.tiny import tiny_config, tiny_model, tiny_tokenizer

TOKENS = torch.arange(24).view(2, 12) * 7 % 320
PLANS = [
    ExpertsPlan(copies=4, shards=2, active=1),
    ExpertsPlan(copies=3, shards=4, active=2),
    ExpertsPlan(copies=2, shards=1, active=2),
    ExpertsPlan(copies=4, shards=1, active=2, router_scale=0.5),
]


def dense(dtype: torch.dtype = torch.float64) -> LlamaForCausalLM:
    return tiny_model(dtype=dtype)


@torch.no_grad()
def logits(model: Any) -> Tensor:
    if isinstance(model, MixtralForCausalLM):
        model.set_experts_implementation("eager")  # The grouped product knows no float64.
    made: Tensor = model(TOKENS).logits
    return made


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.active} of {plan.copies} x {plan.shards}")
def test_equal_copies_compute_what_the_dense_model_does(plan: ExpertsPlan) -> None:
    within = 1e-12 if plan.active == 1 else 1e-6  # A Mixtral routes in float32; thirds and their like are rounded.
    assert torch.allclose(logits(upcycle(dense(), plan)), logits(dense()), rtol=within, atol=within)


def test_two_whole_copies_of_weight_a_half_are_the_dense_model_to_the_last_bit() -> None:
    plan = ExpertsPlan(copies=2, shards=1, active=2, router_scale=0.0)
    assert torch.equal(logits(upcycle(dense(torch.float32), plan)), logits(dense(torch.float32)))


def without_scale(sparse: Any, thin: Any, plan: ExpertsPlan, random: torch.Generator) -> None:
    FILL(sparse, thin, plan, random)
    sparse.experts.down_proj.div_(plan.shards)


def with_own_routers(sparse: Any, thin: Any, plan: ExpertsPlan, random: torch.Generator) -> None:
    FILL(sparse, thin, plan, random)
    sparse.gate.weight.normal_(generator=random)


FILL = experts._fill


@pytest.mark.parametrize("mutant", [without_scale, with_own_routers])
def test_wrong_shards_are_caught(monkeypatch: pytest.MonkeyPatch, mutant: object) -> None:
    monkeypatch.setattr(experts, "_fill", mutant)
    assert not torch.allclose(logits(upcycle(dense(), PLANS[0])), logits(dense()), rtol=1e-3)


def test_noise_parts_the_copies_and_leaves_the_dense_model_alone() -> None:
    model, before = dense(), logits(dense())
    sparse = upcycle(model, ExpertsPlan(noise=0.1))
    first, second = sparse.model.layers[0].mlp.experts.down_proj[:2]
    whole = 2 * model.model.layers[0].mlp.down_proj.weight[:, :32]
    assert ((first - whole).std() / whole.std()).item() == pytest.approx(0.1, rel=0.1)
    assert not torch.equal(first, second)
    assert torch.equal(logits(model), before)
    assert not torch.allclose(logits(sparse), before)


def test_it_is_saved_and_loaded_as_a_plain_folder(tmp_path: Path) -> None:
    sparse = upcycle(dense(torch.float32), ExpertsPlan(noise=0.1))
    sparse.save_pretrained(tmp_path)
    assert {file.suffix for file in tmp_path.iterdir()} == {".json", ".safetensors"}
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(loaded, MixtralForCausalLM)
    assert torch.equal(logits(loaded), logits(sparse))


def test_a_token_meets_as_many_weights_as_before_and_the_router() -> None:
    model = dense()
    sparse = upcycle(model, ExpertsPlan(copies=4, shards=2, active=1))
    routers = 4 * 8 * 32  # Layers, experts, width.
    assert active_parameters(sparse) == active_parameters(model) + routers
    feed_forwards = 4 * 3 * 32 * 64
    assert sum(weights.numel() for weights in sparse.parameters()) == (
        active_parameters(model) + 3 * feed_forwards + routers
    )


def routed(seed: int, layers: int = 1) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(10, 6, generator=random, dtype=torch.float64) for _ in range(layers)]


def pooled(*router_logits: Any, chosen: int, weights: Tensor | None = None) -> Tensor:
    """Transformers' loss: all layers in one heap, and chosen times as much."""
    loss: Any = load_balancing_loss_func(router_logits, 6, chosen, weights)
    assert isinstance(loss, Tensor)
    return loss


WEIGHTS = torch.tensor([[1.0, 1, 1, 0, 0], [1, 1, 1, 1, 1]])


@pytest.mark.parametrize("chosen", [1, 2, 3])
def test_balancing_is_that_of_transformers_over_the_experts_a_token_meets(chosen: int) -> None:
    found = balancing_loss(routed(0), WEIGHTS, chosen=chosen)
    theirs = pooled(*routed(0), chosen=chosen, weights=WEIGHTS)
    assert found.item() == pytest.approx(theirs.item() / chosen, rel=1e-6)


def test_balancing_is_one_where_experts_share_and_more_where_they_do_not() -> None:
    even = 20 * torch.eye(6, dtype=torch.float64).repeat(2, 1)[:12]
    everywhere = torch.ones(2, 6)
    assert balancing_loss([even], everywhere, chosen=1).item() == pytest.approx(1.0, abs=1e-6)
    one = torch.zeros(12, 6)
    one[:, 2] = 20.0
    assert balancing_loss([one], everywhere, chosen=1).item() == pytest.approx(6.0, abs=1e-3)
    other = torch.zeros(12, 6)
    other[:, 3] = 20.0
    assert balancing_loss([one, other], everywhere, chosen=1).item() == pytest.approx(6.0, abs=1e-3)
    assert pooled(one, other, chosen=1).item() == pytest.approx(
        3.0, abs=1e-3
    )  # Pooled over layers, half of it is hidden.


def test_balancing_draws_the_router_to_the_experts_that_are_left_out() -> None:
    weights = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    weights[0] += 1.0
    router = weights.requires_grad_()
    inputs = torch.rand(10, 4, generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.SGD([router], lr=0.5)
    first = expert_shares([inputs @ router.t()], WEIGHTS, chosen=1).max().item()
    for _ in range(60):
        optimizer.zero_grad()
        balancing_loss([inputs @ router.t()], WEIGHTS, chosen=1).backward()
        optimizer.step()
    shares = expert_shares([inputs @ router.t()], WEIGHTS, chosen=1)
    assert shares.sum().item() == pytest.approx(1.0)
    assert first > 0.7
    assert shares.max().item() < 0.5


def test_the_router_of_shards_learns_from_the_text() -> None:
    sparse = upcycle(dense(torch.float32), ExpertsPlan())
    sparse(TOKENS, labels=TOKENS).loss.backward()
    slope = sparse.model.layers[0].mlp.gate.weight.grad
    assert slope is not None
    assert slope.abs().max() > 1e-6


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"copies": 1}, "at least 2 copies"),
        ({"copies": 4, "active": 5}, r"active must be in 1\.\.4"),
        ({"shards": 1, "active": 1}, "weight 1 whatever the router says"),
        ({"noise": -0.1}, "must be at least 0"),
    ],
)
def test_what_makes_no_mixture_is_refused(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        ExpertsPlan(**options)


def test_a_model_that_cannot_be_cut_is_refused() -> None:
    with pytest.raises(BuildError, match="3 shards do not divide the inner width of 64"):
        upcycle(dense(), ExpertsPlan(shards=3))
    config = tiny_config()
    config.mlp_bias = True
    with pytest.raises(BuildError, match="has biases"):
        upcycle(LlamaForCausalLM(config), ExpertsPlan())


def test_the_command_writes_a_folder_that_computes_the_same(tmp_path: Path) -> None:
    save_checkpoint(dense(torch.float32), tiny_tokenizer(), tmp_path / "student")
    call = ["build", "experts", str(tmp_path / "student"), "--out", str(tmp_path / "experts")]
    said = CliRunner().invoke(cli, [*call, "--json"], catch_exceptions=False)
    found = json.loads(said.stdout)
    assert (found["experts"], found["chosen"]) == (8, 2)
    assert found["active"] < found["held"]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "experts")
    assert torch.allclose(logits(loaded), logits(dense(torch.float32)), atol=1e-5)
    with pytest.raises(BuildError, match="exists; name another folder"):
        CliRunner().invoke(cli, call, catch_exceptions=False)
    assert CliRunner().invoke(cli, [*call[:-1], str(tmp_path / "new"), "--active", "9"]).exit_code == 2
