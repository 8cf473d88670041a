"""Webhooks over HTTP: how they stand, and another try for them."""

from uuid import UUID

from aiohttp import web
from pydantic import Field

from vidgen.document import SNAPSHOT, delivery_document
from vidgen.job import JsonValue
from vidgen.server import audit
from vidgen.server.access import LOCAL, visitor_of
from vidgen.server.keys import QUEUE
from vidgen.server.operation import (
    Answer,
    Operations,
    Query,
    answer,
    list_of,
    object_of,
    or_null,
    read_id,
    read_query,
    record,
    schema_of,
)
from vidgen.store.deliveries import Delivery, DeliveryState

operations = Operations("deliveries")

DELIVERY = object_of(Delivery, without=SNAPSHOT)


class DeliveriesQuery(Query):
    """Which deliveries, and from where on."""

    job_id: UUID | None = None
    state: DeliveryState | None = None
    before: UUID | None = Field(None, description="`next` of the page before.")
    limit: int = Field(50, ge=1, le=200)


@operations.add(
    "GET",
    "/api/deliveries",
    query=DeliveriesQuery,
    answers={
        200: Answer(
            sentence="The newest first.",
            schema=record(deliveries=list_of(DELIVERY), next=or_null(schema_of(UUID))),
        )
    },
    refusals=(400,),
)
async def index(request: web.Request) -> web.Response:
    """List webhook deliveries, the newest first."""
    wish = read_query(request, DeliveriesQuery)
    found = await request.app[QUEUE].deliveries(
        wish.job_id, state=wish.state, before=wish.before, limit=wish.limit
    )
    is_full = len(found) == wish.limit
    return answer(
        {
            "deliveries": [told(request, delivery) for delivery in found],
            "next": found[-1].id if is_full else None,
        }
    )


@operations.add(
    "GET",
    "/api/deliveries/{id}",
    answers={200: Answer(sentence="How it stands.", schema=DELIVERY)},
    refusals=(400, 404),
)
async def show(request: web.Request) -> web.Response:
    """Tell how a webhook delivery stands."""
    return answer(told(request, await request.app[QUEUE].delivery(read_id(request))))


@operations.add(
    "POST",
    "/api/deliveries/{id}/replay",
    answers={200: Answer(sentence="How it stands then: due at once.", schema=DELIVERY)},
    refusals=(400, 404),
)
async def replay(request: web.Request) -> web.Response:
    """Send a webhook now, under the same id; one that has ended begins its schedule anew."""
    delivery_id = read_id(request)
    async with audit.noted(request, "replay", delivery_id):
        replayed = await request.app[QUEUE].replay(delivery_id)
    return answer(told(request, replayed))


def told(request: web.Request, delivery: Delivery) -> dict[str, JsonValue]:
    """*delivery* as whoever asks may see it."""
    return delivery_document(delivery, whole=sees_secrets(request))


def sees_secrets(request: web.Request) -> bool:
    """Whether whoever asks may see what opens other people's servers."""
    return (visitor_of(request) or LOCAL).role == "operate"
