"""The blocks of one span, loaded and ready to run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from swarm.blocks.config import ModelConfig
from swarm.blocks.decoder import DecoderBlock
from swarm.blocks.files.checkpoint import Checkpoint
from swarm.blocks.files.loading import read_blocks
from swarm.blocks.formats import Quant
from swarm.blocks.linear import linear_factory
from swarm.blocks.native import NativeSpan, kernel_name, why_not
from swarm.blocks.native.span import can_run
from swarm.blocks.paged.attention import Batch, Row
from swarm.blocks.paged.kv_cache import KVCache
from swarm.blocks.parts import BlockParts
from swarm.blocks.weights import Weight
from swarm.errors import PromptTooLong, UsageError
from swarm.types import Span

__all__ = ["BlockStack", "Row"]


class Runner(Protocol):
    """Consecutive blocks, packed one after another and run together."""

    @property
    def weight_bytes(self) -> int:
        """Bytes that the weights take in memory."""
        ...

    def forward(
        self, hidden: Tensor, rows: Sequence[Row], cache: KVCache, first: int, last: int, *, goes_on: bool = False
    ) -> Tensor:
        """Run a ragged batch (T, D) through the blocks [first, last) of those added; `cache` has as many blocks.

        With `goes_on` the result is what the next block begins with, to the last bit, in whatever dtype that takes.
        """
        ...


class TorchSpan:
    """Blocks of torch's own operations: what the native kernels are measured against."""

    def __init__(self, config: ModelConfig, *, dtype: torch.dtype, device: str = "cpu") -> None:
        self._config, self._dtype, self._device = config, dtype, device
        self._make_linear = linear_factory(dtype, device)  # first: it says what is wrong with a device
        self._ropes = [(frequencies.to(device), scaling) for frequencies, scaling in config.ropes()]
        self._blocks: list[DecoderBlock] = []

    @property
    def weight_bytes(self) -> int:
        """Bytes that the weights take in memory."""
        return sum(block.weight_bytes for block in self._blocks)

    def add(self, parts: BlockParts, index: int) -> None:
        """Pack block `index` of the model at the end; the caller may drop `parts`."""
        parts = parts.with_norms_on(self._device)
        self._blocks.append(DecoderBlock(parts, self._config, self._make_linear, self._dtype, index))

    def forward(
        self, hidden: Tensor, rows: Sequence[Row], cache: KVCache, first: int, last: int, *, goes_on: bool = False
    ) -> Tensor:
        """Run a ragged batch (T, D) through the blocks [first, last) of those added; (T, D) in the span's dtype.

        `cache` is on the span's device; `hidden` and what is returned are on the CPU.
        """
        batch, hidden = Batch(rows, self._ropes, self._dtype), hidden.to(self._device, self._dtype)
        for index in range(first, last):
            hidden = self._blocks[index].forward(hidden, batch, cache, index)
        return hidden.to("cpu")


class BlockStack:
    """Consecutive blocks of one model, in one dtype.

    Attributes:
        span: Which blocks.
        dtype: Of activations and cache.
        config: The model's configuration.
        kernel: What runs them: a native kernel's name, "torch", "cuda", or "transformers" for its own layers.
    """

    def __init__(
        self, runner: Runner, *, span: Span, dtype: torch.dtype, config: ModelConfig, kernel: str, device: str = "cpu"
    ) -> None:
        self.span = span
        self.dtype = dtype
        self.config = config
        self.kernel = kernel
        self._runner = runner
        self._device = device

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        span: Span,
        *,
        dtype: torch.dtype,
        quant: Quant = "none",
        device: str = "cpu",
        progress: Callable[[int, int], None] | None = None,
    ) -> BlockStack:
        """Read and pack the blocks of `span`, one at a time; no other block's bytes are read.

        Args:
            checkpoint: Where they are.
            span: Which ones.
            dtype: Of activations and cache, and of weights that are not quantised; see `resolve_dtype`.
            quant: Format of the weights; see `Checkpoint.resolve_quant`.
            device: "cpu", or a CUDA device's name: where weights and cache are.
            progress: Called with (blocks loaded, blocks wanted) after each.

        Raises:
            UsageError: The model has no such blocks, its layers do not take this format or device, or there is no such
                device.
            CheckpointCorrupt: A tensor is missing, truncated or of the wrong shape.
        """
        config = checkpoint.config
        if span.end > config.num_blocks:
            raise UsageError(f"blocks {span} wanted, {checkpoint.name} has 0:{config.num_blocks}: choose within")
        with torch.inference_mode():
            runner, add, kernel = _new_runner(checkpoint, span, dtype, quant, device)
            for index, tensors in read_blocks(checkpoint, span, dtype=dtype, quant=quant):
                add(tensors, index)
                if progress is not None:
                    progress(index + 1 - span.start, len(span))
        return cls(runner, span=span, dtype=dtype, config=config, kernel=kernel, device=device)

    @property
    def why_not_native(self) -> str | None:
        """Why torch's own operators run the blocks, in one line; None if something else does, or on a device."""
        if self.kernel != "torch":
            return None
        exact = "float32 is asked for to be exact, and the kernels hold plain weights in bfloat16"
        return why_not() or can_run(self.config, self.dtype) or exact

    @property
    def weight_bytes(self) -> int:
        """Bytes that the weights take in memory."""
        return self._runner.weight_bytes

    def new_cache(self, num_pages: int) -> KVCache:
        """Return an empty cache of `num_pages` pages for all blocks of the span."""
        return KVCache(
            num_blocks=len(self.span),
            num_pages=num_pages,
            num_kv_heads=self.config.num_kv_heads,
            head_size=self.config.head_size,
            dtype=self.dtype,
            device=self._device,
        )

    def forward(
        self,
        hidden: Tensor,
        rows: Sequence[Row],
        cache: KVCache,
        *,
        span: Span | None = None,
        goes_on: bool = False,
    ) -> Tensor:
        """Run a ragged batch through the span and keep its keys and values.

        Args:
            hidden: (T, D), any float dtype, on the CPU: the rows' tokens one after another.
            rows: Whose tokens they are; each prepared in `cache` (`KVCache.prepare`) beforehand. A sequence
                may be in a batch once.
            cache: Of this stack (`new_cache`).
            span: Which of our blocks to run; all by default. A route may use a part of a server's span.
            goes_on: The same tokens go on through the next blocks: what is returned is fit for that, and running the
                span in parts changes no bit.

        Returns:
            (T, D) in the stack's dtype (with `goes_on`, in that of its residual stream), on the CPU.

        Raises:
            ValueError: Rows and `hidden` disagree, a row is not prepared, or `span` is not within ours; nothing was
                written.
            PromptTooLong: A row reaches beyond the model's context.
        """
        self._check(hidden, rows)
        span = span or self.span
        if not self.span.covers(span):
            raise ValueError(f"blocks {span} wanted, {self.span} loaded")
        first = span.start - self.span.start
        with torch.inference_mode():
            return self._runner.forward(hidden, rows, cache, first, first + len(span), goes_on=goes_on)

    def _check(self, hidden: Tensor, rows: Sequence[Row]) -> None:
        tokens = sum(row.length for row in rows)
        if not rows or hidden.shape != (tokens, self.config.hidden_size):
            raise ValueError(f"{tokens} tokens of size {self.config.hidden_size} wanted, got {tuple(hidden.shape)}")
        if len({id(row.sequence) for row in rows}) != len(rows):
            raise ValueError("a sequence stands in the batch twice: run its chunks one after another")
        for row in rows:
            end = row.position + row.length
            if row.length < 1 or row.position < 0 or end > row.sequence.length:
                raise ValueError(f"tokens {row.position}:{end} are not prepared: call KVCache.prepare first")
            if end > self.config.context_length:
                raise PromptTooLong(
                    f"position {end} is beyond the model's {self.config.context_length} tokens of context"
                )


def _new_runner(
    checkpoint: Checkpoint, span: Span, dtype: torch.dtype, quant: Quant, device: str
) -> tuple[Runner, Callable[[dict[str, Weight], int], None], str]:
    """Return what will run the span, what adds a block's tensors to it, and its kernel's name."""
    config, assemble = checkpoint.config, checkpoint.family.assemble
    if assemble is None:
        from swarm.blocks.generic.span import GenericSpan  # loads transformers, which takes a second

        checkpoint.resolve_quant(quant, "auto")  # refuses what those layers do not take
        if device != "cpu":
            raise UsageError(f"device {device}: {checkpoint.name} runs in transformers' own layers: choose cpu")
        generic = GenericSpan(config, span.start, dtype=dtype, source=checkpoint.path)
        return generic, generic.add, "transformers"
    # float32 is asked for to be exact, and the kernels hold plain weights in bfloat16.
    is_native = device == "cpu" and can_run(config, dtype) is None and (dtype == torch.bfloat16 or quant != "none")
    runner = NativeSpan(config, dtype=dtype) if is_native else TorchSpan(config, dtype=dtype, device=device)

    def add(tensors: dict[str, Weight], index: int) -> None:
        runner.add(assemble(tensors, config, index), index)

    return runner, add, kernel_name() if is_native else "torch" if device == "cpu" else "cuda"
