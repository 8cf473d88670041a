"""
Stopping an operation at its provider because somebody cancelled the job.

The job does not wait for long: its owner has been told to expect the end within two seconds. A
provider that takes its time is asked on behind the ended job, and what it answers is written then.
"""

import asyncio
from dataclasses import dataclass

from loguru import logger

from vidgen import lifecycle
from vidgen.errors import DatabaseError, KeyUnreadableError, LeaseLostError, VidgenError
from vidgen.job import Stage, VideoJob
from vidgen.pipeline import credentials
from vidgen.pipeline.leases import Leases
from vidgen.resources import Resources

PATIENCE_S = 1.0
TRY_TIMEOUT_S = 5.0
WAITS_S = (0.5, 1.0, 2.0)  # between the tries, and then it is given up


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """
    How far it is.

    Attributes:
        stopped: Whether the provider stopped it; None if nobody can tell, or not yet.
        late: The answer that is still to come.
    """

    stopped: bool | None
    late: "asyncio.Future[bool | None] | None" = None


async def stop(resources: Resources, leases: Leases, job: VideoJob) -> Stopping:
    """Ask the provider to stop the operation of *job*, and wait a moment for its answer."""
    if job.stage is not Stage.GENERATING:
        return Stopping(stopped=False)
    answer = leases.begin(_ask(resources, leases, job))
    try:
        async with asyncio.timeout(PATIENCE_S):
            return Stopping(stopped=await asyncio.shield(answer))
    except TimeoutError:
        logger.info("provider takes its time to stop the video")
        return Stopping(stopped=None, late=answer)


def follow(leases: Leases, ended: VideoJob, late: "asyncio.Future[bool | None]") -> None:
    """Write what the provider answers, once it does, to the *ended* job."""
    _ = leases.begin(_write_answer(leases, ended, late))  # owned by the group of the leases


async def _write_answer(
    leases: Leases, ended: VideoJob, late: "asyncio.Future[bool | None]"
) -> None:
    stopped = await late
    change = lifecycle.answered(ended, stopped_at_provider=stopped)
    told = {"jobId": str(ended.id), "stopped_at_provider": stopped}
    try:
        await leases.record(ended, change)
    except LeaseLostError:
        logger.info("cancel answered late, the job has been retried meanwhile", **told)
    except DatabaseError as error:
        logger.warning("answer to a cancel not written", reason=error.message, **told)
    else:
        logger.info("cancel answered late", **told)


async def _ask(resources: Resources, leases: Leases, job: VideoJob) -> bool | None:
    assert job.operation is not None  # CHECK promises it
    provider = resources.providers.get(job.provider)
    for wait_s in (*WAITS_S, None):
        try:
            credential = await credentials.resolve(resources, job)
            async with asyncio.timeout(TRY_TIMEOUT_S):
                return await provider.cancel(job.operation, credential)
        except TimeoutError:
            logger.warning("provider did not answer the cancel", jobId=str(job.id))
        except VidgenError as error:
            logger.warning(
                "provider did not take the cancel",
                jobId=str(job.id),
                code=error.code,
                reason=error.message,
            )
            if not error.retryable or isinstance(error, KeyUnreadableError):
                return False  # it goes on there, and is billed
        if wait_s is None or leases.handing_over:
            break
        await asyncio.sleep(wait_s)
    return None
