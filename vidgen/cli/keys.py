"""Commands about keys that users bring. A key is typed or piped in, never an argument."""

import getpass
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from vidgen.cli.app import AsJson, app, run
from vidgen.errors import InvalidRequestError

if TYPE_CHECKING:
    from vidgen.job import JsonValue
    from vidgen.settings import Settings
    from vidgen.store.pool import Database
    from vidgen.vault import Vault

PANEL = "Run it"
MAX_KEY_BYTES = 64 * 1024
ADDRESS = "command line"  # where the record of actions says it came from

keys_app = typer.Typer(
    name="keys",
    no_args_is_help=True,
    help="Provider keys that users bring: sealed, never shown again.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(keys_app, rich_help_panel=PANEL)

UserId = Annotated[str, typer.Option(help="Whose key: the user_id of jobs.", show_default=False)]
ProviderName = Annotated[
    str, typer.Option(help="sora, veo, …; vidgen providers has them all.", show_default=False)
]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Safe:
    """What the commands open."""

    settings: "Settings"
    database: "Database"
    vault: "Vault"


@keys_app.command()
def add(user_id: UserId, provider: ProviderName, as_json: AsJson = False) -> None:
    """
    Store a user's key for a provider; the one they had before is removed.

    The key is read from stdin, or asked for on a terminal: an API key, or for veo on Vertex AI the
    JSON of a service account.
    """
    from vidgen import keys

    text = _read_key()

    async def work() -> keys.AddedKey:
        async with _safe() as safe:
            keys.check_user(user_id)
            given = keys.check(provider, text, vertex_base_url=safe.settings.vertex_base_url)
            _ = safe.vault.newest  # no action is noted that cannot be done
            await _note(safe, "key_add", user_id, provider=provider, api=given.api, hint=given.hint)
            async with safe.database.connection() as connection:
                return await keys.add(connection, safe.vault, user_id, given)

    added = run(work())
    if as_json:
        _write_json(asdict(added))
        return
    typer.echo(str(added.id))
    if added.jobs:
        typer.echo(
            f"{added.jobs} running jobs go on with the key {added.replaced} until they end",
            err=True,
        )


@keys_app.command("list")
def list_(
    user_id: Annotated[str | None, typer.Option(help="Only keys of this user.")] = None,
    provider: Annotated[str | None, typer.Option(help="Only keys for this provider.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 50,
    before: Annotated[
        UUID | None, typer.Option(metavar="ID", help="The last key of the page before.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List stored keys, the newest first, without the keys."""
    from vidgen import keys
    from vidgen.store import keys as store

    async def work() -> list[dict[str, Any]]:
        async with _safe() as safe, safe.database.connection() as connection:
            found = await store.listed(
                connection, user_id=user_id, provider=provider, before=before, limit=limit
            )
            return [dict(keys.key_document(key, safe.vault)) for key in found]

    found = run(work())
    if as_json:
        _write_json(found)
        return
    for key in found:
        state = "does not open" if not key["readable"] else "removed" if key["removed_at"] else "ok"
        hint = f"…{key['hint']}" if key["hint"] else "-"
        facts = (key["id"], key["user_id"], f"{key['provider']}/{key['api']}", hint, state)
        typer.echo("\t".join([*map(_plain, facts), f"{key['jobs']} running jobs"]))


@keys_app.command()
def remove(
    key_id: Annotated[UUID, typer.Argument(metavar="ID", help="The key's id.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Let no job begin with a key any more; it is deleted once no running job needs it."""
    from vidgen import keys

    async def work() -> keys.RemovedKey:
        async with _safe() as safe:
            await _note(safe, "key_remove", str(key_id))
            async with safe.database.connection() as connection:
                return await keys.remove(connection, key_id)

    removed = run(work())
    if as_json:
        _write_json(asdict(removed))
    elif removed.deleted:
        typer.echo(f"{key_id}  deleted")
    else:
        typer.echo(f"{key_id}  removed; kept sealed until {removed.jobs} running jobs have ended")


@keys_app.command()
def rotate(as_json: AsJson = False) -> None:
    """
    Seal every key and prompt anew under the first of ENCRYPTION_KEYS, while jobs go on.

    Tells how many are sealed under which encryption key then: one that is not listed may be
    dropped. May be stopped and started again at any time.
    """
    from vidgen import prompts
    from vidgen.dev import screen

    async def work() -> dict[str, Any]:
        from rich.progress import Progress

        async with _safe() as safe:
            _ = safe.vault.newest
            await _note(safe, "key_rotate", "all")
            left = await _progress(safe)
            with Progress(console=screen.console(sys.stderr), transient=True) as bar:
                task = bar.add_task("sealing anew", total=left["left"])
                resealed, after = 0, None
                while True:
                    step = await prompts.reseal(safe.database, safe.vault, after)
                    resealed, after = resealed + step.resealed, step.next
                    bar.update(task, completed=resealed)
                    if after is None:
                        break
            return {"resealed": resealed} | await _progress(safe)

    done = run(work())
    if as_json:
        _write_json(done)
        return
    typer.echo(f"{done['resealed']} sealed anew, {done['left']} left")
    for each in done["keys"]:
        told = (
            "newest" if each["newest"] else "in ENCRYPTION_KEYS" if each["readable"] else "lacking"
        )
        typer.echo(f"{each['key_id']}\t{each['keys']} keys\t{each['prompts']} prompts\t{told}")


async def _progress(safe: _Safe) -> dict[str, Any]:
    from vidgen import prompts

    return await prompts.progress(safe.database, safe.vault)


@asynccontextmanager
async def _safe() -> AsyncIterator[_Safe]:
    from vidgen.settings import Settings
    from vidgen.store.pool import Database
    from vidgen.vault import Vault

    settings = Settings.load(needs=frozenset({"database"}))
    async with Database(
        settings.database_url, size=1, prepared_statements=settings.prepared_statements
    ) as database:
        yield _Safe(
            settings=settings, database=database, vault=Vault(settings.encryption_key_bytes)
        )


async def _note(safe: _Safe, action: str, target: str, **detail: "JsonValue") -> None:
    """Write down what is about to be done, as the server does."""
    from vidgen.store import steering

    async with safe.database.connection() as connection:
        await steering.note(
            connection,
            who=_who(),
            role="operate",
            address=ADDRESS,
            action=action,
            target=target,
            detail=detail,
        )


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # nobody has a name in many containers
        return "unnamed"


def _read_key() -> str:
    if sys.stdin.isatty():
        typed: str = typer.prompt("Key (not shown)", hide_input=True, err=True)
        return typed
    data = sys.stdin.buffer.read(MAX_KEY_BYTES)
    try:
        return data.decode()
    except UnicodeDecodeError:
        # Without the cause, which quotes what came.
        raise InvalidRequestError("The key on stdin is no UTF-8 text.") from None


def _plain(value: object) -> str:
    from vidgen.dev import screen

    return screen.plain(str(value))


def _write_json(document: object) -> None:
    from vidgen.cli import tables

    tables.write_json(document)
