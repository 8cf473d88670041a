"""The pure machine: each transition's guard and result, and what each error means in each stage."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import NOON, a_job, a_video, an_operation, targets
from vidgen import errors, lifecycle
from vidgen.errors import (
    GenerationFailedError,
    GenerationTimeoutError,
    InvalidStateError,
    OperationLostError,
    ProviderError,
    RateLimitedError,
    ResultExpiredError,
    SubmitUnknownError,
    TransientError,
    VidgenError,
)
from vidgen.job import EventType, JobStatus, JsonValue, Stage, VideoJob
from vidgen.lifecycle import ACTIVE, EVERY_STAGE, Backoff, Hold, Holder, Transition

BACKOFF = Backoff(base_s=2)

# What an error means, by the stage in which it happens:
#   again    the same step later; the operation stays
#   refused  the paid call was provably not accepted: the same attempt again, not counted
#   unpaid   refused for good: the end, and the attempt does not count
#   patient  again, but after some looks in a row the end
#   end      the end; the stage stays as it is
POLICY = """
                            queued    submitting  generating  transferring
    SettingsError           end       end         end         end
    InvalidRequestError     end       unpaid      end         end
    UnknownProviderError    end       unpaid      patient     patient
    PluginBrokenError       end       unpaid      patient     patient
    UnknownModelError       end       unpaid      end         end
    ProviderNotConfiguredError end    unpaid      patient     patient
    CostCeilingError        end       unpaid      end         end
    NoEncryptionKeyError    end       unpaid      end         end
    KeyNotFoundError        end       unpaid      end         end
    IdempotencyConflictError end      unpaid      end         end
    JobNotFoundError        end       unpaid      end         end
    NoResultError           end       unpaid      end         end
    WebhookInvalidError     end       unpaid      end         end
    InvalidStateError       end       unpaid      end         end
    DeliveryNotFoundError   end       unpaid      end         end
    NoResultError           end       unpaid      end         end
    WebhookInvalidError     end       unpaid      end         end
    TooManyWatchersError    again     end         again       again
    BudgetNotFoundError     end       unpaid      end         end
    BudgetExceededError     end       end         end         end
    PriceUnknownError       end       end         end         end
    TransientError          again     refused     again       again
    RateLimitedError        again     refused     again       again
    ProtocolError           again     end         again       again
    PluginFailedError       again     end         again       again
    QuotaExhaustedError     end       unpaid      end         end
    AuthError               end       unpaid      patient     patient
    InputRejectedError      end       unpaid      end         end
    ContentBlockedError     end       unpaid      end         end
    ModelRetiredError       end       unpaid      end         end
    GenerationFailedError   end       end         end         end
    GenerationTimeoutError  end       end         again       end
    NotReadyError           again     end         again       again
    ResultExpiredError      end       end         end         patient
    ResultInvalidError      again     end         again       again
    OperationLostError      end       end         patient     patient
    SubmitUnknownError      end       end         end         end
    StorageUnavailableError again     end         again       again
    StorageDeniedError      end       end         end         again
    BucketMissingError      end       end         end         again
    DatabaseError           again     end         again       again
    DatabaseRefusedError    end       end         end         end
    DispatchError           again     end         again       again
    KeyUnreadableError      again     end         again       again
    TooManyWatchersError    again     end         again       again
    InternalError           end       end         again       again
    OperationTakenError     end       end         end         end
    UserLimitError          end       end         end         end
    LeaseLostError          end       end         end         end
"""


def the_policy() -> dict[tuple[type[VidgenError], Stage], str]:
    stages, *rows = (line.split() for line in POLICY.strip().splitlines())
    return {
        (getattr(errors, name), Stage(stage)): meaning
        for name, *meanings in rows
        for stage, meaning in zip(stages, meanings, strict=True)
    }


def below(kind: type[VidgenError]) -> set[type[VidgenError]]:
    return set().union(*({other} | below(other) for other in kind.__subclasses__()))


def test_the_policy_names_every_error_that_has_a_code() -> None:
    # Other packages, and tests that play one, have errors of their own.
    ours = {kind for kind in below(VidgenError) if kind.__module__.startswith("vidgen.")}
    coded = {kind for kind in ours if "code" in vars(kind)}

    assert {kind for kind, _ in the_policy()} == coded


@pytest.mark.parametrize(
    ("kind", "stage", "meaning"),
    [(kind, stage, meaning) for (kind, stage), meaning in the_policy().items()],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value),
)
def test_an_error_means_what_the_policy_says(
    kind: type[VidgenError], stage: Stage, meaning: str
) -> None:
    job = a_job(stage)

    change = lifecycle.errored(job, kind("it broke"), backoff=BACKOFF, now=NOON)

    ends = meaning in {"end", "unpaid"}
    free = meaning in {"refused", "unpaid"}  # of charge
    assert change.event is (EventType.FAILED if ends else EventType.ERRORED)
    assert change.stage is (Stage.QUEUED if free else None)
    assert change.changes.get("attempt", job.attempt) == job.attempt - free
    assert change.changes.get("failures", 0) == (0 if ends else 1)
    assert change.changes["error_code"] == kind.code
    assert change.changes["error_message"] == "it broke"
    assert "operation" not in change.changes
    assert_only_the_holder(change, stage)


@pytest.mark.parametrize(
    ("kind", "stage", "looks"),
    [
        (OperationLostError, Stage.GENERATING, 6),
        (OperationLostError, Stage.TRANSFERRING, 6),
        (errors.AuthError, Stage.GENERATING, 6),
        (errors.ProviderNotConfiguredError, Stage.TRANSFERRING, 6),
        (ResultExpiredError, Stage.TRANSFERRING, 2),
    ],
)
def test_patience_with_what_cannot_be_seen_ends(
    kind: type[VidgenError], stage: Stage, looks: int
) -> None:
    job, events = a_job(stage), []

    for failures in range(looks):
        error = kind("not there")
        change = lifecycle.errored(
            replace(job, failures=failures), error, backoff=BACKOFF, now=NOON
        )
        events.append(change.event)

    assert events == [EventType.ERRORED] * (looks - 1) + [EventType.FAILED]


@pytest.mark.parametrize(
    ("stage", "status"),
    [
        (Stage.QUEUED, JobStatus.PENDING),
        (Stage.SUBMITTING, JobStatus.PENDING),
        (Stage.GENERATING, JobStatus.PROCESSING),
        (Stage.TRANSFERRING, JobStatus.PROCESSING),
    ],
)
def test_a_job_that_waits_to_try_again_is_pending_until_it_is_paid_for(
    stage: Stage, status: JobStatus
) -> None:
    change = lifecycle.errored(a_job(stage), TransientError("no"), backoff=BACKOFF, now=NOON)

    assert change.status is status


def test_the_wait_grows_with_the_failures_and_heeds_the_wish_of_the_other_side() -> None:
    job = a_job(Stage.GENERATING, failures=2)

    own = lifecycle.errored(job, TransientError("no"), backoff=BACKOFF, now=NOON)
    wished = lifecycle.errored(
        job, RateLimitedError("slow", retry_after_s=99), backoff=BACKOFF, now=NOON
    )

    assert (own.due_in_s, own.changes["failures"]) == (8, 3)
    assert wished.due_in_s == 99
    assert wished.detail["wait_s"] == 99


@pytest.mark.parametrize("stage", [Stage.GENERATING, Stage.TRANSFERRING])
def test_what_is_paid_for_gets_one_last_look_at_the_deadline(stage: Stage) -> None:
    job = a_job(stage, failures=4, deadline_at=NOON + timedelta(seconds=3))

    change = lifecycle.errored(job, TransientError("busy"), backoff=BACKOFF, now=NOON)

    assert (change.event, change.due_in_s) == (EventType.ERRORED, 3)


@pytest.mark.parametrize("stage", [Stage.QUEUED, Stage.SUBMITTING])
def test_nothing_is_paid_when_no_time_would_be_left(stage: Stage) -> None:
    job = a_job(stage, deadline_at=NOON + timedelta(seconds=2))

    change = lifecycle.errored(job, TransientError("busy"), backoff=BACKOFF, now=NOON)

    assert change.event is EventType.FAILED
    assert change.changes["error_code"] == "provider_unavailable"
    assert change.changes["error_message"] == "not done within its 1800 s; last: busy"
    assert change.detail["message"] == change.changes["error_message"]


@pytest.mark.parametrize(
    ("stage", "code"),
    [
        (Stage.QUEUED, "provider_unavailable"),
        (Stage.SUBMITTING, "provider_unavailable"),
        (Stage.GENERATING, "generation_timeout"),
        (Stage.TRANSFERRING, "provider_unavailable"),
    ],
)
def test_behind_the_deadline_an_error_is_the_end(stage: Stage, code: str) -> None:
    job = a_job(stage, deadline_at=NOON)

    change = lifecycle.errored(job, TransientError("busy"), backoff=BACKOFF, now=NOON)

    assert change.event is EventType.FAILED
    assert (change.changes["error_code"], change.detail["code"]) == (code, code)
    assert change.detail["message"] == change.changes["error_message"]


@pytest.mark.parametrize(("left_s", "again"), [(3, True), (2, False), (-1, False)])
def test_a_verdict_brings_a_new_attempt_only_while_time_remains(left_s: int, again: bool) -> None:
    job = a_job(Stage.GENERATING, deadline_at=NOON + timedelta(seconds=left_s))
    error = GenerationFailedError("no")

    change = lifecycle.judged(job, error, charged=False, backoff=BACKOFF, now=NOON)

    assert (change.event is EventType.REATTEMPTED) is again


def test_an_event_tells_what_support_would_ask_for() -> None:
    error = TransientError("no", provider_code="E7", request_id="req_1", http_status=503)

    change = lifecycle.errored(a_job(), error, backoff=BACKOFF, now=NOON)

    assert change.detail == {
        "code": "provider_unavailable",
        "message": "no",
        "provider_code": "E7",
        "request_id": "req_1",
        "http_status": 503,
        "wait_s": 2.0,
    }


# --- verdicts ---


@pytest.mark.parametrize(
    ("error", "charged", "attempt", "again"),
    [
        (GenerationFailedError("no"), False, 1, True),
        (GenerationFailedError("no"), False, 2, True),
        (GenerationFailedError("no"), False, 3, False),
        (GenerationFailedError("no"), True, 1, False),
        (errors.ContentBlockedError("no"), False, 1, False),
        (ResultExpiredError("no"), False, 1, False),
        (OperationLostError("no"), False, 1, False),
    ],
)
def test_only_an_uncharged_failure_of_the_generation_brings_a_new_attempt(
    error: ProviderError, charged: bool, attempt: int, again: bool
) -> None:
    job = a_job(Stage.GENERATING, attempt=attempt, failures=2, progress=70)

    change = lifecycle.judged(job, error, charged=charged, backoff=BACKOFF, now=NOON)

    assert change.event is (EventType.REATTEMPTED if again else EventType.FAILED)
    assert change.changes["error_code"] == error.code
    assert_only_the_holder(change, Stage.GENERATING)
    if again:
        assert (change.status, change.stage) == (JobStatus.PENDING, Stage.QUEUED)
        assert change.due_in_s == 2**attempt
        assert (change.changes["operation"], change.changes["progress"]) == (None, 0)
        assert change.changes["failures"] == 0
        assert "attempt" not in change.changes  # counted by the next intent


@pytest.mark.parametrize(
    ("charged", "told", "cost"), [(True, None, 800_000), (True, 250_000, 250_000), (False, None, 0)]
)
def test_the_end_tells_what_the_failure_cost(charged: bool, told: int | None, cost: int) -> None:
    job = a_job(Stage.GENERATING, attempt=3, estimated_cost_micros=800_000)

    change = lifecycle.judged(
        job,
        GenerationFailedError("no"),
        charged=charged,
        cost_micros=told,
        backoff=BACKOFF,
        now=NOON,
    )

    assert (change.event, change.detail["cost_micros"]) == (EventType.FAILED, cost)
    assert (change.changes["actual_cost_micros"], change.changes["settled_attempt"]) == (cost, 3)


def test_what_a_failure_cost_is_known_without_a_price_if_it_is_told() -> None:
    job = a_job(Stage.GENERATING, estimated_cost_micros=None)
    error = errors.ContentBlockedError("no")

    told = lifecycle.judged(job, error, charged=True, cost_micros=90_000, backoff=BACKOFF, now=NOON)
    untold = lifecycle.judged(job, error, charged=True, backoff=BACKOFF, now=NOON)

    assert told.changes["actual_cost_micros"] == 90_000
    assert untold.changes["actual_cost_micros"] is None


# --- backoff ---


def test_the_backoff_doubles_up_to_a_minute() -> None:
    assert [BACKOFF.wait_s(failures) for failures in range(1, 8)] == [2, 4, 8, 16, 32, 60, 60]


@given(
    base_s=st.floats(0, 600),
    jitter=st.floats(0, 1),
    failures=st.integers(0, 5000),
    wish_s=st.none() | st.floats(0, 10_000),
)
def test_a_wait_is_never_shorter_than_wished_nor_much_longer_than_a_minute(
    base_s: float, jitter: float, failures: int, wish_s: float | None
) -> None:
    backoff = Backoff(base_s=base_s, jitter=jitter)

    wait_s = backoff.wait_s(failures, wish_s)

    assert (wish_s or 0) <= wait_s <= max(wish_s or 0, 60 * 1.25)
    assert wait_s >= min(base_s, 60)


def test_jitter_adds_up_to_a_quarter() -> None:
    waits = [Backoff(base_s=2, jitter=jitter).wait_s(1) for jitter in (0, 0.5, 1)]

    assert waits == [2, 2.25, 2.5]


# --- the other transitions, guard and result ---


def test_a_claim_takes_any_due_job_that_nobody_holds() -> None:
    change = lifecycle.claimed()

    assert (change.statuses, change.stages) == (ACTIVE, EVERY_STAGE)
    assert (change.holder, change.hold, change.only_due) == (Holder.NOBODY, Hold.TAKE, True)
    assert (change.status, change.stage) == (JobStatus.PROCESSING, None)


def test_the_intent_counts_the_attempt_and_uses_up_the_turn() -> None:
    change = lifecycle.submitting(a_job(attempt=1, slot_at=NOON))

    assert_only_the_holder(change, Stage.QUEUED)
    assert (change.stage, change.hold) == (Stage.SUBMITTING, Hold.KEEP)
    assert change.unless_cancelled
    assert change.changes == {
        "attempt": 2,
        "slot_at": None,
        "credential_id": "server",
        "capped": False,
    }
    assert (change.needs_key, change.user_limit) == (None, None)


def test_the_intent_names_the_key_it_needs_and_is_refused_without_it() -> None:
    key_id = UUID(int=7)

    change = lifecycle.submitting(a_job(), str(key_id))

    assert change.changes["credential_id"] == str(key_id)
    assert change.needs_key == key_id
    assert change.detail == {"credential_id": str(key_id)}


@pytest.mark.parametrize("stage", Stage)
def test_a_job_whose_key_does_not_open_waits_where_it_is_and_nothing_is_counted(
    stage: Stage,
) -> None:
    job = a_job(stage, failures=2, deadline_at=NOON - timedelta(days=1))

    change = lifecycle.parked(job, errors.KeyUnreadableError("no such key"), wait_s=300)

    assert_only_the_holder(change, stage)
    assert change.status is (JobStatus.PENDING if stage is Stage.QUEUED else JobStatus.PROCESSING)
    assert (change.stage, change.hold, change.due_in_s) == (None, Hold.FREE, 300)
    assert change.changes == {"error_code": "key_unreadable", "error_message": "no such key"}
    assert change.detail == {"code": "key_unreadable", "message": "no such key", "wait_s": 300}


def test_a_receipt_is_taken_from_anyone_for_its_attempt() -> None:
    change = lifecycle.submitted(2, an_operation("video_7"))

    assert (change.holder, change.hold, change.attempt) == (Holder.ANYONE, Hold.KEEP, 2)
    assert change.statuses == {JobStatus.PROCESSING, JobStatus.FAILED}
    assert change.stages == {Stage.SUBMITTING}
    assert (change.status, change.stage) == (JobStatus.PROCESSING, Stage.GENERATING)
    assert change.detail == {"operation_id": "video_7", "endpoint": "https://sora.test/v1"}
    assert isinstance(change.changes["operation"], dict)
    assert change.changes["error_code"] is None


def test_a_job_without_a_turn_waits_for_it_unheld() -> None:
    change = lifecycle.postponed(12.3456, NOON)

    assert_only_the_holder(change, Stage.QUEUED)
    assert (change.status, change.hold, change.due_in_s) == (
        JobStatus.PENDING,
        Hold.FREE,
        12.3456,
    )
    assert change.changes == {
        "slot_at": NOON.isoformat(),
        "credential_id": "server",
        "capped": False,
    }
    assert change.detail == {"wait_s": 12.346, "reason": "rate_limit"}
    assert lifecycle.postponed(1, None, credential_id="k").changes == {
        "slot_at": None,
        "credential_id": "k",
        "capped": False,
    }


@pytest.mark.parametrize(
    ("cost_micros", "written"),
    [
        (None, {"actual_cost_micros": 1100, "settled_attempt": 2}),
        (0, {"actual_cost_micros": 300, "settled_attempt": 2}),
    ],
    ids=["list price", "free"],
)
def test_a_generated_video_goes_on_to_be_transferred(
    cost_micros: int | None, written: dict[str, JsonValue]
) -> None:
    job = a_job(Stage.GENERATING, attempt=2, estimated_cost_micros=800, actual_cost_micros=300)

    change = lifecycle.generated(job, expires_at=NOON, cost_micros=cost_micros)

    assert_only_the_holder(change, Stage.GENERATING)
    assert (change.stage, change.hold) == (Stage.TRANSFERRING, Hold.KEEP)
    assert (
        change.changes
        == {
            "failures": 0,
            "error_code": None,
            "error_message": None,
            "result_expires_at": NOON.isoformat(),
        }
        | written
    )


@pytest.mark.parametrize(("actual", "expected"), [(None, 800), (0, 0), (900, 900)])
def test_a_completed_job_costs_what_the_provider_said_or_else_the_estimate(
    actual: int | None, expected: int
) -> None:
    job = a_job(Stage.TRANSFERRING, estimated_cost_micros=800, actual_cost_micros=actual)

    change = lifecycle.completed(job, a_video())

    assert_only_the_holder(change, Stage.TRANSFERRING)
    assert (change.status, change.hold) == (JobStatus.COMPLETED, Hold.FREE)
    assert change.changes["actual_cost_micros"] == expected
    assert (change.changes["progress"], change.changes["error_code"]) == (100, None)
    assert change.changes["sha256"] == a_video().sha256
    assert change.detail == {"storage_key": "videos/1/1.mp4", "size_bytes": 1_000_000}


@pytest.mark.parametrize("stage", Stage)
def test_a_released_job_keeps_its_stage_and_its_attempt(stage: Stage) -> None:
    change = lifecycle.released(a_job(stage), "hand_over")

    assert_only_the_holder(change, stage)
    assert change.status is (JobStatus.PENDING if stage is Stage.QUEUED else JobStatus.PROCESSING)
    assert (change.stage, change.hold, change.due_in_s) == (None, Hold.FREE, 0)
    assert (change.changes, change.detail) == ({}, {"reason": "hand_over"})


@pytest.mark.parametrize("discard", [False, True])
def test_the_wish_to_cancel_is_written_and_nothing_else(discard: bool) -> None:
    change = lifecycle.cancel_requested(discard=discard)

    assert (change.holder, change.hold) == (Holder.ANYONE, Hold.KEEP)
    assert change.statuses == {JobStatus.PROCESSING}
    assert (change.status, change.stage) == (None, None)
    assert (change.changes, change.detail) == ({"cancel_discards": discard}, {"discard": discard})


@pytest.mark.parametrize(("held", "holder"), [(True, Holder.LEASE), (False, Holder.NOBODY)])
@pytest.mark.parametrize("stage", Stage)
def test_a_cancelled_job_ends_where_it_is(stage: Stage, held: bool, holder: Holder) -> None:
    change = lifecycle.cancelled(a_job(stage), held=held, stopped_at_provider=False)

    assert change.stages == {stage}
    assert (change.statuses, change.holder) == (ACTIVE, holder)
    assert (change.status, change.stage, change.hold) == (JobStatus.CANCELLED, None, Hold.FREE)


@pytest.mark.parametrize(
    ("stage", "stopped", "actual", "cost"),
    [
        (Stage.QUEUED, False, None, 0),
        (Stage.SUBMITTING, False, None, 800),
        (Stage.GENERATING, False, None, 800),
        (Stage.GENERATING, True, None, None),
        (Stage.GENERATING, None, None, None),
        (Stage.QUEUED, None, 300, 300),  # of an attempt before
        (Stage.GENERATING, False, 300, 1100),
        (Stage.GENERATING, True, 300, 300),
        (Stage.TRANSFERRING, False, 700, 700),
    ],
)
def test_a_cancelled_job_says_what_it_cost(
    stage: Stage, stopped: bool | None, actual: int | None, cost: int | None
) -> None:
    job = a_job(stage, estimated_cost_micros=800, actual_cost_micros=actual)

    change = lifecycle.cancelled(job, held=True, stopped_at_provider=stopped)

    assert change.changes["actual_cost_micros"] == cost
    assert change.detail == {"stopped_at_provider": stopped, "cost_micros": cost}


# --- a submit of which nobody knows whether it arrived ---


def test_an_unsettled_submit_keeps_its_attempt_and_its_stage() -> None:
    job = a_job(Stage.SUBMITTING, failures=1)

    change = lifecycle.unsettled(job, TransientError("the list is away"), wait_s=4)

    assert_only_the_holder(change, Stage.SUBMITTING)
    assert (change.status, change.stage, change.hold) == (None, None, Hold.FREE)
    assert change.due_in_s == 4
    assert change.changes == {
        "failures": 2,
        "error_code": "submit_unknown",
        "error_message": "the list is away",
    }


def test_a_disproved_submit_gives_the_attempt_back() -> None:
    change = lifecycle.disproved(a_job(Stage.SUBMITTING, attempt=2))

    assert_only_the_holder(change, Stage.SUBMITTING)
    assert (change.status, change.stage) == (JobStatus.PENDING, Stage.QUEUED)
    assert change.changes == {"attempt": 1, "failures": 0, "credential_id": None}


@pytest.mark.parametrize(("attempt", "event"), [(2, EventType.REATTEMPTED), (3, EventType.FAILED)])
def test_spending_again_stays_within_the_attempts(attempt: int, event: EventType) -> None:
    job = a_job(Stage.SUBMITTING, attempt=attempt)

    change = lifecycle.resubmitted(job, SubmitUnknownError("?"))

    assert_only_the_holder(change, Stage.SUBMITTING)
    assert change.event is event
    assert "attempt" not in change.changes
    assert change.changes["error_code"] == "submit_unknown"


# --- by hand ---


def ended(status: JobStatus, stage: Stage, code: str | None = None, attempt: int = 1) -> VideoJob:
    return a_job(stage, status=status, error_code=code, attempt=attempt, worker_id=None)


@pytest.mark.parametrize(
    ("job", "resumes"),
    [
        (ended(JobStatus.FAILED, Stage.GENERATING, "generation_timeout"), True),
        (ended(JobStatus.FAILED, Stage.GENERATING, "provider_auth"), True),
        (ended(JobStatus.FAILED, Stage.TRANSFERRING, "storage_denied"), True),
        (ended(JobStatus.FAILED, Stage.TRANSFERRING, "result_invalid"), True),
        (ended(JobStatus.CANCELLED, Stage.TRANSFERRING), True),
        (ended(JobStatus.CANCELLED, Stage.GENERATING), False),
        (ended(JobStatus.CANCELLED, Stage.QUEUED, attempt=0), False),
        (ended(JobStatus.FAILED, Stage.QUEUED, "provider_auth", attempt=0), False),
        (ended(JobStatus.FAILED, Stage.SUBMITTING, "submit_unknown"), False),
        (ended(JobStatus.FAILED, Stage.GENERATING, "generation_failed"), False),
        (ended(JobStatus.FAILED, Stage.GENERATING, "content_blocked"), False),
        (ended(JobStatus.FAILED, Stage.GENERATING, "operation_lost"), True),
        (ended(JobStatus.FAILED, Stage.GENERATING, "input_rejected"), False),
        (ended(JobStatus.FAILED, Stage.TRANSFERRING, "result_expired"), False),
    ],
    ids=lambda value: (
        f"{value.status}-{value.stage}-{value.error_code}"
        if isinstance(value, VideoJob)
        else str(value)
    ),
)
def test_a_retry_pays_again_only_when_the_paid_result_is_gone(job: VideoJob, resumes: bool) -> None:
    change = lifecycle.retried(job, max_attempts=3)

    assert change.statuses == {job.status}
    assert change.stages == {job.stage}
    assert (change.holder, change.hold) == (Holder.NOBODY, Hold.KEEP)
    assert change.detail == {"pays_again": not resumes}
    assert change.changes["error_code"] is None
    if resumes:
        assert (change.status, change.stage) == (JobStatus.PROCESSING, None)
        assert not {"operation", "max_attempts"} & change.changes.keys()
    else:
        assert (change.status, change.stage) == (JobStatus.PENDING, Stage.QUEUED)
        assert (change.changes["operation"], change.changes["progress"]) == (None, 0)
        assert change.changes["max_attempts"] == job.attempt + 3
        assert change.changes["actual_cost_micros"] is None  # of the video that is yet to come


def test_a_person_may_give_up_what_was_paid_and_start_anew() -> None:
    job = ended(JobStatus.FAILED, Stage.GENERATING, "operation_lost")

    change = lifecycle.retried(job, max_attempts=3, anew=True)

    assert (change.status, change.stage) == (JobStatus.PENDING, Stage.QUEUED)
    assert change.changes["operation"] is None
    assert change.detail == {"pays_again": True}


@pytest.mark.parametrize(
    "error",
    [
        OperationLostError("404 Not Found", request_id="req_1", http_status=404),
        errors.AuthError("403 Forbidden", request_id="req_1", http_status=403),
    ],
)
def test_an_operation_that_stays_hidden_is_lost_with_all_that_support_needs(
    error: ProviderError,
) -> None:
    job = a_job(Stage.GENERATING, failures=5)

    change = lifecycle.errored(job, error, backoff=BACKOFF, now=NOON)

    assert change.event is EventType.FAILED
    assert change.changes["error_code"] == "operation_lost"
    for fact in ("video_1", "sora-2", "https://sora.test/v1", "may be billed", error.message):
        assert fact in str(change.changes["error_message"])
    assert change.detail["request_id"] == "req_1"


@pytest.mark.parametrize("status", [JobStatus.PENDING, JobStatus.PROCESSING, JobStatus.COMPLETED])
def test_a_job_that_neither_failed_nor_was_cancelled_cannot_be_retried(status: JobStatus) -> None:
    with pytest.raises(InvalidStateError, match=f"00002a is {status}"):
        lifecycle.retried(a_job(status=status), max_attempts=3)


def test_an_archived_job_cannot_be_retried() -> None:
    with pytest.raises(InvalidStateError, match="archived"):
        lifecycle.retried(a_job(status=JobStatus.FAILED, prompt=""), max_attempts=3)


def test_a_submit_that_may_have_arrived_is_never_made_again_by_itself() -> None:
    for error in (SubmitUnknownError("?"), GenerationTimeoutError("?"), errors.InternalError("?")):
        change = lifecycle.errored(a_job(Stage.SUBMITTING), error, backoff=BACKOFF, now=NOON)

        assert (change.event, change.stage) == (EventType.FAILED, None)


def test_an_adopted_operation_is_called_so() -> None:
    change = lifecycle.submitted(1, an_operation(), adopted=True)

    assert change.detail["adopted"] is True


def assert_only_the_holder(change: Transition, stage: Stage) -> None:
    assert change.statuses == {JobStatus.PROCESSING}
    assert change.stages == {stage}
    assert change.holder is Holder.LEASE


def test_a_lease_is_the_worker_and_the_epoch() -> None:
    lease = a_job(lease_epoch=7).lease

    assert (lease.worker_id, lease.epoch) == (UUID(int=1), 7)


@pytest.mark.parametrize(("paid", "after"), [(0, None), (7, 7), (None, None)])
def test_a_job_that_ended_for_nothing_may_have_cost_something_once_it_was_overtaken(
    paid: int | None, after: int | None
) -> None:
    job = a_job(status=JobStatus.CANCELLED, actual_cost_micros=paid, **targets(5, 9))

    change = lifecycle.overtaken(job, 1, an_operation(), left=0)

    assert change.changes.get("actual_cost_micros", paid) == after
    assert change.detail["estimated_cost_micros"] == 5
