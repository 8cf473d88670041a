"""A real worker as its operators see it: scraped by Prometheus, traced to a collector."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.parser import text_string_to_metric_families

from tests.journeys.conftest import StartWorker
from tests.spans import Spans, recording, span_id, trace_id
from vidgen import JobStatus, VideoQueue, VideoRequest
from vidgen.settings import Settings
from vidgen.simulator.server import SimulatorServer

TIMEOUT_S = 40
TOKEN = "a-token-for-the-tests"


class Collector:
    """Takes traces by OTLP over HTTP, as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: dict[str, Span] = {}
        self.services: set[str] = set()

    async def take(self, request: web.Request) -> web.Response:
        export = ExportTraceServiceRequest.FromString(await request.read())
        for resource in export.resource_spans:
            self.services |= {
                attribute.value.string_value
                for attribute in resource.resource.attributes
                if attribute.key == "service.name"
            }
            for scope in resource.scope_spans:
                self.spans |= {span.name: span for span in scope.spans}
        return web.Response(content_type="application/x-protobuf")


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    try:
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        collector.url = f"http://127.0.0.1:{port}"
        yield collector
    finally:
        await runner.cleanup()


@pytest.fixture
def spans() -> Iterator[Spans]:
    with recording() as spans:
        yield spans


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def a_request() -> VideoRequest:
    return VideoRequest(provider="sora", prompt="a tram in the rain", seconds=4)


async def test_the_trace_of_a_service_goes_on_in_the_worker_and_reaches_the_collector(
    settings: Settings, start_worker: StartWorker, simulator: SimulatorServer, spans: Spans
) -> None:
    simulator.sora.generation_s = 0.3
    async with collecting() as collector:
        traced = settings.model_copy(update={"otlp_endpoint": collector.url})
        worker = await start_worker(traced)
        async with VideoQueue(traced) as queue:
            job = await queue.enqueue(a_request())
            job = await queue.wait(job.id, timeout=TIMEOUT_S)
        await worker.stop()  # sends what is left

    assert job.status is JobStatus.COMPLETED
    enqueue = spans.one("vidgen.enqueue")
    assert collector.spans.keys() == {"vidgen.submit", "vidgen.poll", "vidgen.transfer"}
    assert collector.services == {"vidgen"}
    for span in collector.spans.values():
        assert int.from_bytes(span.trace_id, "big") == trace_id(enqueue)
        assert int.from_bytes(span.parent_span_id, "big") == span_id(enqueue)


async def test_a_collector_that_is_away_delays_neither_videos_nor_the_end(
    settings: Settings, start_worker: StartWorker, simulator: SimulatorServer
) -> None:
    simulator.sora.generation_s = 0.3
    nobody = f"http://127.0.0.1:{free_port()}"
    worker = await start_worker(settings.model_copy(update={"otlp_endpoint": nobody}))

    async with VideoQueue(settings) as queue:
        job = await queue.enqueue(a_request())
        job = await queue.wait(job.id, timeout=TIMEOUT_S)
    async with asyncio.timeout(10):
        code = await worker.stop()

    assert job.status is JobStatus.COMPLETED
    assert code == 0
    assert not [line for line in worker.noise if "Traceback" in line]
    assert not [line for line in worker.lines if "error" in line]


async def test_a_worker_can_be_scraped(
    settings: Settings, start_worker: StartWorker, simulator: SimulatorServer, queue: VideoQueue
) -> None:
    simulator.sora.generation_s = 0.3
    port = free_port()
    await start_worker(settings.model_copy(update={"http_port": port}))
    job = await queue.enqueue(a_request())
    await queue.wait(job.id, timeout=TIMEOUT_S)

    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session,
        session.get(f"http://127.0.0.1:{port}/metrics") as response,
    ):
        text = await response.text()

    told = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert told["vidgen_transitions_total", "completed", "sora"] == 1
    assert told["vidgen_transfer_bytes_total", "sora"] > 0
    assert told["vidgen_workers_alive",] == 1
    assert told["vidgen_queue_jobs", "sora", "waiting"] == 0
    assert told["vidgen_event_loop_lag_seconds_count",] > 0
    assert told["process_resident_memory_bytes",] > 0
