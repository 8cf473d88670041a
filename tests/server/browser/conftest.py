"""
One Chromium and one server for all tests here, a fresh window and an empty queue for each.

They share one loop: the browser is asked by the test, and asks the server, in the same moments.
"""

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiobotocore.session
import pytest
import pytest_asyncio
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    async_playwright,
    expect,
)
from pydantic import SecretStr

from tests.by_hand import Hand
from tests.conftest import BUCKET, EMPTIED, S3_ACCESS_KEY, S3_SECRET_KEY
from tests.journeys.conftest import WorkerProcess
from tests.server.test_app import free_port
from vidgen.dev.servers import ValkeyServer
from vidgen.queue import VideoQueue
from vidgen.resources import Resources, open_resources
from vidgen.server.app import serving
from vidgen.settings import Settings
from vidgen.simulator import clips
from vidgen.simulator.s3 import S3Server
from vidgen.simulator.server import SimulatorServer
from vidgen.testing.servers import EMPTY_LEDGER

OPERATOR = "a-token-that-may-do-everything"
READER = "a-token-that-may-only-look"
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 360, "height": 740}
WAIT_MS = 15_000  # for what should take a moment, on a machine that is busy with other tests

# One browser and one loop for all of them that run in one process.
TOGETHER = [
    pytest.mark.asyncio(loop_scope="package"),
    pytest.mark.timeout(180),  # the first one starts them all, beside whatever else runs
]

ROUTES = """
[routes.cheap-landscape]
targets = ["veo/veo-3.1-lite-generate-preview", "sora/sora-2"]
max_cost_usd = 2

[routes.long-and-upright]
targets = [{ target = "sora/sora-2", seconds = 12, size = "720x1280" }]

[routes.sharp-and-silent]
targets = [{ target = "fal/fal-ai/veo3.1/fast", resolution = "1080p", audio = false }]

[routes.fal-as-it-likes]
targets = ["fal"]

[routes.my-own]
targets = ["fal/my/app"]

[routes.fal-if-there-is-a-key]
targets = [{ target = "fal", seconds = 8 }, "sora/sora-2"]
"""

OpenPage = Callable[..., Awaitable[Page]]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The server and what stands behind it."""

    url: str
    resources: Resources
    queue: VideoQueue
    hand: Hand
    simulators: SimulatorServer

    @property
    def settings(self) -> Settings:
        """What a worker needs to work here."""
        return self.resources.settings


def find_chromium() -> str:
    """The browser of this machine; without one the tests are skipped, but not in CI."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    in_ci = "CI" in os.environ  # noqa: TID251  there a test that is skipped would be missed by all
    assert not in_ci, "chromium is missing; .ci/run installs it on Debian"
    pytest.skip("chromium is not installed (apt-get install chromium)")


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def browser() -> AsyncIterator[Browser]:
    """The one Chromium; it goes without its own sandbox only where it would refuse to run."""
    expect.set_options(timeout=WAIT_MS)
    program = find_chromium()
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=options)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def running(
    tmp_path_factory: pytest.TempPathFactory, shared_database_url: str, valkey_server: ValkeyServer
) -> AsyncIterator[World]:
    """Everything that runs for all tests of this folder."""
    folder = tmp_path_factory.mktemp("browser")
    async with AsyncExitStack() as stack:
        s3 = await stack.enter_async_context(_bucket(folder))
        simulators = await stack.enter_async_context(SimulatorServer(generation_s=0.4))
        clip = clips.render("a clip", seconds=4, width=320, height=180, audio=True)
        simulators.sora.clip = simulators.veo.clip = clip
        (folder / "routes.toml").write_text(ROUTES)
        settings = Settings(
            routes_file=str(folder / "routes.toml"),
            database_url=shared_database_url,
            redis_url=valkey_server.url,
            admin_token=SecretStr(OPERATOR),
            admin_tokens=SecretStr(f"guest:read:{READER}"),
            s3_bucket=BUCKET,
            s3_endpoint_url=s3.url,
            s3_addressing_style="path",
            aws_access_key_id=S3_ACCESS_KEY,
            aws_secret_access_key=SecretStr(S3_SECRET_KEY),
            openai_api_key=SecretStr("sk-simulated"),
            openai_base_url=simulators.sora.url,
            gemini_api_key=SecretStr("gemini-simulated"),
            gemini_base_url=simulators.veo.gemini_url,
            allow_private_addresses=True,
            concurrency=20,
            rate_limit_per_min=1000,
            backoff_s=0.05,
            poll_interval_s=0.1,
            lease_ttl_s=5,
            shutdown_grace_s=2,
            progress_interval_s=0.05,
            sweep_interval_s=0.2,
            http_host="127.0.0.1",
            http_port=free_port(),
        )
        resources = await stack.enter_async_context(open_resources(settings))
        await stack.enter_async_context(serving(resources))
        queue = VideoQueue.sharing(settings, resources.database, resources.redis)
        yield World(
            url=f"http://127.0.0.1:{settings.http_port}",
            resources=resources,
            queue=queue,
            hand=Hand(queue),
            simulators=simulators,
        )


@pytest_asyncio.fixture(loop_scope="package")
async def world(running: World) -> World:
    """The same, with an empty queue."""
    async with running.resources.database.connection() as connection:
        for table in EMPTIED:
            await connection.execute(f"DELETE FROM {table}")  # noqa: S608
        await connection.execute(EMPTY_LEDGER)
    await running.resources.redis.flushall()
    running.simulators.sora.reset()
    running.simulators.veo.reset()
    return running


@pytest_asyncio.fixture(loop_scope="package")
async def worker(world: World) -> AsyncIterator[WorkerProcess]:
    """A worker as an operator starts it."""
    settings = world.settings.model_copy(update={"http_port": 0})
    async with WorkerProcess(settings) as worker:
        yield worker


@pytest_asyncio.fixture(loop_scope="package")
async def open_page(world: World, browser: Browser) -> AsyncIterator[OpenPage]:
    """
    Open windows, each of a person of its own; one that complains about anything fails the test.

    `await open_page("#/jobs", token=READER, viewport=PHONE, color_scheme="dark")`; a *token* of
    None is somebody who has not logged in, *allow* parts of complaints that are meant to be,
    *url* another way to the server.
    """
    complaints: list[str] = []
    contexts: list[BrowserContext] = []

    async def open_one(
        route: str = "",
        *,
        token: str | None = OPERATOR,
        allow: str | tuple[str, ...] = (),
        url: str = world.url,
        **options: Any,
    ) -> Page:
        context = await browser.new_context(**{"viewport": DESKTOP, **options})
        contexts.append(context)
        context.set_default_timeout(WAIT_MS)
        allowed = (allow,) if isinstance(allow, str) else allow

        def note(text: str) -> None:
            if not any(part in text for part in allowed):
                complaints.append(text)

        def note_message(message: ConsoleMessage) -> None:
            if message.type in {"error", "warning"}:  # violations of the policy are errors
                note(f"{message.text} ({message.location})")

        context.on("console", note_message)
        context.on("weberror", lambda error: note(f"{error.error}"))
        if token is not None:
            answer = await context.request.post(f"{url}/api/login", data={"token": token})
            assert answer.ok, await answer.text()
        page = await context.new_page()
        await page.goto(f"{url}/{route}")
        return page

    yield open_one
    for context in contexts:
        await context.close()
    assert not complaints, "\n".join(complaints)


@asynccontextmanager
async def another_server(world: World, **settings: Any) -> AsyncIterator[str]:
    """One more server for the same queue, with other *settings*; its address."""
    changed = world.settings.model_copy(update={"http_port": free_port(), **settings})
    async with open_resources(changed) as resources, serving(resources):
        yield f"http://127.0.0.1:{changed.http_port}"


@asynccontextmanager
async def _bucket(folder: Path) -> AsyncIterator[S3Server]:
    server = S3Server(folder / "s3", access_key=S3_ACCESS_KEY, secret_key=S3_SECRET_KEY)
    await server.start()
    try:
        async with aiobotocore.session.get_session().create_client(
            "s3",
            endpoint_url=server.url,
            region_name="us-east-1",
            aws_access_key_id=S3_ACCESS_KEY,
            aws_secret_access_key=S3_SECRET_KEY,
        ) as client:
            await client.create_bucket(Bucket=BUCKET)
        yield server
    finally:
        await server.stop()
