"""What was spent, by the ledger: it is read here, and written by triggers only."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

from vidgen.store.pool import Connection

By = Literal["day", "provider", "model", "user"]
MICROS_PER_DOLLAR = 1_000_000
BY: tuple[By, ...] = ("day", "provider", "model", "user")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """
    One entry; see `migrations/0011_money.sql` for what each kind means.

    Attributes:
        attempt: The one that it is about, or will be.
        payer: `server`, or `user` with a key of their own.
        uncertain: Only the provider knows whether it was paid: the estimate stands in.
    """

    seq: int
    at: datetime
    kind: str
    job_id: UUID
    attempt: int
    provider: str
    model: str
    payer: str
    user_id: str | None
    micros: int
    uncertain: bool


async def of_job(connection: Connection, job_id: UUID) -> list[Entry]:
    """Everything that was entered for a job, in order."""
    rows = await connection.fetch(
        """
        SELECT seq, at, kind, job_id, attempt, provider, model, payer, user_id, micros, uncertain
        FROM ledger WHERE job_id = $1 ORDER BY seq
        """,
        job_id,
    )
    return [Entry(**row) for row in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """
    What was spent on one day, with one provider, on one model or for one user; micro-dollars.

    Attributes:
        key: The day (in UTC), provider, model or user; None without a user, or a forgotten one.
        payer: `server`, or `user` with a key of their own.
        charged_micros: For videos.
        wasted_micros: For nothing; with *uncertain_micros*.
        uncertain_micros: The part of it that only the provider knows: by the estimate.
        jobs: How many it was spent on.
    """

    key: str | None
    payer: str
    charged_micros: int
    wasted_micros: int
    uncertain_micros: int
    jobs: int


# A table for people and their spreadsheets: dollars.
COLUMNS = ("key", "payer", "charged_usd", "wasted_usd", "uncertain_usd", "jobs")


def cells(spend: Spend) -> list[str]:
    """One row under *COLUMNS*."""
    amounts = (spend.charged_micros, spend.wasted_micros, spend.uncertain_micros)
    return [
        spend.key or "",
        spend.payer,
        *(f"{Decimal(micros) / MICROS_PER_DOLLAR:.6f}" for micros in amounts),
        str(spend.jobs),
    ]


async def spend(
    connection: Connection, *, by: By, since: datetime | None = None, until: datetime | None = None
) -> list[Spend]:
    """
    What was spent from *since* to before *until*: days in order, all else by what was spent most.
    """
    rows = await connection.fetch(
        """
        SELECT CASE $1
                   WHEN 'day' THEN to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD')
                   WHEN 'provider' THEN provider
                   WHEN 'model' THEN model
                   ELSE user_id
               END AS key,
               payer,
               coalesce(sum(micros) FILTER (WHERE kind = 'charged'), 0)::bigint AS charged_micros,
               coalesce(sum(micros) FILTER (WHERE kind = 'wasted'), 0)::bigint AS wasted_micros,
               coalesce(sum(micros) FILTER (WHERE uncertain), 0)::bigint AS uncertain_micros,
               count(DISTINCT job_id) AS jobs
        FROM ledger
        WHERE kind IN ('charged', 'wasted')
          AND ($2::timestamptz IS NULL OR at >= $2) AND ($3::timestamptz IS NULL OR at < $3)
        GROUP BY 1, 2
        ORDER BY CASE WHEN $1 = 'day' THEN 0 ELSE -sum(micros) END, key, payer
        """,
        by,
        since,
        until,
    )
    return [Spend(**row) for row in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """What all entries come to; micro-dollars."""

    reserved_micros: int
    released_micros: int
    charged_micros: int
    wasted_micros: int
    uncertain_micros: int

    @property
    def open_micros(self) -> int:
        """What is still reserved."""
        ended = self.released_micros + self.charged_micros + self.wasted_micros
        return self.reserved_micros - ended


async def balance(connection: Connection, job_ids: Sequence[UUID] | None = None) -> Balance:
    """The sums over all entries, or those of *job_ids*."""
    row = await connection.fetchrow(
        """
        SELECT coalesce(sum(micros) FILTER (WHERE kind = 'reserved'), 0)::bigint AS reserved_micros,
               coalesce(sum(micros) FILTER (WHERE kind = 'released'), 0)::bigint AS released_micros,
               coalesce(sum(micros) FILTER (WHERE kind = 'charged'), 0)::bigint AS charged_micros,
               coalesce(sum(micros) FILTER (WHERE kind = 'wasted'), 0)::bigint AS wasted_micros,
               coalesce(sum(micros) FILTER (WHERE uncertain), 0)::bigint AS uncertain_micros
        FROM ledger WHERE $1::uuid[] IS NULL OR job_id = ANY($1)
        """,
        None if job_ids is None else list(job_ids),
    )
    assert row is not None  # an aggregate always answers
    return Balance(**row)
