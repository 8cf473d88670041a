"""vidgen.shortcut: bytes go the short way, and whatever that does not take the long one."""

import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.test_mp4 import a_video
from tests.test_storage import (
    ACCESS_KEY,
    MIB,
    SECRET_KEY,
    a_bucket,
    acquainted,
    in_chunks,
    long_ways,
    own,
    server,
    upload,
)
from vidgen.errors import StorageDeniedError
from vidgen.shortcut import Part
from vidgen.simulator.s3 import Fault, S3Server
from vidgen.storage import Storage

__all__ = ["own", "server"]  # fixtures

PLAIN = {"Content-Type": "video/mp4"}


async def small_pieces(data: bytes) -> AsyncIterator[bytes]:
    async for chunk in in_chunks(data, 1000):
        yield chunk


def test_a_part_of_small_pieces_is_a_few_large_ones() -> None:
    part, data = Part(), os.urandom(300_000)

    for at in range(0, len(data), 50):
        part.add(data[at : at + 50])
    part.add(data)
    part.add(data[:50])

    assert b"".join(part.pieces) == data + data + data[:50]
    assert len(part.pieces) < 6
    assert part.size_bytes == 600_050


@pytest.mark.parametrize("key", ["a b/ü+&=?#.mp4", "x/%2F/~.mp4", "a//b"])
async def test_any_key_is_found_where_aiobotocore_looks_for_it(own: Storage, key: str) -> None:
    long = long_ways(own)

    await own.upload(key, small_pieces(a_video(3000)), content_type="video/mp4")

    assert await own.exists(key)
    assert long == []


async def test_a_server_in_trouble_gets_the_bytes_the_long_way_this_once(
    own: Storage, server: S3Server
) -> None:
    await acquainted(own, server)
    long = long_ways(own)
    server.faults += [Fault(operation="PutObject"), Fault(operation="UploadPart")]

    for size in (3000, 12 * MIB, 3000):
        await upload(own, a_video(size))

    assert long == ["PutObject", "UploadPart"]


async def test_a_part_that_was_damaged_on_its_way_goes_the_long_way_this_once(
    own: Storage, server: S3Server
) -> None:
    await acquainted(own, server)
    long = long_ways(own)
    server.faults.append(Fault(operation="UploadPart", status=400, code="BadDigest"))

    await upload(own, a_video(6 * MIB))
    await upload(own, a_video(6 * MIB))

    assert long == ["UploadPart"]


async def test_a_connection_that_dies_on_the_short_way_loses_nothing(
    own: Storage, server: S3Server
) -> None:
    video = a_video(3000)
    server.faults.append(Fault(action="close", operation="PutObject", after_bytes=1000, times=2))

    await upload(own, video)

    assert await own.read("a/b.mp4", 4000) == video


@pytest.mark.parametrize(("operation", "size"), [("PutObject", 3000), ("UploadPart", 6 * MIB)])
async def test_a_server_that_takes_only_the_long_way_is_not_asked_for_the_short_one_again(
    own: Storage, server: S3Server, operation: str, size: int
) -> None:
    await acquainted(own, server)
    long = long_ways(own)
    server.faults.append(Fault(operation=operation, status=400, code="InvalidRequest"))
    await upload(own, a_video(size))
    assert long == [operation]
    long.clear()
    server.requests.clear()

    await upload(own, a_video(size))

    assert long == [one.operation for one in server.requests if one.operation == operation] != []


async def test_who_is_refused_both_ways_hears_why(server: S3Server) -> None:
    bucket = a_bucket(server.url, secret_access_key="wrong")

    async with Storage.open(bucket) as storage:
        with pytest.raises(StorageDeniedError, match="SignatureDoesNotMatch"):
            await upload(storage, a_video(3000))


async def test_the_server_compares_the_bytes_with_their_hash(
    own: Storage, server: S3Server
) -> None:
    assert own._shortcut is not None
    other = hashlib.sha256(b"other bytes").hexdigest()

    refused = await own._shortcut.put("k", Part.of(b"bytes"), PLAIN, sha256=other)

    assert refused == 400
    assert not await own.exists("k")


@pytest.mark.parametrize("mark", ["two  spaces", " edge"])
async def test_marks_that_are_read_in_two_ways_are_left_to_aiobotocore(
    own: Storage, mark: str
) -> None:
    long = long_ways(own)

    await upload(own, a_video(3000), metadata={"job": mark})

    assert long == ["PutObject"]
    assert await own.exists("a/b.mp4")


async def test_credentials_that_botocore_finds_sign_the_short_way_too(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "credentials"
    file.write_text(
        f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    bucket = a_bucket(server.url, access_key_id=None, secret_access_key=None)

    async with Storage.open(bucket) as storage:
        await storage.create_bucket()
        long = long_ways(storage)
        await upload(storage, a_video(3000))

    assert long == []


async def test_without_credentials_nothing_is_sent(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    bucket = a_bucket(server.url, access_key_id=None, secret_access_key=None)

    async with Storage.open(bucket) as storage:
        with pytest.raises(StorageDeniedError, match="no credentials"):
            await upload(storage, a_video(3000))

    assert not server.requests


async def test_a_bucket_with_a_host_of_its_own_has_it_the_short_way_too(server: S3Server) -> None:
    endpoint = server.url.replace("127.0.0.1", "localhost")
    bucket = a_bucket(endpoint, addressing_style="virtual")

    async with Storage.open(bucket) as storage:
        assert storage._shortcut is not None
        address = await storage._shortcut._address("a b", [("partNumber", "1")])

    host = endpoint.removeprefix("http://")
    assert address == f"http://{bucket.name}.{host}/a%20b?partNumber=1"


async def test_a_directory_bucket_is_left_to_aiobotocore() -> None:
    """Nothing is sent here: it would ask AWS for a session first."""
    bucket = a_bucket("unused", name="videos--use1-az4--x-s3", endpoint_url=None)

    async with Storage.open(bucket) as storage:
        assert storage._shortcut is not None
        assert await storage._shortcut.put("k", Part.of(b"bytes"), PLAIN) is None
