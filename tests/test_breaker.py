"""
A provider that does not answer is left alone for a while. No test waits for a pause: `pass_` moves
what the breaker remembers into the past instead.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from vidgen.breaker import (
    FAILURES_TO_OPEN,
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    PROBE_S,
    Breakers,
    BreakerState,
    Passage,
)
from vidgen.dispatch import open_redis
from vidgen.errors import DispatchError

KEY = "vidgen:breaker:sora:server"
ONE = ("sora", "server")
# What a slow machine may take between two questions that are meant to be at the same moment.
SAME_MOMENT_S = 2.0


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with open_redis(redis_url) as redis:
        yield redis


@pytest.fixture
def breakers(redis: Redis) -> Breakers:
    return Breakers(redis)


@pytest.fixture
async def opened(breakers: Breakers) -> Breakers:
    for _ in range(FAILURES_TO_OPEN):
        await breakers.failed(*ONE)
    return breakers


async def pass_(redis: Redis, seconds: float) -> None:
    """Let *seconds* go by."""
    for name in ("open_until", "probing_until"):
        await redis.hincrby(KEY, name, round(-seconds * 1000))  # type: ignore[misc]  # redis 5 types it as either


async def test_it_opens_after_failures_in_a_row_only(breakers: Breakers) -> None:
    for _ in range(FAILURES_TO_OPEN - 1):
        assert await breakers.failed(*ONE) == 0
    await breakers.answered(*ONE)
    await breakers.failed(*ONE)

    assert await breakers.ask(*ONE) == Passage(wait_s=0, is_marked=True)
    assert await breakers.state(*ONE) == BreakerState(failures=1, pause_s=0)


async def test_an_open_one_holds_submits_of_all_processes_back_and_no_other_provider_s(
    opened: Breakers, redis_url: str
) -> None:
    async with open_redis(redis_url) as another:
        wait_s = (await Breakers(another).ask(*ONE)).wait_s

    assert FIRST_PAUSE_S - SAME_MOMENT_S < wait_s <= FIRST_PAUSE_S
    assert (await opened.state(*ONE)).is_open
    assert (await opened.ask("sora", "another")).wait_s == 0
    assert (await opened.ask("veo", "server")).wait_s == 0


async def test_after_the_pause_one_probe_goes_and_the_others_wait_for_it(
    opened: Breakers, redis: Redis
) -> None:
    await pass_(redis, FIRST_PAUSE_S)

    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(opened.ask(*ONE)) for _ in range(10)]

    waits = sorted(task.result().wait_s for task in asked)
    assert waits[0] == 0
    assert waits[1] > PROBE_S - SAME_MOMENT_S


async def test_a_probe_that_is_answered_closes_it(opened: Breakers, redis: Redis) -> None:
    await pass_(redis, FIRST_PAUSE_S)
    await opened.ask(*ONE)

    assert await opened.answered(*ONE)
    assert (await opened.ask(*ONE)).wait_s == 0
    assert not await redis.exists(KEY)


async def test_a_probe_that_fails_doubles_the_pause_up_to_a_limit(
    opened: Breakers, redis: Redis
) -> None:
    pauses = [FIRST_PAUSE_S]
    for _ in range(8):
        await pass_(redis, pauses[-1])
        await opened.ask(*ONE)
        pauses.append(await opened.failed(*ONE))

    assert pauses[1] == FIRST_PAUSE_S * 2
    assert pauses[-1] == LONGEST_PAUSE_S


async def test_failures_of_calls_that_were_under_way_do_not_lengthen_the_pause(
    opened: Breakers,
) -> None:
    assert [await opened.failed(*ONE) for _ in range(50)] == [0] * 50
    assert (await opened.ask(*ONE)).wait_s <= FIRST_PAUSE_S


async def test_an_emptied_redis_closes_it(opened: Breakers, redis: Redis) -> None:
    await redis.flushall()

    assert await opened.ask(*ONE) == Passage(wait_s=0, is_marked=False)


async def test_without_redis_nobody_knows() -> None:
    async with open_redis("redis://127.0.0.1:1") as away:
        with pytest.raises(DispatchError):
            await Breakers(away).ask(*ONE)


async def test_that_nothing_is_wrong_is_believed_for_a_moment_and_a_failure_known_at_once(
    breakers: Breakers, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidgen.breaker.CLEAR_FOR_S", 3600.0)
    assert await breakers.ask(*ONE) == Passage(wait_s=0, is_marked=False)
    async with open_redis(redis_url) as another:
        for _ in range(FAILURES_TO_OPEN):
            await Breakers(another).failed(*ONE)

    assert await breakers.ask(*ONE) == Passage(wait_s=0, is_marked=False)
    assert (await breakers.ask("veo", "server")).wait_s == 0

    await breakers.failed(*ONE)
    assert (await breakers.ask(*ONE)).wait_s > 0


async def test_what_others_found_out_is_heard_a_moment_later(
    breakers: Breakers, redis_url: str
) -> None:
    await breakers.ask(*ONE)
    async with open_redis(redis_url) as another:
        for _ in range(FAILURES_TO_OPEN):
            await Breakers(another).failed(*ONE)

    async with asyncio.timeout(10):
        while True:
            if (await breakers.ask(*ONE)).wait_s:
                return
            await asyncio.sleep(0.01)
