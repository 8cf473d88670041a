"""The bucket: every right that a video needs there, by using it on an object of our own."""

from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from uuid import uuid4

import aiohttp
from yarl import URL

from vidgen.doctor.finding import Finding, ok, problem, warning
from vidgen.errors import (
    BucketMissingError,
    InvalidRequestError,
    SettingsError,
    StorageError,
    StorageUnavailableError,
)
from vidgen.resources import bucket_of
from vidgen.settings import Settings
from vidgen.storage import CHECK_PREFIX, Storage

BUCKET = "bucket"

BODY = b"written by vidgen doctor, which deletes it again"
SIGNED_FOR_S = 60
FETCH_TIMEOUT = aiohttp.ClientTimeout(total=15, connect=5)


async def bucket(settings: Settings) -> Finding:
    """Whether the bucket takes, gives and deletes, in parts and by signed address, too."""
    async with Storage.open(bucket_of(settings)) as storage:
        trial = _Trial(storage)
        try:
            public_error = await trial.run()
        except BucketMissingError as error:
            return problem(BUCKET, error.message, "create it, or correct S3_BUCKET")
        except StorageUnavailableError as error:
            return problem(
                BUCKET, error.message, "does S3_ENDPOINT_URL lead to it from here, and is it up?"
            )
    if trial.refused:
        rights = ", ".join(trial.refused)
        key = "correct" if settings.aws_access_key_id else "set"
        return problem(
            BUCKET,
            " ".join(trial.sentences.values()),
            f"{key} AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, or give the key that"
            f" is used, on {settings.s3_bucket}/*: {rights}",
        )
    if public_error:
        return warning(
            BUCKET,
            f"its own addresses work, those under S3_PUBLIC_URL do not: {public_error}",
            "make the bucket readable there, or leave S3_PUBLIC_URL empty for signed addresses",
        )
    public = ", public address" if settings.s3_public_url else ""
    return ok(BUCKET, f"{settings.s3_bucket}: put, get, parts, signed address, delete{public} work")


@dataclass(slots=True)
class _Trial:
    """
    The way of one small object.

    Attributes:
        refused: Rights that are missing, by the names that S3 has for them.
        sentences: What was said to each.
    """

    storage: Storage
    refused: list[str] = field(default_factory=list)
    sentences: dict[str, str] = field(default_factory=dict)

    async def run(self) -> str | None:
        """Use every right; what is wrong with the public address, if there is one."""
        key = f"{CHECK_PREFIX}{uuid4().hex}"
        public_error = None
        if await self._may("s3:PutObject", self._put(key)):
            try:
                await self._may("s3:GetObject", self._get(key))
                await self._may("s3:GetObject", self._get_signed(key))
                public_error = await self._public_error(key)
            finally:
                await self._may("s3:DeleteObject", self.storage.delete(key))
            await self._may("s3:AbortMultipartUpload", self.storage.check_multipart(key))
        return public_error

    async def _may(self, right: str, deed: Awaitable[None]) -> bool:
        try:
            await deed
        except (BucketMissingError, StorageUnavailableError, SettingsError):
            raise
        except (StorageError, InvalidRequestError) as error:
            if right not in self.refused:
                self.refused.append(right)
                self.sentences[right] = error.message
            return False
        return True

    async def _put(self, key: str) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield BODY

        await self.storage.upload(key, chunks(), content_type="text/plain", size_bytes=len(BODY))

    async def _get(self, key: str) -> None:
        if await self.storage.read(key, len(BODY)) != BODY:
            raise StorageError("The bucket gives back other bytes than it was given.")

    async def _get_signed(self, key: str) -> None:
        error = await _fetch_error(await self.storage.presigned_url(key, SIGNED_FOR_S))
        if error is not None:
            raise StorageError(f"A signed address cannot be fetched: {error}.")

    async def _public_error(self, key: str) -> str | None:
        address = self.storage.public_url(key)
        return None if address is None else await _fetch_error(address)


async def _fetch_error(address: str) -> str | None:
    """Why *address* does not give the object to whoever has no key; None if it does."""
    try:
        async with (
            aiohttp.ClientSession(timeout=FETCH_TIMEOUT) as session,
            session.get(URL(address, encoded=True), allow_redirects=True) as response,
        ):
            if response.status != 200:
                return f"it answers {response.status}"
            body = await response.content.read(len(BODY) + 1)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return f"no answer ({type(error).__name__})"
    return None if body == BODY else "it gives other bytes"
