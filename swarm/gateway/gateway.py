"""A gateway's life: join, load, listen, until it is told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import torch

from swarm.gateway.admission import Admission
from swarm.gateway.app import Gateway, build_app
from swarm.gateway.completing import House
from swarm.gateway.config import GatewayConfig
from swarm.gateway.keys import read_keys
from swarm.gateway.metrics import Metrics
from swarm.gateway.models import Models
from swarm.membership import Joined
from swarm.web import require_keys, serving


async def run_gateway(config: GatewayConfig, joined: Joined, on_ready: Callable[[str, Sequence[str]], None]) -> None:
    """Answer requests until cancelled.

    Args:
        config: What the user decided.
        joined: The swarm.
        on_ready: Told the URL and the models' names, when requests are answered.

    Raises:
        UsageError: A setting cannot work; no key where other machines are let in.
        ModelNotFound: No such model.
        SwarmUnreachable: No initial peer answers.
        ExceptionGroup: Of DaemonDied: the libp2p daemon ended.
        AddressInUse, AddressInvalid: It cannot listen there.
    """
    keys, limits = read_keys(config)
    require_keys(config.host, keys)
    if config.threads:
        torch.set_num_threads(config.threads)
    models = await Models.load(config.models, joined)
    admission = Admission(config.max_running, config.max_waiting)
    house = House(limits, admission, Metrics(admission))
    app = build_app(Gateway(models, house), keys, max_body=config.max_body)
    watching = asyncio.create_task(models.watch())
    try:
        async with serving(app, host=config.host, port=config.port) as url:
            on_ready(url, models.names)
            await watching
    finally:
        watching.cancel()
