"""
All SQL on budgets: what may be spent, what of it is, and who is refused for it.

Triggers do the counting and the refusing (`migrations/0011_money.sql`), in the transaction that
reserves; whoever set off such a statement does so within `money_errors`.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal, NoReturn

import orjson
from asyncpg import LockNotAvailableError, PostgresError

from vidgen import catalog
from vidgen.errors import BudgetExceededError, DatabaseError, InvalidRequestError, PriceUnknownError
from vidgen.store.pool import Connection

Period = Literal["day", "month", "total"]
PERIODS: tuple[Period, ...] = ("day", "month", "total")
ALL, EACH_USER = "all", "each-user"
PROVIDER, USER = "provider:", "user:"
# Who set a budget that follows the environment.
SETTINGS = "settings"
WARN_AT = 0.8
MICROS_PER_DOLLAR = 1_000_000
MAX_LIMIT_MICROS = 10**15
# A new budget needs a moment without anybody who reserves; behind us all of them would queue up.
LOCK_TIMEOUT = "2s"
_EXCEEDED, _UNPRICED = "VG001", "VG002"
_EVERY = {"day": "a day", "month": "a month", "total": "in total"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """
    A limit, and how much of it is used in the current period. Money is in micro-dollars.

    Attributes:
        scope: `all`, `provider:NAME`, `user:ID`, or `each-user`: everybody who has none of their
            own.
        spent_micros: Charged or wasted; of *each-user* by the one who used most.
        reserved_micros: What jobs under way will cost by their estimates; as *spent_micros*.
        near: For *each-user*, how many have used 80 % or more; for others 0 or 1.
        starts_on: First day of the current period, in UTC; None if it has no beginning.
        frees_at: When the next one begins; None if none does.
        warned_at: Since when it is known that 80 % are used.
        by: Who set it; `settings` if it follows the environment.
    """

    scope: str
    period: Period
    limit_micros: int
    spent_micros: int
    reserved_micros: int
    near: int
    starts_on: date | None
    frees_at: datetime | None
    warned_at: datetime | None
    by: str
    set_at: datetime


def check(scope: str, period: str, limit_micros: int | None = None) -> None:
    """
    Refuse what no budget can be.

    Raises:
        InvalidRequestError, UnknownProviderError: The sentence says what was wanted.
    """
    kinds = (PROVIDER, USER)
    is_named = any(scope.startswith(kind) and len(scope) > len(kind) for kind in kinds)
    if scope not in {ALL, EACH_USER} and not is_named:
        raise InvalidRequestError(
            f"{scope!r:.60} is no scope of a budget; wanted: all, provider:NAME, user:ID or"
            " each-user."
        )
    if scope.startswith(PROVIDER):
        catalog.vendor(scope.removeprefix(PROVIDER))  # one that does not exist would hold nobody
    if "\0" in scope or any("\ud800" <= letter <= "\udfff" for letter in scope):
        raise InvalidRequestError("the scope of a budget is text that can be stored.")
    if period not in PERIODS:
        raise InvalidRequestError(f"{period!r:.60} is no period; wanted: day, month or total.")
    if limit_micros is not None and not 0 <= limit_micros <= MAX_LIMIT_MICROS:
        raise InvalidRequestError("a limit is 0 to 1,000,000,000 dollars.")


def period_of(text: str) -> Period:
    """The period that *text* is; `check` has seen it."""
    return next(period for period in PERIODS if period == text)


def named(scope: str) -> tuple[str, str | None]:
    """How the record of actions names *scope*: a user apart, so that they can be forgotten."""
    is_user = scope.startswith(USER)
    return ("user", scope.removeprefix(USER)) if is_user else (scope, None)


@asynccontextmanager
async def money_errors() -> AsyncIterator[None]:
    """
    Turn what the triggers say into errors of ours.

    Raises:
        BudgetExceededError: With the budget, its limit, what is used of it and when it frees.
        PriceUnknownError: With the model.
    """
    try:
        yield
    except PostgresError as error:
        if error.sqlstate == _EXCEEDED:
            _raise_exceeded(error)
        if error.sqlstate == _UNPRICED:
            told = orjson.loads(_detail(error))
            raise PriceUnknownError(
                f"Nobody knows the price of {told['provider']}/{told['model']}, and a budget is in"
                " force: VIDGEN_ALLOW_UNKNOWN_PRICES=true lets such jobs in, past all budgets."
            ) from None
        raise


def _raise_exceeded(error: PostgresError) -> NoReturn:
    told = orjson.loads(_detail(error))
    scope, period = told["scope"], told["period"]
    frees_at = _next(period, date.fromisoformat(told["starts_on"]))
    spent, reserved, wanted = (
        int(told[f"{name}_micros"]) for name in ("spent", "reserved", "wanted")
    )
    whose = {ALL: "all videos", "user": "this user"}.get(scope, scope.removeprefix(PROVIDER))
    until = f" It frees at {frees_at:%Y-%m-%dT%H:%MZ}." if frees_at else ""
    raise BudgetExceededError(
        f"The budget of {whose}, {_dollars(told['limit_micros'])} {_EVERY[period]}, cannot bear"
        f" {_dollars(wanted)} more: {_dollars(spent)} are spent and {_dollars(reserved)} reserved."
        f"{until}",
        scope=scope,
        period=period,
        limit_micros=told["limit_micros"],
        spent_micros=spent,
        reserved_micros=reserved,
        wanted_micros=wanted,
        frees_at=frees_at,
    ) from None


def _detail(error: PostgresError) -> str:
    detail: str | None = error.detail
    assert detail is not None  # our triggers give one
    return detail


def _dollars(micros: int) -> str:
    return f"${micros / MICROS_PER_DOLLAR:,.2f}"


def _next(period: str, starts_on: date) -> datetime | None:
    """When the period after the one that began on *starts_on* begins."""
    match period:
        case "day":
            day = starts_on + timedelta(days=1)
        case "month":
            day = (starts_on.replace(day=1) + timedelta(days=32)).replace(day=1)
        case _:
            return None
    return datetime.combine(day, time(), UTC)


async def hold(connection: Connection, providers: Sequence[str], user_id: str | None) -> None:
    """
    Let nobody else reserve from the budgets that these jobs count against until our transaction
    ends; before more than one statement that does, so that all lock them in the same order.
    """
    await connection.execute(
        "SELECT vidgen_hold_budgets($1::text[], $2::text[])", list(providers), [user_id]
    )


async def put(
    connection: Connection, scope: str, period: Period, limit_micros: int, by: str
) -> None:
    """
    Set a limit; a new one counts what is spent and reserved in its period already.

    Raises:
        InvalidRequestError: There is no such scope, or the limit is none.
        DatabaseError: Somebody keeps a transaction open that reserves; once more, later.
    """
    check(scope, period, limit_micros)
    async with connection.transaction():
        if await _changed(connection, scope, period, limit_micros, by):
            return
        await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        try:
            # From here on nobody enters anything: what is counted below is all there is, and who
            # comes after us counts by itself.
            await connection.execute("LOCK TABLE ledger IN SHARE MODE")
        except LockNotAvailableError as error:
            raise DatabaseError(
                "a transaction that enqueues stays open, and no budget can be counted meanwhile;"
                " try again"
            ) from error
        await connection.execute(
            """
            INSERT INTO budgets (scope, period, limit_micros, by) VALUES ($1, $2, $3, $4)
            ON CONFLICT (scope, period) DO UPDATE SET
                limit_micros = excluded.limit_micros, by = excluded.by, set_at = now()
            """,
            scope,
            period,
            limit_micros,
            by,
        )
        await _count(connection, scope, period)


async def _changed(
    connection: Connection, scope: str, period: Period, limit_micros: int, by: str
) -> bool:
    return bool(
        await connection.fetchval(
            """
            WITH budget AS (
                UPDATE budgets SET limit_micros = $3, by = $4, set_at = now()
                WHERE scope = $1 AND period = $2
                RETURNING true AS found
            ), fresh AS (
                UPDATE budget_use SET warned_at = NULL
                WHERE period = $2 AND warned_at IS NOT NULL
                  AND (scope = $1 OR ($1 = 'each-user' AND scope LIKE 'user:%'))
            )
            SELECT found FROM budget
            """,
            scope,
            period,
            limit_micros,
            by,
        )
    )


async def _count(connection: Connection, scope: str, period: Period) -> None:
    """Begin the count of a new budget with what the ledger has."""
    for table in ("budget_use", "budget_changes"):
        await connection.execute(
            f"""
            DELETE FROM {table}
            WHERE period = $2 AND (scope = $1 OR ($1 = 'each-user' AND scope LIKE 'user:%'))
            """,  # noqa: S608  one of two words of ours
            scope,
            period,
        )
    await connection.execute(
        """
        INSERT INTO budget_use (scope, period, starts_on, reserved_micros, spent_micros)
        SELECT CASE WHEN $1 = 'each-user' THEN 'user:' || user_id ELSE $1 END, $2,
               vidgen_period_start($2, vidgen_today()),
               sum(CASE kind WHEN 'reserved' THEN micros ELSE -micros END),
               sum(CASE WHEN kind IN ('charged', 'wasted') THEN micros ELSE 0 END)
        FROM ledger
        WHERE payer = 'server' AND reserved_on >= vidgen_period_start($2, vidgen_today())
          AND CASE
              WHEN $1 = 'all' THEN true
              WHEN $1 = 'each-user' THEN user_id IS NOT NULL
              WHEN $1 LIKE 'provider:%' THEN provider = substr($1, 10)
              ELSE user_id = substr($1, 6)
          END
        GROUP BY 1
        """,
        scope,
        period,
    )


async def remove(connection: Connection, scope: str, period: Period) -> bool:
    """End a budget; whether there was one."""
    return bool(
        await connection.fetchval(
            "DELETE FROM budgets WHERE scope = $1 AND period = $2 RETURNING true", scope, period
        )
    )


async def follow_settings(connection: Connection, limits: Sequence[tuple[Period, int]]) -> None:
    """
    Make the budgets over all videos what the settings say, in (period, micro-dollars); one that
    somebody set by hand since stays.
    """
    for period, limit_micros in limits:
        known = await connection.fetchrow(
            "SELECT by, limit_micros FROM budgets WHERE scope = $1 AND period = $2", ALL, period
        )
        if known is None or (known["by"] == SETTINGS and known["limit_micros"] != limit_micros):
            await put(connection, ALL, period, limit_micros, SETTINGS)


async def listed(connection: Connection) -> list[Budget]:
    """All budgets and what is used of them, those over all first."""
    rows = await connection.fetch(
        """
        WITH used AS (
            SELECT scope, period, sum(reserved_micros)::bigint AS reserved_micros,
                   sum(spent_micros)::bigint AS spent_micros, max(warned_at) AS warned_at
            FROM (
                SELECT scope, period, starts_on, reserved_micros, spent_micros, warned_at
                FROM budget_use
                UNION ALL
                SELECT scope, period, starts_on, reserved_micros, spent_micros, NULL
                FROM budget_changes
            ) AS parts
            WHERE starts_on = vidgen_period_start(period, vidgen_today())
            GROUP BY scope, period
        )
        SELECT budgets.scope, budgets.period, budgets.limit_micros,
               coalesce(most.spent_micros, 0) AS spent_micros,
               coalesce(most.reserved_micros, 0) AS reserved_micros,
               coalesce(most.near, 0) AS near, most.warned_at,
               vidgen_period_start(budgets.period, vidgen_today()) AS starts_on,
               budgets.by, budgets.set_at
        FROM budgets LEFT JOIN LATERAL (
            SELECT used.spent_micros, used.reserved_micros, used.warned_at,
                   count(*) FILTER (
                       WHERE used.spent_micros + used.reserved_micros
                             >= budgets.limit_micros * $1::float8
                   ) OVER () AS near
            FROM used
            WHERE used.period = budgets.period AND CASE budgets.scope
                WHEN 'each-user' THEN used.scope LIKE 'user:%' AND NOT EXISTS (
                    SELECT FROM budgets AS own
                    WHERE own.scope = used.scope AND own.period = used.period
                )
                ELSE used.scope = budgets.scope
            END
            ORDER BY used.spent_micros + used.reserved_micros DESC LIMIT 1
        ) AS most ON true
        ORDER BY budgets.scope <> 'all', budgets.scope,
                 array_position(ARRAY['day', 'month', 'total'], budgets.period)
        """,
        WARN_AT,
    )
    return [
        Budget(
            **{
                **row,
                "starts_on": None if row["period"] == "total" else row["starts_on"],
                "frees_at": _next(row["period"], row["starts_on"]),
            }
        )
        for row in rows
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Near:
    """A budget of which 80 % or more are used, told once for each period."""

    scope: str
    period: Period
    limit_micros: int
    used_micros: int


async def warn(connection: Connection) -> list[Near]:
    """Budgets that came near their limits since this was asked last, by anybody."""
    rows = await connection.fetch(
        """
        WITH used AS (
            SELECT scope, period, starts_on,
                   sum(reserved_micros + spent_micros)::bigint AS used_micros
            FROM (
                SELECT scope, period, starts_on, reserved_micros, spent_micros FROM budget_use
                UNION ALL
                SELECT scope, period, starts_on, reserved_micros, spent_micros FROM budget_changes
            ) AS parts
            WHERE starts_on = vidgen_period_start(period, vidgen_today())
            GROUP BY scope, period, starts_on
        ), near AS (
            SELECT used.*, coalesce(own.limit_micros, everybody.limit_micros) AS limit_micros
            FROM used
            LEFT JOIN budgets AS own ON (own.scope, own.period) = (used.scope, used.period)
            LEFT JOIN budgets AS everybody
                ON everybody.scope = 'each-user' AND everybody.period = used.period
                AND used.scope LIKE 'user:%'
        ), first AS MATERIALIZED (
            -- Who reserves right now has the row; the next time will do.
            SELECT near.* FROM near JOIN budget_use AS use USING (scope, period, starts_on)
            WHERE use.warned_at IS NULL AND near.used_micros > 0
              AND near.used_micros >= near.limit_micros * $1::float8
            FOR UPDATE OF use SKIP LOCKED
        )
        UPDATE budget_use AS use SET warned_at = now() FROM first
        WHERE (use.scope, use.period, use.starts_on) = (first.scope, first.period, first.starts_on)
          AND use.warned_at IS NULL
        RETURNING use.scope, use.period, first.limit_micros, first.used_micros
        """,
        WARN_AT,
    )
    return [Near(**row) for row in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Discrepancy:
    """A budget whose count is not what the ledger says; micro-dollars."""

    scope: str
    period: Period
    counted_micros: int
    ledger_micros: int


async def discrepancies(connection: Connection) -> list[Discrepancy]:
    """Where the counts of the current periods differ from the ledger; changes nothing."""
    rows = await connection.fetch(
        """
        WITH counted AS (
            SELECT scope, period, sum(reserved_micros + spent_micros)::bigint AS micros
            FROM (
                SELECT scope, period, starts_on, reserved_micros, spent_micros FROM budget_use
                UNION ALL
                SELECT scope, period, starts_on, reserved_micros, spent_micros FROM budget_changes
            ) AS parts
            WHERE starts_on = vidgen_period_start(period, vidgen_today())
            GROUP BY scope, period
        ), entered AS (
            SELECT CASE WHEN budgets.scope = 'each-user' THEN 'user:' || ledger.user_id
                        ELSE budgets.scope END AS scope,
                   budgets.period,
                   sum(CASE ledger.kind WHEN 'reserved' THEN ledger.micros
                                        WHEN 'released' THEN -ledger.micros ELSE 0 END)::bigint
                   AS micros
            FROM budgets JOIN ledger
                ON ledger.payer = 'server'
                AND ledger.reserved_on >= vidgen_period_start(budgets.period, vidgen_today())
                AND CASE
                    WHEN budgets.scope = 'all' THEN true
                    WHEN budgets.scope = 'each-user'
                    THEN ledger.user_id IS NOT NULL AND NOT EXISTS (
                        SELECT FROM budgets AS own
                        WHERE own.scope = 'user:' || ledger.user_id AND own.period = budgets.period
                    )
                    WHEN budgets.scope LIKE 'provider:%'
                    THEN budgets.scope = 'provider:' || ledger.provider
                    ELSE budgets.scope = 'user:' || ledger.user_id
                END
            GROUP BY 1, 2
        )
        SELECT scope, period, coalesce(counted.micros, 0) AS counted_micros,
               coalesce(entered.micros, 0) AS ledger_micros
        FROM counted FULL JOIN entered USING (scope, period)
        WHERE coalesce(counted.micros, 0) <> coalesce(entered.micros, 0)
          -- What nobody limits any more is not counted on.
          AND EXISTS (
              SELECT FROM budgets
              WHERE budgets.period = coalesce(counted.period, entered.period) AND (
                  budgets.scope = coalesce(counted.scope, entered.scope)
                  OR (budgets.scope = 'each-user'
                      AND coalesce(counted.scope, entered.scope) LIKE 'user:%')
              )
          )
        ORDER BY scope, period
        """
    )
    return [Discrepancy(**row) for row in rows]


async def forget_past(connection: Connection) -> None:
    """Delete the counts of periods that ended long ago; the ledger has it all."""
    for table in ("budget_use", "budget_changes"):
        await connection.execute(
            f"""
            DELETE FROM {table}
            WHERE starts_on < vidgen_today() - CASE period WHEN 'day' THEN 7 ELSE 100 END
              AND period <> 'total'
            """  # noqa: S608  one of two words of ours
        )
