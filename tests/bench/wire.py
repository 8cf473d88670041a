"""
A provider and a bucket that are never the limit: `python -m tests.bench.wire --port 8123 …`.

One process of plain protocols without a framework: the OpenAI Videos protocol, where each video
takes as long as it is told to, and the part of S3 that a transfer uses, which counts bytes and
forgets them. It says what was asked of it, and when each video was ready and stored, at
`GET /figures`.
"""

import argparse
import asyncio
import base64
import hashlib
import itertools
import math
import random
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast, get_args
from urllib.parse import parse_qs, unquote, urlsplit

import orjson
import uvloop

MAX_HEAD_BYTES = 64 * 1024
CRC32 = "x-amz-checksum-crc32"
Answer = tuple[int, bytes, str]
# What is said of progress: the share of the time that is over, in whole quarters of it, far more
# than that at first and little later, or nothing.
Telling = Literal["even", "quarters", "hasty", "nothing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """
    How long a generation takes.

    Attributes:
        median_s: Half of them are quicker.
        sigma: Of the logarithm; 0 makes all of them equal.
        drift: So much longer is the median after each thousand videos: 0.1 is a tenth.
    """

    median_s: float
    sigma: float = 0.0
    drift: float = 0.0

    def draw_s(self, dice: random.Random, number: int) -> float:
        """For video *number* of this run."""
        median_s = self.median_s * (1 + self.drift * number / 1000)
        return median_s * math.exp(dice.gauss(0.0, self.sigma)) if self.sigma else median_s


def percent_of(share: float, telling: Telling) -> int | None:
    """What is said when so much of the time is over."""
    match telling:
        case "even":
            return int(100 * share)
        case "quarters":
            return int(share * 4) * 25
        case "hasty":
            return int(100 * share**0.3)
        case "nothing":
            return None


@dataclass(slots=True)
class Wire:
    """What both sides know of each other."""

    clip: bytes
    pace: Pace
    lists: bool = True
    telling: Telling = "even"
    asked: Counter[str] = field(default_factory=Counter)
    videos: dict[str, tuple[float, float]] = field(default_factory=dict)  # created, ready
    stored: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    marks: dict[str, str] = field(default_factory=dict)  # of multipart uploads
    numbers: Iterator[int] = field(default_factory=itertools.count)  # never twice
    dice: random.Random = field(default_factory=lambda: random.Random(1))

    def answer(
        self, method: str, path: str, query: str, size: int, headers: dict[str, str]
    ) -> Answer:
        """What comes back; *size* is that of the body, which is gone."""
        if path == "/figures":
            told = {"asked": self.asked, "videos": self.videos, "stored": self.stored}
            return 200, orjson.dumps(told), "application/json"
        if path == "/reset":
            for each in (self.asked, self.videos, self.stored, self.sizes, self.marks):
                each.clear()
            return 200, b"{}", "application/json"
        if path.startswith("/v1/videos"):
            return self._provider(method, path.removeprefix("/v1/videos"), query)
        if query == "uploads":
            self.marks[path], self.sizes[path] = headers.get("x-amz-meta-upload", ""), 0
        return self._bucket(method, path, query, size)

    def object_head(self, path: str) -> str:
        """What tells of an object beside its bytes."""
        size, mark = self.sizes.get(path, 0), self.marks.get(path, "")
        modified = "Thu, 26 Nov 2026 00:00:00 GMT"
        return f"Content-Length: {size}\r\nx-amz-meta-upload: {mark}\r\nLast-Modified: {modified}"

    def _provider(self, method: str, rest: str, query: str) -> Answer:
        now = time.time()  # noqa: TID251  told to another process of this machine
        if not rest and method == "POST":
            self.asked["submit"] += 1
            name = f"video_{next(self.numbers)}"
            self.videos[name] = (now, now + self.pace.draw_s(self.dice, len(self.videos)))
            return self._json(self._video(name, now))
        if not rest:
            self.asked["list"] += 1
            if not self.lists:
                return 404, b'{"error": {"message": "no such path"}}', "application/json"
            return self._json(self._page(parse_qs(query), now))
        name, _, what = rest.strip("/").partition("/")
        if name not in self.videos:
            return 404, b'{"error": {"message": "no such video"}}', "application/json"
        if what == "content":
            self.asked["content"] += 1
            return 200, self.clip, "video/mp4"
        self.asked["poll"] += 1
        return self._json(self._video(name, now))

    def _page(self, query: dict[str, list[str]], now: float) -> dict[str, object]:
        """Newest first, as the vendor lists."""
        names = list(reversed(self.videos))
        if "after" in query:
            names = names[names.index(query["after"][0]) + 1 :]
        limit = int(query.get("limit", ["20"])[0])
        shown = [self._video(name, now) for name in names[:limit]]
        return {"object": "list", "data": shown, "has_more": len(names) > limit}

    def _video(self, name: str, now: float) -> dict[str, object]:
        created, ready = self.videos[name]
        done = now >= ready
        share = (now - created) / (ready - created)
        return {
            "id": name,
            "object": "video",
            "status": "completed" if done else "in_progress",
            "progress": 100 if done else percent_of(share, self.telling),
            "created_at": int(created),
            "completed_at": int(ready) if done else None,
            "model": "bench",
            "seconds": "4",
            "size": "1280x720",
        }

    def _bucket(self, method: str, path: str, query: str, size: int) -> Answer:
        self.asked[f"s3 {method}"] += 1
        if "uploads" in query:
            told = b"<InitiateMultipartUploadResult><UploadId>u</UploadId>"
            return 200, told + b"</InitiateMultipartUploadResult>", "application/xml"
        if method == "PUT":
            if "uploadId" in query:
                self.sizes[path] += size
            else:
                self.sizes[path] = size
                self.stored[path] = time.time()  # noqa: TID251  as above
        elif method == "POST":
            self.stored[path] = time.time()  # noqa: TID251  as above
            told = b"<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"
            return 200, told, "application/xml"
        return 200, b"", "application/xml"

    def _json(self, value: object) -> Answer:
        return 200, orjson.dumps(value), "application/json"


class Connection(asyncio.Protocol):
    """One client: a request after the other; bodies are counted, and hashed where S3 would."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._transport: asyncio.WriteTransport
        self._head = bytearray()
        self._request = ("", "", "")
        self._left = 0
        self._size = 0
        self._md5: hashlib._Hash | None = None
        self._crc32: int | None = None
        self._marks: dict[str, str] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's has no such class
        self._transport.set_write_buffer_limits(high=8 * 1024 * 1024)

    def data_received(self, data: bytes) -> None:
        while data:
            if self._left:
                taken, data = data[: self._left], data[self._left :]
                self._left -= len(taken)
                if self._md5 is not None:
                    self._md5.update(taken)
                if self._crc32 is not None:
                    self._crc32 = zlib.crc32(taken, self._crc32)
                if not self._left:
                    self._reply()
                continue
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                if len(self._head) > MAX_HEAD_BYTES:
                    self._transport.abort()
                return
            head, data = bytes(self._head[:end]), bytes(self._head[end + 4 :])
            self._head.clear()
            self._begin(head)

    def _begin(self, head: bytes) -> None:
        line, *rest = head.decode("latin-1").split("\r\n")
        method, target, _ = line.split(" ", 2)
        self._marks = marks = dict(each.lower().split(": ", 1) for each in rest)
        parts = urlsplit(target)
        self._request = (method, unquote(parts.path), parts.query)
        self._size = self._left = int(marks.get("content-length", "0"))
        # As S3 does it: the ETag of a part is its MD5, and a checksum is compared where it is told.
        is_part = "partNumber" in parts.query
        self._md5 = hashlib.md5(usedforsecurity=False) if is_part else None
        self._crc32 = 0 if is_part and CRC32 in marks else None
        if marks.get("expect") == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not self._left:
            self._reply()

    def _reply(self) -> None:
        method, path, query = self._request
        checksum = base64.b64encode((self._crc32 or 0).to_bytes(4, "big")).decode()
        status, body, kind = (
            self._wire.answer(method, path, query, self._size, self._marks)
            if self._crc32 is None or checksum.lower() == self._marks[CRC32]
            else (400, b"<Error><Code>BadDigest</Code></Error>", "application/xml")
        )
        etag = self._md5.hexdigest() if self._md5 is not None else "0" * 31
        more = ""
        if self._crc32 is not None:
            more = f"{CRC32}: {checksum}\r\n"
        elif query == "uploads" and "x-amz-checksum-algorithm" in self._marks:
            more = "x-amz-checksum-algorithm: CRC32\r\n"
        head = f'HTTP/1.1 {status} OK\r\nContent-Type: {kind}\r\nETag: "{etag}"\r\n{more}'
        if method == "HEAD":
            head += self._wire.object_head(path)
        else:
            head += f"Content-Length: {len(body)}"
        self._transport.write(f"{head}\r\n\r\n".encode())
        if body and method != "HEAD":
            self._transport.write(body)


def clip_of(size_bytes: int) -> bytes:
    """An MP4 of exactly so many bytes: a real clip, with a box of nothing behind it."""
    from vidgen.simulator.clips import render

    clip = render("tram", seconds=1, width=320, height=180, audio=False)
    rest = size_bytes - len(clip)
    assert rest >= 8, f"wanted at least {len(clip) + 8} bytes"
    return clip + rest.to_bytes(4, "big") + b"free" + bytes(rest - 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--clip", type=Path, required=True)
    parser.add_argument("--median-s", type=float, default=60.0)
    parser.add_argument("--sigma", type=float, default=0.0)
    parser.add_argument("--drift", type=float, default=0.0)
    parser.add_argument("--no-list", action="store_true", help="as servers that cannot list")
    parser.add_argument("--progress", choices=get_args(Telling), default="even")
    arguments = parser.parse_args()
    pace = Pace(median_s=arguments.median_s, sigma=arguments.sigma, drift=arguments.drift)
    wire = Wire(
        clip=arguments.clip.read_bytes(),
        pace=pace,
        lists=not arguments.no_list,
        telling=arguments.progress,
    )

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Connection(wire), "127.0.0.1", arguments.port, backlog=4096
        )
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await server.serve_forever()

    uvloop.run(serve())


if __name__ == "__main__":
    main()
