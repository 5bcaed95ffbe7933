"""One head for many threads: what is queued while it is busy is computed together, and nobody gets another's rows."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from swarm.client.batching import MAX_ROWS, BatchedHead

WEIGHT = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))


class Head:
    """Counts calls and their rows; waits at the gate while it is shut."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.rows: list[int] = []
        self.is_exact = True
        self.fails = False

    def __call__(self, hidden: Tensor) -> Tensor:
        flat = hidden.reshape(-1, 4)
        self.rows.append(len(flat))
        self.entered.set()
        assert self.gate.wait(20)
        if self.fails:
            raise RuntimeError("broken head")
        logits = torch.stack([(WEIGHT * row).sum(-1) for row in flat])
        if not self.is_exact and len(flat) > 1:
            logits = logits + 1e-3
        return logits.view(*hidden.shape[:-1], 7)


def expected(hidden: Tensor) -> Tensor:
    return Head()(hidden)


def crowd(head: Head, batched: BatchedHead, parts: list[Tensor]) -> list[Tensor]:
    """Let one caller hold the head until all others are queued."""
    assert batched.is_exact or not head.is_exact  # tried before the gate shuts
    head.rows.clear()
    head.gate.clear()
    head.entered.clear()
    with ThreadPoolExecutor(len(parts)) as pool:
        first = pool.submit(batched, parts[0])
        assert head.entered.wait(10)
        others = [pool.submit(batched, part) for part in parts[1:]]
        while len(batched._queue) < len(others):
            threading.Event().wait(0.001)
        head.gate.set()
        return [first.result(10), *(other.result(10) for other in others)]


def test_what_waits_is_computed_together_and_everybody_gets_his_own() -> None:
    head = Head()
    batched = BatchedHead(head, 4)
    parts = [torch.randn(1 + index % 3, 1, 4) for index in range(9)]
    for own, logits in zip(parts, crowd(head, batched, parts), strict=True):
        assert torch.equal(logits, expected(own))
    assert head.rows == [1, sum(len(part) for part in parts[1:])]


def test_one_caller_alone_costs_one_call() -> None:
    head = Head()
    batched = BatchedHead(head, 4)
    hidden = torch.randn(2, 3, 4)
    assert torch.equal(batched(hidden), expected(hidden))
    assert head.rows == [6] and batched.num_calls == 1


def test_a_head_whose_bits_depend_on_company_computes_each_alone() -> None:
    head = Head()
    head.is_exact = False
    batched = BatchedHead(head, 4)
    parts = [torch.randn(1, 4) for _ in range(4)]
    assert all(torch.equal(a, expected(b)) for a, b in zip(crowd(head, batched, parts), parts, strict=True))
    assert head.rows == [1, 1, 1, 1]


def test_nobody_works_for_too_many_others_at_once() -> None:
    head = Head()
    batched = BatchedHead(head, 4)
    parts = [torch.randn(20, 4) for _ in range(8)]
    assert all(torch.equal(a, expected(b)) for a, b in zip(crowd(head, batched, parts), parts, strict=True))
    assert max(head.rows) <= MAX_ROWS and sum(head.rows) == 160 and len(head.rows) == 4


def test_a_fault_reaches_all_who_took_part_and_the_head_is_free_again() -> None:
    head = Head()
    batched = BatchedHead(head, 4)
    assert batched.is_exact
    head.fails = True
    with pytest.raises(RuntimeError, match="broken head"):
        crowd(head, batched, [torch.randn(1, 4) for _ in range(3)])
    head.fails = False
    hidden = torch.randn(1, 4)
    assert torch.equal(batched(hidden), expected(hidden))


def test_many_threads_for_a_while() -> None:
    head = Head()
    batched = BatchedHead(head, 4)

    def ask(seed: int) -> bool:
        generator = torch.Generator().manual_seed(seed)
        hidden = [torch.randn(1, 1, 4, generator=generator) for _ in range(40)]
        return all(torch.equal(batched(each), expected(each)) for each in hidden)

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(ask, range(12)))
    assert not batched._queue and not batched._is_led


def test_an_interrupt_while_the_head_is_tried_leaves_nobody_waiting() -> None:
    head = Head()
    batched = BatchedHead(head, 4)
    head.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(batched, torch.ones(1, 4))
        assert head.entered.wait(10)
        others = [pool.submit(batched, torch.ones(1, 4)) for _ in range(3)]
        while len(batched._queue) < 3:
            threading.Event().wait(0.001)
        calls = iter([KeyboardInterrupt()])
        real = batched._logits

        def interrupted(hidden: Tensor) -> Tensor:
            if len(hidden) != 1 and (error := next(calls, None)) is not None:
                raise error  # Ctrl-C, while it is tried whether rows have the same bits in company
            return real(hidden)

        batched._logits = interrupted
        head.gate.set()
        ends = [future.exception(10) for future in (first, *others)]
    assert sum(isinstance(end, KeyboardInterrupt) for end in ends) <= 1
    assert sum(end is None for end in ends) >= 3
    assert torch.equal(batched(torch.ones(1, 4)), expected(torch.ones(1, 4)))


def test_logits_are_ordinary_tensors_whoever_has_computed_them() -> None:
    batched = BatchedHead(Head(), 4)
    with torch.inference_mode():
        hidden = torch.ones(2, 4)
        logits = batched(hidden)
    logits[0, 0] = 5.0  # would raise for an inference tensor
