"""The conformance check itself: that it sees what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from swarm.blocks import conformance, open_checkpoint
from swarm.blocks.conformance import Check, check
from swarm.errors import PromptTooLong, UnsupportedModel
from tests.families import make_tiny


def _failed(report: conformance.Report) -> set[str]:
    return {finding.name.partition(",")[0] for finding in report.checks if not finding.is_passed}


def test_a_model_that_conforms_passes_and_says_its_tokens(tmp_path: Path) -> None:
    model = make_tiny(tmp_path, "qwen3")
    report = check(open_checkpoint(tmp_path), new_tokens=5)
    assert report.is_passed and (len(report.checks), len(report.tokens)) == (5, 5)
    ids = torch.randint(0, 128, (40,), generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    theirs = model.generate(ids[None], attention_mask=torch.ones(1, 40), max_new_tokens=5, **options)
    assert report.tokens == tuple(theirs[0, 40:].tolist())


def test_a_wrong_weight_is_seen_in_states_logits_and_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tiny(tmp_path / "ours", "qwen3")
    make_tiny(tmp_path / "theirs", "qwen3")
    path = tmp_path / "ours/model.safetensors"
    weights = load_file(path)
    weights["model.layers.1.self_attn.q_norm.weight"] *= -1
    save_file(weights, path)
    theirs = open_checkpoint(tmp_path / "theirs")
    reference = conformance.load_reference(theirs)
    monkeypatch.setattr(conformance, "load_reference", lambda checkpoint: reference)
    assert check(theirs).is_passed
    assert _failed(check(open_checkpoint(tmp_path / "ours"))) == {"hidden states", "logits", "16 greedy tokens"}


def test_a_cache_that_forgets_is_seen_only_where_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tiny(tmp_path, "mistral")
    store = conformance.BlockStack.forward

    def forget(self: Any, hidden: Any, rows: Any, cache: Any, **options: Any) -> Any:
        if rows[0].position:
            cache.values[:, rows[0].sequence.slots(0, rows[0].position)] = 0
        return store(self, hidden, rows, cache, **options)

    monkeypatch.setattr(conformance.BlockStack, "forward", forget)
    report = check(open_checkpoint(tmp_path))
    assert {finding.name for finding in report.checks if finding.is_passed} == {
        "hidden states, block by block",
        "logits, whole",
    }


def test_numbers_that_are_none_never_pass() -> None:
    assert not Check(name="x", difference=float("nan"), limit=1.0).is_passed
    assert str(Check(name="x", difference=2.0, limit=1.0)).startswith("FAIL")
    found = conformance._compared("x", [torch.zeros(2), torch.tensor([float("nan"), 0.0])], [torch.zeros(2)] * 2)
    assert not found.is_passed


@pytest.mark.parametrize("lengths", [(250, 16), (0, 4), (4, 0)])
def test_a_prompt_that_does_not_fit_is_refused(tmp_path: Path, lengths: tuple[int, int]) -> None:
    make_tiny(tmp_path, "llama")
    with pytest.raises(PromptTooLong, match="holds 2 to 256"):
        check(open_checkpoint(tmp_path), prompt_tokens=lengths[0], new_tokens=lengths[1])


def test_a_reference_that_transformers_cannot_load_is_told_in_one_line(tmp_path: Path) -> None:
    make_tiny(tmp_path, "llama")
    checkpoint = open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UnsupportedModel, match="transformers cannot load it to compare with") as caught:
        conformance.load_reference(checkpoint)
    assert "\n" not in str(caught.value)
