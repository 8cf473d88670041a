"""`xai`: grok-imagine-video, at xAI. Pure."""

from vidgen.catalog.vendor import Interface, Model, Vendor, per_second
from vidgen.errors import InvalidRequestError
from vidgen.job import ImageRole, VideoRequest

PROMPT_CHARS = 4096
MAX_IMAGES = 7  # references
NEWER = "grok-imagine-video-1.5"

_RATIOS = ("16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3")
_SIZES = {
    "1280x720": ("16:9", "720p"),
    "720x1280": ("9:16", "720p"),
    "1920x1080": ("16:9", "1080p"),
    "1080x1920": ("9:16", "1080p"),
}
# docs.x.ai/developers/pricing, as LiteLLM 1.109.1 has it; an image costs 0.002 or 0.01 dollars
# more, which the bill of the video tells.
_PRICES = {
    "grok-imagine-video": {"480p": 50_000, "720p": 70_000},
    NEWER: {"480p": 80_000, "720p": 140_000, "1080p": 250_000},
    f"{NEWER}-lite": {"480p": 20_000, "720p": 30_000, "1080p": 140_000},
}


def _check(request: VideoRequest) -> None:
    has_references = any(image.role == "reference" for image in request.images)
    if has_references and request.resolution == "1080p":
        raise InvalidRequestError(
            f"{request.model} makes 480p or 720p from reference images, not 1080p."
        )


def _model(name: str) -> Model:
    prices, is_newer = _PRICES[name], name != "grok-imagine-video"
    images: dict[ImageRole, tuple[int, int]] = {
        "first_frame": (0, 1),
        "reference": (0, MAX_IMAGES),
    }
    if is_newer:
        images["last_frame"] = (0, 1)
    return Model(
        provider="xai",
        name=name,
        api="xai",
        seconds=range(1, 16),
        default_seconds=8,
        sizes={size: shape for size, shape in _SIZES.items() if shape[1] in prices},
        aspect_ratios=_RATIOS,
        resolutions=tuple(prices),
        prices=per_second(prices),
        prompt_chars=PROMPT_CHARS,
        images=images,
        # It would be stretched to another one.
        image_sets_ratio=True,
        takes=frozenset({"audio"} if is_newer else ()),
        default_audio=True,
        extra=frozenset({"user"}),
        check=_check,
    )


INTERFACE = Interface(
    name="xai",
    title="the xAI API",
    operator="xAI",
    account="xai",
    key_name="xai key",
    base_url="https://api.x.ai/v1",
    base_url_variable="XAI_BASE_URL",
    keys=("XAI_API_KEY",),
)
VENDOR = Vendor(
    name="xai",
    title="xAI",
    wire="vidgen.providers.xai:build",
    simulator="vidgen.simulator.xai:SIMULATED",
    interfaces=(INTERFACE,),
    models=tuple(_model(name) for name in _PRICES),
    default_models=("grok-imagine-video",),
    reserved=frozenset(
        {"prompt", "model", "duration", "aspect_ratio", "resolution", "generate_audio", "image"}
        | {"last_frame", "reference_images", "video", "n", "size"}
    ),
)
