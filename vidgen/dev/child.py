"""
A server as a child process: started on a free port, stopped in its own way, never left behind.

On Linux a child is told of the end of the thread that started it, so start it from one that stays
alive: the main one. Elsewhere a killed parent leaves a survivor, which the next start ends.
"""

import atexit
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from vidgen.errors import SettingsError

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
LOOK_EVERY_S = 0.005
START_TRIES = 3  # somebody else may take a free port before the server does

# Becomes the program, after asking Linux for a signal when the parent ends (PR_SET_PDEATHSIG is 1,
# and a change of user forgets it, so that comes first). A `preexec_fn` would be shorter, but it
# runs Python between fork and exec, which Python 3.12 warns about where there are threads.
_LAUNCHER = """
import ctypes, os, sys

parent, end_signal, user, *command = sys.argv[1:]
if user:
    os.setgroups([])
    os.setgid(int(user))
    os.setuid(int(user))
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, int(end_signal))
    if os.getppid() != int(parent):
        sys.exit("the parent ended meanwhile")
os.execv(command[0], command)
"""


class Child:
    """
    One program that runs below us, in a folder that is ours alone while it does.

    Attributes:
        port: Where it listens on the loopback, once started.
        log: What it writes, from its last start on.
        pid_file: Where the program itself writes its process id, on the first line.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        pid_file: Path,
        stop_signal: signal.Signals,
        user: int | None = None,
        port: int = 0,
    ) -> None:
        """Describe it; *user* None runs it as who we are, *port* is the one it likes best."""
        self.name = name
        self.folder = folder
        self.pid_file = pid_file
        self.log = folder / f"{name}.log"
        self.port = port
        self._stop_signal = stop_signal
        self._user = user
        self._lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the running program."""
        assert self._process is not None  # only a started one has an id
        return self._process.pid

    @contextmanager
    def held(self) -> Iterator[None]:
        """
        The folder locked and free of survivors; an exception inside lets it go again.

        Raises:
            SettingsError: Another process uses the folder.
        """
        self._lock = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._take_lock()
            self._end_survivor()
            yield
        except BaseException:
            self.stop()
            raise

    def start(
        self, command: Callable[[int], Sequence[str]], is_ready: Callable[["Child"], bool]
    ) -> None:
        """
        Run *command* of a free port until *is_ready*.

        Raises:
            SettingsError: It ended, or was not ready in time; the message has the end of its log.
        """
        atexit.register(self.stop)  # where the system does not tell a child of its parent's end
        for tries in range(START_TRIES):
            self.port = self.port if self.port and not tries else _free_port()
            self._spawn(command(self.port))
            if self._wait_until(lambda: is_ready(self)):
                return
            self._end()
            if "in use" not in self._end_of_log():
                break
        raise SettingsError(f"{self.name} does not start; {self.log} ends:\n{self._end_of_log()}")

    def stop(self) -> None:
        """End the program, as it likes to be ended first, and let the folder go; harmless twice."""
        atexit.unregister(self.stop)
        self._end()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take_lock(self) -> None:
        assert self._lock is not None  # opened by the caller
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SettingsError(f"{self.folder} is in use by another vidgen process") from error

    def _end_survivor(self) -> None:
        """
        Wait for the end of the program of a killed parent, then remove its pid file.

        We hold the lock, so nobody wants that program any more. The number in the file may long
        belong to a stranger (small numbers come again in containers), whom we must not touch and
        whom postgres would take for a running server.
        """
        try:
            pid = int(self.pid_file.read_text().split()[0])
        except (FileNotFoundError, IndexError, ValueError):
            pid = 0
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while pid and _works_in(pid, self.pid_file.parent):
            late = time.monotonic() > deadline
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if late else self._stop_signal)
            time.sleep(LOOK_EVERY_S * 10)
        self.pid_file.unlink(missing_ok=True)

    def _spawn(self, command: Sequence[str]) -> None:
        user = "" if self._user is None else str(self._user)
        facts = [str(os.getpid()), str(int(self._stop_signal)), user]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _LAUNCHER, *facts, *command],
                cwd=self.pid_file.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches a whole process group; servers are stopped by us, and last.
                start_new_session=True,
            )

    def _wait_until(self, is_ready: Callable[[], bool]) -> bool:
        assert self._process is not None  # just spawned
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                return False
            if is_ready():
                return True
            time.sleep(LOOK_EVERY_S)
        return False

    def _end(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(self._stop_signal)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _end_of_log(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-8:])


def _works_in(pid: int, folder: Path) -> bool:
    """Whether process *pid* lives and has *folder* as its own: servers change into their data."""
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/cwd").samefile(folder)
        except OSError:
            return False
    ask = ["/usr/sbin/lsof", "-a", "-p", str(pid), "-d", "cwd", "-Fn"]
    with suppress(OSError):
        said = subprocess.run(ask, capture_output=True, text=True, check=False, timeout=5).stdout
        return f"n{folder.resolve()}" in said.splitlines()
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
