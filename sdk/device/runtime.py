"""A bundle in, text out, one token at a time: the torch engine.

The model stays in float32 and evaluation mode and its parameters are frozen; personalize.adapter attaches to `model`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from tokenizers.decoders import DecodeStream
from transformers import DynamicCache, LlamaForCausalLM, PreTrainedTokenizerFast

from sdk.bundle import Bundle
from sdk.checkpoint import load_model
from sdk.device.chat import Chat, Message
from sdk.errors import BundleError, GenerationError, PromptTooLongError

__all__ = ["Message", "Runtime"]


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """A loaded base model that answers prompts."""

    chat: Chat
    """Its tokenizer and chat format."""
    model: LlamaForCausalLM
    """Float32, evaluation mode, no parameter requires a gradient."""

    @property
    def bundle(self) -> Bundle:
        """Where model and tokenizer come from."""
        return self.chat.bundle

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The chat's tokenizer."""
        return self.chat.tokenizer

    @property
    def stop_tokens(self) -> frozenset[int]:
        """Ids that end an answer: the controls of the chat."""
        return self.chat.stop_tokens

    @classmethod
    def open(cls, bundle: Bundle) -> "Runtime":
        """Load a bundle's checkpoint; plain weights are mapped from the file, packed ones unpacked: within a second.

        Raises:
            BundleError: The checkpoint's files do not fit one another.
        """
        chat = Chat.open(bundle)
        try:
            model = load_model(bundle.checkpoint)
        except Exception as cause:  # What three libraries raise on a damaged file has no common root.
            raise BundleError(f"the checkpoint in {bundle.folder} cannot be loaded ({_first_line(cause)})") from cause
        return cls(chat=chat, model=model)

    def generate(
        self, prompt: str | Sequence[Message], max_new_tokens: int, *, temperature: float = 0.0, seed: int | None = None
    ) -> str:
        """The whole answer to a prompt; see stream."""
        return "".join(self.stream(prompt, max_new_tokens, temperature=temperature, seed=seed))

    def stream(
        self, prompt: str | Sequence[Message], max_new_tokens: int, *, temperature: float = 0.0, seed: int | None = None
    ) -> Iterator[str]:
        """The answer to a prompt, piece by piece; a piece is whole characters, never half of one.

        Args:
            prompt: One user turn, or a whole conversation.
            max_new_tokens: The answer stops here at the latest, in tokens.
            temperature: 0 takes the likeliest token; above, the distribution is sharpened (< 1) or flattened (> 1).
            seed: Makes a sampled answer repeatable; unused at temperature 0.

        Raises:
            GenerationError: A negative temperature, fewer than one token asked for, or a malformed conversation.
            PromptTooLongError: Prompt and answer pass the model's context.
        """
        if max_new_tokens < 1:
            raise GenerationError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        if not 0 <= temperature < float("inf"):
            raise GenerationError(f"temperature must be 0 or a positive number, got {temperature}")
        ids = self.encode(prompt)
        context_tokens = int(self.model.config.max_position_embeddings)
        if len(ids) + max_new_tokens > context_tokens:
            raise PromptTooLongError(
                prompt_tokens=len(ids), answer_tokens=max_new_tokens, context_tokens=context_tokens
            )
        return self._pieces(ids, max_new_tokens, temperature, seed)

    def encode(self, prompt: str | Sequence[Message]) -> list[int]:
        """Token ids of a prompt in the chat format, ending where the assistant begins to speak."""
        return self.chat.encode(prompt)

    def _pieces(self, ids: list[int], max_new_tokens: int, temperature: float, seed: int | None) -> Iterator[str]:
        generator = torch.Generator()
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed)
        decoder = DecodeStream(skip_special_tokens=True)  # Holds back bytes until they form a character.
        cache = DynamicCache(config=self.model.config)
        step = torch.tensor([ids], device=self.model.device)  # (1, prompt tokens), then (1, 1)
        for _ in range(max_new_tokens):
            with torch.no_grad():
                logits = self.model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            token = _choose(logits[0, -1], temperature, generator)  # from (vocab,)
            if token in self.stop_tokens:
                return
            if piece := decoder.step(self.tokenizer.backend_tokenizer, token):
                yield piece
            step = torch.tensor([[token]], device=self.model.device)


def _choose(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    chances = torch.softmax(logits.float().cpu() / temperature, dim=-1)  # (vocab,)
    return int(torch.multinomial(chances, 1, generator=generator))


def _first_line(cause: BaseException) -> str:
    return (str(cause) or type(cause).__name__).splitlines()[0]
