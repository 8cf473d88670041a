"""
`minimax`: MiniMax's Hailuo models, those of the second version of its API and those of the first.
Pure.

Prices of H3 are those of platform.minimax.io (pricing-paygo, as litellm has them): by the second,
and 0.04 USD for each image beyond the first five. Those of the older models are by the clip; the
ones for 768p of Hailuo 2.3 are published by resellers at MiniMax's own price, the others are
unverified.
"""

from vidgen.catalog.vendor import Interface, Model, Price, Vendor, per_second
from vidgen.errors import InvalidRequestError
from vidgen.job import ImageRole, VideoRequest

ORIGIN = "https://api.minimax.io"
FREE_IMAGES = 5
IMAGE_MICROS = 40_000
_RATIOS = ("16:9", "9:16", "1:1", "4:3", "3:4", "21:9")
_FRAMES: dict[ImageRole, tuple[int, int]] = {"first_frame": (0, 1), "last_frame": (0, 1)}


def _h3_cost(request: VideoRequest) -> int | None:
    price = {"768p": 80_000, "2k": 130_000}.get(request.resolution or "")
    if price is None or request.seconds is None:
        return None
    return request.seconds * price + max(0, len(request.images) - FREE_IMAGES) * IMAGE_MICROS


def _check_length(request: VideoRequest) -> None:
    if request.resolution == "1080p" and request.seconds != 6:
        raise InvalidRequestError(
            f"{request.model} makes 1080p only in 6 seconds, not in {request.seconds}; 10 seconds"
            " are 768p."
        )


def _older(
    name: str, prices: tuple[int, int, int], images: dict[ImageRole, tuple[int, int]]
) -> Model:
    short, long, fine = prices
    return Model(
        provider="minimax",
        name=name,
        api="minimax",
        seconds=(6, 10),
        default_seconds=6,
        resolutions=("768p", "1080p"),
        prices=(
            Price(resolution="768p", seconds=6, per="clip", micros=short),
            Price(resolution="768p", seconds=10, per="clip", micros=long),
            Price(resolution="1080p", seconds=6, per="clip", micros=fine),
        ),
        prompt_chars=2000,
        images=images,
        silent=True,
        extra=frozenset({"prompt_optimizer", "fast_pretreatment", "aigc_watermark"}),
        check=_check_length,
    )


_H3 = Model(
    provider="minimax",
    name="MiniMax-H3",
    api="minimax",
    seconds=range(4, 16),
    default_seconds=5,
    aspect_ratios=_RATIOS,
    resolutions=("768p", "2k"),
    prices=per_second({"768p": 80_000, "2k": 130_000}),
    cost=_h3_cost,
    prompt_chars=7000,
    images=_FRAMES | {"reference": (0, 9)},
    image_sets_ratio=True,
    extra=frozenset({"aigc_watermark"}),
)
_H3_MAX = Model(
    provider="minimax",
    name="MiniMax-H3-Max",
    api="minimax",
    seconds=range(5, 16),
    default_seconds=5,
    aspect_ratios=_RATIOS,
    resolutions=("768p", "480p"),
    prices=per_second({"480p": 50_000, "768p": 80_000}),
    prompt_chars=7000,
    images=_FRAMES,
    image_sets_ratio=True,
    extra=frozenset({"aigc_watermark", "extra"}),
)

VENDOR = Vendor(
    name="minimax",
    title="MiniMax",
    wire="vidgen.providers.minimax:build",
    simulator="vidgen.simulator.minimax:SIMULATED",
    interfaces=(
        Interface(
            name="minimax",
            title="MiniMax's API",
            operator="MiniMax",
            account="minimax",
            key_name="minimax key",
            base_url=ORIGIN,
            base_url_variable="MINIMAX_BASE_URL",
            keys=("MINIMAX_API_KEY",),
        ),
    ),
    models=(
        _H3,
        _H3_MAX,
        _older("MiniMax-Hailuo-2.3", (280_000, 560_000, 490_000), {"first_frame": (0, 1)}),
        _older("MiniMax-Hailuo-2.3-Fast", (190_000, 320_000, 330_000), {"first_frame": (1, 1)}),
        _older("MiniMax-Hailuo-02", (280_000, 560_000, 490_000), _FRAMES),
    ),
    default_models=("MiniMax-H3",),
    reserved=frozenset(
        {"prompt", "model", "content", "resolution", "duration", "ratio", "callback_url"}
        | {"first_frame_image", "last_frame_image", "subject_reference"}
    ),
)
