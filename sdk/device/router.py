"""How sure the small model was in, whether its answer is kept or may be handed on out, with the reason in words.

Rules: the router decides, and sends nothing: what may leave is for Consent. Without a calibration of this base every
answer stays here, and the reason says so. An answer is kept when its calibrated confidence is *above* the threshold.
A calibration that was made before the adapter in use still decides, and the reason says that too.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from sdk.bundle import Bundle
from sdk.confidence import Calibration, Evidence
from sdk.device.extras import Extras
from sdk.errors import RouterError

__all__ = ["Decision", "Evidence", "Router"]

FILE = "router.json"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether an answer of the small model is kept."""

    local: bool
    """True: it is kept. False: a larger model may be asked, if the person consents."""
    confidence: float
    """Chance that it is right, in [0, 1]; without a calibration its tokens' mean probability, which is none."""
    threshold: float | None
    """Kept above it; None without a calibration."""
    reason: str
    """One clause for a person."""


@dataclass(frozen=True)
class Router:
    """Decides by a calibration, or keeps everything without one."""

    calibration: Calibration | None
    note: str = ""
    """What to know of the calibration, as a clause; empty where it is of the model that answers."""

    @property
    def samples(self) -> int:
        """Further answers that it wants drawn for each, to see how far they agree."""
        return self.calibration.samples if self.calibration else 0

    @classmethod
    def read(cls, file: Path | None, *, base_digest: str | None = None) -> "Router":
        """Read a calibration; None or a missing file gives a router that keeps everything.

        Args:
            file: A router.json.
            base_digest: The base that answers; a calibration of another base is refused.

        Raises:
            RouterError: The file is damaged, or of another base.
        """
        if file is None or not file.exists():
            return cls(None)
        try:
            calibration = Calibration.parse(file.read_bytes())
        except OSError as cause:
            raise RouterError(f"{file} cannot be read: {cause.strerror}; answers cannot be rated") from cause
        if base_digest is not None and calibration.base_digest != base_digest:
            raise RouterError(
                f"{file.name} rates answers of base {calibration.base_digest[:19]}…, not of {base_digest[:19]}…; "
                "calibrate with `limbeck build router`"
            )
        return cls(calibration)

    @classmethod
    def of(cls, bundle: Bundle, home: Path | None = None, *, adapter: str | None = None) -> "Router":
        """What was measured in this home with this adapter, else what an update brought, else the bundle's own.

        Args:
            bundle: The base that answers.
            home: Folder of a home with its own calibration, or whose updates carry a newer one.
            adapter: Name of the home's adapter that answers; None is the bare base.

        Raises:
            BundleError: The file is not the one that the manifest names.
            SlotError: The installed one is damaged.
            RouterError: It is of another base or format.
        """
        if home is not None and (own := _own(home, bundle.base_digest, adapter)):
            return cls(own)
        note = f"calibrated without adapter {adapter}" if adapter else ""
        if home is not None and (newer := Extras(home).router(bundle.base_digest)):
            return cls(cls.read(newer, base_digest=bundle.base_digest).calibration, note)
        if FILE not in bundle.manifest.files:
            return cls(None)
        bundle.require_intact(FILE)
        return cls(cls.read(bundle.folder / FILE, base_digest=bundle.base_digest).calibration, note)

    def decide(self, evidence: Evidence) -> Decision:
        """Keep an answer or not. Never asks anybody, never sends anything."""
        if self.calibration is None:
            shown = math.exp(min(0.0, evidence.mean)) if math.isfinite(evidence.mean) else 0.0
            reason = "nothing says how sure is sure enough: this base has no calibration, so its answer stays"
            return Decision(local=True, confidence=shown, threshold=None, reason=reason)
        head, threshold = self.calibration.head, self.calibration.threshold
        row = evidence.row()
        confidence = head.confidence(row)
        if confidence > threshold:
            reason = f"confidence {confidence:.2f} is above {threshold:.2f}"
        elif not all(math.isfinite(value) for value in row[: len(head.weights)]):
            reason = "the answer comes without all the evidence that the calibration weighs"
        else:
            reason = (
                f"confidence {confidence:.2f} is not above {threshold:.2f}, for its {head.weakest(row)} most of all"
            )
        if self.note:
            reason = f"{reason}; {self.note}"
        return Decision(local=confidence > threshold, confidence=confidence, threshold=threshold, reason=reason)


def _own(home: Path, base_digest: str, adapter: str | None) -> Calibration | None:
    """What was measured in this home, if it was with this base and adapter."""
    file = home / FILE
    if not file.exists():
        return None
    made = Router.read(file).calibration
    return made if made and (made.base_digest, made.adapter) == (base_digest, adapter) else None
