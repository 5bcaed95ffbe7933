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

from swarm.cli.peers import which_swarm
from swarm.doctor.checks import not_examined, run_checks
from swarm.doctor.config import DoctorConfig
from swarm.doctor.findings import Code, Finding, fault
from swarm.doctor.machine_checks import MachineChecks
from swarm.doctor.probes.joining import join
from swarm.doctor.probes.knocks import Knock, knock
from swarm.doctor.swarm_checks import SwarmChecks
from swarm.doctor.verdicts.introducers import CHECK as INITIAL_PEERS
from swarm.doctor.verdicts.introducers import judge_introducers
from swarm.errors import AddressInvalid, DaemonDied, SwarmUnreachable, UnavailableError, UsageError
from swarm.network import parse_addrs
from swarm.network.addresses import parse_host_addr
from swarm.swarm_key import SwarmKey

LIMIT = 10.5
"""Seconds for all of it; starting Python and loading libraries takes some 3 more, and all shall be done in 15."""

JOIN_LIMIT = 6.0
"""Seconds for our own daemon to start, and for initial peers that answered a knock to let us in."""

FIRST_ANSWERS = 1.0
"""Seconds that initial peers have to answer a knock before we begin to join."""

MAX_INITIAL_PEERS = 32
"""That are knocked at, and joined through."""

logger = logging.getLogger("swarm")


async def examine(config: DoctorConfig) -> list[Finding]:
    """Look at everything; return what was found, in the order in which a request meets it.

    Raises:
        AddressInvalid: An address among the flags is none, or none of this machine's.
    """
    for text in (*config.host_maddrs, *config.announce_maddrs):
        parse_host_addr(text)
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
        swarm = which_swarm(config.initial_peers, swarm_key=config.swarm_key)
        addrs = parse_addrs(swarm.peers)[:MAX_INITIAL_PEERS]
    except AddressInvalid:
        looking.cancel()
        raise
    except UsageError as error:
        remedy = "name a peer of the swarm in --initial-peers, or `swarm join` it once"
        return [*await looking, fault(INITIAL_PEERS, Code.NO_PEERS, str(error), remedy)]
    found = await _look_at_swarm(config, addrs, swarm.key, machine, deadline)
    return [*await looking, *found]


async def _look_at_swarm(
    config: DoctorConfig, addrs: Sequence[Multiaddr], key: SwarmKey | None, machine: MachineChecks, deadline: float
) -> list[Finding]:
    loop = asyncio.get_running_loop()
    knocking = [asyncio.create_task(knock(addr)) for addr in addrs]
    await asyncio.wait(knocking, timeout=FIRST_ANSWERS)
    known = [addr for addr, task in zip(addrs, knocking, strict=True) if _can_be_tried(addr, task)]
    found: list[Finding] = []
    try:
        if not known:
            raise SwarmUnreachable(_NOBODY)
        async with asyncio.timeout(JOIN_LIMIT) as starting, join(config, known, key) as joined:
            starting.reschedule(None)
            checks = SwarmChecks(config, joined, await asyncio.gather(*knocking), machine)
            # Before the last second: leaving takes its time, too.
            seconds = deadline - loop.time() - 1.0
            if joined.directory.is_connected:
                return await run_checks(checks.checks(seconds))
            found = await run_checks(checks.checks(seconds)[:1])
            raise SwarmUnreachable(_NOBODY)
    except TimeoutError:
        found.append(not_examined("swarm", f"could not be entered within {JOIN_LIMIT:g} s"))
    except DaemonDied as error:
        remedy = "see that this machine has memory, file descriptors and processes left, and install hivemind again"
        found.append(fault("daemon", Code.DAEMON_DEAD, str(error), remedy))
    except UnavailableError as error:
        found.append(not_examined("swarm", str(error)))
    if found[0].check != INITIAL_PEERS:
        found[:0] = judge_introducers(await asyncio.gather(*knocking), {}, {})
    return found


def _can_be_tried(addr: Multiaddr, knocking: asyncio.Task[Knock]) -> bool:
    """Whether to join through this initial peer, too.

    The dead ones as well: whoever was in this swarm before knows other members by them. But not names that nobody can
    look up, or not yet, which would hold up our end.
    """
    if not knocking.done():
        return not str(addr).startswith("/dns")
    return bool(knocking.result().host) or not knocking.result().can_tell


_NOBODY = "no initial peer lets us in, so nothing else of the swarm can be seen"
