"""Commands about money: what was spent, and what may be."""

import sys
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated

import typer

from vidgen.cli import words
from vidgen.cli.app import AsJson, app, run
from vidgen.cli.door import open_door
from vidgen.document import json_value, table
from vidgen.errors import BudgetNotFoundError

if TYPE_CHECKING:
    from vidgen.store.budgets import Budget
    from vidgen.store.ledger import Spend

PANEL = "Run it"
MICROS = 1_000_000

budgets_app = typer.Typer(
    name="budgets",
    no_args_is_help=True,
    help="What may be spent: a day, a month or in total.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(budgets_app, rich_help_panel=PANEL)

Scope = Annotated[
    str,
    typer.Argument(
        help="all, provider:NAME, user:ID, or each-user (who has none of their own).",
        show_default=False,
    ),
]
Period = Annotated[str, typer.Argument(help="day, month or total.", show_default=False)]


@budgets_app.command("list")
def listed(as_json: AsJson = False) -> None:
    """List budgets, and what is spent and reserved of them."""

    async def work() -> "list[Budget]":
        from vidgen.store import budgets

        async with open_door() as door, door.database.connection() as connection:
            return await budgets.listed(connection)

    _tell(run(work()), as_json=as_json)


@budgets_app.command("set")
def set_(
    scope: Scope,
    period: Period,
    dollars: Annotated[str, typer.Argument(help="e.g. 25 or 0.50", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Set what may be spent; a new budget counts what its period has spent already."""
    try:
        limit_micros = int(Decimal(dollars.removeprefix("$")) * MICROS)
    except (InvalidOperation, ValueError, OverflowError):
        raise typer.BadParameter(f"{dollars!r} is no amount; it is dollars, e.g. 25") from None

    async def work() -> "list[Budget]":
        from vidgen.store import budgets

        budgets.check(scope, period, limit_micros)
        checked = budgets.period_of(period)
        target, user = budgets.named(scope)
        async with open_door() as door:
            who = await door.note(
                "budget_set", target, user_id=user, period=period, limit_micros=limit_micros
            )
            async with door.database.connection() as connection:
                await budgets.put(connection, scope, checked, limit_micros, who)
                return await budgets.listed(connection)

    _tell(run(work()), as_json=as_json)


@budgets_app.command()
def remove(scope: Scope, period: Period, as_json: AsJson = False) -> None:
    """End a budget; the ledger goes on."""

    async def work() -> "list[Budget]":
        from vidgen.store import budgets

        budgets.check(scope, period)
        target, user = budgets.named(scope)
        async with open_door() as door:
            async with door.database.connection() as connection:
                if not await budgets.remove(connection, scope, budgets.period_of(period)):
                    raise BudgetNotFoundError(f"there is no budget of {scope} by {period}")
            await door.note("budget_remove", target, user_id=user, period=period)
            async with door.database.connection() as connection:
                return await budgets.listed(connection)

    _tell(run(work()), as_json=as_json)


@app.command(rich_help_panel=PANEL)
def spend(
    by: Annotated[str, typer.Option(help="day, provider, model or user.")] = "day",
    since: Annotated[
        str | None, typer.Option("--from", help="e.g. 2026-12-01T00:00Z", show_default=False)
    ] = None,
    until: Annotated[
        str | None, typer.Option("--to", help="Before this moment.", show_default=False)
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV on stdout, in dollars.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell what was spent and wasted, by the ledger."""
    now = datetime.now(UTC)
    begun = words.moment(since, now, "--from") if since else None
    ended = words.moment(until, now, "--to") if until else None

    async def work() -> "list[Spend]":
        from vidgen.store import ledger

        kind = next((one for one in ledger.BY if one == by), None)
        if kind is None:
            raise typer.BadParameter(f"--by came as {by!r}; it is {', '.join(ledger.BY)}")
        async with open_door() as door, door.database.connection() as connection:
            return await ledger.spend(connection, by=kind, since=begun, until=ended)

    found = run(work())
    _tell_spend(found, by, as_csv=as_csv, as_json=as_json)


def _tell_spend(found: "list[Spend]", by: str, *, as_csv: bool, as_json: bool) -> None:
    from vidgen.cli import tables
    from vidgen.dev import screen
    from vidgen.store import ledger

    if as_json:
        tables.write_json({"by": by, "spend": json_value(found)})
    elif as_csv:
        sys.stdout.write(table(ledger.COLUMNS, [ledger.cells(each) for each in found]))
    else:
        tables.show_spend(found, by, screen.console())


def _tell(found: "list[Budget]", *, as_json: bool) -> None:
    from vidgen.cli import tables
    from vidgen.dev import screen

    if as_json:
        tables.write_json({"budgets": json_value(found)})
    else:
        tables.show_budgets(found, screen.console())
