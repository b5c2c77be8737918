"""What would leave the device in, a permission for exactly these bytes out, or none: the person decides.

Rules: nothing leaves without a Permission, and only Consent makes one. Off by default: with the standing answer "ask",
which a new home has, a request stays here unless somebody who saw its preview says yes. A kind's own answer goes before
the standing one, except that standing "never" ends it all. A permission is for one host, for bytes of one digest, and
for one use. A file that cannot be read is a refusal, never a yes. It is replaced whole and read anew for each request,
and written without the home's lock, so that nobody has to wait for a night to end before saying never.
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

from personalize.home import Home
from sdk.errors import ConsentError

__all__ = ["KINDS_MOST", "Consent", "Permission", "Preview", "Standing", "canonical"]

FILE = "consent.json"
FORMAT = "consent/1"
KINDS_MOST = 64  # An app has a dozen kinds of request; a file of thousands is none of ours.
KIND = re.compile(r"[a-z][a-z0-9_-]{0,31}")
MAKER = object()  # Only this module has it: a Permission made elsewhere is refused.

Standing = Literal["ask", "always", "never"]
Answer = Literal["allow", "deny"]


def canonical(messages: Sequence[Mapping[str, Any]]) -> bytes:
    """The bytes of messages that a person is shown and a permission is bound to: compact JSON with sorted keys."""
    return json.dumps(
        [dict(message) for message in messages], ensure_ascii=False, sort_keys=True, separators=(",", ":")
    ).encode()


@dataclass(frozen=True, kw_only=True)
class Preview:
    """Exactly what would leave, where to, and what was replaced in it."""

    kind: str
    """Kind of request, such as `summary`: up to 32 lower-case letters, digits, hyphens."""
    host: str
    """Host that would read it, as the app names it; for an oblivious request the target behind the relay."""
    content: bytes
    """What would be sent, byte for byte; see `canonical`."""
    replaced: tuple[str, ...] = ()
    """Placeholders in it that stand for something that stays here."""

    @property
    def digest(self) -> str:
        """SHA-256 of the content, 64 hex digits."""
        return hashlib.sha256(self.content).hexdigest()

    def text(self) -> str:
        """The same for a person, control characters shown as escapes."""
        shown = self.content.decode("utf-8", "backslashreplace")
        safe = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in shown)
        kept = f"; {len(self.replaced)} values stay here: {', '.join(self.replaced)}" if self.replaced else ""
        return f"{len(self.content)} bytes to {self.host} ({self.kind}){kept}\n{safe}"


class Permission:
    """Leave to send the bytes of one preview to its host, once; made by Consent only."""

    def __init__(self, preview: Preview, why: str, *, proof: object = None) -> None:
        if proof is not MAKER:
            raise ConsentError("a permission is made by Consent.asked only; nothing was sent")
        self.why = why
        """Who said yes, in words."""
        self._host, self._digest, self._spent = preview.host, preview.digest, False
        self._lock = threading.Lock()

    def spend(self, host: str, content: bytes) -> None:
        """Use it up, right before `content` goes to `host`.

        Raises:
            ConsentError: It was used before, or is for another host or other bytes; it is used up all the same.
        """
        with self._lock:
            spent, self._spent = self._spent, True
        if spent:
            raise ConsentError("this permission was used already; ask again; nothing was sent")
        if host != self._host:
            raise ConsentError(f"the permission is for {self._host}, not for {host}; nothing was sent")
        if hashlib.sha256(content).hexdigest() != self._digest:
            raise ConsentError("these are not the bytes that were shown and permitted; nothing was sent")


@dataclass(frozen=True)
class Consent:
    """What a person has said about sending, in `consent.json` of their home."""

    home: Home
    """Where it is kept."""
    standing: Standing = "ask"
    """For every kind without an answer of its own."""
    kinds: Mapping[str, Answer] = field(default_factory=lambda: MappingProxyType({}))
    """Kind of request to the person's answer."""

    @classmethod
    def open(cls, home: Home) -> "Consent":
        """Read what was said; a home that was never asked has standing "ask".

        Raises:
            ConsentError: The file is damaged or of a newer format; nothing leaves until it is mended or removed.
        """
        written = home.get(FILE)
        if written is None:
            return cls(home)
        try:
            fields = json.loads(written)
            if fields["format"] != FORMAT:
                raise ConsentError(
                    f"{home.path / FILE} has format {fields['format']!r:.40}, this version reads {FORMAT}"
                )
            if fields["standing"] not in get_args(Standing) or not _are_answers(fields["kinds"]):
                raise ValueError("an answer that is none")
        except (ValueError, KeyError, TypeError, RecursionError) as cause:
            advice = "nothing leaves; remove it to be asked anew"
            raise ConsentError(f"{home.path / FILE} is damaged ({type(cause).__name__}); {advice}") from cause
        return cls(home, fields["standing"], MappingProxyType(dict(fields["kinds"])))

    def asked(self, preview: Preview, ask: Callable[[Preview], bool] | None = None) -> Permission | None:
        """Leave to send what `preview` shows, or None: then it stays here.

        Args:
            preview: What would leave.
            ask: Shows it to the person and returns exactly True for yes; None where nobody can be asked.

        Raises:
            ConsentError: The preview's kind is no name, or the file cannot be read; it stays here.
        """
        require_kind(preview.kind)
        said = Consent.open(self.home)  # Read anew: what was withdrawn in another window counts at once.
        answer = said.kinds.get(preview.kind)
        if said.standing == "never" or answer == "deny":
            return None
        if answer == "allow":
            return Permission(preview, f"{preview.kind} is allowed", proof=MAKER)
        if said.standing == "always":
            return Permission(preview, "sending is allowed", proof=MAKER)
        if ask is not None and ask(preview) is True:
            return Permission(preview, "asked and permitted", proof=MAKER)
        return None

    def with_kind(self, kind: str, answer: Answer | None) -> "Consent":
        """Keep the person's answer for a kind; None forgets it, so that the standing one holds again.

        Raises:
            ConsentError: No name, or more than KINDS_MOST kinds; what was said before holds.
        """
        require_kind(kind)
        kinds = {name: said for name, said in self.kinds.items() if name != kind}
        if answer is not None:
            kinds[kind] = answer
        if len(kinds) > KINDS_MOST:
            raise ConsentError(f"{len(kinds)} kinds have an answer, at most {KINDS_MOST} can; forget one first")
        return self._kept(Consent(self.home, self.standing, MappingProxyType(kinds)))

    def with_standing(self, standing: Standing) -> "Consent":
        """Keep the answer for all kinds without one of their own."""
        return self._kept(Consent(self.home, standing, self.kinds))

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values, as they stand in the file."""
        return {"format": FORMAT, "standing": self.standing, "kinds": dict(sorted(self.kinds.items()))}

    def summary(self) -> str:
        """The same for a person."""
        words = {
            "ask": "nothing leaves this device unless you permit the request you are shown",
            "always": "requests that the small model cannot answer may leave, redacted",
            "never": "nothing leaves this device, and you are not asked",
        }
        lines = [f"standing  {self.standing}: {words[self.standing]}"]
        return "\n".join(lines + [f"{name:<9} {answer}" for name, answer in sorted(self.kinds.items())])

    def _kept(self, changed: "Consent") -> "Consent":
        self.home.put(FILE, (json.dumps(changed.to_dict(), indent=1) + "\n").encode())
        return changed


def require_kind(kind: str) -> None:
    """Refuse what cannot name a kind of request.

    Raises:
        ConsentError: It is no such name.
    """
    if not KIND.fullmatch(kind):
        raise ConsentError(f"{kind!r:.50} names no kind; use up to 32 lower-case letters, digits, hyphens")


def _are_answers(kinds: Any) -> bool:
    return (
        isinstance(kinds, dict)
        and len(kinds) <= KINDS_MOST
        and all(KIND.fullmatch(name) and said in get_args(Answer) for name, said in kinds.items())
    )
