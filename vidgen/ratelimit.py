"""
Turns to submit: at most so many a minute over all workers, per provider and credential.

A sliding window of exact turns in Redis. Whoever gets a turn within the horizon has it reserved;
everybody else is told when to come back, in the order of asking, so that a long line costs neither
reservations that block urgent jobs nor a stampede. Who was told stays away until then; whether the
turns are taken meanwhile is looked at by `pipeline.recall`, which knows who still waits.

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

WINDOW_S = 60.0
# How far ahead turns are handed out; a job of higher priority waits that long at most.
HORIZON_S = 30.0

# Tells whether Redis was emptied since a process looked last.
MARK = "vidgen:turns:mark"

_RESERVE = """
local turns, tail, mark_key = KEYS[1], KEYS[2], KEYS[3]
local limit, window, horizon = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local ahead, job = ARGV[4] == '1', ARGV[5]
local known_mark, new_mark = ARGV[6], ARGV[7]
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
local last = tonumber(redis.call('GET', tail) or '0')
local line = last > now
if at - now <= horizon and (ahead or not line) then
    -- A job may need several turns within one window (refused, asked again): each counts.
    local turn = job .. ':' .. at
    redis.call('ZADD', turns, at, turn)
    redis.call('PEXPIRE', turns, at - now + window)
    return {1, at - now, turn, at}
end
if ahead then
    return {0, at - now - horizon / 2}
end
local back = math.max(last, at - horizon / 2, now) + window / limit
redis.call('SET', tail, back, 'PX', math.ceil(back - now) + 1)
return {0, back - now}
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

_FREE = """
local turns, tail = KEYS[1], KEYS[2]
local limit, window, waiting = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local longest = now + window + waiting * window / limit
if tonumber(redis.call('GET', tail) or '0') > longest then
    redis.call('SET', tail, longest, 'PX', math.ceil(longest - now) + 1)
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
        self._granted: dict[str, dict[str, int]] = {}
        self._granted_at = 0.0

    async def reserve(
        self, provider: str, credential_id: str, job_id: UUID, *, ahead: bool
    ) -> Turn:
        """
        Ask for a turn to submit.

        Args:
            ahead: Do not queue behind those who were told to come back: for whoever comes back,
                and for jobs with priority.

        Raises:
            DispatchError: Redis is away, so nobody knows; nothing may be submitted.
        """
        key = _key(provider, credential_id)
        async with redis_errors("ask for a turn"):
            while True:
                args = [self._limit_per_min, self._window_ms, self._horizon_ms, int(ahead)]
                reserved, wait_ms, *more = await self._reserve(
                    keys=[key, f"{key}:tail", MARK],
                    args=[*args, f"{job_id}", self._mark, secrets.token_hex(8)],
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

    async def free(self, provider: str, credential_id: str, *, waiting: int) -> int:
        """
        How many turns could be had now. The line is cut to what *waiting* jobs and a minute make
        it: nobody waits behind those who left.

        Raises:
            DispatchError: Redis is away.
        """
        await self.remind()
        key = _key(provider, credential_id)
        async with redis_errors("count free turns"):
            free = await self._free(
                keys=[key, f"{key}:tail"], args=[self._limit_per_min, self._window_ms, waiting]
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
        since_ms = at_ms - wait_ms - self._window_ms
        kept = {name: at for name, at in self._granted.get(key, {}).items() if at > since_ms}
        self._granted[key] = kept | {turn: at_ms}
        self._granted_at = asyncio.get_running_loop().time()

    async def _put_back(self, mark: str) -> None:
        """Remind Redis of our turns of all accounts; from then on it is the one with *mark*."""
        for key, turns in list(self._granted.items()):  # another account may be asked for meanwhile
            await self._restore(keys=[key], args=[self._window_ms, self._horizon_ms, *_flat(turns)])
        self._mark = mark


def _key(provider: str, credential_id: str) -> str:
    return f"vidgen:turns:{provider}:{credential_id}"


def _flat(turns: Mapping[str, int]) -> list[str | int]:
    return [word for pair in turns.items() for word in pair]
