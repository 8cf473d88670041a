"""The wheel alone, in an environment of its own: everything that the repository can, it can."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from tests.conftest import environment_of
from tests.deploy.dockerfile import ROOT
from vidgen.settings import Settings

pytestmark = [pytest.mark.xdist_group("image"), pytest.mark.timeout(400)]

TIMEOUT_S = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Clean:
    """An environment with the wheel, and a folder outside of the repository."""

    python: Path
    folder: Path

    @asynccontextmanager
    async def running(
        self, *arguments: str, **variables: str
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            str(self.python.with_name("vidgen")),
            *arguments,
            cwd=self.folder,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.folder)} | variables,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def said(self, *arguments: str, **variables: str) -> tuple[int | None, str]:
        async with self.running(*arguments, **variables) as process, asyncio.timeout(TIMEOUT_S):
            out, _ = await process.communicate()
        return process.returncode, out.decode()


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    [found] = (built / "wheels").glob("vidgen-*.whl")
    return found


@pytest.fixture(scope="module")
def clean(built: Path, wheel: Path, server_folder: Path) -> Clean:
    """The wheel installed; dependencies are taken from where the tests run, to save a minute."""
    home = server_folder / "clean"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    python = home / "bin" / "python"
    pip = [built / "opt/build/bin/pip", "--python", python, "install", "--quiet", "--no-deps"]
    subprocess.run([*map(str, pip), "--no-index", str(wheel)], check=True)
    [packages] = home.glob("lib/python*/site-packages")
    # A folder named so has its packages found, but not the .pth in it that leads to the sources.
    (packages / "tests.pth").write_text(sysconfig.get_paths()["purelib"])
    folder = server_folder / "outside"
    folder.mkdir()
    return Clean(python=python, folder=folder)


def test_the_wheel_has_all_that_is_no_python(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "vidgen").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert {"vidgen/py.typed", "vidgen/server/assets/index.html"} <= wanted
    assert any(name.startswith("vidgen/store/migrations/0001") for name in wanted)
    assert wanted <= inside
    assert {name.split("/")[0] for name in inside - wanted} == {
        f"vidgen-{version('vidgen')}.dist-info"
    }


def test_the_wheel_of_the_source_archive_is_the_same(wheel: Path, tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--directory"]
    subprocess.run([*build, tmp_path, "-t", "sdist"], cwd=ROOT, check=True, capture_output=True)
    [archive] = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    unpacked = tmp_path / archive.name.removesuffix(".tar.gz")
    subprocess.run([*build, tmp_path, "-t", "wheel"], cwd=unpacked, check=True, capture_output=True)

    [again] = tmp_path.glob("*.whl")
    assert contents(again) == contents(wheel)
    assert (unpacked / "deploy" / "requirements-test.lock").exists()


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist()}


async def test_the_version_is_said_once_and_everywhere_the_same(clean: Clean, wheel: Path) -> None:
    code, said = await clean.said("--version")

    assert (code, said) == (0, f"vidgen {version('vidgen')}\n")
    assert wheel.name.startswith(f"vidgen-{version('vidgen')}-")
    changes = (ROOT / "deploy" / "CHANGELOG.md").read_text()
    assert re.findall(r"(?m)^## ([\d.]+)", changes)[0] == version("vidgen")


async def test_the_demo_makes_a_video_from_the_wheel_alone(clean: Clean) -> None:
    options = ["--provider", "sora", "--generation-s", "0.2"]

    code, said = await clean.said("demo", *options)

    assert code == 0, said
    assert (clean.folder / "vidgen-demo" / "1-sora.mp4").stat().st_size > 0


async def test_dev_migrates_works_and_shows_its_page_from_the_wheel_alone(clean: Clean) -> None:
    said = ""
    async with clean.running("dev") as dev, asyncio.timeout(TIMEOUT_S):
        assert dev.stdout is not None
        while "worker ready" not in said:
            line = await dev.stdout.readline()
            assert line, said
            said += line.decode()
        page = re.search(r"Dashboard +(http://\S+/)", said)
        assert page is not None
        shown = await asyncio.to_thread(fetch, page[1])
        assets = set(re.findall(r"/(assets/[\w.-]+)", shown))
        fetched = [await asyncio.to_thread(fetch, page[1] + name) for name in assets]
        dev.send_signal(signal.SIGTERM)
        await dev.wait()

    assert dev.returncode == 143
    assert "<title>" in shown
    assert len(assets) >= 2
    assert all(fetched)


def fetch(url: str) -> str:
    with urlopen(Request(url), timeout=10) as answer:  # noqa: S310  our own http address
        return bytes(answer.read()).decode()


async def test_migrate_and_worker_do_their_part_from_the_wheel_alone(
    clean: Clean, empty_database_url: str, settings: Settings
) -> None:
    settings = settings.model_copy(update={"database_url": empty_database_url})
    variables = environment_of(settings)
    for name in ("PATH", "HOME", "TMPDIR"):
        variables.pop(name, None)

    migrated = await clean.said("migrate", **variables)
    said = b""
    async with clean.running("worker", **variables) as worker, asyncio.timeout(TIMEOUT_S):
        assert worker.stdout is not None
        while b"worker ready" not in said:
            line = await worker.stdout.readline()
            assert line, said
            said += line
        worker.send_signal(signal.SIGTERM)
        rest = await worker.stdout.read()
        await worker.wait()

    assert migrated[0] == 0, migrated[1]
    assert "applied 0001_initial" in migrated[1]
    assert worker.returncode == 0, rest
    assert b"worker stopped" in rest


def test_it_is_the_wheel_that_was_tried(clean: Clean) -> None:
    code = "import vidgen, sys; print(vidgen.__file__)"
    done = subprocess.run(
        [clean.python, "-c", code], cwd=clean.folder, capture_output=True, text=True, check=True
    )

    assert Path(done.stdout.strip()).is_relative_to(clean.python.parents[1]), done.stdout
    assert os.path.commonpath([clean.folder, ROOT]) != str(ROOT)
