"""The servers of dev mode together, as one thing that leaves nothing behind."""

import asyncio
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pydantic import SecretStr

from tests.conftest import environment_of
from vidgen import JobStatus, VideoJob, VideoRequest
from vidgen.dev import environment
from vidgen.dev.stack import Stack, Worker
from vidgen.errors import SettingsError
from vidgen.queue import VideoQueue
from vidgen.settings import Settings

STARTS_ALL_AND_WAITS = """
import sys
from pathlib import Path
from vidgen.dev.stack import Stack, Worker

folder = Path(sys.argv[1])
with Stack(folder, durable=False) as stack, Worker(stack.settings, folder / "worker.log") as worker:
    sys.stdout.write("ready\\n")
    sys.stdout.flush()
    worker.wait()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="vidgen-stack-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def test_a_video_is_made_and_its_job_is_there_after_a_restart(folder: Path) -> None:
    request = VideoRequest(provider="veo", prompt="a tram in the sun", seconds=4)
    told: list[str] = []

    with (
        Stack(folder, generation_s=0.5, say=lambda what, _: told.append(what)) as stack,
        Worker(stack.settings, folder / "worker.log"),
    ):
        made = asyncio.run(_make(stack.settings, request))
    with Stack(folder) as again:
        kept = asyncio.run(_get(again.settings, made))

    assert told == ["PostgreSQL", "Valkey (Redis)", "S3", "Providers, simulated"]
    assert kept == made
    assert made.status is JobStatus.COMPLETED
    assert again.settings.s3_endpoint_url == stack.settings.s3_endpoint_url
    assert again.settings.openai_base_url == stack.settings.openai_base_url
    assert again.settings.admin_token == stack.settings.admin_token


def test_what_is_secret_in_the_folder_is_closed_to_others(folder: Path) -> None:
    with Stack(folder, durable=False) as stack:
        environment.write_file(folder / "env", stack.settings)

        for name in ("keys.json", "service-account.json", "env"):
            assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def test_a_folder_is_one_stack_at_a_time(folder: Path) -> None:
    with Stack(folder, durable=False), pytest.raises(SettingsError, match="in use"):
        Stack(folder, durable=False).start()


@pytest.mark.parametrize("text", ["", "[]", "{}", "nonsense"])
def test_broken_keys_are_named(folder: Path, text: str) -> None:
    (folder / "keys.json").write_text(text)

    with pytest.raises(SettingsError, match=r"keys\.json is not what vidgen wrote"):
        Stack(folder).start()


def test_a_shell_that_sources_the_file_has_the_settings(folder: Path) -> None:
    settings = Settings(
        database_url="postgresql://vidgen:it's%20%24HOME@127.0.0.1/x", redis_url="redis://h"
    )
    environment.write_file(folder / "env", settings)

    said = subprocess.run(
        ["/bin/sh", "-c", '. ./env; printf %s "$DATABASE_URL"'],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )

    assert said.stdout == settings.database_url


def test_a_child_sees_the_settings_it_was_given_and_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-real")
    monkeypatch.setenv("VIDGEN_CONCURRENCY", "7")
    monkeypatch.setenv("VIDGEN_MISSPELT", "x")
    monkeypatch.setenv("EDITOR", "ed")
    settings = Settings(gemini_api_key=SecretStr("given"))

    seen = environment.for_child(settings)

    assert (seen["GEMINI_API_KEY"], seen["EDITOR"]) == ("given", "ed")
    assert (seen["OPENAI_API_KEY"], seen["VIDGEN_CONCURRENCY"]) == ("", "")
    assert "VIDGEN_MISSPELT" not in seen


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_nothing_outlives_a_killed_parent(folder: Path) -> None:
    parent = _start_parent(folder)
    started = psutil.Process(parent.pid).children(recursive=True)

    parent.kill()
    parent.communicate()

    assert len(started) >= 4
    _, alive = psutil.wait_procs(started, timeout=10)
    assert not alive


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become an ordinary user")
def test_an_ordinary_user_needs_nothing_special(folder: Path) -> None:
    if not all(
        parent.stat().st_mode & stat.S_IXOTH for parent in Path(sys.executable).resolve().parents
    ):
        pytest.skip("this Python lies in a folder that is closed to other users")
    os.chown(folder, 65534, 65534)

    parent = _start_parent(folder, user=65534)
    parent.terminate()
    parent.communicate(timeout=20)

    assert (folder / "worker.log").stat().st_uid == 65534


def _start_parent(folder: Path, user: int | None = None) -> "subprocess.Popen[str]":
    parent = subprocess.Popen(
        [sys.executable, "-c", STARTS_ALL_AND_WAITS, str(folder)],
        env=environment_of(Settings()),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        user=user,
        extra_groups=None if user is None else [],
    )
    assert parent.stdout is not None
    if parent.stdout.readline() != "ready\n":
        pytest.fail(parent.communicate()[1])
    return parent


async def _make(settings: Settings, request: VideoRequest) -> VideoJob:
    async with VideoQueue(settings) as queue:
        job = await queue.enqueue(request)
        return await queue.wait(job.id, timeout=30)


async def _get(settings: Settings, job: VideoJob) -> VideoJob:
    async with VideoQueue(settings) as queue:
        return await queue.get(job.id)
