"""`vidgen dev`: the stack and a worker, staying up until Ctrl-C; what they hold stays for later."""

import shlex
import socket
from pathlib import Path

from pydantic import SecretStr
from rich.console import Console

from vidgen.dev import environment, screen
from vidgen.dev.live import Offer
from vidgen.dev.stack import OURS, Stack, Worker
from vidgen.errors import SettingsError
from vidgen.settings import Settings

DEFAULT_PORT = 3000
PORTS_TRIED = 50


def run(folder: Path, *, port: int | None, live: Offer | None) -> int:
    """
    Serve until interrupted; the worker's exit code if it ends by itself.

    Args:
        port: Of the worker's server; None takes 3000, or the next free one.

    Raises:
        SettingsError: A server does not start, or the port is taken.
        KeyboardInterrupt: It was interrupted, and everything has been stopped.
    """
    out = screen.console()
    port = _free_port(port)
    out.print("\n[bold]vidgen dev[/]: everything on this machine, until Ctrl-C\n")

    def say(what: str, where: str) -> None:
        out.print(f"  {what:<25} [dim]{where}[/]", overflow="ellipsis", no_wrap=True)

    with Stack(folder, say=say) as stack:
        settings = stack.settings if live is None else live.over(stack.settings)
        settings = settings.model_copy(update={"http_port": port, "log_format": "pretty"})
        # Programs that are pointed here log as they like.
        shared = settings.model_copy(update={"log_format": "auto"})
        environment.write_file(folder / "env", shared)
        (folder / ".gitignore").write_text("*\n")
        say("Server", f"http://127.0.0.1:{port}/api/health/worker")
        say("Dashboard", f"http://127.0.0.1:{port}/")
        _tell(folder, settings, out)
        with Worker(settings, program=OURS) as worker:
            try:
                return worker.wait()
            finally:
                out.print("\n  stopping…\n")


def _tell(folder: Path, settings: Settings, out: Console) -> None:
    assert isinstance(settings.admin_token, SecretStr)  # the stack makes one
    file = shlex.quote(str(folder / "env"))
    out.print(f"  {'Admin token':<25} [dim]{settings.admin_token.get_secret_value()}[/]")
    out.print("\nIn another terminal:\n")
    out.print(f"  source {file}", markup=False)
    out.print('  vidgen submit --provider sora "a tram in the rain" --wait --output tram.mp4')
    out.print("  vidgen jobs\n")


def _free_port(wanted: int | None) -> int:
    """*wanted* if it is free; without a wish the default or one soon after it."""
    candidates = range(DEFAULT_PORT, DEFAULT_PORT + PORTS_TRIED) if wanted is None else [wanted]
    for port in candidates:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise SettingsError(f"--port: {candidates[0]} is taken on 127.0.0.1; another one is wanted")
