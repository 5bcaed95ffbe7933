"""The scheduler alone: orders, shares and budgets; no tensor and no clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swarm.server.scheduler import LEVEL_SECONDS, LEVEL_TOKENS, MAX_DECODE_LENGTH, Entry, Scheduler


def decode(session: str, *, client: str = "c", at: float = 0.0, priority: int = 0, hops: int = 1) -> Entry:
    return Entry(client=client, session=session, tokens=1, longest=1, arrived_at=at, priority=priority, num_hops=hops)


def prefill(session: str, tokens: int, *, client: str = "c", at: float = 0.0, priority: int = 0) -> Entry:
    return Entry(client=client, session=session, tokens=tokens, longest=tokens, arrived_at=at, priority=priority)


def scheduler_of(*entries: Entry) -> Scheduler[Entry]:
    scheduler: Scheduler[Entry] = Scheduler()
    for entry in entries:
        scheduler.add(entry)
    return scheduler


def sessions(entries: list[Entry]) -> list[object]:
    return [entry.session for entry in entries]


def run_prefills(scheduler: Scheduler[Entry], budget: int, rounds: int, now: float = 0.0) -> list[object]:
    """Hand out and put back; return whose turn it was."""
    turns: list[object] = []
    for _ in range(rounds):
        for entry, tokens in scheduler.next_prefills(budget, now):
            turns.append(entry.session)
            entry.done += tokens
            if entry.tokens_left:
                scheduler.put_back(entry)
            else:
                scheduler.finish(entry)
    return turns


def test_all_decodes_that_are_ready_run_together() -> None:
    scheduler = scheduler_of(decode("a"), decode("b"), prefill("p", 100), decode("c"))
    assert sessions(scheduler.next_decodes(0.0)) == ["a", "b", "c"]
    assert scheduler.num_waiting == 1 and scheduler.next_decodes(0.0) == []


def test_steps_of_one_session_run_in_order_and_one_at_a_time() -> None:
    first, second = decode("a"), decode("a")
    scheduler = scheduler_of(first, second)
    assert scheduler.next_decodes(0.0) == [first]
    assert scheduler.next_decodes(0.0) == []
    scheduler.finish(first)
    assert scheduler.next_decodes(0.0) == [second]


def test_a_decode_behind_its_own_sessions_prefill_waits_for_it() -> None:
    long, short = prefill("a", 40), decode("a")
    scheduler = scheduler_of(long, short)
    assert scheduler.next_decodes(0.0) == []
    assert run_prefills(scheduler, 100, 1) == ["a"]
    assert scheduler.next_decodes(0.0) == [short]


def test_sessions_whose_routes_have_three_hops_share_in_three_batches() -> None:
    scheduler = scheduler_of(*(decode(str(index), hops=3) for index in range(9)))
    sizes = [len(scheduler.next_decodes(0.0)) for _ in range(4)]
    assert sizes == [3, 3, 3, 0]


def test_the_share_counts_sessions_that_are_at_other_hops_just_now_and_forgets_the_silent() -> None:
    scheduler = scheduler_of(*(decode(str(index), hops=2) for index in range(8)))
    while entries := scheduler.next_decodes(0.0):
        for entry in entries:
            scheduler.finish(entry)
    for index in range(5):
        scheduler.add(decode(str(index), hops=2))
    assert len(scheduler.next_decodes(0.5)) == 4  # half of eight
    for index in range(5):
        scheduler.add(decode(f"new{index}", hops=2))
    assert len(scheduler.next_decodes(60.0)) == 3  # one is left of the others


def test_a_draft_counts_as_a_decode_and_a_prompt_does_not() -> None:
    draft = Entry(client="c", session="a", tokens=MAX_DECODE_LENGTH, longest=MAX_DECODE_LENGTH, arrived_at=0.0)
    batch = Entry(client="c", session="b", tokens=64, longest=2, arrived_at=0.0)  # 32 sequences of two
    scheduler = scheduler_of(draft, batch, prefill("p", MAX_DECODE_LENGTH + 1))
    assert sessions(scheduler.next_decodes(0.0)) == ["a", "b"]


def test_a_budget_is_shared_by_short_prompts_and_cuts_a_long_one() -> None:
    scheduler = scheduler_of(prefill("a", 30), prefill("b", 500))
    assert [(entry.session, tokens) for entry, tokens in scheduler.next_prefills(100, 0.0)] == [("a", 30), ("b", 70)]


def test_a_prompt_that_fills_a_batch_goes_alone_and_short_ones_keep_each_other_company() -> None:
    scheduler = scheduler_of(prefill("a", 40), prefill("b", 40), *(prefill(f"s{index}", 20) for index in range(4)))
    batches = []
    while handed := scheduler.next_prefills(100, 0.0, fill=32):
        batches.append(sessions([entry for entry, _ in handed]))
    assert batches == [["a"], ["b"], ["s0", "s1"], ["s2", "s3"]]


def test_a_long_prompt_gives_way_to_a_short_one_that_comes_later() -> None:
    scheduler = scheduler_of(prefill("long", 4000))
    run_prefills(scheduler, 128, 4)
    scheduler.add(prefill("short", 60, at=1.0))
    assert run_prefills(scheduler, 60, 1, now=1.0) == ["short"]


def test_a_long_prompt_is_not_put_off_for_ever() -> None:
    scheduler = scheduler_of(prefill("long", 4 * LEVEL_TOKENS, at=0.0))
    run_prefills(scheduler, LEVEL_TOKENS, 1)
    scheduler.add(prefill("new", 60, at=LEVEL_SECONDS))
    assert run_prefills(scheduler, 10, 1, now=LEVEL_SECONDS) == ["long"]


def test_a_client_with_a_hundred_sessions_does_not_starve_another() -> None:
    greedy = [prefill(f"g{index}", 100, client="greedy") for index in range(100)]
    scheduler = scheduler_of(*greedy, prefill("m", 400, client="modest", at=9.0))
    turns = run_prefills(scheduler, 100, 8)
    assert turns.count("m") == 4
    decodes = [decode(f"g{index}", client="greedy", hops=50) for index in range(100)]
    scheduler = scheduler_of(*decodes, decode("m", client="modest", at=9.0, hops=50))
    first = [*scheduler.next_decodes(10.0), *scheduler.next_decodes(10.0)]
    assert "m" in sessions(first)


def test_who_comes_back_from_a_pause_has_saved_nothing_up() -> None:
    scheduler = scheduler_of(prefill("a", 1000, client="a"))
    run_prefills(scheduler, 100, 10)
    scheduler.add(prefill("a2", 1000, client="a"))
    scheduler.add(prefill("b", 1000, client="b"))
    assert run_prefills(scheduler, 100, 6).count("b") == 3


def test_priority_orders_the_sessions_of_one_client_only() -> None:
    scheduler = scheduler_of(
        prefill("later", 50, priority=5, at=0.0),
        prefill("urgent", 50, priority=0, at=1.0),
        prefill("other", 50, client="d", priority=9, at=2.0),
    )
    assert run_prefills(scheduler, 50, 3) == ["urgent", "other", "later"]


def test_a_session_that_ends_takes_its_steps_along() -> None:
    first, second, other = prefill("a", 50), decode("a"), decode("b")
    scheduler = scheduler_of(first, second, other)
    ((handed, _),) = scheduler.next_prefills(20, 0.0)
    assert scheduler.drop("a") == [second] and scheduler.num_waiting == 1
    scheduler.finish(handed)
    assert scheduler.next_prefills(20, 0.0) == [] and scheduler.next_decodes(0.0) == [other]
    assert scheduler.drop("unknown") == []


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["add", "decodes", "prefills", "settle", "drop"]), st.integers(0, 5), st.integers(1, 40)),
    max_size=60,
)


@given(ACTIONS)
def test_every_step_is_handed_out_once_and_in_order_or_dropped(actions: list[tuple[str, int, int]]) -> None:
    scheduler: Scheduler[Entry] = Scheduler()
    waiting: dict[int, list[Entry]] = {}
    out: list[Entry] = []
    for now, (action, session, tokens) in enumerate(actions):
        if action == "add":
            entry = Entry(
                client=session % 2, session=session, tokens=tokens, longest=tokens, arrived_at=now, num_hops=1 + now % 3
            )
            scheduler.add(entry)
            waiting.setdefault(session, []).append(entry)
        elif action == "drop":
            dropped = scheduler.drop(session)
            assert dropped == [entry for entry in waiting.pop(session, []) if entry not in out]
            for entry in dropped:
                scheduler.finish(entry)
        elif action == "settle":
            for entry in out:
                own = waiting.get(entry.session, [])  # type: ignore[call-overload]
                if entry.tokens_left and entry in own:
                    scheduler.put_back(entry)
                else:
                    scheduler.finish(entry)
                    if entry in own:
                        own.remove(entry)
            out = []
        else:
            handed = (
                [(entry, entry.tokens) for entry in scheduler.next_decodes(now)]
                if action == "decodes"
                else scheduler.next_prefills(tokens, now)
            )
            for entry, count in handed:
                assert entry is waiting[entry.session][0] and entry not in out  # type: ignore[index]
                entry.done += count
                out.append(entry)
    left = sum(entry not in out for entries in waiting.values() for entry in entries)
    assert scheduler.num_waiting == left
    for entry in out:
        scheduler.finish(entry)
    for number in list(waiting):
        for entry in scheduler.drop(number):
            scheduler.finish(entry)
    assert scheduler.num_waiting == 0 and not scheduler._num_steps


def test_what_was_handed_out_and_did_not_run_is_not_counted() -> None:
    scheduler = scheduler_of(prefill("a", 10_000, client="a"), prefill("b", 10_000, client="b"))
    ran = {"a": 0, "b": 0}
    for _ in range(20):  # one batch has the blocks of one of them only, as when their routes use other parts of a span
        (first, tokens), *others = scheduler.next_prefills(300, 0.0)
        ran[str(first.session)] += tokens
        first.done += tokens
        scheduler.put_back(first)
        for other, unused in others:
            scheduler.put_back(other, unused=unused)
    assert abs(ran["a"] - ran["b"]) <= 600


def test_many_sequences_at_once_are_no_decode_however_short_each() -> None:
    huge = Entry(client="c", session="h", tokens=4096, longest=16, arrived_at=0.0)
    scheduler = scheduler_of(huge, decode("a"))
    assert sessions(scheduler.next_decodes(0.0)) == ["a"]
    assert scheduler.next_prefills(512, 0.0) == [(huge, 512)]
