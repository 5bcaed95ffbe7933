"""Models of the Hugging Face hub, or of its local cache: only the files that are wanted."""

from __future__ import annotations

import re
from pathlib import Path

from swarm.errors import ModelNotFound

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "special_tokens_map.json",
    "tokenizer*",
    "*.jinja",
    "vocab.json",
    "merges.txt",
)


class HubFolder:
    """A repository's snapshot in the hub's local cache.

    Attributes:
        path: The snapshot's folder, which holds the small files.
    """

    def __init__(self, model: str) -> None:
        """Fetch the small files, or find them in the cache.

        Raises:
            ModelNotFound: No such repository, or no way to reach it.
        """
        if not _HUB_ID.fullmatch(model):
            raise ModelNotFound(
                f"{model!r}: no such folder or file, no bundled model, no hub id (owner/name): check the spelling"
            )
        from huggingface_hub import snapshot_download

        self._model = model
        try:
            self.path = Path(snapshot_download(model, allow_patterns=list(_SMALL_FILES)))
        except (OSError, ValueError) as error:
            raise self._missing("config.json", error) from error
        if not (self.path / "model.safetensors.index.json").is_file():
            self.locate("model.safetensors")

    def locate(self, name: str) -> Path:
        """Return the local path of one file, downloading it if need be.

        Raises:
            ModelNotFound: The repository has no such file, or cannot be reached.
        """
        path = self.path / name
        if path.is_file():
            return path
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(self._model, name, revision=self.path.name))
        except (OSError, ValueError) as error:
            raise self._missing(name, error) from error

    def _missing(self, name: str, error: Exception) -> ModelNotFound:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        text = f"{self._model}: {name} is neither in the cache nor on the hub ({reason})"
        return ModelNotFound(f"{text}: check the name and the network")


def is_cached(model: str) -> bool:
    """Whether the local cache knows a hub id."""
    from huggingface_hub import try_to_load_from_cache

    return bool(_HUB_ID.fullmatch(model)) and isinstance(try_to_load_from_cache(model, "config.json"), str)
