"""
What the simulated Gemini API and Vertex AI share: prices, sizes, errors, input, delivery.
"""

import base64
import binascii
from collections.abc import Mapping
from functools import partial

from aiohttp import web

from vidgen.job import JsonValue
from vidgen.simulator import clips
from vidgen.simulator.control import Drawn, Generation, ProviderSimulator
from vidgen.simulator.faults import Outcome, Refusal
from vidgen.simulator.wire import Incoming, clip_of, deliver, json_answer

VIDEO_TYPE = "video/mp4"
SIZES: Mapping[str, tuple[int, int]] = {
    "720p": (1280, 720),
    "1080p": (1920, 1080),
    "4k": (3840, 2160),
}
# micro-dollars a second by the word in the model's name, audio included
_PRICES: Mapping[str, Mapping[str, int]] = {
    "lite": {"720p": 50_000, "1080p": 80_000},
    "fast": {"720p": 100_000, "1080p": 120_000, "4k": 300_000},
    "generate": {"720p": 400_000, "1080p": 400_000, "4k": 600_000},
}
_MESSAGES = {
    1: "The operation was cancelled.",
    3: "The request contains an invalid argument.",
    8: "Resource has been exhausted (e.g. check quota).",
    13: "Video generation failed due to an internal server issue. Please try again later.",
    14: "The service is currently unavailable.",
}


def tier(model: str) -> str:
    """`lite`, `fast` or `generate`, the price list *model* is on."""
    return next(word for word in ("lite", "fast", "generate") if word in model)


def resolutions(model: str) -> tuple[str, ...]:
    """The resolutions *model* can make."""
    return tuple(_PRICES[tier(model)])


def micros_per_second(model: str, resolution: str) -> int:
    """The price of one second, in micro-dollars."""
    return _PRICES[tier(model)][resolution]


def refuse(refusal: Refusal) -> web.StreamResponse:
    """*refusal* as Google writes errors."""
    error: dict[str, JsonValue] = {
        "code": refusal.status,
        "message": refusal.message,
        "status": refusal.word,
    }
    if refusal.details:
        error["details"] = list(refusal.details)
    return json_answer({"error": error}, status=refusal.status, headers=refusal.headers)


def invalid(message: str) -> Refusal:
    """400 INVALID_ARGUMENT."""
    return Refusal(status=400, message=message)


def not_found(message: str) -> Refusal:
    """404 NOT_FOUND."""
    return Refusal(status=404, message=message, word="NOT_FOUND")


def by_token(simulator: ProviderSimulator, token: str) -> Generation | None:
    """The generation whose operation name ends in *token*, the part that files are named after."""
    ending = f"/operations/{token}"
    found = (g for name, g in simulator.generations.items() if name.endswith(ending))
    return next(found, None) if token else None


def failure(verdict: Outcome) -> JsonValue:
    """The google.rpc.Status of a failed operation, None if *verdict* is none of that kind."""
    match verdict.name:
        case "failed" | "failed-message" | "error":
            code = round(verdict.number(13))
            return {"code": code, "message": _MESSAGES.get(code, "Unknown error.")}
        case "failed-silent":
            return {"code": 13, "message": ""}
        case "cancelled":
            return {"code": 1, "message": _MESSAGES[1]}
        case "prompt-blocked":
            message = (
                "The prompt could not be submitted. This prompt contains words that violate "
                f"the usage guidelines. Support codes: {verdict.argument or '89371032'}"
            )
            return {"code": 3, "message": message}
        case _:
            return None


def filtered(verdict: Outcome, samples: int) -> dict[str, JsonValue]:
    """The `raiMedia…` fields of an operation whose every video was held back."""
    reason = (
        "Veo could not generate videos because the input image or prompt violates the usage "
        f"guidelines. Support codes: {verdict.argument or '58061214'}"
    )
    return {"raiMediaFilteredCount": samples, "raiMediaFilteredReasons": [reason]}


async def deliver_clip(
    incoming: Incoming,
    simulator: ProviderSimulator,
    foreign: ProviderSimulator,
    generation: Generation,
) -> web.StreamResponse:
    """The clip of *generation* as the script wants it delivered."""
    request, wish = incoming.request, generation.wish
    drawn = simulator.draw("content", prompt=wish.prompt, operation_id=generation.id)
    if "redirected" in request.query and drawn.outcome and drawn.outcome.name == "redirect":
        drawn = Drawn(modifiers=drawn.modifiers)  # the redirect has been made; here it ends
    return await deliver(
        incoming,
        drawn,
        partial(clip_of, simulator, wish),
        content_type=VIDEO_TYPE,
        refuse=refuse,
        elsewhere=str(request.rel_url.update_query(redirected=1)),
        foreign=f"{foreign.origin}/{simulator.name}/{generation.id}",
    )


def gcs_uris(generation: Generation) -> list[str]:
    """Where a generation with `storageUri` leaves its clips."""
    prefix = str(generation.wish.parameters["storageUri"]).rstrip("/")
    token = generation.id.rpartition("/")[2]
    return [f"{prefix}/{token}/sample_{n}.mp4" for n in range(generation.wish.samples)]


def read_instance(body: JsonValue) -> dict[str, JsonValue] | Refusal:
    """The one instance of a predictLongRunning body, with a prompt or an image in it."""
    instances = body.get("instances") if isinstance(body, dict) else None
    if not isinstance(instances, list) or len(instances) != 1:
        return invalid("Request must contain exactly one instance.")
    instance = instances[0]
    if not isinstance(instance, dict):
        return invalid("Instance must be an object.")
    prompt = instance.get("prompt", "")
    if not isinstance(prompt, str):
        return invalid("`prompt` must be a string.")
    if not prompt and not isinstance(instance.get("image"), dict):
        return invalid("Either `prompt` or `image` must be set.")
    if len(prompt.split()) > 1024:
        return invalid("The prompt is longer than 1024 tokens.")
    return instance


def read_parameters(body: JsonValue) -> dict[str, JsonValue] | Refusal:
    """The `parameters` of a predictLongRunning body."""
    parameters = body.get("parameters", {}) if isinstance(body, dict) else {}
    return (
        parameters if isinstance(parameters, dict) else invalid("`parameters` must be an object.")
    )


def wrong_images(instance: Mapping[str, JsonValue], *, gcs: bool) -> Refusal | None:
    """What is wrong with an image, first, last or reference; *gcs*: they may lie in a bucket."""
    for name, image in _images(instance):
        if not isinstance(image, dict):
            return invalid(f"`{name}` must be an object.")
        if "inlineData" in image and not gcs:
            return invalid(
                "`inlineData` isn't supported by this model. Please remove it or refer to the "
                "Gemini API documentation for supported usage."
            )
        if "gcsUri" in image and gcs:
            continue
        encoded = image.get("bytesBase64Encoded")
        if not isinstance(encoded, str) or not isinstance(image.get("mimeType"), str):
            return invalid(f"`{name}` needs bytesBase64Encoded and mimeType.")
        try:
            data = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            return invalid(f"`{name}` is not valid base64.")
        if clips.image_size(data) is None:
            return invalid(f"Unable to process input image `{name}`.")
    return None


def read_clip_shape(
    parameters: Mapping[str, JsonValue], instance: Mapping[str, JsonValue], model: str
) -> tuple[int, str, tuple[int, int]] | Refusal:
    """Seconds, resolution and size in pixels, defaults filled in."""
    seconds = parameters.get("durationSeconds", 8)
    resolution, ratio = parameters.get("resolution", "720p"), parameters.get("aspectRatio", "16:9")
    if isinstance(seconds, bool) or not isinstance(seconds, int) or seconds not in {4, 6, 8}:
        return invalid(
            "The number value for `durationSeconds` is out of bound. "
            "Please provide a value of 4, 6 or 8."
        )
    if not isinstance(resolution, str) or resolution not in resolutions(model):
        return invalid(f"Unsupported `resolution`: one of {', '.join(resolutions(model))}.")
    if ratio not in {"16:9", "9:16"}:
        return invalid("Unsupported `aspectRatio`: 16:9 or 9:16.")
    needs_eight = resolution != "720p" or "referenceImages" in instance or "video" in instance
    if needs_eight and seconds != 8:
        return invalid("`durationSeconds` must be 8 for this resolution or input.")
    width, height = SIZES[resolution]
    return seconds, resolution, (width, height) if ratio == "16:9" else (height, width)


def _images(instance: Mapping[str, JsonValue]) -> list[tuple[str, JsonValue]]:
    found = [(name, instance[name]) for name in ("image", "lastFrame") if name in instance]
    references = instance.get("referenceImages")
    for reference in references if isinstance(references, list) else []:
        image = reference.get("image") if isinstance(reference, dict) else None
        found.append(("referenceImages", image))
    return found
