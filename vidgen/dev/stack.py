"""
Everything a video needs on this machine alone, as child processes on free ports of the loopback.

    Stack
    ├── PostgreSQL, Valkey      dev/servers.py
    ├── S3, all providers       dev/outside.py, one process
    └── Worker                  arq, started by demo and dev with an environment of the stack

`start` and `stop` block and start children from the calling thread: for before and after the loop.
"""

import asyncio
import base64
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Self

import orjson
from pydantic import SecretStr

from vidgen import catalog
from vidgen.dev import environment
from vidgen.dev.child import Child
from vidgen.dev.servers import PostgresServer, ValkeyServer
from vidgen.errors import SettingsError
from vidgen.settings import KEY_BYTES, Settings

BUCKET = "videos"
PROJECT = "vidgen-simulator"
PREPARE_TIMEOUT_S = 30.0
KILL_AFTER_S = 3.0  # beside the grace that the worker has by its settings

# Two ways to the same worker; the second has no log lines of arq's own before ours.
ARQ = ("arq", "vidgen.worker.WorkerSettings")
OURS = ("vidgen", "worker")

Say = Callable[[str, str], None]


class Stack:
    """
    The servers, running while the context is open; what they hold stays in the folder.

    Attributes:
        folder: Made when missing; `keys.json` in it is ours alone.
        settings: Point at all of them. Empty of meaning before the start.
    """

    settings: Settings

    def __init__(
        self,
        folder: Path,
        *,
        durable: bool = True,
        generation_s: float = 8.0,
        say: Say = lambda _what, _where: None,
    ) -> None:
        """Choose the folder; *say* is told of each server that runs, and where."""
        self.folder = folder.absolute()
        self._durable = durable
        self._generation_s = generation_s
        self._say = say
        self._running = ExitStack()

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self.stop()

    def start(self) -> None:
        """
        Start every server, make the bucket and the tables.

        Raises:
            SettingsError: The folder is in use or unusable, or a server does not start.
        """
        environment.reach_loopback_directly()
        keys = _keys(self.folder)
        with ExitStack() as running:
            database = running.enter_context(
                PostgresServer(self.folder / "postgres", durable=self._durable)
            )
            self._say("PostgreSQL", database.url)
            redis = running.enter_context(ValkeyServer(self.folder / "valkey"))
            self._say("Valkey (Redis)", redis.url)
            outside = Child(
                "outside",
                self.folder,
                pid_file=self.folder / "outside.pid",
                stop_signal=signal.SIGTERM,
            )
            with outside.held():
                outside.start(self._outside, lambda child: _told(child.log) is not None)
            running.callback(outside.stop)
            told = _told(outside.log)
            assert told is not None  # it is ready
            self._say("S3", f"{told['s3_url']}/{BUCKET}")
            self._say("Providers, simulated", told["origin"])
            self.settings = _settings(database.url, redis.url, told, keys)
            asyncio.run(_prepare(self.settings))
            self._running = running.pop_all()

    def stop(self) -> None:
        """Stop every server, in reverse order; harmless when they do not run."""
        self._running.close()

    def _outside(self, _: int) -> list[str]:
        # It chooses its ports itself: there are three.
        program = [sys.executable, "-m", "vidgen.dev.outside", str(self.folder)]
        return [*program, "--generation-s", str(self._generation_s)]


class Worker:
    """A worker as a child process, with *settings* as its whole configuration."""

    def __init__(
        self, settings: Settings, log: Path | None = None, program: Sequence[str] = ARQ
    ) -> None:
        """Start nothing yet; without *log* it writes to our own output."""
        self._settings = settings
        self._log = log
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it."""
        if self._log is None:
            self._process = self._spawn(None)
        else:
            with self._log.open("wb") as log:
                self._process = self._spawn(log)
        return self

    def __exit__(self, *_: object) -> None:
        """End it in good order, within its grace and a little."""
        assert self._process is not None  # entered
        self._process.terminate()
        try:
            self._process.wait(self._settings.shutdown_grace_s + KILL_AFTER_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        assert self._process is not None  # entered
        return self._process.poll()

    def wait(self) -> int:
        """Block until it ends by itself."""
        assert self._process is not None  # entered
        return self._process.wait()

    def _spawn(self, log: IO[bytes] | None) -> "subprocess.Popen[bytes]":
        # A killed parent takes the servers along, and then nothing is left to hand over to.
        leash = [sys.executable, "-m", "vidgen.dev.leash", str(os.getpid())]
        return subprocess.Popen(  # noqa: S603  our own interpreter and modules
            [*leash, sys.executable, "-m", *self._program],
            env=environment.for_child(self._settings),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT if log else None,
            # Ctrl-C is for us, who then end it in order: worker first, servers after.
            start_new_session=True,
        )


def _keys(folder: Path) -> dict[str, str]:
    """The made-up keys of this folder, made at its first use."""
    path = folder / "keys.json"
    try:
        # As root the servers run as somebody else, who must get in.
        folder.mkdir(mode=0o755 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        if not path.exists():
            new = path.with_suffix(".new")
            new.touch(mode=0o600)
            new.write_bytes(orjson.dumps(_fresh_keys()))
            new.rename(path)  # a kill half-way leaves no half file
        keys: dict[str, str] = orjson.loads(path.read_bytes())
        if keys.keys() != _fresh_keys().keys():
            raise ValueError
    except OSError as error:
        raise SettingsError(f"{folder} cannot be used: {error.strerror}") from error
    except (ValueError, AttributeError) as error:
        raise SettingsError(f"{path} is not what vidgen wrote; remove it") from error
    return keys


def _fresh_keys() -> dict[str, str]:
    return {
        "admin_token": secrets.token_urlsafe(24),
        "encryption_key": base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode(),
        "provider_key": f"simulated-{secrets.token_hex(12)}",
        "s3_access_key": f"vidgen{secrets.token_hex(7)}",
        "s3_secret_key": secrets.token_urlsafe(30),
    }


def _told(log: Path) -> dict[str, Any] | None:
    """The line of addresses in *log*, once it is there whole."""
    for line in log.read_bytes().splitlines(keepends=True):
        if line.startswith(b"{") and line.endswith(b"}\n"):
            told: dict[str, Any] = orjson.loads(line)
            return told
    return None


def _settings(
    database_url: str, redis_url: str, told: dict[str, Any], keys: dict[str, str]
) -> Settings:
    """All of the stack, and waits fit for watching."""
    addresses: dict[str, str] = told["addresses"]
    opened = dict.fromkeys(catalog.key_variables(addresses), keys["provider_key"])
    return Settings(
        database_url=database_url,
        redis_url=redis_url,
        encryption_key=SecretStr(keys["encryption_key"]),
        admin_token=SecretStr(keys["admin_token"]),
        google_cloud_project_id=PROJECT,
        google_application_credentials=SecretStr(told["service_account"]),
        veo_storage_uri=f"gs://{PROJECT}/videos",
        s3_bucket=BUCKET,
        s3_endpoint_url=told["s3_url"],
        aws_access_key_id=keys["s3_access_key"],
        aws_secret_access_key=SecretStr(keys["s3_secret_key"]),
        allow_private_addresses=True,
        concurrency=20,
        rate_limit_per_min=600,
        poll_interval_s=0.5,
        progress_interval_s=0.5,
        sweep_interval_s=1,
        lease_ttl_s=5,  # after a kill the next start goes on soon
        shutdown_grace_s=3,
        http_host="127.0.0.1",
        http_port=0,
    ).with_variables(addresses | opened)


async def _prepare(settings: Settings) -> None:
    from vidgen.resources import bucket_of
    from vidgen.storage import Storage
    from vidgen.store.migrate import migrate

    try:
        async with asyncio.timeout(PREPARE_TIMEOUT_S):
            await migrate(settings.database_url)
            async with Storage.open(bucket_of(settings)) as storage:
                await storage.create_bucket()
    except TimeoutError as error:
        raise SettingsError(
            f"the new servers did not do their first work within {PREPARE_TIMEOUT_S:.0f} s"
        ) from error
