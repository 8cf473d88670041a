"""Users over HTTP: let everything go that there is of one."""

from dataclasses import asdict
from typing import Annotated

from aiohttp import web
from pydantic import Field

from vidgen import keys
from vidgen.server import audit
from vidgen.server.keys import QUEUE
from vidgen.server.operation import (
    Answer,
    Body,
    Operations,
    answer,
    object_of,
    read_body,
    schema_of,
)
from vidgen.store.erasure import Traces, pseudonym

operations = Operations("users")


class ForgetWish(Body):
    """Who is to be forgotten."""

    user_id: Annotated[str, Field(min_length=1, max_length=keys.MAX_USER_CHARS)]
    dry_run: bool = Field(False, description="Tell what there is, and do nothing.")


@operations.add(
    "POST",
    "/api/users/forget",
    body=ForgetWish,
    answers={
        200: Answer(
            sentence="What there is; workers delete it, and `asked_at` is null once it is done.",
            schema=object_of(Traces, dry_run=schema_of(bool)),
        )
    },
    refusals=(400,),
)
async def forget(request: web.Request) -> web.Response:
    """Cancel all jobs of a user, and delete their rows, files, events, webhooks and keys."""
    wish = await read_body(request, ForgetWish)
    keys.check_user(wish.user_id)
    queue = request.app[QUEUE]
    if wish.dry_run:
        traces = await queue.forget(wish.user_id, dry_run=True)
    else:
        # The record must not keep what is to be forgotten.
        async with audit.noted(request, "forget", pseudonym(wish.user_id)):
            traces = await queue.forget(wish.user_id)
    return answer(asdict(traces) | {"dry_run": wish.dry_run})
