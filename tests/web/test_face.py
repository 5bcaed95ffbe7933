"""A process's face for its operator, asked by a real HTTP client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from swarm.errors import UsageError
from swarm.web import Keys, counter, facts, gauge, operators_face
from swarm.web.readings import Metric

SECRET = "scrape-me-if-you-can"


def read() -> Iterator[Metric]:
    yield facts("swarm_test_info", "Words", {"name": 'a "stranger"\nwith lines', "kernel": "avx2"})
    yield gauge("swarm_test_sessions", "Sessions", 3)
    yield counter("swarm_test_bytes_total", "Bytes", {"direct": 7, "libp2p": 0}, "carrier")


async def get(url: str, key: str = "") -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        return response.status, await response.text()


async def test_prometheus_reads_what_is_told_and_the_process_itself() -> None:
    async with operators_face(read, lambda: (True, "online"), host="127.0.0.1", port=0) as url:
        status, text = await get(f"{url}/metrics")
        assert status == 200
        families = {family.name: family for family in text_string_to_metric_families(text)}
        assert families["swarm_test_info"].samples[0].labels["name"] == 'a "stranger"\nwith lines'
        assert families["swarm_test_sessions"].samples[0].value == 3
        carried = {each.labels["carrier"]: each.value for each in families["swarm_test_bytes"].samples}
        assert carried == {"direct": 7, "libp2p": 0} and families["swarm_test_bytes"].type == "counter"
        assert families["process_resident_memory_bytes"].samples[0].value > 1e6
        assert await get(f"{url}/healthz") == (200, '{"status": "ok", "state": "online"}')
        assert (await get(f"{url}/"))[0] == 404


async def test_a_process_that_cannot_work_says_so_in_its_health() -> None:
    async with operators_face(read, lambda: (False, "online"), host="127.0.0.1", port=0) as url:
        assert (await get(f"{url}/healthz"))[0] == 503


async def test_with_a_key_file_only_its_keys_open_the_metrics(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# Prometheus\n\n{SECRET}\n")
    async with operators_face(read, lambda: (True, ""), host="0.0.0.0", port=0, key_file=file) as url:
        url = url.replace("0.0.0.0", "127.0.0.1")
        assert (await get(f"{url}/metrics"))[0] == (await get(f"{url}/metrics", "another-key"))[0] == 401
        assert (await get(f"{url}/metrics", SECRET))[0] == (await get(f"{url}/healthz"))[0] == 200


async def test_other_machines_are_let_in_with_a_key_only() -> None:
    with pytest.raises(UsageError, match="--metrics-key-file"):
        async with operators_face(read, lambda: (True, ""), host="0.0.0.0", port=0):
            pass


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"short\n", b"\xff\xfe", b"two words\n"])
def test_a_file_without_usable_keys_is_refused_and_never_quoted(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(UsageError) as error:
        Keys.read((), file)
    assert "short" not in str(error.value) and "two words" not in str(error.value)


def test_a_missing_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none"):
        Keys.read((), tmp_path / "none")
