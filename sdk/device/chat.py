"""A bundle's tokenizer in, conversations as token ids out: what every engine's user needs of a bundle's text side.

No model is loaded: an engine other than torch needs none.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerFast

from sdk.bundle import Bundle
from sdk.errors import BundleError, GenerationError
from sdk.tokens import chat_tokens

__all__ = ["ROLES", "Chat", "Message"]

Message = dict[str, str]
"""One turn: {"role": "system" | "user" | "assistant", "content": text}."""

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, kw_only=True)
class Chat:
    """The chat format of one bundle."""

    bundle: Bundle
    """Where the tokenizer comes from."""
    tokenizer: PreTrainedTokenizerFast
    """Its chat template adds no system turn."""
    stop_tokens: frozenset[int] = field(repr=False)
    """Ids that end an answer: the controls of the chat."""

    @classmethod
    def open(cls, bundle: Bundle) -> "Chat":
        """Load a bundle's tokenizer, in a tenth of a second.

        Raises:
            BundleError: Its files cannot be read.
        """
        try:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(bundle.checkpoint)
        except Exception as cause:  # What two libraries raise on a damaged file has no common root.
            words = (str(cause) or type(cause).__name__).splitlines()[0]
            raise BundleError(f"the checkpoint in {bundle.folder} cannot be loaded ({words})") from cause
        return cls(bundle=bundle, tokenizer=tokenizer, stop_tokens=frozenset(tokenizer.all_special_ids))

    def encode(self, prompt: str | Sequence[Message]) -> list[int]:
        """Token ids of a prompt in the chat format, ending where the assistant begins to speak.

        Raises:
            GenerationError: A malformed conversation.
        """
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        if not messages:
            raise GenerationError("a conversation needs at least one message, got none")
        for message in messages:
            if message.get("role") not in ROLES or not isinstance(message.get("content"), str):
                raise GenerationError(f"a message needs a role of {', '.join(ROLES)} and a text, got {message!r:.80}")
        return chat_tokens(self.tokenizer, messages)
