"""Spans where they are wanted, and nothing at all where not."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from uuid import UUID

import pytest
from opentelemetry import trace
from opentelemetry.trace import StatusCode

from tests.spans import ENDPOINT, Spans, parent_id, recording, span_id, trace_id
from vidgen import tracing
from vidgen.errors import RateLimitedError
from vidgen.settings import Settings
from vidgen.tracing import Tracing

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans() -> Iterator[Spans]:
    with recording() as spans:
        yield spans


@pytest.fixture
def on(spans: Spans) -> Tracing:
    return tracing.of(Settings(otlp_endpoint=ENDPOINT))


def test_without_an_endpoint_nothing_is_recorded(spans: Spans) -> None:
    off = tracing.of(Settings())

    with off.within(TRACEPARENT), off.span("vidgen.submit", job_id=UUID(int=1)) as spot:
        spot.tell(attempt=1)
        off.note("look failed")

        assert off.traceparent() is None
    assert not off.is_on
    assert spans.all == ()


def test_without_an_endpoint_opentelemetry_is_not_even_imported() -> None:
    code = (
        "import asyncio, sys\n"
        "from vidgen import tracing\n"
        "from vidgen.settings import Settings\n"
        "async def main():\n"
        "    async with tracing.exporting(Settings()) as off:\n"
        "        with off.span('vidgen.submit'): off.note('x')\n"
        "asyncio.run(main())\n"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_where_opentelemetry_is_missing_nothing_is_recorded_and_it_is_said() -> None:
    code = (
        "import asyncio, sys\n"
        "sys.modules['opentelemetry'] = None\n"  # as if it were not installed
        "from vidgen import tracing\n"
        "from vidgen.settings import Settings\n"
        f"settings = Settings(otlp_endpoint='{ENDPOINT}')\n"
        "async def main():\n"
        "    async with tracing.exporting(settings) as off:\n"
        "        with off.span('vidgen.submit'): pass\n"
        "        sys.exit(off.is_on or tracing.of(settings).is_on)\n"
        "asyncio.run(main())\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "vidgen[otel]" in done.stderr


def test_a_span_has_its_facts_under_our_name(on: Tracing, spans: Spans) -> None:
    with on.span("vidgen.submit", job_id=UUID(int=7), attempt=1, operation_id=None) as spot:
        spot.tell(operation_id="video_1")

    attributes = spans.one("vidgen.submit").attributes
    assert attributes == {
        "vidgen.job_id": str(UUID(int=7)),
        "vidgen.attempt": 1,
        "vidgen.operation_id": "video_1",
    }


def test_the_caller_s_span_is_the_parent(on: Tracing, spans: Spans) -> None:
    with trace.get_tracer("a service").start_as_current_span("order"), on.span("vidgen.enqueue"):
        pass

    order, enqueue = spans.one("order"), spans.one("vidgen.enqueue")
    assert parent_id(enqueue) == span_id(order)


def test_a_trace_goes_on_where_its_traceparent_says(on: Tracing, spans: Spans) -> None:
    with on.within(TRACEPARENT), on.span("vidgen.poll"):
        written = on.traceparent()

    poll = spans.one("vidgen.poll")
    assert f"{trace_id(poll):032x}" == TRACEPARENT.split("-")[1]
    assert f"{parent_id(poll):016x}" == TRACEPARENT.split("-")[2]
    assert written == f"00-{trace_id(poll):032x}-{span_id(poll):016x}-01"


def test_a_trace_that_is_not_sampled_is_not_recorded(on: Tracing, spans: Spans) -> None:
    with on.within(TRACEPARENT[:-2] + "00"), on.span("vidgen.poll"):
        assert on.traceparent() is not None  # and neither will those be that go on with it

    assert spans.all == ()


@pytest.mark.parametrize("text", ["", "nonsense", "00-0-0-00", TRACEPARENT + "-x" * 3000])
def test_a_traceparent_that_is_none_breaks_nothing(on: Tracing, spans: Spans, text: str) -> None:
    with on.within(text), on.span("vidgen.poll"):
        pass

    assert len(spans.all) == 1


def test_an_error_ends_its_span_with_its_code_and_without_its_words(
    on: Tracing, spans: Spans
) -> None:
    with pytest.raises(RateLimitedError), on.span("vidgen.submit"):
        raise RateLimitedError("the prompt 'a tram' is too much")

    span = spans.one("vidgen.submit")
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes == {"error.type": "rate_limited"}
    assert span.events == ()
    assert "tram" not in span.to_json()


def test_a_cancelled_task_is_no_error(on: Tracing, spans: Spans) -> None:
    with pytest.raises(asyncio.CancelledError), on.span("vidgen.poll"):
        raise asyncio.CancelledError

    assert spans.one("vidgen.poll").status.status_code is StatusCode.UNSET


def test_what_happens_meanwhile_is_noted_in_the_span(on: Tracing, spans: Spans) -> None:
    with on.span("vidgen.poll"):
        on.note("look failed", code="rate_limited")

    [event] = spans.one("vidgen.poll").events
    assert (event.name, event.attributes) == ("look failed", {"vidgen.code": "rate_limited"})


async def test_a_program_that_has_set_it_up_keeps_its_own(spans: Spans) -> None:
    before = trace.get_tracer_provider()

    async with tracing.exporting(Settings(otlp_endpoint=ENDPOINT)) as found:
        with found.span("vidgen.submit"):
            pass

    assert trace.get_tracer_provider() is before
    assert len(spans.all) == 1
    with found.span("vidgen.submit"):  # and it has not been shut down
        pass
    assert len(spans.all) == 2
