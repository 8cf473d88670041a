"""What Prometheus gets, also while servers are away."""

import asyncio

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from tests.builders import a_worker
from tests.by_hand import Hand
from tests.proxy import Proxy
from tests.server.conftest import TOKEN, Client
from vidgen import VideoRequest
from vidgen import metrics as names
from vidgen.breaker import FAILURES_TO_OPEN
from vidgen.queue import VideoQueue
from vidgen.resources import Resources
from vidgen.server import metrics
from vidgen.store import workers

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    assert metrics.ASK_TIMEOUT_S <= 5  # Prometheus waits for ten seconds, for all of it
    monkeypatch.setattr(metrics, "ASK_TIMEOUT_S", 1.0)
    monkeypatch.setattr(metrics, "KEPT_S", 0.0)


async def scraped(client: Client) -> Samples:
    async with asyncio.timeout(10), client.get("/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = await response.text()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def jobs(samples: Samples, status: str, provider: str = "sora") -> float | None:
    labels = (("provider", provider), ("status", status))
    return samples.get(("vidgen_queue_jobs", labels))


def error(samples: Samples, source: str) -> float:
    return samples["vidgen_scrape_error", (("source", source),)]


def breaker(samples: Samples, provider: str = "sora") -> float | None:
    return samples.get(("vidgen_breaker_open", (("provider", provider),)))


async def a_submit(queue: VideoQueue) -> None:
    await queue.enqueue(VideoRequest(provider="sora", prompt="a tram"))


async def test_the_queue_is_told_as_it_is(
    admin: Client, queue: VideoQueue, hand: Hand, resources: Resources
) -> None:
    await a_submit(queue)
    await hand.fail(await queue.enqueue(VideoRequest(provider="sora", prompt="a tram")))
    async with resources.database.connection() as connection:
        await workers.heartbeat(connection, a_worker())

    samples = await scraped(admin)

    assert jobs(samples, "waiting") == 1
    assert jobs(samples, "failed") == 1
    assert jobs(samples, "active") == 0
    assert jobs(samples, "waiting", "veo") == 0
    assert 0 <= samples["vidgen_queue_oldest_seconds", ()] < 60
    assert samples["vidgen_workers_alive", ()] == 1
    assert (error(samples, "postgres"), error(samples, "redis")) == (0, 0)


async def test_it_is_not_told_to_strangers(stranger: Client) -> None:
    async with stranger.get("/metrics") as response:
        assert response.status == 401
        assert "vidgen_" not in await response.text()


async def test_who_accepts_openmetrics_gets_it(admin: Client) -> None:
    accept = (
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
    )
    async with admin.get("/metrics", headers={"Accept": accept}) as response:
        text = await response.text()

    assert response.headers["Content-Type"].startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")
    families = openmetrics_families(text)  # type: ignore[no-untyped-call]  # the client's 0.26
    found = {family.name for family in families}
    assert {"vidgen_queue_jobs", "vidgen_submits", "vidgen_stage_seconds"} <= found


async def test_the_breaker_is_told_for_every_provider_that_is_set_up(
    admin: Client, resources: Resources
) -> None:
    closed = await scraped(admin)
    account = resources.providers.account("sora", "sora-2")
    for _ in range(FAILURES_TO_OPEN):
        await resources.breakers.failed("sora", account)

    opened = await scraped(admin)

    assert (breaker(closed), breaker(opened)) == (0, 1)
    assert breaker(opened, "veo") == 0


@pytest.mark.parametrize("trouble", ["cut", "muted"])
async def test_without_postgres_the_rest_is_told_and_the_error(
    admin: Client, queue: VideoQueue, database_proxy: Proxy, trouble: str
) -> None:
    await a_submit(queue)
    assert jobs(await scraped(admin), "waiting") == 1
    if trouble == "cut":
        await database_proxy.cut()
    else:
        database_proxy.mute()

    samples = await scraped(admin)

    assert (error(samples, "postgres"), error(samples, "redis")) == (1, 0)
    assert jobs(samples, "waiting") is None  # an old figure would look like a new one
    alive = samples["vidgen_workers_alive", ()]
    assert alive != alive  # NaN: no alert about workers that nobody could ask for
    assert breaker(samples) == 0
    assert ("vidgen_lease_losses_total", ()) in samples


async def test_a_pause_is_told(admin: Client, queue: VideoQueue) -> None:
    await queue.pause("veo", by="somebody")
    try:
        samples = await scraped(admin)
    finally:  # the database is shared
        await queue.resume("veo")

    told = {name: samples["vidgen_paused", (("provider", name),)] for name in ("sora", "veo")}
    assert told == {"sora": 0, "veo": 1}


async def test_without_redis_the_queue_is_told_and_the_error(
    admin: Client, queue: VideoQueue, redis_proxy: Proxy
) -> None:
    await a_submit(queue)
    redis_proxy.mute()

    samples = await scraped(admin)

    assert (error(samples, "postgres"), error(samples, "redis")) == (0, 1)
    assert jobs(samples, "waiting") == 1
    assert breaker(samples) is None


async def test_it_is_whole_again_when_postgres_is_back(
    admin: Client, queue: VideoQueue, database_proxy: Proxy
) -> None:
    await a_submit(queue)
    await database_proxy.cut()
    assert error(await scraped(admin), "postgres") == 1
    await database_proxy.restore()

    async with asyncio.timeout(10):
        while True:
            samples = await scraped(admin)
            if not error(samples, "postgres"):
                break
            await asyncio.sleep(0.05)

    assert jobs(samples, "waiting") == 1


async def test_however_many_scrape_the_servers_are_asked_once(
    admin: Client, queue: VideoQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "KEPT_S", 60.0)
    first = await scraped(admin)
    await a_submit(queue)

    async with asyncio.TaskGroup() as group:
        later = [group.create_task(scraped(admin)) for _ in range(20)]

    assert jobs(first, "waiting") == 0
    assert {jobs(each.result(), "waiting") for each in later} == {0}


async def test_a_provider_that_nobody_knows_is_no_label(
    admin: Client, queue: VideoQueue, resources: Resources
) -> None:
    await a_submit(queue)
    async with resources.database.connection() as connection:
        await connection.execute("UPDATE video_jobs SET provider = 'of-another-release'")

    samples = await scraped(admin)

    assert jobs(samples, "waiting", names.OTHER) == 1
    assert jobs(samples, "waiting", "of-another-release") is None


async def test_nothing_secret_is_in_it(admin: Client, queue: VideoQueue) -> None:
    job = await queue.enqueue(
        VideoRequest(provider="sora", prompt="a secret plan"), user_id="user-7", scene_id="scene-7"
    )

    async with admin.get("/metrics") as response:
        text = await response.text()

    for secret in (TOKEN, "sk-x", "a secret plan", "user-7", "scene-7", str(job.id), "password"):
        assert secret not in text
