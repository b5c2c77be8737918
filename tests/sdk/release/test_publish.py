"""Real keys, real metadata: what reaches devices, what is refused, and that a safeguard taken away is noticed."""

import contextlib
import filecmp
import json
import shutil
import socket
import subprocess
import tarfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, TargetFile

from sdk.bundle import write_manifest
from sdk.catalogue import Catalogue, Rollout, bucket
from sdk.errors import BundleError, CatalogueError, ReleaseError, RepositoryError, SigningKeyError, ThresholdError
from sdk.release import describe, offers, publish, request, serve
from sdk.release.offline import write_offline
from sdk.release.page import write_page
from sdk.release.payload import open_payload
from sdk.release.publish import gather
from sdk.release.repository import Repository
from sdk.release.request import Request, read_request, write_request
from sdk.release.rotate import begin
from sdk.release.sign import check_bundle, check_known_root, sign
from sdk.release.status import status, words
from sdk.release.verify import verify
from tests.simulators import (
    ANA,
    BEN,
    CLEO,
    MANAGERS,
    SERVER,
    THRESHOLDS,
    ReleaseHouse,
    manager,
    public,
    served,
    small_bundle,
)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> ReleaseHouse:
    """A repository with one release, signed by ana and ben; copied for each test."""
    folder = tmp_path_factory.mktemp("prepared")
    house = ReleaseHouse(folder / "repository")
    house.release(small_bundle(folder), per10k=100)
    return house


@pytest.fixture
def house(prepared: ReleaseHouse, tmp_path: Path) -> ReleaseHouse:
    shutil.copytree(prepared.repository.folder, tmp_path / "repository")
    copy = object.__new__(ReleaseHouse)
    copy.now, copy.repository = prepared.now, Repository.open(tmp_path / "repository")
    return copy


def served_files(house: ReleaseHouse) -> dict[str, bytes]:
    public_folder = house.repository.folder / "public"
    return {
        path.relative_to(public_folder).as_posix(): path.read_bytes()
        for path in public_folder.rglob("*")
        if path.is_file()
    }


def offered(house: ReleaseHouse) -> Catalogue:
    return verify(house.repository.folder / "public", house.root).catalogues["stable"]["small"]


# --- what devices see ------------------------------------------------------------------------------------------------


def test_a_release_goes_from_one_percent_to_everybody_and_is_taken_back(house: ReleaseHouse, tmp_path: Path) -> None:
    assert offered(house).releases[0].rollout.per10k == 100
    house.roll_out("1", 2_500)
    house.sign(ANA, CLEO)
    assert "1 % → 25 % of devices" in house.publish().words[0]
    house.release(small_bundle(tmp_path, version="2", seed=1))
    assert [release.sequence for release in offered(house).releases] == [2, 1]
    first = offered(house).find("1").manifest
    house.revoke("1")
    house.sign(BEN, CLEO)
    house.publish()
    assert offered(house).revoked == (first,)
    assert [release.version for release in offered(house).releases] == ["2"]


def test_a_sequence_is_not_given_again_after_a_revocation(house: ReleaseHouse, tmp_path: Path) -> None:
    house.revoke("1")
    house.sign(ANA, BEN)
    house.publish()
    house.release(small_bundle(tmp_path, version="2", seed=1))
    assert offered(house).find("2").sequence == 2


def test_the_same_bundle_gives_the_same_repository_byte_for_byte(prepared: ReleaseHouse, tmp_path: Path) -> None:
    again = ReleaseHouse(tmp_path / "again", now=prepared.now)
    again.add(small_bundle(tmp_path), per10k=100)
    again.sign(BEN, ANA)  # In another order.
    again.publish()
    assert served_files(again) == served_files(prepared)


def test_another_bundle_has_other_buckets() -> None:
    one, other = Rollout(salt="0" * 16, per10k=100), Rollout(salt="1" * 16, per10k=100)
    devices = [f"device {number}" for number in range(20_000)]
    both = sum(one.reaches(device) and other.reaches(device) for device in devices)
    assert 150 < sum(map(one.reaches, devices)) < 250  # 200 expected, standard deviation 14.
    assert both < 12  # 2 expected.
    assert bucket("0" * 16, "device 0") == bucket("0" * 16, "device 0")


def test_pythons_own_server_serves_it(house: ReleaseHouse) -> None:
    with served(house.repository.folder / "public") as address:
        assert verify(address, house.root).files == 6


@pytest.mark.skipif(not Path("/usr/sbin/nginx").exists(), reason="nginx is not installed")
def test_nginx_serves_it(house: ReleaseHouse, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log; events {{}}\n"
        f"http {{ access_log off; server {{ listen 127.0.0.1:{port}; root {house.repository.folder}/public; }} }}\n"
    )
    for path in [tmp_path, *tmp_path.parents]:
        if path.stat().st_uid == Path(tmp_path).stat().st_uid and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o011)  # nginx's workers run as somebody else.
    server = subprocess.Popen(["/usr/sbin/nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")])
    try:
        for _ in range(100):
            with socket.socket() as asked:
                if asked.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        assert verify(f"http://127.0.0.1:{port}/", house.root).files == 6
    finally:
        server.terminate()
        server.wait(10)


def test_with_nothing_waiting_publish_renews_the_dates_and_keeps_the_snapshot(house: ReleaseHouse) -> None:
    before = house.repository.published()
    house.now += timedelta(hours=20)
    done = house.publish()
    assert done.words == ()
    assert done.valid_until == house.now + timedelta(days=1)
    assert (done.versions["snapshot"], done.versions["timestamp"]) == (2, 3)
    assert house.repository.published() == before


def test_a_page_and_words_say_who_signed_and_what_changed(house: ReleaseHouse, tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path, version="2", seed=1, notes="<script>")
    house.release(bundle)
    house.roll_out("2", 0)
    write_page(house.repository, tmp_path / "page.html", house.now)
    page = (tmp_path / "page.html").read_text()
    assert "small 2 reaches 100 % of devices." in page
    assert "ana, ben" in page
    assert "stopped (100 % → 0 % of devices)" in page
    assert "checkpoint/model.safetensors" in page
    assert "<script" not in page
    said = words(status(house.repository, house.now))
    assert "stable: nobody has signed; 2 more needed from ana, ben or cleo" in said
    assert said.index("timestamp 3 expires") < said.index("snapshot 3 expires") < said.index("root 1 expires")


def test_scorecards_stand_side_by_side_where_both_versions_carry_one(house: ReleaseHouse, tmp_path: Path) -> None:
    for version, value in (("2", 1.25), ("3", 1.125)):
        bundle = small_bundle(tmp_path, version=version, seed=int(version))
        legs = {"text": {"status": "done", "figures": {"bits_per_byte": {"value": value}}}}
        (bundle.folder / "scorecard.json").write_text(json.dumps({"format": "scorecard/1", "legs": legs}))
        manifest = bundle.manifest
        (bundle.folder / "manifest.json").unlink()
        house.release(
            write_manifest(
                bundle.folder,
                name=manifest.name,
                version=manifest.version,
                base_id=manifest.base_id,
                licence=manifest.licence,
                origin=manifest.origin,
            )
        )
    write_page(house.repository, tmp_path / "page.html", house.now)
    page = (tmp_path / "page.html").read_text()
    assert "text: bits_per_byte" in page
    assert page.index(">1.25<") < page.index(">1.125<")


# --- what is refused -------------------------------------------------------------------------------------------------


def test_one_signature_is_not_enough_and_the_missing_ones_are_named(house: ReleaseHouse) -> None:
    before = served_files(house)
    house.roll_out("1", 5_000)
    house.sign(ANA)
    with pytest.raises(ThresholdError, match="stable: signed by ana; 1 more needed from ben or cleo"):
        house.publish()
    assert served_files(house) == before


def test_without_the_threshold_check_a_device_would_still_refuse(
    house: ReleaseHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: the publisher forgets the threshold. The repository it makes does not verify."""
    monkeypatch.setattr(publish, "_check_thresholds", lambda request, published: None)
    house.roll_out("1", 5_000)
    house.sign(ANA)
    house.publish()
    with pytest.raises(RepositoryError, match="stable was signed by 1/2 keys"):
        verify(house.repository.folder / "public", house.root)


def test_a_change_after_signing_drops_the_signatures(house: ReleaseHouse) -> None:
    house.roll_out("1", 5_000)
    house.sign(ANA, BEN)
    house.roll_out("1", 6_000)
    with pytest.raises(ThresholdError, match="nobody has signed"):
        house.publish()


def test_a_key_of_another_role_signs_nothing(house: ReleaseHouse) -> None:
    house.roll_out("1", 5_000)
    with pytest.raises(SigningKeyError, match="server may sign none of this; it is signed: stable by ana, ben, cleo"):
        house.sign(SERVER)
    house.sign(ANA, BEN)
    with pytest.raises(SigningKeyError, match="ana is not the online key"):
        house.publish(ANA)


def test_a_stranger_with_the_online_key_cannot_release(house: ReleaseHouse) -> None:
    """Stolen server: the thief signs a channel, snapshot and timestamp with the only key that is there."""
    channel = house.repository.published()["stable"]
    path = next(path for path in channel.signed.targets if "/files/" in path)
    channel.signed.targets[path] = TargetFile.from_data(path, b"evil")
    channel.signed.version += 1
    channel.signatures.clear()
    channel.sign(SERVER.signer)
    snapshot, timestamp = house.repository.snapshot(), house.repository.timestamp()
    assert snapshot is not None
    assert timestamp is not None
    snapshot.signed.meta["stable.json"].version += 1
    snapshot.signed.version += 1
    timestamp.signed.snapshot_meta.version += 1
    timestamp.signed.version += 1
    for metadata, name in ((channel, "3.stable"), (snapshot, "3.snapshot"), (timestamp, "timestamp")):
        metadata.sign(SERVER.signer)
        metadata.to_file(str(house.repository.metadata / f"{name}.json"))
    with pytest.raises(RepositoryError, match="stable was signed by 0/2 keys"):
        verify(house.repository.folder / "public", house.root)


def test_a_clock_that_ran_back_is_refused(house: ReleaseHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    house.now -= timedelta(days=30)
    with pytest.raises(RepositoryError, match="set the clock"):
        house.publish()
    with pytest.raises(RepositoryError, match="set the clock"):
        house.roll_out("1", 5_000)
    monkeypatch.setattr(Repository, "check_clock", lambda self, now: None)  # Mutant.
    assert house.publish().valid_until < house.now + timedelta(days=2)  # Dates that devices refuse at once.
    with pytest.raises(RepositoryError, match="expired"):
        verify(house.repository.folder / "public", house.root)


def test_what_expired_is_renewed_before_anything_else(house: ReleaseHouse) -> None:
    house.now += timedelta(days=91)
    with pytest.raises(RepositoryError, match=r"stable expired .* rotate --role stable"):
        house.publish()
    house.rotate("stable", "testing", "adapters")
    house.sign(ANA, BEN)
    assert "stable: version 3, valid until" in house.publish().words[0]


def test_a_half_copied_repository_is_refused_and_nothing_is_changed(house: ReleaseHouse) -> None:
    target = next(house.repository.targets.rglob("*files/*"))
    content = target.read_bytes()
    target.unlink()
    with pytest.raises(RepositoryError, match="half copied"):
        house.publish()
    with pytest.raises(RepositoryError, match="does not verify"):
        verify(house.repository.folder / "public", house.root)
    target.write_bytes(content)
    (house.repository.metadata / "2.stable.json").unlink()
    with pytest.raises(RepositoryError, match=r"2\.stable\.json is missing or damaged"):
        house.publish()


def test_a_damaged_file_is_not_published(house: ReleaseHouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    house.add(small_bundle(tmp_path, version="2", seed=1))
    house.sign(ANA, BEN)
    arrived = max(house.repository.incoming.rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    arrived.write_bytes(b"x" * arrived.stat().st_size)
    with pytest.raises(RepositoryError, match="is damaged"):
        house.publish()
    monkeypatch.setattr(serve, "_check_file", lambda file, target: None)  # Mutant.
    house.publish()
    with pytest.raises(RepositoryError, match="does not verify"):
        verify(house.repository.folder / "public", house.root)


@pytest.mark.parametrize("stop", range(8))
def test_an_interrupted_publication_shows_the_old_state_or_the_new_and_can_be_repeated(
    house: ReleaseHouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    house.add(small_bundle(tmp_path, version="2", seed=1))
    house.sign(ANA, BEN)
    steps = 0

    def counted(name: str) -> None:
        real = getattr(publish, name)

        def step(*arguments: object) -> None:
            nonlocal steps
            if steps == stop:
                raise OSError(28, "No space left on device", "public")
            steps += 1
            real(*arguments)

        monkeypatch.setattr(publish, name, step)

    counted("move_in")
    counted("put_metadata")
    finished = stop == 7  # Four files, channel, snapshot and timestamp.
    with contextlib.nullcontext() if finished else pytest.raises(ReleaseError, match="publish again"):
        house.publish()
    assert [release.version for release in offered(house).releases] == (["2", "1"] if finished else ["1"])
    monkeypatch.undo()
    house.publish()
    assert [release.version for release in offered(house).releases] == ["2", "1"]
    assert house.repository.waiting() is None


def test_timestamp_first_would_show_a_state_that_is_not_there(
    house: ReleaseHouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: the order turned round, stopped halfway."""
    house.add(small_bundle(tmp_path, version="2", seed=1))
    house.sign(ANA, BEN)
    later: list[tuple[Path, object]] = []
    real = serve.put_metadata

    def timestamp_only(file: Path, metadata: Metadata) -> None:  # type: ignore[type-arg]
        real(file, metadata) if file.name == "timestamp.json" else later.append((file, metadata))

    monkeypatch.setattr(publish, "put_metadata", timestamp_only)
    house.publish()
    with pytest.raises(RepositoryError, match="does not verify"):
        verify(house.repository.folder / "public", house.root)


def test_offers_that_make_no_sense_are_refused(house: ReleaseHouse, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="offered already"):
        house.add(small_bundle(tmp_path))
    with pytest.raises(ReleaseError, match="other content"):
        house.add(small_bundle(tmp_path, seed=5))
    with pytest.raises(ReleaseError, match="does not belong in the channel adapters"):
        house.add(small_bundle(tmp_path, version="2"), channel="adapters")
    with pytest.raises(CatalogueError, match="no version '9' here; offered are: 1"):
        house.roll_out("9", 100)
    with pytest.raises(ReleaseError, match="offers no 'large'; it offers small"):
        house.roll_out("1", 100, name="large")
    with pytest.raises(ReleaseError, match="cannot be a product's name"):
        house.add(small_bundle(tmp_path, name="files"))
    house.revoke("1")
    with pytest.raises(ReleaseError, match="was revoked"):
        house.add(tmp_path / "small-1-0")


@pytest.mark.parametrize("damage", ["extra", "missing", "changed"])
def test_a_bundle_with_a_file_too_many_too_few_or_changed_is_refused(
    house: ReleaseHouse, tmp_path: Path, damage: str
) -> None:
    bundle = small_bundle(tmp_path, version="2")
    before, notes = served_files(house), bundle.folder / "NOTES.md"
    if damage == "extra":
        (bundle.folder / "more.json").write_text("{}")
    elif damage == "missing":
        notes.unlink()
    else:
        notes.write_bytes(notes.read_bytes().swapcase())
    with pytest.raises(BundleError):
        house.add(bundle)
    assert served_files(house) == before
    assert house.repository.waiting() is None


def test_a_persons_own_adapter_is_never_published(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("adapter.json", "adapter_config.json", "adapter_model.safetensors"):
        (folder / name).write_text(json.dumps({"fits_base": "sha256:" + "a" * 64}))
    how: dict[str, Any] = {"name": "commits", "version": "1", "licence": "CC0-1.0", "origin": "public text"}
    assert open_payload(folder, **how).kind == "adapter"
    (folder / "label.json").write_text("{}")
    with pytest.raises(ReleaseError, match="own adapter is never published"):
        open_payload(folder, **how)


def test_a_public_adapter_is_released_in_its_channel(house: ReleaseHouse, tmp_path: Path) -> None:
    folder = tmp_path / "commits"
    folder.mkdir()
    for name in ("adapter.json", "adapter_config.json", "adapter_model.safetensors"):
        (folder / name).write_text(json.dumps({"fits_base": "sha256:" + "a" * 64}))
    payload = open_payload(folder, name="commits", version="1", licence="CC0-1.0", origin="public text")
    offers.add(house.repository, payload, offers.Offer(), channel="adapters", deltas={}, now=house.now)
    house.sign(ANA, BEN)
    house.publish()
    found = verify(house.repository.folder / "public", house.root).catalogues["adapters"]["commits"]
    assert (found.kind, found.releases[0].base_digest) == ("adapter", "sha256:" + "a" * 64)


# --- the file that travels -------------------------------------------------------------------------------------------


def travelling(house: ReleaseHouse, tmp_path: Path) -> Path:
    house.roll_out("1", 5_000)
    copy = tmp_path / "copy.json"
    shutil.copy(house.repository.waiting_file, copy)
    return copy


def test_signatures_of_two_copies_come_together(house: ReleaseHouse, tmp_path: Path) -> None:
    first = travelling(house, tmp_path)
    second = Path(shutil.copy(first, tmp_path / "second.json"))
    for file, person in ((first, ANA), (second, BEN)):
        copy = read_request(file)
        sign(copy, person)
        write_request(file, copy)
    publish.publish(house.repository, SERVER, (first, second), now=house.now)
    assert offered(house).find("1").rollout.per10k == 5_000


def test_a_copy_of_another_change_is_refused(house: ReleaseHouse, tmp_path: Path) -> None:
    copy = travelling(house, tmp_path)
    house.roll_out("1", 6_000)
    with pytest.raises(ReleaseError, match="asks to sign another change"):
        gather(house.repository, (copy,))


def test_words_that_do_not_say_what_is_signed_are_refused(
    house: ReleaseHouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = travelling(house, tmp_path)
    copy.write_text(copy.read_text().replace("50 % of devices", "2 % of devices"))
    with pytest.raises(ReleaseError, match=r"the words in .* are not what its metadata say"):
        read_request(copy)
    monkeypatch.setattr(request.Request, "words", lambda self: json.loads(copy.read_text())["words"])  # Mutant.
    assert "2 % of devices" in read_request(copy).words()[0]


def test_metadata_that_words_cannot_say_are_not_signed(
    house: ReleaseHouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "stable/files/" + "0" * 64
    waiting = house.roll_out("1", 5_000)
    targets = waiting.changed["stable"].signed.targets
    for target, why in (
        (TargetFile.from_data(path, b"another content"), "neither a file named by its digest"),
        (TargetFile(1, {"sha256": "0" * 64}, path, {"hidden": 1}), "more or less than a SHA-256"),
    ):
        targets[path] = target
        with pytest.raises(ReleaseError, match=why):
            write_request(tmp_path / "request.json", waiting)
    del targets[path]
    catalogue = targets["stable/small/releases.json"]
    catalogue.unrecognized_fields["custom"]["releases"][0]["backdoor"] = 1
    with pytest.raises(ReleaseError, match="with more in it than is read"):
        write_request(tmp_path / "request.json", waiting)
    monkeypatch.setattr(describe, "_channel_problem", lambda channel, metadata: None)  # Mutant.
    assert "backdoor" not in " ".join(waiting.words())


def test_a_made_up_repository_is_not_signed(house: ReleaseHouse, tmp_path: Path) -> None:
    """Somebody shows ana a repository with the same names and other keys, in which a change looks harmless."""
    key_file = tmp_path / "ana.key"
    check_known_root(house.roll_out("1", 5_000), key_file)
    other = ReleaseHouse(tmp_path / "other", publish=False, now=house.now)
    assert other.repository.waiting() is not None
    forged = manager("ana of another house"), manager("ben of another house"), ANA
    shutil.rmtree(tmp_path / "other")
    begin(
        tmp_path / "other",
        root=public(*forged),
        targets=public(*forged),
        online=SERVER.signer.public_key,
        thresholds=THRESHOLDS,
        now=house.now,
    )
    other.sign(*forged)
    other.publish()
    with pytest.raises(ReleaseError, match=r"not those that ana\.key has signed under before"):
        check_known_root(other.rotate("stable"), key_file)


def test_what_is_called_published_must_be_signed(house: ReleaseHouse, tmp_path: Path) -> None:
    waiting = house.roll_out("1", 5_000)
    waiting.before["stable"].signed.version = 1
    waiting.changed["stable"].signed.version = 2
    write_request(tmp_path / "request.json", waiting)
    with pytest.raises(ReleaseError, match="is not signed by those who may"):
        read_request(tmp_path / "request.json")


def test_only_the_next_version_is_signed(house: ReleaseHouse, tmp_path: Path) -> None:
    waiting = house.roll_out("1", 5_000)
    waiting.changed["stable"].signed.version += 1_000_000  # A fast-forward attack by whoever coordinates.
    write_request(tmp_path / "request.json", waiting)
    with pytest.raises(ReleaseError, match="version 3 is next"):
        read_request(tmp_path / "request.json")


@pytest.mark.parametrize("content", ["", "[]", '{"format": "signing_request/2"}', '{"format": "signing_request/1"}'])
def test_a_file_that_is_no_request_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "odd.json").write_text(content)
    with pytest.raises(ReleaseError) as refused:
        read_request(tmp_path / "odd.json")
    assert "\n" not in str(refused.value)


def test_a_manager_signs_only_the_bundle_that_they_looked_at(house: ReleaseHouse, tmp_path: Path) -> None:
    looked, other = small_bundle(tmp_path, version="2"), small_bundle(tmp_path, version="2", seed=3)
    waiting = house.add(other)
    check_bundle(waiting, open_payload(other.folder))
    with pytest.raises(ReleaseError, match="does not release"):
        check_bundle(waiting, open_payload(looked.folder))


# --- keys that change ------------------------------------------------------------------------------------------------

DAN = manager("dan")


def test_a_new_root_needs_the_old_managers_and_the_new(house: ReleaseHouse) -> None:
    house.rotate("root", "targets", "stable", "testing", "adapters", add=[DAN], remove=["ben", "cleo"])
    house.sign(ANA, DAN)
    with pytest.raises(ThresholdError, match="root: signed by ana and dan; 1 more needed from ben or cleo"):
        house.publish()
    house.sign(BEN)
    house.publish()
    assert verify(house.repository.folder / "public", house.root).versions["root"] == 2
    house.roll_out("1", 5_000)
    with pytest.raises(SigningKeyError, match="ben may sign none of this"):
        house.sign(BEN)


def test_after_the_online_key_was_replaced_a_fast_forward_is_undone(house: ReleaseHouse) -> None:
    timestamp = house.repository.timestamp()
    assert timestamp is not None
    timestamp.signed.version = 2**31
    timestamp.sign(SERVER.signer)
    timestamp.to_file(str(house.repository.metadata / "timestamp.json"))
    verify(house.repository.folder / "public", house.root)  # The thief's timestamp is valid.
    fresh = manager("server 2")
    house.rotate("online", add=[fresh], remove=["server"])
    house.sign(ANA, BEN)
    with pytest.raises(SigningKeyError, match="server is not the online key"):
        house.publish()
    assert house.publish(fresh).versions["timestamp"] == 2**31 + 1
    verify(house.repository.folder / "public", house.root)


def test_keys_that_would_weaken_the_house_are_refused(house: ReleaseHouse, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="online and offline"):
        house.rotate("online", add=[ANA], remove=["server"])
    with pytest.raises(ReleaseError, match="2 signatures of 1 keys"):
        house.rotate("root", remove=["ben", "cleo"])
    with pytest.raises(ReleaseError, match="'dan' does not sign stable; those who do: ana, ben, cleo"):
        house.rotate("stable", remove=["dan"])
    people = public(*MANAGERS)
    for root, online, why in (
        ([people[0], people[0]], SERVER, "given twice"),
        (people, ANA, "may not sign root"),
        (people[:1], SERVER, "2 signatures from 1 keys"),
    ):
        with pytest.raises(ReleaseError, match=why):
            begin(
                tmp_path / "weak",
                root=root,
                targets=root,
                online=online.signer.public_key,
                thresholds=THRESHOLDS,
                now=house.now,
            )
    assert not (tmp_path / "weak").exists()


# --- a file instead of a network -------------------------------------------------------------------------------------


def test_an_offline_file_carries_one_version_and_nothing_else(house: ReleaseHouse, tmp_path: Path) -> None:
    house.release(small_bundle(tmp_path, version="2", seed=1))
    file = tmp_path / "off.tar"
    carried = write_offline(house.repository, SERVER, file, channel="stable", name="small", now=house.now)
    found = verify(file, house.root)
    assert carried.version == "2"
    assert found.files == 6
    assert found.valid_until == house.now + timedelta(days=30)
    online = verify(house.repository.folder / "public", house.root)
    assert online.versions["timestamp"] == found.versions["timestamp"] + 1
    assert online.versions["snapshot"] == found.versions["snapshot"] + 1
    with tarfile.open(file) as archive:
        assert {(member.mtime, member.uid, member.isreg()) for member in archive} == {(0, 0, True)}
    with pytest.raises(ReleaseError, match="exists and is not replaced"):
        write_offline(house.repository, SERVER, file, channel="stable", name="small", now=house.now)
    with pytest.raises(ReleaseError, match="expires on"):
        write_offline(
            house.repository, SERVER, tmp_path / "b.tar", channel="stable", name="small", days=120, now=house.now
        )


@pytest.mark.parametrize("member", ["targets/extra.bin", "../outside", "link"])
def test_an_offline_file_with_something_else_in_it_is_refused(house: ReleaseHouse, tmp_path: Path, member: str) -> None:
    file = tmp_path / "off.tar"
    write_offline(house.repository, SERVER, file, channel="stable", name="small", now=house.now)
    (tmp_path / "extra").write_bytes(b"x")
    with tarfile.open(file, "a") as archive:
        if member == "link":
            entry = tarfile.TarInfo("targets/link")
            entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(entry)
        else:
            archive.add(tmp_path / "extra", member)
    with pytest.raises(RepositoryError, match="holds"):
        verify(file, house.root)


def test_a_dry_run_changes_nothing(house: ReleaseHouse, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(house.repository.folder, tmp_path / "before"))
    payload = open_payload(small_bundle(tmp_path, version="2").folder)
    said = offers.add(
        house.repository, payload, offers.Offer(), channel="stable", deltas={}, now=house.now, dry=True
    ).words()
    assert said[0].startswith("stable: small 2 is offered to 1 % of devices")
    publish.publish(house.repository, SERVER, now=house.now, dry=True)
    write_offline(house.repository, SERVER, tmp_path / "o.tar", channel="stable", name="small", now=house.now, dry=True)
    compared = filecmp.dircmp(copy, house.repository.folder)
    assert (compared.left_only, compared.right_only, compared.diff_files) == ([], [], [])
    assert served_files(house) == {
        path.relative_to(copy / "public").as_posix(): path.read_bytes()
        for path in (copy / "public").rglob("*")
        if path.is_file()
    }


def test_a_request_merges_nothing_that_differs(house: ReleaseHouse) -> None:
    one = house.roll_out("1", 5_000)
    with pytest.raises(ReleaseError, match="another change"):
        one.merged(Request(before=one.before, changed={}, roots=one.roots))
