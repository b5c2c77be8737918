"""Stand-ins that behave like the real thing: managers with real keys, and a repository that is signed and served."""

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.numpy import save_file
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Key

from sdk.bundle import Bundle, write_manifest
from sdk.device.server.answering import Answering
from sdk.device.server.limits import Limits
from sdk.device.server.listen import running
from sdk.release import offers, sign
from sdk.release.keys import OWNER, SigningKey
from sdk.release.payload import open_payload
from sdk.release.publish import Publication, publish
from sdk.release.repository import Repository
from sdk.release.request import Request
from sdk.release.rotate import begin, rotate

THRESHOLDS = {"root": 2, "targets": 2, "stable": 2, "testing": 2, "adapters": 2}


def manager(name: str) -> SigningKey:
    """Somebody with a real ed25519 key that follows from the name."""
    private = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
    public = SSlibKey.from_crypto(private.public_key())
    public.unrecognized_fields[OWNER] = name
    return SigningKey(name=name, signer=CryptoSigner(private, public))


def public(*people: SigningKey) -> list[Key]:
    return [person.signer.public_key for person in people]


ANA, BEN, CLEO, SERVER = (manager(name) for name in ("ana", "ben", "cleo", "server"))
MANAGERS = (ANA, BEN, CLEO)


def small_bundle(folder: Path, *, version: str = "1", seed: int = 0, notes: str = "", name: str = "small") -> Bundle:
    """A bundle of the real format with a few kB of random weights; its model says nothing."""
    target = folder / f"{name}-{version}-{seed}"
    (target / "checkpoint").mkdir(parents=True)
    weights = np.random.default_rng(seed).normal(size=(64, 64)).astype(np.float16)
    save_file({"model.embed_tokens.weight": weights}, target / "checkpoint" / "model.safetensors")
    for file in ("config.json", "tokenizer.json"):
        (target / "checkpoint" / file).write_text(json.dumps({"file": file}))
    (target / "NOTES.md").write_text(f"version {version} {notes}\n")
    return write_manifest(
        target, name=name, version=version, base_id="small", licence="Apache-2.0", origin="random numbers"
    )


class ReleaseHouse:
    """A repository, three managers and a server's key, on one disk and one clock."""

    def __init__(self, folder: Path, *, now: datetime | None = None, publish: bool = True) -> None:
        self.now = now or datetime.now(UTC).replace(microsecond=0)
        begin(
            folder,
            root=public(*MANAGERS),
            targets=public(*MANAGERS),
            online=SERVER.signer.public_key,
            thresholds=THRESHOLDS,
            now=self.now,
        )
        self.repository = Repository.open(folder)
        if publish:
            self.sign(ANA, BEN)
            self.publish()

    @property
    def root(self) -> bytes:
        """The root that devices have from the start."""
        return (self.repository.metadata / "1.root.json").read_bytes()

    def add(self, bundle: Bundle | Path, *, channel: str = "stable", per10k: int = 10_000, **offer: object) -> Request:
        folder = bundle.folder if isinstance(bundle, Bundle) else bundle
        return offers.add(
            self.repository,
            open_payload(folder),
            offers.Offer(per10k=per10k, **offer),  # type: ignore[arg-type]
            channel=channel,
            deltas={},
            now=self.now,
        )

    def roll_out(self, version: str, per10k: int, *, name: str = "small", channel: str = "stable") -> Request:
        return offers.roll_out(
            self.repository, channel=channel, name=name, version=version, per10k=per10k, now=self.now
        )

    def revoke(self, version: str, *, name: str = "small", channel: str = "stable") -> Request:
        return offers.revoke(self.repository, channel=channel, name=name, version=version, now=self.now)

    def rotate(self, *roles: str, add: Sequence[SigningKey] = (), remove: Sequence[str] = ()) -> Request:
        return rotate(self.repository, roles=roles, add=public(*add), remove=remove, now=self.now)

    def sign(self, *people: SigningKey) -> None:
        """Each signs all that waits."""
        waiting = self.repository.waiting()
        assert waiting is not None
        for person in people:
            sign.sign(waiting, person)
        self.repository.change(waiting.changed, dry=False)

    def publish(self, online: SigningKey = SERVER) -> Publication:
        return publish(self.repository, online, now=self.now)

    def release(self, bundle: Bundle, *people: SigningKey, **how: object) -> Publication:
        """Add, sign by two and publish."""
        self.add(bundle, **how)  # type: ignore[arg-type]
        self.sign(*(people or (ANA, BEN)))
        return self.publish()


def serving(answering: Answering, **limits: float) -> AbstractContextManager[str]:
    """A server of `limbeck serve` on a free port of this machine for a `with` block; gives its base URL, …/v1.

    Such as serving(Local.open(home, bundle=bundle)), where Local is sdk.device.server.local's.
    """
    return running(answering, limits=Limits(**limits))  # type: ignore[arg-type]


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Address of Python's own static server over `folder`, on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()
