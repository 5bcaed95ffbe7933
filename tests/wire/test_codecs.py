from __future__ import annotations

import pytest
import torch

from swarm.errors import ProtocolError
from swarm.wire.codecs import INT8_GROUP, RAW_DTYPES, body_bytes, codec_of, decode_tensor, encode_tensor


def hidden_of(tokens: int, width: int, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    magnitudes = 10.0 ** torch.randint(-6, 6, (tokens, 1), generator=generator)
    return (torch.randn(tokens, width, generator=generator) * magnitudes).clamp(-60000, 60000).to(dtype)


@pytest.mark.parametrize("codec", RAW_DTYPES)
@pytest.mark.parametrize("shape", [(1, 576), (7, 64), (0, 64), (3, 5)])
def test_a_raw_codec_carries_its_own_dtype_without_loss(codec: str, shape: tuple[int, int]) -> None:
    hidden = hidden_of(*shape, dtype=RAW_DTYPES[codec])
    body = encode_tensor(hidden, codec)
    assert body.nbytes == body_bytes(codec, tokens=shape[0], hidden_size=shape[1])
    back = decode_tensor(bytearray(body), codec, tokens=shape[0], hidden_size=shape[1])
    assert back.dtype == hidden.dtype and torch.equal(back, hidden)


def test_raw_bytes_are_those_of_numpy() -> None:
    hidden = hidden_of(3, 8)
    assert bytes(encode_tensor(hidden, "float32")) == hidden.numpy().tobytes()


def test_a_raw_codec_copies_neither_out_nor_in() -> None:
    hidden = hidden_of(2, 64)
    view = encode_tensor(hidden, "float32")
    hidden[0, 0] = 5.0
    assert torch.frombuffer(view, dtype=torch.float32)[0] == 5.0
    body = bytearray(view)
    back = decode_tensor(body, "float32", tokens=2, hidden_size=64)
    back[0, 0] = 7.0
    assert torch.frombuffer(body, dtype=torch.float32)[0] == 7.0


def test_a_tensor_that_is_not_contiguous_is_sent_in_its_own_order() -> None:
    hidden = hidden_of(6, 8).T
    back = decode_tensor(bytearray(encode_tensor(hidden, "float32")), "float32", tokens=8, hidden_size=6)
    assert torch.equal(back, hidden)


@pytest.mark.parametrize("width", [576, 64, 100, 1])
def test_int8_errs_by_at_most_half_a_scale_of_its_group(width: int) -> None:
    hidden = hidden_of(50, width)
    hidden[3] = 0.0
    body = encode_tensor(hidden, "int8")
    assert body.nbytes == body_bytes("int8", tokens=50, hidden_size=width)
    back = decode_tensor(bytearray(body), "int8", tokens=50, hidden_size=width)
    padded = torch.nn.functional.pad(hidden, (0, -width % INT8_GROUP)).view(50, -1, INT8_GROUP)
    bound = (padded.abs().amax(-1, keepdim=True) / 254).expand_as(padded).reshape(50, -1)[:, :width]
    # One part in a million on top: division and product are rounded in float32.
    assert ((back - hidden).abs() <= bound * (1 + 1e-5) + hidden.abs() * 1e-6).all()


def test_int8_of_one_token_does_not_depend_on_its_neighbours() -> None:
    hidden = hidden_of(10, 576)
    alone = decode_tensor(bytearray(encode_tensor(hidden[4:5], "int8")), "int8", tokens=1, hidden_size=576)
    together = decode_tensor(bytearray(encode_tensor(hidden, "int8")), "int8", tokens=10, hidden_size=576)
    assert torch.equal(alone[0], together[4])


@pytest.mark.parametrize("codec", [*RAW_DTYPES, "int8"])
@pytest.mark.parametrize("surplus", [-1, 1])
def test_a_body_of_another_length_is_refused(codec: str, surplus: int) -> None:
    size = body_bytes(codec, tokens=2, hidden_size=64)
    with pytest.raises(ProtocolError, match=str(size)):
        decode_tensor(bytearray(size + surplus), codec, tokens=2, hidden_size=64)


def test_each_float_dtype_has_its_codec_and_others_have_none() -> None:
    assert {codec_of(dtype) for dtype in RAW_DTYPES.values()} == set(RAW_DTYPES)
    with pytest.raises(ValueError, match="no codec"):
        codec_of(torch.int64)
