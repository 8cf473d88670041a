"""
What the makers of a provider tell of its wire format, so that the conformance kit can try it.

    wire = wires(Format(name="acme", request=VideoRequest(…), body={…}, carries=…))

`wires` makes the fixture that every sentence of `provider_conformance` asks for: the provider, as
the catalog builds it, against its simulator, with a key that is worth nothing.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from PIL import Image

from vidgen import catalog
from vidgen.errors import ProviderError
from vidgen.job import ImageRole, JsonValue, Operation, VideoRequest
from vidgen.providers.protocol import (
    Asset,
    Credential,
    ImageBytes,
    Progress,
    Provider,
    Submission,
    Succeeded,
)
from vidgen.providers.registry import Providers, ProvidersConfig, build
from vidgen.simulator.control import ProviderSimulator, Rule
from vidgen.simulator.server import SimulatorServer

PROMPT = "a red kite over a grey sea, slowly turning into the evening light"
KEY = "sk-secret-of-the-test"
CLIP = bytes(range(256)) * 1200
# What each of them says: its argument, and the seconds that shall be heard.
HINTS: Mapping[str, tuple[str, float]] = {
    "429-retry-after": ("7", 7),
    "429-retry-after-ms": ("2500", 2.5),
    "429-retry-date": ("30", 30),
    "503-retry-after": ("9", 9),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """
    One wire format: what the sentences of the conformance suite have to know of it.

    Attributes:
        name: Of the tests.
        request: With every default filled in, 720p and wide where it can be.
        body: What exactly is submitted for it.
        carries: Whether a submitted body has an image in it; None if it takes no first frame.
        settings: Variables beside those that lead to the simulator.
        dialect: Whose manners the simulator has; None leaves it its own.
        unknown_words: The simulator can answer a look with a word that nobody knows.
        wrong_secret: A key that is refused.
        tries_keys: The vendor has something free to try a key with.
        refusals: Where a refused submit has another class than with most; None: no such refusal.
        look_refusals: The same of a refused look.
        failed: Verdicts of the simulator that are failures, of whatever wording.
        blocked: Those that are blocked content.
        charges_failures: Failures may be billed.
        money: Refusals that mean that the money is used up.
        hints: Refusals that tell how long to wait, with their argument and the seconds.
        inline: A download is a look; nothing is fetched by an address.
        looks_deliver: A look has the video in it, though it is then fetched by an address.
        long_looks: An answer may have a video inside, so a long one is read, and not kept.
        long_receipts: The same of the answer to a submit.
        at_once: The receipt is the result, so that no video is ever seen on its way.
        renews_tokens: A refused token is replaced once, so it has to be refused twice.
        not_ready: Statuses that a download has for a moment after the end.
        operation_id: Of an operation that such a server could have.
        operation_extra: What is stored with it.
        result: The address of its result; `{url}` is the base URL, `{origin}` what it begins with.
        twin: A look is the same as that of another format, so it is not tried twice.
        vague_list: Of `find_recent`: the list does not tell enough to adopt a video from, so that
            what was accepted is doubtful there.
        list_length: Of `find_recent`: so many videos are more than a page of the list holds.
    """

    name: str
    request: VideoRequest
    body: Mapping[str, JsonValue]
    carries: Callable[[dict[str, Any], ImageBytes], bool] | None
    settings: Mapping[str, str] = field(default_factory=dict)
    unknown_words: bool = True
    dialect: str | None = None
    wrong_secret: str = "wrong"  # noqa: S105  the simulators refuse it
    tries_keys: bool = True
    refusals: Mapping[str, type[ProviderError] | None] = field(default_factory=dict)
    look_refusals: Mapping[str, type[ProviderError] | None] = field(default_factory=dict)
    failed: tuple[str, ...] = ("failed", "failed-message", "failed-silent")
    blocked: tuple[str, ...] = ("moderation", "filtered", "prompt-blocked")
    charges_failures: bool = False
    money: tuple[str, ...] = ()
    hints: Mapping[str, tuple[str, float]] = field(default_factory=lambda: HINTS)
    inline: bool = False
    looks_deliver: bool = False
    long_looks: bool = False
    long_receipts: bool = False
    at_once: bool = False
    renews_tokens: bool = False
    not_ready: tuple[str, ...] = ()
    operation_id: str = "request-1"
    operation_extra: Mapping[str, JsonValue] = field(default_factory=dict)
    result: str = "{url}/video.mp4"
    twin: bool = False
    vague_list: bool = False
    list_length: int = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """One provider on one wire format, with the simulator at its other end."""

    format: Format
    simulators: SimulatorServer
    config: ProvidersConfig
    simulator: ProviderSimulator
    providers: Providers
    request: VideoRequest

    @property
    def name(self) -> str:
        """Of the format."""
        return self.format.name

    @property
    def provider(self) -> Provider:
        """The provider itself."""
        return self.providers.get(self.request.provider)

    @property
    def credential(self) -> Credential:
        """The server's own key."""
        assert self.request.model is not None
        return self.providers.credential(self.request.provider, self.request.model)

    def submission(self, *images: ImageBytes, **changes: Any) -> Submission:
        """A paid try of the format's request, with *changes*."""
        request = replace(self.request, **changes)
        return Submission(job_id=uuid4(), attempt=1, request=request, images=images)

    def script(self, *rules: Rule) -> None:
        """Let happen what *rules* say."""
        self.simulator.script(*rules)

    async def submit(self, *images: ImageBytes, **changes: Any) -> Operation:
        """Start one generation."""
        submission = self.submission(*images, **changes)
        return (await self.provider.submit(submission, self.credential)).operation

    async def poll(self, operation: Operation) -> Progress:
        """Look once."""
        return await self.provider.poll(operation, self.credential)

    async def download(self, operation: Operation, asset: Asset) -> bytes:
        """All bytes of *asset*."""
        async with self.provider.open_result(operation, asset, self.credential) as stream:
            return b"".join([chunk async for chunk in stream.chunks])


def an_image(role: ImageRole = "first_frame", size: tuple[int, int] = (1280, 720)) -> ImageBytes:
    """A PNG of *size* pixels."""
    buffer = BytesIO()
    Image.new("RGB", size, "navy").save(buffer, "PNG")
    return ImageBytes(role=role, content_type="image/png", data=buffer.getvalue())


async def finished_asset(wire: Wire) -> tuple[Operation, Asset]:
    """An operation that has succeeded, and its video."""
    operation = await wire.submit()
    progress = await wire.poll(operation)
    assert isinstance(progress, Succeeded)
    return operation, progress.assets[0]


@asynccontextmanager
async def opened(
    wanted: Format, simulators: SimulatorServer, config: ProvidersConfig
) -> AsyncIterator[Wire]:
    """A wire in the format *wanted* with connections of its own, closed at the end."""
    providers = build(config.over(**wanted.settings))
    if wanted.dialect is not None:
        simulators.simulators[wanted.request.provider].dialect = wanted.dialect
    wire = Wire(
        format=wanted,
        simulators=simulators,
        config=config,
        simulator=simulators.simulators[wanted.request.provider],
        providers=providers,
        request=wanted.request,
    )
    try:
        yield wire
    finally:
        await providers.aclose()


def wires(*formats: Format) -> Any:
    """The fixture `wire`, one format after the other; for pytest-asyncio."""

    @pytest_asyncio.fixture(params=formats, ids=lambda each: each.name)
    async def wire(request: pytest.FixtureRequest) -> AsyncIterator[Wire]:
        wanted: Format = request.param
        async with SimulatorServer(generation_s=0, only={wanted.request.provider}) as simulators:
            simulators.simulators[wanted.request.provider].clip = CLIP
            async with opened(wanted, simulators, config_of(simulators)) as found:
                yield found

    return wire


def config_of(simulators: SimulatorServer) -> ProvidersConfig:
    """What leads to *simulators*, with keys that they take."""
    addresses = simulators.addresses()
    return ProvidersConfig.of(**addresses, **dict.fromkeys(catalog.key_variables(addresses), KEY))
