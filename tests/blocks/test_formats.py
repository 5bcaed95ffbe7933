"""Which format each tensor gets, and blocks read, checked and quantised in it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from swarm.blocks import BlockStack, Checkpoint, ModelEnds, open_checkpoint, resolve_dtype
from swarm.blocks.files.loading import read_blocks
from swarm.blocks.formats import Quant, bits_of, resolve_quant, tensor_bytes, twice_quantized
from swarm.blocks.span import TorchSpan
from swarm.blocks.weights import QuantizedWeight
from swarm.errors import CheckpointCorrupt, UsageError
from swarm.types import Span
from tests.builders import make_gguf, make_llama, tiny_llama

ATTENTION = ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight", "self_attn.o_proj.weight")
FEED = ("mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight")
SHAPES = {"input_layernorm.weight": (64,), **dict.fromkeys(ATTENTION + FEED, (64, 64))}


def _kinds(kind: str, **others: str) -> dict[str, str]:
    """All matrices of one kind, but those whose names contain a key of `others`."""
    kinds = {name: next((kind for part, kind in others.items() if part in name), kind) for name in SHAPES}
    return kinds | {"input_layernorm.weight": "float32"}


def _with(bits: dict[str, int], count: int) -> set[str]:
    return {name for name, number in bits.items() if number == count}


@pytest.mark.parametrize(
    ("asked", "dtype", "kind", "chosen"),
    [
        ("auto", "auto", "Q4_0", "int4"),
        ("auto", "bfloat16", "Q4_1", "int4"),
        ("auto", "auto", "Q8_0", "int8"),
        ("auto", "auto", "Q4_K", "int8"),
        ("auto", "auto", "bfloat16", "int8"),
        ("auto", "float16", "", "int8"),
        ("auto", "float32", "Q4_0", "none"),
        ("int4", "float32", "bfloat16", "int4"),
        ("int8", "auto", "Q4_0", "int8"),
        ("none", "auto", "Q4_0", "none"),
    ],
)
def test_auto_is_the_files_own_bits_or_eight_and_none_for_float32(
    asked: str, dtype: str, kind: str, chosen: str
) -> None:
    assert resolve_quant(asked, dtype, _kinds(kind), SHAPES) == chosen


def test_auto_is_none_where_no_width_makes_groups_and_other_words_are_refused() -> None:
    assert resolve_quant("auto", "auto", {"a.weight": ""}, {"a.weight": (64, 48)}) == "none"
    with pytest.raises(UsageError, match="quant 'int3' is unknown: choose auto, none, int8, int4"):
        resolve_quant("int3", "auto", _kinds(""), SHAPES)


def test_only_big_matrices_are_quantised() -> None:
    shapes = {
        "mlp.up_proj.weight": (96, 64),
        "mlp.up_proj.bias": (96,),
        "odd.weight": (64, 48),
        "block_sparse_moe.gate.weight": (8, 64),
        "mlp.experts.gate_up_proj": (4, 64, 64),
    }
    assert _with(bits_of("int8", dict.fromkeys(shapes, ""), shapes), 8) == {
        "mlp.up_proj.weight",
        "mlp.experts.gate_up_proj",
    }
    assert set(bits_of("none", dict.fromkeys(shapes, ""), shapes).values()) == {0}


def test_int4_of_plain_weights_keeps_the_sensitive_matrices_in_8_bits() -> None:
    bits = bits_of("int4", _kinds("bfloat16"), SHAPES)
    assert _with(bits, 8) == {*ATTENTION[:3], "mlp.down_proj.weight"}
    assert _with(bits, 4) == {"self_attn.o_proj.weight", "mlp.gate_proj.weight", "mlp.up_proj.weight"}


def test_int4_of_a_file_in_4_bits_is_the_files_own_but_for_what_it_has_more_of() -> None:
    assert _with(bits_of("int4", _kinds("Q4_1"), SHAPES), 4) == {*ATTENTION, *FEED}
    assert _with(bits_of("int4", _kinds("Q4_0", o_proj="Q6_K"), SHAPES), 8) == {"self_attn.o_proj.weight"}
    # q, k and v run as one matrix.
    assert _with(bits_of("int4", _kinds("Q4_0", v_proj="Q8_0"), SHAPES), 8) == set(ATTENTION[:3])
    assert _with(bits_of("int4", _kinds("Q4_0", gate_proj="IQ4_NL"), SHAPES), 4) == {*ATTENTION, *FEED}


def test_what_is_quantised_twice_is_named() -> None:
    kinds = _kinds("Q4_0", down_proj="Q6_K", gate_proj="Q5_1", up_proj="float16")
    assert twice_quantized(bits_of("int4", kinds, SHAPES), kinds) == ("Q5_1", "Q6_K")
    assert twice_quantized(bits_of("int8", kinds, SHAPES), kinds) == ("Q4_0", "Q5_1", "Q6_K")
    assert twice_quantized(bits_of("none", kinds, SHAPES), kinds) == ()
    assert twice_quantized(bits_of("int8", _kinds("bfloat16"), SHAPES), _kinds("bfloat16")) == ()


@pytest.mark.parametrize("quant", ["none", "int8", "int4"])
@pytest.mark.parametrize("source", ["folder", "Q4_0", "Q4_1", "Q8_0", "Q5_0"])
def test_a_block_takes_the_bytes_that_are_foretold(tmp_path: Path, source: str, quant: Quant) -> None:
    checkpoint = _checkpoint(tmp_path, source)
    stack = TorchSpan(checkpoint.config, dtype=torch.bfloat16)
    tensors = checkpoint.read_block(0, dtype=torch.bfloat16, quant=quant)
    assert sum(tensor.nbytes for tensor in tensors.values()) == checkpoint.block_bytes(torch.bfloat16, quant)
    assert checkpoint.family.assemble is not None
    stack.add(checkpoint.family.assemble(tensors, checkpoint.config, 0), 0)
    # Packed weights may hold a symmetric 4-bit weight with minimums, and bytes to fill up panels.
    assert stack.weight_bytes <= 1.13 * checkpoint.block_bytes(torch.bfloat16, quant)


def _checkpoint(folder: Path, source: str) -> Checkpoint:
    if source == "folder":
        make_llama(folder / "model", dtype=torch.bfloat16)
        return open_checkpoint(folder / "model")
    make_gguf(folder / "tiny.gguf", tiny_llama(num_blocks=2), quant=source)
    return open_checkpoint(folder / "tiny.gguf")


@pytest.mark.parametrize(("kind", "quant"), [("Q4_0", "int4"), ("Q4_1", "int4"), ("Q8_0", "int8")])
def test_a_gguf_files_own_codes_are_served_in_hugging_faces_order(tmp_path: Path, kind: str, quant: Quant) -> None:
    model = tiny_llama(num_blocks=2)
    make_gguf(tmp_path / "tiny.gguf", model, quant=kind)  # the model's weights are now the stored ones
    checkpoint = open_checkpoint(tmp_path / "tiny.gguf")
    assert checkpoint.twice_quantized(quant) == ()
    exact = model.model.layers[1].state_dict()
    for name, tensor in checkpoint.read_block(1, dtype=torch.bfloat16, quant=quant).items():
        if isinstance(tensor, QuantizedWeight):
            difference = tensor.dequantized(torch.float32) - exact[name]
            assert float(difference.norm() / exact[name].norm()) < 2**-7  # scales rounded to bfloat16, and no more
        else:
            assert torch.equal(tensor, exact[name].to(tensor.dtype))


@pytest.mark.parametrize("kind", ["Q5_0", "Q4_K", "Q6_K"])
def test_another_kind_is_decoded_and_quantised_again(tmp_path: Path, kind: str) -> None:
    model = tiny_llama(num_blocks=1, hidden_size=256, intermediate_size=256)
    make_gguf(tmp_path / "tiny.gguf", model, quant=kind)  # the model's weights are now the stored ones
    checkpoint = open_checkpoint(tmp_path / "tiny.gguf")
    assert checkpoint.resolve_quant("auto", "auto") == "int8"
    assert checkpoint.twice_quantized("int8") == (kind,)
    plain, codes = (checkpoint.read_block(0, dtype=torch.float32, quant=quant) for quant in ("none", "int8"))
    for name in ATTENTION + FEED:
        weight, exact = codes[name], plain[name]
        assert isinstance(weight, QuantizedWeight) and isinstance(exact, torch.Tensor)
        assert torch.equal(exact, model.model.layers[0].state_dict()[name])
        assert float((weight.dequantized(torch.float32) - exact).norm() / exact.norm()) < 0.008


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("quant", ["none", "int8", "int4"])
def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path: Path, wrong: float, quant: Quant) -> None:
    make_llama(tmp_path, num_blocks=2)
    name = "model.layers.1.mlp.up_proj.weight"
    tensors = load_file(tmp_path / "model.safetensors")
    tensors[name][50, 3] = wrong
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    checkpoint = open_checkpoint(tmp_path)
    checkpoint.read_block(0, dtype=torch.float32, quant=quant)
    with pytest.raises(CheckpointCorrupt, match=rf"tensor {name} holds NaN or infinite weights"):
        checkpoint.read_block(1, dtype=torch.float32, quant=quant)
    with pytest.raises(CheckpointCorrupt, match=rf"tensor {name} holds NaN or infinite weights"):
        BlockStack.load(checkpoint, Span(0, 2), dtype=torch.bfloat16, quant=quant)


def test_an_embedding_that_is_no_number_is_refused_by_name_when_its_token_comes(tmp_path: Path) -> None:
    make_llama(tmp_path, num_blocks=1, tie_word_embeddings=False)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.embed_tokens.weight"][7, 3] = float("nan")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    ends = ModelEnds.load(open_checkpoint(tmp_path), dtype=torch.float32)
    assert ends.embed(torch.tensor([6, 8])).isfinite().all()
    with pytest.raises(CheckpointCorrupt, match=r"tensor model\.embed_tokens\.weight holds NaN"):
        ends.embed(torch.tensor([6, 7, 8]))


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_scales_that_are_no_numbers_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    checkpoint = _checkpoint(tmp_path, kind)
    stored = checkpoint.find("model.layers.0.mlp.gate_proj.weight")
    with stored.path.open("r+b") as file:
        file.seek(stored.offset + stored.row_bytes)
        file.write(np.array([np.inf], np.float16).tobytes())
    quant: Quant = "int8" if kind == "Q8_0" else "int4"
    for served in (quant, "none"):
        with pytest.raises(CheckpointCorrupt, match=r"tensor blk\.0\.ffn_gate\.weight holds NaN or infinite"):
            checkpoint.read_block(0, dtype=torch.bfloat16, quant=served)


def test_numbers_too_large_for_the_dtype_name_the_tensor_and_another_dtype(tmp_path: Path) -> None:
    make_llama(tmp_path, num_blocks=1)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e6
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    checkpoint = open_checkpoint(tmp_path)
    with pytest.raises(UsageError, match=r"up_proj.weight has numbers up to 1e\+06, the limit of float16 is 6.55e\+04"):
        checkpoint.read_block(0, dtype=torch.float16)
    assert len(checkpoint.read_block(0, dtype=torch.bfloat16)) == 9


def test_quantised_blocks_compute_in_bfloat16_even_of_float32_files(tmp_path: Path) -> None:
    make_llama(tmp_path, num_blocks=1)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.resolve_quant("auto", "auto") == "int8"
    assert resolve_dtype("auto", checkpoint, "int8") == torch.bfloat16
    assert resolve_dtype("float32", checkpoint, "int8") == torch.float32
    assert resolve_dtype("auto", checkpoint, checkpoint.resolve_quant("none", "auto")) == torch.float32


def test_no_block_is_read_before_the_last_one_is_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_llama(tmp_path, num_blocks=3)
    checkpoint = open_checkpoint(tmp_path)
    begun: list[int] = []
    original = checkpoint.read_block

    def spy(index: int, **options: Any) -> Any:
        begun.append(index)
        return original(index, **options)

    monkeypatch.setattr(checkpoint, "read_block", spy)
    threads = torch.get_num_threads()
    for index, tensors in read_blocks(checkpoint, Span(0, 3), dtype=torch.float32):
        assert begun == list(range(index + 1))
        assert set(tensors) == set(original(index))
    assert begun == [0, 1, 2]
    assert torch.get_num_threads() == threads


def test_a_blocks_tensors_are_read_by_threads_that_end_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_llama(tmp_path, num_blocks=2)
    checkpoint = open_checkpoint(tmp_path)
    names: set[str] = set()
    original = checkpoint.find

    def spy(name: str) -> Any:
        names.add(threading.current_thread().name)
        return original(name)

    monkeypatch.setattr(checkpoint, "find", spy)
    blocks = read_blocks(checkpoint, Span(0, 2), dtype=torch.float32, quant="int8")
    next(blocks)
    assert names and all(name.startswith("reader") for name in names)
    blocks.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reader")]


def test_bytes_of_a_tensor_are_codes_scales_and_minimums() -> None:
    assert tensor_bytes((64, 96), 0, "bfloat16", 2) == 64 * 96 * 2
    assert tensor_bytes((64,), 0, "bfloat16", 2) == 64 * 4
    assert tensor_bytes((64, 96), 8, "bfloat16", 2) == 64 * 96 + 64 * 3 * 2
    assert tensor_bytes((64, 96), 4, "bfloat16", 2) == 64 * 48 + 64 * 3 * 4
    assert tensor_bytes((64, 96), 4, "Q4_0", 2) == 64 * 48 + 64 * 3 * 2
