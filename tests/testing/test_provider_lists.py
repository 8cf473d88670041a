"""The kit's sentences about lists can fail: each does for a provider that lies as it forbids."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime

import pytest

from tests.providers.formats import sora as told
from vidgen import catalog
from vidgen.errors import GenerationFailedError, ProviderError
from vidgen.job import Operation
from vidgen.providers import sora
from vidgen.providers.answer import Answer
from vidgen.providers.http import ProviderHttp
from vidgen.providers.protocol import (
    Credential,
    Failed,
    Listing,
    Overview,
    Running,
    Submission,
    Submitted,
)
from vidgen.providers.registry import (
    FindsRecent,
    ListsVideos,
    ProvidersConfig,
    build,
)
from vidgen.providers.sora import SoraProvider
from vidgen.simulator.server import SimulatorServer
from vidgen.testing import provider_conformance as kit
from vidgen.testing.provider_wire import Wire, config_of, opened

Sentence = Callable[[Wire], Awaitable[None]]

NOTHING = Listing(candidates=(), trusted=True)


class Forgetful(SoraProvider):
    """Finds nothing, and is sure of it."""

    async def find_recent(
        self, submission: Submission, since: datetime, credential: Credential
    ) -> Listing:
        return NOTHING


class Greedy(SoraProvider):
    """Takes every video for its own."""

    def __init__(self, base_url: str, auth_style: sora.AuthStyle, http: ProviderHttp) -> None:
        super().__init__(base_url, auth_style, http)
        self._all: list[Operation] = []

    async def submit(self, submission: Submission, credential: Credential) -> Submitted:
        receipt = await super().submit(submission, credential)
        self._all.append(receipt.operation)
        return receipt

    async def find_recent(
        self, submission: Submission, since: datetime, credential: Credential
    ) -> Listing:
        return Listing(candidates=tuple(self._all))


class Credulous(SoraProvider):
    """Takes a list that it cannot read for an empty one."""

    async def find_recent(
        self, submission: Submission, since: datetime, credential: Credential
    ) -> Listing:
        try:
            return await super().find_recent(submission, since, credential)
        except ProviderError:
            return NOTHING


class Hasty(SoraProvider):
    """Is sure of a list of which it has read the first page."""

    async def find_recent(
        self, submission: Submission, since: datetime, credential: Credential
    ) -> Listing:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sora, "MAX_PAGES", 1)
            return replace(await super().find_recent(submission, since, credential), trusted=True)


class Drowsy(SoraProvider):
    """Takes a later page that it cannot read for the end of the list."""

    async def _page(self, after: str | None, credential: Credential) -> Answer:
        if after is None:
            self._first = await super()._page(after, credential)
            return self._first
        try:
            answer = await super()._page(after, credential)
            answer.json()["data"]
        except (ProviderError, KeyError):
            return replace(self._first, body=b'{"data": [], "has_more": false}')
        return answer


class Vague(SoraProvider):
    """Is sure of no video, as where a list tells no prompts."""

    async def find_recent(
        self, submission: Submission, since: datetime, credential: Credential
    ) -> Listing:
        found = await super().find_recent(submission, since, credential)
        return Listing(candidates=(), doubtful=(*found.candidates, *found.doubtful))


class Patient(SoraProvider):
    """Says of every listed video that it runs."""

    async def look_through(
        self, wanted: Sequence[Operation], credential: Credential, pages: int
    ) -> Overview:
        found = (await super().look_through(wanted, credential, pages)).found
        return Overview(found=dict.fromkeys(found, Running()), pages=1)


class Undertaker(SoraProvider):
    """Says of every video that a list does not show that it has failed."""

    async def look_through(
        self, wanted: Sequence[Operation], credential: Credential, pages: int
    ) -> Overview:
        dead = Failed(error=GenerationFailedError("It is not there."))
        try:
            found = (await super().look_through(wanted, credential, pages)).found
        except ProviderError:
            found = {}
        return Overview(found={each.id: found.get(each.id, dead) for each in wanted}, pages=1)


def start_again(wire: Wire, provider: type[SoraProvider]) -> None:
    """With a *provider* in place of ours."""
    wire.simulator.reset()
    wire.simulator.generation_s = 0
    http, address = wire.providers.http, wire.simulator.url
    wire.providers.by_name["sora"] = provider(address, "bearer", http)


LIES: list[tuple[Sentence, type[SoraProvider]]] = [
    (kit.test_what_was_accepted_is_found_again, Forgetful),
    (kit.test_what_was_never_sent_is_not_found, Greedy),
    (kit.test_a_list_that_cannot_be_read_does_not_prove_that_nothing_was_sent, Credulous),
    (kit.test_only_a_list_read_to_its_end_proves_that_nothing_was_sent, Hasty),
    (kit.test_only_a_list_read_to_its_end_proves_that_nothing_was_sent, Drowsy),
    (kit.test_a_list_says_the_same_as_a_look, Patient),
    (kit.test_what_a_list_does_not_show_is_left_out_and_not_failed, Undertaker),
    (kit.test_a_list_that_cannot_be_read_says_nothing_of_a_video, Undertaker),
]


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    async with (
        SimulatorServer(generation_s=0, only={"sora"}) as simulators,
        opened(told.FORMATS[0], simulators, config_of(simulators)) as found,
    ):
        yield found


@pytest.mark.parametrize(("sentence", "lie"), LIES, ids=lambda each: each.__name__)
async def test_a_sentence_about_lists_fails_for_who_breaks_it_and_for_nobody_else(
    wire: Wire, sentence: Sentence, lie: type[SoraProvider]
) -> None:
    await sentence(wire)

    start_again(wire, lie)
    with pytest.raises(AssertionError):
        await sentence(wire)


async def test_a_list_too_vague_to_adopt_from_is_good_for_who_says_so(wire: Wire) -> None:
    told_so = replace(wire, format=replace(wire.format, vague_list=True))

    start_again(wire, Vague)
    await kit.test_what_was_accepted_is_found_again(told_so)

    start_again(wire, Vague)
    with pytest.raises(AssertionError):
        await kit.test_what_was_accepted_is_found_again(wire)

    start_again(wire, Forgetful)
    with pytest.raises(AssertionError):
        await kit.test_what_was_accepted_is_found_again(told_so)


async def test_a_provider_loses_no_list_unnoticed() -> None:
    providers = build(ProvidersConfig())
    names = [each.name for each in catalog.vendors() if catalog.is_ours(each.name)]

    found = {name: providers.get(name) for name in names}

    assert {name for name, each in found.items() if isinstance(each, FindsRecent)} == {
        *("sora", "replicate", "luma", "kling"),
    }
    assert {name for name, each in found.items() if isinstance(each, ListsVideos)} == {
        *("sora", "kling", "seedance"),
    }
    await providers.aclose()
