"""Keys that users bring, over HTTP: a key comes in once and is never told again."""

from contextlib import AsyncExitStack
from typing import Annotated, Any
from uuid import UUID

from aiohttp import web
from pydantic import Field, SecretStr

from vidgen import keys, prompts
from vidgen.keys import AddedKey, RemovedKey
from vidgen.resources import Resources
from vidgen.server import audit
from vidgen.server.keys import RESOURCES
from vidgen.server.operation import (
    Answer,
    Body,
    Operations,
    Query,
    answer,
    list_of,
    object_of,
    or_null,
    read_body,
    read_id,
    read_query,
    record,
    schema_of,
)
from vidgen.store import keys as store
from vidgen.store.keys import ListedKey

Text = Annotated[str, Field(max_length=keys.MAX_USER_CHARS, pattern=r"^[^\x00]*$")]

operations = Operations("keys")

_COUNT = {"type": "integer", "minimum": 0}
_ID = {"type": "string", "format": "uuid"}
_SEALED_UNDER = list_of(
    record(
        key_id=schema_of(str),
        keys=_COUNT,
        prompts=_COUNT,
        newest=schema_of(bool),
        readable=schema_of(bool),
    )
)
_PROGRESS = {"keys": _SEALED_UNDER, "left": _COUNT, "unreadable": _COUNT}


class KeyWish(Body):
    """Whose key, for what, and the key."""

    user_id: str = Field(min_length=1, max_length=keys.MAX_USER_CHARS)
    provider: Text = Field(description="Its name, as GET /api/providers has it.")
    key: SecretStr = Field(
        description="An API key; for kling ACCESS:SECRET; for Vertex AI the JSON of a service"
        " account.",
        min_length=1,
        max_length=keys.MAX_KEY_CHARS,
    )


class KeysQuery(Query):
    """Which keys."""

    user_id: Text | None = None
    provider: Text | None = None
    before: UUID | None = Field(None, description="The last one of the page before.")
    limit: int = Field(50, ge=1, le=200)


class RotateWish(Body):
    """Where to go on, and for how many keys and prompts."""

    # JSON has no ids of their own.
    after: UUID | None = Field(None, description="`next` of the answer before.", strict=False)
    limit: int = Field(1000, ge=keys.BATCH, le=10_000)


@operations.add(
    "POST",
    "/api/keys",
    body=KeyWish,
    answers={201: Answer(sentence="What was stored.", schema=object_of(AddedKey))},
    refusals=(400, 409),
)
async def add(request: web.Request) -> web.Response:
    """Seal and store a user's key; the one they had for the same interface is removed."""
    wish = await read_body(request, KeyWish)
    resources = request.app[RESOURCES]
    keys.check_user(wish.user_id)
    given = keys.check(
        wish.provider,
        wish.key.get_secret_value(),
        vertex_base_url=resources.settings.vertex_base_url,
    )
    _ = resources.vault.newest  # no action is noted that cannot be done
    told = {"provider": given.provider, "api": given.api, "hint": given.hint}
    async with (
        audit.noted(request, "key_add", wish.user_id, **told),
        resources.database.connection() as connection,
    ):
        added = await keys.add(connection, resources.vault, wish.user_id, given)
    return answer(added, status=201)


@operations.add(
    "GET",
    "/api/keys",
    query=KeysQuery,
    answers={
        200: Answer(
            sentence="The newest first; removed ones as long as a running job needs them.",
            schema=record(
                keys=list_of(
                    object_of(
                        ListedKey,
                        without=frozenset({"key_id"}),
                        key_id=schema_of(str),
                        readable=schema_of(bool),
                    )
                ),
                next=or_null(_ID),
            ),
        )
    },
    refusals=(400,),
)
async def listed(request: web.Request) -> web.Response:
    """Which keys there are, without the keys; `readable` tells whether they open here."""
    wish = read_query(request, KeysQuery)
    resources = request.app[RESOURCES]
    async with resources.database.connection() as connection:
        found = await store.listed(
            connection,
            user_id=wish.user_id,
            provider=wish.provider,
            before=wish.before,
            limit=wish.limit,
        )
    is_full = len(found) == wish.limit
    return answer(
        {
            "keys": [keys.key_document(key, resources.vault) for key in found],
            "next": found[-1].id if is_full else None,
        }
    )


@operations.add(
    "POST",
    "/api/keys/{id}/remove",
    answers={200: Answer(sentence="What that means.", schema=object_of(RemovedKey))},
    refusals=(400, 404),
)
async def remove(request: web.Request) -> web.Response:
    """Let no job begin with a key any more; it is deleted once no running job needs it."""
    key_id = read_id(request)
    async with (
        audit.noted(request, "key_remove", key_id),
        request.app[RESOURCES].database.connection() as connection,
    ):
        removed = await keys.remove(connection, key_id)
    return answer(removed)


@operations.add(
    "POST",
    "/api/keys/rotate",
    body=RotateWish,
    answers={
        200: Answer(
            sentence="What was done; ask again with `next` until it is null.",
            schema=record(resealed=_COUNT, next=or_null(_ID), **_PROGRESS),
        )
    },
    refusals=(400, 409),
)
async def rotate(request: web.Request) -> web.Response:
    """Seal keys and prompts anew under the newest encryption key, while jobs go on."""
    wish = await read_body(request, RotateWish)
    resources = request.app[RESOURCES]
    _ = resources.vault.newest
    resealed, seen, after = 0, 0, wish.after
    async with AsyncExitStack() as stack:
        if wish.after is None:
            await stack.enter_async_context(audit.noted(request, "key_rotate", "all"))
        while True:
            step = await prompts.reseal(resources.database, resources.vault, after)
            resealed, seen, after = resealed + step.resealed, seen + keys.BATCH, step.next
            if after is None or seen + keys.BATCH > wish.limit:
                break
    progress = await _progress(resources)
    return answer({"resealed": resealed, "next": after} | progress)


@operations.add(
    "GET",
    "/api/keys/rotation",
    answers={
        200: Answer(
            sentence="An encryption key that is not listed may be dropped from ENCRYPTION_KEYS.",
            schema=record(**_PROGRESS),
        )
    },
)
async def rotation(request: web.Request) -> web.Response:
    """How much is sealed under which encryption key, and how much a rotation has left."""
    return answer(await _progress(request.app[RESOURCES]))


async def _progress(resources: Resources) -> dict[str, Any]:
    return await prompts.progress(resources.database, resources.vault)
