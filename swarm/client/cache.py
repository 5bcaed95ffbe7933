"""The remote cache: what transformers' `generate` takes for a KV cache, while the KV is elsewhere.

It knows, for each row of the batch, which tokens the hops hold, and turns what generation does to
a cache into positions: a step begins where the cache ends, `crop` moves that place back, and
`reorder_cache` makes a row start from another row's slots. Nothing of this costs a message: it
travels with the next step. Padding stays here: hops see each row's real tokens only.

Hops that fail are replaced beneath this (`swarm.client.mending`). A step that failed for good may be tried again, for
it begins at the same position. Not so one that forks (rows start from others'): which hops made the forks is unknown,
so the session is given up then.

A busy hop is waited for. If all tokens are known the session is closed meanwhile, so that its pages
are free on all hops, and the next one begins with the whole text; else the step is tried again.
"""

from __future__ import annotations

import time
import weakref
from itertools import chain

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from swarm.client.opening import Wanted, bodies_of
from swarm.client.prefixes import extend_hashes, filled_pages
from swarm.client.session import Session
from swarm.client.source import Hashes, SessionSource
from swarm.client.texts import UNKNOWN, Texts, first_equal_rows
from swarm.errors import Busy, PromptTooLong, SessionLost, UsageError
from swarm.wire import Row


class RemoteCache(Cache):
    """A `Cache` whose keys and values live on the hops of a session.

    The session is opened with the first step and closed when this object is gone.

    Attributes:
        ids: (B, S) tokens held, padding included; `UNKNOWN` for embeddings.
        valid: (B, S) which of them are real.
    """

    ids: Tensor
    valid: Tensor
    _sources: list[int]
    _hashes: list[list[bytes]]

    def __init__(self, source: SessionSource, *, max_length: int) -> None:
        super().__init__(layers=[])
        self._source = source
        self._max_length = max_length
        self._is_lost = False
        weakref.finalize(self, source.close)
        self._forget()

    @property
    def session(self) -> Session | None:
        """The session in use; None before the first step."""
        return self._source.session

    @property
    def is_compileable(self) -> bool:
        """Never: steps leave the process."""
        return False

    @property
    def is_croppable(self) -> bool:
        """Always."""
        return True

    def activate_past_recording(self) -> None:
        """Nothing to do: any position can be rolled back to."""

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return how many columns (padding included) are held."""
        return int(self.ids.shape[1])

    def get_max_length(self) -> int:
        """Return the most tokens that a row can hold."""
        return self._max_length

    def crop(self, max_length: int) -> None:
        """Drop the last -`max_length` columns (transformers' convention); a positive number is how many to keep."""
        keep = max_length if max_length > 0 else self.get_seq_length() + max_length
        self.ids = self.ids[:, : max(0, keep)]
        self.valid = self.valid[:, : max(0, keep)]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let row i go on from what row beam_idx[i] holds."""
        order = beam_idx.to("cpu", torch.long)
        self.ids, self.valid = self.ids[order], self.valid[order]
        self._sources = [self._sources[row] for row in order.tolist()]
        self._hashes = [self._hashes[row] for row in order.tolist()]

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only the given rows, in this order."""
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row `repeats` times."""
        self.reorder_cache(torch.arange(len(self.ids)).repeat_interleave(repeats))

    def reset(self) -> None:
        """Drop everything, the session too; the next step opens another."""
        self._source.close()
        self._is_lost = False
        self._forget()

    def rewind(self, ids: Tensor, valid: Tensor) -> None:
        """Roll back to the longest beginning that is shared with a new prompt, short of its last token.

        Args:
            ids: (B, S) the new prompt, the whole conversation.
            valid: (B, S) bool.
        """
        held = self.get_seq_length()
        is_dead = self._is_lost or (self.session is not None and not self.session.is_usable)
        if is_dead or (held and len(ids) != len(self.ids)):
            self.reset()
            return
        shared = min(held, ids.shape[1] - 1)
        if shared > 0:
            equal = (ids[:, :shared] == self.ids[:, :shared]) & (valid[:, :shared] == self.valid[:, :shared])
            shared = int(equal.all(0).long().cumprod(0).sum())
        if held:
            self.crop(shared - held)

    def advance(self, ids: Tensor | None, embeds: Tensor, valid: Tensor, *, keep: int) -> Tensor:
        """Append T columns and return the last block's output for the last `keep` of them.

        Args:
            ids: (B, T), or None if only embeddings are known.
            embeds: (B, T, D).
            valid: (B, T) bool; padding is False and is not sent.
            keep: 1 to T.

        Returns:
            (B, keep, D); zeros at padding.

        Raises:
            PromptTooLong: A row would hold more than the context; nothing was sent.
            UsageError: The batch has another size than before.
            SessionLost: A step that forked rows failed before: `reset`, or `rewind` to a whole prompt.
        """
        if self._is_lost:
            raise SessionLost("what the hops hold is unknown since a step failed: reset() this cache, or start anew")
        batch = len(embeds)
        ids = torch.full(embeds.shape[:2], UNKNOWN) if ids is None else ids
        if not self.get_seq_length() and batch != len(self.ids):
            self._forget(batch)
        if batch != len(self.ids):
            raise UsageError(f"the cache holds {len(self.ids)} rows, this step has {batch}: start a new cache")
        lengths = self.valid.sum(1).tolist()
        self._check_length(lengths, valid)
        twins = list(range(batch)) if self.get_seq_length() else first_equal_rows(ids, embeds, valid)
        senders = sorted(set(twins))
        rows = [self._row(row, lengths[row], valid[row], keep) for row in senders]
        hidden = embeds[senders][valid[senders]]  # (T of all rows, D)
        is_idle = all(row.length == 0 and row.sequence == row.source for row in rows)
        texts = Texts(torch.cat([self.ids, ids.to("cpu")], 1), torch.cat([self.valid, valid], 1))
        kept = hidden[:0] if is_idle else self._step(rows, hidden, texts)
        self.ids, self.valid = texts.ids, texts.valid
        if not is_idle:
            self._sources = twins
            self._hashes = [self._hashes[row] for row in twins]
        output = kept.new_zeros(len(senders), keep, embeds.shape[-1])
        output[valid[senders, -keep:]] = kept  # (B', keep, D)
        return output if len(senders) == batch else output[[senders.index(row) for row in twins]]

    def _step(self, rows: list[Row], hidden: Tensor, texts: Texts) -> Tensor:
        has_forks = any(row.sequence != row.source for row in rows)
        since = time.monotonic()
        try:
            while True:
                try:
                    if self.session is None:
                        rows, hidden = self._begin(rows, hidden, texts)
                    return self._source.step(rows, hidden, self._marks(rows, texts))
                except Busy as busy:
                    can_replay = self._source.ways.embed is not None and texts.are_known(rows)
                    if has_forks and not can_replay:
                        raise
                    if can_replay:
                        self._source.close()
                        rows, hidden = self._replayed(rows, texts)
                    self._source.rest(busy, since)
        except BaseException:
            if has_forks or (self.session is None and bool(self.valid.any())):
                self._source.close()
                self._is_lost = True
            raise

    def _begin(self, rows: list[Row], hidden: Tensor, texts: Texts) -> tuple[list[Row], Tensor]:
        """Open a session, and leave out of its first step what every hop still holds."""
        held = self._source.open(self._wanted(rows, texts))
        if not any(held.values()):
            return rows, hidden
        parts = torch.split(hidden, [row.length for row in rows])
        skipped = [held.get(row.sequence, 0) for row in rows]
        shorter = [
            row._replace(position=skip, length=row.length - skip) for row, skip in zip(rows, skipped, strict=True)
        ]
        return shorter, torch.cat([part[skip:] for part, skip in zip(parts, skipped, strict=True)])

    def _wanted(self, rows: list[Row], texts: Texts) -> list[Wanted]:
        prefixes = self._source.ways.prefixes
        if prefixes is None or not texts.are_known(rows):
            return []
        wanted = []
        for row in rows:
            text = texts.of(row.sequence)  # what is kept must be computed
            if row.keep and (hashes := prefixes.wanted(text[: len(text) - row.keep + 1])):
                embed = self._source.ways.embed
                body = None if embed is None else bodies_of(embed, text)
                wanted.append(Wanted(row.sequence, hashes, body))
        return wanted

    def _replayed(self, rows: list[Row], texts: Texts) -> tuple[list[Row], Tensor]:
        """Return the step that takes a new session to where `rows` would have taken this one."""
        known = [texts.of(row.sequence) for row in rows]
        whole = [Row(row.sequence, row.sequence, 0, len(text), row.keep) for row, text in zip(rows, known, strict=True)]
        positions = torch.cat([torch.arange(len(text)) for text in known])
        assert self._source.ways.embed is not None
        return whole, self._source.ways.embed(torch.tensor(list(chain.from_iterable(known))), positions)

    def _marks(self, rows: list[Row], texts: Texts) -> Hashes | None:
        """Return each row's page hashes, if the step fills pages that are to be found again."""
        prefixes = self._source.ways.prefixes
        filling = [row for row in rows if filled_pages(row.position, row.length)]
        if prefixes is None or not filling:
            return None
        is_known = texts.are_known(rows)
        for row in filling:
            unchanged = self._hashes[row.sequence][: filled_pages(row.position, row.length).start]
            text = texts.of(row.sequence) if is_known else []
            self._hashes[row.sequence] = extend_hashes(unchanged, text)
            if is_known:
                prefixes.add(self._hashes[row.sequence][0])
        return [self._hashes[row.sequence] for row in rows] if is_known else None

    def _row(self, row: int, length: int, valid: Tensor, keep: int) -> Row:
        return Row(row, self._sources[row], length, int(valid.sum()), int(valid[-keep:].sum()))

    def _check_length(self, lengths: list[int], valid: Tensor) -> None:
        longest = max(length + int(new) for length, new in zip(lengths, valid.sum(1), strict=True))
        if longest > self._max_length:
            raise PromptTooLong(
                f"{longest} tokens are more than the {self._max_length} that the model's context (or max_length) "
                "holds: shorten the prompt"
            )

    def _forget(self, batch: int = 0) -> None:
        self.ids = torch.empty(batch, 0, dtype=torch.long)
        self.valid = torch.empty(batch, 0, dtype=torch.bool)
        self._sources = list(range(batch))
        self._hashes = [[] for _ in range(batch)]
