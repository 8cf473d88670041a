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
from vidgen.resources import ResultStorage, open_storage
from vidgen.settings import Settings
from vidgen.storage import CHECK_PREFIX

BUCKET = "bucket"

BODY = b"written by vidgen doctor, which deletes it again"
SIGNED_FOR_S = 60
LIST = "s3:ListBucket"
FETCH_TIMEOUT = aiohttp.ClientTimeout(total=15, connect=5)


async def bucket(settings: Settings) -> Finding:
    """Whether the bucket takes, gives and deletes, in parts and by signed address, too."""
    if settings.uses_blob:
        return await _blob(settings)
    async with open_storage(settings) as storage:
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
        place = settings.s3_bucket
        of_all = [right for right in trial.refused if right == LIST]
        of_objects = [right for right in trial.refused if right != LIST]
        rights = [
            f"on {where}: {', '.join(some)}"
            for where, some in ((f"{place}/*", of_objects), (f"{place} itself", of_all))
            if some
        ]
        key = "correct" if settings.aws_access_key_id else "set"
        return problem(
            BUCKET,
            " ".join(trial.sentences.values()),
            f"{key} AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, or give the key that"
            f" is used, {'; '.join(rights)}",
        )
    if public_error:
        return warning(
            BUCKET,
            f"its own addresses work, those under S3_PUBLIC_URL do not: {public_error}",
            "make the bucket readable there, or leave S3_PUBLIC_URL empty for signed addresses",
        )
    if settings.blob_read_write_token is not None:
        return warning(
            BUCKET,
            f"{settings.s3_bucket} works, and BLOB_READ_WRITE_TOKEN is set and not used:"
            " a bucket that is named comes first",
            "take S3_BUCKET and S3_ENDPOINT_URL away to use Vercel Blob, else the token",
        )
    public = ", public address" if settings.s3_public_url else ""
    return ok(
        BUCKET, f"{settings.s3_bucket}: put, get, list, parts, signed address, delete{public} work"
    )


async def _blob(settings: Settings) -> Finding:
    """The same of a Blob store, whose token has all rights or none."""
    async with open_storage(settings) as storage:
        trial = _Trial(storage)
        try:
            public_error = await trial.run()
        except BucketMissingError as error:
            return problem(BUCKET, error.message, "take BLOB_READ_WRITE_TOKEN from a store's page")
        except StorageUnavailableError as error:
            return problem(
                BUCKET, error.message, "does VERCEL_BLOB_API_URL lead to the API, and is it up?"
            )
    if trial.refused:
        return problem(
            BUCKET,
            " ".join(trial.sentences.values()),
            "take BLOB_READ_WRITE_TOKEN anew from the store's page, and set VIDGEN_BLOB_ACCESS to"
            " what the store was made as",
        )
    if public_error:
        return warning(
            BUCKET,
            f"the API works, the public addresses of the store do not: {public_error}",
            "is the store a private one? Then set VIDGEN_BLOB_ACCESS=private",
        )
    access = "signed" if settings.blob_access == "private" else "public"
    return ok(BUCKET, f"Vercel Blob: put, get, list, parts, {access} address, delete work")


@dataclass(slots=True)
class _Trial:
    """
    The way of one small object.

    Attributes:
        refused: Rights that are missing, by the names that S3 has for them.
        sentences: What was said to each.
    """

    storage: ResultStorage
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
            await self._may(LIST, self.storage.keys(CHECK_PREFIX, 1))
            await self._may("s3:AbortMultipartUpload", self.storage.check_multipart(key))
        return public_error

    async def _may(self, right: str, deed: Awaitable[object]) -> bool:
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
