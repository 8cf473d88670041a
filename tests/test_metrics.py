"""What is counted when something happens, read off the registry as a scrape would."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from prometheus_client import generate_latest

from tests.builders import NOON, a_job, a_video, an_operation
from tests.machine import played
from vidgen import catalog, lifecycle, metrics
from vidgen.errors import (
    ContentBlockedError,
    GenerationTimeoutError,
    RateLimitedError,
    SubmitUnknownError,
    TransientError,
)
from vidgen.job import JobStatus, Stage, VideoJob
from vidgen.lifecycle import Backoff, Transition

DOLLARS = 1_000_000


def value(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(name, labels) or 0.0


def grown(act: Callable[[], None], name: str, **labels: str) -> float:
    """By how much a series grows while *act* runs."""
    before = value(name, **labels)
    act()
    return round(value(name, **labels) - before, 6)


def a_paid_job(stage: Stage = Stage.GENERATING, **changes: object) -> VideoJob:
    return a_job(stage, **{"estimated_cost_micros": 2 * DOLLARS, **changes})


# --- transitions ---


def test_a_transition_is_counted_by_its_event() -> None:
    job = a_job()
    change = lifecycle.submitting(job)

    counted = grown(
        lambda: metrics.written(job, change, a_job(Stage.SUBMITTING)),
        "vidgen_transitions_total",
        type="submitting",
        provider="sora",
    )

    assert counted == 1


@pytest.mark.parametrize(
    ("before", "change", "after", "stage", "took_s"),
    [
        (
            None,
            lifecycle.claimed(),
            a_job(started_at=NOON + timedelta(seconds=7)),
            "queued",
            7,
        ),
        (
            a_job(Stage.SUBMITTING),
            lifecycle.submitted(1, an_operation()),
            a_job(Stage.GENERATING, submitted_at=NOON + timedelta(seconds=2)),
            "submitting",
            2,
        ),
        (
            a_job(Stage.GENERATING),
            lifecycle.generated(a_job(Stage.GENERATING), expires_at=None, cost_micros=None),
            a_job(Stage.TRANSFERRING, generated_at=NOON + timedelta(seconds=90)),
            "generating",
            90,
        ),
        (
            a_job(Stage.TRANSFERRING),
            lifecycle.completed(a_job(Stage.TRANSFERRING), a_video()),
            a_job(
                Stage.TRANSFERRING,
                status=JobStatus.COMPLETED,
                completed_at=NOON + timedelta(seconds=4),
            ),
            "transferring",
            4,
        ),
    ],
    ids=["queued", "submitting", "generating", "transferring"],
)
def test_the_end_of_a_stage_tells_how_long_it_took(
    before: VideoJob | None,
    change: lifecycle.Transition,
    after: VideoJob,
    stage: str,
    took_s: float,
) -> None:
    counted = grown(
        lambda: metrics.written(before, change, after),
        "vidgen_stage_seconds_sum",
        stage=stage,
        provider="sora",
    )

    assert counted == took_s


def test_only_the_first_claim_ends_the_waiting() -> None:
    again = a_job(lease_epoch=2)

    counted = grown(
        lambda: metrics.written(None, lifecycle.claimed(), again),
        "vidgen_stage_seconds_count",
        stage="queued",
        provider="sora",
    )

    assert counted == 0


def test_an_error_is_counted_with_its_code_and_the_stage_it_happened_in() -> None:
    job = a_job(Stage.SUBMITTING)
    change = lifecycle.errored(job, RateLimitedError("slow"), backoff=Backoff(base_s=1), now=NOON)

    counted = grown(
        lambda: metrics.written(job, change, a_job()),
        "vidgen_errors_total",
        code="rate_limited",
        stage="submitting",
        provider="sora",
    )

    assert counted == 1


def test_a_submit_that_provably_never_arrived_is_no_further_error() -> None:
    job = a_job(Stage.SUBMITTING)

    counted = grown(
        lambda: metrics.written(job, lifecycle.disproved(job), a_job()),
        "vidgen_errors_total",
        code="submit_unknown",
        stage="submitting",
        provider="sora",
    )

    assert counted == 0


@pytest.mark.parametrize("reason", ["worker_lost", "hand_over"])
def test_a_job_given_back_is_counted_with_its_reason(reason: str) -> None:
    job = a_job(Stage.GENERATING)

    counted = grown(
        lambda: metrics.written(job, lifecycle.released(job, reason), job),
        "vidgen_recoveries_total",
        reason=reason,
    )

    assert counted == 1


def test_the_attempts_of_a_job_are_counted_at_its_end() -> None:
    job = a_job(Stage.TRANSFERRING, attempt=2)
    done = a_job(Stage.TRANSFERRING, attempt=2, status=JobStatus.COMPLETED, completed_at=NOON)

    counted = grown(
        lambda: metrics.written(job, lifecycle.completed(job, a_video()), done),
        "vidgen_attempts_sum",
        status="completed",
    )

    assert counted == 2


# --- labels ---


def test_models_and_providers_outside_of_the_catalog_are_others() -> None:
    stranger = a_job(provider="somebody", model="their-model-7")
    unknown = a_job(model="sora-3-preview-of-a-customer")

    assert (metrics.provider_of(stranger), metrics.model_of(stranger)) == ("other", "other")
    assert (metrics.provider_of(unknown), metrics.model_of(unknown)) == ("sora", "other")
    assert metrics.model_of(a_job()) == "sora-2"


def test_no_metric_has_an_id_or_a_text_of_a_customer_as_a_label() -> None:
    bounded = {"provider", "model", "stage", "status", "code", "outcome", "reason", "type"}
    bounded |= {"from", "to"}  # providers
    labels = {
        label
        for family in metrics.REGISTRY.collect()
        if family.name.startswith("vidgen_")
        for sample in family.samples
        for label in sample.labels
    }

    bounded |= {"scope", "period"}  # of budgets; those of single users are only counted
    assert labels <= bounded | {"le", "source", "version"}


def test_every_name_has_a_unit_or_counts_things() -> None:
    things = {"vidgen_held_jobs", "vidgen_queue_jobs", "vidgen_workers_alive", "vidgen_attempts"}
    things |= {"vidgen_webhooks_pending", "vidgen_budgets_near"}
    states = {"vidgen_breaker_open", "vidgen_paused", "vidgen_scrape_error", "vidgen_build"}
    units = ("_seconds", "_bytes", "_dollars")

    for family in metrics.REGISTRY.collect():
        if family.name.startswith("vidgen_") and family.type != "counter":
            assert family.name.endswith(units) or family.name in things | states


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("vidgen_submits_total", {"model": "sora-2", "outcome": "unknown"}),
        ("vidgen_errors_total", {"code": "submit_unknown", "stage": "submitting"}),
        ("vidgen_waste_dollars_total", {"reason": "generation_timeout"}),
        ("vidgen_waste_dollars_total", {"reason": "cancelled"}),
        ("vidgen_transitions_total", {"type": "failed"}),
    ],
)
def test_what_alerts_watch_begins_at_zero(name: str, labels: dict[str, str]) -> None:
    for provider in catalog.names():
        if labels.get("model", "").startswith(("", provider)):
            found = metrics.REGISTRY.get_sample_value(name, {"provider": "sora", **labels})

            assert found is not None


# --- money ---


def play(job: VideoJob, change: Transition, **times: datetime) -> None:
    """Count *change* of *job*."""
    metrics.written(job, change, replace(played(job, change), **times))  # type: ignore[arg-type]  # only times


def spent() -> float:
    return value("vidgen_spend_dollars_total", provider="sora", model="sora-2")


def wasted(reason: str) -> float:
    return value("vidgen_waste_dollars_total", provider="sora", reason=reason)


def test_a_finished_generation_is_money_spent() -> None:
    job, before = a_paid_job(), spent()

    play(job, lifecycle.generated(job, expires_at=None, cost_micros=None), generated_at=NOON)

    assert spent() - before == pytest.approx(2)


def test_what_the_provider_says_it_cost_counts_before_the_estimate() -> None:
    job, before = a_paid_job(), spent()

    change = lifecycle.generated(job, expires_at=None, cost_micros=DOLLARS // 2)
    play(job, change, generated_at=NOON)

    assert spent() - before == pytest.approx(0.5)


@pytest.mark.parametrize(("charged", "dollars"), [(True, 2), (False, 0)])
def test_a_failed_generation_costs_what_was_charged(charged: bool, dollars: float) -> None:
    job, before = a_paid_job(), (spent(), wasted("content_blocked"))
    error = ContentBlockedError("no")

    play(job, lifecycle.failed(job, error, charged=charged))

    assert spent() - before[0] == pytest.approx(dollars)
    assert wasted("content_blocked") - before[1] == pytest.approx(dollars)


def test_a_job_given_up_after_its_submit_is_waste_by_its_reason() -> None:
    code = GenerationTimeoutError.code
    job = a_paid_job()
    before = spent(), wasted(code)

    play(job, lifecycle.failed(job, GenerationTimeoutError("late")))

    assert wasted(code) - before[1] == pytest.approx(2)
    assert spent() == before[0]  # nobody has said that it was charged


def test_a_job_that_was_refused_cost_nothing() -> None:
    job, before = a_paid_job(Stage.QUEUED), wasted("provider_unavailable")

    play(job, lifecycle.failed(job, TransientError("no")))

    assert wasted("provider_unavailable") == before


@pytest.mark.parametrize(
    ("stage", "stopped", "spent_dollars", "wasted_dollars"),
    [
        (Stage.QUEUED, False, 0, 0),
        (Stage.GENERATING, True, 0, 2),  # possibly paid: only the provider knows
        (Stage.GENERATING, None, 0, 2),
        (Stage.GENERATING, False, 2, 2),
        (Stage.TRANSFERRING, False, 0, 2),  # it was spent when it was generated
    ],
)
def test_a_cancel_costs_what_could_not_be_stopped(
    stage: Stage, stopped: bool | None, spent_dollars: float, wasted_dollars: float
) -> None:
    paid = 2 * DOLLARS if stage is Stage.TRANSFERRING else None
    job = a_paid_job(stage, actual_cost_micros=paid)
    before = spent(), wasted("cancelled")

    play(job, lifecycle.cancelled(job, held=True, stopped_at_provider=stopped))

    assert spent() - before[0] == pytest.approx(spent_dollars)
    assert wasted("cancelled") - before[1] == pytest.approx(wasted_dollars)


def test_a_job_without_a_price_counts_no_money() -> None:
    before = wasted("submit_unknown")

    metrics.wasted(a_paid_job(estimated_cost_micros=None), SubmitUnknownError.code)

    assert wasted("submit_unknown") == before


# --- paid calls ---


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "accepted"),
        (RateLimitedError("slow"), "refused"),
        (SubmitUnknownError("cut"), "unknown"),
        (ValueError("a defect"), "unknown"),
    ],
)
def test_a_paid_call_is_counted_by_its_outcome(error: Exception | None, outcome: str) -> None:
    def call() -> None:
        with metrics.submit_of(a_job()):
            if error is not None:
                raise error

    def act() -> None:
        if error is None:
            call()
        else:
            with pytest.raises(type(error)):
                call()

    labels = {"provider": "sora", "model": "sora-2", "outcome": outcome}
    assert grown(act, "vidgen_submits_total", **labels) == 1


def test_held_jobs_are_told_by_stage_and_forgotten() -> None:
    metrics.held([Stage.GENERATING, Stage.GENERATING, Stage.TRANSFERRING])
    told = {stage: value("vidgen_held_jobs", stage=stage) for stage in Stage}
    metrics.held([])

    assert told == {"queued": 0, "submitting": 0, "generating": 2, "transferring": 1}
    assert value("vidgen_held_jobs", stage="generating") == 0


def test_the_standard_metrics_of_the_process_are_there() -> None:
    text = generate_latest(metrics.REGISTRY).decode()

    for name in ("process_resident_memory_bytes", "python_info", "python_gc_collections_total"):
        assert f"\n{name}" in text
    assert "_created" not in text
