"""
This machine's clock against those of PostgreSQL, Redis and the bucket.

The database's clock decides leases and due dates, so much is forgiven; but S3 refuses requests that
are signed 15 minutes off, and receivers refuse webhooks that are 5 minutes off.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from vidgen.dispatch import open_redis, redis_errors
from vidgen.doctor.finding import Finding, ok, problem, warning
from vidgen.errors import DatabaseError, DispatchError, SettingsError, StorageError
from vidgen.resources import open_storage
from vidgen.settings import Settings
from vidgen.store import inspection
from vidgen.store.pool import connect

CLOCKS = "clocks"

SHOULD_S = 2.0
MUST_S = 60.0
ROUNDS = 3
SECOND_S = 1.0  # the finest that HTTP's header Date tells

Now = Callable[[], datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offset:
    """
    How far a server is ahead of this machine.

    Attributes:
        doubt_s: So much more or less it may be.
    """

    server: str
    ahead_s: float
    doubt_s: float

    @property
    def least_s(self) -> float:
        """How far off it is at least, in either direction."""
        return max(abs(self.ahead_s) - self.doubt_s, 0.0)


def _now() -> datetime:
    return datetime.now(UTC)


async def clocks(settings: Settings, now: Now = _now) -> Finding:
    """Whether this machine and all servers agree on the time, as *now* tells it here."""
    async with asyncio.TaskGroup() as group:
        asked = {
            "PostgreSQL": group.create_task(_postgresql(settings, now)),
            "Redis": group.create_task(_redis(settings, now)),
            "the bucket": group.create_task(_bucket(settings, now)),
        }
    offsets = [offset for task in asked.values() if (offset := task.result()) is not None]
    silent = [name for name, task in asked.items() if task.result() is None]
    if not offsets:
        return warning(CLOCKS, "no server told its time", "mend the servers first")
    unknown = f"; {_listed(silent)} told no time" if silent else ""
    off = [offset for offset in offsets if offset.least_s > SHOULD_S]
    if not off:
        worst_s = max(offset.least_s for offset in offsets)
        names = _listed([offset.server for offset in offsets])
        return ok(CLOCKS, f"within {max(worst_s, 0.1):.1f} s of {names}{unknown}")
    told = "; ".join(
        f"{_span(offset.ahead_s)} {'behind' if offset.ahead_s > 0 else 'ahead of'} {offset.server}"
        for offset in off
    )
    kind = problem if max(offset.least_s for offset in off) > MUST_S else warning
    at_fault = "this machine" if len(off) == len(offsets) > 1 else "whichever is wrong"
    return kind(
        CLOCKS,
        f"this machine is {told}{unknown}",
        f"set the clock of {at_fault}, and keep it set: chrony or systemd-timesyncd"
        " (timedatectl set-ntp true)",
    )


async def _postgresql(settings: Settings, now: Now) -> Offset | None:
    try:
        async with connect(settings.database_url) as connection:
            return await _measured("PostgreSQL", lambda: inspection.clock(connection), now)
    except DatabaseError:
        return None


async def _redis(settings: Settings, now: Now) -> Offset | None:
    try:
        async with open_redis(settings.redis_url) as client:

            async def ask() -> datetime:
                async with redis_errors("ask Redis for the time"):
                    seconds, micros = await client.time()
                return datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=micros)

            return await _measured("Redis", ask, now)
    except DispatchError:
        return None


async def _bucket(settings: Settings, now: Now) -> Offset | None:
    try:
        async with open_storage(settings) as storage:
            return await _measured("the bucket", storage.clock, now, step_s=SECOND_S)
    except (StorageError, SettingsError):
        return None


async def _measured(
    server: str, ask: Callable[[], Awaitable[datetime | None]], now: Now, *, step_s: float = 0.0
) -> Offset | None:
    """The offset by the quickest of a few answers, which has the least doubt; None if untold."""
    found: list[Offset] = []
    for _ in range(ROUNDS):
        before = now()
        at = await ask()
        took_s = (now() - before).total_seconds()
        if at is None:
            return None
        middle = before + timedelta(seconds=took_s / 2)
        ahead_s = (at - middle).total_seconds() + step_s / 2
        found.append(Offset(server=server, ahead_s=ahead_s, doubt_s=(took_s + step_s) / 2))
    return min(found, key=lambda offset: offset.doubt_s)


def _span(seconds: float) -> str:
    seconds = abs(seconds)
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.1f} s"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
