"""The command line as programs and people call it: processes, their words and exit codes."""

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from rich.console import Console

from tests.builders import NOON, a_worker
from tests.by_hand import Hand
from tests.conftest import environment_of
from tests.journeys.conftest import WorkerProcess
from tests.journeys.test_clocks import Off, off  # noqa: F401  a fixture
from vidgen import VideoRequest
from vidgen.cli import tables
from vidgen.cli.door import user
from vidgen.errors import GenerationFailedError
from vidgen.job import JobStatus
from vidgen.queue import VideoQueue
from vidgen.settings import Settings
from vidgen.simulator import Rule
from vidgen.simulator.server import SimulatorServer
from vidgen.store import workers
from vidgen.store.pool import connect
from vidgen.store.workers import ListedWorker

TIMEOUT_S = 30
PROMPT = "a tram in the rain"
VIDGEN = Path(sys.executable).with_name("vidgen")
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
def database_url(emptied_database_url: str) -> str:
    """No command here touches the schema, so one database serves them all."""
    return emptied_database_url


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


async def audited(vidgen: Program) -> list[Any]:
    """What the record has, the newest first."""
    entries: list[Any] = (await vidgen("audit", "--json")).document
    return entries


def away(vidgen: Program, **changes: str) -> Program:
    return Program(vidgen.environment | changes, vidgen.folder)


# --- the program itself ---


async def test_the_help_names_every_command_and_the_exit_codes(without_settings: Program) -> None:
    said = await without_settings("--help")

    assert said.code == 0
    for name in [
        *("demo", "dev", "worker", "serve", "migrate", "health"),
        *("doctor", "submit", "watch", "jobs", "show", "cancel", "retry"),
        *("stats", "pause", "resume", "drain", "workers", "providers"),
        *("audit", "deliveries", "replay", "keys", "forget"),
    ]:
        assert f" {name} " in said.out
    assert "130 interrupted" in said.out
    assert "retry-failed" not in said.out


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("re", {"resume", "retry", "replay"}),
        ("pause so", {"sora"}),
        ("jobs --status fa", {"failed"}),
        ("jobs --model veo-3.1-l", {"veo-3.1-lite-generate-001", "veo-3.1-lite-generate-preview"}),
        ("retry --code submit", {"submit_unknown"}),
        ("deliveries --state d", {"delivered"}),
        ("retry --fa", {"--failed"}),
    ],
)
def test_a_shell_completes_what_is_typed(typed: str, offered: set[str], tmp_path: Path) -> None:
    words = f"vidgen {typed}"
    asked = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "_VIDGEN_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }

    done = subprocess.run([VIDGEN], env=asked, capture_output=True, text=True, check=True)

    assert set(done.stdout.split()) == offered


def test_the_completion_is_shown_for_the_shell_that_asks(tmp_path: Path) -> None:
    environment = {"PATH": f"{VIDGEN.parent}:/usr/bin:/bin", "HOME": str(tmp_path)}

    done = subprocess.run(
        # Two commands: with one alone the shell would become it.
        ["bash", "-c", "vidgen --show-completion; exit $?"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )

    assert "complete -o default -F _vidgen_completion vidgen" in done.stdout


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
        ["retry"],
        ["retry", "--provider", "sora"],
        ["retry", str(UUID(int=1)), "--failed"],
        ["retry", str(UUID(int=1)), "--code", "submit_unknown"],
        ["pause"],
        ["deliveries", "--state", "nonsense"],
        ["replay"],
        ["audit", "--limit", "0"],
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
        (["--provider", "sora", "--fallback", "vimeo/x"], "fallbacks[0] (vimeo/x): There is no"),
        (
            ["--provider", "sora", "--max-cost", "cheap"],
            "--max-cost came as 'cheap'; wanted dollars",
        ),
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


async def test_fallbacks_are_asked_for_and_shown(vidgen: Program, tmp_path: Path) -> None:
    (tmp_path / "routes.toml").write_text(
        '[routes.cheap]\ntargets = ["sora", "veo/veo-3.1-lite-generate-preview"]\n'
    )
    routed = away(vidgen, VIDGEN_ROUTES_FILE="routes.toml")
    instead = ("--fallback", "veo/veo-3.1-lite-generate-preview", "--reroute-on", "policy")

    named = await vidgen("submit", PROMPT, "--provider", "sora", *instead, "--max-cost", "0.50")
    by_route = await routed("submit", PROMPT, "--route", "cheap", "--json")

    shown = await vidgen("show", named.out.strip())
    assert "> sora/sora-2, $0.40" in shown.out
    assert "veo/veo-3.1-lite-generate-preview, $0.20" in shown.out
    assert "policy" in shown.out
    assert "$0.50" in shown.out
    assert (by_route.document["route"], len(by_route.document["targets"])) == ("cheap", 2)


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
    assert await ids("--model", "sora-2") == [str(first.id)]
    assert await ids("--code", "generation_failed") == []
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
    assert (shown["eta"], shown["queue_position"], shown["retry"]) == (None, None, None)
    assert shown["deliveries"] == []


async def test_show_tells_when_a_waiting_job_will_be_done_and_what_a_retry_would_cost(
    vidgen: Program, queue: VideoQueue
) -> None:
    _, second = await queue.enqueue_many([a_request(), a_request()])

    plain = await vidgen("show", str(second.id))
    waiting = (await vidgen("show", str(second.id), "--json")).document
    await queue.cancel(second.id)
    ended = await vidgen("show", str(second.id))

    assert (waiting["queue_position"], waiting["eta"]["basis"]) == (2, "default")
    assert re.search(r"^queue position +2 *$", plain.out, re.MULTILINE)
    assert "with nine of ten in 8 min (a rule of thumb)" in plain.out
    assert "goes on at queued, paid again, about $0.40" in ended.out


async def test_a_job_without_video_has_no_address(vidgen: Program, queue: VideoQueue) -> None:
    job = await queue.enqueue(a_request())

    said = await vidgen("show", str(job.id), "--url")

    assert said.code == 1
    assert "has no video" in said.err


async def test_stats_tell_how_the_queue_stands(vidgen: Program, queue: VideoQueue) -> None:
    await queue.enqueue_many([a_request(), a_request()])
    await Hand(queue).fail(await queue.enqueue(a_request()), GenerationFailedError("no"))

    told = (await vidgen("stats", "--json")).document
    plain = await vidgen("stats")

    assert (told["waiting"], told["failed"], told["total"]) == (2, 1, 3)
    assert (told["workers"], told["paused"], told["draining"]) == (0, [], False)
    assert told["failed_by_code"][0]["code"] == "generation_failed"
    assert told["oldest_waiting_s"] >= 0
    for words in ("waiting", "workers alive", "spent today", "1 of sora by generation_failed"):
        assert words in plain.out


async def test_workers_are_listed(vidgen: Program, settings: Settings) -> None:
    async with connect(settings.database_url) as connection:
        await workers.heartbeat(connection, a_worker())
    patient = away(vidgen, VIDGEN_LEASE_TTL_S="3600")  # alive, however busy the machine is

    [worker] = (await patient("workers", "--json")).document
    header, row = (await patient("workers")).out.splitlines()

    assert (worker["alive"], worker["held"], worker["concurrency"]) == (True, 0, 2)
    assert header.split("\t")[:4] == ["worker", "state", "holds", "of"]
    assert row.split("\t")[:4] == [str(a_worker().id), "alive", "0", "2"]


async def test_providers_are_listed_with_their_models(vidgen: Program) -> None:
    sora, veo, *_ = (await vidgen("providers", "--json")).document
    plain = (await vidgen("providers")).out.splitlines()

    assert (sora["name"], sora["configured"], veo["name"]) == ("sora", True, "veo")
    assert sora["breaker"] == {"open": False, "failures": 0, "pause_s": 0.0}
    rows = [row.split("\t") for row in plain]
    assert rows[0] == ["provider", "model", "state", "seconds", "$ per second"]
    assert ["sora", "sora-2", "usable", "4,8,12,16,20", "0.10"] in rows
    assert ["veo", "veo-3.1-generate-001", "no key", "4,6,8", "0.40 to 0.60"] in rows


async def test_show_tells_the_code_of_a_failure(vidgen: Program, queue: VideoQueue) -> None:
    error = GenerationFailedError("[red]The generation failed.")
    job = await Hand(queue).fail(await queue.enqueue(a_request()), error)

    said = await vidgen("show", str(job.id))

    assert re.search(r"^error +\[generation_failed\] \[red\]The generation", said.out, re.MULTILINE)


async def test_on_a_terminal_of_80_columns_ids_and_states_are_whole(queue: VideoQueue) -> None:
    job = await queue.enqueue(a_request(prompt="long " * 50), webhook_url="http://127.0.0.1:1/")
    failed = await Hand(queue).fail(job, GenerationFailedError("no"))
    [delivery] = await queue.deliveries(job.id)
    worker = ListedWorker(
        **asdict(a_worker()), held=1, started_at=NOON, heartbeat_at=NOON, alive=False
    )
    screen = Console(file=StringIO(), force_terminal=True, color_system=None, width=80)

    tables.show_jobs([failed], screen)
    tables.show_deliveries([delivery], screen)
    tables.show_workers([worker], screen)

    assert isinstance(screen.file, StringIO)
    shown = screen.file.getvalue()
    assert all(len(line) <= 80 for line in shown.splitlines())
    for words in (
        f"{job.id}  failed ",
        f"{delivery.id}  pending ",
        f"{worker.id}  1 ",
        "silent for",
    ):
        assert words in shown


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
    shown = (await vidgen("show", str(job.id))).out
    assert shown.count(f"by cli:{user()}") == 2
    assert (await queue.get(job.id)).status is JobStatus.PENDING


async def test_failed_jobs_are_retried_by_filter_after_a_dry_run_that_tells_the_price(
    vidgen: Program, queue: VideoQueue
) -> None:
    hand = Hand(queue)
    first, second = await queue.enqueue_many([a_request(), a_request("veo")])
    failed = [await hand.fail(job, GenerationFailedError("no")) for job in (first, second)]
    filters = ("--provider", "sora", "--code", "generation_failed")

    dry = await vidgen("retry", "--failed", *filters, "--dry-run")
    one = await vidgen("retry", str(second.id), "--dry-run", "--json")
    unchanged = [await queue.get(job.id) for job in failed]
    done = await vidgen("retry", "--failed", *filters, "--json")

    assert dry.out.splitlines() == [
        f"{first.id}  goes on at queued, costs $0.40",
        "would be retried: 1; of these paid again: 1, for $0.40",
    ]
    assert [plan["pays_again"] for plan in one.document] == [True]
    assert {job.status for job in unchanged} == {JobStatus.FAILED}
    assert [plan["job_id"] for plan in done.document] == [str(first.id)]
    assert (await queue.get(first.id)).status is JobStatus.PENDING
    assert (await queue.get(second.id)).status is JobStatus.FAILED
    assert [entry["action"] for entry in await audited(vidgen)] == ["retry_failed"]


async def test_a_dry_run_refuses_what_the_retry_would_refuse(
    vidgen: Program, queue: VideoQueue
) -> None:
    job = await queue.enqueue(a_request())

    said = await vidgen("retry", str(job.id), "--dry-run", "--json")

    assert (said.code, said.document) == (1, [])
    assert said.err.startswith("error [invalid_state]: ")


async def test_the_command_that_retry_replaced_says_so_and_does_nothing(
    without_settings: Program,
) -> None:
    said = await without_settings("retry-failed", "--provider", "sora", "--dry-run")

    assert (said.code, said.out) == (2, "")
    assert "is now: vidgen retry --failed" in said.err


async def test_a_provider_is_paused_and_resumed_and_the_queue_drained(
    vidgen: Program, queue: VideoQueue
) -> None:
    paused = (await vidgen("pause", "sora", "--reason", "an incident", "--json")).document
    drained = await vidgen("drain", "--wait")
    resumed = (await vidgen("resume", "--json")).document
    again = (await vidgen("resume", "sora", "--json")).document
    unknown = await vidgen("pause", "nobody")

    [pause] = paused["paused"]
    assert (pause["provider"], pause["reason"], pause["by"]) == ("sora", "an incident", user())
    assert "everything: a drain, by " in drained.out
    assert [pause["provider"] for pause in resumed["paused"]] == ["sora"]
    assert (again["paused"], again["draining"]) == ([], False)
    assert unknown.code == 1
    assert unknown.err.startswith("error [unknown_provider]: ")
    assert await queue.pauses() == []


async def test_what_is_done_by_hand_leaves_the_rows_that_the_api_leaves(
    vidgen: Program, queue: VideoQueue
) -> None:
    job = UUID((await vidgen("submit", PROMPT, "--provider", "sora")).out.strip())
    await vidgen("cancel", str(job), "--discard")
    await vidgen("retry", str(job), "--anew")
    await vidgen("drain")
    await vidgen("resume")
    await vidgen("jobs")

    entries = await audited(vidgen)
    rows = (await vidgen("audit", "--limit", "2", "--before", str(entries[0]["seq"]))).out

    assert [(entry["action"], entry["target"]) for entry in entries] == [
        ("resume", "all"),
        ("drain", "all"),
        ("retry", str(job)),
        ("cancel", str(job)),
        ("enqueue", str(job)),
    ]
    assert {(entry["who"], entry["role"], entry["address"]) for entry in entries} == {
        (user(), "operate", "cli")
    }
    assert entries[3]["detail"] == {"discard": True}
    assert [row.split("\t")[3] for row in rows.splitlines()] == ["action", "drain", "retry"]


async def test_webhooks_are_listed_and_sent_again(
    vidgen: Program, settings: Settings, queue: VideoQueue
) -> None:
    url = "http://127.0.0.1:1/hook?key=a-secret"
    job = await Hand(queue).carry(await queue.enqueue(a_request(), webhook_url=url))
    [delivery] = await queue.deliveries(job.id)
    missing = str(uuid4())

    plain = await vidgen("deliveries", "--job", str(job.id), "--state", "pending")
    listed = (await vidgen("deliveries", "--json")).document
    none = (await vidgen("deliveries", "--state", "failed", "--json")).document
    shown = await vidgen("show", str(job.id))
    replayed = await vidgen("replay", str(delivery.id), missing)

    assert [line.split("\t")[:3] for line in plain.out.splitlines()] == [
        ["delivery", "type", "state"],
        [str(delivery.id), "video.completed", "pending"],
    ]
    assert "a-secret" not in plain.out
    assert [(one["id"], one["url"]) for one in listed] == [(str(delivery.id), url)]
    assert "snapshot" not in listed[0]
    assert none == []
    assert str(delivery.id) in shown.out
    assert (replayed.code, replayed.out) == (1, f"{delivery.id}  is due now\n")
    assert replayed.err == f"error [delivery_not_found]: there is no delivery {missing}\n"
    assert [entry["action"] for entry in await audited(vidgen)] == ["replay", "replay"]


# --- processes ---


async def test_doctor_can_look_at_the_servers_alone(vidgen: Program) -> None:
    said = await away(vidgen, OPENAI_API_KEY="wrong")("doctor", "--servers", "--json")

    assert said.code == 0
    looked_at = [check["name"] for check in said.document["checks"]]
    assert looked_at == ["settings", "postgresql", "redis", "redis memory", "bucket"]


async def test_doctor_exits_with_one_only_if_there_is_a_problem(vidgen: Program) -> None:
    well = await vidgen("doctor")
    ill = await away(vidgen, S3_BUCKET="other")("doctor", "--json")
    lost = await Program({"PATH": "/usr/bin:/bin"}, vidgen.folder)("doctor", "--json")

    assert well.code == 0
    assert well.out.splitlines()[0].startswith("ok       settings ")
    assert well.out.endswith("no problems, 2 warnings\n")
    assert (ill.code, ill.document["healthy"]) == (1, False)
    problems = [check for check in ill.document["checks"] if check["state"] == "problem"]
    assert [check["name"] for check in problems] == ["bucket"]
    assert "S3_BUCKET" in problems[0]["remedy"]
    assert (lost.code, [check["name"] for check in lost.document["checks"]]) == (2, ["settings"])
    assert "DATABASE_URL" in lost.document["checks"][0]["sentence"]


async def test_doctor_finds_the_clock_of_this_machine_wrong(
    vidgen: Program,
    off: Off,  # noqa: F811
) -> None:
    said = await away(vidgen, **off("+20m"))("doctor", "--json")

    checks = {check["name"]: check for check in said.document["checks"]}
    assert said.code == 1
    for server in ("PostgreSQL", "Redis", "the bucket"):
        assert f"20 min ahead of {server}" in checks["clocks"]["sentence"]
    assert "the clock of this machine is wrong" in checks["bucket"]["sentence"]


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
    vidgen = away(without_settings, OPENAI_API_KEY="sk-anything")

    for command in ("demo", "dev"):
        said = await vidgen(command, "--live")

        assert said.code == 2
        for text in ("OPENAI_BASE_URL", "GOOGLE_CLOUD_PROJECT_ID", "2026-09-24", "GEMINI_API_KEY"):
            assert text in said.err


async def test_live_pays_nothing_where_nobody_can_be_asked(without_settings: Program) -> None:
    vidgen = away(without_settings, XAI_API_KEY="anything")

    for command in ("demo", "dev"):
        said = await vidgen(command, "--live")

        assert said.code == 2
        assert "--yes" in said.err
        assert "xai/" in said.out


def a_request(provider: str = "sora", prompt: str = PROMPT) -> VideoRequest:
    return VideoRequest(provider=provider, prompt=prompt, seconds=4)


def _png(width: int, height: int) -> bytes:
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    Image.new("RGB", (width, height), "navy").save(buffer, "PNG")
    return buffer.getvalue()
