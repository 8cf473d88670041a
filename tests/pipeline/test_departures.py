"""Dispatches of claimed jobs leave Redis together, and what could not leave is told."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import pytest
from redis.asyncio import Redis

from vidgen.dispatch import Dispatch, Dispatcher, open_redis
from vidgen.errors import DispatchError
from vidgen.pipeline.departures import Departures
from vidgen.resources import Clock

QUEUE = "departures"
DISPATCHES = [Dispatch(job_id=UUID(int=number), epoch=0) for number in range(1, 4)]
IDS = [each.id for each in DISPATCHES]


class Observed(Dispatcher):
    """Tells when it was asked to take dispatches off, and has."""

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis, QUEUE)
        self.asked: list[list[str]] = []
        self.answered = asyncio.Event()

    async def take_off(self, dispatch_ids: Sequence[str]) -> None:
        self.asked.append(list(dispatch_ids))
        try:
            await super().take_off(dispatch_ids)
        finally:
            # By then `run` has taken it in.
            asyncio.get_running_loop().call_soon(self.answered.set)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with open_redis(redis_url) as redis:
        yield redis


@asynccontextmanager
async def departing(dispatcher: Dispatcher) -> AsyncIterator[Departures]:
    departures = Departures(dispatcher)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(departures.run())
        yield departures
        running.cancel()


async def test_what_is_claimed_in_the_same_moment_leaves_in_one(redis: Redis) -> None:
    dispatcher = Observed(redis)
    await dispatcher.send(DISPATCHES, now=Clock().now())
    async with asyncio.timeout(10), departing(dispatcher) as departures:
        for id_ in IDS:
            departures.begin(id_)
        await dispatcher.answered.wait()

        assert dispatcher.asked == [IDS]
        assert await redis.keys("*") == []
        assert [departures.end(id_) for id_ in IDS] == [True, True, True]
        assert not departures.end(IDS[0]), "each is over once"


async def test_one_that_is_over_before_it_left_is_for_arq_to_tidy_up(redis: Redis) -> None:
    dispatcher = Observed(redis)
    async with asyncio.timeout(10), departing(dispatcher) as departures:
        departures.begin(IDS[0])
        assert not departures.end(IDS[0])
        await dispatcher.answered.wait()

        assert not departures.end(IDS[0]), "nothing is remembered of it"


async def test_what_could_not_leave_is_told_and_the_next_ones_leave() -> None:
    async with open_redis("redis://127.0.0.1:1") as away:
        dispatcher = Observed(away)
        async with asyncio.timeout(10), departing(dispatcher) as departures:
            for id_ in IDS[:2]:
                dispatcher.answered.clear()
                departures.begin(id_)
                await dispatcher.answered.wait()

            assert dispatcher.asked == [[IDS[0]], [IDS[1]]]
            assert not any(departures.end(id_) for id_ in IDS[:2])
            with pytest.raises(DispatchError):
                await dispatcher.take_off(IDS)
