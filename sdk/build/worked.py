"""A folder of half-done work in and out, so that an interrupted build goes on where it was.

Each file is written beside its place and renamed, so what is there is whole. The folder belongs to one key: another
recipe, base or public text works in another folder.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sdk.errors import BuildError

__all__ = ["Worked"]


class Worked:
    """Tensors by name on disk; None as a folder keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        """Look at `folder`, which need not exist."""
        self._folder = folder

    def read(self, name: str) -> dict[str, Tensor] | None:
        """What was kept under a name; None where nothing was, or where it is damaged."""
        if self._folder is None or not (path := self._path(name)).is_file():
            return None
        try:
            return dict(load_file(path))
        except (OSError, SafetensorError):
            return None  # It will be made again.

    def keep(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors under a name, in place of what was there.

        Raises:
            BuildError: The disk; what was kept before is still there.
        """
        if self._folder is None:
            return
        path = self._path(name)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            staged = path.with_suffix(".part")
            save_file({key: value.contiguous() for key, value in tensors.items()}, staged)
            staged.replace(path)
        except (OSError, SafetensorError) as cause:
            raise BuildError(f"half-done work cannot be kept in {self._folder} ({cause}); free some room") from cause

    def clear(self) -> None:
        """Forget everything, when the work is done."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{name}.safetensors"
