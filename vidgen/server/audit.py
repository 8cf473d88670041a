"""
Every action by hand leaves a row: written before it is done, so that none is done unseen, and taken
back if it was refused, since then there was none.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from aiohttp import web
from loguru import logger

from vidgen.errors import BudgetError, DatabaseError, RequestError
from vidgen.job import JsonValue
from vidgen.server.access import LOCAL, visitor_of
from vidgen.server.address import address_of
from vidgen.server.keys import RESOURCES
from vidgen.store import steering


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """An action that was written down: who does it, and its number."""

    who: str
    seq: int


@asynccontextmanager
async def noted(
    request: web.Request, action: str, target: object = "", **detail: JsonValue
) -> AsyncIterator[Noted]:
    """
    Write down what is done within.

    Raises:
        DatabaseError: PostgreSQL is away; then nothing may be done either.
    """
    visitor = visitor_of(request) or LOCAL
    told = {name: value for name, value in detail.items() if value is not None}
    database = request.app[RESOURCES].database
    async with database.connection() as connection:
        seq = await steering.note(
            connection,
            who=visitor.name,
            role=visitor.role,
            address=address_of(request),
            action=action,
            target=str(target),
            detail=told,
        )
    try:
        yield Noted(who=visitor.name, seq=seq)
    except (RequestError, BudgetError):
        with suppress(DatabaseError):  # then it tells of an attempt, which is true as well
            async with database.connection() as connection:
                await steering.take_back(connection, seq)
        raise
    logger.info("action by hand", action=action, target=str(target), who=visitor.name)


async def aim(request: web.Request, note: Noted, target: object) -> None:
    """Say what it was done to; what is done stays so if PostgreSQL is away by now."""
    with suppress(DatabaseError):
        async with request.app[RESOURCES].database.connection() as connection:
            await steering.aim(connection, note.seq, str(target))
