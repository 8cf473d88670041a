"""The program `vidgen`: its help, its exit codes, and the one place where errors become words."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from importlib.metadata import version
from types import FrameType
from typing import Annotated, Any, TypeVar

import typer

from vidgen.errors import SettingsError, VidgenError

T = TypeVar("T")

REFUSED = 1
WRONG_SETTINGS = 2
SIGNALLED = 128  # plus the number of the signal, as shells have it

EXIT_CODES = (
    "Exit codes: 0 done; 1 refused or failed, with 'error \\[code]: sentence' on stderr;"
    " 2 wrong settings or arguments; 130 interrupted."
)

app = typer.Typer(
    name="vidgen",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
)

AsJson = Annotated[
    bool, typer.Option("--json", help="JSON on stdout and nothing else, for programs.")
]


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    try:
        app()
    except SettingsError as error:
        raise SystemExit(_tell(error, WRONG_SETTINGS)) from None
    except VidgenError as error:
        raise SystemExit(_tell(error, REFUSED)) from None


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run *work* to its end, with warnings of the library on stderr; Ctrl-C ends the program."""
    from loguru import logger

    logger.remove()
    logger.add(sys.stderr, level="WARNING", format="{level.name}: {message}")
    # Of what a Ctrl-C cuts in the libraries nobody needs to hear; what matters raises.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    return until_interrupted(lambda: asyncio.run(work))


def until_interrupted(work: Callable[[], T]) -> T:
    """Do *work*; Ctrl-C and the signals that ask for an end unwind it before the program ends."""
    came = [signal.SIGINT]

    def end(number: int, _: FrameType | None) -> None:
        # As a Ctrl-C: asyncio turns that into a cancellation, where an exception out of nowhere
        # would tear coroutines apart.
        came.append(signal.Signals(number))
        signal.raise_signal(signal.SIGINT)

    # A shell script lets what it puts in the background ignore Ctrl-C. Then a SIGTERM, which is
    # turned into one, would be ignored, too.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, end)
    try:
        return work()
    except KeyboardInterrupt:
        raise typer.Exit(SIGNALLED + came[-1]) from None


def _tell(error: VidgenError, code: int) -> int:
    sys.stderr.write(f"error [{error.code}]: {error.message}\n")
    return code


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vidgen {version('vidgen')}")
        raise typer.Exit


@app.callback()
def vidgen(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """
    Runs paid AI video generations: nothing is lost, nothing is paid twice.

    New here? [bold]vidgen demo[/] makes a few videos on this machine, without keys or servers.
    """
