"""A publisher's folder in, the release page out: what devices see, who signed it, what changed, when it expires.

One self-contained file without a script, for screen and paper. It is for people: no device reads it, and nothing on it
is signed. Texts come from bundles and key files, so the template escapes whatever it is given.
"""

import json
import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2

from privacy.whole_file import replace_whole
from sdk.bundle import FileRecord
from sdk.catalogue import CHANNELS, Catalogue, Release
from sdk.errors import ReleaseError
from sdk.release.describe import catalogues, megabytes, share
from sdk.release.keys import name_of
from sdk.release.payload import files_of
from sdk.release.repository import Repository
from sdk.release.roles import OFFLINE, holders
from sdk.release.status import status

__all__ = ["write_page"]

TEMPLATES = Path(__file__).parent / "templates"
SCORECARD = "scorecard.json"
MAX_SCORECARD_BYTES = 64 * 1024 * 1024  # As sdk.build.evaluate reads at most.
MOST_FILES = 40  # Rows of a version's changed files; a compiled model has a few dozen.


def write_page(repository: Repository, file: Path, now: datetime) -> None:
    """Write the release page of what is published and what waits, whole or not at all.

    Raises:
        RepositoryError: The repository is damaged.
        ReleaseError: The page cannot be written; an older one stays as it was.
    """
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(  # The look is that of the privacy report.
            [jinja2.FileSystemLoader(TEMPLATES), jinja2.PackageLoader("privacy", "templates")]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"share": share, "megabytes": megabytes, "day": lambda text: str(text)[:10]}
    page = environment.get_template("release.html.jinja").render(view(repository, now))
    try:
        replace_whole(file, page.encode())
    except OSError as cause:
        raise ReleaseError(f"cannot write the page to {file}: {cause.strerror}; choose another place") from cause


def view(repository: Repository, now: datetime) -> dict[str, Any]:
    """What the template shows."""
    facts, published = status(repository, now), repository.published()
    products = [
        _product(repository, channel, catalogue)
        for channel in CHANNELS
        if published
        for catalogue in catalogues(published[channel]).values()
    ]
    newest = next((product for product in products if product["versions"]), None)
    return {
        **facts,
        "now": now,
        "headline": _headline(newest),
        "products": products,
        "signed": [_signed(published, role) for role in OFFLINE] if published else [],
        "first": facts["calendar"][0] if facts["calendar"] else None,
    }


def _headline(product: Mapping[str, Any] | None) -> str:
    if product is None:
        return "Nothing is released yet."
    newest = product["versions"][0]
    if newest["per10k"] == 0:
        return f"The rollout of {product['name']} {newest['version']} is stopped."
    return f"{product['name']} {newest['version']} reaches {share(newest['per10k'])} of devices."


def _signed(published: Mapping[str, Any], role: str) -> dict[str, Any]:
    """Whose signatures stand under a role now."""
    metadata = published[role]
    given, keys = holders(published, role)
    vouching = published["targets" if role in CHANNELS else "root"].signed
    found = vouching.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    return {
        "role": role,
        "version": metadata.signed.version,
        "threshold": given.threshold,
        "of": len(keys),
        "names": sorted(map(name_of, found.signed.values())),
    }


def _product(repository: Repository, channel: str, catalogue: Catalogue) -> dict[str, Any]:
    releases = catalogue.releases
    return {
        "channel": channel,
        "name": catalogue.name,
        "kind": catalogue.kind,
        "revoked": list(catalogue.revoked),
        "versions": [
            _version(repository, channel, release, releases[place + 1] if place + 1 < len(releases) else None)
            for place, release in enumerate(releases)
        ],
    }


def _version(repository: Repository, channel: str, release: Release, before: Release | None) -> dict[str, Any]:
    files = files_of(repository.read_target(channel, release.manifest))
    old = files_of(repository.read_target(channel, before.manifest)) if before else {}
    known = {record.sha256 for record in old.values()}
    changed = [
        {"path": path, "bytes": record.bytes, "how": "changed" if path in old else "new"}
        for path, record in sorted(files.items())
        if path not in old or old[path].sha256 != record.sha256
    ]
    gone = [{"path": path, "bytes": old[path].bytes, "how": "gone"} for path in sorted(old.keys() - files.keys())]
    deltas = {base: repository.target(channel, delta).stat().st_size for base, delta in release.deltas.items()}
    return {
        "version": release.version,
        "sequence": release.sequence,
        "manifest": release.manifest,
        "base_digest": release.base_digest,
        "bytes": release.bytes,
        "per10k": release.rollout.per10k,
        "before": before.version if before else None,
        "files": (changed + gone)[:MOST_FILES],
        "more_files": max(0, len(changed) + len(gone) - MOST_FILES),
        "changed_bytes": sum(record.bytes for record in files.values() if record.sha256 not in known),
        "delta_bytes": deltas.get(before.manifest) if before else None,
        "health": release.health,
        "scores": _scores(_figures(repository, channel, old), _figures(repository, channel, files)),
    }


def _figures(repository: Repository, channel: str, files: Mapping[str, FileRecord]) -> dict[str, float]:
    """Figures of a version's scorecard, "leg: figure" to value; empty where it carries none that can be read."""
    record = files.get(SCORECARD)
    if record is None or record.bytes > MAX_SCORECARD_BYTES:
        return {}
    try:
        legs = json.loads(repository.read_target(channel, record.sha256))["legs"]
        pairs = [
            (f"{leg}: {name}", figure["value"])
            for leg, fields in legs.items()
            for name, figure in fields.get("figures", {}).items()
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {name: value for name, value in pairs if isinstance(value, int | float) and math.isfinite(value)}


def _scores(old: Mapping[str, float], new: Mapping[str, float]) -> list[dict[str, Any]]:
    """Both scorecards side by side, where both versions carry one."""
    return [{"name": name, "old": f"{old[name]:.4g}", "new": f"{new[name]:.4g}"} for name in new if name in old]
