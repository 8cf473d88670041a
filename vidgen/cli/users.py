"""Commands about users: let everything go that there is of one."""

import asyncio
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from vidgen.cli.app import AsJson, app, run
from vidgen.cli.door import Door, open_door

if TYPE_CHECKING:
    from vidgen.store.erasure import Traces

PANEL = "Run it"
LOOK_S = 1.0

_WORDS = ("videos", "events", "deliveries", "inputs", "keys")


@app.command(rich_help_panel=PANEL)
def forget(
    user_id: Annotated[
        str, typer.Argument(metavar="USER", help="The user_id of jobs.", show_default=False)
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what there is; do nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Come back once all of it is deleted.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """
    Delete everything there is of a user: jobs, videos, pictures, events, webhooks, provider keys.

    Running jobs are cancelled; what a provider has started may still be billed. Workers delete the
    rest within seconds. Asked again it tells what is left.
    """
    if not (dry_run or yes or sys.stdin.isatty()):
        raise typer.BadParameter("without a terminal to ask on, say --yes or --dry-run")

    async def look() -> "Traces":
        async with open_door() as door:
            return await door.queue.forget(user_id, dry_run=True)

    async def work() -> "Traces":
        async with open_door() as door:
            return await _forget(door, user_id, wait=wait)

    if dry_run:
        _tell(run(look()), as_json=as_json, dry_run=True)
        return
    if not yes:
        typer.echo(_sentence(run(look())), err=True)
        typer.confirm("Delete all of it? Nothing brings it back.", abort=True, err=True)
    _tell(run(work()), as_json=as_json, dry_run=False)


async def _forget(door: Door, user_id: str, *, wait: bool) -> "Traces":
    from vidgen.store.erasure import pseudonym

    # The record must not keep what is to be forgotten.
    await door.note("forget", pseudonym(user_id))
    traces = await door.queue.forget(user_id)
    # A worker tells nobody when it is done.
    while wait and (await door.queue.forget(user_id, dry_run=True)).asked_at:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_S)
    return traces


def _tell(traces: "Traces", *, as_json: bool, dry_run: bool) -> None:
    from vidgen.cli import tables

    if as_json:
        tables.write_json(asdict(traces) | {"dry_run": dry_run})
        return
    typer.echo(_sentence(traces))


def _sentence(traces: "Traces") -> str:
    from vidgen.dev import screen

    counts = ", ".join(f"{getattr(traces, word)} {word}" for word in _WORDS)
    told = f"{traces.jobs} jobs, {counts}"
    if traces.running:
        told += f"; {traces.running} jobs still run"
    if traces.paid:
        cost = screen.money(traces.paid_micros)
        told += f", {traces.paid} of them are paid for or may be, about {cost}"
    return told
