"""An extra and the base that it is signed for in, whether it fits and does no harm here out; in a process of its own.

    adapter   was learned on this base; sits where this version learns; passes this person's gate, which may take a
              share of it; what was admitted is left beside it
    pack      its domain adapter was learned on this base and sits where a night can go on from it; its directions have
              its shapes; its loss on the public probes, over that of the bare base, is measured
    probes    the gate can read them, and the bare base scores finite on each
    router    is read by this version

What is measured is judged in sdk/device/trial.py, which also starts and limits this process.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from personalize.adapter import Adapter, attached, sites
from personalize.errors import AdapterError
from personalize.exchange import gated
from personalize.home import Home
from personalize.learner import Base
from personalize.pack import DomainPack
from personalize.probes import Probes
from personalize.shelf import LABEL_FORMAT, Shelf
from sdk.bundle import Bundle
from sdk.device.extras import MANIFEST
from sdk.device.night import base_of
from sdk.device.router import Router
from sdk.device.trial import carried_out
from sdk.errors import UnhealthyError
from sdk.extra import ExtraManifest, check_folder

__all__ = ["fit"]

PROBES_PER_LEG = 32  # For a pack and for probes: some seconds; the gate of an adapter reads all.
PPM = 1_000_000
Progress = Callable[[str, int, int], None]


def fit(
    folder: Path, bundle: Bundle, home: Home, progress: Progress = lambda what, done, total: None
) -> dict[str, Any]:
    """See whether an extra fits, by its kind.

    Args:
        folder: Of the extra; of an adapter, what the gate admitted goes to FOLDER.fitted.
        bundle: The active base.
        home: Whose gate is asked.
        progress: Told how far it is.

    Returns:
        `loss_ratio_ppm` and `agreement_per10k` as sdk.device.health.Findings, and what else was measured.

    Raises:
        UnhealthyError: It fits in shape, and would do harm here.
        PersonalizeError, SdkError: It does not fit.
        HomeBusyError: A night is running.
    """
    manifest = ExtraManifest.parse((folder / MANIFEST).read_bytes())
    check_folder(folder, manifest)
    found: dict[str, Any] = {"loss_ratio_ppm": None, "agreement_per10k": None}
    if manifest.kind == "router":
        Router.read(folder / "router.json", base_digest=bundle.base_digest)
        return found
    base = base_of(bundle, home=home.path, probes_per_leg=None if manifest.kind == "adapter" else PROBES_PER_LEG)
    if manifest.kind == "adapter":
        return found | _adapter(folder, manifest, base, home, progress)
    if manifest.kind == "pack":
        return found | _pack(folder, base, progress)
    return found | _probes(folder / "probes.jsonl", base, progress)


def _adapter(folder: Path, manifest: ExtraManifest, base: Base, home: Home, progress: Progress) -> dict[str, Any]:
    adapter = Adapter.load(folder, base_digest=base.digest)
    _require_shape(adapter, base)
    with home.lock():
        verdict, admitted = gated(home, base, adapter, progress)
        if admitted is None:
            failed = ", ".join(leg.leg for leg in verdict.legs if not leg.passed)
            raise UnhealthyError(f"this person's gate refused it: it would forget ({failed})")
        release = {"name": manifest.name, "version": manifest.version, "manifest": manifest.digest}
        label: dict[str, Any] = {
            "format": LABEL_FORMAT,
            "adapter": f"released-{manifest.digest[:16]}",
            "release": release,
            "carried": [],
            "before": Shelf(home, manifest.name).in_use,
            "gate": verdict.to_dict() | {"look": verdict.look},
        }
        fitted = folder.with_name(f"{folder.name}.fitted")
        admitted.adapter.save(fitted, extra={"label.json": label})
    return {"alpha": verdict.alpha}


def _pack(folder: Path, base: Base, progress: Progress) -> dict[str, Any]:
    pack = DomainPack.load(folder, base_digest=base.digest)
    _require_shape(pack.start, base)
    probes = base.gate()
    progress("measure the bare base", 0, 2)
    before = _mean(probes, probes.score_bare(base.model, base.bare()))
    progress("measure the pack", 1, 2)
    after = _mean(probes, probes.score(base.model, pack.start))
    return {"loss_ratio_ppm": round(PPM * after / before) if before > 0 else None, "directions": len(pack.basis)}


def _probes(file: Path, base: Base, progress: Progress) -> dict[str, Any]:
    try:
        rows = [json.loads(line) for line in file.read_bytes().splitlines() if line.strip()]
    except (ValueError, RecursionError) as cause:
        raise UnhealthyError(f"its probes are not JSON lines ({cause})") from cause
    Probes([*base.probes, *rows], base.tokenizer)  # As the gate will read them: a leg has one kind.
    alone = Probes(rows, base.tokenizer, per_leg=PROBES_PER_LEG)
    progress("measure the probes", 0, 1)
    _mean(alone, alone.score_bare(base.model, base.bare()))
    return {"items": len(rows)}


def _require_shape(adapter: Adapter, base: Base) -> None:
    """Refuse an adapter that sits elsewhere than a night goes on from, or on maps of another size."""
    if (adapter.spec.layers, adapter.spec.targets) != (base.spec.layers, base.spec.targets):
        raise AdapterError(
            f"it sits on layers {adapter.spec.layers[0]} to {adapter.spec.layers[-1]}, this version learns on "
            f"{base.spec.layers[0]} to {base.spec.layers[-1]}; it needs a version that learns there"
        )
    for name, linear in sites(base.model, adapter.spec).items():
        a, b = adapter.a.get(name), adapter.b.get(name)
        if a is None or b is None or (a.shape[1], b.shape[0]) != (linear.in_features, linear.out_features):
            raise AdapterError(f"it does not have the shape of {name}, {linear.in_features} to {linear.out_features}")
    with attached(base.model, adapter), torch.no_grad():
        if not bool(base.model(input_ids=torch.tensor([[0, 1]])).logits.isfinite().all()):
            raise UnhealthyError("the base computes numbers that are not finite with it")


def _mean(probes: Probes, scores: dict[str, Tensor]) -> float:
    """Mean score of the `loss` legs, in nats per token; 0 without one.

    Raises:
        UnhealthyError: A score of any leg is not finite.
    """
    if not all(bool(score.isfinite().all()) for score in scores.values()):
        raise UnhealthyError("a public probe scores no finite number")
    losses = [scores[leg] for leg, unit in probes.units().items() if unit == "nats per token"]
    return float(torch.cat(losses).mean()) if losses else 0.0


def main() -> None:
    """Carry out one order; see sdk.device.trial."""
    torch.set_num_threads(1)
    carried_out(
        lambda order, tell: fit(
            Path(order["extra"]), Bundle.open(Path(order["new"])), Home.open(Path(order["home"])), tell
        )
    )


if __name__ == "__main__":
    main()
