"""GGUF headers: the same as the gguf package reads, and any damage is a typed error."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm.blocks import open_checkpoint
from swarm.blocks.files.gguf_file import GGUFStore
from swarm.errors import CheckpointCorrupt, LocalError, ModelNotFound, UnsupportedModel
from tests.builders import make_gguf, tiny_llama


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    make_gguf(path, tiny_llama(num_blocks=2), quant="Q4_1")
    return path


def test_every_tensor_and_field_is_what_the_gguf_package_reads(whole: Path) -> None:
    store, theirs = GGUFStore(whole), gguf.GGUFReader(whole)
    assert store.names() == {tensor.name for tensor in theirs.tensors}
    for tensor in theirs.tensors:
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        ours = store.find(tensor.name).numbers(torch.float32).numpy()
        assert np.array_equal(ours, expected.reshape(ours.shape))
    for name, value in store.fields.items():
        assert theirs.fields[name].contents() == value


def test_long_vocabularies_are_skipped_over(tmp_path: Path) -> None:
    make_gguf(tmp_path / "wide.gguf", tiny_llama(num_blocks=1, vocab_size=400))
    assert "tokenizer.ggml.tokens" not in GGUFStore(tmp_path / "wide.gguf").fields
    assert open_checkpoint(tmp_path / "wide.gguf").config.vocab_size == 400


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_header_is_a_typed_error_or_harmless(whole: Path, tmp_path: Path, data: st.DataObject) -> None:
    raw = bytearray(whole.read_bytes())
    offset = data.draw(st.integers(0, 4000))
    raw[offset : offset + 8] = data.draw(st.binary(min_size=1, max_size=8))
    path = tmp_path / "damaged.gguf"
    path.write_bytes(raw)
    try:
        open_checkpoint(path)
    except LocalError as error:
        assert str(path) in str(error) and "\n" not in str(error)  # noqa: PT017 - either way is right


@pytest.mark.parametrize("kept", [0, 3, 10, 24, 500, 4000, -1])
def test_a_truncated_file_is_refused_when_it_is_opened(whole: Path, tmp_path: Path, kept: int) -> None:
    path = tmp_path / "short.gguf"
    path.write_bytes(whole.read_bytes()[:kept])
    with pytest.raises(CheckpointCorrupt, match=r"short\.gguf"):
        open_checkpoint(path)


def test_absurd_counts_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "absurd.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1 << 60))
    with pytest.raises(CheckpointCorrupt, match="the limit is"):
        open_checkpoint(path)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 9, 1, 1))
    with pytest.raises(UnsupportedModel, match="GGUF version 9"):
        open_checkpoint(path)


def test_llama3_frequency_factors_divide_the_frequencies(tmp_path: Path) -> None:
    writer_path, model = tmp_path / "factors.gguf", tiny_llama(num_blocks=1)
    make_gguf(writer_path, model)
    plain = open_checkpoint(writer_path).config
    assert plain.rope.factors == ()
    from dataclasses import replace

    scaled = replace(plain, rope=replace(plain.rope, factors=(2.0,) * (plain.head_size // 2)))
    assert torch.equal(scaled.frequencies()[0] * 2, plain.frequencies()[0])


def test_another_architecture_is_named(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(str(tmp_path / "other.gguf"), "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedModel, match=r"'mamba' in a GGUF file is not supported; supported: .*llama"):
        open_checkpoint(tmp_path / "other.gguf")


def test_a_file_of_another_kind_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ModelNotFound, match=r"not a \.gguf file"):
        open_checkpoint(tmp_path / "notes.txt")
