"""What the engine counts of itself: rates of the last seconds, batch sizes, waiting times."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

WINDOW = 10.0
"""Seconds that rates look back."""

MAX_BATCHES = 4096
"""Batches that are remembered; more in one window only make the rates look back less far."""

MAX_WAITS = 1024
"""Steps whose waiting times the percentiles are of."""

FIRST_GUESS = 1e-4
"""Seconds of a token in a block before anything was measured."""

SMOOTHING = 0.3
"""Weight of the latest slice: a prompt's later tokens look at more keys and take longer."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens per second of the last seconds, and sequences in a decoding batch, mean and most."""

    prefill_per_s: float
    decode_per_s: float
    batch_rows: float
    batch_rows_max: int


class Meters:
    """Counts; written by the compute thread, read by any."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._batches: deque[tuple[float, bool, int, int]] = deque(maxlen=MAX_BATCHES)
        self._waits: deque[float] = deque(maxlen=MAX_WAITS)
        self._prefill_seconds = FIRST_GUESS
        self.num_busy = self.prefix_wanted = self.prefix_found = 0

    def ran(self, now: float, *, is_decode: bool, tokens: int, rows: int) -> None:
        """A batch has run."""
        self._batches.append((now, is_decode, tokens, rows))

    def prefilled(self, seconds: float, *, tokens: int, blocks: int) -> None:
        """A slice of a batch of prefills took so long."""
        if tokens * blocks:
            self._prefill_seconds += SMOOTHING * (seconds / (tokens * blocks) - self._prefill_seconds)

    def prefill_seconds(self, tokens: int) -> float:
        """Return how long `tokens` will take in one block."""
        return self._prefill_seconds * tokens

    def waited(self, seconds: float) -> None:
        """A step has begun, so long after it came."""
        self._waits.append(seconds)

    def rates(self) -> Rates:
        """Return what the last seconds were like."""
        now = time.monotonic()
        seconds = max(1e-3, min(WINDOW, now - self._since))
        recent = [batch for batch in tuple(self._batches) if now - batch[0] <= WINDOW]
        prefilled = sum(tokens for _, is_decode, tokens, _ in recent if not is_decode)
        decoded = sum(tokens for _, is_decode, tokens, _ in recent if is_decode)
        sizes = [rows for _, is_decode, _, rows in recent if is_decode]
        mean = sum(sizes) / len(sizes) if sizes else 0.0
        return Rates(prefilled / seconds, decoded / seconds, mean, max(sizes, default=0))

    def waiting_time(self, *shares: float) -> list[float]:
        """Return the seconds that these shares of the recent steps waited at most, such as 0.5 for the median."""
        waits = sorted(self._waits)
        return [waits[min(len(waits) - 1, int(share * len(waits)))] if waits else 0.0 for share in shares]
