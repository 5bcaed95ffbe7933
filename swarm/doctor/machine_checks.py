"""The checks of this machine: disk, files, and for a server memory and key; what they see, others may ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from swarm.blocks.files.bundled import BUNDLED, DEFAULT_MODEL
from swarm.doctor.checks import Check, in_thread
from swarm.doctor.config import DoctorConfig
from swarm.doctor.findings import Finding, ok
from swarm.doctor.probes.machine import Files, Key, Own, look_at_disk, look_at_key, look_for_files, read_own
from swarm.doctor.verdicts.machine import judge_disk, judge_files, judge_key, judge_memory
from swarm.errors import NotEnoughMemory, SwarmError
from swarm.server.choice import fit
from swarm.server.config import ServerConfig

SECONDS = 6.0
"""For each of them: a sleeping disk wakes in that time."""

Seen = TypeVar("Seen")


class MachineChecks:
    """This machine, looked at once however many ask."""

    def __init__(self, config: DoctorConfig) -> None:
        self._config = config
        self._looks: dict[str, asyncio.Future[Any]] = {}

    def checks(self) -> list[Check]:
        """Return the checks that this machine can be given."""
        checks = [Check("disk", SECONDS, self._disk), Check("files", SECONDS, self._judge_files)]
        if self._config.is_for_a_server:
            checks.append(Check("memory", SECONDS, self._memory))
        if self._config.identity_path is not None:
            checks.append(Check("identity", SECONDS, self._identity))
        return checks

    async def files(self) -> Files:
        """Return what of the model that was named is here."""
        return await self._once("files", lambda: look_for_files(self._config.model))

    async def own(self, name: str) -> Own | None:
        """Return what records would tell of our files of the model `name`; None if we have none that can be compared.

        A model's name in the directory comes from strangers and is never taken for a path: but for the model that
        the user named, only bundled ones are looked for.

        Raises:
            CheckpointCorrupt: A file of ours is malformed.
        """
        files = await self.files()
        if files.name != name and name in BUNDLED and self._config.model is None:
            files = await self._once(f"files of {name}", lambda: look_for_files(name))
        checkpoint = files.checkpoint
        if checkpoint is None or files.name != name:
            return None
        return await self._once(f"own {name}", lambda: read_own(checkpoint))

    async def key(self) -> Key:
        """Return whose key the server's file holds; an empty one without such a file.

        Raises:
            UsageError: It cannot be read.
        """
        path = self._config.identity_path
        return Key(peer=None) if path is None else await self._once("key", lambda: look_at_key(Path(path)))

    async def _disk(self) -> Sequence[Finding]:
        files = await self.files()
        return [judge_disk(await in_thread(lambda: look_at_disk(files.folder)), files)]

    async def _judge_files(self) -> Sequence[Finding]:
        return [judge_files(await self.files())]

    async def _memory(self) -> Sequence[Finding]:
        files = await self.files()
        if self._config.model is None:
            files = await self._once(f"files of {DEFAULT_MODEL}", lambda: look_for_files(DEFAULT_MODEL))
        checkpoint = files.checkpoint
        if checkpoint is None:
            return [ok("memory", f"what {files.name} takes is known once its files are here")]
        try:
            config = ServerConfig(memory=self._config.memory)
            choice = await in_thread(lambda: fit(config, checkpoint))
        except NotEnoughMemory as error:
            return [judge_memory(files, self._config.memory, error, 0)]
        return [judge_memory(files, self._config.memory, None, len(choice.span))]

    async def _identity(self) -> Sequence[Finding]:
        try:
            return [judge_key(await self.key(), None)]
        except SwarmError as error:
            return [judge_key(Key(peer=None), error)]

    async def _once(self, name: str, look: Callable[[], Seen]) -> Seen:
        if name not in self._looks:
            self._looks[name] = asyncio.ensure_future(in_thread(look))
        # The shield: one check that is late must not end the look of the others.
        seen: Seen = await asyncio.shield(self._looks[name])
        return seen
