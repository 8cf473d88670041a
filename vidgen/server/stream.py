"""Server-sent events: each with its number, so that a connection that breaks goes on behind it."""

import asyncio
import re
from contextlib import suppress

import orjson
from aiohttp import web
from pydantic import Field

from vidgen.document import event_document, json_value
from vidgen.errors import InvalidRequestError
from vidgen.job import EventType, JobEvent
from vidgen.server import connection
from vidgen.server.hub import Happened, Progressed, Watcher
from vidgen.server.operation import Query, Schema, object_of, read_query

# Proxies and phones give up a silent connection after half a minute.
HEARTBEAT_S = 15.0
HEARTBEAT = b": still here\n\n"
# Whoever does not read for so long is gone.
WRITE_TIMEOUT_S = 30.0
RETRY_MS = 2000
MAX_SEQ = 2**63 - 1
# Of one event: before OpenAPI 3.2 that is what the schema of a stream describes.
EVENT: Schema = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "description": "For Last-Event-ID; progress has none."},
        "event": {"enum": list(EventType)},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"anyOf": [object_of(JobEvent), object_of(Progressed)]},
        },
    },
    "required": ["event", "data"],
    "additionalProperties": False,
}


class Since(Query):
    """Where to go on; the header Last-Event-ID says the same."""

    after: int | None = Field(None, ge=0, le=MAX_SEQ, description="Number of the last event seen.")


def since(request: web.Request) -> int | None:
    """
    The number of the last event that was seen before; None at the first time.

    Raises:
        InvalidRequestError: It is no number.
    """
    text = request.headers.get("Last-Event-ID")
    if text is None:
        return read_query(request, Since).after
    return number_of(text)


def number_of(text: str) -> int:
    """
    The number that Last-Event-ID says.

    Raises:
        InvalidRequestError: It is none of ours.
    """
    # Of more digits Python makes no number at all.
    if not (re.fullmatch(r"[0-9]{1,19}", text) and int(text) <= MAX_SEQ):
        raise InvalidRequestError(f"Last-Event-ID is the number of an event, not {text[:50]!r}")
    return int(text)


async def send(request: web.Request, watcher: Watcher) -> web.StreamResponse:
    """Send what *watcher* sees until the end of its job, or until somebody hangs up."""
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
        }
    )
    await response.prepare(request)
    connection.streams(request)
    with suppress(ConnectionError, TimeoutError):
        await _write(response, f"retry: {RETRY_MS}\n\n".encode())
        while (happened := await watcher.take(HEARTBEAT_S)) is not None:
            await _write(response, b"".join(map(_told, happened)) or HEARTBEAT)
            if watcher.job_id is not None and happened and _is_final(happened[-1]):
                break
        await response.write_eof()
    return response


async def _write(response: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(WRITE_TIMEOUT_S):
        await response.write(data)


def _is_final(happened: Happened) -> bool:
    return isinstance(happened, JobEvent) and happened.status.is_final


def _told(happened: Happened) -> bytes:
    if isinstance(happened, JobEvent):
        document = orjson.dumps(event_document(happened))
        return b"id: %d\nevent: %s\ndata: %s\n\n" % (
            happened.seq or 0,
            happened.type.encode(),
            document,
        )
    return b"event: %s\ndata: %s\n\n" % (
        EventType.PROGRESSED.encode(),
        orjson.dumps(json_value(happened)),
    )
