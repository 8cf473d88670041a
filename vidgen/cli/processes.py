"""Commands that run something: the demo, dev mode, worker, server, migrations, the health check."""

import asyncio
import importlib
import signal
import sys
from datetime import UTC, date, datetime
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vidgen.cli import words
from vidgen.cli.app import REFUSED, AsJson, app, run, until_interrupted
from vidgen.errors import DatabaseError, DispatchError, SettingsError

if TYPE_CHECKING:
    from vidgen.dev.live import Offer
    from vidgen.settings import Settings

TRY, RUN = "Try it", "Run it"
HEALTH_TIMEOUT_S = 8.0  # the server's own checks take 3 s at most

Live = Annotated[
    bool,
    typer.Option("--live", help="Ask the real providers whose keys are set. This costs money."),
]


@app.command(rich_help_panel=TRY)
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the finished videos.")] = Path(
        "vidgen-demo"
    ),
    prompt: Annotated[
        str | None, typer.Option(help="What every video shows.", show_default=False)
    ] = None,
    provider: Annotated[
        str, typer.Option(help="Whose videos; all: a few.", autocompletion=words.providers)
    ] = "all",
    live: Live = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before paying.")] = False,
    generation_s: Annotated[
        float,
        typer.Option(min=0, max=600, help="How long a simulated provider takes for a video."),
    ] = 8.0,
) -> None:
    """
    Make a few videos on this machine, start to finish, without keys, servers or root.

    PostgreSQL, Redis, S3 and the providers run as child processes for as long as it takes.
    """
    from vidgen import catalog
    from vidgen.dev import demo

    if provider != "all":
        catalog.vendor(provider)
    offer = _offer(provider, yes=yes) if live else None
    wish = demo.Demo(
        output=output, prompt=prompt, provider=provider, live=offer, generation_s=generation_s
    )
    raise typer.Exit(until_interrupted(lambda: demo.run(wish)))


@app.command(rich_help_panel=TRY)
def dev(
    folder: Annotated[Path, typer.Option(help="Where data is kept between runs.")] = Path(
        ".vidgen"
    ),
    port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            help="Of the HTTP server; 3000 or the next free one.",
            show_default=False,
        ),
    ] = None,
    live: Live = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before paying.")] = False,
) -> None:
    """Keep everything running on this machine until Ctrl-C, with data kept between runs."""
    from vidgen.dev import mode

    offer = _offer("all", yes=yes) if live else None
    code = until_interrupted(lambda: mode.run(folder, port=port, live=offer))
    if code:
        sys.stderr.write(f"the worker ended by itself, with exit code {code}\n")
    raise typer.Exit(REFUSED if code else 0)


@app.command(rich_help_panel=RUN)
def worker() -> None:
    """Carry jobs until SIGTERM; the same as: arq vidgen.worker.WorkerSettings."""
    from vidgen import logs
    from vidgen.settings import Settings
    from vidgen.worker import prepare_loop, worker_settings

    settings = Settings.load()
    logs.configure(settings.log_level, settings.log_format)
    prepare_loop(settings)
    arq: Any = importlib.import_module("arq.worker")
    arq.run_worker(worker_settings(settings))


@app.command(rich_help_panel=RUN)
def serve() -> None:
    """Serve health and admin endpoints without carrying jobs, until SIGTERM."""
    from vidgen import logs
    from vidgen.settings import Settings

    settings = Settings.load()
    if settings.http_port == 0:
        raise SettingsError("VIDGEN_HTTP_PORT: came 0, which serves nothing; wanted: a port")
    logs.configure(settings.log_level, settings.log_format)
    asyncio.run(_serve(settings))


@app.command(rich_help_panel=RUN)
def migrate(as_json: AsJson = False) -> None:
    """Bring the tables of PostgreSQL up to this release; safe at any time, from many at once."""
    from vidgen.settings import Settings
    from vidgen.store import migrate as store

    settings = Settings.load(needs=frozenset({"database"}))
    applied = run(store.migrate(settings.database_url))
    if as_json:
        from vidgen.cli import tables

        tables.write_json({"applied": applied})
    else:
        typer.echo("\n".join(f"applied {name}" for name in applied) or "nothing to do")


@app.command(rich_help_panel=RUN)
def health(as_json: AsJson = False) -> None:
    """
    Ask the worker on this machine how it is; exit code 0 if all is well, else 1.

    Without a worker here PostgreSQL and Redis are asked, and whether any
    worker is alive.
    """
    from vidgen.settings import Settings

    settings = Settings.load()
    report = _ask_worker(settings) or run(_check(settings))
    if as_json:
        from vidgen.cli import tables

        tables.write_json(report)
    else:
        typer.echo("healthy" if report.get("healthy") else "not healthy")
        for name, check in dict(report.get("checks", {})).items():
            facts = ", ".join(f"{key}: {value}" for key, value in dict(check).items())
            typer.echo(f"  {name:<8} {facts}")
    raise typer.Exit(0 if report.get("healthy") else REFUSED)


def _offer(provider: str, *, yes: bool) -> "Offer":
    """What --live would ask and cost, after a yes if somebody is there to say it."""
    from vidgen.dev import live, screen

    # The day in UTC decides, as everywhere.
    today: date = datetime.now(UTC).date()
    offer = live.find(provider, today=today)
    out = screen.console()
    out.print("\n[bold]These real providers will be asked, and will bill you:[/]\n")
    for quote in offer.quotes:
        name = f"{quote.request.provider}/{quote.request.model}"
        cost = f"about {screen.money(quote.cost_micros)} for {quote.request.seconds} s"
        out.print(f"  {name}  at {offer.address(quote)}  {cost}", markup=False)
    out.print()
    if not yes:
        if not (sys.stdin.isatty() and out.is_terminal):
            raise typer.BadParameter("without a terminal to ask on, say --yes")
        typer.confirm("Go on?", abort=True)
    return offer


async def _serve(settings: "Settings") -> None:
    from vidgen.resources import open_resources
    from vidgen.server.app import serving
    from vidgen.store import budgets

    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with open_resources(settings) as resources:
        if settings.budgets_micros:
            async with resources.database.connection() as connection:
                await budgets.follow_settings(connection, settings.budgets_micros)
        async with serving(resources):
            await stopping.wait()


def _ask_worker(settings: "Settings") -> dict[str, Any] | None:
    """What the worker's own server says; None if none listens on this machine."""
    import orjson

    if settings.http_port == 0:
        return None
    host = "127.0.0.1" if settings.http_host in {"0.0.0.0", "::"} else settings.http_host  # noqa: S104
    connection = HTTPConnection(host, settings.http_port, timeout=HEALTH_TIMEOUT_S)
    try:
        connection.request("GET", "/api/health/worker")
        report = orjson.loads(connection.getresponse().read(65_536))
    except ConnectionRefusedError:
        return None
    except (OSError, HTTPException, ValueError) as error:
        reason = f"{host}:{settings.http_port} gives no answer ({type(error).__name__})"
        return _report({"worker": {"error": reason}})
    finally:
        connection.close()
    if not isinstance(report, dict) or "healthy" not in report:
        return _report({"worker": {"error": f"{host}:{settings.http_port} is no vidgen server"}})
    return report


async def _check(settings: "Settings") -> dict[str, Any]:
    """What PostgreSQL and Redis say themselves."""
    from vidgen.dispatch import Dispatcher, open_redis
    from vidgen.store import workers
    from vidgen.store.pool import Database

    checks: dict[str, Any] = {}
    try:
        async with open_redis(settings.redis_url) as redis:
            latency_ms = await Dispatcher(redis, settings.queue_name).ping()
        checks["redis"] = {"connected": True, "latencyMs": round(latency_ms, 2)}
    except DispatchError as error:
        checks["redis"] = {"connected": False, "error": error.message}
    try:
        async with (
            Database(
                settings.database_url, size=1, prepared_statements=settings.prepared_statements
            ) as database,
            database.connection() as connection,
        ):
            active = await workers.alive(connection, settings.lease_ttl_s)
        checks["queue"] = {"accessible": True, "activeWorkers": active}
        if active == 0:
            checks["worker"] = {"error": "no worker is alive"}
    except DatabaseError as error:
        checks["queue"] = {"accessible": False, "error": error.message}
    return _report(checks)


def _report(checks: dict[str, Any]) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    is_healthy = not any("error" in check for check in checks.values())
    return {"healthy": is_healthy, "timestamp": now, "checks": checks}
