"""
Provider keys that users bring: checked, sealed, stored, replaced, removed, and sealed anew.

A key goes in once and is never told again. Whoever needs it reads the row and opens it for one call
(`pipeline.credentials`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from urllib.parse import urlsplit
from uuid import UUID

import orjson
from uuid_utils.compat import uuid7

from vidgen import catalog
from vidgen.errors import (
    InvalidRequestError,
    KeyNotFoundError,
    KeyUnreadableError,
)
from vidgen.store import keys
from vidgen.store.keys import ListedKey, SealedUnder, StoredKey
from vidgen.store.pool import Connection, Database
from vidgen.vault import Owner, Vault

MAX_KEY_CHARS = 16 * 1024  # a service account has some 2,400
MAX_USER_CHARS = 500  # as of a job
HINT_CHARS, HINT_FROM_CHARS = 4, 12
BATCH = 200  # sealed anew with one statement

_API_KEY = re.compile(r"[!-~]{1,4096}", re.ASCII)  # what may stand in a header
_PAIR = re.compile(r"[!-9;-~]{1,2000}:[!-9;-~]{1,2000}", re.ASCII)
_FORMS = {"text": _API_KEY, "pair": _PAIR}
_WANTED = {
    "text": "an API key",
    "pair": "an access key and its secret as ACCESS:SECRET",
    "service_account": "the JSON of a service account",
}
_PROJECT = re.compile(r"[a-z0-9][a-z0-9.:-]{1,126}", re.ASCII)
_GOOGLE_TOKENS = "https://oauth2.googleapis.com/token"
# What is kept of a service account; the rest of the file is addresses that nobody should follow.
_ACCOUNT_FIELDS = (
    *("type", "project_id", "private_key_id", "private_key"),
    *("client_email", "client_id", "token_uri"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenKey:
    """A key as its user brought it, checked."""

    provider: str
    api: str
    secret: str = field(repr=False)
    hint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedKey:
    """
    What was stored.

    Attributes:
        replaced: The id of the key that its user had for this interface before.
        jobs: Running jobs that go on with the replaced one until they end.
    """

    id: UUID
    user_id: str
    provider: str
    api: str
    hint: str
    replaced: UUID | None
    jobs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedKey:
    """
    What a removal did: from now on no job begins with the key.

    Attributes:
        jobs: Running jobs that began with it: it is kept, sealed, until they have ended.
        deleted: Nobody needed it, and it is gone.
    """

    id: UUID
    jobs: int
    deleted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Resealed:
    """
    One step of a rotation.

    Attributes:
        resealed: Now under the newest encryption key.
        unreadable: Left as they are: they do not open.
        next: Where to go on; None at the end.
    """

    resealed: int
    unreadable: int
    next: UUID | None


def check(provider: str, text: str, *, vertex_base_url: str | None = None) -> GivenKey:
    """
    The key in *text*, in the form that *provider* wants it: an API key, `access:secret`, or the
    JSON of a service account.

    Args:
        vertex_base_url: Where Vertex AI is spoken, if not at Google; it may give tokens, too.

    Raises:
        UnknownProviderError, InvalidRequestError: The sentence says what is wanted, not what came.
    """
    secret = text.strip()
    forms = {each.key_form: each for each in catalog.vendor(provider).interfaces}
    is_account = secret.startswith("{") and "service_account" in forms
    if is_account:
        return _account(provider, forms["service_account"].name, secret, vertex_base_url)
    for form, interface in forms.items():
        if form != "service_account" and _FORMS[form].fullmatch(secret):
            return GivenKey(
                provider=provider, api=interface.name, secret=secret, hint=_hint(secret)
            )
    wanted = " or ".join(_WANTED[form] for form in sorted(forms, key=list(_WANTED).index))
    raise InvalidRequestError(
        f"What came is no key for {provider}; wanted {wanted}: 1 to 4096 visible ASCII characters."
    )


async def add(connection: Connection, vault: Vault, user_id: str, given: GivenKey) -> AddedKey:
    """
    Seal and store the key of a user; the one they had for this interface is removed.

    Raises:
        NoEncryptionKeyError: No encryption key is set.
        InvalidRequestError: The user's name cannot be stored.
    """
    check_user(user_id)
    row_id = uuid7()
    owner = Owner(user_id=user_id, provider=given.provider, api=given.api, row_id=row_id)
    key = StoredKey(
        id=row_id,
        user_id=user_id,
        provider=given.provider,
        api=given.api,
        sealed=vault.seal(given.secret, owner),
    )
    async with connection.transaction():
        replaced = await keys.put(connection, key, given.hint)
    jobs = 0
    if replaced is not None:
        jobs = await keys.needed_by(connection, replaced)
        await keys.forget_removed(connection)
    return AddedKey(
        id=key.id,
        user_id=user_id,
        provider=key.provider,
        api=key.api,
        hint=given.hint,
        replaced=replaced,
        jobs=jobs,
    )


async def remove(connection: Connection, key_id: UUID) -> RemovedKey:
    """
    Let no job begin with a key any more, and delete it once no running job needs it.

    Raises:
        KeyNotFoundError: There is no such key, or it was removed before.
    """
    if not await keys.remove(connection, key_id):
        raise KeyNotFoundError(f"there is no provider key {key_id} in use")
    jobs = await keys.needed_by(connection, key_id)
    await keys.forget_removed(connection)
    return RemovedKey(id=key_id, jobs=jobs, deleted=await keys.get(connection, key_id) is None)


async def reseal(database: Database, vault: Vault, after: UUID | None = None) -> Resealed:
    """
    Seal the next batch of keys behind *after* under the newest encryption key.

    Jobs go on meanwhile: the old envelope opens as well as the new one. Twice at once, and again
    after an end halfway, does no harm.

    Raises:
        NoEncryptionKeyError: No encryption key is set.
    """
    old = [key_id for key_id in vault.key_ids if key_id != vault.newest]
    async with database.connection() as connection:
        found = await keys.to_reseal(connection, old, after=after, limit=BATCH)
    fresh: list[tuple[StoredKey, bytes]] = []
    for key in found:
        owner = owner_of(key)
        try:
            fresh.append((key, vault.seal(vault.open(key.sealed, owner), owner)))
        except KeyUnreadableError:
            continue
    resealed = 0
    if fresh:
        async with database.connection() as connection:
            resealed = await keys.reseal(connection, fresh)
    return Resealed(
        resealed=resealed,
        unreadable=len(found) - len(fresh),
        next=found[-1].id if len(found) == BATCH else None,
    )


def key_document(key: ListedKey, vault: Vault) -> dict[str, object]:
    """*key* as HTTP and command line tell it; `readable` is whether *vault* has what opens it."""
    return asdict(key) | {
        "key_id": key.key_id.hex(),
        "readable": key.key_id in vault.key_ids,
    }


def progress_document(
    sealed: Sequence[SealedUnder], vault: Vault, *, prompts: Mapping[bytes, int]
) -> dict[str, object]:
    """
    How far a rotation is: `left` can be sealed anew, `unreadable` lack their encryption key here.

    Args:
        prompts: How many jobs' prompts are sealed under which encryption key.
    """
    newest = vault.key_ids[:1]
    counts = {each.key_id: each.keys for each in sealed}
    ids = sorted(counts.keys() | prompts.keys())
    both = {key_id: counts.get(key_id, 0) + prompts.get(key_id, 0) for key_id in ids}
    return {
        "keys": [
            {
                "key_id": key_id.hex(),
                "keys": counts.get(key_id, 0),
                "prompts": prompts.get(key_id, 0),
                "newest": key_id in newest,
                "readable": key_id in vault.key_ids,
            }
            for key_id in ids
        ],
        "left": sum(both[key_id] for key_id in ids if key_id in vault.key_ids[1:]),
        "unreadable": sum(both[key_id] for key_id in ids if key_id not in vault.key_ids),
    }


def owner_of(key: StoredKey) -> Owner:
    """What the envelope of *key* must be bound to."""
    return Owner(user_id=key.user_id, provider=key.provider, api=key.api, row_id=key.id)


def project_of(secret: str) -> str:
    """The project of a service account that `check` took."""
    project: str = orjson.loads(secret)["project_id"]
    return project


def check_user(user_id: str) -> None:
    """
    Refuse names that no job can have.

    Raises:
        InvalidRequestError: It is empty, too long, or cannot be stored.
    """
    storable = "\0" not in user_id and not any("\ud800" <= each <= "\udfff" for each in user_id)
    if not storable or not 1 <= len(user_id) <= MAX_USER_CHARS:
        raise InvalidRequestError(
            f"user_id must be text of 1 to {MAX_USER_CHARS} characters, without null characters and"
            " lone surrogates"
        )


def _account(provider: str, api: str, text: str, vertex_base_url: str | None) -> GivenKey:
    try:
        facts = orjson.loads(text) if len(text) <= MAX_KEY_CHARS else None
    except orjson.JSONDecodeError:
        facts = None
    kept = {name: facts.get(name) for name in _ACCOUNT_FIELDS if isinstance(facts, dict)}
    is_account = (
        kept.get("type") == "service_account"
        and all(isinstance(value, str) and value for value in kept.values())
        and "PRIVATE KEY" in str(kept["private_key"])
    )
    if not is_account:
        raise InvalidRequestError(
            "What came is no service account; wanted the JSON file that Google Cloud gives for a"
            f" key of one: {', '.join(_ACCOUNT_FIELDS)}."
        )
    if not _PROJECT.fullmatch(str(kept["project_id"])):
        raise InvalidRequestError("The service account names no project that Google could know.")
    # A worker asks there for tokens, and must not be sent to an address of the user's choice.
    if not _gives_tokens(str(kept["token_uri"]), vertex_base_url):
        raise InvalidRequestError(
            f"The service account's token_uri is not Google's ({_GOOGLE_TOKENS})."
        )
    return GivenKey(
        provider=provider,
        api=api,
        secret=orjson.dumps(kept).decode(),
        hint=_hint(str(kept["private_key_id"])),
    )


def _gives_tokens(url: str, vertex_base_url: str | None) -> bool:
    if url == _GOOGLE_TOKENS:
        return True
    if vertex_base_url is None:
        return False
    asked, home = urlsplit(url), urlsplit(vertex_base_url)
    return (asked.scheme, asked.netloc) == (home.scheme, home.netloc)


def _hint(text: str) -> str:
    return text[-HINT_CHARS:] if len(text) >= HINT_FROM_CHARS else ""
