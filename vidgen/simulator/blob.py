"""
A small Vercel Blob store: the API and the addresses of objects on one port, data on disk.

    {api_url}/…       the API, as the package @vercel/blob 2.8.0 speaks it
    {object_url}/KEY  the objects: to anybody, or with the token or a signed address

It refuses what the package's texts say is refused (a name that is there already, parts below 5 MiB,
an unknown upload). The sentences of its errors, its statuses beside the codes, and that a store
takes only the access it was made with, are of our own making.
"""

import asyncio
import base64
import hashlib
import hmac
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote, unquote, urlsplit
from uuid import uuid4

import orjson
from aiohttp import web

MIN_PART_BYTES = 5 << 20
CHUNK_BYTES = 256 << 10
DEFAULT_AGE_S = 30 * 24 * 3600
LINGER_S = 1.0

Operation = Literal[
    "put", "create", "upload", "complete", "head", "list", "delete", "copy", "sign", "get"
]


@dataclass(slots=True, kw_only=True)
class BlobFault:
    """
    A rule that makes requests fail. Put it into `BlobServer.faults`.

    Attributes:
        action: `answer` with *status* and *code*; `close` the connection after *after_bytes* of the
            body, up or down; `lose` the answer: do the work, then close the connection.
        operation: What it applies to; None is anything.
        skip: Matching requests to let pass first; counted down.
        times: Matching requests to fail; counted down, None for ever.
    """

    action: Literal["answer", "close", "lose"] = "answer"
    operation: Operation | None = None
    skip: int = 0
    times: int | None = 1
    status: int = 503
    code: str = "service_unavailable"
    after_bytes: int = 0
    retry_after_s: int | None = None

    def strikes(self, operation: Operation) -> bool:
        """Whether this request is hit; counts."""
        if self.times == 0 or self.operation not in {None, operation}:
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBlob:
    """One object; *files* follow each other."""

    pathname: str
    files: tuple[Path, ...]
    size_bytes: int
    content_type: str
    cache_age_s: int
    etag: str
    uploaded_at: datetime


@dataclass(slots=True, kw_only=True)
class _Upload:
    pathname: str
    parts: dict[int, tuple[Path, int, str]] = field(default_factory=dict)


class _RefusedError(Exception):
    def __init__(self, status: int, code: str, message: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class BlobServer:
    """
    One store on one folder, as `async with BlobServer(folder) as server` or start and stop.

    Attributes:
        token: The read-write token that opens it.
        faults: Rules for failures; the first that matches strikes.
        asked: How often each operation was asked for.
        blobs: The objects by name.
        access: What the store was made as.
        ahead: How far its clock is ahead, for addresses that end.
    """

    def __init__(
        self,
        folder: Path,
        *,
        access: Literal["public", "private"] = "public",
        store_id: str = "simulatedStore",
        secret: str = "simulated",  # noqa: S107  of a simulator
    ) -> None:
        """Keep the data in *folder*, which is made if need be."""
        self.token = f"vercel_blob_rw_{store_id}_{secret}"
        self.faults: list[BlobFault] = []
        self.asked: Counter[str] = Counter()
        self.blobs: dict[str, StoredBlob] = {}
        self.access = access
        self.ahead = timedelta()
        self._store_id = store_id
        self._secret = secret
        self._folder = folder
        self._uploads: dict[str, _Upload] = {}
        self._runner: web.ServerRunner | None = None
        self._url = ""

    @property
    def api_url(self) -> str:
        """What `VERCEL_BLOB_API_URL` has to be."""
        return f"{self._url}/api/blob"

    @property
    def object_url(self) -> str:
        """What stands before the names of objects; it stands for the store's host at Vercel."""
        return f"{self._url}/objects"

    @property
    def unfinished(self) -> int:
        """How many uploads in parts were begun and not completed."""
        return len(self._uploads)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Open the folder and the socket; port 0 takes a free one."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._runner = web.ServerRunner(
            web.Server(self._handle, access_log=None, lingering_time=LINGER_S), shutdown_timeout=1
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        self._url = f"http://{host}:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Close the socket and delete the data."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def __aenter__(self) -> Self:
        """Start on a free port of the loopback."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self.stop()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        operation = _operation(request)
        if operation is None:
            return _refused(_RefusedError(404, "not_found", "There is nothing here."))
        self.asked[operation] += 1
        fault = next((one for one in self.faults if one.strikes(operation)), None)
        try:
            if fault is not None and fault.action == "answer":
                async for _ in request.content.iter_chunked(CHUNK_BYTES):
                    pass
                return _refused(_RefusedError(fault.status, fault.code), fault.retry_after_s)
            cut_at = fault.after_bytes if fault is not None and fault.action == "close" else None
            if operation == "get":
                return await self._give(request, cut_at)
            answer = await self._answer(operation, request, cut_at)
        except _RefusedError as refusal:
            return _refused(refusal)
        except _CutError:
            return _cut(request)
        return _cut(request) if fault is not None else _json(answer)

    async def _answer(
        self, operation: Operation, request: web.BaseRequest, cut_at: int | None
    ) -> object:
        self._authorise(request)
        match operation:
            case "put":
                name = self._named(request)
                files, size_bytes, etag = await self._take(request, cut_at)
                return self._store(name, request, files, size_bytes, etag)
            case "create":
                upload_id = uuid4().hex
                name = self._named(request)
                self._uploads[upload_id] = _Upload(pathname=name)
                return {"uploadId": upload_id, "key": f"{self._store_id}/{name}"}
            case "upload":
                upload = self._upload(request)
                (file,), size_bytes, etag = await self._take(request, cut_at)
                number = int(request.headers["x-mpu-part-number"])
                upload.parts[number] = (file, size_bytes, etag)
                return {"etag": etag}
            case "complete":
                return self._complete(request, orjson.loads(await _read(request, cut_at)))
            case "head":
                return self._told(self._find(request.query["url"]))
            case "list":
                return self._listed(request.query)
            case "delete":
                for url in orjson.loads(await _read(request, cut_at))["urls"]:
                    self.blobs.pop(self._pathname(url), None)
                return None
            case "copy":
                found = self._find(request.query["fromUrl"])
                return self._store(
                    self._named(request), request, found.files, found.size_bytes, found.etag
                )
            case "sign":
                return self._delegation(orjson.loads(await _read(request, cut_at)))
            case "get":
                raise AssertionError("objects have no operation of the API")

    def _authorise(self, request: web.BaseRequest) -> None:
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given, f"Bearer {self.token}"):
            raise _RefusedError(403, "forbidden", "The token is not valid.")
        if request.headers.get("x-vercel-blob-store-id") != self._store_id:
            raise _RefusedError(404, "store_not_found", "There is no such store.")
        if request.headers.get("x-api-version") != "12":
            raise _RefusedError(400, "bad_request", "The version of the API is unknown.")

    def _named(self, request: web.BaseRequest) -> str:
        """The name under which the request stores something."""
        name, headers = request.query.get("pathname", ""), request.headers
        if not name or len(name) > 950 or "//" in name:
            raise _RefusedError(400, "bad_request", "The pathname is not valid.")
        if headers.get("x-vercel-blob-access") != self.access:
            raise _RefusedError(400, "bad_request", f"The store takes {self.access} blobs only.")
        if headers.get("x-add-random-suffix") == "1":
            stem, dot, ending = name.rpartition(".")
            suffix = uuid4().hex[:30]
            return f"{stem}-{suffix}{dot}{ending}" if dot else f"{name}-{suffix}"
        if name in self.blobs and headers.get("x-allow-overwrite") != "1":
            raise _RefusedError(400, "bad_request", "This blob already exists.")
        return name

    def _upload(self, request: web.BaseRequest) -> _Upload:
        upload = self._uploads.get(request.headers.get("x-mpu-upload-id", ""))
        key = unquote(request.headers.get("x-mpu-key", ""))
        if upload is None or key != f"{self._store_id}/{upload.pathname}":
            raise _RefusedError(404, "not_found", "There is no such upload.")
        return upload

    async def _take(
        self, request: web.BaseRequest, cut_at: int | None
    ) -> tuple[tuple[Path], int, str]:
        """Write the body of a request to disk: where, how long, its ETag."""
        path, digest, size_bytes = self._folder / uuid4().hex, hashlib.md5(), 0  # noqa: S324  an ETag
        with path.open("wb") as file:
            async for chunk in request.content.iter_chunked(CHUNK_BYTES):
                file.write(chunk)
                digest.update(chunk)
                size_bytes += len(chunk)
                if cut_at is not None and size_bytes >= cut_at:
                    raise _CutError
        return (path,), size_bytes, f'"{digest.hexdigest()}"'

    def _complete(self, request: web.BaseRequest, named: list[dict[str, Any]]) -> object:
        upload = self._upload(request)
        named = sorted(named, key=lambda part: int(part["partNumber"]))
        if [part["partNumber"] for part in named] != list(range(1, len(named) + 1)):
            raise _RefusedError(400, "bad_request", "Part numbers must follow each other from 1.")
        parts = [upload.parts.get(part["partNumber"]) for part in named]
        whole = [part for part in parts if part is not None]
        if len(whole) != len(named) or any(
            part["etag"] != kept[2] for part, kept in zip(named, whole, strict=True)
        ):
            raise _RefusedError(400, "bad_request", "A part was not uploaded.")
        if any(size_bytes < MIN_PART_BYTES for _, size_bytes, _ in whole[:-1]):
            raise _RefusedError(400, "bad_request", "A part is smaller than 5 MB.")
        del self._uploads[request.headers["x-mpu-upload-id"]]
        etags = hashlib.md5("".join(etag for _, _, etag in whole).encode())  # noqa: S324  an ETag
        return self._store(
            upload.pathname,
            request,
            tuple(file for file, _, _ in whole),
            sum(size_bytes for _, size_bytes, _ in whole),
            f'"{etags.hexdigest()}-{len(whole)}"',
        )

    def _store(
        self,
        name: str,
        request: web.BaseRequest,
        files: tuple[Path, ...],
        size_bytes: int,
        etag: str,
    ) -> object:
        self.blobs[name] = StoredBlob(
            pathname=name,
            files=files,
            size_bytes=size_bytes,
            content_type=request.headers.get("x-content-type") or "application/octet-stream",
            cache_age_s=int(request.headers.get("x-cache-control-max-age") or DEFAULT_AGE_S),
            etag=etag,
            uploaded_at=datetime.now(UTC),
        )
        told = self._told(self.blobs[name])
        fields = ("url", "downloadUrl", "pathname", "contentType", "contentDisposition", "etag")
        return {name: told[name] for name in fields}

    def _find(self, url: str) -> StoredBlob:
        found = self.blobs.get(self._pathname(url))
        if found is None:
            raise _RefusedError(404, "not_found", "The requested blob does not exist.")
        return found

    def _pathname(self, url: str) -> str:
        """The name in an address of ours, or the name itself."""
        if not url.startswith(("http://", "https://")):
            return url
        return unquote(urlsplit(url).path.removeprefix("/objects/"))

    def _listed(self, query: Mapping[str, str]) -> object:
        after = base64.urlsafe_b64decode(query.get("cursor", "")).decode()
        names = sorted(
            name for name in self.blobs if name.startswith(query.get("prefix", "")) and name > after
        )
        limit = min(int(query.get("limit", 1000)), 1000)
        page, has_more = names[:limit], len(names) > limit
        blobs = [self._told(self.blobs[name]) for name in page]
        told: dict[str, object] = {"blobs": blobs, "hasMore": has_more}
        if has_more:
            told["cursor"] = base64.urlsafe_b64encode(page[-1].encode()).decode()
        return told

    def _told(self, blob: StoredBlob) -> dict[str, Any]:
        url = f"{self.object_url}/{quote(blob.pathname)}"
        return {
            "url": url,
            "downloadUrl": f"{url}?download=1",
            "pathname": blob.pathname,
            "size": blob.size_bytes,
            "contentType": blob.content_type,
            "contentDisposition": _disposition(blob, "inline"),
            "cacheControl": f"{self.access}, max-age={blob.cache_age_s}",
            "uploadedAt": blob.uploaded_at.isoformat(timespec="milliseconds").replace(
                "+00:00", "Z"
            ),
            "etag": blob.etag,
        }

    def _delegation(self, wanted: Mapping[str, Any]) -> object:
        now_ms = int(datetime.now(UTC).timestamp() * 1000)
        scope = {
            "storeId": f"store_{self._store_id}",
            "pathname": wanted.get("pathname", "*"),
            "operations": wanted.get("operations", ["get"]),
            "validUntil": wanted.get("validUntil", now_ms + 3_600_000),
        }
        if scope["validUntil"] <= now_ms:
            raise _RefusedError(400, "bad_request", "validUntil must be in the future.")
        payload = _base64url(orjson.dumps(scope))
        delegation = f"{payload}.{_signed(self._secret, payload)}"
        return {
            "delegationToken": delegation,
            "clientSigningToken": _signed(self._secret, delegation),
            "validUntil": scope["validUntil"],
        }

    async def _give(self, request: web.BaseRequest, cut_at: int | None) -> web.StreamResponse:
        name = unquote(request.url.raw_path.removeprefix("/objects/"))
        if self.access == "private" and not self._may_read(request, name):
            return web.Response(status=403, text="Forbidden")
        blob = self.blobs.get(name)
        if blob is None:
            return web.Response(status=404, text="The requested resource was not found")
        is_download = request.query.get("download") == "1"
        response = web.StreamResponse(
            headers={
                "Content-Type": blob.content_type,
                "Content-Length": str(blob.size_bytes),
                "Content-Disposition": _disposition(
                    blob, "attachment" if is_download else "inline"
                ),
                "Cache-Control": f"{self.access}, max-age={blob.cache_age_s}",
                "ETag": blob.etag,
                "Last-Modified": format_datetime(blob.uploaded_at, usegmt=True),
            }
        )
        await response.prepare(request)
        sent = 0
        async for chunk in _chunks(blob):
            if cut_at is not None and sent + len(chunk) > cut_at:
                await response.write(chunk[: cut_at - sent])
                return _cut(request)
            await response.write(chunk)
            sent += len(chunk)
        await response.write_eof()
        return response

    def _may_read(self, request: web.BaseRequest, name: str) -> bool:
        if request.headers.get("authorization") == f"Bearer {self.token}":
            return True
        delegation = request.query.get("vercel-blob-delegation", "")
        payload, _, seal = delegation.partition(".")
        if not hmac.compare_digest(seal, _signed(self._secret, payload)):
            return False
        scope = orjson.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        lines = ["operation=get", f"pathname={name}"]
        until = request.query.get("vercel-blob-valid-until")
        if until is not None:
            lines.append(f"vercel-blob-valid-until={until}")
        wanted = _signed(_signed(self._secret, delegation), "\n".join(sorted(lines)))
        now_ms = (datetime.now(UTC) + self.ahead).timestamp() * 1000
        return (
            hmac.compare_digest(request.query.get("vercel-blob-signature", ""), wanted)
            and scope["pathname"] in {"*", name}
            and "get" in scope["operations"]
            and now_ms < min(scope["validUntil"], float(until or "inf"))
        )


class _CutError(Exception):
    pass


def _operation(request: web.BaseRequest) -> Operation | None:
    """What a request asks for; None if the package has no such request."""
    path = request.url.path.removesuffix("/")
    if path.startswith("/objects/"):
        return "get"
    match request.method, path.removeprefix("/api/blob"):
        case "PUT", "":
            return "copy" if "fromUrl" in request.query else "put"
        case "GET", "":
            return "head" if "url" in request.query else "list"
        case "POST", "/delete":
            return "delete"
        case "POST", "/signed-token":
            return "sign"
        case "POST", "/mpu":
            actions: dict[str, Operation] = {
                "create": "create",
                "upload": "upload",
                "complete": "complete",
            }
            return actions.get(request.headers.get("x-mpu-action", ""))
        case _:
            return None


async def _read(request: web.BaseRequest, cut_at: int | None) -> bytes:
    text = await request.read()
    if cut_at is not None:
        raise _CutError
    return text


async def _chunks(blob: StoredBlob) -> AsyncIterator[bytes]:
    for path in blob.files:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk


def _json(answer: object) -> web.Response:
    return web.Response(body=orjson.dumps(answer), content_type="application/json")


def _refused(refusal: _RefusedError, retry_after_s: int | None = None) -> web.Response:
    error = {"code": refusal.code, "message": refusal.message or refusal.code}
    response = web.Response(
        status=refusal.status,
        body=orjson.dumps({"error": error}),
        content_type="application/json",
    )
    if retry_after_s is not None:
        response.headers["Retry-After"] = str(retry_after_s)
    return response


def _cut(request: web.BaseRequest) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


def _disposition(blob: StoredBlob, kind: str) -> str:
    return f'{kind}; filename="{quote(blob.pathname.rpartition("/")[2])}"'


def _signed(key: str, text: str) -> str:
    return _base64url(hmac.new(key.encode(), text.encode(), hashlib.sha256).digest())


def _base64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).decode().rstrip("=")
