"""Connections over real sockets: silent, slow, greedy, rude and too many."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import pytest
import uvloop
from aiohttp import web
from pydantic import SecretStr

from tests.server.conftest import TOKEN
from tests.server.test_app import served
from vidgen.resources import Resources
from vidgen.server import connection, stream
from vidgen.settings import Settings

PATIENCE_S = 20
REQUEST = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"

Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connected(port: int, host: str = "127.0.0.1") -> AsyncIterator[Peer]:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def ends(reader: asyncio.StreamReader) -> bytes:
    """What comes until the other side ends it; it has to."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await reader.read()
    except ConnectionError:
        return b""


async def answered(peer: Peer, request: bytes = REQUEST) -> bytes:
    reader, writer = peer
    writer.write(request)
    async with asyncio.timeout(PATIENCE_S):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.partition(b":")[2])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length")
        )
        return head + await reader.readexactly(length)


def test_the_loop_that_workers_run_on_serves_as_well(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "IDLE_S", 0.1)

    async def here(_: web.Request) -> web.Response:
        return web.Response(text="here")

    async def answer_and_end() -> tuple[bytes, bytes]:
        app = web.Application(middlewares=[connection.watched])
        app.router.add_get("/livez", here)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        assert runner.server is not None  # it was set up
        listening = await connection.listen(runner.server, settings, "127.0.0.1", 0)
        try:
            async with connected(listening.sockets[0].getsockname()[1]) as peer:
                return await answered(peer), await ends(peer[0])
        finally:
            listening.close()
            await runner.cleanup()

    answer, end = uvloop.run(answer_and_end())

    assert answer.endswith(b"here")
    assert end == b""


# --- slow ones ---


async def test_whoever_says_nothing_is_cut(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_S", 0.1)
    async with served(resources) as port, connected(port) as (reader, _):
        assert await ends(reader) == b""


async def test_a_head_that_drips_is_cut_however_steadily(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_S", 0.3)

    async def drip(writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(b"X")
                await writer.drain()
                await asyncio.sleep(0.01)
        except ConnectionError:
            return

    async with served(resources) as port, connected(port) as (reader, writer):
        writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-")
        async with asyncio.TaskGroup() as group:
            dripping = group.create_task(drip(writer))
            assert await ends(reader) == b""
            dripping.cancel()


async def test_the_second_head_on_a_connection_is_watched_as_the_first(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(resources) as port, connected(port) as peer:
        assert b" 200 " in await answered(peer)
        monkeypatch.setattr(connection, "HEAD_S", 0.1)
        peer[1].write(b"GET /livez")

        assert await ends(peer[0]) == b""


async def test_an_idle_connection_is_kept_for_a_while_and_then_cut(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "IDLE_S", 0.2)
    async with served(resources) as port, connected(port) as peer:
        for _ in range(3):
            assert b" 200 " in await answered(peer)

        assert await ends(peer[0]) == b""


async def test_a_request_that_is_worked_on_is_not_cut(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_S", 0.2)
    monkeypatch.setattr(connection, "IDLE_S", 0.2)
    monkeypatch.setattr(stream, "HEARTBEAT_S", 0.3)
    head = f"GET /api/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    async with served(resources) as port, connected(port) as (reader, writer):
        writer.write(head.encode())
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        async with asyncio.timeout(PATIENCE_S):
            for _ in range(3):
                await reader.readuntil(b": still here\n\n")


async def ask_for_ever(writer: asyncio.StreamWriter) -> None:
    """Until the buffers in between are full, and then wait."""
    while True:
        writer.write(b"GET /assets/app.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
        await writer.drain()


async def test_whoever_does_not_read_the_answer_is_cut(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "UNREAD_S", 0.2)
    async with served(resources) as port, connected(port) as (reader, writer):
        reader._transport.pause_reading()  # type: ignore[attr-defined]  # not a byte is taken
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(ConnectionError):
                await ask_for_ever(writer)


# --- too many ---


async def test_one_address_has_so_many_connections_and_others_are_let_in(
    resources: Resources,
) -> None:
    async with served(resources, http_connections_per_address=3) as port, AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(connected(port)) for _ in range(3)]
        for peer in peers:
            assert b" 200 " in await answered(peer)

        async with connected(port) as (reader, _):
            refusal = await ends(reader)

        assert refusal.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After" in refusal
        assert b" 200 " in await answered(peers[0])
        peers[0][1].close()
        await eventually(lambda: admitted(port))


async def admitted(port: int) -> bool:
    async with connected(port) as peer:
        try:
            return b" 200 " in await answered(peer)
        except (asyncio.IncompleteReadError, ConnectionError):
            return False


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.01)


async def test_a_thousand_that_say_nothing_keep_nobody_out(resources: Resources) -> None:
    changes = {"http_connections": 20, "http_connections_per_address": 1000}
    async with served(resources, **changes) as port, AsyncExitStack() as stack:
        for _ in range(200):
            _, writer = await stack.enter_async_context(connected(port))
            writer.write(b"GET /livez HTTP/1.1\r\n")

        for _ in range(5):
            assert await admitted(port)


async def test_streams_of_events_take_no_place_of_other_connections(resources: Resources) -> None:
    changes = {"http_connections": 4, "http_connections_per_address": 2}
    head = f"GET /api/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    async with served(resources, **changes) as port, AsyncExitStack() as stack:
        for _ in range(12):
            reader, writer = await stack.enter_async_context(connected(port))
            writer.write(head.encode())
            async with asyncio.timeout(PATIENCE_S):
                assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
                await reader.readuntil(b"retry")

        assert await admitted(port)


async def test_a_trusted_proxy_has_no_limit_of_connections(resources: Resources) -> None:
    changes = {"http_connections_per_address": 2, "trusted_proxies": "127.0.0.0/8"}
    async with served(resources, **changes) as port, AsyncExitStack() as stack:
        for _ in range(10):
            peer = await stack.enter_async_context(connected(port))
            assert b" 200 " in await answered(peer)


async def test_who_is_gone_is_not_counted_any_more(resources: Resources) -> None:
    crowd = connection.Crowd(resources.settings)
    for _ in range(3):
        for number in range(300):
            assert crowd.admits(f"10.0.{number}.1")
        for number in range(300):
            crowd.left(f"10.0.{number}.1")

    assert (crowd._total, len(crowd._by_address)) == (0, 0)


# --- too often ---


@pytest.fixture
def busy(resources: Resources) -> dict[str, object]:
    return {"http_requests_per_min": 5, "http_requests_per_min_per_address": 3}


async def statuses(port: int, path: str, times: int, **headers: str) -> list[int]:
    async with aiohttp.ClientSession(headers=headers) as session:
        found = []
        for _ in range(times):
            async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
                found.append(answer.status)
        return found


async def test_a_token_may_ask_so_often_in_a_minute(
    resources: Resources, busy: dict[str, object]
) -> None:
    other = "another-token-for-the-tests"
    tokens = SecretStr(f"ci:read:{other}")
    async with served(resources, **busy, admin_tokens=tokens) as port:
        mine = {"Authorization": f"Bearer {TOKEN}"}
        assert await statuses(port, "/api/queue", 7, **mine) == [200] * 5 + [429] * 2

        async with (
            aiohttp.ClientSession(headers=mine) as session,
            session.get(f"http://127.0.0.1:{port}/api/queue") as answer,
        ):
            document = await answer.json(content_type=None)
        theirs = await statuses(port, "/api/queue", 1, Authorization=f"Bearer {other}")

    assert answer.content_type == "application/problem+json"
    assert (document["code"], document["status"]) == ("too_many_requests", 429)
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert theirs == [200]


async def test_an_address_without_a_token_may_ask_so_often(
    resources: Resources, busy: dict[str, object]
) -> None:
    async with served(resources, **busy) as port:
        assert await statuses(port, "/assets/app.js", 5) == [200] * 3 + [429] * 2
        wrong = await statuses(port, "/api/queue", 1, Authorization="Bearer wrong")
        right = await statuses(port, "/api/queue", 1, Authorization=f"Bearer {TOKEN}")

    assert (wrong, right) == ([429], [200])


async def test_probes_are_never_too_many(resources: Resources, busy: dict[str, object]) -> None:
    async with served(resources, **busy) as port:
        for path in ("/livez", "/readyz", "/api/health/worker"):
            assert await statuses(port, path, 20) == [200] * 20


async def test_behind_a_trusted_proxy_each_customer_is_counted(
    resources: Resources, busy: dict[str, object]
) -> None:
    async with served(resources, **busy, trusted_proxies="127.0.0.1") as port:
        for customer in ("198.51.100.1", "198.51.100.2"):
            # Whatever the customer writes stands before what the proxy adds.
            forwarded = {"X-Forwarded-For": f"203.0.113.9, {customer}"}
            found = await statuses(port, "/assets/app.js", 4, **forwarded)
            assert found == [200] * 3 + [429]


async def test_without_trust_nobody_gets_another_limit_by_a_header(
    resources: Resources, busy: dict[str, object]
) -> None:
    async with served(resources, **busy) as port:
        found = [
            (await statuses(port, "/assets/app.js", 1, **{"X-Forwarded-For": f"198.51.100.{n}"}))[0]
            for n in range(5)
        ]

    assert found == [200] * 3 + [429] * 2


# --- what is told ---


@pytest.mark.parametrize(
    "request_",
    [
        REQUEST,
        b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n",
        b"NONSENSE secret-in-it\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(200)) + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 9000 + b"\r\n\r\n",
    ],
    ids=["right", "404", "nonsense", "version", "length", "line", "many headers", "header"],
)
async def test_no_answer_tells_what_we_are_made_of(resources: Resources, request_: bytes) -> None:
    async with served(resources) as port, connected(port) as peer:
        answer = await answered(peer, request_)

    head = answer.partition(b"\r\n\r\n")[0].lower()
    assert b"server: vidgen\r\n" in head + b"\r\n"
    for told in (b"aiohttp", b"python", b"traceback", b".py", b"secret-in-it"):
        assert told not in answer.lower()
    if request_ is not REQUEST:
        assert b" 4" in head.partition(b"\r\n")[0]
        assert b"application/problem+json" in head
