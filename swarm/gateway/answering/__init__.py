"""Answers: prompts become streams of the client (`streams`), tokens become text (`spelling`), which ends where it must
(`stopping`); `writing` does both for one text, and `shapes` gives texts the form of the API.
"""

from swarm.gateway.answering.writing import Piece, Writer

__all__ = ["Piece", "Writer"]
