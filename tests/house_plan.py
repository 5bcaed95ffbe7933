"""The house's plan: which room stands on which floor, what it may import, and who is excused from which rule.

A new room, an outside package or a broad handler is entered here on purpose, or `tests/test_house.py` fails.
"""

from __future__ import annotations

from dataclasses import dataclass

PACKAGE = "swarm"
GROUND, TOP = 0, 6
"""The floors whose rooms are one: the words everyone speaks, and the command line."""

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60


@dataclass(frozen=True, slots=True)
class Room:
    """A room's floor, and the packages from outside that it may import."""

    floor: int
    packages: frozenset[str] = frozenset()


def _room(floor: int, packages: str = "") -> Room:
    return Room(floor, frozenset(packages.split()))


ROOMS = {
    "errors": _room(GROUND),
    "types": _room(GROUND),
    "clock": _room(GROUND),
    "log": _room(GROUND),
    "flag": _room(GROUND),
    "private_file": _room(GROUND),
    "swarm_key": _room(1, "cryptography"),
    "wire": _room(1, "msgpack"),
    "blocks": _room(1, "torch transformers safetensors gguf numpy huggingface_hub tqdm"),
    "web": _room(1, "aiohttp prometheus_client yarl"),
    "membership": _room(2, "multiaddr"),
    "network": _room(2, "hivemind multiaddr cryptography psutil"),
    "directory": _room(3, "hivemind multiaddr msgpack"),
    "planning": _room(3),
    "server": _room(4, "torch psutil tqdm"),
    "client": _room(4, "torch transformers uvloop"),
    "bootstrap": _room(5),
    "simulator": _room(5, "numpy matplotlib"),
    "gateway": _room(5, "aiohttp prometheus_client torch transformers"),
    "monitor": _room(5, "aiohttp prometheus_client"),
    "chat": _room(TOP),
    "status": _room(TOP),
    "demo": _room(TOP, "transformers"),
    "doctor": _room(TOP, "multiaddr psutil"),
    "cli": _room(TOP, "uvloop psutil"),
    "__init__": _room(TOP + 1),
}
FILE_PACKAGES = {"wire/codecs.py": frozenset({"torch", "numpy"})}
"""Packages that one file of a room may import besides."""

BROAD_HANDLERS = {
    "chat/conversation.py": "a model's own chat template is a program that raises what it likes",
    "cli/run.py": "a command turns every fault into one line and an exit status",
    "client/streaming/choosing.py": "whatever a stream's own processors do, the others go on",
    "client/streaming/decoder.py": "whatever a stream does, the others go on",
    "client/streaming/generation.py": "whatever a stream's own criteria do, the others go on",
    "client/streaming/running.py": "whatever a stream ends with is its reader's to see",
    "client/upkeep.py": "a periodic task over strangers' records: the next look may do better",
    "directory/announcer.py": "a periodic task: the server goes on, the next round may do better",
    "directory/joining.py": "a periodic task: the next round may do better",
    "directory/signed.py": "msgpack raises unrelated classes on garbage; all mean: not one of our records",
    "doctor/checks.py": "what a thread raises is raised again where it is awaited",
    "monitor/watcher.py": "a periodic task over strangers' records: the next look may do better",
    "gateway/answering/streams.py": "a chat template is a program that came with the model",
    "gateway/app.py": "an answer that has begun tells its end in its last event",
    "gateway/faults.py": "a request ends with an answer, whatever it was; faults of ours are logged",
    "network/stream.py": "whatever a peer sends ends its own stream and nothing else",
    "server/batcher.py": "whatever a step does, the server goes on",
    "server/engine.py": "what a called function raises is raised again where it is awaited",
    "server/links.py": "clients choose whom a server dials: nothing that comes of it may end the server",
    "server/neighbours.py": "a periodic task over strangers' addresses: the next round may do better",
    "server/placing.py": "a periodic task over strangers' records: the next look may do better",
    "server/reachability.py": "a periodic task: the next round may do better",
    "server/turns.py": "a batch that breaks is begun again piece by piece: whatever a step does, the server goes on",
    "wire/encoding.py": "msgpack raises unrelated classes on garbage; all become a ProtocolError",
    "wire/records.py": "msgpack raises unrelated classes on garbage; all become a ProtocolError",
}
"""Files that may catch Exception without raising it again, and why."""

ENVIRONMENT_READERS: dict[str, str] = {
    "membership/folders.py": "where settings and cache lie, for the library as for the command line",
    "blocks/files/bundled.py": "where the cache lies, for the library as for the command line",
}
"""Files below the command line that may read the environment, and why."""
