"""The monitor as a whole, on this loop: flags that cannot work, a swarm that is not there, and one that appears."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from swarm.cli import parse_flags
from swarm.errors import UsageError
from swarm.membership import Joined
from swarm.monitor import MonitorConfig
from swarm.monitor.running import default_history, monitor
from tests.directory.members import member

DEAD = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWEZXjE41uU4EL2gpkAQeDXYok6wghN7wwNVPF5bwkaNfS"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--host", "0.0.0.0"], "give --api-key KEY too"),
        (["--api-key", "short"], "API key 1"),
    ],
)
async def test_doors_that_would_stand_open_are_refused(flags: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        await monitor(parse_flags(MonitorConfig, flags), Joined((DEAD,), None))


@pytest.mark.parametrize("flags", ["--port 70000", "--retention 0", "--retention nan", "--interval 0.1"])
def test_numbers_that_cannot_work_are_refused(flags: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse_flags(MonitorConfig, flags.split())
    assert end.value.code == 2 and flags.split()[0] in capsys.readouterr().err


def test_each_swarm_has_a_history_of_its_own_and_keys_are_not_shown() -> None:
    other = DEAD.replace("12D3KooWE", "12D3KooWD")
    moved = DEAD.replace("/tcp/9/", "/tcp/10/")
    assert default_history([DEAD, other]) == default_history([other, moved]) != default_history([DEAD])
    assert "a-secret-key" not in repr(MonitorConfig(api_key=("a-secret-key",)))


async def test_it_is_ready_with_its_first_view_and_says_when_nobody_answers_any_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with AsyncExitStack() as swarm, asyncio.timeout(60), aiohttp.ClientSession() as session:
        bootstrap = await swarm.enter_async_context(member())
        server = await swarm.enter_async_context(member(bootstrap.peer.addrs[0]))
        assert await server.announce(public_name="somebody")
        flags = ["--port", "0", "--history", str(tmp_path / "h"), "--interval", "0.5"]
        task = asyncio.create_task(
            monitor(parse_flags(MonitorConfig, flags), Joined((str(bootstrap.peer.addrs[0]),), None))
        )
        try:
            told = ""
            while "ready " not in told:
                await asyncio.sleep(0.05)
                told += capsys.readouterr().out
            url = told.split("url=")[1].strip()

            async def get(path: str) -> Any:
                async with session.get(url + path) as response:
                    return await response.json()

            state = await get("/api/v1/state")
            assert [each["name"] for each in state["servers"]] == ["somebody"]
            assert state["models"][0]["missing"] == [[2, 4]] and state["problem"] == ""
            peer = await get(f"/api/v1/peers/{server.peer.peer_id}")
            assert peer["engine"] is None and "does not speak our protocol" in peer["problem"]  # it serves nothing
            await swarm.aclose()
            while not (state := await get("/api/v1/state"))["problem"]:
                await asyncio.sleep(0.1)
            # Whoever cannot look does not know that they are gone.
            assert [each["name"] for each in state["servers"]] == ["somebody"]
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
