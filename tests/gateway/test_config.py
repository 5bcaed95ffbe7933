"""What a gateway may be told, and what it refuses before it joins anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm.cli import parse_flags
from swarm.errors import UsageError
from swarm.gateway import GatewayConfig
from swarm.gateway.__main__ import main
from swarm.gateway.models import is_here
from swarm.web import Keys

SECRET = "canary-of-the-command-line"


def test_keys_come_from_the_command_line_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nfirst-of-the-file\n\n second-of-the-file\n")
    config = parse_flags(GatewayConfig, ["one-model", "--api-key", SECRET, "--api-keys-file", str(file)])
    assert config.models == ("one-model",)
    keys = Keys.read(config.api_key, config.api_keys_file)
    found = [keys.find(f"Bearer {key}") for key in (SECRET, "first-of-the-file", "second-of-the-file")]
    assert found == ["key-1", "key-2", "key-3"]
    assert SECRET not in repr(config)


@pytest.mark.parametrize(
    "flags",
    [["--port", "70000"], ["--max-running", "0"], ["--max-waiting", "-1"], ["--max-body", "0"], ["--no-such"]],
)
def test_flags_that_cannot_be_are_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_flags(GatewayConfig, flags)
    assert flags[0] in capsys.readouterr().err


def test_a_file_without_keys_opens_no_door(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("# nothing\n")
    for name in ("empty", "missing"):
        with pytest.raises(UsageError, match=name):
            Keys.read((), GatewayConfig(api_keys_file=tmp_path / name).api_keys_file)


def test_other_machines_need_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    peer = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWKXcFyZf6sn3mZxPUubhJm9erFkRMfvqaceaYyZcbhVUu"
    assert main(["--initial-peers", peer, "--host", "0.0.0.0", "--port", "0"]) == 1
    assert "--api-key" in capsys.readouterr().err


def test_names_of_strangers_open_no_files_of_ours_and_fetch_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert is_here("smollm2-135m") and is_here("mine")
    for name in ("/etc/passwd", "../" + tmp_path.name, "~/models", "owner/never-fetched", "no-such"):
        assert not is_here(name), name
