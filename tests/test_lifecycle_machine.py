"""
Any sequence of what can happen to a job, played on the pure machine: what must never happen.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.builders import NOON, WORKER, a_job, a_video, an_operation, targets
from tests.machine import GuardRefusedError, played
from vidgen import errors, lifecycle
from vidgen.errors import SubmitUnknownError, VidgenError
from vidgen.job import REROUTES, EventType, JobStatus, Stage
from vidgen.lifecycle import ACTIVE, Backoff, Prospect, Transition

BACKOFF = Backoff(base_s=2)
MAX_ATTEMPTS = 3
PRICE = 1000
CEILING = 2 * PRICE

REFUSALS = [
    errors.TransientError,
    errors.RateLimitedError,
    errors.AuthError,
    errors.ContentBlockedError,
    errors.InputRejectedError,
    errors.ModelRetiredError,
    errors.QuotaExhaustedError,
    errors.ProviderNotConfiguredError,
    errors.InvalidRequestError,
]
UNCLEAR = [errors.SubmitUnknownError, errors.ProtocolError, errors.InternalError]
TROUBLES = [
    errors.TransientError,
    errors.ProtocolError,
    errors.OperationLostError,
    errors.AuthError,
    errors.ResultExpiredError,
    errors.ResultInvalidError,
    errors.StorageDeniedError,
    errors.GenerationTimeoutError,
    errors.InternalError,
]
VERDICTS = [errors.GenerationFailedError, errors.ContentBlockedError, errors.InputRejectedError]


class Life(RuleBasedStateMachine):
    """One job, its workers, its provider and its impatient owner."""

    def __init__(self) -> None:
        super().__init__()
        self.job = a_job(status=JobStatus.PENDING, worker_id=None, max_attempts=MAX_ATTEMPTS)
        self.job = replace(
            self.job,
            estimated_cost_micros=PRICE,
            reroute_on=REROUTES,
            max_cost_micros=CEILING,
            **targets(PRICE, PRICE, PRICE),
        )
        self.charged: dict[int, int] = {}  # what the attempts cost that are known to be paid
        self.calls: list[int] = []  # attempts whose paid call may have been accepted
        self.unanswered: list[tuple[int, bool]] = []  # receipts on their way, and if by hand since
        self.settled = True  # refused, judged, or a person decided: a new attempt is right
        self.by_hand = 0
        self.undone = 0  # attempts that provably never were, whose number is used up
        self.moved: dict[int, int] = {}  # by attempt: which target was left for its absence

    @property
    def held(self) -> bool:
        return self.job.worker_id is not None

    @property
    def late(self) -> bool:
        return self.job.deadline_at is not None and self.job.deadline_at <= NOON

    def play(self, change: Transition) -> None:
        before = self.job
        self.job = played(self.job, change)
        if change.event is EventType.REROUTED:
            assert self.job.target > before.target, "it went back to a target"
            assert self.settled, "it moved on from what may be under way"
            assert not self.late, "it moved on when no time was left"
            spent = lifecycle.spent_micros(self.job)
            assert spent + PRICE <= CEILING, "it moved on to what it may not pay"

    def prospects(self, data: st.DataObject) -> list[Prospect]:
        """The targets behind, and what is in their way."""
        obstacle: st.SearchStrategy[str | None] = st.sampled_from(
            [None, None, "down", "retired", "paused", "unconfigured"]
        )
        behind = range(self.job.target + 1, len(self.job.targets))
        return [Prospect(target=number, obstacle=data.draw(obstacle)) for number in behind]

    # --- workers: the natural next step, in three rules so that most sequences get far ---

    @precondition(lambda self: self.job.status in ACTIVE)
    @rule(data=st.data())
    def work(self, data: st.DataObject) -> None:
        if not self.held:
            self.play(lifecycle.claimed())
            return
        steps: dict[Stage, list[Callable[[st.DataObject], None]]] = {
            Stage.QUEUED: [self.intend, self.intend, self.trouble_before],
            Stage.SUBMITTING: [self.answer, self.refuse, self.lose_the_answer, self.settle],
            Stage.GENERATING: [self.generate, self.judge, self.trouble],
            Stage.TRANSFERRING: [self.trouble, self.trouble, self.complete],
        }
        data.draw(st.sampled_from(steps[self.job.stage]))(data)

    @precondition(lambda self: self.job.status in ACTIVE)
    @rule(data=st.data())
    def work_on(self, data: st.DataObject) -> None:
        self.work(data)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def work_without_trouble(self, data: st.DataObject) -> None:
        match self.job.stage:
            case Stage.QUEUED:
                self.intend(data)
            case Stage.SUBMITTING:
                self.answer(data)
            case Stage.GENERATING:
                data.draw(st.sampled_from([self.generate, self.judge]))(data)
            case Stage.TRANSFERRING:
                self.release_or_postpone(data)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release_or_postpone(self, data: st.DataObject) -> None:
        if self.job.stage is Stage.QUEUED and data.draw(st.booleans()):
            self.play(lifecycle.postponed(5, data.draw(st.sampled_from([NOON, None]))))
        else:
            self.play(lifecycle.released(self.job, "hand_over"))

    @precondition(lambda self: self.held)
    @rule()
    def park(self) -> None:
        was = self.job
        self.play(lifecycle.parked(was, errors.KeyUnreadableError("no"), wait_s=300))
        assert (self.job.stage, self.job.attempt, self.job.failures) == (
            was.stage,
            was.attempt,
            was.failures,
        )
        assert self.job.operation == was.operation

    def intend(self, data: st.DataObject) -> None:
        if self.job.cancel_requested_at is not None:
            self.play(lifecycle.cancelled(self.job, held=True, stopped_at_provider=False))
            return
        if self.late:
            self.play(lifecycle.expired(self.job))
            assert not lifecycle.resumes(self.job), "what was never bought cannot go on"
            return
        assert self.settled, "a new attempt without a refusal, a verdict or a person"
        try:
            lifecycle.check_affordable(self.job)
        except errors.CostCeilingError as error:
            self.err(error, data)
            return
        self.play(lifecycle.submitting(self.job))
        self.calls.append(self.job.attempt)
        self.unanswered.append((self.job.attempt, False))
        self.settled = False

    def trouble_before(self, data: st.DataObject) -> None:
        self.err(
            data.draw(st.sampled_from([*REFUSALS, errors.StorageUnavailableError]))("oh"), data
        )

    def answer(self, _: st.DataObject) -> None:
        if (self.job.attempt, False) in self.unanswered:
            self.bring(self.job.attempt, retried=False)

    def refuse(self, data: st.DataObject) -> None:
        if (self.job.attempt, False) not in self.unanswered:
            return  # the answer is out already
        self.unanswered.remove((self.job.attempt, False))
        self.calls.remove(self.job.attempt)
        self.settled = True
        self.err(data.draw(st.sampled_from(REFUSALS))("no"), data)

    def lose_the_answer(self, data: st.DataObject) -> None:
        self.err(data.draw(st.sampled_from(UNCLEAR))("?"), data)
        assert self.job.status is JobStatus.FAILED

    def settle(self, data: st.DataObject) -> None:
        """Look for the operation of a submit that may have arrived."""
        error = SubmitUnknownError("?")
        receipt = (self.job.attempt, False)
        match data.draw(st.sampled_from(["unclear", "absent", "spend again"])):
            case "unclear":
                self.play(lifecycle.unsettled(self.job, error, wait_s=5))
            case "absent" if receipt in self.unanswered:
                self.absent(data, receipt)
            case "spend again":
                self.play(lifecycle.resubmitted(self.job, error))
                if not self.job.is_final:
                    self.give_up_receipts()
            case _:
                pass

    def absent(self, data: st.DataObject, receipt: tuple[int, bool]) -> None:
        """By the list it never arrived; which may be wrong, and its receipt still come."""
        was = self.job
        self.settled = True
        change = lifecycle.disproved(was, prospects=self.prospects(data), now=NOON)
        self.play(change)
        if change.event is EventType.REROUTED:
            self.moved[was.attempt] = was.target
            self.undone += 1
            return
        self.unanswered.remove(receipt)
        self.calls.remove(was.attempt)

    def give_up_receipts(self) -> None:
        """Somebody decided to pay again: what comes of earlier attempts is too late."""
        self.settled = True
        self.unanswered = [(attempt, True) for attempt, _ in self.unanswered]

    def generate(self, _: st.DataObject) -> None:
        self.charged.setdefault(self.job.attempt, PRICE)
        self.play(lifecycle.generated(self.job, expires_at=None, cost_micros=None))

    def judge(self, data: st.DataObject) -> None:
        error = data.draw(st.sampled_from(VERDICTS))("no")
        charged = data.draw(st.sampled_from([False, False, True]))
        told = data.draw(st.sampled_from([None, 1, 7 * PRICE])) if charged else None
        change = lifecycle.judged(
            self.job,
            error,
            charged=charged,
            cost_micros=told,
            backoff=BACKOFF,
            now=NOON,
            prospects=self.prospects(data),
        )
        if change.event is EventType.REATTEMPTED:
            assert not charged, "a charged failure was paid again without a person"
            assert not self.late, "money was spent when no time was left"
        self.settled = change.event in {EventType.REATTEMPTED, EventType.REROUTED}
        if charged:
            self.charged.setdefault(self.job.attempt, told or PRICE)
        self.play(change)

    def complete(self, _: st.DataObject) -> None:
        self.play(lifecycle.completed(self.job, a_video()))

    def trouble(self, data: st.DataObject) -> None:
        was = self.job
        self.err(data.draw(st.sampled_from(TROUBLES))("oh"), data)
        assert (self.job.operation, self.job.stage) == (was.operation, was.stage)

    @precondition(lambda self: self.unanswered)
    @rule(data=st.data())
    def bring_a_receipt_late(self, data: st.DataObject) -> None:
        attempt, retried = data.draw(st.sampled_from(self.unanswered))
        self.bring(attempt, retried=retried)

    def bring(self, attempt: int, *, retried: bool) -> None:
        self.unanswered.remove((attempt, retried))
        was = self.job
        if attempt in self.moved and not retried:
            self.bring_after_all(attempt)
            return
        try:
            self.play(lifecycle.submitted(attempt, an_operation(f"video_{attempt}")))
        except GuardRefusedError:
            assert retried or was.status is JobStatus.CANCELLED, "a receipt was refused"
        else:
            assert not retried, "a receipt of an older attempt was taken"

    def bring_after_all(self, attempt: int) -> None:
        """It was not in the list, and the job moved on; it is taken back, or told."""
        was, operation = self.job, an_operation(f"video_{attempt}")
        to = self.moved.pop(attempt)
        try:
            self.play(lifecycle.returned(was, attempt, operation, to=to))
        except GuardRefusedError:
            assert was.attempt != attempt or was.status is JobStatus.CANCELLED, "it was refused"
            self.play(lifecycle.overtaken(was, attempt, operation, left=to))
            assert self.job.unknown_attempts == was.unknown_attempts + 1
        else:
            assert (self.job.target, self.job.stage) == (to, Stage.GENERATING)
            self.undone -= 1
            self.settled = False

    def err(self, error: VidgenError, data: st.DataObject) -> None:
        self.play(
            lifecycle.errored(
                self.job, error, backoff=BACKOFF, now=NOON, prospects=self.prospects(data)
            )
        )

    @rule(seconds=st.sampled_from([1, 10_000]))
    def come_near_the_deadline(self, seconds: int) -> None:
        self.job = replace(self.job, deadline_at=NOON + timedelta(seconds=seconds))

    # --- people ---

    @precondition(lambda self: self.job.status in ACTIVE and self.job.attempt)
    @rule(wish_only=st.booleans())
    def cancel(self, wish_only: bool) -> None:
        if wish_only and self.job.status is JobStatus.PROCESSING:
            self.play(lifecycle.cancel_requested(discard=False))
        else:
            stopped = not wish_only
            if not stopped and self.job.stage in {Stage.SUBMITTING, Stage.GENERATING}:
                self.charged.setdefault(self.job.attempt, PRICE)
            self.play(lifecycle.cancelled(self.job, held=self.held, stopped_at_provider=stopped))

    @precondition(lambda self: self.job.status is JobStatus.CANCELLED)
    @rule(stopped=st.sampled_from([True, None, False]))
    def be_answered_late(self, stopped: bool | None) -> None:
        if stopped is False and self.job.stage in {Stage.SUBMITTING, Stage.GENERATING}:
            self.charged.setdefault(self.job.attempt, PRICE)
        self.play(lifecycle.answered(self.job, stopped_at_provider=stopped))

    @precondition(lambda self: self.job.status in {JobStatus.FAILED, JobStatus.CANCELLED})
    @rule(anew=st.booleans())
    def retry(self, anew: bool) -> None:
        was = self.job
        self.play(lifecycle.retried(self.job, max_attempts=MAX_ATTEMPTS, anew=anew))
        if self.job.stage is Stage.QUEUED:
            assert self.job.target == 0, "it begins with the first one again"
            self.give_up_receipts()
            self.moved.clear()
        else:
            assert self.job.operation == was.operation is not None
        self.by_hand += 1

    @precondition(lambda self: self.job.is_final)
    @rule()
    def stay_final(self) -> None:
        held = replace(self.job, worker_id=WORKER)
        for change in (
            lifecycle.claimed(),
            lifecycle.submitting(self.job),
            lifecycle.generated(self.job, expires_at=None, cost_micros=None),
            lifecycle.completed(self.job, a_video()),
            lifecycle.released(self.job, "?"),
            lifecycle.cancel_requested(discard=False),
            lifecycle.cancelled(self.job, held=False, stopped_at_provider=False),
            lifecycle.failed(self.job, SubmitUnknownError("?")),
            lifecycle.submitted(self.job.attempt + 1, an_operation()),
        ):
            for job in (self.job, held):
                try:
                    played(job, change)
                except GuardRefusedError:
                    continue
                raise AssertionError(f"{change.event} moved a job that is {job.status}")

    # --- what must always hold ---

    @invariant()
    def the_bill_adds_up_over_all_attempts(self) -> None:
        assert (self.job.actual_cost_micros or 0) == sum(self.charged.values())
        assert self.job.lost_cost_micros <= (self.job.actual_cost_micros or 0)
        if self.job.is_final and self.job.actual_cost_micros == 0:
            assert not lifecycle.unknown_attempts(self.job)

    @invariant()
    def attempts_count_paid_submits_only(self) -> None:
        assert self.job.attempt == len(self.calls)

    @invariant()
    def attempts_stay_within_what_was_allowed(self) -> None:
        most = MAX_ATTEMPTS * (1 + self.by_hand) + self.undone
        assert self.job.attempt <= self.job.max_attempts <= most

    @invariant()
    def the_target_in_force_is_one_of_them(self) -> None:
        there = self.job.targets[self.job.target]
        assert (self.job.provider, self.job.model) == (there.provider, there.model)
        assert self.job.parameters == self.job.target_parameters[self.job.target]

    @invariant()
    def the_row_keeps_its_promises(self) -> None:
        job = self.job
        if job.status is JobStatus.PENDING:
            assert job.stage is Stage.QUEUED
            assert not self.held
        if self.held:
            assert job.status is JobStatus.PROCESSING
        paid = job.stage in {Stage.GENERATING, Stage.TRANSFERRING}
        assert (job.operation is not None) == paid
        assert job.stage is Stage.QUEUED or job.attempt >= 1
        assert job.failures >= 0
        if job.status is JobStatus.FAILED:
            assert job.error_code
            assert job.error_message
        if job.status is JobStatus.COMPLETED:
            assert job.stage is Stage.TRANSFERRING
            assert job.storage_key
            assert job.error_code is None


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)


def test_the_event_of_each_transition_is_told_by_its_name() -> None:
    job = a_job()
    told = {
        lifecycle.claimed().event,
        lifecycle.postponed(1, None).event,
        lifecycle.submitting(job).event,
        lifecycle.submitted(1, an_operation()).event,
        lifecycle.unsettled(job, SubmitUnknownError("?"), wait_s=1).event,
        lifecycle.disproved(job).event,
        lifecycle.generated(job, expires_at=None, cost_micros=None).event,
        lifecycle.completed(job, a_video()).event,
        lifecycle.released(job, "left").event,
        lifecycle.cancel_requested(discard=False).event,
        lifecycle.cancelled(job, held=True, stopped_at_provider=False).event,
        lifecycle.answered(job, stopped_at_provider=True).event,
        lifecycle.retried(replace(job, status=JobStatus.FAILED), max_attempts=1).event,
        lifecycle.errored(job, errors.TransientError("no"), backoff=BACKOFF, now=NOON).event,
        lifecycle.failed(job, errors.InternalError("no")).event,
        lifecycle.parked(job, errors.KeyUnreadableError("no"), wait_s=1).event,
        lifecycle.judged(
            job, errors.GenerationFailedError("no"), charged=False, backoff=BACKOFF, now=NOON
        ).event,
        lifecycle.overtaken(replace(job, **targets(PRICE, PRICE)), 1, an_operation(), left=0).event,
        lifecycle.errored(
            replace(job, reroute_on=REROUTES, **targets(PRICE, PRICE)),
            errors.ProviderNotConfiguredError("no"),
            backoff=BACKOFF,
            now=NOON,
            prospects=[Prospect(target=1)],
        ).event,
    }

    assert told == set(EventType) - {EventType.CREATED, EventType.PROGRESSED}
