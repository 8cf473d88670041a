"""`vidgen keys`: a key goes in by stdin or by a prompt, and never comes out."""

import asyncio
import base64
import os
import pty
import subprocess
import sys
import termios
from collections.abc import AsyncIterator

import asyncpg
import pytest
from pydantic import SecretStr

from tests.test_cli import TIMEOUT_S, Program, away, vidgen
from vidgen import keys as bring
from vidgen.settings import Settings
from vidgen.store.pool import Database
from vidgen.vault import Vault, key_id

__all__ = ["vidgen"]

OLD, NEW = (bytes([number]) * 32 for number in (1, 2))
KEY = b"sk-planted-by-alice-9876\n"
ALICE = ("--user-id", "alice", "--provider", "sora")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    ring = ",".join(base64.b64encode(key).decode() for key in (NEW, OLD))
    return settings.model_copy(update={"encryption_keys": SecretStr(ring)})


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    async with Database(settings.database_url, size=2) as database:
        yield database


async def audited(settings: Settings) -> list[tuple[str, str, str]]:
    connection = await asyncpg.connect(settings.database_url)
    try:
        rows = await connection.fetch("SELECT action, target, address FROM audit ORDER BY seq")
    finally:
        await connection.close()
    return [(row["action"], row["target"], row["address"]) for row in rows]


async def test_a_key_is_added_listed_and_removed_and_each_action_is_written_down(
    vidgen: Program, settings: Settings
) -> None:
    added = await vidgen("keys", "add", *ALICE, stdin=KEY)
    key_id_ = added.out.strip()
    listed = await vidgen("keys", "list", "--user-id", "alice")
    as_json = await vidgen("keys", "list", "--json")
    removed = await vidgen("keys", "remove", key_id_)
    again = await vidgen("keys", "remove", key_id_)

    assert (added.code, listed.code, removed.code) == (0, 0, 0)
    assert listed.out == f"{key_id_}\talice\tsora/openai\t…9876\tok\t0 running jobs\n"
    [document] = as_json.document
    assert (document["id"], document["hint"], document["readable"]) == (key_id_, "9876", True)
    assert removed.out == f"{key_id_}  deleted\n"
    assert again.code == 1
    assert again.err.startswith("error [key_not_found]: ")
    assert [entry[:2] for entry in await audited(settings)] == [
        ("key_add", "alice"),
        ("key_remove", key_id_),
        ("key_remove", key_id_),
    ]
    assert {entry[2] for entry in await audited(settings)} == {"command line"}
    for said in (added, listed, as_json, removed, again):
        assert "planted" not in said.out + said.err


@pytest.mark.parametrize(
    ("arguments", "stdin", "code"),
    [
        (ALICE, b"", "invalid_request"),
        (ALICE, b"planted key", "invalid_request"),
        (ALICE, b"\xffplanted", "invalid_request"),
        (("--user-id", "", "--provider", "sora"), KEY, "invalid_request"),
        (("--user-id", "alice", "--provider", "acme"), KEY, "unknown_provider"),
        (("--user-id", "alice", "--provider", "veo"), b'{"planted": 1}', "invalid_request"),
    ],
)
async def test_what_is_no_key_is_refused_with_a_sentence(
    vidgen: Program, settings: Settings, arguments: tuple[str, ...], stdin: bytes, code: str
) -> None:
    said = await vidgen("keys", "add", *arguments, stdin=stdin)

    assert said.code == 1
    assert said.err.startswith(f"error [{code}]: ")
    assert "planted" not in said.out + said.err
    assert await audited(settings) == []


async def test_a_key_is_no_argument(vidgen: Program) -> None:
    said = await vidgen("keys", "add", *ALICE, "sk-planted-by-alice-9876")

    assert said.code == 2


async def test_without_an_encryption_key_nothing_is_stored(
    vidgen: Program, settings: Settings
) -> None:
    said = await away(vidgen, ENCRYPTION_KEYS="")("keys", "add", *ALICE, stdin=KEY)

    assert said.code == 1
    assert said.err.startswith("error [no_encryption_key]: ")
    assert await audited(settings) == []


async def test_keys_that_do_not_open_here_are_listed_as_such(
    vidgen: Program, database: Database
) -> None:
    async with database.connection() as connection:
        given = bring.check("sora", "sk-of-bob")
        await bring.add(connection, Vault([bytes([9]) * 32]), "bob", given)

    said = await vidgen("keys", "list")

    assert said.out.split("\t")[1:] == [
        "bob",
        "sora/openai",
        "-",
        "does not open",
        "0 running jobs\n",
    ]


async def test_a_rotation_tells_when_the_old_encryption_key_may_be_dropped(
    vidgen: Program, database: Database
) -> None:
    async with database.connection() as connection:
        for number in range(230):
            given = bring.check("sora", f"sk-of-user-{number}")
            await bring.add(connection, Vault([OLD]), f"user-{number}", given)

    said = await vidgen("keys", "rotate")
    again = await vidgen("keys", "rotate", "--json")

    assert said.out == (
        f"230 sealed anew, 0 left\n{key_id(NEW).hex()}\t230 keys\t0 prompts\tnewest\n"
    )
    assert again.document == {
        "resealed": 0,
        "keys": [
            {
                "key_id": key_id(NEW).hex(),
                "keys": 230,
                "prompts": 0,
                "newest": True,
                "readable": True,
            }
        ],
        "left": 0,
        "unreadable": 0,
    }


async def test_on_a_terminal_the_key_is_asked_for_and_not_shown(vidgen: Program) -> None:
    terminal, end = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vidgen", "keys", "add", *ALICE, "--json"),
        cwd=vidgen.folder,
        env=vidgen.environment,
        stdin=end,
        stdout=subprocess.PIPE,
        stderr=end,
        start_new_session=True,  # or the prompt would be asked on the terminal of the tests
    )
    os.close(end)
    seen, asked, loop = bytearray(), asyncio.Event(), asyncio.get_running_loop()

    def read() -> None:
        try:
            seen.extend(os.read(terminal, 1024))
        except OSError:  # the program has ended
            loop.remove_reader(terminal)
        if b"not shown" in seen:
            asked.set()

    loop.add_reader(terminal, read)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await asked.wait()
            while termios.tcgetattr(terminal)[3] & termios.ECHO:  # noqa: ASYNC110  it rings no bell
                await asyncio.sleep(0.01)  # what is typed before the echo is off would be lost
            os.write(terminal, KEY)
            out, _ = await process.communicate()
    finally:
        loop.remove_reader(terminal)
        os.close(terminal)
        if process.returncode is None:
            process.kill()
            await process.wait()

    assert process.returncode == 0
    assert b'"hint":"9876"' in out
    assert b"planted" not in bytes(seen) + out
