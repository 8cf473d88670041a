"""Whatever a provider of another package raises or returns, the pipeline sees what it knows."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import pytest

from vidgen.errors import (
    ContentBlockedError,
    GenerationFailedError,
    InputRejectedError,
    LeaseLostError,
    PluginBrokenError,
    PluginFailedError,
    ProviderError,
    RateLimitedError,
    SubmitUnknownError,
    TransientError,
)
from vidgen.job import Operation, VideoRequest
from vidgen.providers.foreign import Foreign, Limits, foreign
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
)
from vidgen.providers.registry import FindsRecent, ListsVideos

KEY = Credential(id="server", secret="sk-secret")
VIDEO = Asset(variant="video", uri="https://acme.example/1.mp4")
OPERATION = Operation(
    provider="acme", id="1", endpoint="https://acme.example", model="reel-1", credential_id="server"
)
SUBMISSION = Submission(
    job_id=UUID(int=1),
    attempt=1,
    request=VideoRequest(provider="acme", prompt="a tram", model="reel-1"),
)
RAISED: list[BaseException] = [
    RuntimeError("with sk-secret"),
    SystemExit(3),
    asyncio.CancelledError(),
    LeaseLostError("not its own to say"),
]


class WordlessError(TransientError):
    """An error of their own that has nothing of ours."""

    def __init__(self, words: str) -> None:
        self.words = words


class NamelessError(TransientError):
    code = cast("str", 7)


class SealedError(InputRejectedError):
    @property
    def message(self) -> str:
        raise RuntimeError

    @message.setter
    def message(self, _: str) -> None:
        """Keep nothing."""


UNFIT: list[ProviderError] = [WordlessError("busy"), NamelessError("busy"), SealedError("no")]


class Whatever:
    """Does for each deed what the test says."""

    name = "acme"
    charges_failures = False

    def __init__(self, does: object) -> None:
        self._does = does

    def _do(self) -> Any:
        if isinstance(self._does, BaseException):
            raise self._does
        return self._does

    async def submit(self, _submission: Submission, _credential: Credential) -> Any:
        return self._do()

    async def poll(self, _operation: Operation, _credential: Credential) -> Any:
        return self._do()

    def open_result(self, _operation: Operation, _asset: Asset, _credential: Credential) -> Any:
        return self._do()

    async def cancel(self, _operation: Operation, _credential: Credential) -> Any:
        return self._do()

    async def accepts(self, _model: str, _credential: Credential) -> Any:
        return self._do()

    async def aclose(self) -> None:
        self._do()


class AlsoLists(Whatever):
    async def find_recent(self, *_: object) -> Any:
        return self._do()

    async def look_through(self, *_: object, pages: int = 1) -> Any:
        return self._do()


def guarded(does: object) -> Foreign:
    return foreign(cast("Provider", AlsoLists(does)), "acme")


async def all_of(provider: Foreign) -> bytes:
    async with provider.open_result(OPERATION, VIDEO, KEY) as stream:
        return b"".join([chunk async for chunk in stream.chunks])


DEEDS: dict[str, Callable[[Any], Any]] = {
    "poll": lambda each: each.poll(OPERATION, KEY),
    "open_result": all_of,
    "cancel": lambda each: each.cancel(OPERATION, KEY),
    "accepts": lambda each: each.accepts("reel-1", KEY),
    "find_recent": lambda each: each.find_recent(SUBMISSION, datetime.now(UTC), KEY),
    "look_through": lambda each: each.look_through([OPERATION], KEY, 1),
}


def fresh(error: BaseException) -> BaseException:
    return type(error)(*error.args)


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
async def test_what_it_raises_is_an_answer_that_nobody_can_read(
    deed: str, error: BaseException
) -> None:
    with pytest.raises(PluginFailedError, match=f"acme raised {type(error).__name__} in {deed}"):
        await DEEDS[deed](guarded(fresh(error)))


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
async def test_what_its_submit_raises_proves_nothing(error: BaseException) -> None:
    with pytest.raises(SubmitUnknownError) as caught:
        await guarded(fresh(error)).submit(SUBMISSION, KEY)

    assert "sk-secret" not in caught.value.message


@pytest.mark.parametrize("error", [TransientError("busy"), InputRejectedError("no")])
async def test_errors_of_a_provider_come_through(error: Exception) -> None:
    with pytest.raises(type(error)):
        await guarded(error).submit(SUBMISSION, KEY)
    with pytest.raises(type(error)):
        await guarded(error).poll(OPERATION, KEY)


async def test_an_error_is_made_fit_for_a_row() -> None:
    error = RateLimitedError("a\0b\ud800" + "c" * 10_000, retry_after_s=float("nan"))
    error.provider_code, error.http_status = cast("Any", object()), cast("Any", "429")

    with pytest.raises(RateLimitedError):
        await guarded(error).poll(OPERATION, KEY)

    assert error.message == "ab" + "c" * 498
    assert (error.retry_after_s, error.provider_code, error.http_status) == (None, None, None)


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("error", UNFIT, ids=lambda error: type(error).__name__)
async def test_an_error_that_fits_no_row_is_an_answer_that_nobody_can_read(
    deed: str, error: ProviderError
) -> None:
    with pytest.raises(PluginFailedError, match=f"acme raised {type(error).__name__} in {deed}"):
        await DEEDS[deed](guarded(error))


@pytest.mark.parametrize("error", UNFIT, ids=lambda error: type(error).__name__)
async def test_an_error_that_fits_no_row_says_nothing_of_the_money(error: ProviderError) -> None:
    with pytest.raises(SubmitUnknownError):
        await guarded(error).submit(SUBMISSION, KEY)

    told = guarded(Submitted(operation=OPERATION, progress=Failed(error=error)))
    assert await told.submit(SUBMISSION, KEY) == Submitted(operation=OPERATION)


@pytest.mark.parametrize(
    "receipt",
    [
        None,
        "1",
        Submitted(operation=cast("Operation", None)),
        Submitted(operation=replace(OPERATION, id="")),
        Submitted(operation=replace(OPERATION, id=cast("str", 7))),
        Submitted(operation=replace(OPERATION, extra={"at": cast("Any", object())})),
        Submitted(operation=replace(OPERATION, extra={"at": "\0"})),
    ],
)
async def test_a_receipt_that_names_nothing_to_follow_is_none(receipt: object) -> None:
    with pytest.raises(SubmitUnknownError):
        await guarded(receipt).submit(SUBMISSION, KEY)


async def test_a_receipt_is_kept_whatever_else_is_said_with_it() -> None:
    stranger = replace(OPERATION, provider="sora", credential_id="another")
    said = Submitted(operation=stranger, progress=cast("Progress", "soon"))

    assert await guarded(said).submit(SUBMISSION, KEY) == Submitted(operation=OPERATION)


@pytest.mark.parametrize(
    "progress",
    [
        None,
        "running",
        Succeeded(assets=()),
        Succeeded(assets=(cast("Asset", "https://acme.example/1.mp4"),)),
        Succeeded(assets=(replace(VIDEO, uri=cast("str", None)),)),
        Failed(error=cast("Any", ValueError("no"))),
    ],
)
async def test_a_look_that_says_nothing_is_no_verdict(progress: object) -> None:
    with pytest.raises(PluginFailedError):
        await guarded(progress).poll(OPERATION, KEY)


async def test_figures_that_are_none_are_left_out() -> None:
    running = Running(percent=cast("int", "40"), poll_after_s=float("inf"))
    done = Succeeded(assets=(VIDEO,), expires_at=cast("datetime", "tomorrow"))
    failed = Failed(error=ContentBlockedError("no"), charged=cast("bool", None))

    assert await guarded(running).poll(OPERATION, KEY) == Running(percent=40)
    assert await guarded(done).poll(OPERATION, KEY) == Succeeded(assets=(VIDEO,))
    verdict = await guarded(failed).poll(OPERATION, KEY)
    assert isinstance(verdict, Failed)
    assert verdict.charged is True  # nobody said that it is free


@pytest.mark.parametrize("found", [None, [OPERATION], Listing(candidates=cast("Any", ("1",)))])
async def test_a_list_that_is_none_proves_nothing(found: object) -> None:
    with pytest.raises(PluginFailedError):
        await DEEDS["find_recent"](guarded(found))


@pytest.mark.parametrize(
    "told",
    [
        None,
        {"1": Running()},
        Listing(candidates=(OPERATION,)),
        Overview(found=cast("Any", [("1", Running())]), pages=1),
        Overview(found={"1": cast("Progress", "running")}, pages=1),
        Overview(found={"1": Running()}, pages=-1),
        Overview(found={"1": Running()}, pages=cast("int", "1")),
        Overview(found={"1": Running()}, pages=True),
    ],
)
async def test_an_overview_that_is_none_tells_of_nobody(told: object) -> None:
    with pytest.raises(PluginFailedError, match=r"look_through"):
        await DEEDS["look_through"](guarded(told))


async def test_a_list_is_believed_in_what_it_plainly_says() -> None:
    found = Listing(candidates=[OPERATION], trusted=cast("bool", "yes"))  # type: ignore[arg-type]  # as they do

    assert await DEEDS["find_recent"](guarded(found)) == Listing(candidates=(OPERATION,))


async def test_an_overview_is_of_operations_and_of_no_more_pages_than_were_wanted() -> None:
    named = Overview(found={"1": Running(), cast("str", 2): Running()}, pages=10**400)

    assert await DEEDS["look_through"](guarded(named)) == Overview(found={"1": Running()}, pages=1)


def test_it_can_list_only_if_its_package_can() -> None:
    plain = foreign(cast("Provider", Whatever(None)), "acme")

    assert not isinstance(plain, FindsRecent | ListsVideos)
    assert isinstance(guarded(None), FindsRecent)
    assert isinstance(guarded(None), ListsVideos)


@pytest.mark.parametrize("built", [None, "a provider", object()])
def test_what_is_no_provider_is_a_broken_plug_in(built: object) -> None:
    with pytest.raises(PluginBrokenError, match="without submit, poll"):
        foreign(cast("Provider", built), "acme")


# --- time ---


SOON = Limits(submit_s=0.01, answer_s=0.01, close_s=0.01)


class Silent(AlsoLists):
    """Answers nothing; the test says what comes of it if it is interrupted."""

    async def _never(self) -> Any:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if self._does is None:
                raise
            return self._do()

    async def submit(self, *_: object) -> Any:
        return await self._never()

    async def poll(self, *_: object) -> Any:
        return await self._never()

    async def accepts(self, *_: object) -> Any:
        return await self._never()

    async def find_recent(self, *_: object) -> Any:
        return await self._never()

    async def look_through(self, *_: object, pages: int = 1) -> Any:
        return await self._never()

    async def aclose(self) -> None:
        await self._never()


def silent(does: object = None) -> Foreign:
    return foreign(cast("Provider", Silent(does)), "acme", SOON)


@pytest.mark.parametrize("deed", ["poll", "accepts", "find_recent", "look_through"])
@pytest.mark.parametrize("words", [None, TransientError("cut"), RuntimeError("cut")])
async def test_what_does_not_answer_in_time_is_interrupted(deed: str, words: object) -> None:
    with pytest.raises(PluginFailedError, match=rf"did not answer within 0\.01 s in {deed}"):
        await DEEDS[deed](silent(words))


@pytest.mark.parametrize("words", [None, TransientError("not sent"), InputRejectedError("no")])
async def test_a_submit_that_does_not_answer_in_time_may_have_been_accepted(words: object) -> None:
    with pytest.raises(SubmitUnknownError, match=r"within 0\.01 s in submit"):
        await silent(words).submit(SUBMISSION, KEY)


async def test_a_receipt_that_comes_for_all_that_is_kept() -> None:
    late = Submitted(operation=OPERATION)

    assert await silent(late).submit(SUBMISSION, KEY) == late


async def test_an_end_that_never_comes_holds_up_nobody() -> None:
    await silent().aclose()


# --- the bytes ---


@asynccontextmanager
async def a_result(chunks: object, end: BaseException | None = None) -> AsyncIterator[ResultStream]:
    async def each() -> AsyncIterator[Any]:
        for chunk in cast("Any", chunks):
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk

    yield ResultStream(chunks=each(), content_type="video/mp4", size_bytes=cast("int", "many"))
    if end is not None:
        raise end


async def test_good_bytes_come_through() -> None:
    assert await all_of(guarded(a_result([b"a", bytearray(b"b")]))) == b"ab"


@pytest.mark.parametrize(
    "opened",
    [
        lambda: None,
        lambda: a_result(["text"]),
        lambda: a_result([b"a", RuntimeError("cut")]),
        lambda: a_result([b"a", SystemExit(3)]),
        lambda: a_result([b"a"], SystemExit(3)),
        lambda: a_result([b"a", WordlessError("cut")]),
        lambda: a_result([b"a"], WordlessError("cut")),
        lambda: a_result([b"a"], LeaseLostError("not its own to say")),
        lambda: a_result(None),
    ],
    ids=[
        *("none", "text", "raises amid", "exits amid", "exits at the end", "unfit amid"),
        *("unfit at the end", "not its own at the end", "no bytes"),
    ],
)
async def test_bytes_that_are_none_are_a_download_to_make_again(
    opened: Callable[[], object],
) -> None:
    with pytest.raises(PluginFailedError):
        await all_of(guarded(opened()))


async def test_what_happens_to_those_who_read_is_theirs() -> None:
    with pytest.raises(GenerationFailedError):
        async with guarded(a_result([b"a"])).open_result(OPERATION, VIDEO, KEY):
            raise GenerationFailedError("ours")


async def test_somebody_else_s_cancellation_is_none_of_its_faults() -> None:
    class Sleeps(Whatever):
        async def poll(self, _operation: Operation, _credential: Credential) -> Any:
            await asyncio.sleep(60)

    async with asyncio.TaskGroup() as group:
        look = group.create_task(
            foreign(cast("Provider", Sleeps(None)), "acme").poll(OPERATION, KEY)
        )
        await asyncio.sleep(0)
        look.cancel()
    assert look.cancelled()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await foreign(cast("Provider", Sleeps(None)), "acme").poll(OPERATION, KEY)


@pytest.mark.parametrize("error", [*RAISED, *UNFIT], ids=lambda error: type(error).__name__)
async def test_what_its_end_raises_holds_up_nobody(error: BaseException) -> None:
    await guarded(error).aclose()
