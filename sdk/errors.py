"""What sdk refuses, as one tree.

SdkError
├── BundleError          the bundle folder is damaged or of an unknown format; nothing was loaded
│   └── NoBaseError      no base bundle on this machine yet; `limbeck build base` makes one
├── BuildError           a build stopped; an existing bundle is as it was
│   ├── BasisError       a domain adapter or its directions cannot be learned or read
│   ├── TeacherError     the teacher's weights are missing or of a kind this version cannot read
│   └── NoRoomError      the disk is too full to build; nothing was left behind
└── GenerationError      the runtime cannot answer this prompt; the runtime itself is fine
    └── PromptTooLongError  the prompt and the answer do not fit the model's context
"""

from pathlib import Path

__all__ = [
    "BasisError",
    "BuildError",
    "BundleError",
    "GenerationError",
    "NoBaseError",
    "NoRoomError",
    "PromptTooLongError",
    "SdkError",
    "TeacherError",
]


class SdkError(Exception):
    """Root of everything sdk refuses; its text is one line for a person."""


class BundleError(SdkError):
    """The bundle folder is damaged or of an unknown format; nothing was loaded."""


class NoBaseError(BundleError):
    """No base bundle on this machine yet."""

    def __init__(self, *, looked_in: Path) -> None:
        super().__init__(f"no base model in {looked_in}; make it once with `limbeck build base`")
        self.looked_in = looked_in


class BuildError(SdkError):
    """A build stopped; an existing bundle is as it was."""


class TeacherError(BuildError):
    """The teacher's weights are missing or of a kind this version cannot read."""


class NoRoomError(BuildError):
    """The disk is too full to build; nothing was left behind."""

    def __init__(self, *, folder: Path, needed_bytes: int, free_bytes: int) -> None:
        super().__init__(
            f"the base model needs {needed_bytes / 1e6:.0f} MB in {folder} but {free_bytes / 1e6:.0f} MB are free; "
            "free some room or point LIMBECK_CACHE at another disk"
        )
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes


class GenerationError(SdkError):
    """The runtime cannot answer this prompt; the runtime itself is fine."""


class PromptTooLongError(GenerationError):
    """The prompt and the answer do not fit the model's context."""

    def __init__(self, *, prompt_tokens: int, answer_tokens: int, context_tokens: int) -> None:
        super().__init__(
            f"a prompt of {prompt_tokens} tokens and an answer of {answer_tokens} pass the context of "
            f"{context_tokens} tokens; shorten the prompt or lower max_new_tokens"
        )
        self.prompt_tokens = prompt_tokens


class BasisError(BuildError):
    """A domain adapter or its directions cannot be learned or read."""
