"""Does a model run here as transformers runs it? The whole model, both ways, on this machine.

The reference is transformers' own model from the same files, in float32. Ours runs the prompt in one piece, in chunks
and token by token, and goes on greedily; each time the numbers must be those of the reference.

Tolerance: transformers against itself, cut differently, is off by up to 9e-5 in logits of order ten. So 2e-4, or 5e-5
of the largest number compared where that is more, is rounding, and what is wrong is far beyond it. A token that
differs where the reference's two best logits are closer than that is a tie, not a fault.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from swarm.blocks.ends import ModelEnds
from swarm.blocks.files.checkpoint import Checkpoint
from swarm.blocks.paged.attention import Row
from swarm.blocks.paged.kv_cache import KVCache
from swarm.blocks.paged.pages import PageTable, pages_for
from swarm.blocks.span import BlockStack
from swarm.errors import PromptTooLong, UnsupportedModel
from swarm.types import Span

TOLERANCE, RELATIVE = 2e-4, 5e-5
"""Difference allowed, at least, and of the largest number compared; see above."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One comparison.

    Attributes:
        name: What was compared.
        difference: The largest one found.
        limit: Beyond which it is a fault.
    """

    name: str
    difference: float
    limit: float

    @property
    def is_passed(self) -> bool:
        """Whether the difference is within the limit; NaN is not."""
        return self.difference <= self.limit

    def __str__(self) -> str:
        word = "pass" if self.is_passed else "FAIL"
        return f"{word}  {self.name:<30} difference {self.difference:.1e}, limit {self.limit:.1e}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What `check` found.

    Attributes:
        model: The checkpoint's name.
        checks: In order.
        tokens: What greedy decoding gave.
    """

    model: str
    checks: tuple[Check, ...]
    tokens: tuple[int, ...]

    @property
    def is_passed(self) -> bool:
        """Whether every check passed."""
        return all(check.is_passed for check in self.checks)


def check(
    checkpoint: Checkpoint, dtype: torch.dtype = torch.float32, *, prompt_tokens: int = 40, new_tokens: int = 16
) -> Report:
    """Compare a whole model with transformers' own; takes the memory of both, and the time of several prompts.

    Args:
        checkpoint: The model.
        dtype: Ours; the reference is always float32, and in 16 bits its rounding is what the numbers show.
        prompt_tokens: Of the random prompt; make it longer than the model's windows to see them at work.
        new_tokens: To go on for, greedily.

    Raises:
        PromptTooLong: Prompt and new tokens are more than the model's context.
        UnsupportedModel: transformers cannot load the model.
        CheckpointCorrupt: As `BlockStack.load`.
    """
    total = prompt_tokens + new_tokens
    if min(prompt_tokens, new_tokens) < 1 or total > checkpoint.config.context_length:
        raise PromptTooLong(
            f"{prompt_tokens} + {new_tokens} tokens; {checkpoint.name} holds 2 to {checkpoint.config.context_length}"
        )
    ours = LocalModel(checkpoint, dtype, max_tokens=total)
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(0, checkpoint.config.vocab_size, (prompt_tokens,), generator=generator)
    ids = ours.continued(prompt, new_tokens)
    reference = load_reference(checkpoint)
    with torch.no_grad():
        theirs = reference(input_ids=ids[None], output_hidden_states=True, use_cache=False)
    logits = theirs.logits[0].to(torch.float32)
    checks = [_compared("hidden states, block by block", ours.states(ids), [s[0] for s in theirs.hidden_states[1:-1]])]
    for name, chunks in _cuts(total):
        checks.append(_compared(f"logits, {name}", [ours.logits(ids, chunks)], [logits]))
    behind = logits.max(-1).values - logits.gather(-1, ids.roll(-1)[:, None])[:, 0]  # what each next token lacks
    worst = float(behind[prompt_tokens - 1 : -1].max())
    checks.append(Check(name=f"{new_tokens} greedy tokens", difference=worst, limit=_limit(logits)))
    return Report(model=checkpoint.name, checks=tuple(checks), tokens=tuple(ids[prompt_tokens:].tolist()))


class LocalModel:
    """A whole model of ours on this machine."""

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype, *, max_tokens: int) -> None:
        self._num_blocks = checkpoint.config.num_blocks
        self._ends = ModelEnds.load(checkpoint, dtype=dtype)
        self._stack = BlockStack.load(checkpoint, Span(0, self._num_blocks), dtype=dtype)
        self._cache: KVCache = self._stack.new_cache(pages_for(max_tokens))

    def logits(self, ids: Tensor, chunks: Sequence[int]) -> Tensor:
        """Run `ids` (T,) as a new sequence, so many tokens at a time; (T, V) float32."""
        sequence, position, parts = self._cache.new_sequence(), 0, []
        for length in chunks:
            parts.append(self._ends.logits(self._step(sequence, ids[position : position + length], position)))
            position += length
        self._cache.release(sequence)
        return torch.cat(parts).to(torch.float32)

    def continued(self, ids: Tensor, count: int) -> Tensor:
        """Return `ids` (T,) and the `count` tokens that greedy decoding puts behind them."""
        sequence = self._cache.new_sequence()
        hidden = self._step(sequence, ids, 0)
        for _ in range(count - 1):
            ids = torch.cat((ids, self._ends.logits(hidden[-1:]).argmax(-1)))
            hidden = self._step(sequence, ids[-1:], len(ids) - 1)
        self._cache.release(sequence)
        return torch.cat((ids, self._ends.logits(hidden[-1:]).argmax(-1)))

    def states(self, ids: Tensor) -> list[Tensor]:
        """Return the hidden states (T, D) float32 after each block but the last, each block run on its own."""
        sequence, found = self._cache.new_sequence(), []
        self._cache.prepare(sequence, 0, len(ids))
        hidden, rows = self._ends.place(self._ends.embed(ids), torch.arange(len(ids))), [Row(sequence, 0, len(ids))]
        for index in range(self._num_blocks - 1):
            hidden = self._stack.forward(hidden, rows, self._cache, span=Span(index, index + 1))
            found.append(hidden.to(torch.float32))
        self._cache.release(sequence)
        return found

    def _step(self, sequence: PageTable, ids: Tensor, position: int) -> Tensor:
        self._cache.prepare(sequence, position, len(ids))
        hidden = self._ends.place(self._ends.embed(ids), torch.arange(position, position + len(ids)))
        return self._stack.forward(hidden, [Row(sequence, position, len(ids))], self._cache)


def load_reference(checkpoint: Checkpoint) -> Any:
    """Return transformers' own model of the same files, in float32.

    Raises:
        UnsupportedModel: transformers cannot load it.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    path = checkpoint.path
    where = {"gguf_file": path.name} if path.is_file() else {}
    logging.disable_progress_bar()
    try:
        # Its fast attention knows no soft caps, so the plain one it is.
        model = AutoModelForCausalLM.from_pretrained(
            path.parent if path.is_file() else path,
            dtype=torch.float32,
            attn_implementation="eager",
            trust_remote_code=False,
            **where,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UnsupportedModel(f"{path}: transformers cannot load it to compare with ({reason})") from error
    finally:
        logging.enable_progress_bar()
    return model.eval()


def _cuts(total: int) -> list[tuple[str, list[int]]]:
    """Ways to cut the tokens: chunks of 17, a prime that no page or window has."""
    chunks = [17] * (total // 17) + ([total % 17] if total % 17 else [])
    return [("whole", [total]), ("in chunks of 17", chunks), ("token by token", [1] * total)]


def _limit(reference: Tensor) -> float:
    return max(TOLERANCE, RELATIVE * float(reference.abs().max()))


def _compared(name: str, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Check:
    """The largest difference of the pair where it is largest against its limit."""
    found = [
        Check(name=name, difference=float((mine - other).abs().max()), limit=_limit(other))
        for mine, other in zip(ours, theirs, strict=True)
    ]
    if broken := [check for check in found if math.isnan(check.difference)]:
        return broken[0]
    nothing = Check(name=name, difference=0.0, limit=TOLERANCE)
    return max([nothing, *found], key=lambda check: check.difference / check.limit)
