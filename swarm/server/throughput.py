"""How fast this machine runs these blocks: measured at the first start, announced to routers.

What was measured is kept in the cache folder, for the same machine, model, formats, kernel and threads: the next start
does without, and its number does not depend on what else happens to run then.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import platform
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from swarm.blocks import BlockStack, Row
from swarm.blocks.files.bundled import default_cache
from swarm.blocks.progress import progress
from swarm.log import get_logger
from swarm.server.choice import Choice
from swarm.wire.handshake import software_version

logger = get_logger(__name__)

DECODE_STEPS = 8
PREFILL_TOKENS = 128
"""Enough to be within some percent after a warm-up, and about a quarter of a second for ten small blocks."""

MAX_AGE = 7 * 86400.0
"""Seconds that a measurement is used: one taken on a busy day is not for ever."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """Tokens per second through ONE block: one token at a time, and a prompt at a time."""

    decode_per_s: float
    prefill_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a measurement holds for."""

    machine: str
    fingerprint: str
    num_blocks: int
    dtype: str
    quant: str
    kernel: str
    threads: int
    version: str

    @classmethod
    def of(cls, stack: BlockStack, choice: Choice, *, threads: int) -> Setting:
        """Return that of this machine and a loaded stack."""
        return cls(
            machine=f"{platform.node()} {_processor()}",
            fingerprint=choice.checkpoint.fingerprint,
            num_blocks=len(stack.span),
            dtype=str(stack.dtype),
            quant=choice.quant,
            kernel=stack.kernel,
            threads=threads,
            version=software_version(),
        )

    def file(self, folder: Path) -> Path:
        """Return where its measurement is kept."""
        text = json.dumps(asdict(self), sort_keys=True)
        return folder / f"{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}.json"


def throughput_of(stack: BlockStack, choice: Choice, told: str, *, threads: int) -> Throughput:
    """Return what to announce: the owner's number if `told` is not "auto", else what was or is now measured."""
    if told != "auto":
        return Throughput(float(told), float(told))
    file = Setting.of(stack, choice, threads=threads).file(default_cache() / "throughput")
    if (known := recall(file)) is not None:
        logger.info("%s, measured before", _told(known))
        return known
    measured = measure(stack, threads=threads)
    logger.info("%s, measured now", _told(measured))
    remember(file, measured)
    return measured


def measure(stack: BlockStack, *, threads: int) -> Throughput:
    """Time decode steps and a prefill on random activations; blocks the calling thread."""
    torch.set_num_threads(threads)
    cache = stack.new_cache(num_pages=-(-(PREFILL_TOKENS + DECODE_STEPS + 1) // 16))
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(PREFILL_TOKENS, stack.config.hidden_size, generator=generator).to(stack.dtype)
    runs = itertools.count(1)
    with torch.inference_mode(), progress("measuring speed", 2 + DECODE_STEPS, "step") as told:
        sequence = cache.new_sequence()

        def run(position: int, length: int) -> float:
            started = time.perf_counter()
            cache.prepare(sequence, position, length)
            stack.forward(hidden[:length], [Row(sequence, position, length)], cache)
            seconds = time.perf_counter() - started
            told(next(runs))
            return seconds

        run(0, PREFILL_TOKENS)  # the first pass pays for caches and lazily made kernels
        prefill = run(0, PREFILL_TOKENS)
        decode = sorted(run(PREFILL_TOKENS + step, 1) for step in range(DECODE_STEPS))[DECODE_STEPS // 2]
    num_blocks = len(stack.span)
    return Throughput(num_blocks / decode, PREFILL_TOKENS * num_blocks / prefill)


def recall(file: Path) -> Throughput | None:
    """Return what `file` holds; None if there is none, it is too old, or damaged."""
    try:
        held = json.loads(file.read_bytes())
        age = time.time() - float(held["measured_at"])
        found = Throughput(float(held["decode_per_s"]), float(held["prefill_per_s"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    is_sound = all(0 < number < 1e12 for number in _numbers(found)) and 0 <= age < MAX_AGE
    return found if is_sound else None


def remember(file: Path, measured: Throughput) -> None:
    """Keep `measured`; a cache that cannot be written costs the next start a measurement, and nothing else."""
    text = json.dumps({**asdict(measured), "measured_at": time.time()})
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False, encoding="utf-8") as partial:
            partial.write(text)
        try:
            os.replace(partial.name, file)  # another server that starts now reads all or nothing
        except OSError:
            os.unlink(partial.name)


def _told(throughput: Throughput) -> str:
    return "throughput: {:,.0f} tokens/s through a block, {:,.0f} of prompts".format(*_numbers(throughput))


def _numbers(throughput: Throughput) -> tuple[float, float]:
    return throughput.decode_per_s, throughput.prefill_per_s


def _processor() -> str:
    """The processor's name and count: a machine image moves between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()} x{os.cpu_count()}"
