"""Two versions of real tensors in; the bytes, CPU and memory of every way to send the change out, beside the limit.

    python -m tests.bench.delta [--bundle FOLDER] [--megabytes 8] [--level 19]

The tensors are the base's own, in float16 or as 4-bit codes in the form of sdk/packed.py. The changes are synthetic: a
random adapter of rank 16 that was merged, and noise as of a light fine-tune. bsdiff4 and hdiffpatch are measured where
they are installed (`pip install bsdiff4 hdiffpatch`), and are no dependency. Each way runs in a process of its own.
"""

import argparse
import importlib
import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from sdk.bundle import Bundle, default_bundle, write_manifest
from sdk.packed import BLOCK, pack4
from sdk.patch import rebuild, window_log
from sdk.release.delta import make_delta

Tensors = dict[str, NDArray[np.generic]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bundle", type=Path, help="a base bundle; default: the one that is used here")
    parser.add_argument("--megabytes", type=float, default=8.0, help="of float16 weights that are compared")
    parser.add_argument("--level", type=int, default=19, help="of zstd")
    given = parser.parse_args()
    bundle = Bundle.open(given.bundle) if given.bundle else default_bundle()
    weights = dict(real_weights(bundle, given.megabytes))
    print("| change | way | kB | of the limit | CPU s | peak MB | apply CPU s | apply peak MB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, old, new, limit in cases(weights):
        with tempfile.TemporaryDirectory() as folder:
            compare(name, old, new, limit, Path(folder), given.level)


def real_weights(bundle: Bundle, megabytes: float) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Maps of the upper layers, until there are so many float16 megabytes."""
    left = megabytes * 1e6
    with safe_open(bundle.checkpoint / "model.safetensors", "np") as file:
        for name in sorted(file.keys(), reverse=True):
            values = file.get_tensor(name)
            if values.ndim == 2 and "embed" not in name and left > 0:
                left -= 2 * values.size
                yield name, values


def cases(
    weights: dict[str, NDArray[np.float32]],
) -> Iterator[tuple[str, Tensors, Tensors, float | None]]:
    """(change, old tensors, new tensors, limit in bytes or None)."""
    chance = np.random.default_rng(0)
    old = {name: values.astype("<f2") for name, values in weights.items()}
    merged, tuned = {}, {}
    for name, values in weights.items():
        change = chance.normal(size=(len(values), 16)) @ chance.normal(size=(16, values.shape[1]))
        merged[name] = values + 0.01 * change * np.linalg.norm(values) / np.linalg.norm(change)
        tuned[name] = values + chance.normal(size=values.shape, scale=1e-5)
    for what, moved in (("adapter of 1 % merged", merged), ("light fine-tune, 1e-5", tuned)):
        half = {name: values.astype("<f2") for name, values in moved.items()}
        yield f"{what}, float16", dict(old), dict(half), sum(float_limit(old[name], half[name]) for name in old)
        one, other = packed(weights, weights), packed(moved, weights)
        limit = sum(code_limit(one[name], other[name]) for name in one if name.endswith(".codes"))
        yield f"{what}, 4 bits, scales kept", one, other, limit


def packed(values: Mapping[str, NDArray[np.floating[Any]]], grid: dict[str, NDArray[np.float32]]) -> Tensors:
    """4-bit codes on the grid of other weights: blocks of BLOCK inputs, scales and zeros of `grid`."""
    made: Tensors = {}
    for name, weight in values.items():
        blocks = grid[name].reshape(len(weight), -1, BLOCK)
        low, high = blocks.min(2, keepdims=True), blocks.max(2, keepdims=True)
        scale = np.maximum((high - low) / 15, 1e-6).astype("<f2")
        zero = np.clip(np.round(-low / scale.astype("f4")), 0, 15)
        codes = np.clip(np.round(weight.reshape(blocks.shape) / scale.astype("f4") + zero), 0, 15).astype(np.uint8)
        made[f"{name}.codes"] = pack4(torch.from_numpy(codes.reshape(weight.shape))).numpy()
        made[f"{name}.scales"] = scale[:, :, 0]
        made[f"{name}.zeros"] = pack4(torch.from_numpy(zero[:, :, 0].astype(np.uint8))).numpy()
    return made


def float_limit(old: NDArray[np.generic], new: NDArray[np.generic]) -> float:
    """Order-0 entropy of the differences, in bytes."""
    _, counts = np.unique(new.view("<i2").astype(int) - old.view("<i2"), return_counts=True)
    return _entropy(counts) * old.size / 8


def code_limit(old: NDArray[np.generic], new: NDArray[np.generic]) -> float:
    """Entropy of the new 4-bit codes given the old ones, in bytes."""
    was, now = (np.concatenate([part.ravel() & 15, part.ravel() >> 4]).astype(int) for part in (old, new))  # type: ignore[operator]
    table = np.bincount(16 * was + now, minlength=256).reshape(16, 16)
    return sum(_entropy(row[row > 0]) * float(row.sum()) for row in table if row.sum()) / 8


def _entropy(counts: NDArray[np.int64]) -> float:
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def compare(name: str, old: Tensors, new: Tensors, limit: float | None, folder: Path, level: int) -> None:
    one, other = bundle_of(folder / "old", old, "1"), bundle_of(folder / "new", new, "2")
    new_file = other.checkpoint / "model.safetensors"
    for way, make, apply in ways(one, other, folder, level):
        made, undone = measured(make), measured(apply) if apply else None
        size = (folder / "delta").stat().st_size
        share = f"{size / limit:.2f} ×" if limit else ""
        after = f"{undone[0]:.2f} | {undone[1]:.0f}" if undone else " | "
        print(f"| {name} | {way} | {size / 1e3:.1f} | {share} | {made[0]:.2f} | {made[1]:.0f} | {after} |", flush=True)
    whole, read = new_file.stat().st_size, measured(new_file.read_bytes)
    print(f"| {name} | the file itself | {whole / 1e3:.1f} | | | | {read[0]:.2f} | |", flush=True)


Way = tuple[str, Callable[[], object], Callable[[], object] | None]


def ways(one: Bundle, other: Bundle, folder: Path, level: int) -> Iterator[Way]:
    """(name, make `folder`/delta, apply it)."""
    delta, (old, new) = folder / "delta", (bundle.checkpoint / "model.safetensors" for bundle in (one, other))

    def applied() -> None:
        for _, pieces in rebuild(delta, one, other.manifest):
            for _ in pieces:
                pass

    yield "patch/1, all of the bundle", lambda: make_delta(one, other, delta, level=level), applied
    yield (
        "zstd, whole",
        lambda: delta.write_bytes(zstandard.ZstdCompressor(level=level).compress(new.read_bytes())),
        None,
    )
    words = zstandard.ZstdCompressionDict(old.read_bytes(), dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    settings = zstandard.ZstdCompressionParameters.from_level(
        level, window_log=window_log(2 * new.stat().st_size), enable_ldm=True
    )
    against = zstandard.ZstdCompressor(dict_data=words, compression_params=settings)
    yield "zstd, patch from", lambda: delta.write_bytes(against.compress(new.read_bytes())), None
    if importlib.util.find_spec("bsdiff4"):
        bsdiff4 = importlib.import_module("bsdiff4")
        yield (
            "bsdiff4",
            lambda: bsdiff4.file_diff(old, new, delta),
            lambda: bsdiff4.file_patch(old, folder / "o", delta),
        )
    if importlib.util.find_spec("hdiffpatch"):
        hdiffpatch = importlib.import_module("hdiffpatch")
        yield (
            "hdiffpatch, zstd",
            lambda: delta.write_bytes(
                hdiffpatch.diff(old.read_bytes(), new.read_bytes(), compression=hdiffpatch.COMPRESSION_ZSTD)
            ),
            lambda: hdiffpatch.apply(old.read_bytes(), delta.read_bytes()),
        )


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds, and peak MB above what the process had before, of some work in a copy of this process (Linux)."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            Path("/proc/self/clear_refs").write_text("5")  # The peak begins anew.
            before = memory("VmRSS")
            work()
            os.write(writer, str(memory("VmHWM") - before).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    _, status, usage = os.wait4(child, 0)
    with os.fdopen(reader) as said:
        peak = said.read()
    if status:
        raise SystemExit("a way failed; see above")
    return usage.ru_utime + usage.ru_stime, int(peak) / 1e3


def memory(field: str) -> int:
    """A figure of this process, in kB."""
    return int(Path("/proc/self/status").read_text().partition(f"{field}:")[2].split()[0])


def bundle_of(folder: Path, tensors: Tensors, version: str) -> Bundle:
    """A bundle with these tensors and nothing else of size."""
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir(parents=True)
    save_file(tensors, checkpoint / "model.safetensors")
    for name in ("config.json", "tokenizer.json"):
        (checkpoint / name).write_text("{}")
    return write_manifest(folder, name="b", version=version, base_id="b", licence="Apache-2.0", origin="bench")


if __name__ == "__main__":
    main()
