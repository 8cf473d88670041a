"""
The words of vidgen as values: what a caller asks for, what a job is, what happened to it. Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal, Self
from uuid import UUID

# What a column of type jsonb holds, once decoded.
JsonValue = str | int | float | bool | None | list["JsonValue"] | dict[str, "JsonValue"]


USUAL_SECONDS = 8  # of video, where a request does not say


class _Word(StrEnum):
    """A closed set of words, of which the database may hold one more than we know."""

    @classmethod
    def read(cls, text: str) -> Self:
        """The word that *text* is; one of a newer release stays as it is, and is none of ours."""
        try:
            return cls(text)
        except ValueError:
            newer = str.__new__(cls, text)
            newer._name_ = newer._value_ = text
            return newer

    @property
    def is_known(self) -> bool:
        """Whether this release knows what it means."""
        return self in set(type(self))


class JobStatus(_Word):
    """The public word for where a job is."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Nothing happens to the job any more, unless a person retries it."""
        return self in {JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED}


class Stage(_Word):
    """
    The inner word: what was last known to be under way. A final job keeps the stage it ended in.
    """

    QUEUED = "queued"  # nothing has been sent to a provider for this attempt
    SUBMITTING = "submitting"  # the intent is written; the paid call may have been made
    GENERATING = "generating"  # the operation is stored; the provider works
    TRANSFERRING = "transferring"  # the video exists at the provider


ImageRole = Literal["first_frame", "last_frame", "reference"]

# The id of the credential that the settings name; every other one is the id of a stored key.
SERVER_CREDENTIAL = "server"


@dataclass(frozen=True, slots=True, kw_only=True)
class InputImage:
    """
    One image that goes with the prompt: exactly one of *data*, *url*, *key*.

    Attributes:
        data: The bytes of a PNG, JPEG or WebP file, at most 20 MiB.
        url: An http(s) address the worker fetches at submit.
        key: A key in the bucket of the results.
    """

    role: ImageRole = "first_frame"
    data: bytes | None = field(default=None, repr=False)
    url: str | None = field(default=None, repr=False)
    key: str | None = None


class RerouteReason(_Word):
    """
    Why a job leaves a target for the next one: each is proof that the one left will not be billed
    for the video, but for `charged`.
    """

    REFUSED = "refused"  # busy or unreachable several times in a row, before it accepted anything
    DOWN = "down"  # its breaker is open: submits pause
    RETIRED = "retired"  # the model is switched off, by the catalog or by its own word
    QUOTA = "quota"  # money or the day's quota ran out
    AUTH = "auth"  # it refuses the server's own key
    UNCONFIGURED = "unconfigured"  # there is no key for it
    ABSENT = "absent"  # the paid request provably never arrived
    FAILED = "failed"  # its verdict; not charged
    POLICY = "policy"  # moderation of prompt, image or result
    REJECTED = "rejected"  # it refuses the request as it stands
    CHARGED = "charged"  # its verdict, and it charges for that
    BUDGET = "budget"  # no budget bears another attempt there
    CEILING = "ceiling"  # another attempt could cost more than the job may


# What moves a job on unless it says otherwise.
REROUTES_BY_DEFAULT = (
    RerouteReason.REFUSED,
    RerouteReason.DOWN,
    RerouteReason.RETIRED,
    RerouteReason.QUOTA,
    RerouteReason.AUTH,
    RerouteReason.UNCONFIGURED,
    RerouteReason.ABSENT,
    RerouteReason.FAILED,
    RerouteReason.BUDGET,
)
# What a request may name; a ceiling holds without being named.
REROUTES = tuple(reason for reason in RerouteReason if reason is not RerouteReason.CEILING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback:
    """
    Who makes the video if nobody before it does, and what is different there. None takes what was
    asked for, as near as the model comes (`vidgen.fallback`).

    Attributes:
        seconds: May be longer than asked: who says it here allows it.
        extra: Fields of this provider's wire format; those of the request are for its own.
    """

    provider: str
    model: str | None = None
    seconds: int | None = None
    size: str | None = None
    aspect_ratio: str | None = None
    resolution: str | None = None
    audio: bool | None = None
    extra: Mapping[str, JsonValue] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoRequest:
    """
    What a video should be. None means the model's default; the catalog checks it before money
    is spent.

    Attributes:
        provider: e.g. `sora`, `veo`, `fal`; the catalog has them all. Empty with a *route*, which
            names it.
        model: e.g. `sora-2`, `veo-3.1-generate-001`.
        seconds: Length of the clip.
        size: `WIDTHxHEIGHT` in pixels, for models that are told pixels (as Sora's).
        aspect_ratio: e.g. `16:9`, for models that are told a ratio (as Veo's).
        resolution: e.g. `720p`, beside *aspect_ratio*.
        audio: Whether the clip has sound, where the model leaves the choice.
        images: First frame, last frame, references.
        extra: Fields of the provider's own wire format, sent as they are.
        fallbacks: Who makes it instead, in this order, once it is proven that the one before
            will not.
        route: The name of a route of `VIDGEN_ROUTES_FILE`, in place of *provider*, *model* and
            *fallbacks*.
        reroute_on: Words of `RerouteReason` that move it on; None for the usual ones.
        max_cost_micros: What all attempts together may cost at most, in micro-dollars.
    """

    provider: str = ""
    prompt: str = field(repr=False)
    model: str | None = None
    seconds: int | None = None
    size: str | None = None
    aspect_ratio: str | None = None
    resolution: str | None = None
    negative_prompt: str | None = field(default=None, repr=False)
    seed: int | None = None
    audio: bool | None = None
    images: tuple[InputImage, ...] = ()
    extra: Mapping[str, JsonValue] = field(default_factory=dict, repr=False)
    fallbacks: Sequence[Fallback] = ()
    route: str | None = None
    reroute_on: Sequence[str] | None = None
    max_cost_micros: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """
    Who may make a job's video, settled when it was asked for.

    Attributes:
        api: The interface that serves the model.
        estimated_cost_micros: In micro-dollars, None for a model without a price.
        mapped: What it makes otherwise than asked, one sentence for each.
    """

    provider: str
    model: str
    api: str
    estimated_cost_micros: int | None
    mapped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """
    The provider's side of an attempt: enough to follow it from any process, and never a secret.

    Attributes:
        id: The provider's own id or operation name.
        endpoint: The base URL it lives at.
        credential_id: Which credential started it; only that one can see it.
        extra: What else this wire format needs (region, poll address, subpath).
    """

    provider: str
    id: str
    endpoint: str
    model: str
    credential_id: str
    extra: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right of one worker to write one job, until somebody raises the epoch."""

    worker_id: UUID
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoJob:
    """
    One requested video: the row of `video_jobs`. Money is in micro-dollars, times are aware UTC.

    Attributes:
        provider, model, parameters, estimated_cost_micros: Of the target in force.
        parameters: The rest of the request as it was accepted (seconds, size, images
            without bytes, …).
        due_at: When a worker should look at it next; None while one holds it, and when it is final.
        attempt: Paid submits so far.
        failures: Errors in a row of the current stage.
        deadline_at: The one deadline over all stages; set when the first attempt begins, or with
            the first trouble before it, and put off by waiting for a turn.
        intent_at: When the latest paid call was about to be made.
        cancel_discards: Whoever asked for the cancel does not want a finished video either.
        slot_at: The reserved turn under the provider's rate limit, if it has one.
        credential_id: What the latest attempt was made with, or the next one has its turn for:
            `server`, or the id of a stored key; None before, and in rows of older releases.
        actual_cost_micros: What all attempts together cost, as far as it is known; None as long as
            nothing is, and at the end when only the provider knows.
        settled_attempt: The latest attempt of which it is known what it cost.
        unknown_attempts: Earlier attempts of which only the provider knows what they cost.
        lost_cost_micros: The part of the cost that was given up for a new video.
        discards: How often a stored video of the job was thrown away.
        archived_at: Since when only a summary is kept: prompt, parameters and files are gone.
        gone_at: Since when the files of a completed job are not in the bucket any more, though all
            else of it is kept.
        targets: Who may make it, in order; the first is what was asked for. Empty if nobody else
            may.
        target_parameters: What each of them is asked for.
        target: Which of them is in force.
        route: The route that named them.
        reroute_on: The reasons that move it on.
        max_cost_micros: What all attempts together may cost at most; None without a limit.
        sealed: The envelope of prompt and parameters while they are not opened (`vidgen.prompts`):
            then the prompt is empty. None once they are, and where they were never sealed.
    """

    id: UUID
    status: JobStatus
    stage: Stage
    provider: str
    model: str
    prompt: str = field(repr=False)
    parameters: Mapping[str, JsonValue] = field(repr=False)
    scene_id: str | None
    user_id: str | None
    idempotency_key: str | None
    priority: int
    due_at: datetime | None
    attempt: int
    max_attempts: int
    failures: int
    operation: Operation | None
    progress: int
    error_code: str | None
    error_message: str | None
    storage_key: str | None
    size_bytes: int | None
    sha256: str | None
    content_type: str | None
    duration_s: float | None
    width: int | None
    height: int | None
    thumbnail_key: str | None
    spritesheet_key: str | None
    estimated_cost_micros: int | None
    actual_cost_micros: int | None
    worker_id: UUID | None
    lease_epoch: int
    created_at: datetime
    started_at: datetime | None
    intent_at: datetime | None
    submitted_at: datetime | None
    generated_at: datetime | None
    completed_at: datetime | None
    deadline_s: int
    deadline_at: datetime | None
    slot_at: datetime | None
    result_expires_at: datetime | None
    cancel_requested_at: datetime | None
    cancel_discards: bool
    webhook_url: str | None = field(repr=False)
    metadata: Mapping[str, JsonValue]
    credential_id: str | None
    archived_at: datetime | None
    gone_at: datetime | None = None
    settled_attempt: int | None = None
    unknown_attempts: int = 0
    lost_cost_micros: int = 0
    discards: int = 0
    targets: tuple[Target, ...] = ()
    target_parameters: tuple[Mapping[str, JsonValue], ...] = field(default=(), repr=False)
    target: int = 0
    route: str | None = None
    reroute_on: tuple[RerouteReason, ...] = ()
    max_cost_micros: int | None = None
    sealed: bytes | None = field(default=None, repr=False)

    @property
    def is_final(self) -> bool:
        """Completed, failed or cancelled."""
        return self.status.is_final

    @property
    def is_known(self) -> bool:
        """Whether this release knows the state it is in; a newer one's job is left alone."""
        return self.status.is_known and self.stage.is_known

    @property
    def lease(self) -> Lease:
        """The right under which the holder writes this job."""
        assert self.worker_id is not None  # only a claimed job has one
        return Lease(worker_id=self.worker_id, epoch=self.lease_epoch)


def seconds_of(parameters: Mapping[str, JsonValue]) -> int:
    """Of video that *parameters* ask for: what it is worth when users share."""
    seconds = parameters.get("seconds")
    return seconds if isinstance(seconds, int) and seconds > 0 else USUAL_SECONDS


class EventType(StrEnum):
    """What can happen to a job; the past participle is the name of the transition."""

    CREATED = "created"
    CLAIMED = "claimed"
    POSTPONED = "postponed"  # the rate limit has no room yet
    SUBMITTING = "submitting"
    SUBMITTED = "submitted"
    GENERATED = "generated"
    COMPLETED = "completed"
    ERRORED = "errored"  # the step will be tried again
    PARKED = "parked"  # its provider key or prompt does not open; nothing is counted
    REATTEMPTED = "reattempted"  # a verdict ended the attempt; a new one is due
    REROUTED = "rerouted"  # moved on to another target
    FAILED = "failed"
    RELEASED = "released"  # given back by its worker, or freed from a dead one
    CANCEL_REQUESTED = "cancel_requested"
    CANCELLED = "cancelled"
    OVERTAKEN = "overtaken"  # a receipt came after the job had moved on: that may be billed, too
    ANSWERED = "answered"  # the provider's answer to a cancel came after the job had ended
    RETRIED = "retried"  # by hand
    PROGRESSED = "progressed"  # live only: never a row of job_events


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """
    One thing that happened to a job, in order of *seq*.

    Attributes:
        seq: Its number among all events; None for progress, which is live only.
        detail: What the type calls for: code, message, operation_id, wait_s, …
        worker_id: The worker that wrote it; None for what was asked from outside.
        by: The person who did it by hand, if one is known.
    """

    job_id: UUID
    seq: int | None
    type: EventType
    at: datetime
    status: JobStatus
    stage: Stage
    attempt: int
    progress: int
    detail: Mapping[str, JsonValue]
    worker_id: UUID | None = None
    by: str | None = None
