"""With whose key a provider is called: the user's own, from the intent to the last byte."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tests.pipeline.conftest import Carrier
from tests.pipeline.test_failures import SORA, VEO, a_rule, quick
from vidgen import JobStatus, VideoJob, VideoRequest, keys
from vidgen.errors import KeyNotFoundError
from vidgen.job import EventType, Stage
from vidgen.keys import AddedKey
from vidgen.lifecycle import USER_LIMIT
from vidgen.pipeline import carry as carrying
from vidgen.pipeline import sweep
from vidgen.resources import Resources
from vidgen.settings import Settings
from vidgen.simulator.cloud import service_account_file
from vidgen.simulator.control import ProviderSimulator
from vidgen.simulator.server import SimulatorServer
from vidgen.store import jobs, ledger
from vidgen.store import keys as store
from vidgen.vault import Vault

__all__ = ["quick"]

RING, WRONG = (bytes([number]) * 32 for number in (1, 2))
# What follows the @ is the account at the simulator: one does not see another's videos.
ALICE, ALICE_NEW, BOB = "sk-alice-one@alice", "sk-alice-two@alice2", "sk-bob-0123@bob"
SERVER = "sk-simulated"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    ring = SecretStr(base64.b64encode(RING).decode())
    return settings.model_copy(update={"encryption_key": ring, "settle_s": 0.2})


def change(resources: Resources, **settings: Any) -> None:
    object.__setattr__(resources, "settings", resources.settings.model_copy(update=settings))


def rekey(resources: Resources, *ring: bytes) -> None:
    """As if the worker had been started with these encryption keys."""
    object.__setattr__(resources, "vault", Vault(ring))


async def bring(carrier: Carrier, user_id: str, key: str, provider: str = "sora") -> AddedKey:
    resources = carrier.resources
    given = keys.check(provider, key, vertex_base_url=resources.settings.vertex_base_url)
    async with resources.database.connection() as connection:
        return await keys.add(connection, resources.vault, user_id, given)


async def take_away(carrier: Carrier, key: AddedKey) -> keys.RemovedKey:
    async with carrier.resources.database.connection() as connection:
        return await keys.remove(connection, key.id)


async def asked(
    carrier: Carrier, user_id: str | None, request: VideoRequest = SORA, **more: Any
) -> VideoJob:
    return await carrier.queue.enqueue(request, user_id=user_id, **more)


async def finished(carrier: Carrier, user_id: str | None, **more: Any) -> VideoJob:
    return await carrier.finish(await asked(carrier, user_id, **more))


def used(provider: ProviderSimulator, *deeds: str) -> dict[str, set[str]]:
    """The keys that came along, by what was asked."""
    wanted = deeds or ("submit", "poll", "content", "list", "cancel")
    found: dict[str, set[str]] = {}
    for request in provider.received:
        if request.deed in wanted:
            key = request.headers.get("x-goog-api-key") or request.headers["authorization"]
            found.setdefault(str(request.deed), set()).add(key.removeprefix("Bearer "))
    return found


@asynccontextmanager
async def under_way(
    carrier: Carrier, simulator: SimulatorServer, user_id: str, deed: str = "poll", **more: Any
) -> AsyncIterator[list[VideoJob]]:
    """A video of *user_id* about which *deed* has come; at the end of the context it is final."""
    ended: list[VideoJob] = []
    job = await asked(carrier, user_id, **more)

    async def finish() -> None:
        ended.append(await carrier.finish(job))

    async with asyncio.TaskGroup() as group:
        group.create_task(finish())
        async with asyncio.timeout(10):
            await simulator.sora.arrived(deed)  # type: ignore[arg-type]
        yield ended


async def test_each_user_s_own_key_goes_along_with_every_call(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    await bring(carrier, "alice", ALICE)
    await bring(carrier, "bob", BOB)

    alice = await finished(carrier, "alice")
    by_alice = used(simulator.sora)
    simulator.sora.reset()
    bob = await finished(carrier, "bob")
    by_bob = used(simulator.sora)
    simulator.sora.reset()
    nobody = await finished(carrier, None)

    assert {job.status for job in (alice, bob, nobody)} == {JobStatus.COMPLETED}
    assert by_alice == {"submit": {ALICE}, "poll": {ALICE}, "content": {ALICE}}
    assert by_bob == {"submit": {BOB}, "poll": {BOB}, "content": {BOB}}
    assert used(simulator.sora) == {"submit": {SERVER}, "poll": {SERVER}, "content": {SERVER}}


async def test_a_key_for_the_gemini_api_goes_along_with_every_call(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    await bring(carrier, "alice", "gemini-of-alice", provider="veo")

    job = await finished(carrier, "alice", request=VEO)

    assert job.status is JobStatus.COMPLETED, job
    assert {key for found in used(simulator.veo).values() for key in found} == {"gemini-of-alice"}


async def test_a_service_account_makes_its_own_project_pay(
    carrier: Carrier, simulator: SimulatorServer, tmp_path: Path
) -> None:
    change(carrier.resources, vertex_base_url=simulator.veo.vertex_url)
    path = service_account_file(tmp_path, simulator.veo.token_url, project="alices-studio")
    await bring(carrier, "alice", path.read_text(), provider="veo")
    request = VideoRequest(
        provider="veo", model="veo-3.1-generate-001", prompt="a tram in the rain", seconds=4
    )

    job = await finished(carrier, "alice", request=request)

    assert job.status is JobStatus.COMPLETED, job
    assert job.operation is not None
    assert job.operation.id.startswith("projects/alices-studio/")
    assert "storageUri" not in simulator.veo.bill[0].parameters


async def test_a_key_for_another_interface_is_not_used(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    await bring(carrier, "alice", "gemini-of-alice", provider="veo")

    await finished(carrier, "alice")

    assert used(simulator.sora, "submit") == {"submit": {SERVER}}


# --- the server's keys ---


async def test_without_a_key_of_their_own_a_user_gets_the_server_s(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    job = await finished(carrier, "alice")

    assert (job.status, job.credential_id) == (JobStatus.COMPLETED, "server")
    assert used(simulator.sora, "submit") == {"submit": {SERVER}}


async def test_the_server_s_keys_can_be_kept_from_users_who_have_none(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    change(carrier.resources, allow_server_keys=False)
    await bring(carrier, "bob", BOB)

    alice = await finished(carrier, "alice")
    bob, nobody = await finished(carrier, "bob"), await finished(carrier, None)

    assert (alice.status, alice.error_code) == (JobStatus.FAILED, "provider_not_configured")
    assert alice.error_message is not None
    assert "'alice' has no key for sora" in alice.error_message
    assert "VIDGEN_ALLOW_SERVER_KEYS" in alice.error_message
    assert alice.attempt == 0
    assert {bob.status, nobody.status} == {JobStatus.COMPLETED}
    assert used(simulator.sora, "submit") == {"submit": {BOB, SERVER}}


# --- a key that changes on the way ---


async def test_a_video_is_followed_with_the_key_it_was_begun_with(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.generation_s = 0.5
    first = await bring(carrier, "alice", ALICE)

    async with under_way(carrier, simulator, "alice") as ended:
        second = await bring(carrier, "alice", ALICE_NEW)
    [job] = ended
    again = await finished(carrier, "alice")

    assert (second.replaced, second.jobs) == (first.id, 1)
    assert (job.status, again.status) == (JobStatus.COMPLETED, JobStatus.COMPLETED)
    assert (job.credential_id, again.credential_id) == (str(first.id), str(second.id))
    assert used(simulator.sora, "submit") == {"submit": {ALICE, ALICE_NEW}}
    assert {job.operation.credential_id for job in (job, again) if job.operation} == {
        str(first.id),
        str(second.id),
    }


async def test_a_removed_key_brings_its_running_video_home_and_begins_no_other(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.generation_s = 0.5
    key = await bring(carrier, "alice", ALICE)

    async with under_way(carrier, simulator, "alice") as ended:
        removed = await take_away(carrier, key)
    later = await finished(carrier, "alice")

    assert (removed.jobs, removed.deleted) == (1, False)
    assert ended[0].status is JobStatus.COMPLETED
    assert later.credential_id == "server"
    assert used(simulator.sora, "submit") == {"submit": {ALICE, SERVER}}
    async with carrier.resources.database.connection() as connection:
        assert await store.forget_removed(connection) == 1
    with pytest.raises(KeyNotFoundError):
        await take_away(carrier, key)


async def test_a_key_that_is_removed_while_its_job_waits_for_its_turn_is_not_spent_on(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    key = await bring(carrier, "alice", ALICE)
    job = await asked(carrier, "alice")
    async with carrier.resources.database.connection() as connection:
        await connection.execute(
            "UPDATE video_jobs SET slot_at = now() + interval '0.9 s', credential_id = $1",
            str(key.id),
        )

    async with asyncio.TaskGroup() as group:
        carrying_it = group.create_task(carrier.finish(job))
        while (await carrier.queue.get(job.id)).worker_id is None:
            pass  # its key is opened now, and its turn is in a second
        removed = await take_away(carrier, key)

    assert carrying_it.result().status is JobStatus.COMPLETED
    # On a machine that stands still for a second the intent was there before: then it says so.
    spent_on = SERVER if removed.deleted else ALICE
    assert used(simulator.sora) == {deed: {spent_on} for deed in ("submit", "poll", "content")}


async def test_a_cancel_uses_the_key_of_the_operation(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.generation_s = 30
    await bring(carrier, "alice", ALICE)

    async with under_way(carrier, simulator, "alice") as ended:
        await bring(carrier, "alice", ALICE_NEW)
        [job] = await carrier.queue.recent()
        await carrier.queue.cancel(job.id)

    assert ended[0].status is JobStatus.CANCELLED
    assert used(simulator.sora, "cancel") == {"cancel": {ALICE}}


async def test_a_lost_receipt_is_looked_for_with_the_key_of_the_intent(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("submit accept-then-disconnect", times=1))
    first = await bring(carrier, "alice", ALICE)
    job = await carrier.carry(await asked(carrier, "alice"))
    assert (job.stage, job.credential_id) == (Stage.SUBMITTING, str(first.id))

    await bring(carrier, "alice", ALICE_NEW)
    done = await carrier.finish(job)

    assert (done.status, done.attempt, len(simulator.sora.bill)) == (JobStatus.COMPLETED, 1, 1)
    assert used(simulator.sora) == {deed: {ALICE} for deed in ("submit", "list", "poll", "content")}


async def test_an_intent_tells_its_credential_before_anything_is_sent(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    key = await bring(carrier, "alice", ALICE)
    simulator.sora.script(a_rule("submit late 1", times=1))

    async with under_way(carrier, simulator, "alice", deed="submit"):
        [job] = await carrier.queue.recent()

    assert (job.stage, job.credential_id, job.operation) == (
        Stage.SUBMITTING,
        str(key.id),
        None,
    )
    [intent] = [
        event for event in await carrier.queue.history(job.id) if event.type is EventType.SUBMITTING
    ]
    assert intent.detail == {"credential_id": str(key.id)}


async def test_the_next_attempt_is_made_with_the_key_the_user_has_then(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("poll failed", times=1))
    await bring(carrier, "alice", ALICE)
    job = await carrier.carry(await asked(carrier, "alice"))
    assert (job.stage, job.credential_id) == (Stage.QUEUED, None)

    await bring(carrier, "alice", ALICE_NEW)
    done = await carrier.finish(job)

    assert (done.status, done.attempt) == (JobStatus.COMPLETED, 2)
    assert used(simulator.sora, "submit") == {"submit": {ALICE, ALICE_NEW}}


async def test_no_connection_to_postgresql_is_held_while_a_provider_is_asked(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("submit late 2", times=1))
    await bring(carrier, "alice", ALICE)
    database = carrier.resources.database
    pool = database._pool
    assert pool is not None

    async with under_way(carrier, simulator, "alice", deed="submit"):
        # The heartbeat takes one for a moment now and then.
        while pool.get_idle_size() + len(database._warm) < pool.get_size():
            await asyncio.sleep(0)
            assert not simulator.sora.bill, "a connection was held until the provider answered"


# --- limits ---


async def test_each_key_has_turns_of_its_own(carrier: Carrier, simulator: SimulatorServer) -> None:
    change(carrier.resources, rate_limit_per_min=1)
    object.__setattr__(carrier.resources.rate_limit, "_limit_per_min", 1)
    await bring(carrier, "alice", ALICE)
    await bring(carrier, "bob", BOB)

    alice, bob = await finished(carrier, "alice"), await finished(carrier, "bob")
    waiting = await carrier.carry(await asked(carrier, "alice"))
    await bring(carrier, "alice", ALICE_NEW)
    again = await finished(carrier, "alice")

    assert {alice.status, bob.status, again.status} == {JobStatus.COMPLETED}
    assert waiting.status is JobStatus.PENDING
    assert used(simulator.sora, "submit") == {"submit": {ALICE, BOB, ALICE_NEW}}


async def test_who_waits_for_another_one_of_theirs_still_pays_with_their_own_key(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    change(carrier.resources, user_concurrency=1)
    key = await bring(carrier, "alice", ALICE)
    simulator.sora.script(a_rule("submit accept-then-disconnect", times=1))
    await carrier.carry(await asked(carrier, "alice"))  # under way, for all we know

    waits = await carrier.carry(await asked(carrier, "alice"))

    [*_, told] = await carrier.queue.history(waits.id)
    assert told.detail["reason"] == USER_LIMIT
    assert (waits.stage, waits.credential_id) == (Stage.QUEUED, str(key.id))
    async with carrier.resources.database.connection() as connection:
        entries = await ledger.of_job(connection, waits.id)
    assert [(entry.kind, entry.payer) for entry in entries] == [("reserved", "user")]


async def test_a_turn_of_a_key_that_was_replaced_is_no_turn_of_the_new_one(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    object.__setattr__(carrier.resources.rate_limit, "_limit_per_min", 1)
    resources = carrier.resources
    first = await bring(carrier, "alice", ALICE)
    job = await asked(carrier, "alice")
    async with resources.database.connection() as connection:  # its turn is now
        await connection.execute(
            "UPDATE video_jobs SET slot_at = now(), credential_id = $1", str(first.id)
        )
    second = await bring(carrier, "alice", ALICE_NEW)

    await carrier.finish(job)

    account = f"sora:{_host(resources)}:{second.id}"
    assert await resources.rate_limit.used("sora", account) == 1


async def test_a_breaker_that_opens_for_one_key_lets_the_others_through(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    resources = carrier.resources
    key = await bring(carrier, "alice", ALICE)
    await bring(carrier, "bob", BOB)
    account = f"sora:{_host(resources)}:{key.id}"
    for _ in range(5):
        await resources.breakers.failed("sora", account)

    alice = await carrier.carry(await asked(carrier, "alice"))
    bob = await finished(carrier, "bob")

    assert (alice.status, alice.attempt) == (JobStatus.PENDING, 0)
    assert bob.status is JobStatus.COMPLETED
    assert used(simulator.sora, "submit") == {"submit": {BOB}}


def _host(resources: Resources) -> str:
    return resources.providers.account("sora", "sora-2").split(":", 1)[1].rpartition(":")[0]


# --- whose key is refused ---


async def test_a_refused_key_of_a_user_fails_the_job_and_is_named_by_its_user(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    await bring(carrier, "alice", "wrong-alice-0123456789")

    job = await finished(carrier, "alice")

    assert (job.status, job.error_code, job.attempt) == (JobStatus.FAILED, "provider_auth", 0)
    assert job.error_message is not None
    assert "The key is the one that user 'alice' brought for sora." in job.error_message
    assert "wrong-alice" not in job.error_message
    assert not simulator.sora.bill


async def test_a_refused_key_of_the_server_is_named_as_such(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("submit 401"))

    job = await finished(carrier, "alice")

    assert job.error_message is not None
    assert "The key is the server's own." in job.error_message


async def test_a_key_that_is_refused_on_the_way_is_named_too(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    await bring(carrier, "alice", ALICE)
    simulator.sora.script(a_rule("poll 401"))

    job = await carrier.carry(await asked(carrier, "alice"))

    assert (job.stage, job.error_code) == (Stage.GENERATING, "provider_auth")
    assert job.error_message is not None
    assert "user 'alice'" in job.error_message


# --- a key that does not open ---


async def test_a_job_whose_key_does_not_open_waits_and_costs_nothing(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    await bring(carrier, "alice", ALICE)
    rekey(carrier.resources, WRONG)

    job = await carrier.carry(await asked(carrier, "alice"))

    assert (job.status, job.stage, job.attempt, job.failures) == (
        JobStatus.PENDING,
        Stage.QUEUED,
        0,
        0,
    )
    assert job.error_code == "key_unreadable"
    assert job.due_at is not None
    assert (job.due_at - carrier.resources.clock.now()).total_seconds() > 200
    assert not simulator.sora.received
    events = [event.type for event in await carrier.queue.history(job.id)]
    assert events == [EventType.CREATED, EventType.CLAIMED, EventType.PARKED]
    async with carrier.resources.database.connection() as connection:
        assert await jobs.parked(connection) == 1


@pytest.mark.parametrize(
    ("rule", "stage"),
    [
        (None, Stage.QUEUED),
        ("submit accept-then-disconnect", Stage.SUBMITTING),
        ("poll 503", Stage.GENERATING),
        ("content 503", Stage.TRANSFERRING),
    ],
)
async def test_a_parked_job_goes_on_by_itself_once_the_ring_is_right_again(
    carrier: Carrier,
    simulator: SimulatorServer,
    monkeypatch: pytest.MonkeyPatch,
    rule: str | None,
    stage: Stage,
) -> None:
    monkeypatch.setattr(carrying, "PARKED_S", 0.05)
    await bring(carrier, "alice", ALICE)
    job = await asked(carrier, "alice")
    if rule is not None:
        simulator.sora.script(a_rule(rule, times=1 if stage is Stage.SUBMITTING else 3))
        job = await carrier.carry(job)
    assert job.stage is stage
    asked_before = len(simulator.sora.received)

    rekey(carrier.resources, WRONG)
    parked = job
    for _ in range(5):
        await _make_due(carrier, job)
        parked = await carrier.carry(job)
        assert (parked.stage, parked.attempt, parked.failures) == (stage, job.attempt, job.failures)
        assert parked.error_code == "key_unreadable"
    assert len(simulator.sora.received) == asked_before
    rekey(carrier.resources, WRONG, RING)
    done = await carrier.finish(parked)

    assert (done.status, done.attempt, done.error_code) == (JobStatus.COMPLETED, 1, None)
    assert len(simulator.sora.bill) == 1


async def test_the_deadline_does_not_burn_a_job_that_is_parked(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("poll failed", times=1))
    await bring(carrier, "alice", ALICE)
    job = await carrier.carry(await asked(carrier, "alice", deadline_s=60))
    assert (job.stage, job.attempt) == (Stage.QUEUED, 1)
    rekey(carrier.resources, WRONG)

    for _ in range(3):  # 15 minutes of a deadline of one
        await _make_due(carrier, job)
        job = await carrier.carry(job)
        async with carrier.resources.database.connection() as connection:
            await connection.execute(
                "UPDATE video_jobs SET deadline_at = deadline_at - (due_at - now())"
            )
    rekey(carrier.resources, RING)
    await _make_due(carrier, job)
    done = await carrier.finish(job)

    assert (done.status, done.attempt) == (JobStatus.COMPLETED, 2)


async def test_a_parked_job_can_be_cancelled(carrier: Carrier, simulator: SimulatorServer) -> None:
    await bring(carrier, "alice", ALICE)
    queued = await asked(carrier, "alice")
    generating = await asked(carrier, "alice")
    simulator.sora.script(a_rule("poll 503", times=3))
    generating = await carrier.carry(generating)
    rekey(carrier.resources, WRONG)
    queued = await carrier.carry(queued)
    await _make_due(carrier, generating)
    await carrier.carry(generating)

    free = await carrier.queue.cancel(queued.id)
    asked_for = await carrier.queue.cancel(generating.id)
    paid = await carrier.finish(asked_for)

    assert (free.status, free.actual_cost_micros) == (JobStatus.CANCELLED, 0)
    assert (paid.status, paid.actual_cost_micros) == (
        JobStatus.CANCELLED,
        paid.estimated_cost_micros,
    )


async def test_a_video_whose_key_is_no_longer_stored_says_so_when_it_is_retried(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("poll never"))
    change(carrier.resources, poll_max_attempts=2, backoff_s=0)
    key = await bring(carrier, "alice", ALICE)
    failed = await carrier.finish(await asked(carrier, "alice", deadline_s=1))
    assert failed.error_code == "generation_timeout"
    assert (await take_away(carrier, key)).deleted

    done = await carrier.finish(await carrier.queue.retry(failed.id))

    assert (done.status, done.error_code) == (JobStatus.FAILED, "provider_not_configured")
    assert done.error_message is not None
    assert f"{key.id} of user 'alice'" in done.error_message
    assert len(simulator.sora.bill) == 1


async def _make_due(carrier: Carrier, job: VideoJob) -> None:
    async with carrier.resources.database.connection() as connection:
        await connection.execute("UPDATE video_jobs SET due_at = now() WHERE id = $1", job.id)


async def test_the_sweep_deletes_a_removed_key_once_its_last_job_has_ended(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.generation_s = 0.5
    key = await bring(carrier, "alice", ALICE)
    async with under_way(carrier, simulator, "alice"):
        await take_away(carrier, key)
    assert await _is_stored(carrier, key)

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        sweeping = group.create_task(sweep.run(carrier.resources, carrier.leases))
        while await _is_stored(carrier, key):  # noqa: ASYNC110  a row tells nobody
            await asyncio.sleep(0.01)
        sweeping.cancel()


async def _is_stored(carrier: Carrier, key: AddedKey) -> bool:
    async with carrier.resources.database.connection() as connection:
        return await store.get(connection, key.id) is not None
