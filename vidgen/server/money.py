"""Budgets and what was spent, over HTTP."""

from typing import Annotated, Literal

from aiohttp import web
from pydantic import Field

from vidgen.document import json_value, table
from vidgen.errors import BudgetNotFoundError
from vidgen.server import audit
from vidgen.server.keys import RESOURCES
from vidgen.server.operation import (
    Answer,
    Body,
    Moment,
    Operations,
    Query,
    answer,
    list_of,
    object_of,
    read_body,
    read_query,
    record,
    schema_of,
)
from vidgen.store import budgets, ledger
from vidgen.store.budgets import Budget, Period
from vidgen.store.ledger import By, Spend

operations = Operations("money")

CSV = "text/csv"
Scope = Annotated[
    str,
    Field(
        description="all, provider:NAME, user:ID, or each-user: whoever has none of their own.",
        pattern=r"^(all|each-user|(provider|user):[^\x00]+)$",
        max_length=520,
    ),
]
_ALL = record(budgets=list_of(object_of(Budget)))


class BudgetWish(Body):
    """What may be spent, in micro-dollars."""

    scope: Scope
    period: Period
    limit_micros: int = Field(ge=0, le=budgets.MAX_LIMIT_MICROS)


class WhichBudget(Query):
    """One budget."""

    scope: Scope
    period: Period


class SpendQuery(Query):
    """What is told apart, and of when."""

    by: By = "day"
    since: Moment | None = Field(None, alias="from", description="From this moment on.")
    until: Moment | None = Field(None, alias="to", description="Before this moment.")
    format: Literal["json", "csv"] | None = Field(
        None, description="As `Accept` says if it is left out."
    )


@operations.add(
    "GET",
    "/api/budgets",
    answers={200: Answer(sentence="Those over all videos first.", schema=_ALL)},
)
async def listed(request: web.Request) -> web.Response:
    """Every budget, and what is spent and reserved of it."""
    return await _listed(request)


@operations.add(
    "PUT",
    "/api/budgets",
    body=BudgetWish,
    answers={200: Answer(sentence="All budgets, as they are then.", schema=_ALL)},
    refusals=(400,),
)
async def put(request: web.Request) -> web.Response:
    """Set what may be spent; a new budget counts what its period has spent already."""
    wish = await read_body(request, BudgetWish)
    budgets.check(wish.scope, wish.period, wish.limit_micros)
    target, user = budgets.named(wish.scope)
    async with (
        audit.noted(
            request,
            "budget_set",
            target,
            user_id=user,
            period=wish.period,
            limit_micros=wish.limit_micros,
        ) as note,
        request.app[RESOURCES].database.connection() as connection,
    ):
        await budgets.put(connection, wish.scope, wish.period, wish.limit_micros, note.who)
    return await _listed(request)


@operations.add(
    "DELETE",
    "/api/budgets",
    query=WhichBudget,
    answers={200: Answer(sentence="The budgets that are left.", schema=_ALL)},
    refusals=(400, 404),
)
async def remove(request: web.Request) -> web.Response:
    """End a budget; the ledger goes on."""
    wish = read_query(request, WhichBudget)
    target, user = budgets.named(wish.scope)
    async with (
        audit.noted(request, "budget_remove", target, user_id=user, period=wish.period),
        request.app[RESOURCES].database.connection() as connection,
    ):
        if not await budgets.remove(connection, wish.scope, wish.period):
            raise BudgetNotFoundError(f"there is no budget of {wish.scope} by {wish.period}")
    return await _listed(request)


@operations.add(
    "GET",
    "/api/spend",
    query=SpendQuery,
    answers={
        200: Answer(
            sentence="Days in their order, all else by what was spent most; also as CSV.",
            schema=record(by=schema_of(By), spend=list_of(object_of(Spend))),
            also=(CSV,),
        )
    },
    refusals=(400,),
)
async def spend(request: web.Request) -> web.Response:
    """What was spent and wasted, by the ledger, whoever paid it."""
    wish = read_query(request, SpendQuery)
    async with request.app[RESOURCES].database.connection() as connection:
        found = await ledger.spend(connection, by=wish.by, since=wish.since, until=wish.until)
    accepted = request.headers.get("Accept", "").partition(";")[0].strip().lower()
    if (wish.format or ("csv" if accepted == CSV else "json")) == "csv":
        return web.Response(
            text=table(ledger.COLUMNS, [ledger.cells(each) for each in found]),
            content_type=CSV,
            headers={
                "Cache-Control": "no-store",
                "Content-Disposition": f'attachment; filename="spend-by-{wish.by}.csv"',
            },
        )
    return answer({"by": wish.by, "spend": json_value(found)})


async def _listed(request: web.Request) -> web.Response:
    async with request.app[RESOURCES].database.connection() as connection:
        return answer({"budgets": await budgets.listed(connection)})
