"""The queue as a whole over HTTP: what waits, what failed, who works, what people do about it."""

from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from pydantic import Field

from vidgen import catalog
from vidgen.catalog import Endpoints, Model
from vidgen.document import json_value
from vidgen.errors import DispatchError, PluginBrokenError, ProviderNotConfiguredError
from vidgen.job import Fallback, JsonValue
from vidgen.queue import RetryPlan
from vidgen.resources import Resources
from vidgen.server import admin, audit, stream
from vidgen.server.keys import HUB, QUEUE, RESOURCES
from vidgen.server.operation import (
    Answer,
    Body,
    Operations,
    Query,
    Text,
    answer,
    list_of,
    object_of,
    or_null,
    read_body,
    read_query,
    record,
    schema_of,
)
from vidgen.store import history, jobs, steering, workers
from vidgen.store.history import Bucket, FailedGroup
from vidgen.store.steering import AuditEntry, Pause
from vidgen.store.workers import ListedWorker

BUCKETS = 48
ONE_OR_ALL: dict[str, JsonValue] = {"enum": [*catalog.names(), None]}

operations = Operations("queue")

_COUNT = {"type": "integer", "minimum": 0}
QUEUE_STATE = record(
    waiting=_COUNT,
    active=_COUNT,
    completed=_COUNT,
    failed=_COUNT,
    delayed=_COUNT,
    cancelled=_COUNT,
    total=_COUNT,
    oldest_waiting_s={"type": "number", "minimum": 0},
    workers=_COUNT,
    paused=list_of(object_of(Pause)),
    draining=schema_of(bool),
    issues=list_of(schema_of(str)),
)
_STATE = Answer(sentence="How it stands then.", schema=QUEUE_STATE)
_MODEL = record(
    name=schema_of(str),
    available=schema_of(bool),
    retires_on=or_null({"type": "string", "format": "date"}),
    seconds=list_of(schema_of(int)),
    default_seconds=or_null(schema_of(int)),
    sizes=list_of(schema_of(str)),
    aspect_ratios=list_of(schema_of(str)),
    resolutions=list_of(schema_of(str)),
    full_length_only=list_of(schema_of(str)),
    resolution_of={"type": "object", "additionalProperties": {"type": "string"}},
    price_micros_per_second={"type": "object", "additionalProperties": {"type": "integer"}},
    silent_price_micros_per_second={"type": "object", "additionalProperties": {"type": "integer"}},
    image_roles=list_of(schema_of(str)),
    takes=list_of(schema_of(str)),
)
_BREAKER = or_null(
    record(open=schema_of(bool), failures=_COUNT, pause_s={"type": "number", "minimum": 0})
)
_PROVIDER = record(
    name=schema_of(str),
    title=schema_of(str),
    configured=schema_of(bool),
    paused=schema_of(bool),
    limit_per_min=_COUNT,
    turns_used=or_null(_COUNT),
    breaker=_BREAKER,
    models=list_of(_MODEL),
)


_ROUTE = record(
    name=schema_of(str),
    targets=list_of(
        record(
            provider=schema_of(str),
            model=or_null(schema_of(str)),
            seconds=or_null(schema_of(int)),
            size=or_null(schema_of(str)),
            aspect_ratio=or_null(schema_of(str)),
            resolution=or_null(schema_of(str)),
            audio=or_null(schema_of(bool)),
        )
    ),
    max_cost_micros=or_null(_COUNT),
)


class PauseWish(Body):
    """Which provider; all of them if none is named."""

    provider: Text | None = Field(None, json_schema_extra=ONE_OR_ALL)
    reason: Text = ""


class ResumeWish(Body):
    """Which provider; the pause of all of them if none is named."""

    provider: Text | None = Field(None, json_schema_extra=ONE_OR_ALL)


class DrainWish(Body):
    """Why."""

    reason: Text = "drain"


class RetryWish(Body):
    """Which failed jobs; all that are left if nothing is named."""

    provider: Text | None = None
    code: Text | None = None
    user_id: Text | None = None
    scene_id: Text | None = None
    limit: int = Field(1000, ge=1, le=10_000)
    anew: bool = Field(False, description="Buy new videos, even if paid ones may exist.")
    dry_run: bool = Field(False, description="Tell what would happen, and do nothing.")


class StatsQuery(Query):
    """How far back."""

    hours: int = Field(24, ge=1, le=24 * 30)


class AuditQuery(Query):
    """From where on."""

    before: int | None = Field(None, ge=1, le=stream.MAX_SEQ)
    limit: int = Field(50, ge=1, le=200)


@operations.add("GET", "/api/queue", answers={200: _STATE})
async def queue(request: web.Request) -> web.Response:
    """How many jobs are where, what is paused, and what looks wrong."""
    return answer(await _state(request))


@operations.add("POST", "/api/queue/pause", body=PauseWish, answers={200: _STATE}, refusals=(400,))
async def pause(request: web.Request) -> web.Response:
    """Take no new job of a provider, or of any; what was taken goes on to its end."""
    wish = await read_body(request, PauseWish)
    async with audit.noted(request, "pause", wish.provider or "all", reason=wish.reason) as note:
        await request.app[QUEUE].pause(wish.provider, by=note.who, reason=wish.reason)
    return answer(await _state(request))


@operations.add(
    "POST", "/api/queue/resume", body=ResumeWish, answers={200: _STATE}, refusals=(400,)
)
async def resume(request: web.Request) -> web.Response:
    """End a pause; what waited is taken within seconds."""
    wish = await read_body(request, ResumeWish)
    async with audit.noted(request, "resume", wish.provider or "all"):
        await request.app[QUEUE].resume(wish.provider)
    return answer(await _state(request))


@operations.add("POST", "/api/queue/drain", body=DrainWish, answers={200: _STATE}, refusals=(400,))
async def drain(request: web.Request) -> web.Response:
    """Take no new job at all and let what is under way end: `active` then goes to 0."""
    wish = await read_body(request, DrainWish)
    async with audit.noted(request, "drain", "all", reason=wish.reason) as note:
        await request.app[QUEUE].pause(None, by=note.who, reason=wish.reason)
    return answer(await _state(request))


@operations.add(
    "GET",
    "/api/failed",
    answers={
        200: Answer(
            sentence="The most frequent reasons first.",
            schema=record(codes=list_of(object_of(FailedGroup)), total=_COUNT),
        )
    },
)
async def failed(request: web.Request) -> web.Response:
    """Count failed jobs by reason and provider."""
    async with request.app[RESOURCES].database.connection() as connection:
        groups = await history.failed_groups(connection)
    return answer({"codes": groups, "total": sum(group.jobs for group in groups)})


@operations.add(
    "POST",
    "/api/failed/retry",
    body=RetryWish,
    answers={
        200: Answer(
            sentence="What was done, or would be, and what it costs.",
            schema=record(
                jobs=list_of(object_of(RetryPlan)), cost_micros=_COUNT, dry_run=schema_of(bool)
            ),
        )
    },
    refusals=(400, 402),
)
async def retry_failed(request: web.Request) -> web.Response:
    """Let all failed jobs that fit go on, and tell which of them are paid again."""
    wish = await read_body(request, RetryWish)
    if wish.dry_run:
        plans = await request.app[QUEUE].retry_failed(**wish.model_dump())
    else:
        async with audit.noted(
            request,
            "retry_failed",
            provider=wish.provider,
            code=wish.code,
            user_id=wish.user_id,
            scene_id=wish.scene_id,
            anew=wish.anew,
        ) as note:
            plans = await request.app[QUEUE].retry_failed(**wish.model_dump(), by=note.who)
    cost_micros = sum(plan.cost_micros or 0 for plan in plans)
    return answer({"jobs": plans, "cost_micros": cost_micros, "dry_run": wish.dry_run})


@operations.add(
    "GET",
    "/api/workers",
    answers={
        200: Answer(
            sentence="The living ones first.",
            schema=record(workers=list_of(object_of(ListedWorker))),
        )
    },
)
async def list_workers(request: web.Request) -> web.Response:
    """Who works, on how much, and who has fallen silent."""
    resources = request.app[RESOURCES]
    async with resources.database.connection() as connection:
        found = await workers.listed(connection, resources.settings.lease_ttl_s)
    return answer({"workers": found})


@operations.add(
    "GET",
    "/api/providers",
    answers={
        200: Answer(
            sentence="`breaker` and `turns_used` are null while Redis is away.",
            schema=record(providers=list_of(_PROVIDER), routes=list_of(_ROUTE)),
        )
    },
)
async def providers(request: web.Request) -> web.Response:
    """
    What each provider offers, how much of its limit is used, whether it answers, and the routes:
    with the model that a target without one gets, and what it sets in place of what is asked for.
    """
    endpoints = request.app[RESOURCES].providers.config.endpoints
    routes = [
        {
            "name": route.name,
            "targets": [_target(each, endpoints) for each in route.targets],
            "max_cost_micros": route.max_cost_micros,
        }
        for route in request.app[QUEUE].routes.values()
    ]
    found = await provider_documents(request.app[RESOURCES])
    return answer({"providers": found, "routes": routes})


@operations.add(
    "GET",
    "/api/stats",
    query=StatsQuery,
    answers={
        200: Answer(
            sentence="Stretches of equal length, the oldest first, without gaps.",
            schema=record(
                hours=_COUNT,
                bucket_s=_COUNT,
                buckets=list_of(object_of(Bucket)),
                completed=_COUNT,
                failed=_COUNT,
                spend_today_micros=_COUNT,
                waste_today_micros=_COUNT,
                unknown_today_micros=_COUNT,
            ),
        )
    },
    refusals=(400,),
)
async def stats(request: web.Request) -> web.Response:
    """What ended when, how long it took, and what it cost."""
    wish = read_query(request, StatsQuery)
    bucket_s = wish.hours * 3600 // BUCKETS
    async with request.app[RESOURCES].database.connection() as connection:
        found = await history.buckets(connection, hours=wish.hours, bucket_s=bucket_s)
        spend = await history.spend_today(connection)
    return answer(
        {
            "hours": wish.hours,
            "bucket_s": bucket_s,
            "buckets": found,
            "completed": sum(bucket.completed for bucket in found),
            "failed": sum(bucket.failed for bucket in found),
            "spend_today_micros": spend.spend_micros,
            "waste_today_micros": spend.waste_micros,
            "unknown_today_micros": spend.unknown_micros,
        }
    )


@operations.add(
    "GET",
    "/api/audit",
    query=AuditQuery,
    answers={
        200: Answer(
            sentence="The newest first.",
            schema=record(entries=list_of(object_of(AuditEntry)), next=or_null(_COUNT)),
        )
    },
    refusals=(400,),
)
async def audited(request: web.Request) -> web.Response:
    """Who did what by hand."""
    wish = read_query(request, AuditQuery)
    async with request.app[RESOURCES].database.connection() as connection:
        found = await steering.entries(connection, before=wish.before, limit=wish.limit)
    is_full = len(found) == wish.limit
    return answer({"entries": found, "next": found[-1].seq if is_full else None})


@operations.add(
    "GET",
    "/api/events",
    query=stream.Since,
    answers={
        200: Answer(
            sentence="Each event of all jobs from now on, and progress.",
            schema=stream.EVENT,
            content_type="text/event-stream",
        )
    },
    refusals=(400, 503),
)
async def events(request: web.Request) -> web.StreamResponse:
    """Follow all jobs live, as server-sent events."""
    after = stream.since(request)
    hub = request.app[HUB]
    with hub.watch(None, after or 0) as watcher:
        await hub.begin(watcher, after)
        return await stream.send(request, watcher)


async def _state(request: web.Request) -> dict[str, Any]:
    resources = request.app[RESOURCES]
    async with resources.database.connection() as connection:
        counts = await jobs.counts(connection)
        oldest_s = await jobs.oldest_due_s(connection)
        alive = await workers.alive(connection, resources.settings.lease_ttl_s)
        held = await steering.pauses(connection)
    return {
        "waiting": counts.waiting,
        "active": counts.active,
        "completed": counts.completed,
        "failed": counts.failed,
        "delayed": counts.delayed,
        "cancelled": counts.cancelled,
        "total": counts.total,
        "oldest_waiting_s": oldest_s,
        "workers": alive,
        "paused": held,
        "draining": any(each.provider is None for each in held),
        "issues": await admin.issues(resources, counts, oldest_s, alive),
    }


def _target(target: Fallback, endpoints: Endpoints) -> dict[str, JsonValue]:
    model = target.model
    if model is None and catalog.is_provider(target.provider):
        model = catalog.vendor(target.provider).default_model(endpoints)
    return {
        "provider": target.provider,
        "model": model,
        "seconds": target.seconds,
        "size": target.size,
        "aspect_ratio": target.aspect_ratio,
        "resolution": target.resolution,
        "audio": target.audio,
    }


async def provider_documents(resources: Resources) -> list[dict[str, JsonValue]]:
    """Every provider, with its models, and how it stands now."""
    async with resources.database.connection() as connection:
        held = {pause.provider for pause in await steering.pauses(connection)}
    return [await _provider(resources, name, held) for name in catalog.names()]


async def _provider(resources: Resources, name: str, held: set[str | None]) -> dict[str, JsonValue]:
    vendor = catalog.vendor(name)
    models = vendor.models
    accounts: dict[str, None] = {}
    for model in models:
        try:
            accounts[resources.providers.account(name, model.name)] = None
        except (PluginBrokenError, ProviderNotConfiguredError):
            continue
    turns, breaker = await _pressure(resources, name, list(accounts))
    return {
        "name": name,
        "title": vendor.title,
        "configured": bool(accounts),
        "paused": bool(held & {name, None}),
        "limit_per_min": resources.settings.rate_limit_per_min,
        "turns_used": turns,
        "breaker": breaker,
        "models": [_model(resources, model) for model in models],
    }


async def _pressure(
    resources: Resources, name: str, accounts: list[str]
) -> tuple[int | None, JsonValue]:
    """Turns of the last minute and the breaker, of the account that has it worst."""
    try:
        used = [await resources.rate_limit.used(name, account) for account in accounts]
        states = [await resources.breakers.state(name, account) for account in accounts]
    except DispatchError:
        return None, None
    worst = max(states, key=lambda state: (state.pause_s, state.failures), default=None)
    breaker: JsonValue = {
        "open": worst is not None and worst.is_open,
        "failures": worst.failures if worst else 0,
        "pause_s": worst.pause_s if worst else 0.0,
    }
    return max(used, default=0), breaker


def _model(resources: Resources, model: Model) -> dict[str, JsonValue]:
    retired = catalog.is_retired(
        model, today=datetime.now(UTC).date(), endpoints=resources.providers.config.endpoints
    )
    try:
        resources.providers.account(model.provider, model.name)
        configured = True
    except (PluginBrokenError, ProviderNotConfiguredError):
        configured = False
    resolutions = {size: resolution for size, (_, resolution) in model.sizes.items()}
    return {
        "name": model.name,
        "available": configured and not retired,
        "retires_on": model.retires_on.isoformat() if model.retires_on else None,
        "seconds": list(model.seconds),
        "default_seconds": model.default_seconds,
        "sizes": list(model.sizes),
        "aspect_ratios": list(model.aspect_ratios),
        "resolutions": list(model.resolutions or dict.fromkeys(resolutions.values())),
        "full_length_only": list(model.full_length_only),
        "resolution_of": json_value(resolutions),
        "price_micros_per_second": json_value(model.micros_per_second()),
        "silent_price_micros_per_second": json_value(model.micros_per_second(silent=True)),
        "image_roles": list(model.image_roles),
        "takes": [*sorted(model.takes)],
    }
