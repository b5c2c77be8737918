"""A name and a passphrase in, a signing key on disk out; a key file and its passphrase in, somebody who can sign out.

The private key is ed25519 in PKCS#8, encrypted under a key that scrypt stretches from the passphrase: PKCS#8's own
stretching is 2,048 rounds, and whoever copies the file can guess for ever. A key in a hardware token never leaves it;
its file holds the token's address only.
"""

import json
import re
import secrets
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import CryptoSigner, HSMSigner, Signer, SSlibKey
from tuf.api.metadata import Key

from privacy.whole_file import replace_whole
from sdk.errors import SigningKeyError

__all__ = ["MIN_PASSPHRASE_CHARS", "SigningKey", "import_token", "make_key", "name_of", "open_key", "public_key"]

FORMAT = "release_key/1"
PUBLIC_FORMAT = "release_public_key/1"
OWNER = "x-limbeck-name"  # Signed inside the metadata beside the key, so that a missing signature has a name.
MIN_PASSPHRASE_CHARS = 12  # A key file can be copied and guessed at for ever.
SCRYPT = {"n": 2**16, "r": 8, "p": 1}  # 64 MiB and about a quarter of a second for each guess.
MAX_KEY_BYTES = 16 * 1024  # A key file has about 800.
PERSON = re.compile(r"\w[\w .@-]{0,63}")  # What may stand in a name: it is printed in terminals and on a page.


@dataclass(frozen=True, kw_only=True)
class SigningKey:
    """Somebody who can sign."""

    name: str
    """Who holds it."""
    signer: Signer
    """Makes the signatures."""

    @property
    def keyid(self) -> str:
        """Identifier of the public key in metadata."""
        return self.signer.public_key.keyid


def make_key(name: str, folder: Path, *, passphrase: str, dry: bool = False) -> tuple[Path, Path]:
    """Make a key pair for `name`: NAME.key stays with its holder, NAME.pub goes to whoever runs `release init`.

    Args:
        name: Who holds it.
        folder: Where the files go.
        passphrase: Opens NAME.key, at least 12 characters.
        dry: Whether only to say where they would go, or what is refused; no key is kept.

    Returns:
        Paths of the private and of the public file.

    Raises:
        SigningKeyError: The passphrase is short, the name is odd, a file is there, or the folder cannot be written.
    """
    if len(passphrase) < MIN_PASSPHRASE_CHARS:
        raise SigningKeyError(
            f"the passphrase has {len(passphrase)} characters, a signing key needs {MIN_PASSPHRASE_CHARS}; "
            "five random words are a good one"
        )
    salt = secrets.token_bytes(16)
    private = Ed25519PrivateKey.generate()
    lock = BestAvailableEncryption(_stretched(passphrase, salt))
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock)
    key = SSlibKey.from_crypto(private.public_key())
    secret = {"scrypt": {**SCRYPT, "salt": salt.hex()}, "private_key": pem.decode()}
    return _write_pair(_checked_name(name), folder, key, secret, dry=dry)


def import_token(
    name: str, folder: Path, *, keyid: int | None, pin: Callable[[str], str], dry: bool = False
) -> tuple[Path, Path]:
    """Write the two files for a key that lives in a PKCS#11 token.

    Args:
        name: Who holds the token.
        folder: Where the files go.
        keyid: Slot in the token; None is 2, the signature slot of a PIV card.
        pin: Asked for the token's PIN where reading the public key needs it.
        dry: See make_key; the token is read all the same.

    Raises:
        SigningKeyError: No PKCS#11 library, token or key; nothing was written.
    """
    _checked_name(name)
    try:
        address, key = HSMSigner.import_(keyid, secrets_handler=pin)
    except UnsupportedLibraryError as cause:
        raise SigningKeyError(
            "hardware tokens need a PKCS#11 library; install limbeck[hsm] and set PYKCS11LIB to your token's module"
        ) from cause
    except Exception as cause:  # Whatever the token's own driver raises.
        raise SigningKeyError(f"the token gives no key ({cause}); check PYKCS11LIB, the token and the slot") from cause
    return _write_pair(name, folder, key, {"token": address}, dry=dry)


def public_key(file: Path) -> Key:
    """Read the public file that `make_key` wrote; the holder's name is inside.

    Raises:
        SigningKeyError: It is missing or is no public key of ours.
    """
    fields = _read(file, PUBLIC_FORMAT, "public key")
    return _key_of(fields, file)


def open_key(file: Path, secret: Callable[[str], str]) -> SigningKey:
    """Open a private file.

    Args:
        file: NAME.key.
        secret: Called with what is asked for, "passphrase" or "pin"; returns what was typed.

    Raises:
        SigningKeyError: The file is missing or damaged, or the passphrase is wrong.
    """
    fields = _read(file, FORMAT, "private key")
    key = _key_of(fields, file)
    if "token" in fields:
        try:
            signer: Signer = Signer.from_priv_key_uri(fields["token"], key, secret)
        except (UnsupportedLibraryError, ValueError, TypeError) as cause:
            raise SigningKeyError(f"{file}: the token cannot be used ({cause}); install limbeck[hsm]") from cause
        return SigningKey(name=name_of(key), signer=signer)
    try:
        cost = fields["scrypt"]
        if {name: cost[name] for name in SCRYPT} != SCRYPT:
            raise SigningKeyError(f"{file} was made by another version of limbeck; use that one")
        stretched = _stretched(secret("passphrase"), bytes.fromhex(cost["salt"]))
        pem = fields["private_key"].encode()
    except (KeyError, TypeError, ValueError, AttributeError) as cause:
        raise SigningKeyError(f"{file} is damaged ({cause}); restore it from its copy") from cause
    try:
        signer = CryptoSigner(load_pem_private_key(pem, stretched), key)
    except Exception as cause:  # A wrong passphrase shows as several kinds of error, by chance of the padding.
        raise SigningKeyError(
            f"{file} does not open: the passphrase is wrong, or the file is damaged; nothing was signed"
        ) from cause
    return SigningKey(name=name_of(key), signer=signer)


def name_of(key: Key) -> str:
    """The holder's name beside a key, or the beginning of its identifier where there is none."""
    name = key.unrecognized_fields.get(OWNER)
    return name if isinstance(name, str) and PERSON.fullmatch(name) else f"key {key.keyid[:8]}"


def _stretched(passphrase: str, salt: bytes) -> bytes:
    # The same passphrase typed on another system may come in another Unicode form.
    typed = unicodedata.normalize("NFKC", passphrase).encode("utf-8", "surrogatepass")
    return Scrypt(salt=salt, length=32, **SCRYPT).derive(typed).hex().encode()


def _checked_name(name: str) -> str:
    if not PERSON.fullmatch(name):
        raise SigningKeyError(f"{name!r:.80} cannot be a name: letters, digits, blanks and .@-, at most 64")
    return name


def _write_pair(name: str, folder: Path, key: SSlibKey, secret: dict[str, Any], *, dry: bool) -> tuple[Path, Path]:
    public = {"name": name, "keyid": key.keyid, "key": key.to_dict()}
    private_file, public_file = folder / f"{name}.key", folder / f"{name}.pub"
    for file in (private_file, public_file):
        if file.exists():
            raise SigningKeyError(f"{file} exists and is not replaced; choose another name or folder")
    if dry:
        return private_file, public_file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_whole(private_file, _json({"format": FORMAT, **public, **secret}))
        replace_whole(public_file, _json({"format": PUBLIC_FORMAT, **public}))
    except OSError as cause:
        raise SigningKeyError(f"cannot write the key to {folder}: {cause.strerror}; choose another folder") from cause
    return private_file, public_file


def _json(fields: dict[str, Any]) -> bytes:
    return (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode()


def _read(file: Path, wanted: str, what: str) -> dict[str, Any]:
    try:
        with file.open("rb") as content:
            fields = json.loads(content.read(MAX_KEY_BYTES))
    except OSError as cause:
        raise SigningKeyError(f"{what} {file} cannot be read: {cause.strerror}; check the path") from cause
    except (ValueError, RecursionError) as cause:
        raise SigningKeyError(f"{file} is no {what} of limbeck; make one with `limbeck release keygen`") from cause
    if not isinstance(fields, dict) or fields.get("format") != wanted:
        raise SigningKeyError(f"{file} is no {what} of limbeck; make one with `limbeck release keygen`")
    return fields


def _key_of(fields: dict[str, Any], file: Path) -> SSlibKey:
    try:
        name = _checked_name(fields["name"])
        key = Key.from_dict(fields["keyid"], {**fields["key"], OWNER: name})
    except (KeyError, TypeError, ValueError) as cause:
        raise SigningKeyError(f"{file} is damaged ({cause}); restore it from its copy") from cause
    if not isinstance(key, SSlibKey):
        raise SigningKeyError(f"{file} holds a {key.keytype!r:.40} key, which cannot sign releases")
    return key
