"""
Where the receipt of a paid submit waits when PostgreSQL does not answer: in the bucket.

It holds the job's id, the attempt and the operation, so nothing secret. A sweep brings it home.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from enum import StrEnum
from uuid import UUID

import orjson
from loguru import logger

from vidgen import lifecycle, metrics
from vidgen.errors import (
    DatabaseError,
    InternalError,
    InvalidRequestError,
    LeaseLostError,
    OperationTakenError,
    StorageDeniedError,
    StorageError,
)
from vidgen.job import EventType, JobEvent, Operation, RerouteReason, VideoJob
from vidgen.pipeline.leases import Leases
from vidgen.resources import Resources
from vidgen.store import events, jobs
from vidgen.store.rows import operation_of

PREFIX = "receipts/"
MAX_BYTES = 64 * 1024
BATCH = 100


class Fate(StrEnum):
    """What became of a receipt that could not be stored."""

    STORED = "stored"  # for this very attempt, by whoever was faster
    ADOPTED = "adopted"  # another job has the operation
    RETURNED = "returned"  # its job had moved on, sent nothing yet, and goes on with it
    TOO_LATE = "too_late"  # the job is past the attempt: what was paid belongs to nobody


async def keep(resources: Resources, job_id: UUID, attempt: int, operation: Operation) -> None:
    """
    Put the receipt into the bucket.

    Raises:
        StorageError: The bucket does not take it either.
    """
    receipt = {"job_id": str(job_id), "attempt": attempt, "operation": asdict(operation)}

    async def chunks() -> AsyncIterator[bytes]:
        yield orjson.dumps(receipt)

    await resources.storage.upload(_key(job_id, attempt), chunks(), content_type="application/json")
    logger.warning("receipt kept in the bucket", operation_id=operation.id, attempt=attempt)


async def find(resources: Resources, job_id: UUID, attempt: int) -> Operation | None:
    """
    The receipt of this very attempt, if it waits in the bucket.

    Raises:
        StorageError: Nobody knows.
    """
    try:
        kept = await resources.storage.read(_key(job_id, attempt), MAX_BYTES)
        _, _, operation = _receipt(kept)
    except (InvalidRequestError, ValueError):
        return None  # there is none, or `collect` says that it cannot be read
    return operation


async def collect(resources: Resources, leases: Leases) -> None:
    """
    Store every receipt that waits in the bucket, and let its job go on.

    What we cannot read, or PostgreSQL does not take, stays for a person or a newer release.

    Raises:
        StorageError, DatabaseError: The next sweep does it.
    """
    keys = await resources.storage.keys(PREFIX, BATCH)
    while keys:
        for key in keys:
            await _bring_home(resources, leases, key)
        keys = await resources.storage.keys(PREFIX, BATCH, after=keys[-1])


async def _bring_home(resources: Resources, leases: Leases, key: str) -> None:
    try:
        receipt = _receipt(await resources.storage.read(key, MAX_BYTES))
        if not await _store(resources, leases, *receipt):
            return
    except (InvalidRequestError, StorageDeniedError, InternalError, ValueError) as error:
        if resources.complaints.is_new(key):
            logger.error("receipt cannot be stored", key=key, reason=str(error))
        return
    await resources.storage.delete(key)


def _receipt(text: bytes) -> tuple[UUID, int, Operation]:
    """
    Whose receipt it is, of which attempt, and what it is for.

    Raises:
        ValueError: It is none.
    """
    match orjson.loads(text):
        case {"job_id": str(job_id), "attempt": int(attempt), "operation": operation}:
            return UUID(job_id), attempt, operation_of(operation)
        case _:
            raise ValueError("a receipt has job_id, attempt and operation")


async def clear(resources: Resources, job_id: UUID, attempt: int) -> None:
    """Take the receipt out of the bucket, since PostgreSQL has it; else a sweep does."""
    with suppress(StorageError):
        await resources.storage.delete(_key(job_id, attempt))


async def settle_late(
    resources: Resources, leases: Leases, job_id: UUID, attempt: int, operation: Operation
) -> Fate | None:
    """
    See to a receipt that its job does not wait for any more; what became of it, as `explain`.

    A job that moved on because the request seemed never to have arrived comes back, as long as
    nothing was sent to another target. After that both may be billed: its timeline says so, and its
    ceiling counts it.
    """
    try:
        async with resources.database.connection() as connection:
            job = await jobs.get(connection, job_id)
            happened = await events.of_job(connection, job_id)
        left = next(
            (
                event
                for event in reversed(happened)
                if event.type is EventType.REROUTED
                and event.attempt == attempt
                and event.detail.get("reason") == RerouteReason.ABSENT
            ),
            None,
        )
        if job is not None and left is not None and not _is_known(happened, operation):
            to = _target_left(left)
            if await _come_back(resources, leases, job, attempt, operation, to):
                return Fate.RETURNED
            async with resources.database.connection() as connection:
                latest = await jobs.get(connection, job_id)
            if latest is not None:
                change = lifecycle.overtaken(latest, attempt, operation, left=to)
                await leases.record(latest, change)
    except DatabaseError:
        logger.warning("receipt left to the sweep", jobId=str(job_id), attempt=attempt)
        return None
    except LeaseLostError:
        pass  # it changes at this very moment, and the log tells
    return await explain(resources, job_id, attempt, operation)


def _target_left(left: JobEvent) -> int:
    place = left.detail["from"]
    assert isinstance(place, dict)  # as `lifecycle.onward` wrote it
    to = place["target"]
    assert isinstance(to, int)
    return to


async def _come_back(
    resources: Resources,
    leases: Leases,
    job: VideoJob,
    attempt: int,
    operation: Operation,
    to: int,
) -> bool:
    """Whether *job* goes on with *operation* at target *to*, which it had left."""
    change = lifecycle.returned(job, attempt, operation, to=to)
    try:
        async with resources.database.connection() as connection:
            after = await jobs.apply(connection, job.id, change, worker_id=leases.id)
    except (LeaseLostError, OperationTakenError):
        return False
    metrics.written(None, change, after)
    logger.warning("late receipt taken, job back at its target", jobId=str(job.id), attempt=attempt)
    await leases.announce(after)
    return True


def _is_known(happened: Sequence[JobEvent], operation: Operation) -> bool:
    """Whether the timeline tells of *operation* already."""
    return any(
        event.detail.get("operation_id") == operation.id
        and event.detail.get("endpoint") == operation.endpoint
        for event in happened
    )


async def explain(
    resources: Resources, job_id: UUID, attempt: int, operation: Operation
) -> Fate | None:
    """
    Say in the log why a receipt could not be stored, as loud as it matters; what became of it.

    None if nobody can tell now: then the bucket has it, and a sweep will tell.
    """
    told = {"jobId": str(job_id), "operation_id": operation.id, "attempt": attempt}
    try:
        async with resources.database.connection() as connection:
            owner = await events.owner_of(connection, operation.endpoint, operation.id)
            job = await jobs.get(connection, job_id)
    except DatabaseError:
        logger.warning("receipt left to the sweep", **told)
        return None
    if owner == (job_id, attempt):
        logger.info("receipt was stored already", **told)
        return Fate.STORED
    if owner is not None:
        logger.info("receipt is not needed: another job follows its operation", **told)
        return Fate.ADOPTED
    if job is not None:
        metrics.wasted(job, LeaseLostError.code)
    logger.error("receipt came too late: a paid operation belongs to no attempt", **told)
    return Fate.TOO_LATE


async def _store(
    resources: Resources, leases: Leases, job_id: UUID, attempt: int, operation: Operation
) -> bool:
    """Whether nobody needs the receipt any more."""
    change = lifecycle.submitted(attempt, operation)
    try:
        async with resources.database.connection() as connection:
            job = await jobs.apply(connection, job_id, change, worker_id=leases.id)
    except (OperationTakenError, LeaseLostError):
        return await settle_late(resources, leases, job_id, attempt, operation) is not None
    metrics.written(None, change, job)
    logger.info("receipt brought home", jobId=str(job_id), **change.detail)
    await leases.announce(job)
    return True


def _key(job_id: UUID, attempt: int) -> str:
    return f"{PREFIX}{job_id}.{attempt}.json"
