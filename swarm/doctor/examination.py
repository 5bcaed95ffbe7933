"""An examination: which checks there are, what each needs, and how they share what they see.

First this machine is looked at, and knocked at each initial peer; those that answer lead into the swarm, where the
other checks run at once. Whatever hangs, all ends within `LIMIT`: each wait has a deadline of its own, and what was
found until then is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from multiaddr import Multiaddr

from swarm.cli.peers import initial_peers
from swarm.doctor.checks import not_examined, run_checks
from swarm.doctor.config import DoctorConfig
from swarm.doctor.findings import Code, Finding, fault
from swarm.doctor.machine_checks import MachineChecks
from swarm.doctor.probes.joining import join
from swarm.doctor.probes.knocks import knock
from swarm.doctor.swarm_checks import SwarmChecks
from swarm.doctor.verdicts.introducers import CHECK as INITIAL_PEERS
from swarm.doctor.verdicts.introducers import judge_introducers
from swarm.errors import SwarmError, UsageError
from swarm.network import parse_addrs

LIMIT = 10.5
"""Seconds for all of it; starting Python and loading libraries takes some 3 more, and all shall be done in 15."""

JOIN_LIMIT = 6.0
"""Seconds for our own daemon to start, and for initial peers that answered a knock to let us in."""

MAX_INITIAL_PEERS = 32
"""That are knocked at, and joined through."""

logger = logging.getLogger("swarm")


async def examine(config: DoctorConfig) -> list[Finding]:
    """Look at everything; return what was found, in the order in which a request meets it.

    Raises:
        AddressInvalid: An address among the flags is none.
    """
    level = logger.level
    if not config.debug:
        logger.setLevel(logging.ERROR)  # what we meet is told as findings, once
    try:
        return await _examine(config)
    finally:
        logger.setLevel(level)


async def _examine(config: DoctorConfig) -> list[Finding]:
    deadline = asyncio.get_running_loop().time() + LIMIT
    machine = MachineChecks(config)
    looking = asyncio.create_task(run_checks(machine.checks()))
    try:
        addrs = parse_addrs(initial_peers(config.initial_peers, False))[:MAX_INITIAL_PEERS]
    except UsageError as error:
        found = [fault(INITIAL_PEERS, Code.NO_PEERS, str(error), "name a peer of the swarm in --initial-peers")]
    except BaseException:
        looking.cancel()
        raise
    else:
        found = await _look_at_swarm(config, addrs, machine, deadline)
    return [*await looking, *found]


async def _look_at_swarm(
    config: DoctorConfig, addrs: Sequence[Multiaddr], machine: MachineChecks, deadline: float
) -> list[Finding]:
    loop = asyncio.get_running_loop()
    knocks = await asyncio.gather(*(knock(addr) for addr in addrs))
    living = [addr for addr, each in zip(addrs, knocks, strict=True) if each.is_reached or not each.can_tell]
    found = judge_introducers(knocks, {}, {})
    if not living:
        return [*found, not_examined("swarm", "no initial peer answers, so nothing else of the swarm can be seen")]
    try:
        async with asyncio.timeout(JOIN_LIMIT) as starting, join(config, living) as joined:
            starting.reschedule(None)
            checks = SwarmChecks(config, joined, knocks, machine)
            # Before the last second: leaving takes its time, too.
            return await run_checks(checks.checks(deadline - loop.time() - 1.0))
    except TimeoutError:
        return [*found, not_examined("swarm", f"could not be entered within {JOIN_LIMIT:g} s")]
    except SwarmError as error:
        return [*found, not_examined("swarm", str(error))]
