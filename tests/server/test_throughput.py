"""Throughput: measured once for a setting, recalled, told."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from swarm.blocks import BlockStack, open_checkpoint
from swarm.server import throughput as subject
from swarm.server.choice import Choice
from swarm.server.throughput import Setting, Throughput, measure, recall, remember, throughput_of
from tests.builders import make_llama


@pytest.fixture
def choice(stack: BlockStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Choice:
    """What the stack is of; the cache is an empty folder."""
    monkeypatch.setenv("SWARM_CACHE", str(tmp_path / "cache"))
    make_llama(tmp_path / "tiny", 1)
    checkpoint = open_checkpoint(tmp_path / "tiny")
    return Choice(checkpoint=checkpoint, dtype=stack.dtype, quant="none", device="cpu", span=stack.span, num_pages=1)


def test_a_prompt_runs_faster_per_token_than_single_tokens(stack: BlockStack) -> None:
    measured = measure(stack, threads=1)
    assert 0 < measured.decode_per_s < measured.prefill_per_s


def test_the_owners_number_overrides_and_is_not_kept(stack: BlockStack, choice: Choice, tmp_path: Path) -> None:
    assert throughput_of(stack, choice, "12.5", threads=1) == Throughput(12.5, 12.5)
    assert not (tmp_path / "cache").exists()


def test_a_second_start_recalls_what_the_first_measured(
    stack: BlockStack, choice: Choice, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = throughput_of(stack, choice, "auto", threads=1)
    monkeypatch.setattr(subject, "measure", lambda stack, threads: Throughput(1.0, float(threads)))
    assert throughput_of(stack, choice, "auto", threads=1) == first
    assert throughput_of(stack, choice, "auto", threads=2) == Throughput(1.0, 2.0)  # another setting: measured


def test_each_part_of_a_setting_counts(stack: BlockStack, choice: Choice, tmp_path: Path) -> None:
    setting = Setting.of(stack, choice, threads=1)
    others = [replace(setting, **{field.name: 99 if field.type == "int" else "other"}) for field in fields(setting)]
    assert len({known.file(tmp_path) for known in [setting, *others]}) == len(others) + 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "7",
        "{",
        "\x00\xff",
        '{"decode_per_s": 1.0}',
        '{"decode_per_s": "fast", "prefill_per_s": 2.0, "measured_at": NOW}',
        '{"decode_per_s": NaN, "prefill_per_s": 2.0, "measured_at": NOW}',
        '{"decode_per_s": -1.0, "prefill_per_s": 2.0, "measured_at": NOW}',
        '{"decode_per_s": 1' + "0" * 400 + ', "prefill_per_s": 2.0, "measured_at": NOW}',
        '{"decode_per_s": 1e300, "prefill_per_s": 2.0, "measured_at": NOW}',
        '{"decode_per_s": 1.0, "prefill_per_s": 2.0, "measured_at": 0}',
        '{"decode_per_s": 1.0, "prefill_per_s": 2.0, "measured_at": 1e12}',
    ],
)
def test_a_damaged_or_old_file_counts_as_none(tmp_path: Path, text: str) -> None:
    remember(tmp_path / "a.json", Throughput(1.0, 2.0))
    now = json.loads((tmp_path / "a.json").read_text())["measured_at"]
    assert recall(tmp_path / "a.json") == Throughput(1.0, 2.0)
    (tmp_path / "a.json").write_text(text.replace("NOW", str(now)), encoding="latin-1")
    assert recall(tmp_path / "a.json") is None


def test_a_cache_that_cannot_be_written_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    remember(tmp_path / "file" / "throughput" / "a.json", Throughput(1.0, 2.0))
    assert recall(tmp_path / "file" / "throughput" / "a.json") is None
