"""Bundles in, a release repository on a loopback web server out, whose every part a test may sign wrongly or spoil.

It is written with python-tuf's metadata classes alone, not with sdk.release: an attacker does not use our tools.
"""

import hashlib
import json
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Key,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from personalize.home import Home
from sdk.bundle import Bundle, write_manifest
from sdk.catalogue import Catalogue, Health, Release, Requirements, Rollout, catalogue_path, file_path
from sdk.device.fetch import Patience
from sdk.device.install import Updates
from sdk.device.repository import Source

__all__ = ["CHANNEL", "PATIENT", "QUICK", "Fault", "Served", "device", "digest", "healthy", "numbers_bundle", "served"]

CHANNEL = "stable"
SALT = "00112233445566aa"
LENIENT = Health(loss_ratio_ppm=10_000_000, agreement_per10k=0, seconds=300, memory_mb=8_000)

PATIENT = Patience(seconds=60.0, grace_seconds=60.0, pause_seconds=0.001)  # A busy machine is no slow server.
QUICK = Patience(seconds=0.3, grace_seconds=0.2, bytes_per_second=1_000_000, pause_seconds=0.001)
"""Only for servers that are to be found too slow: on a busy machine, every other one would be as well."""

Fault = Callable[[BaseHTTPRequestHandler, bytes, int], bool]
"""Given the request, the whole body and the asked offset; answers by itself and returns True, or returns False."""


@dataclass
class Served:
    """A repository in a folder and its keys."""

    folder: Path
    name: str = "tiny"
    releases: list[Release] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)
    minimum_sequence: int = 0
    kind: str = "base"
    version: int = 0
    root_keys: list[CryptoSigner] = field(default_factory=lambda: _keys(3))
    targets_keys: list[CryptoSigner] = field(default_factory=lambda: _keys(3))
    channel_keys: list[CryptoSigner] = field(default_factory=lambda: _keys(3))
    online: CryptoSigner = field(default_factory=CryptoSigner.generate_ed25519)
    url: str = ""
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    faults: dict[str, Fault] = field(default_factory=dict)
    expires: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0) + timedelta(days=7))

    def __post_init__(self) -> None:
        (self.folder / "metadata").mkdir(parents=True)
        self.files: dict[str, TargetFile] = {}
        self.root = Root(expires=self.expires, consistent_snapshot=True)
        for role, keys, threshold in (
            ("root", self.root_keys, 2),
            ("targets", self.targets_keys, 2),
            ("snapshot", [self.online], 1),
            ("timestamp", [self.online], 1),
        ):
            for key in keys:
                self.root.add_key(key.public_key, role)
            self.root.roles[role].threshold = threshold
        self.write_root()

    @property
    def first_root(self) -> bytes:
        return (self.folder / "metadata" / "1.root.json").read_bytes()

    def write_root(self, *, signers: int = 2) -> None:
        self.write(Metadata(self.root), f"{self.root.version}.root.json", self.root_keys[:signers])

    def write(self, metadata: Metadata[Any], name: str, signers: list[CryptoSigner]) -> bytes:
        metadata.signatures.clear()
        for signer in signers:
            metadata.sign(signer, append=True)
        content = metadata.to_bytes()
        (self.folder / "metadata" / name).write_bytes(content)
        return content

    def add(
        self,
        bundle: Bundle,
        *,
        per10k: int = 10_000,
        deltas: dict[str, Path] | None = None,
        health: Health = LENIENT,
        requires: Requirements | None = None,
        salt: str = SALT,
    ) -> Release:
        """Put a bundle's files on the server and its release before the others."""
        manifest = bundle.manifest.to_json()
        for path in bundle.manifest.files:
            self.put((bundle.folder / path).read_bytes())
        release = Release(
            version=bundle.manifest.version,
            sequence=max([0, *(one.sequence for one in self.releases)]) + 1,
            manifest=self.put(manifest),
            bytes=len(manifest) + sum(record.bytes for record in bundle.manifest.files.values()),
            base_digest=bundle.base_digest,
            rollout=Rollout(salt=salt, per10k=per10k),
            requires=requires or Requirements(),
            health=health,
            deltas={old: self.put(delta.read_bytes()) for old, delta in (deltas or {}).items()},
        )
        self.releases.insert(0, release)
        return release

    def put(self, content: bytes) -> str:
        """Put one content-addressed file on the server; returns its SHA-256."""
        sha256 = hashlib.sha256(content).hexdigest()
        path = self.path_of(sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.files[sha256] = TargetFile(len(content), {"sha256": sha256}, file_path(CHANNEL, sha256))
        return sha256

    def path_of(self, sha256: str) -> Path:
        return self.folder / "targets" / CHANNEL / "files" / f"{sha256}.{sha256}"

    def catalogue(self) -> dict[str, Any]:
        return Catalogue(
            name=self.name,
            kind=self.kind,  # type: ignore[arg-type]
            releases=tuple(self.releases),
            revoked=tuple(sorted(self.revoked)),
            minimum_sequence=self.minimum_sequence,
        ).to_custom()

    def publish(
        self,
        *,
        signers: int = 2,
        channel_keys: list[CryptoSigner] | None = None,
        custom: dict[str, Any] | None = None,
        timestamp_version: int | None = None,
        expires: datetime | None = None,
    ) -> None:
        """Sign everything anew; the arguments are what an attack does otherwise."""
        self.version += 1
        channel = Targets(version=self.version, expires=self.expires)
        channel.targets.update({target.path: target for target in self.files.values()})
        custom = custom if custom is not None else self.catalogue()
        content = json.dumps(custom).encode()
        place = catalogue_path(CHANNEL, self.name)
        listed = TargetFile(len(content), {"sha256": hashlib.sha256(content).hexdigest()}, place, {"custom": custom})
        channel.targets[place] = listed
        self.write(Metadata(channel), f"{self.version}.{CHANNEL}.json", (channel_keys or self.channel_keys)[:signers])
        keys: dict[str, Key] = {key.public_key.keyid: key.public_key for key in self.channel_keys}
        role = DelegatedRole(CHANNEL, list(keys), 2, True, [f"{CHANNEL}/*/*"])
        targets = Targets(version=self.version, expires=self.expires, delegations=Delegations(keys, {CHANNEL: role}))
        self.write(Metadata(targets), f"{self.version}.targets.json", self.targets_keys[:2])
        self.point(version=self.version, timestamp_version=timestamp_version, expires=expires)

    def point(
        self,
        *,
        version: int,
        snapshot_version: int | None = None,
        timestamp_version: int | None = None,
        expires: datetime | None = None,
        signer: CryptoSigner | None = None,
    ) -> None:
        """Let snapshot and timestamp point at a version of the targets."""
        at = snapshot_version or self.version
        meta = {f"{role}.json": MetaFile(version=version) for role in ("targets", CHANNEL)}
        snapshot = Snapshot(version=at, expires=self.expires, meta=meta)
        self.write(Metadata(snapshot), f"{at}.snapshot.json", [signer or self.online])
        timestamp = Timestamp(
            version=timestamp_version or at, expires=expires or self.expires, snapshot_meta=MetaFile(version=at)
        )
        self.write(Metadata(timestamp), "timestamp.json", [signer or self.online])

    def tar(self, file: Path) -> Path:
        """The offline form: one uncompressed tar."""
        with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as archive:
            for path in sorted(self.folder.rglob("*")):
                if path.is_file():
                    archive.add(path, path.relative_to(self.folder).as_posix())
        return file


@contextmanager
def served(repository: Served) -> Iterator[Served]:
    """Serve a repository on loopback, with ranges, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # Head and body are two writes: the second waited 40 ms for the first.

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            repository.requests.append((self.path, dict(self.headers)))
            file = repository.folder / self.path.lstrip("/")
            if not file.is_file():
                self.send_error(404)
                return
            body, asked = file.read_bytes(), self.headers.get("Range", "")
            start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
            for part, fault in repository.faults.items():
                if part in self.path and fault(self, body, start):
                    self.close_connection = True
                    return
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            self.wfile.write(body[start:])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    repository.url = f"http://127.0.0.1:{server.server_address[1]}/"
    try:
        yield repository
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def numbers_bundle(folder: Path, *, version: str, name: str = "tiny", size: int = 20_000, moved: int = 0) -> Bundle:
    """A bundle whose model is random numbers, some of which moved: enough for all that happens before a model loads."""
    values = np.random.default_rng(0).normal(size=size).astype("<f2")
    values[:moved] += np.float16(0.01)
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir(parents=True)
    save_file({"w": values}, checkpoint / "model.safetensors")
    for other in ("config.json", "tokenizer.json"):
        (checkpoint / other).write_text("{}")
    (folder / "probes.jsonl").write_text(f'{{"version": "{version}"}}\n')
    return write_manifest(folder, name=name, version=version, base_id="t", licence="Apache-2.0", origin="numbers")


def healthy(task: str, old: Bundle | None, new: Bundle, **limits: Any) -> dict[str, Any]:
    """An examination that finds nothing: stands in for the process that loads a model, where there is none to load."""
    assert task == "examine"
    return {"loss_ratio_ppm": 1_000_000, "agreement_per10k": 10_000, "items": 1, "places": 1}


def device(home: Path, repository: Served, factory: Bundle | None, **settings: Any) -> Updates:
    """A device that follows the repository with the root that it was shipped with."""
    settings = {"asked": healthy, "patience": PATIENT, "on_metered": lambda: None, **settings}
    updates = Updates(Home.open(home), factory=lambda: factory, **settings)
    updates.follow(Source(url=repository.url, channel=CHANNEL, name=repository.name), repository.first_root)
    return updates


def digest(bundle: Bundle) -> str:
    return bundle.manifest.digest.removeprefix("sha256:")


def _keys(number: int) -> list[CryptoSigner]:
    return [CryptoSigner.generate_ed25519() for _ in range(number)]
