"""The parts of the torch block against torch and transformers, each on its own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from transformers import Gemma2Config, MixtralConfig
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

from swarm.blocks.decoder import Experts, GatedFeed, Norm
from swarm.blocks.linear import Linear, PlainLinear
from swarm.blocks.parts import Affine, Feed


def _linear(affine: Affine) -> Linear:
    assert isinstance(affine.weight, torch.Tensor)
    return PlainLinear(affine.weight, affine.bias)


def test_a_norm_that_16_bits_cannot_hold_stays_in_32() -> None:
    exact, shifted = torch.tensor([1.0, 0.5, -2.0, 1.5]), torch.tensor([1.0, 0.5, -2.0, 1 + 2.0**-12])
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    for weight, num_bytes in ((exact, 8), (shifted, 16)):
        norm = Norm(weight, 1e-6, torch.bfloat16)
        assert norm.weight_bytes == num_bytes
        theirs = Gemma2RMSNorm(4, 1e-6)
        theirs.weight.data = weight - 1
        assert torch.equal(norm(x), theirs(x))


@pytest.mark.parametrize("tokens", [1, 9])
def test_experts_are_those_of_transformers(tokens: int) -> None:
    config = MixtralConfig(hidden_size=16, intermediate_size=24, num_local_experts=5, num_experts_per_tok=2)
    config._experts_implementation = "eager"
    theirs = MixtralSparseMoeBlock(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    feeds = []
    for gate_up, down in zip(theirs.experts.gate_up_proj.detach(), theirs.experts.down_proj.detach(), strict=True):
        gate, up = gate_up.chunk(2)
        feed = Feed(gate=Affine(weight=gate), up=Affine(weight=up), down=Affine(weight=down))
        feeds.append(GatedFeed(feed, _linear, "silu"))
    ours = Experts(feeds, theirs.gate.weight.detach(), 2)
    x = torch.randn(tokens, 16, generator=generator)
    with torch.no_grad():
        expected = theirs(x[None])
    expected = expected[0] if isinstance(expected, tuple) else expected
    torch.testing.assert_close(ours(x), expected[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours(x, add=x), expected[0] + x, atol=1e-4, rtol=1e-4)
    assert ours.weight_bytes == 4 * sum(weight.numel() for weight in theirs.parameters())


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_a_feed_is_gated_by_its_activation(activation: str) -> None:
    gate, up, down = (torch.randn(6, 6, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    bias = torch.arange(6.0)
    feed = Feed(gate=Affine(weight=gate, bias=bias), up=Affine(weight=up), down=Affine(weight=down))
    x = torch.randn(2, 6, generator=torch.Generator().manual_seed(4))
    act = {"silu": F.silu, "gelu_tanh": lambda z: F.gelu(z, approximate="tanh")}[activation]
    expected = (act(x @ gate.T + bias) * (x @ up.T)) @ down.T
    torch.testing.assert_close(GatedFeed(feed, _linear, activation)(x), expected)
    assert Gemma2Config().hidden_activation == "gelu_pytorch_tanh"
