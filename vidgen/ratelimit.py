"""
Turns to submit: at most so many a minute over all workers, per provider and credential.

A sliding window of exact turns in Redis. Whoever gets a turn within the horizon has it reserved;
everybody else is told when to come back, in the order of asking, so that a long line costs neither
reservations that block urgent jobs nor a stampede. Redis emptied means one fresh window, no more.
"""

from dataclasses import dataclass
from uuid import UUID

from redis.asyncio import Redis

from vidgen.dispatch import redis_errors

WINDOW_S = 60.0
# How far ahead turns are handed out; a job of higher priority waits that long at most.
HORIZON_S = 30.0

_RESERVE = """
local turns, tail = KEYS[1], KEYS[2]
local limit, window, horizon = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local ahead, job = ARGV[4] == '1', ARGV[5]
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
    redis.call('ZADD', turns, at, job .. ':' .. at)
    redis.call('PEXPIRE', turns, at - now + window)
    return {1, at - now}
end
if ahead then
    return {0, at - now - horizon / 2}
end
local back = math.max(last, at - horizon / 2, now) + window / limit
redis.call('SET', tail, back, 'PX', math.ceil(back - now) + 1)
return {0, back - now}
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
        key = f"vidgen:turns:{provider}:{credential_id}"
        async with redis_errors("ask for a turn"):
            reserved, wait_ms = await self._reserve(
                keys=[key, f"{key}:tail"],
                args=[
                    self._limit_per_min,
                    self._window_ms,
                    self._horizon_ms,
                    int(ahead),
                    f"{job_id}",
                ],
            )
        return Turn(reserved=bool(reserved), wait_s=int(wait_ms) / 1000)

    async def used(self, provider: str, credential_id: str) -> int:
        """
        How many turns of the last minute, and of those handed out ahead, are taken.

        Raises:
            DispatchError: Redis is away.
        """
        async with redis_errors("count turns"):
            seconds, micros = await self._redis.time()
            since = seconds * 1000 + micros // 1000 - self._window_ms
            count: int = await self._redis.zcount(
                f"vidgen:turns:{provider}:{credential_id}", since, "+inf"
            )
        return count
