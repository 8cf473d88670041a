"""Coming in and going out: a page trades a token for a cookie that no script can read."""

from datetime import UTC, datetime

from aiohttp import web
from loguru import logger
from pydantic import Field

from vidgen.server.access import (
    ACCESS,
    COOKIE,
    LOCAL,
    SESSION_KEPT,
    Visitor,
    visitor_of,
)
from vidgen.server.address import address_of
from vidgen.server.operation import (
    Answer,
    Body,
    Operations,
    answer,
    or_null,
    read_body,
    record,
    schema_of,
)
from vidgen.server.problem import problem

operations = Operations("session")

_VISITOR = {"name": schema_of(str), "role": {"enum": ["read", "operate"]}}


class Login(Body):
    """A token that opens the API."""

    token: str = Field(max_length=1024)


@operations.add(
    "POST",
    "/api/login",
    body=Login,
    answers={200: Answer(sentence="A cookie is set.", schema=record(**_VISITOR))},
    refusals=(400, 401, 403, 429),
)
async def login(request: web.Request) -> web.Response:
    """Trade a token for a cookie (HttpOnly, SameSite=Strict) that holds for twelve hours."""
    access, address = request.app[ACCESS], address_of(request)
    wish = await read_body(request, Login)
    wait_s = access.wait_s(address)
    if wait_s:
        logger.warning("login from an address that is closed out", address=address)
        return problem(
            429,
            "too_many_failures",
            "too many wrong tokens came from this address",
            Retry_After=str(round(wait_s + 0.5)),
        )
    visitor = LOCAL if access.is_open else access.by_token(wish.token)
    if visitor is None:
        access.note_failure(address)
        logger.warning("login with a wrong token", address=address)
        return problem(401, "unauthorized", "this token opens nothing here")
    response = answer(visitor)
    if not access.is_open:
        response.set_cookie(
            COOKIE,
            access.session(visitor, datetime.now(UTC)),
            max_age=round(SESSION_KEPT.total_seconds()),
            httponly=True,
            samesite="Strict",
            secure=_is_secure(request),
            path="/",
        )
    logger.info("login", who=visitor.name, address=address)
    return response


@operations.add(
    "POST",
    "/api/logout",
    answers={204: Answer(sentence="The cookie is gone.")},
    refusals=(401, 403),
)
async def logout(_: web.Request) -> web.Response:
    """Forget the cookie."""
    response = web.Response(status=204)
    response.del_cookie(COOKIE, path="/", httponly=True, samesite="Strict")
    return response


@operations.add(
    "GET",
    "/api/me",
    answers={
        200: Answer(
            sentence="Who asks; null before a login.",
            schema=record(
                name=or_null(_VISITOR["name"]),
                role=or_null(_VISITOR["role"]),
                login_needed=schema_of(bool),
            ),
        )
    },
    refusals=(403,),
)
async def me(request: web.Request) -> web.Response:
    """Who am I, and what may I do?"""
    visitor: Visitor | None = visitor_of(request)
    return answer(
        {
            "name": visitor.name if visitor else None,
            "role": visitor.role if visitor else None,
            "login_needed": visitor is None,
        }
    )


def _is_secure(request: web.Request) -> bool:
    """Whether the browser came by https, perhaps to a proxy before us."""
    return request.secure or request.headers.get("X-Forwarded-Proto") == "https"
