"""The systemd units: read by systemd itself, and their command lines by our commands."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from swarm.cli.main import COMMANDS
from swarm.server.config import ServerConfig
from tests.operators.command_lines import BOOTSTRAP, command_words, parse

UNITS = sorted((BOOTSTRAP / "systemd").glob("*.service"))
COMMAND = re.compile(r"^ExecStart=(.*)$", re.M)
HARDENED = ("DynamicUser=yes", "NoNewPrivileges=yes", "ProtectSystem=strict", "ProtectHome=yes", "PrivateTmp=yes")
HARDENED += ("CapabilityBoundingSet=\n", "RestrictNamespaces=yes", "SystemCallFilter=@system-service", "UMask=0077")


def settings(unit: Path) -> dict[str, str]:
    """Return the variables of the example environment file that belongs to a unit, commented ones included."""
    text = (unit.parent / f"{unit.stem.removeprefix('swarm-')}.env.example").read_text(encoding="utf-8")
    return dict(re.findall(r"^#?([A-Z_]+)=(.*)$", text, re.M))


def test_there_is_one_for_each_long_running_command() -> None:
    assert [unit.stem for unit in UNITS] == [f"swarm-{name}" for name in ("bootstrap", "gateway", "monitor", "server")]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_its_command_line_is_accepted_with_the_example_settings_and_without(unit: Path) -> None:
    (command,) = COMMAND.findall(unit.read_text(encoding="utf-8"))
    if f"swarm.{unit.stem.removeprefix('swarm-')}" not in {f"swarm.{command.name}" for command in COMMANDS}:
        pytest.skip("there is no such command yet")
    example = settings(unit)
    assert set(re.findall(r"\$([A-Z_]+)", command)) == example.keys()
    for values in (example, {}):
        filled = re.sub(r"\$([A-Z_]+)", lambda found, values=values: values.get(found[1], ""), command)
        assert parse(command_words(shlex.split(filled.replace("%S", "/var/lib"))))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_it_gives_its_process_little_and_time_to_say_goodbye(unit: Path) -> None:
    text = unit.read_text(encoding="utf-8")
    assert [line for line in HARDENED if line not in text] == []
    assert "Restart=on-failure" in text and "StateDirectoryMode=0700" in text
    assert "KillMode=mixed" in text  # else systemd ends the libp2p daemon before our goodbyes
    assert f"EnvironmentFile=-/etc/swarm/{unit.stem.removeprefix('swarm-')}.env" in text


def test_a_server_has_more_time_to_end_than_it_needs_to_drain() -> None:
    text = (BOOTSTRAP / "systemd/swarm-server.service").read_text(encoding="utf-8")
    assert int(re.findall(r"TimeoutStopSec=(\d+)", text)[0]) > 2 * ServerConfig().drain_timeout


def test_no_two_units_want_the_same_port() -> None:
    ports = [port for unit in UNITS for port in re.findall(r"port (\d+)", "".join(COMMAND.findall(unit.read_text())))]
    direct = [str(int(port) + 1) for port in ports if port == "31340"]  # a server takes the port above its own, too
    assert len(direct) == 1 and len({*ports, *direct}) == len(ports) + 1


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_understands_every_line(tmp_path: Path) -> None:
    for unit in UNITS:
        text = unit.read_text(encoding="utf-8").replace("/opt/swarm/bin/python", sys.executable)
        (tmp_path / unit.name).write_text(text, encoding="utf-8")
    command = ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / unit.name) for unit in UNITS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    complaints = [line for line in done.stderr.splitlines() if "swarm-" in line]
    assert complaints == [], done.stderr
