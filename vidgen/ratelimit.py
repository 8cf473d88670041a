"""
Turns to submit: at most so many a minute over all workers, per provider and credential.

A sliding window of exact turns in Redis. Whoever gets a turn within the horizon has it reserved;
everybody else is told when to come back, in the order of asking, so that a long line costs neither
reservations that block urgent jobs nor a stampede. Who was told stays away until then; whether the
turns are taken meanwhile is looked at by `pipeline.recall`, which knows who still waits.

Many users may share one quota. Each has a line of their own, and what they got is counted in
seconds of video: start-time fair queueing, of P. Goyal, H. Vin and H. Cheng (SIGCOMM 1996), with a
burst. A turn is denied as long as somebody waits who got less; one that nobody else could use now
is not. Who comes after a while without jobs may catch up on two windows of the limit, so that a few
videos need not share with thousands that were there before.

A step of priority is a head start of `HEAD_START_MS` of video, as in `vidgen.line`. Those of one
priority share among themselves: who joins them begins where they have got to. Who is on a head
start comes back before anybody else and waits behind no line; what is served on it uses it up, and
then they share with everybody, so that nobody waits for ever.

Redis may be emptied at any moment: each process remembers its own turns of the last window and puts
them back, with the next one it asks for or the next `remind`. So one worker keeps to the limit,
however often that happens, but for turns whose answer was on its way just then. Several may each
use what the others have not put back yet: in any window at most one limit for each worker.
"""

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from redis.asyncio import Redis

from vidgen.dispatch import redis_errors
from vidgen.job import USUAL_SECONDS
from vidgen.line import HEAD_START_MS, hashed

WINDOW_S = 60.0
# The provider counts what arrives, and a turn may be used late: by `submit.TURN_KEPT_S`, the
# intent, and the way. Without this margin 67 submits of a limit of 60 arrived within a minute,
# while three workers on a busy machine were replaced again and again.
MARGIN_S = 3.0
# How far ahead turns are handed out; who comes with a head start waits that long at most.
HORIZON_S = 30.0

# Of the horizon: how long before a turn somebody is told to come back for it.
EARLY = 0.5
URGENT_EARLY = 0.9

FEW_TURNS = 64

# Tells whether Redis was emptied since a process looked last.
MARK = "vidgen:turns:mark"

# What somebody who was told to come back may take until they ask: a dispatch, a claim.
LATE_MS = 3000
# For each turn of the limit, of video: what whoever had no jobs for a while may catch up on.
BURST_MS = 2 * USUAL_SECONDS * 1000

# Those of one user and priority wait one behind the other: `lines` has when the last was told to
# come back. `shares` has what they got, in milliseconds of video since the beginning, head starts
# taken off; under '' what the one has who is served now, and under a priority how far those of it
# have got. Nobody falls behind that by more than the burst.
_RESERVE = """
local turns, lines, shares, mark_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local limit, window, horizon = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local came_back, job = ARGV[4] == '1', ARGV[5]
local known_mark, new_mark = ARGV[6], ARGV[7]
local user, cost, late = ARGV[8], tonumber(ARGV[9]), tonumber(ARGV[10])
local burst = limit * tonumber(ARGV[11])
local early, urgent_early = tonumber(ARGV[12]), tonumber(ARGV[13])
local priority, step = tonumber(ARGV[14]), tonumber(ARGV[15])
local mark = redis.call('GET', mark_key)
if not mark then
    redis.call('SET', mark_key, new_mark)
    mark = new_mark
end
if mark ~= known_mark then
    return {-1, 0, '', mark}
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', turns, '-inf', now - window)
local at = now
if redis.call('ZCARD', turns) >= limit then
    local turn = redis.call('ZRANGE', turns, -limit, -limit, 'WITHSCORES')
    at = math.max(now, tonumber(turn[2]) + window + 1)
end
redis.call('ZREMRANGEBYSCORE', lines, '-inf', now - late)
local last = tonumber(redis.call('ZSCORE', lines, user) or '0')
local known = redis.call('ZMSCORE', shares, '', user, priority)
local served = tonumber(known[1] or '0')

-- Where those of a priority begin who did not fall behind.
local function reached(of)
    if of == 0 then return served end
    local score = known[3]
    if of ~= priority then score = redis.call('ZSCORE', shares, tostring(of)) end
    local far = tonumber(score or '-inf')
    return math.max(served - of * step, far)
end

local begin = reached(priority)
local least = begin - burst
local share = math.max(tonumber(known[2] or least), least)
-- Before all who have none, also those who have still to catch up.
local has_head_start = share < served - burst
if has_head_start then early = urgent_early end
local ahead = came_back or has_head_start

local function told(back)
    redis.call('ZADD', lines, math.max(back, last), user)
    local longest = tonumber(redis.call('ZRANGE', lines, -1, -1, 'WITHSCORES')[2])
    redis.call('PEXPIRE', lines, math.ceil(longest - now) + late + 1)
    if not known[2] then
        redis.call('ZADD', shares, share, user)
    end
    redis.call('PEXPIRE', shares, math.ceil(longest - now) + window + horizon)
    return {0, back - now}
end

-- How many others wait who got less, or as much.
local function rivals(most)
    local count = 0
    for _, other in ipairs(redis.call('ZRANGEBYSCORE', shares, '-inf', most, 'LIMIT', 0, 100)) do
        if other ~= '' and other ~= user and redis.call('ZSCORE', lines, other) then
            count = count + 1
        end
    end
    return count
end

local pace = window / limit
if at > now and rivals('(' .. share) > 0 then
    local back = now + math.max(at - now - early, pace)
    -- On a head start all of them are here at once: from now on one behind the other.
    if priority > 0 then back = math.max(back, last + pace) end
    return told(back)
end
if at - now <= horizon and (ahead or last <= now) then
    -- A job may need several turns within one window (refused, asked again): each counts.
    local turn = job .. ':' .. at
    redis.call('ZADD', turns, at, turn)
    redis.call('PEXPIRE', turns, at - now + window)
    redis.call('ZADD', shares, share + cost, user, math.max(served, share), '')
    if priority > 0 then
        redis.call('ZADD', shares, math.max(begin, share), tostring(priority))
    end
    -- Who fell behind by the whole burst needs no entry, unless they wait.
    local old = redis.call(
        'ZRANGEBYSCORE', shares, '-inf', served - burst, 'WITHSCORES', 'LIMIT', 0, 20
    )
    for n = 1, #old, 2 do
        local other, got = old[n], tonumber(old[n + 1])
        local of = tonumber(string.match(other, '^(%d):') or string.match(other, '^%d$') or 0)
        if other ~= '' and other ~= user and got <= reached(of) - burst
            and not redis.call('ZSCORE', lines, other) then
            redis.call('ZREM', shares, other)
        end
    end
    redis.call('PEXPIRE', shares, math.max(redis.call('PTTL', shares), at - now + window + horizon))
    return {1, at - now, turn, at}
end
if ahead then
    return told(at - early)
end
-- Those of one user come back as fast as the limit and others allow.
return told(math.max(last, at - early, now) + pace * (1 + rivals(share)))
"""

# Another Redis may have taken over, with another clock: what cannot be by its clock is left out.
_RESTORE = """
local turns = KEYS[1]
local window, horizon = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for n = 3, #ARGV, 2 do
    local turn, at = ARGV[n], tonumber(ARGV[n + 1])
    if at > now - window and at <= now + horizon then
        redis.call('ZADD', turns, at, turn)
        redis.call('PEXPIRE', turns, horizon + window)
    end
end
"""

# From the third argument on: who waits, and how many of theirs.
_FREE = """
local turns, lines = KEYS[1], KEYS[2]
local limit, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local users, waiting = (#ARGV - 2) / 2, {}
for n = 3, #ARGV, 2 do
    waiting[ARGV[n]] = tonumber(ARGV[n + 1])
end
for _, user in ipairs(redis.call('ZRANGEBYSCORE', lines, '(' .. (now + window), '+inf')) do
    local last = tonumber(redis.call('ZSCORE', lines, user))
    local jobs = waiting[string.match(user, '%x+$')] or 0
    local longest = now + window + jobs * users * window / limit
    if last > longest then
        redis.call('ZADD', lines, longest, user)
    end
end
return limit - redis.call('ZCOUNT', turns, '(' .. (now - window), '+inf')
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """
    The answer to asking for a turn.

    Attributes:
        reserved: The turn is ours in *wait_s* seconds; else ask again then.
    """

    reserved: bool
    wait_s: float


class RateLimit:
    """
    One limit for every pair of provider and credential.

    Args:
        limit_per_min: Turns in any *window_s* seconds, which is a minute.
        horizon_s: How far ahead turns are handed out.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        limit_per_min: int,
        window_s: float = WINDOW_S,
        horizon_s: float = HORIZON_S,
    ) -> None:
        """Count in *redis*."""
        self._redis = redis
        self._limit_per_min = limit_per_min
        self._window_ms = round(window_s * 1000)
        self._horizon_ms = round(horizon_s * 1000)
        self._reserve = redis.register_script(_RESERVE)
        self._restore = redis.register_script(_RESTORE)
        self._free = redis.register_script(_FREE)
        self._mark = ""
        self._putting_back = asyncio.Lock()
        self._granted: dict[str, dict[str, int]] = {}
        self._granted_at = 0.0
        self._prune_at: dict[str, int] = {}

    async def reserve(
        self,
        provider: str,
        credential_id: str,
        job_id: UUID,
        *,
        ahead: bool,
        priority: int = 0,
        user_id: str | None = None,
        seconds: int = USUAL_SECONDS,
    ) -> Turn:
        """
        Ask for a turn to submit.

        Args:
            ahead: Do not queue behind those of the same user who were told to come back: for
                whoever comes back.
            priority: For each step a head start, which those of the same one share and use up.
            user_id: Who shares the quota with others; all without one are one user.
            seconds: Of video; what the turn is worth when it is shared.

        Raises:
            DispatchError: Redis is away, so nobody knows; nothing may be submitted.
        """
        key = _key(provider, credential_id)
        # A release before knows those without a priority by the same name.
        name = f"{priority}:{hashed(user_id)}" if priority else hashed(user_id)
        async with redis_errors("ask for a turn"):
            while True:
                args: list[str | int] = [self._limit_per_min, self._window_ms, self._horizon_ms]
                args += [int(ahead), f"{job_id}", self._mark, secrets.token_hex(8)]
                args += [name, seconds * 1000, LATE_MS, BURST_MS]
                args += [round(self._horizon_ms * early) for early in (EARLY, URGENT_EARLY)]
                args += [priority, HEAD_START_MS]
                reserved, wait_ms, *more = await self._reserve(
                    keys=[key, f"{key}:lines", f"{key}:shares", MARK], args=args
                )
                if reserved != -1:
                    break
                await self._put_back(mark=more[1].decode())
        if reserved:
            self._remember(key, more[0].decode(), at_ms=int(more[1]), wait_ms=int(wait_ms))
        return Turn(reserved=bool(reserved), wait_s=int(wait_ms) / 1000)

    async def remind(self) -> None:
        """
        Put our own turns back if Redis was emptied; cheap, and for every few seconds.

        Raises:
            DispatchError: Redis is away; the next one does it.
        """
        kept_s = (self._window_ms + self._horizon_ms) / 1000
        if not self._granted or asyncio.get_running_loop().time() > self._granted_at + kept_s:
            return
        async with redis_errors("look after turns"):
            mark = await self._redis.get(MARK)
            if mark is None:
                await self._redis.set(MARK, secrets.token_hex(8), nx=True)
                mark = await self._redis.get(MARK)
            if mark is not None and mark.decode() != self._mark:
                await self._put_back(mark.decode())

    async def free(
        self, provider: str, credential_id: str, *, waiting: Mapping[str | None, int]
    ) -> int:
        """
        How many turns could be had now. Lines are cut to what the jobs make them that each user has
        *waiting*, and a minute: nobody waits behind those who left.

        Raises:
            DispatchError: Redis is away.
        """
        await self.remind()
        key = _key(provider, credential_id)
        async with redis_errors("count free turns"):
            free = await self._free(
                keys=[key, f"{key}:lines"],
                args=[
                    self._limit_per_min,
                    self._window_ms,
                    *(word for user, jobs in waiting.items() for word in (hashed(user), jobs)),
                ],
            )
        return max(int(free), 0)

    async def used(self, provider: str, credential_id: str) -> int:
        """
        How many turns of the last minute, and of those handed out ahead, are taken.

        Raises:
            DispatchError: Redis is away.
        """
        async with redis_errors("count turns"):
            seconds, micros = await self._redis.time()
            since = seconds * 1000 + micros // 1000 - self._window_ms
            count: int = await self._redis.zcount(_key(provider, credential_id), since, "+inf")
        return count

    def _remember(self, key: str, turn: str, *, at_ms: int, wait_ms: int) -> None:
        kept = self._granted.setdefault(key, {})
        kept[turn] = at_ms
        self._granted_at = asyncio.get_running_loop().time()
        # Seldom enough that thousands of turns are not looked through with each new one.
        if len(kept) >= self._prune_at.get(key, FEW_TURNS):
            since_ms = at_ms - wait_ms - self._window_ms
            self._granted[key] = {name: at for name, at in kept.items() if at > since_ms}
            self._prune_at[key] = max(2 * len(self._granted[key]), FEW_TURNS)

    async def _put_back(self, mark: str) -> None:
        """Remind Redis of our turns of all accounts; from then on it is the one with *mark*."""
        async with self._putting_back:  # hundreds may have learnt of it in the same moment
            if mark == self._mark:
                return
            for key, turns in list(self._granted.items()):  # others may be asked for meanwhile
                args = [self._window_ms, self._horizon_ms, *_flat(turns)]
                await self._restore(keys=[key], args=args)
            self._mark = mark


def _key(provider: str, credential_id: str) -> str:
    return f"vidgen:turns:{provider}:{credential_id}"


def _flat(turns: Mapping[str, int]) -> list[str | int]:
    return [word for pair in turns.items() for word in pair]
