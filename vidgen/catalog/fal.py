"""
`fal`: apps that make videos, at fal.ai. Those listed are checked and priced, all others go. Pure.

Inputs and prices are from each app's llms.txt (veo3.1, kling-video), and from LiteLLM 1.109.1
(seedance).
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from vidgen.catalog.vendor import Interface, Model, Price, Vendor, per_second
from vidgen.job import ImageRole

_APP_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)+", re.ASCII)
_SIZES = {
    "1280x720": ("16:9", "720p"),
    "720x1280": ("9:16", "720p"),
    "1920x1080": ("16:9", "1080p"),
    "1080x1920": ("9:16", "1080p"),
    "3840x2160": ("16:9", "4k"),
    "2160x3840": ("9:16", "4k"),
}


def _by_sound(loud: Mapping[str, int], quiet: Mapping[str, int]) -> tuple[Price, ...]:
    """Prices of one second by resolution, with and without sound."""
    return (
        *(Price(resolution=name, audio=False, micros=micros) for name, micros in quiet.items()),
        *per_second(loud),
    )


def _veo(path: str, *, fast: bool) -> Model:
    loud, quiet = (
        ({"720p": 150_000, "1080p": 150_000, "4k": 350_000}, (100_000, 100_000, 300_000))
        if fast
        else ({"720p": 400_000, "1080p": 400_000, "4k": 600_000}, (200_000, 200_000, 400_000))
    )
    return Model(
        provider="fal",
        name=f"fal-ai/veo3.1{'/fast' if fast else ''}{path}",
        api="fal",
        seconds=(4, 6, 8),
        default_seconds=8,
        sizes=_SIZES,
        aspect_ratios=("16:9", "9:16"),
        resolutions=tuple(loud),
        prices=_by_sound(loud, dict(zip(loud, quiet, strict=True))),
        takes=frozenset({"negative_prompt", "audio", "seed"}),
        default_audio=True,
        extra=frozenset({"auto_fix", "safety_tolerance"}),
    )


def _kling(path: str) -> Model:
    return Model(
        provider="fal",
        name=f"fal-ai/kling-video/v2.5-turbo/pro/{path}",
        api="fal",
        seconds=(5, 10),
        default_seconds=5,
        aspect_ratios=("16:9", "9:16", "1:1") if path == "text-to-video" else (),
        prices=(Price(micros=70_000),),
        takes=frozenset({"negative_prompt"}),
        silent=True,
        extra=frozenset({"cfg_scale"}),
    )


def _seedance(path: str) -> Model:
    return Model(
        provider="fal",
        name=f"bytedance/seedance-2.0/{path}",
        api="fal",
        seconds=range(4, 16),
        default_seconds=5,
        sizes=_SIZES,
        aspect_ratios=("16:9", "9:16", "1:1", "4:3", "3:4", "21:9"),
        resolutions=("720p", "480p", "1080p", "4k"),
        # Sound costs nothing.
        prices=per_second({"480p": 134_600, "720p": 303_400, "1080p": 682_000, "4k": 1_555_200}),
        takes=frozenset({"audio", "seed"}),
        default_audio=True,
        extra=frozenset({"end_user_id"}),
    )


# An image has a shape of its own, which the app may take over.
_AUTO = ("auto", "16:9", "9:16")


def _listed() -> tuple[Model, ...]:
    found: list[Model] = []
    for fast in (False, True):
        from_image = replace(
            _veo("/image-to-video", fast=fast), aspect_ratios=_AUTO, images={"first_frame": (1, 1)}
        )
        between = replace(
            _veo("/first-last-frame-to-video", fast=fast),
            aspect_ratios=_AUTO,
            images={"first_frame": (1, 1), "last_frame": (1, 1)},
        )
        found += [_veo("", fast=fast), from_image, between]
    frames: Mapping[ImageRole, tuple[int, int]] = {"first_frame": (1, 1), "last_frame": (0, 1)}
    seedance = _seedance("image-to-video")
    return (
        *found,
        replace(
            _veo("/reference-to-video", fast=False), seconds=(8,), images={"reference": (1, 3)}
        ),
        _kling("text-to-video"),
        replace(_kling("image-to-video"), images=frames),
        _seedance("text-to-video"),
        replace(seedance, aspect_ratios=("auto", *seedance.aspect_ratios), images=frames),
    )


def _open_model(name: str) -> Model | None:
    """
    An app that is not listed. Apps ignore in silence what they call otherwise, so it is told the
    prompt, a first frame as `image_url`, and all else by `extra`; its price is not known.
    """
    if _APP_ID.fullmatch(name) is None or ".." in name:
        return None
    return Model(provider="fal", name=name, api="fal", images={"first_frame": (0, 1)}, extra=None)


INTERFACE = Interface(
    name="fal",
    title="the queue of fal.ai",
    operator="fal",
    account="fal",
    key_name="fal key",
    base_url="https://queue.fal.run",
    base_url_variable="FAL_BASE_URL",
    keys=("FAL_KEY",),
)
VENDOR = Vendor(
    name="fal",
    title="fal",
    wire="vidgen.providers.fal:build",
    simulator="vidgen.simulator.fal:SIMULATED",
    interfaces=(INTERFACE,),
    models=_listed(),
    default_models=("fal-ai/veo3.1/fast",),
    reserved=frozenset({"prompt"}),
    open_model=_open_model,
)
