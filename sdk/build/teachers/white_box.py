"""Weights on this disk in, a teacher of full depth out: text, log-probabilities, logits, hidden states, attention."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from sdk.build.losses.outcomes import TopK
from sdk.build.teachers import gguf_file, hf_folder
from sdk.build.teachers.price import Estimate
from sdk.build.teachers.protocol import Answer, Depth, Prompt, Sampling, TeacherFacts, View
from sdk.build.teachers.top_k import likeliest
from sdk.errors import TeacherError, VocabularyError

__all__ = ["WhiteBox"]

TOGETHER = (
    8  # Prompts of a batch: decoding is bound by reading the weights, so a batch of 8 costs little more than one.
)


@dataclass(frozen=True, kw_only=True)
class WhiteBox:
    """A causal language model of FAMILIES with its tokenizer."""

    model: PreTrainedModel
    """In evaluation mode; `model.model.layers` and `model.model.norm` are what all families share."""
    tokenizer: PreTrainedTokenizerFast
    """Its own."""
    facts: TeacherFacts
    """Who teaches."""

    @classmethod
    def open(cls, path: Path, *, licence: str | None = None) -> Self:
        """Read a Hugging Face folder, a GGUF file, or a folder that holds one GGUF file.

        Args:
            path: Where.
            licence: Overrides what the file or the folder's model card says.

        Raises:
            TeacherError: Not there, damaged, of a kind that is not read, or not whole.
        """
        if (path / "config.json").is_file():
            model, tokenizer = hf_folder.load_folder(path)
            stated = hf_folder.licence_in(path)
        elif path.is_dir() and not any(path.glob("*.gguf")):
            raise TeacherError(f"{path} holds neither config.json nor a GGUF file; name a model's folder or file")
        else:
            stated = gguf_file.licence_of(path)
            model, tokenizer = gguf_file.load_any(path)
        facts = TeacherFacts(
            name=path.resolve().name, depth=Depth.WEIGHTS, licence=licence or stated, origin=path.resolve().name
        )
        return cls(model=model, tokenizer=tokenizer, facts=facts)

    @property
    def spent(self) -> float | None:
        """Nothing: it runs here."""
        return 0.0

    def estimate(self, prompts: Sequence[Prompt], sampling: Sampling) -> Estimate:
        """How many tokens answering these prompts will take, at no cost."""
        return Estimate(
            requests=len(prompts),
            cached=0,
            input_tokens=sum(len(self._encoded(prompt)) for prompt in prompts),
            output_tokens=len(prompts) * sampling.max_new_tokens,
            cost=0.0,
        )

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self._blocks)

    @property
    def _blocks(self) -> nn.ModuleList:
        blocks = self.model.model.layers
        assert isinstance(blocks, nn.ModuleList)
        return blocks

    def logits(self, ids: Tensor) -> Tensor:
        """(batch, seq, vocabulary), float32; position i is about token i + 1."""
        return self.look(ids).logits

    def hidden_states(self, ids: Tensor, layers: Collection[int]) -> Mapping[int, Tensor]:
        """The inputs of these layers, each (batch, seq, width)."""
        return self.look(ids, hidden_states=layers).hidden_states

    def attention(self, ids: Tensor, layers: Collection[int]) -> Mapping[int, Tensor]:
        """The attention probabilities of these layers, each (batch, heads, seq, seq)."""
        return self.look(ids, attention=layers).attention

    def log_probabilities(self, ids: Tensor, top_k: int) -> TopK:
        """The `top_k` likeliest next tokens after each of `ids`, (batch, seq), and the mass of all others."""
        return likeliest(self.look(ids).logits, top_k)

    @torch.no_grad()
    def look(self, ids: Tensor, *, hidden_states: Collection[int] = (), attention: Collection[int] = ()) -> View:
        """One forward pass over `ids`, (batch, seq), rows without padding, with what is asked of it.

        Attention probabilities exist only where attention is computed step by step ("eager"), which is slower and
        moves the logits in their last digits; without them the faster way is taken.

        Raises:
            VocabularyError: An id that the teacher has not.
            TeacherError: A layer that it has not, or more tokens than its context.
        """
        self._check(ids, hidden_states, attention)
        inputs: dict[int, Tensor] = {}
        maps: dict[int, Tensor] = {}
        with self._eager(bool(attention)), _watched(self._places(hidden_states), inputs), self._heads(attention, maps):
            logits = self.model(input_ids=ids, use_cache=False).logits.float()  # (batch, seq, vocabulary)
        return View(logits=logits, hidden_states=inputs, attention=maps)

    def _check(self, ids: Tensor, hidden_states: Collection[int], attention: Collection[int]) -> None:
        rows = hf_folder.embedding_rows(self.model)
        if ids.dim() != 2 or not ids.numel():
            raise TeacherError(f"token ids must be (batch, seq), got {tuple(ids.shape)}")
        if not 0 <= int(ids.min()) <= int(ids.max()) < rows:
            raise VocabularyError(
                f"token {int(ids.max())} is not in the teacher's vocabulary of {rows}; map the student's ids first"
            )
        if ids.shape[1] > (context := self.model.config.max_position_embeddings):
            raise TeacherError(f"{ids.shape[1]} tokens pass the teacher's context of {context}; cut the text")
        for layer in hidden_states:
            if not 0 <= layer <= self.layers:
                raise TeacherError(f"the teacher has inputs of layers 0 to {self.layers}, not of {layer}")
        for layer in attention:
            if not 0 <= layer < self.layers:
                raise TeacherError(f"the teacher has attention in layers 0 to {self.layers - 1}, not in {layer}")

    def _places(self, layers: Collection[int]) -> dict[int, nn.Module]:
        return {layer: self._blocks[layer] if layer < self.layers else self.model.model.norm for layer in layers}

    @contextmanager
    def _eager(self, wanted: bool) -> Iterator[None]:
        before = self.model.config._attn_implementation
        if wanted:
            self.model.set_attn_implementation("eager")
        try:
            yield
        finally:
            if wanted:
                self.model.set_attn_implementation(before)

    @contextmanager
    def _heads(self, layers: Collection[int], into: dict[int, Tensor]) -> Iterator[None]:
        """Put the attention probabilities of layers into a dict; attention modules return (output, probabilities)."""

        def keep(layer: int) -> Any:
            return lambda module, inputs, outputs: into.__setitem__(layer, outputs[1])

        heads = {layer: self._blocks[layer].get_submodule("self_attn") for layer in layers}
        hooks = [module.register_forward_hook(keep(layer)) for layer, module in heads.items()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def text(self, prompts: Sequence[Prompt], sampling: Sampling = Sampling()) -> list[Answer]:  # noqa: B008  # Frozen.
        """Answer each prompt; a teacher without a chat template goes on writing where a plain text ends.

        A prompt that leaves no room in the context for an answer of `max_new_tokens` has a reason instead.

        Raises:
            TeacherError: A conversation for a teacher without a chat template.
        """
        context = self.model.config.max_position_embeddings
        wanted = [self._encoded(prompt) for prompt in prompts]
        fits = [row for row, ids in enumerate(wanted) if len(ids) + sampling.max_new_tokens <= context]
        answers = [
            Answer(text="", finish="refused", reason=f"{len(ids)} tokens leave no room for an answer in {context}")
            for ids in wanted
        ]
        with torch.random.fork_rng():
            torch.manual_seed(sampling.seed)
            for start in range(0, len(fits), TOGETHER):
                rows = fits[start : start + TOGETHER]
                for row, answer in zip(rows, self._answered([wanted[row] for row in rows], sampling), strict=True):
                    answers[row] = answer
        return answers

    def _encoded(self, prompt: Prompt) -> list[int]:
        if self.tokenizer.chat_template:
            turns = (
                [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(turn) for turn in prompt]
            )
            ids = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        elif isinstance(prompt, str):
            ids = self.tokenizer(prompt).input_ids
        else:
            raise TeacherError(f"{self.facts.name} has no chat template, so it cannot take a conversation; ask a text")
        return list(ids)

    @torch.no_grad()
    def _answered(self, prompts: list[list[int]], sampling: Sampling) -> list[Answer]:
        ends = self._ends()
        longest = max(map(len, prompts))
        ids = torch.tensor([[ends[0]] * (longest - len(one)) + one for one in prompts])  # (batch, seq), padded left
        mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in prompts])
        drawn = (
            {"do_sample": True, "temperature": sampling.temperature} if sampling.temperature else {"do_sample": False}
        )
        config = GenerationConfig(
            max_new_tokens=sampling.max_new_tokens, eos_token_id=ends, pad_token_id=ends[0], **drawn
        )
        written = self.model.generate(ids, attention_mask=mask, generation_config=config)[:, longest:]  # type: ignore[operator]
        return [self._read(row.tolist(), ends) for row in written]

    def _ends(self) -> list[int]:
        """The tokens that end a turn."""
        stated: Any = self.model.generation_config.eos_token_id
        stated = stated if stated is not None else self.tokenizer.eos_token_id
        if stated is None:
            raise TeacherError(f"{self.facts.name} names no token that ends an answer; its tokenizer is not whole")
        return [int(stated)] if isinstance(stated, int | str) else [int(one) for one in stated]

    def _read(self, ids: list[int], ends: list[int]) -> Answer:
        end = next((place for place, token in enumerate(ids) if token in ends), None)
        text = self.tokenizer.decode(ids[:end], skip_special_tokens=True)
        return Answer(text=str(text), finish="length" if end is None else "stop")


@contextmanager
def _watched(places: Mapping[int, nn.Module], into: dict[int, Tensor]) -> Iterator[None]:
    """Put what enters each module into a dict while the block runs."""

    def keep(layer: int) -> Any:
        return lambda module, inputs, named: into.__setitem__(layer, inputs[0] if inputs else named["hidden_states"])

    hooks = [module.register_forward_pre_hook(keep(layer), with_kwargs=True) for layer, module in places.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
