"""A publisher's folder in, what is published, what waits and what expires when out: in words and as facts."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tuf.api.metadata import Metadata

from sdk.catalogue import CHANNELS
from sdk.errors import RepositoryError
from sdk.release.describe import catalogues, megabytes, share
from sdk.release.keys import name_of
from sdk.release.repository import Repository
from sdk.release.request import Request
from sdk.release.roles import LIFETIME_DAYS, OFFLINE, holders

__all__ = ["signers", "status", "words"]

SOON = 4  # A role is due when less than a quarter of its life is left.


def status(repository: Repository, now: datetime) -> dict[str, Any]:
    """What there is to know of a repository; every value is JSON.

    Raises:
        RepositoryError: A file is missing or damaged.
        ReleaseError: What waits was changed by something else.
    """
    published, waiting = repository.published(), repository.waiting()
    view: dict[str, Any] = dict(published)
    if published:
        snapshot, timestamp = repository.snapshot(), repository.timestamp()
        if snapshot is None or timestamp is None:
            raise RepositoryError(f"{repository.folder} lost its timestamp; restore it from its copy")
        view |= {"snapshot": snapshot, "timestamp": timestamp}
    calendar = [
        {
            "role": role,
            "version": metadata.signed.version,
            "expires": metadata.signed.expires.isoformat(),
            "days_left": (metadata.signed.expires - now).total_seconds() / 86_400,
            "due": (metadata.signed.expires - now).days * SOON < LIFETIME_DAYS[role],
            "renew": "limbeck release " + (f"rotate --role {role}" if role in OFFLINE else "publish"),
        }
        for role, metadata in sorted(view.items(), key=lambda item: item[1].signed.expires)
    ]
    return {
        "folder": str(repository.folder),
        "calendar": calendar,
        "signers": signers(published) if published else {},
        "channels": {channel: _products(channel, published[channel]) for channel in CHANNELS} if published else {},
        "waiting": _waiting(waiting),
    }


def signers(view: Mapping[str, Any]) -> dict[str, Any]:
    """Role to threshold and the names of those who may sign it."""
    found = {}
    for role in (*OFFLINE, "snapshot", "timestamp"):
        given, keys = holders(view, role)
        found[role] = {"threshold": given.threshold, "names": sorted(map(name_of, keys.values()))}
    return found


def words(facts: Mapping[str, Any]) -> str:
    """The same for a person."""
    lines = []
    if not facts["calendar"]:
        lines.append("nothing is published yet")
    for product in (each for products in facts["channels"].values() for each in products):
        lines.append(f"{product['channel']}: {product['name']}")
        for release in product["releases"]:
            stopped = "stopped" if release["per10k"] == 0 else f"{share(release['per10k'])} of devices"
            lines.append(
                f"  {release['version']}: {stopped}, {megabytes(release['bytes'])}, {len(release['deltas'])} deltas, "
                f"manifest {release['manifest'][:12]}…"
            )
        if product["revoked"]:
            lines.append(f"  revoked: {', '.join(manifest[:12] + '…' for manifest in product['revoked'])}")
    for entry in facts["calendar"]:
        left = f"{entry['days_left']:.1f} days left" if entry["days_left"] > 0 else "EXPIRED, devices refuse it"
        due = f"; renew: {entry['renew']}" if entry["due"] else ""
        lines.append(f"{entry['expires'][:16]} {entry['role']} {entry['version']} expires, {left}{due}")
    waiting = facts["waiting"]
    if waiting:
        lines += ["waits for signatures:", *(f"  {line}" for line in waiting["words"])]
        lines += [f"  {line}" for line in waiting["signatures"]]
    else:
        lines.append("nothing waits for signatures")
    return "\n".join(lines)


def _products(channel: str, metadata: Metadata[Any]) -> list[dict[str, Any]]:
    return [
        {
            "channel": channel,
            "name": name,
            "kind": catalogue.kind,
            "minimum_sequence": catalogue.minimum_sequence,
            "revoked": list(catalogue.revoked),
            "releases": [
                {
                    "version": release.version,
                    "sequence": release.sequence,
                    "manifest": release.manifest,
                    "bytes": release.bytes,
                    "base_digest": release.base_digest,
                    "per10k": release.rollout.per10k,
                    "deltas": dict(release.deltas),
                }
                for release in catalogue.releases
            ],
        }
        for name, catalogue in catalogues(metadata).items()
    ]


def _waiting(request: Request | None) -> dict[str, Any] | None:
    if request is None:
        return None
    found = request.signatures()
    return {
        "words": request.words(),
        "signatures": [signed.words() for signed in found],
        "missing": {each.role: {"needed": each.needed, "of": list(each.open)} for each in found if each.needed},
    }
