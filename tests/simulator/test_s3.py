"""vidgen.simulator.s3: what S3 does and what it refuses, check by check, and its faults."""

import asyncio
import base64
import hashlib
import hmac
import io
import os
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from yarl import URL

from vidgen.simulator.s3 import Fault, S3Server
from vidgen.simulator.s3.auth import sign

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

MIB = 1 << 20
ACCESS_KEY, SECRET_KEY = "vidgen", "vidgen-secret"
BUCKET = "checks"
DATA = os.urandom(1_000_000)  # below the size from which aiohttp warns about plain bytes
SIZE = len(DATA)
PART = os.urandom(5 * MIB)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A server with one bucket that holds `a/b.mp4` = DATA, and two ways to talk to it."""

    server: S3Server
    s3: "S3Client"
    http: aiohttp.ClientSession

    async def signed(self, operation: str, key: str, expires_s: int = 60, **more: Any) -> str:
        return await self.s3.generate_presigned_url(
            operation, Params={"Bucket": BUCKET, "Key": key, **more}, ExpiresIn=expires_s
        )

    async def status(self, method: str, url: str | URL, **more: Any) -> int:
        async with self.http.request(method, url, **more) as answer:
            await answer.read()
            return answer.status

    async def read(self, key: str) -> bytes:
        answer = await self.s3.get_object(Bucket=BUCKET, Key=key)
        return await answer["Body"].read()

    async def begin(self, key: str, *parts: bytes) -> tuple[str, list[Any]]:
        """Open an upload and send *parts*; its id and the list that completes it."""
        begun = await self.s3.create_multipart_upload(
            Bucket=BUCKET, Key=key, ContentType="video/mp4", Metadata={"k": "v"}
        )
        upload, sent = begun["UploadId"], []
        for number, part in enumerate(parts, 1):
            answer = await self.s3.upload_part(
                Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=number, Body=io.BytesIO(part)
            )
            sent.append({"PartNumber": number, "ETag": answer["ETag"]})
        return upload, sent

    async def complete(self, key: str, upload: str, parts: list[Any], **more: Any) -> Any:
        return await self.s3.complete_multipart_upload(
            Bucket=BUCKET, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}, **more
        )


@asynccontextmanager
async def a_client(
    server: S3Server, *, access_key: str = ACCESS_KEY, secret_key: str = SECRET_KEY
) -> AsyncIterator["S3Client"]:
    config = AioConfig(
        signature_version="s3v4",
        s3={"addressing_style": "path"},
        retries={"total_max_attempts": 1, "mode": "standard"},
    )
    async with get_session().create_client(
        "s3",
        endpoint_url=server.url,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name="us-east-1",
        config=config,
    ) as client:
        yield client


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with (
        S3Server(tmp_path, access_key=ACCESS_KEY, secret_key=SECRET_KEY) as server,
        a_client(server) as s3,
        aiohttp.ClientSession() as http,
    ):
        await s3.create_bucket(Bucket=BUCKET)
        await s3.put_object(
            Bucket=BUCKET,
            Key="a/b.mp4",
            Body=io.BytesIO(DATA),
            ContentType="video/mp4",
            Metadata={"job-id": "x1"},
        )
        yield World(server=server, s3=s3, http=http)


async def refused(call: Awaitable[object]) -> str:
    """Status and code of the refusal."""
    with pytest.raises(ClientError) as caught:
        await call
    answer = caught.value.response
    return f"{answer['ResponseMetadata']['HTTPStatusCode']} {answer['Error']['Code']}"


def md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


async def pieces() -> AsyncIterator[bytes]:
    for at in range(0, SIZE, SIZE // 4):
        yield DATA[at : at + SIZE // 4]


Check = Callable[[World], Awaitable[None]]
CHECKS: dict[str, Check] = {}


def check(name: str) -> Callable[[Check], Check]:
    def keep(function: Check) -> Check:
        CHECKS[name] = function
        return function

    return keep


# Buckets and plain objects


@check("create_bucket")
async def _(w: World) -> None:
    assert [b["Name"] for b in (await w.s3.list_buckets())["Buckets"]] == [BUCKET]
    await w.s3.head_bucket(Bucket=BUCKET)
    assert (await w.s3.get_bucket_location(Bucket=BUCKET))["LocationConstraint"] is None
    assert await refused(w.s3.create_bucket(Bucket=BUCKET)) == "409 BucketAlreadyOwnedByYou"


@check("put_bytes_etag_md5")
async def _(w: World) -> None:
    answer = await w.s3.put_object(Bucket=BUCKET, Key="x", Body=b"hello")
    assert answer["ETag"] == f'"{md5(b"hello").hex()}"'


@check("get_meta_ctype_acceptranges")
async def _(w: World) -> None:
    answer = await w.s3.get_object(Bucket=BUCKET, Key="a/b.mp4")
    assert await answer["Body"].read() == DATA
    assert answer["ContentType"] == "video/mp4"
    assert answer["Metadata"] == {"job-id": "x1"}
    assert answer["AcceptRanges"] == "bytes"
    assert abs((answer["LastModified"] - datetime.now(UTC)).total_seconds()) < 60


@check("head")
async def _(w: World) -> None:
    answer = await w.s3.head_object(Bucket=BUCKET, Key="a/b.mp4")
    assert (answer["ContentLength"], answer["Metadata"]) == (SIZE, {"job-id": "x1"})


@check("get_missing")
async def _(w: World) -> None:
    assert await refused(w.s3.get_object(Bucket=BUCKET, Key="no")) == "404 NoSuchKey"


@check("get_missing_bucket")
async def _(w: World) -> None:
    assert await refused(w.s3.get_object(Bucket="nowhere", Key="no")) == "404 NoSuchBucket"


@check("put_fileobj")
async def _(w: World) -> None:
    await w.s3.put_object(Bucket=BUCKET, Key="file", Body=io.BytesIO(DATA))
    assert await w.read("file") == DATA


@check("zero_byte")
async def _(w: World) -> None:
    await w.s3.put_object(Bucket=BUCKET, Key="zero", Body=b"")
    assert await w.read("zero") == b""


@check("key_both_file_and_prefix")
async def _(w: World) -> None:
    await w.s3.put_object(Bucket=BUCKET, Key="fd", Body=b"1")
    await w.s3.put_object(Bucket=BUCKET, Key="fd/x", Body=b"2")
    assert (await w.read("fd"), await w.read("fd/x")) == (b"1", b"2")


@check("weird_key")
async def _(w: World) -> None:
    key = "ünï côdé/a+b %25 &=?#~'()*!.mp4"
    await w.s3.put_object(Bucket=BUCKET, Key=key, Body=b"w")
    listed = await w.s3.list_objects_v2(Bucket=BUCKET, Prefix="ünï")
    assert listed["Contents"][0]["Key"] == key
    assert await w.status("GET", URL(await w.signed("get_object", key), encoded=True)) == 200


@check("copy")
async def _(w: World) -> None:
    source: Any = {"Bucket": BUCKET, "Key": "a/b.mp4"}
    await w.s3.copy_object(Bucket=BUCKET, Key="cp", CopySource=source)
    answer = await w.s3.get_object(Bucket=BUCKET, Key="cp")
    assert await answer["Body"].read() == DATA
    assert (answer["ContentType"], answer["Metadata"]) == ("video/mp4", {"job-id": "x1"})


@check("list_v2_paging")
async def _(w: World) -> None:
    for i in range(7):
        await w.s3.put_object(Bucket=BUCKET, Key=f"l/{i}/x", Body=b"1")
    grouped = await w.s3.list_objects_v2(Bucket=BUCKET, Prefix="l/", Delimiter="/")
    assert [p["Prefix"] for p in grouped["CommonPrefixes"]] == [f"l/{i}/" for i in range(7)]
    for version, size in (("list_objects_v2", 3), ("list_objects_v2", 7), ("list_objects", 2)):
        keys: list[str] = []
        pages: Any = w.s3.get_paginator(version)  # type: ignore[call-overload]  # a str
        async for page in pages.paginate(Bucket=BUCKET, Prefix="l/", MaxKeys=size):
            keys += [one["Key"] for one in page["Contents"]]
        assert keys == [f"l/{i}/x" for i in range(7)]


@check("delete_batch+idempotent")
async def _(w: World) -> None:
    for key in ("d/1", "d/2"):
        await w.s3.put_object(Bucket=BUCKET, Key=key, Body=b"1")
    wanted: Any = {"Objects": [{"Key": "d/1"}, {"Key": "d/2"}, {"Key": "d/3"}]}
    assert len((await w.s3.delete_objects(Bucket=BUCKET, Delete=wanted))["Deleted"]) == 3
    assert "Contents" not in await w.s3.list_objects_v2(Bucket=BUCKET, Prefix="d/")
    await w.s3.delete_object(Bucket=BUCKET, Key="not-there")


@check("delete_nonempty_bucket")
async def _(w: World) -> None:
    assert await refused(w.s3.delete_bucket(Bucket=BUCKET)) == "409 BucketNotEmpty"
    await w.s3.delete_object(Bucket=BUCKET, Key="a/b.mp4")
    await w.s3.delete_bucket(Bucket=BUCKET)


# Signed addresses


@check("presigned_put_len")
async def _(w: World) -> None:
    url = await w.signed("put_object", "p", ContentType="video/mp4")
    assert await w.status("PUT", url, data=b"abc", headers={"Content-Type": "video/mp4"}) == 200
    assert await w.read("p") == b"abc"


@check("presigned_put_chunked_nolen")
async def _(w: World) -> None:
    assert await w.status("PUT", await w.signed("put_object", "p"), data=pieces()) == 411


@check("presigned_put_wrong_ctype")
async def _(w: World) -> None:
    url = await w.signed("put_object", "p", ContentType="video/mp4")
    assert await w.status("PUT", url, data=b"abc", headers={"Content-Type": "text/plain"}) == 403


@check("presigned_put_len_stream")
async def _(w: World) -> None:
    headers = {"Content-Length": str(SIZE)}
    url = await w.signed("put_object", "p")
    assert await w.status("PUT", url, data=pieces(), headers=headers) == 200
    assert await w.read("p") == DATA


@check("presigned_get")
async def _(w: World) -> None:
    async with w.http.get(await w.signed("get_object", "a/b.mp4")) as answer:
        assert (answer.status, await answer.read()) == (200, DATA)


@check("presigned_tampered_sig->403")
async def _(w: World) -> None:
    url = await w.signed("get_object", "a/b.mp4")
    other = "0" if url[-1] != "0" else "1"
    assert await w.status("GET", url[:-1] + other) == 403


@check("presigned_other_key->403")
async def _(w: World) -> None:
    url = await w.signed("get_object", "a/b.mp4")
    assert await w.status("GET", url.replace("a/b.mp4", "other")) == 403


@check("presigned_expired->403")
async def _(w: World) -> None:
    url = await w.signed("get_object", "a/b.mp4", 1)
    async with asyncio.timeout(10):
        # Only the clock can end it.
        while await w.status("GET", url) == 200:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert await w.status("GET", url) == 403


@check("anonymous_get->403")
async def _(w: World) -> None:
    assert await w.status("GET", f"{w.server.url}/{BUCKET}/a/b.mp4") == 403


@check("HEAD_on_presigned_GET->403")
async def _(w: World) -> None:
    assert await w.status("HEAD", await w.signed("get_object", "a/b.mp4")) == 403


@check("response_overrides")
async def _(w: World) -> None:
    url = await w.signed(
        "get_object",
        "a/b.mp4",
        ResponseContentDisposition='attachment; filename="x.mp4"',
        ResponseContentType="video/x",
    )
    async with w.http.get(url) as answer:
        assert answer.headers["Content-Disposition"] == 'attachment; filename="x.mp4"'
        assert answer.headers["Content-Type"] == "video/x"


@check("wrong_secret")
async def _(w: World) -> None:
    async with a_client(w.server, secret_key="wrong") as bad:
        code = await refused(bad.put_object(Bucket=BUCKET, Key="x", Body=b"1"))
    assert code == "403 SignatureDoesNotMatch"


@check("unknown_key")
async def _(w: World) -> None:
    async with a_client(w.server, access_key="NOBODY") as bad:
        assert await refused(bad.list_objects_v2(Bucket=BUCKET)) == "403 InvalidAccessKeyId"


@check("presigned_post")
async def _(w: World) -> None:
    post = await w.s3.generate_presigned_post(
        BUCKET, "posted", Conditions=[["content-length-range", 0, SIZE]], ExpiresIn=60
    )

    async def send(data: bytes, **changes: str) -> int:
        form = aiohttp.FormData()
        for name, value in (post["fields"] | changes).items():
            form.add_field(name, value)
        form.add_field("file", data, filename="x")
        return await w.status("POST", post["url"], data=form)

    assert await send(b"posted bytes") == 204
    assert await w.read("posted") == b"posted bytes"
    assert await send(b"x", key="another") == 403
    assert await send(b"x" * (SIZE + 1)) == 400


# Ranges


async def a_range(w: World, asked: str) -> tuple[int, bytes, str | None]:
    url = await w.signed("get_object", "a/b.mp4")
    async with w.http.get(url, headers={"Range": asked}) as answer:
        return answer.status, await answer.read(), answer.headers.get("Content-Range")


for _name, _asked, _start, _end in (
    ("range_0-0", "bytes=0-0", 0, 1),
    ("range_mid", "bytes=1000-2000", 1000, 2001),
    ("range_open_end", f"bytes={SIZE - 500}-", SIZE - 500, SIZE),
    ("range_suffix", "bytes=-100", SIZE - 100, SIZE),
    ("range_past_end_clamped", f"bytes={SIZE - 5}-{SIZE + 100}", SIZE - 5, SIZE),
):

    @check(_name)
    async def _(w: World, asked: str = _asked, start: int = _start, end: int = _end) -> None:
        whole = f"bytes {start}-{end - 1}/{SIZE}"
        assert await a_range(w, asked) == (206, DATA[start:end], whole)


@check("range_unsatisfiable")
async def _(w: World) -> None:
    status, _, whole = await a_range(w, f"bytes={SIZE + 1}-{SIZE + 2}")
    assert (status, whole) == (416, f"bytes */{SIZE}")


@check("sdk_range")
async def _(w: World) -> None:
    answer = await w.s3.get_object(Bucket=BUCKET, Key="a/b.mp4", Range="bytes=5-9")
    assert await answer["Body"].read() == DATA[5:10]


# Conditions


@check("if_none_match_304")
async def _(w: World) -> None:
    etag = (await w.s3.head_object(Bucket=BUCKET, Key="a/b.mp4"))["ETag"]
    call = w.s3.get_object(Bucket=BUCKET, Key="a/b.mp4", IfNoneMatch=etag)
    assert (await refused(call)).startswith("304")


@check("if_match_412")
async def _(w: World) -> None:
    call = w.s3.get_object(Bucket=BUCKET, Key="a/b.mp4", IfMatch='"deadbeef"')
    assert (await refused(call)).startswith("412")


@check("put_if_none_match_star_412")
async def _(w: World) -> None:
    call = w.s3.put_object(Bucket=BUCKET, Key="a/b.mp4", Body=b"z", IfNoneMatch="*")
    assert (await refused(call)).startswith("412")
    assert await w.read("a/b.mp4") == DATA


@check("put_if_match_wrong_412")
async def _(w: World) -> None:
    call = w.s3.put_object(Bucket=BUCKET, Key="a/b.mp4", Body=b"z", IfMatch='"deadbeef"')
    assert (await refused(call)).startswith("412")


# Integrity


@check("bad_content_md5")
async def _(w: World) -> None:
    other = base64.b64encode(md5(b"other")).decode()
    call = w.s3.put_object(Bucket=BUCKET, Key="md", Body=b"hello", ContentMD5=other)
    assert await refused(call) == "400 BadDigest"
    assert await refused(w.s3.head_object(Bucket=BUCKET, Key="md")) == "404 404"


@check("bad_checksum_sha256")
async def _(w: World) -> None:
    digest = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    call = w.s3.put_object(Bucket=BUCKET, Key="md", Body=b"hello", ChecksumSHA256=digest)
    assert await refused(call) == "400 BadDigest"


async def a_checksum(w: World, algorithm: Any) -> None:
    body = io.BytesIO(b"hello" * 999)
    sent: Any = await w.s3.put_object(
        Bucket=BUCKET, Key="ck", Body=body, ChecksumAlgorithm=algorithm
    )
    got: Any = await w.s3.get_object(Bucket=BUCKET, Key="ck", ChecksumMode="ENABLED")
    assert await got["Body"].read() == b"hello" * 999
    assert got[f"Checksum{algorithm}"] == sent[f"Checksum{algorithm}"]


@check("checksum_CRC32")
async def _(w: World) -> None:
    await a_checksum(w, "CRC32")


@check("checksum_SHA1")
async def _(w: World) -> None:
    await a_checksum(w, "SHA1")


@check("checksum_SHA256")
async def _(w: World) -> None:
    await a_checksum(w, "SHA256")


def signed_headers(url: str, body: bytes, **headers: str) -> dict[str, str]:
    request = AWSRequest("PUT", url, data=body, headers=headers)
    S3SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY), "s3", "us-east-1").add_auth(request)
    return dict(request.headers)


@check("payload_sha256_mismatch")
async def _(w: World) -> None:
    url = f"{w.server.url}/{BUCKET}/mm"
    assert await w.status("PUT", url, data=b"BBBB", headers=signed_headers(url, b"AAAA")) == 400
    assert await w.status("PUT", url, data=b"AAAA", headers=signed_headers(url, b"AAAA")) == 200


@check("truncated_put_not_visible")
async def _(w: World) -> None:
    url = URL(await w.signed("put_object", "a/b.mp4"))
    assert url.host is not None
    _, writer = await asyncio.open_connection(url.host, url.port)
    head = f"PUT {url.raw_path_qs} HTTP/1.1\r\nHost: {url.host}:{url.port}\r\n"
    writer.write(f"{head}Content-Length: 1000000\r\n\r\n".encode() + b"x" * 1000)
    await writer.drain()
    async with asyncio.timeout(10):
        await w.server.wait_for("PutObject", 2)
        writer.close()
        await writer.wait_closed()
        await w.server.wait_until_idle()
    assert await w.read("a/b.mp4") == DATA


# Multipart uploads


@check("multipart_roundtrip")
async def _(w: World) -> None:
    upload, parts = await w.begin("mp", PART, PART, b"tail")
    listed = await w.s3.list_parts(Bucket=BUCKET, Key="mp", UploadId=upload)
    assert [(p["PartNumber"], p["Size"]) for p in listed["Parts"]] == [
        (1, 5 * MIB),
        (2, 5 * MIB),
        (3, 4),
    ]
    uploads = await w.s3.list_multipart_uploads(Bucket=BUCKET)
    assert [u["UploadId"] for u in uploads["Uploads"]] == [upload]
    assert "Contents" not in await w.s3.list_objects_v2(Bucket=BUCKET, Prefix="mp")

    done = await w.complete("mp", upload, parts)

    digests = md5(PART) * 2 + md5(b"tail")
    assert done["ETag"] == f'"{md5(digests).hex()}-3"'
    answer = await w.s3.get_object(Bucket=BUCKET, Key="mp")
    assert await answer["Body"].read() == PART + PART + b"tail"
    assert (answer["ContentType"], answer["Metadata"]) == ("video/mp4", {"k": "v"})
    assert w.server.uploads() == []


@check("abort_then_part_NoSuchUpload")
async def _(w: World) -> None:
    upload, _ = await w.begin("m", b"one")
    await w.s3.abort_multipart_upload(Bucket=BUCKET, Key="m", UploadId=upload)
    call = w.s3.upload_part(Bucket=BUCKET, Key="m", UploadId=upload, PartNumber=2, Body=b"x")
    assert await refused(call) == "404 NoSuchUpload"
    assert w.server.uploads() == []


@check("small_part")
async def _(w: World) -> None:
    upload, parts = await w.begin("m", b"too small", b"last")
    assert await refused(w.complete("m", upload, parts)) == "400 EntityTooSmall"


@check("wrong_part_etag")
async def _(w: World) -> None:
    upload, parts = await w.begin("m", b"one")
    parts[0]["ETag"] = f'"{"0" * 32}"'
    assert await refused(w.complete("m", upload, parts)) == "400 InvalidPart"


@check("part_order")
async def _(w: World) -> None:
    upload, parts = await w.begin("m", PART, b"last")
    assert await refused(w.complete("m", upload, parts[::-1])) == "400 InvalidPartOrder"


@check("part_reupload_replaces")
async def _(w: World) -> None:
    upload, _ = await w.begin("m", b"first try")
    again = await w.s3.upload_part(
        Bucket=BUCKET, Key="m", UploadId=upload, PartNumber=1, Body=b"second"
    )
    await w.complete("m", upload, [{"PartNumber": 1, "ETag": again["ETag"]}])
    assert await w.read("m") == b"second"


@check("complete_if_none_match_412")
async def _(w: World) -> None:
    upload, parts = await w.begin("a/b.mp4", b"new")
    call = w.complete("a/b.mp4", upload, parts, IfNoneMatch="*")
    assert (await refused(call)).startswith("412")


@check("presigned_part_streamed")
async def _(w: World) -> None:
    upload, _ = await w.begin("m")
    url = await w.signed("upload_part", "m", UploadId=upload, PartNumber=1)
    async with w.http.put(url, data=pieces(), headers={"Content-Length": str(SIZE)}) as answer:
        assert answer.headers["ETag"] == f'"{md5(DATA).hex()}"'


@check("presigned_part")
async def _(w: World) -> None:
    upload, _ = await w.begin("m")
    url = await w.signed("upload_part", "m", UploadId=upload, PartNumber=1)
    async with w.http.put(url, data=b"part") as answer:
        etag = answer.headers["ETag"]
    await w.complete("m", upload, [{"PartNumber": 1, "ETag": etag}])
    assert await w.read("m") == b"part"


# What is stored, and what browsers ask


@check("lifecycle_cfg")
async def _(w: World) -> None:
    rule: Any = {
        "ID": "a",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
    }
    await w.s3.put_bucket_lifecycle_configuration(
        Bucket=BUCKET, LifecycleConfiguration={"Rules": [rule]}
    )
    kept = await w.s3.get_bucket_lifecycle_configuration(Bucket=BUCKET)
    assert kept["Rules"] == [rule]


@check("cors")
async def _(w: World) -> None:
    headers = {"Origin": "http://page.example"}
    url = await w.signed("get_object", "a/b.mp4")
    async with w.http.get(url, headers=headers) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
    headers |= {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "range"}
    async with w.http.options(url, headers=headers) as answer:
        assert answer.status == 200
        assert answer.headers["Access-Control-Allow-Headers"] == "range"


@check("tagging")
async def _(w: World) -> None:
    tags: Any = [{"Key": "a", "Value": "b"}]
    await w.s3.put_object_tagging(Bucket=BUCKET, Key="a/b.mp4", Tagging={"TagSet": tags})
    kept = await w.s3.get_object_tagging(Bucket=BUCKET, Key="a/b.mp4")
    assert kept["TagSet"] == tags


@pytest.mark.parametrize("name", list(CHECKS))
async def test_it_does_as_s3_does(world: World, name: str) -> None:
    await CHECKS[name](world)


# Signed chunks


def chunked(headers: dict[str, str], *bodies: bytes) -> bytes:
    """Frame *bodies* as aws-chunked, each signed on top of the one before."""
    day = headers["X-Amz-Date"][:8]
    signing_key = b"AWS4" + SECRET_KEY.encode()
    for step in (day, "us-east-1", "s3", "aws4_request"):
        signing_key = sign(signing_key, step)
    previous = headers["Authorization"].rpartition("Signature=")[2]
    empty = hashlib.sha256(b"").hexdigest()
    framed = bytearray()
    for body in (*bodies, b""):
        text = (
            f"AWS4-HMAC-SHA256-PAYLOAD\n{headers['X-Amz-Date']}\n{day}/us-east-1/s3/aws4_request\n"
            f"{previous}\n{empty}\n{hashlib.sha256(body).hexdigest()}"
        )
        previous = hmac.digest(signing_key, text.encode(), "sha256").hex()
        framed += f"{len(body):x};chunk-signature={previous}\r\n".encode() + body + b"\r\n"
    return bytes(framed)


class StreamingAuth(S3SigV4Auth):
    """Signs the word that announces signed chunks."""

    def payload(self, request: AWSRequest) -> str:
        return "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"


@pytest.mark.parametrize(("tampered", "status"), [(False, 200), (True, 403)])
async def test_signed_chunks_are_checked_one_by_one(
    world: World, tampered: bool, status: int
) -> None:
    url = f"{world.server.url}/{BUCKET}/chunked"
    request = AWSRequest("PUT", url, headers={"x-amz-decoded-content-length": "70000"})
    StreamingAuth(Credentials(ACCESS_KEY, SECRET_KEY), "s3", "us-east-1").add_auth(request)
    headers = dict(request.headers)
    body = chunked(headers, b"a" * 66_000, b"b" * 4_000)
    if tampered:
        body = body.replace(b"bbb", b"bbc", 1)

    assert await world.status("PUT", url, data=body, headers=headers) == status

    if not tampered:
        assert await world.read("chunked") == b"a" * 66_000 + b"b" * 4_000


async def test_a_wrong_trailing_checksum_is_refused(world: World) -> None:
    async def put(checksum: str) -> int:
        url = await world.signed("put_object", "trailed")
        headers = {
            "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
            "x-amz-decoded-content-length": "5",
            "x-amz-trailer": "x-amz-checksum-sha256",
        }
        request = AWSRequest("PUT", url.partition("?")[0], headers=headers)

        class Auth(S3SigV4Auth):
            def payload(self, request: AWSRequest) -> str:
                return "STREAMING-UNSIGNED-PAYLOAD-TRAILER"

        Auth(Credentials(ACCESS_KEY, SECRET_KEY), "s3", "us-east-1").add_auth(request)
        body = f"5\r\nhello\r\n0\r\nx-amz-checksum-sha256:{checksum}\r\n\r\n".encode()
        return await world.status(
            "PUT", url.partition("?")[0], data=body, headers=dict(request.headers)
        )

    right = base64.b64encode(hashlib.sha256(b"hello").digest()).decode()

    assert await put(right) == 200
    assert await put(right[::-1]) == 400


async def test_parts_with_checksums_are_put_together_by_them(world: World) -> None:
    place: dict[str, Any] = {"Bucket": BUCKET, "Key": "summed"}
    begun = await world.s3.create_multipart_upload(**place, ChecksumAlgorithm="CRC32")
    place |= {"UploadId": begun["UploadId"]}
    checksum = base64.b64encode(zlib.crc32(b"part").to_bytes(4, "big")).decode()
    sent = await world.s3.upload_part(**place, PartNumber=1, Body=b"part", ChecksumCRC32=checksum)
    part = {"PartNumber": 1, "ETag": sent["ETag"]}

    async def complete(**named: str) -> Any:
        return await world.s3.complete_multipart_upload(
            **place,
            MultipartUpload={"Parts": [{**part, **named}]},  # type: ignore[typeddict-item]  # wrong ones, too
        )

    with pytest.raises(ClientError, match="InvalidRequest"):
        await complete()
    with pytest.raises(ClientError, match="InvalidPart"):
        await complete(ChecksumCRC32="AAAAAA==")
    await complete(ChecksumCRC32=checksum)

    assert begun["ChecksumAlgorithm"] == "CRC32"
    assert sent["ChecksumCRC32"] == checksum
    assert await world.read("summed") == b"part"


# The rest


async def test_entities_in_xml_are_refused(world: World) -> None:
    url = f"{world.server.url}/{BUCKET}?tagging"
    body = b'<!DOCTYPE x [<!ENTITY e "boom">]><Tagging>&e;</Tagging>'

    assert await world.status("PUT", url, data=body, headers=signed_headers(url, body)) == 400


async def test_what_is_not_there_is_not_pretended(world: World) -> None:
    assert await refused(world.s3.get_bucket_policy(Bucket=BUCKET)) == "501 NotImplemented"


async def test_an_old_request_is_refused(world: World) -> None:
    url = f"{world.server.url}/{BUCKET}/a/b.mp4"
    headers = signed_headers(url, b"") | {"X-Amz-Date": "20200101T000000Z"}

    assert await world.status("PUT", url, data=b"", headers=headers) == 403


async def test_a_bucket_answers_at_its_own_host(world: World) -> None:
    url = f"{world.server.url}/a/b.mp4".replace("127.0.0.1", f"{BUCKET}.localhost")
    request = AWSRequest("GET", url)
    S3SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY), "s3", "us-east-1").add_auth(request)
    headers = dict(request.headers) | {"Host": URL(url).authority}

    async with world.http.get(f"{world.server.url}/a/b.mp4", headers=headers) as answer:
        assert await answer.read() == DATA


async def test_everything_survives_a_restart(tmp_path: Path) -> None:
    server = S3Server(tmp_path, access_key=ACCESS_KEY, secret_key=SECRET_KEY)
    async with server, a_client(server) as s3:
        await s3.create_bucket(Bucket=BUCKET)
        await s3.put_object(Bucket=BUCKET, Key="kept", Body=b"bytes")
        await s3.create_multipart_upload(Bucket=BUCKET, Key="open")

    async with server, a_client(server) as s3:
        answer = await s3.get_object(Bucket=BUCKET, Key="kept")
        assert await answer["Body"].read() == b"bytes"
        assert [one.key for one in server.uploads()] == ["open"]


async def test_files_that_a_crash_left_are_removed(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "orphan").write_bytes(b"half")

    async with S3Server(tmp_path, access_key=ACCESS_KEY, secret_key=SECRET_KEY):
        assert list((tmp_path / "files").iterdir()) == []


async def test_overwritten_and_refused_bodies_leave_no_files(world: World, tmp_path: Path) -> None:
    await world.s3.put_object(Bucket=BUCKET, Key="a/b.mp4", Body=b"new")
    await refused(world.s3.put_object(Bucket=BUCKET, Key="x", Body=b"1", ContentMD5="AAAA"))

    assert len(list((tmp_path / "files").iterdir())) == 1


async def test_a_fault_strikes_what_it_names_as_often_as_it_says(world: World) -> None:
    world.server.faults.append(
        Fault(operation="HeadObject", path="b.mp4$", skip=1, status=500, code="InternalError")
    )

    async def head() -> None:
        await world.s3.head_object(Bucket=BUCKET, Key="a/b.mp4")

    await head()
    assert (await refused(head())).startswith("500")
    await head()


async def test_it_runs_alone_from_the_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vidgen.simulator.s3", str(tmp_path)]
    child = await asyncio.create_subprocess_exec(
        *command, "--port", "0", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        async with asyncio.timeout(20):
            line = (await child.stdout.readline()).decode()
            url = line.removeprefix("S3 at ").strip()
            async with aiohttp.ClientSession() as http, http.get(url) as answer:
                status = answer.status
            child.terminate()
            code = await child.wait()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()

    assert (status, code) == (403, 0)
