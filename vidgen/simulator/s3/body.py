"""What a request carries: its body, plain or in signed chunks, held against every digest sent."""

import asyncio
import base64
import hashlib
import hmac
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from aiohttp import ClientError, StreamReader, web

from vidgen.simulator.s3.auth import Signed, sign
from vidgen.simulator.s3.wire import S3Error

MAX_OBJECT_BYTES = 5 << 30
MAX_XML_BYTES = 2 << 20
MAX_TRAILER_BYTES = 16 << 10
# Writing and hashing happen in a thread, a batch at a time: a hop costs as much as hashing 64 KiB.
BATCH_BYTES = 1 << 20
CHECKSUMS = ("crc32", "sha1", "sha256")
_INVITED = web.RequestKey("invited", bool)
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


class Digest(Protocol):
    """What hashlib's objects do."""

    def update(self, data: bytes, /) -> None:
        """Take more."""

    def digest(self) -> bytes:
        """Give the result."""


class _Crc32:
    """A CRC-32 that looks like a hash."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


def new_digest(name: str) -> Digest:
    """Start the digest of that name."""
    if name == "crc32":
        return _Crc32()
    return hashlib.new(name, usedforsecurity=False)


@dataclass(slots=True, kw_only=True)
class Received:
    """
    A body that lies in a file of its own and has passed every check.

    Attributes:
        checksums: The ones the client asked to keep, base64.
    """

    path: Path
    size_bytes: int
    md5: str
    checksums: dict[str, str] = field(default_factory=dict)


class Body:
    """The body of one request, without its chunk framing."""

    def __init__(self, request: web.BaseRequest, signed: Signed) -> None:
        """Look at the headers; nothing is read yet."""
        self._request = request
        self._signed = signed
        self._trailers: dict[str, str] = {}
        self.chunked = signed.payload.startswith("STREAMING-")
        announced = request.headers.get(
            "x-amz-decoded-content-length" if self.chunked else "Content-Length"
        )
        if announced is None:
            raise S3Error(411, "MissingContentLength", "A length must be given.")
        if not announced.isdigit():
            raise S3Error(400, "InvalidArgument", "The length is not a number.")
        self.size_bytes = int(announced)
        if self.size_bytes > MAX_OBJECT_BYTES:
            raise S3Error(400, "EntityTooLarge", "At most 5 GiB at once.")

    async def chunks(self) -> AsyncIterator[bytes]:
        """Give the bytes as they come; all of them came when this ends."""
        invite(self._request)
        size = 0
        pieces = self._framed() if self.chunked else self._plain()
        try:
            async for piece in pieces:
                size += len(piece)
                if size > self.size_bytes:
                    raise S3Error(400, "IncompleteBody", "More bytes came than announced.")
                yield piece
        except (ClientError, ConnectionError, ValueError, asyncio.IncompleteReadError) as error:
            raise S3Error(400, "IncompleteBody", "The body broke off.") from error
        if size != self.size_bytes:
            raise S3Error(400, "IncompleteBody", f"{size} of {self.size_bytes} bytes came.")

    def wanted(self) -> dict[str, str]:
        """Which checksums the client sends or announces: name and value, empty if it trails."""
        headers = self._request.headers
        found = {}
        for name in (*CHECKSUMS, "crc32c", "crc64nvme"):
            header = f"x-amz-checksum-{name}"
            trails = header in headers.get("x-amz-trailer", "").lower().split(",")
            if header in headers or trails:
                if name not in CHECKSUMS:
                    raise S3Error(501, "NotImplemented", f"{name} is not computed here.")
                found[name] = headers.get(header, "")
        return found

    def verify(self, digests: Mapping[str, bytes]) -> None:
        """
        Hold what was read against what the client said.

        Raises:
            S3Error: A digest differs.
        """
        announced = {
            n: v or self._trailers.get(f"x-amz-checksum-{n}") for n, v in self.wanted().items()
        }
        for name, value in announced.items():
            if base64.b64encode(digests[name]).decode() != value:
                raise S3Error(400, "BadDigest", f"The {name} did not match what was received.")
        md5 = self._request.headers.get("Content-MD5")
        if md5 is not None and base64.b64encode(digests["md5"]).decode() != md5:
            raise S3Error(400, "BadDigest", "The Content-MD5 did not match what was received.")
        if self.hashed and digests["sha256"].hex() != self._signed.payload:
            raise S3Error(400, "XAmzContentSHA256Mismatch", "The body is not the signed one.")

    @property
    def hashed(self) -> bool:
        """Whether the signature covers the sha256 of the body."""
        return not self.chunked and self._signed.payload != "UNSIGNED-PAYLOAD"

    def digests(self) -> dict[str, Digest]:
        """Start every digest that `verify` will need."""
        names = {"md5", *self.wanted()} | ({"sha256"} if self.hashed else set())
        return {name: new_digest(name) for name in names}

    async def _plain(self) -> AsyncIterator[bytes]:
        async for piece in self._request.content.iter_any():
            yield piece

    async def _framed(self) -> AsyncIterator[bytes]:
        """Take the framing of aws-chunked off, and check its chain of signatures."""
        content, signed = self._request.content, self._signed
        word = signed.payload.removesuffix("-TRAILER")
        if word not in {"STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD"}:
            raise S3Error(400, "InvalidArgument", "Unknown x-amz-content-sha256.")
        is_signed = word.startswith("STREAMING-AWS4")
        previous = signed.signature
        size = -1
        while size:
            size, signature = _chunk_header(await content.readuntil(b"\r\n"))
            digest = hashlib.sha256()
            left = size
            while left:
                piece = await content.read(min(left, BATCH_BYTES))
                if not piece:
                    raise S3Error(400, "IncompleteBody", "The body broke off in a chunk.")
                left -= len(piece)
                if is_signed:
                    digest.update(piece)
                yield piece
            if size:
                await content.readexactly(2)
            if is_signed:
                self._check(
                    "PAYLOAD", previous, f"{_EMPTY_SHA256}\n{digest.hexdigest()}", signature
                )
                previous = signature
        await self._read_trailers(content, previous if is_signed else None)

    async def _read_trailers(self, content: StreamReader, previous: str | None) -> None:
        signature, size = "", 0
        while line := (await content.readuntil(b"\n")).strip():
            size += len(line)
            if size > MAX_TRAILER_BYTES:
                raise S3Error(400, "MalformedTrailerError", "The trailers are too long.")
            name, _, value = line.decode("latin-1").partition(":")
            if name.lower() == "x-amz-trailer-signature":
                signature = value.strip()
            else:
                self._trailers[name.lower()] = value.strip()
        if previous is not None and self._trailers:
            lines = "".join(f"{n}:{v}\n" for n, v in sorted(self._trailers.items()))
            self._check("TRAILER", previous, hashlib.sha256(lines.encode()).hexdigest(), signature)

    def _check(self, kind: str, previous: str, digests: str, signature: str) -> None:
        signed = self._signed
        text = f"AWS4-HMAC-SHA256-{kind}\n{signed.at}\n{signed.scope}\n{previous}\n{digests}"
        if not hmac.compare_digest(sign(signed.key, text).hex(), signature):
            raise S3Error(403, "SignatureDoesNotMatch", "The signature of a chunk does not match.")


def waits(request: web.BaseRequest) -> bool:
    """Whether the client holds its body back until it is told to go on."""
    return request.headers.get("Expect", "").lower() == "100-continue" and _INVITED not in request


def invite(request: web.BaseRequest) -> None:
    """Let a client that waits for `100 Continue` send its body."""
    if waits(request) and request.transport is not None:
        request[_INVITED] = True
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _chunk_header(line: bytes) -> tuple[int, str]:
    size, _, extension = line.decode("latin-1").strip().partition(";")
    return int(size, 16), extension.removeprefix("chunk-signature=")


async def receive(
    body: Body, folder: Path, tamper: Callable[[bytes], bytes] | None = None
) -> Received:
    """
    Write a body into a file below *folder*; it is gone again unless every digest matches.

    *tamper* changes what is stored, and switches the checks off: a server with a bad disk.
    """
    path = folder / uuid4().hex
    digests, batch, size = body.digests(), bytearray(), 0
    try:
        async for piece in body.chunks():
            batch += tamper(piece) if tamper else piece
            size += len(piece)
            if len(batch) >= BATCH_BYTES:
                await asyncio.to_thread(_append, path, bytes(batch), digests)
                batch.clear()
        if batch or not size:
            await asyncio.to_thread(_append, path, bytes(batch), digests)
        results = {name: digest.digest() for name, digest in digests.items()}
        if tamper is None:
            body.verify(results)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    kept = {name: base64.b64encode(results[name]).decode() for name in body.wanted()}
    return Received(path=path, size_bytes=size, md5=results["md5"].hex(), checksums=kept)


def _append(path: Path, data: bytes, digests: Mapping[str, Digest]) -> None:
    with path.open("ab") as file:
        file.write(data)
    for digest in digests.values():
        digest.update(data)


async def read_xml(body: Body) -> bytes:
    """Read a small body whole, checked like a large one."""
    if body.size_bytes > MAX_XML_BYTES:
        raise S3Error(400, "MaxMessageLengthExceeded", "The body is too large.")
    data = b"".join([piece async for piece in body.chunks()])
    digests = body.digests()
    for digest in digests.values():
        digest.update(data)
    body.verify({name: digest.digest() for name, digest in digests.items()})
    return data
