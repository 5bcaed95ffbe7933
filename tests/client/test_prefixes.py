"""Page hashes, lineages, and the prefixes that are worth a question."""

from __future__ import annotations

import hashlib
import struct

from hypothesis import given
from hypothesis import strategies as st

from swarm.client.chunks import marks_of, split_rows
from swarm.client.prefixes import KnownPrefixes, extend_hashes, filled_pages, lineage
from swarm.types import Hop, PeerId
from swarm.wire import Row
from swarm.wire.limits import HASH_BYTES, MAX_HASHES

IDS = list(range(100, 200))
HOPS = [Hop(PeerId("a"), 0, 10), Hop(PeerId("b"), 10, 20)]


def test_a_pages_hash_is_blake2b_over_the_hash_before_and_its_tokens() -> None:
    first = hashlib.blake2b(struct.pack("<16i", *IDS[:16]), digest_size=16).digest()
    second = hashlib.blake2b(first + struct.pack("<16i", *IDS[16:32]), digest_size=16).digest()
    assert extend_hashes((), IDS[:40]) == [first, second]


@given(st.lists(st.integers(0, 2**31 - 1), max_size=70), st.integers(0, 70))
def test_hashes_are_the_same_in_one_go_or_piece_by_piece(ids: list[int], cut: int) -> None:
    assert extend_hashes(extend_hashes((), ids[:cut]), ids) == extend_hashes((), ids)
    assert len(extend_hashes((), ids)) == len(ids) // 16


def test_a_token_changes_the_hashes_of_its_page_and_of_all_behind_it() -> None:
    other = [*IDS[:20], 7, *IDS[21:]]
    same = [one == two for one, two in zip(extend_hashes((), IDS), extend_hashes((), other), strict=True)]
    assert same == [True, False, False, False, False, False]


def test_pages_are_filled_by_the_step_that_brings_their_last_token() -> None:
    assert [list(filled_pages(*step)) for step in ((0, 15), (0, 16), (15, 1), (16, 1), (10, 40))] == [
        [],
        [0],
        [0],
        [],
        [0, 1, 2],
    ]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 60)), min_size=1, max_size=4), st.integers(1, 50))
def test_chunks_carry_the_marks_of_the_whole_step_each_its_own(pieces: list[tuple[int, int]], room: int) -> None:
    rows = [Row(index, index, position, length, 0) for index, (position, length) in enumerate(pieces)]
    hashes = [
        extend_hashes((), [1000 * row.sequence + place for place in range(row.position + row.length)]) for row in rows
    ]
    split = [
        marks_of([piece.row for piece in chunk], [hashes[piece.index] for piece in chunk])
        for chunk in split_rows(rows, room)
    ]
    whole = marks_of(rows, hashes)
    assert len(b"".join(split)) == len(whole)
    assert {b"".join(split)[i : i + 16] for i in range(0, len(whole), 16)} == {
        whole[i : i + 16] for i in range(0, len(whole), 16)
    }


def test_more_marks_than_a_message_holds_are_left_out() -> None:
    rows = [Row(0, 0, 0, 16 * (MAX_HASHES + 1), 0)]
    hashes = [extend_hashes((), [0] * rows[0].length)]
    assert marks_of(rows, hashes) == b""
    assert len(marks_of([rows[0]._replace(length=16 * MAX_HASHES)], hashes)) == MAX_HASHES * HASH_BYTES


def test_a_lineage_tells_the_model_the_codec_and_every_hop_up_to_this_one() -> None:
    ways = {
        lineage("f", "int8", HOPS),
        lineage("f", "int8", HOPS[:1]),
        lineage("g", "int8", HOPS),
        lineage("f", "float32", HOPS),
        lineage("f", "int8", [Hop(PeerId("a"), 0, 9), Hop(PeerId("b"), 9, 20)]),
        lineage("f", "int8", [Hop(PeerId("c"), 0, 10), HOPS[1]]),
    }
    assert len(ways) == 6 and all(len(each) == HASH_BYTES and any(each) for each in ways)
    assert lineage("f", "int8", HOPS) == lineage("f", "int8", tuple(HOPS))


def test_only_prompts_whose_first_page_was_marked_are_asked_for() -> None:
    known = KnownPrefixes()
    assert known.wanted(IDS) == b""
    known.add(extend_hashes((), IDS)[0])
    assert known.wanted(IDS) == b"".join(extend_hashes((), IDS))
    assert known.wanted([1, *IDS]) == b"" and known.wanted(IDS[:15]) == b""


def test_the_last_token_is_never_asked_for() -> None:
    known = KnownPrefixes()
    known.add(extend_hashes((), IDS)[0])
    assert [len(known.wanted(IDS[:count])) // HASH_BYTES for count in (16, 17, 32, 33)] == [0, 1, 1, 2]


def test_no_more_is_asked_for_than_a_message_holds() -> None:
    known, ids = KnownPrefixes(), [3] * 16 * (MAX_HASHES + 9)
    known.add(extend_hashes((), ids[:16])[0])
    assert len(known.wanted(ids)) == MAX_HASHES * HASH_BYTES


def test_what_was_not_used_for_longest_is_forgotten() -> None:
    known = KnownPrefixes(max_known=2)
    texts = [[index] * 20 for index in range(3)]
    for text in texts[:2]:
        known.add(extend_hashes((), text)[0])
    assert known.wanted(texts[0])
    known.add(extend_hashes((), texts[2])[0])
    assert known.wanted(texts[0]) and known.wanted(texts[2]) and not known.wanted(texts[1])
