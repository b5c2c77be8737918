"""A checked request and one manager's key in, the request with that manager's signatures out.

It runs on the manager's own machine, without the repository. The first request that a key signs fixes the roots that it
has seen (KEY.root.json beside it); a later one must go on from there, so nobody can show a manager a made-up repository
in which a harmful change looks harmless.
"""

from pathlib import Path

from tuf.api.exceptions import RepositoryError as TufError
from tuf.api.metadata import Metadata, Root
from tuf.api.serialization import DeserializationError

from privacy.whole_file import replace_whole
from sdk.catalogue import CHANNELS
from sdk.errors import ReleaseError, SigningKeyError
from sdk.release.describe import catalogues
from sdk.release.keys import SigningKey, name_of
from sdk.release.payload import Payload
from sdk.release.request import Request
from sdk.release.roles import View, holders

__all__ = ["check_bundle", "check_known_root", "may_sign", "sign"]


def sign(request: Request, key: SigningKey) -> list[str]:
    """Add the key's signature to everything in `request` that it may sign.

    Returns:
        The roles that it signed.

    Raises:
        SigningKeyError: It may sign nothing here; the text says who may.
    """
    roles = [role for role in request.changed if key.keyid in may_sign(request, role)]
    if not roles:
        who = "; ".join(f"{role} by {', '.join(sorted(may_sign(request, role).values()))}" for role in request.changed)
        raise SigningKeyError(f"the key of {key.name} may sign none of this; it is signed: {who}")
    for role in roles:
        try:
            request.changed[role].sign(key.signer, append=True)
        except TufError as cause:  # A token that was pulled out, a wrong PIN.
            raise SigningKeyError(f"{key.name} could not sign {role} ({cause}); nothing was written") from cause
    return roles


def check_bundle(request: Request, payload: Payload) -> None:
    """Refuse a request that does not newly offer exactly the bundle that the manager has looked at.

    Raises:
        ReleaseError: It offers another, or none.
    """
    new, old = _offered(request.changed), _offered(request.before)
    if payload.digest not in new - old:
        raise ReleaseError(
            f"this request does not release {payload.folder} (manifest {payload.digest[:12]}…), but "
            f"{', '.join(digest[:12] + '…' for digest in sorted(new - old)) or 'no new version'}; nothing was signed"
        )


def _offered(view: View) -> set[str]:
    channels = [view[channel] for channel in CHANNELS if channel in view]
    products = [catalogue for channel in channels for catalogue in catalogues(channel).values()]
    return {release.manifest for catalogue in products for release in catalogue.releases}


def may_sign(request: Request, role: str) -> dict[str, str]:
    """Key identifiers and names of those whose signature on `role` counts: for a root, of the old one's too."""
    views = [request.after, request.before] if role == "root" and request.before else [request.after]
    return {keyid: name_of(key) for view in views for keyid, key in holders(view, role)[1].items()}


def check_known_root(request: Request, key_file: Path) -> None:
    """Refuse a request whose roots do not go on from those that this key has seen; then remember them.

    Raises:
        ReleaseError: They do not: somebody shows another repository.
    """
    memory = key_file.with_suffix(".root.json")
    if not request.roots:
        return
    if memory.exists():
        try:
            seen = Metadata[Root].from_bytes(memory.read_bytes())
        except (OSError, DeserializationError) as cause:
            raise ReleaseError(f"{memory} cannot be read ({cause}); restore it from its copy") from cause
        number = seen.signed.version
        if number > len(request.roots) or request.roots[number - 1].signed_bytes != seen.signed_bytes:
            raise ReleaseError(
                f"the roots in this request are not those that {key_file.name} has signed under before; "
                f"sign nothing and ask who sent it (or delete {memory.name} if the repository was begun anew)"
            )
    try:
        replace_whole(memory, request.roots[-1].to_bytes())
    except OSError as cause:
        raise ReleaseError(f"cannot write {memory}: {cause.strerror}; nothing was signed") from cause
