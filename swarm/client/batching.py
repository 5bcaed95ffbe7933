"""One head for many sessions: whoever finds it free computes all that is queued, the others wait for their part.

A head reads all of its weights for each call, however few rows it is given, so sixteen threads with a row each
would read them sixteen times. There is no thread that waits for work: a caller who is alone pays for a lock, and
that is all ("flat combining", Hendler, Incze, Shavit and Tzafrir, SPAA 2010).
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

MAX_ROWS = 64
"""In one call: beyond, the weights are not what takes the time, and whoever leads works for others too long."""

_PROBED = (2, 3, 5, 8, 17)
"""Numbers of rows whose results are compared before calls are ever combined: kernels change their ways in between."""

Logits = Callable[[Tensor], Tensor]
"""(R, D) to (R, V), row by row."""


class _Part:
    """What one caller wants."""

    __slots__ = ("error", "hidden", "logits", "turn")

    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden
        self.logits: Tensor | None = None
        self.error: Exception | None = None
        self.turn: threading.Lock | None = None


class BatchedHead:
    """Final norm and head for callers in any thread; a row's bits do not depend on who travels with it.

    Where the head's own kernels do not promise that, which is tried once, each call is computed alone.
    """

    def __init__(self, logits: Logits, hidden_size: int) -> None:
        self._logits = logits
        self._hidden_size = hidden_size
        self._lock = threading.Lock()
        self._queue: list[_Part] = []
        self._is_led = False
        self._is_exact: bool | None = None
        self.num_calls = 0
        """Times that the head was computed."""

    def __call__(self, hidden: Tensor) -> Tensor:
        """Compute (..., D) to (..., V), together with what other threads want at this moment."""
        part = _Part(hidden)
        with self._lock:
            if self._is_led:
                part.turn = threading.Lock()
                part.turn.acquire()
                self._queue.append(part)
            self._is_led = True
        if part.turn is not None:
            self._wait(part, part.turn)
        if part.logits is None and part.error is None:
            self._lead(part)
        if part.error is not None:
            raise part.error
        assert part.logits is not None
        return part.logits

    def _wait(self, part: _Part, turn: threading.Lock) -> None:
        """Until somebody has computed our part, or leaves the lead to us."""
        try:
            turn.acquire()
        except BaseException:  # Ctrl-C: nobody must count on us
            with self._lock:
                is_queued = part in self._queue
                if is_queued:
                    self._queue.remove(part)
            if not is_queued:
                turn.acquire()
                if part.logits is None and part.error is None:
                    self._hand_over()
            raise

    def _lead(self, own: _Part) -> None:
        parts = [own]
        try:
            self._take(own, parts)
            self._compute(parts)
        except Exception as error:
            for part in parts:
                part.error = error
            raise
        finally:
            self._hand_over()
            for part in parts[1:]:
                assert part.turn is not None
                part.turn.release()

    def _take(self, own: _Part, parts: list[_Part]) -> None:
        """Move from the queue to `parts` what may be computed with `own`."""
        if not self._queue or not self.is_exact:
            return
        room = MAX_ROWS - _num_rows(own)
        with self._lock:
            count = 0
            while count < len(self._queue) and (room := room - _num_rows(self._queue[count])) >= 0:
                count += 1
            parts += self._queue[:count]  # first: an interrupt in between must strand nobody
            del self._queue[:count]

    def _compute(self, parts: list[_Part]) -> None:
        self.num_calls += 1
        with torch.inference_mode(False), torch.no_grad():  # whoever leads, others may write to their logits
            self._compute_ordinary(parts)

    def _compute_ordinary(self, parts: list[_Part]) -> None:
        if len(parts) == 1:
            parts[0].logits = self._logits(parts[0].hidden)
            return
        rows = [part.hidden.reshape(-1, self._hidden_size) for part in parts]
        together = torch.split(self._logits(torch.cat(rows)), [len(each) for each in rows])
        for part, logits in zip(parts, together, strict=True):
            part.logits = logits.view(*part.hidden.shape[:-1], -1)

    def _hand_over(self) -> None:
        """Leave the lead to the first who waits, or to nobody."""
        with self._lock:
            following = self._queue.pop(0) if self._queue else None
            self._is_led = following is not None
        if following is not None:
            assert following.turn is not None
            following.turn.release()

    @property
    def is_exact(self) -> bool:
        """Whether a row has the same bits in any company; the first to ask pays for trying it."""
        if self._is_exact is None:
            generator = torch.Generator().manual_seed(0)
            rows = torch.randn(max(_PROBED), self._hidden_size, generator=generator)
            first = self._logits(rows[:1])
            self._is_exact = all(
                torch.equal(together[:1], first) and torch.equal(together[-1:], self._logits(rows[count - 1 : count]))
                for count in _PROBED
                for together in (self._logits(rows[:count]),)
            )
        return self._is_exact


def _num_rows(part: _Part) -> int:
    return part.hidden.numel() // max(1, part.hidden.shape[-1])
