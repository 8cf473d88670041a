"""
Providers of other packages, held to what `protocol.py` promises: whatever they raise or return, the
pipeline sees values it knows, and errors that say what happened to the money.

    submit       raises what is no error of a provider, brings no receipt,
                 or does not answer in time                                     SubmitUnknownError
    all others   raise it, return something else than promised, or are late     PluginFailedError

So nothing they get wrong ends a worker, and what is paid for is asked for again until the deadline.
Only what never comes back is out of our hands: code that blocks the loop blocks its worker, and
code that takes no cancellation keeps its place there.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import get_args

import orjson
from loguru import logger

from vidgen.errors import (
    PluginBrokenError,
    PluginFailedError,
    ProviderError,
    RequestError,
    SubmitUnknownError,
    VidgenError,
)
from vidgen.job import Operation
from vidgen.providers.answer import bounded_wait, cleaned, is_storable_id, media_type, number, word
from vidgen.providers.protocol import (
    Asset,
    Credential,
    Failed,
    Listing,
    Overview,
    Progress,
    Provider,
    ResultStream,
    Running,
    Submission,
    Submitted,
    Succeeded,
    Variant,
)

MAX_SENTENCE = 500
MAX_ADDRESS = 16 * 1024
DEEDS = ("submit", "poll", "open_result", "cancel", "accepts", "aclose")
# A module of a stranger may well call `sys.exit`, which would end the worker.
_WHATEVER = (Exception, SystemExit, asyncio.CancelledError)
# Before the paid exchange there may be another one, such as for a token or with an image.
SUBMIT_MARGIN_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """
    How long a deed may take, whatever it does. `open_result` and `cancel` are bounded by those who
    ask for them.

    Attributes:
        submit_s: The paid call, and what goes before it.
        answer_s: A look, a list, or the trial of a key; a little longer than our own client waits,
            which knows better what happened.
        close_s: The end.
    """

    submit_s: float = 120 + SUBMIT_MARGIN_S
    answer_s: float = 75
    close_s: float = 10


def foreign(inner: Provider, name: str, limits: Limits | None = None) -> "Foreign":
    """
    *inner*, which another package has built as the provider *name*, behind a guard.

    Raises:
        PluginBrokenError: It lacks one of the deeds.
    """
    lacking = [deed for deed in DEEDS if not callable(getattr(inner, deed, None))]
    if lacking:
        raise PluginBrokenError(
            f"The provider {name!r} is a {type(inner).__name__:.60} without {', '.join(lacking)}."
        )
    finds = callable(getattr(inner, "find_recent", None))
    lists = callable(getattr(inner, "look_through", None))
    kinds = {
        (False, False): Foreign,
        (True, False): _Finding,
        (False, True): _ListingMany,
        (True, True): _FindingAndListing,
    }
    return kinds[finds, lists](inner, name, limits or Limits())


class Foreign:
    """A provider of another package."""

    def __init__(self, inner: Provider, name: str, limits: Limits) -> None:
        """Guard *inner*."""
        self.name = name
        self.limits = limits
        self._inner: object = inner
        self._shown: set[tuple[str, str]] = set()

    @property
    def charges_failures(self) -> bool:
        """As it says; if it does not, nothing is bought anew."""
        try:
            return getattr(self._inner, "charges_failures", True) is not False
        except _WHATEVER:
            return True

    async def submit(self, submission: Submission, credential: Credential) -> Submitted:
        """Start one generation; whatever proves nothing may have been accepted."""
        try:
            async with self._awaited("submit", self.limits.submit_s, (ProviderError, RequestError)):
                receipt = await self._inner.submit(submission, credential)  # type: ignore[attr-defined]  # `foreign` has looked
                return self._receipt(receipt, credential)
        except PluginFailedError as error:
            raise SubmitUnknownError(
                f"{error.message} The request may have been accepted."
            ) from error

    async def poll(self, operation: Operation, credential: Credential) -> Progress:
        """Look once."""
        async with self._awaited("poll", self.limits.answer_s):
            found = await self._inner.poll(operation, credential)  # type: ignore[attr-defined]  # `foreign` has looked
            return self._progress("poll", found)

    @asynccontextmanager
    async def open_result(
        self, operation: Operation, asset: Asset, credential: Credential
    ) -> AsyncIterator[ResultStream]:
        """Open the bytes of *asset*."""
        async with AsyncExitStack() as stack:
            with self._guarded("open_result"):
                opened = self._inner.open_result(operation, asset, credential)  # type: ignore[attr-defined]  # `foreign` has looked
                stream = await stack.enter_async_context(_Closing(opened, self))
                if not isinstance(stream, ResultStream):
                    raise self._wrong("open_result", stream)
            size = stream.size_bytes
            yield ResultStream(
                chunks=self._chunks(stream.chunks),
                content_type=media_type(stream.content_type, "") or None,
                size_bytes=size if type(size) is int and size >= 0 else None,
            )

    async def cancel(self, operation: Operation, credential: Credential) -> bool | None:
        """Stop it."""
        with self._guarded("cancel"):
            stopped = await self._inner.cancel(operation, credential)  # type: ignore[attr-defined]  # `foreign` has looked
            if stopped is not None and not isinstance(stopped, bool):
                raise self._wrong("cancel", stopped)
            return stopped

    async def accepts(self, model: str, credential: Credential) -> bool:
        """Try *credential*."""
        async with self._awaited("accepts", self.limits.answer_s):
            return bool(await self._inner.accepts(model, credential))  # type: ignore[attr-defined]  # `foreign` has looked

    async def aclose(self) -> None:
        """Close its connections; whatever comes of it, the process ends."""
        try:
            async with self._awaited("aclose", self.limits.close_s):
                await self._inner.aclose()  # type: ignore[attr-defined]  # `foreign` has looked
        except VidgenError as error:
            logger.debug("provider not closed", provider=self.name, reason=error.message)

    @asynccontextmanager
    async def _awaited(
        self, deed: str, limit_s: float, known: tuple[type[VidgenError], ...] = (ProviderError,)
    ) -> AsyncIterator[None]:
        """As `_guarded`, and only so long."""
        limit = asyncio.timeout(limit_s)
        with self._guarded(deed, known):
            try:
                async with limit:
                    yield
            except _WHATEVER as error:
                # Interrupted by us, it knows no more than we do, whatever it raises.
                if not limit.expired() or _is_cancelled():
                    raise
                self._show(deed, "late", error)
                raise PluginFailedError(
                    f"The package that brings {self.name} did not answer within {limit_s:g} s in"
                    f" {deed}; the log has where."
                ) from error

    @contextmanager
    def _guarded(
        self, deed: str, known: tuple[type[VidgenError], ...] = (ProviderError,)
    ) -> Iterator[None]:
        """Let errors of a provider through in a state fit for a row."""
        try:
            yield
        except known as error:
            self.fit(deed, error)
            raise
        except _WHATEVER as error:
            if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                raise
            raise self.failed(deed, error) from error

    def fit(self, deed: str, error: VidgenError) -> None:
        """
        Leave nothing in *error* that a row, a log or a header does not take.

        Raises:
            PluginFailedError: Its class is one of theirs, and lacks what ours have.
        """
        try:
            _fit(error)
        except _WHATEVER as unfit:
            raise self.failed(deed, error) from unfit

    def failed(self, deed: str, error: BaseException) -> PluginFailedError:
        """The error for *error*, whose words may hold a key or a prompt; the log has them once."""
        kind = type(error).__name__[:60]
        self._show(deed, kind, error)
        return PluginFailedError(
            f"The package that brings {self.name} raised {kind} in {deed}; the log has where."
        )

    def _show(self, deed: str, kind: str, error: BaseException) -> None:
        if (deed, kind) not in self._shown:
            self._shown.add((deed, kind))
            logger.opt(exception=error).error(
                "provider of another package raised", provider=self.name, deed=deed
            )

    def _wrong(self, deed: str, value: object) -> PluginFailedError:
        return PluginFailedError(
            f"The package that brings {self.name} returned a {type(value).__name__:.60} from {deed}"
            " that is not what providers return."
        )

    def _receipt(self, receipt: object, credential: Credential) -> Submitted:
        if not isinstance(receipt, Submitted):
            raise self._wrong("submit", receipt)
        operation = self._operation("submit", receipt.operation, credential)
        try:
            progress = self._progress("submit", receipt.progress)
        except PluginFailedError:
            progress = Running()  # it was accepted, and a look will tell
        return Submitted(operation=operation, progress=progress)

    def _operation(self, deed: str, found: object, credential: Credential) -> Operation:
        if not isinstance(found, Operation):
            raise self._wrong(deed, found)
        texts: tuple[object, ...] = (found.id, found.endpoint, found.model)
        if not all(isinstance(each, str) and is_storable_id(each) for each in texts):
            raise self._wrong(deed, found)
        try:
            extra = orjson.loads(orjson.dumps(found.extra))
        except (orjson.JSONEncodeError, orjson.JSONDecodeError) as error:
            raise self._wrong(deed, found) from error
        if not isinstance(extra, dict) or "\\u0000" in orjson.dumps(extra).decode():
            raise self._wrong(deed, found)
        # Nobody else's: these are what the row and its key go by.
        return replace(found, provider=self.name, credential_id=credential.id, extra=extra)

    def _progress(self, deed: str, found: object) -> Progress:
        match found:
            case Running(percent=percent, poll_after_s=after):
                done = number(percent)
                wish = number(after)
                return Running(
                    percent=None if done is None else int(min(100.0, max(0.0, done))),
                    poll_after_s=None if wish is None else bounded_wait(wish),
                )
            case Succeeded(assets=assets, expires_at=expires_at):
                given: object = assets
                if not isinstance(given, tuple | list) or not given:
                    raise self._wrong(deed, found)
                return replace(
                    found,
                    assets=tuple(self._asset(deed, asset) for asset in given),
                    expires_at=_moment(expires_at),
                )
            case Failed(error=ProviderError() as error, charged=charged):
                self.fit(deed, error)
                return replace(found, charged=charged is not False)
            case _:
                raise self._wrong(deed, found)

    def _asset(self, deed: str, asset: object) -> Asset:
        if not isinstance(asset, Asset) or asset.variant not in get_args(Variant):
            raise self._wrong(deed, asset)
        uri: object = asset.uri
        if not isinstance(uri, str) or len(uri) > MAX_ADDRESS:
            raise self._wrong(deed, uri)
        return replace(asset, content_type=media_type(asset.content_type, "") or None)

    async def _chunks(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        with self._guarded("open_result"):
            chunk: object
            async for chunk in chunks:
                if not isinstance(chunk, bytes | bytearray | memoryview):
                    raise self._wrong("open_result", chunk)
                yield bytes(chunk)


class _Finding(Foreign):
    """One that can list, too."""

    async def find_recent(
        self, submission: Submission, since: datetime, credential: Credential
    ) -> Listing:
        """What may have come from *submission*; it proves something only if it says so in full."""
        async with self._awaited("find_recent", self.limits.answer_s):
            found = await self._inner.find_recent(submission, since, credential)  # type: ignore[attr-defined]  # `foreign` has looked
            if not isinstance(found, Listing):
                raise self._wrong("find_recent", found)
            return Listing(
                candidates=self._operations(found.candidates, credential),
                doubtful=self._operations(found.doubtful, credential),
                trusted=found.trusted is True,
            )

    def _operations(self, found: object, credential: Credential) -> tuple[Operation, ...]:
        if not isinstance(found, Iterable):
            raise self._wrong("find_recent", found)
        return tuple(self._operation("find_recent", each, credential) for each in found)


class _ListingMany(Foreign):
    """One that tells of many at once."""

    async def look_through(
        self, wanted: Sequence[Operation], credential: Credential, pages: int
    ) -> Overview:
        """What its list says about *wanted*."""
        async with self._awaited("look_through", self.limits.answer_s):
            told = await self._inner.look_through(wanted, credential, pages)  # type: ignore[attr-defined]  # `foreign` has looked
            if not isinstance(told, Overview):
                raise self._wrong("look_through", told)
            found: object = told.found
            asked: object = told.pages
            if not isinstance(found, Mapping) or type(asked) is not int or asked < 0:
                raise self._wrong("look_through", told)
            return Overview(
                found={
                    name: self._progress("look_through", progress)
                    for name, progress in found.items()
                    if isinstance(name, str)
                },
                # The next list comes the later the more questions this one took.
                pages=min(asked, pages),
            )


class _FindingAndListing(_Finding, _ListingMany):
    """One that can both."""


class _Closing:
    """What opens a result, and whose end may raise whatever it likes."""

    def __init__(self, opened: object, of: Foreign) -> None:
        self._opened = opened
        self._of = of

    async def __aenter__(self) -> object:
        return await self._opened.__aenter__()  # type: ignore[attr-defined]  # else AttributeError, which is guarded

    async def __aexit__(self, *why: object) -> None:
        try:
            # What is under way goes on, whatever is answered.
            await self._opened.__aexit__(*why)  # type: ignore[attr-defined]  # as above
        except _WHATEVER as error:
            if error is why[1] or (isinstance(error, asyncio.CancelledError) and _is_cancelled()):
                raise
            if isinstance(error, ProviderError):
                self._of.fit("open_result", error)
                raise
            raise self._of.failed("open_result", error) from error


def _moment(value: object) -> datetime | None:
    return value if isinstance(value, datetime) and value.tzinfo is not None else None


def _is_cancelled() -> bool:
    """Whether somebody wants this task to end; a plug-in may raise `CancelledError` by itself."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _fit(error: VidgenError) -> None:
    if word(error.code) != error.code or type(error.retryable) is not bool:
        raise ValueError("neither code nor retryable may be anything else")
    error.message = cleaned(error.message)[:MAX_SENTENCE] or "The provider gives no reason."
    wish = number(error.retry_after_s)
    error.retry_after_s = None if wish is None else bounded_wait(wish)
    if isinstance(error, ProviderError):
        error.provider_code = word(error.provider_code)
        error.request_id = cleaned(error.request_id)[:200] or None
        status = error.http_status
        error.http_status = status if type(status) is int else None
