"""From plain numbers to codes with a scale (and a minimum) per group of 32 inputs.

Scales and minimums are rounded to bfloat16 before the codes are made, so that the codes are the nearest to what
they will be multiplied with. Work goes by slices that stay in the cache: an 8B model's matrix takes about a second.
"""

from __future__ import annotations

import torch
from torch import Tensor

from swarm.blocks.weights import GROUP, QuantizedWeight

_SLICE_NUMBERS = 1 << 17
"""Half a MiB of float32, with its temporaries within a core's second-level cache."""

_BF16 = torch.bfloat16
_TOP4 = 15
_TOPS8 = (127.0, 124.5, 122.0, 119.5)
"""What a group's largest weight may become in 8 bits: one of four scales fits 6 % closer, and 12 % where the weights
lie on a grid, as those of a file in 4 bits do."""

_SHRINKS = (1.0, 0.92, 0.85, 0.78)
"""Parts of a group's range that the 16 codes of 4 bits span: cutting off a group's extremes brings the codes of all
others nearer. More and finer ones gain under 1 % of the error."""


def quantize(numbers: Tensor, bits: int) -> QuantizedWeight:
    """Quantise a matrix (O, I) of finite floats: symmetric at 8 bits, with minimums at 4.

    Raises:
        ValueError: Rows do not divide into groups, or `bits` is neither 8 nor 4.
    """
    rows, width = numbers.shape
    if width % GROUP or bits not in (8, 4):
        raise ValueError(f"rows of {width} do not make groups of {GROUP} at {bits} bits")
    weight = empty(rows, width, bits, is_symmetric=bits == 8)
    step = max(1, _SLICE_NUMBERS // width)
    for start in range(0, rows, step):
        _write(weight, start, numbers[start : start + step])
    return weight


def empty(rows: int, width: int, bits: int, *, is_symmetric: bool) -> QuantizedWeight:
    """Return a weight (rows, width) whose numbers are still to be written."""
    shape = (rows, width // GROUP)
    minimums = None if is_symmetric else torch.empty(shape, dtype=_BF16)
    codes = torch.empty((rows, width * bits // 8), dtype=torch.int8 if bits == 8 else torch.uint8)
    return QuantizedWeight(bits=bits, codes=codes, scales=torch.empty(shape, dtype=_BF16), minimums=minimums)


def _write(weight: QuantizedWeight, start: int, numbers: Tensor) -> None:
    end = start + numbers.shape[0]
    groups = numbers.to(torch.float32).reshape(numbers.shape[0], -1, GROUP)
    if weight.minimums is None:
        codes, weight.scales[start:end] = _symmetric8(groups)
        weight.codes[start:end] = codes.view(numbers.shape)
        return
    codes, weight.scales[start:end], weight.minimums[start:end] = _asymmetric4(groups)
    packed = codes[..., : GROUP // 2] | (codes[..., GROUP // 2 :] << 4)
    weight.codes[start:end] = packed.view(numbers.shape[0], -1)


def _symmetric8(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (R, G, 32) int8 and scales (R, G), rounded up so that no code exceeds 127: the best of a few."""
    largest = groups.abs().amax(-1)
    best = torch.full_like(largest, torch.inf)
    scales = _rounded_up(largest / _TOPS8[0])
    for top in _TOPS8:
        scale = _rounded_up(largest / top)
        steps = torch.where(scale > 0, scale, 1).unsqueeze(-1)
        error = torch.div(groups, steps).round_().mul_(steps).sub_(groups).square_().sum(-1)
        is_better = error < best
        best, scales = torch.where(is_better, error, best), torch.where(is_better, scale, scales)
    steps = torch.where(scales > 0, scales, 1).unsqueeze(-1)
    return torch.div(groups, steps).round_().to(torch.int8), scales.to(_BF16)


def _rounded_up(numbers: Tensor) -> Tensor:
    """The least numbers of bfloat16 that are not smaller, as float32; for numbers that are not negative."""
    return ((numbers.view(torch.int32) + 0xFFFF) & -0x10000).view(torch.float32)


def _asymmetric4(groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (R, G, 32) uint8, scales and minimums (R, G): the best of a few ranges by its squared error.

    For each, codes are made, and then scale and minimum are fitted to them by least squares.
    """
    low, high = groups.aminmax(dim=-1)
    middle, half = (low + high) / 2, (high - low) / 2
    best = torch.full_like(low, torch.inf)
    # The plain range stays where the errors' squares overflow.
    scales, minimums = (half * (2 / _TOP4)).to(_BF16).float(), low.to(_BF16).float()
    for shrink in _SHRINKS:
        step = torch.where(half > 0, half * (2 * shrink / _TOP4), 1)
        codes = _codes4(groups, step, middle - half * shrink)
        step, least = _fitted(groups, codes)
        step, least = step.to(_BF16).float(), least.to(_BF16).float()
        error = torch.addcmul(least.unsqueeze(-1) - groups, codes, step.unsqueeze(-1)).square_().sum(-1)
        is_better = error < best
        best = torch.where(is_better, error, best)
        scales, minimums = torch.where(is_better, step, scales), torch.where(is_better, least, minimums)
    codes = _codes4(groups, torch.where(scales != 0, scales, 1), minimums)
    return codes.to(torch.uint8), scales.to(_BF16), minimums.to(_BF16)


def _codes4(groups: Tensor, steps: Tensor, minimums: Tensor) -> Tensor:
    return (groups - minimums.unsqueeze(-1)).div_(steps.unsqueeze(-1)).round_().clamp_(0, _TOP4)


def _fitted(groups: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and minimum (R, G) with the least squared error for these codes."""
    mean_code, mean = codes.mean(-1), groups.mean(-1)
    spread = codes.square().mean(-1) - mean_code.square()
    slope = (codes * groups).mean(-1) - mean_code * mean
    scale = torch.where(spread > 1e-6, slope / spread.clamp_min(1e-6), 0)
    return scale, mean - scale * mean_code
