"""The remote cache against a model of a server: each row's output follows from its own tokens."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from swarm.client.cache import RemoteCache
from swarm.client.opening import Wanted
from swarm.client.source import SessionSource, Ways
from swarm.errors import HopLost, HopTimeout, PromptTooLong, SessionLost, UsageError
from swarm.wire import Row

PRIME = 1_000_003


def digest(tokens: list[int]) -> list[float]:
    """What the last block would say after `tokens`: it depends on each of them and on their order."""
    value = 7
    for token in tokens:
        value = (value * 31 + token + 1) % PRIME
    return [float(len(tokens)), float(value)]


@dataclass
class Hops:
    """Sequences of one session, kept by the rules of `swarm.wire.Row`."""

    sequences: dict[int, list[int]] = field(default_factory=dict)
    num_tokens: int = 0
    is_usable: bool = True
    is_closed: bool = False
    fails: Exception | None = None
    held: dict[int, int] = field(default_factory=dict)

    def step(self, rows: list[Row], hidden: Tensor) -> Tensor:
        before = {number: list(tokens) for number, tokens in self.sequences.items()}
        outputs: list[list[float]] = []
        offset = 0
        for row in rows:
            base = before[row.source] if row.source != row.sequence else before.get(row.sequence, [])
            assert row.position <= len(base), "a gap"
            tokens = base[: row.position]
            for index in range(row.length):
                tokens.append(int(hidden[offset + index, 0]))
                if index >= row.length - row.keep:
                    outputs.append(digest(tokens))
            self.sequences[row.sequence] = tokens
            offset += row.length
        assert offset == len(hidden)
        self.num_tokens += offset
        if self.fails is not None:
            raise self.fails
        return torch.tensor(outputs, dtype=torch.float64).view(-1, 2)


class Bench:
    """A cache over such sessions."""

    def __init__(self, max_length: int = 1000) -> None:
        self.sessions: list[Hops] = []
        ways = Ways(
            open_session=self.open,
            run_step=lambda session, rows, hidden, hashes: cast(Any, session).step(rows, hidden),
            close=lambda session: setattr(session, "is_closed", True),
        )
        self.cache = RemoteCache(SessionSource(ways), max_length=max_length)

    def open(self, wanted: Sequence[Wanted] = ()) -> Any:
        self.sessions.append(Hops())
        return self.sessions[-1]

    def advance(self, ids: Tensor, valid: Tensor | None = None, keep: int | None = None) -> Tensor:
        valid = torch.ones_like(ids, dtype=torch.bool) if valid is None else valid
        embeds = torch.stack([ids, torch.zeros_like(ids)], -1).double()
        return self.cache.advance(ids, embeds, valid, keep=keep or ids.shape[1])


def expected(ids: Tensor, valid: Tensor, keep: int) -> Tensor:
    """The last `keep` columns' outputs of rows run from their beginning; zeros at padding."""
    output = torch.zeros(*ids.shape, 2, dtype=torch.float64)
    for row in range(len(ids)):
        tokens: list[int] = []
        for column in range(ids.shape[1]):
            if valid[row, column]:
                tokens.append(int(ids[row, column]))
                output[row, column] = torch.tensor(digest(tokens))
    return output[:, -keep:]


@st.composite
def columns(draw: st.DrawFn, batch: int) -> tuple[Tensor, Tensor]:
    count = draw(st.integers(1, 4))
    ids = draw(st.lists(st.lists(st.integers(0, 2), min_size=count, max_size=count), min_size=batch, max_size=batch))
    padding = draw(st.lists(st.sampled_from([0, 0, 0, 1, 2]), min_size=batch, max_size=batch))
    valid = torch.arange(count).expand(batch, count) >= torch.tensor(padding)[:, None]
    return torch.tensor(ids), valid


@settings(max_examples=150)
@given(st.data(), st.integers(1, 3))
def test_every_row_answers_for_its_own_tokens_whatever_generation_does_to_the_cache(data: Any, batch: int) -> None:
    bench = Bench()
    ids, valid = torch.empty(batch, 0, dtype=torch.long), torch.empty(batch, 0, dtype=torch.bool)
    for _ in range(data.draw(st.integers(1, 8))):
        action = data.draw(st.sampled_from(["advance", "advance", "crop", "reorder", "rewind"]))
        if action == "crop":
            dropped = data.draw(st.integers(0, ids.shape[1]))
            bench.cache.crop(-dropped)
            ids, valid = ids[:, : ids.shape[1] - dropped], valid[:, : valid.shape[1] - dropped]
        elif action == "reorder" and ids.shape[1]:
            order = torch.tensor(data.draw(st.lists(st.integers(0, batch - 1), min_size=batch, max_size=batch)))
            bench.cache.reorder_cache(order)
            ids, valid = ids[order], valid[order]
        else:
            new, new_valid = data.draw(columns(batch))
            if action == "rewind":
                shared = data.draw(st.integers(0, ids.shape[1]))
                ids, valid = torch.cat([ids[:, :shared], new], 1), torch.cat([valid[:, :shared], new_valid], 1)
                bench.cache.rewind(ids, valid)
                held = bench.cache.get_seq_length()
                assert held < ids.shape[1]
                new, new_valid = ids[:, held:], valid[:, held:]
            else:
                ids, valid = torch.cat([ids, new], 1), torch.cat([valid, new_valid], 1)
            keep = data.draw(st.integers(1, new.shape[1]))
            torch.testing.assert_close(bench.advance(new, new_valid, keep), expected(ids, valid, keep), rtol=0, atol=0)
        if ids.shape[1]:
            assert torch.equal(bench.cache.ids, ids) and torch.equal(bench.cache.valid, valid)


def test_equal_rows_of_a_prompt_are_computed_once() -> None:
    bench, prompt = Bench(), torch.tensor([[1, 2, 3]] * 4)
    assert bench.advance(prompt).shape == (4, 3, 2)
    assert bench.sessions[0].num_tokens == 3
    bench.advance(torch.tensor([[0], [1], [2], [0]]))
    assert bench.sessions[0].num_tokens == 7


def test_a_longer_prompt_computes_only_what_is_new() -> None:
    bench = Bench()
    bench.advance(torch.tensor([[1, 2, 3, 4]]))
    prompt = torch.tensor([[1, 2, 9, 4, 5]])
    bench.cache.rewind(prompt, torch.ones_like(prompt, dtype=torch.bool))
    assert bench.cache.get_seq_length() == 2


def test_transformers_may_select_and_repeat_rows() -> None:
    bench = Bench()
    bench.advance(torch.tensor([[1, 2], [3, 4]]))
    bench.cache.batch_repeat_interleave(2)
    bench.cache.batch_select_indices(torch.tensor([2, 0, 3]))
    new = torch.tensor([[5], [6], [7]])
    rows = torch.tensor([[3, 4, 5], [1, 2, 6], [3, 4, 7]])
    assert torch.equal(bench.advance(new), expected(rows, torch.ones_like(rows, dtype=torch.bool), 1))


def test_more_tokens_than_allowed_are_refused_before_anything_is_sent() -> None:
    bench = Bench(max_length=4)
    bench.advance(torch.tensor([[1, 2, 3]]))
    with pytest.raises(PromptTooLong, match="5 tokens are more than the 4"):
        bench.advance(torch.tensor([[1, 2]]))
    assert bench.sessions[0].num_tokens == 3 and bench.cache.get_seq_length() == 3


def test_another_number_of_rows_is_refused() -> None:
    bench = Bench()
    bench.advance(torch.tensor([[1, 2]]))
    with pytest.raises(UsageError, match="holds 1 rows, this step has 2"):
        bench.advance(torch.tensor([[1], [2]]))


def test_a_step_that_failed_may_be_tried_again() -> None:
    bench = Bench()
    bench.advance(torch.tensor([[1, 2], [3, 4]]))
    bench.sessions[0].fails = HopTimeout("late")  # it ran, only the answer was lost
    with pytest.raises(HopTimeout):
        bench.advance(torch.tensor([[5], [6]]))
    bench.sessions[0].fails = None
    rows = torch.tensor([[1, 2, 5], [3, 4, 6]])
    output = bench.advance(torch.tensor([[5], [6]]))
    assert torch.equal(output, expected(rows, torch.ones_like(rows, dtype=torch.bool), 1))


def test_a_failed_step_that_forked_rows_gives_the_session_up_until_a_new_beginning() -> None:
    bench = Bench()
    bench.advance(torch.tensor([[1, 2], [3, 4]]))
    bench.cache.reorder_cache(torch.tensor([1, 0]))
    bench.sessions[0].fails = HopTimeout("late")
    with pytest.raises(HopTimeout):
        bench.advance(torch.tensor([[5], [6]]))
    assert bench.sessions[0].is_closed
    with pytest.raises(SessionLost, match="reset"):
        bench.advance(torch.tensor([[5], [6]]))
    rows = torch.tensor([[3, 4, 5], [1, 2, 6]])
    valid = torch.ones_like(rows, dtype=torch.bool)
    bench.cache.rewind(rows, valid)
    assert torch.equal(bench.advance(rows), expected(rows, valid, 3))
    assert len(bench.sessions) == 2


def test_a_whole_prompt_after_a_lost_hop_begins_a_new_session() -> None:
    bench, prompt = Bench(), torch.tensor([[1, 2, 3]])
    bench.advance(prompt)
    bench.sessions[0].fails, bench.sessions[0].is_usable = HopLost("gone"), False
    with pytest.raises(HopLost):
        bench.advance(torch.tensor([[4]]))
    bench.cache.rewind(prompt, torch.ones_like(prompt, dtype=torch.bool))
    assert torch.equal(bench.advance(prompt), expected(prompt, torch.ones_like(prompt, dtype=torch.bool), 3))
    assert len(bench.sessions) == 2


def test_the_session_is_opened_with_the_first_step_and_closed_when_the_cache_is_gone() -> None:
    bench = Bench()
    assert bench.cache.session is None
    bench.advance(torch.tensor([[1]]))
    session = bench.sessions[0]
    assert bench.cache.session is session and not session.is_closed
    del bench.cache
    gc.collect()
    assert session.is_closed


def test_steps_of_padding_only_send_nothing() -> None:
    bench = Bench()
    output = bench.advance(torch.tensor([[1, 1]]), torch.zeros(1, 2, dtype=torch.bool))
    assert not output.any() and bench.sessions == []
