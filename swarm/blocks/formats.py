"""Which format each tensor of a block gets: pure decisions over names, shapes and stored kinds."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Literal, cast, get_args

from swarm.blocks.files.gguf_codes import OWN_BITS
from swarm.blocks.weights import GROUP
from swarm.errors import UsageError

Quant = Literal["none", "int8", "int4"]
"""Weight formats: plain, 8 bits, or 4 bits with scale and minimum; the last two in groups of 32."""

BITS: Mapping[Quant, int] = {"none": 0, "int8": 8, "int4": 4}

PLAIN_KINDS = frozenset({"float64", "float32", "float16", "bfloat16"})
"""Stored kinds that are plain numbers."""

_ROUTER = re.compile(r"\.(gate|router)\.weight$")
"""Chooses experts, and is small: one wrong choice costs more than all of its bytes."""

_FUSED = re.compile(r"\.[qkv]_proj\.weight$")
"""Run as one matrix, and so have one format."""

_SENSITIVE = re.compile(r"\.(v_proj|down_proj|w2)\.weight$")
"""Matrices whose rounding to 4 bits costs the most: of a bfloat16 SmolLM2-135M's perplexity, down_proj 6.7 % and v_proj
3.6 %, the other five 3.5 % together."""

_UP_TO_4_BITS = re.compile(r"I?Q[1-4]_|TQ|MXFP4|NVFP4")


def resolve_quant(asked: str, dtype: str, kinds: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> Quant:
    """Return the weight format that a flag asks for.

    "auto" is a GGUF file's own bits where they map (Q4_0, Q4_1, Q8_0), and int8 for all others; none where float32
    was asked for, or where no width divides into groups.

    Args:
        asked: "auto" or one of `Quant`.
        dtype: What `--dtype` says, "auto" included.
        kinds: Stored kind of each tensor of a block, "" if it does not matter.
        shapes: Their shapes.

    Raises:
        UsageError: An unknown name, or no matrix can be quantised.
    """
    widths = sorted({shape[-1] for shape in shapes.values() if len(shape) >= 2})
    if asked in ("int8", "int4") and not any(is_matrix(name, shape) for name, shape in shapes.items()):
        raise UsageError(
            f"--quant {asked}: weights are quantised in groups of {GROUP}, and rows of "
            f"{', '.join(map(str, widths))} do not divide into such: choose --quant none"
        )
    if asked in get_args(Quant):
        return cast(Quant, asked)
    if asked != "auto":
        raise UsageError(f"--quant {asked!r} is unknown: choose auto, {', '.join(get_args(Quant))}")
    if dtype == "float32":
        return "none"
    numbers = {4: 0, 8: 0}
    for name, shape in shapes.items():
        if is_matrix(name, shape):
            numbers[OWN_BITS.get(kinds[name], 8)] += math.prod(shape)
    if not any(numbers.values()):
        return "none"
    return "int4" if numbers[4] > numbers[8] else "int8"


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Whether this tensor of a block is quantised: the big ones are, and not norms, biases and routers."""
    return len(shape) >= 2 and shape[-1] % GROUP == 0 and not is_router(name)


def ungrouped(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Return the matrices of a block that stay plain in any format, as their rows do not divide into groups."""
    return tuple(
        name for name, shape in shapes.items() if len(shape) >= 2 and shape[-1] % GROUP and not is_router(name)
    )


def is_router(name: str) -> bool:
    """Whether this tensor chooses experts."""
    return _ROUTER.search(name) is not None


def bits_of(quant: Quant, kinds: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Return the bits of each tensor of a block; 0 is plain.

    Of "int4", some matrices get 8 bits: those of `_SENSITIVE` unless the file has 4 bits of its own for them, and, in
    a file with such, those that its author gave more (Q4_0 files have Q6_K and others among them). Queries, keys and
    values have as many as the richest of the three.
    """
    matrices = {name for name, shape in shapes.items() if is_matrix(name, shape)}
    bits = {name: BITS[quant] if name in matrices else 0 for name in shapes}
    if quant != "int4":
        return bits
    foreign = {name for name in matrices if not maps(kinds[name], 4)}
    is_own = len(foreign) < len(matrices)
    rich = {name for name in foreign if _SENSITIVE.search(name) or (is_own and not _UP_TO_4_BITS.match(kinds[name]))}
    if any(_FUSED.search(name) for name in rich):
        rich |= {name for name in matrices if _FUSED.search(name)}
    return bits | dict.fromkeys(rich, 8)


def maps(kind: str, bits: int) -> bool:
    """Whether a stored kind becomes codes of `bits` without a second quantisation."""
    return OWN_BITS.get(kind) == bits


def twice_quantized(bits: Mapping[str, int], kinds: Mapping[str, str]) -> tuple[str, ...]:
    """Return the quantised kinds that have to be decoded and quantised again, sorted."""
    again = {kinds[name] for name, count in bits.items() if count and not maps(kinds[name], count)}
    return tuple(sorted(again - PLAIN_KINDS - {""}))


def tensor_bytes(shape: tuple[int, ...], bits: int, kind: str, item_bytes: int) -> int:
    """Return the bytes of a tensor in `bits`, scales included; if that is 0, `item_bytes` each, and 4 in vectors."""
    numbers = math.prod(shape)
    if not bits:
        return numbers * (item_bytes if len(shape) > 1 else 4)
    floats = 1 if bits == 8 or kind == "Q4_0" else 2  # a scale, and a minimum where there is one
    return numbers * bits // 8 + numbers // GROUP * floats * 2
