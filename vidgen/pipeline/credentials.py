"""
With whose key a job's provider is called: decided once for an attempt, opened for each call.

    before the intent     the key its user has for the interface now; else the server's, if allowed
    from the intent on    the one the intent names, whatever the user has by now

The row is read and the connection given back before the provider is called; what was opened lives
as long as the call, and in no cache.
"""

from uuid import UUID

from vidgen import catalog
from vidgen.errors import (
    AuthError,
    ProviderError,
    ProviderNotConfiguredError,
    QuotaExhaustedError,
)
from vidgen.job import SERVER_CREDENTIAL, Stage, VideoJob
from vidgen.keys import owner_of, project_of
from vidgen.providers.protocol import Credential
from vidgen.resources import Resources
from vidgen.store import keys
from vidgen.store.keys import StoredKey


async def resolve(resources: Resources, job: VideoJob) -> Credential:
    """
    What opens the provider of *job* for the call that its stage makes next.

    Raises:
        KeyUnreadableError: The stored key does not open; the job has to wait.
        ProviderNotConfiguredError: There is no key; the sentence says what would bring one.
        DatabaseError: PostgreSQL is away.
    """
    if job.stage is Stage.QUEUED:
        return await _for_a_new_attempt(resources, job)
    begun_with = job.operation.credential_id if job.operation else job.credential_id
    if begun_with in {None, SERVER_CREDENTIAL}:  # releases before wrote none with the intent
        return resources.providers.credential(job.provider, job.model)
    async with resources.database.connection() as connection:
        key = await keys.get(connection, UUID(begun_with))
    if key is None:
        raise ProviderNotConfiguredError(
            f"The provider key {begun_with} of user {job.user_id!r} that this attempt was made with"
            " is no longer stored, and no other one can see it."
        )
    return _opened(resources, key)


def named(
    error: AuthError | QuotaExhaustedError, job: VideoJob, credential: Credential
) -> ProviderError:
    """*error* with a sentence that says whose key the provider refuses."""
    whose = (
        "The key is the server's own."
        if credential.id == SERVER_CREDENTIAL
        else f"The key is the one that user {job.user_id!r} brought for {job.provider}."
    )
    return type(error)(
        f"{error.message} {whose}",
        retry_after_s=error.retry_after_s,
        provider_code=error.provider_code,
        request_id=error.request_id,
        http_status=error.http_status,
    )


async def _for_a_new_attempt(resources: Resources, job: VideoJob) -> Credential:
    if job.user_id is None:
        return resources.providers.credential(job.provider, job.model)
    api = resources.providers.api(job.provider, job.model)
    async with resources.database.connection() as connection:
        key = await keys.current(connection, job.user_id, job.provider, api)
    if key is not None:
        return _opened(resources, key)
    if not resources.settings.allow_server_keys:
        raise ProviderNotConfiguredError(
            f"User {job.user_id!r} has no key for {job.provider} ({api}), and"
            " VIDGEN_ALLOW_SERVER_KEYS=false keeps the server's from their jobs: add one with"
            " `vidgen keys add` or POST /api/keys."
        )
    return resources.providers.credential(job.provider, job.model)


def _opened(resources: Resources, key: StoredKey) -> Credential:
    secret = resources.vault.open(key.sealed, owner_of(key))
    is_account = catalog.vendor(key.provider).interface(key.api).key_form == "service_account"
    project = project_of(secret) if is_account else None
    return Credential(id=str(key.id), secret=secret, project=project)
