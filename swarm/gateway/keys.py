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
    lines = read_lines(config.api_keys_file) if config.api_keys_file else []
    keys = Keys((*config.api_key, *(key for key, _ in lines)))
    own = dict[str, Allowance]()
    for number, (key, settings) in enumerate(lines, 1):
        where, name = f"{config.api_keys_file}, key {number}", keys.find(f"Bearer {key}")
        assert name is not None
        if unknown := [each for each in settings if each not in _NAMES]:
            raise UsageError(f"{where}: {unknown[0]} is no limit; there are {', '.join(_NAMES)}")
        if settings and name in own:
            raise UsageError(f"{where}: it is there twice, with limits each time")
        if settings:
            own[name] = replace(common, **{_NAMES[each]: number for each, number in settings.items()})
    return keys, Limits(common, SystemClock(), own)
