"""
Whoever lays a redirect gets no key and leads nowhere private: for each provider and each way.

The home of a provider and what must not be reached listen on 127.0.0.1. 127.0.0.2 plays the part of
a public address: the guard of these tests lets it through, and nothing else.
"""

import asyncio
import base64
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.providers.formats.all import FORMATS
from tests.providers.test_hostile import Hostile, homes
from vidgen.errors import ProtocolError, ProviderError, SubmitUnknownError, TransientError
from vidgen.job import Operation
from vidgen.outgoing import Guard
from vidgen.providers.http import ProviderHttp
from vidgen.providers.protocol import Asset, Credential, Provider, Succeeded
from vidgen.providers.registry import Providers, ProvidersConfig
from vidgen.testing.provider_wire import KEY, Format

STATUSES = (301, 302, 303, 307, 308)
FETCHING = tuple(name for name, each in FORMATS.items() if each.result != "inline:0")


def by_status(names: Iterable[str]) -> list[tuple[str, int]]:
    """Each status for one format; of the others one for GET and one that keeps the method."""
    return [
        (name, status)
        for name in names
        for status in (STATUSES if name == FETCHING[0] else (302, 307))
    ]


TOKEN = "ya29.token-of-the-test"
CLIP = b"the bytes of a video"
PUBLIC, PRIVATE = "127.0.0.2", "127.0.0.1"
ONLY_PUBLIC = Guard(is_public=lambda address: address == PUBLIC)

Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True, kw_only=True)
class Host:
    """A server that writes down what reaches it, connections without a request, too."""

    url: str = ""
    answering: Answering | None = None
    connections: int = 0
    received: list[tuple[str, str]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        whole = f"{request.method} {request.raw_path} {request.headers} {await request.text()}"
        self.received.append((request.path, whole))
        if self.answering is not None and request.path != "/token":
            return await self.answering(request)
        if request.path == "/token":
            return web.json_response(
                {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"}
            )
        return web.Response(body=CLIP, content_type="video/mp4")

    @property
    def asked(self) -> list[str]:
        """The paths that were asked for, tokens left out."""
        return [path for path, _ in self.received if path != "/token"]

    @property
    def with_a_key(self) -> list[str]:
        """The requests that carry a key or a token, wherever in them."""
        return [
            whole
            for path, whole in self.received
            if path != "/token" and (KEY in whole or TOKEN in whole or "Basic " in whole)
        ]


@asynccontextmanager
async def hosting(address: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[Host]:
    host = Host()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", host.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    serve = runner.server
    assert serve is not None

    def connected() -> asyncio.Protocol:
        host.connections += 1
        return serve()

    loop = asyncio.get_running_loop()
    listening = await loop.create_server(connected, address, 0, ssl=tls)
    try:
        port = listening.sockets[0].getsockname()[1]
        host.url = f"{'https' if tls else 'http'}://{address}:{port}"
        yield host
    finally:
        listening.close()
        await runner.cleanup()


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A provider at its home, a host elsewhere that may be visited, and one that must not be."""

    format: Format
    home: Host
    foreign: Host
    private: Host
    provider: Provider
    credential: Credential

    async def download(self) -> bytes:
        uri = self.format.result.format(url=f"{self.home.url}/v1", origin=self.home.url)
        asset = Asset(variant="video", uri=uri, content_type="video/mp4")
        async with self.provider.open_result(self.operation, asset, self.credential) as stream:
            return b"".join([chunk async for chunk in stream.chunks])

    @property
    def hostile(self) -> Hostile:
        providers = Providers(config=ProvidersConfig(), http=ProviderHttp(), by_name={})
        return Hostile(format=self.format, providers=providers, url=self.home.url)

    @property
    def operation(self) -> Operation:
        return self.hostile.operation


@asynccontextmanager
async def world_of(
    name: str,
    account: dict[str, Any],
    *,
    lenient: bool = False,
    tls: ssl.SSLContext | None = None,
    guard: Guard = ONLY_PUBLIC,
) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        home = await stack.enter_async_context(hosting(PRIVATE, tls))
        foreign = await stack.enter_async_context(hosting(PUBLIC))
        private = await stack.enter_async_context(hosting(PRIVATE))
        http = ProviderHttp(allow_private_addresses=lenient, guard=guard)
        stack.push_async_callback(http.aclose)
        wanted = FORMATS[name]
        config = ProvidersConfig.of(
            **homes(home.url), GOOGLE_CLOUD_PROJECT_ID="p", GCS_BASE_URL=home.url
        )
        provider = Providers(config=config, http=http).get(wanted.request.provider)
        secret = KEY
        if wanted.renews_tokens:
            # google-auth has its own transport, and knows nothing of the test's certificate.
            token_uri = f"{private.url if tls else home.url}/token"
            secret = orjson.dumps(account | {"token_uri": token_uri}).decode()
        yield World(
            format=wanted,
            home=home,
            foreign=foreign,
            private=private,
            provider=provider,
            credential=Credential(id="server", secret=secret),
        )


@pytest.fixture(params=FETCHING)
async def world(request: pytest.FixtureRequest, account: dict[str, Any]) -> AsyncIterator[World]:
    async with world_of(request.param, account) as found:
        yield found


def to(location: str, status: int = 302) -> Answering:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": location})

    return answer


@pytest.mark.parametrize(("name", "status"), by_status(FETCHING))
async def test_a_foreign_host_gets_no_key_by_any_redirect(
    name: str, account: dict[str, Any], status: int
) -> None:
    async with world_of(name, account) as world:
        world.home.answering = to(f"{world.foreign.url}/video", status)

        assert await world.download() == CLIP

        assert world.foreign.asked == ["/video"]
        assert world.foreign.with_a_key == []
        assert len(world.home.with_a_key) == 1  # it was there to be leaked


@pytest.mark.parametrize("name", FETCHING)
async def test_a_result_that_lies_elsewhere_is_fetched_without_a_key(
    name: str, account: dict[str, Any]
) -> None:
    async with world_of(name, account) as world:
        asset = Asset(variant="video", uri=f"{world.foreign.url}/video.mp4")
        opened = world.provider.open_result(world.operation, asset, world.credential)
        async with opened as stream:
            assert b"".join([chunk async for chunk in stream.chunks]) == CLIP

        assert world.foreign.asked == ["/video.mp4"]
        assert world.foreign.with_a_key == []


@pytest.mark.parametrize(("name", "status"), by_status(FETCHING))
async def test_another_port_of_the_same_host_is_foreign_too(
    name: str, account: dict[str, Any], status: int
) -> None:
    async with world_of(name, account, lenient=True) as world:
        world.home.answering = to(f"{world.private.url}/video", status)

        assert await world.download() == CLIP

        assert world.private.asked == ["/video"]
        assert world.private.with_a_key == []


async def test_an_address_without_its_scheme_is_as_foreign(world: World) -> None:
    world.home.answering = to(f"{world.foreign.url.removeprefix('http:')}/video")

    assert await world.download() == CLIP

    assert world.foreign.with_a_key == []


@pytest.mark.parametrize("name", FETCHING)
async def test_who_was_away_gets_no_key_back_at_home_either(
    name: str, account: dict[str, Any]
) -> None:
    everywhere = Guard(is_public=lambda _: True)  # home has to be allowed as foreign
    async with world_of(name, account, guard=everywhere) as world:

        async def at_home(request: web.Request) -> web.StreamResponse:
            match request.path:
                case "/back":
                    return web.Response(body=CLIP)
                case "/further":
                    raise web.HTTPFound(f"{world.foreign.url}/there")
                case _:
                    raise web.HTTPTemporaryRedirect("/further")

        world.home.answering = at_home
        world.foreign.answering = to(f"{world.home.url}/back")

        assert await world.download() == CLIP

        assert world.home.asked[-2:] == ["/further", "/back"]
        assert world.foreign.with_a_key == []
        assert len(world.home.with_a_key) == 2  # the first two, and not the one from abroad


@pytest.mark.parametrize(
    "location",
    [
        "{private}/video",
        "http://localhost:{port}/video",
        "http://[::ffff:127.0.0.1]:{port}/video",
        "http://2130706433:{port}/video",
        "http://127.1:{port}/video",
        "http://0x7f000001:{port}/video",
        "http://0:{port}/video",
        "http://169.254.169.254/latest/meta-data/",
    ],
)
async def test_a_private_address_is_not_even_connected_to(world: World, location: str) -> None:
    port = world.private.url.rpartition(":")[2]
    world.home.answering = to(location.format(private=world.private.url, port=port))

    with pytest.raises(ProtocolError, match=r"private address|cannot be used"):
        await world.download()

    assert world.private.connections == 0


async def test_a_private_address_behind_a_foreign_one_is_not_connected_to(world: World) -> None:
    world.home.answering = to(f"{world.foreign.url}/there")
    world.foreign.answering = to(f"{world.private.url}/video")

    with pytest.raises(ProtocolError, match="private address"):
        await world.download()

    assert (world.private.connections, world.foreign.with_a_key) == (0, [])


@pytest.mark.parametrize("userinfo", ["user:password@", "user@", ":password@", "a%40b:c@"])
async def test_an_address_with_a_user_in_it_is_not_followed(world: World, userinfo: str) -> None:
    host = world.foreign.url.removeprefix("http://")
    world.home.answering = to(f"http://{userinfo}{host}/video")

    with pytest.raises(ProtocolError):
        await world.download()

    assert world.foreign.connections == 0


@pytest.mark.parametrize(
    "location", ["ftp://127.0.0.2/x", "file:///etc/passwd", "gopher://127.0.0.2/_x", "http://[", ""]
)
async def test_what_is_no_web_address_is_not_followed(world: World, location: str) -> None:
    world.home.answering = to(location)

    with pytest.raises(ProviderError):
        await world.download()


@pytest.mark.parametrize("name", FETCHING)
async def test_a_chain_of_redirects_has_an_end(name: str, account: dict[str, Any]) -> None:
    async with world_of(name, account) as world:
        world.home.answering = to(f"{world.foreign.url}/1")
        world.foreign.answering = to(f"{world.foreign.url}/1")

        with pytest.raises(ProtocolError, match="more than 5 redirects"):
            await world.download()

        assert (len(world.foreign.asked), world.foreign.with_a_key) == (5, [])


@pytest.mark.parametrize(("name", "status"), by_status(FORMATS))
async def test_a_submit_and_a_look_follow_no_redirect_at_all(
    name: str, account: dict[str, Any], status: int
) -> None:
    async with world_of(name, account) as world:
        world.home.answering = to(f"{world.foreign.url}/v1/videos", status)

        with pytest.raises(ProviderError):
            await world.provider.submit(world.hostile.submission, world.credential)
        if not world.format.twin:
            with pytest.raises(ProviderError):
                await world.provider.poll(world.operation, world.credential)

        assert len(world.home.asked) >= 1
        assert world.foreign.connections == 0


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in FETCHING])
async def test_a_video_inside_an_answer_is_asked_for_at_home_only(
    name: str, account: dict[str, Any]
) -> None:
    async with world_of(name, account) as world:
        world.home.answering = to(f"{world.foreign.url}/video", 307)

        with pytest.raises(ProviderError):
            await world.download()

        assert world.foreign.connections == 0


# --- https ---


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vidgen test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(PRIVATE))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "cert.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.mark.parametrize(("name", "status"), by_status(FETCHING))
async def test_a_download_does_not_fall_from_https_to_http(
    name: str,
    account: dict[str, Any],
    status: int,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate)
    async with world_of(name, account, tls=serving) as world:
        for elsewhere in (f"{world.foreign.url}/video", world.home.url.replace("https", "http")):
            world.home.answering = to(elsewhere, status)

            with pytest.raises(ProtocolError, match="from https to http"):
                await world.download()

        assert len(world.home.with_a_key) == 2
        assert world.foreign.connections == 0


async def test_a_certificate_that_nobody_vouches_for_ends_it(
    account: dict[str, Any], certificate: Path
) -> None:
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate)
    async with world_of("sora", account, tls=serving) as world:
        with pytest.raises(TransientError):
            await world.download()
        with pytest.raises((TransientError, SubmitUnknownError)):
            await world.provider.submit(world.hostile.submission, world.credential)

        assert world.home.received == []


async def test_a_video_inside_an_answer_of_the_gemini_api_is_read_from_there(
    account: dict[str, Any],
) -> None:
    clip = base64.b64encode(CLIP).decode()
    answer = {"done": True, "response": {"videos": [{"bytesBase64Encoded": clip}]}}

    async def at_home(_: web.Request) -> web.StreamResponse:
        return web.json_response(answer)

    async with world_of("veo-gemini", account) as world:
        world.home.answering = at_home

        progress = await world.provider.poll(world.operation, world.credential)

        assert isinstance(progress, Succeeded)
        opened = world.provider.open_result(world.operation, progress.assets[0], world.credential)
        async with opened as stream:
            assert b"".join([chunk async for chunk in stream.chunks]) == CLIP
