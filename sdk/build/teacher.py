"""A place in, a teacher out: a folder or GGUF file of weights, recorded outputs, or the address of an endpoint."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdk.build.teachers.answer_cache import AnswerCache
from sdk.build.teachers.black_box import BlackBox
from sdk.build.teachers.endpoint import Endpoint, Pace, Patience
from sdk.build.teachers.gguf_file import CHAT_CONTROLS, CHAT_TEMPLATE, load_gguf
from sdk.build.teachers.grey_box import Recorded, ScoringEndpoint
from sdk.build.teachers.price import Meter, Price
from sdk.build.teachers.protocol import Teacher
from sdk.build.teachers.white_box import WhiteBox
from sdk.bundle import cache_folder
from sdk.errors import EndpointError

__all__ = ["CHAT_CONTROLS", "CHAT_TEMPLATE", "Remote", "WhiteBox", "is_address", "load_gguf", "open_teacher"]


@dataclass(frozen=True, kw_only=True)
class Remote:
    """How an endpoint is used."""

    model: str
    """As the endpoint calls it."""
    key: str | None = field(default=None, repr=False)
    """Its bearer token, from the environment."""
    price: Price | None = None
    """What it takes for a million tokens."""
    max_cost: float | None = None
    """Refuse the request that could pass it; needs a price."""
    per_minute: float | None = None
    """Requests that may start in a minute."""
    at_once: int = 4
    """Requests under way at the same time."""
    patience: Patience = field(default_factory=Patience)
    """How long to try."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields to add to each request; None takes one of ours away."""
    vocabulary: int | None = None
    """Tokens of the served model, where it is to score tokens too."""
    cache: Path | None = None
    """Where answers are kept; None: `answers.db` in the cache folder."""
    stop: Callable[[], bool] = lambda: False
    """Asked while waiting."""


def open_teacher(place: str | Path, *, licence: str | None = None, remote: Remote | None = None) -> Teacher:
    """Open a teacher by where it is; nothing is asked of an endpoint yet.

    Args:
        place: `http(s)://…/v1`, a `.safetensors` file of recorded outputs, a GGUF file, or a model's folder.
        licence: Overrides what the place itself says.
        remote: For an address.

    Raises:
        TeacherError: It cannot be opened.
    """
    if is_address(place):
        if remote is None or not remote.model:
            raise EndpointError(f"{place} serves several models; say which with --model")
        return _opened(str(place), licence or "unknown", remote)
    path = Path(place)
    if path.is_file() and path.suffix == ".safetensors":
        return Recorded.open(path, licence=licence)
    return WhiteBox.open(path, licence=licence)


def is_address(place: str | Path) -> bool:
    """Whether a place is an address rather than a path."""
    return str(place).startswith(("http://", "https://"))


def _opened(url: str, licence: str, remote: Remote) -> BlackBox:
    pace = Pace(per_minute=remote.per_minute, stop=remote.stop)
    parts: dict[str, Any] = {
        "endpoint": Endpoint(url, key=remote.key, patience=remote.patience, pace=pace),
        "model": remote.model,
        "cache": AnswerCache(remote.cache or cache_folder() / "answers.db"),
        "licence": licence,
        "meter": Meter(price=remote.price, limit=remote.max_cost),
        "at_once": remote.at_once,
        "extra": remote.extra,
    }
    return BlackBox(**parts) if remote.vocabulary is None else ScoringEndpoint(**parts, vocabulary=remote.vocabulary)
