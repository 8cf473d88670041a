"""The test kit over the servers of this suite, without its own plug-in."""

import tomllib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from vidgen.queue import VideoQueue
from vidgen.resources import open_resources
from vidgen.settings import Settings
from vidgen.simulator.clips import render
from vidgen.simulator.server import SimulatorServer
from vidgen.testing import InlineWorker

ROOT = Path(__file__).parents[2]

INI = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""

# Seconds of each start, and nothing that a service must have.
NOT_NEEDED = ("cacheprovider", "hypothesispytest", "timeout", "valkey", "xdist")
RUN_TIMEOUT_S = 150

Run = Callable[..., pytest.RunResult]


@pytest.fixture
async def queue(settings: Settings) -> AsyncIterator[VideoQueue]:
    async with VideoQueue(settings) as queue:
        yield queue


@pytest.fixture
async def worker(settings: Settings, simulator: SimulatorServer) -> AsyncIterator[InlineWorker]:
    clip = render("tram", seconds=1, width=320, height=180, audio=False)
    for provider in simulator.simulators.values():
        provider.generation_s, provider.clip = 0.02, clip
    async with open_resources(settings) as resources:
        yield InlineWorker(resources)


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """
    Run pytest in an empty folder that has nothing of this repository but the installed vidgen.

    The installation is written afresh from pyproject.toml: the one at hand may be older.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installed = pytester.path / "installed"
    metadata = installed / f"vidgen-{project['version']}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.4\nName: vidgen\nVersion: {project['version']}\n"
    )
    lines = [
        "\n".join([f"[{group}]", *(f"{name} = {value}" for name, value in points.items())])
        for group, points in project["entry-points"].items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    (installed / "vidgen").symlink_to(ROOT / "vidgen")
    monkeypatch.setenv("PYTHONPATH", str(installed))
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    pytester.makeini(INI)

    def run(*arguments: str) -> pytest.RunResult:
        left_out = [word for name in NOT_NEEDED for word in ("-p", f"no:{name}")]
        return pytester.runpytest_subprocess(*left_out, *arguments, timeout=RUN_TIMEOUT_S)

    return run
