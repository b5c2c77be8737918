"""The folder of a student in, what its next training begins from out: its tokens, its weights, its grids.

A student learns for longer than one build can take. A plan that names a student as its `start` trains its upper layers
on; what lies below, embedding and frozen layers, stays as it is, to the bit.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from sdk.build.checkpoint import open_checkpoint
from sdk.build.frozen import EMBEDDING, FrozenParts
from sdk.build.grid import Grid
from sdk.build.plan import BuildPlan
from sdk.build.vocabulary import Trimmed
from sdk.errors import PlanError
from sdk.packed import is_packed, unpack4

__all__ = ["PLAN", "TRAINING", "Start"]

PLAN, TRAINING = "plan.json", "training.json"


@dataclass(frozen=True, kw_only=True)
class Start:
    """A student that goes on learning."""

    model: LlamaForCausalLM
    """Float32, every weight on its grid."""
    trimmed: Trimmed
    """Its tokenizer, and which of the teacher's tokens it kept."""
    parts: FrozenParts
    """What of it stays as it is."""
    training: dict[str, Any]
    """What its training.json says."""
    digest: str
    """SHA-256 of its model.safetensors, 64 hex digits."""

    @classmethod
    def read(cls, folder: Path, plan: BuildPlan) -> "Start":
        """Read a student's folder, or a bundle that holds one.

        Raises:
            PlanError: No student of `limbeck build distill`, or not of the plan's layers, frozen layers and vocabulary.
        """
        checkpoint = folder / "checkpoint" if (folder / "checkpoint").is_dir() else folder
        try:
            training = json.loads((folder / TRAINING).read_bytes())
            kept = torch.tensor(training["kept_tokens"])
            tensors = load_file(checkpoint / "model.safetensors")
            digest = hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
            model, tokenizer = open_checkpoint(checkpoint)
        except Exception as cause:  # What three libraries raise on a damaged file has no common root.
            line = (str(cause) or type(cause).__name__).splitlines()[0]
            raise PlanError(f"start {folder} is no student of `limbeck build distill` ({line:.80})") from cause
        _require_alike(BuildPlan.read(folder / PLAN), plan)
        if not is_packed(tensors) or len(kept) != len(tokenizer):
            raise PlanError(f"start {folder} is not in the packed form; name what `limbeck build distill` wrote")
        parts = FrozenParts(grids=_grids(tensors, plan.frozen_layers), embedding=_parts_of(EMBEDDING, tensors))
        for trace in ("is_local", "local_files_only"):  # How it was read is none of what it is.
            tokenizer.init_kwargs.pop(trace, None)
        trimmed = Trimmed(tokenizer=tokenizer, kept=kept)
        return cls(model=model, trimmed=trimmed, parts=parts, training=training, digest=digest)

    @property
    def told(self) -> dict[str, Any]:
        """For training.json: its digest, and the steps and tokens of all its trainings so far."""
        before = self.training.get("start", {})
        totals = {name: self.training[name] + before.get(name, 0) for name in ("steps", "tokens")}
        return {"digest": self.digest, **totals}

    def require_taught_by(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Refuse a teacher whose tokens are others than those that the student kept.

        Raises:
            PlanError: They are.
        """
        own = self.trimmed.tokenizer
        kept = self.trimmed.kept.tolist()
        if kept[-1] >= len(tokenizer) or tokenizer.convert_ids_to_tokens(kept) != own.convert_ids_to_tokens(
            list(range(len(kept)))
        ):
            raise PlanError("start has other tokens than the plan's teacher; name the teacher that it was made from")


def _require_alike(made_by: BuildPlan, plan: BuildPlan) -> None:
    for name in ("layers", "frozen_layers", "vocabulary"):
        if getattr(made_by, name) != getattr(plan, name):
            raise PlanError(f"start was made with other {name} than the plan asks for; take them from its {PLAN}")


def _grids(tensors: dict[str, Tensor], frozen: int) -> dict[str, Grid]:
    """Grids of the matrices below the first trained layer."""
    found = {}
    for key, scales in tensors.items():
        name = key.removesuffix(".scales")
        if name != key and name.startswith("model.layers.") and int(name.split(".")[2]) < frozen:
            zeros = unpack4(tensors[f"{name}.zeros"], scales.shape[1])
            found[name] = Grid(scales=scales.float(), zeros=zeros.float())
    return found


def _parts_of(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {kind: tensors[f"{name}.{kind}"] for kind in ("codes", "scales")}
