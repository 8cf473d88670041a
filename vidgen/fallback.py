"""
What a fallback is asked for: the request as near as its model comes, by rules. Pure.

    shape       the same, or one that differs by a twentieth at most; upright stays upright
    length      the longest that is not longer than asked
    resolution  the highest that is not higher than asked and exists at that length; by the
                shorter side of the picture
    sound       as asked; `audio: false` where there is always sound needs `audio: true` in the
                fallback
    images      all of them, or not at all
    seed, negative prompt
                left out where the model takes none
    extra       for the same interface only

Nothing is longer, larger or dearer than asked unless somebody says so: a fallback by its own
`seconds`, `size`, `resolution`, the request by its `max_cost_micros`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from vidgen import catalog
from vidgen.catalog import Endpoints, Model, Quote
from vidgen.errors import InvalidRequestError, ModelRetiredError, VidgenError
from vidgen.job import REROUTES, REROUTES_BY_DEFAULT, Fallback, RerouteReason, VideoRequest

MAX_FALLBACKS = 8
MAX_COST_MICROS = 1_000_000_000_000
# 1024x1792 is meant as 9:16.
SHAPE_TOLERANCE = 0.05
# The shorter side in pixels, of what is told by a word.
_SHORT_SIDES = {"4k": 2160, "2k": 1440}
ANY_SIDE = 1_000_000
UNTOLD = 0  # of a model that is told no resolution


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """
    One target of a request, checked and priced.

    Attributes:
        mapped: What it makes otherwise than asked, one sentence for each.
        is_retired: Its model is switched off today; the job does not begin there.
    """

    quote: Quote
    mapped: tuple[str, ...] = ()
    is_retired: bool = False


def options(
    request: VideoRequest,
    fallbacks: Sequence[Fallback],
    *,
    today: date,
    endpoints: Endpoints,
    allow_unknown_models: bool,
    allow_unknown_prices: bool,
    mapped: tuple[str, ...] = (),
) -> list[Option]:
    """
    *request* and its *fallbacks* as they would be sent, in order; *mapped* is what is different in
    the first one already.

    A model that is switched off already is left to those behind it, as long as there is one.

    Raises:
        UnknownProviderError, UnknownModelError, InvalidRequestError: Which of them cannot do what
            is asked, and why.
        ModelRetiredError: All of them are switched off.
        CostCeilingError: None costs as little as the request may.
    """

    def quoted(wish: VideoRequest, day: date) -> Quote:
        return catalog.quote(
            wish, today=day, endpoints=endpoints, allow_unknown_models=allow_unknown_models
        )

    def priced(wish: VideoRequest, told: tuple[str, ...]) -> Option:
        try:
            return Option(quote=quoted(wish, today), mapped=told)
        except ModelRetiredError:
            if not fallbacks:
                raise
        # As it was before anything was switched off.
        return Option(quote=quoted(wish, date.min), mapped=told, is_retired=True)

    _check(request, fallbacks)
    alone = replace(request, fallbacks=(), route=None, reroute_on=None, max_cost_micros=None)
    first = priced(alone, mapped)
    found = [first]
    # A default of the first model was not asked for.
    asked = replace(first.quote, request=replace(first.quote.request, audio=request.audio))
    for number, fallback in enumerate(fallbacks):
        try:
            option = priced(*adapted(asked, fallback, endpoints))
            _check_price(option, first, request.max_cost_micros, allow_unknown=allow_unknown_prices)
        except VidgenError as error:
            name = f"{fallback.provider}/{fallback.model}" if fallback.model else fallback.provider
            raise type(error)(f"fallbacks[{number}] ({name:.100}): {error.message}") from error
        found.append(option)
    _check_ends(found, request.max_cost_micros)
    return found


def adapted(
    first: Quote, fallback: Fallback, endpoints: Endpoints
) -> tuple[VideoRequest, tuple[str, ...]]:
    """
    What *fallback* is asked for in place of *first*, and what is different.

    Raises:
        InvalidRequestError: Its model cannot do it; the sentence says what would.
    """
    asked, told = first.request, list[str]()
    own = {
        name: value
        for name in ("seconds", "size", "aspect_ratio", "resolution", "audio", "extra")
        if (value := getattr(fallback, name)) is not None
    }
    name, model = _model_of(fallback, endpoints)
    wish = replace(asked, provider=fallback.provider, model=name, extra={})
    if model is None:  # it is asked for the same; the quote tells if it may be
        return _overridden(wish, own), ()
    if "seconds" not in own:
        wish = _of_length(wish, model, told)
    if "size" not in own:
        wish = _of_shape(replace(wish, **_those(own, "seconds")), own, model, told)
    if "audio" not in own:
        wish = _of_sound(wish, first.model, model, told)
    wish = _of_options(wish, model, told)
    if asked.extra and "extra" not in own:
        if first.model is not None and first.model.api == model.api:
            wish = replace(wish, extra=asked.extra)
        else:
            told.append("extra is left out")
    return _overridden(wish, _those(own, "seconds", "size", "audio", "extra")), tuple(told)


def _model_of(fallback: Fallback, endpoints: Endpoints) -> tuple[str | None, Model | None]:
    if not catalog.is_provider(fallback.provider):
        return fallback.model, None
    vendor = catalog.vendor(fallback.provider)
    name = fallback.model or vendor.default_model(endpoints)
    return name, vendor.model(name)


def _overridden(wish: VideoRequest, own: Mapping[str, Any]) -> VideoRequest:
    if "size" in own:
        wish = replace(wish, aspect_ratio=None, resolution=None)
    elif {"aspect_ratio", "resolution"} & own.keys():
        wish = replace(wish, size=None)
    return replace(wish, **own)


def _those(own: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in own.items() if name in names}


def begun(
    request: VideoRequest, first: Fallback, endpoints: Endpoints
) -> tuple[VideoRequest, tuple[str, ...]]:
    """What *first* of a route is asked for, by a request that names no model; as `adapted`."""
    asked = Quote(request=request, cost_micros=None, model=None)
    return adapted(asked, first, endpoints)


def reasons(wanted: Sequence[str] | None) -> tuple[RerouteReason, ...]:
    """
    What moves a job on; None wants the usual.

    Raises:
        InvalidRequestError: One of them is none.
    """
    if wanted is None:
        return REROUTES_BY_DEFAULT
    if isinstance(wanted, str) or not all(isinstance(each, str) for each in wanted):
        raise InvalidRequestError(f"reroute_on must be a list of words: {', '.join(REROUTES)}.")
    if unknown := [each for each in wanted if each not in set(REROUTES)]:
        raise InvalidRequestError(
            f"reroute_on has {unknown[0]!r:.60}; known are {', '.join(REROUTES)}."
        )
    return tuple(reason for reason in REROUTES if reason in set(wanted))


def _check(request: VideoRequest, fallbacks: Sequence[Fallback]) -> None:
    if len(fallbacks) > MAX_FALLBACKS:
        raise InvalidRequestError(f"at most {MAX_FALLBACKS} fallbacks; {len(fallbacks)} came.")
    given: Sequence[object] = fallbacks  # callers are not all typed Python
    for number, each in enumerate(given):
        if not isinstance(each, Fallback):
            raise InvalidRequestError(f"fallbacks[{number}] is no Fallback with a provider.")
    ceiling: object = request.max_cost_micros
    if ceiling is not None and (
        not isinstance(ceiling, int)
        or isinstance(ceiling, bool)
        or not 0 < ceiling <= MAX_COST_MICROS
    ):
        raise InvalidRequestError(
            f"max_cost_micros must be a whole number from 1 to {MAX_COST_MICROS}, not"
            f" {ceiling!r:.60}"
        )
    if ceiling is None and RerouteReason.CHARGED in reasons(request.reroute_on):
        raise InvalidRequestError(
            "reroute_on with charged pays again for a video; it needs max_cost_micros."
        )


def _check_price(
    option: Option, first: Option, ceiling: int | None, *, allow_unknown: bool
) -> None:
    """Without a ceiling the price of the first is one: nobody pays more than they asked for."""
    asked, price = first.quote.cost_micros, option.quote.cost_micros
    if ceiling is not None:
        if price is None:
            raise InvalidRequestError(
                "it has no price in the catalog, so max_cost_micros cannot hold."
            )
        return
    if price is None:
        if not allow_unknown:
            raise InvalidRequestError(
                "it has no price in the catalog, so it may cost more than what was asked for;"
                " VIDGEN_ALLOW_UNKNOWN_PRICES=true allows that."
            )
        return
    if asked is None:
        if not allow_unknown:
            raise InvalidRequestError(
                f"it costs ${price / 1e6:.2f}, and what was asked for has no price in the catalog"
                f" to compare with; max_cost_micros of {price} or more allows that."
            )
        return
    if price > asked:
        raise InvalidRequestError(
            f"it costs ${price / 1e6:.2f}, more than the ${asked / 1e6:.2f} of what was asked for;"
            f" max_cost_micros of {price} or more allows that."
        )


def _check_ends(found: Sequence[Option], ceiling: int | None) -> None:
    live = [option for option in found if not option.is_retired]
    if not live:
        names = ", ".join(f"{o.quote.request.provider}/{o.quote.request.model}" for o in found)
        raise ModelRetiredError(f"All of {names} are switched off by their vendors.")
    if ceiling is None:
        return
    prices = [option.quote.cost_micros for option in live]
    if all(price is None or price > ceiling for price in prices):
        least = min((price for price in prices if price is not None), default=None)
        wanted = "has no price in the catalog" if least is None else f"costs ${least / 1e6:.2f}"
        raise InvalidRequestError(
            f"max_cost_micros allows ${ceiling / 1e6:.2f}; the cheapest of what was asked for"
            f" {wanted}."
        )


def _of_length(wish: VideoRequest, model: Model, told: list[str]) -> VideoRequest:
    if wish.seconds is None:
        return wish
    if not model.seconds:
        told.append(f"its own length instead of {wish.seconds} seconds")
        return replace(wish, seconds=None)
    fitting = [seconds for seconds in model.seconds if seconds <= wish.seconds]
    if not fitting:
        raise InvalidRequestError(
            f"{model.name} makes no clip as short as {wish.seconds} seconds; its shortest has"
            f" {min(model.seconds)}: say seconds there to allow it."
        )
    if max(fitting) != wish.seconds:
        told.append(f"{max(fitting)} seconds instead of {wish.seconds}")
    return replace(wish, seconds=max(fitting))


def _of_shape(
    wish: VideoRequest, own: Mapping[str, Any], model: Model, told: list[str]
) -> VideoRequest:
    """*wish* as near to its shape as *model* comes, and no larger unless *own* says so."""
    ratio, short_side = _shape_of(wish)
    asked = wish.size or " in ".join(filter(None, (wish.aspect_ratio, wish.resolution)))
    wish = replace(wish, size=None, aspect_ratio=None, resolution=None)
    of_image = model.image_sets_ratio and bool(wish.images)
    if ratio is None or (of_image and not model.resolutions):  # nobody said, or may say
        return replace(wish, **_those(own, "aspect_ratio", "resolution"))
    cut_short = bool(model.seconds) and wish.seconds != model.seconds[-1]
    frames = _frames(model)
    fitting = [
        frame
        for frame in frames
        if frame.resolution == own.get("resolution", frame.resolution)
        and frame.ratio == own.get("aspect_ratio", frame.ratio)
        and ("aspect_ratio" in own or of_image or frame.off(ratio) <= SHAPE_TOLERANCE)
        and ("resolution" in own or frame.short_side <= short_side)
        and not (cut_short and frame.resolution in model.full_length_only)
    ]
    if not fitting:
        raise InvalidRequestError(
            f"{model.name} makes nothing in the shape of {asked}, or only larger ones; it makes"
            f" {', '.join(frame.words for frame in frames)}: say there which one to take."
        )
    best = max(fitting, key=lambda frame: (frame.short_side, -frame.off(ratio)))
    differs = not of_image and best.off(ratio) != 0
    if differs or best.short_side not in {short_side, UNTOLD}:
        told.append(f"{best.words} instead of {asked}")
    if best.size is not None:
        return replace(wish, size=best.size)
    return replace(wish, aspect_ratio=None if of_image else best.ratio, resolution=best.resolution)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """One picture that a model makes, as it is told."""

    shape: float | None
    short_side: int
    size: str | None = None
    ratio: str | None = None
    resolution: str | None = None

    @property
    def words(self) -> str:
        return self.size or " in ".join(filter(None, (self.ratio, self.resolution)))

    def off(self, ratio: float) -> float:
        """How much wider or higher than *ratio* it is, as a part of it; 0 if nobody is told."""
        return 0.0 if self.shape is None else round(abs(self.shape / ratio - 1), 4)


def _frames(model: Model) -> list[_Frame]:
    if model.is_told_pixels:
        return [
            _Frame(
                shape=_pixels(size)[0] / _pixels(size)[1],
                short_side=min(_pixels(size)),
                size=size,
                resolution=resolution,
            )
            for size, (_, resolution) in model.sizes.items()
        ]
    return [
        _Frame(
            shape=_ratio(ratio or "") or None,
            short_side=_side(resolution) if resolution else UNTOLD,
            ratio=ratio,
            resolution=resolution,
        )
        for ratio in model.aspect_ratios or (None,)
        for resolution in model.resolutions or (None,)
    ]


def _of_sound(
    wish: VideoRequest, before: Model | None, model: Model, told: list[str]
) -> VideoRequest:
    """*wish* with sound if it was asked for or the model *before* makes it by itself."""
    said = wish.audio
    wanted = said if said is not None else _sounds(before)
    if "audio" in model.takes:
        return replace(wish, audio=wanted)
    if said is not None and said is model.silent:
        makes = "never makes sound" if model.silent else "always makes sound"
        raise InvalidRequestError(
            f"{model.name} {makes}, and audio={said} was asked for: say audio={not said} there to"
            " take it so."
        )
    if wanted is not None and wanted is model.silent:
        told.append("no sound" if model.silent else "with sound")
    return replace(wish, audio=None)


def _sounds(model: Model | None) -> bool | None:
    """Whether *model* makes sound if nobody says; None if nobody knows."""
    if model is None:
        return None
    return model.default_audio if "audio" in model.takes else not model.silent


def _of_options(wish: VideoRequest, model: Model, told: list[str]) -> VideoRequest:
    if wish.seed is not None and ("seed" not in model.takes or wish.seed > model.seed_max):
        wish = replace(wish, seed=None)
        told.append("seed is left out")
    if wish.negative_prompt is not None and "negative_prompt" not in model.takes:
        wish = replace(wish, negative_prompt=None)
        told.append("negative_prompt is left out")
    roles = {image.role for image in wish.images}
    if missing := sorted(roles - set(model.image_roles)):
        raise InvalidRequestError(
            f"{model.name} takes no {' and no '.join(missing)} image, and one was given."
        )
    return wish


def _shape_of(request: VideoRequest) -> tuple[float | None, int]:
    """Width by height, None if it is open; and the shorter side in pixels."""
    if request.size is not None:
        width, height = _pixels(request.size)
        return (width / height if width and height else None), min(width, height)
    ratio = _ratio(request.aspect_ratio or "")
    return ratio or None, _side(request.resolution) if request.resolution else ANY_SIDE


def _side(resolution: str) -> int:
    """The shorter side of `720p`, `4k` and their like, in pixels; of other words no bound."""
    word = resolution.lower()
    digits = word.removesuffix("p")
    return int(digits) if digits.isdecimal() else _SHORT_SIDES.get(word, ANY_SIDE)


def _ratio(word: str) -> float:
    """Width by height of `16:9`; 0 if it is no such word."""
    wide, _, high = word.partition(":")
    return int(wide) / int(high) if wide.isdecimal() and high.isdecimal() and int(high) else 0.0


def _pixels(size: str) -> tuple[int, int]:
    width, _, height = size.partition("x")
    return int(width), int(height)
