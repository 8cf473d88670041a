"""vidgen.storage: whole videos arrive, anything else leaves nothing behind; on three S3 servers."""

import asyncio
import hashlib
import os
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
import pytest
from aiohttp import web
from moto.server import ThreadedMotoServer

from tests.providers.test_http import listening
from tests.simulator import swift
from tests.test_mp4 import a_video
from vidgen.errors import (
    BucketMissingError,
    InvalidRequestError,
    ResultInvalidError,
    SettingsError,
    StorageDeniedError,
    StorageError,
    StorageUnavailableError,
)
from vidgen.mp4 import Mp4Inspector
from vidgen.simulator.s3 import Fault, S3Server
from vidgen.storage import Bucket, Storage

MIB = 1 << 20
PART = 5 * MIB
ACCESS_KEY, SECRET_KEY = "vidgen", "vidgen-secret"


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def swift_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not swift.is_installed():
        pytest.skip("Swift has wheels for Linux only")
    with swift.running(tmp_path_factory.mktemp("swift")) as endpoint:
        yield endpoint


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[S3Server]:
    async with S3Server(tmp_path / "s3", access_key=ACCESS_KEY, secret_key=SECRET_KEY) as running:
        yield running


@pytest.fixture
async def own(server: S3Server) -> AsyncIterator[Storage]:
    """A bucket on our own server, where faults can be asked for."""
    async with Storage.open(a_bucket(server.url)) as storage:
        await storage.create_bucket()
        yield storage


@pytest.fixture(params=["own", "moto", "swift"])
def place(request: pytest.FixtureRequest) -> Bucket:
    """An address of a bucket that does not exist yet, on each server."""
    if request.param == "own":
        return a_bucket(request.getfixturevalue("server").url)
    endpoint = request.getfixturevalue(f"{request.param}_endpoint")
    if request.param == "moto":
        return a_bucket(endpoint)
    return replace(
        a_bucket(endpoint), access_key_id=swift.ACCESS_KEY, secret_access_key=swift.SECRET_KEY
    )


@pytest.fixture
async def storage(place: Bucket) -> AsyncIterator[Storage]:
    """A fresh bucket on each server."""
    async with Storage.open(place) as opened:
        await opened.create_bucket()
        yield opened


def a_bucket(endpoint: str, **changes: Any) -> Bucket:
    bucket = Bucket(
        name=f"videos-{uuid4().hex[:12]}",
        endpoint_url=endpoint,
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
        part_size_bytes=PART,
    )
    return replace(bucket, **changes)


async def in_chunks(data: bytes, size: int = 256 << 10) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def upload(storage: Storage, data: bytes, **changes: Any) -> Any:
    given: dict[str, Any] = {
        "content_type": "video/mp4",
        "size_bytes": len(data),
        "metadata": {"job": "j1"},
        "inspector": Mp4Inspector(),
    }
    return await storage.upload("a/b.mp4", in_chunks(data), **(given | changes))


def long_ways(storage: Storage) -> list[str]:
    """Which requests with bytes of a video aiobotocore sends from now on."""
    seen: list[str] = []

    def note(model: Any, params: Any, **_: Any) -> None:
        if (
            params["body"].getvalue() != b"vidgen"
        ):  # by which it is found out what the server compares
            seen.append(model.name)

    for name in ("PutObject", "UploadPart"):
        storage._client.meta.events.register(f"before-call.s3.{name}", note)
    return seen


async def acquainted(storage: Storage, server: S3Server) -> None:
    """It is known what the server compares, so that all requests from now on are of videos."""
    await storage.check_multipart("acquainted")
    server.requests.clear()


def open_uploads(server: S3Server) -> list[str]:
    return [one.key for one in server.uploads()]


@pytest.mark.parametrize("size", [1000, PART - 200, PART, 12 * MIB])
@pytest.mark.parametrize("announced", [True, False])
async def test_a_video_arrives_whole(storage: Storage, size: int, announced: bool) -> None:
    video, long = a_video(size), long_ways(storage)

    stored = await upload(storage, video, size_bytes=len(video) if announced else None)

    assert long == []
    assert stored.sha256 == hashlib.sha256(video).hexdigest()
    assert stored.size_bytes == len(video)
    assert await storage.read("a/b.mp4", len(video)) == video
    head = await storage.head("a/b.mp4")
    assert head is not None
    assert head.content_type == "video/mp4"
    assert head.metadata["job"] == "j1"
    assert head.etag == stored.etag


async def test_a_small_video_is_one_put_and_a_large_one_a_few_parts(
    own: Storage, server: S3Server
) -> None:
    await acquainted(own, server)

    await upload(own, a_video(1000))
    await upload(own, a_video(2 * PART))

    assert [one.operation for one in server.requests] == [
        "PutObject",
        "CreateMultipartUpload",
        *["UploadPart"] * 3,
        "CompleteMultipartUpload",
        "HeadObject",
    ]


@pytest.mark.parametrize("size", [3000, 12 * MIB])
async def test_a_cut_video_leaves_nothing(storage: Storage, size: int) -> None:
    video = a_video(size)[:-100]

    with pytest.raises(ResultInvalidError, match="cut"):
        await upload(storage, video)

    assert not await storage.exists("a/b.mp4")
    now = datetime.now(UTC) + timedelta(hours=1)
    assert await storage.abort_uploads_older_than("", timedelta(0), now) == 0


@pytest.mark.parametrize("size", [3000, 12 * MIB])
@pytest.mark.parametrize("error_bytes", [-10, 10])
async def test_a_wrong_length_leaves_nothing(
    own: Storage, server: S3Server, size: int, error_bytes: int
) -> None:
    video = a_video(size)

    with pytest.raises(ResultInvalidError, match="bytes"):
        await upload(own, video, size_bytes=len(video) + error_bytes)

    assert not await own.exists("a/b.mp4")
    assert open_uploads(server) == []


async def test_a_web_page_never_becomes_a_video(own: Storage, server: S3Server) -> None:
    with pytest.raises(ResultInvalidError, match="HTML"):
        await upload(own, b"<!DOCTYPE html><title>502</title>")

    assert "PutObject" not in [one.operation for one in server.requests]


async def test_an_empty_result_is_refused(own: Storage) -> None:
    with pytest.raises(ResultInvalidError, match="empty"):
        await upload(own, b"", inspector=None)


async def test_an_error_of_the_source_ends_the_upload_as_it_is(
    own: Storage, server: S3Server
) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield a_video(12 * MIB)[: 11 * MIB]
        raise ResultInvalidError("the connection broke")

    with pytest.raises(ResultInvalidError, match="the connection broke"):
        await own.upload("a/b.mp4", broken(), content_type="video/mp4")

    assert open_uploads(server) == []


@pytest.mark.parametrize("operation", ["CreateMultipartUpload", "UploadPart"])
async def test_cancellation_aborts_the_multipart_upload(
    own: Storage, server: S3Server, operation: str
) -> None:
    await acquainted(own, server)
    server.faults.append(Fault(action="delay", operation=operation, delay_s=0.3))

    async with asyncio.timeout(20):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(upload(own, a_video(12 * MIB)))
            await server.wait_for(operation)
            task.cancel()
        await server.wait_for("AbortMultipartUpload")
        await server.wait_until_idle()

    assert task.cancelled()
    assert open_uploads(server) == []


async def test_a_part_that_fails_once_is_sent_again(own: Storage, server: S3Server) -> None:
    await acquainted(own, server)
    server.faults += [
        Fault(operation="UploadPart", status=500, code="InternalError"),
        Fault(operation="CompleteMultipartUpload", status=503, code="SlowDown"),
    ]
    video = a_video(12 * MIB)

    stored = await upload(own, video)

    assert stored.sha256 == hashlib.sha256(await own.read("a/b.mp4", 99 * MIB)).hexdigest()


async def test_a_connection_that_dies_within_a_part_is_replaced(
    own: Storage, server: S3Server
) -> None:
    await acquainted(own, server)
    server.faults.append(Fault(action="close", operation="UploadPart", after_bytes=MIB))

    await upload(own, a_video(12 * MIB))

    assert await own.exists("a/b.mp4")


async def test_a_part_that_always_fails_aborts_the_upload(own: Storage, server: S3Server) -> None:
    await acquainted(own, server)
    server.faults.append(Fault(operation="UploadPart", times=None, status=500, code="Internal"))

    with pytest.raises(StorageUnavailableError, match="store a part"):
        await upload(own, a_video(12 * MIB))

    assert open_uploads(server) == []
    assert not await own.exists("a/b.mp4")


async def test_a_lost_answer_to_complete_is_a_success(own: Storage, server: S3Server) -> None:
    server.faults.append(Fault(action="lose", operation="CompleteMultipartUpload"))

    stored = await upload(own, a_video(12 * MIB))

    head = await own.head("a/b.mp4")
    assert head is not None
    assert head.etag == stored.etag


async def test_an_upload_that_is_gone_is_no_success_because_an_older_object_is_there(
    own: Storage, server: S3Server
) -> None:
    video = a_video(12 * MIB)
    await upload(own, video)
    server.faults.append(
        Fault(operation="CompleteMultipartUpload", status=404, code="NoSuchUpload")
    )

    with pytest.raises(StorageError):
        await upload(own, video)


async def test_a_wrong_key_is_told_once_and_never_repeated(own: Storage, server: S3Server) -> None:
    bucket = a_bucket(server.url, secret_access_key="very-secret-and-wrong")

    async with Storage.open(bucket) as wrong:
        with pytest.raises(StorageDeniedError, match="SignatureDoesNotMatch") as caught:
            await wrong.check()

    assert [one.operation for one in server.requests].count("PutObject") == 1
    assert bucket.name in str(caught.value)
    assert server.url in str(caught.value)
    assert "very-secret" not in f"{caught.value}{bucket!r}"
    assert ACCESS_KEY not in str(caught.value).replace(bucket.name, "")


async def test_a_forbidden_bucket_is_denied(own: Storage, server: S3Server) -> None:
    server.faults.append(Fault(operation="PutObject", status=403, code="AccessDenied"))

    with pytest.raises(StorageDeniedError, match="AccessDenied"):
        await own.check()


async def test_a_missing_bucket_is_named(place: Bucket) -> None:
    async with Storage.open(place) as storage:
        with pytest.raises(BucketMissingError, match=place.name):
            await storage.check()
        with pytest.raises(BucketMissingError):
            await upload(storage, a_video(12 * MIB))


async def test_a_working_bucket_passes_its_check_and_keeps_nothing_of_it(
    storage: Storage,
) -> None:
    await storage.create_bucket()
    await storage.check()


async def test_an_endpoint_that_is_down_is_unavailable(unused_tcp_port: int) -> None:
    async with Storage.open(a_bucket(f"http://127.0.0.1:{unused_tcp_port}")) as storage:
        with pytest.raises(StorageUnavailableError, match="no answer"):
            await storage.check()


@pytest.mark.parametrize("endpoint", ["", "not an address", "ftp//x"])
async def test_an_endpoint_that_is_no_address_is_a_wrong_setting(endpoint: str) -> None:
    with pytest.raises(SettingsError):
        async with Storage.open(a_bucket(endpoint or "http://")):
            pass


async def test_a_signed_address_works_until_it_expires(storage: Storage) -> None:
    video = a_video(1000)
    await upload(storage, video)
    url = await storage.presigned_url("a/b.mp4", 60, download_name='café "1".mp4')

    async with aiohttp.ClientSession() as browser, browser.get(url) as answer:
        body, disposition = await answer.read(), answer.headers["Content-Disposition"]

    assert body == video
    assert disposition.startswith('attachment; filename="caf_ _1_.mp4"')
    assert "filename*=UTF-8''caf%C3%A9%20%221%22.mp4" in disposition


async def test_an_expired_address_is_refused(own: Storage) -> None:
    await upload(own, a_video(1000))
    url = await own.presigned_url("a/b.mp4", 1)
    status = 200

    # The signature counts whole seconds of the clock, so the clock itself must go on.
    async with asyncio.timeout(10), aiohttp.ClientSession() as browser:
        while status == 200:
            async with browser.get(url) as answer:
                status = answer.status
            await asyncio.sleep(0.1)

    assert status == 403


@pytest.mark.parametrize("expires_s", [0, 604_801])
async def test_an_address_lasts_at_most_a_week(own: Storage, expires_s: int) -> None:
    with pytest.raises(InvalidRequestError):
        await own.presigned_url("a/b.mp4", expires_s)


async def test_a_public_bucket_gives_addresses_without_signature(server: S3Server) -> None:
    bucket = a_bucket(server.url, public_url="https://cdn.example.com/v/")

    async with Storage.open(bucket) as storage:
        assert storage.public_url("a/ü b.mp4") == "https://cdn.example.com/v/a/%C3%BC%20b.mp4"


async def test_what_is_not_there_is_told(storage: Storage) -> None:
    with pytest.raises(InvalidRequestError, match=r"a/b\.mp4"):
        await storage.read("a/b.mp4", 10)

    assert await storage.head("a/b.mp4") is None
    await storage.delete("a/b.mp4")


async def test_an_object_that_is_too_large_is_not_read(own: Storage) -> None:
    await upload(own, a_video(1000))

    with pytest.raises(InvalidRequestError, match="1000"):
        await own.read("a/b.mp4", 1000)


async def test_a_deleted_object_is_gone(storage: Storage) -> None:
    await upload(storage, a_video(1000))

    await storage.delete("a/b.mp4")

    assert not await storage.exists("a/b.mp4")


async def test_a_download_that_breaks_off_is_unavailable(own: Storage, server: S3Server) -> None:
    await upload(own, a_video(12 * MIB))
    server.faults.append(Fault(action="close", operation="GetObject", after_bytes=MIB))

    with pytest.raises(StorageUnavailableError):
        await own.read("a/b.mp4", 99 * MIB)


# moto says of every upload that it began in 2010.
@pytest.mark.parametrize("place", ["own", "swift"], indirect=True)
async def test_unfinished_uploads_are_aborted_by_age_and_prefix(storage: Storage) -> None:
    for key in ("old/1", "old/2", "other/1"):
        await storage._begin(key, "video/mp4", {})
    now = datetime.now(UTC)

    young = await storage.abort_uploads_older_than("old/", timedelta(days=1), now)
    old = await storage.abort_uploads_older_than("old/", timedelta(days=1), now + timedelta(days=2))
    rest = await storage.abort_uploads_older_than("", timedelta(0), now + timedelta(days=2))

    assert (young, old, rest) == (0, 2, 1)


async def test_a_server_that_cannot_list_uploads_is_tolerated(
    own: Storage, server: S3Server
) -> None:
    server.faults.append(
        Fault(operation="ListMultipartUploads", status=501, code="NotImplemented", times=None)
    )

    assert await own.abort_uploads_older_than("", timedelta(0), datetime.now(UTC)) == 0


async def test_an_endpoint_with_a_path_works_as_at_supabase(tmp_path: Path) -> None:
    async with (
        S3Server(
            tmp_path, access_key=ACCESS_KEY, secret_key=SECRET_KEY, base_path="/storage/v1/s3"
        ) as server,
        Storage.open(a_bucket(server.url)) as storage,
    ):
        await storage.create_bucket()
        await storage.check()
        await upload(storage, a_video(12 * MIB))

        assert server.url.endswith("/storage/v1/s3")
        assert await storage.exists("a/b.mp4")


async def test_a_bucket_can_be_addressed_by_its_host(server: S3Server) -> None:
    endpoint = server.url.replace("127.0.0.1", "localhost")

    async with Storage.open(a_bucket(endpoint, addressing_style="virtual")) as storage:
        url = await storage.presigned_url("a/b.mp4", 60)

    assert url.startswith("http://videos-")
    assert ".localhost:" in url


async def test_memory_does_not_grow_with_the_video(own: Storage) -> None:
    block = os.urandom(MIB)

    async def source() -> AsyncIterator[bytes]:
        for _ in range(96):
            yield block

    tracemalloc.start()
    try:
        await own.upload("a/b.mp4", source(), content_type="video/mp4")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # Four parts of 5 MiB here, and what the server in this process takes: about 3 MiB per part.
    assert peak < 48 * MIB


async def test_many_uploads_share_the_memory_of_one_part(server: S3Server) -> None:
    video = a_video(12 * MIB)

    async with Storage.open(a_bucket(server.url, memory_bytes=PART)) as storage:
        await storage.create_bucket()
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            for i in range(4):
                group.create_task(
                    storage.upload(f"v/{i}", in_chunks(video), content_type="video/mp4")
                )

        assert [await storage.exists(f"v/{i}") for i in range(4)] == [True] * 4


@pytest.mark.parametrize(
    ("status", "body"), [(200, b"<Error>"), (204, b""), (302, b""), (403, b"<html>log in</html>")]
)
async def test_what_is_no_answer_of_s3_is_an_error_of_ours(status: int, body: bytes) -> None:
    """As a login page or a proxy in front of the bucket would answer."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, body=body)

    async with listening(answer) as url, Storage.open(a_bucket(url)) as storage:
        with pytest.raises(StorageError):
            await storage.upload("k", in_chunks(b"x" * (PART + 1)), content_type="video/mp4")
        if status != 403:  # where there may be no such object
            with pytest.raises(StorageError):
                await storage.head("k")


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("eu-central-1", "videos.s3.amazonaws.com"),
        ("us-gov-west-1", "videos.s3.us-gov-west-1.amazonaws.com"),
        ("cn-north-1", "videos.s3.cn-north-1.amazonaws.com.cn"),
    ],
)
async def test_the_buckets_of_aws_are_found_in_every_part_of_the_world(
    region: str, host: str
) -> None:
    bucket = Bucket(name="videos", region=region, access_key_id="a", secret_access_key="b")
    async with Storage.open(bucket) as storage:
        assert urlsplit(await storage.signed_base()).hostname == host
