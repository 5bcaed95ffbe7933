"""The structs of src/span.h, as ctypes lays them out: field for field, in the same order."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int32, c_int64, c_void_p

from swarm.blocks.native.linear import NativeWeight


class FeedStruct(ctypes.Structure):
    """A gated feed-forward half."""

    _fields_ = (("gate", NativeWeight), ("up", NativeWeight), ("down", NativeWeight))


class BlockStruct(ctypes.Structure):
    """One block: its norms, linear layers, window and rope."""

    _fields_ = (
        ("norm", c_void_p),
        ("feed_norm", c_void_p),
        ("after_norm", c_void_p),
        ("after_feed_norm", c_void_p),
        ("query_norm", c_void_p),
        ("key_norm", c_void_p),
        ("router", c_void_p),
        ("feeds", ctypes.POINTER(FeedStruct)),
        ("qkv", NativeWeight),
        ("out", NativeWeight),
        ("window", c_int32),
        ("rope", c_int32),
    )


class ShapeStruct(ctypes.Structure):
    """What is equal for all blocks."""

    _fields_ = (
        ("hidden", c_int32),
        ("heads", c_int32),
        ("kv_heads", c_int32),
        ("head", c_int32),
        ("inner", c_int32),
        ("experts", c_int32),
        ("chosen", c_int32),
        ("gelu", c_int32),
        ("narrow_cache", c_int32),
        ("plain_inner", c_int32),
        ("epsilon", c_float),
        ("scale", c_float),
        ("softcap", c_float),
    )


class StepStruct(ctypes.Structure):
    """One forward pass."""

    _fields_ = (
        ("tokens", c_int32),
        ("num_rows", c_int32),
        ("num_pages", c_int32),
        ("pool_slots", c_int32),
        ("first_block", c_int32),
        ("last_block", c_int32),
        ("narrow_input", c_int32),
        ("narrow_output", c_int32),
        ("rows", c_void_p),
        ("pages", c_void_p),
        ("cosines", c_void_p * 2),
        ("sines", c_void_p * 2),
        ("positions", c_int64),
        ("input", c_void_p),
        ("output", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("workspace", c_void_p),
        ("workspace_bytes", c_int64),
    )
