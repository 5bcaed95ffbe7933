"""`AutoModelForCausalLM` and `AutoTokenizer`: one line to a model in a swarm."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer as TransformersTokenizer
from transformers import GenerationConfig

from swarm.blocks import Checkpoint, ModelEnds, open_checkpoint, resolve_dtype
from swarm.blocks.files.bundled import DEFAULT_MODEL, default_cache
from swarm.client.bridge import bridge
from swarm.client.config import ClientConfig
from swarm.client.connection import Connection
from swarm.client.model import SwarmForCausalLM
from swarm.client.opening import Model
from swarm.client.routes import POLL_INTERVAL
from swarm.errors import ModelNotFound, UsageError
from swarm.log import get_logger
from swarm.membership import choose_swarm
from swarm.swarm_key import SwarmKey
from swarm.types import ModelEntry

logger = get_logger(__name__)

_connections: dict[tuple[int, ClientConfig], Connection] = {}
_lock = threading.Lock()


class AutoModelForCausalLM:
    """Makes models whose blocks are in a swarm."""

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str] | None = None,
        *,
        initial_peers: Sequence[str] = (),
        swarm_key: str | os.PathLike[str] | SwarmKey | None = None,
        dtype: str | Any = "auto",
        **options: Any,
    ) -> SwarmForCausalLM:
        """Join a swarm and load the two ends of a model: embeddings, final norm and head.

        Args:
            model: Folder, .gguf file, hub id or bundled name; left out, the swarm's only model.
            initial_peers: Multiaddrs of any peers of the swarm; left out, of the one joined last with `swarm join`,
                else of the public one.
            swarm_key: The file of a private swarm's key; left out with the peers, it is that of the swarm joined last.
            dtype: Of embeddings, norm and head: "auto", a name, or a torch.dtype.
            options: Fields of `ClientConfig`.

        Raises:
            SwarmUnreachable: No initial peer answers.
            WrongSwarmKey: They are of a swarm with another key, or with none, or a key is missing here.
            AddressInvalid: One of them is malformed.
            ModelNotFound: No such model here; or none left out, and the swarm serves none or several.
            UnsupportedModel, CheckpointCorrupt: The files cannot be used.
            UsageError: An unknown option.
        """
        config = _config(initial_peers, swarm_key, options)
        connection = _connect(config)
        name = str(model) if model is not None else bridge().run(_only_model(connection))
        checkpoint = _open(name, was_given=model is not None)
        named = str(dtype).removeprefix("torch.")
        ends = ModelEnds.load(checkpoint, dtype=resolve_dtype(named, checkpoint), own_bits=named == "auto")
        known = Model(
            name=checkpoint.name,
            fingerprint=checkpoint.fingerprint,
            hidden_size=checkpoint.config.hidden_size,
            dtype=str(ends.dtype),
        )
        return SwarmForCausalLM(
            checkpoint.config.to_transformers(),
            ends=ends,
            model=known,
            connection=connection,
            generation_config=_generation_config(checkpoint),
        )


def served_models(
    *,
    initial_peers: Sequence[str] = (),
    swarm_key: str | os.PathLike[str] | SwarmKey | None = None,
    **options: Any,
) -> tuple[ModelEntry, ...]:
    """Join a swarm and return the models that it serves now, those with most servers first.

    Args:
        initial_peers, swarm_key: As of `AutoModelForCausalLM`.
        options: Fields of `ClientConfig`; models that are loaded with the same ones share the connection.

    Raises:
        SwarmUnreachable, AddressInvalid, UsageError: As there.
    """
    return bridge().run(_connect(_config(initial_peers, swarm_key, options)).models())


class AutoTokenizer:
    """Makes transformers' tokenizers for all that MODEL may be, GGUF files and the bundled model included."""

    @classmethod
    def from_pretrained(cls, model: str | os.PathLike[str] = DEFAULT_MODEL, **options: Any) -> Any:
        """Return the tokenizer of a model.

        Args:
            model: Folder, .gguf file, hub id or bundled name.
            options: As of transformers' `AutoTokenizer`.

        Raises:
            ModelNotFound: No such model here.
        """
        if "trust_remote_code" in options:
            raise UsageError("trust_remote_code: code that comes with a model is never run here")
        path = open_checkpoint(model).path
        return TransformersTokenizer.from_pretrained(_converted(path) if path.is_file() else path, **options)


def _config(
    initial_peers: Sequence[str], swarm_key: str | os.PathLike[str] | SwarmKey | None, options: dict[str, Any]
) -> ClientConfig:
    known = {field.name for field in fields(ClientConfig)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise UsageError(f"unknown option {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    if isinstance(initial_peers, str):
        raise UsageError("initial_peers: give a list of multiaddrs of peers of the swarm, not one text")
    joined = choose_swarm(initial_peers, tell=logger.warning, swarm_key=swarm_key)
    return ClientConfig(initial_peers=joined.peers, swarm_key=joined.key, **options)


def _connect(config: ClientConfig) -> Connection:
    """Return the connection of this configuration, started; models with equal ones share it."""
    key = os.getpid(), config  # a forked child cannot use its parent's
    with _lock:
        connection = _connections.get(key)
        if connection is None or not connection.is_alive:
            connection = Connection(config)
            bridge().run(connection.start())
            bridge().at_exit(connection.close)
            _connections[key] = connection
        return connection


async def _only_model(connection: Connection) -> str:
    """Return the name of the swarm's only model, once there is one within the coverage timeout."""
    waited = connection.config.timeouts.coverage
    deadline = time.monotonic() + waited
    while True:
        names = sorted({entry.name for entry in await connection.models()})
        if len(names) == 1:
            return names[0]
        if names:
            raise ModelNotFound(f"the swarm serves {', '.join(names)}: say which")
        if time.monotonic() >= deadline:
            raise ModelNotFound(f"the swarm serves no model (waited {waited:.0f} s): start a server")
        await asyncio.sleep(POLL_INTERVAL)


def _open(name: str, *, was_given: bool) -> Checkpoint:
    try:
        return open_checkpoint(name)
    except ModelNotFound as error:
        if was_given:
            raise
        text = f"the swarm serves {name}, whose files are not here ({error}): give the model's path"
        raise ModelNotFound(text) from error


def _generation_config(checkpoint: Checkpoint) -> GenerationConfig | None:
    folder = Path(checkpoint.path)
    if folder.is_dir() and (folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(folder)
    return None


def _converted(path: Path) -> Path:
    """Return a folder with the tokenizer of a GGUF file, converted once: that takes seconds, reading it does not."""
    stat = path.stat()
    identity = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()
    folder = default_cache() / "tokenizers" / hashlib.blake2b(identity, digest_size=12).hexdigest()
    if not folder.is_dir():
        tokenizer = TransformersTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as fresh:
            tokenizer.save_pretrained(f"{fresh}/tokenizer")
            with suppress(OSError):  # another process was faster
                os.rename(f"{fresh}/tokenizer", folder)
    return folder
