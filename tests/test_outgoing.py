"""
The one way out: what was looked up is what is connected to, and the environment has no say.

127.0.0.2 plays the part of a public address and 127.0.0.1 that of a private one; sockets are real.
"""

import asyncio
import gzip
import socket
import ssl
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from tests.providers.test_http import listening, refusal
from tests.providers.test_redirects import certificate
from vidgen import image
from vidgen.errors import InputRejectedError, ProtocolError, TransientError
from vidgen.outgoing import Client, ForbiddenAddressError, Guard, PublicResolver, is_forbidden
from vidgen.providers.http import ProviderHttp

__all__ = ["certificate"]  # a fixture

PUBLIC, PRIVATE = "127.0.0.2", "127.0.0.1"
TIMEOUT = aiohttp.ClientTimeout(total=10)


class Fickle(AbstractResolver):
    """Gives one answer after the other, the last one for ever; a subclass as aiohttp asks for."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)
        self.asked = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked += 1
        found = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in found
        ]

    async def close(self) -> None:
        pass


def is_public(address: str) -> bool:
    return address == PUBLIC


def a_guard(*answers: list[str]) -> tuple[Guard, Fickle]:
    fickle = Fickle(*answers)
    return Guard(is_public=is_public, resolver=lambda: fickle), fickle


@pytest.fixture
async def both() -> AsyncIterator[dict[str, int]]:
    """The same port at both addresses, and how many connections each of them got."""
    taken = {PUBLIC: 0, PRIVATE: 0}

    @asynccontextmanager
    async def listens(address: str, port: int) -> AsyncIterator[int]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            taken[address] += 1
            await reader.readuntil(b"\r\n\r\n")
            # Promises more than comes, so that a download has to be taken up again.
            writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\nETag: "1"\r\n\r\n01234')
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(serve, address, port) as server:
            yield server.sockets[0].getsockname()[1]

    async with listens(PUBLIC, 0) as port, listens(PRIVATE, port):
        taken["port"] = port
        yield taken


async def test_a_name_that_turns_private_after_the_first_answer_is_refused(
    both: dict[str, int],
) -> None:
    guard, fickle = a_guard([PUBLIC], [PRIVATE])
    url = URL(f"http://rebinding.test:{both['port']}/")

    async with Client(guard=guard, max_connections=1) as client:
        (await client.request("GET", url, headers={}, timeout=TIMEOUT)).close()
    async with Client(guard=guard, max_connections=1) as client:  # which remembers nothing
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await client.request("GET", url, headers={}, timeout=TIMEOUT)

    assert is_forbidden(caught.value)
    assert fickle.asked == 2
    assert (both[PUBLIC], both[PRIVATE]) == (1, 0)


async def test_a_name_that_turns_private_amid_a_download_is_refused(
    both: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidgen.providers.http.FIRST_RESUME_S", 0.01)
    monkeypatch.setattr("aiohttp.connector.monotonic", _hurried())
    guard, fickle = a_guard([PUBLIC], [PRIVATE])
    http = ProviderHttp(guard=guard)
    url = f"http://rebinding.test:{both['port']}/"

    async with http.download(url, home="http://h", credential={}, refusal=refusal) as stream:
        chunks = stream.chunks
        assert await anext(chunks) == b"01234"
        with pytest.raises(ProtocolError, match="private address"):
            await anext(chunks)

    await http.aclose()
    assert fickle.asked == 2
    assert (both[PUBLIC], both[PRIVATE]) == (1, 0)


def _hurried() -> object:
    """A clock that makes what aiohttp remembers of names old at once."""
    now = 0.0

    def tick() -> float:
        nonlocal now
        now += 60.0
        return now

    return tick


async def test_of_public_and_private_addresses_only_the_public_ones_are_tried(
    both: dict[str, int],
) -> None:
    guard, _ = a_guard([PRIVATE, PUBLIC, "::1", PRIVATE])
    url = URL(f"http://half.test:{both['port']}/")

    async with Client(guard=guard, max_connections=1) as client:
        (await client.request("GET", url, headers={}, timeout=TIMEOUT)).close()

    assert (both[PUBLIC], both[PRIVATE]) == (1, 0)


async def test_even_an_address_that_passed_the_resolver_is_judged_at_its_socket(
    both: dict[str, int],
) -> None:
    answers = iter([True, False])  # the resolver's question, and the socket's
    guard = Guard(is_public=lambda _: next(answers), resolver=lambda: Fickle([PRIVATE]))
    url = URL(f"http://rebinding.test:{both['port']}/")

    async with Client(guard=guard, max_connections=1) as client:
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await client.request("GET", url, headers={}, timeout=TIMEOUT)

    assert is_forbidden(caught.value)
    assert both[PRIVATE] == 0


async def test_a_name_with_private_addresses_only_has_none() -> None:
    with pytest.raises(ForbiddenAddressError):
        await PublicResolver(Fickle([PRIVATE, "::1"]), is_public).resolve("h", 80)


async def test_neither_proxies_nor_passwords_of_the_environment_are_used(
    both: dict[str, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[web.Request] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request)
        response = web.Response(body=b"x")
        response.set_cookie("a", "b")
        return response

    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://{PRIVATE}:{both['port']}")
    async with listening(handler) as url, Client(guard=None, max_connections=2) as client:
        for _ in range(2):
            (await client.request("GET", URL(url), headers={}, timeout=TIMEOUT)).close()

    assert both[PRIVATE] == 0
    assert [request.headers.get("Authorization") for request in seen] == [None, None]
    assert [request.headers.get("Cookie") for request in seen] == [None, None]


# --- input images ---


async def test_an_image_that_says_it_is_too_big_is_not_read(both: dict[str, int]) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 10**9
        await response.prepare(request)
        await asyncio.Event().wait()  # not a byte comes
        return response

    http = ProviderHttp(allow_private_addresses=True)
    async with listening(handler) as url:
        with pytest.raises(InputRejectedError, match="more than 1000 bytes"):
            await http.fetch(url, max_bytes=1000)
    await http.aclose()


async def test_an_image_that_unpacks_without_end_is_given_up_early() -> None:
    packed = gzip.compress(bytes(256 * 1024 * 1024))

    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    http = ProviderHttp(allow_private_addresses=True)
    async with listening(handler) as url:
        tracemalloc.start()
        try:
            with pytest.raises((InputRejectedError, TransientError)):
                await http.fetch(url, max_bytes=image.MAX_IMAGE_BYTES)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    await http.aclose()

    assert peak < 4 * image.MAX_IMAGE_BYTES


@asynccontextmanager
async def speaking_tls(
    certificate: Path, newest: ssl.TLSVersion
) -> AsyncIterator[tuple[URL, list[bool]]]:
    """An address, and for each connection whether it took up the session of one before."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.maximum_version = newest
    resumed: list[bool] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        resumed.append(writer.get_extra_info("ssl_object").session_reused)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(serve, PRIVATE, 0, ssl=context) as server:
        yield URL(f"https://{PRIVATE}:{server.sockets[0].getsockname()[1]}/"), resumed


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_new_connection_takes_up_the_tls_session_of_the_one_before(
    certificate: Path, newest: ssl.TLSVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    async with (
        speaking_tls(certificate, newest) as (url, resumed),
        Client(guard=None, max_connections=1, fresh=True) as client,
    ):
        for _ in range(3):
            async with await client.request("GET", url, headers={}, timeout=TIMEOUT) as answer:
                await answer.read()

    assert resumed == [False, True, True]


async def test_a_kept_connection_saves_the_handshake(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    async with (
        speaking_tls(certificate, ssl.TLSVersion.TLSv1_3) as (url, resumed),
        Client(guard=None, max_connections=1) as client,
    ):
        for _ in range(3):
            async with await client.request("GET", url, headers={}, timeout=TIMEOUT) as answer:
                await answer.read()

    assert resumed == [False]


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_whom_nobody_vouches_for_is_not_believed_the_second_time_either(
    certificate: Path, newest: ssl.TLSVersion
) -> None:
    async with (
        speaking_tls(certificate, newest) as (url, resumed),
        Client(guard=None, max_connections=1) as client,
    ):
        for _ in range(3):
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await client.request("GET", url, headers={}, timeout=TIMEOUT)

        assert client._tls is not None
        assert not client._tls._sessions
    # A session taken up would have ended in a connection, and the certificate not been looked at.
    assert resumed == []
