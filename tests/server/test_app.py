"""Who may call what, and what becomes of calls that nobody expects."""

import asyncio
import hmac
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import psutil
import pytest

from tests.server.conftest import TOKEN, Client
from vidgen.errors import SettingsError
from vidgen.resources import Resources
from vidgen.server.app import serving
from vidgen.settings import Settings

ADMIN_CALLS = [("GET", "/api/admin/queue"), ("POST", "/api/admin/queue/retry/x")]


WRONG = [
    None,
    "",
    "Bearer",
    "Bearer ",
    "Bearer wrong-token",
    f"Bearer {TOKEN}x",
    f"Bearer {TOKEN[:-1]}",
    f"Bearer {TOKEN.upper()}",
    f"Basic {TOKEN}",
    TOKEN,
    f"Bearer Bearer {TOKEN}",
    "Bearer ünïcödé",
]

# --- the token ---


@pytest.mark.parametrize(("method", "path"), [*ADMIN_CALLS, ("GET", "/nowhere")])
async def test_without_the_right_token_nothing_is_told(
    stranger: Client, method: str, path: str
) -> None:
    for sent in WRONG:
        headers = {} if sent is None else {"Authorization": sent}

        async with stranger.request(method, path, headers=headers) as response:
            body = await response.json()

        assert response.status == 401, sent
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert (body["success"], body["code"]) == (False, "unauthorized")
        assert TOKEN not in str(body)


async def test_a_token_that_is_no_text_is_wrong_and_no_defect(stranger: Client) -> None:
    answer = await raw(
        stranger, b"GET /api/admin/queue HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n"
    )

    assert b" 401 " in answer.splitlines()[0]


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_right_token_opens(stranger: Client, scheme: str) -> None:
    for method, path in ADMIN_CALLS:
        headers = {"Authorization": f"{scheme} {TOKEN}"}
        async with stranger.request(method, path, headers=headers) as response:
            assert response.status != 401


async def test_the_token_is_compared_in_constant_time(
    stranger: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[bytes, bytes]] = []
    honest = hmac.compare_digest

    def compare(given: bytes, secret: bytes) -> bool:
        compared.append((given, secret))
        return honest(given, secret)

    monkeypatch.setattr(hmac, "compare_digest", compare)

    await stranger.get("/api/admin/queue", headers={"Authorization": "Bearer wrong"})

    assert compared == [(b"wrong", TOKEN.encode())]


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/api/health/worker"])
async def test_health_is_told_to_everybody(stranger: Client, path: str) -> None:
    async with stranger.get(path) as response:
        assert response.status == 200


@pytest.mark.parametrize("path", ["//livez/../api/admin/queue", "/livez/", "/livez/../nowhere"])
async def test_a_path_that_only_looks_open_is_not(stranger: Client, path: str) -> None:
    answer = await raw(stranger, f"GET {path} HTTP/1.1\r\nHost: x\r\n".encode())

    assert b" 401 " in answer.splitlines()[0]


# --- what nobody expects ---


async def test_an_unknown_path_is_not_found_in_json(admin: Client) -> None:
    for path in ("/nowhere", "/api", "/api/admin/queue/", "/livez/x", "/%00"):
        async with admin.get(path) as response:
            body = await response.json()

        assert response.status == 404
        assert body == {
            "type": "about:blank",
            "title": "Not Found",
            "status": 404,
            "code": "http_error",
            "detail": "Not Found",
            "success": False,
            "message": "Not Found",
        }


async def test_a_wrong_method_is_told_the_right_one(admin: Client) -> None:
    async with admin.delete("/api/admin/queue") as response:
        body = await response.json()

    assert (response.status, body["success"]) == (405, False)
    assert "GET" in response.headers["Allow"]


async def test_a_defect_of_ours_shows_no_traceback(admin: Client, resources: Resources) -> None:
    object.__setattr__(resources, "database", None)

    async with admin.get("/api/admin/queue") as response:
        text = await response.text()

    assert response.status == 500
    body = await response.json()
    assert (body["code"], body["success"]) == ("internal_error", False)
    assert "Traceback" not in text
    assert "NoneType" not in text


@pytest.mark.parametrize(
    "request_",
    [
        b"NONSENSE\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n",  # somebody speaks TLS
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000 + b"\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n",
        b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"GET /livez HTTP/1.1\r\nBad Header : x\r\n",
    ],
    ids=["nonsense", "version", "tls", "long path", "long header", "length", "smuggled", "header"],
)
async def test_garbage_is_refused_without_a_traceback_and_the_server_goes_on(
    stranger: Client, request_: bytes
) -> None:
    answer = await raw(stranger, request_)

    assert b"Traceback" not in answer
    assert b".py" not in answer
    assert b" 200 " not in answer.partition(b"\r\n")[0]
    async with stranger.get("/livez") as response:
        assert response.status == 200


async def test_a_body_of_any_size_is_not_taken_in(admin: Client) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b"x" * 1_000_000

    before = psutil.Process().memory_info().rss
    async with asyncio.timeout(10):
        try:
            async with admin.post("/api/admin/queue/retry/x", data=endless()) as response:
                assert response.status in {400, 413}
        except aiohttp.ClientError:
            pass  # cut off while it was still sending

    assert psutil.Process().memory_info().rss - before < 40_000_000
    async with admin.get("/livez") as response:
        assert response.status == 200


async def raw(client: Client, request: bytes) -> bytes:
    """What comes back for *request*, byte for byte."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        try:
            writer.write(request + b"Connection: close\r\n\r\n")
            await writer.drain()
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()


# --- where it listens ---


@asynccontextmanager
async def served(resources: Resources, **changes: object) -> AsyncIterator[int]:
    """The server on a port of the system's choice."""
    port = free_port()
    settings = resources.settings.model_copy(update={"http_port": port, **changes})
    async with serving(with_settings(resources, settings)):
        yield port


def with_settings(resources: Resources, settings: Settings) -> Resources:
    return replace(resources, settings=settings)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def addresses(port: int) -> set[str]:
    """Where this process listens on *port*."""
    return {
        connection.laddr.ip
        for connection in psutil.Process().net_connections("inet")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
    }


async def test_without_a_token_it_listens_on_loopback_only(resources: Resources) -> None:
    async with served(resources, http_host="0.0.0.0", admin_token=None) as port:
        assert addresses(port) == {"127.0.0.1"}
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{port}/api/admin/queue") as response,
        ):
            assert response.status == 200


async def test_with_a_token_it_listens_where_it_is_told(resources: Resources) -> None:
    async with served(resources, http_host="0.0.0.0") as port:
        assert addresses(port) == {"0.0.0.0"}

    assert addresses(port) == set()


async def test_a_port_that_is_taken_is_named(resources: Resources) -> None:
    async with served(resources) as port:
        settings = resources.settings.model_copy(update={"http_port": port})
        with pytest.raises(SettingsError, match=f"VIDGEN_HTTP_PORT: 127.0.0.1:{port} cannot"):
            async with serving(with_settings(resources, settings)):
                pass

        assert addresses(port) == {"127.0.0.1"}  # the first one goes on


async def test_port_zero_serves_nothing(resources: Resources) -> None:
    before = psutil.Process().net_connections("inet")

    async with serving(resources):
        listening = {connection.laddr for connection in psutil.Process().net_connections("inet")}

    assert listening <= {connection.laddr for connection in before}
