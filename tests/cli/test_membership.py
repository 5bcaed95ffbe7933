"""`swarm keygen`, `init`, `join`, `invite`, `leave`: what is printed, kept, and kept from others."""

from __future__ import annotations

import io
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from swarm.cli.main import main
from swarm.errors import UsageError
from swarm.membership import JoinedFile, JoinLine
from swarm.network import Identity
from swarm.swarm_key import SwarmKey

ID = "12D3KooWBdus6M2s6MSpX7sSN74LBVrdzGThgJRaG7WpvirLLTBL"
ADDR = f"/ip4/203.0.113.7/tcp/31337/p2p/{ID}"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("SWARM_CONFIG", str(tmp_path / "config"))

    def run(*words: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        status = main(words)
        return status, *capsys.readouterr()

    return run


def test_keygen_makes_a_key_once(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "my.key"
    status, out, _ = run("keygen", str(path))
    key = SwarmKey.read(path)
    assert status == 0 and out == f"key={path} fingerprint={key.fingerprint}\n"
    status, out, errors = run("keygen", str(path))
    assert status == 1 and out == "" and "there already" in errors and SwarmKey.read(path) == key


def test_init_prints_one_line_with_which_another_user_joins(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, out, told = run("init", "--host", "192.0.2.5", "attic.example", "--port", "4321")
    assert status == 0 and out.count("\n") == 1 and "swarm bootstrap" in told and "swarm join -" in told
    line, mine = JoinLine.decode(out), JoinedFile.read()
    assert mine is not None and mine.line == line and mine.bootstrap_port == 4321 and line.key is not None
    identity = Identity.load(JoinedFile.bootstrap_identity())
    identity.close()
    ends = f"tcp/4321/p2p/{identity.peer_id}"
    assert line.peers == (f"/ip4/192.0.2.5/{ends}", f"/dns4/attic.example/{ends}")
    assert run("invite")[:2] == (0, out)
    monkeypatch.setenv("SWARM_CONFIG", str(tmp_path / "other"))
    status, shown, told = run("join", stdin=f"  {out[:40]}\n{out[40:]}")
    assert status == 0 and JoinedFile.read() == JoinedFile(line)
    assert shown == f"joined the private swarm {line.key.fingerprint} (peers: 2)\n" and "stdin" not in told
    assert stat.S_IMODE(JoinedFile.path().stat().st_mode) == 0o600


def test_init_without_a_host_finds_addresses_that_others_can_use(run: Run) -> None:
    status, out, errors = run("init")
    if status == 1:  # a machine without any network
        assert "--host" in errors
    else:
        peers = JoinLine.decode(out).peers
        assert peers and not any(peer.startswith(("/ip4/127.", "/ip4/169.254.")) for peer in peers)


def test_init_takes_peers_and_a_key_that_are_there_already(run: Run, tmp_path: Path) -> None:
    key = SwarmKey.generate()
    key.write(tmp_path / "key")
    status, out, told = run("init", "--swarm-key", str(tmp_path / "key"), "--initial-peers", ADDR)
    assert status == 0 and JoinLine.decode(out) == JoinLine((ADDR,), key) and "swarm bootstrap" not in told
    assert JoinedFile.read() == JoinedFile(JoinLine((ADDR,), key))


def test_a_second_init_loses_no_key(run: Run) -> None:
    assert run("init", "--host", "192.0.2.5")[0] == 0
    before = JoinedFile.read()
    status, out, errors = run("init", "--host", "192.0.2.5")
    assert status == 1 and out == "" and "swarm invite" in errors and JoinedFile.read() == before
    status, out, errors = run("join", JoinLine((ADDR,)).encode())
    assert status == 1 and "swarm leave" in errors and JoinedFile.read() == before


def test_joining_another_swarm_replaces_the_one_before_also_when_its_file_is_damaged(run: Run) -> None:
    lines = [JoinLine((ADDR,), SwarmKey.generate()) for _ in range(3)]
    for line in lines[:2]:
        assert run("join", "-", stdin=line.encode())[0] == 0
        assert JoinedFile.read() == JoinedFile(line)
    JoinedFile.path().write_text("damaged")
    assert run("join", "-", stdin=lines[2].encode())[0] == 0
    assert JoinedFile.read() == JoinedFile(lines[2])


def test_a_line_among_the_words_is_told_to_be_visible_and_an_open_swarm_to_be_open(run: Run) -> None:
    status, _, told = run("join", JoinLine((ADDR,), SwarmKey.generate()).encode())
    assert status == 0 and "swarm join -" in told
    status, out, told = run("join", JoinLine((ADDR,)).encode())
    assert status == 0 and "OPEN" in out and "swarm join -" not in told


@pytest.mark.parametrize("debug", [(), ("--debug",)])
@pytest.mark.parametrize("spoil", [lambda text: text[:-1], lambda text: text[:20] + "A" + text[20:], lambda text: "x"])
def test_a_damaged_line_is_refused_and_never_shown(
    run: Run, spoil: Callable[[str], str], debug: tuple[str, ...]
) -> None:
    text = JoinLine((ADDR,), SwarmKey.generate()).encode()
    for words, stdin in ((("join", spoil(text), *debug), ""), (("join", "-", *debug), spoil(text))):
        status, out, errors = run(*words, stdin=stdin)
        assert status == 1 and out == "" and "error: " in errors
        assert text[12:30] not in errors
    assert JoinedFile.read() is None


def test_leave_forgets_the_swarm_and_says_what_is_then(run: Run) -> None:
    assert run("join", "-", stdin=JoinLine((ADDR,)).encode())[0] == 0
    status, out, _ = run("leave")
    assert status == 0 and "PUBLIC" in out and JoinedFile.read() is None
    assert run("leave") == (0, "you were in no swarm\n", "")
    assert run("invite")[0] == 1


USELESS = [("--port", "0"), ("--host", "::1"), ("--host", "/ip4/1.2.3.4"), ("--initial-peers", "x")]


@pytest.mark.parametrize("words", USELESS)
def test_an_init_that_others_could_not_use_is_refused(run: Run, words: tuple[str, ...]) -> None:
    try:
        status, out, _ = run("init", *words)
    except SystemExit as end:  # as argparse ends: a flag out of range
        status, out = int(str(end.code)), ""
    assert status in (1, 2) and out == "" and JoinedFile.read() is None


def test_no_help_text_shows_a_default_that_is_secret(run: Run) -> None:
    key = SwarmKey.generate()
    JoinedFile(JoinLine((ADDR,), key)).write()
    text = JoinLine((ADDR,), key).encode()
    for command in ("init", "join", "invite", "leave", "keygen"):
        done = subprocess.run([sys.executable, "-m", f"swarm.cli.{command}", "--help"], capture_output=True, text=True)
        assert done.returncode == 0 and text[12:30] not in done.stdout + done.stderr


def test_a_bootstrap_without_flags_is_that_of_the_swarm_begun_here(run: Run) -> None:
    from swarm.bootstrap import BootstrapConfig
    from swarm.bootstrap.__main__ import _in_swarm

    key = SwarmKey.generate()
    assert _in_swarm(BootstrapConfig())[1].key is None
    JoinedFile(JoinLine((ADDR,), key), bootstrap_port=4321).write()
    config, joined = _in_swarm(BootstrapConfig())
    assert (config.port, config.identity_path, joined.key) == (4321, JoinedFile.bootstrap_identity(), key)
    for flags in ({"new_swarm": True}, {"initial_peers": (ADDR,)}):
        config, joined = _in_swarm(BootstrapConfig(**flags))  # type: ignore[arg-type]
        assert config.port == 31337 and config.identity_path is None and joined.key is None
    with pytest.raises(UsageError, match="exclude"):
        _in_swarm(BootstrapConfig(new_swarm=True, initial_peers=(ADDR,)))
