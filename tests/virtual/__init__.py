"""A swarm in one thread, over links that delay, break and fall silent, under a clock that nobody waits for.

Real clients and servers (`Connection`, `Session`, `Handler`, `Engine`'s turns, `Peer`, `Dialler`, `Channel`) talk over
real frames; only sockets, the daemon, the directory's storage and the compute thread are played. The loop's time jumps
to the next timer whenever nothing is ready, so that ten seconds of silence cost a test a millisecond, and a seed
decides everything:

    def test_a_frozen_server_is_noticed() -> None:
        async def story(swarm: VirtualSwarm) -> None:
            first, second = swarm.serve("first", 0, 2), swarm.serve("second", 2, 4)
            client = swarm.client()
            session = await client.open_session(swarm.model, Span(0, 4))
            swarm.net.cut("second")                      # silence, as SIGSTOP or a pulled plug
            with pytest.raises(HopLost):
                await swarm.step(session, ids, position=0)
            assert swarm.net.now == pytest.approx(12, abs=2)  # virtual seconds

        run_swarm(story, checkpoint, delay=0.04, seed=1)

`swarm.net` has `cut` and `mend` (silence, per pair or per host), `drop` (both ends see the connection break), `kill`
(a host is gone: its connections break, dials are refused) and `set` (delay, jitter). `swarm.generate` is a plain
greedy loop over sessions, for what is compared with an undisturbed run.
"""

from tests.virtual.loop import VirtualLoop, run
from tests.virtual.net import VirtualNet
from tests.virtual.swarm import VirtualServer, VirtualSwarm, run_swarm

__all__ = ["VirtualLoop", "VirtualNet", "VirtualServer", "VirtualSwarm", "run", "run_swarm"]
