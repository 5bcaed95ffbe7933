"""Small real checkpoints for tests: random weights, written by transformers and by the gguf package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf.quants import dequantize, quantize
from transformers import LlamaConfig, LlamaForCausalLM

from swarm.blocks import Checkpoint, KVCache, ModelEnds, Row

_PARTS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_SUPER_GROUPS = {"Q4_K": (144, 0, (1e-3, 7.4e-3)), "Q6_K": (210, 208, (1e-4,))}
"""Bytes of a super-group, where its 16-bit floats stand, and what to put there (ggml's block_q4_K and block_q6_K)."""

_ENDS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def tiny_llama(*, seed: int = 0, num_blocks: int = 3, **settings: Any) -> LlamaForCausalLM:
    """Return a random Llama in float32: 64 wide, 4 heads, 2 kv heads, 128 tokens; `settings` go to its config."""
    shape = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 128,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
    }
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=num_blocks, **{**shape, **settings})).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # Large enough that each part matters to the logits; norms around one, biases not zero.
            weight.copy_(1 + 0.1 * torch.randn_like(weight) if "norm" in name else 0.2 * torch.randn_like(weight))
    model.tie_weights()
    return model


def make_llama(
    folder: Path,
    seed: int = 0,
    *,
    num_blocks: int = 3,
    dtype: torch.dtype = torch.float32,
    shard_bytes: int | None = None,
    **settings: Any,
) -> LlamaForCausalLM:
    """Write a random Llama as a Hugging Face folder and return it, in `dtype`.

    Args:
        folder: Made if missing.
        seed: Of the weights.
        num_blocks: How many.
        dtype: To store in.
        shard_bytes: Cut the weights into shards of about this size.
        settings: For `LlamaConfig`, over those of `tiny_llama`.
    """
    model = tiny_llama(seed=seed, num_blocks=num_blocks, **settings).to(dtype)
    model.save_pretrained(folder, max_shard_size=shard_bytes or "1GB")
    return model


def make_gguf(path: Path, model: LlamaForCausalLM, *, quant: str = "F32") -> None:
    """Write `model` as a GGUF file with the gguf package's own writer, matrices as `quant`, the rest as float32.

    The package cannot make Q4_K and Q6_K: such matrices hold random codes.
    The model's own weights become the stored ones, so that it stays the file's exact reference.
    """
    config, writer = model.config, gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_token_list([f"token {index}" for index in range(config.vocab_size)])
    writer.add_eos_token_id(2)
    kind = gguf.GGMLQuantizationType[quant]
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        raw = kind if tensor.ndim > 1 else gguf.GGMLQuantizationType.F32
        rows = _random_rows(tensor.shape, quant) if raw.name in _SUPER_GROUPS else quantize(tensor.numpy(), raw)
        tensor.copy_(torch.from_numpy(dequantize(rows, raw)))
        writer.add_tensor(_gguf_name(name), _permuted(name, torch.from_numpy(rows), config).numpy(), raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def logits_of(checkpoint: Checkpoint, ids: torch.Tensor, chunks: list[int], dtype: torch.dtype) -> torch.Tensor:
    """Run `ids` (T,) through the whole model on this machine in `chunks`; returns (T, V) float32."""
    from swarm.blocks import BlockStack
    from swarm.types import Span

    ends = ModelEnds.load(checkpoint, dtype=dtype)
    stack = BlockStack.load(checkpoint, Span(0, checkpoint.config.num_blocks), dtype=dtype)
    cache = stack.new_cache(64)
    return run_chunks(stack, cache, ends, ids, chunks)


def run_chunks(stack: Any, cache: KVCache, ends: ModelEnds, ids: torch.Tensor, chunks: list[int]) -> torch.Tensor:
    """Run `ids` (T,) as a new sequence, `chunks` tokens at a time; returns its logits (T, V) float32."""
    sequence, position, parts = cache.new_sequence(), 0, []
    for length in chunks:
        cache.prepare(sequence, position, length)
        hidden = ends.place(ends.embed(ids[position : position + length]), torch.arange(position, position + length))
        parts.append(ends.logits(stack.forward(hidden, [Row(sequence, position, length)], cache)))
        position += length
    cache.release(sequence)
    return torch.cat(parts).float()


def reference_logits(model: LlamaForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """Return transformers' own logits for `ids` (T,): (T, V) float32."""
    with torch.no_grad():
        return model(ids[None]).logits[0].float()


def some_ids(length: int, *, seed: int = 0, vocab_size: int = 128) -> torch.Tensor:
    """Return `length` random token ids."""
    return torch.randint(0, vocab_size, (length,), generator=torch.Generator().manual_seed(seed))


def _gguf_name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if stem in _ENDS:
        return f"{_ENDS[stem]}.{kind}"
    _, _, index, part = stem.split(".", 3)
    return f"blk.{index}.{_PARTS[part]}.{kind}"


def _random_rows(shape: torch.Size, quant: str) -> np.ndarray[Any, Any]:
    """Rows of super-groups of 256 weights: any bytes are codes, and with these scales the weights are about 0.2."""
    num_bytes, place, scales = _SUPER_GROUPS[quant]
    groups = np.random.default_rng(0).integers(0, 256, (shape[0], shape[1] // 256, num_bytes), dtype=np.uint8)
    groups[..., place : place + 2 * len(scales)] = np.array(scales, np.float16).view(np.uint8)
    return groups.reshape(shape[0], -1)


def _permuted(name: str, tensor: torch.Tensor, config: LlamaConfig) -> torch.Tensor:
    """Interleave the halves of each head of q and k, as llama.cpp's convert_hf_to_gguf.py does."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return tensor
    rows = np.arange(tensor.shape[0]).reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)
    return tensor[torch.from_numpy(rows)]
