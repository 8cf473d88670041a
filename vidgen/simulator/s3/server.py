"""The server itself: a socket, one account, faults on demand, and a log of what was asked."""

import asyncio
import re
import sqlite3
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self
from urllib.parse import parse_qsl
from uuid import uuid4

from aiohttp import web
from loguru import logger

from vidgen.simulator.s3.auth import Account, authorise, decode_path
from vidgen.simulator.s3.body import invite, waits
from vidgen.simulator.s3.disk import Disk, Upload
from vidgen.simulator.s3.headers import allow_reading_elsewhere
from vidgen.simulator.s3.operations import Call, Operations
from vidgen.simulator.s3.wire import S3Error, operation, render

REQUEST_TIMEOUT_S = 600
DRAIN_TIMEOUT_S = 1  # at stop, requests that still run get this long
LINGER_S = 1.0
LOGGED_REQUESTS = 10_000


@dataclass(slots=True, kw_only=True)
class Fault:
    """
    A rule that makes matching requests fail. Put it into `S3Server.faults`.

    Attributes:
        action: `answer` with *status* and *code*; `close` the connection after *after_bytes* of the
            body, up or down; `delay` by *delay_s*, then go on; `corrupt` what is stored, and accept
            it; `lose` the answer: do the work, then close the connection.
        operation: Name of the operation it applies to; None, here and below, is any.
        method: HTTP method it applies to.
        path: Regular expression that is searched in the raw path.
        skip: Matching requests to let pass first; counted down.
        times: Matching requests to fail; counted down, None for ever.
    """

    action: Literal["answer", "close", "delay", "corrupt", "lose"] = "answer"
    operation: str | None = None
    method: str | None = None
    path: str | None = None
    skip: int = 0
    times: int | None = 1
    status: int = 503
    code: str = "SlowDown"
    after_bytes: int = 0
    delay_s: float = 0

    def strikes(self, operation: str, method: str, path: str) -> bool:
        """Whether this request is hit; counts."""
        if (
            self.times == 0
            or self.operation not in {None, operation}
            or self.method not in {None, method}
            or (self.path is not None and not re.search(self.path, path))
        ):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request that arrived; *operation* is empty when it was none."""

    operation: str
    method: str
    bucket: str
    key: str


class S3Server:
    """
    One S3 endpoint on one folder, as `async with S3Server(folder, …) as server` or start and stop.

    Attributes:
        faults: Rules for failures; the first that matches strikes.
        requests: The last 10,000 requests in order of arrival.
    """

    def __init__(
        self,
        folder: Path,
        *,
        access_key: str,
        secret_key: str,
        region: str = "us-east-1",
        base_path: str = "",
        domain: str = "localhost",
    ) -> None:
        """
        Serve *folder*, which is made if need be.

        *base_path* stands before every bucket, as at Supabase; `BUCKET.<domain>` is a bucket's own
        host.
        """
        self.faults: list[Fault] = []
        self.requests: deque[Request] = deque(maxlen=LOGGED_REQUESTS)
        self._folder = folder
        self._account = Account(access_key=access_key, secret_key=secret_key, region=region)
        self._base_path = base_path.rstrip("/")
        self._domain = f".{domain}"
        self._arrived = asyncio.Condition()
        self._running = 0
        self._runner: web.ServerRunner | None = None
        self._disk: Disk | None = None
        self._url = ""

    @property
    def url(self) -> str:
        """The endpoint, once started."""
        assert self._url  # started
        return self._url

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Open the folder and the socket; port 0 takes a free one."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._disk = await asyncio.to_thread(Disk, self._folder)
        self._operations = Operations(self._disk, self._account)
        self._runner = web.ServerRunner(
            # A refused upload's body may never come (`Expect: 100-continue`); aiohttp 3.14 waits
            # for it even after the client has gone.
            web.Server(self._handle, access_log=None, lingering_time=LINGER_S),
            shutdown_timeout=DRAIN_TIMEOUT_S,
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        port = self._runner.addresses[0][1]
        self._url = f"http://{host}:{port}{self._base_path}"

    async def stop(self) -> None:
        """Close everything; the data stays."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._disk is not None:
            self._disk.close()
            self._disk = None

    async def __aenter__(self) -> Self:
        """Start on a free port of the loopback."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self.stop()

    def uploads(self) -> list[Upload]:
        """Give every multipart upload that is neither completed nor aborted."""
        assert self._disk is not None  # started
        return self._disk.uploads()

    async def wait_for(self, operation: str, count: int = 1) -> None:
        """Return once *count* requests for *operation* arrived; the caller sets the timeout."""
        async with self._arrived:
            await self._arrived.wait_for(
                lambda: sum(one.operation == operation for one in self.requests) >= count
            )

    async def wait_until_idle(self) -> None:
        """Return once no request is being answered; the caller sets the timeout."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: not self._running)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self._running += 1
        try:
            return await self._answer_or_refuse(request)
        finally:
            self._running -= 1
            async with self._arrived:
                self._arrived.notify_all()

    async def _answer_or_refuse(self, request: web.BaseRequest) -> web.StreamResponse:
        request_id = uuid4().hex[:16].upper()
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                answer = await self._answer(request)
        except S3Error as error:
            answer = _refusal(request, error, request_id)
        except (TimeoutError, OSError, sqlite3.Error) as error:
            if request.transport is None or isinstance(error, ConnectionError):
                _cut(request)
                return web.Response(status=500)
            logger.exception("S3 simulator failed")
            answer = _refusal(request, S3Error(500, "InternalError"), request_id)
        if not answer.prepared:
            answer.headers["x-amz-request-id"] = request_id
            allow_reading_elsewhere(answer)
        if waits(request):
            # The body will not come now: waiting for it would take the next request for it.
            answer.force_close()
            await answer.prepare(request)
            await answer.write_eof()
            request.protocol.force_close()
        return answer

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "OPTIONS":
            return _preflight(request)
        bucket, key = self._address(request)
        query = dict(parse_qsl(request.raw_path.partition("?")[2], keep_blank_values=True))
        name = operation(request.method, bucket, key, query)
        async with self._arrived:
            self.requests.append(
                Request(operation=name, method=request.method, bucket=bucket, key=key)
            )
            self._arrived.notify_all()
        fault = self._fault(name, request)
        cut_after: int | None = None
        if fault is not None and fault.action == "delay":
            await asyncio.sleep(fault.delay_s)
        elif fault is not None and fault.action == "answer":
            raise S3Error(fault.status, fault.code, "Asked to fail.")
        elif fault is not None and fault.action == "close":
            cut_after = fault.after_bytes
            if name != "GetObject":
                await _read_up_to(request, cut_after)
                raise ConnectionResetError("cut by a fault")
        is_form = name == "PostObject"  # proves itself by its policy
        call = Call(
            request=request,
            signed=None if is_form else authorise(request, self._account, datetime.now(UTC)),
            operation=name,
            bucket=bucket,
            key=key,
            query=query,
            tamper=_flip if fault is not None and fault.action == "corrupt" else None,
            cut_after_bytes=cut_after,
        )
        answer = await self._operations.answer(call)
        if fault is not None and fault.action == "lose":
            raise ConnectionResetError("cut by a fault")
        return answer

    def _address(self, request: web.BaseRequest) -> tuple[str, str]:
        """Bucket and key, from the host or from the path."""
        path = decode_path(request.raw_path.partition("?")[0])
        if not path.startswith(f"{self._base_path}/"):
            raise S3Error(404, "NoSuchKey", "There is nothing at this path.")
        path = path.removeprefix(f"{self._base_path}/")
        host = request.host.rpartition(":")[0] or request.host
        if host.endswith(self._domain):
            return host.removesuffix(self._domain), path
        bucket, _, key = path.partition("/")
        return bucket, key

    def _fault(self, name: str, request: web.BaseRequest) -> Fault | None:
        path = request.raw_path.partition("?")[0]
        return next((f for f in self.faults if f.strikes(name, request.method, path)), None)


def _refusal(request: web.BaseRequest, error: S3Error, request_id: str) -> web.Response:
    headers = dict(error.headers)
    content = {"Code": error.code, "Message": error.message, "RequestId": request_id}
    body = b"" if request.method == "HEAD" or error.status == 304 else render("Error", content)
    # S3 writes errors without a namespace.
    body = re.sub(rb' xmlns="[^"]*"', b"", body, count=1)
    return web.Response(
        status=error.status, body=body, headers=headers, content_type="application/xml"
    )


def _preflight(request: web.BaseRequest) -> web.Response:
    """Tell a browser that any page may read, with any header."""
    headers = {"Access-Control-Allow-Methods": "GET, HEAD", "Access-Control-Max-Age": "3600"}
    asked = request.headers.get("Access-Control-Request-Headers")
    if asked:
        headers["Access-Control-Allow-Headers"] = asked
    return web.Response(headers=headers)


def _cut(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()


async def _read_up_to(request: web.BaseRequest, size: int) -> None:
    invite(request)
    while size > 0:
        piece = await request.content.read(min(size, 1 << 16))
        if not piece:
            return
        size -= len(piece)


def _flip(data: bytes) -> bytes:
    """Change one bit."""
    return bytes([data[0] ^ 1]) + data[1:]
