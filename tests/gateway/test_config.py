"""What a gateway may be told, and what it refuses before it joins anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm.cli import parse_flags
from swarm.errors import UsageError
from swarm.gateway import GatewayConfig
from swarm.gateway.__main__ import main
from swarm.gateway.faults import Refused
from swarm.gateway.keys import read_keys
from swarm.gateway.models import is_here
from swarm.web import Keys

SECRET = "canary-of-the-command-line"


def test_keys_come_from_the_command_line_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nfirst-of-the-file\n\n second-of-the-file\n")
    config = parse_flags(GatewayConfig, ["one-model", "--api-key", SECRET, "--api-keys-file", str(file)])
    assert config.models == ("one-model",)
    keys, _ = read_keys(config)
    found = [keys.find(f"Bearer {key}") for key in (SECRET, "first-of-the-file", "second-of-the-file")]
    assert found == ["key-1", "key-2", "key-3"]
    assert SECRET not in repr(config)


def test_a_key_of_the_file_may_have_limits_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("first-of-the-file\nsecond-of-the-file requests-per-minute=1 tokens-per-day=50\n")
    flags = ["--api-key", SECRET, "--api-keys-file", str(file), "--requests-per-minute", "2"]
    _, limits = read_keys(parse_flags(GatewayConfig, flags))
    for key, requests in (("key-1", 2), ("key-2", 2), ("key-3", 1)):
        for _ in range(requests):
            limits.count_request(key)
        with pytest.raises(Refused, match=f"{requests} requests a minute"):
            limits.count_request(key)
    limits.admit_tokens("key-2", 10**6)
    with pytest.raises(Refused, match="50 tokens a day"):
        limits.admit_tokens("key-3", 51)


@pytest.mark.parametrize(
    "behind", ["tokens-a-day=5", "tokens-per-day", "tokens-per-day=-1", "tokens-per-day=²", "another"]
)
def test_what_is_no_limit_behind_a_key_is_refused_and_not_quoted(behind: str, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"first-of-the-file\n{SECRET} {behind}\n", encoding="utf-8")
    with pytest.raises(UsageError, match="keys, key 2: ") as refused:
        read_keys(GatewayConfig(api_keys_file=file))
    assert SECRET not in str(refused.value) and behind not in str(refused.value)


def test_a_key_with_limits_twice_and_the_monitor_beside_the_gateway(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{SECRET} tokens-per-day=5\n")
    assert Keys.read((), file).find(f"Bearer {SECRET}") == "key-1"  # as the monitor reads the same file
    file.write_text(f"{SECRET} tokens-per-day=5\n{SECRET} tokens-per-day=50\n")
    with pytest.raises(UsageError, match="key 2: it is there twice"):
        read_keys(GatewayConfig(api_keys_file=file))


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
            read_keys(GatewayConfig(api_keys_file=tmp_path / name))


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
