"""Adapters between lines, devices and bases: nothing is charged, nothing answers without the gate, labels tell all."""

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from personalize import exchange, parcel, retention
from personalize.adapter import Adapter, AdapterSpec
from personalize.errors import AdapterError, BaseMismatchError, HomeBusyError, ParcelError
from personalize.exchange import bring_in, carry_over, listed, merge_lines, send_out
from personalize.home import Home
from personalize.learner import Base, open_ledger
from personalize.migrate import MigrationPlan
from personalize.retention import admit
from personalize.shelf import Shelf, gate_uses
from tests.nights import DIGEST, PLAN, SPEC, one_day, opened_learner, taught_model, tiny_base, warm_adapter
from tests.personalize.test_migrate import NEW_DIGEST, renumbered, texts
from tests.tiny import tiny_tokenizer

BASE = tiny_base()
PASSPHRASE = "correct horse battery staple"
CHARGE = {"from": "elsewhere", "epsilon": 1.5, "delta": 1e-5, "unit": "record"}
QUICK = MigrationPlan(texts=60, steps=60, rate=1e-2)


@pytest.fixture(autouse=True)
def quick_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(parcel.SCRYPT, "n", 2**4)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Two lines, each with an adapter that passed the gate."""
    place = Home.open(tmp_path / "home")
    for line, seed, more in (("default", 1, {}), ("work", 2, {"carried": [CHARGE]})):
        put(place, line, warm_adapter(BASE.model, size=0.003, seed=seed), {"night": {"epsilon": 2.0}, **more})
    return place


def put(place: Home, line: str, adapter: Adapter, label: dict[str, Any], base: Base = BASE) -> None:
    _, passed = admit(base.model, current=adapter.scaled(0.0), candidate=adapter, base=base.bare(), probes=base.gate())
    assert passed is not None
    Shelf(place, line).put(passed, f"night-{line}", label)


def new_base(model: Any = None) -> Base:
    return replace(tiny_base(model=model or renumbered()), digest=NEW_DIGEST, rehearsal=texts())


def loaded(place: Home, line: str, digest: str = DIGEST) -> Adapter:
    adapter = Shelf(place, line).load(base_digest=digest)
    assert adapter is not None
    return adapter


def label_of(place: Home, line: str) -> dict[str, Any]:
    label = Shelf(place, line).label()
    assert label is not None
    return label


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A gate that tolerates no drop at all: it refuses whatever changes anything."""
    real = retention.admit

    def strict(*words: Any, **more: Any) -> Any:
        return real(*words, **more, margins=dict.fromkeys(retention.MARGINS, -1e9))

    monkeypatch.setattr(retention, "admit", strict)
    yield
    monkeypatch.undo()


# Merging


def test_a_merge_is_the_weighted_sum_and_its_label_lists_its_parts(home: Home) -> None:
    made = merge_lines(home, BASE, {"default": 0.25, "work": 0.75}, into="both")
    one, other, both = (loaded(home, line) for line in ("default", "work", "both"))
    for site in both.b:
        torch.testing.assert_close(both.b[site], 0.25 * one.b[site] + 0.75 * other.b[site])
    label = label_of(home, "both")
    assert [(part["name"], part["adapter"], part["weight"]) for part in label["merge"]["parts"]] == [
        ("default", "night-default", 0.25),
        ("work", "night-work", 0.75),
    ]
    assert [part["label"]["night"] for part in label["merge"]["parts"]] == [{"epsilon": 2.0}] * 2
    assert label["carried"] == [CHARGE], "what one part carries from another device the sum carries too"
    assert label["gate"]["admitted"]
    assert (made.decision, made.adapter) == ("admitted", Shelf(home, "both").in_use)
    assert made.to_dict()["lost"] == 0.0
    assert made.summary().startswith(f"admitted: both is {made.adapter} now, at alpha 1")


def test_a_merge_may_replace_one_of_its_parts_and_be_rolled_back(home: Home) -> None:
    before = loaded(home, "work")
    merge_lines(home, BASE, {"default": 1.0, "work": 1.0}, into="work")
    assert not torch.equal(next(iter(loaded(home, "work").b.values())), next(iter(before.b.values())))
    assert Shelf(home, "work").roll_back() == "night-work"
    assert torch.equal(next(iter(loaded(home, "work").b.values())), next(iter(before.b.values())))


def test_adapters_on_frames_of_their_own_are_cut_to_the_widest_rank_or_kept_whole(home: Home) -> None:
    own = warm_adapter(BASE.model, size=0.003, seed=5)
    own = replace(own, a={site: value.flip(0) + 0.1 for site, value in own.a.items()}, kind="lora")
    put(home, "other", own, {})
    cut = merge_lines(home, BASE, {"default": 0.5, "other": 0.5}, into="cut")
    whole = merge_lines(home, BASE, {"default": 0.5, "other": 0.5}, into="whole", exact=True)
    assert (cut.facts["rank"], whole.facts["rank"]) == (SPEC.rank, 2 * SPEC.rank)
    assert cut.facts["lost"] > 0.01
    assert whole.facts["lost"] == 0.0
    assert loaded(home, "whole").spec.rank == 2 * SPEC.rank


def test_what_the_gate_refuses_is_not_used(home: Home, refusing: None) -> None:
    made = merge_lines(home, BASE, {"default": 0.5, "work": 0.5}, into="work")
    assert (made.decision, made.adapter) == ("rejected", "night-work")
    assert Shelf(home, "work").history == ("night-work",)
    assert made.summary() == "rejected: it would have forgotten (english, grammar); work is night-work"
    assert merge_lines(home, BASE, {"default": 0.5}, into="new").adapter is None
    assert Shelf(home, "new").history == ()


def test_an_exchange_that_skips_the_gate_would_be_caught(
    home: Home, refusing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = warm_adapter(BASE.model, size=0.003)
    bare = candidate.scaled(0.0)
    generous = retention.admit.__closure__  # The real gate stands in the closure of the strict one.
    assert generous is not None
    real = generous[0].cell_contents
    opened = real(BASE.model, current=bare, candidate=candidate, base=bare, probes=BASE.gate())
    monkeypatch.setattr(exchange, "gated", lambda *seen: opened)
    with pytest.raises(AssertionError):
        test_what_the_gate_refuses_is_not_used(home, None)


def test_every_use_of_the_gate_is_a_look_of_its_own(home: Home) -> None:
    looks = [merge_lines(home, BASE, {"default": 1.0}, into="a").to_dict()["look"] for _ in range(3)]
    assert (looks, gate_uses(home)) == ([1, 2, 3], 3)
    learner = opened_learner(home.path, BASE)
    learner.remember(one_day())
    learner.learn(PLAN)
    learner.close()
    assert merge_lines(home, BASE, {"default": 1.0}, into="a").to_dict()["look"] == 5


def test_a_label_that_cannot_be_read_stops_a_night_before_it_is_charged(home: Home) -> None:
    (home.adapters / "night-default" / "label.json").write_text("{")
    learner = opened_learner(home.path, BASE)
    learner.remember(one_day())
    with pytest.raises(AdapterError, match="the label of adapter night-default cannot be read"):
        learner.learn(PLAN)
    assert learner.ledger.spent() == 0.0
    learner.close()


def test_a_line_without_an_adapter_is_refused(home: Home) -> None:
    with pytest.raises(AdapterError, match="adapter nobody has learned nothing yet; `limbeck adapter list` names"):
        merge_lines(home, BASE, {"default": 0.5, "nobody": 0.5}, into="both")
    assert gate_uses(home) == 0


# Nothing is charged, one process at a time


def test_nothing_is_charged(home: Home, tmp_path: Path) -> None:
    ledger = open_ledger(home)
    before = [entry.facts() for entry in ledger.entries()]
    ledger.disconnect()
    merge_lines(home, BASE, {"default": 1.0}, into="both")
    send_out(home, tmp_path / "file", base_digest=DIGEST, passphrase=PASSPHRASE)
    bring_in(home, BASE, tmp_path / "file", passphrase=PASSPHRASE, into="back")
    carry_over(home, BASE, new_base(), line="work", plan=QUICK)
    ledger = open_ledger(home)
    assert [entry.facts() for entry in ledger.entries()] == before
    ledger.disconnect()


def test_while_another_process_learns_nothing_is_changed(home: Home, tmp_path: Path) -> None:
    with home.lock(), pytest.raises(HomeBusyError):
        merge_lines(home, BASE, {"default": 1.0}, into="both")
    with home.lock(), pytest.raises(HomeBusyError):
        bring_in(home, BASE, tmp_path / "file", passphrase=PASSPHRASE)
    with home.lock(), pytest.raises(HomeBusyError):
        carry_over(home, BASE, new_base())


# Between devices


def test_an_adapter_goes_to_another_device_with_what_it_cost(home: Home, tmp_path: Path) -> None:
    learner = opened_learner(home.path, BASE)
    learner.remember(one_day())
    report = learner.learn(PLAN)
    learner.close()
    sent = send_out(home, tmp_path / "file", base_digest=DIGEST, passphrase=PASSPHRASE)
    assert sent["charge"]["epsilon"] == pytest.approx(report.epsilon)
    away = Home.open(tmp_path / "away")
    made = bring_in(away, BASE, tmp_path / "file", passphrase=PASSPHRASE, into="phone")
    assert made.decision == "admitted"
    for site, value in loaded(home, "default").b.items():
        torch.testing.assert_close(loaded(away, "phone").b[site], made.verdict.alpha * value)  # type: ignore[union-attr]
    label = label_of(away, "phone")
    assert label["carried"] == [sent["charge"]]
    assert label["import"]["label"]["night"]["epsilon"] == pytest.approx(report.epsilon)
    ledger = open_ledger(away)
    assert ledger.spent() == 0.0, "the other device's records are not in this ledger: the label says what they cost"
    ledger.disconnect()
    away_learner = opened_learner(away.path, BASE)
    away_learner.remember(one_day())
    away_learner.close()


def test_a_chain_of_devices_keeps_every_charge(home: Home, tmp_path: Path) -> None:
    send_out(home, tmp_path / "one", base_digest=DIGEST, passphrase=PASSPHRASE, line="work")
    second, third = Home.open(tmp_path / "second"), Home.open(tmp_path / "third")
    bring_in(second, BASE, tmp_path / "one", passphrase=PASSPHRASE)
    send_out(second, tmp_path / "two", base_digest=DIGEST, passphrase=PASSPHRASE)
    bring_in(third, BASE, tmp_path / "two", passphrase=PASSPHRASE)
    carried = label_of(third, "default")["carried"]
    assert carried[0] == CHARGE
    assert len(carried) == len({charge["from"] for charge in carried}) == 3


def test_what_this_gate_refuses_of_another_device_is_not_used(home: Home, tmp_path: Path, refusing: None) -> None:
    send_out(home, tmp_path / "file", base_digest=DIGEST, passphrase=PASSPHRASE)
    made = bring_in(home, BASE, tmp_path / "file", passphrase=PASSPHRASE, into="work")
    assert (made.decision, Shelf(home, "work").in_use) == ("rejected", "night-work")


def test_a_file_for_another_base_or_of_other_layers_is_refused(home: Home, tmp_path: Path) -> None:
    send_out(home, tmp_path / "file", base_digest=DIGEST, passphrase=PASSPHRASE)
    with pytest.raises(BaseMismatchError):
        bring_in(home, new_base(), tmp_path / "file", passphrase=PASSPHRASE)
    elsewhere = replace(tiny_base(), spec=AdapterSpec(layers=(1, 2), rank=3))
    with pytest.raises(
        AdapterError, match="sits on layers 2 to 3, this version learns on 1 to 2; use the same version"
    ):
        bring_in(home, elsewhere, tmp_path / "file", passphrase=PASSPHRASE)
    with pytest.raises(ParcelError):
        bring_in(home, BASE, tmp_path / "file", passphrase="something else entirely")
    assert gate_uses(home) == 0


def test_a_file_whose_label_does_not_say_what_it_cost_is_refused(home: Home, tmp_path: Path) -> None:
    parcel.write_parcel(tmp_path / "file", loaded(home, "work"), {"label": {}}, passphrase=PASSPHRASE)
    with pytest.raises(AdapterError, match="does not say what it cost; export it again"):
        bring_in(home, BASE, tmp_path / "file", passphrase=PASSPHRASE)


def test_there_is_nothing_to_send_from_a_new_home(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="has learned nothing yet, so there is nothing to export; learn first"):
        send_out(Home.open(tmp_path / "new"), tmp_path / "file", base_digest=DIGEST, passphrase=PASSPHRASE)
    assert not (tmp_path / "file").exists()


# A new base


def test_an_adapter_goes_over_to_a_new_base_and_says_what_survived(home: Home) -> None:
    made = carry_over(home, BASE, new_base(), line="work", plan=QUICK)
    assert (made.decision, made.facts["way"]) == ("admitted", "distil")
    assert made.facts["own_gain"].startswith("not measured")
    adapter = loaded(home, "work", NEW_DIGEST)
    assert adapter.spec == SPEC
    label = label_of(home, "work")
    assert label["migration"]["kept"] == made.facts["kept"]
    assert (label["migration"]["from_base"], label["migration"]["from_adapter"]) == (DIGEST, "night-work")
    assert (label["night"], label["carried"]) == ({"epsilon": 2.0}, [CHARGE]), "what it cost it still cost"
    assert Shelf(home, "work").history[:-1] == ("night-work",)
    assert loaded(home, "default").fits_base == DIGEST, "the other line was not asked for"


def test_on_the_same_weights_it_is_kept_as_it_is(home: Home) -> None:
    before = loaded(home, "work")
    made = carry_over(home, BASE, new_base(copy.deepcopy(taught_model())), line="work", plan=QUICK)
    assert (made.decision, made.facts["way"]) == ("admitted", "keep")
    assert made.facts["kept"] == pytest.approx(1.0, abs=1e-6)
    after = loaded(home, "work", NEW_DIGEST)
    assert all(torch.equal(after.b[site], value) for site, value in before.b.items())


def test_what_the_new_gate_refuses_is_dropped_and_the_bare_base_answers(home: Home, refusing: None) -> None:
    made = carry_over(home, BASE, new_base(), line="work", plan=QUICK)
    assert (made.decision, made.adapter) == ("dropped", None)
    assert made.summary() == "dropped: it would have forgotten (english, grammar); work is the bare base"
    shelf = Shelf(home, "work")
    assert shelf.load(base_digest=NEW_DIGEST) is None
    assert shelf.roll_back() == "night-work", "back on the old base the old adapter answers again"


def test_another_tokenizer_drops_it_with_one_line(home: Home) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<|new|>"])
    made = carry_over(home, BASE, replace(new_base(), tokenizer=tokenizer), line="work", plan=QUICK)
    assert made.summary().startswith("dropped: the new base cuts text into other tokens, so nothing carries over")
    assert made.to_dict()["decision"] == "dropped"
    assert (Shelf(home, "work").in_use, gate_uses(home)) == (None, 0)


def test_an_old_base_that_the_adapter_does_not_fit_is_refused(home: Home) -> None:
    with pytest.raises(BaseMismatchError):
        carry_over(home, new_base(), new_base(), line="work", plan=QUICK)
    with pytest.raises(AdapterError, match="has learned nothing yet, so there is nothing to migrate"):
        carry_over(home, BASE, new_base(), line="nobody", plan=QUICK)


# What there is


def test_the_list_names_every_line_and_the_chosen_one(home: Home) -> None:
    Shelf(home, "work").select()
    rows = listed(home)
    assert [(row["name"], row["chosen"], row["in_use"]) for row in rows] == [
        ("default", False, "night-default"),
        ("work", True, "night-work"),
    ]
    json.dumps(rows)
    Shelf(home, "new").select()
    assert [row["name"] for row in listed(home)] == ["default", "new", "work"]
