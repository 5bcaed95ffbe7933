"""A server's start in this process: the real one, with its daemon, without the seconds that a new interpreter takes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from swarm.errors import SwarmError
from swarm.membership import Joined
from swarm.server.config import ServerConfig
from swarm.server.server import run_server

END_SECONDS = 20.0
"""For a server that is told to stop, wherever it is; it drains nothing."""


def start_server(model: str, blocks: str, peers: Sequence[str], seconds: float) -> str:
    """Start a server and stop it again; return "ready" with its blocks, or "waits" if it was not after so many seconds.

    Raises:
        SwarmError: What its start failed with.
        AssertionError: It cannot be stopped.
    """
    config = ServerConfig(
        model=model,
        blocks=blocks if blocks == "auto" else int(blocks),
        host_maddrs=("/ip4/127.0.0.1/tcp/0",),
        threads=1,
        quant="int4",  # as all others: it may take over a text
        ttl=5.0,
        memory=1 << 30,
        throughput="1000",
    )

    async def run() -> str:
        told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(
            run_server(
                config, Joined(tuple(peers), None), lambda server: told.set_result(f"ready {server.choice.span}")
            )
        )
        await asyncio.wait({task, told}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
            raise AssertionError("a server ended by itself")
        task.cancel()
        _, hanging = await asyncio.wait({task}, timeout=END_SECONDS)
        assert not hanging, "a server does not end"
        return told.result() if told.done() else "waits"

    return asyncio.run(run())


def outcome(ended: object) -> str:
    """Return in a word what became of a call; only results and errors of ours are allowed."""
    if isinstance(ended, BaseException):
        assert isinstance(ended, SwarmError), f"{type(ended).__name__}: {ended}"
        assert "\n" not in str(ended)
        return f"{type(ended).__name__}: {str(ended)[:110]}"
    return ended if isinstance(ended, str) else "texts"
