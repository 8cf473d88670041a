"""
The bucket: where finished videos are kept, on anything that speaks the S3 protocol.

A video flows through in parts. At most `parts_in_flight` of them are on their way while one more
fills, so an upload holds `(parts_in_flight + 1) × part_size_bytes` however long the video is, and
all uploads together `memory_bytes`:

    chunks ──> inspect, count ──> part ──> sha256 ──> upload (several at once) ──> complete
                                                         any other exit ──> abort

The object becomes visible only after the last byte has been counted, inspected and hashed. Chunks
are never copied: a part is a list of them, hashed and sent as they lie (`vidgen.shortcut`).

What the bucket has is what was sent, for each part: a CRC-32 that the server compares and answers
with, where it does; else an MD5, which it compares if it can, and which its ETag is on most. Which
of them, the first upload in parts finds out (`Storage._open`), for as long as the process lives.
MD5 is the dearest digest of all: measured, 1.4 ms per MiB, against 0.25.
"""

import asyncio
import base64
import hashlib
import io
import math
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar
from urllib.parse import quote, urlsplit
from uuid import uuid4

from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioCredentials
from aiobotocore.session import AioSession, get_session
from aiohttp import ClientError as ConnectionBrokenError
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)
from botocore.parsers import ResponseParserError
from loguru import logger

from vidgen.errors import (
    BucketMissingError,
    InvalidRequestError,
    ResultInvalidError,
    SettingsError,
    StorageDeniedError,
    StorageError,
    StorageUnavailableError,
)
from vidgen.shortcut import MISMATCHES, Part, Piece, Shortcut

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client
    from types_aiobotocore_s3.type_defs import CompletedPartTypeDef

MAX_PARTS = 10_000  # what S3 allows in one object
MIN_PART_BYTES = 5 << 20  # what S3 demands of every part but the last
# Of unknown length: parts double after so many. R2 wants equal ones, and has them up to 16 GiB.
PARTS_BEFORE_GROWTH = 2_000
CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30
CALL_TIMEOUT_S = 60  # one small exchange with its retries
PART_TIMEOUT_S = 300  # one part with its retries: 8 MiB at 0.3 Mbit/s
COMPLETE_TIMEOUT_S = 180  # S3 may take minutes to put thousands of parts together
ABORT_TIMEOUT_S = 10
# Whoever breaks each time over the checksum of other bytes gets MD5.
MAX_TRIALS = 2
MAX_PRESIGNED_S = 7 * 24 * 3600
# SHA-256 costs about 0.6 ms per MiB and a hop to a thread 0.1 ms. What is announced to be larger is
# hashed part by part in a thread, beside the next part's arrival; the rest on the loop, chunk by
# chunk as it comes.
HASH_IN_THREAD_BYTES = 4 << 20
WORTH_A_THREAD_BYTES = 1 << 20
READ_CHUNK_BYTES = 256 << 10
CHECK_PREFIX = ".vidgen-check/"
_Sent = TypeVar("_Sent")
_CRC32 = "x-amz-checksum-crc32"
# What a bucket is at, and what credentials for it may come from.
_SERVICES = ("s3", "sts", "portal.sso", "oidc")
_SEALED = (
    "x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-server-side-encryption-customer-algorithm",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """
    Where the results go and how they are sent.

    Attributes:
        endpoint_url: None means AWS. May have a path, as Supabase Storage's does.
        public_url: What a key is appended to, where objects can be read by everybody.
        access_key_id: None means botocore's own search (instance role, profile).
        addressing_style: `auto` is path style for an endpoint of one's own, else what AWS prefers.
        part_size_bytes: At least 5 MiB.
        memory_bytes: What the parts of all uploads together may hold; further parts wait.
    """

    name: str
    endpoint_url: str | None = None
    public_url: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    region: str = "us-east-1"
    addressing_style: Literal["auto", "path", "virtual"] = "auto"
    part_size_bytes: int = 8 << 20
    parts_in_flight: int = 3
    memory_bytes: int = 160 << 20
    max_connections: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What the bucket holds now."""

    key: str
    size_bytes: int
    sha256: str
    etag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectHead:
    """What the bucket says about one object without sending it."""

    size_bytes: int
    content_type: str
    etag: str
    metadata: Mapping[str, str]
    modified_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """One object as it arrives; *chunks* ends with `StorageUnavailableError` when it breaks off."""

    chunks: AsyncIterator[bytes]
    size_bytes: int
    content_type: str


class Inspector(Protocol):
    """Looks at a result while it flows by; raises `ResultInvalidError` when it is none."""

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""

    def finish(self) -> object:
        """Judge the whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Upload:
    """
    One upload in parts.

    Attributes:
        has_crc32: Each part goes, and the whole is put together, with its CRC-32; else with an MD5.
    """

    key: str
    id: str
    has_crc32: bool


class Storage:
    """One bucket, over one pool of connections; safe for any number of concurrent calls."""

    def __init__(self, bucket: Bucket, client: "S3Client", shortcut: Shortcut | None) -> None:
        """Use an open client; `Storage.open` makes all."""
        self._bucket = bucket
        self._client = client
        self._shortcut = shortcut
        self._parts = asyncio.Semaphore(max(1, bucket.memory_bytes // bucket.part_size_bytes))
        # Whether the server compares a part's CRC-32 with what came; None as long as nobody knows.
        self._compares_crc32: bool | None = None
        self._trials = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, bucket: Bucket) -> AsyncIterator[Self]:
        """
        Give the bucket for the length of the context. Nothing is sent until it is used.

        Raises:
            SettingsError: The endpoint or the part size cannot work.
        """
        if bucket.part_size_bytes < MIN_PART_BYTES:
            raise SettingsError(f"Parts of an upload must have at least {MIN_PART_BYTES} bytes.")
        session = get_session()
        _forget_other_services(session)
        async with AsyncExitStack() as stack:
            try:
                client = await stack.enter_async_context(
                    session.create_client(
                        "s3",
                        region_name=bucket.region,
                        endpoint_url=bucket.endpoint_url,
                        aws_access_key_id=bucket.access_key_id,
                        aws_secret_access_key=bucket.secret_access_key,
                        aws_session_token=bucket.session_token,
                        config=_config(bucket),
                    )
                )
            except (ValueError, BotoCoreError) as error:
                raise SettingsError(
                    f"The bucket {_place(bucket)} cannot be used: wanted an http(s) endpoint."
                ) from error
            credentials = (
                AioCredentials(
                    bucket.access_key_id, bucket.secret_access_key or "", bucket.session_token
                )
                if bucket.access_key_id
                else await session.get_credentials()  # which the client has found already
            )
            yield cls(
                bucket,
                client,
                Shortcut(client, bucket.name, credentials) if credentials else None,
            )

    async def upload(
        self,
        key: str,
        chunks: AsyncIterator[bytes],
        *,
        content_type: str,
        size_bytes: int | None = None,
        metadata: Mapping[str, str] | None = None,
        inspector: Inspector | None = None,
    ) -> Stored:
        """
        Stream *chunks* into one object, which is visible only when it is whole.

        *inspector* is fed every chunk; its `finish` is called before the object becomes visible.

        Raises:
            ResultInvalidError: Empty, not *size_bytes* long, or the inspector says so.
            StorageError: The bucket would not take it; nothing is left behind.
        """
        marks = dict(metadata or {})
        with Room(self._parts) as room:
            source = Source(chunks, size_bytes, inspector, room)
            await source.fill(part_size(1, size_bytes, self._bucket.part_size_bytes))
            if source.ended:
                await source.finish()
                etag = await self._put(key, source, content_type, marks)
            else:
                etag = await self._put_parts(key, source, content_type, marks)
        return source.stored(key, etag)

    @asynccontextmanager
    async def download(self, key: str) -> AsyncIterator[Download]:
        """
        Open one object for reading; leaving the context closes the connection.

        Raises:
            InvalidRequestError: There is no such object.
        """
        async with AsyncExitStack() as stack:
            async with self._mapped("read an object", CALL_TIMEOUT_S, key=key):
                answer = await self._client.get_object(Bucket=self._bucket.name, Key=key)
                body = await stack.enter_async_context(answer["Body"])
                size_bytes = answer["ContentLength"]

            async def chunks() -> AsyncIterator[bytes]:
                while True:
                    async with self._mapped("read an object", READ_TIMEOUT_S + 5):
                        chunk = await body.read(READ_CHUNK_BYTES)
                    if not chunk:
                        return
                    yield chunk

            yield Download(
                chunks=chunks(),
                size_bytes=size_bytes,
                content_type=answer.get("ContentType", "application/octet-stream"),
            )

    async def read(self, key: str, max_bytes: int) -> bytes:
        """
        Give a small object whole.

        Raises:
            InvalidRequestError: There is no such object, or it is larger than *max_bytes*.
        """
        async with self.download(key) as found:
            if found.size_bytes > max_bytes:
                raise InvalidRequestError(
                    f"The object {key!r} has {found.size_bytes} bytes, over {max_bytes}."
                )
            return b"".join([chunk async for chunk in found.chunks])

    async def head(self, key: str) -> ObjectHead | None:
        """Tell about an object, None if there is none."""
        try:
            async with self._mapped("look at an object", CALL_TIMEOUT_S, key=key):
                answer = await self._client.head_object(Bucket=self._bucket.name, Key=key)
                return ObjectHead(
                    size_bytes=answer["ContentLength"],
                    content_type=answer.get("ContentType", "application/octet-stream"),
                    etag=answer["ETag"].strip('"'),
                    metadata=answer["Metadata"],
                    modified_at=answer["LastModified"],
                )
        except InvalidRequestError:
            return None

    async def exists(self, key: str) -> bool:
        """Whether there is an object under *key*."""
        return await self.head(key) is not None

    async def keys(self, prefix: str, limit: int, after: str = "") -> list[str]:
        """Name the next *limit* (up to 1,000) objects under *prefix*, behind the key *after*."""
        async with self._mapped("list objects", CALL_TIMEOUT_S):
            answer = await self._client.list_objects_v2(
                Bucket=self._bucket.name, Prefix=prefix, MaxKeys=limit, StartAfter=after
            )
            return [found["Key"] for found in answer.get("Contents", ())]

    async def delete(self, key: str) -> None:
        """Remove an object; one that is not there is fine."""
        async with self._mapped("delete an object", CALL_TIMEOUT_S):
            await self._client.delete_object(Bucket=self._bucket.name, Key=key)

    async def presigned_url(
        self, key: str, expires_s: int, download_name: str | None = None
    ) -> str:
        """
        Give an address that anybody may GET for *expires_s* seconds, at most a week. Never log it.

        *download_name* makes browsers save the file under that name instead of playing it.
        """
        if not 1 <= expires_s <= MAX_PRESIGNED_S:
            raise InvalidRequestError(f"A signed address lasts 1 to {MAX_PRESIGNED_S} seconds.")
        wanted = {"Bucket": self._bucket.name, "Key": key}
        if download_name is not None:
            plain = "".join(c if c.isascii() and c.isprintable() else "_" for c in download_name)
            plain = plain.replace("\\", "_").replace('"', "_")
            wanted["ResponseContentDisposition"] = (
                f'attachment; filename="{plain}"; '
                f"filename*=UTF-8''{quote(download_name, safe='')}"
            )
        async with self._mapped("sign an address", CALL_TIMEOUT_S):
            return await self._client.generate_presigned_url(
                "get_object", Params=wanted, ExpiresIn=expires_s
            )

    async def signed_base(self) -> str:
        """Give an address beside the signed ones, for its origin; nobody is asked for it."""
        return (await self.presigned_url("x", 60)).partition("?")[0]

    def public_url(self, key: str) -> str | None:
        """Give the address of *key* where the bucket is public, None where it is not."""
        base = self._bucket.public_url
        return f"{base.rstrip('/')}/{quote(key)}" if base else None

    async def check(self) -> None:
        """
        Prove that the bucket exists and takes and deletes objects, by doing it.

        Raises:
            BucketMissingError, StorageDeniedError, StorageUnavailableError: Which bucket, where.
        """
        key = f"{CHECK_PREFIX}{uuid4().hex}"
        async with self._mapped("write a test object", CALL_TIMEOUT_S):
            await self._client.put_object(Bucket=self._bucket.name, Key=key, Body=b"vidgen")
        await self.delete(key)

    async def check_multipart(self, key: str) -> None:
        """
        Prove that an upload in parts can be begun, fed and dropped, by doing it under *key*.

        Raises:
            BucketMissingError, StorageDeniedError, StorageUnavailableError: What cannot be done.
        """
        upload = await self._begin(key, "text/plain", {})
        try:
            await self._send_part(upload, 1, Part.of(b"vidgen"))
        finally:
            async with self._mapped("abort an upload", ABORT_TIMEOUT_S):
                await self._client.abort_multipart_upload(
                    Bucket=self._bucket.name, Key=key, UploadId=upload.id
                )

    async def clock(self) -> datetime | None:
        """
        What time it is there, to the second, whatever else the answer says; None if it says none.

        Raises:
            StorageUnavailableError: No answer came.
        """
        async with self._mapped("ask for the time", CALL_TIMEOUT_S):
            try:
                answer: Mapping[str, Any] = await self._client.list_objects_v2(
                    Bucket=self._bucket.name, MaxKeys=1
                )
            except ClientError as error:
                answer = error.response
        headers: Mapping[str, str] = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        with suppress(ValueError, TypeError):
            at = parsedate_to_datetime(headers.get("date", ""))
            return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        return None

    async def create_bucket(self) -> None:
        """Make the bucket; one of ours that is there already is fine."""
        name, region = self._bucket.name, self._bucket.region
        async with self._mapped("create the bucket", CALL_TIMEOUT_S):
            with suppress(
                self._client.exceptions.BucketAlreadyOwnedByYou,
                # Swift says this of one's own, too; whether we may write is for `check` to say.
                self._client.exceptions.BucketAlreadyExists,
            ):
                if self._bucket.endpoint_url or region == "us-east-1":
                    await self._client.create_bucket(Bucket=name)
                else:  # AWS itself wants the region spelled out
                    await self._client.create_bucket(
                        Bucket=name,
                        CreateBucketConfiguration={"LocationConstraint": region},  # type: ignore[typeddict-item]  # a free word here
                    )

    async def abort_uploads_older_than(self, prefix: str, age: timedelta, now: datetime) -> int:
        """Abort multipart uploads under *prefix* that nobody finished within *age*; how many."""
        orphans: list[tuple[str, str]] = []
        pages = self._client.get_paginator("list_multipart_uploads")
        try:
            async with self._mapped("list unfinished uploads", CALL_TIMEOUT_S):
                async for page in pages.paginate(Bucket=self._bucket.name, Prefix=prefix):
                    orphans += [
                        (upload["Key"], upload["UploadId"])
                        for upload in page.get("Uploads", ())
                        if upload["Initiated"] < now - age
                    ]
        except _UnsupportedError:
            logger.debug("bucket cannot list unfinished uploads")
            return 0
        for key, upload_id in orphans:
            await self._abort(key, upload_id)
        return len(orphans)

    async def _put(
        self, key: str, source: "Source", content_type: str, metadata: dict[str, str]
    ) -> str:
        digest = source.sha256.digest()
        checksum = base64.b64encode(digest).decode()
        part = source.hand_over()
        try:
            async with self._mapped("store an object", PART_TIMEOUT_S):
                marks = {f"x-amz-meta-{name}": value for name, value in metadata.items()}
                headers = {"Content-Type": content_type, "x-amz-checksum-sha256": checksum, **marks}
                taken = await self._shortly(key, part, headers, sha256=digest.hex())
                if isinstance(taken, Mapping) and "ETag" in taken:
                    return taken["ETag"]
                # Closed at once: botocore's requests are circles that live until the next
                # collection.
                with io.BytesIO(b"".join(part.pieces)) as body:
                    part.clear()
                    answer = await self._client.put_object(
                        Bucket=self._bucket.name,
                        Key=key,
                        Body=body,
                        ContentType=content_type,
                        Metadata=metadata,
                        ChecksumSHA256=checksum,
                    )
                self._learn(taken)
                return answer["ETag"]
        finally:
            part.clear()

    async def _shortly(
        self, key: str, part: Part, headers: Mapping[str, str], **more: Any
    ) -> Mapping[str, str] | int | None:
        """As `Shortcut.put`, if there is one."""
        return await self._shortcut.put(key, part, headers, **more) if self._shortcut else None

    def _learn(self, taken: Mapping[str, str] | int | None) -> None:
        """Aiobotocore got through with what the shortcut was refused, or answered oddly, for."""
        if taken is not None and self._shortcut is not None:
            status = taken if isinstance(taken, int) else 200
            logger.info("uploads go through aiobotocore alone here", http_status=status)
            self._shortcut.close()

    async def _put_parts(
        self, key: str, source: "Source", content_type: str, metadata: dict[str, str]
    ) -> str:
        # Proves after an unclear end that the object is the one of this upload.
        metadata["upload"] = uuid4().hex
        upload = await self._begin(key, content_type, metadata)
        try:
            parts = await source.in_parts(
                partial(self._send_part, upload),
                at_once=self._bucket.parts_in_flight,
                smallest_bytes=self._bucket.part_size_bytes,
            )
            await source.finish()
            return await self._complete(upload, parts, source.size_bytes, metadata["upload"])
        except BaseException:
            # Else the bucket keeps, and bills, parts that nobody sees.
            await asyncio.shield(self._abort(key, upload.id))
            raise

    async def _begin(self, key: str, content_type: str, metadata: dict[str, str]) -> _Upload:
        """Open a multipart upload; cancelled meanwhile, it is aborted once its id is known."""
        wanted = True

        async def begin() -> _Upload:
            upload = await self._open(key, content_type, metadata)
            if not wanted:
                await self._abort(key, upload.id)
            return upload

        try:
            return await asyncio.shield(begin())
        except asyncio.CancelledError:
            wanted = False
            raise

    async def _open(self, key: str, content_type: str, metadata: dict[str, str]) -> _Upload:
        """
        Open a multipart upload with CRC-32, if this server compares them.

        Some do not know the word, some refuse it, and others pass it over or only repeat it, which
        would prove nothing. So the first upload that is opened with it sends a wrong one.
        """
        if self._compares_crc32 is not False:
            with suppress(StorageDeniedError):
                upload = await self._create(
                    key, content_type, metadata, {"ChecksumAlgorithm": "CRC32"}
                )
                if self._compares_crc32 is None:
                    self._compares_crc32 = upload.has_crc32 and await self._refuses_another(upload)
                if self._compares_crc32:
                    return upload
                await self._abort(key, upload.id)
        upload = await self._create(key, content_type, metadata, {})
        self._compares_crc32 = False
        return upload

    async def _create(
        self, key: str, content_type: str, metadata: dict[str, str], more: Mapping[str, Any]
    ) -> _Upload:
        async with self._mapped("begin an upload", CALL_TIMEOUT_S):
            answer = await self._client.create_multipart_upload(
                Bucket=self._bucket.name,
                Key=key,
                ContentType=content_type,
                Metadata=metadata,
                **more,
            )
            has_crc32 = answer.get("ChecksumAlgorithm") == "CRC32"
            return _Upload(key=key, id=answer["UploadId"], has_crc32=has_crc32)

    async def _refuses_another(self, upload: _Upload) -> bool:
        """Whether the server notices bytes that are not those of their CRC-32."""
        body, of_others = b"vidgen", base64.b64encode(_crc32([b"others"])).decode()
        try:
            async with self._mapped("try a checksum", CALL_TIMEOUT_S):
                try:
                    await self._client.upload_part(
                        Bucket=self._bucket.name,
                        Key=upload.key,
                        UploadId=upload.id,
                        PartNumber=1,
                        Body=body,
                        ChecksumCRC32=of_others,
                    )
                except ClientError as error:
                    if error.response.get("Error", {}).get("Code") not in MISMATCHES:
                        raise
                    return True
        except StorageError:
            self._trials += 1
            if self._trials >= MAX_TRIALS:
                return False
            await self._abort(upload.key, upload.id)
            raise
        return False

    async def _send_part(self, upload: _Upload, number: int, part: Part) -> "CompletedPartTypeDef":
        """Send one part; what names it when the object is put together."""
        digest = await asyncio.to_thread(_crc32 if upload.has_crc32 else _md5, tuple(part.pieces))
        checksum = base64.b64encode(digest).decode()
        named: dict[str, Any] = {"ChecksumCRC32" if upload.has_crc32 else "ContentMD5": checksum}
        async with self._mapped("store a part", PART_TIMEOUT_S):
            taken = await self._shortly(
                upload.key,
                part,
                {_CRC32 if upload.has_crc32 else "Content-MD5": checksum},
                query=[("partNumber", str(number)), ("uploadId", upload.id)],
            )
            if isinstance(taken, Mapping) and "ETag" in taken:
                told = taken
            else:
                with io.BytesIO(b"".join(part.pieces)) as body:
                    part.clear()
                    answer = await self._client.upload_part(
                        Bucket=self._bucket.name,
                        Key=upload.key,
                        UploadId=upload.id,
                        PartNumber=number,
                        Body=body,
                        **named,
                    )
                self._learn(taken)
                told = answer["ResponseMetadata"]["HTTPHeaders"]
            etag = told["etag"]
        if upload.has_crc32:
            self._compare_crc32(told, checksum)
            return {"PartNumber": number, "ETag": etag, "ChecksumCRC32": checksum}
        self._compare_md5(told, digest)
        return {"PartNumber": number, "ETag": etag}

    def _compare_crc32(self, told: Mapping[str, str], checksum: str) -> None:
        """Hold the checksum that the server answers a part with against ours."""
        stored = told.get(_CRC32)
        if stored is None:
            # Never seen of one that refuses a wrong one. The transfer is made again, with MD5.
            self._compares_crc32 = False
            raise StorageUnavailableError(
                f"The bucket {_place(self._bucket)} did not say which bytes it stored."
            )
        if stored != checksum:
            raise self._stored_others()

    def _compare_md5(self, told: Mapping[str, str], md5: bytes) -> None:
        """Hold the ETag of a part against its MD5, where it is one."""
        etag = told["etag"].strip('"')
        # Encrypted by a key of one's own, the ETag is no MD5.
        is_sealed = any(name in told for name in _SEALED)
        if not is_sealed and len(etag) == 32 and etag != md5.hex():
            raise self._stored_others()

    def _stored_others(self) -> StorageUnavailableError:
        return StorageUnavailableError(
            f"The bucket {_place(self._bucket)} stored other bytes than were sent."
        )

    async def _complete(
        self, upload: _Upload, parts: "list[CompletedPartTypeDef]", size_bytes: int, mark: str
    ) -> str:
        """
        Make the object visible; its ETag.

        Whatever the answer was, the object itself decides: Ceph's first answer has an empty ETag,
        and a retry after a lost answer is told NoSuchUpload.
        """
        failure: StorageError | None = None
        try:
            async with self._mapped("complete an upload", COMPLETE_TIMEOUT_S):
                await self._client.complete_multipart_upload(
                    Bucket=self._bucket.name,
                    Key=upload.key,
                    UploadId=upload.id,
                    MultipartUpload={"Parts": parts},
                )
        except StorageError as error:
            failure = error
        try:
            found = await self.head(upload.key)
        except StorageError as error:
            raise failure or error from error
        if found is None or found.metadata.get("upload") != mark or found.size_bytes != size_bytes:
            raise failure or StorageUnavailableError(
                f"The bucket {_place(self._bucket)} does not show the object it accepted."
            )
        return found.etag

    async def _abort(self, key: str, upload_id: str) -> None:
        """Drop the parts of an upload; what fails here is left to the sweep."""
        try:
            async with self._mapped("abort an upload", ABORT_TIMEOUT_S):
                await self._client.abort_multipart_upload(
                    Bucket=self._bucket.name, Key=key, UploadId=upload_id
                )
        except _NoUploadError:
            pass  # completed or aborted already
        except StorageError as error:
            logger.warning("multipart upload not aborted", key=key, code=error.code)

    @asynccontextmanager
    async def _mapped(
        self, doing: str, timeout_s: float, *, key: str | None = None
    ) -> AsyncIterator[None]:
        """Give the block *timeout_s* seconds, and turn what botocore raises into our errors."""
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except ClientError as error:
            raise _refused(error, f"{doing} in the bucket {_place(self._bucket)}", key) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise StorageDeniedError(
                f"Cannot {doing} in the bucket {_place(self._bucket)}: no credentials are set."
            ) from error
        except ParamValidationError as error:
            raise StorageDeniedError(
                f"Cannot {doing} in the bucket {_place(self._bucket)}: a name is not valid."
            ) from error
        # To a server that redirects everything (a login before it) aiobotocore 3.10 sends the
        # question for its region, which is redirected, too, and so on until Python ends it.
        except (ResponseParserError, KeyError, RecursionError) as error:
            raise StorageUnavailableError(
                f"Cannot {doing} in the bucket {_place(self._bucket)}: no answer of S3 came."
            ) from error
        # Below a body that breaks off, aiobotocore lets aiohttp's errors through.
        except (BotoCoreError, ConnectionBrokenError, OSError) as error:
            raise StorageUnavailableError(
                f"Cannot {doing} in the bucket {_place(self._bucket)}: "
                f"no answer ({type(error).__name__})."
            ) from error


def _forget_other_services(session: AioSession) -> None:
    """
    Leave out of botocore's book where each of hundreds of services is in each region: measured, 7
    MiB for as long as the process lives. One that is not in it is found by the usual pattern.
    """
    endpoints, _ = session.get_component("data_loader").load_data_with_path("endpoints")
    for partition in endpoints["partitions"]:
        services = partition["services"]
        partition["services"] = {name: services[name] for name in _SERVICES if name in services}


class _UnsupportedError(StorageDeniedError):
    """This server does not know the operation."""


class _NoUploadError(StorageDeniedError):
    """There is no such multipart upload, or not any more."""


class Room:
    """
    The memory of one upload: so many of the parts that all uploads share.

    Leaving the context gives everything back, also for parts whose task never began.
    """

    def __init__(self, parts: asyncio.Semaphore) -> None:
        """Hold nothing yet; *parts* are free ones."""
        self._parts = parts
        self._held = 0

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give everything back."""
        while self._held:
            self.release()

    async def acquire(self) -> None:
        """Wait for the memory of one part. Parts in flight end by themselves, so it comes."""
        await self._parts.acquire()
        self._held += 1

    def release(self) -> None:
        """Give the memory of one part back."""
        self._held -= 1
        self._parts.release()


class Source:
    """The chunks of one upload, cut into parts; counted, inspected and hashed on the way."""

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        announced_bytes: int | None,
        inspector: Inspector | None,
        room: Room,
    ) -> None:
        """Nothing is read yet; *announced_bytes* is None where the length is not known."""
        self.room = room
        self.announced_bytes = announced_bytes
        self.size_bytes = 0
        self.ended = False
        self.sha256 = hashlib.sha256()
        self._chunks = chunks
        self._inspector = inspector
        self._rest = memoryview(b"")
        self._part = Part()
        self._in_thread = announced_bytes is None or announced_bytes > HASH_IN_THREAD_BYTES
        self._hashing: asyncio.Future[None] | None = None

    async def fill(self, limit: int) -> None:
        """Get the next part of up to *limit* bytes; then `ended` says whether it is the last."""
        await self.room.acquire()
        part = self._part
        while part.size_bytes < limit and (self._rest or await self._next()):
            piece = self._rest[: limit - part.size_bytes]
            self._rest = self._rest[len(piece) :]
            part.add(piece)
            if not self._in_thread:
                self.sha256.update(piece)
        if not self._rest:
            await self._next()
        if self._in_thread:
            await self._hashed()
            if part.size_bytes < WORTH_A_THREAD_BYTES:
                _update(self.sha256, part.pieces)
            else:
                self._hashing = asyncio.get_running_loop().run_in_executor(
                    None, _update, self.sha256, tuple(part.pieces)
                )

    def hand_over(self) -> Part:
        """Give the part and forget it, so that its memory ends with its upload."""
        part, self._part = self._part, Part()
        return part

    async def in_parts(
        self,
        send_part: Callable[[int, Part], Awaitable[_Sent]],
        *,
        at_once: int,
        smallest_bytes: int,
    ) -> list[_Sent]:
        """Give *send_part* all parts, the one that is full first; what it gives back, in order."""
        sent: dict[int, _Sent] = {}
        slots = asyncio.Semaphore(at_once)

        async def send(number: int, part: Part) -> None:
            try:
                sent[number] = await send_part(number, part)
            finally:
                part.clear()
                slots.release()
                self.room.release()

        number = 1
        try:
            async with asyncio.TaskGroup() as sending:
                while True:
                    await slots.acquire()
                    sending.create_task(send(number, self.hand_over()))
                    if self.ended:
                        break
                    number += 1
                    if number > MAX_PARTS:
                        raise ResultInvalidError("The video is larger than the bucket can hold.")
                    await self.fill(part_size(number, self.announced_bytes, smallest_bytes))
        except BaseExceptionGroup as group:
            raise _first(group) from group
        return [sent[number] for number in sorted(sent)]

    async def finish(self) -> None:
        """Judge the whole: raises `ResultInvalidError` unless all of it came."""
        await self._hashed()
        if not self.size_bytes:
            raise ResultInvalidError("The provider sent an empty result.")
        if self.announced_bytes is not None and self.size_bytes != self.announced_bytes:
            raise ResultInvalidError(
                f"The result is cut: {self.size_bytes} of {self.announced_bytes} bytes came."
            )
        if self._inspector is not None:
            self._inspector.finish()

    async def _hashed(self) -> None:
        """Wait until the parts that are full are hashed: each must follow the one before it."""
        if self._hashing is not None:
            await self._hashing
            self._hashing = None

    def stored(self, key: str, etag: str) -> Stored:
        """What this has become."""
        return Stored(
            key=key,
            size_bytes=self.size_bytes,
            sha256=self.sha256.hexdigest(),
            etag=etag.strip('"'),
        )

    async def _next(self) -> bool:
        """Hold the next bytes in `_rest`; False at the end."""
        async for chunk in self._chunks:
            if not chunk:
                continue
            self.size_bytes += len(chunk)
            if self.announced_bytes is not None and self.size_bytes > self.announced_bytes:
                raise ResultInvalidError(
                    f"The result is longer than the {self.announced_bytes} bytes announced."
                )
            if self._inspector is not None:
                self._inspector.feed(chunk)
            self._rest = memoryview(chunk)
            return True
        self.ended = True
        return False


def part_size(number: int, announced_bytes: int | None, smallest_bytes: int) -> int:
    """How many bytes part *number* takes, so that 10,000 parts are enough."""
    if announced_bytes is None:
        return smallest_bytes << ((number - 1) // PARTS_BEFORE_GROWTH)
    return max(smallest_bytes, math.ceil(announced_bytes / MAX_PARTS))


def _config(bucket: Bucket) -> AioConfig:
    style = bucket.addressing_style
    host = urlsplit(bucket.endpoint_url or "").hostname or ""
    if style == "auto" and host and not host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
        style = "path"
    return AioConfig(
        signature_version="s3v4",
        # Bodies carry a digest in a signed header; signing them as well would hash them twice.
        s3={"addressing_style": style, "payload_signing_enabled": False},
        retries={"mode": "standard", "total_max_attempts": 3},
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        max_pool_connections=bucket.max_connections,
        # Checksums of botocore's own choice are unknown to many other stores.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )


def _place(bucket: Bucket) -> str:
    """The bucket and its server in words; never what stands before an @ or after a ?."""
    if bucket.endpoint_url is None:
        return f"{bucket.name!r} at AWS ({bucket.region})"
    parts = urlsplit(bucket.endpoint_url)
    return f"{bucket.name!r} at {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _refused(error: ClientError, doing: str, key: str | None) -> Exception:
    """Our error for an answer of the server."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = error.response.get("Error", {}).get("Code", "")
    reason = f"Cannot {doing}: {code or status}"
    match code:
        case "NoSuchBucket":
            return BucketMissingError(f"Cannot {doing}: there is no such bucket.")
        case "NoSuchUpload":
            return _NoUploadError(f"{reason}.")
        case "SlowDown" | "RequestTimeout" | "BadDigest" | "XAmzContentChecksumMismatch":
            return StorageUnavailableError(f"{reason}.")
        case "NotImplemented" | "MethodNotAllowed":
            return _UnsupportedError(f"{reason}.")
        case _ if status == HTTPStatus.NOT_IMPLEMENTED:
            return _UnsupportedError(f"{reason}.")
        case "RequestTimeTooSkewed":
            return StorageDeniedError(f"{reason}: the clock of this machine is wrong.")
        case "AuthorizationHeaderMalformed" | "PermanentRedirect" | "301":
            return StorageDeniedError(f"{reason}: the bucket is in another region.")
        case _ if status == 404 and key is not None:
            return InvalidRequestError(f"There is no object {key!r} in the bucket.")
        case _ if status == 404:
            return BucketMissingError(f"{reason}.")
        case _ if status in {408, 429} or status >= 500:
            return StorageUnavailableError(f"{reason}.")
        case _:
            return StorageDeniedError(f"{reason}.")


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended a group; the others only followed."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _md5(pieces: Iterable[Piece]) -> bytes:
    digest = hashlib.md5(usedforsecurity=False)
    _update(digest, pieces)
    return digest.digest()


def _crc32(pieces: Iterable[Piece]) -> bytes:
    value = 0
    for piece in pieces:
        value = zlib.crc32(piece, value)
    return value.to_bytes(4, "big")


def _update(digest: "hashlib._Hash", pieces: Iterable[Piece]) -> None:
    for piece in pieces:
        digest.update(piece)
