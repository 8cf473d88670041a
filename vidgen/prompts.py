"""
Prompts at rest: what a customer said and showed goes into the database sealed, and is opened by
whoever needs it.

    sealed     prompt, negative prompt, images by address or key, fields of the provider's own; the
               bytes of images, each on its own
    as it is   model, length, size, seed, audio: what lists, estimates and statistics are made of;
               metadata, which webhooks tell

With `VIDGEN_ENCRYPT_PROMPTS` the client seals before the insert. What is sealed and what is not
stand side by side: each row tells.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import UUID

import orjson

from vidgen import keys
from vidgen.errors import KeyUnreadableError
from vidgen.job import JsonValue, VideoJob
from vidgen.keys import Resealed
from vidgen.store import keys as stored_keys
from vidgen.store import sealed
from vidgen.store.inputs import StoredInput
from vidgen.store.jobs import NewJob
from vidgen.store.pool import Database
from vidgen.store.sealed import SealedPrompt
from vidgen.vault import JobPart, Vault

BATCH = keys.BATCH
# Words of the customer among the parameters.
WORDS = frozenset({"negative_prompt", "images", "extra"})
# Where a rotation goes on that is through with the provider keys: before the first job.
_FIRST_JOB = UUID(int=0)


def seal(vault: Vault, new: NewJob) -> NewJob:
    """
    *new* without its words: they are in the envelope, and the fingerprint is a keyed one.

    Raises:
        NoEncryptionKeyError: There is no key to seal with.
    """
    words = {
        "prompt": new.prompt,
        "parameters": _those(new.parameters, WORDS),
        # What the others are asked for, for those that are not the first.
        "targets": [_those(each, WORDS) for each in new.target_parameters],
        # A rotation makes the keyed one anew of it.
        "fingerprint": new.fingerprint,
    }
    envelope = vault.seal_bytes(orjson.dumps(words), _prompt_of(new.id))
    return replace(
        new,
        prompt="",
        parameters=_bare(new.parameters),
        target_parameters=tuple(map(_bare, new.target_parameters)),
        fingerprint=vault.fingerprints(new.fingerprint)[0],
        sealed=envelope,
    )


async def seal_image(vault: Vault, item: StoredInput) -> StoredInput:
    """
    *item* with an envelope around its bytes.

    Raises:
        NoEncryptionKeyError: There is no key to seal with.
    """
    # 20 MiB take long enough for others to notice.
    data = await asyncio.to_thread(vault.seal_bytes, item.data, _image_of(item))
    return replace(item, data=data, sealed=True)


def opened(vault: Vault, job: VideoJob) -> VideoJob:
    """
    *job* with prompt and parameters as they were asked for.

    Raises:
        KeyUnreadableError: They are sealed, and do not open.
    """
    if job.sealed is None:
        return job
    words = orjson.loads(vault.open_bytes(job.sealed, _prompt_of(job.id)))
    targets = words.get("targets", [])  # releases before wrote none
    in_force = targets[job.target] if targets else words["parameters"]
    return replace(
        job,
        prompt=words["prompt"],
        parameters={**job.parameters, **in_force},
        target_parameters=tuple(
            {**plain, **own} for plain, own in zip(job.target_parameters, targets, strict=True)
        ),
        sealed=None,
    )


def shown(vault: Vault, job: VideoJob) -> VideoJob:
    """*job*, opened if it can be: lists go on where the encryption key is missing."""
    with suppress(KeyUnreadableError):
        return opened(vault, job)
    return job


async def image_bytes(vault: Vault, item: StoredInput) -> bytes:
    """
    The image itself.

    Raises:
        KeyUnreadableError: It is sealed, and does not open.
    """
    if not item.sealed:
        return item.data
    return await asyncio.to_thread(vault.open_bytes, item.data, _image_of(item))


def is_same(vault: Vault, fingerprint: str, stored: str) -> bool:
    """Whether the request with *fingerprint* is the one whose row has *stored*, sealed or not."""
    return stored in (fingerprint, *vault.fingerprints(fingerprint))


async def reseal(database: Database, vault: Vault, after: UUID | None = None) -> Resealed:
    """
    Seal the next batch behind *after* under the newest encryption key: first the provider keys,
    then the prompts and images of all jobs that are not archived.

    Jobs go on meanwhile. Twice at once, and again after an end halfway, does no harm.

    Raises:
        NoEncryptionKeyError: No encryption key is set.
    """
    old = [key_id for key_id in vault.key_ids if key_id != vault.newest]
    if not await _is_among_jobs(database, after):
        step = await keys.reseal(database, vault, after)
        if step.next is not None:
            return step
        async with database.connection() as connection:
            more = await sealed.to_reseal(connection, old, after=None, limit=1)
        return replace(step, next=_FIRST_JOB if more else None)
    async with database.connection() as connection:
        found = await sealed.to_reseal(connection, old, after=after, limit=BATCH)
    fresh: list[tuple[SealedPrompt, bytes, str]] = []
    for prompt in found:
        with suppress(KeyUnreadableError):
            # The images first: who ends in between finds the job again by its prompt.
            await _reseal_images(database, vault, prompt.job_id, old)
            words = vault.open_bytes(prompt.sealed, _prompt_of(prompt.job_id))
            [fingerprint, *_] = vault.fingerprints(orjson.loads(words)["fingerprint"])
            fresh.append((prompt, vault.seal_bytes(words, _prompt_of(prompt.job_id)), fingerprint))
    resealed = 0
    if fresh:
        async with database.connection() as connection:
            resealed = await sealed.reseal(connection, fresh)
    return Resealed(
        resealed=resealed,
        unreadable=len(found) - len(fresh),
        next=found[-1].job_id if len(found) == BATCH else None,
    )


async def progress(database: Database, vault: Vault) -> dict[str, Any]:
    """How far a rotation is, as HTTP and command line tell it."""
    async with database.connection() as connection:
        of_keys = await stored_keys.sealed_under(connection)
        of_prompts = await sealed.under(connection)
    return keys.progress_document(
        of_keys, vault, prompts={each.key_id: each.prompts for each in of_prompts}
    )


async def _is_among_jobs(database: Database, after: UUID | None) -> bool:
    if after is None or after == _FIRST_JOB:
        return after is not None
    async with database.connection() as connection:
        return await sealed.is_job(connection, after)


async def _reseal_images(database: Database, vault: Vault, job_id: UUID, old: list[bytes]) -> None:
    async with database.connection() as connection:
        found = await sealed.images_to_reseal(connection, job_id, old)
    for item in found:
        plain = replace(item, data=await image_bytes(vault, item), sealed=False)
        fresh = await seal_image(vault, plain)
        async with database.connection() as connection:
            await sealed.reseal_image(connection, fresh)


def _prompt_of(job_id: UUID) -> JobPart:
    return JobPart(job_id=job_id, name="prompt")


def _image_of(item: StoredInput) -> JobPart:
    return JobPart(job_id=item.job_id, name=f"image {item.position}")


def _bare(parameters: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    return _those(parameters, parameters.keys() - WORDS)


def _those(
    parameters: Mapping[str, JsonValue], names: frozenset[str] | set[str]
) -> dict[str, JsonValue]:
    return {name: value for name, value in parameters.items() if name in names}
