"""Documents of public text with their licences in; those to learn from out, as a file with the record of its sources.

In order: (1) refuse licences that are not known to allow it, (2) leave out what is too short, not English or said
before, (3) let no source give more than its share, (4) shuffle by content. The same inputs give the same file, byte for
byte.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from privacy.whole_file import replace_whole
from sdk.build.prose import LONGEST, SHORTEST, is_english
from sdk.build.repeats import first_of_each
from sdk.build.terms import is_permissive
from sdk.build.text_files import Document
from sdk.errors import TextError

__all__ = ["Kept", "choose", "sources_record", "write"]

REPEATED_CHARS = 40  # A shorter paragraph may well be said twice ("Yes, please.").
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What was chosen, and why the rest was not."""

    documents: tuple[Document, ...]
    left_out: dict[str, int]
    """Reason to number of documents: `short`, `not English`, `said before`, `over its share`."""


def choose(
    found: Sequence[Document],
    *,
    share: float = 1.0,
    most_characters: int | None = None,
    seed: int = 0,
    accepted: Collection[str] = (),
    progress: Tell | None = None,
) -> Kept:
    """Clean, balance and shuffle documents.

    Args:
        found: From `read_path` and `read_package`; of two that say the same, one stays.
        share: Most of the kept characters that one source may give, in (0, 1].
        most_characters: Most characters of one source; None for no such limit.
        seed: Of the shuffle, and so of which documents of a source over its share stay.
        accepted: Licences taken beside the permissive ones.
        progress: Told (step, done, total).

    Raises:
        TextError: A licence is not known to allow it, there are too few sources for the share, or nothing is left.
    """
    _require_permissive(found, accepted)
    left: Counter[str] = Counter()
    cleaned = sorted(_clean(found, left), key=lambda item: _place(item, seed))
    new = first_of_each(_told([item.text for item in cleaned], progress))
    left["said before"] = new.count(False)
    by_source: dict[str, list[Document]] = {}
    for item, is_new in zip(cleaned, new, strict=True):
        if is_new:
            by_source.setdefault(item.source, []).append(item)
    sizes = {name: sum(len(item.text) for item in items) for name, items in by_source.items()}
    limit = _limit({name: min(size, most_characters or size) for name, size in sizes.items()}, share)
    kept = [item for items in by_source.values() for item in _first(items, limit)]
    left["over its share"] = sum(map(len, by_source.values())) - len(kept)
    if not kept:
        raise TextError(f"nothing is left of {len(found)} documents: {_words(left)}; give other text")
    return Kept(documents=tuple(sorted(kept, key=lambda item: _place(item, seed))), left_out=dict(left))


def write(kept: Kept, out: Path) -> Path:
    """Write the documents as JSON lines, and beside them the record of their sources, whose path is returned.

    Raises:
        TextError: No room, no right or no folder; older files stay as they were.
    """
    record = out.with_suffix(".sources.md")
    lines = "".join(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in kept.documents)
    try:
        replace_whole(out, lines.encode())
        replace_whole(record, sources_record(kept).encode())
    except OSError as cause:
        raise TextError(f"cannot write {out}: {cause.strerror or cause}; choose another place") from cause
    return record


def sources_record(kept: Kept) -> str:
    """The sources as a Markdown table: what a model card lists."""
    characters, count, about = Counter[str](), Counter[str](), dict[str, tuple[set[str], set[str]]]()
    for item in kept.documents:
        characters[item.source] += len(item.text)
        count[item.source] += 1
        licences, origins = about.setdefault(item.source, (set(), set()))
        licences.add(item.licence)
        origins.add(item.origin)
    total = characters.total()
    rows = "".join(
        f"| {name} | {', '.join(sorted(about[name][1]))} | {', '.join(sorted(about[name][0]))} | {count[name]:,} "
        f"| {size:,} | {size / total:.1%} |\n"
        for name, size in characters.most_common()
    )
    words = sum(len(item.text.split()) for item in kept.documents)
    return (
        f"# Text\n\n{count.total():,} documents, {total:,} characters, {words:,} words. "
        f"Left out: {_words(kept.left_out)}.\n\n"
        f"| source | from | licence | documents | characters | share |\n| --- | --- | --- | --- | --- | --- |\n{rows}"
    )


def _words(left: dict[str, int]) -> str:
    return ", ".join(f"{number:,} {reason}" for reason, number in sorted(left.items()) if number) or "nothing"


def _told(texts: Sequence[str], progress: Tell | None) -> Iterator[str]:
    for done, text in enumerate(texts, 1):
        yield text
        if progress and (done % 100 == 0 or done == len(texts)):
            progress("leave out what was said before", done, len(texts))


def _require_permissive(found: Iterable[Document], accepted: Collection[str]) -> None:
    by_licence: dict[str, set[str]] = {}
    for document in found:
        by_licence.setdefault(document.licence, set()).add(document.source)
    for licence, sources in sorted(by_licence.items()):
        if not is_permissive(licence, accepted=accepted):
            raise TextError(
                f"{', '.join(sorted(sources)[:3])}: the licence {licence!r} is not known to let a model that learned"
                f" from it be shipped freely; leave it out, or say --accept-licence {licence!r}"
            )


def _clean(found: Iterable[Document], left: Counter[str]) -> Iterator[Document]:
    said: set[bytes] = set()
    for item in found:
        paragraphs = []
        for paragraph in item.text.split("\n\n"):
            key = hashlib.blake2b(paragraph.casefold().encode(), digest_size=12).digest()
            if len(paragraph) < REPEATED_CHARS or key not in said:
                paragraphs.append(paragraph)
            said.add(key)
        text = "\n\n".join(paragraphs).strip()[:LONGEST]
        reason = "short" if len(text) < SHORTEST else "" if is_english(text) else "not English"
        if reason:
            left[reason] += 1
        else:
            yield Document(text=text, source=item.source, licence=item.licence, origin=item.origin)


def _place(item: Document, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {item.source} {item.text}".encode()).digest()


def _limit(sizes: dict[str, int], share: float) -> int:
    """Characters that each source may give so that none has more than `share` of all."""
    if not 0 < share <= 1:
        raise TextError(f"the share must be above 0 and at most 1, got {share}")
    if sizes and len(sizes) * share < 1:
        raise TextError(
            f"{len(sizes)} sources cannot all stay under {share:.0%}; give more, or a share of {1 / len(sizes):.2f}"
        )
    limit = max(sizes.values(), default=0)
    while limit > (fair := round(share * sum(min(size, limit) for size in sizes.values()))):
        limit = fair
    return limit


def _first(items: Iterable[Document], limit: int) -> Iterator[Document]:
    used = 0
    for item in items:
        if used + len(item.text) <= limit:
            used += len(item.text)
            yield item
