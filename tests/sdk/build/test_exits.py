"""Early exit on a model whose layers really know something early, and on made-up looks with a known answer."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from sdk.build import exits
from sdk.build.checkpoint import save_checkpoint
from sdk.build.exits import Looks, early_exit, look
from sdk.cli.app import cli
from sdk.errors import BuildError
from tests.tiny import SENTENCES, tiny_model, tiny_tokenizer

TOKENS = torch.arange(40).view(2, 20) * 7 % 320


def test_layers_are_read_through_the_norm_and_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exits, "CHUNK", 7)
    model = tiny_model()
    looks = look(model, [TOKENS[:1], TOKENS[1:]], layers=(1,))
    assert looks.layers == (1, 3)
    with torch.no_grad():
        made = model(TOKENS, output_hidden_states=True)
        early = torch.log_softmax(model.lm_head(model.model.norm(made.hidden_states[2][:, :-1])), -1).flatten(0, 1)
        last = torch.log_softmax(made.logits[:, :-1], -1).flatten(0, 1)
    assert torch.allclose(looks.confidence, torch.stack([early.exp().max(-1)[0], last.exp().max(-1)[0]]), atol=1e-6)
    assert torch.equal(looks.agrees[0], early.argmax(-1) == last.argmax(-1))
    assert looks.kl[0].item() == pytest.approx((last.exp() * (last - early)).sum(-1).mean().item(), rel=1e-4)
    assert bool(looks.agrees[1].all())
    assert looks.kl[1].item() == pytest.approx(0.0, abs=1e-6)


def test_layers_that_do_nothing_let_every_sure_token_leave() -> None:
    model = tiny_model()
    with torch.no_grad():
        for layer in model.model.layers[2:]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.norm.weight.mul_(40)  # Sure of everything.
    looks = look(model, [TOKENS], layers=(1, 2))
    assert looks.agreement.tolist() == [1.0, 1.0, 1.0]
    assert looks.kl.abs().max() < 1e-5
    found = early_exit(looks, agreement=0.9)
    assert found.agreement == 1.0
    assert found.leaving == (1.0, 0.0, 0.0)
    assert found.layers_run == 2.0


def made_up(positions: int, seed: int = 0) -> Looks:
    """Confidences that tell the truth: a layer of confidence c agrees with chance c; two layers, then the last."""
    random = torch.Generator().manual_seed(seed)
    confidence = torch.rand(3, positions, generator=random)
    agrees = torch.rand(3, positions, generator=random) < confidence
    agrees[-1] = True
    return Looks(layers=(3, 7, 11), confidence=confidence, agrees=agrees, kl=torch.zeros(3))


@pytest.mark.parametrize("wanted", [0.8, 0.9, 0.97])
def test_the_stated_agreement_holds_where_the_threshold_was_not_fitted(wanted: float) -> None:
    found = early_exit(made_up(20_000), agreement=wanted)
    assert found.agreement == pytest.approx(wanted, abs=0.015)
    # A token leaves at threshold t in either layer; disagreements are (1-t)²/2 at the first, t of that at the second.
    t = found.threshold
    assert 1 - (1 - t) ** 2 / 2 * (1 + t) == pytest.approx(wanted, abs=0.02)
    assert found.leaving == pytest.approx((1 - t, t * (1 - t), t * t), abs=0.02)
    assert found.layers_run == pytest.approx(sum(a * b for a, b in zip(found.leaving, (4, 8, 12), strict=True)))


def test_more_agreement_lets_fewer_leave() -> None:
    looks = made_up(4_000)
    found = [early_exit(looks, agreement=wanted) for wanted in (0.7, 0.8, 0.9, 0.99)]
    assert [one.layers_run for one in found] == sorted(one.layers_run for one in found)


def test_few_positions_let_nobody_leave_at_high_agreement() -> None:
    found = early_exit(made_up(40), agreement=0.99)
    assert found.threshold > 1
    assert found.leaving == (0.0, 0.0, 1.0)
    assert found.agreement == 1.0


def test_a_threshold_fitted_where_confidence_lies_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Confidence taken at its word, instead of fitted, breaks the stated agreement where layers boast."""
    honest = made_up(20_000)
    boasting = Looks(layers=honest.layers, confidence=honest.confidence**0.1, agrees=honest.agrees, kl=honest.kl)
    assert early_exit(boasting, agreement=0.9).agreement == pytest.approx(0.9, abs=0.015)

    def at_its_word(confidence: Tensor, agrees: Tensor, agreement: float) -> float:
        return 2 * agreement - 1  # Mean confidence above t is (1 + t) / 2, where it is uniform.

    monkeypatch.setattr(exits, "_threshold", at_its_word)
    assert early_exit(boasting, agreement=0.9).agreement < 0.88


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="agreement must be in"):
        early_exit(made_up(40), agreement=1.0)
    with pytest.raises(BuildError, match="2 positions are too few"):
        early_exit(made_up(2), agreement=0.9)
    with pytest.raises(BuildError, match="layers 0 to 3"):
        look(tiny_model(), [TOKENS], layers=(9,))
    with pytest.raises(BuildError, match="at least one batch"):
        look(tiny_model(), [])


def test_the_command_measures_a_checkpoint_on_a_file(tmp_path: Path) -> None:
    save_checkpoint(tiny_model(), tiny_tokenizer(), tmp_path / "student")
    text = tmp_path / "text.jsonl"
    text.write_text("".join(json.dumps({"text": sentence * 40}) + "\n" for sentence in SENTENCES), encoding="utf-8")
    call = ["build", "exits", str(tmp_path / "student"), "--text", str(text), "--tokens", "512", "--agreement", "0.9"]
    said = CliRunner().invoke(cli, [*call, "--json"], catch_exceptions=False)
    found = json.loads(said.stdout)
    assert found["positions"] == 2 * 255
    assert [row["layer"] for row in found["layers"]] == [0, 1, 2, 3]
    assert found["layers"][-1]["agreement"] == 1.0
    assert found["exits"][0]["wanted"] == 0.9
    assert "leave early" in CliRunner().invoke(cli, call, catch_exceptions=False).output
