"""Commands about the queue as a whole: how it stands, who works, pauses, webhooks, the record."""

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from vidgen.cli import words
from vidgen.cli.app import AsJson, app, run
from vidgen.cli.door import Door, open_door
from vidgen.cli.videos import each
from vidgen.document import delivery_document, json_value

if TYPE_CHECKING:
    from vidgen.store.deliveries import Delivery
    from vidgen.store.steering import AuditEntry
    from vidgen.store.workers import ListedWorker

PANEL = "The queue"
DRAIN_LOOK_S = 1.0

Reason = Annotated[str, typer.Option(help="Why, for whoever wonders.", show_default=False)]


@app.command(rich_help_panel=PANEL)
def stats(as_json: AsJson = False) -> None:
    """Tell how the queue stands: jobs, workers, pauses, webhooks, money, failures."""

    async def work() -> dict[str, Any]:
        async with open_door() as door:
            return await _standing(door)

    _tell(run(work()), as_json=as_json)


@app.command(rich_help_panel=PANEL)
def pause(
    provider: Annotated[
        str,
        typer.Argument(
            metavar="PROVIDER",
            help="sora, veo, …; vidgen providers has them all.",
            show_default=False,
            autocompletion=words.providers,
        ),
    ],
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """
    Take no new job of a provider; what was taken goes on to its end.

    All providers at once: vidgen drain.
    """

    async def work() -> dict[str, Any]:
        async with open_door() as door:
            who = await door.note("pause", provider, reason=reason)
            await door.queue.pause(provider, by=who, reason=reason)
            return await _standing(door)

    _tell(run(work()), as_json=as_json)


@app.command(rich_help_panel=PANEL)
def resume(
    provider: Annotated[
        str | None,
        typer.Argument(
            metavar="PROVIDER",
            help="sora, veo, …; without one a drain ends.",
            show_default=False,
            autocompletion=words.providers,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """End the pause of a provider, or a drain; what waited is taken within seconds."""

    async def work() -> dict[str, Any]:
        async with open_door() as door:
            await door.note("resume", provider or "all")
            await door.queue.resume(provider)
            return await _standing(door)

    _tell(run(work()), as_json=as_json)


@app.command(rich_help_panel=PANEL)
def drain(
    reason: Reason = "drain",
    wait: Annotated[
        bool, typer.Option("--wait", help="Come back once no job is active any more.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """
    Take no new job at all, and let what is under way end.

    Until: vidgen resume.
    """

    async def work() -> dict[str, Any]:
        async with open_door() as door:
            who = await door.note("drain", "all", reason=reason)
            await door.queue.pause(None, by=who, reason=reason)
            # Nobody tells when the last one has ended.
            while wait and (await door.queue.stats()).active:  # noqa: ASYNC110
                await asyncio.sleep(DRAIN_LOOK_S)
            return await _standing(door)

    _tell(run(work()), as_json=as_json)


@app.command(rich_help_panel=PANEL)
def workers(as_json: AsJson = False) -> None:
    """List the workers, the living ones first, and what each holds."""
    from vidgen.cli import tables
    from vidgen.dev import screen
    from vidgen.store import workers as store

    async def work() -> "list[ListedWorker]":
        async with open_door() as door, door.database.connection() as connection:
            return await store.listed(connection, door.settings.lease_ttl_s)

    found = run(work())
    if as_json:
        tables.write_json([asdict(worker) for worker in found])
    else:
        tables.show_workers(found, screen.console())


@app.command(rich_help_panel=PANEL)
def providers(as_json: AsJson = False) -> None:
    """List providers and models: keys, limits, pauses, prices, retirement dates."""
    from vidgen.cli import tables
    from vidgen.dev import screen
    from vidgen.resources import open_resources
    from vidgen.server.steering import provider_documents
    from vidgen.settings import Settings

    async def work() -> list[Any]:
        async with open_resources(Settings.load()) as resources:
            return await provider_documents(resources)

    found = run(work())
    if as_json:
        tables.write_json(found)
    else:
        tables.show_providers(found, screen.console())


@app.command(rich_help_panel=PANEL)
def audit(
    limit: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="At most so many.")] = 20,
    before: Annotated[
        int | None,
        typer.Option(min=1, metavar="SEQ", help="Only older ones: the last of the page before."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List who did what by hand, the newest first: by page, API or command line."""
    from vidgen.cli import tables
    from vidgen.dev import screen
    from vidgen.store import steering

    async def work() -> "list[AuditEntry]":
        async with open_door() as door, door.database.connection() as connection:
            return await steering.entries(connection, before=before, limit=limit)

    found = run(work())
    if as_json:
        tables.write_json([asdict(entry) for entry in found])
    else:
        tables.show_audit(found, screen.console())


@app.command(rich_help_panel=PANEL)
def deliveries(
    job: Annotated[
        UUID | None, typer.Option(metavar="ID", help="Only webhooks of this job.")
    ] = None,
    state: Annotated[
        str | None,
        typer.Option(
            metavar="STATE",
            help="pending, delivered, failed or gone.",
            autocompletion=words.delivery_states,
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="At most so many.")] = 20,
    before: Annotated[
        UUID | None,
        typer.Option(metavar="ID", help="Only older ones: the last of the page before."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List webhooks and how they stand, the newest first."""
    from vidgen.cli import tables
    from vidgen.dev import screen

    if state is not None and state not in words.DELIVERY_STATES:
        raise typer.BadParameter(f"--state came as {state!r}; it is {words.DELIVERY_STATES_TOLD}")

    async def work() -> "list[Delivery]":
        from vidgen.store.deliveries import DeliveryState

        async with open_door() as door:
            return await door.queue.deliveries(
                job, state=DeliveryState(state) if state else None, before=before, limit=limit
            )

    found = run(work())
    if as_json:
        tables.write_json([delivery_document(one, whole=True) for one in found])
    else:
        tables.show_deliveries(found, screen.console())


@app.command(rich_help_panel=PANEL)
def replay(
    ids: Annotated[
        list[UUID],
        typer.Argument(metavar="ID", help="Ids of deliveries.", show_default=False),
    ],
    as_json: AsJson = False,
) -> None:
    """
    Send webhooks now, each under the same id as before.

    One that has ended begins its schedule anew.
    """
    from vidgen.cli import tables

    def tell(delivery: "Delivery") -> None:
        if as_json:
            tables.write_json(delivery_document(delivery, whole=True))
        else:
            typer.echo(f"{delivery.id}  is due now")

    async def work() -> None:
        async with open_door() as door:

            async def deed(delivery_id: UUID) -> "Delivery":
                await door.note("replay", delivery_id)
                return await door.queue.replay(delivery_id)

            await each(ids, deed, tell)

    run(work())


async def _standing(door: Door) -> dict[str, Any]:
    """How the queue stands, by the words that the HTTP API has for it."""
    from vidgen.store import deliveries as webhooks
    from vidgen.store import history, jobs, steering
    from vidgen.store import workers as processes

    async with door.database.connection() as connection:
        counts = await jobs.counts(connection)
        oldest_s = await jobs.oldest_due_s(connection)
        alive = await processes.alive(connection, door.settings.lease_ttl_s)
        held = await steering.pauses(connection)
        spend = await history.spend_today(connection)
        failed = await history.failed_groups(connection)
        sent = await webhooks.counts(connection)
    return {
        **asdict(counts),
        "total": counts.total,
        "oldest_waiting_s": oldest_s,
        "workers": alive,
        "paused": json_value(held),
        "draining": any(each.provider is None for each in held),
        "webhooks_pending": sent.pending,
        "webhooks_failed": sent.failed,
        "spend_today_micros": spend.spend_micros,
        "waste_today_micros": spend.waste_micros,
        "failed_by_code": json_value(failed),
    }


def _tell(standing: dict[str, Any], *, as_json: bool) -> None:
    from vidgen.cli import tables
    from vidgen.dev import screen

    if as_json:
        tables.write_json(standing)
    else:
        tables.show_standing(standing, screen.console())
