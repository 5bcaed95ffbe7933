"""What a server counts of its work."""

from __future__ import annotations

from dataclasses import replace

from swarm.blocks import BlockStack
from swarm.server.reception import Reception
from swarm.wire import Cancel
from tests.fake_wire import settle
from tests.server.test_handler import BODY, OPEN, STEP, place


async def test_sessions_steps_tokens_and_failures_are_counted(stack: BlockStack) -> None:
    async with place(stack) as here:
        await here.ask(OPEN)
        await here.ask(STEP, BODY)
        await here.ask(replace(OPEN, session=b"t" * 16, model="other"))
        await here.ask(Cancel(b"?" * 16, 1))
        here.handler.hand_over()
        await settle()
        tally = here.handler.tally
        assert (tally.opened, tally.steps, tally.tokens, tally.handed_over) == (1, 1, 2, 1)
        assert dict(tally.failures) == {"HopRefused": 1, "SessionLost": 1}


async def test_what_is_refused_while_blocks_are_loaded_counts_too(stack: BlockStack) -> None:
    async with place(stack) as here:
        reception = Reception()
        assert reception.stats().pages == 0
        end = here.connect()
        end.other.receiver = reception
        await here.ask(OPEN, over=end)
        await here.ask(STEP, BODY, over=end)
        assert dict(reception.tally.failures) == {"Busy": 1, "SessionLost": 1}
        reception.handler = here.handler
        assert reception.stats().pages == 32
