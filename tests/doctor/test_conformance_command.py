"""`swarm.doctor MODEL --conformance`: a line for each check, and a status that scripts can use."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm.blocks import conformance
from swarm.doctor.__main__ import main
from tests.families import make_tiny


def test_a_healthy_model_is_told_check_by_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tiny(tmp_path / "tiny", "qwen2")
    assert main([str(tmp_path / "tiny"), "--conformance"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("comparing tiny (qwen2, 4 blocks) with transformers in float32")
    assert [line[:6] for line in lines[1:-1]] == ["pass  "] * 5
    assert len({line.index("difference") for line in lines[1:-1]}) == 1  # a column
    assert lines[-1] == "tiny (qwen2): 5 of 5 checks passed"


def test_a_model_that_differs_ends_with_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tiny(tmp_path / "tiny", "gpt_neox")
    monkeypatch.setattr(conformance, "TOLERANCE", 1e-12)
    monkeypatch.setattr(conformance, "RELATIVE", 0.0)
    assert main([str(tmp_path / "tiny"), "--conformance", "--prompt-tokens", "9", "--new-tokens", "2"]) == 1
    shown = capsys.readouterr().out
    assert "FAIL  logits, token by token" in shown and "tiny (transformers' own layers): " in shown


def test_a_bad_model_is_one_line_and_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "absent"), "--conformance"]) == 1
    (tmp_path / "config.json").write_text('{"model_type": "mamba", "num_hidden_layers": 2}')
    assert main([str(tmp_path), "--conformance"]) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and len(shown.err.strip().splitlines()) == 2
    assert "no such folder or file" in shown.err and "takes no position_ids" in shown.err


@pytest.mark.parametrize("argv", [["x", "--conformance", "--new-tokens", "0"], ["--port", "70000"]])
def test_a_call_that_makes_no_sense_ends_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert argv[-2] in capsys.readouterr().err
