"""Each wire format that vidgen speaks, against its simulator, for the conformance suite."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any
from uuid import uuid4

from PIL import Image

from vidgen.job import ImageRole, Operation, VideoRequest
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
MODELS = {
    "sora": "sora-2",
    "veo-gemini": "veo-3.1-generate-preview",
    "veo-vertex-gcs": "veo-3.1-generate-001",
    "veo-vertex-inline": "veo-3.1-generate-001",
}
NAMES = tuple(MODELS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """One provider on one wire format, with the simulator at its other end."""

    name: str
    simulators: SimulatorServer
    simulator: ProviderSimulator
    providers: Providers
    request: VideoRequest

    @property
    def provider(self) -> Provider:
        return self.providers.get(self.request.provider)

    @property
    def credential(self) -> Credential:
        assert self.request.model is not None
        return self.providers.credential(self.request.provider, self.request.model)

    def submission(self, *images: ImageBytes, **changes: Any) -> Submission:
        request = replace(self.request, **changes)
        return Submission(job_id=uuid4(), attempt=1, request=request, images=images)

    def script(self, *rules: Rule) -> None:
        self.simulator.script(*rules)

    async def submit(self, *images: ImageBytes, **changes: Any) -> Operation:
        submission = self.submission(*images, **changes)
        return (await self.provider.submit(submission, self.credential)).operation

    async def poll(self, operation: Operation) -> Progress:
        return await self.provider.poll(operation, self.credential)

    async def download(self, operation: Operation, asset: Asset) -> bytes:
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
    name: str, simulators: SimulatorServer, config: ProvidersConfig
) -> AsyncIterator[Wire]:
    """A wire of *name* with connections of its own, closed at the end."""
    if name == "veo-vertex-gcs":
        config = replace(config, vertex_storage_uri="gs://studio-bucket/videos/")
    provider = name.partition("-")[0]
    wanted = VideoRequest(provider=provider, prompt=PROMPT, model=MODELS[name], seconds=8)
    providers = build(config)
    wire = Wire(
        name=name,
        simulators=simulators,
        simulator=simulators.sora if provider == "sora" else simulators.veo,
        providers=providers,
        request=replace(wanted, size="1280x720")
        if provider == "sora"
        else replace(wanted, aspect_ratio="16:9", resolution="720p", audio=True),
    )
    try:
        yield wire
    finally:
        await providers.aclose()
