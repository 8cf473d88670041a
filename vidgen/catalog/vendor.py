"""
The words of the catalog: what a provider is, declared once. Pure.

    Vendor       one provider: its name, its interfaces, its models, and where its code is
    Interface    one way in: the address, the variables of its key, who is billed
    Model        what one model takes, and what it costs
    Endpoints    what is configured, by the names of the environment

Everything else asks these: settings and keys, limits, command line, server, simulators, tests.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib import import_module
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from vidgen.job import ImageRole, VideoRequest

SEED_MAX = 2**32 - 1
MAX_REFERENCES = 3
KeyForm = Literal["text", "pair", "service_account"]


@dataclass(frozen=True, slots=True)
class Endpoints:
    """
    Which variables of providers are set, and to what. Never shown: keys are among them.

    Attributes:
        read: What one variable says; empty or None if it is not set.
    """

    read: Callable[[str], str | None] = field(repr=False)

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Self:
        """Those in *values*, and no other."""
        return cls(values.get)

    def get(self, variable: str) -> str:
        """What *variable* says; empty if it is not set."""
        return self.read(variable) or ""

    def over(self, values: Mapping[str, str]) -> "Endpoints":
        """The same with *values* in place of what they said."""
        return Endpoints(lambda name: values[name] if name in values else self.read(name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """
    What a clip costs, in micro-dollars, if all that is said here fits; None fits everything.

    Attributes:
        micros: For one second of clip, or for the whole clip.
        image: Whether an image goes along.
    """

    micros: int
    per: Literal["second", "clip"] = "second"
    resolution: str | None = None
    seconds: int | None = None
    audio: bool | None = None
    image: bool | None = None

    def fits(self, request: VideoRequest, resolution: str | None) -> bool:
        """Whether it is the price of *request*, whose size has *resolution*."""
        return all(
            wanted is None or wanted == came
            for wanted, came in (
                (self.resolution, resolution),
                (self.seconds, request.seconds),
                (self.audio, request.audio),
                (self.image, bool(request.images)),
            )
        )


def per_second(prices: Mapping[str, int]) -> tuple[Price, ...]:
    """Prices of one second by resolution, the cheapest first."""
    return tuple(Price(resolution=name, micros=micros) for name, micros in prices.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """
    One model at one interface: what is not named here is refused, not passed over in silence.

    Attributes:
        api: The name of the interface that serves it.
        also: Other interfaces that do, taken in this order where *api* is not offered.
        seconds: Allowed lengths, in order (a tuple, or a range); empty: it is told none.
        default_seconds: One of them, filled in when none is asked for; None leaves it open.
        sizes: `WIDTHxHEIGHT` to its aspect ratio and resolution. All that a request may name if
            there are no *aspect_ratios* and *resolutions*; else a convenience for them.
        aspect_ratios: The first is the default; empty: it is told none.
        resolutions: The first is the default; empty: it is told none.
        full_length_only: Resolutions that exist at the longest length only.
        prices: The first one that fits holds; none: the price is not known.
        cost: Instead of *prices* where no table tells; micro-dollars, None for not known.
        prompt_chars: At most so many characters; None if the vendor names no limit.
        prompt_limit: How the vendor itself counts, for the sentence of a refusal.
        images: The least and the most images of each role that it takes.
        exact_frames: An image must have exactly the size of the video.
        lone_last_frame: A last frame may come without a first one.
        references_with_frames: References may come beside frames.
        image_sets_ratio: With a frame the clip has its shape, and no aspect ratio is told.
        takes: Optional parameters of the wire format: `seed`, `negative_prompt`, `audio`.
        silent: It never makes sound; without this and `audio` in *takes* it always does.
        default_audio: Filled in when nothing is asked for.
        extra: Further fields of the wire format that a request may carry; None: any.
        retires_on: From this day the vendor's own endpoint refuses it; None if none is fixed.
        check: What else this vendor refuses, or ignores in silence; raises `InvalidRequestError`.
    """

    provider: str
    name: str
    api: str
    also: tuple[str, ...] = ()
    seconds: Sequence[int] = ()
    default_seconds: int | None = None
    sizes: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    aspect_ratios: tuple[str, ...] = ()
    resolutions: tuple[str, ...] = ()
    full_length_only: tuple[str, ...] = ()
    prices: tuple[Price, ...] = ()
    cost: Callable[[VideoRequest], int | None] | None = None
    prompt_chars: int | None = None
    prompt_limit: str = ""
    images: Mapping[ImageRole, tuple[int, int]] = field(default_factory=dict)
    exact_frames: bool = False
    lone_last_frame: bool = False
    references_with_frames: bool = False
    image_sets_ratio: bool = False
    takes: frozenset[str] = frozenset()
    seed_max: int = SEED_MAX
    silent: bool = False
    default_audio: bool | None = None
    extra: frozenset[str] | None = frozenset()
    retires_on: date | None = None
    check: Callable[[VideoRequest], None] | None = None

    @property
    def is_told_pixels(self) -> bool:
        """Whether its shape is a size in pixels, rather than a ratio or a resolution."""
        return bool(self.sizes) and not self.aspect_ratios and not self.resolutions

    @property
    def image_roles(self) -> tuple[ImageRole, ...]:
        """As what an image may come."""
        return tuple(self.images)

    def resolution_of(self, request: VideoRequest) -> str | None:
        """The resolution that *request* asks for, by its own word or by its size."""
        if request.size is not None and request.size in self.sizes:
            return self.sizes[request.size][1]
        return request.resolution

    def cost_of(self, request: VideoRequest) -> int | None:
        """Micro-dollars of *request*, whose defaults are filled in; None if nobody knows."""
        if self.cost is not None:
            return self.cost(request)
        resolution = self.resolution_of(request)
        price = next((each for each in self.prices if each.fits(request, resolution)), None)
        if price is None:
            return None
        if price.per == "clip":
            return price.micros
        return None if request.seconds is None else request.seconds * price.micros

    def micros_per_second(self, *, silent: bool = False) -> dict[str, int]:
        """
        The most that a second may cost, or one without sound; by resolution, and the key is empty
        where that is no matter.
        """
        found: dict[str, int] = {}
        quiet = {price.resolution for price in self.prices if price.audio is False}
        for price in self.prices:
            if silent and price.audio is not False and (price.audio or price.resolution in quiet):
                continue
            seconds = price.seconds or self.default_seconds
            divisor = 1 if price.per == "second" else seconds
            if divisor:
                name = price.resolution or ""
                found[name] = max(found.get(name, 0), price.micros // divisor)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """
    One way in to a vendor: where it is, what opens it, and who is billed.

    Attributes:
        name: The word that models and stored keys have for it.
        title: What it is called in a sentence, as `the Gemini API`.
        operator: Who runs it, for sentences.
        account: Begins the names of rate limits; another one for each interface of a vendor.
        key_name: What `vidgen doctor` calls its key; another one for each interface.
        base_url: The vendor's own; None where *locate* finds it.
        base_url_variable: Where another server can be named that speaks the same.
        keys: The variables that open it; of several, one text with colons between them.
        keys_optional: The machine itself may have what opens it.
        needs: Variables without which it is not offered, whatever the address.
        further: Other variables that its wire format is told.
        owners: Those of them that tell two accounts with the same key apart.
        key_form: How a user brings a key: one word, `access:secret`, or the JSON of a service
            account.
        locate: Finds the address where it follows from other variables.
        missing: The sentence when something of *needs* is not set; `{model}` is filled in.
        free_extra_elsewhere: Other servers have fields of their own, so `extra` is not checked.
    """

    name: str
    title: str
    operator: str
    account: str
    key_name: str
    base_url: str | None
    base_url_variable: str
    keys: tuple[str, ...]
    keys_optional: bool = False
    needs: tuple[str, ...] = ()
    further: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()
    key_form: KeyForm = "text"
    locate: Callable[[Endpoints], str] | None = None
    missing: str = ""
    free_extra_elsewhere: bool = False

    @property
    def variables(self) -> tuple[str, ...]:
        """Every variable that it has in the environment."""
        mine = (*self.keys, self.base_url_variable, *self.needs, *self.further)
        return tuple(dict.fromkeys(mine))

    def address(self, endpoints: Endpoints) -> str:
        """The base URL that requests go to."""
        named = endpoints.get(self.base_url_variable)
        if named or self.locate is None:
            return (named or self.base_url or "").rstrip("/")
        return self.locate(endpoints)

    def secret(self, endpoints: Endpoints) -> str:
        """What opens it, as configured; empty if not all of it is."""
        texts = [endpoints.get(variable) for variable in self.keys]
        return ":".join(texts) if all(texts) else ""

    def is_vendor(self, endpoints: Endpoints) -> bool:
        """Whether requests go to the vendor's own server."""
        if self.base_url is None:
            return not endpoints.get(self.base_url_variable)
        return origin(self.address(endpoints)) == origin(self.base_url)

    def is_offered(self, endpoints: Endpoints) -> bool:
        """Whether it can be asked: only a server that is not the vendor's may want no key."""
        if not all(endpoints.get(variable) for variable in self.needs):
            return False
        has_key = self.keys_optional or bool(self.secret(endpoints))
        return has_key or not self.is_vendor(endpoints)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vendor:
    """
    One provider, all that has to be said of it outside of its own modules.

    Attributes:
        name: The word in `VideoRequest.provider`.
        title: The word for people.
        wire: `module:function` that builds the `Provider` from a `registry.Surroundings`, or the
            function; imported when the provider is first used.
        simulator: `module:attribute` of its `simulator.wire.SimulatedWire`; None has none.
        interfaces: A model that the catalog does not know goes to the first one that is offered,
            else to the last.
        default_models: The first one whose interface is offered, else the last.
        reserved: Fields of the wire format that have a name of their own in `VideoRequest`, or that
            would change what is paid.
        open_model: Says what holds for a model that is not in *models*, None if there can be no
            such; for vendors that serve models of everybody.
        demo_models: What `vidgen demo --live` asks for, the first one of each interface; empty: the
            default models.
    """

    name: str
    title: str
    wire: "str | Callable[..., object]"
    interfaces: tuple[Interface, ...]
    models: tuple[Model, ...]
    default_models: tuple[str, ...]
    reserved: frozenset[str]
    simulator: "str | object | None" = None
    open_model: Callable[[str], Model | None] | None = None
    demo_models: tuple[str, ...] = ()

    @property
    def variables(self) -> tuple[str, ...]:
        """Every variable that it has in the environment."""
        return tuple(dict.fromkeys(name for each in self.interfaces for name in each.variables))

    def find(self, name: str) -> Model | None:
        """The model *name* as the catalog lists it, None if it does not."""
        return next((model for model in self.models if model.name == name), None)

    def model(self, name: str) -> Model | None:
        """What holds for the model *name*, listed or not; None if nobody can say."""
        found = self.find(name)
        if found is None and self.open_model is not None:
            return self.open_model(name)
        return found

    def interface(self, name: str) -> Interface:
        """The interface *name*, which is one of ours."""
        return next(each for each in self.interfaces if each.name == name)

    def interface_of(self, model: str, endpoints: Endpoints) -> Interface:
        """The interface that serves *model*."""
        found = self.model(model)
        if found is not None:
            mine = [self.interface(name) for name in (found.api, *found.also)]
            return next((each for each in mine if each.is_offered(endpoints)), mine[0])
        return self._offered(endpoints) or self.interfaces[-1]

    def default_model(self, endpoints: Endpoints) -> str:
        """What a request without a model gets."""
        for name in self.default_models:
            if self.interface_of(name, endpoints).is_offered(endpoints):
                return name
        return self.default_models[-1]

    def _offered(self, endpoints: Endpoints) -> Interface | None:
        return next((each for each in self.interfaces if each.is_offered(endpoints)), None)


def resolved(reference: object) -> Any:
    """What `module:attribute` names, imported now; anything but a text is itself."""
    if not isinstance(reference, str):
        return reference
    module, _, attribute = reference.partition(":")
    return getattr(import_module(module), attribute)


def origin(url: str) -> str | None:
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
