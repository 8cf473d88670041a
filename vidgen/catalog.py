"""
What each model takes, what it costs and until when it lives: asked before money is spent. Pure.

Sources and doubts stand in the README's section on providers. Prices are micro-dollars per second
of clip with sound; Google's price without sound is not published by Google, so the full one is the
estimate there: an upper bound.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Literal
from urllib.parse import urlsplit

from vidgen.errors import (
    InvalidRequestError,
    ModelRetiredError,
    UnknownModelError,
    UnknownProviderError,
)
from vidgen.image import ImageFacts, recognise
from vidgen.job import ImageRole, InputImage, JsonValue, VideoRequest

Api = Literal["openai", "gemini", "vertex"]
PROVIDERS = ("sora", "veo")
OPENAI_ORIGIN = "https://api.openai.com"
GEMINI_ORIGIN = "https://generativelanguage.googleapis.com"

SORA_OFF_ON = date(2026, 9, 24)
VEO_GEMINI_OFF_ON = date(2026, 10, 22)

SEED_MAX = 2**32 - 1
MAX_REFERENCES = 3
SORA_PROMPT_CHARS = 32_000
# Google's limit is 1024 tokens. Only its tokenizer can count them, so 4 characters stand for one.
VEO_PROMPT_CHARS = 4 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """
    One model at one vendor's interface.

    Attributes:
        sizes: `WIDTHxHEIGHT` to the resolution whose price holds; the first is the default.
            What the request may name, if *aspect_ratios* is empty.
        prices: Micro-dollars per second of clip, by resolution.
        seconds: Allowed lengths; *default_seconds* is one of them.
        full_length_only: Resolutions that exist at the longest length only.
        takes: Optional parameters of the wire format: `seed`, `negative_prompt`, `audio`.
        extra: Further fields of the wire format that a request may carry.
        retires_on: From this day the vendor's own endpoint refuses it; None if none is fixed.
    """

    provider: str
    name: str
    api: Api
    seconds: tuple[int, ...]
    default_seconds: int
    sizes: Mapping[str, str]
    prices: Mapping[str, int]
    prompt_chars: int
    image_roles: tuple[ImageRole, ...]
    aspect_ratios: tuple[str, ...] = ()
    full_length_only: tuple[str, ...] = ()
    takes: frozenset[str] = frozenset()
    extra: frozenset[str] = frozenset()
    retires_on: date | None = None

    @property
    def resolutions(self) -> tuple[str, ...]:
        """Every resolution the model offers, the cheapest first."""
        return tuple(self.prices)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Which doors are configured, without secrets; `is_vendor` = at the vendor's own origin."""

    sora_is_vendor: bool
    gemini_is_vendor: bool
    gemini_configured: bool
    vertex_configured: bool

    @classmethod
    def of(
        cls,
        *,
        openai_base_url: str,
        gemini_base_url: str,
        gemini_configured: bool,
        vertex_configured: bool,
    ) -> "Endpoints":
        """Read it off the configured addresses."""
        return cls(
            sora_is_vendor=_origin(openai_base_url) == OPENAI_ORIGIN,
            gemini_is_vendor=_origin(gemini_base_url) == GEMINI_ORIGIN,
            gemini_configured=gemini_configured,
            vertex_configured=vertex_configured,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """
    A request that may be sent, and what it will cost.

    Attributes:
        request: With the model and every default filled in.
        cost_micros: Micro-dollars, None for a model the catalog does not know.
        model: None for a model the catalog does not know.
    """

    request: VideoRequest
    cost_micros: int | None
    model: Model | None = field(repr=False)


_SORA_720P = {"720x1280": "720p", "1280x720": "720p"}
_SORA_PRO = _SORA_720P | {
    "1024x1792": "1024p",
    "1792x1024": "1024p",
    "1080x1920": "1080p",
    "1920x1080": "1080p",
}
_VEO_SIZES = {
    "1280x720": ("16:9", "720p"),
    "720x1280": ("9:16", "720p"),
    "1920x1080": ("16:9", "1080p"),
    "1080x1920": ("9:16", "1080p"),
    "3840x2160": ("16:9", "4k"),
    "2160x3840": ("9:16", "4k"),
}
_VEO_PRICES = {
    "generate": {"720p": 400_000, "1080p": 400_000, "4k": 600_000},
    "fast-generate": {"720p": 100_000, "1080p": 120_000, "4k": 300_000},
    "lite-generate": {"720p": 50_000, "1080p": 80_000},
}


def _sora(name: str) -> Model:
    is_pro = name.startswith("sora-2-pro")
    return Model(
        provider="sora",
        name=name,
        api="openai",
        seconds=(4, 8, 12, 16, 20),
        default_seconds=4,
        sizes=_SORA_PRO if is_pro else _SORA_720P,
        prices={"720p": 300_000, "1024p": 500_000, "1080p": 700_000}
        if is_pro
        else {"720p": 100_000},
        prompt_chars=SORA_PROMPT_CHARS,
        image_roles=("first_frame",),
        extra=frozenset({"characters"}),
        retires_on=SORA_OFF_ON,
    )


def _veo(kind: str, api: Literal["gemini", "vertex"]) -> Model:
    prices = _VEO_PRICES[kind]
    on_vertex = api == "vertex"
    shared = {"personGeneration", "enhancePrompt"}
    return Model(
        provider="veo",
        name=f"veo-3.1-{kind}-{'001' if on_vertex else 'preview'}",
        api=api,
        seconds=(4, 6, 8),
        default_seconds=8,
        sizes={size: res for size, (_, res) in _VEO_SIZES.items() if res in prices},
        prices=prices,
        prompt_chars=VEO_PROMPT_CHARS,
        image_roles=("first_frame", "last_frame", "reference"),
        aspect_ratios=("16:9", "9:16"),
        full_length_only=tuple(res for res in prices if res != "720p"),
        takes=frozenset({"seed", "negative_prompt", "audio"} if on_vertex else {"negative_prompt"}),
        extra=frozenset(
            shared | {"compressionQuality", "resizeMode", "labels"} if on_vertex else shared
        ),
        retires_on=None if on_vertex else VEO_GEMINI_OFF_ON,
    )


_MODELS: Mapping[tuple[str, str], Model] = {
    (model.provider, model.name): model
    for model in (
        _sora("sora-2"),
        _sora("sora-2-2025-12-08"),
        _sora("sora-2-2025-10-06"),
        _sora("sora-2-pro"),
        _sora("sora-2-pro-2025-10-06"),
        *(_veo(kind, "vertex") for kind in _VEO_PRICES),
        *(_veo(kind, "gemini") for kind in _VEO_PRICES),
    )
}

# Fields that have a name of their own in VideoRequest, or that would change what is paid.
_RESERVED: Mapping[str, frozenset[str]] = {
    "sora": frozenset({"prompt", "model", "seconds", "size", "input_reference", "n"}),
    "veo": frozenset(
        {"prompt", "model", "instances", "parameters", "image", "lastFrame", "referenceImages"}
        | {"video", "storageUri", "sampleCount", "durationSeconds", "aspectRatio", "resolution"}
        | {"negativePrompt", "seed", "generateAudio"}
    ),
}


def models() -> tuple[Model, ...]:
    """Every known model, in the order of the documentation."""
    return tuple(_MODELS.values())


def find(provider: str, name: str) -> Model | None:
    """Look up one model; None if the catalog does not know it."""
    return _MODELS.get((provider, name))


def veo_api(name: str, *, vertex_configured: bool) -> Literal["gemini", "vertex"]:
    """Tell which of Google's two interfaces serves *name*; an unknown one goes where we can go."""
    model = find("veo", name)
    if model is not None:
        return "vertex" if model.api == "vertex" else "gemini"
    return "vertex" if vertex_configured else "gemini"


def quote(
    request: VideoRequest, *, today: date, endpoints: Endpoints, allow_unknown_models: bool
) -> Quote:
    """
    Check *request* against its model, fill in every default, and price it.

    Raises:
        UnknownProviderError, UnknownModelError: The message names the known ones.
        ModelRetiredError: Switched off by its vendor; the message says what still works.
        InvalidRequestError: The message says what came and what is allowed.
    """
    if request.provider not in PROVIDERS:
        raise UnknownProviderError(
            f"There is no provider {_shown(request.provider)}; known are {_listed(PROVIDERS)}."
        )
    _check_types(request)
    name = request.model or _default_model(request.provider, endpoints)
    request = replace(request, model=name)
    model = find(request.provider, name)
    if model is None:
        if not allow_unknown_models:
            known = [known.name for known in models() if known.provider == request.provider]
            raise UnknownModelError(
                f"The catalog has no model {_shown(name)} for {request.provider}; known are"
                f" {_listed(known)}. VIDGEN_ALLOW_UNKNOWN_MODELS=true allows others, without"
                " checks and price."
            )
        return Quote(request=request, cost_micros=None, model=None)
    _check_alive(model, today, endpoints)
    filled = _filled(request, model)
    _check_parameters(filled, model)
    _check_images(filled, model)
    _check_extra(filled, model, endpoints)
    return Quote(request=filled, cost_micros=_cost(filled, model), model=model)


def check_image(request: VideoRequest, role: ImageRole, facts: ImageFacts) -> None:
    """
    Refuse an image that the model would refuse after the upload.

    Raises:
        InvalidRequestError: Sora wants the first frame in exactly the size of the video.
    """
    known = find(request.provider, request.model or "")
    size = f"{facts.width}x{facts.height}"
    if known is not None and known.api == "openai" and size != request.size:
        raise InvalidRequestError(
            f"The {role} image is {size} pixels; {known.name} wants exactly the size of the video,"
            f" {request.size}."
        )


def is_retired(model: Model, *, today: date, endpoints: Endpoints) -> bool:
    """Whether *model* is switched off where requests for it go."""
    at_vendor = endpoints.sora_is_vendor if model.api == "openai" else endpoints.gemini_is_vendor
    return model.retires_on is not None and today >= model.retires_on and at_vendor


def _default_model(provider: str, endpoints: Endpoints) -> str:
    if provider == "sora":
        return "sora-2"
    return "veo-3.1-generate-001" if endpoints.vertex_configured else "veo-3.1-generate-preview"


def _check_alive(model: Model, today: date, endpoints: Endpoints) -> None:
    if not is_retired(model, today=today, endpoints=endpoints):
        return
    live = [other for other in models() if not is_retired(other, today=today, endpoints=endpoints)]
    vendor, variable = (
        ("OpenAI", "OPENAI_BASE_URL") if model.api == "openai" else ("Google", "GEMINI_BASE_URL")
    )
    vertex = "" if endpoints.vertex_configured else " (on Vertex AI: set GOOGLE_CLOUD_PROJECT_ID)"
    raise ModelRetiredError(
        f"{vendor} switched {model.name} off at its own endpoint on {model.retires_on}."
        f" What still works: {_listed(f'{m.provider}/{m.name}' for m in live)}{vertex},"
        f" or {variable} set to a compatible server."
    )


def _filled(request: VideoRequest, model: Model) -> VideoRequest:
    seconds = request.seconds if request.seconds is not None else model.default_seconds
    if not model.aspect_ratios:
        size = request.size if request.size is not None else next(iter(model.sizes))
        return replace(request, seconds=seconds, size=size)
    ratio, resolution = request.aspect_ratio, request.resolution
    if request.size is not None:
        if request.size not in model.sizes:
            raise _refused(model, "size", request.size, model.sizes)
        ratio, resolution = _VEO_SIZES[request.size]
    return replace(
        request,
        seconds=seconds,
        size=None,
        aspect_ratio=ratio if ratio is not None else model.aspect_ratios[0],
        resolution=resolution if resolution is not None else model.resolutions[0],
        audio=True if request.audio is None else request.audio,
    )


def _check_parameters(request: VideoRequest, model: Model) -> None:
    if len(request.prompt) > model.prompt_chars:
        tokens = " (its limit is 1024 tokens, counted as 4 characters each)"
        raise InvalidRequestError(
            f"The prompt has {len(request.prompt)} characters; {model.name} takes at most"
            f" {model.prompt_chars}{tokens if model.provider == 'veo' else ''}."
        )
    if request.seconds not in model.seconds:
        raise _refused(model, "seconds", request.seconds, model.seconds)
    if model.aspect_ratios:
        if request.aspect_ratio not in model.aspect_ratios:
            raise _refused(model, "aspect_ratio", request.aspect_ratio, model.aspect_ratios)
        if request.resolution not in model.prices:
            raise _refused(model, "resolution", request.resolution, model.prices)
    else:
        for name, value in (
            ("aspect_ratio", request.aspect_ratio),
            ("resolution", request.resolution),
        ):
            if value is not None:
                raise InvalidRequestError(
                    f"{model.name} is told its shape by size, not by {name}; allowed sizes are"
                    f" {_listed(model.sizes)}."
                )
        if request.size not in model.sizes:
            raise _refused(model, "size", request.size, model.sizes)
    _check_options(request, model)
    longest = model.seconds[-1]
    if request.resolution in model.full_length_only and request.seconds != longest:
        raise InvalidRequestError(
            f"{model.name} makes {request.resolution} only in {longest} seconds, not in"
            f" {request.seconds}; shorter clips are 720p."
        )


def _check_options(request: VideoRequest, model: Model) -> None:
    for name, value in (("seed", request.seed), ("negative_prompt", request.negative_prompt)):
        if value is not None and name not in model.takes:
            able = [m.name for m in models() if name in m.takes]
            raise InvalidRequestError(
                f"{model.name} takes no {name}; models that do: {_listed(able)}."
            )
    if request.audio is False and "audio" not in model.takes:
        raise InvalidRequestError(
            f"{model.name} always makes sound; audio=False is possible with"
            f" {_listed(m.name for m in models() if 'audio' in m.takes)}."
        )


def _check_images(request: VideoRequest, model: Model) -> None:
    counts: dict[str, int] = {}
    for image in request.images:
        if image.role not in model.image_roles:
            raise _refused(model, "an image as", image.role, model.image_roles)
        counts[image.role] = counts.get(image.role, 0) + 1
        if image.data is not None:
            check_image(request, image.role, recognise(image.data))
    for role, count in counts.items():
        limit = MAX_REFERENCES if role == "reference" else 1
        if count > limit:
            raise InvalidRequestError(
                f"{model.name} takes at most {limit} {role} image(s); {count} came."
            )
    if "last_frame" in counts and "first_frame" not in counts:
        raise InvalidRequestError("A last_frame image needs a first_frame image beside it.")
    if "reference" in counts:
        if len(counts) > 1:
            raise InvalidRequestError(
                "Reference images cannot be combined with a first_frame or last_frame image."
            )
        if request.seconds != model.seconds[-1]:
            raise InvalidRequestError(
                f"{model.name} takes reference images only for {model.seconds[-1]} seconds,"
                f" not {request.seconds}."
            )


def _check_extra(request: VideoRequest, model: Model, endpoints: Endpoints) -> None:
    if model.api == "openai" and not endpoints.sora_is_vendor:
        return  # compatible servers have fields of their own
    for key in request.extra:
        if key not in model.extra:
            # Google ignores a misspelt parameter silently, and the default is paid for.
            raise _refused(model, "extra", key, sorted(model.extra))


def _cost(request: VideoRequest, model: Model) -> int:
    resolution = model.sizes[request.size] if request.size is not None else request.resolution
    assert resolution is not None  # filled in above
    assert request.seconds is not None
    return request.seconds * model.prices[resolution]


def _check_types(request: VideoRequest) -> None:
    """Refuse what no model could take, known or not: callers are not all typed Python."""
    if not request.prompt:
        raise InvalidRequestError("The prompt is empty; say what the video should show.")
    for name in ("prompt", "model", "size", "aspect_ratio", "resolution", "negative_prompt"):
        value: object = getattr(request, name)
        if value is not None:
            _check_text(name, value)
    if not request.prompt.strip():
        raise InvalidRequestError("The prompt is blank; say what the video should show.")
    _check_int("seconds", request.seconds, 1, 3600)
    _check_int("seed", request.seed, 0, SEED_MAX)
    if request.audio is not None and not isinstance(request.audio, bool):
        raise InvalidRequestError(f"audio is {_shown(request.audio)}; wanted true or false.")
    if request.size is not None:
        width, _, height = request.size.partition("x")
        if not (width.isdecimal() and height.isdecimal()):
            raise InvalidRequestError(
                f"size is {_shown(request.size)}; wanted WIDTHxHEIGHT in pixels, e.g. 1280x720."
            )
        if request.aspect_ratio is not None or request.resolution is not None:
            raise InvalidRequestError(
                "size was given together with aspect_ratio or resolution; give one or the other."
            )
    for image in request.images:
        _check_source(image)
    shadowed = sorted(set(request.extra) & _RESERVED[request.provider])
    if shadowed:
        raise InvalidRequestError(
            f"extra holds {_listed(shadowed)}, which vidgen sets itself; use the fields of the"
            " request."
        )
    _check_json(request.extra)


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise InvalidRequestError(f"{name} is {_shown(value)}; wanted text.")
    if "\0" in value:
        raise InvalidRequestError(f"{name} contains a null character, which nothing can store.")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise InvalidRequestError(f"{name} contains half a character (a lone surrogate).")


def _check_int(name: str, value: object, lowest: int, highest: int) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
        raise InvalidRequestError(
            f"{name} is {_shown(value)}; wanted a whole number from {lowest} to {highest}."
        )


def _check_source(image: InputImage) -> None:
    if image.role not in ("first_frame", "last_frame", "reference"):
        raise InvalidRequestError(
            f"An image has the role {_shown(image.role)}; known are first_frame, last_frame and"
            " reference."
        )
    if sum(source is not None for source in (image.data, image.url, image.key)) != 1:
        raise InvalidRequestError(f"The {image.role} image needs exactly one of data, url and key.")
    if image.data is not None:
        recognise(image.data)
    if image.key is not None:
        _check_text("key", image.key)
        if not image.key:
            raise InvalidRequestError(f"The key of the {image.role} image is empty.")
    if image.url is not None:
        _check_text("url", image.url)
        if _origin(image.url) is None:
            raise InvalidRequestError(
                f"The url of the {image.role} image is no http(s) address without a login."
            )


def _check_json(value: JsonValue | Mapping[str, JsonValue], depth: int = 0) -> None:
    if depth > 20:
        raise InvalidRequestError("extra is nested deeper than 20 levels.")
    if isinstance(value, str):
        _check_text("extra", value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _check_text("a key of extra", key)
            _check_json(item, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_json(item, depth + 1)
    elif isinstance(value, float) and not -1e308 < value < 1e308:
        raise InvalidRequestError("extra holds a number that JSON cannot write (inf or nan).")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InvalidRequestError("extra holds a whole number of more than 64 bits; JSON has none.")
    elif value is not None and not isinstance(value, int | float):
        raise InvalidRequestError(f"extra holds a {type(value).__name__}, which JSON cannot write.")


def _refused(
    model: Model, name: str, value: JsonValue, allowed: Iterable[int | str]
) -> InvalidRequestError:
    choices = _listed(allowed) or "nothing"
    return InvalidRequestError(f"{model.name} takes {name} {choices}; {_shown(value)} came.")


def _listed(words: Iterable[int | str]) -> str:
    return ", ".join(str(word) for word in words)


def _shown(value: object) -> str:
    """Quote what came, short enough for a sentence."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _origin(url: str) -> str | None:
    """Scheme and host of an http(s) URL, None for anything else or one that carries a login."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
        return None
    default = {"http": 80, "https": 443}[parts.scheme]
    suffix = "" if port in (None, default) else f":{port}"
    return f"{parts.scheme}://{parts.hostname}{suffix}"
