"""
`luma`: Ray 2 and Ray 2 Flash by Luma's Dream Machine API. Pure.

Lengths, ratios, resolutions and fields are those of PyPI lumaai 1.21.0. Luma charges for pixels, 24
frames a second; 0.0064 and 0.0022 USD a million fit what resellers ask for (Replicate: a quarter
more), but Luma's own page could not be read, and how the other ratios count is not known: these
prices are estimates. Luma takes images by a public address only, so they go by `extra.keyframes`.
"""

from vidgen.catalog.vendor import Interface, Model, Vendor, per_second

ORIGIN = "https://api.lumalabs.ai"
FRAMES_PER_SECOND = 24

_PIXELS = {"720p": 1280 * 720, "540p": 960 * 540, "1080p": 1920 * 1080, "4k": 3840 * 2160}


def _model(name: str, micros_per_million_pixels: int) -> Model:
    return Model(
        provider="luma",
        name=name,
        api="luma",
        seconds=(5, 9),
        default_seconds=5,
        aspect_ratios=("16:9", "9:16", "1:1", "4:3", "3:4", "21:9", "9:21"),
        resolutions=tuple(_PIXELS),
        prices=per_second(
            {
                name: pixels * FRAMES_PER_SECOND * micros_per_million_pixels // 1_000_000
                for name, pixels in _PIXELS.items()
            }
        ),
        silent=True,
        extra=frozenset({"loop", "keyframes", "concepts"}),
    )


VENDOR = Vendor(
    name="luma",
    title="Luma",
    wire="vidgen.providers.luma:build",
    simulator="vidgen.simulator.luma:SIMULATED",
    interfaces=(
        Interface(
            name="luma",
            title="the Dream Machine API",
            operator="Luma",
            account="luma",
            key_name="luma key",
            base_url=f"{ORIGIN}/dream-machine/v1",
            base_url_variable="LUMAAI_BASE_URL",
            keys=("LUMAAI_API_KEY",),
        ),
    ),
    models=(_model("ray-2", 6_400), _model("ray-flash-2", 2_200)),
    default_models=("ray-2",),
    demo_models=("ray-flash-2",),
    reserved=frozenset(
        {"model", "prompt", "generation_type", "aspect_ratio", "resolution", "duration"}
        | {"callback_url"}
    ),
)
