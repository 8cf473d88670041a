"""
What vidgen asks of a provider: five deeds, one HTTP exchange each, no loops, no sleeps, no retries.

The pipeline owns time and money: it decides when to submit, look, wait and give up. A provider
turns one wire format into these values and maps every answer to one class of `vidgen.errors`.

A new provider NAME is these, and no `if` anywhere else:

    vidgen/catalog/NAME.py           VENDOR: name, interfaces, models (pure); and one line in
                                     catalog/vendors.py
    vidgen/providers/NAME.py         build(surroundings) -> Provider, which VENDOR.wire names; uses
                                     `http.ProviderHttp` for every exchange, maps errors by
                                     `answer.by_status`, asks `same_origin` before a key is sent
    vidgen/simulator/NAME.py         SIMULATED: a `wire.SimulatedWire`, which VENDOR.simulator
                                     names; its paths are those of the vendor, as it is mounted
                                     under /NAME
    vidgen/settings.py               a field for each variable of its interfaces, with the vendor's
                                     base URL as default; the same in deploy/env.example
    tests/providers/formats/NAME.py  FORMATS: what the conformance suite has to know; and one line
                                     in formats/all.py
    README.md                        rows in "What works with what" and "Settings"

Those of other packages stand behind `foreign.py`, which keeps them to all this. Limits, breakers,
stored keys, prices, metrics, `vidgen doctor`, `vidgen dev`, command line and API follow from
VENDOR. What the vendor ignores in silence is refused by the model's declaration.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol
from uuid import UUID

from vidgen.errors import ProviderError
from vidgen.job import ImageRole, Operation, VideoRequest

Variant = Literal["video", "thumbnail", "spritesheet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """
    What opens a provider for one call.

    Attributes:
        id: Names it in rate limits, operations and logs: `server`, or the id of a stored key.
        secret: The API key. For Vertex AI the path or JSON of a service account; empty means
            application default credentials.
        project: Of a user's service account, who is billed; None takes the settings' project.
    """

    id: str
    secret: str = field(repr=False)
    project: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBytes:
    """One input image, fetched and recognised."""

    role: ImageRole
    content_type: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """
    One paid try: the checked request with every default filled in, and its images as bytes.

    Attributes:
        request: `model` and every parameter that the model needs are set; `images` is ignored.
        not_after: The loop's time after which the request must not leave any more: the lease may
            be somebody else's by then. None is never.
    """

    job_id: UUID
    attempt: int
    request: VideoRequest
    images: tuple[ImageBytes, ...] = ()
    not_after: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """
    One thing the provider will hand out, in the provider's own address.

    Attributes:
        uri: Opaque outside of the provider; may be a signed URL, so it is never logged.
    """

    variant: Variant
    uri: str = field(repr=False)
    content_type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """
    No verdict yet. A word nobody knows is also this: it runs until the deadline.

    Attributes:
        percent: 0 to 100 if the provider tells, else None.
        poll_after_s: When the provider wants to be asked again, None if it does not say.
    """

    percent: int | None = None
    poll_after_s: float | None = None


# No video costs more than $1000: whoever says so means something else.
MAX_CHARGE_MICROS = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeeded:
    """
    The video exists. The first asset is the video.

    Attributes:
        expires_at: Until when the provider keeps it, None if it does not say.
        cost_micros: What the provider says it charged, in micro-dollars; a figure outside of 0 to
            `MAX_CHARGE_MICROS` is not believed.
    """

    assets: tuple[Asset, ...]
    expires_at: datetime | None = None
    cost_micros: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """
    The provider's verdict: this attempt will never deliver.

    Attributes:
        charged: False when the provider is known not to bill this failure.
        cost_micros: What the provider says that this failure cost, believed as in `Succeeded`; then
            *charged* is whether that is more than 0. None if it does not say: what is charged
            counts at the price of the catalog.
    """

    error: ProviderError
    charged: bool = False
    cost_micros: int | None = None


Progress = Running | Succeeded | Failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """The receipt of a paid submit; *progress* may already be final (synchronous providers)."""

    operation: Operation
    progress: Progress = field(default_factory=Running)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """
    What a server's list says about a submit whose receipt was lost.

    Attributes:
        candidates: Operations that match it, the newest first.
        doubtful: Operations that nothing proves to be others, and nothing to be this one, the
            newest first: never to be adopted, but unless each belongs to another attempt, nothing
            is disproved.
        trusted: Whether absence from the list proves anything.
    """

    candidates: tuple[Operation, ...]
    doubtful: tuple[Operation, ...] = ()
    trusted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """
    What a server's list says about many operations.

    Attributes:
        found: By operation id; others are not said.
        pages: So many questions that took.
    """

    found: Mapping[str, Progress]
    pages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultStream:
    """
    The bytes of one asset as they arrive.

    Attributes:
        chunks: Ends with `ResultInvalidError` when the connection breaks before the end.
        size_bytes: As announced, None when the provider does not say.
    """

    chunks: AsyncIterator[bytes]
    content_type: str | None
    size_bytes: int | None


class Provider(Protocol):
    """One wire format. Safe for any number of concurrent calls; holds no credential."""

    @property
    def name(self) -> str:
        """The word in `VideoRequest.provider`."""
        ...

    @property
    def charges_failures(self) -> bool:
        """Whether a generation that the provider reports as failed is billed all the same."""
        ...

    async def submit(self, submission: Submission, credential: Credential) -> Submitted:
        """
        Start one paid generation, once.

        Raises:
            TransientError, RateLimitedError: Provably not accepted.
            SubmitUnknownError: The request may have arrived.
            ProviderError: Refused for good (see `vidgen.errors`).
        """
        ...

    async def poll(self, operation: Operation, credential: Credential) -> Progress:
        """
        Look once.

        Raises:
            TransientError, RateLimitedError, ProtocolError: Look again later.
            AuthError, OperationLostError: The operation cannot be seen with this credential.
        """
        ...

    def open_result(
        self, operation: Operation, asset: Asset, credential: Credential
    ) -> AbstractAsyncContextManager[ResultStream]:
        """
        Open the bytes of *asset*; leaving the context closes the connection.

        Raises:
            NotReadyError, TransientError, RateLimitedError: Try again later.
            ResultExpiredError: Gone for good, unless a fresh look gives a new address.
        """
        ...

    async def cancel(self, operation: Operation, credential: Credential) -> bool | None:
        """
        Stop it at the provider where that is possible; False where it goes on, since the wire
        format has no cancel or it is too late for one; None if it is not there any more, and
        nobody can tell whether an earlier cancel has done that.
        """
        ...

    async def accepts(self, model: str, credential: Credential) -> bool:
        """
        Whether the server that serves *model* takes *credential*, asked by what costs nothing;
        False if it offers nothing such.

        Raises:
            AuthError: It does not.
            ProviderError: Nobody can tell now.
        """
        ...

    async def aclose(self) -> None:
        """Close connections."""
        ...
