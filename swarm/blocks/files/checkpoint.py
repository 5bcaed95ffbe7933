"""A checkpoint: one model's files, opened, with a configuration, a fingerprint and tensors on demand."""

from __future__ import annotations

import hashlib
from concurrent.futures import Executor
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from swarm.blocks.config import ModelConfig
from swarm.blocks.families import Family
from swarm.blocks.files.gguf_codes import OWN_BITS
from swarm.blocks.files.tensor_file import StoredTensor, TensorStore
from swarm.blocks.formats import Quant, bits_of, is_router, resolve_quant, tensor_bytes, twice_quantized, ungrouped
from swarm.blocks.weights import Weight
from swarm.errors import CheckpointCorrupt, UsageError

_ANCHOR_ROWS = 64
"""Rows of embedding and head in a fingerprint: enough that two trainings of one model differ, read in a moment."""


class Checkpoint:
    """One model's files; reads tensors only when asked, and only those asked for.

    Attributes:
        name: What to call it: the bundled name, the hub id, or the folder's or file's stem.
        path: The folder, or the GGUF file; tokenizer and generation configuration lie here too.
        config: The flattened configuration.
        family: How it is wired.
    """

    def __init__(
        self, *, name: str, path: Path, config: ModelConfig, family: Family, store: TensorStore, is_gguf: bool
    ) -> None:
        self.name = name
        self.path = path
        self.config = config
        self.family = family
        self._store = store
        self._is_gguf = is_gguf

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest, 32 characters, that all who hold any part of this checkpoint can compute.

        It covers the configuration, the names of the tensors, and the raw stored bytes of anchors: the final norm and
        64 evenly spaced rows of the embedding (and of the head, if it is not tied).
        """
        digest = hashlib.blake2b(self.config.canonical(), digest_size=16)
        for name in sorted(self._expected):
            digest.update(name.encode() + b"\0")
        for name in sorted(self.family.end_shapes(self.config)):
            stored = self.find(name)
            digest.update(f"{name} {stored.kind} {stored.shape}".encode())
            for index in sorted({row * stored.num_rows // _ANCHOR_ROWS for row in range(_ANCHOR_ROWS)}):
                digest.update(stored.raw(index, index + 1).numpy().data)
        return digest.hexdigest()

    def block_digest(self, index: int) -> str:
        """Return a hex digest, 16 characters, of the raw stored bytes of block `index`, whatever dtype is served."""
        digest = hashlib.blake2b(digest_size=8)
        for name in sorted(self.family.block_shapes(self.config)):
            stored = self.find(self._in_block(index, name))
            digest.update(f"{name} {stored.kind} {stored.shape}".encode())
            for _, _, raw in stored.slices():
                digest.update(raw.numpy().data)
        return digest.hexdigest()

    def block_bytes(self, dtype: torch.dtype, quant: Quant = "none") -> int:
        """Return the bytes of one block's weights, the largest block's if they differ."""
        shapes, most = self.family.block_shapes(self.config), 0
        for index in range(self.config.num_blocks if self._is_gguf else 1):
            kinds, bits = self._kinds(index), self._bits(index, quant)
            sizes = (tensor_bytes(shape, bits[name], kinds[name], dtype.itemsize) for name, shape in shapes.items())
            most = max(most, sum(sizes))
        return most

    def resolve_quant(self, asked: str, dtype: str) -> Quant:
        """Return the weight format for the flags `--quant` and `--dtype`; see `swarm.blocks.formats`.

        Raises:
            UsageError: An unknown name, or a format that this model's layers cannot run.
        """
        if self.family.assemble is None:
            if asked not in ("auto", "none"):
                raise UsageError(
                    f"--quant {asked}: {self.name} runs in transformers' own layers, which take plain weights: "
                    "choose --quant none"
                )
            return "none"
        return resolve_quant(asked, dtype, self._kinds(0), self.family.block_shapes(self.config))

    def twice_quantized(self, quant: Quant) -> tuple[str, ...]:
        """Return the stored kinds that serving `quant` decodes and quantises a second time, sorted."""
        blocks = range(self.config.num_blocks)
        return tuple(sorted({kind for i in blocks for kind in twice_quantized(self._bits(i, quant), self._kinds(i))}))

    def left_plain(self, quant: Quant) -> tuple[str, ...]:
        """Return the matrices of a block that `quant` leaves plain: their rows do not divide into groups."""
        return () if quant == "none" else ungrouped(self.family.block_shapes(self.config))

    def find(self, name: str) -> StoredTensor:
        """Return where the tensor of this canonical name is stored, its shape checked.

        Raises:
            CheckpointCorrupt: No such tensor, or of the wrong shape.
        """
        place = self.family.locate(name, self._names, self.config, is_gguf=self._is_gguf)
        stored = self._store.find(place.name)
        if place.parts > 1:
            stored = stored.run_of_rows(place.part, place.parts)
        expected = self._expected.get(name)
        if expected is not None and stored.shape != expected:
            raise CheckpointCorrupt(
                f"{stored.path}: tensor {stored.name} has shape {stored.shape}, the configuration says {expected}: "
                "configuration and weights are of different models, copy both from one place"
            )
        return stored

    def read(self, name: str, *, dtype: torch.dtype | None = None) -> Tensor:
        """Read one tensor by its canonical (Hugging Face) name, in Hugging Face's orientation.

        Args:
            name: Such as "model.norm.weight".
            dtype: To convert to while reading; by default the stored one, float32 if that is quantised.

        Raises:
            CheckpointCorrupt: Missing, truncated or of the wrong shape.
        """
        stored = self.find(name)
        as_stored: torch.dtype = getattr(torch, stored.kind, torch.float32)
        tensor = stored.numbers(dtype or as_stored)
        return self.family.undo_gguf(name, tensor, self.config) if self._is_gguf else tensor

    def read_own(self, name: str, *, dtype: torch.dtype) -> Weight:
        """Read one matrix as codes where the file has it in 4 or 8 bits that map, else as `read`.

        Raises:
            CheckpointCorrupt: As `read`.
        """
        bits = OWN_BITS.get(self.find(name).kind)
        return self.read(name, dtype=dtype) if bits is None else self._read_quantized(name, bits)

    def read_block(
        self,
        index: int,
        *,
        dtype: torch.dtype | None = None,
        quant: Quant = "none",
        pool: Executor | None = None,
    ) -> dict[str, Weight]:
        """Read the tensors of block `index`, named without their `model.layers.N.` prefix.

        Args:
            index: Which block.
            dtype: Of matrices that are not quantised, as in `read`; norms, biases and routers come in float32 with it.
            quant: Format of the matrices. One of more than two dimensions (stacked experts) comes as (rows, I).
            pool: Threads that read the tensors side by side; by default the caller's reads one after another.

        Raises:
            UsageError: The model has no such block.
            CheckpointCorrupt: As `read`.
        """
        bits, shapes = self._bits(index, quant), self.family.block_shapes(self.config)

        def read(name: str) -> Weight:
            full = self._in_block(index, name)
            if bits[name]:
                return self._read_quantized(full, bits[name])
            is_small = len(shapes[name]) == 1 or is_router(name)
            return self.read(full, dtype=torch.float32 if dtype is not None and is_small else dtype)

        return dict(zip(shapes, (map if pool is None else pool.map)(read, shapes), strict=True))

    def _read_quantized(self, name: str, bits: int) -> Weight:
        weight = self.find(name).quantized(bits)
        if not self._is_gguf:
            return weight
        return weight.by_rows(lambda part: self.family.undo_gguf(name, part, self.config))

    def _bits(self, index: int, quant: Quant) -> dict[str, int]:
        return bits_of(quant, self._kinds(index), self.family.block_shapes(self.config))

    def _kinds(self, index: int) -> dict[str, str]:
        """Stored kind of each tensor of a block; "" in a folder, whose kinds never map and whose shards may be far."""
        names = self.family.block_shapes(self.config)
        return {name: self.find(self._in_block(index, name)).kind if self._is_gguf else "" for name in names}

    @cached_property
    def _expected(self) -> dict[str, tuple[int, ...]]:
        block = self.family.block_shapes(self.config)
        indices = range(self.config.num_blocks)
        blocks = {self._in_block(index, name): shape for index in indices for name, shape in block.items()}
        return blocks | self.family.end_shapes(self.config)

    def _in_block(self, index: int, name: str) -> str:
        if not 0 <= index < self.config.num_blocks:
            raise UsageError(f"block {index} wanted, {self.name} has 0:{self.config.num_blocks}: choose within")
        return f"model.layers.{index}.{name}"

    @cached_property
    def _names(self) -> frozenset[str]:
        return self._store.names()
