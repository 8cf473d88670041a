"""
`wan`: Alibaba's Wan on DashScope. Pure.

Prices are those of Singapore (alibabacloud.com/help/model-studio, as litellm has them); Beijing is
cheaper. What is longer than a limit is cut in silence there, so it is refused here.
"""

from collections.abc import Mapping

from vidgen.catalog.vendor import Interface, Model, Vendor, per_second
from vidgen.errors import InvalidRequestError
from vidgen.job import ImageRole, VideoRequest

ORIGIN = "https://dashscope-intl.aliyuncs.com"
SEED_MAX = 2**31 - 1
NEGATIVE_CHARS = 500
_RATIOS = ("16:9", "9:16", "1:1", "4:3", "3:4")
_SIZES = {
    "1280x720": ("16:9", "720p"),
    "720x1280": ("9:16", "720p"),
    "1920x1080": ("16:9", "1080p"),
    "1080x1920": ("9:16", "1080p"),
}


def _third(name: str, prices: Mapping[str, int]) -> Model:
    return Model(
        provider="wan",
        name=name,
        api="wan",
        seconds=range(2, 31),
        default_seconds=5,
        sizes=_SIZES,
        aspect_ratios=_RATIOS,
        resolutions=("720p", "480p", "1080p"),
        prices=per_second(prices),
        prompt_chars=20_000,
        images={"first_frame": (0, 1), "last_frame": (0, 1), "reference": (0, 10)},
        image_sets_ratio=True,
        takes=frozenset({"seed", "audio"}),
        seed_max=SEED_MAX,
        default_audio=True,
        extra=frozenset({"prompt_extend", "watermark"}),
    )


def _second(name: str, images: Mapping[ImageRole, tuple[int, int]]) -> Model:
    return Model(
        provider="wan",
        name=name,
        api="wan",
        seconds=range(2, 16),
        default_seconds=5,
        sizes={} if images else _SIZES,
        aspect_ratios=() if images else _RATIOS,
        resolutions=("720p", "1080p"),
        prices=per_second({"720p": 100_000, "1080p": 150_000}),
        prompt_chars=5000,
        images=images,
        image_sets_ratio=bool(images),
        takes=frozenset({"seed", "negative_prompt"}),
        seed_max=SEED_MAX,
        extra=frozenset({"prompt_extend", "watermark"}),
        check=_check_negative,
    )


def _check_negative(request: VideoRequest) -> None:
    length = len(request.negative_prompt or "")
    if length > NEGATIVE_CHARS:
        raise InvalidRequestError(
            f"The negative_prompt has {length} characters; {request.model} reads no more than"
            f" {NEGATIVE_CHARS} of them."
        )


VENDOR = Vendor(
    name="wan",
    title="Wan",
    wire="vidgen.providers.wan:build",
    simulator="vidgen.simulator.wan:SIMULATED",
    interfaces=(
        Interface(
            name="wan",
            title="DashScope",
            operator="Alibaba",
            account="wan",
            key_name="wan key",
            base_url=f"{ORIGIN}/api/v1",
            base_url_variable="DASHSCOPE_BASE_URL",
            keys=("DASHSCOPE_API_KEY",),
        ),
    ),
    models=(
        _third("wan3.0-video", {"480p": 50_000, "720p": 100_000, "1080p": 200_000}),
        _third("wan3.0-video-prime", {"480p": 68_000, "720p": 140_000, "1080p": 280_000}),
        _second("wan2.7-t2v", {}),
        _second("wan2.7-i2v", {"first_frame": (1, 1), "last_frame": (0, 1)}),
    ),
    default_models=("wan3.0-video",),
    reserved=frozenset(
        {"prompt", "negative_prompt", "model", "input", "parameters", "media", "resolution"}
        | {"ratio", "size", "duration", "seed", "audio"}
    ),
)
