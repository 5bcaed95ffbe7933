"""Checks: each has a name, a deadline and a way to its findings; those that do not need each other run at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from swarm.doctor.findings import Code, Finding, warning
from swarm.errors import SwarmError

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        name: What stands before its findings.
        deadline: Seconds that it may take; what it would have said later is not waited for.
        run: Looks, and returns what it found.
    """

    name: str
    deadline: float
    run: Callable[[], Awaitable[Sequence[Finding]]]


async def run_checks(checks: Sequence[Check]) -> list[Finding]:
    """Run checks at once; return their findings in the order of the checks.

    One that is late, or that the swarm keeps from looking, leaves a warning: that something could not be seen is
    no fault of what was to be looked at.
    """
    found = await asyncio.gather(*(_run(check) for check in checks))
    return [finding for findings in found for finding in findings]


async def _run(check: Check) -> Sequence[Finding]:
    try:
        async with asyncio.timeout(check.deadline):
            return await check.run()
    except TimeoutError:
        return [not_examined(check.name, f"not done after {check.deadline:.1f} s")]
    except SwarmError as error:
        return [not_examined(check.name, str(error))]


def not_examined(name: str, why: str) -> Finding:
    """Return the finding that a check could not be made."""
    return warning(name, Code.NOT_EXAMINED, f"{name}: {why}", "put right what else is named here, then look again")


async def in_thread(function: Callable[[], Result]) -> Result:
    """Run what may hang, such as a look at a dead disk or for a name, on a thread that holds up nobody's end.

    Cancelled: the thread goes on, unheard.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def tell(result: Result | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        result, failure = None, None
        try:
            result = function()
        except BaseException as error:
            failure = error
        try:
            loop.call_soon_threadsafe(tell, result, failure)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    threading.Thread(target=work, daemon=True, name="doctor").start()
    return await done
