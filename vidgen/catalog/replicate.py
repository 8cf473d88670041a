"""
`replicate`: two models of ByteDance that Replicate lists, and any other video model there. Pure.

Fields and limits of the listed ones are their schemas on replicate.com; official models are billed
by the second of video that comes out, but their prices could not be read there and are remembered
ones: estimates. A model that is not listed has a schema of its own, and passes over in silence what
that does not name: so it is told the prompt only, and everything else by `extra` in its own words.
"""

import re

from vidgen.catalog.vendor import Interface, Model, Vendor, per_second
from vidgen.errors import InvalidRequestError
from vidgen.job import VideoRequest

ORIGIN = "https://api.replicate.com"

_NAME = r"[A-Za-z0-9][\w.-]*"
_OPEN = re.compile(rf"{_NAME}/{_NAME}(:[0-9a-f]{{64}})?|[0-9a-f]{{64}}", re.ASCII)


def _seedance(name: str, prices: dict[str, int]) -> Model:
    return Model(
        provider="replicate",
        name=f"bytedance/{name}",
        api="replicate",
        seconds=range(2, 13),
        default_seconds=5,
        aspect_ratios=("16:9", "4:3", "1:1", "3:4", "9:16", "21:9", "9:21"),
        resolutions=tuple(prices),
        prices=per_second(prices),
        images={"first_frame": (0, 1), "last_frame": (0, 1)},
        image_sets_ratio=True,
        takes=frozenset({"seed"}),
        silent=True,
        extra=frozenset({"fps", "camera_fixed"}),
    )


def _open_model(name: str) -> Model | None:
    """Any other one by `owner/name`, `owner/name:version`, or the digits of a version alone."""
    if _OPEN.fullmatch(name) is None:
        return None
    return Model(
        provider="replicate", name=name, api="replicate", extra=None, check=_told_the_prompt_only
    )


def _told_the_prompt_only(request: VideoRequest) -> None:
    if request.audio is not None:
        raise InvalidRequestError(
            f"{request.model} is not listed in the catalog: whether it makes sound goes by extra,"
            " in its own words."
        )


VENDOR = Vendor(
    name="replicate",
    title="Replicate",
    wire="vidgen.providers.replicate:build",
    simulator="vidgen.simulator.replicate:SIMULATED",
    interfaces=(
        Interface(
            name="replicate",
            title="the Replicate API",
            operator="Replicate",
            account="replicate",
            key_name="replicate key",
            base_url=f"{ORIGIN}/v1",
            base_url_variable="REPLICATE_BASE_URL",
            keys=("REPLICATE_API_TOKEN",),
        ),
    ),
    models=(
        _seedance("seedance-1-pro", {"720p": 60_000, "480p": 30_000, "1080p": 150_000}),
        _seedance("seedance-1-lite", {"720p": 36_000, "480p": 18_000, "1080p": 72_000}),
    ),
    default_models=("bytedance/seedance-1-pro",),
    demo_models=("bytedance/seedance-1-lite",),
    reserved=frozenset({"prompt", "model", "version", "webhook", "webhook_events_filter"}),
    open_model=_open_model,
)
