"""
A provider of another package that breaks when it is used: no worker stops, nothing is paid twice,
and what is paid for is brought home.
"""

import asyncio
import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest

from tests.by_hand import Hand
from tests.pipeline.conftest import Carrier
from tests.pipeline.test_failures import quick
from tests.test_plugins import a_package
from vidgen import Fallback, JobStatus, VideoJob, VideoRequest, lifecycle
from vidgen.catalog.vendors import _plugins
from vidgen.job import EventType
from vidgen.pipeline.recall import recall
from vidgen.providers.foreign import Foreign, Limits, foreign
from vidgen.providers.protocol import Overview, Running
from vidgen.server.steering import provider_documents
from vidgen.settings import Settings
from vidgen.simulator.clips import render
from vidgen.simulator.server import SimulatorServer

__all__ = ["quick"]

PACKAGE = '''
import asyncio
from contextlib import asynccontextmanager

from vidgen.catalog import Interface, Model, Price, Vendor
from vidgen.job import Operation
from vidgen.providers.protocol import (
    Asset,
    Listing,
    Overview,
    ResultStream,
    Running,
    Submitted,
    Succeeded,
)

BILL = []
FAULTS = {}
RUNNING = set()
CLIP = b""


def happens(deed):
    """What was scripted for *deed*, so often."""
    if FAULTS.get(deed):
        fault = FAULTS[deed].pop(0)
        if isinstance(fault, BaseException):
            raise fault
        return fault
    return None


def locate(endpoints):
    return happens("locate") or "https://one.example"


class Provider:
    name = "one"
    charges_failures = False

    async def submit(self, submission, credential):
        operation = Operation(
            provider="one",
            id=str(len(BILL)),
            endpoint="https://one.example",
            model="one-1",
            credential_id=credential.id,
        )
        BILL.append(submission.request.prompt)
        return happens("submit") or Submitted(operation=operation)

    async def poll(self, operation, credential):
        found = happens("poll")
        if found is None and operation.id in RUNNING:
            return Running()
        return found or Succeeded(assets=(Asset(variant="video", uri="a"),))

    @asynccontextmanager
    async def open_result(self, operation, asset, credential):
        async def chunks():
            yield happens("open_result") or CLIP

        yield ResultStream(chunks=chunks(), content_type="video/mp4", size_bytes=len(CLIP))

    async def cancel(self, operation, credential):
        return happens("cancel") or False

    async def accepts(self, model, credential):
        return False

    async def aclose(self):
        return None


class Silent(Provider):
    async def submit(self, submission, credential):
        BILL.append(submission.request.prompt)
        await asyncio.Event().wait()


class Finding(Provider):
    async def find_recent(self, submission, since, credential):
        return happens("find_recent") or Listing(candidates=(), trusted=False)


class ListingMany(Provider):
    async def look_through(self, wanted, credential, pages):
        if FAULTS["look_through"]:
            RUNNING.clear()  # from here on each look by itself finds a video
            return happens("look_through")
        done = Succeeded(assets=(Asset(variant="video", uri="a"),))
        return Overview(found={each.id: done for each in wanted}, pages=1)


MADE_BY = [Provider]
VENDOR = Vendor(
    name="one",
    title="One",
    wire=lambda surroundings: MADE_BY[0](),
    interfaces=(
        Interface(
            name="one",
            title="the one API",
            operator="One",
            account="one",
            key_name="one key",
            base_url=None,
            base_url_variable="ONE_BASE_URL",
            keys=("ONE_API_KEY",),
            locate=locate,
        ),
    ),
    models=(
        Model(
            provider="one",
            name="one-1",
            api="one",
            seconds=(4,),
            default_seconds=4,
            prices=(Price(micros=100_000),),
        ),
    ),
    default_models=("one-1",),
    reserved=frozenset(),
)
'''
ONE = VideoRequest(provider="one", prompt="a tram in the rain")
ROUTED = replace(ONE, fallbacks=[Fallback(provider="sora", seconds=4)], max_cost_micros=900_000)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The package, installed as long as the test runs."""
    monkeypatch.syspath_prepend(tmp_path)
    a_package(tmp_path, "plugin_breaking", text=PACKAGE)
    _plugins.cache_clear()
    module = importlib.import_module("plugin_breaking")
    module.CLIP = render("tram", seconds=1, width=320, height=180, audio=False)  # type: ignore[attr-defined]  # of the text above
    yield module
    _plugins.cache_clear()
    del sys.modules["plugin_breaking"]


@pytest.fixture
def settings(settings: Settings, package: ModuleType) -> Settings:
    quicker = settings.model_copy(update={"settle_s": 0.1, "submit_timeout_s": 1})
    return quicker.with_variables({"ONE_API_KEY": "k"})


async def codes(carrier: Carrier, job: VideoJob) -> set[object]:
    history = await carrier.queue.history(job.id)
    return {event.detail.get("code") for event in history if event.type is EventType.ERRORED}


@pytest.mark.parametrize("deed", ["poll", "open_result"])
@pytest.mark.parametrize(
    "fault", [RuntimeError("no"), SystemExit(3), "garbage"], ids=["raises", "exits", "garbage"]
)
async def test_what_is_paid_for_is_asked_for_again(
    carrier: Carrier, package: Any, deed: str, fault: object
) -> None:
    package.FAULTS[deed] = [fault] * 4

    job = await carrier.finish(await carrier.enqueue(ONE))

    assert (job.status, job.attempt, package.BILL) == (JobStatus.COMPLETED, 1, [ONE.prompt])
    assert await codes(carrier, job) == {"plugin_broken"}


@pytest.mark.parametrize(
    "fault", [RuntimeError("no"), SystemExit(3), "garbage"], ids=["raises", "exits", "garbage"]
)
async def test_a_submit_that_breaks_may_have_been_accepted(
    carrier: Carrier, simulator: SimulatorServer, package: Any, fault: object
) -> None:
    package.FAULTS["submit"] = [fault]

    job = await carrier.finish(await carrier.enqueue(ROUTED))

    assert (job.status, job.error_code, len(package.BILL)) == (
        JobStatus.FAILED,
        "submit_unknown",
        1,
    )
    assert not simulator.sora.bill


async def test_a_submit_that_never_answers_gives_its_place_back(
    carrier: Carrier, package: Any
) -> None:
    carrier.resources.providers.by_name["one"] = foreign(
        package.Silent(), "one", Limits(submit_s=0.05)
    )

    job = await carrier.finish(await carrier.enqueue(ONE))

    assert (job.status, job.error_code, package.BILL) == (
        JobStatus.FAILED,
        "submit_unknown",
        [ONE.prompt],
    )


async def test_a_submit_has_a_minute_more_than_the_settings_say(carrier: Carrier) -> None:
    found = carrier.resources.providers.get("one")

    assert isinstance(found, Foreign)
    assert found.limits == Limits(submit_s=61)  # 1 in the settings above


async def test_a_search_that_breaks_proves_nothing(carrier: Carrier, package: Any) -> None:
    package.MADE_BY[0] = package.Finding
    package.FAULTS |= {"submit": [RuntimeError("no")], "find_recent": [SystemExit(3), "garbage"]}

    job = await carrier.finish(await carrier.enqueue(ONE))

    assert (job.status, job.error_code, len(package.BILL)) == (
        JobStatus.FAILED,
        "submit_unknown",
        1,
    )
    assert not package.FAULTS["find_recent"]


@pytest.mark.parametrize(
    "fault",
    [
        RuntimeError("no"),
        SystemExit(3),
        "garbage",
        {"0": Running()},
        Overview(found=cast("Any", {"0": "garbage"}), pages=1),
        Overview(found={}, pages=cast("Any", None)),
    ],
    ids=["raises", "exits", "garbage", "mapping", "garbage within", "no pages"],
)
async def test_a_list_that_breaks_leaves_the_others_alone(
    carrier: Carrier, package: Any, fault: object
) -> None:
    package.MADE_BY[0] = package.ListingMany
    package.FAULTS["look_through"] = [fault]
    package.RUNNING |= {"0", "1", "2"}
    jobs = [await carrier.enqueue(ONE) for _ in range(3)]
    jobs.append(await carrier.enqueue(VideoRequest(provider="sora", prompt="a bus", seconds=4)))

    async with asyncio.TaskGroup() as group:
        ends = [group.create_task(carrier.finish(job)) for job in jobs]

    assert {end.result().status for end in ends} == {JobStatus.COMPLETED}
    assert not package.FAULTS["look_through"]
    assert len(package.BILL) == 3


async def test_what_its_list_tells_is_believed(carrier: Carrier, package: Any) -> None:
    package.MADE_BY[0] = package.ListingMany
    package.FAULTS["look_through"] = []
    package.RUNNING |= {"0", "1", "2"}  # so says every look of its own
    jobs = [await carrier.enqueue(ONE) for _ in range(3)]

    async with asyncio.TaskGroup() as group:
        ends = [group.create_task(carrier.finish(job)) for job in jobs]

    assert {end.result().status for end in ends} == {JobStatus.COMPLETED}
    assert len(package.BILL) == 3


async def test_one_that_cannot_say_where_it_is_sends_nothing(
    carrier: Carrier, package: Any
) -> None:
    job = await carrier.enqueue(ONE)
    package.FAULTS["locate"] = [RuntimeError("no")] * 9

    job = await carrier.finish(job)

    assert (job.status, job.error_code, package.BILL) == (JobStatus.FAILED, "plugin_broken", [])


async def test_a_job_moves_on_from_one_that_can_be_sent_nothing(
    carrier: Carrier, simulator: SimulatorServer, package: Any
) -> None:
    job = await carrier.enqueue(ROUTED)
    package.FAULTS["locate"] = [SystemExit(3)] * 9

    job = await carrier.finish(job)

    [moved] = [
        event.detail["reason"]
        for event in await carrier.queue.history(job.id)
        if event.type is EventType.REROUTED
    ]
    assert (job.status, job.provider, moved) == (JobStatus.COMPLETED, "sora", "unconfigured")
    assert (package.BILL, len(simulator.sora.bill)) == ([], 1)


async def test_a_provider_that_breaks_keeps_nobody_from_being_called_to_their_turn(
    carrier: Carrier, package: Any
) -> None:
    hand = Hand(carrier.queue)
    waiting = []
    for request in (ONE, VideoRequest(provider="sora", prompt="a bus")):
        job = await hand.claim(await carrier.enqueue(request))
        waiting.append(await hand.write(job, lifecycle.postponed(600, None)))
    package.FAULTS["locate"] = [RuntimeError("no")] * 9

    await recall(carrier.resources)

    broken, other = [await carrier.queue.get(job.id) for job in waiting]
    assert broken.due_at == waiting[0].due_at
    assert other.due_at is not None
    assert waiting[1].due_at is not None
    assert other.due_at < waiting[1].due_at


async def test_one_that_breaks_is_shown_as_not_set_up_beside_the_others(
    carrier: Carrier, package: Any
) -> None:
    package.FAULTS["locate"] = [RuntimeError("no")] * 9

    shown = {each["name"]: each for each in await provider_documents(carrier.resources)}

    assert shown["one"]["configured"] is False
    assert shown["sora"]["configured"] is True
