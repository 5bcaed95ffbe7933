"""The gateway: the OpenAI API over models whose blocks are in the swarm, for whatever speaks HTTP.

A request's way: `asking` reads it (what is unknown is refused), `limits` and `admission` let it in, `answering` turns
prompts into streams of the client and their tokens into text, and `app` writes that down as JSON or as events.
`swarm.gateway.gateway.run_gateway` runs one; it is not imported here, so that `--help` answers at once.
"""

from swarm.gateway.config import GatewayConfig

__all__ = ["GatewayConfig"]
