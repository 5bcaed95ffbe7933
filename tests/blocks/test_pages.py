"""The page allocator under arbitrary use, against a plain list of who holds what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.blocks import PAGE_SLOTS, PageAllocator, PageTable
from swarm.errors import Busy

ACTIONS = st.lists(st.tuples(st.sampled_from(["take", "grow", "share", "drop"]), st.integers(0, 9)), max_size=60)


@given(st.integers(1, 24), ACTIONS)
def test_no_page_is_ever_lost_or_given_twice(num_pages: int, actions: list[tuple[str, int]]) -> None:
    allocator, tables = PageAllocator(num_pages), list[PageTable]()
    for action, number in actions:
        table = tables[number % len(tables)] if tables else None
        if action == "take" or table is None:
            table = PageTable()
            tables.append(table)
            action = "grow"
        if action == "grow":
            _grow(allocator, table, number, sum(tables_pages(tables).values()))
        elif action == "share":
            twin = PageTable()
            allocator.retain(table.pages)
            twin.set(list(table.pages), table.length)
            tables.append(twin)
        elif action == "drop":
            tables.remove(table)
            allocator.release(table.pages)
        allocator.check(tables)
        assert allocator.num_free == num_pages - len(tables_pages(tables))


def tables_pages(tables: list[PageTable]) -> dict[int, int]:
    """Return 1 for each page that some table holds."""
    return {page: 1 for table in tables for page in table.pages}


def _grow(allocator: PageAllocator, table: PageTable, count: int, held: int) -> None:
    free = allocator.num_free
    assert free == allocator.num_pages - held
    last = table.pages[-1] if table.pages else None
    if count > free:
        with pytest.raises(Busy):
            allocator.allocate(count, after=last)
        assert allocator.num_free == free
        return
    pages = table.pages + allocator.allocate(count, after=last)
    table.set(pages, len(pages) * PAGE_SLOTS)


def test_a_table_that_grows_gets_the_page_right_after_its_last() -> None:
    allocator = PageAllocator(8)
    first = allocator.allocate(2)
    assert allocator.allocate(3, after=first[-1]) == [2, 3, 4]


def test_new_tables_start_where_both_neighbours_can_grow() -> None:
    allocator, tables = PageAllocator(64), [[], [], [], []]
    for table in tables:
        table += allocator.allocate(1)
    for _ in range(15):
        for table in tables:
            table += allocator.allocate(1, after=table[-1])
    assert allocator.num_free == 0
    assert all(table == list(range(table[0], table[0] + 16)) for table in tables)


def test_pages_scattered_by_a_full_pool_are_still_found() -> None:
    allocator = PageAllocator(6)
    pages = allocator.allocate(6)
    allocator.release([pages[1], pages[3], pages[4]])
    assert sorted(allocator.allocate(3)) == [1, 3, 4]


def test_freeing_or_sharing_a_free_page_is_a_fault_of_ours() -> None:
    allocator = PageAllocator(2)
    page = allocator.allocate(1)
    allocator.release(page)
    for misuse in (allocator.release, allocator.retain):
        with pytest.raises(ValueError, match="page 0 is free"):
            misuse(page)


def test_check_notices_a_page_that_no_table_knows() -> None:
    allocator = PageAllocator(3)
    allocator.allocate(1)
    with pytest.raises(RuntimeError, match="tables alive differ"):
        allocator.check([])


def test_slots_follow_the_pages() -> None:
    table = PageTable()
    table.set([5, 2], 20)
    assert not table.is_consecutive
    assert table.slots(14, 18) == [5 * 16 + 14, 5 * 16 + 15, 2 * 16, 2 * 16 + 1]


def test_pages_that_were_never_used_are_left_alone_while_others_are_free() -> None:
    allocator = PageAllocator(100_000)
    used: set[int] = set()
    for turn in range(2000):
        tables = [allocator.allocate(1 + (turn + index) % 7) for index in range(12)]
        used |= {page for pages in tables for page in pages}
        for pages in tables:
            allocator.release(pages)
    assert len(used) <= 2 * 12 * 7
    assert len(set(allocator.allocate(90_000))) == 90_000
    allocator.check()
