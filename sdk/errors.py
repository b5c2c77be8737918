"""What sdk refuses, as one tree.

SdkError
├── BundleError          the bundle folder is damaged or of an unknown format; nothing was loaded
│   └── NoBaseError      no base bundle on this machine yet; `limbeck build base` makes one
├── BuildError           a build stopped; an existing bundle is as it was
│   ├── BasisError       a domain adapter or its directions cannot be learned or read
│   │   └── NoDirectionsError  public people do not differ in anything that can be shown
│   ├── CurriculumError  the device tasks cannot be made as asked; no file was written
│   ├── DistillError     training stopped: a loss that is no number, or work of another plan; checkpoints stay
│   ├── PlanError        the plan file cannot be read or asks for what cannot be; nothing was begun
│   ├── ConversionError  the model has no Core ML form here, or its package differs from it; no package was left
│   ├── PackageError     a Core ML package is damaged, of another version, or asked for what it cannot do
│   │   └── UnknownOperationError  the interpreter has no such operation; the package may be fine elsewhere
│   ├── CompressionError the weights cannot be compressed as asked, or would not be what was meant; nothing was written
│   ├── EvaluationError  the model cannot be measured, or what it is measured with cannot be read
│   │   └── NotRunError  one part of a scorecard cannot be measured here; the others can
│   ├── LicenceError     a teacher's terms may bind the student; it was not shipped
│   ├── TeacherError     the teacher's weights are missing or of a kind this version cannot read
│   │   ├── EndpointError    the endpoint cannot be used; answers that came before are kept
│   │   │   └── PromptRefusedError  it answers, but not this prompt; the others can go on
│   │   ├── CostError        the answers would cost more than was allowed; nothing more was asked
│   │   └── VocabularyError  teacher and student cut text differently where they must not; nothing was mapped
│   ├── TextError        public text cannot be read, or its licence may not allow it; no file was written
│   └── NoRoomError      the disk is too full to build; nothing was left behind
├── PatchError           a patch does not rebuild the new bundle from the old one; the file counts for nothing
├── UpdateError          an update was refused or not finished; the active bundle stays
│   ├── ServerError      the server is down, refuses, or answers something else; what was fetched is kept
│   │   └── SlowServerError    it sends too slowly or without end
│   ├── UntrustedError   metadata are not signed by enough of the right keys
│   ├── ReplayedError    metadata are older than what this device has seen
│   ├── ExpiredError     metadata are past their date: the server is frozen, or this clock is wrong
│   ├── ClockError       this device's clock was set back
│   ├── AlteredError     a file is not the one that was signed; it was deleted
│   ├── UpdateBusyError  another process updates this home, or still answers from the slot that is needed
│   ├── SlotError        a slot is damaged or empty, or the disk has no room for it
│   └── UnhealthyError   the new bundle failed its trial; it is remembered and not tried again
├── CatalogueError       signed release metadata are malformed or of another format; nothing was decided by them
├── ReleaseError         a step of publishing was refused; what devices see is as it was
│   ├── SigningKeyError  a signing key cannot be made or opened, or may not sign this; nothing was signed
│   ├── ThresholdError   too few managers have signed; nothing was published
│   └── RepositoryError  the repository is damaged, half uploaded or expired, or this machine's clock is wrong
├── CloudError           the cloud gave no answer that counts; the device's own answer stands
│   ├── CloudUnreachableError  offline, too slow, or the connection broke
│   ├── CloudRefusedError      it answers, but with an error, a redirect, or no to this key
│   ├── CloudGarbledError      what came is HTML, too long, or nothing that it should be
│   └── ObliviousError         the way through relay and gateway fails; nobody on it could read anything
│       ├── BinaryHttpError        bytes that are no binary HTTP message
│       ├── EncapsulationError     a message that was not sealed for this key, or was changed on its way
│       └── KeyConfigurationError  the gateway's keys cannot be read, trusted or used; nothing was sent
├── HandOffError         a question could not be handed to a larger model as asked; nothing left the device
│   ├── ConsentError     nobody consented to these bytes, or the file of consent is damaged
│   ├── RedactionError   a text cannot be redacted so that its answer can be restored
│   └── RouterError      the file of the router's calibration is damaged, or of another base or format
├── ServeError           the local server cannot listen as asked; nothing was opened
├── AnswerError          a model's answer does not fit the schema of its task; nothing was done with it
├── SchemaError          no answer can be guided by this schema; nothing was asked of the model
├── GuardrailError       an app's own rule refused a prompt or an answer
├── SessionError         a saved session cannot be read, or a tool cannot be offered; the session is as it was
├── EngineError          an engine cannot run here or not this model; another one can
├── UnknownTaskError     there is no device task of this name; nothing was done
└── GenerationError      the runtime cannot answer this prompt; the runtime itself is fine
    └── PromptTooLongError  the prompt and the answer do not fit the model's context
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "AlteredError",
    "AnswerError",
    "BasisError",
    "NoDirectionsError",
    "BinaryHttpError",
    "BuildError",
    "BundleError",
    "CatalogueError",
    "ClockError",
    "CloudError",
    "CloudGarbledError",
    "CloudRefusedError",
    "CloudUnreachableError",
    "CompressionError",
    "ConsentError",
    "ConversionError",
    "CostError",
    "CurriculumError",
    "DistillError",
    "EncapsulationError",
    "EndpointError",
    "EngineError",
    "EvaluationError",
    "ExpiredError",
    "GenerationError",
    "GuardrailError",
    "HandOffError",
    "KeyConfigurationError",
    "LicenceError",
    "NoBaseError",
    "NoRoomError",
    "NotRunError",
    "ObliviousError",
    "PackageError",
    "PatchError",
    "PlanError",
    "PromptRefusedError",
    "PromptTooLongError",
    "RedactionError",
    "ReleaseError",
    "ReplayedError",
    "RepositoryError",
    "RouterError",
    "SchemaError",
    "SdkError",
    "ServeError",
    "ServerError",
    "SessionError",
    "SigningKeyError",
    "SlotError",
    "SlowServerError",
    "TeacherError",
    "TextError",
    "ThresholdError",
    "UnhealthyError",
    "UnknownOperationError",
    "UnknownTaskError",
    "UntrustedError",
    "UpdateBusyError",
    "UpdateError",
    "VocabularyError",
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


class TextError(BuildError):
    """Public text cannot be read, or its licence may not allow a model to learn from it; no file was written."""


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


class EngineError(SdkError):
    """An engine cannot run on this machine, or not this model; another one can."""


class ServeError(SdkError):
    """The local server cannot listen as asked; nothing was opened."""


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


class NoDirectionsError(BasisError):
    """Public people do not differ in anything that both halves of one show."""

    start: Any = None
    """The domain adapter that was learned all the same, where one was."""


class CurriculumError(BuildError):
    """The device tasks cannot be made as asked; no file was written."""


class AnswerError(SdkError):
    """A model's answer does not fit the schema of its task; nothing was done with it."""


class SchemaError(SdkError):
    """No answer can be guided by this schema; nothing was asked of the model."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the schema cannot guide an answer: {why}")


class GuardrailError(SdkError):
    """An app's own rule refused a prompt or an answer; nothing was remembered of it."""

    def __init__(self, why: str, *, of: str) -> None:
        super().__init__(f"a guardrail refused the {of}: {why}")
        self.of = of


class SessionError(SdkError):
    """A saved session cannot be read, or a tool cannot be offered; the session is as it was."""


class UnknownTaskError(SdkError):
    """There is no device task of this name; nothing was done."""

    def __init__(self, task: str, *, known: Sequence[str]) -> None:
        super().__init__(f"there is no task {task!r}; the tasks are {', '.join(known)}")
        self.task = task


class PlanError(BuildError):
    """A plan file cannot be read or asks for what cannot be; nothing was begun."""


class DistillError(BuildError):
    """Training stopped; the last good checkpoint stays."""


class EvaluationError(BuildError):
    """The model cannot be measured, or what it is measured with cannot be read."""


class NotRunError(EvaluationError):
    """One part of a scorecard cannot be measured here; its text is the reason, and the other parts go on."""


class LicenceError(BuildError):
    """A teacher's terms may bind the student; it was not shipped."""

    def __init__(self, *, licence: str) -> None:
        super().__init__(
            f"the teacher's licence is {licence!r}, under which a student may be its derivative; "
            f"read the terms, then ship with --accept-licence {licence}, or take another teacher"
        )
        self.licence = licence


class EndpointError(TeacherError):
    """The endpoint cannot be used; answers that came before are kept."""


class PromptRefusedError(EndpointError):
    """The endpoint answers, but not this prompt; the others can go on."""


class CostError(TeacherError):
    """The answers would cost more than was allowed; nothing more was asked."""


class VocabularyError(TeacherError):
    """Teacher and student cut text differently where they must not; nothing was mapped."""


class ConversionError(BuildError):
    """The model has no Core ML form here, or its package differs from it; no package was left."""


class PackageError(BuildError):
    """A Core ML package is damaged, of another version, or asked for what it cannot do."""


class UnknownOperationError(PackageError):
    """The interpreter has no such operation; the package may be fine elsewhere."""

    def __init__(self, *, operation: str, output: str) -> None:
        super().__init__(
            f"operation {operation} (of {output}) is unknown to this interpreter; run the package on a Mac, or ask for "
            "the operation to be added to sdk/build/coreml/operations.py"
        )
        self.operation = operation


class CompressionError(BuildError):
    """The weights cannot be compressed as asked, or would not be what was meant; nothing was written."""


class CatalogueError(SdkError):
    """Signed release metadata are malformed or of another format; nothing was decided by them."""


class ReleaseError(SdkError):
    """A step of publishing was refused; what devices see is as it was."""


class SigningKeyError(ReleaseError):
    """A signing key cannot be made or opened, or may not sign this; nothing was signed."""


class ThresholdError(ReleaseError):
    """Too few managers have signed; nothing was published."""


class RepositoryError(ReleaseError):
    """The repository is damaged, half uploaded or expired, or this machine's clock is wrong."""


class PatchError(SdkError):
    """A patch does not rebuild the new bundle from the old one; the file counts for nothing."""


class UpdateError(SdkError):
    """An update was refused or not finished; the active bundle stays."""


class ServerError(UpdateError):
    """The server is down, refuses, or answers something else; what was fetched is kept."""


class SlowServerError(ServerError):
    """The server sends too slowly or without end."""


class UntrustedError(UpdateError):
    """Metadata are not signed by enough of the right keys."""


class ReplayedError(UpdateError):
    """Metadata are older than what this device has seen."""


class ExpiredError(UpdateError):
    """Metadata are past their date: the server is frozen, or this clock is wrong."""


class ClockError(UpdateError):
    """This device's clock was set back."""


class AlteredError(UpdateError):
    """A file is not the one that was signed; it was deleted."""


class UpdateBusyError(UpdateError):
    """Another process updates this home, or still answers from the slot that is needed."""


class SlotError(UpdateError):
    """A slot is damaged or empty, or the disk has no room for it."""


class UnhealthyError(UpdateError):
    """The new bundle failed its trial; it is remembered and not tried again."""


class CloudError(SdkError):
    """The cloud gave no answer that counts; the device's own answer stands."""


class CloudUnreachableError(CloudError):
    """The cloud is offline or too slow, or the connection broke."""


class CloudRefusedError(CloudError):
    """The cloud answers, but with an error, a redirect, or no to this key."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class CloudGarbledError(CloudError):
    """What came is HTML, too long, or nothing that it should be."""


class ObliviousError(CloudError):
    """The way through relay and gateway fails; nobody on it could read anything."""


class BinaryHttpError(ObliviousError):
    """Bytes that are no binary HTTP message, or a message that has no such form."""


class EncapsulationError(ObliviousError):
    """A message that was not sealed for this key, or was changed on its way."""


class KeyConfigurationError(ObliviousError):
    """The gateway's keys cannot be read, trusted or used; nothing was sent."""


class HandOffError(SdkError):
    """A question could not be handed to a larger model as asked; nothing left the device."""


class ConsentError(HandOffError):
    """Nobody consented to these bytes, or the file of consent is damaged; nothing left the device."""


class RedactionError(HandOffError):
    """A text cannot be redacted so that its answer can be restored; nothing left the device."""


class RouterError(HandOffError):
    """The file of the router's calibration is damaged, or of another base or format."""
