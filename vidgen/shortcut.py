"""
The short way of a body into the bucket: one PUT, signed by botocore's signer, sent as it lies.

aiobotocore builds, checks, signs and parses each request by its model of all of S3, and copies the
body on its way: measured, 1.6 ms of CPU for a video of 2 MB beside its hash, against 0.5 here. So
what carries bytes goes this way first; whatever comes of it but a plain yes is done once more by
aiobotocore, which knows of retries, regions, redirects and errors:

    signed, sent, 2xx                                    done
    no answer, 408, 429, 5xx, damaged on its way         again, the long way
    refused, and then taken from aiobotocore             again, and from then on only the long way

Addresses, region and the way of signing are read off an address that aiobotocore signs, and the
request leaves through its own session: its connections, proxies and certificates are ours.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qs, quote, urlsplit

from aiobotocore.awsrequest import AioAWSResponse
from aiobotocore.credentials import AioCredentials
from aiohttp import ClientError as ConnectionBrokenError
from aiohttp import Payload
from aiohttp.abc import AbstractStreamWriter
from botocore.auth import SIGV4_TIMESTAMP, S3SigV4Auth
from botocore.awsrequest import AWSPreparedRequest, AWSRequest
from botocore.exceptions import BotoCoreError

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

Piece = bytes | bytearray | memoryview

SMALL_BYTES = 16 << 10
GATHERED_BYTES = 128 << 10

_ALGORITHM = "AWS4-HMAC-SHA256"
_HASH = "x-amz-content-sha256"
_MARK = "vidgen"  # a key of which every letter stands in the address as it is
_PASSING = frozenset({408, 429})
# What servers call a body that is not what its checksum says: AWS and Swift, MinIO and Ceph.
MISMATCHES = frozenset({"BadDigest", "XAmzContentChecksumMismatch"})


class Part:
    """
    The bytes of one object or one part of it, in the pieces in which they came.

    Small ones are put together, else thousands of objects would take more than their bytes. A full
    part is never written to again, so that its pieces can lie in the buffers of a connection.
    """

    def __init__(self) -> None:
        """Hold nothing yet."""
        self.pieces: list[Piece] = []
        self.size_bytes = 0
        self._gathered = bytearray()  # the last piece, while small ones come

    @classmethod
    def of(cls, data: bytes) -> "Part":
        """The part that is *data*."""
        part = cls()
        part.add(data)
        return part

    def add(self, piece: Piece) -> None:
        """Take the next bytes."""
        self.size_bytes += len(piece)
        if len(piece) >= SMALL_BYTES:
            self.pieces.append(piece)
            self._gathered = bytearray()
            return
        if not 0 < len(self._gathered) < GATHERED_BYTES:
            self._gathered = bytearray()
            self.pieces.append(self._gathered)
        self._gathered += piece

    def clear(self) -> None:
        """Forget the bytes, so that their memory ends now whoever still knows the part."""
        self.pieces.clear()


class _Body(Payload):
    """A part on its way, without a copy. A subclass because aiohttp asks for one."""

    _autoclose = True  # there is nothing to close

    def __init__(self, part: Part) -> None:
        super().__init__(part)
        self._size = part.size_bytes

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return b"".join(self._value.pieces).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        for piece in list(self._value.pieces):
            await writer.write(piece)


class _Signer(S3SigV4Auth):
    """
    Signs a request whose headers are plain and whose body's hash is known already.

    botocore's own way to the text that is signed goes through an e-mail message of headers, several
    times: measured, 0.25 ms for each request, against 0.06.
    """

    def sign(self, url: str, headers: Mapping[str, str], at: datetime) -> dict[str, str]:
        """The headers to send a PUT to *url* with; *headers* have small letters."""
        parts, request = urlsplit(url), AWSRequest()
        request.context["timestamp"] = at.strftime(SIGV4_TIMESTAMP)
        signed = {**headers, "host": _host(parts), "x-amz-date": request.context["timestamp"]}
        if self.credentials.token:
            signed["x-amz-security-token"] = self.credentials.token
        names = ";".join(sorted(signed))
        asked = "&".join(sorted(parts.query.split("&")))
        lines = [f"{name}:{signed[name]}" for name in sorted(signed)]
        text = "\n".join(["PUT", parts.path, asked, *lines, "", names, headers[_HASH]])
        signature = self.signature(self.string_to_sign(request, text), request)
        return signed | {
            "authorization": f"{_ALGORITHM} Credential={self.scope(request)},"
            f" SignedHeaders={names}, Signature={signature}"
        }


class Shortcut:
    """How to put bytes into one bucket without aiobotocore's detours."""

    def __init__(self, client: "S3Client", bucket_name: str, credentials: AioCredentials) -> None:
        """Learn the way with the first `put`."""
        self._client = client
        self._bucket_name = bucket_name
        self._credentials = credentials
        self._base: str | None = None
        self._region = ""
        # Directory buckets of S3 Express have sessions with keys of their own.
        self._is_open = not bucket_name.endswith("--x-s3")

    def close(self) -> None:
        """Do not try again: this server takes from aiobotocore what it does not take from us."""
        self._is_open = False

    async def put(
        self,
        key: str,
        part: Part,
        headers: Mapping[str, str],
        *,
        query: Sequence[tuple[str, str]] = (),
        sha256: str = "UNSIGNED-PAYLOAD",
    ) -> Mapping[str, str] | int | None:
        """
        Send *part* to *key* once; the headers of the answer if it was taken.

        Args:
            sha256: Of the part, in hexadecimal digits; the server compares it with what comes.

        Returns:
            The status of a refusal; None if nothing can be said, and the long way has to be taken.
        """
        if not self._is_open or not _is_plain(headers):
            return None
        try:
            url = await self._address(key, query)
            if url is None:
                return None
            signed = await self._signed(url, {**headers, _HASH: sha256})
            request = AWSPreparedRequest("PUT", url, signed, _Body(part), False)  # type: ignore[arg-type]  # goes to aiohttp as it is
            # Not public, and there as long as botocore is; `test_storage` would tell.
            session = self._client._endpoint.http_session  # type: ignore[attr-defined]
            answer = await session.send(request)
        except (BotoCoreError, ConnectionBrokenError, OSError):
            return None
        if answer.status_code in {HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.NO_CONTENT}:
            taken: Mapping[str, str] = answer.headers
            return taken
        if answer.status_code in _PASSING or answer.status_code >= 500 or await _is_damaged(answer):
            return None
        return int(answer.status_code)

    async def _signed(self, url: str, headers: Mapping[str, str]) -> dict[str, str]:
        credentials = await self._credentials.get_frozen_credentials()
        small = {name.lower(): value for name, value in headers.items()}
        signed = _Signer(credentials, "s3", self._region).sign(url, small, datetime.now(UTC))
        # Never signed, as botocore does not either: gateways write their own.
        agent: str = self._client.meta.config.user_agent  # type: ignore[attr-defined]  # not in the stubs
        return signed | {"user-agent": agent}

    async def _address(self, key: str, query: Sequence[tuple[str, str]]) -> str | None:
        """Where *key* is put; None where the requests are not such as we sign."""
        if self._base is None and not await self._learn():
            return None
        asked = "&".join(f"{name}={quote(value, safe='')}" for name, value in query)
        address = f"{self._base}{quote(key, safe='/~')}"
        return f"{address}?{asked}" if asked else address

    async def _learn(self) -> bool:
        """Find out address, region and kind of signature from what aiobotocore would do."""
        example = await self._client.generate_presigned_url(
            "put_object", Params={"Bucket": self._bucket_name, "Key": _MARK}, ExpiresIn=60
        )
        address, _, query = example.partition("?")
        told = parse_qs(query)
        scope = told.get("X-Amz-Credential", [""])[0].split("/")
        is_ours = (
            told.get("X-Amz-Algorithm") == [_ALGORITHM]
            and scope[-2:] == ["s3", "aws4_request"]
            and address.endswith(f"/{_MARK}")
            and not urlsplit(address).query
        )
        if not is_ours:
            self.close()
            return False
        self._base, self._region = address.removesuffix(_MARK), scope[-3]
        return True


async def _is_damaged(answer: AioAWSResponse) -> bool:
    text: bytes = await answer.content  # type: ignore[misc]  # a coroutine, unlike botocore's
    return any(code.encode() in text for code in MISMATCHES)


def _host(address: SplitResult) -> str:
    """As aiohttp names it: without the port that everybody knows."""
    usual = {"http": 80, "https": 443}[address.scheme]
    host = f"[{address.hostname}]" if ":" in (address.hostname or "") else address.hostname or ""
    return host if address.port in {None, usual} else f"{host}:{address.port}"


def _is_plain(headers: Mapping[str, str]) -> bool:
    """Whether everybody reads and signs *headers* alike; of others aiobotocore may complain."""
    return all(
        value.isascii() and value.isprintable() and " ".join(value.split()) == value
        for value in headers.values()
    )
