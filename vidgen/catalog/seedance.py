"""
`seedance`: ByteDance's Seedance, at BytePlus (`dreamina-`, `seedance-`) and Volcengine (`doubao-`).
Pure.

Ark bills tokens: width x height x 24 x seconds / 1024. A second is priced by the size that Ark
makes of a resolution at 16:9; other ratios have about as many pixels. Prices of a million tokens
are those of BytePlus (as ComfyUI has them) and of Volcengine (as litellm has them, in CNY, here at
7.0 a dollar).
"""

from collections.abc import Mapping, Sequence

from vidgen.catalog.vendor import Interface, Model, Price, Vendor
from vidgen.job import ImageRole

ORIGIN = "https://ark.ap-southeast.bytepluses.com"
CNY = 1_000_000 / 7.0  # micro-dollars
# The vendor's own default: of the first frame, or what suits the prompt.
_RATIOS = ("adaptive", "16:9", "9:16", "1:1", "4:3", "3:4", "21:9")
_TOKENS_PER_SECOND = {
    "480p": 864 * 496 * 24 // 1024,
    "720p": 1280 * 720 * 24 // 1024,
    "1080p": 1920 * 1080 * 24 // 1024,
    "4k": 3840 * 2160 * 24 // 1024,
}
_DOLLARS: Mapping[str, Mapping[str, float]] = {
    "dreamina-seedance-2-0-260128": {"720p": 7.0, "480p": 7.0, "1080p": 7.7, "4k": 4.0},
    "dreamina-seedance-2-0-fast-260128": {"720p": 5.6, "480p": 5.6},
    "dreamina-seedance-2-0-mini-260615": {"720p": 3.5, "480p": 3.5},
    "dreamina-seedance-2-5-260628": {"720p": 10.7, "480p": 10.7},
}
_YUAN: Mapping[str, Mapping[str, float]] = {
    "doubao-seedance-2-0-260128": {"720p": 46, "480p": 46, "1080p": 51, "4k": 26},
    "doubao-seedance-2-0-fast-260128": {"720p": 37, "480p": 37},
    "doubao-seedance-2-0-mini-260615": {"720p": 23, "480p": 23},
    "doubao-seedance-2-5-260628": {"720p": 70, "480p": 70, "1080p": 77},
}
_V1_5 = "seedance-1-5-pro-251215"
# Micro-dollars of a million tokens, by model and resolution.
_PRICES: Mapping[str, Mapping[str, int]] = {
    **{
        name: {resolution: round(usd * 1_000_000) for resolution, usd in prices.items()}
        for name, prices in _DOLLARS.items()
    },
    **{
        name: {resolution: round(cny * CNY) for resolution, cny in prices.items()}
        for name, prices in _YUAN.items()
    },
    _V1_5: {"720p": 2_400_000, "480p": 2_400_000, "1080p": 2_400_000},
}


def micros_per_million(model: str, resolution: str, *, audio: bool) -> int | None:
    """What a million tokens cost, in micro-dollars; None for a model the catalog does not list."""
    price = _PRICES.get(model, {}).get(resolution)
    if price is not None and model == _V1_5 and not audio:
        return price // 2  # the one that is cheaper without sound
    return price


def _model(
    name: str,
    seconds: Sequence[int],
    images: Mapping[ImageRole, tuple[int, int]],
    *,
    seed: bool = True,
    extra: frozenset[str] = frozenset(),
) -> Model:
    resolutions = tuple(_PRICES[name])
    return Model(
        provider="seedance",
        name=name,
        api="seedance",
        seconds=seconds,
        default_seconds=5,
        sizes={
            size: shape
            for size, shape in {
                "1280x720": ("16:9", "720p"),
                "720x1280": ("9:16", "720p"),
                "1920x1080": ("16:9", "1080p"),
                "1080x1920": ("9:16", "1080p"),
                "3840x2160": ("16:9", "4k"),
                "2160x3840": ("9:16", "4k"),
            }.items()
            if shape[1] in resolutions
        },
        aspect_ratios=_RATIOS,
        resolutions=resolutions,
        prices=tuple(
            Price(
                resolution=resolution,
                audio=audio,
                micros=_TOKENS_PER_SECOND[resolution]
                * (micros_per_million(name, resolution, audio=audio) or 0)
                // 1_000_000,
            )
            for resolution in resolutions
            for audio in (True, False)
        ),
        images=images,
        takes=frozenset({"seed", "audio"} if seed else {"audio"}),
        seed_max=2**31 - 1,
        default_audio=True,
        extra=extra | {"watermark", "execution_expires_after", "safety_identifier"},
    )


_FRAMES: dict[ImageRole, tuple[int, int]] = {"first_frame": (0, 1), "last_frame": (0, 1)}


def _second(name: str) -> Model:
    """A model of the second generation; whether 2.5 takes a seed could not be verified."""
    if "-2-5-" in name:
        return _model(name, range(4, 31), _FRAMES | {"reference": (0, 30)}, seed=False)
    return _model(name, range(4, 16), _FRAMES | {"reference": (0, 9)})


VENDOR = Vendor(
    name="seedance",
    title="Seedance",
    wire="vidgen.providers.seedance:build",
    simulator="vidgen.simulator.seedance:SIMULATED",
    interfaces=(
        Interface(
            name="seedance",
            title="Ark",
            operator="Ark",
            account="seedance",
            key_name="seedance key",
            base_url=f"{ORIGIN}/api/v3",
            base_url_variable="ARK_BASE_URL",
            keys=("ARK_API_KEY",),
        ),
    ),
    models=(
        *(_second(name) for name in _DOLLARS),
        _model(_V1_5, range(4, 13), _FRAMES, extra=frozenset({"camera_fixed"})),
        *(_second(name) for name in _YUAN),
    ),
    default_models=("dreamina-seedance-2-0-260128",),
    reserved=frozenset(
        {"prompt", "model", "content", "resolution", "ratio", "duration", "frames", "seed"}
        | {"generate_audio", "callback_url", "service_tier", "draft", "priority"}
    ),
)
