"""Perplexity of a text by weight format, on local blocks, without a network.

Bars: int8 within 0.5 % of bfloat16 of the same checkpoint; int4 within 1 % where the checkpoint's own bits are served,
and within 6 % where it is made of bfloat16 weights. The bundled model comes in 4 bits only, so that the bfloat16
checkpoint is made of it: its numbers with the channels shuffled, which changes nothing that the model computes, but
puts the weights into other groups, where they lie on no grid.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.report import conditions, table, write_json
from swarm.blocks import BlockStack, Checkpoint, ModelEnds, Row, open_checkpoint
from swarm.blocks.files.bundled import DEFAULT_MODEL
from swarm.blocks.formats import Quant
from swarm.client import AutoTokenizer
from swarm.types import Span

TEXT = Path(__file__).parents[1] / "tests" / "data" / "lighthouse.txt"
WINDOW = 512

FORMATS: tuple[tuple[torch.dtype, Quant], ...] = (
    (torch.float32, "none"),
    (torch.bfloat16, "none"),
    (torch.bfloat16, "int8"),
    (torch.bfloat16, "int4"),
)
BARS = {("own", "int8"): 0.005, ("own", "int4"): 0.01, ("shuffled", "int8"): 0.005, ("shuffled", "int4"): 0.06}
NAMES = {"own": "bundled Q4_1", "shuffled": "bfloat16 of it, shuffled"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0 if the bars hold, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks quality", description=__doc__)
    parser.add_argument("--windows", type=int, default=3, help=f"of {WINDOW} tokens, at most 3")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    bundled = open_checkpoint(DEFAULT_MODEL)
    tokenizer = AutoTokenizer.from_pretrained(DEFAULT_MODEL)
    ids = torch.tensor(tokenizer(TEXT.read_text(encoding="utf-8"))["input_ids"])[: args.windows * WINDOW]
    result: dict[str, Any] = {"conditions": conditions(), "tokens": len(ids), "checkpoints": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name, checkpoint in (("own", bundled), ("shuffled", shuffled(bundled, Path(folder)))):
            result["checkpoints"][name] = _compare(name, checkpoint, ids)
    print(_text(result))
    write_json(args.json, result)
    rows = [row for rows in result["checkpoints"].values() for row in rows]
    return 0 if all(row["bar"] is None or row["change"] <= row["bar"] for row in rows) else 1


def perplexity(stack: BlockStack, ends: ModelEnds, ids: Tensor) -> float:
    """Return exp of the mean loss over windows of 512 tokens of `ids` (T,)."""
    cache, loss, tokens = stack.new_cache(WINDOW // 16), 0.0, 0
    for window in torch.split(ids, WINDOW):
        sequence = cache.new_sequence()
        cache.prepare(sequence, 0, len(window))
        hidden = stack.forward(ends.embed(window), [Row(sequence, 0, len(window))], cache)
        logits = ends.logits(hidden)
        loss += float(torch.nn.functional.cross_entropy(logits[:-1], window[1:], reduction="sum"))
        tokens += len(window) - 1
        cache.release(sequence)
    return math.exp(loss / tokens)


def shuffled(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """Write a dense Llama as bfloat16 safetensors with channels in another order, and open that.

    The order of the residual's channels, of the feed-forward half's, and of each value head's means nothing.
    """
    config, dice = checkpoint.config, torch.Generator().manual_seed(0)
    hidden = torch.randperm(config.hidden_size, generator=dice)
    embedding = checkpoint.read("model.embed_tokens.weight", dtype=torch.bfloat16)
    tensors = {"model.embed_tokens.weight": embedding[:, hidden]}
    tensors["model.norm.weight"] = checkpoint.read("model.norm.weight", dtype=torch.bfloat16)[hidden]
    for index in range(config.num_blocks):
        inner = torch.randperm(config.intermediate_size, generator=dice)
        heads = torch.stack([torch.randperm(config.head_size, generator=dice) for _ in range(config.num_kv_heads)])
        values = _places(heads)
        attended = _places(heads.repeat_interleave(config.num_heads // config.num_kv_heads, 0))
        orders = {"v_proj": (values, hidden), "o_proj": (hidden, attended), "down_proj": (hidden, inner)}
        orders |= {"gate_proj": (inner, hidden), "up_proj": (inner, hidden)}
        for name, tensor in checkpoint.read_block(index, dtype=torch.bfloat16).items():
            assert isinstance(tensor, Tensor)
            rows, columns = orders.get(name.split(".")[-2], (slice(None), hidden))
            moved = tensor[hidden] if tensor.ndim == 1 else tensor[rows][:, columns]
            tensors[f"model.layers.{index}.{name}"] = moved.to(torch.bfloat16)
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(plain, folder / "model.safetensors", metadata={"format": "pt"})
    described = config.to_transformers()
    described.dtype = torch.bfloat16
    described.save_pretrained(folder)
    return open_checkpoint(folder)


def _places(heads: Tensor) -> Tensor:
    """Rows in the order of each head's channels: (heads, E) to (heads * E,)."""
    return (heads + torch.arange(heads.shape[0]).unsqueeze(1) * heads.shape[1]).reshape(-1)


def _compare(name: str, checkpoint: Checkpoint, ids: Tensor) -> list[dict[str, Any]]:
    ends = ModelEnds.load(checkpoint, dtype=torch.float32)  # so that the blocks alone differ
    rows: list[dict[str, Any]] = []
    for dtype, quant in FORMATS if name == "own" else FORMATS[1:]:
        started = time.monotonic()
        stack = BlockStack.load(checkpoint, Span(0, checkpoint.config.num_blocks), dtype=dtype, quant=quant)
        found = perplexity(stack, ends, ids)
        what = str(dtype).removeprefix("torch.") if quant == "none" else quant
        row = {"format": what, "kernel": stack.kernel, "mib": stack.weight_bytes / 2**20, "perplexity": found}
        rows.append(row | {"bar": BARS.get((name, quant))})
        print(f"{name} {what}: {found:.3f} in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    reference = next(row["perplexity"] for row in rows if row["format"] == "bfloat16")
    return [row | {"change": row["perplexity"] / reference - 1} for row in rows]


def _text(result: dict[str, Any]) -> str:
    lines = []
    for name, rows in result["checkpoints"].items():
        for row in rows:
            bar = "" if row["bar"] is None else f"{row['bar']:.1%}"
            cells = [NAMES[name], row["format"], row["kernel"], f"{row['mib']:.0f}", f"{row['perplexity']:.2f}"]
            lines.append([*cells, f"{row['change']:+.2%}", bar])
    head = ["checkpoint", "format", "kernel", "blocks, MiB", "perplexity", "to bfloat16", "bar"]
    facts = ", ".join(f"{key} {value}" for key, value in result["conditions"].items())
    return f"{table(head, lines)}\n\n{result['tokens']} tokens of {TEXT.name}, windows of {WINDOW}; {facts}"


if __name__ == "__main__":
    sys.exit(main())
