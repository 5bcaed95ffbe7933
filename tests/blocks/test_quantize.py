"""Codes: made of plain numbers, and taken from GGUF files as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf import quants as theirs
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from swarm.blocks.files.gguf_codes import OWN_BITS, as_codes
from swarm.blocks.quantize import quantize
from swarm.blocks.weights import QuantizedWeight, stack


def _gaussian(rows: int, width: int) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(rows))


def _error(ours: torch.Tensor, exact: torch.Tensor) -> float:
    return float((ours.double() - exact.double()).norm() / exact.double().norm())


@pytest.mark.parametrize(("bits", "bar"), [(8, 0.0053), (4, 0.0755)])
def test_gaussian_weights_keep_this_much_precision(bits: int, bar: float) -> None:
    weights = _gaussian(256, 512)
    # Plain minimum and maximum in 4 bits give 0.079, ggml's own Q4_1 the same.
    assert _error(quantize(weights, bits).dequantized(torch.float32), weights) < bar


def test_4_bits_are_better_than_ggmls_own() -> None:
    weights = _gaussian(64, 256)
    raw = theirs.quantize(weights.numpy(), GGMLQuantizationType.Q4_1)
    ggml = torch.from_numpy(theirs.dequantize(raw, GGMLQuantizationType.Q4_1))
    assert _error(quantize(weights, 4).dequantized(torch.float32), weights) < 0.97 * _error(ggml, weights)


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(np.float32, (3, 64), elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=True)),
    st.sampled_from([8, 4]),
)
def test_any_finite_weights_come_back_within_a_step(numbers: np.ndarray, bits: int) -> None:
    weights = torch.from_numpy(numbers)
    weight = quantize(weights, bits)
    groups, back = weights.view(3, 2, 32), weight.dequantized(torch.float32).view(3, 2, 32)
    assert back.isfinite().all()
    if bits == 8:
        assert weight.codes.abs().max() <= 127
        # Half a step, and a scale that is at most 1/128 above the largest magnitude's 119th part.
        limit = groups.abs().amax(-1) / 119.5 * 0.51
    else:
        # The range may be narrowed, by a fifth at each end at most.
        limit = (groups.amax(-1) - groups.amin(-1)) * 0.3 + groups.abs().amax(-1) * 2**-7
    assert ((groups - back).abs() <= limit.unsqueeze(-1) + 2**-133).all()


def test_zeros_and_equal_weights_are_kept() -> None:
    for bits in (8, 4):
        assert torch.equal(quantize(torch.zeros(2, 64), bits).dequantized(torch.float32), torch.zeros(2, 64))
        assert torch.equal(
            quantize(torch.full((2, 64), -0.75), bits).dequantized(torch.float32).bfloat16(),
            torch.full((2, 64), -0.75).bfloat16(),
        )


def test_16_bit_weights_in_several_slices_are_quantised_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = _gaussian(50, 64).bfloat16()
    whole = quantize(weights, 4)
    monkeypatch.setattr("swarm.blocks.quantize._SLICE_NUMBERS", 7 * 64)
    sliced = quantize(weights, 4)
    assert torch.equal(whole.codes, sliced.codes) and torch.equal(whole.scales, sliced.scales)


def test_what_has_no_groups_or_other_bits_is_refused() -> None:
    for width, bits in ((48, 8), (64, 5)):
        with pytest.raises(ValueError, match=f"rows of {width} do not make groups of 32 at {bits} bits"):
            quantize(torch.zeros(2, width), bits)


@pytest.mark.parametrize("kind", OWN_BITS)
def test_stored_codes_decode_to_what_the_gguf_package_decodes(kind: str) -> None:
    quant = GGMLQuantizationType[kind]
    raw = theirs.quantize(_gaussian(48, 96).numpy(), quant)
    exact = torch.from_numpy(theirs.dequantize(raw, quant))
    weight = as_codes(torch.from_numpy(raw).view(-1), kind, 96)
    assert (weight.bits, weight.shape, weight.minimums is None) == (OWN_BITS[kind], (48, 96), kind != "Q4_1")
    # The codes are the file's own: with the file's scales in place of the rounded ones, nothing differs.
    heads = torch.from_numpy(raw).view(48, 3, -1)[..., : 4 if kind == "Q4_1" else 2].contiguous().view(torch.float16)
    own = QuantizedWeight(
        bits=weight.bits,
        codes=weight.codes,
        scales=heads[..., 0].float(),
        minimums=heads[..., 1].float() if kind == "Q4_1" else None,
    )
    assert torch.equal(own.dequantized(torch.float32), exact)
    # Steps rounded to 8 bits of precision; with a minimum, two roundings of larger numbers than the weights.
    assert _error(weight.dequantized(torch.float32), exact) < (2**-7 if kind == "Q4_1" else 2**-8)


def test_a_code_of_minus_128_is_clamped() -> None:
    raw = torch.tensor([0, 0x3C, *[0x80] * 32], dtype=torch.uint8)  # scale 1.0
    assert torch.equal(as_codes(raw, "Q8_0", 32).codes, torch.full((1, 32), -127, dtype=torch.int8))


def test_weights_of_one_format_stack_and_symmetric_ones_join_those_with_minimums() -> None:
    symmetric = as_codes(
        torch.from_numpy(theirs.quantize(_gaussian(4, 64).numpy(), GGMLQuantizationType.Q4_0)).view(-1), "Q4_0", 64
    )
    other = quantize(_gaussian(6, 64), 4)
    parts = [part.dequantized(torch.float32) for part in (symmetric, other)]
    stacked = stack([symmetric, other])
    assert isinstance(stacked, QuantizedWeight) and stacked.shape == (10, 64)
    assert torch.equal(stacked.dequantized(torch.float32), torch.cat(parts))
    both = stack([symmetric, symmetric])
    assert isinstance(both, QuantizedWeight) and both.minimums is None
    middle = stacked.by_rows(lambda part: part[2:7])
    assert torch.equal(middle.dequantized(torch.float32), torch.cat(parts)[2:7])
    for mixed in ([other, quantize(_gaussian(6, 64), 8)], [other, torch.zeros(2, 64)]):
        with pytest.raises(ValueError, match="different formats"):
            stack(mixed)
