"""
What this process counts, under names that dashboards and alerts rely on.

Everything is counted where it happens; `written` reads off a transition what it means. What only
PostgreSQL and Redis know is asked for at the scrape (`vidgen.server.metrics`) and set here, so that
this one file has every name. Labels are bounded: models outside of the catalog are "other", ids are
never a label.
"""

from collections import Counter as Tally
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cache
from importlib.metadata import version
from typing import TypeVar

import prometheus_client
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
)

from vidgen import catalog, errors, lifecycle
from vidgen.errors import (
    BudgetExceededError,
    InternalError,
    LeaseLostError,
    PriceUnknownError,
    ProviderError,
    StorageError,
    SubmitUnknownError,
    VidgenError,
)
from vidgen.job import EventType, JobStatus, Stage, VideoJob
from vidgen.lifecycle import Transition

Metric = TypeVar("Metric", Counter, Histogram)

OTHER = "other"
MICROS_PER_DOLLAR = 1_000_000
SUBMIT_OUTCOMES = ("accepted", "refused", "unknown")
WEBHOOK_OUTCOMES = ("delivered", "refused", "gave_up")
RELEASE_REASONS = ("worker_lost", "hand_over", "left", "forgotten")
_NEVER_WRITTEN_HERE = {EventType.CREATED, EventType.RETRIED, EventType.CANCEL_REQUESTED} | {
    EventType.PROGRESSED
}

_MINUTES = (0.1, 0.5, 1, 2.5, 5, 10, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1200, 1800)
_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300)
_MOMENTS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

# Half of all lines would tell when each series began, which nobody asks.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # 0.26

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

BUILD = Info("vidgen_build", "The release that runs.", registry=REGISTRY)

# --- counted where it happens ---

BUDGET_REFUSALS = Counter(
    "vidgen_budget_refusals_total",
    "Requests over HTTP that no budget let in, by code.",
    ["code"],
    registry=REGISTRY,
)

SUBMITS = Counter(
    "vidgen_submits_total",
    "Paid calls, by what became of them; unknown: the request may have arrived.",
    ["provider", "model", "outcome"],
    registry=REGISTRY,
)
POLLS = Counter(
    "vidgen_polls_total",
    "Looks at operations: running, succeeded, failed, or an error instead of an answer.",
    ["provider", "outcome"],
    registry=REGISTRY,
)
LISTS = Counter(
    "vidgen_lists_total",
    "Lists of videos that answered for many jobs at once.",
    ["provider", "outcome"],
    registry=REGISTRY,
)
STAGE_SECONDS = Histogram(
    "vidgen_stage_seconds",
    "How long jobs were in a stage, over all workers that held them. Queued: from enqueue,"
    " a wished run_at included, to the first claim.",
    ["stage", "provider"],
    buckets=_MINUTES,
    registry=REGISTRY,
)
GENERATION_SECONDS = Histogram(
    "vidgen_generation_seconds",
    "From the receipt of a submit to the finished video at the provider.",
    ["provider", "model"],
    buckets=_MINUTES,
    registry=REGISTRY,
)
TRANSFER_BYTES = Counter(
    "vidgen_transfer_bytes_total",
    "Bytes of videos brought into the bucket.",
    ["provider"],
    registry=REGISTRY,
)
TRANSFER_SECONDS = Histogram(
    "vidgen_transfer_seconds",
    "From the opened stream to the stored object, for each video that got there.",
    buckets=_SECONDS,
    registry=REGISTRY,
)
ERRORS = Counter(
    "vidgen_errors_total",
    "Errors of a stage, whether they end the job or not, by code.",
    ["code", "stage", "provider"],
    registry=REGISTRY,
)
TRANSITIONS = Counter(
    "vidgen_transitions_total",
    "Transitions of jobs written by this worker, by the type of their event.",
    ["type", "provider"],
    registry=REGISTRY,
)
HTTP_REFUSALS = Counter(
    "vidgen_http_refusals_total",
    "What our server refused or cut: rate, connections, crowded, slow, unread.",
    ["reason"],
    registry=REGISTRY,
)
LEASE_LOSSES = Counter(
    "vidgen_lease_losses_total",
    "Jobs whose work was stopped because the lease was lost or could not be renewed.",
    registry=REGISTRY,
)
RECOVERIES = Counter(
    "vidgen_recoveries_total",
    "Jobs given back for a peer to go on: by a lost worker, or in good order.",
    ["reason"],
    registry=REGISTRY,
)
ATTEMPTS = Histogram(
    "vidgen_attempts",
    "Paid submits of jobs, at their end.",
    ["status"],
    buckets=(0, 1, 2, 3, 5, 10),
    registry=REGISTRY,
)
SPEND_DOLLARS = Counter(
    "vidgen_spend_dollars_total",
    "Dollars for generations that providers finished or charged, by list price unless told.",
    ["provider", "model"],
    registry=REGISTRY,
)
WASTE_DOLLARS = Counter(
    "vidgen_waste_dollars_total",
    "Dollars that were paid, or may have been, for what was not delivered, by the reason's code.",
    ["provider", "reason"],
    registry=REGISTRY,
)
FAILOVERS = Counter(
    "vidgen_failovers_total",
    "Jobs that moved on to another target, by the providers of both and the reason.",
    ["from", "to", "reason"],
    registry=REGISTRY,
)
RATE_LIMIT_WAITS = Counter(
    "vidgen_rate_limit_waits_total",
    "Submits that had to wait for their turn.",
    ["provider"],
    registry=REGISTRY,
)
HELD_JOBS = Gauge(
    "vidgen_held_jobs", "Jobs that this worker holds, by stage.", ["stage"], registry=REGISTRY
)
EVENT_LOOP_LAG = Histogram(
    "vidgen_event_loop_lag_seconds",
    "How much later than asked for the event loop woke a sleeper.",
    buckets=_MOMENTS,
    registry=REGISTRY,
)
WEBHOOK_DELIVERIES = Counter(
    "vidgen_webhook_deliveries_total",
    "Tries to deliver a webhook, by what became of them.",
    ["outcome"],
    registry=REGISTRY,
)
WEBHOOK_DELIVERY_SECONDS = Histogram(
    "vidgen_webhook_delivery_seconds",
    "How long receivers of webhooks took to answer.",
    buckets=_SECONDS,
    registry=REGISTRY,
)

# --- asked for at the scrape: the same in every process, so take the maximum, never the sum ---

QUEUE_JOBS = Gauge(
    "vidgen_queue_jobs",
    "Jobs in PostgreSQL that are not completed; failed ones as long as they can be retried.",
    ["status", "provider"],
    registry=REGISTRY,
)
QUEUE_OLDEST = Gauge(
    "vidgen_queue_oldest_seconds",
    "For how long the job that waits longest has been due, pauses left out.",
    registry=REGISTRY,
)
WORKERS_ALIVE = Gauge(
    "vidgen_workers_alive", "Workers whose heartbeat is fresh.", registry=REGISTRY
)
WEBHOOKS_PENDING = Gauge(
    "vidgen_webhooks_pending", "Webhooks that are still to be delivered.", registry=REGISTRY
)
PAUSED = Gauge(
    "vidgen_paused",
    "1 while somebody has a provider take no new jobs.",
    ["provider"],
    registry=REGISTRY,
)
BUDGET_LIMIT = Gauge(
    "vidgen_budget_limit_dollars",
    "What may be spent in a period, by budget; those of single users are left out.",
    ["scope", "period"],
    registry=REGISTRY,
)
BUDGET_USED = Gauge(
    "vidgen_budget_used_dollars",
    "What is spent and reserved of it; of each-user by whoever used most.",
    ["scope", "period"],
    registry=REGISTRY,
)
BUDGETS_NEAR = Gauge(
    "vidgen_budgets_near",
    "Budgets of which 80 % or more are used, those of users among them.",
    ["period"],
    registry=REGISTRY,
)
BREAKER_OPEN = Gauge(
    "vidgen_breaker_open",
    "1 while submits to a provider pause because it does not answer.",
    ["provider"],
    registry=REGISTRY,
)
SCRAPE_ERROR = Gauge(
    "vidgen_scrape_error",
    "1 if this could not be asked at the last scrape; what it tells is left out then.",
    ["source"],
    registry=REGISTRY,
)


def provider_of(job: VideoJob) -> str:
    """The provider as a label."""
    return job.provider if catalog.is_provider(job.provider) else OTHER


def model_of(job: VideoJob) -> str:
    """The model as a label: one of the catalog, or "other"."""
    return job.model if catalog.find(job.provider, job.model) else OTHER


def written(before: VideoJob | None, change: Transition, after: VideoJob) -> None:
    """Count a transition that we wrote; *before* is the job as it was, None for a claim."""
    provider = provider_of(after)
    _series(TRANSITIONS, change.event, provider).inc()
    if before is not None and "code" in change.detail and not change.detail.get("absent"):
        ERRORS.labels(change.detail["code"], before.stage, provider_of(before)).inc()
    if after.is_final and change.status is not None:
        _series(ATTEMPTS, after.status).observe(after.attempt)
    match change.event:
        case EventType.CLAIMED if after.lease_epoch == 1:
            _took(Stage.QUEUED, provider, after.created_at, after.started_at)
        case EventType.SUBMITTED:
            _took(Stage.SUBMITTING, provider, after.intent_at, after.submitted_at)
        case EventType.GENERATED:
            took_s = _took(Stage.GENERATING, provider, after.submitted_at, after.generated_at)
            _series(GENERATION_SECONDS, provider, model_of(after)).observe(took_s)
        case EventType.COMPLETED:
            _took(Stage.TRANSFERRING, provider, after.generated_at, after.completed_at)
        case EventType.RELEASED:
            RECOVERIES.labels(change.detail["reason"]).inc()
        case EventType.REROUTED if before is not None:
            FAILOVERS.labels(provider_of(before), provider, change.detail["reason"]).inc()
        case _:
            pass
    if before is not None:
        _count_money(before, change, after)


@contextmanager
def submit_of(job: VideoJob) -> Iterator[None]:
    """Count the paid call in the context by how it ends."""
    outcome = "unknown"
    try:
        yield
        outcome = "accepted"
    except SubmitUnknownError:
        raise
    except ProviderError:
        outcome = "refused"
        raise
    finally:
        _series(SUBMITS, provider_of(job), model_of(job), outcome).inc()


def looked(job: VideoJob, outcome: str) -> None:
    """Count one look at an operation."""
    POLLS.labels(provider_of(job), outcome).inc()


def listed(job: VideoJob, outcome: str) -> None:
    """Count one list that was asked for in place of many looks."""
    LISTS.labels(provider_of(job), outcome).inc()


def transferred(job: VideoJob, size_bytes: int, took_s: float) -> None:
    """Count one video that got into the bucket."""
    _series(TRANSFER_BYTES, provider_of(job)).inc(size_bytes)
    TRANSFER_SECONDS.observe(took_s)


def wasted(job: VideoJob, reason: str) -> None:
    """Count one attempt of *job* that may have been paid as lost."""
    _wasted(job, reason, job.estimated_cost_micros or 0)


def held(stages: Iterable[Stage]) -> None:
    """Tell the stages of all jobs that this worker holds now."""
    tally = Tally(stages)
    for stage in Stage:
        HELD_JOBS.labels(stage).set(tally[stage])


def _count_money(before: VideoJob, change: Transition, after: VideoJob) -> None:
    """By how much the bill has grown; and what of it, or beside it, bought no video."""
    grown_micros = (after.actual_cost_micros or 0) - (before.actual_cost_micros or 0)
    if grown_micros > 0:
        # Whoever a job leaves is paid for what it did.
        _series(SPEND_DOLLARS, provider_of(before), model_of(before)).inc(
            grown_micros / MICROS_PER_DOLLAR
        )
    match change.event:
        case EventType.REROUTED:
            _wasted(
                before,
                after.error_code or OTHER,
                after.lost_cost_micros - before.lost_cost_micros,
            )
        case EventType.REATTEMPTED if change.detail.get("may_be_paid_twice"):
            wasted(after, after.error_code or OTHER)
        case EventType.FAILED | EventType.CANCELLED:
            cancelled = after.status is JobStatus.CANCELLED
            reason = JobStatus.CANCELLED if cancelled else after.error_code or OTHER
            # What was lost before the last retry by hand was counted then.
            _wasted(after, reason, (after.actual_cost_micros or 0) - after.lost_cost_micros)
            if lifecycle.outstanding(after):
                wasted(after, reason)
        case _:
            pass


def _wasted(job: VideoJob, reason: str, cost_micros: int) -> None:
    WASTE_DOLLARS.labels(provider_of(job), reason).inc(max(cost_micros, 0) / MICROS_PER_DOLLAR)


def _took(stage: Stage, provider: str, begun: datetime | None, ended: datetime | None) -> float:
    assert begun is not None  # the transition before has set it
    assert ended is not None  # this one has
    took_s = max((ended - begun) / timedelta(seconds=1), 0.0)
    _series(STAGE_SECONDS, stage, provider).observe(took_s)
    return took_s


@cache
def _series(metric: Metric, *labels: str) -> Metric:
    """One series of *metric*; to look it up by its labels costs more than to count."""
    return metric.labels(*labels)


def _begin_at_zero() -> None:
    """
    Let the series that alerts watch exist from the start: one that appears with its first event
    has no increase that Prometheus could see.
    """
    BUILD.info({"version": version("vidgen")})
    for model in catalog.models():
        SPEND_DOLLARS.labels(model.provider, model.name)
        for outcome in SUBMIT_OUTCOMES:
            SUBMITS.labels(model.provider, model.name, outcome)
    for provider in catalog.names():
        ERRORS.labels(SubmitUnknownError.code, Stage.SUBMITTING, provider)
        for event in set(EventType) - _NEVER_WRITTEN_HERE:
            TRANSITIONS.labels(event, provider)
        for reason in (*_codes(), JobStatus.CANCELLED):
            WASTE_DOLLARS.labels(provider, reason)
    for code in (BudgetExceededError.code, PriceUnknownError.code):
        BUDGET_REFUSALS.labels(code)
    for reason in RELEASE_REASONS:
        RECOVERIES.labels(reason)
    for outcome in WEBHOOK_OUTCOMES:
        WEBHOOK_DELIVERIES.labels(outcome)
    held(())


def _codes() -> set[str]:
    """What an attempt can be lost by."""
    kinds = (ProviderError, StorageError, InternalError, LeaseLostError, BudgetExceededError)
    return {
        kind.code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, kinds) and kind.code != VidgenError.code
    }


_begin_at_zero()
