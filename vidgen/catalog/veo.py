"""`veo`: Google's Veo 3.1, on Vertex AI and on the Gemini API. Pure."""

from datetime import date
from typing import Literal

from vidgen.catalog.vendor import MAX_REFERENCES, Endpoints, Interface, Model, Vendor, per_second
from vidgen.errors import InvalidRequestError
from vidgen.job import VideoRequest

GEMINI_OFF_ON = date(2026, 10, 22)
GEMINI_ORIGIN = "https://generativelanguage.googleapis.com"
# Google's limit is 1024 tokens. Only its tokenizer can count them, so 4 characters stand for one.
PROMPT_CHARS = 4 * 1024
LENGTHS = (4, 6, 8)

_SIZES = {
    "1280x720": ("16:9", "720p"),
    "720x1280": ("9:16", "720p"),
    "1920x1080": ("16:9", "1080p"),
    "1080x1920": ("9:16", "1080p"),
    "3840x2160": ("16:9", "4k"),
    "2160x3840": ("9:16", "4k"),
}
# With sound; Google publishes no price without, so there it is an upper bound.
_PRICES = {
    "generate": {"720p": 400_000, "1080p": 400_000, "4k": 600_000},
    "fast-generate": {"720p": 100_000, "1080p": 120_000, "4k": 300_000},
    "lite-generate": {"720p": 50_000, "1080p": 80_000},
}


def vertex_home(location: str) -> str:
    """The base URL of Vertex AI itself in *location*."""
    match location:
        case "global":
            host = "aiplatform.googleapis.com"
        case "us" | "eu":
            host = f"aiplatform.{location}.rep.googleapis.com"
        case _:
            host = f"{location}-aiplatform.googleapis.com"
    return f"https://{host}/v1"


def vertex_location(endpoints: Endpoints) -> str:
    """Where in the world Vertex AI is asked."""
    return endpoints.get("GOOGLE_CLOUD_LOCATION") or "us-central1"


def _check(request: VideoRequest) -> None:
    if (
        any(image.role == "reference" for image in request.images)
        and request.seconds != LENGTHS[-1]
    ):
        raise InvalidRequestError(
            f"{request.model} takes reference images only for {LENGTHS[-1]} seconds,"
            f" not {request.seconds}."
        )


def _model(kind: str, api: Literal["gemini", "vertex"]) -> Model:
    prices = _PRICES[kind]
    on_vertex = api == "vertex"
    shared = {"personGeneration", "enhancePrompt"}
    return Model(
        provider="veo",
        name=f"veo-3.1-{kind}-{'001' if on_vertex else 'preview'}",
        api=api,
        seconds=LENGTHS,
        default_seconds=8,
        sizes={size: shape for size, shape in _SIZES.items() if shape[1] in prices},
        aspect_ratios=("16:9", "9:16"),
        resolutions=tuple(prices),
        full_length_only=tuple(name for name in prices if name != "720p"),
        prices=per_second(prices),
        prompt_chars=PROMPT_CHARS,
        prompt_limit="its limit is 1024 tokens, counted as 4 characters each",
        images={"first_frame": (0, 1), "last_frame": (0, 1), "reference": (0, MAX_REFERENCES)},
        takes=frozenset({"seed", "negative_prompt", "audio"} if on_vertex else {"negative_prompt"}),
        default_audio=True,
        extra=frozenset(
            shared | {"compressionQuality", "resizeMode", "labels"} if on_vertex else shared
        ),
        retires_on=None if on_vertex else GEMINI_OFF_ON,
        check=_check,
    )


VERTEX = Interface(
    name="vertex",
    title="Vertex AI",
    operator="Google",
    account="veo-vertex",
    key_name="vertex credential",
    base_url=None,
    base_url_variable="VERTEX_BASE_URL",
    keys=("GOOGLE_APPLICATION_CREDENTIALS",),
    keys_optional=True,
    needs=("GOOGLE_CLOUD_PROJECT_ID",),
    further=("GOOGLE_CLOUD_LOCATION", "GCS_BASE_URL", "VIDGEN_VEO_STORAGE_URI"),
    # Google limits a project in a location, and credentials may be the machine's own.
    owners=("GOOGLE_CLOUD_PROJECT_ID", "GOOGLE_CLOUD_LOCATION"),
    key_form="service_account",
    locate=lambda endpoints: vertex_home(vertex_location(endpoints)),
    missing="{model} is on Vertex AI; set GOOGLE_CLOUD_PROJECT_ID, and"
    " GOOGLE_APPLICATION_CREDENTIALS outside of Google Cloud.",
)
GEMINI = Interface(
    name="gemini",
    title="the Gemini API",
    operator="Google",
    account="veo-gemini",
    key_name="gemini key",
    base_url=f"{GEMINI_ORIGIN}/v1beta",
    base_url_variable="GEMINI_BASE_URL",
    keys=("GEMINI_API_KEY",),
)

VENDOR = Vendor(
    name="veo",
    title="Veo",
    wire="vidgen.providers.veo:build",
    simulator="vidgen.simulator.veo:SIMULATED",
    interfaces=(VERTEX, GEMINI),
    models=(
        *(_model(kind, "vertex") for kind in _PRICES),
        *(_model(kind, "gemini") for kind in _PRICES),
    ),
    default_models=("veo-3.1-generate-001", "veo-3.1-generate-preview"),
    demo_models=("veo-3.1-fast-generate-001", "veo-3.1-fast-generate-preview"),
    reserved=frozenset(
        {"prompt", "model", "instances", "parameters", "image", "lastFrame", "referenceImages"}
        | {"video", "storageUri", "sampleCount", "durationSeconds", "aspectRatio", "resolution"}
        | {"negativePrompt", "seed", "generateAudio"}
    ),
)
