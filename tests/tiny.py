"""Nothing in, a tiny but real Llama out: as a model, a GGUF file, a bundle folder; for tests that need no sense."""

import json
from pathlib import Path

import gguf
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sdk.build.checkpoint import save_checkpoint, write_config
from sdk.build.grid import Grid, packed8
from sdk.build.teacher import CHAT_CONTROLS, CHAT_TEMPLATE
from sdk.bundle import CHECKPOINT, Bundle, write_manifest

VOCABULARY = 320
"""Three controls, 256 bytes, and what is left for merges."""

SENTENCES = (
    "the cat sat on the mat and the dog sat near the cat",
    "a person writes a note and another person reads the note",
    "fix the parser and add a test for the parser",
    "the nation and the people and the union of the states",
)
"""What the tokenizer's merges are learned from."""

GREETING = ({"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat on the mat"})
"""One short conversation."""


def tiny_config(*, layers: int = 4, head: int = 8) -> LlamaConfig:
    """Shapes of the tiny Llama: grouped heads of `head` numbers and a tied head, like the real base."""
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=32 // head,
        num_key_value_heads=16 // head,
        head_dim=head,
        max_position_embeddings=256,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        tie_word_embeddings=True,
        dtype=torch.float32,
    )


def tiny_model(
    *, layers: int = 4, seed: int = 0, head: int = 8, dtype: torch.dtype = torch.float32
) -> LlamaForCausalLM:
    """A random Llama in evaluation mode; the caller's random state is left alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(tiny_config(layers=layers, head=head))
        for parameter in model.parameters():
            if parameter.dim() == 2:  # Wider than the library's start, so that outputs differ clearly between inputs.
                torch.nn.init.normal_(parameter, std=0.15)
    model.eval()
    return model if dtype == torch.float32 else nn.Module.to(model, dtype)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with the chat format of the real base."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(control, normalized=False, special=True) for control in CHAT_CONTROLS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        pad_token="<|im_end|>",
        model_max_length=256,
        chat_template=CHAT_TEMPLATE,
    )


def tiny_bundle(folder: Path, *, seed: int = 0, head: int = 8, layers: int = 4) -> Bundle:
    """A real bundle in `folder`/tiny-<seed>: checkpoint, probes and rehearsal of a few lines, manifest."""
    target = folder / f"tiny-{seed}"
    save_checkpoint(tiny_model(seed=seed, head=head, layers=layers), tiny_tokenizer(), target / CHECKPOINT)
    probes = [
        {"format": "probe/1", "id": f"english-{row}", "leg": "english", "kind": "loss", "prompt": "say", "answer": text}
        for row, text in enumerate(SENTENCES)
    ]
    rehearsal = [
        {"format": "rehearsal/1", "id": f"rehearsal-{row}", "prompt": "say", "answer": text}
        for row, text in enumerate(SENTENCES)
    ]
    for name, items in (("probes.jsonl", probes), ("rehearsal.jsonl", rehearsal)):
        (target / name).write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return write_manifest(
        target, name="tiny", version=str(seed), base_id="tiny", licence="Apache-2.0", origin="random numbers"
    )


def tiny_packed_bundle(
    folder: Path, *, seed: int = 0, head: int = 8, layers: int = 4, context_tokens: int = 256
) -> Bundle:
    """A bundle whose weights stand as the shipped student's: maps at 4 bits, the embedding at 8, vectors in float16."""
    target = folder / f"tiny-packed-{seed}" / CHECKPOINT
    model = tiny_model(seed=seed, head=head, layers=layers)
    model.config.max_position_embeddings = context_tokens
    parts: dict[str, torch.Tensor] = {}
    for name, values in model.state_dict().items():
        if name == "model.embed_tokens.weight":
            parts |= {f"{name}.{part}": value for part, value in packed8(values)[0].items()}
        elif values.dim() == 2 and name != "lm_head.weight":
            parts |= {f"{name}.{part}": value for part, value in Grid.fitted(values).packed(values).items()}
        elif values.dim() == 1:
            parts[name] = values.half()
    tiny_tokenizer().save_pretrained(target)
    write_config(model.config, target)
    save_file(parts, target / "model.safetensors", metadata={"format": "pt"})
    return write_manifest(
        target.parent, name="tiny-packed", version=str(seed), base_id="tiny", licence="Apache-2.0", origin="random"
    )


def tiny_gguf(file: Path, *, layers: int = 2, architecture: str = "llama") -> LlamaForCausalLM:
    """Write the tiny model and its tokenizer as a float32 GGUF file, in llama.cpp's row order; returns the model."""
    model = tiny_model(layers=layers)
    backend = json.loads(tiny_tokenizer().backend_tokenizer.to_str())["model"]
    tokens = sorted(backend["vocab"], key=backend["vocab"].__getitem__)
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_block_count(layers)
    writer.add_context_length(256)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in CHAT_CONTROLS else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in backend["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    for name, values in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        if ".q_proj." in name or ".k_proj." in name:
            values = _llama_cpp_rows(values, heads=len(values) // 8)
        writer.add_tensor(_gguf_name(name), values.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _llama_cpp_rows(values: torch.Tensor, *, heads: int) -> torch.Tensor:
    rows, columns = values.shape
    return values.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def _gguf_name(name: str) -> str:
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "model.layers": "blk",
    }
    for ours, theirs in names.items():
        name = name.replace(ours, theirs)
    return name
