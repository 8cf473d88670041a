"""
`runway`: Runway's own models, and Google's Veo 3.1 as Runway sells it. Pure.

Lengths, sizes and fields are those of PyPI runwayml 5.24.0. Prices are credits of 0.01 USD a
second: Gen-4.5 12 and Gen-4 Turbo 5 by docs.dev.runwayml.com as others quote it in 2026-09, Veo 3.1
40 and Fast 15 by the price map of PyPI litellm. What Veo costs without sound was found nowhere, so
the full price is the estimate, an upper bound; each task tells what it cost in the end.
"""

from vidgen.catalog.vendor import Interface, Model, Vendor, per_second
from vidgen.errors import InvalidRequestError
from vidgen.job import ImageRole, VideoRequest

ORIGIN = "https://api.dev.runwayml.com"
PROMPT_UNITS = 1000
CREDIT_MICROS = 10_000

_TEXT_SIZES = {"1280x720": ("16:9", "720p"), "720x1280": ("9:16", "720p")}
_IMAGE_SIZES = _TEXT_SIZES | {
    "1104x832": ("4:3", "720p"),
    "832x1104": ("3:4", "720p"),
    "960x960": ("1:1", "720p"),
    "1584x672": ("21:9", "720p"),
}
_VEO_SIZES = _TEXT_SIZES | {"1920x1080": ("16:9", "1080p"), "1080x1920": ("9:16", "1080p")}


def _check(request: VideoRequest) -> None:
    """Refuse what only Runway refuses; how it counts a prompt, and which shapes want an image."""
    units = len(request.prompt.encode("utf-16-le")) // 2
    if units > PROMPT_UNITS:
        raise InvalidRequestError(
            f"The prompt has {units} characters as Runway counts them (UTF-16); it takes at most"
            f" {PROMPT_UNITS}."
        )


def _check_gen(request: VideoRequest) -> None:
    _check(request)
    if not request.images and request.size not in _TEXT_SIZES:
        raise InvalidRequestError(
            f"{request.model} makes {request.size} from an image only; without one the sizes are"
            f" {', '.join(_TEXT_SIZES)}."
        )


def _gen(name: str, credits_per_second: int, fewest_images: int) -> Model:
    return Model(
        provider="runway",
        name=name,
        api="runway",
        seconds=range(2, 11),
        default_seconds=5,
        sizes=_IMAGE_SIZES,
        prices=per_second({"720p": credits_per_second * CREDIT_MICROS}),
        prompt_chars=PROMPT_UNITS,
        images={"first_frame": (fewest_images, 1)},
        takes=frozenset({"seed"}),
        silent=True,
        extra=frozenset({"contentModeration"}),
        check=_check_gen,
    )


def _veo(name: str, credits_per_second: int) -> Model:
    frames: dict[ImageRole, tuple[int, int]] = {"first_frame": (0, 1), "last_frame": (0, 1)}
    micros = credits_per_second * CREDIT_MICROS
    return Model(
        provider="runway",
        name=name,
        api="runway",
        seconds=(4, 6, 8),
        default_seconds=8,
        sizes=_VEO_SIZES,
        prices=per_second({"720p": micros, "1080p": micros}),
        prompt_chars=PROMPT_UNITS,
        images=frames,
        takes=frozenset({"seed", "negative_prompt", "audio"}),
        default_audio=True,
        check=_check,
    )


VENDOR = Vendor(
    name="runway",
    title="Runway",
    wire="vidgen.providers.runway:build",
    simulator="vidgen.simulator.runway:SIMULATED",
    interfaces=(
        Interface(
            name="runway",
            title="the Runway API",
            operator="Runway",
            account="runway",
            key_name="runway key",
            base_url=f"{ORIGIN}/v1",
            base_url_variable="RUNWAYML_BASE_URL",
            keys=("RUNWAYML_API_SECRET",),
        ),
    ),
    models=(
        _gen("gen4.5", 12, fewest_images=0),
        _gen("gen4_turbo", 5, fewest_images=1),
        _veo("veo3.1", 40),
        _veo("veo3.1_fast", 15),
    ),
    default_models=("gen4.5",),
    # The last two would make another kind of file, for more credits.
    reserved=frozenset(
        {"model", "promptText", "promptImage", "duration", "ratio", "resolution", "seed"}
        | {"audio", "negativePrompt", "outputFormat", "proresProfile"}
    ),
)
