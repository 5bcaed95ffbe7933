"""The compose file and the Containerfile, as far as they can be read without a container engine; the alerts."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from swarm.cli.main import COMMANDS
from swarm.server.config import ServerConfig
from swarm.server.face.metrics import PREFIX, STATS
from tests.operators.command_lines import BOOTSTRAP, ROOT, parse

PEER = "/dns4/bootstrap/tcp/31337/p2p/12D3KooWBdus6M2s6MSpX7sSN74LBVrdzGThgJRaG7WpvirLLTBL"
GIVEN = {"SWARM_PEER": PEER}
COMPOSE = (BOOTSTRAP / "compose.yaml").read_text(encoding="utf-8")
CONTAINERFILE = (BOOTSTRAP / "Containerfile").read_text(encoding="utf-8")


def services() -> dict[str, Any]:
    """Return the services with the variables filled in as compose does."""
    filled = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: GIVEN.get(found[1], found[2]), COMPOSE)
    assert "$" not in filled.replace("$(", "")
    return dict(yaml.safe_load(filled)["services"])


def test_it_is_a_whole_swarm() -> None:
    assert services().keys() == {"bootstrap", "server-a", "server-b", "server-c", "gateway", "monitor"}


@pytest.mark.parametrize("name", services())
def test_each_command_line_is_accepted(name: str) -> None:
    command = services()[name]["command"]
    assert all(isinstance(word, str) for word in command)
    if command[0] not in {each.name for each in COMMANDS}:
        pytest.skip(f"there is no command {command[0]} yet")
    assert parse(command)


@pytest.mark.parametrize("name", services())
def test_each_service_has_few_rights_and_time_to_end(name: str) -> None:
    service = services()[name]
    assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["init"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert int(service["stop_grace_period"].removesuffix("s")) > 2 * ServerConfig().drain_timeout
    port = re.search(r"127\.0\.0\.1:(\d+)/healthz", str(service["healthcheck"]["test"]))
    assert port and port[1] in service["command"]


def test_keys_have_volumes_of_their_own_and_pages_are_for_this_machine_only() -> None:
    mounted = {name: service["volumes"][0].partition(":")[0] for name, service in services().items()}
    assert len(set(mounted.values())) == len(mounted)
    declared = set(yaml.safe_load(COMPOSE)["volumes"])
    assert {volume.partition(":")[0] for service in services().values() for volume in service["volumes"]} == declared
    for name in ("gateway", "monitor"):
        assert all(port.startswith("127.0.0.1:") for port in services()[name]["ports"])


def test_the_image_takes_torch_first_and_alone_builds_the_kernels_and_runs_without_rights() -> None:
    torch, rest = (
        CONTAINERFILE.index("-c constraints.txt torch"),
        CONTAINERFILE.index("pip install -c constraints.txt ."),
    )
    assert torch < rest and "download.pytorch.org/whl/cpu" in CONTAINERFILE and "why_not" in CONTAINERFILE
    build, final = CONTAINERFILE.split("FROM docker.io/")[1:]
    assert "g++" in build and "g++" not in final and "\nUSER swarm\n" in final and 'ENTRYPOINT ["swarm"]' in final


def test_all_that_the_image_is_built_from_is_there_and_let_through() -> None:
    ignore = (BOOTSTRAP / "Containerfile.dockerignore").read_text(encoding="utf-8").split()
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", CONTAINERFILE, re.M)
    for name in " ".join(copied).split():
        assert (ROOT / name).exists() and f"!{name}" in ignore


def test_the_alerts_ask_for_metrics_that_there_are() -> None:
    rules = yaml.safe_load((BOOTSTRAP / "alerts.yaml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    assert len(rules) >= 6 and all(rule["annotations"]["summary"] and rule["for"] for rule in rules)
    sources = "".join(
        (ROOT / file).read_text() for file in ("swarm/server/face/metrics.py", "swarm/directory/readings.py")
    )
    for name in re.findall(r"swarm_\w+", " ".join(rule["expr"] for rule in rules)):
        short = name.removeprefix(PREFIX)
        assert short in {shown.name for shown in STATS.values()} or f'"{short}"' in sources, name
