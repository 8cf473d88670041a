"""
Where the receipt of a paid submit waits when PostgreSQL does not answer: in the bucket.

It holds the job's id, the attempt and the operation, so nothing secret. A sweep brings it home.
"""

from collections.abc import AsyncIterator
from dataclasses import asdict
from uuid import UUID

import orjson
from loguru import logger

from vidgen import lifecycle, metrics
from vidgen.errors import (
    InternalError,
    InvalidRequestError,
    LeaseLostError,
    OperationTakenError,
    StorageDeniedError,
)
from vidgen.job import Operation
from vidgen.pipeline.leases import Leases
from vidgen.resources import Resources
from vidgen.store import jobs
from vidgen.store.rows import operation_of

PREFIX = "receipts/"
MAX_BYTES = 64 * 1024
BATCH = 100


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
        _, change = _receipt(kept)
    except (InvalidRequestError, ValueError):
        return None  # there is none, or `collect` says that it cannot be read
    return operation_of(change.changes["operation"])


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
        job_id, change = _receipt(await resources.storage.read(key, MAX_BYTES))
        await _store(resources, leases, job_id, change)
    except (InvalidRequestError, StorageDeniedError, InternalError, ValueError) as error:
        if resources.complaints.is_new(key):
            logger.error("receipt cannot be stored", key=key, reason=str(error))
        return
    await resources.storage.delete(key)


def _receipt(text: bytes) -> tuple[UUID, lifecycle.Transition]:
    """
    Whose receipt it is, and what it means.

    Raises:
        ValueError: It is none.
    """
    match orjson.loads(text):
        case {"job_id": str(job_id), "attempt": int(attempt), "operation": operation}:
            return UUID(job_id), lifecycle.submitted(attempt, operation_of(operation))
        case _:
            raise ValueError("a receipt has job_id, attempt and operation")


async def _store(
    resources: Resources, leases: Leases, job_id: UUID, change: lifecycle.Transition
) -> None:
    told = {"jobId": str(job_id), **change.detail}
    try:
        async with resources.database.connection() as connection:
            job = await jobs.apply(connection, job_id, change, worker_id=leases.id)
    except OperationTakenError:
        logger.info("receipt was stored already", **told)
    except LeaseLostError:
        logger.error("receipt came too late: a paid operation belongs to no attempt", **told)
    else:
        metrics.written(None, change, job)
        logger.info("receipt brought home", **told)
        await leases.announce(job)


def _key(job_id: UUID, attempt: int) -> str:
    return f"{PREFIX}{job_id}.{attempt}.json"
