"""Each layout of a linear layer against the plain one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from swarm.blocks import linear as subject
from swarm.blocks.linear import Linear, PackedLinear, PlainLinear, WideningLinear, linear_factory

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


def test_without_the_packing_ops_the_plain_and_the_widening_layouts_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "_can_pack", lambda dtype: False)
    assert linear_factory(torch.float32) is PlainLinear
    assert linear_factory(torch.bfloat16) is WideningLinear
