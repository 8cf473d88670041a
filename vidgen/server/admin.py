"""What is in the queue, what failed, and another try for it."""

from uuid import UUID

from aiohttp import web

from vidgen.document import iso
from vidgen.errors import DispatchError, InvalidRequestError
from vidgen.job import JobStatus, JsonValue, VideoJob
from vidgen.resources import Resources
from vidgen.server import audit
from vidgen.server.health import timestamp
from vidgen.server.keys import QUEUE, RESOURCES
from vidgen.store import jobs, keys, workers
from vidgen.store.jobs import Counts

PREFIX = "/api/admin/"
FAILED_LISTED = 50
WAITING_TOO_LONG_S = 900.0

routes = web.RouteTableDef()


@routes.get("/api/admin/queue")
async def queue(request: web.Request) -> web.Response:
    """Counts, what looks wrong, and the newest failed jobs."""
    resources = request.app[RESOURCES]
    async with resources.database.connection() as connection:
        counts = await jobs.counts(connection)
        oldest_s = await jobs.oldest_due_s(connection)
        active = await workers.alive(connection, resources.settings.lease_ttl_s)
        failed = await jobs.recent(connection, status=JobStatus.FAILED, limit=FAILED_LISTED)
    wrong = await issues(resources, counts, oldest_s, active)
    return web.json_response(
        {
            "stats": {
                "waiting": counts.waiting,
                "active": counts.active,
                "completed": counts.completed,
                "failed": counts.failed,
                "delayed": counts.delayed,
                "total": counts.total,
            },
            "health": {"status": "degraded" if wrong else "healthy", "issues": wrong},
            "failedJobs": [_failed(job) for job in failed],
            "timestamp": timestamp(),
        }
    )


@routes.post("/api/admin/queue/retry/{id}")
async def retry(request: web.Request) -> web.Response:
    """Let a failed job go on, from its paid result if that still exists."""
    job_id = _job_id(request)
    async with audit.noted(request, "retry", job_id) as note:
        job = await request.app[QUEUE].retry(job_id, by=note.who)
    how = "goes on with its paid result" if job.operation else "starts anew and will be paid again"
    return web.json_response(
        {"success": True, "message": f"job {job_id} {how}", "jobId": str(job_id)}
    )


def refusal(status: int, code: str, message: str) -> web.Response:
    """A refused request in the words these endpoints have always had."""
    return web.json_response({"success": False, "code": code, "message": message}, status=status)


async def issues(
    resources: Resources, counts: Counts, oldest_s: float, active: int
) -> list[JsonValue]:
    """What looks wrong, in sentences."""
    found: list[JsonValue] = []
    async with resources.database.connection() as connection:
        parked = await jobs.parked(connection)
        sealed = await keys.sealed_under(connection)
    foreign = [each for each in sealed if each.key_id not in resources.vault.key_ids]
    if active == 0:
        found.append("no worker is alive")
    if oldest_s > WAITING_TOO_LONG_S:
        found.append(f"the oldest job has waited for {oldest_s:.0f} s")
    if counts.failed:
        found.append(f"{counts.failed} jobs failed and can be retried")
    if parked:
        found.append(
            f"{parked} jobs wait because their provider key or prompt does not open:"
            " ENCRYPTION_KEYS"
        )
    found += [
        f"{each.keys} provider keys are sealed under the encryption key {each.key_id.hex()}, which"
        " ENCRYPTION_KEYS lacks here"
        for each in foreign
    ]
    try:
        await resources.dispatcher.ping()
    except DispatchError as error:
        found.append(error.message)
    return found


def _failed(job: VideoJob) -> dict[str, JsonValue]:
    return {
        "id": str(job.id),
        "provider": job.provider,
        "model": job.model,
        "sceneId": job.scene_id,
        "userId": job.user_id,
        "stage": job.stage.value,
        "code": job.error_code,
        "failedReason": job.error_message,
        "attemptsMade": job.attempt,
        "operationId": job.operation.id if job.operation else None,
        "createdAt": iso(job.created_at),
        "failedAt": iso(job.completed_at) if job.completed_at else None,
    }


def _job_id(request: web.Request) -> UUID:
    text = request.match_info["id"]
    try:
        return UUID(text)
    except ValueError as error:
        raise InvalidRequestError(f"a job id is a UUID, not {text[:50]!r}") from error
