"""vidgen.storage: what the bucket has is what was sent, whatever the server can compare."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from tests.providers.test_http import listening
from tests.test_mp4 import a_video
from tests.test_storage import (
    MIB,
    a_bucket,
    long_ways,
    moto_endpoint,
    open_uploads,
    own,
    place,
    server,
    storage,
    swift_endpoint,
    upload,
)
from vidgen.errors import StorageError, StorageUnavailableError
from vidgen.simulator.s3 import Fault, S3Server
from vidgen.storage import Storage

__all__ = ["moto_endpoint", "own", "place", "server", "storage", "swift_endpoint"]  # fixtures

CRC32 = "x-amz-checksum-crc32"
ALGORITHM = "x-amz-checksum-algorithm"


@dataclass
class Front:
    """
    A server like ours but for what its answers say.

    Attributes:
        answer: What of ours is told; the headers may be changed.
        refuses: A request with this header is not implemented here.
        asked: The headers of the requests that brought parts, the trial of a checksum too.
    """

    answer: Callable[[web.BaseRequest, CIMultiDict[str]], None] = lambda _, headers: None
    refuses: str | None = None
    asked: list[CIMultiDict[str]] = field(default_factory=list)

    def parts(self) -> list[str]:
        """By what each part that came was compared."""
        return [
            "crc32" if CRC32 in one else "md5"
            for one in self.asked
            if "Content-MD5" in one or CRC32 in one
        ]


@asynccontextmanager
async def behind(front: Front, server: S3Server) -> AsyncIterator[Storage]:
    """A bucket on a server that answers as *front* says."""
    async with aiohttp.ClientSession(auto_decompress=False) as http:

        async def handed_on(request: web.Request) -> web.Response:
            sent = CIMultiDict(request.headers)
            if "partNumber" in request.query:
                front.asked.append(sent.copy())
            if front.refuses in sent:
                async for _ in request.content.iter_any():
                    pass
                return web.Response(status=501)
            sent.popall("Expect", None)
            url = URL(f"{server.url}{request.raw_path}", encoded=True)
            body: aiohttp.StreamReader | None = request.content if request.can_read_body else None
            async with http.request(request.method, url, headers=sent, data=body) as answer:
                told, text = CIMultiDict(answer.headers), await answer.read()
            front.answer(request, told)
            return web.Response(status=answer.status, headers=told, body=text)

        async with listening(handed_on) as url, Storage.open(a_bucket(url)) as opened:
            await opened.create_bucket()
            yield opened


def without(*names: str) -> Callable[[web.BaseRequest, CIMultiDict[str]], None]:
    def answer(_: web.BaseRequest, headers: CIMultiDict[str]) -> None:
        for name in names:
            headers.popall(name, None)

    return answer


async def test_a_server_that_compares_checksums_is_told_them(server: S3Server) -> None:
    front = Front()

    async with behind(front, server) as storage:
        await upload(storage, a_video(12 * MIB))
        await upload(storage, a_video(6 * MIB))

    trial, *parts = front.parts()
    assert trial == "crc32"
    assert parts == ["crc32"] * 5
    assert not any("Content-MD5" in one for one in front.asked)


@pytest.mark.parametrize(
    "front",
    [
        pytest.param(Front(answer=without(ALGORITHM, CRC32)), id="does not know them"),
        pytest.param(Front(refuses=ALGORITHM), id="refuses them"),
        pytest.param(Front(refuses=CRC32), id="refuses parts with them"),
    ],
)
async def test_a_server_without_checksums_is_told_md5s_and_is_asked_once(
    server: S3Server, front: Front
) -> None:
    async with behind(front, server) as storage:
        long = long_ways(storage)
        await upload(storage, a_video(12 * MIB))
        front.asked.clear()
        server.requests.clear()
        await upload(storage, a_video(12 * MIB))

    assert front.parts() == ["md5"] * 3
    assert [one.operation for one in server.requests].count("CreateMultipartUpload") == 1
    assert long == []
    assert open_uploads(server) == []


async def test_a_server_that_takes_a_wrong_checksum_is_not_trusted_with_right_ones(
    own: Storage, server: S3Server
) -> None:
    takes_anything = Fault(action="corrupt", operation="UploadPart")
    server.faults.append(takes_anything)

    await upload(own, a_video(12 * MIB))

    assert own._compares_crc32 is False
    assert await own.exists("a/b.mp4")
    assert open_uploads(server) == []


@pytest.mark.parametrize(
    ("faults", "compares"),
    [(3, True), (6, False)],  # botocore tries three times
    ids=["who cannot be asked now is asked again", "who breaks at each trial gets md5"],
)
async def test_a_trial_that_fails_is_made_once_more(
    own: Storage, server: S3Server, faults: int, compares: bool
) -> None:
    server.faults.append(Fault(operation="UploadPart", times=faults))

    with pytest.raises(StorageUnavailableError, match="try a checksum"):
        await upload(own, a_video(12 * MIB))
    await upload(own, a_video(12 * MIB))

    assert own._compares_crc32 is compares
    assert await own.exists("a/b.mp4")
    assert open_uploads(server) == []


@pytest.mark.parametrize("is_known", [True, False], ids=["by crc32", "by md5"])
async def test_a_corrupted_part_is_noticed(own: Storage, server: S3Server, is_known: bool) -> None:
    own._compares_crc32 = is_known
    server.faults.append(Fault(action="corrupt", operation="UploadPart"))

    with pytest.raises(StorageUnavailableError, match="other bytes"):
        await upload(own, a_video(12 * MIB))

    assert open_uploads(server) == []


@pytest.mark.parametrize("is_known", [True, False], ids=["by crc32", "by md5"])
async def test_a_corrupted_part_is_noticed_on_the_long_way(
    own: Storage, server: S3Server, is_known: bool
) -> None:
    own._compares_crc32 = is_known
    assert own._shortcut is not None
    own._shortcut.close()
    server.faults.append(Fault(action="corrupt", operation="UploadPart"))

    with pytest.raises(StorageUnavailableError, match="other bytes"):
        await upload(own, a_video(12 * MIB))


async def test_a_part_of_which_another_checksum_comes_back_is_refused(server: S3Server) -> None:
    def others(request: web.BaseRequest, headers: CIMultiDict[str]) -> None:
        if request.query.get("partNumber") == "2":
            headers[CRC32] = "AAAAAA=="

    async with behind(Front(answer=others), server) as storage:
        with pytest.raises(StorageUnavailableError, match="other bytes"):
            await upload(storage, a_video(12 * MIB))
        assert not await storage.exists("a/b.mp4")

    assert open_uploads(server) == []


async def test_a_server_that_falls_silent_about_checksums_is_told_md5s_from_then_on(
    server: S3Server,
) -> None:
    front = Front(answer=without(CRC32))

    async with behind(front, server) as storage:
        with pytest.raises(StorageUnavailableError, match="did not say"):
            await upload(storage, a_video(6 * MIB))
        front.asked.clear()
        await upload(storage, a_video(6 * MIB))

    assert front.parts() == ["md5"] * 2


async def test_parts_under_a_key_of_ones_own_are_compared_where_their_etag_is_no_md5(
    server: S3Server,
) -> None:
    def sealed(request: web.BaseRequest, headers: CIMultiDict[str]) -> None:
        if request.query.get("partNumber") == "2":
            headers["x-amz-server-side-encryption-aws-kms-key-id"] = "ours"
            headers[CRC32] = "AAAAAA=="

    async with behind(Front(answer=sealed), server) as storage:
        with pytest.raises(StorageError, match="other bytes"):
            await upload(storage, a_video(6 * MIB))


async def test_each_server_is_known_after_the_first_upload_in_parts(storage: Storage) -> None:
    await upload(storage, a_video(6 * MIB))

    assert storage._compares_crc32 is not None
    assert await storage.exists("a/b.mp4")
