"""From what people call a model to an open checkpoint: a folder, a GGUF file, the bundled model, a hub id."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from swarm.blocks.config import ModelConfig
from swarm.blocks.families import find_family, find_gguf_family
from swarm.blocks.files.bundled import BUNDLED, default_cache, find_bundled, find_cached
from swarm.blocks.files.checkpoint import Checkpoint
from swarm.blocks.files.gguf_file import GGUFStore
from swarm.blocks.files.safetensors_file import SafetensorsStore
from swarm.errors import CheckpointCorrupt, ModelNotFound, SwarmError


def open_checkpoint(model: str | os.PathLike[str], *, is_offline: bool = False) -> Checkpoint:
    """Open a model: a Hugging Face folder, a .gguf file, the bundled model's name, or a hub id.

    Only headers and small files are read; a hub id downloads its shards when their tensors are wanted.

    Args:
        model: What people call it.
        is_offline: Take what is on this machine, and fetch nothing, neither now nor later.

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
        find = find_cached if is_offline else find_bundled
        return _open_gguf(find(str(model), default_cache()), str(model))
    return _open_hub(str(model), is_offline=is_offline)


def _open_gguf(path: Path, name: str) -> Checkpoint:
    if path.suffix != ".gguf":
        raise ModelNotFound(f"{path}: not a .gguf file; give a Hugging Face folder, a .gguf file or a hub id")
    store = GGUFStore(path)
    family = find_gguf_family(store.fields, source=path)
    kinds = {name: store.find(name).kind for name in store.names()}
    factors = store.find("rope_freqs.weight").numbers(torch.float32).tolist() if "rope_freqs.weight" in kinds else ()
    if "token_embd.weight" not in kinds:
        raise CheckpointCorrupt(f"{path}: no tensor token_embd.weight: the file is incomplete, copy it again")
    vocab_rows = store.find("token_embd.weight").shape[0]
    fields = {**store.fields, f"{store.fields['general.architecture']}.vocab_size": vocab_rows}
    assert family.from_gguf is not None
    config = _checked(path, partial(family.from_gguf, fields, kinds, tuple(factors), source=path))
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


def _open_hub(model: str, *, is_offline: bool) -> Checkpoint:
    from swarm.blocks.files.hub import HubFolder

    hub = HubFolder(model, is_offline=is_offline)
    return _open_folder(hub.path, model, hub.locate)
