"""The worker as arq reads it, and what it says when it cannot start."""

import asyncio
import inspect
import socket
import sys
from pathlib import Path
from typing import Any

import arq.worker
import pytest

from tests.conftest import environment_of
from vidgen.settings import Settings
from vidgen.worker import worker_settings

ARQ = Path(sys.executable).with_name("arq")
START_TIMEOUT_S = 30


def a_free_environment(**more: str) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", **more}


async def run_worker(environment: dict[str, str], folder: Path) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        str(ARQ),
        "vidgen.worker.WorkerSettings",
        env=environment,
        cwd=folder,  # where no .env is
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        output, _ = await process.communicate()
        pytest.fail(f"the worker goes on: {output.decode()}")
    assert process.returncode is not None
    return process.returncode, output.decode()


def test_arq_knows_every_attribute_of_the_worker_settings() -> None:
    settings = Settings(redis_url="redis://127.0.0.1", database_url="postgresql://u@h/d")

    ours = {name for name in vars(worker_settings(settings)) if not name.startswith("__")}

    # A misspelt or inherited one would be ignored without a word.
    assert ours <= set(inspect.signature(arq.worker.Worker).parameters)
    assert {"functions", "cron_jobs", "on_startup", "on_shutdown", "redis_settings"} <= ours


async def test_every_missing_setting_is_told_at_once(tmp_path: Path) -> None:
    code, output = await run_worker(a_free_environment(VIDGEN_CONCURENCY="3"), tmp_path)

    assert code == 2
    for name in ("DATABASE_URL", "REDIS_URL", "VIDGEN_CONCURENCY"):
        assert name in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"s3_bucket": "nowhere"}, "bucket_missing"),
        ({"aws_access_key_id": "stranger"}, "storage_denied"),
    ],
)
async def test_a_bucket_that_cannot_be_used_ends_the_start_with_a_sentence(
    settings: Settings, tmp_path: Path, change: dict[str, Any], code: str
) -> None:
    environment = environment_of(settings.model_copy(update=change))

    exit_code, output = await run_worker(environment, tmp_path)

    assert exit_code == 1
    assert f'"code":"{code}"' in output
    assert str(settings.s3_endpoint_url) in output


async def test_a_port_that_is_taken_ends_the_start_with_a_sentence(
    settings: Settings, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        environment = environment_of(settings.model_copy(update={"http_port": port}))

        exit_code, output = await run_worker(environment, tmp_path)

    assert exit_code == 2
    assert "VIDGEN_HTTP_PORT" in output
