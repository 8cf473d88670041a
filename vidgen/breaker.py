"""
A provider that does not answer is left alone for a while: submits pause, polls and transfers go on.

    closed ──5 failures in a row──> open ──the pause is over──> half-open: one probe at a time
       ^                             ^                             │          │
       └────────── any answer ───────┼────────────────────────────┘          │
                                     └──────────── the probe fails ───────────┘

One breaker for each provider and credential over all workers, in Redis and by its clock. Redis
emptied means a closed breaker: a few more submits that are refused or time out, no more. That there
is nothing against a provider is believed for a moment: with hundreds of submits a second each would
ask.
"""

import asyncio
from dataclasses import dataclass

from redis.asyncio import Redis

from vidgen.dispatch import redis_errors

FAILURES_TO_OPEN = 5
FIRST_PAUSE_S = 15.0
LONGEST_PAUSE_S = 300.0
PROBE_S = 30.0  # after so long without a word from the probe another may try
# So late a process may hear what others found out. What it found out itself, it knows at once.
CLEAR_FOR_S = 0.2
# Accounts of which a process remembers that.
MAX_CLEAR = 1000
# What nobody asked about for so long is history.
FORGOTTEN_AFTER_S = 3600

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function number(name) return tonumber(redis.call('HGET', KEYS[1], name) or '0') end
"""

_WAIT = (
    _NOW
    + """
if number('pause') == 0 then return 0 end
if now < number('open_until') then return number('open_until') - now end
if now < number('probing_until') then return number('probing_until') - now end
redis.call('HSET', KEYS[1], 'probing_until', now + ARGV[1])
return 0
"""
)

_FAILED = (
    _NOW
    + """
local failures = redis.call('HINCRBY', KEYS[1], 'failures', 1)
redis.call('EXPIRE', KEYS[1], ARGV[4])
if failures < tonumber(ARGV[1]) then return 0 end
local pause = number('pause')
-- Calls that were under way when it opened say nothing new.
if pause > 0 and now < number('open_until') then return 0 end
pause = math.min(math.max(pause * 2, tonumber(ARGV[2])), tonumber(ARGV[3]))
redis.call('HSET', KEYS[1], 'pause', pause, 'open_until', now + pause, 'probing_until', 0)
return pause
"""
)

_ANSWERED = """
local pause = redis.call('HGET', KEYS[1], 'pause')
redis.call('DEL', KEYS[1])
return pause and 1 or 0
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerState:
    """
    How it stands with one provider and credential.

    Attributes:
        failures: Submits in a row that got no answer.
        pause_s: How long submits pause each time; 0 while the breaker is closed.
    """

    failures: int
    pause_s: float

    @property
    def is_open(self) -> bool:
        """Submits pause, or one of them probes."""
        return self.pause_s > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """
    The answer to who wants to submit.

    Attributes:
        wait_s: 0 lets it through; else how many seconds to wait before asking again.
        is_marked: There is something that an answer of the provider would mend.
    """

    wait_s: float
    is_marked: bool


class Breakers:
    """One breaker for each provider and credential, shared by all processes."""

    def __init__(self, redis: Redis) -> None:
        """Remember in *redis*."""
        self._redis = redis
        self._wait = redis.register_script(_WAIT)
        self._failed = redis.register_script(_FAILED)
        self._answered = redis.register_script(_ANSWERED)
        self._clear_until: dict[str, float] = {}
        self._asking: dict[str, asyncio.Event] = {}

    async def ask(self, provider: str, credential_id: str) -> Passage:
        """
        Ask to go through with a submit.

        After a pause the first one through is the probe, and the others wait for its outcome.

        Raises:
            DispatchError: Redis is away, so nobody knows.
        """
        key = _key(provider, credential_id)
        # Hundreds may come in one moment: if it is clear for the first, it is so for all.
        if (asking := self._asking.get(key)) is not None:
            await asking.wait()
        now = asyncio.get_running_loop().time()
        if now < self._clear_until.get(key, 0.0):
            return Passage(wait_s=0.0, is_marked=False)
        self._asking[key] = asking = asyncio.Event()
        try:
            async with redis_errors("ask the breaker"):
                failures, pause_ms = await self._redis.hmget(key, ["failures", "pause"])  # type: ignore[misc]  # redis 5 types it as either
            if failures is None and pause_ms is None:
                self._remember_clear(key, now)
        finally:
            asking.set()
            if self._asking.get(key) is asking:
                del self._asking[key]
        if not int(pause_ms or 0):
            return Passage(wait_s=0.0, is_marked=failures is not None)
        async with redis_errors("ask the breaker"):
            wait_ms = await self._wait(keys=[key], args=[round(PROBE_S * 1000)])
        return Passage(wait_s=int(wait_ms) / 1000, is_marked=True)

    async def answered(self, provider: str, credential_id: str) -> bool:
        """
        Take in any answer, also a refusal; True if the breaker was open.

        Raises:
            DispatchError: Redis is away; a later answer will do.
        """
        async with redis_errors("tell the breaker"):
            return bool(await self._answered(keys=[_key(provider, credential_id)]))

    async def failed(self, provider: str, credential_id: str) -> float:
        """
        Take in that no answer came; the seconds of the pause that begins now, or 0.

        Raises:
            DispatchError: Redis is away; a later failure will do.
        """
        key = _key(provider, credential_id)
        self._clear_until.pop(key, None)
        async with redis_errors("tell the breaker"):
            pause_ms = await self._failed(
                keys=[key],
                args=[
                    FAILURES_TO_OPEN,
                    round(FIRST_PAUSE_S * 1000),
                    round(LONGEST_PAUSE_S * 1000),
                    FORGOTTEN_AFTER_S,
                ],
            )
        return int(pause_ms) / 1000

    async def state(self, provider: str, credential_id: str) -> BreakerState:
        """
        How it stands, without asking to go through.

        Raises:
            DispatchError: Redis is away.
        """
        async with redis_errors("look at the breaker"):
            failures, pause_ms = await self._redis.hmget(  # type: ignore[misc]  # redis 5 types it as either
                _key(provider, credential_id), ["failures", "pause"]
            )
        return BreakerState(failures=int(failures or 0), pause_s=int(pause_ms or 0) / 1000)

    def _remember_clear(self, key: str, now: float) -> None:
        if len(self._clear_until) >= MAX_CLEAR:
            self._clear_until.clear()
        self._clear_until[key] = now + CLEAR_FOR_S


def _key(provider: str, credential_id: str) -> str:
    return f"vidgen:breaker:{provider}:{credential_id}"
