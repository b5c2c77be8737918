"""Every row of the threat model in docs/updates.md: the attack on real files over loopback HTTP, and its named refusal.

The attacker writes to the server and has some keys; the device is the product's, only the trial of the model is
replaced where no model is needed. After every refusal the active bundle is what it was.
"""

import io
import json
import os
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Targets

from personalize.adapter import fresh
from personalize.errors import BaseMismatchError
from personalize.home import Home
from sdk.bundle import Bundle
from sdk.catalogue import Health, Rollout
from sdk.device import fetch
from sdk.device.choose import Device, choose
from sdk.device.disk import Disk
from sdk.device.health import examine
from sdk.device.install import Updates
from sdk.device.night import base_of
from sdk.device.repository import Repository, Source
from sdk.errors import (
    AlteredError,
    BundleError,
    ClockError,
    ExpiredError,
    PatchError,
    ReplayedError,
    ServerError,
    SlotError,
    SlowServerError,
    UnhealthyError,
    UntrustedError,
    UpdateBusyError,
    UpdateError,
)
from sdk.patch import rebuild
from sdk.release.delta import make_delta
from tests.forked import needs_fork, run_forked
from tests.served import PATIENT, QUICK, Fault, Served, device, digest, numbers_bundle, served
from tests.tiny import tiny_bundle, tiny_model


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle, Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    one, two, three = (numbers_bundle(folder / name, version=name, moved=int(name) * 99) for name in ("1", "2", "3"))
    return one, two, three


@pytest.fixture
def repository(tmp_path: Path, bundles: tuple[Bundle, Bundle, Bundle]) -> Iterator[Served]:
    """Version 1, which devices have from the factory, and version 2, published."""
    with served(Served(tmp_path / "repository")) as repository:
        repository.add(bundles[0])
        repository.add(bundles[1])
        repository.publish()
        yield repository


@pytest.fixture
def updates(repository: Served, bundles: tuple[Bundle, Bundle, Bundle], tmp_path: Path) -> Updates:
    return device(tmp_path / "home", repository, bundles[0])


def active(updates: Updates) -> str:
    bundle = updates.active()
    assert bundle is not None
    return Bundle.open(bundle.folder, verify="digests").manifest.version


def refused(updates: Updates, kind: type[Exception], words: str, *, stays: str = "1") -> None:
    """The install is refused by that name, in one line, and the active bundle is whole and the same."""
    with pytest.raises(kind, match=words) as refusal:
        updates.install()
    assert type(refusal.value) is kind
    assert "\n" not in str(refusal.value)
    assert active(updates) == stays


def test_without_an_attack_version_2_is_installed(updates: Updates) -> None:
    assert updates.install().did == "installed"
    assert active(updates) == "2"


# --- stolen online keys ----------------------------------------------------------------------------------------------


def test_who_has_the_online_keys_cannot_make_targets(repository: Served, updates: Updates) -> None:
    repository.publish(channel_keys=[repository.online, repository.online])
    refused(updates, UntrustedError, "too few keys")


def test_who_has_the_online_keys_can_only_stall_and_a_new_root_ends_it(repository: Served, updates: Updates) -> None:
    """Fast-forward: a version near the end of time is accepted, everything later is a replay, until root rotates."""
    updates.check()
    repository.point(version=1, timestamp_version=2**31)
    updates.check()
    repository.publish()
    refused(updates, ReplayedError, "older metadata")
    stolen, repository.online = repository.online, CryptoSigner.generate_ed25519()
    for role in ("timestamp", "snapshot"):
        repository.root.revoke_key(stolen.public_key.keyid, role)
        repository.root.add_key(repository.online.public_key, role)
    repository.root.version = 2
    repository.write_root()
    repository.publish()
    assert updates.install().did == "installed"


# --- one release manager ---------------------------------------------------------------------------------------------


def test_one_manager_of_three_publishes_nothing(repository: Served, updates: Updates) -> None:
    repository.publish(signers=1)
    refused(updates, UntrustedError, "too few keys")


def test_one_manager_signing_twice_is_still_one(repository: Served, updates: Updates) -> None:
    repository.publish(channel_keys=[repository.channel_keys[0], repository.channel_keys[0]])
    refused(updates, UntrustedError, "too few keys")


def test_one_keeper_of_the_root_of_three_changes_no_root(repository: Served, updates: Updates) -> None:
    repository.root.version = 2
    repository.write_root(signers=1)
    refused(updates, UntrustedError, "too few keys")


def test_a_revoked_key_signs_nothing_any_more(repository: Served, updates: Updates) -> None:
    updates.check()
    fallen = repository.targets_keys[0]
    repository.root.revoke_key(fallen.public_key.keyid, "targets")
    repository.targets_keys[0] = CryptoSigner.generate_ed25519()
    repository.root.add_key(repository.targets_keys[0].public_key, "targets")
    repository.root.version = 2
    repository.write_root()
    true, repository.targets_keys = repository.targets_keys, [fallen, repository.targets_keys[1]]
    repository.publish()
    refused(updates, UntrustedError, "too few keys")
    repository.targets_keys = true
    repository.publish()
    assert updates.install().did == "installed"


# --- replay, freeze, mix and match -----------------------------------------------------------------------------------


def test_an_old_timestamp_is_a_replay(repository: Served, updates: Updates) -> None:
    old = (repository.folder / "metadata" / "timestamp.json").read_bytes()
    repository.publish()
    updates.check()
    (repository.folder / "metadata" / "timestamp.json").write_bytes(old)
    refused(updates, ReplayedError, "older metadata")


def test_a_snapshot_that_lists_older_targets_is_a_replay(repository: Served, updates: Updates) -> None:
    repository.publish()
    updates.check()
    repository.version = 3
    repository.point(version=1)
    refused(updates, ReplayedError, "older metadata")


def test_old_targets_under_a_new_name_are_mixed_and_refused(repository: Served, updates: Updates) -> None:
    repository.publish()
    folder = repository.folder / "metadata"
    (folder / "2.stable.json").write_bytes((folder / "1.stable.json").read_bytes())
    refused(updates, ReplayedError, "older metadata")


def test_a_frozen_server_is_seen_when_its_date_has_passed(repository: Served, updates: Updates) -> None:
    repository.publish(expires=datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=5))
    refused(updates, ExpiredError, "past their date")


def test_a_signed_field_that_was_touched_is_refused(repository: Served, updates: Updates) -> None:
    file = repository.folder / "metadata" / "1.stable.json"
    file.write_bytes(file.read_bytes().replace(b'"per10k": 10000', b'"per10k": 10001').replace(b":10000", b":10001"))
    refused(updates, UntrustedError, "too few keys")


# --- tampered, endless and slow data ---------------------------------------------------------------------------------


def weights(repository: Served, bundle: Bundle) -> Path:
    return repository.path_of(bundle.manifest.files["checkpoint/model.safetensors"].sha256)


def test_a_flipped_bit_is_refused_and_the_file_is_gone(
    repository: Served, updates: Updates, bundles: tuple[Bundle, Bundle, Bundle]
) -> None:
    file = weights(repository, bundles[1])
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    refused(updates, AlteredError, "another content than was signed")
    assert not list((updates.home.path / "downloads").glob("*.part"))


def test_more_than_was_signed_is_refused(
    repository: Served, updates: Updates, bundles: tuple[Bundle, Bundle, Bundle]
) -> None:
    file = weights(repository, bundles[1])
    file.write_bytes(file.read_bytes() + bytes(1000))
    refused(updates, AlteredError, "more than the")


def test_metadata_without_end_are_left(repository: Served, updates: Updates) -> None:
    (repository.folder / "metadata" / "timestamp.json").write_bytes(b"{" + b" " * 1_000_000)
    refused(updates, SlowServerError, "without end")


@pytest.mark.parametrize("pieces_taken", [0, 1])
def test_what_is_half_read_is_closed_with_the_server(repository: Served, pieces_taken: int) -> None:
    (repository.folder / "metadata" / "large.json").write_bytes(bytes(1_000_000))
    server = fetch.WebServer()
    _, pieces = server.open_at(f"{repository.url}/metadata/large.json", 0)
    for _ in range(pieces_taken):
        next(pieces)
    (answer,) = server._answers
    assert not answer.closed
    server.close()
    assert answer.closed


ENDLESS_SECONDS = 60.0  # What a server that never ends would hold the device, if it let itself be held.


def stall(request: BaseHTTPRequestHandler, body: bytes, start: int) -> bool:
    """Send half of the file, then nothing."""
    request.send_response(200)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body[: len(body) // 2])
    request.wfile.flush()
    request.connection.settimeout(ENDLESS_SECONDS)
    with suppress(OSError):
        request.connection.recv(1)  # Until the device leaves.
    return True


def trickle(request: BaseHTTPRequestHandler, body: bytes, start: int, *, seconds: float = ENDLESS_SECONDS) -> bool:
    """Send a byte now and then, always within the patience for one piece, until the device leaves or the time is up."""
    request.send_response(200)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    with suppress(OSError):
        for at in range(round(seconds / 0.02)):
            request.wfile.write(body[at : at + 1])
            request.wfile.flush()
            time.sleep(0.02)
    return True


@pytest.mark.parametrize("fault", [stall, trickle])
@pytest.mark.parametrize("where", ["targets/", "timestamp.json"])
def test_a_server_that_stalls_or_trickles_is_left(
    repository: Served, bundles: tuple[Bundle, Bundle, Bundle], tmp_path: Path, fault: Fault, where: str
) -> None:
    updates = device(tmp_path / "home", repository, bundles[0], patience=QUICK)
    repository.faults[where] = fault
    begun = time.monotonic()
    refused(updates, SlowServerError, "fails|too slowly")
    assert time.monotonic() - begun < ENDLESS_SECONDS / 2


def test_a_trickle_goes_on_for_ever_without_a_least_rate(
    repository: Served, bundles: tuple[Bundle, Bundle, Bundle], tmp_path: Path
) -> None:
    """The mutant: patience without a least rate endures the whole trickle; only the end of the data stops it."""
    repository.faults["timestamp.json"] = partial(trickle, seconds=0.6)
    patience = fetch.Patience(seconds=60, grace_seconds=0.0, bytes_per_second=0.0, pause_seconds=0.001)
    with pytest.raises(ServerError) as ended:
        device(tmp_path / "other", repository, bundles[0], patience=patience).install()
    assert type(ended.value) is ServerError


# --- deltas ----------------------------------------------------------------------------------------------------------


def with_delta(repository: Served, bundles: tuple[Bundle, Bundle, Bundle], content: bytes) -> None:
    """Publish version 2 again, now with those bytes as the signed delta from version 1."""
    repository.releases = [
        replace(repository.releases[0], deltas={digest(bundles[0]): repository.put(content)}),
        *repository.releases[1:],
    ]
    repository.publish()


def test_a_delta_saves_the_download(
    repository: Served, updates: Updates, bundles: tuple[Bundle, Bundle, Bundle], tmp_path: Path
) -> None:
    make_delta(bundles[0], bundles[1], tmp_path / "delta")
    with_delta(repository, bundles, (tmp_path / "delta").read_bytes())
    made = updates.install()
    assert "from a delta" in made.words
    assert made.fetched_bytes < made.bundle_bytes / 4
    assert active(updates) == "2"


@pytest.mark.parametrize("harm", ["garbage", "cut", "other base", "bomb"])
def test_a_signed_but_bad_delta_is_replaced_by_whole_files(
    repository: Served, updates: Updates, bundles: tuple[Bundle, Bundle, Bundle], tmp_path: Path, harm: str
) -> None:
    pair = (bundles[2], bundles[1]) if harm == "other base" else (bundles[0], bundles[1])
    make_delta(*pair, tmp_path / "delta")
    whole = (tmp_path / "delta").read_bytes()
    bad = {"garbage": bytes(300), "cut": whole[:-9], "other base": whole, "bomb": whole + whole[-300:]}[harm]
    if harm == "bomb":  # A frame that says it makes more than its file: the index still claims the old sizes.
        bad = whole[:16] + (2**31).to_bytes(4, "little") + whole[20:]
    with_delta(repository, bundles, bad)
    made = updates.install()
    assert "the delta did not fit" in made.words
    assert active(updates) == "2"


def test_without_the_fall_back_a_bad_delta_would_stop_the_update(
    repository: Served,
    updates: Updates,
    bundles: tuple[Bundle, Bundle, Bundle],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The mutant: the refusal of the patch is passed on."""
    from sdk.device.run import Run

    def rebuild_only(run: Run) -> None:
        assert run._delta is not None
        assert run._old is not None
        run._stage(rebuild(run._downloads.folder / run._delta, run._old, run._manifest))

    with_delta(repository, bundles, bytes(300))
    monkeypatch.setattr(Run, "_rebuild", rebuild_only)
    with pytest.raises(PatchError):
        updates.install()
    assert active(updates) == "1"


# --- names, links and kinds of files ---------------------------------------------------------------------------------


def hostile(kind: str, file: Path, repository: Served) -> Path:
    """A good offline file with one member more."""
    repository.tar(file)
    with tarfile.open(file, "a") as archive:
        names = {"traversal": "metadata/../../owned", "absolute": "/tmp/owned", "elsewhere": "bin/sh", "twice": ""}
        member = tarfile.TarInfo(names.get(kind, "targets/owned") or archive.getnames()[0])
        if kind in ("symlink", "hardlink", "device"):
            member.type = {"symlink": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}[kind]
            member.linkname = "/etc/passwd"
            archive.addfile(member)
        else:
            member.size = 5
            archive.addfile(member, io.BytesIO(b"owned"))
    return file


@pytest.mark.parametrize("kind", ["traversal", "absolute", "elsewhere", "twice", "symlink", "hardlink", "device"])
def test_a_hostile_member_of_an_offline_file_is_refused(
    repository: Served, updates: Updates, tmp_path: Path, kind: str
) -> None:
    with pytest.raises(AlteredError, match="which no release holds"):
        updates.install(carried=hostile(kind, tmp_path / "offline.tar", repository))
    assert active(updates) == "1"
    assert not list(tmp_path.rglob("owned"))


@pytest.mark.parametrize(
    "name", ["checkpoint/model.pkl", "../outside.json", "a/../../b.json", "code.py", ".hidden.json"]
)
def test_a_signed_manifest_with_a_name_that_no_bundle_has_is_refused(
    repository: Served, updates: Updates, bundles: tuple[Bundle, Bundle, Bundle], name: str
) -> None:
    """Also a pickle that was signed by two managers is never written to the disk, let alone loaded."""
    fields = json.loads(bundles[1].manifest.to_json())
    fields["files"][name] = {"sha256": repository.put(b"cos\nsystem\n"), "bytes": 11}
    manifest = repository.put((json.dumps(fields, indent=2) + "\n").encode())
    repository.releases[0] = replace(repository.releases[0], manifest=manifest)
    repository.publish()
    refused(updates, UpdateError, "allowed in a bundle|never holds")
    assert not list(updates.home.path.rglob("*.pkl"))


def test_a_link_that_appears_in_a_slot_is_refused(updates: Updates, tmp_path: Path) -> None:
    updates.install()
    bundle = updates.active()
    assert bundle is not None
    (bundle.folder / "more.json").symlink_to("/etc/passwd")
    with pytest.raises(BundleError, match="is a link"):
        Bundle.open(bundle.folder)


def test_a_file_that_is_named_but_not_signed_is_refused(
    repository: Served, updates: Updates, bundles: tuple[Bundle, Bundle, Bundle]
) -> None:
    del repository.files[bundles[1].manifest.files["checkpoint/model.safetensors"].sha256]
    repository.publish()
    refused(updates, UntrustedError, "named by the release but not signed")


# --- a bad but signed model ------------------------------------------------------------------------------------------


def real(tmp_path: Path, repository: Served, health: Health, spoil: Callable[[Path], None]) -> Updates:
    """A device on a tiny model and a release of another one, spoiled before it was signed; the trial is real."""
    from sdk.bundle import write_manifest
    from sdk.device.trial import ask

    old, new = tiny_bundle(tmp_path, seed=0), tiny_bundle(tmp_path, seed=1)
    spoil(new.checkpoint)
    (new.folder / "manifest.json").unlink()
    new = write_manifest(
        new.folder, name="tiny", version="bad", base_id="tiny", licence="Apache-2.0", origin="random numbers"
    )
    repository.releases = []
    repository.add(old)
    repository.add(new, health=health)
    repository.publish()
    return device(tmp_path / "home of a model", repository, old, asked=ask)


def nothing(checkpoint: Path) -> None:
    """Leave the model as it is."""


def make_nan(checkpoint: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(checkpoint / "model.safetensors")
    next(iter(tensors.values()))[:] = float("nan")
    save_file(tensors, checkpoint / "model.safetensors")


LARGE = Health(loss_ratio_ppm=10_000_000, agreement_per10k=0, seconds=120, memory_mb=8_000)


@pytest.mark.parametrize(
    ("spoil", "health", "words"),
    [
        (nothing, replace(LARGE, seconds=1), "took over 1 seconds"),
        (nothing, replace(LARGE, memory_mb=30), "at most 30 MB are allowed"),
    ],
)
def test_a_bad_but_signed_model_fails_its_trial_and_is_remembered(
    tmp_path: Path, repository: Served, spoil: Callable[[Path], None], health: Health, words: str
) -> None:
    updates = real(tmp_path, repository, health, spoil)
    refused(updates, UnhealthyError, words, stays="0")
    again = updates.install(force=True)
    assert (again.did, again.why) == ("nothing", "failed")
    assert updates.status()["failed"][0]["version"] == "bad"
    assert active(updates) == "0"


def test_a_model_that_computes_nonsense_fails_its_trial(tmp_path: Path, repository: Served) -> None:
    """Examined in this process, because it needs no limits; the other tests start the process."""

    def here(task: str, old: Bundle, new: Bundle, **limits: object) -> dict[str, object]:
        return vars(examine(old, new))

    updates = real(tmp_path, repository, LARGE, make_nan)
    updates.asked = here
    refused(updates, UnhealthyError, "not finite", stays="0")


def test_a_process_that_dies_without_a_word_is_a_failed_trial(
    tmp_path: Path, repository: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the system kills it for its memory."""
    from sdk.device import trial

    monkeypatch.setattr(trial, "PROGRAM", ("/bin/sh", "-c", "kill -9 $$"))
    refused(real(tmp_path, repository, LARGE, nothing), UnhealthyError, "signal 9", stays="0")


# --- rollout, clock, adapters, two updaters --------------------------------------------------------------------------


def test_a_stopped_rollout_reaches_nobody_not_even_who_forces_it(repository: Served, updates: Updates) -> None:
    repository.releases[0] = replace(
        repository.releases[0], rollout=Rollout(salt=repository.releases[0].rollout.salt, per10k=0)
    )
    repository.publish()
    for force in (False, True):
        made = updates.install(force=force)
        assert (made.did, made.why) == ("nothing", "stopped")
    assert active(updates) == "1"


def test_a_clock_that_was_set_back_does_not_thaw_old_metadata(
    repository: Served, bundles: tuple[Bundle, Bundle, Bundle], tmp_path: Path
) -> None:
    moment = [datetime.now(UTC)]
    updates = device(tmp_path / "home", repository, bundles[0], clock=lambda: moment[0])
    updates.check()
    moment[0] -= timedelta(days=30)
    refused(updates, ClockError, "set it right")
    moment[0] += timedelta(days=30)
    assert updates.install().did == "installed"


def test_an_adapter_is_not_loaded_on_another_base(tmp_path: Path) -> None:
    old, new = tiny_bundle(tmp_path, seed=0), tiny_bundle(tmp_path, seed=1)
    adapter = fresh(tiny_model(seed=0), base_of(old).spec, fits_base=old.base_digest)
    adapter.save(tmp_path / "mine")
    with pytest.raises(BaseMismatchError, match="install the base it fits"):
        type(adapter).load(tmp_path / "mine", base_digest=new.base_digest)


@needs_fork
def test_a_second_updater_is_refused_while_the_first_one_works(
    repository: Served, updates: Updates, bundles: tuple[Bundle, Bundle, Bundle], tmp_path: Path
) -> None:
    with updates.slots.alone():

        def second() -> None:
            with pytest.raises(UpdateBusyError, match="another process updates"):
                device(tmp_path / "home", repository, bundles[0]).install()

        assert run_forked(second) == 0
    assert updates.install().did == "installed"


# --- tracking --------------------------------------------------------------------------------------------------------


def test_devices_send_the_same_requests_byte_for_byte(
    repository: Served, bundles: tuple[Bundle, Bundle, Bundle], tmp_path: Path
) -> None:
    """Every device has another random name, another time and another home; nothing of it is in what it sends."""
    seen = set()
    for number in range(12):
        updates = device(tmp_path / f"home {number}", repository, bundles[0])
        repository.requests.clear()
        updates.install()
        seen.add(json.dumps(repository.requests))
        assert updates.slots.state()["device"] not in json.dumps(repository.requests)
    assert len(seen) == 1
    assert {name for _, headers in repository.requests for name in headers} == {
        "Host",
        "User-Agent",
        "Accept-Encoding",
    }


class Unsynced(Disk):
    """A disk without waiting: what is sent does not hang on it."""

    def _fsync(self, handle: int) -> None:
        pass

    def _fsync_folder(self, handle: int, folder: Path) -> None:
        pass


def test_a_thousand_devices_ask_alike_whatever_their_bucket(
    repository: Served, bundles: tuple[Bundle, Bundle, Bundle], tmp_path: Path
) -> None:
    """Every look at a rollout of 25 %, by the product's own code over HTTP: the same requests, in the same order.

    Some of them here; LIMBECK_EVERY_STEP takes the thousand, in half a minute.
    """
    devices = 1_000 if os.environ.get("LIMBECK_EVERY_STEP") else 60
    repository.releases[0] = replace(repository.releases[0], rollout=Rollout(salt="00112233445566aa", per10k=2_500))
    repository.publish()
    source = Source(url=repository.url, channel="stable", name=repository.name)
    source.keep(tmp_path / "tuf", repository.first_root, Disk())
    seen, reached = set(), 0
    for number in range(devices):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "tuf", folder)
        repository.requests.clear()
        look = Repository(folder, source, disk=Unsynced(), patience=PATIENT)
        name = f"{number:032x}"
        mine = Device(name=name, active=digest(bundles[0]), sequence=1, failed=(), sdk="9", memory_mb=1, hardware="x")
        reached += choose(look.catalogue(), mine).why == "new"
        look.close()
        seen.add(json.dumps(repository.requests))
    assert len(seen) == 1, "two devices can be told apart"
    assert abs(reached - devices / 4) < 4 * (devices * 3 / 16) ** 0.5, "within four standard deviations"
    (asked,) = seen
    assert len(json.loads(asked)) == 5
    assert [path.rpartition("/")[2] for path, _ in json.loads(asked)] == [
        "2.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json", "2.stable.json",
    ]  # fmt: skip


def test_a_name_in_a_header_would_be_seen(
    repository: Served, bundles: tuple[Bundle, Bundle, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant of the test above."""
    seen = set()
    for number in range(2):
        monkeypatch.setitem(fetch.HEADERS, "X-Device", str(number))
        updates = device(tmp_path / f"home {number}", repository, bundles[0])
        repository.requests.clear()
        updates.install()
        seen.add(json.dumps(repository.requests))
    assert len(seen) == 2


# --- servers that are none -------------------------------------------------------------------------------------------


def test_a_server_that_is_down_is_one_line(repository: Served, updates: Updates, tmp_path: Path) -> None:
    with served(Served(tmp_path / "gone")) as gone:
        gone.publish()
        other = device(tmp_path / "other", gone, None)
    with pytest.raises(ServerError, match="does not serve a repository"):
        other.install()


def test_a_page_of_html_is_no_metadata(repository: Served, updates: Updates) -> None:
    (repository.folder / "metadata" / "timestamp.json").write_text("<html>Sign in to the hotel's network</html>")
    refused(updates, ServerError, "something that is no metadata")


def test_a_half_uploaded_release_is_refused_and_later_gone_on_with(
    repository: Served, updates: Updates, bundles: tuple[Bundle, Bundle, Bundle]
) -> None:
    file = weights(repository, bundles[1])
    content = file.read_bytes()
    file.unlink()
    refused(updates, ServerError, "answers 404")
    file.write_bytes(content)
    assert updates.install().did == "installed"


def test_another_format_and_another_product_are_refused(repository: Served, updates: Updates) -> None:
    repository.publish(custom=repository.catalogue() | {"format": "releases/9"})
    refused(updates, UpdateError, "unknown here")
    repository.publish(custom=repository.catalogue() | {"name": "other"})
    refused(updates, UpdateError, "lists other")


def test_a_disk_without_room_is_refused_before_anything_is_fetched(
    repository: Served, updates: Updates, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(updates.home.path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    refused(updates, SlotError, "MB are free")
    assert not any("files" in path and "manifest" not in path for path, _ in repository.requests[8:])


def test_targets_of_the_top_role_need_two_managers_too(repository: Served, updates: Updates) -> None:
    file = repository.folder / "metadata" / "1.targets.json"
    metadata = Metadata[Targets].from_bytes(file.read_bytes())
    repository.write(metadata, "1.targets.json", repository.targets_keys[:1])
    refused(updates, UntrustedError, "too few keys")


def test_the_home_is_open_again_after_every_refusal(updates: Updates) -> None:
    assert Home.open(updates.home.path).state()["format"] == "home/1"
