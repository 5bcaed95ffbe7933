"""Whom a gateway lets in, and how much each may ask."""

from __future__ import annotations

from dataclasses import replace

from swarm.clock import SystemClock
from swarm.errors import UsageError
from swarm.gateway.config import GatewayConfig
from swarm.gateway.limits import Allowance, Limits
from swarm.web import Keys
from swarm.web.keys import read_lines

_NAMES = {name.replace("_", "-"): name for name in Allowance.__dataclass_fields__}


def read_keys(config: GatewayConfig) -> tuple[Keys, Limits]:
    """Return the keys of the command line and of the file, and their limits.

    A line of the file may tell limits of its key's own behind it: `KEY requests-per-minute=20 tokens-per-day=100000`;
    the others are as the flags say.

    Raises:
        UsageError: The file cannot be read or holds no key, or a key or limit is none; no key is quoted.
    """
    common = Allowance(**{name: getattr(config, name) for name in _NAMES.values()})
    lines = [line.split() for line in read_lines(config.api_keys_file)] if config.api_keys_file else []
    keys = Keys((*config.api_key, *(key for key, *_ in lines)))
    own = dict[str, Allowance]()
    for number, (key, *words) in enumerate(lines, 1):
        name = keys.find(f"Bearer {key}")
        assert name is not None
        if words and name in own:
            raise UsageError(f"{config.api_keys_file}, key {number}: it is there twice, with limits each time")
        if words:
            own[name] = _allowance(words, common, f"{config.api_keys_file}, key {number}")
    return keys, Limits(common, SystemClock(), own)


def _allowance(words: list[str], common: Allowance, where: str) -> Allowance:
    told = dict[str, int]()
    for word in words:
        flag, _, number = word.partition("=")
        # Not quoted: it may be a key with a blank in it.
        if flag not in _NAMES or not (number.isascii() and number.isdigit()) or len(number) > 15:
            raise UsageError(f"{where}: behind a key only {', '.join(f'{flag}=NUMBER' for flag in _NAMES)} may stand")
        told[_NAMES[flag]] = int(number)
    return replace(common, **told)
