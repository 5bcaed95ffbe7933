"""The outbox against a plain model of it: what a hop holds after steps, forks and tries, and what brings it there."""

from __future__ import annotations

import random

import pytest

from swarm.wire import Held, Row
from swarm.wire.outbox import Outbox, OutboxLost
from swarm.wire.rows import TRY_BITS

WIDTH = 3


def body(*tokens: int) -> bytes:
    return b"".join(bytes([token % 251]) * WIDTH for token in tokens)


def number(step: int, attempt: int = 0) -> int:
    return (step << TRY_BITS) + attempt


def run(held: dict[int, list[int]], rows: list[Row], tokens: list[int]) -> None:
    """What a hop does with a step: the specification."""
    before = {sequence: list(own) for sequence, own in held.items()}
    for row in rows:
        held[row.sequence] = before.get(row.source, [])[: row.position] + tokens[: row.length]
        del tokens[: row.length]


def rebuilt(steps: list[tuple[Row, bytes]]) -> dict[int, bytes]:
    """What a hop that held nothing holds after a replay."""
    held: dict[int, bytes] = {}
    for row, sent in steps:
        before = held.get(row.source, b"")
        assert len(before) >= row.position * WIDTH, "a gap"
        held[row.sequence] = before[: row.position * WIDTH] + sent
        assert len(sent) == row.length * WIDTH and row.keep == 0
    return held


@pytest.mark.parametrize("seed", range(30))
def test_a_replay_rebuilds_what_was_held_before_any_step(seed: int) -> None:
    rng, outbox, held = random.Random(seed), Outbox(), dict[int, list[int]]()
    for step in range(1, 25):
        before = {sequence: list(own) for sequence, own in held.items()}
        rows, tokens = [], list[int]()
        for sequence in range(rng.randint(1, 4)):
            source = rng.choice([*before, sequence]) if before and rng.random() < 0.5 else sequence
            position = rng.randint(0, len(before.get(source, [])))
            if rng.random() < 0.7:
                position = len(before.get(source, []))
            row = Row(sequence, source, position, rng.randint(0, 5), 0)
            rows.append(row)
            tokens += [rng.randrange(251) for _ in range(row.length)]
        wanted = outbox.held_before(rows)
        has_forks = any(row.sequence != row.source for row in rows)
        tries = rng.randint(1, 3)
        for attempt in range(tries):  # the answer of all tries but the last is lost
            outbox.place(number(step, attempt), rows)
            if has_forks and rng.random() < 0.7:
                replay = outbox.replay(wanted, before=number(step, attempt), chunk_tokens=rng.randint(1, 6))
                expected = {s: body(*before[s][:n]) for s, n in wanted if n}
                assert {s: b for s, b in rebuilt(replay).items() if b} == expected, "the state before the forks"
        outbox.append(rows, body(*tokens))
        run(held, rows, tokens)
        whole = [Held(sequence, len(own)) for sequence, own in held.items()]
        replay = outbox.replay(whole, before=number(step + 1), chunk_tokens=rng.randint(1, 6))
        assert {s: b for s, b in rebuilt(replay).items() if b} == {s: body(*own) for s, own in held.items() if own}
        assert all(outbox.length(sequence) == len(own) for sequence, own in held.items())


def test_what_sequences_share_is_sent_once() -> None:
    outbox = Outbox()
    outbox.place(number(1), [Row(0, 0, 0, 100, 1)])
    outbox.append([Row(0, 0, 0, 100, 1)], body(*range(100)))
    forks = [Row(index, 0, 100, 1, 1) for index in range(4)]
    outbox.place(number(2), forks)
    outbox.append(forks, body(1, 2, 3, 4))
    wanted = [Held(index, 101) for index in range(4)]
    steps = outbox.replay(wanted, before=number(3), chunk_tokens=64)
    assert [(row.sequence, row.source, row.position, row.length) for row, _ in steps] == [
        (0, 0, 0, 64),
        (0, 0, 64, 37),
        (1, 0, 100, 1),
        (2, 0, 100, 1),
        (3, 0, 100, 1),
    ]


def test_what_began_with_found_pages_is_made_when_it_is_wanted_or_lost() -> None:
    row = Row(0, 0, 4, 2, 1)
    for later, is_lost in ((lambda: body(1, 2, 3, 4), False), (None, True)):
        outbox = Outbox()
        outbox.begin(0, 4, later)
        outbox.place(number(1), [row])
        outbox.append([row], body(5, 6))
        if is_lost:
            with pytest.raises(OutboxLost):
                outbox.replay([Held(0, 6)], before=number(2), chunk_tokens=9)
        else:
            assert rebuilt(outbox.replay([Held(0, 6)], before=number(2), chunk_tokens=9)) == {0: body(1, 2, 3, 4, 5, 6)}
            assert rebuilt(outbox.replay([Held(0, 3)], before=number(2), chunk_tokens=2)) == {0: body(1, 2, 3)}


def test_an_outbox_with_a_gap_or_given_up_says_so() -> None:
    outbox = Outbox()
    outbox.place(number(1), [Row(0, 0, 5, 1, 1)])
    outbox.append([Row(0, 0, 5, 1, 1)], body(1))
    with pytest.raises(OutboxLost):
        outbox.replay([Held(0, 6)], before=number(2), chunk_tokens=9)
    assert not list(outbox.bodies())


def test_a_sequence_that_begins_anew_may_be_forked_again_by_the_same_step() -> None:
    outbox, fork = Outbox(), [Row(0, 0, 2, 1, 1), Row(1, 0, 2, 1, 1)]
    first = [Row(0, 0, 0, 2, 1)]
    for _ in range(2):  # a replay brings the hop back to before the forks, which are made again then
        outbox.place(number(7), first)
        outbox.append(first, body(1, 2))
        outbox.place(number(3), fork)
        outbox.append(fork, body(3, 4))
        assert rebuilt(outbox.replay([Held(0, 3), Held(1, 3)], before=number(8), chunk_tokens=9)) == {
            0: body(1, 2, 3),
            1: body(1, 2, 4),
        }
