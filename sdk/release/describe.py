"""Two states of a repository in, what changes for managers and devices in words out.

These words are what a manager signs by. They are computed from the metadata themselves, never taken from the file that
travels, and metadata that hold anything for which there are no words are refused: what nobody can read nobody signs.
"""

from collections.abc import Iterator
from typing import Any

from tuf.api.metadata import Metadata, Root, Targets

from sdk.catalogue import CHANNELS, FILES, Catalogue, Release, catalogue_path, file_path
from sdk.errors import CatalogueError, ReleaseError
from sdk.release.keys import name_of
from sdk.release.roles import OFFLINE, View, holders

__all__ = ["catalogues", "changes", "check_sayable", "megabytes", "share"]


def changes(before: View, after: View) -> list[str]:
    """What is different in `after`, a line each; nothing is left out.

    Args:
        before: What is published; empty for a new repository.
        after: The same roles as they would be.

    Raises:
        ReleaseError: `after` holds what these words cannot say.
    """
    check_sayable(after)
    lines: list[str] = []
    for role in OFFLINE:
        if role in after and (role not in before or before[role].signed != after[role].signed):
            said = [*_signers(before, after, role), *(_offers(before, after, role) if role in CHANNELS else ())]
            until = f"valid until {after[role].signed.expires:%Y-%m-%d}"
            lines += said
            lines.append(
                f"{role}: version {after[role].signed.version}, {until}" + ("" if said else "; nothing else changes")
            )
    return lines


def catalogues(channel: Metadata[Any]) -> dict[str, Catalogue]:
    """Every product of a channel by its name.

    Raises:
        CatalogueError: One is malformed.
    """
    found = {}
    for path, target in sorted(channel.signed.targets.items()):
        if path.endswith("/releases.json"):
            found[path.split("/")[1]] = Catalogue.parse(target.custom)
    return found


def check_sayable(view: View) -> None:
    """Refuse metadata that hold anything but keys, thresholds, catalogues and content-addressed files.

    Raises:
        ReleaseError: Something else is in them; the text says where.
    """
    for role, metadata in view.items():
        signed = metadata.signed
        problem = None
        if not isinstance(signed, Root if role == "root" else Targets):
            problem = f"is of type {signed.type!r:.40}"
        elif signed.unrecognized_fields:
            problem = f"has the unknown fields {sorted(signed.unrecognized_fields)!r:.80}"
        elif isinstance(signed, Root):
            problem = None if signed.consistent_snapshot is True else "switches consistent snapshots off"
        elif role == "targets":
            problem = _delegations_problem(signed)
        else:
            problem = _channel_problem(role, metadata)
        if problem:
            raise ReleaseError(
                f"{role} metadata {problem}; nobody can say in words what that does, so it is not signed"
            )


def share(per10k: int) -> str:
    """A share of devices in percent, exactly: 0.01 % to 100 %."""
    return f"{per10k // 100}.{per10k % 100:02d} %".replace(".00 ", " ")


def megabytes(count: int) -> str:
    """A size for people."""
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


def _signers(before: View, after: View, role: str) -> Iterator[str]:
    """Keys and thresholds that `role` gives out: root for the top roles, targets for the channels."""
    given = {"root": ("root", "targets", "snapshot", "timestamp"), "targets": CHANNELS}.get(role, ())
    for below in given:
        now, keys = holders(after, below)
        old, old_keys = holders(before, below) if role in before else (None, {})
        steps = [f"{name_of(keys[keyid])} in ({keyid[:8]})" for keyid in sorted(keys.keys() - old_keys.keys())]
        steps += [f"{name_of(old_keys[keyid])} out ({keyid[:8]})" for keyid in sorted(old_keys.keys() - keys.keys())]
        if steps or old is None or old.threshold != now.threshold:
            steps.append(f"{now.threshold} of {len(keys)} sign")
            yield f"{role}: who may sign {below}: {', '.join(steps)}"


def _offers(before: View, after: View, channel: str) -> Iterator[str]:
    new = catalogues(after[channel])
    old = catalogues(before[channel]) if channel in before else {}
    for name in sorted(new.keys() | old.keys()):
        if name not in new:
            yield f"{channel}: {name} is no longer offered at all; devices keep what they have"
        else:
            yield from _product(channel, old.get(name), new[name])
    files, known = (_files(view[channel]) if channel in view else {} for view in (after, before))
    fresh = [size for path, size in files.items() if path not in known]
    gone = known.keys() - files.keys()
    if fresh:
        yield f"{channel}: {len(fresh)} new files, {megabytes(sum(fresh))}"
    if gone:
        yield f"{channel}: {len(gone)} files are no longer offered"


def _product(channel: str, old: Catalogue | None, new: Catalogue) -> Iterator[str]:
    at = f"{channel}: {new.name}"
    was = {release.version: release for release in old.releases} if old else {}
    for release in new.releases:
        earlier = was.pop(release.version, None)
        if earlier is None or earlier.manifest != release.manifest:
            reached = share(release.rollout.per10k)
            yield f"{at} {release.version} is offered to {reached} of devices: {_facts(new, release)}"
        elif earlier != release:
            yield f"{at} {release.version}: {', '.join(_moved(earlier, release))}"
    for release in was.values():
        if release.manifest not in new.revoked:
            yield f"{at} {release.version} is no longer offered; devices that have it keep it"
    for manifest in sorted(set(new.revoked) - set(old.revoked if old else ())):
        version = next(
            (release.version for release in (old.releases if old else ()) if release.manifest == manifest), "?"
        )
        yield f"{at} {version} (manifest {manifest[:12]}…) is revoked: devices leave it at once"
    for manifest in sorted(set(old.revoked if old else ()) - set(new.revoked)):
        yield f"{at}: manifest {manifest[:12]}… is no longer revoked"
    if new.minimum_sequence != (old.minimum_sequence if old else 0):
        yield f"{at}: devices below release number {new.minimum_sequence} move on at once"


def _facts(catalogue: Catalogue, release: Release) -> str:
    """Everything that is signed about a release, so that two that differ never read the same."""
    wanted, health = release.requires, release.health
    needs = [
        wanted.sdk and f"limbeck {wanted.sdk}",
        wanted.memory_mb is not None and f"{wanted.memory_mb} MB of memory",
        wanted.hardware and f"{' or '.join(wanted.hardware)}",
        wanted.base_digest and f"base {wanted.base_digest[7:19]}…",
    ]
    named = ", ".join(str(need) for need in needs if need)
    facts = [
        f"{catalogue.kind}, release number {release.sequence}, {megabytes(release.bytes)}",
        f"manifest {release.manifest}",
        f"base {release.base_digest[7:19]}…",
        f"needs {named or 'nothing'}",
        f"probe loss at most {health.loss_ratio_ppm / 1e4:g} % of the old, agreement at least "
        f"{share(health.agreement_per10k)}, check within {health.seconds} s and {health.memory_mb} MB",
        f"salt {release.rollout.salt}",
    ]
    if release.deltas:
        facts.append(
            "deltas from " + ", ".join(f"{old[:12]}… ({delta[:12]}…)" for old, delta in release.deltas.items())
        )
    return "; ".join(facts)


def _moved(old: Release, new: Release) -> Iterator[str]:
    if new.rollout.per10k != old.rollout.per10k:
        way = f"{share(old.rollout.per10k)} → {share(new.rollout.per10k)} of devices"
        yield f"stopped ({way})" if new.rollout.stopped else way
    if new.deltas != old.deltas:
        yield "deltas from " + (
            ", ".join(f"{base[:12]}… ({delta[:12]}…)" for base, delta in new.deltas.items()) or "nothing"
        )
    for field in ("sequence", "bytes", "base_digest", "requires", "health"):
        if getattr(new, field) != getattr(old, field):
            yield f"{field.replace('_', ' ')}: {getattr(old, field)} → {getattr(new, field)}"
    if new.rollout.salt != old.rollout.salt:
        yield f"salt {old.rollout.salt} → {new.rollout.salt}"


def _files(channel: Metadata[Any]) -> dict[str, int]:
    return {path: target.length for path, target in channel.signed.targets.items() if path.split("/")[1] == FILES}


def _delegations_problem(targets: Targets) -> str | None:
    if targets.targets:
        return f"names files itself ({next(iter(targets.targets))!r:.80})"
    roles = targets.delegations.roles if targets.delegations else None
    if roles is None or list(roles) != list(CHANNELS):
        return f"does not delegate to exactly {', '.join(CHANNELS)}"
    for channel, role in roles.items():
        if role.paths != [f"{channel}/*/*"] or not role.terminating or role.unrecognized_fields:
            return f"delegates something else than {channel}/*/* to {channel}"
    return None


def _channel_problem(channel: str, metadata: Metadata[Any]) -> str | None:
    if metadata.signed.delegations is not None:
        return "delegates further"
    for path, target in metadata.signed.targets.items():
        digest = target.hashes.get("sha256", "")
        beyond = set(target.unrecognized_fields) - {"custom"}
        if set(target.hashes) != {"sha256"} or beyond:
            return f"says more or less than a SHA-256 about {path!r:.80}"
        if path == file_path(channel, digest) and target.custom is None:
            continue
        try:
            catalogue = Catalogue.parse(target.custom)
        except CatalogueError as cause:
            return f"has a target {path!r:.80} that is neither a file named by its digest nor a catalogue ({cause})"
        if path != catalogue_path(channel, catalogue.name) or catalogue.to_custom() != target.custom:
            return f"has a catalogue at {path!r:.80} with more in it than is read"
    return None
