"""Push: outputs go from hop to hop; the client hears of each step once, whatever the number of hops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from swarm.client import SwarmForCausalLM
from swarm.network import Channel
from swarm.types import PeerId
from swarm.wire import Message, Result
from tests.swarm.prompts import PROMPTS
from tests.swarm.reference import Reference

pytestmark = pytest.mark.slow


@contextmanager
def counted_results(model: SwarmForCausalLM, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[PeerId]]:
    """Count the Result frames that arrive on the client's channels, by their sender."""
    found: Counter[PeerId] = Counter()
    connection = model._connection
    take = connection.received

    def count(channel: Channel, message: Message, body: bytearray) -> None:
        if isinstance(message, Result):
            found[channel.remote] += 1
        take(channel, message, body)

    with monkeypatch.context() as patch:
        patch.setattr(connection, "received", count)
        yield found


def test_with_three_hops_the_client_receives_one_result_a_step(
    model: SwarmForCausalLM, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = model.new_cache()
    ids = reference.ids(PROMPTS[0])
    with counted_results(model, monkeypatch) as received:
        model.generate(ids, max_new_tokens=12, min_new_tokens=12, do_sample=False, past_key_values=cache)
    session = cache.session
    assert session is not None and len(session.hops) == 3
    assert session.num_results == 12  # the prompt, then eleven tokens
    # The last hop alone answers ...
    assert received == {session.hops[-1].peer: 12}
    # ... and yet each of the three took part in each step.
    assert all(len(timing.hops) == 3 and timing.compute > 0 for timing in session.timings)


def test_going_hop_by_hop_would_be_counted_as_three(
    model: SwarmForCausalLM, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same count over the same swarm without push: it tells the two apart."""
    hidden = model.get_input_embeddings()(reference.ids(PROMPTS[0]))
    with counted_results(model, monkeypatch) as received:
        for hop in model.route():
            hidden = model.blocks[hop.start : hop.end](hidden)
    assert received.total() == 3 and len(received) == 3
    with counted_results(model, monkeypatch) as received:
        whole = model.blocks(model.get_input_embeddings()(reference.ids(PROMPTS[0])))
    assert received.total() == 1
    torch.testing.assert_close(whole, hidden)
