"""Sources of public text in; the base bundle with a pack of that kind of text out."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from personalize.learner import Base
from sdk.build.basis import MAX_DIRECTIONS, learn_domain, pack_key
from sdk.build.package import add_pack, make_base, require_name
from sdk.build.people import read_people
from sdk.build.worked import Worked
from sdk.bundle import BASIS, Bundle, cache_folder, shipped_bundle

__all__ = ["MAX_TOKENS", "build_pack"]

MAX_TOKENS = 40  # Completion tokens of a record, as in a night.


def build_pack(
    base_of: Callable[[Bundle], Base],
    files: Sequence[Path],
    repositories: Sequence[Path],
    *,
    name: str,
    facts: Mapping[str, Any],
    directions: int = MAX_DIRECTIONS,
    records_each: int = 96,
    passes: int = 2,
    bundle: Path | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> dict[str, Any]:
    """Learn a pack from public people and put it into a bundle; an interrupted call goes on when it is made again.

    Args:
        base_of: Loads what learning needs of a bundle (sdk.device.night.base_of; build and device only meet above).
        files: JSON lines of many people.
        repositories: Git repositories.
        name: Kind of text.
        facts: Licence and origin of the text, written into the pack.
        directions: Largest number of directions.
        records_each: Records taken of a person.
        passes: Times that the domain adapter sees each record.
        bundle: Folder of the bundle; None takes the one that is used here.
        progress: Told how far each step is.

    Returns:
        What was learned, from how many, and where it is.

    Raises:
        BasisError, BuildError, BundleError: Refused or failed; the bundle is as it was.
    """
    require_name(name)  # Before anything long begins.
    # Never an installed update: slots do not change, and a signed bundle with another pack would be another one.
    target = Bundle.open(bundle) if bundle else shipped_bundle() or make_base()
    people = read_people(files, repositories, records_each=records_each)
    base = base_of(target)
    key = pack_key(base, people, passes=passes, max_tokens=MAX_TOKENS)
    worked = Worked(cache_folder() / "half-done" / key)
    pack = learn_domain(
        base,
        people,
        max_tokens=MAX_TOKENS,
        passes=passes,
        directions=directions,
        worked=worked,
        progress=progress,
    )
    done = add_pack(target, pack.with_facts(facts), name=name)
    worked.clear()
    folder = done.folder / BASIS / name
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    learned = {key: pack.facts[key] for key in ("people", "records")}
    return {"name": name, "directions": len(pack.basis), **learned, "bytes": size, "folder": str(folder)}
