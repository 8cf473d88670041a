"""The scripts of deploy/ and compose.yaml, run as they are."""

import asyncio
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError

from tests.conftest import environment_of
from tests.deploy.dockerfile import ROOT
from tests.deploy.test_files import SERVICES
from tests.journeys.conftest import WorkerProcess
from vidgen.dev.servers import find_valkey
from vidgen.settings import Settings, describe
from vidgen.simulator.clips import render
from vidgen.simulator.server import SimulatorServer

START = ROOT / "deploy" / "start-worker.sh"
SECRETS = ROOT / "deploy" / "compose-secrets.sh"
BIN = Path(sys.executable).parent
TIMEOUT_S = 40

# --- secrets of Compose ---------------------------------------------------------------------------


def make_secrets(folder: Path, *arguments: str, stdin: str = "") -> int:
    done = subprocess.run(
        [SECRETS, *arguments],
        env={"PATH": "/usr/bin:/bin", "SECRETS_FOLDER": str(folder)},
        input=stdin,
        text=True,
        capture_output=True,
        check=False,
    )
    return done.returncode


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("name", ["vidgen", "demo"])
def test_the_secrets_of_compose_are_settings_that_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for setting in describe():
        monkeypatch.delenv(setting.name, raising=False)
    assert make_secrets(tmp_path) == 0
    monkeypatch.setenv("VIDGEN_SECRETS_DIR", str(tmp_path / name))

    settings = Settings.load()

    assert settings.admin_token is not None
    assert settings.aws_secret_access_key is not None
    assert "@postgres:5432/" in settings.database_url
    assert (len(settings.encryption_key_bytes), len(settings.webhook_signers)) == (
        (1, 1) if name == "vidgen" else (0, 0)
    )


def test_the_secrets_of_compose_are_made_once_and_others_can_be_put_beside(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    before = contents(tmp_path)

    codes = [
        make_secrets(tmp_path, "put", "OPENAI_API_KEY", stdin="sk-1\n"),
        make_secrets(tmp_path, "put", "../x", stdin="sk-1\n"),
        make_secrets(tmp_path),
    ]

    assert codes == [0, 2, 0]
    assert contents(tmp_path) == before | {"vidgen/OPENAI_API_KEY": "sk-1\n"}
    secret = [text for name, text in before.items() if "/" not in name]
    assert len(set(secret)) == len(secret)


def test_the_secrets_of_compose_leave_what_was_put(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    first = contents(tmp_path)
    ring = f"{'A' * 43}=,{first['vidgen/ENCRYPTION_KEY']}"
    put = {
        "DATABASE_URL": "postgresql://elsewhere/x",
        "ADMIN_TOKEN": "mine",
        "ENCRYPTION_KEYS": ring,
    }

    codes = [make_secrets(tmp_path, "put", name, stdin=text) for name, text in put.items()]
    codes.append(make_secrets(tmp_path))

    after = contents(tmp_path)
    assert codes == [0, 0, 0, 0]
    assert {name: after[f"vidgen/{name}"] for name in put} == put
    assert "vidgen/ENCRYPTION_KEY" not in after
    assert after["encryption_key.before"] == first["vidgen/ENCRYPTION_KEY"]


def test_the_demo_of_compose_has_a_token_of_its_own(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    (tmp_path / "demo" / "ADMIN_TOKEN").write_text((tmp_path / "admin_token").read_text())

    make_secrets(tmp_path)

    found = contents(tmp_path)
    assert found["demo/ADMIN_TOKEN"] not in found["vidgen/ADMIN_TOKEN"]


async def test_redis_takes_what_compose_gives_it(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    port = free_port()
    program, *arguments = [
        word.replace("/run/secrets", str(tmp_path)).replace("${REDIS_MAXMEMORY:-256mb}", "256mb")
        for word in SERVICES["redis"]["command"]
    ]
    assert program == "redis-server"
    server = await asyncio.create_subprocess_exec(
        *(str(find_valkey()), *arguments, "--port", str(port), "--dir", str(tmp_path)),
        *("--bind", "127.0.0.1"),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert server.stdout is not None
        async with asyncio.timeout(TIMEOUT_S):
            while b"Ready to accept connections" not in await server.stdout.readline():
                pass
        password = (tmp_path / "redis_password").read_text()
        async with Redis(port=port, password=password) as redis:
            told = await redis.config_get("*")
        with pytest.raises(AuthenticationError):
            async with Redis(port=port) as stranger:
                await stranger.ping()
    finally:
        server.terminate()
        await server.communicate()

    assert told["maxmemory"] == str(256 * 1024 * 1024)
    assert (told["maxmemory-policy"], told["appendonly"]) == ("noeviction", "yes")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- the demo of Compose --------------------------------------------------------------------------


async def test_the_demo_of_compose_makes_a_video_of_each_provider(
    settings: Settings, simulator: SimulatorServer, tmp_path: Path
) -> None:
    clip = render("boat", seconds=1, width=320, height=180, audio=False)
    for provider in (simulator.sora, simulator.veo):
        provider.clip, provider.generation_s = clip, 0.2
    (tmp_path / "ADMIN_TOKEN").write_text("a-token")
    script = SERVICES["demo"]["command"][-1].replace("$$", "$")
    script = script.replace("${VIDGEN_DEMO_PORT:-3001}", "3001")
    script = script.replace("/run/secrets/demo", str(tmp_path))

    async with WorkerProcess(settings):
        code, said = await run("sh", "-ec", script, environment=environment(settings))

    assert code == 0, said
    assert len(re.findall(r"X-Amz-Signature=", said)) == 2
    assert "http://127.0.0.1:3001/ shows them; its token: a-token" in said
    assert [len(each.bill) for each in (simulator.sora, simulator.veo)] == [1, 1]


def environment(settings: Settings, **more: str) -> dict[str, str]:
    return environment_of(settings) | {"PATH": f"{BIN}:/usr/bin:/bin"} | more


async def run(*command: str, environment: dict[str, str]) -> tuple[int | None, str]:
    async with starting(*command, environment=environment) as process:
        assert process.stdout is not None
        async with asyncio.timeout(TIMEOUT_S):
            said = await process.stdout.read()
            return await process.wait(), said.decode()


@asynccontextmanager
async def starting(
    *command: str, environment: dict[str, str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *command,
        env=environment,
        cwd="/",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


# --- start-worker ---------------------------------------------------------------------------------


async def test_start_worker_looks_migrates_and_becomes_the_worker(
    settings: Settings, empty_database_url: str
) -> None:
    settings = settings.model_copy(update={"database_url": empty_database_url})

    async with (
        starting(str(START), environment=environment(settings)) as worker,
        asyncio.timeout(TIMEOUT_S),
    ):
        assert worker.stdout is not None
        said = ""
        while "worker ready" not in said:
            line = await worker.stdout.readline()
            assert line, said
            said += line.decode()
        worker.send_signal(signal.SIGTERM)
        rest = await worker.stdout.read()
        code = await worker.wait()

    assert code == 0
    assert "applied 0001_initial" in said
    assert re.search(r"(?s)ok +bucket .*applied 0001_initial.*all is there, starting", said)
    assert "worker stopped" in rest.decode()


@pytest.mark.parametrize(
    ("changes", "code", "sentence"),
    [
        ({"VIDGEN_CONCURRENCY": "many"}, 2, "VIDGEN_CONCURRENCY: came 'many'"),
        ({"S3_BUCKET": "other"}, 1, "PROBLEM  bucket"),
        ({"START_PATIENCE_S": "soon"}, 2, "START_PATIENCE_S: came 'soon'"),
        ({"PATH": "/usr/bin:/bin"}, 127, "vidgen is not installed, or not in PATH"),
    ],
    ids=["settings", "bucket", "patience", "path"],
)
async def test_start_worker_says_what_is_missing_and_ends(
    settings: Settings, changes: dict[str, str], code: int, sentence: str
) -> None:
    given = environment(settings, START_PATIENCE_S="0") | changes

    ended, said = await run(str(START), environment=given)

    assert ended == code, said
    assert sentence in said
    assert "start-worker: " in said


async def test_start_worker_ends_at_once_while_it_waits(settings: Settings) -> None:
    given = environment(settings, REDIS_URL="redis://127.0.0.1:1/0")

    async with (
        starting(str(START), environment=given) as script,
        asyncio.timeout(TIMEOUT_S),
    ):
        assert script.stdout is not None
        said = ""
        while "looking again" not in said:
            line = await script.stdout.readline()
            assert line, said
            said += line.decode()
        script.send_signal(signal.SIGTERM)
        code = await script.wait()

    assert code == 143
    assert "PROBLEM  redis" in said
