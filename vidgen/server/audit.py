"""Every action by hand leaves a row: written before it is done, so that none is done unseen."""

from aiohttp import web
from loguru import logger

from vidgen.job import JsonValue
from vidgen.server.access import LOCAL, address_of, visitor_of
from vidgen.server.keys import RESOURCES
from vidgen.store import steering


async def note(request: web.Request, action: str, target: object = "", **detail: JsonValue) -> str:
    """
    Write down what is about to be done, and return who does it.

    Raises:
        DatabaseError: PostgreSQL is away; then nothing may be done either.
    """
    visitor = visitor_of(request) or LOCAL
    told = {name: value for name, value in detail.items() if value is not None}
    async with request.app[RESOURCES].database.connection() as connection:
        await steering.note(
            connection,
            who=visitor.name,
            role=visitor.role,
            address=address_of(request),
            action=action,
            target=str(target),
            detail=told,
        )
    logger.info("action by hand", action=action, target=str(target), who=visitor.name)
    return visitor.name
