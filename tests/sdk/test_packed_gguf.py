"""The GGUF file that the decode bench gives to others holds the student's own numbers."""

from pathlib import Path

import torch

from sdk.build.teachers.gguf_file import load_gguf
from sdk.checkpoint import load_model
from tests.packed_gguf import write_packed_gguf
from tests.tiny import tiny_packed_bundle


def test_a_packed_student_comes_back_from_a_gguf_file_bit_for_bit(tmp_path: Path) -> None:
    bundle = tiny_packed_bundle(tmp_path, head=16)
    write_packed_gguf(bundle.checkpoint, tmp_path / "student.gguf")
    found = load_gguf(tmp_path / "student.gguf")[0].state_dict()
    wanted = load_model(bundle.checkpoint).state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], values) for name, values in wanted.items())
