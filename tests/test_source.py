"""The rules of this repository as tests: one command checks all, and nobody forgets one."""

import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import vidgen

ROOT = Path(__file__).parents[1]
PYTHON = ["vidgen", "tests"]

# Written in pieces: this file is searched, too.
FORBIDDEN = re.compile(
    "|".join(
        [
            r"pypi\.(org|python)" + r"|files\.pythonhosted" + r"|registry\.(npmjs|yarnpkg)",
            r"https?://[^ \"']*/(simple|packages)" + "/",
            r"(?<![\w.}/-])/(work|farm|home|Users)" + r"/[a-z]",
        ]
    )
)

# Each module in a process of its own that has imported nothing of ours: a circle of imports, or a
# module that only works after another one, shows. What is not ours is imported once before: two
# hundred times it would take two minutes.
IMPORTS_EACH_ALONE = """
import importlib, os, sys, traceback

import aiobotocore.session, aiohttp.web, arq.worker, asyncpg, google.auth, hypothesis, loguru
import moto.server, nacl.secret, PIL.Image, prometheus_client, psutil, pydantic_settings, pytest
import redis.asyncio, rich.live, typer

failed = []
for name in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(name)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(name)
sys.exit(f"cannot be imported alone: {failed}" if failed else 0)
"""


def test_ruff_finds_nothing() -> None:
    _run("ruff", "check", "--no-fix", *PYTHON)


def test_the_code_is_formatted() -> None:
    _run("ruff", "format", "--check", *PYTHON)


@pytest.mark.timeout(600)
def test_the_types_are_right() -> None:
    _run("mypy")


def test_imports_only_go_down() -> None:
    _run("lint-imports", "--no-logo")


@pytest.mark.timeout(300)
def test_every_module_can_be_imported_alone() -> None:
    modules = [
        module.name
        for module in pkgutil.walk_packages(vidgen.__path__, "vidgen.")
        if not module.name.endswith("__main__")
    ]

    _check([sys.executable, "-c", IMPORTS_EACH_ALONE, *modules])


def test_no_file_names_a_package_host_or_a_folder_of_one_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
        for path in _files()
        for number, line in enumerate(_text(path).splitlines(), 1)
        if FORBIDDEN.search(line)
    ]

    assert not found, "\n".join(found)


def test_no_module_is_a_room_without_a_name() -> None:
    rooms = {"utils", "util", "helpers", "helper", "common", "misc", "core", "base", "manager"}

    assert [path for path in _files() if path.suffix == ".py" and path.stem in rooms] == []


def test_the_tests_mirror_the_package() -> None:
    own = {"bench", "deploy", "journeys", "plugin_example"}
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/*.py")}

    assert {folder for folder in folders - own if not (ROOT / "vidgen" / folder).is_dir()} == set()


def _run(tool: str, *arguments: str) -> None:
    """Run the *tool* that is installed beside this Python."""
    program = shutil.which(tool, path=str(Path(sys.executable).parent))
    assert program is not None, f"{tool} is missing: pip install -r deploy/requirements-test.lock"
    _check([program, *arguments])


def _check(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def _files() -> list[Path]:
    """What is in the repository, or would be; everything there is where git is not at hand."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    names = listing.stdout.splitlines()
    if listing.returncode:
        names = [
            str(path) for folder in [*PYTHON, "deploy"] for path in ROOT.rglob(f"{folder}/**/*")
        ]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
