"""vidgen.blob: whole videos arrive on Vercel Blob, too; and our store is one to its own package."""

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import tracemalloc
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from pydantic import SecretStr
from yarl import URL

from tests.pipeline.conftest import carrying
from tests.providers.test_http import listening
from tests.test_mp4 import a_video
from tests.test_storage import MIB, PART, in_chunks
from vidgen import JobStatus, VideoRequest
from vidgen.blob import BlobBucket, BlobStorage, signature
from vidgen.doctor.bucket import bucket as look_at_bucket
from vidgen.doctor.finding import State
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
from vidgen.resources import open_resources
from vidgen.settings import Settings
from vidgen.simulator.blob import BlobFault, BlobServer

PACKAGE = "@vercel/blob@2.8.0"
NPM_TIMEOUT_S = 180
JUDGE = Path(__file__).with_name("blob_judge.mjs")


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails is tried again at once."""
    monkeypatch.setattr("vidgen.blob.FIRST_WAIT_S", 0.001)


@pytest.fixture(params=["public", "private"])
async def server(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[BlobServer]:
    async with BlobServer(tmp_path / "blob", access=request.param) as running:
        yield running


@pytest.fixture
async def public(tmp_path: Path) -> AsyncIterator[BlobServer]:
    async with BlobServer(tmp_path / "public", access="public") as running:
        yield running


@pytest.fixture
async def private(tmp_path: Path) -> AsyncIterator[BlobServer]:
    async with BlobServer(tmp_path / "private", access="private") as running:
        yield running


@pytest.fixture
async def storage(server: BlobServer) -> AsyncIterator[BlobStorage]:
    """A store of each kind."""
    async with BlobStorage.open(a_store(server)) as opened:
        yield opened


def a_store(server: BlobServer, **changes: Any) -> BlobBucket:
    given: dict[str, Any] = {
        "token": server.token,
        "access": server.access,
        "api_url": server.api_url,
        "object_url": server.object_url,
        "part_size_bytes": PART,
    }
    return BlobBucket(**given | changes)


async def upload(storage: BlobStorage, data: bytes, **changes: Any) -> Any:
    given: dict[str, Any] = {
        "content_type": "video/mp4",
        "size_bytes": len(data),
        "metadata": {"job": "j1"},
        "inspector": Mp4Inspector(),
    }
    return await storage.upload("a/b.mp4", in_chunks(data), **(given | changes))


async def fetched(address: str) -> tuple[int, bytes, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(URL(address, encoded=True)) as response,
    ):
        disposition = response.headers.get("Content-Disposition", "")
        return response.status, await response.read(), disposition


@pytest.mark.parametrize("size", [1000, PART, 12 * MIB])
@pytest.mark.parametrize("announced", [True, False])
async def test_a_video_arrives_whole(
    storage: BlobStorage, server: BlobServer, size: int, announced: bool
) -> None:
    video = a_video(size)

    stored = await upload(storage, video, size_bytes=len(video) if announced else None)

    assert (stored.sha256, stored.size_bytes) == (hashlib.sha256(video).hexdigest(), len(video))
    assert await storage.read("a/b.mp4", len(video)) == video
    head = await storage.head("a/b.mp4")
    assert head is not None
    assert (head.content_type, head.etag) == ("video/mp4", stored.etag)
    assert server.asked["upload"] == {1000: 0, PART: 2, 12 * MIB: 3}[size]


async def test_a_second_upload_replaces_the_first(storage: BlobStorage) -> None:
    await upload(storage, a_video(12 * MIB))
    video = a_video(1000)

    await upload(storage, video)

    assert await storage.read("a/b.mp4", MIB) == video


@pytest.mark.parametrize("size", [1000, 12 * MIB])
async def test_a_cut_video_is_never_visible(public: BlobServer, size: int) -> None:
    video = a_video(size)

    async with BlobStorage.open(a_store(public)) as storage:
        with pytest.raises(ResultInvalidError):
            await upload(storage, video[:-10])
        with pytest.raises(ResultInvalidError):
            await upload(storage, b"<html>" * (size // 6), size_bytes=None)

        assert not public.blobs


async def test_cancelled_meanwhile_it_is_never_visible(public: BlobServer) -> None:
    has_begun = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield os.urandom(PART + 1)
        has_begun.set()
        await asyncio.Event().wait()

    async with BlobStorage.open(a_store(public)) as storage:
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            task = group.create_task(storage.upload("k", chunks(), content_type="video/mp4"))
            await has_begun.wait()
            task.cancel()

        assert not public.blobs


@pytest.mark.parametrize(
    "fault",
    [
        BlobFault(operation="upload", skip=1),
        BlobFault(operation="upload", status=429, code="rate_limited", retry_after_s=0),
        BlobFault(operation="upload", action="close", after_bytes=MIB),
        BlobFault(operation="upload", action="lose"),
        BlobFault(operation="create", action="lose"),
        BlobFault(operation="complete", status=500, code="internal_server_error"),
        BlobFault(operation="complete", action="lose"),
        BlobFault(operation="head", action="lose", times=3),
    ],
    ids=lambda fault: f"{fault.operation}-{fault.action}-{fault.code}",
)
async def test_a_call_that_fails_once_is_made_again(public: BlobServer, fault: BlobFault) -> None:
    public.faults.append(fault)
    video = a_video(12 * MIB)

    async with BlobStorage.open(a_store(public)) as storage:
        stored = await upload(storage, video)

        assert fault.times == 0
        assert stored.sha256 == hashlib.sha256(video).hexdigest()
        assert await storage.read("a/b.mp4", len(video)) == video


async def test_a_lost_answer_to_complete_is_no_success_because_an_older_object_is_there(
    public: BlobServer,
) -> None:
    video = a_video(12 * MIB)
    async with BlobStorage.open(a_store(public)) as storage:
        await upload(storage, video)
        public.faults.append(BlobFault(operation="complete", times=None))

        with pytest.raises(StorageUnavailableError):
            await upload(storage, video)


async def test_a_part_that_always_fails_ends_the_upload(public: BlobServer) -> None:
    public.faults.append(BlobFault(operation="upload", times=None))

    async with BlobStorage.open(a_store(public)) as storage:
        with pytest.raises(StorageUnavailableError):
            await upload(storage, a_video(12 * MIB))

        assert not public.blobs


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (403, "store_suspended", StorageDeniedError, "the store is suspended"),
        (403, "forbidden", StorageDeniedError, "BLOB_READ_WRITE_TOKEN is not accepted"),
        (404, "store_not_found", BucketMissingError, "there is no such store"),
        (400, "file_too_large", StorageDeniedError, "larger than the store takes"),
        (429, "rate_limited", StorageUnavailableError, "rate_limited"),
        (418, "new_code", StorageDeniedError, "new_code"),
    ],
)
async def test_each_refusal_is_told_apart(
    public: BlobServer, status: int, code: str, kind: type[StorageError], words: str
) -> None:
    public.faults.append(
        BlobFault(operation="put", status=status, code=code, times=None, retry_after_s=60)
    )

    async with BlobStorage.open(a_store(public)) as storage:
        with pytest.raises(kind, match=words) as caught:
            await storage.check()

    assert public.token not in caught.value.message
    assert public.asked["put"] == 1
    assert caught.value.retry_after_s == (60 if code == "rate_limited" else None)


async def test_a_wrong_token_is_told_once(server: BlobServer) -> None:
    async with BlobStorage.open(a_store(server, token=f"{server.token}x")) as storage:
        with pytest.raises(StorageDeniedError, match="is not accepted"):
            await upload(storage, a_video(1000))

    assert server.asked == {"put": 1}


async def test_a_store_of_the_other_kind_says_so(private: BlobServer) -> None:
    async with BlobStorage.open(a_store(private, access="public")) as storage:
        with pytest.raises(StorageDeniedError, match="takes private blobs only"):
            await storage.check()


@pytest.mark.parametrize("token", ["", "secret", "vercel_blob_rw_", "vercel_blob_rw__x"])
async def test_a_token_without_a_store_is_a_wrong_setting(token: str) -> None:
    with pytest.raises(SettingsError, match="names no store"):
        async with BlobStorage.open(BlobBucket(token=token)):
            pass


def test_objects_lie_at_the_store_s_own_address() -> None:
    for access in ("public", "private"):
        store = BlobBucket(token="vercel_blob_rw_aB3_x_y", access=access)

        assert store.store_id == "aB3"
        assert BlobStorage(store, None)._address("a/ö b.mp4") == (  # type: ignore[arg-type]  # asks nobody
            f"https://aB3.{access}.blob.vercel-storage.com/a/%C3%B6%20b.mp4"
        )


async def test_an_api_that_is_down_is_unavailable(public: BlobServer, unused_tcp_port: int) -> None:
    store = a_store(public, api_url=f"http://127.0.0.1:{unused_tcp_port}")

    async with BlobStorage.open(store) as storage:
        with pytest.raises(StorageUnavailableError):
            await storage.head("k")


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b"<html>"), (200, b"null"), (200, b"[]"), (204, b""), (302, b""), (403, b"log in")],
)
async def test_what_is_no_answer_of_the_api_is_an_error_of_ours(
    public: BlobServer, status: int, body: bytes
) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, body=body)

    async with (
        listening(answer) as url,
        BlobStorage.open(a_store(public, api_url=url, object_url=url)) as storage,
    ):
        for video in (b"x", b"x" * (PART + 1)):
            with pytest.raises(StorageError):
                await storage.upload("k", in_chunks(video), content_type="video/mp4")
        with pytest.raises(StorageError):
            await storage.head("k")
        with pytest.raises(StorageError):
            await storage.keys("k", 10)


async def test_what_is_not_there_is_told(storage: BlobStorage) -> None:
    assert await storage.head("no") is None
    assert not await storage.exists("no")
    with pytest.raises(InvalidRequestError, match="no object 'no'"):
        await storage.read("no", 10)
    await storage.delete("no")


async def test_an_object_that_is_too_large_is_not_read(storage: BlobStorage) -> None:
    await upload(storage, a_video(1000))

    with pytest.raises(InvalidRequestError, match="over 10"):
        await storage.read("a/b.mp4", 10)


async def test_a_deleted_object_is_gone(storage: BlobStorage) -> None:
    await upload(storage, a_video(1000))

    await storage.delete("a/b.mp4")

    assert not await storage.exists("a/b.mp4")


async def test_a_download_that_breaks_off_is_unavailable(
    storage: BlobStorage, server: BlobServer
) -> None:
    await upload(storage, a_video(MIB))
    server.faults.append(BlobFault(operation="get", action="close", after_bytes=300_000))

    with pytest.raises(StorageUnavailableError):
        await storage.read("a/b.mp4", 2 * MIB)


async def test_keys_are_named_in_order_over_all_pages(
    public: BlobServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidgen.blob.LISTED_AT_ONCE", 2)
    async with BlobStorage.open(a_store(public)) as storage:
        for name in ("v/c", "v/a", "w/a", "v/d", "v/b"):
            await storage.upload(name, in_chunks(b"x"), content_type="text/plain")

        assert await storage.keys("v/", 3) == ["v/a", "v/b", "v/c"]
        assert await storage.keys("v/", 3, after="v/b") == ["v/c", "v/d"]
        assert await storage.keys("v/", 3, after="v/d") == []


async def test_a_working_store_passes_its_checks_and_keeps_nothing_of_them(
    storage: BlobStorage, server: BlobServer
) -> None:
    await storage.check()
    await storage.check_multipart(".vidgen-check/x")

    assert not server.blobs
    assert not server.unfinished


async def test_the_clock_of_the_api_is_told(storage: BlobStorage) -> None:
    at = await storage.clock()

    assert at is not None
    assert abs(at - datetime.now(UTC)) < timedelta(minutes=1)


async def test_an_address_of_a_private_object_is_signed_and_ends(private: BlobServer) -> None:
    video = a_video(1000)
    async with BlobStorage.open(a_store(private)) as storage:
        await upload(storage, video)
        address = await storage.presigned_url("a/b.mp4", 60)

        assert storage.public_url("a/b.mp4") is None
        assert await fetched(address) == (200, video, 'inline; filename="b.mp4"')
        assert (await fetched(address.replace("b.mp4", "c.mp4")))[0] == 403
        assert (await fetched(address.partition("?")[0]))[0] == 403
        named = await storage.presigned_url("a/b.mp4", 60, "a name.mp4")
        assert (await fetched(named))[2] == 'attachment; filename="b.mp4"'
        private.ahead = timedelta(seconds=61)
        assert (await fetched(address))[0] == 403


async def test_where_signed_addresses_lead_is_known_without_asking(server: BlobServer) -> None:
    async with BlobStorage.open(a_store(server)) as storage:
        signed = await storage.presigned_url("a/b.mp4", 60)
        asked = server.asked.total()

        base = await storage.signed_base()

        assert URL(base).origin() == URL(signed).origin()
        assert server.asked.total() == asked


async def test_an_address_of_a_public_object_needs_nothing(public: BlobServer) -> None:
    async with BlobStorage.open(a_store(public)) as storage:
        await upload(storage, a_video(1000))
        asked = public.asked.total()

        assert await storage.presigned_url("a/b.mp4", 60) == storage.public_url("a/b.mp4")
        named = await storage.presigned_url("a/b.mp4", 60, "x.mp4")

        assert public.asked.total() == asked
        assert (await fetched(named))[2] == 'attachment; filename="b.mp4"'


@pytest.mark.parametrize("expires_s", [0, 604_801])
async def test_an_address_lasts_at_most_a_week(storage: BlobStorage, expires_s: int) -> None:
    with pytest.raises(InvalidRequestError):
        await storage.presigned_url("k", expires_s)


async def test_memory_does_not_grow_with_the_video(public: BlobServer) -> None:
    block = os.urandom(MIB)

    async def source() -> AsyncIterator[bytes]:
        for _ in range(96):
            yield block

    async with BlobStorage.open(a_store(public)) as storage:
        tracemalloc.start()
        try:
            await storage.upload("a/b.mp4", source(), content_type="video/mp4")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    # Four parts of 5 MiB here, and what the server in this process takes.
    assert peak < 48 * MIB


async def test_many_uploads_share_the_memory_of_one_part(public: BlobServer) -> None:
    video = a_video(12 * MIB)

    async with BlobStorage.open(a_store(public, memory_bytes=PART)) as storage:
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            for i in range(4):
                group.create_task(
                    storage.upload(f"v/{i}", in_chunks(video), content_type="video/mp4")
                )

        assert sorted(public.blobs) == [f"v/{i}" for i in range(4)]


def with_blob(settings: Settings, server: BlobServer, **changes: Any) -> Settings:
    """*settings* without a bucket, and with a Blob store."""
    given = {
        name: getattr(settings, name)
        for name in settings.model_fields_set
        if not name.startswith("s3_")
    }
    return Settings(
        **given
        | {
            "blob_read_write_token": SecretStr(server.token),
            "blob_access": server.access,
            "blob_api_url": server.api_url,
            "blob_object_url": server.object_url,
        }
        | changes
    )


async def test_a_job_goes_from_its_request_to_a_video_in_the_store(
    settings: Settings, server: BlobServer
) -> None:
    async with (
        open_resources(with_blob(settings, server)) as resources,
        carrying(resources) as carrier,
    ):
        job = await carrier.finish(
            await carrier.enqueue(VideoRequest(provider="sora", prompt="a fox", seconds=4))
        )

        assert job.status is JobStatus.COMPLETED
        assert job.storage_key is not None
        address = await resources.storage.presigned_url(job.storage_key, 60)
        status, video, _ = await fetched(address)
        assert status == 200
        assert hashlib.sha256(video).hexdigest() == job.sha256


@pytest.mark.parametrize(
    ("named", "expected"),
    [({}, True), ({"s3_bucket": "videos"}, False), ({"s3_endpoint_url": "http://s3"}, False)],
)
async def test_a_bucket_that_is_named_comes_before_the_store(
    settings: Settings, public: BlobServer, named: dict[str, str], expected: bool
) -> None:
    assert with_blob(settings, public, **named).uses_blob is expected
    assert not settings.uses_blob


async def test_the_doctor_finds_a_working_store_well(
    settings: Settings, server: BlobServer
) -> None:
    finding = await look_at_bucket(with_blob(settings, server))

    access = "public" if server.access == "public" else "signed"
    assert finding.state is State.OK
    assert finding.sentence == f"Vercel Blob: put, get, list, parts, {access} address, delete work"
    assert not server.blobs


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("store_suspended", 403, "is suspended"),
        ("store_not_found", 404, "no such store"),
        ("service_unavailable", 503, "service_unavailable"),
    ],
)
async def test_the_doctor_tells_what_a_store_refuses(
    settings: Settings, public: BlobServer, code: str, status: int, words: str
) -> None:
    public.faults.append(BlobFault(status=status, code=code, times=None, retry_after_s=60))

    finding = await look_at_bucket(with_blob(settings, public))

    assert finding.state is State.PROBLEM
    assert words in finding.sentence


async def test_the_doctor_warns_of_a_token_beside_a_bucket(settings: Settings) -> None:
    both = settings.model_copy(
        update={"blob_read_write_token": SecretStr("vercel_blob_rw_store_secret")}
    )

    finding = await look_at_bucket(both)

    assert finding.state is State.WARNING
    assert "BLOB_READ_WRITE_TOKEN is set and not used" in finding.sentence


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where Node finds the official package."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        in_ci = "CI" in os.environ  # noqa: TID251  there a test that is skipped would be missed by all
        assert not in_ci, "node or npm is missing; .ci/run installs them on Debian"
        pytest.skip("node and npm are not installed (apt-get install nodejs npm)")
    folder = tmp_path_factory.mktemp("npm")
    shutil.copy(JUDGE, folder)
    command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", PACKAGE]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=NPM_TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


async def judged(folder: Path, *arguments: str, **environment: str) -> dict[str, Any]:
    """What the package's program saw."""
    process = await asyncio.create_subprocess_exec(
        "node",
        JUDGE.name,
        *arguments,
        cwd=folder,
        env=os.environ | environment,  # noqa: TID251  npm finds its registry and cache there
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(NPM_TIMEOUT_S):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, said.decode()
    told: dict[str, Any] = json.loads(said.splitlines()[-1])
    return told


@pytest.mark.timeout(2 * NPM_TIMEOUT_S)
async def test_the_official_package_finds_the_store_to_be_one(
    package: Path, server: BlobServer, storage: BlobStorage
) -> None:
    video = a_video(12 * MIB)
    stored = await upload(storage, video)

    told = await judged(
        package,
        "a/b.mp4",
        server.object_url,
        ACCESS=server.access,
        BLOB_READ_WRITE_TOKEN=server.token,
        VERCEL_BLOB_API_URL=server.api_url,
    )

    assert told["head"]["pathname"] == "a/b.mp4"
    assert told["head"]["size"] == len(video)
    assert told["head"]["contentType"] == "video/mp4"
    assert told["head"]["etag"].strip('"') == stored.etag
    assert told["listed"] == ["a/b.mp4"]
    assert (told["small"], told["again"]) == ("js/small.txt", "js/small.txt")
    assert told["refused"] == "BlobError"
    assert told["suffixed"].startswith("js/name-")
    assert told["suffixed"].endswith(".txt")
    assert (told["large"], told["copied"]) == (20 * MIB, "js/copy.bin")
    names = ["js/copy.bin", "js/large.bin", told["suffixed"], "js/small.txt"]
    assert told["pages"] == [names[:2], names[2:]]
    assert told["signed"] == {"whole": [200, "other"], "shorter": [200, "other"]}
    assert told["host"] == f"simulatedstore.{server.access}.blob.vercel-storage.com"
    assert told["signature"] == signature(told["token"], "js/small.txt")
    assert told["bare"] == (200 if server.access == "public" else 403)
    assert (told["gone"], told["denied"]) == ("BlobNotFoundError", "BlobAccessError")
    assert await storage.read("js/small.txt", 10) == b"other"
