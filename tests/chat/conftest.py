"""One swarm for both chats: two of its servers have the same blocks, so that either may die."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from swarm.demo.fleet import Fleet, fleet

SPANS = {"Ada": "0:12", "Ben": "12:21", "Dora": "12:21", "Cleo": "21:30"}
MIDDLE = ("Ben", "Dora")


@pytest.fixture(scope="package")
def running() -> Iterator[Fleet]:
    """The servers, named as they call themselves."""
    with fleet("--threads", "1") as servers:
        for name, blocks in SPANS.items():
            servers.launch({name: blocks}, "--public-name", name)
        servers.wait_ready(*SPANS)
        yield servers


@pytest.fixture(scope="module")
def servers(running: Fleet) -> Fleet:
    """The same, all of them alive."""
    running.restart(*(name for name in SPANS if name not in running.servers))
    return running
