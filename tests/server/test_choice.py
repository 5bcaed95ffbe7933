"""What a server serves of an opened model: formats, span, pages, and what it says of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from swarm.blocks import BlockStack, Checkpoint, open_checkpoint
from swarm.blocks.native import why_not
from swarm.errors import NotEnoughMemory, UsageError
from swarm.server import ServerConfig
from swarm.server.choice import Choice, fit
from swarm.types import Span
from tests.builders import make_gguf, make_llama, tiny_llama
from tests.families import make_tiny

MIB = 2**20


def _fit(checkpoint: Checkpoint, **settings: Any) -> Choice:
    return fit(ServerConfig(**{"memory": 1024 * MIB, **settings}), checkpoint)


@pytest.fixture(scope="module")
def float32(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("choice") / "tiny"
    make_llama(folder, num_blocks=4)
    return open_checkpoint(folder)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """The lines that the file logs."""
    caplog.set_level(logging.INFO, logger="swarm.server.choice")
    monkeypatch.setattr(logging.getLogger("swarm"), "propagate", True)  # the command line may have turned it off
    return lambda: [record.getMessage() for record in caplog.records if record.name == "swarm.server.choice"]


@pytest.mark.parametrize(
    ("settings", "dtype", "quant"),
    [
        ({}, torch.bfloat16, "int8"),
        ({"dtype": "float32"}, torch.float32, "none"),
        ({"quant": "none"}, torch.float32, "none"),
        ({"quant": "int4"}, torch.bfloat16, "int4"),
        ({"quant": "int8", "dtype": "float32"}, torch.float32, "int8"),
        ({"dtype": "float16"}, torch.float16, "int8"),
    ],
)
def test_formats_are_those_of_the_flags(
    float32: Checkpoint, settings: dict[str, str], dtype: torch.dtype, quant: str
) -> None:
    choice = _fit(float32, **settings)
    assert (choice.dtype, choice.quant, choice.span) == (dtype, quant, Span(0, 4))


def test_need_and_have_are_told_in_one_line(float32: Checkpoint, told: Callable[[], list[str]]) -> None:
    choice = _fit(float32, quant="int8", blocks=Span(1, 3))
    (line,) = told()
    weights = 2 * float32.block_bytes(torch.bfloat16, "int8") / MIB
    kv = 2 * choice.num_pages * 16 * (2 * 2 * 16 * 2) / MIB  # keys and values of 2 kv heads of size 16 in 16 bits
    needed = weights + 2 * 4 * 256 * (2 * 2 * 16 * 2) / MIB + 128  # four sessions of the model's whole context
    assert (
        f"span 1:3 of tiny: {needed:.0f} MiB needed, 1024 MiB allowed: {weights:.0f} MiB of weights in int8, " in line
    )
    assert line.endswith(f"up to {kv:.0f} MiB of KV for {choice.num_pages * 16} tokens, 128 MiB of workspace")


def test_more_blocks_fit_in_fewer_bits(float32: Checkpoint) -> None:
    for quant, dtype in (("none", torch.float32), ("int8", torch.bfloat16), ("int4", torch.bfloat16)):
        kv = 4 * 256 * 2 * 2 * 16 * dtype.itemsize  # four sessions of the model's whole context
        memory = 128 * MIB + 2 * (float32.block_bytes(dtype, quant) + kv)
        flags = {"quant": quant, "dtype": str(dtype).removeprefix("torch.")}
        assert len(_fit(float32, memory=memory, **flags).span) == 2
        assert len(_fit(float32, memory=memory - 1, **flags).span) == 1
    assert float32.block_bytes(torch.bfloat16, "int4") < float32.block_bytes(torch.bfloat16, "int8")


def test_what_does_not_fit_is_refused_with_the_numbers_unless_forced(float32: Checkpoint) -> None:
    with pytest.raises(NotEnoughMemory, match=r"4 block\(s\) need 1\d\d MiB .*, 50 MiB are allowed.*--force"):
        _fit(float32, memory=50 * MIB, blocks=4)
    assert len(_fit(float32, memory=50 * MIB, blocks=4, force=True).span) == 4
    with pytest.raises(NotEnoughMemory, match=r"1 block\(s\) need 1\d\d MiB .*, 50 MiB are allowed.*--force"):
        _fit(float32, memory=50 * MIB)
    assert len(_fit(float32, memory=50 * MIB, force=True).span) == 1  # auto: what was asked for is a server


def test_blocks_that_the_model_lacks_are_refused(float32: Checkpoint) -> None:
    for blocks in (5, Span(2, 5)):
        with pytest.raises(UsageError, match=r"tiny has (4 blocks|blocks 0:4)"):
            _fit(float32, blocks=blocks)


def test_matrices_that_make_no_groups_stay_plain_and_that_is_told(
    tmp_path: Path, told: Callable[[], list[str]]
) -> None:
    make_llama(tmp_path / "odd", num_blocks=1, intermediate_size=80)
    assert _fit(open_checkpoint(tmp_path / "odd"), quant="int4").quant == "int4"
    assert told()[0] == (
        "odd: plain, and not int4, as their rows do not divide into groups of 32: mlp.down_proj.weight"
    )


def test_a_format_that_the_model_cannot_have_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    make_llama(tmp_path / "narrow", num_blocks=1, hidden_size=48, intermediate_size=80)
    narrow = open_checkpoint(tmp_path / "narrow")
    with pytest.raises(UsageError, match=r"--quant int4: .* groups of 32, .* 48, 80 do not .* choose --quant none"):
        _fit(narrow, quant="int4")
    assert _fit(narrow).quant == "none"
    make_tiny(tmp_path / "generic", "gpt_neox")
    generic = open_checkpoint(tmp_path / "generic")
    with pytest.raises(UsageError, match=r"--quant int8: generic runs in transformers' own layers, .* --quant none"):
        _fit(generic, quant="int8")
    assert _fit(generic).quant == _fit(generic, quant="none").quant == "none"


def test_a_second_quantisation_is_told_in_one_line(tmp_path: Path, told: Callable[[], list[str]]) -> None:
    make_gguf(tmp_path / "five.gguf", tiny_llama(num_blocks=1), quant="Q5_0")
    checkpoint = open_checkpoint(tmp_path / "five.gguf")
    assert _fit(checkpoint).quant == "int8"
    lines = [line for line in told() if "quantised again" in line]
    assert lines == [
        "five: weights stored as Q5_0 are decoded and quantised again: a file of the original weights is better"
    ]


def test_who_quantises_4_bits_again_is_told_what_keeps_them(tmp_path: Path, told: Callable[[], list[str]]) -> None:
    make_gguf(tmp_path / "four.gguf", tiny_llama(num_blocks=1), quant="Q4_0")
    checkpoint = open_checkpoint(tmp_path / "four.gguf")
    assert _fit(checkpoint, quant="int8").quant == "int8"
    assert "four: weights stored as Q4_0 are decoded and quantised again: --quant auto keeps them as they are" in told()
    assert _fit(checkpoint).quant == "int4"


@pytest.mark.parametrize(
    ("settings", "reason"), [({}, None), ({"dtype": "float32"}, "exact"), ({"dtype": "float16"}, "float16")]
)
def test_blocks_that_no_native_kernel_runs_say_why(
    float32: Checkpoint, settings: dict[str, str], reason: str | None
) -> None:
    choice = _fit(float32, **settings)
    stack = BlockStack.load(choice.checkpoint, Span(0, 1), dtype=choice.dtype, quant=choice.quant)
    if why_not() is None:  # the kernels are there
        assert stack.why_not_native is reason is None or str(reason) in str(stack.why_not_native)
    assert (stack.why_not_native is None) == (stack.kernel != "torch")


def test_what_is_chosen_is_what_is_loaded(float32: Checkpoint) -> None:
    choice = _fit(float32, quant="int4", blocks=2)
    stack = BlockStack.load(choice.checkpoint, choice.span, dtype=choice.dtype, quant=choice.quant)
    assert stack.weight_bytes <= 2 * 1.01 * float32.block_bytes(choice.dtype, choice.quant)
