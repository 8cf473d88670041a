"""kill -9 at the moment at which a job moves on to another provider; the bills are the judge."""

import signal

import asyncpg
import pytest

from tests.journeys.conftest import StartWorker
from tests.journeys.test_crashes import (
    END_TIMEOUT_S,
    LOCK,
    Ending,
    Held,
    bills,
    quick,
    until,
)
from vidgen import Fallback, JobStatus, VideoRequest
from vidgen.job import EventType
from vidgen.queue import VideoQueue
from vidgen.settings import Settings
from vidgen.simulator.control import Rule
from vidgen.simulator.server import SimulatorServer

__all__ = ["quick"]

TRAM = "a tram in the rain"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"settle_s": 0.5, "submit_timeout_s": 1})


@pytest.mark.parametrize("ending", Ending)
async def test_a_kill_while_a_job_moves_on_pays_one_video(
    settings: Settings,
    queue: VideoQueue,
    start_worker: StartWorker,
    simulator: SimulatorServer,
    ending: Ending,
) -> None:
    simulator.sora.script(Rule(deed="submit", outcome="410", prompt=TRAM))
    worker = await start_worker(settings)
    # It shows that the list lists, so that nothing there is a proof.
    shown = await queue.enqueue(VideoRequest(provider="sora", prompt="a bus"))
    await queue.wait(shown.id, timeout=END_TIMEOUT_S)
    connection = await asyncpg.connect(settings.database_url, timeout=10, command_timeout=10)
    try:
        await connection.execute(
            f"""
            CREATE FUNCTION wait_for_the_test() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                PERFORM pg_advisory_xact_lock({LOCK});
                RETURN NEW;
            END $$;
            CREATE TRIGGER held BEFORE UPDATE ON video_jobs FOR EACH ROW
            WHEN (NEW.target > OLD.target) EXECUTE FUNCTION wait_for_the_test();
            """
        )
        await connection.execute("SELECT pg_advisory_lock($1)", LOCK)
        held = Held(connection)
        job = await queue.enqueue(
            VideoRequest(
                provider="sora",
                prompt=TRAM,
                fallbacks=[Fallback(provider="veo", model="veo-3.1-lite-generate-preview")],
            )
        )

        async def is_moving() -> bool:
            return await held.count() == 1

        await until(is_moving)
        await worker.stop(signal.SIGKILL)
        await held.let_go(ending)
    finally:
        await connection.close(timeout=10)
    await start_worker(settings)

    job = await queue.wait(job.id, timeout=END_TIMEOUT_S)

    assert (job.status, job.provider) == (JobStatus.COMPLETED, "veo")
    assert (bills(simulator.sora, job), bills(simulator.veo, job)) == (0, 1)
    [moved] = [
        event.detail["reason"]
        for event in await queue.history(job.id)
        if event.type is EventType.REROUTED
    ]
    # What the dead one was told nobody knows any more; but the list does.
    assert moved == ("absent" if ending is Ending.ROLLED_BACK else "retired")
