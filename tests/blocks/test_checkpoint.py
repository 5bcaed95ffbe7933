"""Checkpoints: only our own bytes are read, and what is wrong is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from swarm.blocks import BlockStack, Checkpoint, ModelEnds, Row, open_checkpoint, resolve_dtype
from swarm.errors import CheckpointCorrupt, ModelNotFound, SwarmError, UnsupportedModel, UsageError
from swarm.types import Span
from tests.builders import make_gguf, make_llama, some_ids, tiny_llama


def _run(checkpoint: Checkpoint, span: Span) -> torch.Tensor:
    stack = BlockStack.load(checkpoint, span, dtype=torch.float32)
    cache = stack.new_cache(2)
    sequence = cache.new_sequence()
    cache.prepare(sequence, 0, 9)
    hidden = torch.randn(9, 64, generator=torch.Generator().manual_seed(5))
    return stack.forward(hidden, [Row(sequence, 0, 9)], cache)


def _overwrite(path: Path, offset: int, length: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * length)


def _tensor_of(checkpoint: Checkpoint, name: str) -> Any:
    return checkpoint.find(name)


@pytest.mark.parametrize("is_gguf", [False, True])
def test_the_bytes_of_other_blocks_do_not_matter(tmp_path: Path, is_gguf: bool) -> None:
    folder = tmp_path / "model"
    model = make_llama(folder, num_blocks=4)
    path = tmp_path / "model.gguf" if is_gguf else folder
    if is_gguf:
        make_gguf(path, model)
    before = _run(open_checkpoint(path), Span(1, 3))
    checkpoint = open_checkpoint(path)
    for index in (0, 3):
        for name in checkpoint.family.block_shapes(checkpoint.config):
            tensor = _tensor_of(checkpoint, f"model.layers.{index}.{name}")
            _overwrite(tensor.path, tensor.offset, tensor.num_bytes)
    assert torch.equal(_run(open_checkpoint(path), Span(1, 3)), before)
    with pytest.raises(CheckpointCorrupt, match="NaN"):
        _run(open_checkpoint(path), Span(0, 2))


def test_only_the_bytes_of_our_own_blocks_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_llama(tmp_path, num_blocks=4)
    checkpoint, reads = open_checkpoint(tmp_path), []
    preadv = os.preadv

    def spy(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        reads.append((offset, offset + sum(map(len, buffers))))
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", spy)
    checkpoint.read_block(2)
    places = [checkpoint.find(f"model.layers.2.{name}") for name in checkpoint.family.block_shapes(checkpoint.config)]
    assert sorted(reads) == sorted((place.offset, place.offset + place.num_bytes) for place in places)


def test_a_shard_that_holds_nothing_of_ours_need_not_exist(tmp_path: Path) -> None:
    make_llama(tmp_path, num_blocks=4, shard_bytes=60_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    before = _run(open_checkpoint(tmp_path), Span(3, 4))
    ours = {shard for name, shard in index.items() if name.startswith("model.layers.3.")}
    for shard in set(index.values()) - ours:
        (tmp_path / shard).unlink()
    checkpoint = open_checkpoint(tmp_path)
    assert torch.equal(_run(checkpoint, Span(3, 4)), before)
    with pytest.raises(CheckpointCorrupt, match=r"missing, and it should hold tensor model\.layers\.0"):
        checkpoint.read_block(0)


def test_tensors_are_those_that_safetensors_reads(tmp_path: Path) -> None:
    make_llama(tmp_path, dtype=torch.bfloat16)
    checkpoint = open_checkpoint(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        for name, tensor in checkpoint.read_block(1).items():
            assert tensor.dtype == torch.bfloat16
            assert torch.equal(tensor, file.get_tensor(f"model.layers.1.{name}"))


def test_fingerprint_and_digests_do_not_depend_on_how_the_files_are_cut(tmp_path: Path) -> None:
    make_llama(tmp_path / "one", seed=1)
    make_llama(tmp_path / "cut", seed=1, shard_bytes=30_000)
    make_llama(tmp_path / "other", seed=2)
    one, cut, other = (open_checkpoint(tmp_path / name) for name in ("one", "cut", "other"))
    assert one.fingerprint == cut.fingerprint != other.fingerprint
    assert one.block_digest(1) == cut.block_digest(1) != other.block_digest(1)
    assert one.block_digest(0) != one.block_digest(1)
    assert (len(one.fingerprint), len(one.block_digest(0))) == (32, 16)


def test_one_changed_block_changes_its_digest_and_nothing_else(tmp_path: Path) -> None:
    make_llama(tmp_path)
    before = open_checkpoint(tmp_path)
    digests, fingerprint = [before.block_digest(index) for index in range(3)], before.fingerprint
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] += 1
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    after = open_checkpoint(tmp_path)
    assert after.fingerprint == fingerprint
    assert [after.block_digest(index) == digests[index] for index in range(3)] == [True, False, True]


def test_a_fingerprint_reads_no_block(tmp_path: Path) -> None:
    make_llama(tmp_path, num_blocks=4, shard_bytes=30_000, tie_word_embeddings=False)
    fingerprint = open_checkpoint(tmp_path).fingerprint
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    ends = {shard for name, shard in index.items() if not name.startswith("model.layers.")}
    for shard in set(index.values()) - ends:
        (tmp_path / shard).unlink()
    assert open_checkpoint(tmp_path).fingerprint == fingerprint


def test_block_bytes_are_those_that_a_loaded_block_takes(tmp_path: Path) -> None:
    make_llama(tmp_path, attention_bias=True)
    checkpoint = open_checkpoint(tmp_path)
    for dtype in (torch.float32, torch.bfloat16):
        loaded = BlockStack.load(checkpoint, Span(0, 2), dtype=dtype)
        # Norms and biases may be kept in 16 bits; they are counted in 32.
        assert 0.97 <= loaded.weight_bytes / (2 * checkpoint.block_bytes(dtype)) <= 1


def test_progress_is_told_block_by_block(tmp_path: Path) -> None:
    make_llama(tmp_path)
    told: list[tuple[int, int]] = []
    BlockStack.load(
        open_checkpoint(tmp_path), Span(1, 3), dtype=torch.float32, progress=lambda *counts: told.append(counts)
    )
    assert told == [(1, 2), (2, 2)]


def _edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _drop_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.2.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    os.truncate(path, path.stat().st_size - 1)


FAULTS: dict[str, tuple[Any, type[SwarmError], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), ModelNotFound, "no config.json: give a"),
    "config is not JSON": (lambda f: (f / "config.json").write_text("{"), CheckpointCorrupt, "config.json: not JSON"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), CheckpointCorrupt, "not a table"),
    "unknown architecture": (
        lambda f: _edit_config(f, model_type="mamba"),
        UnsupportedModel,
        "mamba: its forward takes no position_ids",
    ),
    "unknown activation": (lambda f: _edit_config(f, hidden_act="relu"), UnsupportedModel, "activation 'relu'"),
    "unknown positions": (
        lambda f: _edit_config(f, rope_parameters={"rope_type": "longrope"}),
        UnsupportedModel,
        "rotary kind 'longrope'",
    ),
    "quantised": (lambda f: _edit_config(f, quantization_config={"bits": 4}), UnsupportedModel, "quantised"),
    "a size is missing": (lambda f: _edit_config(f, hidden_size=None), CheckpointCorrupt, "config.json: a setting"),
    "a size is absurd": (lambda f: _edit_config(f, vocab_size=-5), CheckpointCorrupt, "config.json: a setting"),
    "sizes do not match": (lambda f: _edit_config(f, intermediate_size=95), CheckpointCorrupt, r"shape \(96, 64\)"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ModelNotFound, "neither model.safetensors nor"),
    "a tensor is missing": (_drop_tensor, CheckpointCorrupt, r"no tensor model\.layers\.2\.mlp\.up_proj\.weight"),
    "truncated": (_truncate, CheckpointCorrupt, r"model\.safetensors: tensor .* truncated"),
    "empty": (lambda f: (f / "model.safetensors").write_bytes(b""), CheckpointCorrupt, "does not fit in a file of 0"),
    "huge header": (
        lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 64),
        CheckpointCorrupt,
        "a header of 18446744073709551615 bytes",
    ),
    "header is not JSON": (
        lambda f: (f / "model.safetensors").write_bytes((8).to_bytes(8, "little") + b"notjson!"),
        CheckpointCorrupt,
        "not JSON",
    ),
    "index leads elsewhere": (
        lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../etc/passwd"}}'),
        CheckpointCorrupt,
        "weight_map must map",
    ),
}


@pytest.mark.parametrize(("harm", "error", "text"), FAULTS.values(), ids=FAULTS.keys())
def test_what_is_wrong_with_a_folder_is_named(tmp_path: Path, harm: Any, error: type[SwarmError], text: str) -> None:
    make_llama(tmp_path)
    harm(tmp_path)
    with pytest.raises(error, match=text) as caught:
        BlockStack.load(open_checkpoint(tmp_path), Span(0, 3), dtype=torch.float32)
    assert "\n" not in str(caught.value)


def test_a_block_that_the_model_lacks_is_refused(tmp_path: Path) -> None:
    make_llama(tmp_path)
    with pytest.raises(UsageError, match=r"blocks 2:4 wanted, .* has 0:3"):
        BlockStack.load(open_checkpoint(tmp_path), Span(2, 4), dtype=torch.float32)


@pytest.mark.parametrize("name", ["no-such-model", "./missing/folder", "/missing", "a/b/c"])
def test_an_unknown_name_is_not_found(name: str) -> None:
    with pytest.raises(ModelNotFound, match="no such folder or file"):
        open_checkpoint(name)


def test_a_hub_id_is_read_from_the_local_hub_cache(tmp_path: Path) -> None:
    snapshot = tmp_path / "hub/models--someone--tiny/snapshots/0123456789abcdef0123456789abcdef01234567"
    make_llama(snapshot, shard_bytes=60_000)
    (refs := snapshot.parents[1] / "refs").mkdir()
    (refs / "main").write_text(snapshot.name)
    script = (
        "from swarm.blocks import open_checkpoint as o\n"
        "c = o('someone/tiny'); print(c.name, len(c.read_block(1)), c.path)\n"
        "o('someone/absent')"
    )
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert ended.stdout.split() == ["someone/tiny", "9", str(snapshot)], ended.stderr
    assert "ModelNotFound: someone/absent: config.json is neither in the cache nor on the hub" in ended.stderr


@pytest.mark.parametrize(
    ("stored", "chosen"),
    [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.float16, torch.bfloat16)],
)
def test_auto_is_float32_only_where_the_file_is(tmp_path: Path, stored: torch.dtype, chosen: torch.dtype) -> None:
    make_llama(tmp_path, num_blocks=1, dtype=stored)
    checkpoint = open_checkpoint(tmp_path)
    assert resolve_dtype("auto", checkpoint) == chosen
    assert resolve_dtype("float16", checkpoint) == torch.float16
    with pytest.raises(UsageError, match="dtype 'int3' is unknown: choose auto, float32, bfloat16, float16"):
        resolve_dtype("int3", checkpoint)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("settings", [{}, {"tie_word_embeddings": False}])
def test_the_ends_alone_equal_those_of_transformers(
    tmp_path: Path, dtype: torch.dtype, settings: dict[str, Any]
) -> None:
    model = make_llama(tmp_path, dtype=dtype, **settings)
    ends, ids = ModelEnds.load(open_checkpoint(tmp_path), dtype=dtype), some_ids(12).view(3, 4)
    embedded = ends.embed(ids)
    with torch.no_grad():
        assert torch.equal(embedded, model.model.embed_tokens(ids))
        expected = model.lm_head(model.model.norm(embedded))
    torch.testing.assert_close(
        ends.logits(embedded), expected, atol=1e-5 if dtype == torch.float32 else 0.05, rtol=0.01
    )
    ends.logits(embedded)[..., 0] = 0  # the caller's own, as a logits processor needs it
    assert ends.embed(torch.empty(0, dtype=torch.int64)).shape == (0, 64)


@pytest.mark.parametrize("wrong", [-1, 128])
def test_a_token_outside_the_vocabulary_is_refused(tmp_path: Path, wrong: int) -> None:
    make_llama(tmp_path)
    ends = ModelEnds.load(open_checkpoint(tmp_path), dtype=torch.float32)
    with pytest.raises(SwarmError, match="the vocabulary is 0 to 127"):
        ends.embed(torch.tensor([3, wrong]))


def test_a_configuration_survives_the_way_to_transformers_and_back(tmp_path: Path) -> None:
    make_llama(tmp_path / "a", attention_bias=True, eos_token_id=[2, 3], bos_token_id=1)
    config = open_checkpoint(tmp_path / "a").config
    config.to_transformers().save_pretrained(tmp_path / "b")
    (tmp_path / "a/model.safetensors").rename(tmp_path / "b/model.safetensors")
    assert open_checkpoint(tmp_path / "b").config == config
    assert (config.bos_id, config.eos_ids, config.pad_id) == (1, (2, 3), 0)


def test_a_model_deep_in_tiny_random_weights_loads_by_file_stem(tmp_path: Path) -> None:
    make_gguf(tmp_path / "deep.gguf", tiny_llama(num_blocks=1), quant="Q8_0")
    checkpoint = open_checkpoint(tmp_path / "deep.gguf")
    assert (checkpoint.name, checkpoint.config.stored_dtype) == ("deep", "quantised")
