"""
What is asked before money is spent: does the model take this, what will it cost, is it alive. Pure.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date

from vidgen.catalog.vendor import SEED_MAX, Endpoints, Interface, Model, Vendor, origin
from vidgen.catalog.vendors import models, names, vendor, vendors
from vidgen.errors import (
    InvalidRequestError,
    ModelRetiredError,
    UnknownModelError,
    UnknownProviderError,
)
from vidgen.image import ImageFacts, recognise
from vidgen.job import ImageRole, InputImage, JsonValue, VideoRequest

MOST_NAMED = 8  # of models that could do it, in one sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """
    A request that may be sent, and what it will cost.

    Attributes:
        request: With the model and every default filled in.
        cost_micros: Micro-dollars, None where the catalog knows no price.
        model: None for a model the catalog does not know.
    """

    request: VideoRequest
    cost_micros: int | None
    model: Model | None = field(repr=False)


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
    provider: object = request.provider
    if not isinstance(provider, str):
        raise UnknownProviderError(
            f"There is no provider {_shown(provider)}; known are {_listed(names())}."
        )
    asked = vendor(request.provider)
    _check_types(request, asked)
    name = request.model or asked.default_model(endpoints)
    request = replace(request, model=name)
    model = asked.model(name)
    if model is None:
        if not allow_unknown_models:
            raise UnknownModelError(
                f"The catalog has no model {_shown(name)} for {request.provider}; known are"
                f" {_listed(known.name for known in asked.models)}."
                " VIDGEN_ALLOW_UNKNOWN_MODELS=true allows others, without checks and price."
            )
        return Quote(request=request, cost_micros=None, model=None)
    interface = asked.interface_of(name, endpoints)
    _check_alive(model, interface, today, endpoints)
    filled = _filled(request, model)
    _check_parameters(filled, model)
    _check_images(filled, model)
    _check_extra(filled, model, interface, endpoints)
    if model.check is not None:
        model.check(filled)
    return Quote(request=filled, cost_micros=model.cost_of(filled), model=model)


def check_image(request: VideoRequest, role: ImageRole, facts: ImageFacts) -> None:
    """
    Refuse an image that the model would refuse after the upload.

    Raises:
        InvalidRequestError: Some models want an image in exactly the size of the video.
    """
    known = vendor(request.provider).model(request.model or "")
    size = f"{facts.width}x{facts.height}"
    if known is not None and known.exact_frames and size != request.size:
        raise InvalidRequestError(
            f"The {role} image is {size} pixels; {known.name} wants exactly the size of the video,"
            f" {request.size}."
        )


def is_retired(model: Model, *, today: date, endpoints: Endpoints) -> bool:
    """Whether *model* is switched off where requests for it go."""
    if model.retires_on is None or today < model.retires_on:
        return False
    return vendor(model.provider).interface(model.api).is_vendor(endpoints)


def _check_alive(model: Model, interface: Interface, today: date, endpoints: Endpoints) -> None:
    if not is_retired(model, today=today, endpoints=endpoints):
        return
    raise ModelRetiredError(
        f"{interface.operator} switched {model.name} off at its own endpoint on {model.retires_on}."
        f" What still works: {_alive(today, endpoints)},"
        f" or {interface.base_url_variable} set to a compatible server."
    )


def _alive(today: date, endpoints: Endpoints) -> str:
    """The models of what is configured; if nothing is, a model of each provider and what to set."""
    offered, others = [], []
    for each in vendors():
        for interface in each.interfaces:
            living = [
                model
                for model in each.models
                if interface.name in (model.api, *model.also)
                and not is_retired(model, today=today, endpoints=endpoints)
            ]
            if not living:
                continue
            if interface.is_offered(endpoints):
                offered += [f"{each.name}/{model.name}" for model in living]
            else:
                wanted = " and ".join(interface.needs or interface.keys)
                others.append(f"{each.name}/{living[0].name} (set {wanted})")
    return _listed((offered or others)[:MOST_NAMED])


def _filled(request: VideoRequest, model: Model) -> VideoRequest:
    seconds = request.seconds if request.seconds is not None else model.default_seconds
    audio = request.audio if request.audio is not None else model.default_audio
    request = replace(request, seconds=seconds, audio=audio)
    if model.is_told_pixels:
        size = request.size if request.size is not None else next(iter(model.sizes))
        return replace(request, size=size)
    ratio, resolution = request.aspect_ratio, request.resolution
    if request.size is not None:
        if request.size not in model.sizes:
            raise _refused(model, "size", request.size, model.sizes)
        ratio, resolution = model.sizes[request.size]
        ratio = ratio if model.aspect_ratios else None
        resolution = resolution if model.resolutions else None
    if ratio is None and model.aspect_ratios and not _has_shape(request, model):
        ratio = model.aspect_ratios[0]
    if resolution is None and model.resolutions:
        resolution = model.resolutions[0]
    return replace(request, size=None, aspect_ratio=ratio, resolution=resolution)


def _has_shape(request: VideoRequest, model: Model) -> bool:
    """Whether an image decides the shape of the clip."""
    return model.image_sets_ratio and any(image.role != "reference" for image in request.images)


def _check_parameters(request: VideoRequest, model: Model) -> None:
    if model.prompt_chars is not None and len(request.prompt) > model.prompt_chars:
        limit = f" ({model.prompt_limit})" if model.prompt_limit else ""
        raise InvalidRequestError(
            f"The prompt has {len(request.prompt)} characters; {model.name} takes at most"
            f" {model.prompt_chars}{limit}."
        )
    if request.seconds is not None and request.seconds not in model.seconds:
        raise _refused(model, "seconds", request.seconds, _lengths(model.seconds))
    if model.is_told_pixels:
        _check_pixels(request, model)
    else:
        _check_shape(request, model)
    _check_options(request, model)
    longest = model.seconds[-1] if model.seconds else None
    if request.resolution in model.full_length_only and request.seconds != longest:
        raise InvalidRequestError(
            f"{model.name} makes {request.resolution} only in {longest} seconds, not in"
            f" {request.seconds}; shorter clips are {model.resolutions[0]}."
        )


def _check_pixels(request: VideoRequest, model: Model) -> None:
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


def _check_shape(request: VideoRequest, model: Model) -> None:
    if request.aspect_ratio is not None and _has_shape(request, model):
        raise InvalidRequestError(
            f"{model.name} gives a clip the shape of its image; aspect_ratio"
            f" {_shown(request.aspect_ratio)} would be ignored."
        )
    for name, value, allowed in (
        ("aspect_ratio", request.aspect_ratio, model.aspect_ratios),
        ("resolution", request.resolution, model.resolutions),
    ):
        if value is not None and value not in allowed:
            raise _refused(model, name, value, allowed)


def _check_options(request: VideoRequest, model: Model) -> None:
    for name, value in (("seed", request.seed), ("negative_prompt", request.negative_prompt)):
        if value is not None and name not in model.takes:
            raise InvalidRequestError(
                f"{model.name} takes no {name}; models that do: {_able(name, model)}."
            )
    if request.seed is not None and request.seed > model.seed_max:
        raise InvalidRequestError(
            f"seed is {request.seed}; {model.name} takes a whole number from 0 to {model.seed_max}."
        )
    if request.audio is None or "audio" in model.takes:
        return
    if request.audio and model.silent:
        raise InvalidRequestError(
            f"{model.name} makes no sound; audio=True is possible with"
            f" {_listed([m.name for m in models() if not m.silent][:MOST_NAMED])}."
        )
    if not request.audio and not model.silent:
        raise InvalidRequestError(
            f"{model.name} always makes sound; audio=False is possible with"
            f" {_able('audio', model)}."
        )


def _able(name: str, asked: Model) -> str:
    """Models that take the parameter *name*, those of the same provider first."""
    able = [model for model in models() if name in model.takes]
    able.sort(key=lambda model: model.provider != asked.provider)
    return _listed([model.name for model in able][:MOST_NAMED])


def _check_images(request: VideoRequest, model: Model) -> None:
    counts: dict[str, int] = {}
    for image in request.images:
        if image.role not in model.images:
            raise _refused(model, "an image as", image.role, model.images)
        counts[image.role] = counts.get(image.role, 0) + 1
        if image.data is not None:
            check_image(request, image.role, recognise(image.data))
    for role, (least, most) in model.images.items():
        count = counts.get(role, 0)
        if count > most:
            raise InvalidRequestError(
                f"{model.name} takes at most {most} {role} image(s); {count} came."
            )
        if count < least:
            raise InvalidRequestError(f"{model.name} needs {least} {role} image(s); {count} came.")
    if "last_frame" in counts and "first_frame" not in counts and not model.lone_last_frame:
        raise InvalidRequestError("A last_frame image needs a first_frame image beside it.")
    if "reference" in counts and len(counts) > 1 and not model.references_with_frames:
        raise InvalidRequestError(
            "Reference images cannot be combined with a first_frame or last_frame image."
        )


def _check_extra(
    request: VideoRequest, model: Model, interface: Interface, endpoints: Endpoints
) -> None:
    if model.extra is None:
        return
    if interface.free_extra_elsewhere and not interface.is_vendor(endpoints):
        return  # compatible servers have fields of their own
    for key in request.extra:
        if key not in model.extra:
            # A misspelt parameter is ignored by many in silence, and the default is paid for.
            raise _refused(model, "extra", key, sorted(model.extra))


def _check_types(request: VideoRequest, asked: Vendor) -> None:
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
    shadowed = sorted(set(request.extra) & asked.reserved)
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
        if origin(image.url) is None:
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


def _lengths(seconds: Sequence[int]) -> Iterable[int | str]:
    """*seconds* for a sentence."""
    if isinstance(seconds, range) and len(seconds) > 2 and seconds.step == 1:
        return [f"{seconds[0]} to {seconds[-1]}"]
    return seconds


def _listed(words: Iterable[int | str]) -> str:
    return ", ".join(str(word) for word in words)


def _shown(value: object) -> str:
    """Quote what came, short enough for a sentence."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
