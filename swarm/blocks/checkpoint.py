"""A checkpoint: one model's files, opened, with a configuration, a fingerprint and tensors on demand."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from swarm.blocks.bundled import BUNDLED, default_cache, find_bundled
from swarm.blocks.config import ModelConfig
from swarm.blocks.families import Family, find_family
from swarm.blocks.gguf_file import GGUFStore
from swarm.blocks.safetensors_file import SafetensorsStore
from swarm.blocks.tensor_file import StoredTensor, TensorStore
from swarm.errors import CheckpointCorrupt, ModelNotFound, SwarmError, UsageError

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

    def block_bytes(self, dtype: torch.dtype) -> int:
        """Return the bytes of one block's weights in `dtype`."""
        return sum(math.prod(shape) for shape in self.family.block_shapes(self.config).values()) * dtype.itemsize

    def find(self, name: str) -> StoredTensor:
        """Return where the tensor of this canonical name is stored, its shape checked.

        Raises:
            CheckpointCorrupt: No such tensor, or of the wrong shape.
        """
        stored = self._store.find(self._stored_name(name))
        expected = self._expected.get(name)
        if expected is not None and stored.shape != expected:
            raise CheckpointCorrupt(
                f"{stored.path}: tensor {stored.name} has shape {stored.shape}, the configuration says {expected}"
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

    def read_block(self, index: int, *, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """Read the tensors of block `index`, named without their `model.layers.N.` prefix; `dtype` as in `read`.

        Raises:
            UsageError: The model has no such block.
            CheckpointCorrupt: As `read`.
        """
        names = self.family.block_shapes(self.config)
        return {name: self.read(self._in_block(index, name), dtype=dtype) for name in names}

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

    def _stored_name(self, name: str) -> str:
        return _gguf_name(name, self.family) if self._is_gguf else name


def _gguf_name(name: str, family: Family) -> str:
    if not name.startswith("model.layers."):
        return family.gguf_names.get(name, name)
    index, _, rest = name.removeprefix("model.layers.").partition(".")
    part, _, kind = rest.rpartition(".")
    return f"blk.{index}.{family.gguf_names.get(part, part)}.{kind}"


def open_checkpoint(model: str | os.PathLike[str]) -> Checkpoint:
    """Open a model: a Hugging Face folder, a .gguf file, the bundled model's name, or a hub id.

    Only headers and small files are read; a hub id downloads its shards when their tensors are wanted.

    Raises:
        ModelNotFound: Nothing of this name here, in the cache or on the hub.
        UnsupportedModel: An architecture or a format that we cannot run.
        CheckpointCorrupt: A file is truncated or malformed.
    """
    path = Path(model).expanduser()
    if path.is_file():
        return _open_gguf(path, path.stem)
    if path.is_dir():
        return _open_folder(path, path.resolve().name, lambda shard: path / shard)
    if str(model) in BUNDLED:
        return _open_gguf(find_bundled(str(model), default_cache()), str(model))
    return _open_hub(str(model))


def _open_gguf(path: Path, name: str) -> Checkpoint:
    if path.suffix != ".gguf":
        raise ModelNotFound(f"{path}: not a .gguf file; give a Hugging Face folder, a .gguf file or a hub id")
    store = GGUFStore(path)
    family = find_family(store.fields.get("general.architecture"), source=path)
    kinds = {name: store.find(name).kind for name in store.names()}
    factors = store.find("rope_freqs.weight").numbers(torch.float32).tolist() if "rope_freqs.weight" in kinds else ()
    if "token_embd.weight" not in kinds:
        raise CheckpointCorrupt(f"{path}: no tensor token_embd.weight: the file is incomplete, copy it again")
    vocab_rows = store.find("token_embd.weight").shape[0]
    fields = {**store.fields, f"{family.name}.vocab_size": vocab_rows}
    config = _checked(path, lambda: family.from_gguf(fields, kinds, tuple(factors), source=path))
    return Checkpoint(name=name, path=path, config=config, family=family, store=store, is_gguf=True)


def _open_folder(folder: Path, name: str, locate: Callable[[str], Path]) -> Checkpoint:
    source = folder / "config.json"
    if not source.is_file():
        raise ModelNotFound(f"{folder}: no config.json: give a Hugging Face folder, a .gguf file or a hub id")
    try:
        raw: Any = json.loads(source.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointCorrupt(f"{source}: not JSON: copy the file again") from error
    if not isinstance(raw, dict):
        raise CheckpointCorrupt(f"{source}: not a table of settings: copy the file again")
    family = find_family(raw.get("model_type"), source=source)
    config = _checked(source, lambda: family.from_hf(raw, source=source))
    store = _open_store(folder, locate)
    return Checkpoint(name=name, path=folder, config=config, family=family, store=store, is_gguf=False)


def _open_store(folder: Path, locate: Callable[[str], Path]) -> SafetensorsStore:
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        return SafetensorsStore.from_index(index, locate)
    if single.is_file():
        return SafetensorsStore.from_file(single)
    raise ModelNotFound(
        f"{folder}: neither model.safetensors nor its index: convert the weights to safetensors "
        "(pickled .bin files are never loaded)"
    )


def _checked(source: Path, parse: Callable[[], ModelConfig]) -> ModelConfig:
    try:
        config = parse()
        counts = [config.hidden_size, config.num_blocks, config.num_heads, config.num_kv_heads, config.head_size]
        counts += [config.intermediate_size, config.context_length, config.vocab_size]
        if not all(isinstance(count, int) and 0 < count < 1 << 31 for count in counts):
            raise ValueError(f"sizes {counts}")
        if config.num_heads % config.num_kv_heads or config.head_size % 2:
            raise ValueError(f"{config.num_heads} heads, {config.num_kv_heads} kv heads of size {config.head_size}")
    except SwarmError:
        raise
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointCorrupt(f"{source}: a setting is missing or wrong ({error}): copy the file again") from error
    return config


def _open_hub(model: str) -> Checkpoint:
    from swarm.blocks.hub import HubFolder

    hub = HubFolder(model)
    return _open_folder(hub.path, model, hub.locate)
