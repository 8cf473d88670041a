"""`vidgen demo` and `vidgen dev` as a newcomer runs them: in an empty folder, with nothing set."""

import asyncio
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import av
import psutil
import pytest

from vidgen.settings import Settings
from vidgen.simulator.server import SimulatorServer

TIMEOUT_S = 50
STOP_TIMEOUT_S = 10
ESCAPE = "\x1b"
NOTHING_SET = {"PATH": "/usr/bin:/bin"}

linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells a child of its parent's end"
)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return NOTHING_SET | {"HOME": str(tmp_path)}


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that PostgreSQL's user may enter, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="vidgen-demos-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running(
    *arguments: str, folder: Path, environment: dict[str, str]
) -> Iterator["subprocess.Popen[str]"]:
    """`vidgen` in *folder*; what is left of it at the end is killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "vidgen", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_until(process: "subprocess.Popen[str]", text: str) -> str:
    assert process.stdout is not None
    said = ""
    while text not in said:
        ready, _, _ = select.select([process.stdout], [], [], TIMEOUT_S)
        line = process.stdout.readline() if ready else ""
        assert line, f"{text!r} was not said: {said}"
        said += line
    return said


def descendants(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def none_left(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=STOP_TIMEOUT_S)
    assert not alive, [process.cmdline() for process in alive]


def test_the_demo_leaves_playable_files_and_nothing_else(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with running("demo", folder=tmp_path, environment=environment) as demo:
        said = read_until(demo, "started Worker")
        started = descendants(demo)
        rest, _ = demo.communicate(timeout=TIMEOUT_S)

    assert demo.returncode == 0, rest
    assert len(started) >= 4
    none_left(started)
    assert ESCAPE not in said + rest
    assert "What to do next" in rest
    output = tmp_path / "vidgen-demo"
    assert {path.name: played(path) for path in output.iterdir()} == {
        "1-sora.mp4": (4, 1280, 720),
        "2-veo.mp4": (6, 1280, 720),
        "3-veo.mp4": (4, 720, 1280),
    }
    for money in ("$0.40", "$0.60"):
        assert money in rest


def test_the_demo_takes_a_prompt_a_provider_and_a_folder(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    options = ["--provider", "sora", "--prompt", "[red]a tram[/]", "--output", "new/videos"]

    with running(
        "demo", *options, "--generation-s", "0.5", folder=tmp_path, environment=environment
    ) as demo:
        said, _ = demo.communicate(timeout=TIMEOUT_S)

    assert demo.returncode == 0, said
    assert "[red]a tram[/]" in said
    assert [path.name for path in (tmp_path / "new" / "videos").iterdir()] == ["1-sora.mp4"]


def test_the_demo_minds_no_settings_of_ours(tmp_path: Path, environment: dict[str, str]) -> None:
    strange = {
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
        "S3_BUCKET": "production",
        "VIDGEN_CONCURRENCY": "many",
        "http_proxy": "http://127.0.0.1:1",
        "FORCE_COLOR": "1",
    }
    (tmp_path / ".env").write_text("REDIS_URL=redis://127.0.0.1:1/0\nVIDGEN_HTTP_PORT=99999999\n")

    with running(
        *("demo", "--provider", "veo", "--generation-s", "0.5"),
        folder=tmp_path,
        environment=environment | strange,
    ) as demo:
        said, _ = demo.communicate(timeout=TIMEOUT_S)

    assert demo.returncode == 0, said
    assert ESCAPE not in said


def test_a_demo_whose_videos_fail_says_why_and_keeps_the_log(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with running(
        *("demo", "--provider", "sora", "--prompt", "a tram [[sim:moderation]]"),
        *("--generation-s", "0.2"),
        folder=tmp_path,
        environment=environment,
    ) as demo:
        said, _ = demo.communicate(timeout=TIMEOUT_S)

    assert demo.returncode == 1
    assert "[content_blocked]" in said
    assert (tmp_path / "vidgen-demo" / "worker.log").stat().st_size > 0


def test_an_output_that_is_no_folder_is_one_sentence(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "taken").write_text("")

    with running("demo", "--output", "taken", folder=tmp_path, environment=environment) as demo:
        said, _ = demo.communicate(timeout=TIMEOUT_S)

    assert demo.returncode == 1
    assert said == "error [invalid_request]: taken cannot be a folder: File exists\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@linux_only
def test_a_demo_that_is_ended_half_way_takes_everything_along(
    tmp_path: Path, environment: dict[str, str], open_folder: Path, number: signal.Signals
) -> None:
    temporary = environment | {"TMPDIR": str(open_folder)}

    with running("demo", folder=tmp_path, environment=temporary) as demo:
        said = read_until(demo, "generating")
        started = descendants(demo)
        demo.send_signal(number)
        rest, _ = demo.communicate(timeout=TIMEOUT_S)

    assert "Traceback" not in said + rest
    assert demo.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    assert len(started) >= 4
    none_left(started)
    if number != signal.SIGKILL:
        assert list(open_folder.iterdir()) == []


def test_dev_stays_up_for_other_terminals_until_ctrl_c(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    with running("dev", folder=tmp_path, environment=environment) as dev:
        said = read_until(dev, "worker ready")
        started = descendants(dev)
        made = subprocess.run(
            [
                *("/bin/sh", "-c", '. .vidgen/env; exec "$@"', "sh", sys.executable, "-m"),
                *("vidgen", "submit", "--provider", "sora", "--seconds", "4", "a secret idea"),
                *("--output", "tram.mp4"),
            ],
            cwd=tmp_path,
            env=environment,
            timeout=TIMEOUT_S,
            check=False,
        )
        url = re.search(r"http://\S+/api/health/worker", said)
        assert url is not None
        with urlopen(url[0], timeout=5) as answer:  # noqa: S310  our own http address
            healthy = answer.read()
        dev.send_signal(signal.SIGINT)
        rest, _ = dev.communicate(timeout=STOP_TIMEOUT_S)

    assert made.returncode == 0
    assert played(tmp_path / "tram.mp4")[0] == 4
    assert b'"healthy": true' in healthy
    assert dev.returncode == 130
    assert "Traceback" not in rest
    none_left(started)
    assert "secret" not in said + rest
    assert "source .vidgen/env" in said


def test_dev_refuses_a_port_that_is_taken(tmp_path: Path, environment: dict[str, str]) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with running("dev", "--port", str(port), folder=tmp_path, environment=environment) as dev:
            said, _ = dev.communicate(timeout=TIMEOUT_S)

    assert dev.returncode == 2
    assert f"--port: {port} is taken" in said


def played(path: Path) -> tuple[int, int, int]:
    """Length in whole seconds and size of the picture, by a player's library."""
    with av.open(str(path)) as container:
        [picture] = container.streams.video
        assert container.duration is not None
        return round(container.duration / av.time_base), picture.width, picture.height


def test_dev_and_demo_name_every_setting_they_decide() -> None:
    from vidgen.dev.environment import variables

    assert set(variables(Settings())) == {
        str(field.validation_alias) for field in Settings.model_fields.values()
    }


async def test_live_asks_the_provider_that_the_environment_names_and_pays_once(
    tmp_path: Path, environment: dict[str, str], simulator: SimulatorServer
) -> None:
    simulator.sora.generation_s = 0.2
    named = {
        "OPENAI_API_KEY": "sk-live",
        "OPENAI_BASE_URL": simulator.sora.url,
        "VIDGEN_ALLOW_PRIVATE_ADDRESSES": "true",
        "VIDGEN_POLL_INTERVAL_S": "0.2",
    }

    demo = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vidgen", "demo", "--live", "--yes", "--prompt", "one tram"),
        cwd=tmp_path,
        env=environment | named,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    async with asyncio.timeout(TIMEOUT_S):
        said, _ = await demo.communicate()

    assert demo.returncode == 0, said.decode()
    assert [charge.prompt for charge in simulator.sora.bill] == ["one tram"]
    before_the_start, _, _ = said.decode().partition("vidgen demo")
    assert f"sora/sora-2  at {simulator.sora.url}  about $0.40 for 4 s" in before_the_start
