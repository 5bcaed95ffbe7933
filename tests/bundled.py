"""The bundled model as transformers reads it, loaded once a run: its reader of GGUF files takes twenty seconds."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GgufConfig

from swarm.blocks.files.bundled import default_cache, find_bundled


def bundled_path() -> Path:
    """The bundled model's GGUF file."""
    return find_bundled("smollm2-135m", default_cache())


@cache
def transformers_model() -> Any:
    """The model in float32, shared by all who ask: nobody may change it."""
    path = bundled_path()
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    return model.float().eval()
