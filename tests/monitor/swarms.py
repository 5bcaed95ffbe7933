"""Swarms that do not exist, told as real records, for the real application."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Sequence

from swarm.types import PeerId, Reach, ServerRecord, ServerState, Span, View

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_NAMES = (
    "attic",
    "basement",
    "birch",
    "copper",
    "delta",
    "ember",
    "fjord",
    "garage",
    "harbour",
    "juniper",
    "kiln",
    "lab",
)


def peer_id(seed: str) -> PeerId:
    """Something that looks like a peer id, the same for the same seed."""
    generator = random.Random(seed)
    return PeerId("12D3KooW" + "".join(generator.choice(_ALPHABET) for _ in range(44)))


def server(
    name: str,
    start: int,
    end: int,
    *,
    model: str = "llama-3.1-70b",
    num_blocks: int = 80,
    checkpoint: str = "a",
    state: ServerState = ServerState.ONLINE,
    reach: Reach = Reach.DIRECT,
    per_s: float = 900.0,
    **changes: object,
) -> ServerRecord:
    """A record as a server would announce it."""
    peer = peer_id(name)
    seed = random.Random(name)
    where = f"/ip4/10.{seed.randrange(256)}.{seed.randrange(256)}.{seed.randrange(1, 255)}"
    fields: dict[str, object] = {
        "peer": peer,
        "model": model,
        "fingerprint": hashlib.sha256(checkpoint.encode()).hexdigest()[:32],
        "num_blocks": num_blocks,
        "span": Span(start, end),
        "digests": tuple(f"{checkpoint}{block}" for block in range(start, end)),
        "state": state,
        "decode_per_s": per_s,
        "prefill_per_s": 12 * per_s,
        "free_pages": seed.randrange(200, 4000),
        "load": seed.randrange(6),
        "dtype": "bfloat16",
        "quant": seed.choice(("int4", "int8")),
        "kernel": seed.choice(("avx512vnni", "avx2", "cuda")),
        "reach": reach,
        "since": time.time() - seed.randrange(300, 900_000),
        "addrs": (f"{where}/tcp/31330/p2p/{peer}", f"{where}/tcp/31331/tls/p2p/{peer}"),
        "public_name": name,
        "version": "0.1.0",
        "expires_at": time.time() + 3600,
    }
    return ServerRecord(**{**fields, **changes})  # type: ignore[arg-type]


def view(records: Sequence[ServerRecord]) -> View:
    """All records of one model."""
    return View(model=records[0].model, records=tuple(records), taken_at=time.time())


def crowd(number: int, *, num_blocks: int = 80, model: str = "llama-3.1-70b") -> list[ServerRecord]:
    """Many servers with uneven spans."""
    seed = random.Random(number)
    records = []
    for index in range(number):
        length = seed.choice((4, 6, 8, 10, 12, 16, 20))
        start = index % num_blocks if index % num_blocks + length <= num_blocks else num_blocks - length
        name = f"{seed.choice(_NAMES)}-{index:04d}"
        kind = {0: {"state": ServerState.JOINING}, 1: {"reach": Reach.RELAYED}, 2: {"reach": Reach.UNREACHABLE}}
        changes = kind.get(seed.randrange(40), {})
        per_s = round(seed.uniform(200, 2400), 1)
        records.append(server(name, start, start + length, num_blocks=num_blocks, model=model, per_s=per_s, **changes))  # type: ignore[arg-type]
    return records


def household() -> list[View]:
    """Two models: one whole but thin in places, with servers of all standings; one with a gap."""
    seventy = [
        server("attic", 0, 32, per_s=2600),
        server("garage-4090", 0, 44, per_s=5200, kernel="cuda"),
        server("Elif's laptop", 32, 48, per_s=700, reach=Reach.RELAYED),
        server("lab-7", 44, 62, per_s=2400),
        server("lab-8", 44, 62, per_s=2300, next_span=Span(62, 80)),
        server("copper", 62, 80, per_s=1900),
        server("birch", 40, 62, per_s=1800, state=ServerState.DRAINING),
        server("zürich-3", 62, 76, per_s=1500, state=ServerState.JOINING, free_pages=0),
        server("old-fork", 0, 20, checkpoint="b", per_s=900, version="0.0.9"),
        server("behind-a-wall", 48, 64, per_s=900, reach=Reach.UNREACHABLE),
    ]
    small = [
        server("attic", 0, 12, model="smollm2-135m", num_blocks=30, per_s=3000),
        server("kiln", 4, 20, model="smollm2-135m", num_blocks=30, per_s=2400),
        server("ember", 24, 30, model="smollm2-135m", num_blocks=30, per_s=2400, state=ServerState.ONLINE),
    ]
    return [view(seventy), view(small)]
