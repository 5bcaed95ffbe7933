"""Which models a gateway serves when nobody says which: those of the swarm whose files are here, later ones too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from swarm.client import ClientConfig
from swarm.client.connection import Connection
from swarm.errors import CheckpointCorrupt, DaemonDied, SwarmUnreachable
from swarm.gateway import models
from swarm.gateway.faults import Refused, refusal
from swarm.gateway.models import Models, Served
from swarm.membership import Joined
from tests.client.digest_swarm import DigestSwarm
from tests.gateway.digest_gateway import letters_tokenizer

JOINED = Joined(("/ip4/127.0.0.1/tcp/1",), None)


class Announced:
    """A swarm that serves what the test says, and files of which some can be loaded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] | None = ["first"]
        self.here = {"first": "first"}
        self.loads: list[str] = []
        for name, what in (("_names", self._names), ("_load", self._load), ("is_here", self.here.__contains__)):
            monkeypatch.setattr(models, name, what)
        for name in ("NEWS_INTERVAL", "RETRY_INTERVAL"):
            monkeypatch.setattr(models, name, 0.01)

    def _names(self, joined: Joined) -> list[str]:
        if self.names is None:
            raise SwarmUnreachable("no peer answers")
        return self.names

    def _load(self, name: str, joined: Joined) -> Served:
        self.loads.append(name)
        if not (there := self.here[name]):
            raise CheckpointCorrupt("half of it is missing")
        served = Served(DigestSwarm().model(), letters_tokenizer())
        served.name = there
        return served


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> Announced:
    return Announced(monkeypatch)


@contextmanager
def watched(found: Models) -> Iterator[None]:
    task = asyncio.create_task(found.watch())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()


async def wait_until(is_so: Callable[[], object]) -> None:
    for _ in range(600):
        if is_so():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come")


async def test_models_that_the_swarm_gains_are_taken_in_while_their_files_are_here(
    announced: Announced, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    announced.names = ["first", "elsewhere"]
    caplog.set_level("INFO", logger="swarm")
    found = await Models.load((), JOINED)
    assert found.names == ("first",)
    with watched(found):
        announced.names = None  # a swarm that cannot be reached for a while changes nothing
        await asyncio.sleep(0.1)
        announced.here["second"] = "second"
        announced.names = ["second", "elsewhere"]
        await wait_until(lambda: found.names == ("first", "second"))
        assert found.find("second").is_ready, "it was looked at before it is shown"
        await asyncio.sleep(0.1)
        assert announced.loads == ["first", "second"]
        assert len([each for each in caplog.messages if "elsewhere" in each]) == 1, caplog.messages
        monkeypatch.setattr(models, "RETRY_INTERVAL", 1000.0)  # that is for files that could not be loaded
        announced.here["elsewhere"] = "elsewhere"
        await wait_until(lambda: "elsewhere" in found.names)


async def test_files_that_are_still_written_are_tried_again_and_told_once(
    announced: Announced, caplog: pytest.LogCaptureFixture
) -> None:
    found = await Models.load((), JOINED)
    with watched(found), caplog.at_level("INFO", logger="swarm"):
        announced.here["second"] = ""
        announced.names = ["first", "second"]
        await wait_until(lambda: announced.loads.count("second") >= 3)
        told = [each for each in caplog.messages if "second" in each]
        assert len(told) == 1 and "half of it is missing" in told[0]
        announced.here["second"] = "second"
        await wait_until(lambda: "second" in found.names)


async def test_files_of_another_model_are_not_served_under_an_announced_name(announced: Announced) -> None:
    announced.here["second"] = "first"
    announced.names = ["first", "second"]
    found = await Models.load(("first",), JOINED)
    found = Models([*found], grows_with=JOINED)
    with watched(found):
        await wait_until(lambda: announced.loads.count("second") >= 2)
        assert found.names == ("first",)
        with pytest.raises(Refused, match="no model 'second'"):
            found.find("second")


async def test_named_models_are_all_there_will_be(announced: Announced) -> None:
    announced.here["second"] = "second"
    announced.names = ["first", "second"]
    found = await Models.load(("first",), JOINED)
    with watched(found):
        await asyncio.sleep(0.1)
    assert found.names == ("first",) and announced.loads == ["first"]


async def test_without_any_files_it_begins_empty_says_so_and_grows(
    announced: Announced, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("FIRST_WAIT", "LOOK_INTERVAL"):
        monkeypatch.setattr(models, name, 0.02)
    for served in ([], ["elsewhere"]):
        announced.names = served
        caplog.clear()
        found = await Models.load((), JOINED)
        assert found.names == ()
        assert "serves no model whose files are here" in caplog.text
        with pytest.raises(Refused, match="none yet") as refused:
            found.find("elsewhere")
        assert refused.value.status == 404
    with watched(found):
        announced.names = ["elsewhere", "first"]
        await wait_until(lambda: found.names == ("first",))
    announced.names = None
    with pytest.raises(SwarmUnreachable):
        await Models.load((), JOINED)


async def test_a_swarm_that_cannot_be_seen_is_trouble_and_a_place_in_it_that_is_lost_is_the_end() -> None:
    swarm = DigestSwarm()
    served = Served(swarm.model(), letters_tokenizer())
    swarm.is_alone = True
    await served.look()
    assert not served.is_ready and "took too long" in served.trouble
    swarm.is_alone = False
    await served.look()
    assert served.is_ready
    swarm.ended = DaemonDied("our libp2p daemon ended")
    with pytest.raises(ExceptionGroup) as ended:
        await asyncio.wait_for(Models([served]).watch(), 5)
    assert ended.value.exceptions == (swarm.ended,)
    told = refusal(swarm.ended)
    assert (told.status, told.fault) == (503, "unavailable"), "no fault of the request's"


async def test_a_view_of_a_directory_in_which_nobody_is_left_is_none() -> None:
    connection, directory = Connection(ClientConfig(initial_peers=())), SimpleNamespace(is_connected=True)
    connection._routes, connection._directory = cast(Any, DigestSwarm()), cast(Any, directory)
    model = cast(Any, None)
    assert len((await connection.view(model)).records) == 2
    directory.is_connected = False
    with pytest.raises(SwarmUnreachable, match="nobody of the swarm answers"):  # silence is no news of the servers
        await connection.view(model)
