"""Every family against transformers on tiny random checkpoints, in numbers and in tokens."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from swarm.blocks import open_checkpoint, span
from swarm.blocks.conformance import TOLERANCE, check
from swarm.blocks.native.binding import library
from swarm.errors import CheckpointCorrupt, UnsupportedModel
from tests.builders import logits_of, reference_logits, some_ids
from tests.families import GENERIC, OURS, make_tiny


def _logits(folder: Path, chunks: list[int]) -> torch.Tensor:
    return logits_of(open_checkpoint(folder), some_ids(sum(chunks)), chunks, torch.float32)


QUICK = [*OURS, "falcon", "opt"]
ALL = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in sorted(set(GENERIC) - set(QUICK)))]


@pytest.mark.parametrize("model_type", ALL)
def test_a_family_gives_the_numbers_and_tokens_of_transformers(tmp_path: Path, model_type: str) -> None:
    make_tiny(tmp_path, model_type)
    checkpoint = open_checkpoint(tmp_path)
    assert (checkpoint.family.assemble is None) == (model_type in GENERIC)
    report = check(checkpoint)
    assert report.is_passed, "\n".join(map(str, report.checks))
    assert all(finding.difference <= TOLERANCE for finding in report.checks if finding.name.startswith("logits"))
    assert len(report.tokens) == 16 and len(set(report.tokens)) > 2


@pytest.mark.skipif(library() is None, reason="the native kernels are not built")
@pytest.mark.parametrize("model_type", OURS)
def test_the_native_kernels_are_as_close_in_16_bits_as_torch(
    tmp_path: Path, model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_tiny(tmp_path, model_type)
    checkpoint, ids = open_checkpoint(tmp_path), some_ids(40)
    exact, errors = reference_logits(model, ids), []  # type: ignore[arg-type]
    for reason in (None, "for once"):
        monkeypatch.setattr(span, "can_run", lambda config, dtype, reason=reason: reason)
        ours = logits_of(checkpoint, ids, [17, 1, 22], torch.bfloat16)
        errors.append(float(((ours - exact).norm(dim=-1) / exact.norm(dim=-1)).median()))
    assert 0 < errors[0] <= 1.3 * errors[1]


EXERCISED: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    ("qwen2", {"use_sliding_window": False}),
    ("qwen2", {"max_window_layers": 1}),
    ("mistral", {"sliding_window": 8}),
    ("mixtral", {"num_experts_per_tok": 1}),
    ("gemma2", {"sliding_window": 8}),
    ("gemma2", {"attn_logit_softcapping": 3.0}),
    ("gemma2", {"final_logit_softcapping": 4.0}),
    ("gemma2", {"query_pre_attn_scalar": 30}),
    ("gemma3_text", {"sliding_window": 8}),
    ("gemma3_text", {"layer_types": ["full_attention", "sliding_attention"] * 2}),
    ("gemma3_text", {"query_pre_attn_scalar": 30}),
    ("gemma3_text", {"rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 10.0}}}),
    ("gemma3_text", {"rope_parameters": None}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("model_type", "change"), EXERCISED)
def test_each_setting_of_the_tiny_models_changes_the_logits(
    tmp_path: Path, model_type: str, change: dict[str, Any]
) -> None:
    before, after = make_tiny(tmp_path / "a", model_type), make_tiny(tmp_path / "b", model_type, **change)
    ids = some_ids(40)
    theirs = [reference_logits(model, ids) for model in (before, after)]  # type: ignore[arg-type]
    assert (theirs[0] - theirs[1]).abs().max() > 100 * TOLERANCE
    torch.testing.assert_close(_logits(tmp_path / "b", [40]), theirs[1], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("model_type", OURS)
def test_a_setting_left_out_means_what_transformers_means_by_it(tmp_path: Path, model_type: str) -> None:
    raw: dict[str, Any] = {"hidden_size": 2048, "num_hidden_layers": 30, "num_attention_heads": 32}
    raw |= {"vocab_size": 128, "intermediate_size": 96, "model_type": model_type}
    if model_type == "gemma3":
        raw = {"model_type": model_type, "text_config": {**raw, "model_type": "gemma3_text"}}
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(raw))
    ours = open_checkpoint(tmp_path).config.to_transformers()
    theirs = type(ours)(**raw.get("text_config", raw))
    for name in ours.to_diff_dict() | theirs.to_diff_dict():
        if (name, getattr(theirs, name, None)) == ("head_dim", None):
            assert ours.head_dim == 2048 // 32
        elif name in theirs.to_dict() and not name.startswith("_") and name not in ("architectures", "dtype"):
            assert getattr(ours, name, None) == getattr(theirs, name), name


@pytest.mark.parametrize("model_type", OURS)
def test_a_configuration_survives_the_way_to_transformers_and_back(tmp_path: Path, model_type: str) -> None:
    make_tiny(tmp_path / "a", model_type)
    config = open_checkpoint(tmp_path / "a").config
    config.to_transformers().save_pretrained(tmp_path / "b")
    (tmp_path / "a/model.safetensors").rename(tmp_path / "b/model.safetensors")
    assert open_checkpoint(tmp_path / "b").config == config


def test_stacked_experts_are_the_same_model(tmp_path: Path) -> None:
    model = make_tiny(tmp_path / "alone", "mixtral")
    model.save_pretrained(tmp_path / "stacked", save_original_format=False)
    assert "model.layers.0.mlp.experts.gate_up_proj" in load_file(tmp_path / "stacked/model.safetensors")
    assert torch.equal(_logits(tmp_path / "alone", [20]), _logits(tmp_path / "stacked", [20]))


@pytest.mark.parametrize("prefix", ["model.", "model.language_model.", "language_model.model."])
def test_the_text_half_of_a_model_that_sees_is_found_under_each_of_its_names(tmp_path: Path, prefix: str) -> None:
    make_tiny(tmp_path, "gemma3")
    before = _logits(tmp_path, [20])
    path = tmp_path / "model.safetensors"
    weights = {name.replace("language_model.model.", prefix): tensor for name, tensor in load_file(path).items()}
    save_file(weights, path)
    assert torch.equal(_logits(tmp_path, [20]), before)


def test_a_chat_model_of_gpt2_s_age_without_its_prefix_is_found(tmp_path: Path) -> None:
    make_tiny(tmp_path, "gpt2")
    before = _logits(tmp_path, [20])
    path = tmp_path / "model.safetensors"
    save_file({name.removeprefix("transformer."): tensor for name, tensor in load_file(path).items()}, path)
    assert torch.equal(_logits(tmp_path, [20]), before)


@pytest.mark.parametrize("model_type", ["mixtral", "gemma3", "falcon", "gpt2", "qwen2_moe"])
def test_only_one_layer_s_tensors_are_read_for_it(tmp_path: Path, model_type: str) -> None:
    make_tiny(tmp_path, model_type)
    checkpoint = open_checkpoint(tmp_path)
    wanted = {checkpoint.find(f"model.layers.1.{name}").name for name in checkpoint.read_block(1)}
    layer = re.compile(r"(?<!encoder)\.(layers|h)\.1\.")  # a vision tower is an encoder, and none of ours
    assert wanted == {name for name in load_file(tmp_path / "model.safetensors") if layer.search(name)}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "encoder and decoder": ({"model_type": "t5"}, "neither we nor transformers have such a decoder-only"),
    "recurrent": ({"model_type": "mamba", "num_hidden_layers": 2}, "its forward takes no position_ids"),
    "recurrent here and there": ({"model_type": "jamba", "num_hidden_layers": 8}, "its layers differ in shape"),
    "positions in masks": ({"model_type": "bloom"}, "its forward takes no position_ids"),
    "alibi": ({**GENERIC["falcon"], "model_type": "falcon", "alibi": True}, "alibi"),
    "a rope that grows": (
        {
            **GENERIC["stablelm"],
            "model_type": "stablelm",
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
        },
        "its rope changes with the longest sequence",
    ),
    "code of its own": ({"model_type": "ours", "auto_map": {"AutoConfig": "x.Config"}}, "code that comes with"),
    "no name": ({}, "architecture None"),
    "quantised": ({**GENERIC["phi"], "model_type": "phi", "quantization_config": {"bits": 4}}, "a quantised"),
    "far too deep": ({**GENERIC["phi"], "model_type": "phi", "num_hidden_layers": 10**9}, "the limit is 1024"),
    "nonsense": ({**GENERIC["phi"], "model_type": "phi", "hidden_size": "wide"}, "cannot be run here"),
    "both directions": ({**OURS["gemma2"], "model_type": "gemma2", "use_bidirectional_attention": True}, "directions"),
    "chunks": ({**OURS["qwen2"], "model_type": "qwen2", "layer_types": ["chunked_attention"] * 4}, "chunked_attention"),
    "gelu": ({**OURS["gemma2"], "model_type": "gemma2", "hidden_activation": "gelu"}, "activation 'gelu'"),
    "half a head": (
        {
            **OURS["qwen3"],
            "model_type": "qwen3",
            "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5},
        },
        "only part of a head",
    ),
}


@pytest.mark.parametrize(("raw", "text"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_run_is_refused_in_one_line(tmp_path: Path, raw: dict[str, Any], text: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(UnsupportedModel, match=text) as caught:
        open_checkpoint(tmp_path)
    assert "\n" not in str(caught.value) and "config.json" in str(caught.value)


@pytest.mark.parametrize(
    ("model_type", "change"),
    [("mixtral", {"num_experts_per_tok": 5}), ("gemma2", {"sliding_window": -3}), ("qwen2", {"layer_types": ["x"]})],
)
def test_settings_that_contradict_each_other_are_told(tmp_path: Path, model_type: str, change: dict[str, Any]) -> None:
    raw = {**OURS[model_type], "model_type": model_type, **change}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises((CheckpointCorrupt, UnsupportedModel), match=r"config\.json"):
        open_checkpoint(tmp_path)
