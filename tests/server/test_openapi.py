"""
What `/openapi.json` says against what is served: schemathesis asks everything that is allowed, and
much that is not, over a real socket.
"""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
import schemathesis
from aiohttp import ClientSession, web
from pydantic import SecretStr

from tests.by_hand import Hand
from tests.server.conftest import TOKEN
from vidgen.errors import GenerationTimeoutError
from vidgen.job import VideoRequest
from vidgen.queue import VideoQueue
from vidgen.resources import Resources
from vidgen.server import access, connection, openapi
from vidgen.server.app import build, operations
from vidgen.server.keys import HUB
from vidgen.settings import Settings
from vidgen.simulator.s3 import S3Server
from vidgen.simulator.server import SimulatorServer

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
PHASES = "examples,coverage,fuzzing,stateful"
CHECKS = ",".join(
    [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        "negative_data_rejection",
        "missing_required_header",
        "ignored_auth",
        "unsupported_method",
        "allow_header_conformance",
        "use_after_free",
        "ensure_resource_availability",
    ]
)
EXAMPLES = 40  # of each operation and phase
STREAM_S = 0.05
PATIENCE_S = 30
TRAM = VideoRequest(provider="sora", prompt="a tram in the rain")


@pytest.fixture
def settings(settings: Settings, simulator: SimulatorServer, s3: S3Server) -> Settings:
    return settings.model_copy(
        update={
            "s3_endpoint_url": s3.url,
            "s3_addressing_style": "path",
            "aws_access_key_id": "test-access-key",
            "aws_secret_access_key": SecretStr("test-secret-key"),
            "openai_base_url": simulator.sora.url,
            "gemini_api_key": SecretStr("gemini-simulated"),
            "gemini_base_url": simulator.veo.gemini_url,
        }
    )


@asynccontextmanager
async def served(resources: Resources) -> AsyncIterator[str]:
    """
    The address of a server whose streams end early.

    Whoever follows is let go again and again, as at a deploy: a tool that reads each answer to its
    end would else never come to the next one.
    """
    app = build(resources)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()

    async def let_go() -> None:
        while True:
            app[HUB].end()
            await asyncio.sleep(STREAM_S)

    try:
        assert runner.server is not None  # it was set up
        listening = await connection.listen(runner.server, resources.settings, "127.0.0.1", 0)
        try:
            async with asyncio.TaskGroup() as group:
                letting_go = group.create_task(let_go())
                yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
                letting_go.cancel()
        finally:
            listening.close()
    finally:
        await runner.cleanup()


async def some_of_each(queue: VideoQueue, hand: Hand) -> list[str]:
    """The ids of jobs in every state that a request may find them in."""
    late = datetime.now(UTC) + timedelta(days=1)
    generating = await hand.submit(await hand.claim(await queue.enqueue(TRAM)))
    lost = await hand.submit(await hand.claim(await queue.enqueue(TRAM)))
    jobs = [
        await queue.enqueue(TRAM, metadata={"order": [1, None]}),
        await queue.enqueue(TRAM, run_at=late, webhook_url="https://me.test/hook"),
        generating,
        await hand.carry(await queue.enqueue(TRAM, scene_id="scene-7", user_id="ada")),
        await hand.fail(lost, GenerationTimeoutError("no verdict after 120 looks")),
        await hand.fail(await queue.enqueue(TRAM)),
        await queue.cancel((await queue.enqueue(TRAM)).id),
    ]
    return [str(job.id) for job in jobs]


def with_examples(document: dict[str, Any], ids: list[str]) -> dict[str, Any]:
    """*document* with ids that exist: of itself it cannot know any."""
    for path in document["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    parameter["examples"] = {
                        f"job {number}": {"value": each} for number, each in enumerate(ids)
                    }
    return document


def described() -> dict[str, Any]:
    """The description as it is served: JSON, and nothing of Python in it."""
    document: dict[str, Any] = orjson.loads(orjson.dumps(openapi.document(operations())))
    return document


def test_the_description_is_valid_openapi_3_1() -> None:
    document = described()

    schemathesis.openapi.from_dict(document).validate()

    assert document["openapi"] == "3.1.0"


def test_every_reference_in_the_description_leads_somewhere() -> None:
    document = described()

    used = set(re.findall(r'"#/components/schemas/(\w+)"', orjson.dumps(document).decode()))

    assert used == set(document["components"]["schemas"])


@pytest.mark.timeout(600)
async def test_nothing_is_answered_that_is_not_described(
    resources: Resources,
    queue: VideoQueue,
    hand: Hand,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(access, "MAX_FAILURES", 1_000_000)  # it tries many wrong tokens
    ids = await some_of_each(queue, hand)
    file = tmp_path / "openapi.json"

    async with served(resources) as url:
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        async with (
            ClientSession(headers=bearer) as session,
            session.get(f"{url}/openapi.json") as answer,
        ):
            document = await answer.json()
        assert document == described()
        file.write_bytes(orjson.dumps(with_examples(document, ids)))
        process = await asyncio.create_subprocess_exec(
            str(SCHEMATHESIS),
            "run",
            str(file),
            f"--url={url}",
            f"--header=Authorization: Bearer {TOKEN}",
            f"--phases={PHASES}",
            f"--checks={CHECKS}",
            f"--max-examples={EXAMPLES}",
            f"--request-timeout={PATIENCE_S}",
            "--generation-deterministic",  # the same in each run, so that a failure comes again
            "--suppress-health-check=all",  # a busy machine is no failure
            "--continue-on-failure",
            "--workers=1",  # Python 3.11 cannot parse in two threads at once (gh-106905)
            "--no-shrink",
            "--no-color",
            cwd=tmp_path,
            env={"PATH": os.defpath, "HOME": str(tmp_path), "COLUMNS": "160"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    assert process.returncode == 0, said.decode()
    assert f"Operations:       {len(operations())} selected" in said.decode()
