"""What the server can do: one method per S3 operation, named as S3 names them."""

import asyncio
import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, unquote
from uuid import uuid4
from xml.etree.ElementTree import Element

from aiohttp import BodyPartReader, web

from vidgen.simulator.s3.auth import Account, Signed, check_form
from vidgen.simulator.s3.body import (
    BATCH_BYTES,
    CHECKSUMS,
    MAX_OBJECT_BYTES,
    Body,
    Received,
    new_digest,
    read_xml,
    receive,
)
from vidgen.simulator.s3.disk import Disk, Object, Part
from vidgen.simulator.s3.headers import (
    allow_reading_elsewhere,
    describe,
    facts,
    is_unchanged,
    precondition,
    section,
)
from vidgen.simulator.s3.wire import (
    BUCKET_NAME,
    CONFIGURATIONS,
    S3Error,
    number,
    parse,
    render,
    text_of,
)

MAX_KEY_BYTES = 1024
MAX_FORM_FIELDS_BYTES = 20 << 10
SEND_BYTES = 1 << 20
_LAST = "\U0010ffff"  # sorts after every key that begins with what stands before it


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request that the account signed."""

    request: web.BaseRequest
    signed: Signed | None
    operation: str
    bucket: str
    key: str
    query: Mapping[str, str]
    tamper: Callable[[bytes], bytes] | None = None
    cut_after_bytes: int | None = None

    def body(self) -> Body:
        """The body, not read yet."""
        assert self.signed is not None  # only forms come without
        return Body(self.request, self.signed)


class Operations:
    """Answers calls from one disk."""

    def __init__(self, disk: Disk, account: Account) -> None:
        """Answer from *disk* for *account*."""
        self._disk = disk
        self._account = account

    async def answer(self, call: Call) -> web.StreamResponse:
        """
        Do what was asked.

        Raises:
            S3Error: It cannot be done; the caller words the answer.
        """
        if len(call.key.encode()) > MAX_KEY_BYTES:
            raise S3Error(400, "KeyTooLongError", "A key has at most 1,024 bytes.")
        if call.bucket and call.operation != "CreateBucket":
            await asyncio.to_thread(self._disk.require_bucket, call.bucket)
        for name in CONFIGURATIONS.values():
            if call.operation.endswith((f"Bucket{name}", f"Object{name}")):
                return await self._configure(call, name)
        method = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", call.operation).lower()
        answer: web.StreamResponse = await getattr(self, method)(call)
        return answer

    # Buckets

    async def list_buckets(self, call: Call) -> web.Response:
        """Name every bucket."""
        rows = await asyncio.to_thread(self._disk.buckets)
        buckets = [{"Name": name, "CreationDate": at} for name, at in rows]
        owner = {"ID": self._account.access_key, "DisplayName": self._account.access_key}
        return _xml("ListAllMyBucketsResult", {"Owner": owner, "Buckets": {"Bucket": buckets}})

    async def create_bucket(self, call: Call) -> web.Response:
        """Make a bucket."""
        if not BUCKET_NAME.fullmatch(call.bucket):
            raise S3Error(400, "InvalidBucketName", "3 to 63 of a-z, 0-9, dot and hyphen.")
        await asyncio.to_thread(self._disk.create_bucket, call.bucket)
        return web.Response(headers={"Location": f"/{call.bucket}"})

    async def delete_bucket(self, call: Call) -> web.Response:
        """Remove an empty bucket."""
        await asyncio.to_thread(self._disk.delete_bucket, call.bucket)
        return web.Response(status=204)

    async def head_bucket(self, call: Call) -> web.Response:
        """Tell that the bucket is there."""
        return web.Response(headers={"x-amz-bucket-region": self._account.region})

    async def get_bucket_location(self, call: Call) -> web.Response:
        """Tell the region; us-east-1 is told by silence."""
        region = self._account.region
        return _xml("LocationConstraint", "" if region == "us-east-1" else region)

    async def get_bucket_versioning(self, call: Call) -> web.Response:
        """Tell that there are no versions."""
        return _xml("VersioningConfiguration", {})

    async def _configure(self, call: Call, name: str) -> web.Response:
        """Keep, give or drop a document; it is stored, not obeyed."""
        if call.key:
            await asyncio.to_thread(self._disk.get, call.bucket, call.key)
        place = (call.bucket, call.key, name)
        if call.operation.startswith("Put"):
            body = await read_xml(call.body())
            parse(body)
            await asyncio.to_thread(self._disk.configure, *place, body)
            return web.Response()
        if call.operation.startswith("Delete"):
            await asyncio.to_thread(self._disk.configure, *place, None)
            return web.Response(status=204)
        found = await asyncio.to_thread(self._disk.configuration, *place)
        if found is not None:
            return web.Response(body=found, content_type="application/xml")
        if call.key:
            return _xml("Tagging", {"TagSet": {}})
        code = {"Tagging": "NoSuchTagSet", "Cors": "NoSuchCORSConfiguration"}
        raise S3Error(404, code.get(name, "NoSuchLifecycleConfiguration"), "There is none.")

    # Listing

    async def list_objects(self, call: Call) -> web.Response:
        """Page through keys by marker."""
        marker = call.query.get("marker", "")
        found, prefixes, last = await self._page(call, marker)
        names = _Names(call.query)
        return _xml(
            "ListBucketResult",
            names.common(call.bucket)
            | {
                "Marker": names.written(marker),
                "NextMarker": names.written(last) if last else None,
                "IsTruncated": bool(last),
            }
            | names.contents(found, prefixes),
        )

    async def list_objects_v2(self, call: Call) -> web.Response:
        """Page through keys by token."""
        token, start = call.query.get("continuation-token"), call.query.get("start-after", "")
        try:
            after = start if token is None else base64.urlsafe_b64decode(token).decode()
        except ValueError as error:
            raise S3Error(400, "InvalidArgument", "The continuation token is not ours.") from error
        found, prefixes, last = await self._page(call, after)
        names = _Names(call.query)
        return _xml(
            "ListBucketResult",
            names.common(call.bucket)
            | {
                "KeyCount": len(found) + len(prefixes),
                "StartAfter": names.written(start) if start else None,
                "ContinuationToken": token,
                "NextContinuationToken": base64.urlsafe_b64encode(last.encode()).decode() or None,
                "IsTruncated": bool(last),
            }
            | names.contents(found, prefixes),
        )

    async def _page(self, call: Call, after: str) -> tuple[list[Object], list[str], str]:
        """Objects and common prefixes of a page, and where the next starts (empty: nowhere)."""
        prefix, delimiter = call.query.get("prefix", ""), call.query.get("delimiter", "")
        limit = number(call.query, "max-keys", 1000, 1000)

        def collect() -> tuple[list[Object], list[str], str]:
            found: list[Object] = []
            prefixes: list[str] = []
            at = after
            walk = self._disk.walk(call.bucket, prefix, at)
            while limit and (one := next(walk, None)):
                if len(found) + len(prefixes) == limit:
                    return found, prefixes, at
                head, cut, _ = (
                    one.key[len(prefix) :].partition(delimiter) if delimiter else ("",) * 3
                )
                if cut:
                    prefixes.append(prefix + head + cut)
                    at = prefixes[-1] + _LAST
                    walk = self._disk.walk(call.bucket, prefix, at)
                else:
                    found.append(one)
                    at = one.key
            return found, prefixes, ""

        return await asyncio.to_thread(collect)

    # Objects

    async def put_object(self, call: Call) -> web.Response:
        """Store an object, or copy one."""
        if "x-amz-copy-source" in call.request.headers:
            return await self._copy_object(call)
        condition = precondition(call.request.headers)
        condition(await asyncio.to_thread(self._disk.find, call.bucket, call.key))
        received = await receive(call.body(), self._disk.files, call.tamper)
        with _kept(received):
            said = facts(call.request.headers, received.checksums)
            await asyncio.to_thread(
                self._disk.put, call.bucket, call.key, received, said, condition
            )
        checksums = {f"x-amz-checksum-{n}": v for n, v in received.checksums.items()}
        return web.Response(headers={"ETag": f'"{received.md5}"', **checksums})

    async def get_object(self, call: Call) -> web.StreamResponse:
        """Send an object, or a range of it."""
        found = await asyncio.to_thread(self._disk.get, call.bucket, call.key)
        asked = call.request.headers
        headers = describe(found, call.query, is_signed=call.signed is not None)
        if is_unchanged(asked, found):
            return web.Response(status=304, headers={"ETag": headers["ETag"]})
        start, end = 0, found.size_bytes
        status = 200
        wanted = asked.get("Range")
        if wanted and asked.get("If-Range", headers["ETag"]) == headers["ETag"]:
            part = section(wanted, found.size_bytes)
            if part is not None:
                status, (start, end) = 206, part
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{found.size_bytes}"
        if status == 200 and asked.get("x-amz-checksum-mode", "").upper() == "ENABLED":
            headers |= {f"x-amz-checksum-{n}": v for n, v in found.facts.checksums.items()}
        answer = web.StreamResponse(status=status, headers=headers)
        allow_reading_elsewhere(answer)
        answer.content_length = end - start
        if call.request.method == "HEAD":
            await answer.prepare(call.request)
            return answer
        return await _send(answer, call, found, start, end)

    head_object = get_object

    async def delete_object(self, call: Call) -> web.Response:
        """Remove an object."""
        await asyncio.to_thread(self._disk.delete, call.bucket, [call.key])
        return web.Response(status=204)

    async def delete_objects(self, call: Call) -> web.Response:
        """Remove up to 1,000 objects."""
        root = parse(await read_xml(call.body()))
        keys = [text_of(one, "Key") for one in root.iter("Object")]
        if root.tag != "Delete" or not 1 <= len(keys) <= 1000:
            raise S3Error(400, "MalformedXML", "Wanted 1 to 1,000 objects.")
        await asyncio.to_thread(self._disk.delete, call.bucket, keys)
        quiet = text_of(root, "Quiet") == "true"
        return _xml("DeleteResult", {"Deleted": [] if quiet else [{"Key": key} for key in keys]})

    async def _copy_object(self, call: Call) -> web.Response:
        source = await self._copy_source(call)
        headers = call.request.headers
        replaces = headers.get("x-amz-metadata-directive", "COPY") == "REPLACE"
        said = facts(headers, source.facts.checksums) if replaces else source.facts
        received = await asyncio.to_thread(self._disk.copy, source.path)
        with _kept(received):
            done = await asyncio.to_thread(
                self._disk.put, call.bucket, call.key, received, said, precondition(headers)
            )
        return _xml(
            "CopyObjectResult", {"ETag": f'"{done.etag}"', "LastModified": done.modified_at}
        )

    async def _copy_source(self, call: Call) -> Object:
        source = unquote(call.request.headers["x-amz-copy-source"]).lstrip("/")
        bucket, _, key = source.partition("/")
        return await asyncio.to_thread(self._disk.get, bucket, key)

    async def post_object(self, call: Call) -> web.Response:
        """Store what a browser's form sends."""
        if call.request.content_type != "multipart/form-data":
            raise S3Error(412, "PreconditionFailed", "Wanted a multipart/form-data form.")
        fields: dict[str, str] = {}
        room = MAX_FORM_FIELDS_BYTES
        async for part in await call.request.multipart():
            if not isinstance(part, BodyPartReader):
                break
            name = (part.name or "").lower()
            if name == "file":
                return await self._store_form(call, fields, part)
            value = bytearray()
            while piece := await part.read_chunk(min(room, 4096) or 1):
                value += piece
                room -= len(piece)
                if room <= 0:
                    raise S3Error(400, "MaxPostPreDataLengthExceededError", "Too many fields.")
            fields[name] = value.decode(errors="replace")
        raise S3Error(400, "InvalidArgument", "The form has no file.")

    async def _store_form(
        self, call: Call, fields: dict[str, str], part: BodyPartReader
    ) -> web.Response:
        path = self._disk.files / uuid4().hex
        digest, size = new_digest("md5"), 0
        try:
            with path.open("wb") as file:
                while piece := await part.read_chunk(BATCH_BYTES):
                    size += len(piece)
                    if size > MAX_OBJECT_BYTES:
                        raise S3Error(400, "EntityTooLarge", "At most 5 GiB at once.")
                    digest.update(piece)
                    await asyncio.to_thread(file.write, piece)
            check_form(fields, call.bucket, size, self._account, datetime.now(UTC))
            key = fields.get("key", "").replace("${filename}", part.filename or "")
            if not key:
                raise S3Error(400, "InvalidArgument", "The form has no key.")
            received = Received(path=path, size_bytes=size, md5=digest.digest().hex())
            await asyncio.to_thread(
                self._disk.put, call.bucket, key, received, facts(fields, {}), lambda _: None
            )
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        status = fields.get("success_action_status", "204")
        return web.Response(
            status=int(status) if status in {"200", "201"} else 204,
            headers={"ETag": f'"{received.md5}"'},
        )

    # Multipart uploads

    async def create_multipart_upload(self, call: Call) -> web.Response:
        """Open an upload."""
        algorithm = call.request.headers.get("x-amz-checksum-algorithm", "").lower()
        if algorithm and algorithm not in CHECKSUMS:
            raise S3Error(501, "NotImplemented", f"{algorithm} is not computed here.")
        said = facts(call.request.headers, {algorithm: ""} if algorithm else {})
        upload = await asyncio.to_thread(self._disk.begin, call.bucket, call.key, said)
        answer = _xml(
            "InitiateMultipartUploadResult",
            {"Bucket": call.bucket, "Key": call.key, "UploadId": upload},
        )
        if algorithm:
            answer.headers["x-amz-checksum-algorithm"] = algorithm.upper()
            answer.headers["x-amz-checksum-type"] = "COMPOSITE"
        return answer

    async def upload_part(self, call: Call) -> web.Response:
        """Keep one part, sent or copied."""
        part = number(call.query, "partNumber", 0, 10_001)
        if not 1 <= part <= 10_000:
            raise S3Error(400, "InvalidArgument", "A part number is 1 to 10,000.")
        upload = await asyncio.to_thread(
            self._disk.upload, call.bucket, call.key, call.query["uploadId"]
        )
        is_copy = "x-amz-copy-source" in call.request.headers
        if is_copy:
            received = await self._copy_range(call)
        else:
            received = await receive(call.body(), self._disk.files, call.tamper)
        with _kept(received):
            await asyncio.to_thread(self._disk.put_part, upload, part, received)
        etag = f'"{received.md5}"'
        if is_copy:
            return _xml("CopyPartResult", {"ETag": etag, "LastModified": datetime.now(UTC)})
        checksums = {f"x-amz-checksum-{n}": v for n, v in received.checksums.items()}
        return web.Response(headers={"ETag": etag, **checksums})

    async def _copy_range(self, call: Call) -> Received:
        source = await self._copy_source(call)
        wanted = call.request.headers.get("x-amz-copy-source-range")
        part = section(wanted, source.size_bytes) if wanted else (0, source.size_bytes)
        if part is None:
            raise S3Error(400, "InvalidArgument", "The range of the source is not valid.")
        return await asyncio.to_thread(self._disk.copy, source.path, *part)

    async def list_parts(self, call: Call) -> web.Response:
        """Name the parts that came so far."""
        upload = await asyncio.to_thread(
            self._disk.upload, call.bucket, call.key, call.query["uploadId"]
        )
        after = number(call.query, "part-number-marker", 0, 10_000)
        limit = number(call.query, "max-parts", 1000, 1000)
        parts = [
            p for p in await asyncio.to_thread(self._disk.parts, upload.id) if p.number > after
        ]
        page = parts[:limit]
        return _xml(
            "ListPartsResult",
            {
                "Bucket": call.bucket,
                "Key": call.key,
                "UploadId": upload.id,
                "PartNumberMarker": after,
                "NextPartNumberMarker": page[-1].number if page else None,
                "MaxParts": limit,
                "IsTruncated": len(parts) > len(page),
                "Part": [
                    {
                        "PartNumber": part.number,
                        "LastModified": part.modified_at,
                        "ETag": f'"{part.etag}"',
                        "Size": part.size_bytes,
                    }
                    for part in page
                ],
            },
        )

    async def list_multipart_uploads(self, call: Call) -> web.Response:
        """Name the uploads that are neither completed nor aborted."""
        prefix = call.query.get("prefix", "")
        limit = number(call.query, "max-uploads", 1000, 1000)
        marker = (call.query.get("key-marker", ""), call.query.get("upload-id-marker", ""))
        names = _Names(call.query)
        rest = await asyncio.to_thread(self._disk.uploads, call.bucket, prefix)
        if marker[1]:
            seen = [(u.key, u.id) for u in rest]
            rest = rest[seen.index(marker) + 1 :] if marker in seen else []
        else:
            rest = [u for u in rest if not marker[0] or u.key > marker[0]]
        page = rest[:limit]
        more = len(rest) > len(page) > 0
        return _xml(
            "ListMultipartUploadsResult",
            {
                "Bucket": call.bucket,
                "Prefix": names.written(prefix),
                "EncodingType": call.query.get("encoding-type"),
                "KeyMarker": names.written(marker[0]),
                "UploadIdMarker": marker[1],
                "NextKeyMarker": names.written(page[-1].key) if more else None,
                "NextUploadIdMarker": page[-1].id if more else None,
                "MaxUploads": limit,
                "IsTruncated": more,
                "Upload": [
                    {"Key": names.written(u.key), "UploadId": u.id, "Initiated": u.created_at}
                    for u in page
                ],
            },
        )

    async def abort_multipart_upload(self, call: Call) -> web.Response:
        """Drop an upload."""
        upload = await asyncio.to_thread(
            self._disk.upload, call.bucket, call.key, call.query["uploadId"]
        )
        await asyncio.to_thread(self._disk.abort, upload.id)
        return web.Response(status=204)

    async def complete_multipart_upload(self, call: Call) -> web.Response:
        """Put the parts together."""
        root = parse(await read_xml(call.body()))
        upload = await asyncio.to_thread(
            self._disk.upload, call.bucket, call.key, call.query["uploadId"]
        )
        try:
            named = {int(text_of(one, "PartNumber")): one for one in root.iter("Part")}
            wanted = [
                (int(text_of(one, "PartNumber")), text_of(one, "ETag")) for one in root.iter("Part")
            ]
        except ValueError as error:
            raise S3Error(400, "MalformedXML", "A part number is no number.") from error
        algorithms = tuple(upload.facts.checksums)

        def checksums(parts: Sequence[Part]) -> dict[str, str]:
            for part in parts:
                for name in algorithms:
                    _hold(named[part.number], part, name)
            return {name: _composite(name, parts) for name in algorithms}

        done = await asyncio.to_thread(
            self._disk.complete, upload, wanted, checksums, precondition(call.request.headers)
        )
        return _xml(
            "CompleteMultipartUploadResult",
            {"Bucket": call.bucket, "Key": call.key, "ETag": f'"{done.etag}"'},
        )


class _Names:
    """How keys are written in one listing: as they are, or percent-encoded where asked."""

    def __init__(self, query: Mapping[str, str]) -> None:
        self._query = query
        self._encoding = query.get("encoding-type")

    def written(self, key: str) -> str:
        """Write one key."""
        return quote(key, safe="/") if self._encoding == "url" else key

    def common(self, bucket: str) -> dict[str, object]:
        """What both versions of a listing repeat from the request."""
        delimiter = self._query.get("delimiter")
        return {
            "Name": bucket,
            "Prefix": self.written(self._query.get("prefix", "")),
            "Delimiter": self.written(delimiter) if delimiter else None,
            "EncodingType": self._encoding,
            "MaxKeys": number(self._query, "max-keys", 1000, 1000),
        }

    def contents(self, found: Sequence[Object], prefixes: Sequence[str]) -> dict[str, object]:
        """The page itself."""
        return {
            "Contents": [
                {
                    "Key": self.written(one.key),
                    "LastModified": one.modified_at,
                    "ETag": f'"{one.etag}"',
                    "Size": one.size_bytes,
                    "StorageClass": "STANDARD",
                }
                for one in found
            ],
            "CommonPrefixes": [{"Prefix": self.written(prefix)} for prefix in prefixes],
        }


async def _send(
    answer: web.StreamResponse, call: Call, found: Object, start: int, end: int
) -> web.StreamResponse:
    """Send the bytes from *start* to *end*; a fault may cut them short."""
    try:
        file = await asyncio.to_thread(found.path.open, "rb")
    except FileNotFoundError as error:
        raise S3Error(404, "NoSuchKey", "It has just been deleted.") from error
    with file:
        await answer.prepare(call.request)
        file.seek(start)
        left = end - start
        cut = call.cut_after_bytes
        while left:
            size = min(left, SEND_BYTES) if cut is None else min(left, SEND_BYTES, cut)
            if not size:
                raise ConnectionResetError("cut by a fault")
            await answer.write(await asyncio.to_thread(file.read, size))
            left -= size
            cut = cut if cut is None else cut - size
    await answer.write_eof()
    return answer


@contextmanager
def _kept(received: Received) -> Iterator[None]:
    """Remove the file of a body again unless the block makes an object or a part of it."""
    try:
        yield
    except BaseException:
        received.path.unlink(missing_ok=True)
        raise


def _xml(root: str, content: object) -> web.Response:
    return web.Response(body=render(root, content), content_type="application/xml")


def _hold(named: "Element[str]", part: Part, algorithm: str) -> None:
    """Compare the checksum by which a part is named with the one that it came with."""
    told = text_of(named, f"Checksum{algorithm.upper()}")
    if not told:
        raise S3Error(
            400, "InvalidRequest", f"Part {part.number} is named without its {algorithm}."
        )
    if told != part.checksums.get(algorithm):
        raise S3Error(400, "InvalidPart", f"Part {part.number} has another {algorithm}.")


def _composite(algorithm: str, parts: Sequence[Part]) -> str:
    """The checksum of the parts' checksums, as S3 gives for a multipart object."""
    digest = new_digest(algorithm)
    try:
        for part in parts:
            digest.update(base64.b64decode(part.checksums[algorithm]))
    except (KeyError, binascii.Error) as error:
        raise S3Error(400, "InvalidRequest", f"A part was sent without its {algorithm}.") from error
    return f"{base64.b64encode(digest.digest()).decode()}-{len(parts)}"
