"""The server over real PostgreSQL and Redis, each behind a proxy that can be cut."""

from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import pytest
from aiohttp import web_app
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import Application, Request
from pydantic import SecretStr

from tests.by_hand import Hand
from tests.proxy import Proxy, proxy_of
from vidgen.queue import VideoQueue
from vidgen.resources import Resources, open_resources
from vidgen.server.app import build
from vidgen.settings import Settings

TOKEN = "a-token-for-the-tests"

Client = TestClient[Request, Application]


@pytest.fixture
async def redis_proxy(redis_url: str) -> AsyncIterator[Proxy]:
    async with proxy_of(urlsplit(redis_url).port or 0) as proxy:
        yield proxy


@pytest.fixture
async def database_proxy(emptied_database_url: str) -> AsyncIterator[Proxy]:
    async with proxy_of(urlsplit(emptied_database_url).port or 0) as proxy:
        yield proxy


@pytest.fixture
def settings(emptied_database_url: str, redis_proxy: Proxy, database_proxy: Proxy) -> Settings:
    parts = urlsplit(emptied_database_url)
    address = f"vidgen:a-database-secret@127.0.0.1:{database_proxy.port}"
    return Settings(
        database_url=parts._replace(netloc=address).geturl(),
        redis_url=f"redis://127.0.0.1:{redis_proxy.port}/0",
        admin_token=SecretStr(TOKEN),
        openai_api_key=SecretStr("sk-x"),
        openai_base_url="http://sora.test/v1",
        s3_endpoint_url="http://127.0.0.1:1",
        aws_access_key_id="x",
        aws_secret_access_key=SecretStr("x"),
        http_host="127.0.0.1",
        http_port=0,
    )


@pytest.fixture
async def resources(settings: Settings) -> AsyncIterator[Resources]:
    async with open_resources(settings) as resources:
        yield resources


@pytest.fixture(autouse=True)
def no_application_kept() -> Iterator[None]:
    """aiohttp 3.14 remembers up to 1024 applications by their handlers, each with all it has."""
    yield
    web_app._cached_build_middleware.cache_clear()


@pytest.fixture
async def stranger(resources: Resources) -> AsyncIterator[Client]:
    """Somebody without the token."""
    async with TestClient(TestServer(build(resources))) as client:
        yield client


@pytest.fixture
async def admin(resources: Resources) -> AsyncIterator[Client]:
    """Somebody with the token."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with TestClient(TestServer(build(resources)), headers=headers) as client:
        yield client


@pytest.fixture
def queue(resources: Resources) -> VideoQueue:
    return VideoQueue.sharing(resources.settings, resources.database, resources.redis)


@pytest.fixture
def hand(queue: VideoQueue) -> Hand:
    return Hand(queue)
