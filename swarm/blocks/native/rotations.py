"""Cosines and sines that the native kernels turn queries and keys by, looked up by position."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from swarm.blocks.config import ModelConfig
from swarm.blocks.native.structs import StepStruct


class Rotations:
    """Cosines and sines of all positions that came up so far, of the model's rope and of its local one."""

    _FIRST = 512
    """Positions of the first tables; they double when a sequence grows beyond them."""

    def __init__(self, config: ModelConfig) -> None:
        ropes = config.ropes()
        self._ropes = [ropes[0], ropes[-1]]
        self._limit = config.context_length
        self._tables: list[tuple[Tensor, Tensor]] = []
        self._positions = 0

    def lend(self, step: StepStruct, positions: int) -> None:
        """Point `step` at tables of at least `positions` positions."""
        if positions > self._positions:
            self._grow(max(positions, self._FIRST, min(2 * self._positions, self._limit)))
            for i, (cosines, sines) in enumerate(self._tables):
                step.cosines[i], step.sines[i] = cosines.data_ptr(), sines.data_ptr()
            step.positions = self._positions

    def _grow(self, positions: int) -> None:
        with torch.inference_mode(False):
            steps = torch.arange(positions, dtype=torch.float32)
            self._tables = []
            for frequencies, scaling in self._ropes:
                # By numpy: torch would start its own threads beside the kernels', for this alone.
                angles = torch.outer(steps, frequencies).numpy()  # (positions, E / 2)
                cosines, sines = (torch.from_numpy(turn(angles) * np.float32(scaling)) for turn in (np.cos, np.sin))
                self._tables.append((cosines, sines))
        self._positions = positions
