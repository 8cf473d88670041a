"""Each block of Python in deploy/GUIDES.md does what is said around it, against real servers."""

import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import orjson
import pytest
from aiohttp.test_utils import TestClient, TestServer
from django.conf import settings as django_settings
from django.test import AsyncRequestFactory
from standardwebhooks import Webhook

from tests.by_hand import Hand
from tests.conftest import environment_of
from vidgen import VideoQueue, VideoRequest
from vidgen.errors import GenerationFailedError
from vidgen.settings import Settings

GUIDES = (Path(__file__).parents[1] / "deploy" / "GUIDES.md").read_text()
BLOCKS = dict(re.findall(r"<!-- run: (\w+) -->\n```python\n(.*?)```", GUIDES, re.DOTALL))
SECRET = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: Settings) -> None:
    """What the service would have; no `.env` of ours."""
    monkeypatch.chdir(tmp_path)
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("VIDEO_WEBHOOK_SECRET", SECRET)


@pytest.fixture
async def queue(settings: Settings) -> AsyncIterator[VideoQueue]:
    async with VideoQueue(settings) as queue:
        yield queue


def block(name: str) -> dict[str, Any]:
    """What the block *name* defines."""
    defined: dict[str, Any] = {"__name__": name}
    exec(compile(BLOCKS[name], f"deploy/GUIDES.md {name}", "exec"), defined)  # noqa: S102  our own
    return defined


def test_no_block_is_left_out() -> None:
    assert len(BLOCKS) == GUIDES.count("```python")
    tested = {name for name in BLOCKS if f'block("{name}")' in Path(__file__).read_text()}
    assert tested == set(BLOCKS)


def calling(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")


async def test_fastapi(queue: VideoQueue) -> None:
    app = block("fastapi")["app"]
    async with app.router.lifespan_context(app), calling(app) as client:
        answers = [
            await client.post("/scenes/7/video", params={"prompt": "a tram"}) for _ in range(2)
        ]
        refused = await client.post("/scenes/8/video", params={"prompt": "x" * 40_000})
        state = (await client.get(f"/videos/{answers[0].json()['job']}")).json()

    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json() == answers[1].json()
    assert (await queue.get(UUID(answers[0].json()["job"]))).scene_id == "7"
    assert state == {"status": "pending", "progress": 0, "error": None, "key": None}
    assert (refused.status_code, refused.json()["detail"]["code"]) == (422, "invalid_request")


async def test_aiohttp(queue: VideoQueue) -> None:
    async with TestClient(TestServer(block("aiohttp")["app"])) as client:
        taken = await client.post("/videos", json={"prompt": "a tram", "customer": "alice"})
        refused = await client.post("/videos", json={"prompt": "", "customer": "alice"})

        job = await queue.get(UUID((await taken.json())["job"]))
        assert (taken.status, job.user_id) == (202, "alice")
        assert refused.status == 422


async def test_django(queue: VideoQueue) -> None:
    if not django_settings.configured:
        django_settings.configure()
    factory = AsyncRequestFactory()

    answer = await block("django")["order"](
        factory.post("/videos", {"prompt": "a tram", "order": "4711"})
    )

    job = await queue.get(UUID(orjson.loads(answer.content)["job"]))
    assert (answer.status_code, dict(job.metadata)) == (202, {"order": "4711"})


async def test_inside_a_transaction(queue: VideoQueue, settings: Settings) -> None:
    place_order = block("transaction")["place_order"]
    connection = await asyncpg.connect(settings.database_url, timeout=10)
    try:
        await connection.execute(
            "CREATE TABLE orders (id serial PRIMARY KEY, customer text, job_id uuid)"
        )
        placed = await place_order(connection, queue, "alice", "a tram")
        unfinished = connection.transaction()
        await unfinished.start()
        await place_order(connection, queue, "bob", "a tram")
        await unfinished.rollback()
        orders = await connection.fetch("SELECT id, customer, job_id FROM orders")
    finally:
        await connection.close(timeout=10)

    [order] = orders
    assert (order["id"], order["customer"]) == (placed, "alice")
    assert [job.id for job in await queue.recent()] == [order["job_id"]]


async def test_following_a_job(
    queue: VideoQueue, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    follow = block("follow")["follow"]
    video = VideoRequest(provider="sora", prompt="a tram", seconds=4)
    made = await Hand(queue).carry(await queue.enqueue(video))
    failed = await Hand(queue).fail(await queue.enqueue(video), GenerationFailedError("no luck"))

    assert await follow(queue, made.id) == made.storage_key
    assert "completed 100" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="generation_failed: no luck"):
        await follow(queue, failed.id)


async def test_a_receiver_of_webhooks() -> None:
    defined = block("receiver")
    body = (
        b'{"type": "video.completed", "timestamp": "now", "data": {"id": "1", "storage_key": "k"}}'
    )
    at = datetime.now(UTC)
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(SECRET).sign("msg_1", at, body.decode()),
    }

    async with calling(defined["app"]) as client:
        taken = await client.post("/hooks/video", content=body, headers=headers)
        forged = await client.post("/hooks/video", content=body + b" ", headers=headers)

    assert (taken.status_code, forged.status_code) == (204, 400)
    assert defined["finished"] == {"1": "k"}


def test_the_script_of_node_is_one(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        assert "CI" not in os.environ, "node is missing; .ci/run installs it on Debian"  # noqa: TID251
        pytest.skip("there is no node here")
    [script] = re.findall(r"```js\n(.*?)```", GUIDES, re.DOTALL)
    file = tmp_path / "order.mjs"
    file.write_text(f"const scene = {{}};\n{script}")
    subprocess.run([node, "--check", str(file)], check=True, timeout=60)


@pytest.mark.parametrize(
    "block_", re.findall(r"```bash\n(.*?)```", GUIDES, re.DOTALL), ids=lambda text: text[:20]
)
def test_what_a_shell_is_told_are_settings_and_commands(block_: str) -> None:
    known = {str(info.validation_alias) for info in Settings.model_fields.values()}
    for line in block_.splitlines():
        name, sign, _ = line.partition("=")
        assert (sign and name in known) or line.startswith(("vidgen keys add ", "openssl rand "))
