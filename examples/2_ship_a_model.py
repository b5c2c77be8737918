"""Two managers, one repository, 1,000 devices: 1 % → 25 % → stop → fix → 100 %. Takes seconds; needs no network.

Keys, signatures, metadata, the HTTP server and every device's decision are real. Simulated are the models, which are a
few kB of random numbers, and the time between steps. One look at the server is verified and shared by all devices; each
decides and remembers, and nothing is installed: that is what `limbeck device install` does.
"""

import http.server
import json
import tempfile
import threading
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from sdk.bundle import write_manifest
from sdk.catalogue import Catalogue
from sdk.device.choose import Device, choose
from sdk.device.disk import Disk
from sdk.device.repository import Repository as Served
from sdk.device.repository import Source
from sdk.release.keys import SigningKey, make_key, open_key, public_key
from sdk.release.offers import Offer, add_with_deltas, revoke, roll_out
from sdk.release.payload import open_payload
from sdk.release.publish import publish
from sdk.release.repository import Repository, now_utc
from sdk.release.rotate import begin
from sdk.release.sign import sign

DEVICES = 1_000


def build(folder: Path, version: str) -> Path:
    """A bundle of the real format around a model that is only random numbers."""
    checkpoint = folder / version / "checkpoint"
    checkpoint.mkdir(parents=True)
    weights = np.random.default_rng(int(version)).normal(size=(256, 64)).astype(np.float16)
    save_file({"model.embed_tokens.weight": weights}, checkpoint / "model.safetensors")
    for name in ("config.json", "tokenizer.json"):
        (checkpoint / name).write_text(json.dumps({"version": 1}))
    facts = {"base_id": "random", "licence": "Apache-2.0", "origin": "random numbers"}
    write_manifest(folder / version, name="student", version=version, **facts)
    return folder / version


def signed_and_published(repository: Repository, managers: list[SigningKey], server: SigningKey) -> None:
    """Both managers sign what waits, then devices see it."""
    request = repository.waiting()
    assert request is not None
    for manager in managers:
        sign(request, manager)
    repository.change(request.changed, dry=False)
    for line in publish(repository, server, now=now_utc()).words:
        if line.startswith("stable: student"):
            print(" ", line.partition(": base,")[0])


def look(url: str, root: bytes, folder: Path) -> Catalogue:
    """What a device verifies of the server: from its root, with everything that TUF checks."""
    source = Source(url=url, channel="stable", name="student")
    if not folder.exists():
        source.keep(folder, root, Disk())
    return Served(folder, source).catalogue()


def everybody_looks(devices: list[Device], catalogue: Catalogue, versions: dict[str, str]) -> list[Device]:
    """Each device decides for itself, by a random name that it tells nobody."""
    after = []
    for device in devices:
        choice = choose(catalogue, device)
        if choice.release is not None:
            device = replace(device, active=choice.release.manifest, sequence=choice.release.sequence)
        after.append(device)
    counted = Counter(versions[device.active] for device in after)
    print("  devices:", ", ".join(f"{counted[version]} on {version}" for version in sorted(counted)))
    return after


def main() -> None:
    """Ship three versions to a thousand devices."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        passphrase = "five random words are good"
        people = ("ana", "ben", "server")
        for name in people:
            make_key(name, folder, passphrase=passphrase)
        ana, ben, server = (open_key(folder / f"{name}.key", lambda what: passphrase) for name in people)
        print("two managers begin a repository; both must sign")
        keys = [public_key(folder / "ana.pub"), public_key(folder / "ben.pub")]
        thresholds = dict.fromkeys(("root", "targets", "stable", "testing", "adapters"), 2)
        online = public_key(folder / "server.pub")
        begin(folder / "repository", root=keys, targets=keys, online=online, thresholds=thresholds, now=now_utc())
        repository, managers = Repository.open(folder / "repository"), [ana, ben]
        signed_and_published(repository, managers, server)

        bundles = {version: build(folder, version) for version in ("1", "2", "3")}
        payloads = {version: open_payload(bundle) for version, bundle in bundles.items()}
        versions = {payload.digest: version for version, payload in payloads.items()}
        machine = {"sdk": "0.1.0", "memory_mb": 4_000, "hardware": "arm64", "failed": ()}
        devices = [
            Device(name=f"random name {number}", active=payloads["1"].digest, sequence=0, **machine)  # type: ignore[arg-type]
            for number in range(DEVICES)
        ]
        handler = partial(Quiet, directory=str(folder / "repository" / "public"))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
            threading.Thread(target=web.serve_forever, daemon=True).start()
            root = (repository.metadata / "1.root.json").read_bytes()
            url = f"http://127.0.0.1:{web.server_address[1]}/"

            def step(words: str) -> None:
                nonlocal devices
                print(words)
                signed_and_published(repository, managers, server)
                devices = everybody_looks(devices, look(url, root, folder / "tuf"), versions)

            def offer(version: str, per10k: int, older: list[str]) -> None:
                add_with_deltas(
                    repository,
                    payloads[version],
                    Offer(per10k=per10k),
                    [bundles[each] for each in older],
                    channel="stable",
                    now=now_utc(),
                )

            def share(version: str, per10k: int) -> None:
                roll_out(repository, channel="stable", name="student", version=version, per10k=per10k, now=now_utc())

            offer("1", 10_000, [])
            step("everybody has version 1")
            offer("2", 100, ["1"])
            step("version 2 goes to one in a hundred")
            share("2", 2_500)
            step("and to one in four")
            share("2", 0)
            step("it is bad: nobody else takes it")
            revoke(repository, channel="stable", name="student", version="2", now=now_utc())
            offer("3", 10_000, ["1", "2"])
            step("version 2 is revoked, version 3 is for everybody")
            web.shutdown()
        assert {versions[device.active] for device in devices} == {"3"}


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A static server that does not print."""

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    main()
