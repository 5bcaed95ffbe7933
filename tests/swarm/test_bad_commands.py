"""Bad input to the server command: a status that is not zero, and one line that names the thing and the remedy."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from swarm.demo.processes import LocalSwarm, Process
from swarm.errors import UnavailableError
from tests import zygote
from tests.builders import make_gguf, tiny_llama
from tests.families import make_tiny

pytestmark = pytest.mark.slow

NOBODY = "12D3KooWQuqyQHLDQuZ1tJpQdoT9zt5DgAd8E1UTYfogYfQvC2ut"


def told_by(*flags: str, timeout: float = 60.0) -> tuple[int, list[str]]:
    """Run a server that should fail; return its status and the lines of its stderr."""
    command = [sys.executable, "-m", "swarm.server", *flags]
    if "--host-maddrs" not in flags:
        command += ["--host-maddrs", "/ip4/127.0.0.1/tcp/0"]  # last: the flag takes all words that follow
    ended = zygote.run(command, timeout=timeout)
    assert "ready" not in ended.stdout
    return ended.returncode, [line for line in ended.stderr.splitlines() if not line.startswith("usage:")]


def check(*flags: str, words: Sequence[str]) -> None:
    """Run a server that should fail, and check that one line on stderr has all the words."""
    status, lines = told_by(*flags)
    errors = [line for line in lines if "error:" in line]
    assert status not in (0, 70), lines
    assert len(errors) == 1 and errors == lines[-1:], lines
    assert not any("Traceback" in line for line in lines)
    missing = [word for word in words if word not in errors[0]]
    assert not missing, f"{missing} not in: {errors[0]}"


def test_an_unknown_model_is_named() -> None:
    check("no-such-model", "--new-swarm", words=["no-such-model", "check the spelling"])


def test_a_folder_without_a_configuration_is_named(tmp_path: Path) -> None:
    check(str(tmp_path), "--new-swarm", words=[str(tmp_path), "config.json"])


def test_a_folder_without_weights_is_named(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_folder / "config.json", tmp_path)
    check(str(tmp_path), "--new-swarm", words=[str(tmp_path), "model.safetensors"])


def test_a_truncated_safetensors_file_is_named(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "cut")
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(60_000)
    check(str(folder), "--new-swarm", words=["model.safetensors", "truncated", "copy it again"])


def test_a_corrupt_safetensors_header_is_named(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "corrupt")
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(8)
        file.write(b"\xff" * 64)
    check(str(folder), "--new-swarm", words=["model.safetensors", "again"])


def test_a_truncated_gguf_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    make_gguf(path, tiny_llama())
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    check(str(path), "--new-swarm", words=["tiny.gguf", "again"])


def test_a_corrupt_gguf_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    make_gguf(path, tiny_llama())
    with path.open("r+b") as file:
        file.seek(8)
        file.write(b"\xff" * 256)
    check(str(path), "--new-swarm", words=["tiny.gguf"])


def test_an_unsupported_architecture_is_named_with_those_supported(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba2", "hidden_size": 8}))
    check(str(tmp_path), "--new-swarm", words=["mamba2", "supported: ", "llama"])


UP = "model.layers.1.mlp.up_proj.weight"


def _set_nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors[UP][3, 4] = float("nan")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda tensors: tensors.update({UP: tensors[UP][:50].clone()}), ["(50, 64)", "(96, 64)", "copy both"]),
        (lambda tensors: tensors.update({UP: tensors[UP].to(torch.int8)}), ["I8", "BF16", "GGUF"]),
        (lambda tensors: tensors.pop(UP), ["no tensor", "copy it again"]),
        (_set_nan, ["NaN or infinite", "copy the file again"]),
    ],
    ids=["shape", "dtype", "missing", "nan"],
)
def test_a_bad_tensor_is_named(
    damage: Callable[..., None], words: list[str], tiny_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "bad")
    tensors = load_file(folder / "model.safetensors")
    damage(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    check(str(folder), "--new-swarm", words=["model.safetensors", UP, *words])


def test_a_kernel_that_does_not_exist_is_told_those_that_do(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARM_KERNEL", "nonsense")
    check(str(tiny_folder), "--new-swarm", words=["SWARM_KERNEL=nonsense", "avx2, portable or torch", "unset"])


def test_a_format_that_cannot_be_is_told_what_can(tmp_path: Path) -> None:
    make_tiny(tmp_path / "neox", "gpt_neox")
    check(str(tmp_path / "neox"), "--new-swarm", "--quant", "int8", words=["--quant int8", "choose --quant none"])


@pytest.mark.parametrize("blocks", ["0:7", "6:8", "7"])
def test_blocks_out_of_range_are_told_the_range(blocks: str, tiny_folder: Path) -> None:
    wanted = "0:6" if ":" in blocks else "6 blocks"
    check(str(tiny_folder), "--new-swarm", "--blocks", blocks, words=[f"--blocks {blocks}", "tiny", wanted])


@pytest.mark.parametrize("blocks", ["x", "3:3", "5:2", "0", "-1", "1:2:3", ""])
def test_malformed_blocks_are_told_the_form(blocks: str, tiny_folder: Path) -> None:
    check(str(tiny_folder), "--new-swarm", f"--blocks={blocks}", words=["--blocks", "0:10"])


@pytest.mark.parametrize("addr", ["localhost:31337", "/ip4/127.0.0.1/tcp/31337", "/ip4/999.0.0.1/tcp/1/p2p/x"])
def test_malformed_addresses_are_named(addr: str, tiny_folder: Path) -> None:
    check(str(tiny_folder), "--initial-peers", addr, words=[addr.split("/p2p")[0], "write it like"])


def test_no_peers_at_all_is_told_the_flags(tiny_folder: Path) -> None:
    check(str(tiny_folder), words=["--initial-peers", "--new-swarm"])


def test_a_port_in_use_is_named(tiny_folder: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        addr = f"/ip4/127.0.0.1/tcp/{port}"
        check(str(tiny_folder), "--new-swarm", "--host-maddrs", addr, words=[str(port), "in use", "another"])


def test_too_little_memory_is_told_what_is_needed(tiny_folder: Path) -> None:
    check(str(tiny_folder), "--new-swarm", "--blocks", "0:6", "--memory", "1MB", words=["MiB", "--memory"])


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--dtype", "float64"), "float64"),
        (("--threads", "-2"), "--threads"),
        (("--memory", "much"), "much"),
        (("--port", "99999"), "--port"),
        (("--throughput", "-3"), "--throughput"),
        (("--unknown-flag",), "--unknown-flag"),
    ],
)
def test_wrong_flags_are_named(flags: tuple[str, ...], word: str) -> None:
    check("--new-swarm", *flags, words=[word])


def test_debug_adds_the_traceback(tmp_path: Path) -> None:
    _, lines = told_by(str(tmp_path), "--new-swarm", "--debug")
    assert any("Traceback" in line for line in lines) and lines[-1].startswith("error: ")


def test_unreachable_initial_peers_are_named_while_the_server_stays_up(tiny_folder: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        addr = f"/ip4/127.0.0.1/tcp/{probe.getsockname()[1]}/p2p/{NOBODY}"
    args = ("swarm.server", str(tiny_folder), "--host-maddrs", "/ip4/127.0.0.1/tcp/0", "--initial-peers", addr)
    process = Process.start(*args, log=tmp_path / "log")
    try:
        deadline = time.monotonic() + 30
        while "trying on" not in (told := (tmp_path / "log").read_text()) and time.monotonic() < deadline:
            time.sleep(0.2)
        with pytest.raises(UnavailableError, match="was not ready"):
            process.wait_ready(timeout=2.0)
        assert process.popen.poll() is None
        assert addr in told and "connection refused" in told and "Traceback" not in told
    finally:
        assert process.stop() == 0


def test_a_server_joins_through_the_peer_that_is_there_when_another_is_dead(
    tiny_folder: Path, tiny_swarm: LocalSwarm, tmp_path: Path
) -> None:
    dead = f"/ip4/127.0.0.1/tcp/9/p2p/{NOBODY}"
    args = ("swarm.server", str(tiny_folder), "--host-maddrs", "/ip4/127.0.0.1/tcp/0", "--blocks", "0:1")
    process = Process.start(*args, "--initial-peers", dead, tiny_swarm.addr, log=tmp_path / "log")
    try:
        assert process.wait_ready(timeout=25.0)["blocks"] == "0:1"
    finally:
        assert process.stop() == 0
