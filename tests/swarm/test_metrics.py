"""What Prometheus sees of a live swarm."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from swarm import AutoModelForCausalLM
from swarm.demo.processes import LocalSwarm, Process, local_swarm
from swarm.server.face.metrics import PREFIX, STATS
from tests.builders import some_ids
from tests.swarm.reference import FP32

pytestmark = pytest.mark.slow

Samples = dict[tuple[str, str], float]


@pytest.fixture(scope="module")
def watched(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalSwarm, Path]]:
    """Two servers with /metrics, and where their logs are."""
    logs = tmp_path_factory.mktemp("watched")
    flags = (*FP32, "--metrics-port", "0", "--public-name", 'a "name"')
    with local_swarm(("0:4", "4:6"), model=str(tiny_folder), server_flags=flags, logs=logs) as swarm:
        yield swarm, logs


def ask(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        return str(response.read().decode())


def scrape(url: str) -> Samples:
    """Return the samples by name and by the value of their one label."""
    families = text_string_to_metric_families(ask(f"{url}/metrics"))
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in families
        for sample in family.samples
    }


def test_a_server_tells_what_it_serves_and_what_it_has_done(
    watched: tuple[LocalSwarm, Path], tiny_folder: Path
) -> None:
    swarm, logs = watched
    urls = [ready["metrics"] for ready in swarm.ready]
    before = [scrape(url) for url in urls]
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, initial_peers=[swarm.addr])
    model.generate(some_ids(4)[None], max_new_tokens=8, do_sample=False, eos_token_id=[])
    after = [scrape(url) for url in urls]
    for first, second in zip(before, after, strict=True):
        assert {PREFIX + shown.name for shown in STATS.values()} <= {name for name, _ in second}
        opened, steps, tokens = (f"{PREFIX}{what}_total" for what in ("sessions_opened", "steps", "tokens"))
        assert second[opened, ""] == first[opened, ""] + 1
        assert second[steps, ""] == first[steps, ""] + 8 and second[tokens, ""] == first[tokens, ""] + 4 + 7
        carried = "swarm_received_bytes_total"
        assert second[carried, "direct"] > first[carried, "direct"]
        assert second[f"{PREFIX}online", ""] == 1 and second["swarm_dht_neighbours", ""] >= 1
        assert 0 <= second[f"{PREFIX}record_age_seconds", ""] < 60
        assert second[f"{PREFIX}kv_pages", ""] > 0
    text = ask(f"{urls[0]}/metrics")
    info = next(line for line in text.splitlines() if line.startswith(f"{PREFIX}info{{"))
    for words in (f'peer="{swarm.ready[0]["peer"]}"', 'blocks="0:4"', 'state="online"', 'quant="none"', 'device="cpu"'):
        assert words in info
    assert 'public_name="a \\"name\\""' in info
    assert json.loads(ask(f"{urls[0]}/healthz")) == {"status": "ok", "state": "online"}
    assert f"metrics at {urls[0]}/metrics" in (logs / "server0.log").read_text()


def test_the_console_of_a_server_tells_who_it_is_what_it_serves_and_how_others_come(
    watched: tuple[LocalSwarm, Path],
) -> None:
    swarm, logs = watched
    lines = (logs / "server0.log").read_text().splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines) and not any(
        "swarm.server" in line for line in lines
    )
    told = "\n".join(lines)
    ready = swarm.ready[0]
    for words in (
        f"server {ready['peer']}",
        "MiB needed",
        "throughput:",
        f"--initial-peers {ready['addr']}",
    ):
        assert words in told, told
    assert re.search("in the swarm: (1 other member|2 other members) known so far", told)  # the other server, too?
    assert "this machine only" in told


@contextmanager
def bootstrap(*flags: str, log: Path) -> Iterator[Process]:
    process = Process.start("swarm.bootstrap", "--host-maddrs", "/ip4/127.0.0.1/tcp/0", *flags, log=log)
    try:
        yield process
    finally:
        process.stop()


def test_a_bootstrap_peer_tells_whom_it_knows(tmp_path: Path) -> None:
    with bootstrap("--metrics-port", "0", log=tmp_path / "log") as process:
        ready = process.wait_ready()
        samples = scrape(ready["metrics"])
        assert samples["swarm_dht_neighbours", ""] == 0
        assert samples["swarm_bootstrap_info", ready["peer"]] == 1
        assert json.loads(ask(f"{ready['metrics']}/healthz"))["state"] == "alone"


def test_an_address_for_other_machines_without_a_key_is_refused(tmp_path: Path) -> None:
    with bootstrap("--metrics-port", "0", "--metrics-host", "0.0.0.0", log=tmp_path / "log") as process:
        assert process.popen.wait(60) == 1
    assert "--metrics-key-file" in (tmp_path / "log").read_text().splitlines()[-1]
