"""Each layout of a linear layer against the plain one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from swarm.blocks import linear as subject
from swarm.blocks.layouts.cuda import CudaFactory, DecodedLinear, cuda_factory
from swarm.blocks.layouts.packed4 import Packed4Linear
from swarm.blocks.layouts.plain import PackedLinear, PlainLinear
from swarm.blocks.layouts.sliced import DecodingLinear, WideningLinear
from swarm.blocks.linear import Linear, linear_factory
from swarm.blocks.native import NativeLinear
from swarm.blocks.native.binding import TORCH
from swarm.blocks.quantize import quantize
from swarm.blocks.weights import QuantizedWeight
from swarm.errors import UsageError

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _numbers(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape) + shape[0])).to(dtype)


def _error(ours: torch.Tensor, exact: torch.Tensor) -> float:
    return float((ours.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, 2, 3, 17])
@pytest.mark.parametrize("has_bias", [False, True])
def test_the_chosen_layout_is_as_exact_as_the_plain_one(dtype: torch.dtype, tokens: int, has_bias: bool) -> None:
    weight, x, add = (_numbers(*shape, dtype=dtype) for shape in ((80, 64), (tokens, 64), (tokens, 80)))
    bias = _numbers(80, dtype=dtype) if has_bias else None
    exact = x.double() @ weight.double().T + (bias.double() if bias is not None else 0)
    layer = linear_factory(dtype)(weight.clone(), bias)
    rounding = 2 * torch.finfo(dtype).eps
    for ours, wanted in ((layer(x), exact), (layer(x, add=add.clone()), exact + add.double())):
        assert ours.dtype == dtype and ours.shape == (tokens, 80)
        assert _error(ours, wanted) < rounding


@pytest.mark.parametrize("kind", [PlainLinear, WideningLinear])
def test_layers_made_in_inference_mode_run_outside_of_it_and_the_other_way_round(
    kind: Callable[[torch.Tensor, torch.Tensor | None], Linear], monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, x = _numbers(8, 16, dtype=torch.bfloat16), _numbers(5, 16, dtype=torch.bfloat16)
    with torch.inference_mode():
        layer = kind(weight.clone(), None)
        first = layer(x)
    assert torch.equal(layer(x), first)


def test_widening_in_several_slices_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = _numbers(50, 16, dtype=torch.bfloat16), _numbers(9, 16, dtype=torch.bfloat16)
    whole = WideningLinear(weight, None)(x)
    monkeypatch.setattr(WideningLinear, "_SLICE_NUMBERS", 7 * 16)
    assert torch.equal(WideningLinear(weight, None)(x), whole)


def test_float32_is_packed_and_its_dense_weight_is_not_kept() -> None:
    weight = _numbers(32, 16, dtype=torch.float32)
    layer = linear_factory(torch.float32)(weight, None)
    assert isinstance(layer, PackedLinear)
    assert not any(value is weight for value in vars(layer).values())
    assert layer.weight_bytes == weight.nbytes


def test_without_native_kernels_and_packing_ops_the_plain_and_the_decoding_layouts_serve(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subject, "kernel_name", lambda: TORCH)
    monkeypatch.setattr(subject, "_can_pack", lambda dtype: False)
    plain = _numbers(32, 64, dtype=torch.float32)
    assert isinstance(linear_factory(torch.float32)(plain, None), PlainLinear)
    assert isinstance(linear_factory(torch.bfloat16)(plain.bfloat16(), None), WideningLinear)
    int8, int4, odd = quantize(plain, 8), quantize(plain, 4), quantize(plain[:17], 4)
    assert isinstance(linear_factory(torch.bfloat16)(int8, None), DecodingLinear)
    assert isinstance(linear_factory(torch.bfloat16)(int4, None), Packed4Linear)
    assert isinstance(linear_factory(torch.bfloat16)(odd, None), DecodingLinear)
    assert isinstance(linear_factory(torch.float32)(int4, None), DecodingLinear)


def test_with_native_kernels_they_run_bfloat16_and_codes_but_not_float32_and_float16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subject, "kernel_name", lambda: "avx2")
    made: list[object] = []
    monkeypatch.setattr(subject, "NativeLinear", lambda weight, bias: made.append(weight))
    plain = _numbers(32, 64, dtype=torch.float32)
    int8 = quantize(plain, 8)
    linear_factory(torch.bfloat16)(plain.bfloat16(), None)
    linear_factory(torch.bfloat16)(int8, None)
    linear_factory(torch.float32)(int8, None)
    assert len(made) == 3
    assert not isinstance(linear_factory(torch.float32)(plain, None), NativeLinear)
    assert isinstance(linear_factory(torch.float16)(int8, None), DecodingLinear)
    assert len(made) == 3


def _symmetric4(rows: int, width: int) -> QuantizedWeight:
    dice = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 256, (rows, width // 2), generator=dice, dtype=torch.uint8)
    return QuantizedWeight(bits=4, codes=codes, scales=_numbers(rows, width // 32, dtype=torch.bfloat16).abs())


WEIGHTS = {
    "int8": quantize(_numbers(80, 64, dtype=torch.float32), 8),
    "int4": quantize(_numbers(80, 64, dtype=torch.float32), 4),
    "symmetric int4": _symmetric4(80, 64),
}


@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS.keys())
@pytest.mark.parametrize("tokens", [1, 3, 17])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [DecodingLinear, Packed4Linear, DecodedLinear])
def test_every_layout_of_codes_multiplies_by_the_decoded_weight(
    weight: QuantizedWeight, tokens: int, dtype: torch.dtype, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind is Packed4Linear and (dtype != torch.bfloat16 or not Packed4Linear.takes(weight)):
        return
    monkeypatch.setattr(DecodingLinear, "_SLICE_NUMBERS", 7 * 64)
    x, bias, add = (_numbers(*shape, dtype=dtype) for shape in ((tokens, 64), (80,), (tokens, 80)))
    layer = kind(weight, bias, torch.device("cpu")) if kind is DecodedLinear else kind(weight, bias)
    exact = x.double() @ weight.dequantized(torch.float64).T + bias.double()
    # Scale and zero of torch's op, and the scratch of the decoded one, are rounded to 16 bits.
    rounding = (2 if kind is DecodingLinear else 4) * torch.finfo(dtype).eps
    assert _error(layer(x), exact) < rounding
    assert _error(layer(x, add=add.clone()), exact + add.double()) < rounding
    assert layer.weight_bytes == weight.nbytes + bias.nbytes + (
        80 * 2 * 2 if weight is WEIGHTS["symmetric int4"] and kind is Packed4Linear else 0
    )


def test_torchs_4_bit_op_gives_a_row_the_same_bits_in_any_company() -> None:
    layer, x = Packed4Linear(WEIGHTS["int4"], None), _numbers(33, 64, dtype=torch.bfloat16)
    together = layer(x)
    assert all(torch.equal(layer(x[row : row + 1])[0], together[row]) for row in range(33))


def test_a_device_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        with pytest.raises(UsageError, match="cuda:0 to"):
            linear_factory(torch.bfloat16, "cuda:99")
    else:
        with pytest.raises(UsageError, match="no CUDA device that torch can use: choose cpu"):
            linear_factory(torch.bfloat16, "cuda")


@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS.keys())
@pytest.mark.parametrize("tokens", [1, 16, 17])
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_device_multiplies_by_the_decoded_weight(weight: QuantizedWeight, tokens: int) -> None:
    x, bias = _numbers(tokens, 64, dtype=torch.bfloat16), _numbers(80, dtype=torch.bfloat16)
    factory = cuda_factory(torch.bfloat16, "cuda")
    exact = x.double() @ weight.dequantized(torch.float64).T + bias.double()
    assert isinstance(factory, CudaFactory)
    assert _error(factory(weight, bias)(x.cuda()).cpu(), exact) < 4 * torch.finfo(torch.bfloat16).eps
