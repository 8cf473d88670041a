"""
What may happen to a job, decided purely; `store.jobs.apply` writes it in one guarded statement.

    pending ──claimed──> processing: queued ─submitting─> submitting ─submitted─> generating
       ^                                │                     │                      │ generated
       │ postponed, errored, released   │                     │                      v
       └────────────────────────────────┴── reattempted ──────┴──────────────── transferring
                                                                                     │ completed
    any ──failed──> failed        any ──cancelled──> cancelled                       v
    failed, cancelled ──retried──> where the paid result still is                completed
    any held ──parked──> the same stage, later: its key or prompt does not open
    queued, submitting, generating ──rerouted──> pending, at the next target: see `onward`

Money adds up over all attempts: `actual_cost_micros` grows once it is known what the current one
cost, and an attempt is given up as unknown when only the provider can tell. The ledger follows from
the columns of money, whoever writes them (`store/migrations/0011_money.sql`).

Two counters, never mixed: `attempt` counts paid submits, `failures` errors in a row of one stage.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import assert_never
from uuid import UUID

from vidgen.errors import (
    AuthError,
    BudgetError,
    ContentBlockedError,
    CostCeilingError,
    GenerationFailedError,
    GenerationTimeoutError,
    InputRejectedError,
    InternalError,
    InvalidStateError,
    ModelRetiredError,
    OperationLostError,
    PluginBrokenError,
    ProviderError,
    ProviderNotConfiguredError,
    QuotaExhaustedError,
    RateLimitedError,
    RequestError,
    ResultExpiredError,
    StorageError,
    SubmitUnknownError,
    TransientError,
    UnknownProviderError,
    VidgenError,
)
from vidgen.job import (
    SERVER_CREDENTIAL,
    EventType,
    JobStatus,
    JsonValue,
    Operation,
    RerouteReason,
    Stage,
    VideoJob,
)

ACTIVE = frozenset({JobStatus.PENDING, JobStatus.PROCESSING})
ENDED = frozenset(JobStatus) - ACTIVE
EVERY_STAGE = frozenset(Stage)
_OPERATION = tuple(each.name for each in fields(Operation))

HTTP_FORBIDDEN = 403
MAX_BACKOFF_S = 60.0
# A token being renewed or a list not yet consistent looks like this for a moment; a minute and
# more does not.
MAX_UNSEEN_LOOKS = 6
# After the first refusal a fresh look may bring a fresh address; after a second one it is gone.
MAX_EXPIRED_LOOKS = 1

# So many refusals in a row, with their back-off some seconds, are more than a hiccup; and whoever
# asks to come back only after so long may be left at once.
REFUSALS_TO_MOVE = 3
PATIENCE_S = 60.0

# For the time of one job.
_SHUT = frozenset({RerouteReason.RETIRED, RerouteReason.UNCONFIGURED, RerouteReason.BUDGET})

# Errors that say: with this credential, from here, now, the operation cannot be seen.
_UNSEEN = (
    AuthError,
    OperationLostError,
    PluginBrokenError,
    ProviderNotConfiguredError,
    UnknownProviderError,  # a worker that lacks the package of the provider
)
# Answers to the paid call that prove it was not accepted: now, or for good. After any other error
# nobody knows what was started.
_REFUSED_FOR_NOW = (TransientError, RateLimitedError)
_REFUSED = (
    *_REFUSED_FOR_NOW,
    AuthError,
    ContentBlockedError,
    InputRejectedError,
    ModelRetiredError,
    QuotaExhaustedError,
    RequestError,
)


class Holder(StrEnum):
    """Who may write a transition."""

    LEASE = "lease"  # only the worker that holds the job, at its epoch
    NOBODY = "nobody"  # only while no worker holds it
    ANYONE = "anyone"  # receipts of paid submits, and wishes


class Hold(StrEnum):
    """What a transition does to the lease."""

    KEEP = "keep"
    TAKE = "take"
    FREE = "free"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """
    One allowed change of a job.

    Attributes:
        statuses, stages, holder, attempt, settled_attempt, only_due, unless_cancelled, needs_key:
            The guard; if the row differs, or that stored key was removed, nothing is written.
            0 is no settled attempt.
        user_limit: Nor if so many other videos of the user are under way; None is no limit.
        status, stage: Where the job is afterwards; None leaves the stage as it is.
        due_in_s: When nobody holds the job afterwards: seconds from now (of the database)
            until it is due.
        reserves: Money for another attempt is reserved by it if that has none, within the budgets
            or not at all.
        changes: Other columns and their new values, as JSON.
        detail: What the event tells beside status, stage, attempt and progress.
    """

    event: EventType
    statuses: frozenset[JobStatus]
    stages: frozenset[Stage]
    holder: Holder
    hold: Hold
    status: JobStatus | None = None
    stage: Stage | None = None
    attempt: int | None = None
    settled_attempt: int | None = None
    only_due: bool = False
    unless_cancelled: bool = False
    needs_key: UUID | None = None
    user_limit: int | None = None
    due_in_s: float = 0.0
    reserves: bool = False
    changes: Mapping[str, JsonValue] = field(default_factory=dict)
    detail: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """
    How long to wait before the next try.

    Attributes:
        base_s: The first wait; it doubles from there, up to a minute.
        jitter: 0 to 1, drawn by the caller; adds up to a quarter.
    """

    base_s: float
    jitter: float = 0.0

    def wait_s(self, failures: int, wish_s: float | None = None) -> float:
        """Seconds before try number *failures* + 1, never less than the other side's wish."""
        doublings = min(max(failures - 1, 0), 64)  # after days of failures a float would overflow
        own = min(self.base_s * 2.0**doublings, MAX_BACKOFF_S) * (1 + self.jitter / 4)
        return max(own, wish_s or 0.0)


def claimed() -> Transition:
    """A worker takes a job that is due."""
    return Transition(
        event=EventType.CLAIMED,
        statuses=ACTIVE,
        stages=EVERY_STAGE,
        holder=Holder.NOBODY,
        hold=Hold.TAKE,
        status=JobStatus.PROCESSING,
        only_due=True,
    )


USER_LIMIT = "user_limit"  # why a job is postponed that waits for another one of its user


def postponed(
    wait_s: float,
    slot_at: datetime | None,
    *,
    reason: str = "rate_limit",
    credential_id: str = SERVER_CREDENTIAL,
) -> Transition:
    """
    There is no room now, for the *reason*; *slot_at* is the reserved turn under the rate limit, if
    one could be had, and *credential_id* whose it is.
    """
    return Transition(
        event=EventType.POSTPONED,
        statuses=frozenset({JobStatus.PROCESSING}),
        stages=frozenset({Stage.QUEUED}),
        holder=Holder.LEASE,
        hold=Hold.FREE,
        status=JobStatus.PENDING,
        due_in_s=wait_s,
        changes={
            "slot_at": slot_at.isoformat() if slot_at else None,
            "credential_id": credential_id,
            "capped": reason == USER_LIMIT,
        },
        detail={"wait_s": round(wait_s, 3), "reason": reason},
    )


def parked(job: VideoJob, error: VidgenError, *, wait_s: float) -> Transition:
    """
    The credential of the job does not open: it stays where it is, and is looked at again later.

    Nothing is counted, and the deadline moves along: whoever mends the key ring finds it whole.
    """
    return Transition(
        event=EventType.PARKED,
        statuses=frozenset({JobStatus.PROCESSING}),
        stages=frozenset({job.stage}),
        holder=Holder.LEASE,
        hold=Hold.FREE,
        status=_unheld(job.stage),
        due_in_s=wait_s,
        changes={"error_code": error.code, "error_message": error.message},
        detail=_told(error) | {"wait_s": round(wait_s, 3)},
    )


def submitting(
    job: VideoJob, credential_id: str = SERVER_CREDENTIAL, *, user_limit: int | None = None
) -> Transition:
    """
    The intent, committed before the paid call; with *credential_id*, so that whoever has to find
    out what became of the call asks with the same one. A stored key must not have been removed, and
    fewer than *user_limit* other videos of the user may be under way.
    """
    return Transition(
        event=EventType.SUBMITTING,
        statuses=frozenset({JobStatus.PROCESSING}),
        stages=frozenset({Stage.QUEUED}),
        holder=Holder.LEASE,
        hold=Hold.KEEP,
        stage=Stage.SUBMITTING,
        unless_cancelled=True,
        needs_key=None if credential_id == SERVER_CREDENTIAL else UUID(credential_id),
        reserves=True,  # a user whose key was to pay for it may have none any more
        user_limit=user_limit,
        changes={
            "attempt": job.attempt + 1,
            "slot_at": None,
            "credential_id": credential_id,
            "capped": False,
        },
        detail={"credential_id": credential_id},
    )


def submitted(attempt: int, operation: Operation, *, adopted: bool = False) -> Transition:
    """
    The receipt of a paid submit: stored whoever brings it, however late, as long as the attempt
    is the same.
    """
    return Transition(
        event=EventType.SUBMITTED,
        statuses=frozenset({JobStatus.PROCESSING, JobStatus.FAILED}),
        stages=frozenset({Stage.SUBMITTING}),
        holder=Holder.ANYONE,
        hold=Hold.KEEP,
        attempt=attempt,
        status=JobStatus.PROCESSING,
        stage=Stage.GENERATING,
        changes={
            "operation": {name: getattr(operation, name) for name in _OPERATION},
            "credential_id": operation.credential_id,
            "failures": 0,
            "progress": 0,
            "error_code": None,
            "error_message": None,
        },
        detail={
            "operation_id": operation.id,
            "endpoint": operation.endpoint,
            **({"adopted": True} if adopted else {}),
        },
    )


def unsettled(
    job: VideoJob, error: VidgenError, *, wait_s: float, call_ended: bool = False
) -> Transition:
    """
    Nobody knows yet whether the paid call arrived; the provider's list is read again later.

    Args:
        call_ended: It ended just now, so that time counts from here.
    """
    return Transition(
        event=EventType.ERRORED,
        statuses=frozenset({JobStatus.PROCESSING}),
        stages=frozenset({Stage.SUBMITTING}),
        holder=Holder.LEASE,
        hold=Hold.FREE,
        due_in_s=wait_s,
        changes={
            "failures": job.failures + 1,
            "error_code": SubmitUnknownError.code,
            "error_message": error.message,
        },
        detail=_told(error)
        | {"wait_s": round(wait_s, 3)}
        | ({"call_ended": True} if call_ended else {}),
    )


def disproved(
    job: VideoJob, *, prospects: Sequence["Prospect"] = (), now: datetime | None = None
) -> Transition:
    """
    The paid call provably never arrived: the same attempt may be made again, or one at the next
    target.

    Args:
        now: With *prospects*, to see whether there is time.
    """
    gone = TransientError("the paid request provably never arrived")
    if now is not None and (
        elsewhere := onward(job, gone, RerouteReason.ABSENT, prospects, now=now)
    ):
        # The number is not given to another call: should the receipt come after all, it is told
        # by it whose it is. That the attempt was none is made up for.
        return replace(
            elsewhere,
            changes={**elsewhere.changes, "max_attempts": job.max_attempts + 1},
            detail={**elsewhere.detail, "absent": True},
        )
    return Transition(
        event=EventType.ERRORED,
        statuses=frozenset({JobStatus.PROCESSING}),
        stages=frozenset({Stage.SUBMITTING}),
        holder=Holder.LEASE,
        hold=Hold.FREE,
        status=JobStatus.PENDING,
        stage=Stage.QUEUED,
        changes={"attempt": job.attempt - 1, "failures": 0, "credential_id": None},
        detail={"code": SubmitUnknownError.code, "absent": True},
    )


def returned(job: VideoJob, attempt: int, operation: Operation, *, to: int) -> Transition:
    """
    The receipt of an attempt that seemed never to have arrived, while nothing was sent to a target
    behind it yet: the job goes back to target *to*, where its video is being made.
    """
    receipt = submitted(attempt, operation)
    return replace(
        receipt,
        statuses=receipt.statuses | {JobStatus.PENDING},
        stages=frozenset({Stage.QUEUED}),
        changes={
            **receipt.changes,
            "target": to,
            "slot_at": None,
            "capped": False,
            "max_attempts": job.max_attempts - 1,  # as it was before `disproved`
        },
        detail={**receipt.detail, "returned": True, "target": _place(job, to)},
    )


def overtaken(job: VideoJob, attempt: int, operation: Operation, *, left: int) -> Transition:
    """
    The receipt of an attempt that seemed never to have arrived, too late: the next target was sent
    the request already. What target *left* makes may be billed, and only it can tell.

    The ledger enters what the event tells of it.
    """
    changes: dict[str, JsonValue] = {"unknown_attempts": job.unknown_attempts + 1}
    if job.status in {JobStatus.FAILED, JobStatus.CANCELLED} and job.actual_cost_micros == 0:
        changes["actual_cost_micros"] = None  # it ended as one that had cost nothing, for certain
    return Transition(
        event=EventType.OVERTAKEN,
        statuses=frozenset(JobStatus),
        stages=EVERY_STAGE,
        holder=Holder.ANYONE,
        hold=Hold.KEEP,
        attempt=job.attempt,
        changes=changes,
        detail={
            "operation_id": operation.id,
            "endpoint": operation.endpoint,
            "provider": operation.provider,
            "model": operation.model,
            "credential_id": operation.credential_id,
            "attempt": attempt,
            "estimated_cost_micros": job.targets[left].estimated_cost_micros,
            "may_be_paid_twice": True,
        },
    )


def resubmitted(job: VideoJob, error: SubmitUnknownError) -> Transition:
    """Nobody can know whether the paid call arrived, and a setting says to spend again."""
    if job.attempt >= job.max_attempts:
        return failed(job, error)
    return Transition(
        event=EventType.REATTEMPTED,
        statuses=frozenset({JobStatus.PROCESSING}),
        stages=frozenset({Stage.SUBMITTING}),
        holder=Holder.LEASE,
        hold=Hold.FREE,
        status=JobStatus.PENDING,
        stage=Stage.QUEUED,
        reserves=True,
        changes={
            "failures": 0,
            "error_code": error.code,
            "error_message": error.message,
            "credential_id": None,
            "unknown_attempts": job.unknown_attempts + 1,
        },
        detail=_told(error) | {"may_be_paid_twice": True},
    )


def generated(job: VideoJob, *, expires_at: datetime | None, cost_micros: int | None) -> Transition:
    """The provider has the video; *cost_micros* is what it says that cost, None if nothing."""
    changes: dict[str, JsonValue] = {
        "failures": 0,
        "error_code": None,
        "error_message": None,
        "result_expires_at": expires_at.isoformat() if expires_at else None,
    }
    price = job.estimated_cost_micros if cost_micros is None else cost_micros
    return Transition(
        event=EventType.GENERATED,
        statuses=frozenset({JobStatus.PROCESSING}),
        stages=frozenset({Stage.GENERATING}),
        holder=Holder.LEASE,
        hold=Hold.KEEP,
        stage=Stage.TRANSFERRING,
        changes=changes | _settled(job, price),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVideo:
    """What the bucket holds now: the columns of the result."""

    storage_key: str
    size_bytes: int
    sha256: str
    content_type: str
    duration_s: float | None
    width: int | None
    height: int | None
    thumbnail_key: str | None
    spritesheet_key: str | None


_RESULT = tuple(each.name for each in fields(StoredVideo))


def completed(job: VideoJob, video: StoredVideo) -> Transition:
    """The video is in the bucket, whole."""
    cost_micros = job.actual_cost_micros
    return Transition(
        event=EventType.COMPLETED,
        statuses=frozenset({JobStatus.PROCESSING}),
        stages=frozenset({Stage.TRANSFERRING}),
        holder=Holder.LEASE,
        hold=Hold.FREE,
        status=JobStatus.COMPLETED,
        changes={
            **{name: getattr(video, name) for name in _RESULT},
            "progress": 100,
            "failures": 0,
            "error_code": None,
            "error_message": None,
            "actual_cost_micros": job.estimated_cost_micros if cost_micros is None else cost_micros,
        },
        detail={"storage_key": video.storage_key, "size_bytes": video.size_bytes},
    )


def released(job: VideoJob, reason: str) -> Transition:
    """
    The holder gives the job back, or a dead one loses it: a peer goes on at the same stage, at
    once.
    """
    return Transition(
        event=EventType.RELEASED,
        statuses=frozenset({JobStatus.PROCESSING}),
        stages=frozenset({job.stage}),
        holder=Holder.LEASE,
        hold=Hold.FREE,
        status=_unheld(job.stage),
        detail={"reason": reason},
    )


def check_known(job: VideoJob) -> None:
    """
    Leave a job alone that is in a state of a newer release.

    Raises:
        InvalidStateError: It is.
    """
    if not job.is_known:
        raise InvalidStateError(
            f"job {job.id} is {job.status}, {job.stage}: a newer release has it; ask that one"
        )


def cancel_requested(*, discard: bool) -> Transition:
    """
    Somebody wants a job cancelled that money may have been spent on: a worker decides what is
    still possible. *discard* wants a finished video thrown away, too.
    """
    return Transition(
        event=EventType.CANCEL_REQUESTED,
        statuses=frozenset({JobStatus.PROCESSING}),
        stages=EVERY_STAGE,
        holder=Holder.ANYONE,
        hold=Hold.KEEP,
        changes={"cancel_discards": discard},
        detail={"discard": discard},
    )


def cancelled(
    job: VideoJob,
    *,
    held: bool,
    stopped_at_provider: bool | None,
    still_asking: bool = False,
    discard: bool = False,
) -> Transition:
    """
    The job ends by the wish of a person, and says what all its attempts cost: nothing before the
    first submit, everything if the provider could not be stopped, None if only the provider knows.

    Args:
        stopped_at_provider: None if nobody can tell.
        still_asking: The provider has not answered yet; `answered` will tell.
        discard: What may be stored already is to be thrown away.
    """
    goes_on = stopped_at_provider is False or job.stage is Stage.TRANSFERRING
    bill = _final_bill(job, job.estimated_cost_micros if goes_on else None)
    cost_micros = bill["actual_cost_micros"]
    thrown_away: dict[str, JsonValue] = {}
    if discard and job.stage is Stage.TRANSFERRING:
        thrown_away = {"discards": job.discards + 1, "discarding": True}
    return Transition(
        event=EventType.CANCELLED,
        statuses=ACTIVE,
        stages=frozenset({job.stage}),
        holder=Holder.LEASE if held else Holder.NOBODY,
        hold=Hold.FREE,
        status=JobStatus.CANCELLED,
        changes=bill | thrown_away,
        detail={
            "stopped_at_provider": stopped_at_provider,
            "cost_micros": cost_micros,
            **({"still_asking": True} if still_asking else {}),
        },
    )


def answered(job: VideoJob, *, stopped_at_provider: bool | None) -> Transition:
    """The provider answered a cancel, or will not, after the job had ended: what it cost."""
    goes_on = stopped_at_provider is False
    bill = _final_bill(job, job.estimated_cost_micros if goes_on else None)
    return Transition(
        event=EventType.ANSWERED,
        statuses=frozenset({JobStatus.CANCELLED}),
        stages=frozenset({job.stage}),
        holder=Holder.ANYONE,
        hold=Hold.KEEP,
        attempt=job.attempt,
        changes=bill,
        detail={
            "stopped_at_provider": stopped_at_provider,
            "cost_micros": bill["actual_cost_micros"],
        },
    )


def retried(job: VideoJob, *, max_attempts: int, anew: bool = False) -> Transition:
    """
    A person wants a job that failed or was cancelled to go on: where its paid result still is,
        or anew.

    Raises:
        InvalidStateError: The job did not fail and was not cancelled, or we do not know its state.
    """
    if job.status not in {JobStatus.FAILED, JobStatus.CANCELLED}:
        raise InvalidStateError(
            f"only failed or cancelled jobs can be retried; job {job.id} is {job.status}"
        )
    check_known(job)
    if job.archived_at is not None or not (job.prompt or job.sealed):
        raise InvalidStateError(f"job {job.id} was archived: its prompt is no longer kept")
    changes: dict[str, JsonValue] = {
        "failures": 0,
        "error_code": None,
        "error_message": None,
        "cancel_discards": False,
    }
    goes_on = resumes(job) and not anew
    if not goes_on:
        changes |= {
            "operation": None,
            "credential_id": None,
            # From the first one on: whatever kept it from there may be over.
            **({"target": 0} if job.targets else {}),
            "progress": 0,
            "max_attempts": job.attempt + max_attempts,
            # "Nothing" was the price of a cancel, and is not the one of the video to come.
            "actual_cost_micros": job.actual_cost_micros or None,
            "lost_cost_micros": job.actual_cost_micros or 0,
            "unknown_attempts": job.unknown_attempts + outstanding(job),
        }
    return Transition(
        event=EventType.RETRIED,
        statuses=frozenset({job.status}),
        stages=frozenset({job.stage}),
        holder=Holder.NOBODY,
        hold=Hold.KEEP,
        status=JobStatus.PROCESSING if goes_on else JobStatus.PENDING,
        stage=None if goes_on else Stage.QUEUED,
        reserves=not goes_on,
        # Else the answer of a provider that comes right now would be lost, and with it the bill.
        settled_attempt=job.settled_attempt or 0,
        changes=changes,
        detail={"pays_again": not goes_on},
    )


def resumes(job: VideoJob) -> bool:
    """Whether a retry goes on with what was paid, because it may still be there."""
    over = {
        "generation_failed",
        "content_blocked",
        "result_expired",
        "input_rejected",
    }
    if job.status is JobStatus.CANCELLED:
        # A generation may have been stopped at the provider; a finished video is still there.
        return job.stage is Stage.TRANSFERRING
    return job.stage in {Stage.GENERATING, Stage.TRANSFERRING} and job.error_code not in over


def errored(
    job: VideoJob,
    error: VidgenError,
    *,
    backoff: Backoff,
    now: datetime,
    prospects: Sequence["Prospect"] = (),
) -> Transition:
    """
    What an error in the job's current stage means: the same step again later, the next target, or
    the end.

    An error never buys a second video: in `submitting` only a provable refusal goes on, with the
    same attempt; later stages keep their operation.
    """
    reason = _reason_to_move(job, error)
    if reason is not None and (
        elsewhere := onward(job, error, reason, prospects, now=now, patient=_goes_on(job, error))
    ):
        return elsewhere
    if not _goes_on(job, error):
        return _telling_skipped(job, failed(job, _lost(job, error) or error), prospects)
    wait_s = backoff.wait_s(job.failures + 1, error.retry_after_s)
    if job.deadline_at is not None:
        left_s = (job.deadline_at - now).total_seconds()
        # At the very end one last look at what is paid for; but no money for what nobody can await.
        if left_s <= 0 or (wait_s >= left_s and job.operation is None):
            return failed(job, error, deadline_s=job.deadline_s)
        wait_s = min(wait_s, left_s)
    changes: dict[str, JsonValue] = {
        "failures": job.failures + 1,
        "error_code": error.code,
        "error_message": error.message,
    }
    unpaid = _unpaid(job, error)
    return Transition(
        event=EventType.ERRORED,
        statuses=frozenset({JobStatus.PROCESSING}),
        stages=frozenset({job.stage}),
        holder=Holder.LEASE,
        hold=Hold.FREE,
        status=_unheld(Stage.QUEUED if unpaid else job.stage),
        stage=Stage.QUEUED if unpaid else None,
        due_in_s=wait_s,
        changes=changes | unpaid,
        detail=_told(error) | {"wait_s": round(wait_s, 3)},
    )


def _unpaid(job: VideoJob, error: VidgenError, *, keeps: bool = False) -> dict[str, JsonValue]:
    """
    Give the attempt back when *error* proves that nothing was started, so nothing was paid.

    Args:
        keeps: Its number is used up all the same.
    """
    refused = job.stage is Stage.SUBMITTING and isinstance(error, _REFUSED) and not keeps
    return {"attempt": job.attempt - 1, "credential_id": None} if refused else {}


def _lost(job: VideoJob, error: VidgenError) -> OperationLostError | None:
    """What a refusal to show the operation means once it has lasted: all that support needs."""
    hidden = isinstance(error, AuthError) and error.http_status == HTTP_FORBIDDEN
    if job.stage is not Stage.GENERATING or not (hidden or isinstance(error, OperationLostError)):
        return None
    assert isinstance(error, ProviderError)  # both kinds are
    assert job.operation is not None  # CHECK promises it
    return OperationLostError(
        f"{job.provider} accepted operation {job.operation.id} for {job.model} at"
        f" {job.operation.endpoint} and no longer shows it; it may be"
        f" billed. Last: {error.message}",
        provider_code=error.provider_code,
        request_id=error.request_id,
        http_status=error.http_status,
    )


def _goes_on(job: VideoJob, error: VidgenError) -> bool:
    match job.stage:
        case Stage.QUEUED:
            return error.retryable
        case Stage.SUBMITTING:
            return isinstance(error, _REFUSED_FOR_NOW)
        case Stage.GENERATING:
            if isinstance(error, _UNSEEN):
                return job.failures + 1 < MAX_UNSEEN_LOOKS
            return error.retryable or isinstance(error, GenerationTimeoutError | InternalError)
        case Stage.TRANSFERRING:
            if isinstance(error, ResultExpiredError):
                return job.failures < MAX_EXPIRED_LOOKS
            if isinstance(error, _UNSEEN):
                return job.failures + 1 < MAX_UNSEEN_LOOKS
            # A finished video is never thrown away because of our own bucket or a defect of ours.
            return error.retryable or isinstance(error, StorageError | InternalError)
        case _:
            assert_never(job.stage)


def judged(
    job: VideoJob,
    error: ProviderError,
    *,
    charged: bool,
    cost_micros: int | None = None,
    backoff: Backoff,
    now: datetime,
    prospects: Sequence["Prospect"] = (),
) -> Transition:
    """
    The provider's verdict that the attempt will never deliver: the next target, a new attempt, or
    the end.

    A new attempt only for a failed generation that was not charged, while attempts and time remain;
    at another target also after what the job lets it move on for.

    Args:
        cost_micros: What the provider says it charged for it; None if it does not say.
    """
    reason = _verdict_to_move(error, charged=charged)
    allowed = reason is not None and (not charged or RerouteReason.CHARGED in job.reroute_on)
    if reason is not None and allowed and job.attempt < job.max_attempts:
        price = _price_of_failure(job, charged=charged, cost_micros=cost_micros)
        bill = _settled(job, price) if charged else {}
        if bill:
            bill |= {"lost_cost_micros": bill["actual_cost_micros"]}
        if elsewhere := onward(job, error, reason, prospects, now=now, bill=bill):
            return elsewhere
    again = (
        isinstance(error, GenerationFailedError) and not charged and job.attempt < job.max_attempts
    )
    wait_s = backoff.wait_s(job.attempt, error.retry_after_s)
    ends_at = now + timedelta(seconds=wait_s)
    if not again or (job.deadline_at is not None and ends_at >= job.deadline_at):
        end = failed(job, error, charged=charged, cost_micros=cost_micros)
        return _telling_skipped(job, end, prospects)
    return Transition(
        event=EventType.REATTEMPTED,
        statuses=frozenset({JobStatus.PROCESSING}),
        stages=frozenset({job.stage}),
        holder=Holder.LEASE,
        hold=Hold.FREE,
        status=JobStatus.PENDING,
        stage=Stage.QUEUED,
        due_in_s=wait_s,
        changes={
            "operation": None,
            "credential_id": None,
            "progress": 0,
            "failures": 0,
            "error_code": error.code,
            "error_message": error.message,
        },
        detail=_told(error) | {"wait_s": round(wait_s, 3)},
    )


def failed(
    job: VideoJob,
    error: VidgenError,
    *,
    charged: bool | None = None,
    cost_micros: int | None = None,
    deadline_s: int | None = None,
) -> Transition:
    """
    The job ends with a reason, and says what all its attempts cost.

    Args:
        charged: Whether the provider bills a generation that it calls failed; None without its
            verdict.
        cost_micros: How much of a charge it says that is; None takes the estimate.
        deadline_s: Time ran out while the error was being retried.
    """
    told = _told(error)
    if deadline_s is not None:
        told["message"] = f"not done within its {deadline_s} s; last: {error.message}"
        # In other stages the last error tells more than the time: its code stays.
        if job.stage is Stage.GENERATING:
            told["code"] = GenerationTimeoutError.code
    unpaid = _unpaid(job, error)
    given_back = replace(job, stage=Stage.QUEUED) if unpaid else job
    price = _price_of_failure(job, charged=charged, cost_micros=cost_micros)
    bill = _final_bill(given_back, price)
    return Transition(
        event=EventType.FAILED,
        statuses=frozenset({JobStatus.PROCESSING}),
        stages=frozenset({job.stage}),
        holder=Holder.LEASE,
        hold=Hold.FREE,
        status=JobStatus.FAILED,
        stage=Stage.QUEUED if unpaid else None,
        changes={
            "error_code": told["code"],
            "error_message": told["message"],
            **unpaid,
            **bill,
        },
        detail=told | {"cost_micros": bill["actual_cost_micros"]},
    )


def expired(job: VideoJob) -> Transition:
    """
    Time ran out before another attempt: the job ends with the last error, if there was one.

    A worker that dies with a job each time leaves none.
    """
    message = f"no attempt came to an end within its {job.deadline_s} s"
    if job.error_message is not None:
        message = f"not done within its {job.deadline_s} s; last: {job.error_message}"
    told: dict[str, JsonValue] = {
        "code": job.error_code or GenerationTimeoutError.code,
        "message": message,
    }
    bill = _final_bill(job, None)
    return Transition(
        event=EventType.FAILED,
        statuses=frozenset({JobStatus.PROCESSING}),
        stages=frozenset({Stage.QUEUED}),
        holder=Holder.LEASE,
        hold=Hold.FREE,
        status=JobStatus.FAILED,
        changes={
            "error_code": told["code"],
            "error_message": told["message"],
            **bill,
        },
        detail=told | {"cost_micros": bill["actual_cost_micros"]},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """
    A target behind the one in force, as it stands now.

    Attributes:
        obstacle: Why nothing can be submitted there: a word for what stays (`retired`,
            `unconfigured`, `budget`) or for what passes (`down`, `paused`); None if nothing is in
            the way.
    """

    target: int
    obstacle: str | None = None

    @property
    def is_shut(self) -> bool:
        """Waiting there would be in vain."""
        return self.obstacle in _SHUT


def onward(
    job: VideoJob,
    error: VidgenError,
    reason: RerouteReason,
    prospects: Sequence[Prospect],
    *,
    now: datetime,
    patient: bool = False,
    bill: Mapping[str, JsonValue] | None = None,
) -> Transition | None:
    """
    Leave the target in force for the next one that can be used and paid; None if the job may not
    for *reason*, or there is none.

    Only forward, so that it ends; before money is spent, or after a verdict that the attempt is
    over and what it cost. What may have been accepted has no reason, and stays where it is.

    Args:
        error: Why, in words.
        patient: The one in force may still do: nothing that is closed now is worth the move.
        bill: What the attempt that is left cost, as changes of the job.
    """
    late = job.deadline_at is not None and job.deadline_at <= now
    if late or (reason is not RerouteReason.CEILING and reason not in job.reroute_on):
        return None
    bill = bill or {}
    skipped = _obstacles(job, prospects, spent_micros(job, bill))
    shut = {each.target for each in prospects if each.is_shut}
    shut |= {target for target, why in skipped.items() if why == RerouteReason.CEILING}
    clear = [each.target for each in prospects if each.target not in skipped]
    # In front of a closed door one may wait, if there is nowhere to stay.
    waiting = [] if patient else [each.target for each in prospects if each.target not in shut]
    to = next(iter(clear or waiting), None)
    if to is None:
        return None
    return Transition(
        event=EventType.REROUTED,
        statuses=frozenset({JobStatus.PROCESSING}),
        stages=frozenset({job.stage}),
        holder=Holder.LEASE,
        hold=Hold.FREE,
        status=JobStatus.PENDING,
        stage=Stage.QUEUED,
        reserves=True,
        changes={
            "target": to,
            "operation": None,
            "credential_id": None,
            "slot_at": None,
            "capped": False,
            "progress": 0,
            "failures": 0,
            "error_code": error.code,
            "error_message": error.message,
            **bill,
            **_unpaid(job, error, keeps=reason is RerouteReason.ABSENT),
        },
        detail=_told(error)
        | {
            "reason": reason,
            "from": _place(job, job.target),
            "to": _place(job, to),
            "cost_micros": bill.get("actual_cost_micros", job.actual_cost_micros),
            "skipped": _told_skipped(job, {t: why for t, why in skipped.items() if t < to}),
        },
    )


def _obstacles(job: VideoJob, prospects: Sequence[Prospect], spent: int) -> dict[int, str]:
    """Why targets cannot be used now, by their number."""
    found: dict[int, str] = {}
    for each in prospects:
        if not is_affordable(job, job.targets[each.target].estimated_cost_micros, spent):
            found[each.target] = RerouteReason.CEILING
        elif each.obstacle is not None:
            found[each.target] = each.obstacle
    return found


def _told_skipped(job: VideoJob, skipped: Mapping[int, str]) -> JsonValue:
    return [{**_place(job, target), "reason": why} for target, why in skipped.items()]


def _telling_skipped(
    job: VideoJob, change: Transition, prospects: Sequence[Prospect]
) -> Transition:
    """*change*, the end of the job, with the reasons why no target behind was any use."""
    spent = change.changes.get("actual_cost_micros")
    skipped = _obstacles(job, prospects, spent_micros(job, {"actual_cost_micros": spent}))
    if not skipped:
        return change
    return replace(change, detail={**change.detail, "skipped": _told_skipped(job, skipped)})


def spent_micros(job: VideoJob, bill: Mapping[str, JsonValue] | None = None) -> int:
    """
    What all attempts so far cost at most: one that only the provider knows counts as the dearest.
    """
    prices = [each.estimated_cost_micros for each in job.targets] or [job.estimated_cost_micros]
    known = (bill or {}).get("actual_cost_micros", job.actual_cost_micros)
    assert known is None or isinstance(known, int)
    return (known or 0) + job.unknown_attempts * max(price or 0 for price in prices)


def is_affordable(job: VideoJob, price_micros: int | None, spent: int) -> bool:
    """Whether one more attempt at this price, None for no price, stays under the ceiling."""
    if job.max_cost_micros is None:
        return True
    return price_micros is not None and spent + price_micros <= job.max_cost_micros


def check_affordable(job: VideoJob) -> None:
    """
    Look at the ceiling before the next attempt.

    Raises:
        CostCeilingError: All attempts together could cost more than the job may.
    """
    spent = spent_micros(job)
    if not is_affordable(job, job.estimated_cost_micros, spent):
        price = job.estimated_cost_micros
        wanted = "has no price in the catalog" if price is None else f"costs {_dollars(price)}"
        raise CostCeilingError(
            f"{job.provider}/{job.model} {wanted}, {_dollars(spent)} may be spent already, and the"
            f" job may cost {_dollars(job.max_cost_micros or 0)} at most"
        )


def _dollars(micros: int) -> str:
    return f"${micros / 1_000_000:.2f}"


def _place(job: VideoJob, target: int) -> dict[str, JsonValue]:
    there = job.targets[target]
    return {"target": target, "provider": there.provider, "model": there.model}


def _reason_to_move(job: VideoJob, error: VidgenError) -> RerouteReason | None:
    """
    What *error* is as a reason to leave the target; None for what says nothing about it, or not
    that the attempt is over.
    """
    if job.stage not in {Stage.QUEUED, Stage.SUBMITTING}:
        return None
    was_asked = job.stage is Stage.SUBMITTING
    match error:
        case CostCeilingError():
            return RerouteReason.CEILING
        case BudgetError() if not was_asked:
            return RerouteReason.BUDGET
        case ProviderNotConfiguredError() | PluginBrokenError() | UnknownProviderError():
            return RerouteReason.UNCONFIGURED
        case ModelRetiredError():
            return RerouteReason.RETIRED
        case InputRejectedError() | RequestError():
            return RerouteReason.REJECTED
        case QuotaExhaustedError():
            return RerouteReason.QUOTA
        case AuthError() if job.credential_id in {None, SERVER_CREDENTIAL}:
            return RerouteReason.AUTH
        case ContentBlockedError():
            return RerouteReason.POLICY
        case TransientError() | RateLimitedError() if was_asked:
            too_often = job.failures + 1 >= REFUSALS_TO_MOVE
            too_long = (error.retry_after_s or 0) > PATIENCE_S
            return RerouteReason.REFUSED if too_often or too_long else None
        case _:
            return None


def _verdict_to_move(error: ProviderError, *, charged: bool) -> RerouteReason | None:
    match error:
        case GenerationFailedError():
            return RerouteReason.CHARGED if charged else RerouteReason.FAILED
        case ContentBlockedError():
            return RerouteReason.POLICY
        case InputRejectedError():
            return RerouteReason.REJECTED
        case _:
            return None


def outstanding(job: VideoJob) -> bool:
    """Whether it is not known yet what the current attempt costs, or only to the provider."""
    match job.stage:
        case Stage.QUEUED:
            return False
        case Stage.SUBMITTING | Stage.GENERATING:
            return job.settled_attempt != job.attempt
        case Stage.TRANSFERRING:
            return job.actual_cost_micros is None
        case _:
            assert_never(job.stage)


def unknown_attempts(job: VideoJob) -> int:
    """Of how many attempts of a job that ended only the provider knows what they cost."""
    is_open = job.status in {JobStatus.FAILED, JobStatus.CANCELLED} and outstanding(job)
    return job.unknown_attempts + is_open


def _price_of_failure(
    job: VideoJob, *, charged: bool | None, cost_micros: int | None = None
) -> int | None:
    """What the current attempt cost that just failed; None if only the provider knows."""
    if charged and cost_micros is not None:
        return cost_micros
    if charged or job.stage is Stage.TRANSFERRING:
        return job.estimated_cost_micros
    return None if charged is None else 0


def _settled(job: VideoJob, price_micros: int | None) -> dict[str, JsonValue]:
    """The bill once the price of the current attempt is known; it is added only once."""
    if price_micros is None or not outstanding(job):
        return {}
    return {
        "actual_cost_micros": (job.actual_cost_micros or 0) + price_micros,
        "settled_attempt": job.attempt,
    }


def _final_bill(job: VideoJob, price_micros: int | None) -> dict[str, JsonValue]:
    """The bill of a job that ends; a price of None leaves the attempt to the provider's books."""
    settled = _settled(job, price_micros)
    cost_micros = settled.get("actual_cost_micros", job.actual_cost_micros)
    all_known = not job.unknown_attempts and (bool(settled) or not outstanding(job))
    return settled | {"actual_cost_micros": cost_micros or (0 if all_known else None)}


def _unheld(stage: Stage) -> JobStatus:
    return JobStatus.PENDING if stage is Stage.QUEUED else JobStatus.PROCESSING


def _told(error: VidgenError) -> dict[str, JsonValue]:
    told: dict[str, JsonValue] = {"code": error.code, "message": error.message}
    if isinstance(error, ProviderError):
        told |= {
            name: value
            for name, value in (
                ("provider_code", error.provider_code),
                ("request_id", error.request_id),
                ("http_status", error.http_status),
            )
            if value is not None
        }
    return told
