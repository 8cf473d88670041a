"""
Telling webhooks how jobs ended: at least once each, in no promised order.

The delivery was written with the end of the job. A worker takes it for a minute, sends it without
holding a connection to PostgreSQL, and writes what became of it; if it dies in between, it is sent
again under the same id. A receiver that is slow holds up nobody else's: few are sent to one host at
once, and those of different hosts are taken by turns.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from importlib.metadata import version
from typing import Any
from uuid import UUID

import aiohttp
import orjson
from loguru import logger
from yarl import URL

from vidgen import metrics, webhook
from vidgen.document import PRIVATE, SEALED, iso
from vidgen.errors import DatabaseError, InternalError
from vidgen.job import JsonValue, VideoJob
from vidgen.outgoing import CONNECT_S, PUBLIC, Client, Guard, is_forbidden
from vidgen.providers.answer import wait_hint
from vidgen.resources import Resources
from vidgen.store import deliveries, upkeep
from vidgen.store.deliveries import Delivery, DeliveryState, Outcome

# Standard Webhooks 1.0: at once, and then so long after each try.
SCHEDULE_S = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
JITTER = 0.1  # of each wait, in both directions
TIMEOUT_S = 15.0
# Longer than a try and the writing of its result take together.
LEASE_S = 60.0
MAX_CLAIMS = 20  # twice the tries: what is left are those whose workers died
LOOK_INTERVAL_S = 2.0
# Of what other parts of this process wake us for: a burst of them costs few statements.
SHORTEST_INTERVAL_S = 0.05
UNSIGNED_INTERVAL_S = 5.0
MAX_SENDING = 64
MAX_SENDING_PER_HOST = 8
STOP_GRACE_S = 3.0
SETTLE_WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
KEPT = timedelta(days=30)
FORGET_EVERY_S = 1800.0
FORGET_BATCH = 1000

UNSIGNED = "VIDGEN_WEBHOOK_SECRETS is not set: nothing is sent unsigned"
_TOLD = frozenset(field.name for field in fields(VideoJob)) - PRIVATE - SEALED
_LATER_STATUSES = frozenset({429, 503})


class Deliverer:
    """Sends what is due, as long as `run` runs."""

    def __init__(self, resources: Resources, *, guard: Guard = PUBLIC) -> None:
        """Send nothing yet."""
        self._resources = resources
        self._guard = None if resources.settings.allow_private_addresses else guard
        self._signers = resources.settings.webhook_signers
        self._sending: dict[tuple[UUID, int], Delivery] = {}
        self._due = asyncio.Event()
        self._stopping = False
        self._forget_at = 0.0

    def wake(self) -> None:
        """Look at once: there may be something new."""
        if self._signers:  # else a new one can only wait with the others
            self._due.set()

    def stop(self) -> None:
        """Take nothing more; what is being sent has a few seconds to end, and then `run` ends."""
        self._stopping = True
        self._due.set()

    async def run(self) -> None:
        """Deliver until stopped."""
        loop = asyncio.get_running_loop()
        async with self._client() as client:
            try:
                async with asyncio.timeout(None) as grace, asyncio.TaskGroup() as group:
                    while not self._stopping:
                        await self._look(client, group)
                        await self._pause()
                    grace.reschedule(loop.time() + STOP_GRACE_S)
            except TimeoutError:
                logger.info("webhooks left to others", deliveries=len(self._sending))
        await self._give_back()

    async def _look(self, client: Client, group: asyncio.TaskGroup) -> None:
        """Begin to send what is due, as far as there is room."""
        try:
            await self._forget()
            claimed = await self._claim() if self._signers else await self._explain()
        except (DatabaseError, InternalError) as error:
            logger.warning("webhooks put off", code=error.code, reason=error.message)
            return
        for delivery in claimed:
            self._sending[delivery.id, delivery.attempts] = delivery
            group.create_task(self._deliver(client, delivery))
        if claimed:
            self._due.set()  # there may be more

    async def _claim(self) -> list[Delivery]:
        room = MAX_SENDING - len(self._sending)
        if room == 0:
            return []
        async with self._resources.database.connection() as connection:
            return await deliveries.claim(
                connection,
                limit=room,
                per_host=MAX_SENDING_PER_HOST,
                sending=Counter(delivery.host for delivery in self._sending.values()),
                lease_s=LEASE_S,
            )

    async def _explain(self) -> list[Delivery]:
        async with self._resources.database.connection() as connection:
            explained = await deliveries.explain(connection, UNSIGNED)
        if explained:
            logger.warning("webhooks wait", reason=UNSIGNED, deliveries=explained)
        return []

    async def _pause(self) -> None:
        interval_s = LOOK_INTERVAL_S if self._signers else UNSIGNED_INTERVAL_S
        await asyncio.sleep(SHORTEST_INTERVAL_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(interval_s * (0.9 + self._resources.jitter() / 5)):
                await self._due.wait()
        self._due.clear()

    async def _deliver(self, client: Client, delivery: Delivery) -> None:
        traceparent = delivery.snapshot.get("traceparent")
        tracing = self._resources.tracing
        told = {"jobId": str(delivery.job_id), "webhookId": str(delivery.id)}
        with (
            logger.contextualize(**told),
            tracing.within(traceparent if isinstance(traceparent, str) else None),
            tracing.span("vidgen.deliver", job_id=delivery.job_id) as spot,
        ):
            try:
                answer = await self._try(client, delivery)
            except Exception as error:  # noqa: BLE001  a defect in one must not end all others
                logger.opt(exception=error).error("webhook not sent")
                answer = _Answer(error="It could not be made; the worker's log says why.")
            outcome = _judged(delivery, answer, self._resources.jitter())
            spot.tell(outcome=outcome.state, attempt=delivery.attempts)
            await self._settle(delivery, outcome)
        self._sending.pop((delivery.id, delivery.attempts), None)
        self._due.set()

    async def _try(self, client: Client, delivery: Delivery) -> "_Answer":
        """Send it once; what came back, or why nothing was sent, or none came."""
        if delivery.attempts > MAX_CLAIMS:
            return _Answer(error="Each worker that sent it died before its note.", for_good=True)
        allow_private = self._resources.settings.allow_private_addresses
        if why := webhook.refusal(delivery.url, allow_private=allow_private):
            return _Answer(error=f"The address {why}.", for_good=True)
        body = body_of(delivery)
        now_s = int(self._resources.clock.now().timestamp())
        headers = {
            "Content-Type": "application/json",
            "webhook-id": str(delivery.id),
            "webhook-timestamp": str(now_s),
            "webhook-signature": webhook.sign(self._signers, str(delivery.id), now_s, body),
        }
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            # The status says it all: a body may be endless, and is not read.
            async with await client.request(
                "POST",
                URL(delivery.url, encoded=True),
                headers=headers,
                data=body,
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S, connect=CONNECT_S),
            ) as response:
                metrics.WEBHOOK_DELIVERY_SECONDS.observe(loop.time() - begun)
                return _Answer(status=response.status, headers=response.headers)
        except TimeoutError:
            return _Answer(error=f"No answer came within {TIMEOUT_S:g} s.")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return _Answer(error=_told(error))

    async def _settle(self, delivery: Delivery, outcome: Outcome) -> None:
        """Write *outcome* down; if PostgreSQL stays away, the delivery is sent again."""
        for wait_s in (*SETTLE_WAITS_S, None):
            try:
                async with self._resources.database.connection() as connection:
                    latest = await deliveries.settle(connection, delivery, outcome)
                break
            except (DatabaseError, InternalError) as error:
                if wait_s is None:
                    logger.warning("webhook will be sent again", reason=error.message)
                    return
                await asyncio.sleep(wait_s)
        else:
            return
        if latest:
            _tell(delivery, outcome)

    async def _give_back(self) -> None:
        claimed = list(self._sending.values())
        if not claimed:
            return
        try:
            async with (
                asyncio.timeout(STOP_GRACE_S),
                self._resources.database.connection() as connection,
            ):
                await deliveries.give_back(connection, claimed)
        except (DatabaseError, TimeoutError):
            logger.warning("webhooks not given back, others wait for a minute")

    async def _forget(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._forget_at:
            return
        async with self._resources.database.connection() as connection:
            if await upkeep.take_turn(connection, "webhooks", FORGET_EVERY_S):
                await deliveries.forget_old(connection, KEPT, FORGET_BATCH)
        self._forget_at = now + FORGET_EVERY_S

    def _client(self) -> Client:
        return Client(
            guard=self._guard,
            max_connections=MAX_SENDING,
            user_agent=f"vidgen/{version('vidgen')}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """
    What a try brought.

    Attributes:
        for_good: The next one would bring the same.
    """

    status: int | None = None
    headers: Mapping[str, str] | None = None
    error: str | None = None
    for_good: bool = False


def body_of(delivery: Delivery) -> bytes:
    """What is sent and signed: the same for every try."""
    data = {name: _value(name, value) for name, value in delivery.snapshot.items() if name in _TOLD}
    return orjson.dumps(
        {"type": delivery.type, "timestamp": iso(delivery.created_at), "data": data}
    )


def _value(name: str, value: JsonValue) -> JsonValue:
    """*value* of a column as `document.job_document` would have it."""
    if name.endswith("_at") and isinstance(value, str):
        return iso(datetime.fromisoformat(value))
    return value


def _judged(delivery: Delivery, answer: _Answer, jitter: float) -> Outcome:
    """What *answer* means for *delivery*."""
    status = answer.status
    if status is not None and 200 <= status < 300:
        return Outcome(state=DeliveryState.DELIVERED, status=status, error=None)
    error = answer.error or f"The receiver answered {status}."
    if status == 410:
        return Outcome(state=DeliveryState.GONE, status=status, error=error)
    if status is not None and 300 <= status < 400:
        error = f"The receiver answered {status}; redirects are not followed."
    if answer.for_good or delivery.attempts > len(SCHEDULE_S):
        return Outcome(state=DeliveryState.FAILED, status=status, error=error)
    wait_s = SCHEDULE_S[delivery.attempts - 1] * (1 - JITTER + 2 * JITTER * jitter)
    if status in _LATER_STATUSES and answer.headers is not None:
        # Never sooner than the schedule: whoever is overloaded for long must not use it up.
        wait_s = max(wait_s, wait_hint(answer.headers) or 0.0)
    return Outcome(state=DeliveryState.PENDING, status=status, error=error, wait_s=wait_s)


def _tell(delivery: Delivery, outcome: Outcome) -> None:
    told: dict[str, Any] = {
        "type": delivery.type,
        "host": delivery.host,
        "status": outcome.status,
        "attempt": delivery.attempts,
    }
    match outcome.state:
        case DeliveryState.DELIVERED:
            metrics.WEBHOOK_DELIVERIES.labels("delivered").inc()
            logger.info("webhook delivered", **told)
        case DeliveryState.PENDING:
            metrics.WEBHOOK_DELIVERIES.labels("refused").inc()
            wait_s = round(outcome.wait_s, 1)
            logger.info("webhook refused", **told, reason=outcome.error, wait_s=wait_s)
        case DeliveryState.FAILED | DeliveryState.GONE:
            metrics.WEBHOOK_DELIVERIES.labels("gave_up").inc()
            logger.warning("webhook given up", **told, reason=outcome.error)


def _told(error: Exception) -> str:
    if is_forbidden(error):
        return (
            "The address leads to a private one; VIDGEN_ALLOW_PRIVATE_ADDRESSES=true allows that."
        )
    return f"The receiver could not be reached ({type(error).__name__})."
