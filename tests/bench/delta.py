"""Two versions of real files in; the bytes, CPU and memory of every way to send the change out, beside the limit.

    python -m tests.bench.delta [--bundle FOLDER] [--adapter FOLDER] [--megabytes 8] [--level 19] [--steps 20]

The tensors are the base's own, in float16 or as 4-bit codes in the form of sdk/packed.py. The changes: a random adapter
of rank 16 that was merged, and noise as of a light fine-tune; a real adapter that was merged (`--adapter`, of this
base, and one of rank 8 that is trained here); a real fine-tune; both of these of the two uppermost layers, some steps
on the bundle's own rehearsal text; the tokenizer alone; the probes alone. bsdiff4 and hdiffpatch are measured where
they are installed (`pip install bsdiff4 hdiffpatch`), xdelta3 where its program is, and none is a dependency. Each way
runs in a process of its own.
"""

import argparse
import hashlib
import importlib
import importlib.util
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save as saved

from personalize.adapter import Adapter
from personalize.forward import encode
from sdk.bundle import Bundle, default_bundle, write_manifest
from sdk.device.runtime import Runtime
from sdk.packed import BLOCK, pack4
from sdk.patch import rebuild, window_log
from sdk.release.delta import make_delta

Tensors = dict[str, NDArray[np.generic]]
Files = Mapping[str, bytes]
WEIGHTS = "checkpoint/model.safetensors"
REPEATS = 10  # Of what takes milliseconds; the quickest counts.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bundle", type=Path, help="a base bundle; default: the one that is used here")
    parser.add_argument("--adapter", type=Path, help="folder of an adapter that fits the bundle")
    parser.add_argument("--steps", type=int, default=20, help="of the real fine-tune; 0 leaves it out")
    parser.add_argument("--megabytes", type=float, default=8.0, help="of float16 weights that are compared")
    parser.add_argument("--level", type=int, default=19, help="of zstd")
    given = parser.parse_args()
    bundle = Bundle.open(given.bundle) if given.bundle else default_bundle()
    weights = dict(real_weights(bundle, given.megabytes))
    print("| change | way | kB | of the limit | CPU s | peak MB | apply, CPU ms | apply peak MB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    pairs = [*synthetic(weights)]
    if given.adapter:
        pairs.append(("a real adapter merged", *merged_for_real(bundle, given.adapter)))
    if given.steps:
        pairs.append((f"a real adapter, {given.steps} steps, merged", *trained_here(bundle, given.steps)))
        pairs.append((f"a real fine-tune, {given.steps} steps", *tuned_for_real(bundle, given.steps)))
    for name, old, new, limit in cases(pairs):
        with tempfile.TemporaryDirectory() as folder:
            compare(name, {WEIGHTS: saved(old)}, {WEIGHTS: saved(new)}, WEIGHTS, limit, Path(folder), given.level)
    for name, path, change in (
        ("tokenizer only: a template's line", "checkpoint/chat_template.jinja", lambda text: text + b"{# new #}\n"),
        ("tokenizer only: 9 tokens renamed", "checkpoint/tokenizer.json", renamed),
        ("probes only: 10 of them new", "probes.jsonl", lambda text: text + b"".join(text.splitlines(True)[:10])[::-1]),
    ):
        if (bundle.folder / path).exists():
            with tempfile.TemporaryDirectory() as folder:
                was = (bundle.folder / path).read_bytes()
                compare(name, {path: was}, {path: change(was)}, path, None, Path(folder), given.level)


def renamed(tokenizer: bytes) -> bytes:
    """Nine words of the vocabulary spelled otherwise, as after a correction."""
    for word in (b"house", b"water", b"number", b"between", b"father", b"music", b"window", b"yellow", b"garden"):
        tokenizer = tokenizer.replace(word, word[::-1])
    return tokenizer


def real_weights(bundle: Bundle, megabytes: float) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Maps of the upper layers, until there are so many float16 megabytes."""
    left = megabytes * 1e6
    with safe_open(bundle.checkpoint / "model.safetensors", "np") as file:
        for name in sorted(file.keys(), reverse=True):
            values = file.get_tensor(name)
            if values.ndim == 2 and "embed" not in name and left > 0:
                left -= 2 * values.size
                yield name, values


Weights = Mapping[str, NDArray[np.float32]]


def synthetic(weights: Weights) -> Iterator[tuple[str, Weights, Weights]]:
    """(change, old weights, new weights)."""
    chance = np.random.default_rng(0)
    merged, tuned = {}, {}
    for name, values in weights.items():
        change = chance.normal(size=(len(values), 16)) @ chance.normal(size=(16, values.shape[1]))
        change *= 0.01 * np.linalg.norm(values) / np.linalg.norm(change)
        merged[name] = (values + change).astype(np.float32)
        tuned[name] = (values + chance.normal(size=values.shape, scale=1e-5)).astype(np.float32)
    yield "adapter of 1 % merged", weights, merged
    yield "light fine-tune, 1e-5", weights, tuned


def merged_for_real(bundle: Bundle, folder: Path) -> tuple[Weights, Weights]:
    """The maps that a real adapter sits on, before and after it was merged into them."""
    adapter = Adapter.load(folder, base_digest=bundle.base_digest)
    old, new = {}, {}
    with safe_open(bundle.checkpoint / "model.safetensors", "np") as file:
        for site in adapter.a:
            values = file.get_tensor(f"{site}.weight").astype(np.float32)
            old[site] = values
            new[site] = values + (adapter.b[site].float() @ adapter.a[site].float()).numpy()
    return old, new


def trained_here(bundle: Bundle, steps: int) -> tuple[Weights, Weights]:
    """The maps of the two uppermost layers, before and after an adapter of rank 8 was trained on them and merged."""
    runtime = Runtime.open(bundle)
    maps, chance = upper_maps(runtime), torch.Generator().manual_seed(0)
    sides, heard = {}, []
    for name, linear in maps.items():
        a = torch.randn(8, linear.in_features, generator=chance) / linear.in_features**0.5
        b = torch.zeros(linear.out_features, 8)
        sides[name] = a, b = a.requires_grad_(), b.requires_grad_()
        heard.append(linear.register_forward_hook(lambda _, given, out, a=a, b=b: out + given[0] @ a.T @ b.T))
    learn(runtime, bundle, [side for pair in sides.values() for side in pair], rate=2e-3, steps=steps)
    old = {name: linear.weight.detach().float().numpy() for name, linear in maps.items()}
    return old, {name: values + (sides[name][1] @ sides[name][0]).detach().numpy() for name, values in old.items()}


def tuned_for_real(bundle: Bundle, steps: int) -> tuple[Weights, Weights]:
    """The maps of the two uppermost layers, before and after some steps of AdamW (rate 1e-5) on rehearsal text."""
    runtime = Runtime.open(bundle)
    parts = {name: linear.weight for name, linear in upper_maps(runtime).items()}
    old = {name: part.detach().float().numpy().copy() for name, part in parts.items()}
    for part in parts.values():
        part.requires_grad_(True)
    learn(runtime, bundle, list(parts.values()), rate=1e-5, steps=steps)
    return old, {name: part.detach().float().numpy().copy() for name, part in parts.items()}


def upper_maps(runtime: Runtime) -> dict[str, torch.nn.Linear]:
    """Every linear map of the two uppermost layers."""
    layers = enumerate(list(runtime.model.model.layers)[-2:])
    named = ((f"{at}.{name}", part) for at, layer in layers for name, part in layer.named_modules())
    return {name: part for name, part in named if isinstance(part, torch.nn.Linear)}


def learn(runtime: Runtime, bundle: Bundle, parts: list[torch.Tensor], *, rate: float, steps: int) -> None:
    """Some steps of AdamW on the bundle's rehearsal text."""
    optimizer, rows = torch.optim.AdamW(parts, lr=rate), bundle.rehearsal()
    for step in range(steps):
        record = encode(runtime.tokenizer, str(rows[step]["prompt"]), str(rows[step]["answer"]), max_tokens=64)
        logits = runtime.model(input_ids=torch.tensor([list(record.ids)])).logits[0, record.completion - 1 : -1]
        wanted = torch.tensor(record.ids[record.completion :])
        torch.nn.functional.cross_entropy(logits.float(), wanted).backward()
        optimizer.step()
        optimizer.zero_grad()


def cases(pairs: Iterable[tuple[str, Weights, Weights]]) -> Iterator[tuple[str, Tensors, Tensors, float | None]]:
    """(change, old tensors, new tensors, limit in bytes or None)."""
    for what, before, after in pairs:
        old, new = ({name: values.astype("<f2") for name, values in side.items()} for side in (before, after))
        yield f"{what}, float16", dict(old), dict(new), sum(float_limit(old[name], new[name]) for name in old)
        one, other = packed(before, before), packed(after, before)
        limit = sum(code_limit(one[name], other[name]) for name in one if name.endswith(".codes"))
        yield f"{what}, 4 bits, scales kept", one, other, limit


def packed(values: Mapping[str, NDArray[np.floating[Any]]], grid: Weights) -> Tensors:
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


def compare(name: str, old: Files, new: Files, path: str, limit: float | None, folder: Path, level: int) -> None:
    one, other = bundle_of(folder / "old", old, "1"), bundle_of(folder / "new", new, "2")
    new_file = other.folder / path
    for way, make, apply in ways(one, other, path, folder, level):
        made, undone = measured(make), measured(apply, REPEATS) if apply else None
        size = (folder / "delta").stat().st_size
        share = f"{size / limit:.2f} ×" if limit else ""
        after = f"{undone[0] * 1e3:.0f} | {undone[1]:.0f}" if undone else " | "
        print(f"| {name} | {way} | {size / 1e3:.1f} | {share} | {made[0]:.2f} | {made[1]:.0f} | {after} |", flush=True)
    whole, read = new_file.stat().st_size, measured(new_file.read_bytes, REPEATS)
    print(f"| {name} | the file itself, read | {whole / 1e3:.1f} | | | | {read[0] * 1e3:.0f} | |", flush=True)
    checked = measured(lambda: hashlib.sha256(new_file.read_bytes()), REPEATS)
    print(f"| {name} | read and hashed | | | | | {checked[0] * 1e3:.0f} | |", flush=True)


Way = tuple[str, Callable[[], object], Callable[[], object] | None]


def ways(one: Bundle, other: Bundle, path: str, folder: Path, level: int) -> Iterator[Way]:
    """(name, make `folder`/delta, apply it)."""
    delta, (old, new) = folder / "delta", (bundle.folder / path for bundle in (one, other))

    def applied() -> None:
        for _, pieces in rebuild(delta, one, other.manifest):
            for _ in pieces:
                pass

    yield "limbeck, all of the bundle", lambda: make_delta(one, other, delta, level=level), applied
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
    if program := shutil.which("xdelta3"):
        yield (
            "xdelta3, lzma",
            lambda: subprocess.run([program, "-9", "-S", "lzma", "-f", "-e", "-s", old, new, delta], check=True),
            lambda: subprocess.run([program, "-f", "-d", "-s", old, delta, folder / "o"], check=True),
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


def measured(work: Callable[[], object], times: int = 1) -> tuple[float, float]:
    """CPU seconds, and peak MB above what the process had before, of some work in a copy of this process (Linux).

    Of several times the quickest; what it costs to copy the process is left out.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            Path("/proc/self/clear_refs").write_text("5")  # The peak begins anew.
            before = memory("VmRSS")
            spent = min(_spent(work) for _ in range(times))
            os.write(writer, f"{memory('VmHWM') - before} {spent}".encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reader) as said:
        told = said.read().split()
    if status:
        raise SystemExit("a way failed; see above")
    return float(told[1]), int(told[0]) / 1e3


def _spent(work: Callable[[], object]) -> float:
    """CPU seconds of some work, and of the programs that it runs."""
    before = _used()
    work()
    return _used() - before


def _used() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def memory(field: str) -> int:
    """A figure of this process, in kB."""
    return int(Path("/proc/self/status").read_text().partition(f"{field}:")[2].split()[0])


def bundle_of(folder: Path, content: Files, version: str) -> Bundle:
    """A bundle with these files and nothing else of size."""
    small = {f"checkpoint/{name}": b"{}" for name in ("config.json", "tokenizer.json", "model.safetensors")}
    for path, data in {**small, **content}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return write_manifest(folder, name="b", version=version, base_id="b", licence="Apache-2.0", origin="bench")


if __name__ == "__main__":
    main()
