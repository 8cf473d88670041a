"""
The line for places of workers: users share them by seconds of video. What is taken is looked at one
by one, as a worker with one place takes it.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from itertools import count
from math import ceil
from typing import Any
from uuid import UUID

import pytest
from redis.asyncio import Redis

from vidgen.dispatch import Dispatch, Dispatcher, arq_settings, open_redis
from vidgen.line import (
    HEAD_START_MS,
    LINE_BEGIN,
    LINE_END,
    line_up,
    share_name,
    shares_name,
)
from vidgen.worker import arq_redis

QUEUE = "vidgen:queue"
SHARES = shares_name(QUEUE)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with open_redis(redis_url) as redis:
        yield redis


def a_moment_ago() -> datetime:
    return datetime.now(UTC) - timedelta(seconds=1)


class Line:
    """What users send, and who is taken next."""

    def __init__(self, redis: Redis, redis_url: str) -> None:
        self.redis = redis
        self.dispatcher = Dispatcher(redis, QUEUE)
        self.worker = arq_redis(arq_settings(redis_url), QUEUE)
        self._numbers = count(1)
        self._users: dict[str, str] = {}

    async def send(self, user: str, jobs: int, **more: Any) -> list[Dispatch]:
        """Send so many dispatches of *user*; the bell rings in the worker."""
        sent = [
            Dispatch(job_id=UUID(int=next(self._numbers)), epoch=0, user_id=user, **more)
            for _ in range(jobs)
        ]
        self._users |= {each.id: user for each in sent}
        await self.dispatcher.send(sent, now=a_moment_ago())
        self.worker.bell.hear(b"0")
        return sent

    async def look(self) -> list[bytes]:
        """What a worker with a free place finds, the next one first."""
        now_ms = round(datetime.now(UTC).timestamp() * 1000)
        found: list[bytes] = await self.worker.zrangebyscore(
            QUEUE, min=float("-inf"), max=now_ms, start=0, num=200
        )
        return found

    async def take(self, jobs: int) -> list[str]:
        """Take the next ones, one by one; whose they are."""
        taken = []
        for _ in range(jobs):
            [id_, *_] = [name.decode() for name in await self.look()]
            assert await self.worker.take([id_], 1000)
            await self.dispatcher.take_off([id_])
            taken.append(self._users.get(id_, id_))
        return taken

    async def scores(self, sent: Iterable[Dispatch]) -> list[float | None]:
        return [await self.redis.zscore(QUEUE, each.id) for each in sent]


@pytest.fixture
async def line(redis: Redis, redis_url: str) -> AsyncIterator[Line]:
    line = Line(redis, redis_url)
    yield line
    await line.worker.aclose(close_connection_pool=True)


def places_of(user: str, taken: list[str]) -> list[int]:
    return [place for place, each in enumerate(taken, 1) if each == user]


def p95(places: list[int]) -> int:
    return sorted(places)[ceil(len(places) * 0.95) - 1]


async def test_twenty_videos_beside_ten_thousand_wait_at_most_twice_as_long_as_alone(
    line: Line,
) -> None:
    await line.send("bob", 20)
    alone = p95(places_of("bob", await line.take(20)))
    await line.send("ada", 10_000)
    assert await line.take(10) == ["ada"] * 10

    await line.send("bob", 20)
    taken = await line.take(40)

    assert p95(places_of("bob", taken)) <= 2 * alone
    assert Counter(taken) == {"ada": 20, "bob": 20}


async def test_what_is_shared_are_seconds_of_video(line: Line) -> None:
    await line.send("ada", 50, seconds=12)
    await line.take(3)

    await line.send("bob", 30, seconds=4)
    taken = await line.take(40)

    assert Counter(taken[:20]) == {"ada": 5, "bob": 15}
    assert Counter(taken) == {"ada": 10, "bob": 30}


async def test_each_of_many_users_goes_before_anybodys_second(line: Line) -> None:
    await line.send("ada", 300)
    await line.take(5)
    users = [f"user {number}" for number in range(40)]
    for user in users:
        await line.send(user, 2)

    first, second = await line.take(41), await line.take(41)

    assert sorted(first) == sorted(second) == sorted([*users, "ada"])


async def test_those_of_one_priority_share_and_go_before_lower_ones(line: Line) -> None:
    await line.send("cid", 50)
    await line.send("ada", 300, priority=5)
    await line.take(100)

    await line.send("bob", 10, priority=5)
    await line.send("ada", 5, priority=9)
    taken = await line.take(25)

    assert taken[:5] == ["ada"] * 5
    assert Counter(taken[5:]) == {"ada": 10, "bob": 10}
    assert max(places_of("bob", taken[5:])) >= 19, "and not before those of ada"


async def test_a_head_start_is_used_up_by_what_is_served_on_it(line: Line) -> None:
    before_it = HEAD_START_MS // 60_000  # videos of a minute
    await line.send("cid", 5, seconds=60)
    await line.send("ada", before_it + 50, seconds=60, priority=1)

    taken = await line.take(before_it + 8)

    assert "cid" not in taken[:before_it]
    assert Counter(taken[before_it:]) == {"ada": 4, "cid": 4}

    await line.send("bob", 4, seconds=60, priority=1)  # finds no head start left either
    assert Counter(await line.take(3)) == {"ada": 1, "bob": 1, "cid": 1}


async def test_who_sent_nothing_for_a_while_has_saved_nothing_up(line: Line) -> None:
    await line.send("ada", 200)
    await line.send("bob", 2)
    await line.take(60)

    await line.send("bob", 30)

    assert Counter(await line.take(20)) == {"ada": 10, "bob": 10}


async def test_who_was_alone_for_a_while_pays_nothing_for_it(line: Line) -> None:
    await line.send("ada", 60)
    await line.take(58)
    await line.send("ada", 30)
    await line.take(20)

    await line.send("bob", 30)

    assert Counter(await line.take(20)) == {"ada": 10, "bob": 10}


async def test_sending_again_moves_nobody_and_costs_nothing(line: Line) -> None:
    ada = await line.send("ada", 20)
    await line.send("bob", 20)
    await line.take(6)
    scores, shares = await line.scores(ada), await line.redis.zrange(SHARES, 0, -1, withscores=True)

    await line.dispatcher.send(ada[10:], now=a_moment_ago() + timedelta(seconds=5))
    await line.look()

    assert await line.scores(ada) == scores
    assert await line.redis.zrange(SHARES, 0, -1, withscores=True) == shares
    assert Counter(await line.take(20)) == {"ada": 10, "bob": 10}


async def test_an_emptied_redis_makes_a_new_line_that_is_shared(line: Line) -> None:
    ada = await line.send("ada", 40)
    await line.take(10)
    bob = await line.send("bob", 10)
    await line.take(4)
    await line.redis.flushall()

    lost, _ = await line.dispatcher.sort([*ada[12:], *bob[2:]])
    await line.dispatcher.send(lost, now=a_moment_ago())

    assert Counter(await line.take(16)) == {"ada": 8, "bob": 8}


async def test_without_its_shares_the_line_goes_on_where_it_is(line: Line) -> None:
    await line.send("ada", 300)
    await line.take(20)
    await line.redis.delete(SHARES)

    await line.send("bob", 10)

    assert Counter(await line.take(20)) == {"ada": 10, "bob": 10}


async def test_users_of_this_release_share_with_all_of_the_one_before(
    line: Line, redis: Redis
) -> None:
    old = [f"{UUID(int=10**6 + number)}.0" for number in range(30)]
    for id_ in old:  # by a service that was not replaced yet
        await redis.set(f"arq:job:{id_}", b'{"t":null,"f":"generate_video","a":[],"k":{},"et":1}')
        await redis.zadd(QUEUE, {id_: round(a_moment_ago().timestamp() * 1000)})
    await line.send("ada", 30)
    await line.take(6)
    await line.send("bob", 30)

    taken = ["old" if id_ in old else id_ for id_ in await line.take(30)]

    assert Counter(taken) == {"old": 10, "ada": 10, "bob": 10}


async def test_a_worker_of_the_release_before_does_not_hold_a_newcomer_up(line: Line) -> None:
    ada = await line.send("ada", 100)
    await line.look()
    for each in ada[:30]:  # it takes without a word about how far the line has got
        await line.dispatcher.take_off([each.id])

    await line.send("bob", 10)

    assert Counter(await line.take(20)) == {"ada": 10, "bob": 10}


async def test_what_is_paid_for_goes_before_all_others_the_oldest_first(line: Line) -> None:
    await line.send("ada", 20, priority=9)
    await line.take(1)
    paid = await line.send("bob", 3, ahead=True)
    await line.send("cid", 1, ahead=True, due_at=a_moment_ago() - timedelta(hours=1))

    assert await line.take(5) == ["cid", "bob", "bob", "bob", "ada"]
    assert await line.scores(paid) == [None] * 3


async def test_ticks_of_cron_do_not_wait_behind_thousands(line: Line, redis: Redis) -> None:
    await line.send("ada", 300)
    await line.take(1)
    await line.worker.enqueue_job("cron:cleanup", _job_id="cron:cleanup:1")
    line.worker.bell.hear(b"0")

    assert await line.take(2) == ["cron:cleanup:1", "ada"]


async def test_what_is_dropped_is_not_charged(line: Line) -> None:
    ada = await line.send("ada", 100)
    await line.send("cid", 100)
    await line.take(4)

    await line.dispatcher.drop(ada[2:])
    await line.send("ada", 20)

    assert Counter(await line.take(20)) == {"ada": 10, "cid": 10}


async def test_who_had_no_use_for_a_place_gets_it_back(line: Line) -> None:
    await line.send("cid", 100)
    ada = await line.send("ada", 50)
    await line.take(100)
    for each in ada:  # each was told to come back for its turn
        await line.dispatcher.refund(each)

    await line.send("ada", 20)

    assert Counter(await line.take(20)) == {"ada": 10, "cid": 10}


async def test_who_has_no_share_gets_nothing_back(line: Line, redis: Redis) -> None:
    await line.dispatcher.refund(Dispatch(job_id=UUID(int=1), epoch=0, user_id="ada"))

    assert await redis.keys("*") == []


async def test_what_is_called_sooner_lines_up_then(line: Line) -> None:
    await line.send("ada", 10)
    later = await line.send("bob", 1, due_at=datetime.now(UTC) + timedelta(hours=1))
    assert await line.take(3) == ["ada"] * 3

    await line.dispatcher.send(
        [Dispatch(job_id=later[0].job_id, epoch=0, user_id="bob")], now=datetime.now(UTC)
    )

    assert "bob" in await line.take(2)


async def test_as_long_as_there_is_room_nobody_lines_up(line: Line, redis: Redis) -> None:
    line.worker.free = lambda: 30
    ada = await line.send("ada", 20)

    assert len(await line.look()) == 20

    assert all(score and score >= LINE_END for score in await line.scores(ada))
    assert not await redis.exists(SHARES)


async def test_once_nobody_is_in_line_it_begins_anew(line: Line) -> None:
    await line.send("ada", 50)
    await line.take(50)

    [first, *_] = await line.send("ada", 2)
    await line.look()

    assert await line.scores([first]) == [LINE_BEGIN]


async def test_what_users_got_is_forgotten_behind_the_longest_head_start(
    line: Line, redis: Redis
) -> None:
    await line.send("ada", 60, seconds=600)
    for number in range(30):
        await line.send(f"user {number}", 1, seconds=4, priority=number % 10)
    await line.take(31)
    assert await redis.zscore(SHARES, share_name("user 0", 0))

    await line.take(12)  # two hours of video
    await line.send("ada", 1)
    await line.look()

    names = [name.decode() for name in await redis.zrange(SHARES, 0, -1)]
    assert [name for name in names if ":" in name] == [share_name("ada", 0)]
    assert 0 < await redis.pttl(SHARES) <= 7 * 24 * 3600 * 1000


async def test_a_long_line_costs_a_place_no_more_than_a_short_one(line: Line) -> None:
    await line.send("ada", 5_000)
    await line.take(1)
    before = (await line.redis.info("stats"))["total_commands_processed"]

    await line.take(50)

    after = (await line.redis.info("stats"))["total_commands_processed"]
    # A look, four to take, two to take off; and a line up each second, if the machine is slow.
    assert after - before <= 50 * 8


async def test_lining_up_twice_changes_nothing(line: Line) -> None:
    ada = await line.send("ada", 2_500)
    await line.send("bob", 10)

    assert await line_up(line.worker.lining_up, QUEUE, datetime.now(UTC)) == 2_510
    scores = await line.scores(ada[::100])
    assert await line_up(line.worker.lining_up, QUEUE, datetime.now(UTC)) == 0

    assert await line.scores(ada[::100]) == scores
