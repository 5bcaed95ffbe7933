"""Tensor codecs: activations as bytes, without a copy where the format allows it.

Raw formats are the tensor's own little-endian bytes; bf16 stays 2 bytes. `int8` stores, for each
token and group of 64 channels, codes and a float32 scale = max|x| / 127: the error of a channel
is at most half a scale, that is max|x of its group| / 254. Each token's bytes are consecutive in all formats.
"""

from __future__ import annotations

import torch
from torch import Tensor

from swarm.errors import ProtocolError

RAW_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

INT8_GROUP = 64
"""Channels that share a scale; every hidden size in use is a multiple of it, others are padded."""


def codec_of(dtype: torch.dtype) -> str:
    """Return the raw codec that carries `dtype` without loss."""
    for name, raw in RAW_DTYPES.items():
        if raw == dtype:
            return name
    raise ValueError(f"no codec for {dtype}")


def encode_tensor(hidden: Tensor, codec: str) -> memoryview:
    """Return the bytes of `hidden` (T, D); the view keeps the tensor's memory alive.

    The tensor must not be written to until the bytes are sent.
    """
    if codec == "int8":
        return _encode_int8(hidden)
    raw = hidden.to(RAW_DTYPES[codec]).contiguous()
    return _view(raw)


def decode_tensor(body: bytearray | bytes, codec: str, *, tokens: int, hidden_size: int) -> Tensor:
    """Return (tokens, hidden_size), sharing memory with `body` for raw codecs, float32 for int8.

    Raises:
        ProtocolError: The body's length does not fit the shape.
    """
    expected = body_bytes(codec, tokens=tokens, hidden_size=hidden_size)
    if len(body) != expected:
        raise ProtocolError(f"body of {len(body)} bytes; {tokens} x {hidden_size} in {codec} are {expected}")
    if tokens == 0:
        return torch.empty(0, hidden_size, dtype=RAW_DTYPES.get(codec, torch.float32))
    if codec == "int8":
        return _decode_int8(body, tokens, hidden_size)
    writable = body if isinstance(body, bytearray) else bytearray(body)
    return torch.frombuffer(writable, dtype=RAW_DTYPES[codec]).view(tokens, hidden_size)  # (T, D)


def body_bytes(codec: str, *, tokens: int, hidden_size: int) -> int:
    """Return how many bytes (tokens, hidden_size) takes in `codec`."""
    if codec == "int8":
        groups = -(-hidden_size // INT8_GROUP)
        return tokens * groups * (INT8_GROUP + 4)
    return tokens * hidden_size * RAW_DTYPES[codec].itemsize


def _view(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _encode_int8(hidden: Tensor) -> memoryview:
    tokens, width = hidden.shape
    padded = torch.nn.functional.pad(hidden.float(), (0, -width % INT8_GROUP))
    grouped = padded.view(tokens, -1, INT8_GROUP)  # (T, groups, 64)
    scales = grouped.abs().amax(-1).div_(127.0)  # (T, groups)
    divisors = torch.where(scales > 0, scales, torch.ones_like(scales))
    codes = (grouped / divisors.unsqueeze(-1)).round_().to(torch.int8)
    # Token by token, so that bodies can be cut and joined.
    return _view(torch.cat([scales.view(torch.uint8), codes.view(tokens, -1).view(torch.uint8)], 1))  # (T, bytes)


def _decode_int8(body: bytearray | bytes, tokens: int, hidden_size: int) -> Tensor:
    groups = -(-hidden_size // INT8_GROUP)
    writable = body if isinstance(body, bytearray) else bytearray(body)
    rows = torch.frombuffer(writable, dtype=torch.uint8).view(tokens, -1)  # (T, bytes)
    scales = rows[:, : groups * 4].contiguous().view(torch.float32).unsqueeze(-1)  # (T, groups, 1)
    codes = rows[:, groups * 4 :].contiguous().view(torch.int8).view(tokens, groups, INT8_GROUP)
    return (codes.float() * scales).view(tokens, -1)[:, :hidden_size].contiguous()  # (T, D)
