"""The command line as programs and people call it: processes, their words and exit codes."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from tests.conftest import environment_of
from tests.journeys.conftest import WorkerProcess
from vidgen import VideoRequest
from vidgen.job import JobStatus
from vidgen.queue import VideoQueue
from vidgen.settings import Settings
from vidgen.simulator import Rule
from vidgen.simulator.server import SimulatorServer

TIMEOUT_S = 30
PROMPT = "a tram in the rain"
NOWHERE = "postgresql://nobody@127.0.0.1:1/none"
ESCAPE = "\x1b"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What one run of the program said."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return orjson.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [orjson.loads(line) for line in self.out.splitlines()]


@dataclass(frozen=True, slots=True)
class Program:
    """`vidgen` with *environment* as its whole environment, in *folder*."""

    environment: dict[str, str]
    folder: Path

    async def __call__(self, *arguments: str, stdin: bytes = b"") -> Said:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "vidgen",
            *arguments,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        async with asyncio.timeout(TIMEOUT_S):
            out, err = await process.communicate(stdin)
        assert process.returncode is not None
        said = Said(code=process.returncode, out=out.decode(), err=err.decode())
        assert "Traceback" not in said.err, said.err
        assert ESCAPE not in said.out + said.err
        return said


@pytest.fixture
def vidgen(settings: Settings, tmp_path: Path) -> Program:
    return Program(environment_of(settings), tmp_path)


@pytest.fixture
def without_settings(tmp_path: Path) -> Program:
    return Program({"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}, tmp_path)


@pytest.fixture
async def queue(settings: Settings) -> AsyncIterator[VideoQueue]:
    async with VideoQueue(settings) as queue:
        yield queue


def away(vidgen: Program, **changes: str) -> Program:
    return Program(vidgen.environment | changes, vidgen.folder)


# --- the program itself ---


async def test_the_help_names_every_command_and_the_exit_codes(without_settings: Program) -> None:
    said = await without_settings("--help")

    assert said.code == 0
    for name in [
        *("demo", "dev", "worker", "serve", "migrate", "health"),
        *("submit", "watch", "jobs", "show", "cancel", "retry", "stats"),
    ]:
        assert f" {name} " in said.out
    assert "130 interrupted" in said.out


def test_the_help_waits_for_nothing_heavy() -> None:
    check = (
        "import sys, vidgen.cli;"
        "heavy = {'aiohttp', 'aiobotocore', 'arq', 'asyncpg', 'redis', 'av', 'pydantic'};"
        "sys.exit(repr(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )

    done = subprocess.run([sys.executable, "-c", check], capture_output=True, check=False)

    assert done.returncode == 0, done.stderr


async def test_the_version_is_that_of_the_package(without_settings: Program) -> None:
    from importlib.metadata import version

    said = await without_settings("--version")

    assert (said.code, said.out) == (0, f"vidgen {version('vidgen')}\n")


async def test_wrong_settings_are_told_all_at_once(without_settings: Program) -> None:
    vidgen = away(without_settings, VIDGEN_CONCURRENCY="many")

    for command in (["jobs"], ["stats", "--json"], ["worker"], ["serve"], ["health"]):
        said = await vidgen(*command)

        assert said.code == 2
        assert said.out == ""
        assert said.err.startswith("error [settings_invalid]: ")
        for name in ("DATABASE_URL", "REDIS_URL", "VIDGEN_CONCURRENCY"):
            assert name in said.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["show", "nonsense"],
        ["show"],
        ["jobs", "--status", "nonsense"],
        ["jobs", "--limit", "0"],
        ["submit", PROMPT],
        ["submit", "--provider", "sora"],
        ["submit", PROMPT, "--provider", "sora", "--seconds", "long"],
    ],
    ids=" ".join,
)
async def test_wrong_arguments_exit_with_two(
    without_settings: Program, arguments: list[str]
) -> None:
    said = await without_settings(*arguments)

    assert (said.code, said.out) == (2, "")
    assert "Usage: " in said.err


async def test_a_database_that_is_away_is_one_sentence(vidgen: Program) -> None:
    said = await away(vidgen, DATABASE_URL=NOWHERE)("jobs", "--json")

    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("error [database_unavailable]: ")
    assert said.err.count("\n") == 1


# --- submit ---


async def test_submit_accepts_everything_a_request_can_say(
    vidgen: Program, queue: VideoQueue, tmp_path: Path
) -> None:
    frame = tmp_path / "frame.png"
    frame.write_bytes(_png(1280, 720))

    said = await vidgen(
        *("submit", "-", "--provider", "veo", "--model", "veo-3.1-generate-001"),
        *("--seconds", "8", "--aspect-ratio", "16:9", "--resolution", "1080p", "--seed", "7"),
        *("--negative-prompt", "people", "--no-audio", "--first-frame", str(frame)),
        *("--last-frame", "http://127.0.0.1:1/last.png", "--extra", "enhancePrompt=true"),
        *("--idempotency-key", "key", "--priority", "3", "--run-at", "+10m"),
        *("--webhook-url", "http://127.0.0.1:1/hook", "--metadata", "order=7=8"),
        *("--scene-id", "scene", "--user-id", "user", "--deadline", "900", "--json"),
        stdin=f"  {PROMPT}\n".encode(),
    )
    job = await queue.get(UUID(said.document["id"]))

    assert said.code == 0
    assert job.prompt == PROMPT
    assert (job.priority, job.deadline_s, job.idempotency_key) == (3, 900, "key")
    assert (job.scene_id, job.user_id, job.metadata) == ("scene", "user", {"order": "7=8"})
    assert job.webhook_url == "http://127.0.0.1:1/hook"
    assert job.due_at is not None
    assert (job.due_at - job.created_at).total_seconds() == pytest.approx(600, abs=10)
    parameters = dict(job.parameters)
    assert [image["role"] for image in parameters.pop("images")] == ["first_frame", "last_frame"]  # type: ignore[union-attr,call-overload,index]  # JSON
    assert parameters == {
        "seconds": 8,
        "size": None,
        "aspect_ratio": "16:9",
        "resolution": "1080p",
        "negative_prompt": "people",
        "seed": 7,
        "audio": False,
        "extra": {"enhancePrompt": True},
    }


async def test_submit_prints_the_id_and_nothing_else_into_a_pipe(
    vidgen: Program, queue: VideoQueue
) -> None:
    said = await vidgen("submit", PROMPT, "--provider", "sora")

    assert (await queue.get(UUID(said.out.strip()))).prompt == PROMPT


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--provider", "nobody"], "[unknown_provider]: There is no provider 'nobody'"),
        (["--provider", "sora", "--model", "sora-9"], "[unknown_model]: "),
        (["--provider", "sora", "--seconds", "7"], "takes seconds 4, 8, 12, 16, 20; 7 came"),
        (["--provider", "sora", "--first-frame", "missing.png"], "missing.png cannot be read: No"),
        (["--provider", "sora", "--first-frame", "."], ". cannot be read: Is a directory"),
        (["--provider", "sora", "--first-frame", __file__], "[invalid_request]: "),
        (["--provider", "sora", "--run-at", "tomorrow"], "--run-at came as 'tomorrow'"),
        (["--provider", "sora", "--extra", "a"], "--extra came as 'a'; wanted KEY=VALUE"),
        (["--provider", "sora", "--extra", "a=b"], "--extra a is no JSON"),
        (["--provider", "sora", "--metadata", "=b"], "--metadata came as '=b'"),
        (["--provider", "sora", "--priority", "12"], "[invalid_request]: priority must be"),
        (["--provider", "sora", "--webhook-url", "ftp://x"], "webhook_url must be an http"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
async def test_submit_refuses_with_a_sentence(
    vidgen: Program, queue: VideoQueue, arguments: list[str], sentence: str
) -> None:
    said = await vidgen("submit", PROMPT, *arguments, "--json")

    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("error [")
    assert sentence in said.err
    assert await queue.recent() == []


async def test_a_prompt_that_is_no_text_is_refused(vidgen: Program) -> None:
    said = await vidgen("submit", "-", "--provider", "sora", stdin=b"\xff\xfe")

    assert said.code == 1
    assert "no UTF-8 text" in said.err


async def test_submit_waits_and_saves_the_video(
    vidgen: Program, settings: Settings, simulator: SimulatorServer, tmp_path: Path
) -> None:
    simulator.sora.generation_s = 0.5

    async with WorkerProcess(settings):
        said = await vidgen(
            *("submit", PROMPT, "--provider", "sora", "--seconds", "4"),
            *("--output", "new/tram.mp4", "--json"),
        )

    assert said.code == 0
    assert said.document["status"] == "completed"
    assert said.document["completed_at"].endswith("Z")
    saved = (tmp_path / "new" / "tram.mp4").read_bytes()
    assert len(saved) == said.document["size_bytes"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["tram.mp4"]


async def test_submit_that_waits_for_a_failure_tells_it_and_exits_with_one(
    vidgen: Program, settings: Settings, simulator: SimulatorServer
) -> None:
    simulator.sora.script(Rule(deed="poll", outcome="moderation"))

    async with WorkerProcess(settings):
        said = await vidgen("submit", PROMPT, "--provider", "sora", "--wait")

    assert said.code == 1
    assert "failed [content_blocked]: " in said.err


# --- looking ---


async def test_watch_shows_each_job_to_its_end(
    vidgen: Program, settings: Settings, queue: VideoQueue, simulator: SimulatorServer
) -> None:
    simulator.sora.generation_s = 0.5
    jobs = await queue.enqueue_many([a_request(), a_request()])
    ids = [str(job.id) for job in jobs]

    async with WorkerProcess(settings):
        plain = await vidgen("watch", *ids)
        streamed = await vidgen("watch", *ids, "--json")

    assert (plain.code, streamed.code) == (0, 0)
    assert plain.out.count("completed") == 2
    for job_id in ids:
        types = [line["type"] for line in streamed.lines if line["job_id"] == job_id]
        assert (types[0], types[-1]) == ("created", "completed")


async def test_watch_exits_with_one_if_a_job_was_not_completed(
    vidgen: Program, queue: VideoQueue
) -> None:
    job = await queue.enqueue(a_request())
    await queue.cancel(job.id)

    said = await vidgen("watch", str(job.id), str(job.id))

    assert said.code == 1
    assert said.out.count("cancelled") == 1


async def test_ctrl_c_ends_a_watch_and_not_the_job(vidgen: Program, queue: VideoQueue) -> None:
    job = await queue.enqueue(a_request())
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vidgen", "watch", str(job.id), "--json"),
        cwd=vidgen.folder,
        env=vidgen.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(TIMEOUT_S):
        first = orjson.loads(await process.stdout.readline())

        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()

    assert first["type"] == "created"
    assert (process.returncode, err) == (130, b"")
    assert (await queue.get(job.id)).status is JobStatus.PENDING


@pytest.mark.parametrize("command", ["show", "watch", "cancel", "retry"])
async def test_an_unknown_job_is_refused(vidgen: Program, command: str) -> None:
    job_id = uuid4()

    said = await vidgen(command, str(job_id), "--json")

    assert (said.code, said.out) == (1, "")
    assert said.err == f"error [job_not_found]: there is no job {job_id}\n"


async def test_jobs_lists_the_newest_first_and_filters(vidgen: Program, queue: VideoQueue) -> None:
    first = await queue.enqueue(a_request(), user_id="one", scene_id="s")
    second = await queue.enqueue(a_request("veo"), user_id="two")
    await queue.cancel(first.id)

    async def ids(*filters: str) -> list[str]:
        return [job["id"] for job in (await vidgen("jobs", "--json", *filters)).document]

    assert await ids() == [str(second.id), str(first.id)]
    assert await ids("--status", "cancelled") == [str(first.id)]
    assert await ids("--provider", "veo") == [str(second.id)]
    assert await ids("--user-id", "one", "--scene-id", "s") == [str(first.id)]
    assert await ids("--limit", "1") == [str(second.id)]
    assert await ids("--before", str(second.id)) == [str(first.id)]


async def test_a_listed_prompt_is_short_and_harmless_to_a_terminal(
    vidgen: Program, queue: VideoQueue
) -> None:
    await queue.enqueue(a_request(prompt=f"{ESCAPE}[31m[bold]\t{'long ' * 50}"))

    plain = await vidgen("jobs")
    listed = await vidgen("jobs", "--json")

    header, row = plain.out.splitlines()
    assert header.split("\t") == (
        ["job", "status", "progress", "provider", "model", "cost", "created", "prompt"]
    )
    shown = row.split("\t")[-1]
    assert shown.startswith("[31m[bold] long long")
    assert len(shown) == 60
    assert listed.document[0]["prompt"] == shown
    assert "parameters" not in listed.document[0]


async def test_show_tells_all_about_a_job(
    vidgen: Program, settings: Settings, queue: VideoQueue, simulator: SimulatorServer
) -> None:
    simulator.sora.generation_s = 0.5
    job = await queue.enqueue(a_request(), metadata={"order": 7})
    async with WorkerProcess(settings):
        done = await queue.wait(job.id, timeout=TIMEOUT_S)

    plain = await vidgen("show", str(job.id), "--url")
    shown = (await vidgen("show", str(job.id), "--json", "--url")).document

    assert shown["prompt"] == PROMPT
    assert shown["storage_key"] == done.storage_key
    assert shown["actual_cost_micros"] == done.actual_cost_micros
    assert shown["url"].startswith(settings.s3_endpoint_url or "-")
    assert [event["type"] for event in shown["events"]][-1] == "completed"
    for text in (PROMPT, done.storage_key, done.sha256, "$0.40", '{"order":7}', "generated"):
        assert str(text) in plain.out


async def test_a_job_without_video_has_no_address(vidgen: Program, queue: VideoQueue) -> None:
    job = await queue.enqueue(a_request())

    said = await vidgen("show", str(job.id), "--url")

    assert said.code == 1
    assert "has no video" in said.err


async def test_stats_counts_jobs(vidgen: Program, queue: VideoQueue) -> None:
    await queue.enqueue_many([a_request(), a_request()])

    counted = (await vidgen("stats", "--json")).document
    plain = await vidgen("stats")

    assert (counted["waiting"], counted["total"]) == (2, 2)
    assert "waiting" in plain.out


# --- changing ---


async def test_cancel_and_retry_change_what_they_can_and_name_the_rest(
    vidgen: Program, queue: VideoQueue
) -> None:
    job = await queue.enqueue(a_request())
    missing = str(uuid4())

    cancelled = await vidgen("cancel", str(job.id), missing, "--json")
    retried = await vidgen("retry", str(job.id))
    again = await vidgen("retry", str(job.id))

    assert (cancelled.code, retried.code, again.code) == (1, 0, 1)
    assert [line["status"] for line in cancelled.lines] == ["cancelled"]
    assert missing in cancelled.err
    assert str(job.id) in retried.out
    assert again.err.startswith("error [invalid_state]: ")
    assert (await queue.get(job.id)).status is JobStatus.PENDING


# --- processes ---


async def test_migrate_says_what_it_did(vidgen: Program, empty_database_url: str) -> None:
    fresh = away(vidgen, DATABASE_URL=empty_database_url, REDIS_URL="")

    first = await fresh("migrate", "--json")
    second = await fresh("migrate")

    assert "0001_initial" in first.document["applied"]
    assert (second.code, second.out) == (0, "nothing to do\n")


async def test_health_asks_the_servers_where_no_worker_listens(
    vidgen: Program, settings: Settings
) -> None:
    alone = await vidgen("health", "--json")
    async with WorkerProcess(settings):
        together = await vidgen("health", "--json")
    database_away = await away(vidgen, DATABASE_URL=NOWHERE)("health", "--json")
    redis_away = await away(vidgen, REDIS_URL="redis://127.0.0.1:1/0")("health")

    assert (alone.code, alone.document["checks"]["worker"]) == (1, {"error": "no worker is alive"})
    assert (together.code, together.document["healthy"]) == (0, True)
    assert together.document["checks"]["queue"]["activeWorkers"] == 1
    assert (database_away.code, database_away.document["healthy"]) == (1, False)
    assert redis_away.code == 1
    assert redis_away.out.startswith("not healthy\n")


async def test_health_asks_the_worker_that_listens(
    vidgen: Program, settings: Settings, unused_tcp_port: int
) -> None:
    listening = settings.model_copy(update={"http_port": unused_tcp_port})

    async with WorkerProcess(listening):
        said = await Program(environment_of(listening), vidgen.folder)("health", "--json")

    assert said.code == 0
    assert set(said.document["checks"]) == {"redis", "queue"}


async def test_health_is_not_fooled_by_a_stranger_on_the_port(
    vidgen: Program, unused_tcp_port: int
) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", unused_tcp_port):
        said = await away(vidgen, VIDGEN_HTTP_PORT=str(unused_tcp_port))("health", "--json")

    assert said.code == 1
    assert "is no vidgen server" in said.document["checks"]["worker"]["error"]


@pytest.mark.parametrize("command", ["worker", "serve"])
async def test_worker_and_server_run_until_they_are_told_to_stop(
    vidgen: Program, settings: Settings, unused_tcp_port: int, command: str
) -> None:
    environment = environment_of(settings.model_copy(update={"http_port": unused_tcp_port}))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vidgen", command),
        cwd=vidgen.folder,
        env=environment,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(TIMEOUT_S):
        while b"server listening" not in await process.stdout.readline():
            pass

        said = await Program(environment, vidgen.folder)("health", "--json")
        process.terminate()
        await process.communicate()

    assert said.document["healthy"] is True
    assert process.returncode == 0


async def test_serve_without_a_port_is_refused(vidgen: Program) -> None:
    said = await vidgen("serve")

    assert said.code == 2
    assert "VIDGEN_HTTP_PORT" in said.err


async def test_sigterm_ends_what_a_script_put_in_the_background() -> None:
    # There Ctrl-C is ignored, and what is started inherits that.
    program = (
        "import signal, typer\n"
        "from vidgen.cli.app import until_interrupted\n"
        "def work():\n"
        "    print('at work', flush=True)\n"
        "    signal.pause()\n"
        "try:\n"
        "    until_interrupted(work)\n"
        "except typer.Exit as ended:\n"
        "    raise SystemExit(ended.exit_code)\n"
    )
    process = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", "trap '' INT; exec \"$@\"", "sh", sys.executable, "-c", program),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            assert await process.stdout.readline() == b"at work\n"
            process.terminate()
            await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()

    assert process.returncode == 128 + signal.SIGTERM


async def test_live_without_a_usable_provider_says_what_to_set(without_settings: Program) -> None:
    vidgen = away(without_settings, OPENAI_API_KEY="sk-anything", GEMINI_API_KEY="anything")

    for command in ("demo", "dev"):
        said = await vidgen(command, "--live")

        assert said.code == 2
        for text in ("OPENAI_BASE_URL", "GOOGLE_CLOUD_PROJECT_ID", "2026-09-24", "2026-10-22"):
            assert text in said.err


def a_request(provider: str = "sora", prompt: str = PROMPT) -> VideoRequest:
    return VideoRequest(provider=provider, prompt=prompt, seconds=4)


def _png(width: int, height: int) -> bytes:
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    Image.new("RGB", (width, height), "navy").save(buffer, "PNG")
    return buffer.getvalue()
