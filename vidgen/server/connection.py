"""
Connections to our server: so many at once, and none that only sits there.

aiohttp has no time limit for the head of a request, none for a peer that does not read, and none
for how many connect. So each connection has one watch, which cuts it:

    connected, or the first byte of a head came   the head must be whole within 15 s
    a request is worked on                        no limit here; bodies have theirs in `body`
    answered, nothing comes                       75 s, longer than what proxies keep (60 s)
    the peer does not take what is sent           30 s

A connection that no request is worked on may be cut for a new one when there are too many, the
oldest first: whoever opens thousands and says nothing keeps nobody out. Streams of events are not
counted, the hub bounds them.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Literal, cast

from aiohttp import web
from loguru import logger

from vidgen import metrics
from vidgen.server.address import is_within, subscriber
from vidgen.server.problem import problem
from vidgen.settings import Settings

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

HEAD_S = 15.0
IDLE_S = 75.0
UNREAD_S = 30.0
MAX_LINE_BYTES = 8190
MAX_HEADERS = 100
# How long what nobody wants is read and thrown away, so that the sender sees why.
LINGER_S = 5.0
NAME = "vidgen"
_REFUSED = (
    b"HTTP/1.1 503 Service Unavailable\r\nServer: vidgen\r\nRetry-After: 5\r\n"
    b"Content-Length: 0\r\nConnection: close\r\n\r\n"
)


class Crowd:
    """Everybody who is connected, streams apart."""

    def __init__(self, settings: Settings) -> None:
        """Nobody yet."""
        self._max = settings.http_connections
        self._max_per_address = settings.http_connections_per_address
        self._proxies = settings.trusted_networks
        self._total = 0
        self._by_address: Counter[str] = Counter()
        self._waiting: OrderedDict[Connection, None] = OrderedDict()

    def admits(self, address: str) -> bool:
        """Whether one more may come from *address*; counts it if so, and makes room if need be."""
        caller = subscriber(address)
        is_proxy = is_within(address, self._proxies)
        if not is_proxy and self._by_address[caller] >= self._max_per_address:
            return False
        if self._total >= self._max:
            if not self._waiting:
                return False
            self._waiting.popitem(last=False)[0].cut("crowded")
        self._total += 1
        self._by_address[caller] += 1
        return True

    def left(self, address: str) -> None:
        """One that was admitted from *address* is gone, or is a stream now."""
        caller = subscriber(address)
        self._total -= 1
        self._by_address[caller] -= 1
        if not self._by_address[caller]:
            del self._by_address[caller]

    def waits(self, connection: "Connection") -> None:
        """No request of *connection* is worked on."""
        self._waiting[connection] = None

    def works(self, connection: "Connection") -> None:
        """A request of it is worked on, or it is gone."""
        self._waiting.pop(connection, None)


class Connection(web.RequestHandler):
    """One connection, watched. A subclass because aiohttp parses and answers in its own."""

    def __init__(self, server: web.Server, crowd: Crowd, loop: asyncio.AbstractEventLoop) -> None:
        """Expect a transport."""
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # aiohttp means: none
            keepalive_timeout=IDLE_S + UNREAD_S,  # the watch is earlier
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
            max_headers=MAX_HEADERS,
            lingering_time=LINGER_S,
            auto_decompress=False,
        )
        self._crowd = crowd
        self._timers = loop
        self._address = ""
        self._state: Literal["refused", "head", "busy", "idle", "gone"] = "head"
        self._is_counted = False
        self._watch: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._unread_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody connected: let them in, or tell them to come later."""
        transport = cast(asyncio.Transport, transport)  # uvloop's is one, but not by its class
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if isinstance(peer, tuple) else ""
        if not self._crowd.admits(self._address):
            self._state = "refused"
            metrics.HTTP_REFUSALS.labels("connections").inc()
            transport.write(_REFUSED)
            transport.close()
            return
        self._is_counted = True
        super().connection_made(transport)
        self._wait("head", HEAD_S)

    def connection_lost(self, exc: BaseException | None) -> None:
        """It is gone."""
        was, self._state = self._state, "gone"
        self._stop_watching()
        if self._unread is not None:
            self._unread.cancel()
        if was == "refused":
            return
        self._crowd.works(self)
        self._uncount()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came; of a new request, if we had answered the one before."""
        if self._state == "refused":
            return
        if self._state == "idle":
            self._wait("head", HEAD_S)
        super().data_received(data)

    def pause_writing(self) -> None:
        """The peer does not read as fast as we write."""
        super().pause_writing()
        self._unread = self._timers.call_later(UNREAD_S, self.cut, "unread")

    def resume_writing(self) -> None:
        """It does, again."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is no HTTP, in our words: aiohttp's repeat what came, and name its version."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun, and cannot become another one")
        if isinstance(exc, UnicodeError):  # aiohttp 3.14 repeats an Expect that has no encoding
            status = 400
        if status >= 500:
            logger.opt(exception=exc).error("connection ended with a defect")
            refused = problem(
                status, "internal_error", "a defect of vidgen; its log has the details"
            )
        else:
            logger.info("no HTTP came", reason=type(exc).__name__, address=self._address)
            refused = problem(status, "http_error", "this is no HTTP request that can be read")
        refused.headers["Server"] = NAME
        refused.force_close()
        return refused

    def begun(self) -> None:
        """A whole head came, and its request is worked on."""
        self._stop_watching()
        self._crowd.works(self)
        self._state = "busy"

    def answered(self) -> None:
        """The request has its answer, which may still be on its way."""
        if self._state == "busy":
            self._wait("idle", IDLE_S)

    def streams(self) -> None:
        """It is a stream of events now, which is counted elsewhere."""
        self._uncount()

    def cut(self, reason: str) -> None:
        """End it now: what is left to send would wait for a peer that does not take it."""
        transport = self.transport
        if transport is None or self._state == "gone":
            return
        if reason == "idle" and 0 < transport.get_write_buffer_size() != self._unread_bytes:
            # An answer is still being taken, if slowly.
            self._unread_bytes = transport.get_write_buffer_size()
            self._watch = self._timers.call_later(UNREAD_S, self.cut, reason)
            return
        if reason != "idle":
            metrics.HTTP_REFUSALS.labels(reason).inc()
            logger.info("connection cut", reason=reason, address=self._address)
        transport.abort()

    def _wait(self, state: Literal["head", "idle"], seconds: float) -> None:
        self._stop_watching()
        self._state = state
        self._crowd.waits(self)
        self._watch = self._timers.call_later(
            seconds, self.cut, "slow" if state == "head" else "idle"
        )

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _uncount(self) -> None:
        if self._is_counted:
            self._is_counted = False
            self._crowd.left(self._address)


@web.middleware
async def watched(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Tell the connection when its request begins and ends."""
    connection: Any = request.protocol
    if not isinstance(connection, Connection):  # another server than ours, as in tests
        return await handler(request)
    connection.begun()
    try:
        return await handler(request)
    finally:
        connection.answered()


def streams(request: web.Request) -> None:
    """Its answer goes on and on."""
    connection: Any = request.protocol
    if isinstance(connection, Connection):
        connection.streams()


async def listen(server: web.Server, settings: Settings, host: str, port: int) -> asyncio.Server:
    """
    Let *server* answer at *host* and *port*.

    Raises:
        OSError: Nobody can listen there.
    """
    loop = asyncio.get_running_loop()
    crowd = Crowd(settings)
    return await loop.create_server(lambda: Connection(server, crowd, loop), host, port)
