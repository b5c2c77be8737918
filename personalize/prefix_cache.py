"""Records in, what the frozen layers make of them out: computed once, then kept sealed beside each record.

Rules:
    1. It is personal data like the text: sealed under the store's key, deleted with its record, nowhere else on disk.
    2. A value is bound to the base, the depth of the cut and the tokens; for any other it is not there.
    3. Values are kept in float32, so a night from them is the night from the text, bit for bit. Half precision would
       not do: activations of this family of models reach 22,552, where its steps are 16 wide.
    4. It is an optimisation: whatever goes wrong with it, the frozen layers are run again.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from personalize.errors import StoreError
from personalize.forward import Encoded, Prefix, prefixes
from personalize.store import Store

__all__ = ["MAX_BYTES", "kept_prefixes"]

MAX_BYTES = (
    64_000_000  # All cached values of a home: about 400 records of 70 tokens at a width of 576; oldest go first.
)
GROUP = 16  # Records of one transaction: a few megabytes, and a sync for each.


def kept_prefixes(
    store: Store, model: Any, records: Sequence[tuple[str, Encoded]], *, cut: int, base_digest: str
) -> Iterator[Prefix]:
    """What the frozen layers make of records, from the cache where it is there, and into it where it is not.

    Args:
        store: Where the records are.
        model: The base.
        records: Id and tokens of each.
        cut: Number of frozen layers.
        base_digest: Of the base.

    Yields:
        One prefix a record, in their order.
    """
    kind = f"prefix/1 {base_digest.removeprefix('sha256:')[:32]} {cut}"
    for start in range(0, len(records), GROUP):
        group = records[start : start + GROUP]
        found = [_opened(store.get_cache(name, kind), record) for name, record in group]
        missing = [index for index, prefix in enumerate(found) if prefix is None]
        made = list(prefixes(model, [group[index][1] for index in missing], cut=cut))
        if made:
            values = {group[index][0]: _written(prefix) for index, prefix in zip(missing, made, strict=True)}
            with suppress(StoreError):  # No room, or busy: rule 4.
                store.put_caches(kind, values, max_bytes=MAX_BYTES)
        fresh = iter(made)
        yield from (prefix if prefix is not None else next(fresh) for prefix in found)


def _written(prefix: Prefix) -> bytes:
    return _digest(prefix.record) + prefix.hidden.to(torch.float32).contiguous().numpy().tobytes()


def _opened(value: bytes | None, record: Encoded) -> Prefix | None:
    digest = _digest(record)
    if value is None or value[: len(digest)] != digest:
        return None
    numbers = torch.from_numpy(np.frombuffer(value[len(digest) :], dtype=np.float32).copy())
    return Prefix(hidden=numbers.view(len(record.ids), -1), record=record)  # (seq, width)


def _digest(record: Encoded) -> bytes:
    return hashlib.sha256(repr((record.ids, record.completion)).encode()).digest()
