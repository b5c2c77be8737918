"""An adapter, its label and a passphrase in; one encrypted file for another device of the same person out, and back.

Layout of format parcel/1 (docs/parcel_format.md): MAGIC, the header's length as 4 bytes (big-endian), the header as
JSON, and the body, sealed by AES-256-GCM. Magic, length and header are authenticated with the body. The key is scrypt
of the passphrase under a fresh salt, so no key seals twice. Opening a file checks, in this order:

(1) it is a plain file of at most MAX_PARCEL_BYTES with the magic in front;
(2) the header is JSON of this format, with exactly this version's cipher and scrypt settings: none asks for memory;
(3) the base digest in the header is that of this device's base: a mismatch is refused before a passphrase is asked for;
(4) the body opens: right passphrase, no bit changed, nothing cut off;
(5) the body holds an adapter for that base and its label. It is one run of bytes and names no file, so no path can
    leave a folder.

Source: scrypt, RFC 7914; AES-GCM, NIST SP 800-38D; settings, OWASP Password Storage Cheat Sheet (2^17, 8, 1).
"""

import json
import os
import stat
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from personalize.adapter import Adapter
from personalize.errors import BaseMismatchError, ParcelError
from privacy.whole_file import replace_whole

__all__ = ["MIN_PASSPHRASE_CHARS", "Parcel", "header_of", "open_parcel", "write_parcel"]

FORMAT = "parcel/1"
MAGIC = b"limbeck parcel\n"
CIPHER = "AES-256-GCM"
SCRYPT = {"n": 2**17, "r": 8, "p": 1}  # 128 MiB and about half a second for each guess.
KEY_BYTES, SALT_BYTES, NONCE_BYTES, TAG_BYTES = 32, 16, 12, 16
MAX_HEADER_BYTES = 4096  # Ours has about 350.
MAX_PARCEL_BYTES = 64 * 1024 * 1024  # An adapter is about 1 MB; rank 64 on every layer would be 40 MB.
MIN_PASSPHRASE_CHARS = 12  # The file leaves the device, and whoever finds it can guess for ever.


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """What was in a file."""

    adapter: Adapter
    """Fits the base that it was opened for; not admitted yet."""
    label: Mapping[str, Any]
    """What it cost and proved where it was learned."""


def write_parcel(path: Path, adapter: Adapter, label: Mapping[str, Any], *, passphrase: str) -> None:
    """Write one encrypted file, whole or not at all, readable by its owner only.

    Args:
        path: Must not exist.
        adapter: What is sent.
        label: Its label, sealed with it.
        passphrase: At least MIN_PASSPHRASE_CHARS characters; without it nobody can open the file, the person included.

    Raises:
        ParcelError: The passphrase is too short, `path` exists, or there is no room or right; nothing is left there.
    """
    if len(passphrase) < MIN_PASSPHRASE_CHARS:
        raise ParcelError(
            f"the passphrase has {len(passphrase)} characters, a file that leaves the device needs "
            f"{MIN_PASSPHRASE_CHARS}; five random words are a good one"
        )
    salt, nonce = os.urandom(SALT_BYTES), os.urandom(NONCE_BYTES)
    header = {
        "format": FORMAT,
        "fits_base": adapter.fits_base,
        "cipher": CIPHER,
        "scrypt": SCRYPT,
        "salt": salt.hex(),
        "nonce": nonce.hex(),
    }
    written = json.dumps(header, sort_keys=True).encode()
    front = MAGIC + len(written).to_bytes(4, "big") + written
    said = json.dumps(dict(label), sort_keys=True).encode()
    body = len(said).to_bytes(4, "big") + said + adapter.to_bytes()
    sealed = AESGCM(_key(passphrase, salt)).encrypt(nonce, body, front)
    if len(front) + len(sealed) > MAX_PARCEL_BYTES:
        raise ParcelError(
            f"the adapter has {len(body) / 1e6:.0f} MB, more than a file may hold; merge it to a smaller rank"
        )
    _write_new(path, front + sealed)


def header_of(path: Path, *, base_digest: str) -> dict[str, Any]:
    """Read what a file says in the open, checks (1) to (3); ask for a passphrase after this.

    Raises:
        ParcelError: It is no file of a format that is known here.
        BaseMismatchError: Its adapter fits another base.
    """
    return _parted(path, _content(path), base_digest)[0]


def open_parcel(path: Path, *, passphrase: str, base_digest: str) -> Parcel:
    """Open a file, all five checks.

    Raises:
        ParcelError: A check failed; nothing was taken in.
        BaseMismatchError: Its adapter fits another base.
        AdapterError: The body opens, but what it holds is no adapter for this base.
    """
    content = _content(path)
    header, front = _parted(path, content, base_digest)
    key = _key(passphrase, bytes.fromhex(header["salt"]))
    try:
        body = AESGCM(key).decrypt(bytes.fromhex(header["nonce"]), content[front:], content[:front])
    except InvalidTag as cause:
        raise ParcelError(
            f"{path.name} does not open: the passphrase is another, or the file was changed or cut; type it again, or "
            "export it again"
        ) from cause
    size = int.from_bytes(body[:4], "big")
    try:
        label = dict(json.loads(body[4 : 4 + size]))
    except (ValueError, TypeError, RecursionError) as cause:
        raise ParcelError(f"{path.name} opens, but holds no label; export it again with this version") from cause
    adapter = Adapter.from_bytes(body[4 + size :], base_digest=base_digest, name=f"in {path.name}")
    return Parcel(adapter=adapter, label=label)


def _key(passphrase: str, salt: bytes) -> bytes:
    # The same passphrase typed on another system may come in another Unicode form.
    typed = unicodedata.normalize("NFKC", passphrase).encode("utf-8", "surrogatepass")
    key: bytes = Scrypt(salt=salt, length=KEY_BYTES, **SCRYPT).derive(typed)
    return key


def _content(path: Path) -> bytes:
    """Check (1)."""
    try:
        with open(path, "rb", opener=_opened) as file:  # Path.open takes no opener.
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ParcelError(f"{path} is no plain file; name the file that `limbeck adapter export` wrote")
            if status.st_size > MAX_PARCEL_BYTES:
                raise ParcelError(
                    f"{path.name} has {status.st_size / 1e6:.0f} MB; an exported adapter never has so many"
                )
            content = file.read(MAX_PARCEL_BYTES)
    except OSError as cause:
        raise ParcelError(f"cannot read {path}: {cause.strerror or cause}; check the path and your rights") from cause
    if not content.startswith(MAGIC):
        raise ParcelError(f"{path.name} is no exported adapter; name the file that `limbeck adapter export` wrote")
    return content


def _parted(path: Path, content: bytes, base_digest: str) -> tuple[dict[str, Any], int]:
    """Checks (2) and (3): the header, and where the sealed body begins."""
    begin = len(MAGIC) + 4
    size = int.from_bytes(content[len(MAGIC) : begin], "big")
    front = begin + size
    if size > MAX_HEADER_BYTES or len(content) < front + TAG_BYTES:
        raise ParcelError(f"{path.name} is cut short or damaged; copy it again")
    try:
        header = json.loads(content[begin:front])
        found = header["format"]
        if found != FORMAT:
            raise ParcelError(f"{path.name} has format {found!r:.40}, this version reads {FORMAT}; update limbeck")
        salt, nonce = bytes.fromhex(header["salt"]), bytes.fromhex(header["nonce"])
        if (
            (header["cipher"], header["scrypt"]) != (CIPHER, SCRYPT)
            or len(salt) != SALT_BYTES
            or len(nonce) != NONCE_BYTES
        ):
            raise ValueError("its cipher is not that of the format")
        fits = str(header["fits_base"])
    except (ValueError, KeyError, TypeError, RecursionError) as cause:
        raise ParcelError(f"{path.name} has a damaged header; copy it again") from cause
    if fits != base_digest:
        raise BaseMismatchError(
            f"the adapter in {path.name} was learned on base {fits[:19]}…, this base is {base_digest[:19]}…; install "
            "the same base on both devices first, or migrate the adapter on the other one"
        )
    return header, front


def _opened(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # A named pipe would wait for ever.


def _write_new(path: Path, content: bytes) -> None:
    try:
        if path.exists():
            raise ParcelError(f"{path} exists; choose another name, or remove it first")
        replace_whole(path, content)
    except OSError as cause:
        raise ParcelError(f"cannot write {path}: {cause.strerror or cause}; choose another place") from cause
