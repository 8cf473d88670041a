"""
From the provider's stream into the bucket, with constant memory; only a whole video becomes an
object.

Whatever breaks here is downloaded again, never generated again.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta

from loguru import logger

from vidgen import lifecycle, metrics
from vidgen.errors import (
    AuthError,
    KeyUnreadableError,
    NotReadyError,
    ProviderError,
    ResultInvalidError,
    StorageError,
    TransientError,
)
from vidgen.job import VideoJob
from vidgen.lifecycle import StoredVideo
from vidgen.mp4 import Mp4Inspector
from vidgen.pipeline import credentials, discards
from vidgen.pipeline.leases import Held
from vidgen.pipeline.lookout import look
from vidgen.providers.protocol import Asset, Failed, ResultStream, Running, Succeeded
from vidgen.resources import Resources
from vidgen.storage import Stored

# One try gets at least so long, even if the deadline is near: the video has been paid for.
MIN_TRY_S = 300.0
PICTURE_TIMEOUT_S = 30.0
MAX_PICTURE_BYTES = 32 * 1024 * 1024
# Hours of 4K. Whoever sends more is filling the bucket, and has the whole deadline for it.
MAX_VIDEO_BYTES = 16 * 1024**3
_PICTURES = {"image/webp": "webp", "image/jpeg": "jpg", "image/png": "png"}


async def transfer(resources: Resources, held: Held, assets: tuple[Asset, ...]) -> None:
    """
    Bring the video into the bucket and complete the job.

    Args:
        assets: As the verdict named them; empty after a hand-over or an error, then we look again.

    Raises:
        ProviderError, StorageError: The stage may be tried again or not, as the error says.
        InterruptedStageError: A cancel, a lost lease, or the end of the grace time.
    """
    async with AsyncExitStack() as stack:
        async with held.interruptible():
            if not assets:
                assets = await _assets(resources, held.job)
            await stack.enter_async_context(resources.transfers.place(_urgency(held.job)))
        async with held.interruptible(only_if_urgent=True):
            video = await _store_all(resources, held.job, assets)
    await held.apply(lifecycle.completed(held.job, video))
    logger.info("video stored", storage_key=video.storage_key, size_bytes=video.size_bytes)


def _urgency(job: VideoJob) -> float:
    """What the provider deletes first is fetched first; then what ours would give up first."""
    end = job.result_expires_at or job.deadline_at
    assert end is not None  # the deadline is set with the intent
    return end.timestamp()


async def _assets(resources: Resources, job: VideoJob) -> tuple[Asset, ...]:
    match await look(resources, job):
        case Succeeded(assets=assets):
            return assets
        case Failed(error=error):
            raise error
        case Running():
            raise NotReadyError("the provider has taken back that the video is finished")


async def _store_all(resources: Resources, job: VideoJob, assets: tuple[Asset, ...]) -> StoredVideo:
    inspector = Mp4Inspector()
    content_type = assets[0].content_type or "video/mp4"
    try:
        async with asyncio.timeout(_try_s(resources, job)):
            stored = await _store_video(resources, job, assets[0], inspector, content_type)
    except TimeoutError as error:
        raise TransientError("the transfer did not end in time") from error
    facts = inspector.finish()
    pictures = {
        asset.variant: await _store_picture(resources, job, asset)
        for asset in assets[1:]
        if asset.variant in {"thumbnail", "spritesheet"}
    }
    return StoredVideo(
        storage_key=stored.key,
        size_bytes=stored.size_bytes,
        sha256=stored.sha256,
        content_type=content_type,
        duration_s=facts.duration_s,
        width=facts.width,
        height=facts.height,
        thumbnail_key=pictures.get("thumbnail"),
        spritesheet_key=pictures.get("spritesheet"),
    )


async def _store_video(
    resources: Resources, job: VideoJob, asset: Asset, inspector: Mp4Inspector, content_type: str
) -> Stored:
    assert job.operation is not None  # CHECK promises it
    provider = resources.providers.get(job.provider)
    credential = await credentials.resolve(resources, job)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    try:
        async with provider.open_result(job.operation, asset, credential) as stream:
            stored = await resources.storage.upload(
                f"{_folder(job)}.mp4",
                _capped(stream, "video", MAX_VIDEO_BYTES),
                content_type=content_type,
                size_bytes=stream.size_bytes,
                metadata=_marks(job),
                inspector=inspector,
            )
    except AuthError as error:
        raise credentials.named(error, job, credential) from error
    metrics.transferred(job, stored.size_bytes, loop.time() - begun)
    return stored


async def _store_picture(resources: Resources, job: VideoJob, asset: Asset) -> str | None:
    """The key of a thumbnail or spritesheet; None if it cannot be had: the video counts."""
    assert job.operation is not None  # CHECK promises it
    provider = resources.providers.get(job.provider)
    try:
        credential = await credentials.resolve(resources, job)
        async with (
            asyncio.timeout(PICTURE_TIMEOUT_S),
            provider.open_result(job.operation, asset, credential) as stream,
        ):
            content_type = (stream.content_type or "").partition(";")[0].strip()
            if content_type not in _PICTURES:
                return None
            stored = await resources.storage.upload(
                f"{_folder(job)}-{asset.variant}.{_PICTURES[content_type]}",
                _capped(stream, "picture", MAX_PICTURE_BYTES),
                content_type=content_type,
                size_bytes=stream.size_bytes,
                metadata=_marks(job),
            )
    except (ProviderError, StorageError, KeyUnreadableError, TimeoutError) as error:
        logger.warning("picture not stored", variant=asset.variant, reason=str(error) or "too slow")
        return None
    return stored.key


async def _capped(stream: ResultStream, what: str, max_bytes: int) -> AsyncIterator[bytes]:
    too_long = ResultInvalidError(f"the {what} has more than {max_bytes} bytes")
    if (stream.size_bytes or 0) > max_bytes:
        raise too_long
    seen = 0
    async for chunk in stream.chunks:
        seen += len(chunk)
        if seen > max_bytes:
            raise too_long
        yield chunk


def _folder(job: VideoJob) -> str:
    return f"{discards.folder_of(job)}{job.attempt}"


def _marks(job: VideoJob) -> dict[str, str]:
    return {
        "job-id": str(job.id),
        "attempt": str(job.attempt),
        "provider": job.provider,
        "model": job.model,
    }


def _try_s(resources: Resources, job: VideoJob) -> float:
    assert job.deadline_at is not None  # set with the intent
    left_s = (job.deadline_at - resources.clock.now()) / timedelta(seconds=1)
    return max(left_s, MIN_TRY_S)
