"""A student's folder in, the same student on a smaller grid out, as values for every engine and as codes for Core ML.

The folder that is written is a plain checkpoint (float16, every value on the grid) with encoding.safetensors beside it;
`limbeck build coreml` puts the codes into the package, and package and checkpoint hold the same numbers bit for bit.
The head, which is the embedding too, gets 8 bits a row in every scheme: a token's row is not averaged with any other.

Known silent failures are caught: pruning that prunes nothing, thresholds and palettes that are not numbers, scales
that vanish in float16, and a healed model that snaps back to the grid it came from.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sdk.build.coreml.encoded import Encoded
from sdk.build.coreml.encoding import ENCODING, encodings_of, save_encodings
from sdk.build.coreml.student import checkpoint_of
from sdk.build.grid import Grid
from sdk.errors import CompressionError
from sdk.packed import BLOCK, load_weights

__all__ = ["SCHEMES", "Compressed", "compress", "kept_grid", "lost_change"]

GROUP = 16  # Rows that share a palette in the grouped schemes (coremltools' guide: 8 to 16).
PRUNED = 0.5  # Share of the weights that the sparse schemes set to zero.
ROUNDS = 25  # Of Lloyd's algorithm; palettes of these weights settle in fewer.
MOST_LOST = 0.5  # Share of a change that may be rounded away before a healed model is refused.
KEPT_ERROR = 1.05  # Of a block on its old scale over that on its best one, squared: past it the new scale is taken.
HEAD = ("model.embed_tokens.weight", "lm_head.weight")

Scheme = Callable[[Tensor], Encoded]


@dataclass(frozen=True, kw_only=True)
class Compressed:
    """What was made of one student."""

    folder: Path
    scheme: str
    errors: Mapping[str, float]
    """Tensor to |weights − values| / |weights|, Euclidean."""
    bytes: int
    """Of all codes, scales and palettes; vectors are not counted."""
    weights: int
    """Numbers that they stand for."""
    kept_scales: float | None = None
    """Share of all scales that are those of the older version; None where none was given."""

    @property
    def bits(self) -> float:
        """Bits a weight."""
        return 8 * self.bytes / self.weights


def int8(weights: Tensor) -> Encoded:
    """8 bits, one scale a row."""
    scales = _scales(weights.abs().amax(1, keepdim=True) / 127)
    codes = (weights / scales.float()).round().clamp(-127, 127).to(torch.int8)
    return Encoded(codes=codes, bits=8, signed=True, scales=scales)


def int4(weights: Tensor) -> Encoded:
    """4 bits with a zero, one scale a block of 32 inputs: the grid of sdk.packed."""
    grid = Grid.fitted(weights)
    return Encoded(
        codes=grid.codes(weights).to(torch.uint8), bits=4, scales=grid.scales.half(), zeros=grid.zeros.to(torch.uint8)
    )


def palette(bits: int, rows: int | None = None) -> Scheme:
    """2 ** bits values found by k-means, one palette a tensor or a group of `rows` rows."""

    def make(weights: Tensor) -> Encoded:
        size = len(weights) if rows is None or len(weights) % rows else rows
        groups = weights.half().float().reshape(len(weights) // size, -1)
        lut = torch.stack([_palette(group, 2**bits) for group in groups])  # (groups, entries)
        middles = (lut[:, 1:] + lut[:, :-1]) / 2
        codes = torch.searchsorted(middles.contiguous(), groups.contiguous()).to(torch.uint8)
        return Encoded(codes=codes.view(weights.shape), bits=bits, lut=lut.half())

    return make


def sparse(inner: Scheme | None = None) -> Scheme:
    """Set the smaller half of a tensor to zero; the rest plain or by another scheme."""

    def make(weights: Tensor) -> Encoded:
        mask = weights.abs() > _threshold(weights.abs().flatten())
        kept = float(mask.float().mean())
        if abs(1 - kept - PRUNED) > 0.02:
            raise CompressionError(
                f"pruning was to zero {PRUNED:.0%} and zeroes {1 - kept:.1%}; the weights repeat too much"
            )
        if inner is None:
            return Encoded(codes=weights.half(), bits=16, mask=mask)
        made = inner(torch.where(mask, weights, 0.0))
        return Encoded(**{**made.__dict__, "mask": mask})

    return make


SCHEMES: Mapping[str, Scheme] = {
    "int8": int8,
    "int4": int4,
    "palette4": palette(4),
    "palette6": palette(6),
    "palette4-grouped": palette(4, GROUP),
    "palette6-grouped": palette(6, GROUP),
    "sparse": sparse(),
    "sparse-int8": sparse(int8),
    "sparse-palette4": sparse(palette(4)),
}
"""Name of a scheme to what makes one matrix small."""


def compress(
    student: Path,
    out: Path,
    scheme: str,
    *,
    healed_from: Path | None = None,
    grid_of: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Compressed:
    """Compress every matrix of a student, write it, read it back and compare.

    Args:
        student: Folder of a bundle or checkpoint, plain.
        out: Must not exist.
        scheme: One of SCHEMES.
        healed_from: The student before it was trained on or merged, where it was on a grid: checks that what changed
            since then survives.
        grid_of: The compressed version that devices have: its scales are kept where they cost next to nothing, so that
            few codes change and a delta is small.
        progress: Told what is done.

    Raises:
        CompressionError: Unknown scheme, a student that is compressed already, or one of the failures above; nothing is
            written.
    """
    if scheme not in SCHEMES:
        raise CompressionError(f"scheme {scheme!r} is unknown; choose one of {', '.join(SCHEMES)}")
    if out.exists():
        raise CompressionError(f"{out} is there already; remove it or choose another folder")
    checkpoint = checkpoint_of(student)
    if encodings_of(checkpoint):
        raise CompressionError(
            f"{student} stands on a grid already, and a second one adds its error; give the plain student"
        )
    weights = {name: value.float() for name, value in load_weights(checkpoint).items()}
    old = load_weights(checkpoint_of(healed_from)) if healed_from else {}
    before = _scaled(grid_of) if grid_of else {}
    encodings, errors = {}, {}
    matrices = [name for name, value in weights.items() if value.dim() == 2]
    for done, name in enumerate(matrices):
        if progress:
            progress(f"compress ({scheme})", done, len(matrices))
        encodings[name] = made = _checked(
            name, weights[name], int8 if name in HEAD else _fitting(scheme, weights[name])
        )
        if name in before:
            encodings[name] = made = kept_grid(made, before[name], weights[name])
        errors[name] = float((made.values() - weights[name]).norm() / weights[name].norm())
        if name in old and name not in HEAD:
            _refuse_snap_back(name, old[name].float(), weights[name], made.values())
    _write(checkpoint, out, {name: value.half() for name, value in weights.items()}, encodings)
    return Compressed(
        folder=out,
        scheme=scheme,
        errors=errors,
        bytes=sum(encoded.bytes for encoded in encodings.values()),
        weights=sum(weights[name].numel() for name in matrices),
        kept_scales=_kept_share(encodings, before) if grid_of else None,
    )


def kept_grid(made: Encoded, old: Encoded, weights: Tensor) -> Encoded:
    """What was made of weights, on the scales and zeros of an older version where those are nearly as good.

    Block by block: the old scale is kept where the squared error on it is at most KEPT_ERROR times that on the new one.

    Args:
        made: Of the weights, by a scheme with scales.
        old: Of an older version; where it is of another form, `made` comes back.
        weights: Shape (out, in), float32.
    """
    if made.scales is None or old.scales is None or _form(made) != _form(old):
        return made
    blocks = weights.view(*made.scales.shape, -1)  # (out, blocks, inputs of a block)
    low, high = (-127, 127) if made.signed else (0, 2**made.bits - 1)
    shift = 0 if old.zeros is None else old.zeros.float()[:, :, None]
    codes = ((blocks / old.scales.float()[:, :, None]).round() + shift).clamp(low, high).to(made.codes.dtype)
    again = Encoded(
        codes=codes.view_as(weights), bits=made.bits, signed=made.signed, scales=old.scales, zeros=old.zeros
    )
    off = [(each.values().view_as(blocks) - blocks).square().sum(2) for each in (again, made)]
    keep = off[0] <= KEPT_ERROR * off[1]  # (out, blocks)
    return Encoded(
        codes=torch.where(keep[:, :, None], codes, made.codes.view_as(codes)).view_as(weights),
        bits=made.bits,
        signed=made.signed,
        scales=torch.where(keep, old.scales, made.scales),
        zeros=None if old.zeros is None or made.zeros is None else torch.where(keep, old.zeros, made.zeros),
    )


def _form(encoded: Encoded) -> tuple[object, ...]:
    scales, zeros = encoded.scales, encoded.zeros
    plain = encoded.lut is None and encoded.mask is None
    return encoded.bits, encoded.signed, plain, None if scales is None else (scales.shape, scales.dtype), zeros is None


def _scaled(folder: Path) -> dict[str, Encoded]:
    found = {name: each for name, each in encodings_of(checkpoint_of(folder)).items() if each.scales is not None}
    if not found:
        raise CompressionError(f"{folder} has no scales that could be kept; give what `limbeck build compress` wrote")
    return found


def _kept_share(encodings: Mapping[str, Encoded], before: Mapping[str, Encoded]) -> float:
    pairs = [(each.scales, before[name].scales) for name, each in encodings.items() if name in before]
    same = [new == old for new, old in pairs if new is not None and old is not None and new.shape == old.shape]
    return float(torch.cat([each.flatten() for each in same]).float().mean()) if same else 0.0


def lost_change(old: Tensor, healed: Tensor, values: Tensor) -> float:
    """Share of a change that compression took back: 0 keeps it, 1 is the old weights again.

    How far `values` lie along the way from `old` to `healed`, by projection.
    """
    change = (healed - old).flatten().double()
    kept = float((values - old).flatten().double() @ change / (change @ change).clamp(min=1e-30))
    return 1 - kept


def _refuse_snap_back(name: str, old: Tensor, healed: Tensor, values: Tensor) -> None:
    if not torch.equal(old, healed) and (lost := lost_change(old, healed, values)) > MOST_LOST:
        raise CompressionError(
            f"{name} snaps back to the grid it came from: {lost:.0%} of what training changed is rounded away; keep "
            "the change as an adapter in float16, or train with the grid in the loop (`limbeck build distill`)"
        )


def _fitting(scheme: str, weights: Tensor) -> Scheme:
    return int8 if scheme == "int4" and weights.shape[1] % BLOCK else SCHEMES[scheme]


def _checked(name: str, weights: Tensor, make: Scheme) -> Encoded:
    if not bool(weights.isfinite().all()):
        raise CompressionError(f"{name} has weights that are not finite; train the student again")
    made = make(weights)
    for part in (made.scales, made.lut, made.values()):
        if part is not None and not bool(part.isfinite().all()):
            raise CompressionError(
                f"{name} would hold numbers that are not finite in float16; its weights are too large"
            )
    return made


def _scales(wanted: Tensor) -> Tensor:
    """Scales in float16; none so small that a row of tiny weights vanishes."""
    return wanted.clamp(min=2.0**-24).half()


def _threshold(sizes: Tensor) -> float:
    """The size below which PRUNED of the weights lie. In float32: float16 percentiles of long rows are not numbers."""
    found = float(sizes.float().kthvalue(max(1, round(PRUNED * sizes.numel()))).values)
    if found != found:
        raise CompressionError("the pruning threshold is not a number; the weights hold NaN")
    return found


def _palette(values: Tensor, entries: int) -> Tensor:
    """Ascending centres of one-dimensional k-means, by Lloyd's algorithm, in float32.

    A float16 weight has few distinct values, so it runs over these with their counts. It begins where the best centres
    of a smooth density lie, spaced by its cube root (Panter and Dite 1951); from quantiles, tails take 200 rounds.
    """
    points, counts = torch.unique(values, return_counts=True)
    weight = counts.double()
    reach, mass = torch.cumsum(points.double() * weight, 0), torch.cumsum(weight, 0)
    zero = torch.zeros(1, dtype=torch.float64)
    reach, mass = torch.cat((zero, reach)), torch.cat((zero, mass))
    gaps = torch.cat((points.double().diff(), torch.zeros(1, dtype=torch.float64)))
    root = torch.cumsum(weight ** (1 / 3) * gaps ** (2 / 3), 0)  # Density is count / gap.
    at = (torch.arange(entries, dtype=torch.float64) + 0.5) / entries * root[-1]
    centres = points.double()[torch.searchsorted(root, at).clamp(max=len(points) - 1)]
    for _ in range(ROUNDS):
        edges = torch.searchsorted(points.double(), (centres[1:] + centres[:-1]) / 2)
        bounds = torch.cat((torch.zeros(1, dtype=torch.long), edges, torch.tensor([len(points)])))
        held, total = mass[bounds].diff(), reach[bounds].diff()
        moved = torch.where(held > 0, total / held.clamp(min=1), centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    stored: Tensor = centres.half().float()
    return stored  # As they are stored: codes are chosen for these.


def _write(checkpoint: Path, out: Path, weights: dict[str, Tensor], encodings: Mapping[str, Encoded]) -> None:
    staged = out.with_name(f".{out.name}.part")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        for file in checkpoint.iterdir():
            if file.is_file() and file.name not in ("model.safetensors", ENCODING):
                shutil.copy(file, staged)
        weights |= {name: encoded.values().half() for name, encoded in encodings.items()}
        save_file(weights, staged / "model.safetensors", metadata={"format": "pt"})
        save_encodings(encodings, staged)
        written, codes = load_file(staged / "model.safetensors"), encodings_of(staged)
        for name, encoded in codes.items():
            if not torch.equal(encoded.values(), written[name].float()):
                raise CompressionError(f"{name} reads back otherwise than it was written; the disk may be failing")
        staged.rename(out)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
