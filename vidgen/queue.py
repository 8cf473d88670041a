"""
How other services ask for videos and follow them: `VideoQueue`.

Light on purpose: it speaks to PostgreSQL and Redis only, and imports no provider, no storage client
and no worker. What it writes to PostgreSQL is what counts; a dispatch that Redis loses is sent
again by the workers' sweep.
"""

import asyncio
import hashlib
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Self, TypeGuard, TypeVar
from uuid import UUID

import orjson
from loguru import logger
from redis.asyncio import Redis
from uuid_utils.compat import uuid7

from vidgen import catalog, fallback, image, keys, lifecycle, live, prompts, tracing, webhook
from vidgen.catalog import Endpoints
from vidgen.dispatch import Dispatch, Dispatcher, open_redis
from vidgen.document import json_value
from vidgen.errors import (
    BudgetError,
    DatabaseError,
    DatabaseRefusedError,
    DeliveryNotFoundError,
    DispatchError,
    IdempotencyConflictError,
    InvalidRequestError,
    InvalidStateError,
    JobNotFoundError,
    LeaseLostError,
    VidgenError,
)
from vidgen.forecast import Capacity, Outlook, eta, kind_of
from vidgen.job import (
    EventType,
    JobEvent,
    JobStatus,
    JsonValue,
    Stage,
    Target,
    VideoJob,
    VideoRequest,
)
from vidgen.line import HEAD_START_MS, MAX_PRIORITY
from vidgen.route import Route
from vidgen.settings import Settings
from vidgen.store import (
    budgets,
    deliveries,
    erasure,
    events,
    history,
    inputs,
    jobs,
    reuses,
    steering,
    workers,
)
from vidgen.store.deliveries import Delivery, DeliveryState
from vidgen.store.erasure import Traces
from vidgen.store.inputs import StoredInput
from vidgen.store.jobs import Counts, NewJob
from vidgen.store.pool import Connection, Database
from vidgen.store.reuses import Reuse
from vidgen.store.rows import parameters_of
from vidgen.store.steering import Pause
from vidgen.vault import Vault

T = TypeVar("T")

LOOK_INTERVAL_S = 1.0  # watchers read the truth at least so often, whether Redis speaks or not
# Between two looks while PostgreSQL is away: a restart takes a second or two, a fail-over a minute.
LONGEST_WAIT_S = 5.0
CANCEL_TRIES = 5  # a worker may take or give back the job between our look and our write
MAX_TEXT = 500
MAX_DEADLINE_S = 7 * 24 * 3600
MAX_REUSE_S = 366 * 24 * 3600
# A video that is handed out again should outlast the answer.
RETENTION_MARGIN_S = 3600
MAX_METADATA_BYTES = 16 * 1024
MAX_METADATA_DEPTH = 20
# One statement carries so many rows; 10,000 prompts in one would be a very long message.
INSERT_BATCH = 1000

_NULL_CHARACTER = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")  # as JSON writes it


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What goes with a request and is the same for all of `enqueue_many`."""

    idempotency_key: str | None
    priority: int
    run_at: datetime | None
    webhook_url: str | None
    metadata: Mapping[str, JsonValue]
    scene_id: str | None
    user_id: str | None
    deadline_s: int | None
    reuse_within_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPlan:
    """
    What a retry of one job means.

    Attributes:
        stage: Where it goes on.
        pays_again: A new video is bought for it.
        cost_micros: The estimate of that in micro-dollars; 0 if nothing is bought, None if unknown.
    """

    job_id: UUID
    stage: Stage
    pays_again: bool
    cost_micros: int | None


class VideoQueue:
    """
    The door for services that want videos.

    Use it as an async context manager; one instance serves any number of coroutines.

        async with VideoQueue.from_env() as queue:
            job = await queue.enqueue(VideoRequest(provider="sora", prompt="a tram in the rain"))
            job = await queue.wait(job.id, timeout=1800)
    """

    def __init__(self, settings: Settings) -> None:
        """Connect to nothing yet."""
        self._settings = settings
        self._tracing = tracing.of(settings)
        self._vault = Vault(settings.encryption_key_bytes)
        self._routes = settings.routes
        self._stack = AsyncExitStack()
        self._jitter = random.Random().random  # noqa: S311  spreads load, keeps no secret
        self._database: Database
        self._redis: Redis
        self._dispatcher: Dispatcher

    @property
    def routes(self) -> Mapping[str, Route]:
        """The routes that requests may name, as their file had them when this was made."""
        return self._routes

    @classmethod
    def from_env(cls) -> Self:
        """
        A queue for the servers that the environment names.

        Raises:
            SettingsError: The message lists every problem.
        """
        return cls(Settings.load())

    @classmethod
    def sharing(cls, settings: Settings, database: Database, redis: Redis) -> Self:
        """A queue over connections that somebody else has open, and closes."""
        queue = cls(settings)
        queue._use(database, redis)
        return queue

    async def __aenter__(self) -> Self:
        """
        Connect to PostgreSQL; Redis is reached when it is needed.

        Raises:
            DatabaseError: PostgreSQL cannot be reached.
        """
        async with AsyncExitStack() as stack:
            settings = self._settings
            database = await stack.enter_async_context(
                Database(
                    settings.database_url,
                    size=settings.database_pool_size,
                    prepared_statements=settings.prepared_statements,
                )
            )
            redis = await stack.enter_async_context(open_redis(settings.redis_url))
            if settings.budgets_micros:  # before the first job that they should hold
                async with database.connection() as connection:
                    await budgets.follow_settings(connection, settings.budgets_micros)
            self._use(database, redis)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self._stack.aclose()

    async def enqueue(
        self,
        request: VideoRequest,
        *,
        idempotency_key: str | None = None,
        priority: int = 0,
        run_at: datetime | None = None,
        webhook_url: str | None = None,
        metadata: Mapping[str, JsonValue] | None = None,
        scene_id: str | None = None,
        user_id: str | None = None,
        deadline_s: int | None = None,
        reuse_within_s: int | None = None,
        connection: Connection | None = None,
    ) -> VideoJob:
        """
        Ask for one video, and return its job.

        Args:
            idempotency_key: Asking again with the same key (per user) returns the first job;
                everything else must be the same, too.
            priority: 0 to 9; higher ones go first.
            run_at: Not before this moment (aware).
            webhook_url: Who is told when the job ends.
            metadata: Yours; at most 16 KiB of JSON.
            deadline_s: Seconds from the first attempt, or the first trouble before it, to the
                stored video; waiting for a turn does not count. None takes the setting.
            reuse_within_s: If the same video was stored for the same user within so many seconds,
                and is still there, its job is the answer, at no cost; it has ended already, so no
                webhook tells of it. None buys a video.
            connection: An asyncpg connection: the job exists when your transaction commits.

        Raises:
            RequestError: The request cannot be done; the sentence says what is allowed.
            ModelRetiredError: The model is switched off; the sentence says what still works.
            IdempotencyConflictError: The key was used for another request.
            BudgetExceededError: A budget cannot bear its price; the sentence says which, and when
                it frees.
            PriceUnknownError: A budget is in force, and nobody knows the price.
            DatabaseError: PostgreSQL cannot be reached: nothing was accepted.
        """
        wish = _Wish(
            idempotency_key=idempotency_key,
            priority=priority,
            run_at=run_at,
            webhook_url=webhook_url,
            metadata=metadata or {},
            scene_id=scene_id,
            user_id=user_id,
            deadline_s=deadline_s,
            reuse_within_s=reuse_within_s,
        )
        [job] = await self._enqueue([request], wish, connection)
        return job

    async def enqueue_many(
        self,
        requests: Sequence[VideoRequest],
        *,
        priority: int = 0,
        run_at: datetime | None = None,
        webhook_url: str | None = None,
        metadata: Mapping[str, JsonValue] | None = None,
        scene_id: str | None = None,
        user_id: str | None = None,
        deadline_s: int | None = None,
        reuse_within_s: int | None = None,
        connection: Connection | None = None,
    ) -> list[VideoJob]:
        """
        Ask for many videos at once, all or none; the jobs come in the order of *requests*.

        Args:
            reuse_within_s: As `enqueue`, for each of them.

        Raises:
            RequestError: One of them cannot be done (the sentence says which): none was accepted.
            BudgetExceededError, PriceUnknownError: As `enqueue`, for all of them together.
        """
        wish = _Wish(
            idempotency_key=None,
            priority=priority,
            run_at=run_at,
            webhook_url=webhook_url,
            metadata=metadata or {},
            scene_id=scene_id,
            user_id=user_id,
            deadline_s=deadline_s,
            reuse_within_s=reuse_within_s,
        )
        return await self._enqueue(requests, wish, connection)

    async def get(self, job_id: UUID) -> VideoJob:
        """
        The job as it is now; its prompt is empty if it is sealed and we cannot open it.

        Raises:
            JobNotFoundError: There is none with this id.
        """
        async with self._database.connection() as connection:
            job = await jobs.get(connection, job_id)
        if job is None:
            raise JobNotFoundError(f"there is no job {job_id}")
        return prompts.shown(self._vault, job)

    async def recent(
        self,
        *,
        status: JobStatus | None = None,
        provider: str | None = None,
        model: str | None = None,
        code: str | None = None,
        user_id: str | None = None,
        scene_id: str | None = None,
        before: UUID | None = None,
        limit: int = 50,
    ) -> list[VideoJob]:
        """At most *limit* jobs, newest first; *before* is the last one of the page before."""
        async with self._database.connection() as connection:
            found = await jobs.recent(
                connection,
                status=status,
                provider=provider,
                model=model,
                code=code,
                user_id=user_id,
                scene_id=scene_id,
                before=before,
                limit=limit,
            )
        return [prompts.shown(self._vault, job) for job in found]

    async def history(self, job_id: UUID) -> list[JobEvent]:
        """Everything that happened to a job so far, in order."""
        async with self._database.connection() as connection:
            return await events.of_job(connection, job_id)

    async def outlooks(self, found: Sequence[VideoJob]) -> dict[UUID, Outlook]:
        """When each of *found* will be done, and where it waits; by its id."""
        if all(job.is_final for job in found):
            return {job.id: Outlook() for job in found}
        waiting = [job.id for job in found if job.status is JobStatus.PENDING]
        settings = self._settings
        async with self._database.connection() as connection:
            now = await history.now(connection)
            learnt = await history.durations(connection)
            slots = await workers.slots(connection, settings.lease_ttl_s)
            places = (
                await history.places(connection, waiting, head_start_s=HEAD_START_MS / 1000)
                if waiting
                else {}
            )
        line = Capacity(slots=slots, limit_per_min=settings.rate_limit_per_min)
        told: dict[UUID, Outlook] = {}
        for job in found:
            place = places.get(job.id)
            told[job.id] = Outlook(
                eta=eta(job, now=now, learnt=learnt.get(kind_of(job)), place=place, line=line),
                queue_position=place.position if place else None,
            )
        return told

    async def deliveries(
        self,
        job_id: UUID | None = None,
        *,
        state: DeliveryState | None = None,
        before: UUID | None = None,
        limit: int = 50,
    ) -> list[Delivery]:
        """
        At most *limit* webhooks, of one job or of all, the newest first; *before* is the last one
        of the page before.
        """
        async with self._database.connection() as connection:
            return await deliveries.recent(
                connection, job_id=job_id, state=state, before=before, limit=limit
            )

    async def delivery(self, delivery_id: UUID) -> Delivery:
        """
        How a webhook stands.

        Raises:
            DeliveryNotFoundError: There is none with this id, or it is no longer kept.
        """
        async with self._database.connection() as connection:
            found = await deliveries.get(connection, delivery_id)
        return _existing(found, delivery_id)

    async def replay(self, delivery_id: UUID) -> Delivery:
        """
        Let a webhook be sent now, under the same id: once more if it has ended, else without
        waiting for its next try.

        Raises:
            DeliveryNotFoundError: There is none with this id, or it is no longer kept.
        """
        async with self._database.connection() as connection:
            found = await deliveries.replay(connection, delivery_id)
        return _existing(found, delivery_id)

    async def events(self, job_id: UUID, *, after: int = 0) -> AsyncIterator[JobEvent]:
        """
        Everything that happens to a job, in order, until it is final; progress comes in
        between, live.

        While PostgreSQL is away it waits, for ever if need be, and then goes on where it was: put
        it under a timeout if you cannot.

        Args:
            after: Number of the last event already seen.

        Raises:
            JobNotFoundError: There is none with this id.
            DatabaseRefusedError: PostgreSQL answers and refuses us; waiting mends nothing.
        """
        loop = asyncio.get_running_loop()
        await self._patiently(job_id, partial(self.get, job_id))
        async with live.watch(self._redis, job_id) as watch:
            while True:
                look_at = loop.time() + LOOK_INTERVAL_S
                job, happened = await self._patiently(job_id, partial(self._news, job_id, after))
                for event in happened:
                    after = event.seq or after
                    yield event
                if (happened[-1].status if happened else job.status).is_final:
                    return
                while (notice := await watch.next(look_at - loop.time())) is not None:
                    if notice.percent is None:
                        break
                    yield _progressed(job, notice.percent)

    async def wait(self, job_id: UUID, *, timeout: float | None = None) -> VideoJob:  # noqa: ASYNC109  part of the public face
        """
        The job once it is final; outages of PostgreSQL are waited for.

        Args:
            timeout: Seconds to wait at most, None for ever: also while PostgreSQL is away.

        Raises:
            TimeoutError: It is not final yet, or nobody can tell; it goes on all the same.
            JobNotFoundError: There is none with this id.
            DatabaseRefusedError: PostgreSQL answers and refuses us; waiting mends nothing.
        """
        async with asyncio.timeout(timeout):
            async for _ in self.events(job_id):
                pass
            return await self._patiently(job_id, partial(self.get, job_id))

    async def cancel(
        self, job_id: UUID, *, discard: bool = False, by: str | None = None
    ) -> VideoJob:
        """
        Ask for the end of a job, and return it as it is then.

        Before its submit it is cancelled at once, at no cost. A generation is stopped at the
        provider, where that is possible; the job ends within two seconds, and a provider that
        answers later still corrects what it cost. While the paid request is under way the wish is
        noted (`cancel_requested_at`), and the end comes with the provider's receipt: that attempt
        may be billed. A video that is already made was paid for: it is stored and the job
        completes, unless *discard* throws it away. A final job is returned as it is.

        Args:
            by: Who wants it, for the job's events; None for a service.

        Raises:
            JobNotFoundError: There is none with this id.
        """
        for _ in range(CANCEL_TRIES):
            job = await self.get(job_id)
            noted = job.cancel_requested_at is not None and job.cancel_discards >= discard
            if job.is_final or (job.worker_id is not None and noted):
                return job
            lifecycle.check_known(job)
            is_waiting = job.worker_id is None and job.stage is Stage.QUEUED
            if is_waiting:
                change = lifecycle.cancelled(job, held=False, stopped_at_provider=None)
            else:
                change = lifecycle.cancel_requested(discard=discard)
            before = Dispatch.for_job(job)
            try:
                job = await self._apply(job_id, change, by)
            except LeaseLostError:
                continue
            if is_waiting:
                with suppress(DispatchError):  # whoever takes it finds no job, and goes on
                    await self._dispatcher.drop([before])
            if job.worker_id is not None:
                await live.call_off(self._redis, job.worker_id)
            await self._dispatch([job])  # if nobody holds it, somebody must see to it now
            return job
        raise InvalidStateError(f"job {job_id} keeps changing hands; ask again")

    async def retry(self, job_id: UUID, *, anew: bool = False, by: str | None = None) -> VideoJob:
        """
        Let a failed or cancelled job go on: from its paid result if that may still exist,
            else anew.

        Args:
            by: Who wants it, for the job's events; None for a service.

        Raises:
            JobNotFoundError: There is none with this id.
            InvalidStateError: It neither failed nor was cancelled, or is no longer kept.
            BudgetExceededError, PriceUnknownError: It would buy a new video, and may not.
        """
        job = await self.get(job_id)
        change = lifecycle.retried(job, max_attempts=self._settings.max_attempts, anew=anew)
        try:
            job = await self._apply(job_id, change, by)
        except LeaseLostError as error:
            raise InvalidStateError(f"job {job_id} was changed meanwhile; look again") from error
        await self._dispatch([job])
        return job

    async def retry_failed(
        self,
        *,
        provider: str | None = None,
        code: str | None = None,
        user_id: str | None = None,
        scene_id: str | None = None,
        limit: int = 1000,
        anew: bool = False,
        dry_run: bool = False,
        by: str | None = None,
    ) -> list[RetryPlan]:
        """
        Let every failed job that fits the filter go on, the oldest first; what that means for each.

        Those that a budget cannot bear stay as they are, and are left out of the answer.

        Args:
            code: Only those that failed with this error code.
            dry_run: Tell what would happen, and what it would cost, and do nothing.
            by: Who wants it, for the jobs' events; None for a service.

        Raises:
            BudgetExceededError, PriceUnknownError: No budget lets any of them go on.
        """
        async with self._database.connection() as connection:
            found = await jobs.failed(
                connection,
                provider=provider,
                code=code,
                user_id=user_id,
                scene_id=scene_id,
                limit=limit,
            )
        plans = [retry_plan(job, anew=anew) for job in found]
        if dry_run:
            return plans
        done: list[RetryPlan] = []
        refused: BudgetError | None = None
        for plan in plans:
            try:
                with suppress(InvalidStateError):  # somebody else was faster
                    await self.retry(plan.job_id, anew=anew, by=by)
                    done.append(plan)
            except BudgetError as error:  # others may be cheaper, or somebody else's
                refused = error
        if refused is not None and not done:
            raise refused
        return done

    async def forget(self, user_id: str, *, dry_run: bool = False) -> Traces:
        """
        Let everything be deleted that there is of a user by now, and tell what that is.

        Running jobs are cancelled at once, as by `cancel` with *discard*: of `paid` ones the video
        may be billed all the same. Workers delete the rest within seconds, objects in the bucket
        first and rows last, as soon as the jobs have ended; once it is done there are no `jobs`
        and `asked_at` is None. Asked again it covers what came meanwhile.

        Args:
            dry_run: Tell what there is, and how far it is, and do nothing.

        Raises:
            InvalidRequestError: No job can have this user.
            DatabaseError: PostgreSQL is away; if it was asked for before, workers go on.
        """
        keys.check_user(user_id)
        async with self._database.connection() as connection:
            if not dry_run:
                await erasure.ask(connection, user_id)
            traces = await erasure.traces(connection, user_id)
        after: UUID | None = None
        while traces.running and not dry_run:
            async with self._database.connection() as connection:
                found = await erasure.running(connection, user_id, after=after, limit=INSERT_BATCH)
            for job_id in found:
                with suppress(JobNotFoundError, InvalidStateError):  # workers see to it
                    await self.cancel(job_id, discard=True)
            if len(found) < INSERT_BATCH:
                break
            after = found[-1]
        return traces

    async def pause(
        self, provider: str | None = None, *, by: str = "", reason: str = ""
    ) -> list[Pause]:
        """
        Let no worker take a new job of *provider*, or of any; the pauses that hold then.

        Jobs that were taken before go on to their end, retries by hand and new requests wait.

        Args:
            by: Who wants it, for whoever wonders.

        Raises:
            UnknownProviderError: There is no such provider.
        """
        _check_provider(provider)
        async with self._database.connection() as connection:
            await steering.pause(connection, provider, by, reason)
            return await steering.pauses(connection)

    async def resume(self, provider: str | None = None) -> list[Pause]:
        """
        End the pause of *provider*, or without one the pause of all; the pauses that are left.

        Raises:
            UnknownProviderError: There is no such provider.
        """
        _check_provider(provider)
        async with self._database.connection() as connection:
            await steering.resume(connection, provider)
            return await steering.pauses(connection)

    async def pauses(self) -> list[Pause]:
        """Which providers take no new jobs."""
        async with self._database.connection() as connection:
            return await steering.pauses(connection)

    async def stats(self) -> Counts:
        """How many jobs are where."""
        async with self._database.connection() as connection:
            return await jobs.counts(connection)

    async def _patiently(self, job_id: UUID, look: Callable[[], Awaitable[T]]) -> T:
        """What *look* brings, however long PostgreSQL is away."""
        tries = 0
        while True:
            try:
                return await look()
            except DatabaseRefusedError:
                raise
            except DatabaseError as error:
                if tries == 0:
                    logger.warning(
                        "cannot look at a job, waiting", jobId=str(job_id), reason=error.message
                    )
                wait_s = min(LOOK_INTERVAL_S * 2.0 ** min(tries, 10), LONGEST_WAIT_S)
                tries += 1
                # Those who watch shall not all come back at the same moment.
                await asyncio.sleep(wait_s * (0.5 + self._jitter() / 2))

    async def _news(self, job_id: UUID, after: int) -> tuple[VideoJob, list[JobEvent]]:
        async with self._database.connection() as connection:
            # In this order: what is final by now has all its events by then.
            job = await jobs.get(connection, job_id)
            happened = await events.of_job(connection, job_id, after)
        if job is None:
            raise JobNotFoundError(f"there is no job {job_id}")
        return prompts.shown(self._vault, job), happened

    def _use(self, database: Database, redis: Redis) -> None:
        self._database = database
        self._redis = redis
        self._dispatcher = Dispatcher(redis, self._settings.queue_name)

    async def _enqueue(
        self, requests: Sequence[VideoRequest], wish: _Wish, connection: Connection | None
    ) -> list[VideoJob]:
        now = datetime.now(UTC)
        _check_wish(wish)
        _check_webhook(wish, allow_private=self._settings.allow_private_addresses)
        with self._tracing.span("vidgen.enqueue", jobs=len(requests)) as spot:
            made = await self._accept(requests, wish, connection, now)
            if len(made) == 1:
                spot.tell(job_id=made[0].id, provider=made[0].provider, model=made[0].model)
            await self._dispatch(made)
        return [prompts.shown(self._vault, job) for job in made]

    async def _accept(
        self,
        requests: Sequence[VideoRequest],
        wish: _Wish,
        connection: Connection | None,
        now: datetime,
    ) -> list[VideoJob]:
        prepared: list[tuple[NewJob, list[StoredInput]]] = []
        for number, request in enumerate(requests):
            try:
                prepared.append(self._prepare(request, wish, now))
            except VidgenError as error:
                if len(requests) == 1:
                    raise
                raise type(error)(f"requests[{number}]: {error.message}") from error
            if number % INSERT_BATCH == INSERT_BATCH - 1:
                await asyncio.sleep(0)  # others want the loop, too
        if self._settings.encrypt_prompts:
            prepared = [
                (new, [await prompts.seal_image(self._vault, item) for item in stored])
                for new, stored in prepared
            ]
        if connection is not None:
            return await self._insert_or_reuse(connection, prepared, wish)
        async with self._database.connection() as own:
            return await self._insert_or_reuse(own, prepared, wish)

    def _prepare(
        self, request: VideoRequest, wish: _Wish, now: datetime
    ) -> tuple[NewJob, list[StoredInput]]:
        settings = self._settings
        endpoints = endpoints_of(settings)
        asked, mapped = self._resolved(request)
        options = fallback.options(
            asked,
            asked.fallbacks,
            today=now.date(),
            endpoints=endpoints,
            allow_unknown_models=settings.allow_unknown_models,
            allow_unknown_prices=settings.allow_unknown_prices,
            mapped=mapped,
        )
        reasons = fallback.reasons(asked.reroute_on)
        checked = options[0].quote.request
        targets, all_parameters = _targets(options, endpoints)
        job_id = uuid7()
        stored = [
            StoredInput(
                job_id=job_id,
                position=position,
                content_type=image.recognise(item.data).content_type,
                data=item.data,
            )
            for position, item in enumerate(checked.images)
            if item.data is not None
        ]
        # A route is the same wish, whatever its file says by now.
        wished = checked
        if request.route is not None:
            wished = replace(request, provider=f"route {request.route}")
        has_fallbacks = len(targets) > 1
        return (
            NewJob(
                id=job_id,
                provider=targets[0].provider,
                model=targets[0].model,
                prompt=checked.prompt,
                parameters=all_parameters[0],
                fingerprint=_fingerprint(wished, parameters_of(wished)),
                scene_id=wish.scene_id,
                user_id=wish.user_id,
                idempotency_key=wish.idempotency_key,
                priority=wish.priority,
                run_at=wish.run_at,
                max_attempts=settings.max_attempts,
                deadline_s=wish.deadline_s or settings.deadline_s,
                estimated_cost_micros=targets[0].estimated_cost_micros,
                webhook_url=wish.webhook_url,
                metadata=wish.metadata,
                traceparent=self._tracing.traceparent(),
                wish=None if wish.idempotency_key is None else _hashed(wish, request),
                targets=targets if has_fallbacks else (),
                target_parameters=all_parameters if has_fallbacks else (),
                route=request.route,
                route_version=self._version(request.route, targets),
                reroute_on=reasons if has_fallbacks else (),
                max_cost_micros=asked.max_cost_micros,
                api=targets[0].api,
                allow_unknown_price=settings.allow_unknown_prices,
            ),
            stored,
        )

    def _resolved(self, request: VideoRequest) -> tuple[VideoRequest, tuple[str, ...]]:
        """
        *request* with those that its route names, if it has one; and what the first of them makes
        otherwise than asked.

        Raises:
            InvalidRequestError: There is no such route, or it was given beside what it is for.
        """
        if request.route is None:
            fallbacks: object = request.fallbacks
            if not isinstance(fallbacks, list | tuple):
                raise InvalidRequestError("fallbacks must be a list of Fallback")
            if not request.provider:
                known = ", ".join(catalog.names())
                raise InvalidRequestError(f"provider is missing: give one of {known}, or a route")
            return request, ()
        route = self._routes.get(request.route)
        if route is None:
            known = ", ".join(sorted(self._routes)) or "none; VIDGEN_ROUTES_FILE names their file"
            raise InvalidRequestError(f"there is no route {request.route!r:.60}; known are {known}")
        if request.provider or request.model or request.fallbacks:
            raise InvalidRequestError(
                "route names who makes the video: give it, or provider, model and fallbacks"
            )
        if request.extra:
            raise InvalidRequestError("extra is for one provider: it belongs into the route")
        first, *others = route.targets
        begin, mapped = fallback.begun(request, first, endpoints_of(self._settings))
        resolved = replace(
            begin,
            fallbacks=others,
            route=None,
            reroute_on=route.on if request.reroute_on is None else request.reroute_on,
            max_cost_micros=_lower(request.max_cost_micros, route.max_cost_micros),
        )
        return resolved, mapped

    def _version(self, route: str | None, targets: Sequence[Target]) -> str | None:
        """
        What *route* says, as a hash: a video that it brought before it was edited is not the one
        that it stands for now. None without a route.
        """
        if route is None:
            return None
        who = [(target.provider, target.model) for target in targets]
        told = json_value([self._routes[route].targets, who])
        return hashlib.sha256(orjson.dumps(told, option=orjson.OPT_SORT_KEYS)).hexdigest()

    async def _insert_or_reuse(
        self,
        connection: Connection,
        prepared: Sequence[tuple[NewJob, list[StoredInput]]],
        wish: _Wish,
    ) -> list[VideoJob]:
        if wish.reuse_within_s is None:
            return await self._insert(connection, prepared)
        async with connection.transaction():
            reused = await self._reusable(connection, [new for new, _ in prepared], wish)
            bought = await self._insert(
                connection, [(new, stored) for new, stored in prepared if new.id not in reused]
            )
        rest = iter(bought)
        return [reused[new.id] if new.id in reused else next(rest) for new, _ in prepared]

    async def _reusable(
        self, connection: Connection, wanted: Sequence[NewJob], wish: _Wish
    ) -> dict[UUID, VideoJob]:
        """Those of *wanted* whose video is there, and its job."""
        assert wish.reuse_within_s is not None
        if wish.idempotency_key is not None:
            await reuses.hold_key(connection, wish.user_id, wish.idempotency_key)
            if await reuses.first_use(connection, wish.user_id, wish.idempotency_key):
                return {}  # the key decides
        known = {
            stored: new
            for new in wanted
            for stored in (new.fingerprint, *self._vault.fingerprints(new.fingerprint))
        }
        versions = {stored: new.route_version for stored, new in known.items()}
        within_s = self._still_kept(wish.reuse_within_s)
        made = await reuses.made(connection, wish.user_id, versions, within_s)
        plain = {known[stored].fingerprint: job for stored, job in made.items()}
        found = [(new, plain[new.fingerprint]) for new in wanted if new.fingerprint in plain]
        noted = [
            Reuse(
                job_id=job.id,
                user_id=new.user_id,
                idempotency_key=new.idempotency_key,
                wish=new.wish,
            )
            for new, job in found
        ]
        await reuses.note(connection, noted)
        return {new.id: job for new, job in found}

    def _still_kept(self, within_s: int) -> int:
        """*within_s*, less what will be deleted any moment, as far as we know of that."""
        days = self._settings.result_retention_days
        return min(within_s, days * 86_400 - RETENTION_MARGIN_S) if days else within_s

    async def _insert(
        self, connection: Connection, prepared: Sequence[tuple[NewJob, list[StoredInput]]]
    ) -> list[VideoJob]:
        made: list[VideoJob] = []
        async with connection.transaction():  # inside of the caller's, if there is one
            if len(prepared) > INSERT_BATCH:
                providers = sorted({new.provider for new, _ in prepared})
                await budgets.hold(connection, providers, prepared[0][0].user_id)
            for start in range(0, len(prepared), INSERT_BATCH):
                batch = prepared[start : start + INSERT_BATCH]
                rows = [self._as_stored(new) for new, _ in batch]
                inserted = await jobs.insert(connection, rows)
                if len(inserted) < len(batch):  # only a taken idempotency key is left out
                    return [await self._first_job(connection, new) for new, _ in batch]
                made += inserted
            stored = [item for _, items in prepared for item in items]
            if stored:
                await inputs.insert(connection, stored)
        return made

    def _as_stored(self, new: NewJob) -> NewJob:
        return prompts.seal(self._vault, new) if self._settings.encrypt_prompts else new

    async def _first_job(self, connection: Connection, new: NewJob) -> VideoJob:
        assert new.idempotency_key is not None  # nothing else can be taken
        assert new.wish is not None  # goes with the key
        first = await reuses.first_use(connection, new.user_id, new.idempotency_key)
        if first is None:
            raise IdempotencyConflictError(
                f"idempotency key {new.idempotency_key!r} was used before for another request"
            )
        is_same = prompts.is_same(self._vault, new.fingerprint, first.fingerprint)
        others = [] if is_same else ["the video"]
        if first.wish is not None:
            # Fields that are not the usual ones only stand there if they were asked for.
            names = dict.fromkeys((*new.wish, *first.wish))
            others += [name for name in names if first.wish.get(name) != new.wish.get(name)]
        if others:
            raise IdempotencyConflictError(
                f"idempotency key {new.idempotency_key!r} was used before for another request (job"
                f" {first.job.id}): {' and '.join(others)} {'differ' if others[1:] else 'differs'}"
            )
        return first.job

    async def _dispatch(self, made: Sequence[VideoJob]) -> None:
        # Inside the caller's transaction the row is not visible yet: a worker that is faster than
        # the commit sends the dispatch to itself again.
        # The rows tell the time of the database: with a clock behind it nothing would seem due.
        now = max((job.created_at for job in made), default=datetime.now(UTC))
        try:
            await self._dispatcher.send(
                (Dispatch.for_job(job) for job in made if job.due_at is not None),
                now=max(now, datetime.now(UTC)),
            )
        except DispatchError as error:
            logger.warning(
                "jobs accepted, dispatch left to the sweep", jobs=len(made), code=error.code
            )

    async def _apply(self, job_id: UUID, change: lifecycle.Transition, by: str | None) -> VideoJob:
        async with self._database.connection() as connection:
            job = await jobs.apply(connection, job_id, change, by=by)
        await live.tell(self._redis, job_id)
        return prompts.shown(self._vault, job)


def _existing(found: Delivery | None, delivery_id: UUID) -> Delivery:
    if found is None:
        raise DeliveryNotFoundError(f"there is no delivery {delivery_id}")
    return found


def _check_provider(name: str | None) -> None:
    if name is not None:
        catalog.vendor(name)


def retry_plan(job: VideoJob, *, anew: bool = False) -> RetryPlan:
    """What a retry of *job* would do, and cost."""
    goes_on = lifecycle.resumes(job) and not anew
    return RetryPlan(
        job_id=job.id,
        stage=job.stage if goes_on else Stage.QUEUED,
        pays_again=not goes_on,
        cost_micros=0 if goes_on else (job.targets or (job,))[0].estimated_cost_micros,
    )


def endpoints_of(settings: Settings) -> Endpoints:
    """What the catalog must know of where requests go."""
    return Endpoints(settings.variable)


def _targets(
    options: Sequence[fallback.Option], endpoints: Endpoints
) -> tuple[tuple[Target, ...], tuple[dict[str, JsonValue], ...]]:
    """Who may make it, and what each is asked for, as the row keeps them."""
    targets = []
    for option in options:
        provider, model = option.quote.request.provider, option.quote.request.model
        assert model is not None  # a quote names the model
        targets.append(
            Target(
                provider=provider,
                model=model,
                api=catalog.vendor(provider).interface_of(model, endpoints).name,
                estimated_cost_micros=option.quote.cost_micros,
                mapped=option.mapped,
            )
        )
    return tuple(targets), tuple(parameters_of(option.quote.request) for option in options)


def _lower(asked: int | None, of_route: int | None) -> int | None:
    """The ceiling that holds: a request may lower the one of its route."""
    if not isinstance(asked, int) or of_route is None:
        return of_route if asked is None else asked
    return min(asked, of_route)


def _hashed(wish: _Wish, request: VideoRequest) -> dict[str, JsonValue]:
    """
    What makes another request of one for the same video, a hash for each field: values may be
    private, and are not kept as long as the key.
    """
    compared: dict[str, JsonValue] = {
        "webhook_url": wish.webhook_url,
        "run_at": None if wish.run_at is None else wish.run_at.astimezone(UTC).isoformat(),
        "deadline_s": wish.deadline_s,
        "priority": wish.priority,
        "metadata": dict(wish.metadata),
        "scene_id": wish.scene_id,
    }
    for name in ("fallbacks", "route", "reroute_on", "max_cost_micros"):
        if value := getattr(request, name):  # else as before there were any
            compared[name] = json_value(value)
    return {
        name: hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
        for name, value in compared.items()
    }


def _check_wish(wish: _Wish) -> None:
    _check_whole("priority", wish.priority, 0, MAX_PRIORITY)
    if wish.deadline_s is not None:
        _check_whole("deadline_s", wish.deadline_s, 1, MAX_DEADLINE_S)
    if wish.reuse_within_s is not None:
        _check_whole("reuse_within_s", wish.reuse_within_s, 1, MAX_REUSE_S)
    run_at: object = wish.run_at
    if run_at is not None and not (isinstance(run_at, datetime) and run_at.utcoffset() is not None):
        raise InvalidRequestError("run_at must be an aware datetime, e.g. with tzinfo=UTC")
    try:
        _ = run_at.astimezone(UTC) if run_at is not None else None
    except OverflowError as error:
        raise InvalidRequestError("run_at must lie within the years 1 to 9999 of UTC") from error
    for name in ("idempotency_key", "scene_id", "user_id"):
        text: object = getattr(wish, name)
        if text is not None and not (_is_storable(text) and len(text) <= MAX_TEXT):
            raise InvalidRequestError(
                f"{name} must be text of 1 to {MAX_TEXT} characters, without null characters and"
                " lone surrogates"
            )
    _check_metadata(wish.metadata)


def _check_webhook(wish: _Wish, *, allow_private: bool) -> None:
    if wish.webhook_url is not None:
        why = webhook.refusal(wish.webhook_url, allow_private=allow_private)
        if why is not None:
            raise InvalidRequestError(f"webhook_url {why}")


def _check_whole(name: str, value: object, lowest: int, highest: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
        raise InvalidRequestError(
            f"{name} must be a whole number from {lowest} to {highest}, not {value!r:.60}"
        )


def _is_storable(text: object) -> TypeGuard[str]:
    if not isinstance(text, str) or not text or "\0" in text:
        return False
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _check_metadata(metadata: object) -> None:
    if not isinstance(metadata, Mapping):
        raise InvalidRequestError("metadata must be a mapping of names to JSON values")
    if not _is_flat_enough(metadata, MAX_METADATA_DEPTH):
        # A document with it inside must be one that JSON is still written from.
        raise InvalidRequestError(f"metadata is nested deeper than {MAX_METADATA_DEPTH} levels")
    try:
        text = orjson.dumps(dict(metadata))
    except TypeError as error:
        raise InvalidRequestError(f"metadata must be JSON: {error}") from error
    if len(text) > MAX_METADATA_BYTES:
        raise InvalidRequestError(
            f"metadata may have {MAX_METADATA_BYTES} bytes of JSON, not {len(text)}"
        )
    if _NULL_CHARACTER.search(text):
        raise InvalidRequestError("metadata contains a null character, which nothing can store")


def _is_flat_enough(value: object, levels: int) -> bool:
    inner: Iterable[object] = ()
    if isinstance(value, Mapping):
        inner = value.values()
    elif isinstance(value, list | tuple):
        inner = value
    return levels >= 0 and all(_is_flat_enough(item, levels - 1) for item in inner)


def _fingerprint(request: VideoRequest, parameters: Mapping[str, JsonValue]) -> str:
    digest = hashlib.sha256(
        orjson.dumps(
            [request.provider, request.model, request.prompt, dict(parameters)],
            option=orjson.OPT_SORT_KEYS,
        )
    )
    for item in request.images:
        digest.update(hashlib.sha256(item.data or b"").digest())
    return digest.hexdigest()


def _progressed(job: VideoJob, percent: int) -> JobEvent:
    return JobEvent(
        job_id=job.id,
        seq=None,
        type=EventType.PROGRESSED,
        at=datetime.now(UTC),
        status=job.status,
        stage=job.stage,
        attempt=job.attempt,
        progress=percent,
        detail={},
    )
