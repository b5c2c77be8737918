"""What goes with a base: from a manager's folder, over signed metadata and loopback HTTP, into a home, and back."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from personalize.adapter import Adapter, fresh
from personalize.home import Home
from personalize.pack import DomainPack
from personalize.shelf import Shelf, lines_of
from personalize.trainable import Basis
from sdk.bundle import Bundle
from sdk.cli.app import cli
from sdk.confidence import Calibration
from sdk.confidence.evidence import FEATURES
from sdk.confidence.head import Head
from sdk.device import fitting
from sdk.device.disk import Disk
from sdk.device.extend import Additions
from sdk.device.extras import Extras
from sdk.device.fitting import fit
from sdk.device.install import Updates
from sdk.device.night import base_of
from sdk.device.repository import Source
from sdk.device.router import Router
from sdk.device.slots import Slots
from sdk.errors import AlteredError, ReleaseError, ServerError, SlotError, UnhealthyError, UpdateError
from sdk.extra import FILES, ExtraManifest
from sdk.release import offers
from sdk.release.payload import Payload, open_payload
from tests.power import RecordingDisk, cuts, photographed, played, written_out
from tests.served import PATIENT
from tests.simulators import ANA, BEN, ReleaseHouse, served
from tests.tiny import tiny_bundle

SAID: dict[str, Any] = {"licence": "CC0-1.0", "origin": "made up"}


def in_this_process(task: str, old: Bundle | None, new: Bundle, **order: Any) -> dict[str, Any]:
    """The real examination without a process of its own."""
    from personalize.errors import PersonalizeError
    from sdk.errors import SdkError

    assert task == "fit"
    try:
        return fit(order["extra"], new, Home.open(order["home"]))
    except (SdkError, PersonalizeError) as refused:
        raise UnhealthyError(str(refused)) from refused


@dataclass
class World:
    """A base and another one, managers, a server, and a home on the first base."""

    folder: Path
    base: Bundle
    other: Bundle
    house: ReleaseHouse
    url: str
    active: Bundle

    def additions(self, home: str = "home", disk: Disk | None = None, **settings: Any) -> Additions:
        settings = {"asked": in_this_process, "patience": PATIENT, "on_metered": lambda: None, **settings}
        updates = Updates(Home.open(self.folder / home), factory=lambda: self.active, disk=disk, **settings)
        updates.follow(Source(url=self.url, channel="stable", name="tiny"), self.house.root)
        return Additions(updates)

    def release(self, place: Path, name: str, version: str = "1", **how: Any) -> Payload:
        return self.offer(open_payload(place, name=name, version=version, **SAID, **how))

    def offer(self, payload: Payload, *, per10k: int = 10_000) -> Payload:
        where = {"channel": "adapters", "deltas": {}, "now": self.house.now}
        offers.add(self.house.repository, payload, offers.Offer(per10k=per10k), **where)  # type: ignore[arg-type]
        return self.publish(payload)

    def publish(self, payload: Payload) -> Payload:
        self.house.sign(ANA, BEN)
        self.house.publish()
        return payload

    def revoke(self, name: str, version: str = "1") -> None:
        self.house.revoke(version, name=name, channel="adapters")
        self.house.sign(ANA, BEN)
        self.house.publish()

    def adapter(self, name: str, *, base: Bundle | None = None, size: float = 1e-3, seed: int = 0) -> Path:
        on = base or self.base
        adapter = made(on, size=size, seed=seed)
        adapter.save(self.folder / name)
        return self.folder / name

    def probes(self, name: str, text: str = "A new sentence for the gate.") -> Path:
        row = {"format": "probe/1", "id": "more-0", "leg": "more", "kind": "loss", "prompt": "say", "answer": text}
        file = self.folder / name / "probes.jsonl"
        file.parent.mkdir()
        file.write_text("".join(json.dumps(row | {"id": f"more-{at}"}) + "\n" for at in range(3)))
        return file


def made(base: Bundle, *, size: float, seed: int = 0) -> Adapter:
    on = base_of(base)
    bare = fresh(on.model, on.spec, fits_base=base.base_digest)
    chance = torch.Generator().manual_seed(seed)
    return replace(bare, b={site: size * torch.randn(value.shape, generator=chance) for site, value in bare.b.items()})


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle]:
    folder = tmp_path_factory.mktemp("bases")
    return tiny_bundle(folder, seed=0), tiny_bundle(folder, seed=1)


@pytest.fixture
def world(tmp_path: Path, bases: tuple[Bundle, Bundle]) -> Iterator[World]:
    house = ReleaseHouse(tmp_path / "repository")
    with served(house.repository.folder / "public") as url:
        yield World(tmp_path, *bases, house, url, bases[0])


def pack_at(world: World, name: str) -> Path:
    start = made(world.base, size=1e-3)
    chance = torch.Generator().manual_seed(0)
    directions = {site: torch.randn(4, *value.shape, generator=chance) for site, value in start.b.items()}
    basis = Basis(directions=directions, variance=torch.linspace(1, 0.1, 4))
    DomainPack(start=start, basis=basis).save(world.folder / name)
    return world.folder / name


# --- the whole way ---------------------------------------------------------------------------------------------------


def test_a_released_adapter_answers_on_the_line_of_its_name(world: World) -> None:
    world.release(world.adapter("poems-1"), "poems")
    additions = world.additions()
    assert additions.check("poems").did == "can install"
    assert additions.install("poems").did == "installed"
    label = Shelf(additions.home, "poems").label()
    assert label is not None
    assert label["release"]["version"] == "1"
    assert label["gate"]["admitted"]
    answers = Shelf(additions.home, "poems").load(base_digest=world.base.base_digest)
    assert answers is not None
    assert additions.install("poems").why == "newest"
    assert additions.status()[0]["version"] == "1"


def test_a_released_pack_begins_a_night_and_probes_ask_the_gate_more(world: World) -> None:
    world.release(pack_at(world, "letters-1"), "letters")
    world.release(world.probes("more-1"), "more", for_base=world.base)
    additions = world.additions()
    for name in ("letters", "more"):
        assert additions.install(name).did == "installed"
    plain, taught = base_of(world.base), base_of(world.base, home=additions.home.path)
    assert plain.basis is None
    assert taught.basis is not None
    assert len(taught.basis) == 4
    assert len(taught.probes) == len(plain.probes) + 3
    assert base_of(world.base, home=additions.home.path, pack="letters").start is not None
    assert base_of(world.other, home=additions.home.path).basis is None, "an extra counts only for its base"


def test_a_released_router_goes_before_that_of_the_base_and_there_is_one(world: World) -> None:
    head = Head(features=FEATURES[:1], lows=(0.0,), highs=(9.0,), weights=(1.0,), intercept=0.0)
    kept = Calibration(base_digest=world.base.base_digest, risk=0.05, threshold=0.5, head=head, report={})
    file = world.folder / "router.json"
    file.write_bytes(kept.to_json())
    world.release(file, "route")
    world.release(file, "other")
    additions = world.additions()
    assert Router.of(world.base, additions.home.path).calibration is None
    assert additions.install("route").did == "installed"
    assert Router.of(world.base, additions.home.path).calibration == kept
    with pytest.raises(UpdateError, match="route is the router here"):
        additions.install("other")
    with pytest.raises(ReleaseError, match="no device would take it"):
        open_payload(file, name="route", version="2", for_base=world.other, **SAID)


def test_a_new_version_takes_the_place_of_the_old_one_and_a_rollback_brings_it_back(world: World) -> None:
    world.release(world.adapter("poems-1"), "poems")
    additions = world.additions()
    additions.install("poems")
    before = Shelf(additions.home, "poems").in_use
    world.release(world.adapter("poems-2", seed=1), "poems", "2")
    assert [made.did for made in additions.install_all()] == ["installed"]
    assert additions.status()[0]["version"] == "2"
    assert Shelf(additions.home, "poems").in_use != before
    assert additions.status()[0]["before"] == "1"
    assert additions.roll_back("poems").version == "1"
    assert Shelf(additions.home, "poems").in_use == before
    assert additions.install("poems").why == "failed"


def test_after_an_update_of_the_base_the_release_for_it_is_installed_and_a_rollback_finds_the_old_one(
    world: World,
) -> None:
    world.release(world.probes("more-1"), "more", for_base=world.base)
    world.release(world.probes("more-2"), "more", "2", for_base=world.other)
    additions = world.additions()
    assert additions.install("more").version == "1"
    world.active = world.other
    additions.updates.factory = lambda: world.other
    additions._bases = lambda: iter((world.base, world.other))  # type: ignore[method-assign]
    assert additions.install_all()[0].version == "2"
    world.active = world.base
    additions.updates.factory = lambda: world.base
    assert additions.status()[0]["version"] == "1"


def test_what_no_base_needs_any_more_is_swept(world: World) -> None:
    world.release(world.probes("more-1"), "more", for_base=world.base)
    additions = world.additions()
    additions.install("more")
    assert len([place for place in additions.extras.folder.iterdir() if place.is_dir()]) == 2
    world.active = world.other
    assert additions.install_all()[0].did == "nothing"
    assert [place.name for place in additions.extras.folder.iterdir() if place.is_dir()] == ["downloads"]
    assert additions.extras.products() == ["more"], "it is still looked for"


# --- refused ---------------------------------------------------------------------------------------------------------


def forged(payload: Payload, **changes: Any) -> Payload:
    """A payload as two managers could sign it by mistake: its manifest says what its files do not."""
    manifest = replace(ExtraManifest.parse(payload.manifest), **changes)
    return replace(payload, manifest=manifest.to_json(), base_digest=manifest.base_digest)


def test_an_adapter_of_another_base_is_refused_in_one_line(world: World) -> None:
    world.release(world.adapter("poems-1", base=world.other), "poems")
    additions = world.additions()
    with pytest.raises(UpdateError, match=r"fits base .*, the active base is .*nothing was installed") as refused:
        additions.install("poems")
    assert "\n" not in str(refused.value)
    assert additions.status() == []
    assert lines_of(additions.home) == {}


def test_an_adapter_of_another_base_that_is_signed_for_this_one_fails_its_trial(world: World) -> None:
    payload = open_payload(world.adapter("poems-1", base=world.other), name="poems", version="1", **SAID)
    world.offer(forged(payload, base_digest=world.base.base_digest))
    additions = world.additions()
    with pytest.raises(UnhealthyError, match="was learned on base"):
        additions.install("poems")
    assert additions.install("poems", force=True).why == "failed"
    assert additions.failed()[0]["product"] == "poems"
    assert lines_of(additions.home) == {}


def test_an_adapter_of_another_shape_fails_its_trial(world: World) -> None:
    adapter = made(world.base, size=1e-3)
    site = next(iter(adapter.a))
    replace(adapter, a=dict(adapter.a) | {site: adapter.a[site][:, :-1]}).save(world.folder / "poems-1")
    world.release(world.folder / "poems-1", "poems")
    with pytest.raises(UnhealthyError, match="does not have the shape"):
        world.additions().install("poems")


def test_an_adapter_that_would_forget_is_refused_by_this_persons_gate(world: World) -> None:
    world.release(world.adapter("poems-1", size=30.0), "poems")
    additions = world.additions()
    with pytest.raises(UnhealthyError, match=r"gate refused it|not finite"):
        additions.install("poems")
    assert lines_of(additions.home) == {}
    assert additions.status() == []


def test_without_the_gate_it_would_be_in_use(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant of the test above."""
    from personalize.retention import AdmittedAdapter, Verdict

    def open_gate(home: Any, base: Any, adapter: Adapter, progress: Any) -> Any:
        admitted = object.__new__(AdmittedAdapter)
        admitted.adapter = adapter
        return Verdict(alpha=1.0, legs=()), admitted

    monkeypatch.setattr(fitting, "gated", open_gate)
    world.release(world.adapter("poems-1", size=30.0), "poems")
    assert world.additions().install("poems").did == "installed"


def test_a_manifest_that_differs_from_its_release_is_refused(world: World) -> None:
    payload = open_payload(world.probes("more-1"), name="more", version="1", for_base=world.base, **SAID)
    other = replace(ExtraManifest.parse(payload.manifest), base_digest=world.other.base_digest).to_json()
    world.offer(replace(payload, manifest=other))
    with pytest.raises(UpdateError, match="differs from its release"):
        world.additions().install("more")


@pytest.mark.parametrize("harm", ["flip", "missing"])
def test_a_file_that_is_not_the_signed_one_is_refused_and_later_gone_on_with(world: World, harm: str) -> None:
    payload = world.release(world.probes("more-1"), "more", for_base=world.base)
    file = world.house.repository.target("adapters", payload.files["probes.jsonl"].sha256)
    content = file.read_bytes()
    file.unlink()
    if harm == "flip":
        file.write_bytes(content[:-2] + b"!\n")
    additions = world.additions()
    with pytest.raises((AlteredError, ServerError)):
        additions.install("more")
    assert additions.status() == []
    file.write_bytes(content)
    assert additions.install("more").did == "installed"


def test_a_stopped_rollout_and_a_base_in_the_wrong_channel_are_refused(world: World) -> None:
    payload = open_payload(world.probes("more-1"), name="more", version="1", for_base=world.base, **SAID)
    world.offer(payload, per10k=0)
    assert world.additions().install("more", force=True).why == "stopped"
    with pytest.raises(ReleaseError, match="does not belong"):
        offers.add(world.house.repository, payload, offers.Offer(), channel="stable", deltas={}, now=world.house.now)


@pytest.mark.parametrize("kind", sorted(FILES))
def test_a_manifest_with_another_file_than_those_of_its_kind_is_refused(kind: Any) -> None:
    record = {"sha256": "a" * 64, "bytes": 1}
    fields = {"format": "extra/1", "name": "x", "version": "1", "kind": kind, "base_digest": "sha256:" + "a" * 64}
    files = dict.fromkeys(FILES[kind], record)
    ExtraManifest.parse(json.dumps({**fields, **SAID, "files": files}).encode())
    for more in ("../x.json", "code.py", "model.pkl"):
        with pytest.raises(Exception, match="does not hold"):
            ExtraManifest.parse(json.dumps({**fields, **SAID, "files": files | {more: record}}).encode())


# --- revoked, taught, removed ----------------------------------------------------------------------------------------


def teach(additions: Additions, name: str) -> None:
    """Let a night follow on a line: another adapter with the label of one."""
    shelf, home = Shelf(additions.home, name), additions.home
    adapter = shelf.load(base_digest=additions._base().base_digest)
    assert adapter is not None
    adapter.save(home.adapters / "night-1", extra={"label.json": {"format": "label/1", "adapter": "n", "night": {}}})
    with home.lock():
        home.update_state(lines={name: [*shelf.history, "night-1"]})


def test_a_revoked_adapter_is_left_at_once_with_what_was_learned_on_it(world: World) -> None:
    world.release(world.adapter("poems-1"), "poems")
    additions = world.additions()
    additions.install("poems")
    teach(additions, "poems")
    world.revoke("poems")
    assert additions.install_all()[0].did == "went back"
    assert Shelf(additions.home, "poems").history == ()
    assert additions.status()[0]["version"] is None
    assert not list(additions.home.adapters.iterdir())


def test_a_taught_line_is_not_replaced_and_not_rolled_back(world: World) -> None:
    world.release(world.adapter("poems-1"), "poems")
    additions = world.additions()
    additions.install("poems")
    teach(additions, "poems")
    world.release(world.adapter("poems-2", seed=1), "poems", "2")
    with pytest.raises(UpdateError, match="has learned from you and stays"):
        additions.install("poems")
    with pytest.raises(SlotError, match="has learned from you"):
        additions.roll_back("poems")
    assert Shelf(additions.home, "poems").in_use == "night-1"


def test_without_that_look_the_persons_own_would_be_covered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant of the test above."""
    from sdk.device import extra_run

    world.release(world.adapter("poems-1"), "poems")
    additions = world.additions()
    additions.install("poems")
    teach(additions, "poems")
    world.release(world.adapter("poems-2", seed=1), "poems", "2")
    monkeypatch.setattr(extra_run, "untaught", lambda shelf: True)
    additions.install("poems")
    assert Shelf(additions.home, "poems").in_use != "night-1"


def test_a_removed_product_is_gone_and_not_looked_for(world: World) -> None:
    world.release(world.adapter("poems-1"), "poems")
    additions = world.additions()
    additions.install("poems")
    assert additions.remove("poems").did == "removed"
    assert Shelf(additions.home, "poems").in_use is None
    assert additions.install_all() == []
    with pytest.raises(SlotError, match="is not installed"):
        additions.remove("poems")


def test_an_extra_that_was_changed_on_the_disk_is_not_used(world: World) -> None:
    world.release(world.probes("more-1"), "more", for_base=world.base)
    additions = world.additions()
    additions.install("more")
    (extra,) = additions.extras.in_use("probes", world.base.base_digest)
    (extra.folder / "probes.jsonl").write_text("{}\n")
    with pytest.raises(SlotError, match="more 1 is damaged"):
        base_of(world.base, home=additions.home.path)


# --- power cuts ------------------------------------------------------------------------------------------------------

ASIDE = ("tuf/", "extras/downloads/", "slots/update.lock", "slots/readers/", "learn.lock", "ledger", "experience")


def quick(task: str, old: Bundle | None, new: Bundle, **order: Any) -> dict[str, Any]:
    return {"loss_ratio_ppm": None, "agreement_per10k": None}


class NoFileSync(RecordingDisk):
    """A mutant: files are renamed to their names unsynced."""

    def _fsync(self, handle: int) -> None:
        pass


@pytest.mark.parametrize("kind", [RecordingDisk, NoFileSync])
def test_no_power_cut_during_an_install_leaves_anything_but_the_old_or_the_new_extra(
    world: World, kind: type[RecordingDisk]
) -> None:
    world.release(world.probes("more-1"), "more", for_base=world.base)
    world.additions(asked=quick).install("more")
    world.release(world.probes("more-2", "Another sentence."), "more", "2", for_base=world.base)
    home = world.folder / "home"
    world.additions(asked=quick).check("more")
    before = photographed(home, without=ASIDE)
    disk = kind(home)
    world.additions(disk=disk, asked=quick).install("more")
    wrong, seen = [], set()
    for moment, lost in cuts(disk.steps):
        tree = played(before, disk.steps[:moment], lost)
        if (mark := repr(sorted(tree.items()))) in seen:
            continue
        seen.add(mark)
        written_out(tree, world.folder / "after")
        try:
            with Slots(Home.open(world.folder / "after")).alone():
                (extra,) = Extras(world.folder / "after").in_use("probes", world.base.base_digest)
            assert extra.manifest.version in ("1", "2")
        except (SlotError, ValueError) as cause:
            wrong.append(str(cause))
    assert len(seen) > 10
    assert bool(wrong) == (kind is NoFileSync), wrong[:3]


# --- the command line ------------------------------------------------------------------------------------------------


def test_the_commands_of_a_manager_and_of_a_device_go_the_whole_way(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMBECK_BASE", str(world.base.folder))
    probes, repository = world.probes("more-1"), world.house.repository.folder
    offered = ("--channel", "adapters", "--name", "more", "--version", "1", "--licence", "CC0-1.0", "--origin", "mine")
    said = call(
        "release",
        "add",
        str(repository),
        str(probes),
        *offered,
        "--for-base",
        str(world.base.folder),
        "--percent",
        "100",
    )
    assert "more 1 is offered to 100 % of devices: probes" in said
    world.house.sign(ANA, BEN)
    world.house.publish()
    root = world.folder / "root.json"
    root.write_bytes(world.house.root)
    at = ("--home", str(world.folder / "home"))
    which = ("--channel", "adapters", "--product", "more")
    first = call("device", "check", "--repository", world.url, "--root", str(root), *which, *at)
    assert "more: version 1 can be installed" in first
    monkeypatch.setattr("sdk.device.install.metered", lambda: None)
    assert "more: version 1 is in use" in call("device", "install", *which, *at)
    assert "extra    more (probes), version 1" in call("device", "status", *at)
    facts = json.loads(call("device", "status", "--json", *at))
    assert facts["extras"][0] | {"product": "more", "version": "1"} == facts["extras"][0]
    assert "nothing of it is in use again" in call("device", "rollback", "--product", "more", *at)
    assert "more is removed" in call("device", "remove", "more", *at)


def call(*arguments: str) -> str:
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_an_adapter_needs_a_product_that_can_name_a_line(world: World) -> None:
    with pytest.raises(ReleaseError, match="no name for an extra"):
        world.release(world.adapter("poems-1"), "Poems.1")
