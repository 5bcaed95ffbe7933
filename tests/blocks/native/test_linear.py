"""Native linear layers against dequantised weights in torch, and their bits against themselves.

Without the library (no compiler where swarm was installed) there is nothing to test here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize

from swarm.blocks.native.binding import KERNELS, kernel_name, library
from swarm.blocks.native.linear import Format, NativeLinear, PackedWeight, quantize
from swarm.blocks.quantize import quantize as quantize_weight
from swarm.blocks.weights import GROUP, QuantizedWeight, Weight

pytestmark = pytest.mark.skipif(library() is None, reason="the native kernels are not built")

FORMATS = list(Format)
SHAPES = [(576, 576), (48, 32), (50, 96), (17, 2080)]
"""Whole panels of 16 outputs and a part of one; inputs of one group, an odd number of groups, several stretches."""


def _numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def _weight(form: Format, out: int, width: int) -> Weight:
    numbers = _numbers(out, width, seed=7)
    if form == Format.BFLOAT16:
        return numbers.bfloat16()
    weight = quantize_weight(numbers, 8 if form == Format.INT8 else 4)
    if form != Format.INT4_SYMMETRIC:
        return weight
    scales = (numbers.view(out, -1, GROUP).abs().amax(-1) / 8).bfloat16()
    codes = (numbers.view(out, -1, GROUP) / scales.float().unsqueeze(-1)).round().clamp(-8, 7).to(torch.uint8) + 8
    packed = codes[..., :16] | (codes[..., 16:] << 4)
    return QuantizedWeight(bits=4, codes=packed.reshape(out, -1), scales=scales)


def _dense(weight: Weight) -> torch.Tensor:
    return weight.double() if isinstance(weight, torch.Tensor) else weight.dequantized(torch.float64)


def _rounded(x: torch.Tensor) -> torch.Tensor:
    """x (T, I) as 8-bit codes for each token and group of 32 say it: the specification of `quantize`."""
    groups = x.view(x.shape[0], -1, GROUP)
    largest = groups.abs().amax(-1, keepdim=True)
    codes = torch.where(largest > 0, groups * (127 / largest), 0).round()
    return (codes * (largest / 127)).view(x.shape)


def _specified(weight: Weight, x: torch.Tensor) -> torch.Tensor:
    """What the kernels compute, in float64."""
    return (x if isinstance(weight, torch.Tensor) else _rounded(x)).double() @ _dense(weight).T


def _error(ours: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((ours.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tokens", [1, 3, 16])
def test_a_layer_computes_what_dequantised_weights_and_rounded_activations_do(
    form: Format, shape: tuple[int, int], tokens: int
) -> None:
    weight, bias = _weight(form, *shape), _numbers(shape[0])
    x, add = _numbers(tokens, shape[1]), _numbers(tokens, shape[0], seed=3)
    layer, wanted = NativeLinear(weight, bias), _specified(weight, x) + bias.double()
    # float32 sums of up to 2080 products, one after another: a few times its rounding, 6e-8.
    assert _error(layer(x), wanted) < 2e-6
    assert _error(layer(x, add=add), wanted + add.double()) < 2e-6


@pytest.mark.parametrize(
    ("form", "bar"),
    [(Format.BFLOAT16, 0.002), (Format.INT8, 0.0085), (Format.INT4, 0.085), (Format.INT4_SYMMETRIC, 0.1)],
)
def test_the_error_against_float32_is_that_of_the_format(form: Format, bar: float) -> None:
    numbers, x = _numbers(576, 576, seed=7), _numbers(64, 576)
    error = _error(NativeLinear(_weight(form, 576, 576))(x), x.double() @ numbers.double().T)
    assert bar / 2 < error < bar


@pytest.mark.parametrize("kind", [GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q4_1])
def test_codes_mean_what_they_mean_in_gguf(kind: GGMLQuantizationType) -> None:
    dice = np.random.default_rng(5)
    scales, minimums = (dice.choice([0.25, -0.5, 1.0, 2.0], (40, 3)).astype("<f2") for _ in range(2))
    numbers = dice.integers(-127, 128, (40, 3, 32), dtype=np.int8)
    packed = dice.integers(0, 256, (40, 3, 16), dtype=np.uint8)
    is_eight, has_minimums = kind == GGMLQuantizationType.Q8_0, kind == GGMLQuantizationType.Q4_1
    codes = numbers if is_eight else packed
    heads = [scales[..., None].view(np.uint8)] + ([minimums[..., None].view(np.uint8)] if has_minimums else [])
    dense = torch.from_numpy(dequantize(np.concatenate([*heads, codes.view(np.uint8)], -1).reshape(40, -1), kind))
    weight = QuantizedWeight(
        bits=8 if is_eight else 4,
        codes=torch.from_numpy(codes.reshape(40, -1)),
        scales=torch.from_numpy(scales.astype(np.float32)).bfloat16(),
        minimums=torch.from_numpy(minimums.astype(np.float32)).bfloat16() if has_minimums else None,
    )
    x = _numbers(2, 96)
    assert _error(NativeLinear(weight)(x), _rounded(x).double() @ dense.double().T) < 2e-6


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("shape", [(50, 96), (96, 2080)])
def test_the_bits_of_a_row_do_not_depend_on_the_rows_that_travel_with_it(form: Format, shape: tuple[int, int]) -> None:
    layer, x = NativeLinear(_weight(form, *shape), _numbers(shape[0])), _numbers(33, shape[1])
    alone = torch.cat([layer(row.unsqueeze(0)) for row in x])
    for tokens in (*range(1, 14), 16, 33):
        assert torch.equal(layer(x[:tokens]), alone[:tokens]), tokens
    assert torch.equal(layer(x[5:12]), alone[5:12])


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("tokens", [1, 2, 9])
def test_the_bits_do_not_depend_on_the_number_of_threads(form: Format, tokens: int) -> None:
    layer, x, add = NativeLinear(_weight(form, 96, 64)), _numbers(tokens, 64), _numbers(tokens, 96)
    once = layer(x, add=add)
    for threads in (2, 3, 8):
        torch.set_num_threads(threads)
        assert torch.equal(layer(x, add=add), once)


def test_two_python_threads_may_call_at_once() -> None:
    layer, x = NativeLinear(_weight(Format.INT8, 576, 576)), _numbers(4, 576)
    once = layer(x)

    def run(_: int) -> bool:
        torch.set_num_threads(2)
        return all(torch.equal(layer(x), once) for _ in range(50))

    with ThreadPoolExecutor(2) as callers:
        assert all(callers.map(run, range(4)))


@pytest.mark.parametrize("form", FORMATS)
def test_bfloat16_activations_give_the_float32_result_rounded_once(form: Format) -> None:
    layer = NativeLinear(_weight(form, 50, 96), _numbers(50))
    x, add = _numbers(5, 96).bfloat16(), _numbers(5, 50).bfloat16()
    assert torch.equal(layer(x, add=add), layer(x.float(), add=add.float()).bfloat16())
    assert layer(x.half()).dtype == torch.float16


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_spoils_its_own_row_and_no_other(form: Format, bad: float) -> None:
    layer, x = NativeLinear(_weight(form, 50, 96)), _numbers(7, 96)
    clean = layer(x)
    x[3, 40] = bad
    spoilt = layer(x)
    assert not torch.isfinite(spoilt[3]).any()
    assert torch.equal(spoilt[[0, 1, 2, 4, 5, 6]], clean[[0, 1, 2, 4, 5, 6]])


def test_quantising_rounds_to_nearest_even_and_knows_its_sums() -> None:
    x = torch.cat((torch.arange(-16.0, 16.0) * 127 / 16, torch.zeros(32), _numbers(32) * 1e-38, _numbers(32) * 1e30))
    codes, scales, sums = quantize(x)
    assert codes.dtype == torch.int8 and int(codes.min()) >= -127
    assert torch.equal(codes[:32], (x[:32] * (127 / x[:32].abs().max())).round().to(torch.int8))
    assert torch.equal(sums, codes.view(4, 32).sum(-1).float())
    assert float(scales[1]) == 0 and not codes[32:96].any()
    assert _error(codes.view(4, 32)[3] * scales[3], x[96:].double()) < 0.01


def test_extremes_do_not_overflow() -> None:
    """The largest codes and activations, all of one sign: the sums of 16-bit pairs come nearest to their limit."""
    ones = torch.ones(16, 4, dtype=torch.bfloat16)
    eight = QuantizedWeight(bits=8, codes=torch.full((16, 128), -128, dtype=torch.int8), scales=ones)
    four = QuantizedWeight(bits=4, codes=torch.full((16, 64), 255, dtype=torch.uint8), scales=ones, minimums=0 * ones)
    for sign in (1.0, -1.0):
        x = torch.full((5, 128), sign * 127)
        assert torch.equal(NativeLinear(eight)(x), torch.full((5, 16), -sign * 128 * 127 * 128))
        assert torch.equal(NativeLinear(four)(x), torch.full((5, 16), sign * 15 * 127 * 128))


def test_odd_widths_empty_batches_and_strided_rows_are_fine() -> None:
    weight = _numbers(20, 33).bfloat16()
    layer, x = NativeLinear(weight), _numbers(3, 33)
    assert _error(layer(x), _specified(weight, x)) < 2e-6
    assert layer(x[:0]).shape == (0, 20)
    assert torch.equal(layer(_numbers(33, 3).t()), layer(_numbers(33, 3).t().contiguous()))


def test_weights_at_odd_places_of_a_file_are_packed_all_the_same() -> None:
    weight = _weight(Format.BFLOAT16, 16, 64)
    assert isinstance(weight, torch.Tensor)
    shifted = torch.empty(16 * 64 + 1, dtype=torch.bfloat16)[1:].view(16, 64).copy_(weight)
    assert torch.equal(PackedWeight(shifted).packed, PackedWeight(weight).packed)


def test_a_packed_weight_knows_what_it_takes() -> None:
    sizes = [PackedWeight(_weight(form, 576, 576)).nbytes for form in FORMATS]
    assert sizes == [576 * 576 * bits // 16 for bits in (32, 17, 10, 9)]
    assert NativeLinear(_weight(Format.INT8, 576, 576), torch.zeros(576)).weight_bytes == sizes[1] + 576 * 4


SCRIPT = """
import torch
from tests.blocks.native import test_linear as here
from swarm.blocks.native.binding import kernel_name
torch.set_num_threads(1)
layers = [here.NativeLinear(here._weight(form, 50, 96), here._numbers(50)) for form in here.FORMATS]
torch.save([kernel_name(), *(layer(here._numbers(9, 96)) for layer in layers)], sys_path)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_of_this_machine_says_the_same(name: str, tmp_path: Path) -> None:
    found = library()
    assert found is not None
    if not found.swarm_kernel_runs(name.encode()):
        pytest.skip(f"this CPU cannot run {name}")
    script = SCRIPT.replace("sys_path", repr(str(tmp_path / "y")))
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120, env={**os.environ, "SWARM_KERNEL": name})
    chosen, *theirs = torch.load(tmp_path / "y", weights_only=True)
    assert chosen == name
    for form, there in zip(FORMATS, theirs, strict=True):
        here = NativeLinear(_weight(form, 50, 96), _numbers(50))(_numbers(9, 96))
        # Sums of whole numbers are exact everywhere; only the portable kernel rounds products before it adds them.
        is_exact = "portable" not in (name, kernel_name()) or name == kernel_name()
        assert torch.equal(here, there) if is_exact else _error(here, there.double()) < 1e-6
