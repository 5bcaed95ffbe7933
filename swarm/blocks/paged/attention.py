"""Attention of a ragged batch over pages.

A batch is the rows' tokens one after another. Everything that is equal for all blocks (rotations, slots,
masks) is worked out once a forward pass, in `Batch`. A row whose pages are consecutive reads keys and
values through a view of the pool; otherwise they are gathered. `gather` is the specification, `view` the fast path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from swarm.blocks.paged.pages import PageTable


@dataclass(frozen=True, slots=True)
class Row:
    """The tokens [position, position + length) of one sequence, as one forward pass runs them."""

    sequence: PageTable
    position: int
    length: int


class Rotation:
    """Cosines and sines of a batch's positions (rotary embedding, arXiv:2104.09864, rotating halves)."""

    def __init__(self, positions: Tensor, frequencies: Tensor, scaling: float, dtype: torch.dtype) -> None:
        angles = torch.outer(positions.to(torch.float32), frequencies)  # (T, E / 2)
        cos, sin = angles.cos() * scaling, angles.sin() * scaling
        # x rotated = x * cos + (x with halves swapped) * (-sin, sin): the sign lives in the table.
        self._cos = torch.cat((cos, cos), dim=-1).to(dtype).unsqueeze(1)  # (T, 1, E)
        self._sin = torch.cat((-sin, sin), dim=-1).to(dtype).unsqueeze(1)  # (T, 1, E)
        self._half = frequencies.shape[0]

    def apply(self, x: Tensor) -> Tensor:
        """Rotate the heads: (T, H, E) to (T, H, E)."""
        swapped = torch.cat((x[..., self._half :], x[..., : self._half]), dim=-1)
        return (x * self._cos).addcmul_(swapped, self._sin)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What one row sees.

    Attributes:
        start: The row's first token in the batch.
        end: One after its last.
        slots: The pool's slots of all tokens it may see: a range if consecutive, else (S,) int64.
        mask: (T, S), true where a token may look; None if it may look everywhere.
        is_first: The row begins its sequence and sees all of it: plain causal attention.
    """

    start: int
    end: int
    slots: range | Tensor
    mask: Tensor | None
    is_first: bool


Frequencies = tuple[Tensor, float]
"""A rope's frequencies (E / 2,) float32, and the factor on cosine and sine."""


class Batch:
    """One forward pass's rows, prepared once for all blocks.

    What depends on the kind of block (which rope, how long a window) is worked out when the first one asks.
    """

    def __init__(
        self, rows: Sequence[Row], ropes: Sequence[Frequencies], dtype: torch.dtype, *, gather: bool = False
    ) -> None:
        """Work out the slots to write.

        Args:
            rows: Whose tokens these are.
            ropes: That of most blocks, and that of blocks with a window where theirs differs; on the device of all that
                the batch meets.
            dtype: Of queries and keys.
            gather: Forbid views of the pool.
        """
        self._rows, self._ropes, self._dtype, self._gather = rows, ropes, dtype, gather
        self._device = ropes[0][0].device
        self._positions = torch.tensor(
            [at for row in rows for at in range(row.position, row.position + row.length)], device=self._device
        )
        self._rotations: dict[int, Rotation] = {}
        self._reaches: dict[int, list[Reach]] = {}
        self._targets = _targets(rows, gather, self._device)

    def rotation(self, *, local: bool = False) -> Rotation:
        """Return the batch's rotation, for blocks with a window if `local`."""
        which = len(self._ropes) - 1 if local else 0
        if which not in self._rotations:
            frequencies, scaling = self._ropes[which]
            self._rotations[which] = Rotation(self._positions, frequencies, scaling, self._dtype)
        return self._rotations[which]

    def reaches(self, window: int = 0) -> list[Reach]:
        """Return what each row sees where a token sees the last `window` tokens, itself included; 0 is all."""
        if window not in self._reaches:
            reaches, start = [], 0
            for row in self._rows:
                reaches.append(_reach(row, start, window, self._gather, self._device))
                start += row.length
            self._reaches[window] = reaches
        return self._reaches[window]

    def store(self, pool: Tensor, new: Tensor) -> None:
        """Write the batch's keys or values (T, K, E) into their slots of one block's pool (slots, K, E)."""
        if isinstance(self._targets, range):
            pool[self._targets.start : self._targets.stop] = new
        else:
            pool.index_copy_(0, self._targets, new)


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    batch: Batch,
    *,
    window: int = 0,
    scale: float | None = None,
    softcap: float = 0.0,
) -> Tensor:
    """Let each row's queries (T, H, E) see its own sequence in the pools (slots, K, E).

    Args:
        queries: Rotated.
        keys: One block's pool.
        values: As `keys`.
        batch: Whose tokens these are.
        window: See `Batch.reaches`.
        scale: Factor on queries times keys; None is 1 / sqrt(E).
        softcap: s -> softcap * tanh(s / softcap) on the scores; 0 is none.

    Returns:
        (T, H * E).
    """
    parts = []
    for reach in batch.reaches(window):
        mine = queries[reach.start : reach.end]
        seen_keys, seen_values = _seen(keys, reach), _seen(values, reach)
        if softcap:
            parts.append(attend_capped(mine, seen_keys, seen_values, reach, scale=scale, softcap=softcap))
        elif mine.shape[0] == 1:
            parts.append(_attend_one(mine, seen_keys, seen_values, scale))
        else:
            parts.append(attend_many(mine, seen_keys, seen_values, reach, scale=scale))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _seen(pool: Tensor, reach: Reach) -> Tensor:
    """What the row sees of a pool, (1, K, S, E)."""
    slots = reach.slots
    part = pool[slots.start : slots.stop] if isinstance(slots, range) else pool.index_select(0, slots)
    return part.transpose(0, 1).unsqueeze(0)


def _attend_one(query: Tensor, keys: Tensor, values: Tensor, scale: float | None) -> Tensor:
    """One token looks everywhere, so the heads that share a key head may stand where tokens do.

    SDPA then reads each key once per group: the same bits, and up to 6 times faster at 16 bits.
    """
    folded = query.reshape(1, keys.shape[1], -1, query.shape[-1])  # (1, K, H / K, E)
    return F.scaled_dot_product_attention(folded, keys, values, scale=scale).view(1, -1)


def attend_many(queries: Tensor, keys: Tensor, values: Tensor, reach: Reach, *, scale: float | None = None) -> Tensor:
    """Let tokens (T, H, E) see keys and values (1, K, S, E); returns (T, H * E). The specification of one token too."""
    attended = F.scaled_dot_product_attention(
        queries.transpose(0, 1).unsqueeze(0),  # (1, H, T, E)
        keys,
        values,
        attn_mask=reach.mask,
        is_causal=reach.is_first and queries.shape[0] > 1,
        enable_gqa=True,
        scale=scale,
    )
    return attended.squeeze(0).transpose(0, 1).reshape(queries.shape[0], -1)


def attend_capped(
    queries: Tensor, keys: Tensor, values: Tensor, reach: Reach, *, scale: float | None, softcap: float
) -> Tensor:
    """As `attend_many`, each score s replaced by softcap * tanh(s / softcap), which SDPA has no name for."""
    (tokens, heads, size), kv = queries.shape, keys.shape[1]
    grouped = queries.transpose(0, 1).reshape(kv, -1, size)  # (K, H / K * T, E)
    scores = torch.bmm(grouped, keys[0].transpose(1, 2)).to(torch.float32).mul_(scale or size**-0.5)
    scores = scores.div_(softcap).tanh_().mul_(softcap).view(heads, tokens, -1)  # (H, T, S)
    if reach.is_first and tokens > 1:
        scores.masked_fill_(~torch.ones(tokens, tokens, dtype=torch.bool, device=scores.device).tril_(), float("-inf"))
    elif reach.mask is not None:
        scores.masked_fill_(~reach.mask, float("-inf"))
    shares = scores.softmax(-1).to(queries.dtype).view(kv, -1, scores.shape[-1])  # (K, H / K * T, S)
    attended = torch.bmm(shares, values[0])  # (K, H / K * T, E)
    return attended.view(heads, tokens, size).transpose(0, 1).reshape(tokens, -1)


def _reach(row: Row, start: int, window: int, gather: bool, device: torch.device) -> Reach:
    end = row.position + row.length
    begin = max(0, row.position + 1 - window) if window else 0  # the first token's window reaches furthest back
    slots: range | Tensor
    if row.sequence.is_consecutive and not gather:
        first = row.sequence.slot(0)
        slots = range(first + begin, first + end)
    else:
        slots = torch.tensor(row.sequence.slots(begin, end), device=device)
    is_cut = 0 < window < end - begin
    mask = None
    # SDPA's own causal mask is aligned with the first key, which is wrong for a chunk further on.
    if row.length > 1 and (row.position > 0 or is_cut):
        mask = torch.ones(row.length, end - begin, dtype=torch.bool, device=device).tril_(row.position - begin)
        if is_cut:
            mask = mask.triu_(row.position - begin + 1 - window)
    return Reach(start=start, end=start + row.length, slots=slots, mask=mask, is_first=row.position == 0 and not is_cut)


def _targets(rows: Sequence[Row], gather: bool, device: torch.device) -> range | Tensor:
    if len(rows) == 1 and rows[0].sequence.is_consecutive and not gather:
        first = rows[0].sequence.slot(rows[0].position)
        return range(first, first + rows[0].length)
    slots = [slot for row in rows for slot in row.sequence.slots(row.position, row.position + row.length)]
    return torch.tensor(slots, device=device)
