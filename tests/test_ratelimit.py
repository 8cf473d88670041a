"""
Turns under the rate limit. No test waits for a minute: the script knows only differences of times,
so `Clock.pass_` moves all it remembers into the past instead.
"""

import asyncio
import heapq
import itertools
import random
import statistics
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from redis.asyncio import Redis

from vidgen.dispatch import open_redis
from vidgen.errors import DispatchError
from vidgen.line import HEAD_START_MS
from vidgen.ratelimit import HORIZON_S, LATE_MS, MARGIN_S, MARK, WINDOW_S, RateLimit, Turn
from vidgen.resources import open_resources
from vidgen.settings import Settings

TURNS = "vidgen:turns:sora:server"
LINES, SHARES = f"{TURNS}:lines", f"{TURNS}:shares"
WINDOW_MS = WINDOW_S * 1000

# What a slow machine may take between two questions that are meant to be at the same moment.
SAME_MOMENT_S = 2.0


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with open_redis(redis_url) as redis:
        yield redis


class Clock:
    """Time as the script sees it, with leaps."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._leapt_ms = 0

    async def pass_(self, seconds: float) -> None:
        """Let *seconds* go by."""
        ms = round(seconds * 1000)
        turns = await self._redis.zrange(TURNS, 0, -1, withscores=True)
        await self._redis.delete(TURNS)
        for number, (member, at) in enumerate(turns):
            # The script names turns after their time, which must not come twice.
            await self._redis.zadd(TURNS, {b"%b/%d" % (member, number): at - ms})
        async for line in self._redis.scan_iter(f"{LINES}*"):
            for user, last in await self._redis.zrange(line, 0, -1, withscores=True):
                await self._redis.zadd(line, {user: last - ms})
        self._leapt_ms += ms

    async def tick(self) -> None:
        """Wait for the next millisecond."""
        now_ms = await self.now_ms()
        while await self.now_ms() == now_ms:
            pass

    async def turns_ms(self) -> dict[bytes, float]:
        """All turns that are remembered, and when they are."""
        turns = await self._redis.zrange(TURNS, 0, -1, withscores=True)
        return {b"%d:%b" % (self._leapt_ms, member): at + self._leapt_ms for member, at in turns}

    async def now_ms(self) -> float:
        seconds, micros = await self._redis.time()
        return float(seconds * 1000 + micros // 1000 + self._leapt_ms)


async def ask(limit: RateLimit, number: int = 1, **more: Any) -> Turn:
    return await limit.reserve("sora", "server", UUID(int=number), **{"ahead": False} | more)


def assert_never_more_than(limit: int, turns_ms: Iterable[float]) -> None:
    ordered = sorted(turns_ms)
    for first, one_too_many in zip(ordered, ordered[limit:], strict=False):
        assert one_too_many - first >= WINDOW_MS


async def test_the_first_ones_go_at_once_and_the_next_is_told_when_to_come_back(
    redis: Redis,
) -> None:
    limit = RateLimit(redis, limit_per_min=3)

    turns = [await ask(limit, number) for number in range(4)]

    assert turns[:3] == [Turn(reserved=True, wait_s=0)] * 3
    assert not turns[3].reserved
    # Half a horizon before there is room, and one place in the line behind it.
    assert turns[3].wait_s == pytest.approx(60 - 15 + 20, abs=SAME_MOMENT_S)


async def test_turns_of_a_worker_are_a_little_more_than_a_minute_apart_as_they_may_be_used_late(
    settings: Settings,
) -> None:
    async with open_resources(settings.model_copy(update={"rate_limit_per_min": 1})) as resources:
        await ask(resources.rate_limit)
        told = await ask(resources.rate_limit, 2, ahead=True)

    until_the_turn = told.wait_s + HORIZON_S / 2
    assert until_the_turn == pytest.approx(WINDOW_S + MARGIN_S, abs=SAME_MOMENT_S)


async def test_turns_are_handed_out_as_far_as_the_horizon_and_then_a_line_is_made(
    redis: Redis,
) -> None:
    limit = RateLimit(redis, limit_per_min=3, horizon_s=130)

    turns = [await ask(limit, number) for number in range(12)]

    assert [turn.reserved for turn in turns] == [True] * 9 + [False] * 3
    waits = [0, 0, 0, 60, 60, 60, 120, 120, 120, *(180 - 65 + place * 20 for place in (1, 2, 3))]
    assert [turn.wait_s for turn in turns] == pytest.approx(waits, abs=SAME_MOMENT_S)


async def test_a_turn_comes_back_after_the_window(redis: Redis) -> None:
    limit, clock = RateLimit(redis, limit_per_min=1), Clock(redis)

    assert (await ask(limit)).reserved
    await clock.pass_(WINDOW_S - 20)
    near = await ask(limit, 2)
    assert near.reserved
    assert near.wait_s == pytest.approx(20, abs=SAME_MOMENT_S)
    await clock.pass_(WINDOW_S + 20)
    assert await ask(limit, 3) == Turn(reserved=True, wait_s=0)


async def test_of_many_who_ask_at_once_only_so_many_go(redis: Redis) -> None:
    limit = RateLimit(redis, limit_per_min=10)

    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(ask(limit, number)) for number in range(100)]

    turns = [each.result() for each in asked]
    assert sum(turn.reserved for turn in turns) == 10
    told_s = sorted(turn.wait_s for turn in turns if not turn.reserved)
    gaps = [later - sooner for sooner, later in itertools.pairwise(told_s)]
    assert min(gaps) > 6 - SAME_MOMENT_S  # one by one, at the speed of the limit


async def test_a_job_that_asks_again_uses_up_another_turn(redis: Redis) -> None:
    limit, clock = RateLimit(redis, limit_per_min=3), Clock(redis)

    turns = []
    for _ in range(4):
        turns.append(await ask(limit, 1, ahead=True))
        await clock.tick()

    assert [turn.reserved for turn in turns] == [True, True, True, False]


async def test_a_newcomer_does_not_overtake_those_who_were_told_to_come_back(
    redis: Redis,
) -> None:
    limit, clock = RateLimit(redis, limit_per_min=2), Clock(redis)
    for number in range(2):
        await ask(limit, number)
    third = await ask(limit, 3)
    await clock.pass_(50)  # there is room within the horizon now, and the third is on its way

    newcomer = await ask(limit, 4)
    third_again = await ask(limit, 3, ahead=True)

    assert third.wait_s > 50
    assert third_again.reserved
    assert not newcomer.reserved
    assert newcomer.wait_s > third.wait_s - 50


async def test_an_urgent_job_does_not_queue_behind_the_line(redis: Redis) -> None:
    limit, clock = RateLimit(redis, limit_per_min=2), Clock(redis)
    for number in range(20):
        await ask(limit, number)

    too_early = await ask(limit, 90, ahead=True)
    await clock.pass_(too_early.wait_s)
    urgent = await ask(limit, 90, ahead=True)

    assert not too_early.reserved
    assert urgent.reserved
    assert too_early.wait_s + urgent.wait_s == pytest.approx(WINDOW_S, abs=SAME_MOMENT_S)
    assert urgent.wait_s <= HORIZON_S


async def test_the_line_ends_when_its_last_one_was_due(redis: Redis) -> None:
    limit, clock = RateLimit(redis, limit_per_min=2), Clock(redis)
    turns = [await ask(limit, number) for number in range(3)]

    await clock.pass_(turns[-1].wait_s + WINDOW_S)

    assert await ask(limit, 9) == Turn(reserved=True, wait_s=0)


async def test_providers_and_credentials_have_limits_of_their_own(redis: Redis) -> None:
    limit = RateLimit(redis, limit_per_min=1)

    turns = [
        await limit.reserve(provider, credential, UUID(int=1), ahead=False)
        for provider, credential in [("sora", "a"), ("sora", "b"), ("veo", "a"), ("sora", "a")]
    ]

    assert [turn.reserved for turn in turns] == [True, True, True, False]


async def test_a_lower_limit_counts_at_once(redis: Redis) -> None:
    for number in range(10):
        await ask(RateLimit(redis, limit_per_min=10), number)

    assert not (await ask(RateLimit(redis, limit_per_min=2), 99, ahead=True)).reserved


async def test_however_often_redis_is_emptied_one_worker_keeps_to_the_limit(redis: Redis) -> None:
    limit = RateLimit(redis, limit_per_min=10)

    turns = []
    for number in range(40):
        turns.append(await ask(limit, number))
        await redis.flushall()
    await redis.script_flush()
    turns += [await ask(limit, number, ahead=True) for number in range(40)]

    assert sum(turn.reserved for turn in turns) == 10


async def test_of_those_who_ask_at_once_while_redis_is_emptied_only_so_many_go(
    redis: Redis,
) -> None:
    limit = RateLimit(redis, limit_per_min=10)

    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(ask(limit, number)) for number in range(100)]
        await redis.flushall()

    # What was granted while its answer was on the way is not remembered yet.
    assert sum(each.result().reserved for each in asked) <= 10 + 10
    assert not (await ask(limit, 200, ahead=True)).reserved


async def test_of_hundreds_that_ask_at_once_one_puts_the_turns_back(redis: Redis) -> None:
    limit = RateLimit(redis, limit_per_min=1000)
    for number in range(50):
        await ask(limit, number)
    await redis.flushall()
    await redis.config_resetstat()

    async with asyncio.TaskGroup() as group:
        for number in range(50, 150):
            group.create_task(ask(limit, number))

    added = (await redis.info("commandstats"))["cmdstat_zadd"]["calls"]
    assert added <= 50 + 2 * 100  # each turn once, and what a new one adds


async def test_workers_that_put_their_turns_back_keep_to_one_limit_together(redis: Redis) -> None:
    one, other = (RateLimit(redis, limit_per_min=10) for _ in range(2))
    turns = [await ask(one, number) for number in range(10)]
    await redis.flushall()

    await one.remind()
    turns += [await ask(other, number) for number in range(10, 20)]

    assert sum(turn.reserved for turn in turns) == 10


async def test_workers_that_do_not_may_use_one_limit_each(redis: Redis) -> None:
    limits = [RateLimit(redis, limit_per_min=5) for _ in range(3)]

    turns = []
    for number in range(60):
        turns.append(await ask(limits[number % 3], number))
        await redis.flushall()

    assert 5 <= sum(turn.reserved for turn in turns) <= 3 * 5


async def test_who_has_nothing_to_remember_asks_nothing(redis: Redis) -> None:
    before = (await redis.info("stats"))["total_commands_processed"]

    await RateLimit(redis, limit_per_min=5).remind()

    assert (await redis.info("stats"))["total_commands_processed"] == before + 1  # the question


async def test_the_turns_of_another_clock_are_not_put_back(redis: Redis) -> None:
    limit = RateLimit(redis, limit_per_min=1)
    await ask(limit)
    key, turns = next(iter(limit._granted.items()))
    hours_ms = 3 * 3600 * 1000
    for leap_ms in (hours_ms, -hours_ms):
        limit._granted[key] = {name: at + leap_ms for name, at in turns.items()}
        await redis.flushall()

        await limit.remind()

        assert await redis.exists(TURNS) == 0


async def test_a_line_is_no_longer_than_those_who_wait_make_it(redis: Redis) -> None:
    limit = RateLimit(redis, limit_per_min=10)
    told_s = [(await ask(limit, number)).wait_s for number in range(310)][-1]
    assert told_s > 1700

    assert await limit.free("sora", "server", waiting={None: 20}) == 0
    after_twenty = await ask(limit, 400)
    assert await limit.free("sora", "server", waiting={}) == 0
    after_none = await ask(limit, 401)

    assert after_twenty.wait_s == pytest.approx(60 + 20 * 6 + 6, abs=SAME_MOMENT_S)
    assert after_none.wait_s == pytest.approx(60 + 6, abs=SAME_MOMENT_S)


async def test_free_are_the_turns_that_could_be_had_now(redis: Redis) -> None:
    limit, clock = RateLimit(redis, limit_per_min=10), Clock(redis)
    for number in range(4):
        await ask(limit, number)

    assert await limit.free("sora", "server", waiting={}) == 6
    assert await RateLimit(redis, limit_per_min=3).free("sora", "server", waiting={}) == 0
    await clock.pass_(WINDOW_S + 1)
    assert await limit.free("sora", "server", waiting={}) == 10


async def test_nothing_is_remembered_for_longer_than_it_counts(redis: Redis) -> None:
    limit = RateLimit(redis, limit_per_min=2, horizon_s=70)
    waits_s = [(await ask(limit, number)).wait_s for number in range(5)]

    kept = {key.encode() for key in (TURNS, LINES, SHARES, MARK)}
    assert set(await redis.keys("*")) == kept
    assert 0 < await redis.pttl(TURNS) <= 2 * WINDOW_MS + 1
    line_ms = max(waits_s) * 1000
    assert 0 < await redis.pttl(LINES) <= line_ms + LATE_MS + 2
    assert 0 < await redis.pttl(SHARES) <= line_ms + WINDOW_MS + 70_000 + 2


async def test_without_redis_nobody_knows() -> None:
    async with open_redis("redis://127.0.0.1:1/0") as redis:
        with pytest.raises(DispatchError, match="ask for a turn"):
            await ask(RateLimit(redis, limit_per_min=2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """One job that wants a turn from *at_s* on."""

    at_s: float
    user_id: str | None = None
    seconds: int = 8
    priority: int = 0

    @property
    def wish(self) -> dict[str, Any]:
        return {"user_id": self.user_id, "seconds": self.seconds, "priority": self.priority}


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """When each job had its turn, and all turns in milliseconds."""

    served_s: list[float]
    turns_ms: list[float]


async def played(redis: Redis, per_min: int, askers: Sequence[Asker]) -> Play:
    """Let time leap from one question to the next until every job has had its turn."""
    await redis.flushall()
    limit, clock = RateLimit(redis, limit_per_min=per_min), Clock(redis)
    began_ms = await clock.now_ms()
    due = [(asker.at_s, number, False) for number, asker in enumerate(askers)]
    heapq.heapify(due)
    turns_ms: dict[bytes, float] = {}
    served_s: dict[int, float] = {}
    while due:
        at_s, number, came_back = heapq.heappop(due)
        await clock.pass_(max(at_s - (await clock.now_ms() - began_ms) / 1000, 0))
        asker = askers[number]
        turn = await ask(limit, number, ahead=came_back, **asker.wish)
        now_s = (await clock.now_ms() - began_ms) / 1000
        if turn.reserved:
            served_s[number] = now_s + turn.wait_s
            turns_ms |= await turns_of(redis, clock, number)
        else:
            heapq.heappush(due, (now_s + turn.wait_s, number, True))
    assert len(turns_ms) == len(askers)
    return Play(
        served_s=[served_s[number] for number in range(len(askers))],
        turns_ms=list(turns_ms.values()),
    )


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("per_min", "jobs"), [(10, 80), (3, 30), (60, 120)])
async def test_over_many_minutes_the_limit_holds_everybody_is_served_and_nothing_is_wasted(
    redis: Redis, per_min: int, jobs: int, seed: int
) -> None:
    dice = random.Random(seed)
    # Half of them come at once, the others over the minutes that this takes.
    arrivals_s = [dice.uniform(0, 60 * jobs / per_min) * dice.choice([0, 1]) for _ in range(jobs)]

    play = await played(redis, per_min, [Asker(at_s=at_s) for at_s in arrivals_s])

    assert_never_more_than(per_min, play.turns_ms)
    assert max(play.served_s) < 60 * (jobs / per_min + 2)
    overtaken_s = max(
        play.served_s[sooner] - play.served_s[later]
        for sooner, later in itertools.product(range(jobs), repeat=2)
        if arrivals_s[sooner] < arrivals_s[later]
    )
    assert overtaken_s <= WINDOW_S


@pytest.mark.parametrize("at_s", [0.5, 30, 70, 95.0, 200])
async def test_a_few_videos_wait_twice_as_long_beside_hundreds_of_another_user_at_most(
    redis: Redis, at_s: float
) -> None:
    few = [Asker(at_s=at_s, user_id="few") for _ in range(20)]
    many = [Asker(at_s=0, user_id="many") for _ in range(60)]

    alone = await played(redis, 10, few)
    beside = await played(redis, 10, [*few, *many])

    assert_never_more_than(10, beside.turns_ms)
    assert max(beside.served_s) < 60 * (80 / 10 + 2), "nothing is wasted"
    waits = [
        statistics.quantiles([served_s - at_s for served_s in play.served_s[:20]], n=20)[18]
        for play in (alone, beside)
    ]
    assert waits[1] <= 2 * waits[0] + WINDOW_S / 10, "one turn may be reserved before they come"


async def test_with_a_priority_a_few_share_with_many_of_it(redis: Redis) -> None:
    few = [Asker(at_s=70, user_id="few", priority=2) for _ in range(20)]
    many = [Asker(at_s=0, user_id="many", priority=2) for _ in range(50)]

    beside = await played(redis, 10, [*few, *many])

    assert_never_more_than(10, beside.turns_ms)
    # Alone ten of them go at once, and ten a window later.
    assert max(beside.served_s[:20]) - 70 <= 2 * WINDOW_S + WINDOW_S / 10


async def test_while_those_of_a_priority_share_hardly_anybody_without_one_goes_before_them(
    redis: Redis,
) -> None:
    few = [Asker(at_s=0, user_id="few", priority=2) for _ in range(15)]
    many = [Asker(at_s=0, user_id="many", priority=2) for _ in range(25)]
    others = [Asker(at_s=0, user_id="other") for _ in range(10)]

    play = await played(redis, 10, [*few, *many, *others])

    assert max(play.served_s) < 60 * (50 / 10 + 2), "nothing is wasted"
    urgent_s, others_s = play.served_s[:40], play.served_s[40:]
    assert sum(served_s < max(urgent_s) for served_s in others_s) <= 4


async def test_a_head_start_is_used_up_by_what_is_served_on_it(redis: Redis) -> None:
    urgent = [Asker(at_s=0, user_id="ada", priority=1, seconds=20) for _ in range(55)]
    others = [Asker(at_s=1, user_id="bob", seconds=20) for _ in range(5)]

    play = await played(redis, 10, [*urgent, *others])

    assert_never_more_than(10, play.turns_ms)
    assert max(play.served_s) < 60 * (60 / 10 + 2), "nothing is wasted"
    before = sum(served_s < min(play.served_s[55:]) for served_s in play.served_s[:55])
    on_head_start = HEAD_START_MS // 20_000
    assert on_head_start <= before <= on_head_start + 2 * 10, "turns within a horizon are reserved"
    # From then on they take turns.
    assert max(play.served_s[55:]) - min(play.served_s[55:]) <= 2 * WINDOW_S


async def test_whoever_joins_a_priority_begins_where_its_head_start_has_got_to(
    redis: Redis,
) -> None:
    first = [Asker(at_s=0, user_id="ada", priority=1, seconds=20) for _ in range(60)]
    joined = [Asker(at_s=250, user_id="eve", priority=1, seconds=20) for _ in range(25)]
    others = [Asker(at_s=251, user_id="bob", seconds=20) for _ in range(4)]

    play = await played(redis, 10, [*first, *joined, *others])

    before = sum(250 < served_s < max(play.served_s[85:]) for served_s in play.served_s[60:85])
    assert before <= 15, "she has no head start of her own before those of bob"


async def test_a_quota_is_shared_by_the_seconds_of_video(redis: Redis) -> None:
    short = [Asker(at_s=0, user_id="short", seconds=4) for _ in range(60)]
    long = [Asker(at_s=0, user_id="long", seconds=20) for _ in range(60)]

    play = await played(redis, 20, [*long, *short])

    shorts_s, longs_s = sorted(play.served_s[60:]), sorted(play.served_s[:60])
    beside = sum(served_s <= shorts_s[-1] for served_s in longs_s)
    # 240 s for one user; the other one has had its burst of 20 turns, and a window more, at most.
    assert 240 / 20 <= beside <= 240 / 20 + 20


async def test_who_left_holds_up_nobody(redis: Redis) -> None:
    limit, clock = RateLimit(redis, limit_per_min=10), Clock(redis)
    for number in range(40):
        await ask(limit, number, user_id="gone")
    await clock.pass_(40)
    kept = [await ask(limit, 100 + number, user_id="here") for number in range(11)]
    assert not kept[-1].reserved

    await limit.free("sora", "server", waiting={"here": 1})
    await clock.pass_(WINDOW_S + HORIZON_S)

    assert [(await ask(limit, 200 + n, user_id="here")).reserved for n in range(10)] == [True] * 10


async def turns_of(redis: Redis, clock: Clock, number: int) -> dict[bytes, float]:
    """The newest turn of job *number*, by its own name."""
    mine = {
        str(UUID(int=number)).encode(): at
        for name, at in (await clock.turns_ms()).items()
        if str(UUID(int=number)).encode() in name
    }
    assert len(mine) == 1
    return mine


async def test_turns_of_several_accounts_are_put_back_while_others_are_asked_for(
    redis: Redis,
) -> None:
    limit = RateLimit(redis, limit_per_min=10)
    for number in range(5):
        await limit.reserve("sora", f"known-{number}", UUID(int=number), ahead=False)
    await redis.flushall()

    async with asyncio.TaskGroup() as group:
        for number in range(10):
            name = f"new-{number}" if number % 2 else f"known-{number // 2}"
            group.create_task(limit.reserve("sora", name, UUID(int=100 + number), ahead=False))

    used = [await limit.used("sora", f"known-{number}") for number in range(5)]
    assert used == [2] * 5
