"""
Every error vidgen raises, each with a stable `code` that users and dashboards may rely on.

    VidgenError
    ├── SettingsError           settings_invalid        the environment is wrong; nothing starts
    ├── RequestError                                    the caller can mend it; nothing was spent
    │   ├── InvalidRequestError     invalid_request
    │   ├── UnknownProviderError    unknown_provider
    │   ├── PluginBrokenError       plugin_broken       another package's provider is unusable
    │   ├── UnknownModelError       unknown_model
    │   ├── ProviderNotConfiguredError  provider_not_configured
    │   ├── CostCeilingError        cost_ceiling        the next attempt could cost too much
    │   ├── NoEncryptionKeyError    no_encryption_key   nothing can be sealed
    │   ├── KeyNotFoundError        key_not_found
    │   ├── IdempotencyConflictError  idempotency_conflict
    │   ├── JobNotFoundError        job_not_found
    │   ├── DeliveryNotFoundError   delivery_not_found
    │   ├── BudgetNotFoundError     budget_not_found
    │   ├── WebhookInvalidError     webhook_invalid     what came in is not from a provider
    │   └── InvalidStateError       invalid_state       e.g. retry of a job that still runs
    ├── ProviderError                                   what a provider answered, or failed to
    │   ├── TransientError          provider_unavailable    retryable: same attempt, same step
    │   ├── RateLimitedError        rate_limited            retryable after `retry_after_s`
    │   ├── ProtocolError           provider_protocol       retryable: an answer nobody can read
    │   │   └── PluginFailedError   plugin_broken           retryable: another package's code raised
    │   ├── QuotaExhaustedError     quota_exhausted
    │   ├── AuthError               provider_auth
    │   ├── InputRejectedError      input_rejected
    │   ├── ContentBlockedError     content_blocked
    │   ├── ModelRetiredError       model_retired
    │   ├── GenerationFailedError   generation_failed       a verdict: this attempt is over
    │   ├── GenerationTimeoutError  generation_timeout
    │   ├── NotReadyError           result_not_ready        retryable: finished, but not yet there
    │   ├── ResultExpiredError      result_expired
    │   ├── ResultInvalidError      result_invalid          retryable: what came is no whole video
    │   ├── OperationLostError      operation_lost
    │   └── SubmitUnknownError      submit_unknown          may have been accepted and billed
    ├── BudgetError                                     money: nothing was spent, nor will be
    │   ├── BudgetExceededError     budget_exceeded
    │   └── PriceUnknownError       price_unknown       no budget can hold what nobody can price
    ├── StorageError                                    the bucket
    │   ├── StorageUnavailableError storage_unavailable     retryable
    │   ├── StorageDeniedError      storage_denied
    │   └── BucketMissingError      bucket_missing
    ├── DatabaseError           database_unavailable    retryable
    │   └── DatabaseRefusedError    database_refused    wrong password, no such database, no right
    ├── DispatchError           redis_unavailable       retryable
    ├── KeyUnreadableError      key_unreadable          the job waits until the key ring is right
    ├── InternalError           internal_error          a defect of vidgen
    ├── UserLimitError          user_limit          another video of the user has to end first
    ├── OperationTakenError     operation_taken     another job already follows this operation
    └── LeaseLostError          lease_lost              another worker owns the job now: stop
"""

from datetime import datetime
from typing import ClassVar


class VidgenError(Exception):
    """
    Base of all: `code` is stable, the message is a plain sentence without secrets or prompts.

    Attributes:
        retryable: The same step may be tried again as it is, and nothing is paid by that.
        retry_after_s: Seconds the other side asked us to wait, None if it did not say.
    """

    code: ClassVar[str] = "vidgen_error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        """Keep the sentence and the other side's wish."""
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s


class SettingsError(VidgenError):
    """
    The environment lacks something or holds something unusable; the message lists every problem.
    """

    code = "settings_invalid"


class RequestError(VidgenError):
    """What the caller asked for cannot be done; nothing was written and nothing was spent."""


class InvalidRequestError(RequestError):
    """A field of the request is outside what the model allows; the message says what is allowed."""

    code = "invalid_request"


class UnknownProviderError(RequestError):
    """No provider has this name."""

    code = "unknown_provider"


class PluginBrokenError(RequestError):
    """Another package brings this provider, but it does not load, or is declared wrong."""

    code = "plugin_broken"


class UnknownModelError(RequestError):
    """The catalog has no such model, and unknown ones are not allowed."""

    code = "unknown_model"


class ProviderNotConfiguredError(RequestError):
    """The provider exists, but no credential for it is set."""

    code = "provider_not_configured"


class CostCeilingError(RequestError):
    """Another attempt could cost more than the job may; or nobody knows what it costs."""

    code = "cost_ceiling"


class NoEncryptionKeyError(RequestError):
    """No encryption key is set, so no provider key can be stored."""

    code = "no_encryption_key"


class KeyNotFoundError(RequestError):
    """No provider key that is in use has this id."""

    code = "key_not_found"


class IdempotencyConflictError(RequestError):
    """The idempotency key was used before for another request."""

    code = "idempotency_conflict"


class JobNotFoundError(RequestError):
    """No job has this id."""

    code = "job_not_found"


class DeliveryNotFoundError(RequestError):
    """No webhook delivery has this id."""

    code = "delivery_not_found"


class WebhookInvalidError(RequestError):
    """What came to a webhook of ours is forged, stale, repeated or unreadable; nothing was done."""

    code = "webhook_invalid"


class InvalidStateError(RequestError):
    """The job is not in a state that allows this."""

    code = "invalid_state"


class ProviderError(VidgenError):
    """A provider refused, failed, or could not be understood."""

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        provider_code: str | None = None,
        request_id: str | None = None,
        http_status: int | None = None,
    ) -> None:
        """Keep what the provider's support would ask for."""
        super().__init__(message, retry_after_s=retry_after_s)
        self.provider_code = provider_code
        self.request_id = request_id
        self.http_status = http_status


class TransientError(ProviderError):
    """Never reached, or refused for now (408, 500, 503): the same step may be tried again."""

    code = "provider_unavailable"
    retryable = True


class RateLimitedError(ProviderError):
    """Slow down (429)."""

    code = "rate_limited"
    retryable = True


class ProtocolError(ProviderError):
    """An answer that is not what the wire format promises."""

    code = "provider_protocol"
    retryable = True


class PluginFailedError(ProtocolError):
    """
    Code of another package raised, or returned what no provider may; it says nothing about the
    video, so this is as an answer that nobody can read.
    """

    code = "plugin_broken"


class QuotaExhaustedError(ProviderError):
    """Money or the day's quota ran out."""

    code = "quota_exhausted"


class AuthError(ProviderError):
    """The credential is wrong, expired or not allowed here."""

    code = "provider_auth"


class InputRejectedError(ProviderError):
    """The provider refuses the request as it stands."""

    code = "input_rejected"


class ContentBlockedError(ProviderError):
    """Moderation: the prompt, the input or the output was blocked."""

    code = "content_blocked"


class ModelRetiredError(ProviderError):
    """The model is switched off."""

    code = "model_retired"


class GenerationFailedError(ProviderError):
    """The provider itself says that this generation failed."""

    code = "generation_failed"


class GenerationTimeoutError(ProviderError):
    """
    No verdict before the deadline; the operation may still finish, a retry by hand looks at it
    first.
    """

    code = "generation_timeout"


class NotReadyError(ProviderError):
    """The provider calls the video finished but does not hand it out yet."""

    code = "result_not_ready"
    retryable = True


class ResultExpiredError(ProviderError):
    """The finished video is no longer kept by the provider."""

    code = "result_expired"


class ResultInvalidError(ProviderError):
    """What was downloaded is not a whole video."""

    code = "result_invalid"
    retryable = True


class OperationLostError(ProviderError):
    """The provider no longer knows, or no longer shows, an operation it accepted."""

    code = "operation_lost"


class SubmitUnknownError(ProviderError):
    """The request may have arrived: nobody knows whether a video was started and billed."""

    code = "submit_unknown"


class BudgetError(VidgenError):
    """
    The money for an attempt may not be spent. No `RequestError`: while a submit is in doubt those
    prove that it was refused, and this says nothing about it.
    """


class BudgetExceededError(BudgetError):
    """
    A budget cannot bear the price of the attempt.

    Attributes:
        scope: `all`, `provider:NAME` or `user`: theirs, or the one that each user has.
        period: `day`, `month` or `total`.
        spent_micros, reserved_micros: What counts against the limit without this attempt.
        frees_at: When the next period begins; None if none does.
    """

    code = "budget_exceeded"

    def __init__(
        self,
        message: str,
        *,
        scope: str = "all",
        period: str = "total",
        limit_micros: int = 0,
        spent_micros: int = 0,
        reserved_micros: int = 0,
        wanted_micros: int = 0,
        frees_at: datetime | None = None,
    ) -> None:
        """Keep which budget it is and how it stands."""
        super().__init__(message)
        self.scope = scope
        self.period = period
        self.limit_micros = limit_micros
        self.spent_micros = spent_micros
        self.reserved_micros = reserved_micros
        self.wanted_micros = wanted_micros
        self.frees_at = frees_at


class PriceUnknownError(BudgetError):
    """A budget is in force, and nobody knows what the attempt will cost."""

    code = "price_unknown"


class BudgetNotFoundError(RequestError):
    """There is no budget of this scope and period."""

    code = "budget_not_found"


class StorageError(VidgenError):
    """The bucket could not do what was asked."""


class StorageUnavailableError(StorageError):
    """No answer, or a passing one."""

    code = "storage_unavailable"
    retryable = True


class StorageDeniedError(StorageError):
    """Wrong keys, or no right to do this in the bucket."""

    code = "storage_denied"


class BucketMissingError(StorageError):
    """There is no such bucket."""

    code = "bucket_missing"


class DatabaseError(VidgenError):
    """PostgreSQL cannot be reached or is restarting."""

    code = "database_unavailable"
    retryable = True


class DatabaseRefusedError(DatabaseError):
    """PostgreSQL answers and refuses us; waiting mends nothing."""

    code = "database_refused"
    retryable = False


class DispatchError(VidgenError):
    """Redis cannot be reached."""

    code = "redis_unavailable"
    retryable = True


class KeyUnreadableError(VidgenError):
    """
    A stored key or prompt does not open: `ENCRYPTION_KEYS` lacks the right one, or it was altered.

    No job ends by this: it is parked, and goes on by itself once the key opens.
    """

    code = "key_unreadable"
    retryable = True


class TooManyWatchersError(VidgenError):
    """This process serves as many watchers as it can hold; another one, or a later try, may do."""

    code = "too_many_watchers"
    retryable = True


class NoResultError(RequestError):
    """There is no file of this kind: the job has not made one."""

    code = "no_result"


class InternalError(VidgenError):
    """A defect of vidgen; the log has the traceback."""

    code = "internal_error"


class OperationTakenError(VidgenError):
    """Another attempt already follows this operation: one video is for one job."""

    code = "operation_taken"


class UserLimitError(VidgenError):
    """The user has as many videos under way as they may: the job waits."""

    code = "user_limit"


class LeaseLostError(VidgenError):
    """The row has another epoch or stage: nothing was written, and this worker must stop."""

    code = "lease_lost"
