"""What people do to the queue as a whole: pauses, and the record of every action by hand."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import orjson

from vidgen.job import JsonValue
from vidgen.store.pool import Connection
from vidgen.store.rows import json_of

ALL = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """
    New jobs of a provider are not taken until somebody resumes it.

    Attributes:
        provider: None pauses all of them.
        by: Who wanted it.
    """

    provider: str | None
    by: str
    reason: str
    paused_at: datetime


async def pause(connection: Connection, provider: str | None, by: str, reason: str) -> None:
    """Take no new job of *provider*, or of anybody; the first one to say so is remembered."""
    await connection.execute(
        """
        INSERT INTO pauses (provider, by, reason) VALUES ($1, $2, $3)
        ON CONFLICT (provider) DO NOTHING
        """,
        provider or ALL,
        by,
        reason,
    )


async def resume(connection: Connection, provider: str | None) -> bool:
    """End the pause of *provider*, or the one of all; whether there was one."""
    ended = await connection.fetchval(
        "DELETE FROM pauses WHERE provider = $1 RETURNING true", provider or ALL
    )
    return bool(ended)


async def pauses(connection: Connection) -> list[Pause]:
    """All pauses that hold now, the one of all providers first."""
    rows = await connection.fetch(
        """
        SELECT nullif(provider, '*') AS provider, by, reason, paused_at FROM pauses
        ORDER BY provider <> '*', provider
        """
    )
    return [Pause(**row) for row in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One action by hand: who did what to what, and from where."""

    seq: int
    at: datetime
    who: str
    role: str
    address: str
    action: str
    target: str
    detail: Mapping[str, JsonValue]


async def note(
    connection: Connection,
    *,
    who: str,
    role: str,
    address: str,
    action: str,
    target: str,
    detail: Mapping[str, JsonValue],
) -> int:
    """Write one action down; its number."""
    seq: int = await connection.fetchval(
        """
        INSERT INTO audit (who, role, address, action, target, detail)
        VALUES ($1, $2, $3, $4, $5, $6)
        RETURNING seq
        """,
        who,
        role,
        address,
        action,
        target,
        json_of(detail),
    )
    return seq


async def aim(connection: Connection, seq: int, target: str) -> None:
    """Say what action number *seq* was done to, as that was not known before."""
    await connection.execute("UPDATE audit SET target = $2 WHERE seq = $1", seq, target)


async def take_back(connection: Connection, seq: int) -> None:
    """Forget action number *seq*: it was refused."""
    await connection.execute("DELETE FROM audit WHERE seq = $1", seq)


async def entries(connection: Connection, *, before: int | None, limit: int) -> list[AuditEntry]:
    """At most *limit* actions, the newest first, older than number *before*."""
    rows = await connection.fetch(
        """
        SELECT seq, at, who, role, address, action, target, detail FROM audit
        WHERE $1::bigint IS NULL OR seq < $1
        ORDER BY seq DESC LIMIT $2
        """,
        before,
        limit,
    )
    return [AuditEntry(**{**row, "detail": orjson.loads(row["detail"])}) for row in rows]


async def forget_entries(connection: Connection, keep: timedelta) -> None:
    """Delete actions that were done longer than *keep* ago."""
    await connection.execute("DELETE FROM audit WHERE at < now() - $1::interval", keep)
