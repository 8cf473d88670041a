"""
The sentences that hold for every provider, on every wire format it speaks. One set for ours and for
those of other packages:

    from vidgen.testing.provider_conformance import *
    from vidgen.testing.provider_wire import Format, wires

    wire = wires(Format(…))

They need pytest-asyncio and what `vidgen[embedded]` brings. A sentence that has no meaning for a
format holds without a look.
"""

import asyncio
import socket
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from vidgen import catalog
from vidgen.catalog.plugins import faults_of
from vidgen.errors import (
    AuthError,
    ContentBlockedError,
    GenerationFailedError,
    InputRejectedError,
    InvalidRequestError,
    ModelRetiredError,
    NotReadyError,
    OperationLostError,
    ProtocolError,
    ProviderError,
    QuotaExhaustedError,
    RateLimitedError,
    ResultExpiredError,
    ResultInvalidError,
    SubmitUnknownError,
    TransientError,
)
from vidgen.job import Operation, VideoRequest
from vidgen.providers.protocol import (
    MAX_CHARGE_MICROS,
    Credential,
    Failed,
    Listing,
    Overview,
    Running,
    Submission,
    Succeeded,
)
from vidgen.providers.registry import WORTH_A_PAGE, FindsRecent, ListsVideos
from vidgen.simulator.control import Rule
from vidgen.simulator.faults import Deed
from vidgen.testing.provider_wire import (
    CLIP,
    HINTS,
    KEY,
    PROMPT,
    Wire,
    an_image,
    finished_asset,
    opened,
)

SUBMIT_REFUSALS: dict[str, type[ProviderError]] = {
    "307": InputRejectedError,
    "308": InputRejectedError,
    "400": InputRejectedError,
    "400-image": InputRejectedError,
    "400-moderation": ContentBlockedError,
    "400-retired": ModelRetiredError,
    "400-api-key": AuthError,
    "401": AuthError,
    "403": AuthError,
    "404-model": ModelRetiredError,
    "410": ModelRetiredError,
    "413": InputRejectedError,
    "422": InputRejectedError,
    "429": RateLimitedError,
    "429-per-minute": RateLimitedError,
    "503": TransientError,
    "503-slow-down": TransientError,
    "503-overloaded": TransientError,
    "503-connection-failure": TransientError,
}
AMBIGUOUS = (
    *("disconnect", "accept-then-disconnect"),
    *("301", "302", "303", "408", "409", "499", "500", "502", "504"),
    *("accept-then-303", "accept-then-500", "accept-then-502"),
    "accept-then-503-connection-termination",
)
UNREADABLE = ("not-json", "html", "json-list", "json-null", "half-json", "missing-id", "empty")
POLL_REFUSALS: dict[str, type[ProviderError]] = {
    "401": AuthError,
    "403": AuthError,
    "404": OperationLostError,
    "408": TransientError,
    "409": TransientError,
    "429": RateLimitedError,
    "500": TransientError,
    "502": TransientError,
    "503": TransientError,
    "504": TransientError,
    "disconnect": TransientError,
    "not-json": ProtocolError,
    "html": ProtocolError,
    "json-list": ProtocolError,
    "json-null": ProtocolError,
    "half-json": ProtocolError,
    "empty": ProtocolError,
}
# The last for good: a client may ask again by itself where a kept connection was cut.
NO_LIST: dict[str, int | None] = {
    **dict.fromkeys(("401", "404", "429", "500", "502", "503", *UNREADABLE), 1),
    "disconnect": None,
}
CREDENTIAL_HEADERS = {"authorization", "api-key", "x-goog-api-key", "cookie"}


async def failure(wire: Wire, verdict: str) -> Failed:
    """How an operation ended that the provider calls failed."""
    wire.script(Rule(deed="poll", outcome=verdict))
    progress = await wire.poll(await wire.submit())
    assert isinstance(progress, Failed)
    return progress


def deliver(wire: Wire, outcome: str, argument: str | None = None) -> None:
    """Script the download; where a look is answered alike it is the second."""
    nth = 2 if wire.format.inline or wire.format.looks_deliver else None
    wire.script(Rule(deed="content", outcome=outcome, argument=argument, nth=nth))


def submitted_body(wire: Wire) -> dict[str, Any]:
    body = wire.simulator.of("submit")[-1].body
    assert isinstance(body, dict)
    return body


async def test_a_submit_asks_for_exactly_what_was_wanted(wire: Wire) -> None:
    await wire.submit()

    assert submitted_body(wire) == wire.format.body


async def test_a_right_key_is_accepted_and_a_wrong_one_refused_for_nothing(wire: Wire) -> None:
    wrong = Credential(id="server", secret=wire.format.wrong_secret)
    model = wire.request.model or ""

    assert await wire.provider.accepts(model, wire.credential) is wire.format.tries_keys
    if not wire.format.tries_keys:
        return
    with pytest.raises(AuthError):
        await wire.provider.accepts(model, wrong)
    assert wire.simulator.bill == []


async def test_a_submit_is_billed_once_with_the_length_that_was_asked_for(wire: Wire) -> None:
    operation = await wire.submit()

    assert [(each.operation_id, each.seconds) for each in wire.simulator.bill] == [
        (operation.id, wire.request.seconds)
    ]


async def test_an_operation_can_be_followed_from_another_process(wire: Wire) -> None:
    operation = await wire.submit()

    async with opened(wire.format, wire.simulators, wire.config) as other:
        assert isinstance(await other.poll(operation), Succeeded)


async def test_what_a_video_cost_is_a_whole_number_of_micro_dollars(wire: Wire) -> None:
    progress = await wire.poll(await wire.submit())

    assert isinstance(progress, Succeeded)
    told = progress.cost_micros
    assert told is None or (type(told) is int and 0 <= told <= MAX_CHARGE_MICROS)


async def test_an_operation_carries_no_secret(wire: Wire) -> None:
    operation = await wire.submit()

    assert KEY not in repr(operation)
    assert "private_key" not in repr(operation)
    assert operation.credential_id == "server"


async def test_the_bytes_of_a_finished_video_arrive_unchanged(wire: Wire) -> None:
    operation, asset = await finished_asset(wire)

    assert await wire.download(operation, asset) == CLIP


async def test_a_video_on_its_way_is_running(wire: Wire) -> None:
    if wire.format.at_once:
        return
    wire.simulator.generation_s = 60

    progress = await wire.poll(await wire.submit())

    assert isinstance(progress, Running)


async def test_the_first_frame_goes_along_byte_for_byte(wire: Wire) -> None:
    image = an_image()
    if wire.format.carries is None:
        return

    await wire.submit(image)

    assert wire.format.carries(submitted_body(wire), image)


@pytest.mark.parametrize(("outcome", "kind"), SUBMIT_REFUSALS.items(), ids=str)
async def test_each_refused_submit_has_its_class_and_costs_nothing(
    wire: Wire, outcome: str, kind: type[ProviderError]
) -> None:
    wanted = wire.format.refusals.get(outcome, kind)
    if wanted is None:
        return
    wire.script(Rule(deed="submit", outcome=outcome))

    with pytest.raises(ProviderError) as caught:
        await wire.submit()

    assert type(caught.value) is wanted
    assert wire.simulator.bill == []


@pytest.mark.parametrize("outcome", [*AMBIGUOUS, *UNREADABLE, "huge"])
async def test_a_submit_that_may_have_arrived_is_unknown_and_not_sent_again(
    wire: Wire, outcome: str
) -> None:
    if outcome == "huge" and wire.format.long_receipts:
        return  # a receipt like any other
    wire.script(Rule(deed="submit", outcome=outcome))

    with pytest.raises(SubmitUnknownError):
        await wire.submit()

    assert wire.simulator.counts["submit"] == 1


async def test_a_submit_that_never_left_may_be_made_again(wire: Wire) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    vendor = catalog.vendor(wire.request.provider)
    variables = {each.base_url_variable: closed for each in vendor.interfaces}
    nowhere = wire.config.over(**variables)

    async with opened(wire.format, wire.simulators, nowhere) as unreachable:
        with pytest.raises(TransientError):
            await unreachable.submit()


@pytest.mark.parametrize("outcome", [*HINTS, "429-retry-info"])
@pytest.mark.parametrize("deed", ["submit", "poll"])
async def test_a_wish_to_wait_is_passed_on(wire: Wire, deed: Deed, outcome: str) -> None:
    if outcome not in wire.format.hints:
        return
    argument, seconds = wire.format.hints[outcome]
    wire.script(Rule(deed=deed, outcome=outcome, argument=argument))

    with pytest.raises((RateLimitedError, TransientError)) as caught:
        await wire.poll(await wire.submit())

    assert caught.value.retry_after_s == pytest.approx(seconds, abs=2)


async def test_a_day_s_quota_is_not_a_minute_s(wire: Wire) -> None:
    for outcome in wire.format.money:
        wire.script(Rule(deed="submit", outcome=outcome, times=1))

        with pytest.raises(QuotaExhaustedError):
            await wire.submit()


@pytest.mark.parametrize(("outcome", "kind"), POLL_REFUSALS.items(), ids=str)
async def test_each_refused_look_has_its_class(
    wire: Wire, outcome: str, kind: type[ProviderError]
) -> None:
    wanted = wire.format.look_refusals.get(outcome, kind)
    if wanted is None:
        return
    operation = await wire.submit()
    wire.script(Rule(deed="poll", outcome=outcome))

    with pytest.raises(ProviderError) as caught:
        await wire.poll(operation)

    assert type(caught.value) is wanted


@pytest.mark.parametrize("verdict", ["failed", "failed-message", "failed-silent"])
async def test_a_failed_generation_is_a_verdict_and_tells_whether_it_is_charged(
    wire: Wire, verdict: str
) -> None:
    if verdict not in wire.format.failed:
        return

    failed = await failure(wire, verdict)

    assert type(failed.error) is GenerationFailedError
    assert failed.charged is wire.format.charges_failures


@pytest.mark.parametrize(
    "verdict",
    ["failed", "failed-message", "failed-silent", "moderation", "filtered", "prompt-blocked"],
)
async def test_what_a_failure_is_said_to_cost_is_what_is_billed_for_it(
    wire: Wire, verdict: str
) -> None:
    if verdict not in (*wire.format.failed, *wire.format.blocked):
        return

    failed = await failure(wire, verdict)

    told = failed.cost_micros
    if told is None:
        return  # then *charged* is all there is
    assert type(told) is int
    assert 0 <= told <= MAX_CHARGE_MICROS
    assert failed.charged is (told > 0)
    assert told == sum(map(wire.simulator.owed_micros, wire.simulator.bill))


@pytest.mark.parametrize("verdict", ["moderation", "filtered", "prompt-blocked"])
async def test_blocked_content_is_told_apart_from_a_failure(wire: Wire, verdict: str) -> None:
    if verdict not in wire.format.blocked:
        return

    failed = await failure(wire, verdict)

    assert type(failed.error) is ContentBlockedError
    assert PROMPT not in failed.error.message


async def test_an_answer_that_is_far_too_long_is_not_kept(wire: Wire) -> None:
    operation = await wire.submit()
    wire.script(Rule(deed="poll", outcome="huge", argument="64M"))

    tracemalloc.start()
    try:
        if wire.format.long_looks:
            assert isinstance(await wire.poll(operation), Running)
        else:
            with pytest.raises(ProtocolError):
                await wire.poll(operation)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 16 * 1024 * 1024


@pytest.mark.parametrize("outcome", ["truncated", "truncated-chunked"])
async def test_a_download_that_breaks_off_is_no_result(wire: Wire, outcome: str) -> None:
    deliver(wire, outcome)
    operation, asset = await finished_asset(wire)

    with pytest.raises(ResultInvalidError):
        await wire.download(operation, asset)


async def test_a_video_that_is_gone_is_expired(wire: Wire) -> None:
    operation, asset = await finished_asset(wire)
    if wire.format.inline:
        wire.script(Rule(deed="poll", outcome="410"))
    wire.script(Rule(deed="content", outcome="410"))

    with pytest.raises((ResultExpiredError, OperationLostError)):
        await wire.download(operation, asset)


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        ("401", AuthError),
        ("429", RateLimitedError),
        ("500", TransientError),
        ("503", TransientError),
    ],
)
async def test_each_refused_download_has_its_class(
    wire: Wire, outcome: str, kind: type[ProviderError]
) -> None:
    operation, asset = await finished_asset(wire)
    # Inline, the download is a look.
    deed: Deed = "poll" if wire.format.inline else "content"
    wire.script(Rule(deed=deed, outcome=outcome))

    with pytest.raises(ProviderError) as caught:
        await wire.download(operation, asset)

    assert type(caught.value) is kind


async def test_a_redirect_on_the_same_host_is_followed(wire: Wire) -> None:
    if wire.format.inline:
        return  # nothing is fetched there by an address
    deliver(wire, "redirect")
    operation, asset = await finished_asset(wire)

    assert await wire.download(operation, asset) == CLIP


async def test_a_key_never_leaves_its_origin(wire: Wire) -> None:
    if wire.format.inline:
        return  # nothing is fetched there by an address
    lenient_config = replace(wire.config, allow_private_addresses=True)
    async with opened(wire.format, wire.simulators, lenient_config) as lenient:
        deliver(lenient, "redirect-foreign")
        operation, asset = await finished_asset(lenient)

        data = await lenient.download(operation, asset)

    assert data == CLIP
    assert len(wire.simulators.foreign.received) == 1
    for request in wire.simulators.foreign.received:
        assert not CREDENTIAL_HEADERS & request.headers.keys()
        assert KEY not in f"{request.path}{request.query}{request.headers}"


async def test_a_private_address_elsewhere_is_not_visited(wire: Wire) -> None:
    if wire.format.inline:
        return  # nothing is fetched there by an address
    deliver(wire, "redirect-foreign")
    operation, asset = await finished_asset(wire)

    with pytest.raises(ProtocolError, match="private address"):
        await wire.download(operation, asset)

    assert not wire.simulators.foreign.received


async def test_a_redirect_that_never_ends_is_given_up(wire: Wire) -> None:
    if wire.format.inline:
        return  # nothing is fetched there by an address
    operation, asset = await finished_asset(wire)
    wire.script(Rule(deed="content", outcome="redirect-loop"))

    with pytest.raises(ProtocolError, match="redirects"):
        await wire.download(operation, asset)

    assert wire.simulator.counts["content"] <= 6


async def test_a_key_is_not_sent_to_where_an_old_operation_lives(wire: Wire) -> None:
    operation = await wire.submit()
    foreign = wire.simulators.foreign.origin

    with pytest.raises(OperationLostError, match=f"_BASE_URL={foreign}/v1 again"):
        await wire.poll(replace(operation, endpoint=f"{foreign}/v1"))

    assert not wire.simulators.foreign.received


async def test_errors_hold_neither_key_nor_prompt(wire: Wire) -> None:
    for outcome in (*SUBMIT_REFUSALS, *wire.format.money):
        if wire.format.refusals.get(outcome, ProviderError) is None:
            continue
        twice = outcome == "401" and wire.format.renews_tokens
        wire.script(Rule(deed="submit", outcome=outcome, times=2 if twice else 1))

        with pytest.raises(ProviderError) as caught:
            await wire.submit()

        assert KEY not in caught.value.message
        assert PROMPT not in caught.value.message


async def test_a_refused_look_tells_status_and_code_and_no_words(wire: Wire) -> None:
    operation = await wire.submit()
    wire.script(Rule(deed="poll", outcome="429"))

    with pytest.raises(RateLimitedError, match=r"refused the poll \(\d{3}( [\w.]+)?\)\.$"):
        await wire.poll(operation)


async def test_a_large_video_takes_little_memory(wire: Wire) -> None:
    size = 50 * 1024 * 1024
    wire.script(Rule(deed="content", outcome="size", argument="50M"))

    tracemalloc.start()
    try:
        operation, asset = await finished_asset(wire)
        received = 0
        async with wire.provider.open_result(operation, asset, wire.credential) as stream:
            async for chunk in stream.chunks:
                received += len(chunk)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert received == size
    assert peak < 12 * 1024 * 1024


async def test_a_download_left_early_leaves_nothing_behind(wire: Wire) -> None:
    wire.script(Rule(deed="content", outcome="size", argument="20M"))
    operation, asset = await finished_asset(wire)

    async with (
        asyncio.timeout(5),
        wire.provider.open_result(operation, asset, wire.credential) as stream,
    ):
        async for _ in stream.chunks:
            break


async def test_a_finished_video_that_is_not_handed_out_yet_is_asked_for_again(wire: Wire) -> None:
    operation, asset = await finished_asset(wire)
    for status in wire.format.not_ready:
        wire.script(Rule(deed="content", outcome="not-ready", argument=status, times=1))

        with pytest.raises(NotReadyError):
            await wire.download(operation, asset)


async def test_the_declaration_is_sound(wire: Wire) -> None:
    vendor = catalog.vendor(wire.request.provider)
    others = [each for each in catalog.vendors() if each is not vendor]

    assert faults_of(vendor, vendor.name, others) == []


PARAMETERS = ("seconds", "size", "aspect_ratio", "resolution", "seed", "negative_prompt", "audio")


@pytest.mark.parametrize("name", [*PARAMETERS, "extra"])
async def test_what_a_request_may_name_is_refused_or_sent(wire: Wire, name: str) -> None:
    for value in _others(wire, name):
        try:
            quote = catalog.quote(
                _with(wire.request, name, value),
                today=date(2026, 1, 1),
                endpoints=wire.providers.config.endpoints,
                allow_unknown_models=False,
            )
        except InvalidRequestError:
            continue
        submission = replace(wire.submission(), request=quote.request)
        await wire.provider.submit(submission, wire.credential)

        assert submitted_body(wire) != wire.format.body, f"{name}={value!r} is passed over"


async def test_a_word_that_nobody_knows_is_no_verdict(wire: Wire) -> None:
    if not wire.format.unknown_words:
        return
    wire.script(Rule(deed="poll", outcome="status", argument="dreaming"))

    progress = await wire.poll(await wire.submit())

    assert isinstance(progress, Running)


async def test_what_was_accepted_is_found_again(wire: Wire) -> None:
    if not isinstance(wire.provider, FindsRecent):
        return
    submission = wire.submission()
    receipt = await wire.provider.submit(submission, wire.credential)
    lost = wire.submission(prompt="a submit whose receipt is lost")
    wire.script(Rule(deed="submit", outcome="accept-then-disconnect"))
    with pytest.raises(SubmitUnknownError):
        await wire.provider.submit(lost, wire.credential)

    known, unknown = await _found(wire, submission), await _found(wire, lost)

    if wire.format.vague_list:
        assert receipt.operation.id in _ids(known)
        assert wire.simulator.bill[-1].operation_id in _ids(unknown)
        return
    assert [each.id for each in known.candidates] == [receipt.operation.id]
    assert [each.id for each in unknown.candidates] == [wire.simulator.bill[-1].operation_id]
    for found in (*known.candidates, *unknown.candidates):
        # Attempts tell by these whose it is, and it is followed from now on.
        assert replace(found, id="", extra={}) == replace(receipt.operation, id="", extra={})
        assert isinstance(await wire.poll(found), Succeeded)


async def test_what_was_never_sent_is_not_found(wire: Wire) -> None:
    if not isinstance(wire.provider, FindsRecent):
        return
    await wire.submit(prompt="somebody else's video")

    found = await _found(wire, wire.submission())

    assert found.candidates == ()
    assert found.doubtful == () or wire.format.vague_list


async def test_a_list_that_cannot_be_read_does_not_prove_that_nothing_was_sent(wire: Wire) -> None:
    if not isinstance(wire.provider, FindsRecent):
        return
    lost = wire.submission()
    await wire.provider.submit(lost, wire.credential)
    for outcome, times in NO_LIST.items():
        wire.script(Rule(deed="list", outcome=outcome, times=times))

        assert not await _is_disproved(wire, lost), outcome

        assert wire.simulator.counts[outcome], f"the simulator's list did not obey {outcome}"


async def test_only_a_list_read_to_its_end_proves_that_nothing_was_sent(wire: Wire) -> None:
    if not isinstance(wire.provider, FindsRecent):
        return
    lost = wire.submission()
    await wire.provider.submit(lost, wire.credential)
    await _many_more(wire)

    assert not await _is_disproved(wire, lost)

    for outcome in ("500", "half-json", "missing-id"):
        wire.script(Rule(deed="list", outcome=outcome, nth=2))
        assert not await _is_disproved(wire, lost), f"{outcome} in place of the second page"


async def test_a_list_says_the_same_as_a_look(wire: Wire) -> None:
    if not isinstance(wire.provider, ListsVideos):
        return
    verdicts = (*wire.format.failed, *wire.format.blocked)
    wire.script(*(Rule(deed="poll", outcome=each, prompt=f"end: {each}.") for each in verdicts))
    ended = [await wire.submit(prompt=f"end: {each}.") for each in (*verdicts, "well")]
    wire.simulator.generation_s = 60
    operations = [*ended, *[await wire.submit() for _ in range(WORTH_A_PAGE)]]

    overview = await _listed(wire, operations)

    looks = {each.id: await wire.poll(each) for each in operations}
    assert {name: type(told).__name__ for name, told in overview.found.items()} == {
        name: type(told).__name__ for name, told in looks.items()
    }
    assert overview.pages >= 1


async def test_what_a_list_does_not_show_is_left_out_and_not_failed(wire: Wire) -> None:
    if not isinstance(wire.provider, ListsVideos):
        return
    wire.script(Rule(deed="list", outcome="hidden", argument="600", prompt="not listed yet"))
    shown = [await wire.submit() for _ in range(WORTH_A_PAGE)]
    hidden = [await wire.submit(prompt="not listed yet") for _ in range(WORTH_A_PAGE)]
    deleted = replace(shown[0], id=f"{shown[0].id}0")

    overview = await _listed(wire, [*hidden, deleted, *shown])

    assert overview.found.keys() == {each.id for each in shown}


async def test_a_list_that_cannot_be_read_says_nothing_of_a_video(wire: Wire) -> None:
    if not isinstance(wire.provider, ListsVideos):
        return
    operations = [await wire.submit() for _ in range(WORTH_A_PAGE)]
    for outcome, times in NO_LIST.items():
        wire.script(Rule(deed="list", outcome=outcome, times=times))

        try:
            told = (await _listed(wire, operations)).found
        except ProviderError:
            told = {}

        assert told == {}, outcome
        assert wire.simulator.counts[outcome], f"the simulator's list did not obey {outcome}"


async def _found(wire: Wire, submission: Submission) -> Listing:
    """What is found of *submission*."""
    assert isinstance(wire.provider, FindsRecent)
    since = datetime.now(UTC) - timedelta(minutes=1)
    return await wire.provider.find_recent(submission, since, wire.credential)


async def _is_disproved(wire: Wire, accepted: Submission) -> bool:
    """Whether the list is said to prove that *accepted* was never sent: it would be paid again."""
    try:
        found = await _found(wire, accepted)
    except ProviderError:
        return False
    return found.trusted and not _ids(found)


async def _listed(wire: Wire, operations: Sequence[Operation]) -> Overview:
    assert isinstance(wire.provider, ListsVideos)
    return await wire.provider.look_through(operations, wire.credential, 5)


async def _many_more(wire: Wire) -> None:
    """Videos of somebody else, newer than all others, and more than a page of the list holds."""
    theirs = await wire.submit(prompt="somebody else's video")
    wish = wire.simulator.generations[theirs.id].wish
    for _ in range(wire.format.list_length):
        wire.simulator.accept(replace(wish, operation_id=str(uuid4())), at=0)


def _ids(found: Listing) -> set[str]:
    return {each.id for each in (*found.candidates, *found.doubtful)}


def _others(wire: Wire, name: str) -> list[Any]:
    """Other values for *name* than those of the format's request."""
    model = catalog.vendor(wire.request.provider).model(wire.request.model or "")
    assert model is not None  # a format is of a model that the catalog knows
    known: dict[str, Sequence[Any]] = {
        "seconds": [*model.seconds][:3] or [7],
        "size": [*model.sizes][:3] or ["640x480"],
        "aspect_ratio": model.aspect_ratios[:3] or ["21:9"],
        "resolution": model.resolutions[:3] or ["360p"],
        "seed": [7],
        "negative_prompt": ["rain, and people who run from it"],
        "audio": [True] if model.silent else [False],
        "extra": [{"vidgen_made_this_up": 1}],
    }
    if name == "size" and wire.request.size is None:
        # A convenience: what it stands for has to differ.
        mine = (wire.request.aspect_ratio, wire.request.resolution)
        return [size for size in known["size"] if model.sizes.get(size) != mine]
    return [value for value in known[name] if value != getattr(wire.request, name)]


def _with(request: VideoRequest, name: str, value: Any) -> VideoRequest:
    if name == "size":
        request = replace(request, aspect_ratio=None, resolution=None)
    changes: dict[str, Any] = {name: value}
    return replace(request, **changes)


for _name, _sentence in [*globals().items()]:
    if _name.startswith("test_"):
        pytest.mark.asyncio(_sentence)  # for those whose pytest-asyncio wants to be told
