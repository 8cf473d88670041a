"""
`kling`: Kling's text and image to video. Pure.

Prices are the units that Kling takes, at 0.14 USD a unit: the list price of the standard packs. The
numbers of units are those that resellers of Kling's own API publish (atlascloud for 3.0, muvi for
2.6, midsync for 2.5); Kling's price page could not be read, and 2.5's standard mode is unverified.
"""

from vidgen.catalog.vendor import Interface, Model, Price, Vendor

ORIGIN = "https://api-singapore.klingai.com"
PROMPT_CHARS = 2500
_SIZES = {
    "1280x720": ("16:9", "720p"),
    "720x1280": ("9:16", "720p"),
    "1920x1080": ("16:9", "1080p"),
    "1080x1920": ("9:16", "1080p"),
}
_RATIOS = ("16:9", "9:16", "1:1")

_V3 = Model(
    provider="kling",
    name="kling-v3",
    api="kling",
    seconds=range(3, 16),
    default_seconds=5,
    sizes=_SIZES,
    aspect_ratios=_RATIOS,
    resolutions=("720p", "1080p"),
    prices=(
        Price(resolution="720p", audio=False, micros=84_000),
        Price(resolution="720p", audio=True, micros=126_000),
        Price(resolution="1080p", audio=False, micros=112_000),
        Price(resolution="1080p", audio=True, micros=168_000),
    ),
    prompt_chars=PROMPT_CHARS,
    images={"first_frame": (0, 1), "last_frame": (0, 1)},
    image_sets_ratio=True,
    takes=frozenset({"negative_prompt", "audio"}),
    default_audio=False,
    extra=frozenset({"cfg_scale", "watermark_info"}),
)
# With sound only at 1080p, so the rest is not offered. Its last frame has conditions of its own.
_V2_6 = Model(
    provider="kling",
    name="kling-v2-6",
    api="kling",
    seconds=(5, 10),
    default_seconds=5,
    sizes={size: shape for size, shape in _SIZES.items() if shape[1] == "1080p"},
    aspect_ratios=_RATIOS,
    resolutions=("1080p",),
    prices=(
        Price(resolution="1080p", audio=False, micros=70_000),
        Price(resolution="1080p", audio=True, micros=140_000),
    ),
    prompt_chars=PROMPT_CHARS,
    images={"first_frame": (0, 1)},
    image_sets_ratio=True,
    takes=frozenset({"negative_prompt", "audio"}),
    default_audio=False,
    extra=frozenset({"watermark_info"}),
)
_V2_5 = Model(
    provider="kling",
    name="kling-v2-5-turbo",
    api="kling",
    seconds=(5, 10),
    default_seconds=5,
    sizes=_SIZES,
    aspect_ratios=_RATIOS,
    resolutions=("720p", "1080p"),
    prices=(
        Price(resolution="720p", micros=42_000),
        Price(resolution="1080p", micros=70_000),
    ),
    prompt_chars=PROMPT_CHARS,
    images={"first_frame": (0, 1)},
    image_sets_ratio=True,
    takes=frozenset({"negative_prompt"}),
    silent=True,
    extra=frozenset({"watermark_info"}),
)

VENDOR = Vendor(
    name="kling",
    title="Kling",
    wire="vidgen.providers.kling:build",
    simulator="vidgen.simulator.kling:SIMULATED",
    interfaces=(
        Interface(
            name="kling",
            title="Kling's API",
            operator="Kling",
            account="kling",
            key_name="kling key",
            base_url=f"{ORIGIN}/v1",
            base_url_variable="KLING_BASE_URL",
            keys=("KLING_ACCESS_KEY", "KLING_SECRET_KEY"),
            key_form="pair",
        ),
    ),
    models=(_V3, _V2_6, _V2_5),
    default_models=("kling-v3",),
    reserved=frozenset(
        {"prompt", "negative_prompt", "model", "model_name", "mode", "duration", "aspect_ratio"}
        | {"sound", "image", "image_tail", "external_task_id", "callback_url", "multi_shot"}
    ),
)
