"""Limits by key, and turns: a clock by hand."""

from __future__ import annotations

import asyncio

import pytest

from swarm.gateway.admission import Admission
from swarm.gateway.faults import Refused
from swarm.gateway.limits import DAY, Allowance, Limits


class HandClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def unix(self) -> float:
        return 20_000 * DAY + self.now


def limits(**allowance: int) -> tuple[Limits, HandClock]:
    clock = HandClock()
    return Limits(Allowance(**allowance), clock), clock


def refused(call: object, *words: object) -> Refused:
    with pytest.raises(Refused) as found:
        call(*words)  # type: ignore[operator]
    assert found.value.status == 429
    return found.value


def test_requests_are_counted_by_the_minute_and_by_key() -> None:
    counted, clock = limits(requests_per_minute=3)
    for _ in range(3):
        counted.count_request("key-1")
    told = refused(counted.count_request, "key-1")
    assert told.retry_after == pytest.approx(20) and told.response().headers["Retry-After"] == "20"
    counted.count_request("key-2")
    clock.now += 20
    counted.count_request("key-1")
    refused(counted.count_request, "key-1")
    clock.now += 600
    for _ in range(3):
        counted.count_request("key-1")
    refused(counted.count_request, "key-1")


def test_tokens_of_answers_are_owed_by_later_requests() -> None:
    counted, clock = limits(tokens_per_minute=100)
    counted.admit_tokens("k", 60)
    counted.count_tokens("k", 100)
    assert refused(counted.admit_tokens, "k", 10).retry_after == pytest.approx(42)
    clock.now += 42
    counted.admit_tokens("k", 10)


def test_a_prompt_larger_than_a_minutes_tokens_waits_for_a_full_bucket_and_not_for_ever() -> None:
    counted, clock = limits(tokens_per_minute=100)
    counted.admit_tokens("k", 500)
    assert refused(counted.admit_tokens, "k", 500).retry_after == pytest.approx(300)
    clock.now += 300
    counted.admit_tokens("k", 500)


def test_the_days_tokens_come_back_at_midnight() -> None:
    counted, clock = limits(tokens_per_day=100)
    counted.admit_tokens("k", 50)
    counted.count_tokens("k", 45)
    told = refused(counted.admit_tokens, "k", 6)
    assert told.fault == "insufficient_quota" and told.retry_after == pytest.approx(DAY - 1000)
    counted.admit_tokens("k", 5)
    clock.now += DAY - 1000
    counted.admit_tokens("k", 100)


def test_without_limits_anything_goes() -> None:
    counted, _ = limits()
    for _ in range(1000):
        counted.count_request("")
        counted.admit_tokens("", 10**9)


async def test_texts_beyond_the_queue_are_sent_away_and_the_others_have_their_turn() -> None:
    admission, order = Admission(1, 2), list[int]()

    async def text(index: int) -> None:
        with admission.enter(1):
            async with admission.turn():
                order.append(index)
                assert admission.num_running == 1
                await asyncio.sleep(0.001)

    tasks = [asyncio.create_task(text(index)) for index in range(3)]
    await asyncio.sleep(0)
    assert (admission.num_running, admission.num_waiting) == (1, 2)
    with pytest.raises(Refused) as sent_away, admission.enter(1):
        pass
    assert sent_away.value.status == 503 and sent_away.value.retry_after
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2] and admission.num_inside == 0


async def test_who_leaves_the_queue_leaves_nothing() -> None:
    admission = Admission(1, 5)
    async with admission.turn():
        waiter = asyncio.create_task(admission.turn().__aenter__())
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
    async with admission.turn():
        assert admission.num_running == 1
