"""A gateway in this process, over hops in memory whose text depends on every token; it speaks HTTP all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from swarm.clock import SystemClock
from swarm.gateway.admission import Admission
from swarm.gateway.app import Gateway, build_app
from swarm.gateway.completing import House
from swarm.gateway.limits import Allowance, Limits
from swarm.gateway.metrics import Metrics
from swarm.gateway.models import Models, Served
from swarm.web import Keys, serving
from tests.client.digest_swarm import DigestSwarm

LETTERS = [chr(code) for code in range(32, 127)] + ["\n", "<end>"]
"""The vocabulary: a token for each printable character."""

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('system first') }}"
    "{% endif %}{{ m.role[0] }}: {{ m.content }}\n{% endfor %}a: "
)


def letters_tokenizer() -> Any:
    plain = Tokenizer(models.WordLevel({letter: index for index, letter in enumerate(LETTERS)}, unk_token="~"))
    plain.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    plain.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<end>", unk_token="~")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def spelt(tokens: list[int]) -> str:
    """Return tokens as text."""
    return "".join(LETTERS[token] for token in tokens)


def ids(text: str) -> list[int]:
    """Return text as tokens."""
    return [LETTERS.index(letter) for letter in text]


@asynccontextmanager
async def digest_gateway(
    swarm: DigestSwarm,
    *,
    keys: tuple[str, ...] = (),
    allowance: Allowance | None = None,
    max_running: int = 8,
    max_waiting: int = 8,
    max_body: int = 100_000,
) -> AsyncIterator[tuple[aiohttp.ClientSession, Gateway]]:
    """Run a gateway over `swarm`; yields a session to ask it with, and the gateway itself."""
    served = Served(swarm.model(), letters_tokenizer())
    await served.look()
    admission = Admission(max_running, max_waiting)
    house = House(Limits(allowance or Allowance(), SystemClock()), admission, Metrics(admission))
    gateway = Gateway(Models([served]), house)
    app = build_app(gateway, Keys(keys), max_body=max_body)
    async with serving(app, host="127.0.0.1", port=0) as url, aiohttp.ClientSession(url) as session:
        yield session, gateway
