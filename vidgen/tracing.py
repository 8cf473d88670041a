"""
One trace for each video, from the enqueue to its end, over all workers that carry it.

    vidgen.enqueue ─┬─ vidgen.submit      the caller's own span is the parent of the first one
                    ├─ vidgen.poll        one for all looks of a worker; another after a hand-over
                    ├─ vidgen.transfer
                    └─ vidgen.deliver     its W3C traceparent is stored on the row

Off unless OTEL_EXPORTER_OTLP_ENDPOINT is set and the extra `otel` is installed: then OpenTelemetry
is not even imported, and each call here does nothing. In a service that uses `VideoQueue` spans go
where that service's own OpenTelemetry sends them; a worker or server sends them to the endpoint.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import TYPE_CHECKING
from uuid import UUID

from loguru import logger

from vidgen.errors import VidgenError
from vidgen.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

SERVICE = "vidgen"
# At the end, for what has not been sent yet; a collector that is away delays no shutdown longer.
FLUSH_TIMEOUT_S = 3.0

Value = str | int | float | bool | UUID | None


class Spot:
    """A span that is being recorded, or nothing."""

    def __init__(self, span: "Span | None" = None) -> None:
        """Stand for *span*."""
        self._span = span

    def tell(self, **facts: Value) -> None:
        """Add *facts* to the span, as `vidgen.<name>`; those that are None are left out."""
        if self._span is not None:
            self._span.set_attributes(_attributes(facts))


# One for all: thousands of jobs are in some at once.
_NOT_RECORDED = nullcontext(Spot())
_NOWHERE = nullcontext()


class Tracing:
    """
    Spans of vidgen, or nothing at all.

    Never pass it a prompt, an address with a query, or a secret: whoever runs the collector reads
    them.
    """

    def __init__(self, tracer: "Tracer | None" = None) -> None:
        """Record with *tracer*; None records nothing."""
        self._tracer = tracer

    @property
    def is_on(self) -> bool:
        """Whether anything is recorded."""
        return self._tracer is not None

    def span(self, name: str, **facts: Value) -> AbstractContextManager[Spot]:
        """
        Record what happens in the context, under the span around it; an error ends it as one, with
        its code and without its words.
        """
        return _NOT_RECORDED if self._tracer is None else _span(self._tracer, name, facts)

    def within(self, traceparent: str | None) -> AbstractContextManager[None]:
        """Let spans in the context belong to the trace of *traceparent*; None changes nothing."""
        return _NOWHERE if self._tracer is None or traceparent is None else _within(traceparent)

    def note(self, event: str, **facts: Value) -> None:
        """Add something that happened to the span we are in."""
        if self._tracer is not None:
            from opentelemetry.trace import get_current_span

            get_current_span().add_event(event, _attributes(facts))

    def traceparent(self) -> str | None:
        """Where we are in a trace, as W3C writes it; None outside of any."""
        if self._tracer is None:
            return None
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier)
        return carrier.get("traceparent")


@contextmanager
def _span(tracer: "Tracer", name: str, facts: dict[str, Value]) -> Iterator[Spot]:
    from opentelemetry.trace import Status, StatusCode

    with tracer.start_as_current_span(
        name,
        attributes=_attributes(facts),
        record_exception=False,  # a foreign message may hold an address, a traceback a prompt
        set_status_on_exception=False,
    ) as span:
        try:
            yield Spot(span)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            code = error.code if isinstance(error, VidgenError) else type(error).__name__
            span.set_attribute("error.type", code)
            span.set_status(Status(StatusCode.ERROR))
            raise


@contextmanager
def _within(traceparent: str) -> Iterator[None]:
    from opentelemetry import context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    found = TraceContextTextMapPropagator().extract({"traceparent": traceparent})
    token = context.attach(found)
    try:
        yield
    finally:
        context.detach(token)


def of(settings: Settings) -> Tracing:
    """Tracing as *settings* want it, with what this process has set up for its spans, if at all."""
    if settings.otlp_endpoint is None:
        return Tracing()
    try:
        from opentelemetry import trace
    except ImportError:
        return Tracing()
    return Tracing(trace.get_tracer("vidgen"))


@asynccontextmanager
async def exporting(settings: Settings) -> AsyncIterator[Tracing]:
    """
    Tracing of a process that is ours: spans go to the endpoint for the length of the context.

    If the program has set OpenTelemetry up by itself, it stays as it is.
    """
    if settings.otlp_endpoint is None:
        yield Tracing()
        return
    try:
        from opentelemetry import trace

        ours = isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
        provider = _provider(settings.otlp_endpoint) if ours else None
    except ImportError:
        logger.warning("nothing is traced: OTEL_EXPORTER_OTLP_ENDPOINT wants vidgen[otel]")
        yield Tracing()
        return
    if provider is not None:
        trace.set_tracer_provider(provider)
    try:
        yield of(settings)
    finally:
        if provider is not None:
            await _flush(provider)


def _provider(endpoint: str) -> "TracerProvider":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = Resource.create({"service.name": SERVICE}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=named, shutdown_on_exit=False)
    # `.env` may have named it, which the SDK does not read.
    exporter = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


async def _flush(provider: "TracerProvider") -> None:
    # A daemon, as the SDK waits for half a minute, and the end of the process would wait for it.
    thread = threading.Thread(target=provider.shutdown, daemon=True)
    thread.start()
    await asyncio.to_thread(thread.join, FLUSH_TIMEOUT_S)


def _attributes(facts: dict[str, Value]) -> dict[str, str | int | float | bool]:
    return {
        f"vidgen.{name}": str(value) if isinstance(value, UUID) else value
        for name, value in facts.items()
        if value is not None
    }
