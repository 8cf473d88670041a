"""
How fast bytes move, and what they hold: `python -m tests.bench.transfer`.

Videos of 2, 20 and 200 MB, 1, 4 and 16 at once, from a provider into a bucket that are processes of
their own and do what real ones would (`tests.bench.wire`, which hashes each part). The same videos
go three ways, each in a process of its own on one core:

    vidgen   what a transfer does: the provider's stream, inspected, hashed, checked, stored
    plain    aiohttp and aiobotocore as most people write it: `put_object`, or parts, three at once
    raw      sockets, and nothing else: the same requests, answered to nobody

Memory is what the process had at its peak, over what it had before the first byte.
"""

import argparse
import asyncio
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import asdict, dataclass, fields
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Literal
from urllib.parse import urlsplit

import aiohttp
import orjson
import psutil
import uvloop
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from tests.bench.wire import clip_of
from tests.server.test_app import free_port
from vidgen.job import Operation
from vidgen.mp4 import Mp4Inspector
from vidgen.providers.protocol import Asset, Credential
from vidgen.providers.registry import build
from vidgen.resources import bucket_of, providers_config
from vidgen.settings import Settings
from vidgen.storage import Storage

Way = Literal["vidgen", "plain", "raw"]
Move = Callable[[str], Awaitable[None]]

WAYS: tuple[Way, ...] = ("raw", "plain", "vidgen")
MIB = 1024 * 1024
PART_BYTES = 8 * MIB
PARTS_AT_ONCE = 3
PIECE_BYTES = MIB
KEY = "bench"
# So much is moved for each figure, and never fewer videos than go at once.
VOLUME_MB = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one way took for one batch; the ratio is to raw sockets."""

    way: Way
    size_mb: int
    at_once: int
    mb_per_s: float
    ratio: float
    cpu_ms_per_mb: float
    added_mib: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a video lies, and where it goes."""

    provider: str
    video_id: str
    bucket: str
    size_bytes: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-mb", type=int, nargs="+", default=[2, 20, 200])
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts")
    parser.add_argument("--child", nargs=6, help="used by the bench itself")
    arguments = parser.parse_args()
    if arguments.child:
        _carry(*arguments.child)
        return
    table = Table(*[each.name.replace("_", " ") for each in fields(Figures)], title="transfer")
    for size_mb in arguments.size_mb:
        with tempfile.TemporaryDirectory(prefix="vidgen-transfer-") as folder:
            for at_once in arguments.at_once:
                for figures in _measured(Path(folder), size_mb, at_once, arguments.rounds):
                    table.add_row(*[str(figure) for figure in asdict(figures).values()])
                    sys.stdout.write(orjson.dumps(figures).decode() + "\n")
                    sys.stdout.flush()
                table.add_section()
    Console(stderr=True, width=120).print(table)


def _measured(folder: Path, size_mb: int, at_once: int, rounds: int) -> Iterator[Figures]:
    clip = folder / "clip.mp4"
    clip.write_bytes(clip_of(size_mb * 1_000_000))
    videos = max(at_once, VOLUME_MB // size_mb)
    taken: dict[Way, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds):  # in turn, so that all ways share the machine's moods
        with _wire(clip) as provider, _wire(clip) as bucket:
            for way in WAYS:
                taken[way].append(_taken(way, provider, bucket, size_mb, at_once, videos))
    raw_s = statistics.median(each["elapsed_s"] for each in taken["raw"])
    for way, each in taken.items():
        elapsed_s = statistics.median(one["elapsed_s"] for one in each)
        yield Figures(
            way=way,
            size_mb=size_mb,
            at_once=at_once,
            mb_per_s=round(videos * size_mb / elapsed_s, 1),
            ratio=round(raw_s / elapsed_s, 2),
            cpu_ms_per_mb=round(
                statistics.median(one["cpu_s"] for one in each) * 1000 / (videos * size_mb), 2
            ),
            added_mib=round(max(one["added_mib"] for one in each), 1),
        )


@contextmanager
def _wire(clip: Path) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.wire", "--port", str(port), "--clip", str(clip)]
    command += ["--median-s", "0.001", "--sigma", "0", "--drift", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None  # asked for above
    try:
        assert process.stdout.readline() == b"ready\n"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _taken(
    way: Way, provider: str, bucket: str, size_mb: int, at_once: int, videos: int
) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.transfer", "--child", way, provider, bucket]
    command += [str(size_mb), str(at_once), str(videos)]
    told: dict[str, float] = orjson.loads(subprocess.check_output(command))
    return told


def _carry(way: str, provider: str, bucket: str, size_mb: str, at_once: str, videos: str) -> None:
    """Move one video, then *videos* of them, and print what that took."""
    psutil.Process().cpu_affinity([0])
    place = Place(
        provider=provider,
        video_id=uvloop.run(_made(provider)),
        bucket=bucket,
        size_bytes=int(size_mb) * 1_000_000,
    )
    told = (
        _carry_raw(place, int(at_once), int(videos))
        if way == "raw"
        else uvloop.run(
            _carry_async({"vidgen": _ours, "plain": _plain}[way], place, int(at_once), int(videos))
        )
    )
    sys.stdout.write(orjson.dumps(told).decode())


async def _made(provider: str) -> str:
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{provider}/v1/videos", json={"prompt": "a tram"}) as answer,
    ):
        video_id: str = (await answer.json())["id"]
        return video_id


class _Taken:
    """What a process takes from its making on, and over what it has then."""

    def __init__(self) -> None:
        self._idle_bytes = psutil.Process().memory_info().rss

    def begin(self) -> None:
        self._cpu_s = sum(psutil.Process().cpu_times()[:2])
        self._began = monotonic()

    def end(self) -> dict[str, float]:
        elapsed_s = monotonic() - self._began
        # Not `getrusage`: there the peak of whoever started us counts, too.
        status = Path("/proc/self/status").read_text()
        peak_bytes = int(status.partition("VmHWM:")[2].split()[0]) * 1024
        return {
            "elapsed_s": elapsed_s,
            "cpu_s": sum(psutil.Process().cpu_times()[:2]) - self._cpu_s,
            "added_mib": (peak_bytes - self._idle_bytes) / MIB,
        }


async def _carry_async(
    opened: Callable[[Place], AbstractAsyncContextManager[Move]],
    place: Place,
    at_once: int,
    videos: int,
) -> dict[str, float]:
    async with opened(place) as move:
        taken = _Taken()
        await move("warm/up")
        taken.begin()
        names = (f"videos/{number}.mp4" for number in range(videos))

        async def some() -> None:
            for name in names:
                await move(name)

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(some())
        return taken.end()


@asynccontextmanager
async def _ours(place: Place) -> AsyncIterator[Move]:
    settings = Settings(
        database_url="postgresql://nobody@unused:5432/unused",
        redis_url="redis://unused:6379",
        s3_endpoint_url=place.bucket,
        s3_addressing_style="path",
        aws_access_key_id=KEY,
        aws_secret_access_key=SecretStr(KEY),
        openai_api_key=SecretStr(KEY),
        openai_base_url=f"{place.provider}/v1",
        allow_private_addresses=True,
        transfer_concurrency=16,
    )
    async with AsyncExitStack() as stack:
        storage = await stack.enter_async_context(Storage.open(bucket_of(settings)))
        providers = build(providers_config(settings))
        stack.push_async_callback(providers.aclose)
        sora, credential = providers.get("sora"), Credential(id="server", secret=KEY)
        operation = Operation(
            provider="sora",
            id=place.video_id,
            endpoint=settings.openai_base_url,
            model="bench",
            credential_id="server",
        )
        asset = Asset(variant="video", uri="video", content_type="video/mp4")

        async def move(name: str) -> None:
            async with sora.open_result(operation, asset, credential) as stream:
                await storage.upload(
                    name,
                    stream.chunks,
                    content_type="video/mp4",
                    size_bytes=stream.size_bytes,
                    metadata={"job-id": "a-job", "attempt": "1"},
                    inspector=Mp4Inspector(),
                )

        yield move


@asynccontextmanager
async def _plain(place: Place) -> AsyncIterator[Move]:
    async with (
        aiohttp.ClientSession() as http,
        get_session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=place.bucket,
            aws_access_key_id=KEY,
            aws_secret_access_key=KEY,
            config=AioConfig(s3={"addressing_style": "path"}, max_pool_connections=64),
        ) as s3,
    ):

        async def move(name: str) -> None:
            url = f"{place.provider}/v1/videos/{place.video_id}/content"
            async with http.get(url) as answer:
                if place.size_bytes < PART_BYTES:
                    await s3.put_object(Bucket="videos", Key=name, Body=await answer.read())
                    return
                upload_id = (await s3.create_multipart_upload(Bucket="videos", Key=name))[
                    "UploadId"
                ]
                slots, etags = asyncio.Semaphore(PARTS_AT_ONCE), dict[int, str]()

                async def send(number: int, body: bytes) -> None:
                    told = await s3.upload_part(
                        Bucket="videos",
                        Key=name,
                        UploadId=upload_id,
                        PartNumber=number,
                        Body=body,
                    )
                    etags[number] = told["ETag"]
                    slots.release()

                async with asyncio.TaskGroup() as group:
                    for number in count(1):
                        await slots.acquire()
                        body = bytearray()
                        while chunk := await answer.content.read(PART_BYTES - len(body)):
                            body += chunk
                        if not body:
                            break
                        group.create_task(send(number, bytes(body)))
                await s3.complete_multipart_upload(
                    Bucket="videos",
                    Key=name,
                    UploadId=upload_id,
                    MultipartUpload={
                        "Parts": [
                            {"PartNumber": number, "ETag": etags[number]}
                            for number in sorted(etags)
                        ]
                    },
                )

        yield move


def _carry_raw(place: Place, at_once: int, videos: int) -> dict[str, float]:
    taken = _Taken()
    names = iter([f"videos/{number}.mp4" for number in range(videos)])

    def some() -> None:
        with (
            socket.create_connection(_address(place.provider)) as provider,
            socket.create_connection(_address(place.bucket)) as bucket,
        ):
            for name in names:
                _copy(place, provider, bucket, name)

    taken.begin()
    threads = [threading.Thread(target=some) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken.end()


def _copy(place: Place, provider: socket.socket, bucket: socket.socket, name: str) -> None:
    provider.sendall(
        f"GET /v1/videos/{place.video_id}/content HTTP/1.1\r\nhost: bench\r\n\r\n".encode()
    )
    rest, left = _after_head(provider), place.size_bytes
    is_one = place.size_bytes < PART_BYTES
    if not is_one:
        bucket.sendall(f"POST /videos/{name}?uploads HTTP/1.1\r\nhost: bench\r\n\r\n".encode())
        _after_head(bucket)
    buffer = memoryview(bytearray(PIECE_BYTES))
    for number in count(1):
        if not left:
            break
        size = min(PART_BYTES, left)
        asked = "" if is_one else f"?partNumber={number}&uploadId=u"
        head = (
            f"PUT /videos/{name}{asked} HTTP/1.1\r\nhost: bench\r\ncontent-length: {size}\r\n\r\n"
        )
        bucket.sendall(head.encode())
        left -= size
        while size:
            if rest:
                piece, rest = rest[:size], rest[size:]
                bucket.sendall(piece)
                size -= len(piece)
                continue
            taken = provider.recv_into(buffer, min(PIECE_BYTES, size))
            bucket.sendall(buffer[:taken])
            size -= taken
        _after_head(bucket)


def _after_head(connection: socket.socket) -> bytes:
    """Read the head of an answer, and what came with it of its body."""
    seen = bytearray()
    while b"\r\n\r\n" not in seen:
        seen += connection.recv(65536)
    return bytes(seen.partition(b"\r\n\r\n")[2])


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None  # ours have one
    assert parts.port is not None  # as above
    return parts.hostname, parts.port


if __name__ == "__main__":
    main()
