"""What is asked: JSON bodies become values; whatever is unknown, out of range or not to be had here is refused by name.

`read_chat` and `read_completion` are pure; `prompts` turns what they return into tokens.
"""

from swarm.gateway.asking.parameters import Asked, Chat, Completion, Sampling
from swarm.gateway.asking.reading import read_chat, read_completion

__all__ = ["Asked", "Chat", "Completion", "Sampling", "read_chat", "read_completion"]
