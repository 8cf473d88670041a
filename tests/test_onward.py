"""When a job leaves a target for the next one, and when not; decided purely."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from tests.builders import NOON, a_job, targets
from tests.test_lifecycle import the_policy
from vidgen import errors, lifecycle
from vidgen.errors import CostCeilingError, ProviderError, VidgenError
from vidgen.job import REROUTES, REROUTES_BY_DEFAULT, EventType, RerouteReason, Stage, VideoJob
from vidgen.lifecycle import PATIENCE_S, REFUSALS_TO_MOVE, Backoff, Prospect, Transition

BACKOFF = Backoff(base_s=2)
PRICE = 1_000_000
FREE = (Prospect(target=1), Prospect(target=2))

PROOFS = {
    (errors.TransientError, Stage.SUBMITTING): "refused",
    (errors.RateLimitedError, Stage.SUBMITTING): "refused",
    (errors.ModelRetiredError, Stage.SUBMITTING): "retired",
    (errors.ModelRetiredError, Stage.QUEUED): "retired",
    (errors.QuotaExhaustedError, Stage.SUBMITTING): "quota",
    (errors.QuotaExhaustedError, Stage.QUEUED): "quota",
    (errors.AuthError, Stage.SUBMITTING): "auth",
    (errors.AuthError, Stage.QUEUED): "auth",
    (errors.ProviderNotConfiguredError, Stage.QUEUED): "unconfigured",
    (errors.ProviderNotConfiguredError, Stage.SUBMITTING): "unconfigured",
    (errors.PluginBrokenError, Stage.QUEUED): "unconfigured",
    (errors.PluginBrokenError, Stage.SUBMITTING): "unconfigured",
    (errors.UnknownProviderError, Stage.QUEUED): "unconfigured",
    (errors.UnknownProviderError, Stage.SUBMITTING): "unconfigured",
    (errors.ContentBlockedError, Stage.SUBMITTING): "policy",
    (errors.ContentBlockedError, Stage.QUEUED): "policy",
    (errors.InputRejectedError, Stage.SUBMITTING): "rejected",
    (errors.InputRejectedError, Stage.QUEUED): "rejected",
    (errors.BudgetExceededError, Stage.QUEUED): "budget",
    (errors.PriceUnknownError, Stage.QUEUED): "budget",
    (errors.CostCeilingError, Stage.QUEUED): "ceiling",
    (errors.CostCeilingError, Stage.SUBMITTING): "ceiling",
}


def a_routed(stage: Stage = Stage.SUBMITTING, **changes: Any) -> VideoJob:
    values = {
        "estimated_cost_micros": PRICE,
        "reroute_on": REROUTES,
        "failures": REFUSALS_TO_MOVE - 1,
        **targets(PRICE, PRICE, PRICE),
    }
    return a_job(stage, **(values | changes))


def errored(job: VideoJob, error: VidgenError, prospects: Sequence[Prospect] = FREE) -> Transition:
    return lifecycle.errored(job, error, backoff=BACKOFF, now=NOON, prospects=prospects)


def judged(
    job: VideoJob, error: ProviderError, *, charged: bool = False, cost_micros: int | None = None
) -> Transition:
    return lifecycle.judged(
        job,
        error,
        charged=charged,
        cost_micros=cost_micros,
        backoff=BACKOFF,
        now=NOON,
        prospects=FREE,
    )


@pytest.mark.parametrize(
    "kind", dict.fromkeys(kind for kind, _ in the_policy()), ids=lambda kind: kind.__name__
)
@pytest.mark.parametrize("stage", Stage)
def test_every_error_is_a_proof_or_keeps_the_job_where_it_is(
    kind: type[VidgenError], stage: Stage
) -> None:
    change = errored(a_routed(stage), kind("no"))

    reason = PROOFS.get((kind, stage))
    if (
        reason is None
        and issubclass(kind, errors.RequestError)
        and change.event is EventType.REROUTED
    ):
        reason = "rejected"  # a request that nobody was asked for
        assert stage in {Stage.QUEUED, Stage.SUBMITTING}
    moved = change.event is EventType.REROUTED
    assert (change.detail["reason"] if moved else None) == reason


def test_what_may_have_been_accepted_never_moves_on() -> None:
    job = a_routed()

    changes = [
        errored(job, errors.SubmitUnknownError("?")),
        errored(job, errors.ProtocolError("?")),
        errored(job, errors.InternalError("?")),
        lifecycle.unsettled(job, errors.SubmitUnknownError("?"), wait_s=1),
        lifecycle.resubmitted(job, errors.SubmitUnknownError("?")),
    ]

    assert EventType.REROUTED not in {change.event for change in changes}
    assert all("target" not in change.changes for change in changes)


def test_refusals_move_on_once_they_are_more_than_a_hiccup() -> None:
    job = a_routed(failures=REFUSALS_TO_MOVE - 2)
    busy = errors.RateLimitedError("no", retry_after_s=PATIENCE_S)
    long = errors.RateLimitedError("no", retry_after_s=PATIENCE_S + 1)

    assert errored(job, busy).event is EventType.ERRORED
    assert errored(job, long).detail["reason"] == "refused"


def test_a_refusal_gives_the_attempt_back_and_a_verdict_does_not() -> None:
    refused = errored(a_routed(attempt=2), errors.ModelRetiredError("no"))
    failed = judged(a_routed(Stage.GENERATING, attempt=2), errors.GenerationFailedError("no"))

    assert (refused.changes["attempt"], refused.changes["target"]) == (1, 1)
    assert "attempt" not in failed.changes
    assert (failed.changes["target"], failed.changes["operation"]) == (1, None)


@pytest.mark.parametrize("reason", ["down", "paused", "key_unreadable"])
def test_a_refusal_that_may_pass_is_not_worth_a_closed_door(reason: str) -> None:
    closed = [Prospect(target=1, obstacle=reason), Prospect(target=2, obstacle="retired")]

    assert errored(a_routed(), errors.TransientError("no"), closed).event is EventType.ERRORED


def test_where_nothing_can_be_hoped_for_a_door_that_may_open_is_waited_at() -> None:
    closed = [Prospect(target=1, obstacle="retired"), Prospect(target=2, obstacle="down")]

    change = errored(a_routed(), errors.QuotaExhaustedError("no"), closed)

    assert change.changes["target"] == 2
    assert [one["reason"] for one in change.detail["skipped"]] == ["retired"]  # type: ignore[union-attr,index,call-overload]  # JSON


def test_an_open_door_goes_before_a_closed_one() -> None:
    prospects = [Prospect(target=1, obstacle="down"), Prospect(target=2)]

    assert errored(a_routed(), errors.QuotaExhaustedError("no"), prospects).changes["target"] == 2


def test_without_anybody_left_the_job_fails_and_says_why_nobody_was() -> None:
    shut = [Prospect(target=1, obstacle="retired"), Prospect(target=2, obstacle="unconfigured")]

    change = errored(a_routed(), errors.QuotaExhaustedError("no"), shut)

    assert (change.event, change.detail["code"]) == (EventType.FAILED, "quota_exhausted")
    assert [one["reason"] for one in change.detail["skipped"]] == ["retired", "unconfigured"]  # type: ignore[union-attr,index,call-overload]  # JSON


@pytest.mark.parametrize("reason", sorted(set(REROUTES) - set(REROUTES_BY_DEFAULT)))
def test_what_is_not_usual_has_to_be_allowed(reason: str) -> None:
    job = a_routed(Stage.GENERATING, reroute_on=REROUTES_BY_DEFAULT, max_cost_micros=9 * PRICE)
    kind = {
        "policy": errors.ContentBlockedError,
        "rejected": errors.InputRejectedError,
        "charged": errors.GenerationFailedError,
    }[reason]

    change = judged(job, kind("no"), charged=reason == "charged")

    assert change.event is EventType.FAILED


def test_the_key_of_a_user_that_is_refused_is_told_to_the_user() -> None:
    job = a_routed(credential_id="0198c0de-0000-7000-8000-000000000000")

    assert errored(job, errors.AuthError("no")).event is EventType.FAILED


def test_a_verdict_moves_on_before_the_same_target_is_tried_again() -> None:
    job = a_routed(Stage.GENERATING)

    assert judged(job, errors.GenerationFailedError("no")).detail["reason"] == "failed"


def test_a_charged_verdict_is_on_the_bill_before_the_next_one_is_paid() -> None:
    job = a_routed(Stage.GENERATING, max_cost_micros=2 * PRICE)

    change = judged(job, errors.GenerationFailedError("no"), charged=True)

    assert (change.detail["reason"], change.detail["cost_micros"]) == ("charged", PRICE)
    assert (change.changes["actual_cost_micros"], change.changes["lost_cost_micros"]) == (
        PRICE,
        PRICE,
    )


def test_a_charged_verdict_is_the_end_where_the_ceiling_leaves_no_room() -> None:
    job = a_routed(Stage.GENERATING, max_cost_micros=2 * PRICE - 1)

    change = judged(job, errors.GenerationFailedError("no"), charged=True)

    assert (change.event, change.changes["actual_cost_micros"]) == (EventType.FAILED, PRICE)
    assert {one["reason"] for one in change.detail["skipped"]} == {"ceiling"}  # type: ignore[union-attr,index,call-overload]  # JSON


def test_what_a_failure_is_said_to_cost_leaves_the_rest_of_the_ceiling_to_the_next_one() -> None:
    job = a_routed(Stage.GENERATING, max_cost_micros=2 * PRICE - 1)

    change = judged(job, errors.GenerationFailedError("no"), charged=True, cost_micros=PRICE // 4)

    assert (change.event, change.detail["cost_micros"]) == (EventType.REROUTED, PRICE // 4)
    assert change.changes["lost_cost_micros"] == PRICE // 4


def test_policy_with_a_charge_needs_leave_for_both() -> None:
    may = a_routed(Stage.GENERATING, reroute_on=(RerouteReason.POLICY,))

    assert judged(may, errors.ContentBlockedError("no")).event is EventType.REROUTED
    assert judged(may, errors.ContentBlockedError("no"), charged=True).event is EventType.FAILED


def test_the_last_attempt_is_the_last_at_any_target() -> None:
    job = a_routed(Stage.GENERATING, attempt=3, max_attempts=3)

    assert judged(job, errors.GenerationFailedError("no")).event is EventType.FAILED


def test_attempts_that_only_the_provider_knows_count_as_the_dearest() -> None:
    job = a_routed(
        Stage.QUEUED, unknown_attempts=1, max_cost_micros=3 * PRICE, **targets(PRICE, 2 * PRICE)
    )

    lifecycle.check_affordable(job)
    assert lifecycle.spent_micros(job) == 2 * PRICE
    with pytest.raises(
        CostCeilingError, match=r"costs \$1\.00, \$4\.00 may be spent .* \$3\.00 at"
    ):
        lifecycle.check_affordable(
            a_routed(
                Stage.QUEUED,
                unknown_attempts=2,
                max_cost_micros=3 * PRICE,
                **targets(PRICE, 2 * PRICE),
            )
        )


def test_nothing_is_moved_on_after_the_deadline() -> None:
    job = a_routed(deadline_at=NOON - timedelta(seconds=1))

    assert errored(job, errors.QuotaExhaustedError("no")).event is EventType.FAILED


def test_a_job_without_targets_is_as_it_was() -> None:
    job = a_job(Stage.SUBMITTING, failures=9)

    assert errored(job, errors.TransientError("no"), ()).event is EventType.ERRORED
    assert errored(job, errors.QuotaExhaustedError("no"), ()).event is EventType.FAILED
    assert lifecycle.disproved(job, now=NOON).changes["attempt"] == 0


def test_an_absent_request_keeps_its_number_for_itself() -> None:
    change = lifecycle.disproved(a_routed(), prospects=FREE, now=NOON)

    assert (change.event, change.detail["reason"]) == (EventType.REROUTED, "absent")
    assert "attempt" not in change.changes
    assert change.changes["max_attempts"] == 4
