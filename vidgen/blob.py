"""
The Blob store: where finished videos are kept on Vercel Blob, as `vidgen.storage` does on S3.

Parts, memory and integrity are those of S3: an upload is counted, inspected and hashed on the way,
and becomes visible by its last call. What is different:

    create ──> part 1, 2, … (several at once) ──> complete ──> head: is it there, and as long?
                      any other exit: nothing is visible; there is no call that aborts

The interface is that of the package @vercel/blob 2.8.0 (its code and types; API version 12). What
the package does not say is not verified: what becomes of parts that were never completed, whether
an ETag is a digest (so it is compared with nothing), how long objects and uploads may be, what
order a list has (so none is relied on), and whether `download=1` works on a signed address. Objects
have no metadata there.

A public store serves objects to whoever knows the address, for ever. For a private one, addresses
are signed: a delegation for one object, issued by the API, and an HMAC made with the key that comes
with it.
"""

import asyncio
import base64
import hashlib
import heapq
import hmac
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Literal, Self
from urllib.parse import quote, urlencode, urlsplit
from uuid import uuid4

import aiohttp
import orjson
from yarl import URL

from vidgen.errors import (
    BucketMissingError,
    InvalidRequestError,
    SettingsError,
    StorageDeniedError,
    StorageError,
    StorageUnavailableError,
)
from vidgen.shortcut import Part, Piece
from vidgen.storage import (
    ABORT_TIMEOUT_S,
    CALL_TIMEOUT_S,
    CHECK_PREFIX,
    COMPLETE_TIMEOUT_S,
    CONNECT_TIMEOUT_S,
    MAX_PRESIGNED_S,
    MIN_PART_BYTES,
    PART_TIMEOUT_S,
    READ_CHUNK_BYTES,
    READ_TIMEOUT_S,
    Download,
    Inspector,
    ObjectHead,
    Room,
    Source,
    Stored,
    part_size,
)

API_VERSION = "12"
TRIES = 4
FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 10.0
MAX_ANSWER_BYTES = 8 << 20  # 1,000 objects of a list are about 0.5 MiB
LISTED_AT_ONCE = 1_000
# A video never changes, but one that is deleted should not live on in caches for the month that is
# the default there.
CACHED_S = 3_600


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobBucket:
    """
    Where the results go and how they are sent.

    Attributes:
        access: What the store was made as; it takes nothing else.
        object_url: What a key is appended to; None is the store's own address at Vercel.
        part_size_bytes: At least 5 MiB.
        memory_bytes: What the parts of all uploads together may hold; further parts wait.
    """

    token: str = field(repr=False)
    access: Literal["public", "private"] = "public"
    api_url: str = "https://vercel.com/api/blob"
    object_url: str | None = None
    part_size_bytes: int = 8 << 20
    parts_in_flight: int = 3
    memory_bytes: int = 160 << 20
    max_connections: int = 32

    @property
    def store_id(self) -> str:
        """Which store the token is for: `vercel_blob_rw_STORE_SECRET`."""
        words = self.token.split("_")
        return words[3] if len(words) > 4 else ""


class BlobStorage:
    """One store, over one pool of connections; safe for any number of concurrent calls."""

    def __init__(self, bucket: BlobBucket, session: aiohttp.ClientSession) -> None:
        """Use an open session; `BlobStorage.open` makes both."""
        self._bucket = bucket
        self._session = session
        self._objects = bucket.object_url or (
            f"https://{bucket.store_id}.{bucket.access}.blob.vercel-storage.com"
        )
        self._parts = asyncio.Semaphore(max(1, bucket.memory_bytes // bucket.part_size_bytes))

    @classmethod
    @asynccontextmanager
    async def open(cls, bucket: BlobBucket) -> AsyncIterator[Self]:
        """
        Give the store for the length of the context. Nothing is sent until it is used.

        Raises:
            SettingsError: The token or the part size cannot work.
        """
        if not bucket.store_id:
            raise SettingsError(
                "BLOB_READ_WRITE_TOKEN is no token of a Blob store: it names no store."
            )
        if bucket.part_size_bytes < MIN_PART_BYTES:
            raise SettingsError(f"Parts of an upload must have at least {MIN_PART_BYTES} bytes.")
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=bucket.max_connections),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as session:
            yield cls(bucket, session)

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
        An object that is there under *key* is replaced. *metadata* is not kept.

        Raises:
            ResultInvalidError: Empty, not *size_bytes* long, or the inspector says so.
            StorageError: The store would not take it; nothing is visible.
        """
        smallest_bytes = self._bucket.part_size_bytes
        with Room(self._parts) as room:
            source = Source(chunks, size_bytes, inspector, room)
            await source.fill(part_size(1, size_bytes, smallest_bytes))
            if source.ended:
                await source.finish()
                etag = await self._put(key, source, content_type)
            else:
                etag = await self._put_parts(key, source, content_type)
        return source.stored(key, etag)

    @asynccontextmanager
    async def download(self, key: str) -> AsyncIterator[Download]:
        """
        Open one object for reading; leaving the context closes the connection.

        The API is asked first: a cache before a public store may still give what is gone, or
        nothing for what has just come.

        Raises:
            InvalidRequestError: There is no such object.
        """
        found = await self.head(key)
        if found is None:
            raise InvalidRequestError(f"There is no object {key!r} in the Blob store.")
        doing = "read an object"
        address, headers = self._address(key), {"Accept-Encoding": "identity"}
        if self._bucket.access == "private":
            address += "?cache=0"
            headers |= self._authorization()
        async with self._mapped(doing, CALL_TIMEOUT_S):
            response = await self._session.get(
                URL(address, encoded=True), headers=headers, allow_redirects=False
            )
        async with response:
            if response.status in {401, 403}:
                raise StorageDeniedError(f"Cannot {doing} in {self._place}: {response.status}.")
            if response.status != 200 or response.content_length not in {None, found.size_bytes}:
                raise StorageUnavailableError(
                    f"Cannot {doing} in {self._place}: its address does not give what the API "
                    f"knows ({response.status})."
                )

            async def chunks() -> AsyncIterator[bytes]:
                while True:
                    async with self._mapped(doing, READ_TIMEOUT_S + 5):
                        chunk = await response.content.read(READ_CHUNK_BYTES)
                    if not chunk:
                        return
                    yield chunk

            yield Download(
                chunks=chunks(), size_bytes=found.size_bytes, content_type=found.content_type
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
            whole = b"".join([chunk async for chunk in found.chunks])
        if len(whole) != found.size_bytes:
            raise StorageUnavailableError(f"The object {key!r} came cut from {self._place}.")
        return whole

    async def head(self, key: str) -> ObjectHead | None:
        """Tell about an object, None if there is none."""
        try:
            told = await self._call("look at an object", "GET", params={"url": key}, key=key)
        except InvalidRequestError:
            return None
        with self._read("look at an object"):
            return ObjectHead(
                size_bytes=int(told["size"]),
                content_type=told.get("contentType") or "application/octet-stream",
                etag=str(told.get("etag") or "").strip('"'),
                metadata={},
                modified_at=datetime.fromisoformat(told["uploadedAt"]),
            )

    async def exists(self, key: str) -> bool:
        """Whether there is an object under *key*."""
        return await self.head(key) is not None

    async def keys(self, prefix: str, limit: int, after: str = "") -> list[str]:
        """
        Name the next *limit* (up to 1,000) objects under *prefix*, behind the key *after*.

        All names under *prefix* are looked through, a page at a time: the API goes on by a mark of
        its own, in an order that it does not promise.
        """
        first: list[str] = []
        wanted = {"prefix": prefix, "limit": str(LISTED_AT_ONCE)}
        while True:
            told = await self._call("list objects", "GET", params=wanted)
            with self._read("list objects"):
                page = [str(blob["pathname"]) for blob in told["blobs"]]
                first = heapq.nsmallest(limit, first + [name for name in page if name > after])
                if not told.get("hasMore"):
                    return first
                wanted["cursor"] = str(told["cursor"])

    async def delete(self, key: str) -> None:
        """Remove an object; one that is not there is fine."""
        with suppress(InvalidRequestError):
            await self._call("delete an object", "POST", "/delete", json={"urls": [key]}, key=key)

    async def presigned_url(
        self, key: str, expires_s: int, download_name: str | None = None
    ) -> str:
        """
        Give an address that anybody may GET for *expires_s* seconds, at most a week. Never log it.

        With *download_name* browsers save the file instead of playing it, under the last part of
        *key*: Blob takes no other name. In a public store the address does not end.
        """
        if not 1 <= expires_s <= MAX_PRESIGNED_S:
            raise InvalidRequestError(f"A signed address lasts 1 to {MAX_PRESIGNED_S} seconds.")
        query = {"download": "1"} if download_name is not None else {}
        if self._bucket.access == "private":
            until = datetime.now(UTC) + timedelta(seconds=expires_s)
            told = await self._call(
                "sign an address",
                "POST",
                "/signed-token",
                json={
                    "pathname": key,
                    "operations": ["get"],
                    "validUntil": int(until.timestamp() * 1000),
                },
            )
            with self._read("sign an address"):
                query["vercel-blob-delegation"] = str(told["delegationToken"])
                query["vercel-blob-signature"] = signature(str(told["clientSigningToken"]), key)
        return self._address(key) + (f"?{urlencode(query)}" if query else "")

    async def signed_base(self) -> str:
        """Give an address beside the signed ones, for its origin; nobody is asked for it."""
        return self._address("x")

    def public_url(self, key: str) -> str | None:
        """Give the address of *key* where the store is public, None where it is not."""
        return self._address(key) if self._bucket.access == "public" else None

    async def check(self) -> None:
        """
        Prove that the store exists and takes and deletes objects, by doing it.

        Raises:
            BucketMissingError, StorageDeniedError, StorageUnavailableError: Which store, where.
        """
        key = f"{CHECK_PREFIX}{uuid4().hex}"
        await self._call(
            "write a test object",
            "PUT",
            "/",
            params={"pathname": key},
            headers=self._marks("text/plain"),
            part=Part.of(b"vidgen"),
        )
        await self.delete(key)

    async def check_multipart(self, key: str) -> None:
        """
        Prove that an upload in parts can be made, by making and deleting one under *key*.

        Raises:
            BucketMissingError, StorageDeniedError, StorageUnavailableError: What cannot be done.
        """
        marks = self._marks("text/plain") | await self._begin(key, "text/plain")
        etag = await self._send_part(key, marks, 1, Part.of(b"vidgen"))
        await self._end(key, marks, [etag])
        await self.delete(key)

    async def clock(self) -> datetime | None:
        """The time as the API has it, from the `Date` of an answer; None if it does not say."""
        async with (
            self._mapped("ask for the time", CALL_TIMEOUT_S),
            self._session.get(
                URL(f"{self._bucket.api_url}?limit=1"),
                headers=self._headers(),
                allow_redirects=False,
            ) as response,
        ):
            with suppress(ValueError, TypeError):
                at = parsedate_to_datetime(response.headers.get("Date", ""))
                return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        return None

    async def create_bucket(self) -> None:
        """Stores are made at Vercel, and a token is of one: there is nothing to do."""

    async def abort_uploads_older_than(self, prefix: str, age: timedelta, now: datetime) -> int:
        """Nothing: Blob can neither list nor abort unfinished uploads."""
        return 0

    async def _put(self, key: str, source: Source, content_type: str) -> str:
        part = source.hand_over()
        try:
            told = await self._call(
                "store an object",
                "PUT",
                "/",
                params={"pathname": key},
                headers=self._marks(content_type),
                part=part,
                timeout_s=PART_TIMEOUT_S,
            )
        finally:
            part.clear()
        await self._confirm(key, source.size_bytes)
        return str(told.get("etag") or "")

    async def _put_parts(self, key: str, source: Source, content_type: str) -> str:
        before = await self.head(key)
        marks = self._marks(content_type) | await self._begin(key, content_type)
        etags = await source.in_parts(
            partial(self._send_part, key, marks),
            at_once=self._bucket.parts_in_flight,
            smallest_bytes=self._bucket.part_size_bytes,
        )
        await source.finish()
        failure: StorageError | None = None
        try:
            await self._end(key, marks, etags)
        except StorageError as error:
            failure = error
        try:
            found = await self._confirm(key, source.size_bytes)
        except StorageError as error:
            raise failure or error from error
        # Its answer was lost, and a repeated call finds no upload any more: what is there now, and
        # was not before, is ours, since the lease lets nobody else write under this key.
        is_new = before is None or (found.etag, found.modified_at) != (
            before.etag,
            before.modified_at,
        )
        if failure is not None and not is_new:
            raise failure
        return found.etag

    async def _begin(self, key: str, content_type: str) -> dict[str, str]:
        """Open an upload in parts; the headers that name it."""
        told = await self._call(
            "begin an upload",
            "POST",
            "/mpu",
            params={"pathname": key},
            headers=self._marks(content_type) | {"x-mpu-action": "create"},
        )
        with self._read("begin an upload"):
            return {
                "x-mpu-upload-id": str(told["uploadId"]),
                "x-mpu-key": quote(str(told["key"]), safe="!*'()"),
            }

    async def _send_part(self, key: str, marks: Mapping[str, str], number: int, part: Part) -> str:
        told = await self._call(
            "store a part",
            "POST",
            "/mpu",
            params={"pathname": key},
            headers={**marks, "x-mpu-action": "upload", "x-mpu-part-number": str(number)},
            part=part,
            timeout_s=PART_TIMEOUT_S,
        )
        with self._read("store a part"):
            return str(told["etag"])

    async def _end(self, key: str, marks: Mapping[str, str], etags: list[str]) -> None:
        """Make the object visible."""
        await self._call(
            "complete an upload",
            "POST",
            "/mpu",
            params={"pathname": key},
            headers={**marks, "x-mpu-action": "complete"},
            json=[{"etag": etag, "partNumber": number} for number, etag in enumerate(etags, 1)],
            timeout_s=COMPLETE_TIMEOUT_S,
        )

    async def _confirm(self, key: str, size_bytes: int) -> ObjectHead:
        """Tell about the object that was just accepted; one of another length is taken away."""
        found = await self.head(key)
        if found is not None and found.size_bytes == size_bytes:
            return found
        if found is not None:
            with suppress(StorageError, TimeoutError):
                async with asyncio.timeout(ABORT_TIMEOUT_S):
                    await self.delete(key)
        raise StorageUnavailableError(f"{self._place} does not show the object it accepted.")

    def _address(self, key: str) -> str:
        return f"{self._objects.rstrip('/')}/{quote(key)}"

    def _authorization(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._bucket.token}"}

    def _marks(self, content_type: str) -> dict[str, str]:
        """How an object is stored: under exactly its key, also a second time."""
        return {
            "x-vercel-blob-access": self._bucket.access,
            "x-add-random-suffix": "0",
            "x-allow-overwrite": "1",
            "x-content-type": content_type,
            "x-cache-control-max-age": str(CACHED_S),
        }

    def _headers(self, attempt: int = 0, request_id: str = "") -> dict[str, str]:
        return {
            **self._authorization(),
            "x-api-version": API_VERSION,
            "x-vercel-blob-store-id": self._bucket.store_id,
            "x-api-blob-request-id": request_id or uuid4().hex,
            "x-api-blob-request-attempt": str(attempt),
        }

    @property
    def _place(self) -> str:
        """The store and its server in words."""
        return (
            f"the Blob store {self._bucket.store_id!r} at {urlsplit(self._bucket.api_url).netloc}"
        )

    async def _call(
        self,
        doing: str,
        method: str,
        path: str = "",
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        json: object = None,
        part: Part | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
        key: str | None = None,
    ) -> dict[str, Any]:
        """
        Ask the API until it answers, all within *timeout_s*; every call may be repeated.

        With *key*, "not found" means that object.
        """
        request_id = f"{self._bucket.store_id}:{uuid4().hex}"
        url = URL(f"{self._bucket.api_url}{path}").with_query(params or {})
        more = dict(headers or {})
        text = None if json is None else orjson.dumps(json)
        # Thousands of parts may be put together for minutes without a word.
        silence_s = max(READ_TIMEOUT_S, timeout_s) if path == "/mpu" else READ_TIMEOUT_S
        if json is not None:
            more["Content-Type"] = "application/json"
        elif part is not None:
            more["Content-Type"] = "application/octet-stream"
            # Said, so that no chunked encoding is used, and a cut body is seen to be cut.
            more["Content-Length"] = str(part.size_bytes)
        attempt = 0
        async with self._mapped(doing, timeout_s):
            while True:
                try:
                    async with (
                        self._mapped(doing, None),
                        self._session.request(
                            method,
                            url,
                            headers=self._headers(attempt, request_id) | more,
                            data=text if part is None else _pieces(part),
                            allow_redirects=False,
                            timeout=aiohttp.ClientTimeout(
                                total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=silence_s
                            ),
                        ) as response,
                    ):
                        return await self._answer(response, doing, key)
                except StorageUnavailableError as error:
                    attempt += 1
                    wait_s = error.retry_after_s or FIRST_WAIT_S * 2 ** (attempt - 1)
                    if attempt == TRIES or wait_s > LONGEST_WAIT_S:
                        raise
                    await asyncio.sleep(wait_s)

    async def _answer(
        self, response: aiohttp.ClientResponse, doing: str, key: str | None
    ) -> dict[str, Any]:
        text = bytearray()
        async for chunk in response.content.iter_any():
            text += chunk
            if len(text) > MAX_ANSWER_BYTES:
                raise StorageUnavailableError(
                    f"Cannot {doing} in {self._place}: the answer is long."
                )
        told: object = False
        with suppress(ValueError):
            told = orjson.loads(text)
        if response.status == 200 and (told is None or isinstance(told, dict)):
            return told or {}
        error = told.get("error") if isinstance(told, dict) else None
        refusal = error if isinstance(error, dict) else {}
        raise _refused(response, refusal, f"Cannot {doing} in {self._place}", key)

    @contextmanager
    def _read(self, doing: str) -> Iterator[None]:
        """Turn what goes wrong when the block reads an answer into our error."""
        try:
            yield
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise StorageUnavailableError(
                f"Cannot {doing} in {self._place}: the answer lacks something."
            ) from error

    @asynccontextmanager
    async def _mapped(self, doing: str, timeout_s: float | None) -> AsyncIterator[None]:
        """Give the block *timeout_s* seconds, and turn what aiohttp raises into our errors."""
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except (aiohttp.ClientError, OSError) as error:
            raise StorageUnavailableError(
                f"Cannot {doing} in {self._place}: no answer ({type(error).__name__})."
            ) from error


def signature(signing_token: str, key: str) -> str:
    """Sign a GET of *key* with the key of a delegation: HMAC-SHA256 in base64url."""
    wanted = f"operation=get\npathname={key}"
    digest = hmac.new(signing_token.encode(), wanted.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


async def _pieces(part: Part) -> AsyncIterator[Piece]:
    """A part as it lies, without a copy."""
    for piece in tuple(part.pieces):
        yield piece


def _refused(
    response: aiohttp.ClientResponse, error: Mapping[str, Any], reason: str, key: str | None
) -> Exception:
    """Our error for an answer of the API."""
    status, code = response.status, str(error.get("code") or "")
    match code:
        case "store_suspended":
            return StorageDeniedError(f"{reason}: the store is suspended; Vercel's page says why.")
        case "store_not_found":
            return BucketMissingError(f"{reason}: there is no such store.")
        case "forbidden":
            return StorageDeniedError(f"{reason}: BLOB_READ_WRITE_TOKEN is not accepted.")
        case "file_too_large":
            return StorageDeniedError(f"{reason}: it is larger than the store takes.")
        case "not_found" if key is not None:
            return InvalidRequestError(f"There is no object {key!r} in the Blob store.")
        case "bad_request":
            words = "".join(c for c in str(error.get("message")) if c.isprintable())[:200]
            return StorageDeniedError(f"{reason}: {words}")
        case "rate_limited" | "service_unavailable" | "internal_server_error" | "unknown_error":
            return StorageUnavailableError(f"{reason}: {code}.", retry_after_s=_asked_s(response))
        case _ if status in {408, 429} or status >= 500 or status == 200:
            return StorageUnavailableError(
                f"{reason}: {code or status}.", retry_after_s=_asked_s(response)
            )
        case _:
            return StorageDeniedError(f"{reason}: {code or status}.")


def _asked_s(response: aiohttp.ClientResponse) -> float | None:
    """How long the API asks us to wait."""
    asked = response.headers.get("Retry-After", "")
    return float(asked) if asked.isascii() and asked.isdigit() else None
