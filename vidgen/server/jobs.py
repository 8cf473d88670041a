"""Jobs over HTTP: ask for a video, look at it, follow it, end it, let it go on, fetch it."""

import base64
import re
from collections.abc import Sequence
from typing import Any, Literal
from uuid import UUID

from aiohttp import web
from pydantic import ConfigDict, Field

from vidgen import catalog
from vidgen.document import PRIVATE, SEALED, event_document, job_document, without_query
from vidgen.errors import InvalidRequestError, NoResultError, StorageError
from vidgen.fallback import MAX_FALLBACKS
from vidgen.forecast import Eta
from vidgen.job import (
    REROUTES,
    Fallback,
    ImageRole,
    InputImage,
    JobEvent,
    JobStatus,
    VideoJob,
    VideoRequest,
)
from vidgen.pipeline import reuse
from vidgen.queue import RetryPlan, VideoQueue, retry_plan
from vidgen.server import audit, body, deliveries, stream
from vidgen.server.keys import HUB, QUEUE, RESOURCES
from vidgen.server.operation import (
    Answer,
    Body,
    Moment,
    Operations,
    Query,
    Text,
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

LISTED_PROMPT_CHARS = 160

operations = Operations("jobs")

_ETA = or_null(object_of(Eta))
_POSITION = or_null({"type": "integer", "minimum": 1})
# Null: it is sealed, and does not open here.
_PROMPT = or_null(schema_of(str))
_EVENT = object_of(JobEvent)
JOB = object_of(VideoJob, without=PRIVATE | SEALED)
LISTED_JOB = object_of(
    VideoJob,
    without=PRIVATE | SEALED,
    prompt=_PROMPT,
    eta=_ETA,
    queue_position=_POSITION,
)
SHOWN_JOB = object_of(
    VideoJob,
    without=SEALED | {"prompt"},
    prompt=_PROMPT,
    events=list_of(_EVENT),
    deliveries=list_of(deliveries.DELIVERY),
    eta=_ETA,
    queue_position=_POSITION,
    retry=or_null(object_of(RetryPlan)),
)
_ONE = Answer(sentence="The job as it is then.", schema=JOB)


class Image(Body):
    """One image that goes with the prompt: exactly one of *url*, *key*, *data*."""

    role: ImageRole = "first_frame"
    url: str | None = Field(None, max_length=2048)
    key: str | None = Field(None, max_length=1024)
    data: str | None = Field(None, description="Base64 of a PNG, JPEG or WebP file.")


class Instead(Body):
    """
    Who makes it if nobody before it does, and what is different there; what is left out is asked
    for as near as the model comes.
    """

    provider: Text = Field(json_schema_extra={"enum": [*catalog.names()]})
    model: Text | None = None
    seconds: int | None = Field(None, description="May be longer than asked.")
    size: Text | None = None
    aspect_ratio: Text | None = None
    resolution: Text | None = None
    audio: bool | None = None
    extra: dict[str, Any] | None = None


class NewVideo(Body):
    """What a video should be; what is left out is the model's default."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "provider": "sora",
                    "prompt": "a tram in the rain",
                    "seconds": 8,
                    "size": "1280x720",
                    "idempotency_key": "order-4711",
                    "metadata": {"order": 4711},
                }
            ]
        }
    )

    provider: Text | None = Field(
        None,
        json_schema_extra={"enum": [*catalog.names(), None]},
        description="Null with a route only.",
    )
    prompt: str
    model: Text | None = None
    seconds: int | None = None
    size: Text | None = None
    aspect_ratio: Text | None = None
    resolution: Text | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    audio: bool | None = None
    images: list[Image] = Field(default_factory=list, max_length=16)
    extra: dict[str, Any] = Field(default_factory=dict)
    fallbacks: list[Instead] = Field(default_factory=list, max_length=MAX_FALLBACKS)
    route: Text | None = Field(
        None, description="In place of provider, model and fallbacks: one of VIDGEN_ROUTES_FILE."
    )
    reroute_on: list[Text] | None = Field(
        None,
        max_length=len(REROUTES),
        description=f"What moves it on to a fallback: {', '.join(REROUTES)}; null for the usual.",
    )
    max_cost_micros: int | None = Field(
        None, description="What all attempts together may cost at most, in micro-dollars."
    )
    idempotency_key: str | None = Field(
        None, description="The same key gives the same job; the header Idempotency-Key does, too."
    )
    priority: int = Field(0, ge=0, le=9)
    run_at: Moment | None = None
    webhook_url: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    scene_id: str | None = None
    user_id: str | None = None
    deadline_s: int | None = None
    reuse_within_s: int | None = Field(
        None, description="Seconds; the same video stored since then is the answer, at no cost."
    )


class ListQuery(Query):
    """Which jobs, and from where on."""

    status: JobStatus | None = None
    provider: Text | None = None
    model: Text | None = None
    code: Text | None = Field(None, description="Error code of failed jobs.")
    user_id: Text | None = None
    scene_id: Text | None = None
    before: UUID | None = Field(None, description="`next` of the page before.")
    limit: int = Field(50, ge=1, le=200)


class Cancel(Body):
    """How to end a job."""

    discard: bool = Field(False, description="Throw a video away that is already made.")


class Retry(Body):
    """How to let a job go on."""

    anew: bool = Field(False, description="Buy a new video, even if the paid one may exist.")


class ResultQuery(Query):
    """Which file, and whether a browser should save it."""

    variant: Literal["video", "thumbnail", "spritesheet"] = "video"
    download: bool = False


@operations.add(
    "POST",
    "/api/jobs",
    body=NewVideo,
    answers={
        201: Answer(
            sentence="The job: new, of this key before, or whose video is used again.", schema=JOB
        )
    },
    refusals=(402, 409),
)
async def create(request: web.Request) -> web.Response:
    """Ask for a video."""
    wish = await read_body(request, NewVideo, body.LARGE_BYTES)
    video = wanted(wish)
    key = wish.idempotency_key
    if key is None:  # an empty one is refused like any other that is none
        key = request.headers.get("Idempotency-Key")
    named = {"provider": wish.provider, "model": wish.model, "route": wish.route}

    async def ask() -> VideoJob:
        return await request.app[QUEUE].enqueue(
            video,
            idempotency_key=key,
            priority=wish.priority,
            run_at=wish.run_at,
            webhook_url=wish.webhook_url,
            metadata=wish.metadata,
            scene_id=wish.scene_id,
            user_id=wish.user_id,
            deadline_s=wish.deadline_s,
            reuse_within_s=wish.reuse_within_s,
        )

    async with audit.noted(request, "enqueue", **named) as note:
        job = await ask()
        if wish.reuse_within_s is not None and await _is_gone(request, job):
            job = await ask()
    await audit.aim(request, note, job.id)
    return answer(job_document(job), status=201, Location=f"/api/jobs/{job.id}")


async def _is_gone(request: web.Request, job: VideoJob) -> bool:
    """Whether *job* ended before with a video that is not in the bucket any more."""
    if job.status is not JobStatus.COMPLETED or job.storage_key is None:
        return False
    try:
        return await reuse.is_gone(request.app[RESOURCES], job.id, job.storage_key)
    except StorageError:  # nobody can tell now; a worker looks after it
        return False


def wanted(wish: NewVideo) -> VideoRequest:
    """
    The video that *wish* asks for.

    Raises:
        InvalidRequestError: An image is no base64.
    """
    return VideoRequest(
        provider=wish.provider or "",
        prompt=wish.prompt,
        model=wish.model,
        seconds=wish.seconds,
        size=wish.size,
        aspect_ratio=wish.aspect_ratio,
        resolution=wish.resolution,
        negative_prompt=wish.negative_prompt,
        seed=wish.seed,
        audio=wish.audio,
        images=tuple(_image(number, image) for number, image in enumerate(wish.images)),
        extra=wish.extra,
        fallbacks=[Fallback(**each.model_dump()) for each in wish.fallbacks],
        route=wish.route,
        reroute_on=wish.reroute_on,
        max_cost_micros=wish.max_cost_micros,
    )


@operations.add(
    "GET",
    "/api/jobs",
    query=ListQuery,
    answers={
        200: Answer(
            sentence="The newest first, with the beginning of their prompts.",
            schema=record(jobs=list_of(LISTED_JOB), next=or_null(schema_of(UUID))),
        )
    },
    refusals=(400,),
)
async def index(request: web.Request) -> web.Response:
    """List jobs, the newest first."""
    wish = read_query(request, ListQuery)
    found = await request.app[QUEUE].recent(
        status=wish.status,
        provider=wish.provider,
        model=wish.model,
        code=wish.code,
        user_id=wish.user_id,
        scene_id=wish.scene_id,
        before=wish.before,
        limit=wish.limit,
    )
    told = await _told(request.app[QUEUE], found)
    listed = [job_document(job) | {"prompt": _shortened(job)} | told[job.id] for job in found]
    is_full = len(found) == wish.limit
    return answer({"jobs": listed, "next": found[-1].id if is_full else None})


@operations.add(
    "GET",
    "/api/jobs/{id}",
    answers={
        200: Answer(
            sentence="Everything about a job; `retry` says what a retry would do.",
            schema=SHOWN_JOB,
        )
    },
    refusals=(400, 404),
)
async def show(request: web.Request) -> web.Response:
    """Tell everything about a job, and what happened to it."""
    job_id = read_id(request)
    queue = request.app[QUEUE]
    job, happened = await queue.get(job_id), await queue.history(job_id)
    webhooks = await queue.deliveries(job_id)
    can_retry = job.status in {JobStatus.FAILED, JobStatus.CANCELLED}
    document = job_document(job, private=True)
    if job.webhook_url is not None and not deliveries.sees_secrets(request):
        document["webhook_url"] = without_query(job.webhook_url)
    return answer(
        document
        | {
            "events": [event_document(event) for event in happened],
            "deliveries": [deliveries.told(request, one) for one in webhooks],
            "retry": retry_plan(job) if can_retry else None,
        }
        | (await _told(queue, [job]))[job.id]
    )


@operations.add(
    "POST", "/api/jobs/{id}/cancel", body=Cancel, answers={200: _ONE}, refusals=(400, 404, 409)
)
async def cancel(request: web.Request) -> web.Response:
    """Ask for the end of a job; what a provider has started may still be billed."""
    job_id, wish = read_id(request), await read_body(request, Cancel)
    async with audit.noted(request, "cancel", job_id, discard=wish.discard) as note:
        job = await request.app[QUEUE].cancel(job_id, discard=wish.discard, by=note.who)
    return answer(job_document(job))


@operations.add(
    "POST", "/api/jobs/{id}/retry", body=Retry, answers={200: _ONE}, refusals=(400, 402, 404, 409)
)
async def retry(request: web.Request) -> web.Response:
    """Let a failed or cancelled job go on: from its paid result if it may exist, else anew."""
    job_id, wish = read_id(request), await read_body(request, Retry)
    async with audit.noted(request, "retry", job_id, anew=wish.anew) as note:
        job = await request.app[QUEUE].retry(job_id, anew=wish.anew, by=note.who)
    return answer(job_document(job))


@operations.add(
    "GET",
    "/api/jobs/{id}/events",
    query=stream.Since,
    answers={
        200: Answer(
            sentence="Each event of the job in order, until it is final; progress in between.",
            schema=stream.EVENT,
            content_type="text/event-stream",
        ),
        204: Answer(sentence="The job is final and there is nothing behind `Last-Event-ID`."),
    },
    refusals=(400, 404, 503),
)
async def events(request: web.Request) -> web.StreamResponse:
    """Follow one job live, as server-sent events."""
    job_id, after = read_id(request), stream.since(request)
    queue = request.app[QUEUE]
    with request.app[HUB].watch(job_id, after or 0) as watcher:
        job = await queue.get(job_id)
        if job.is_final and after is not None:
            newest = (await queue.history(job_id))[-1:]
            if not newest or (newest[0].seq or 0) <= after:
                return web.Response(status=204)
        return await stream.send(request, watcher)


@operations.add(
    "GET",
    "/api/jobs/{id}/result",
    query=ResultQuery,
    answers={302: Answer(sentence="To an address that works for a while.")},
    refusals=(400, 404),
)
async def result(request: web.Request) -> web.Response:
    """Where the video, or a picture of it, can be fetched."""
    wish = read_query(request, ResultQuery)
    job = await request.app[QUEUE].get(read_id(request))
    keys = {
        "video": job.storage_key,
        "thumbnail": job.thumbnail_key,
        "spritesheet": job.spritesheet_key,
    }
    key = keys[wish.variant]
    if job.archived_at is not None:
        raise NoResultError(f"job {job.id} was archived: its {wish.variant} is no longer kept")
    if job.gone_at is not None:
        raise NoResultError(
            f"job {job.id} was completed, and its {wish.variant} is not in the bucket any more: ask"
            " for it again"
        )
    if key is None:
        raise NoResultError(f"job {job.id} is {job.status} and has no {wish.variant}")
    resources = request.app[RESOURCES]
    name = f"{job.id}{_suffix(key)}" if wish.download else None
    public = None if wish.download else resources.storage.public_url(key)
    address = public or await resources.storage.presigned_url(
        key, resources.settings.presigned_url_expires_s, name
    )
    return web.Response(
        status=302, headers={"Location": address, "Cache-Control": "private, no-store"}
    )


async def _told(queue: VideoQueue, found: Sequence[VideoJob]) -> dict[UUID, dict[str, Any]]:
    """When each of *found* will be done, and where it waits."""
    outlooks = await queue.outlooks(found)
    return {
        job_id: {"eta": outlook.eta, "queue_position": outlook.queue_position}
        for job_id, outlook in outlooks.items()
    }


def _shortened(job: VideoJob) -> str | None:
    if job.sealed is not None:
        return None
    words = re.sub(r"\s+", " ", job.prompt[: LISTED_PROMPT_CHARS * 2]).strip()
    return words if len(words) <= LISTED_PROMPT_CHARS else words[: LISTED_PROMPT_CHARS - 1] + "…"


def _suffix(key: str) -> str:
    return key[key.rindex(".") :] if "." in key else ""


def _image(number: int, image: Image) -> InputImage:
    data = None
    if image.data is not None:
        try:
            data = base64.b64decode(image.data, validate=True)
        except ValueError as error:  # of which binascii.Error is one
            raise InvalidRequestError(f"images.{number}.data is no base64: {error}") from error
    return InputImage(role=image.role, url=image.url, key=image.key, data=data)
