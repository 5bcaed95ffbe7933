"""Capacity: plain sums, checked against sums by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import NotEnoughMemory
from swarm.server.capacity import WORKSPACE_BYTES, Need, num_blocks_that_fit, num_pages, require_fit

MIB = 2**20
NEED = Need(block_bytes=10 * MIB, slot_bytes=1024, context_length=4096)
KV_OF_A_BLOCK = 4 * 2048 * 1024
"""Four sessions of 2,048 tokens: what is promised."""


def test_the_promise_is_four_sessions_of_two_thousand_tokens_or_of_the_whole_context() -> None:
    assert NEED.promised_pages() == 4 * 128
    assert Need(block_bytes=1, slot_bytes=1, context_length=100).promised_pages() == 4 * 7


def test_a_block_needs_its_weights_and_the_promised_kv() -> None:
    assert NEED.bytes_for(3) == 3 * (10 * MIB + KV_OF_A_BLOCK) + WORKSPACE_BYTES


def test_as_many_blocks_fit_as_the_memory_holds_but_never_more_than_the_model_has() -> None:
    assert num_blocks_that_fit(NEED, NEED.bytes_for(7), 30) == 7
    assert num_blocks_that_fit(NEED, NEED.bytes_for(7) - 1, 30) == 6
    assert num_blocks_that_fit(NEED, NEED.bytes_for(100), 30) == 30


def test_a_refusal_says_what_is_needed_what_is_allowed_and_what_to_do() -> None:
    with pytest.raises(NotEnoughMemory) as caught:
        require_fit(NEED, 200 * MIB, 5)
    text = str(caught.value)
    assert "218 MiB" in text and "200 MiB are allowed" in text and "--memory" in text and "\n" not in text
    with pytest.raises(NotEnoughMemory, match=r"1 block\(s\) need 146 MiB"):
        num_blocks_that_fit(NEED, 100 * MIB, 30)


@given(st.integers(1, 2**31), st.integers(1, 2**16), st.integers(1, 2**17), st.integers(0, 2**40), st.integers(1, 200))
def test_what_is_found_to_fit_fits_and_one_block_more_does_not(
    block_bytes: int, slot_bytes: int, context: int, memory: int, num_blocks: int
) -> None:
    need = Need(block_bytes=block_bytes, slot_bytes=slot_bytes, context_length=context)
    try:
        fitting = num_blocks_that_fit(need, memory, num_blocks)
    except NotEnoughMemory:
        assert need.bytes_for(1) > memory
        return
    require_fit(need, memory, fitting)
    assert fitting == num_blocks or need.bytes_for(fitting + 1) > memory
    pages = num_pages(need, memory, fitting)
    assert pages >= need.promised_pages()
    assert pages * 16 * slot_bytes * fitting + fitting * block_bytes <= memory


def test_forced_spans_that_do_not_fit_still_get_the_promised_pages() -> None:
    assert num_pages(NEED, 1, 30) == NEED.promised_pages()
