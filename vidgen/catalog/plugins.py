"""
Providers that other packages bring: entry points of the group `vidgen.providers`.

    [project.entry-points."vidgen.providers"]
    acme = "acme_video.vendor:VENDOR"           # the name of the provider = its `Vendor`

Looked for once in a process, and only when a provider is asked for that is none of ours, or all
are listed. One that is broken is refused by itself, with a sentence, and stops no other.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from vidgen.catalog.vendor import Endpoints, Interface, Model, Vendor, origin
from vidgen.errors import InvalidRequestError, PluginBrokenError
from vidgen.job import VideoRequest

GROUP = "vidgen.providers"

_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}", re.ASCII)
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{2,60}", re.ASCII)
_OWN_PREFIX = "VIDGEN_"
# Variables of vidgen itself: what they open, or say, is for no package.
OWN_VARIABLES = frozenset(
    {
        *("ADMIN_TOKEN", "DATABASE_URL", "REDIS_URL", "ENCRYPTION_KEY", "ENCRYPTION_KEYS"),
        *("AWS_ACCESS_KEY_ID", "AWS_REGION", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
        *("S3_ADDRESSING_STYLE", "S3_BUCKET", "S3_ENDPOINT_URL", "S3_PUBLIC_URL"),
        *("BLOB_READ_WRITE_TOKEN", "VERCEL_BLOB_API_URL"),
        *("OPENAI_WEBHOOK_SECRET", "GEMINI_WEBHOOK_SECRET"),
        *("LOG_FORMAT", "LOG_LEVEL", "OTEL_EXPORTER_OTLP_ENDPOINT"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugins:
    """
    What is installed.

    Attributes:
        vendors: Providers by name.
        broken: What cannot be used: the sentence that says why, by the name of the provider.
    """

    vendors: Mapping[str, Vendor]
    broken: Mapping[str, str]


def installed(taken: Collection[Vendor]) -> Plugins:
    """
    Every provider that another package brings.

    Args:
        taken: Those of ours, whose names, accounts and keys nobody else can have.
    """
    # Heavy for a service that uses no plug-in, and such a one never gets here.
    from importlib.metadata import entry_points

    found = sorted(entry_points(group=GROUP), key=lambda each: each.name)
    times = Counter(point.name for point in found)
    vendors: dict[str, Vendor] = {}
    broken: dict[str, str] = {}
    for point in found:
        package = point.dist.name if point.dist is not None else "a package without a name"
        said = f"The provider {point.name!r:.60} of the package {package}"
        if point.name in {each.name for each in taken}:
            # Ours stays as it is; a package that could take its place would get its keys.
            broken[f"{point.name} of {package}"] = f"{said} has the name of one of vidgen's own."
            continue
        if times[point.name] > 1:
            broken[point.name] = f"{said} is refused: another package brings one of that name."
            continue
        others = [*taken, *vendors.values()]
        try:
            vendor = point.load()
            faults = faults_of(vendor, point.name, others)
            if not faults:
                faults = _faults_of_variables(vendor, others)
        except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a stranger's module does, or what it declares
            broken[point.name] = f"{said} cannot be loaded: {type(error).__name__}: {error!s:.200}"
            continue
        if faults:
            broken[point.name] = f"{said} is declared wrong: {'; '.join(faults)}."
            continue
        vendors[point.name] = _guarded(vendor, said)
    return Plugins(vendors=vendors, broken=broken)


def faults_of(vendor: object, name: str, others: Collection[Vendor]) -> list[str]:
    """What is wrong with a declaration, as *others* are there already; nothing if it is sound."""
    if not isinstance(vendor, Vendor):
        return [f"it is a {type(vendor).__name__}, wanted a vidgen.catalog.Vendor"]
    faults = []
    if vendor.name != name or not _NAME.fullmatch(vendor.name):
        faults.append(f"its name is {vendor.name!r:.60}, wanted {name!r:.60} in [a-z0-9-]")
    if wrong := _faults_of_types(vendor):
        return faults + wrong
    if not vendor.interfaces:
        return [*faults, "it has no interface"]
    for word in ("account", "key_name"):
        theirs = [getattr(each, word) for one in others for each in one.interfaces]
        mine = [getattr(each, word) for each in vendor.interfaces]
        twice = sorted({each for each in mine if each in theirs or mine.count(each) > 1})
        faults += [f"{word} {each!r} is taken" for each in twice]
    for interface in vendor.interfaces:
        if interface.base_url is None and interface.locate is None:
            faults.append(f"the interface {interface.name} has no base_url")
        if interface.base_url is not None and interface.locate is not None:
            faults.append(f"the interface {interface.name} has a base_url and locates another")
        if interface.base_url is not None and origin(interface.base_url) is None:
            faults.append(f"the base_url of {interface.name} is no http(s) address")
    return faults + _faults_of_models(vendor)


def _faults_of_types(vendor: Vendor) -> list[str]:
    faults = []
    for word, wanted in (("interfaces", Interface), ("models", Model), ("default_models", str)):
        given: object = getattr(vendor, word)  # those who write plug-ins do not all check types
        if not isinstance(given, tuple | list):
            faults.append(f"its {word} are a {type(given).__name__}, wanted a tuple")
        elif strange := [each for each in given if not isinstance(each, wanted)]:
            faults.append(
                f"one of its {word} is a {type(strange[0]).__name__}, wanted {wanted.__name__}"
            )
    return faults


def _faults_of_variables(vendor: Vendor, others: Collection[Vendor]) -> list[str]:
    known = {variable for other in others for variable in other.variables}
    strange = [
        variable
        for variable in vendor.variables
        if variable not in known
        and (
            not _VARIABLE.fullmatch(variable)
            or variable.startswith(_OWN_PREFIX)
            or variable in OWN_VARIABLES
        )
    ]
    keys = {key: each for other in others for each in other.interfaces for key in each.keys}
    taken = [
        (variable, keys[variable])
        for interface in vendor.interfaces
        for variable in interface.variables
        if variable in keys and not _leads_to(interface, keys[variable])
    ]
    return [
        f"the variable {variable!r:.60} is not in [A-Z0-9_], begins with {_OWN_PREFIX}, or is"
        " vidgen's own"
        for variable in strange
    ] + [
        f"the variable {variable} holds the key of {owner.title}, which is for"
        f" {owner.base_url or 'its own address'} and {owner.base_url_variable} only: name another"
        for variable, owner in taken
    ]


def _leads_to(interface: Interface, owner: Interface) -> bool:
    """Whether the key of *owner* would go where it goes anyway: more of the same vendor's."""
    return (interface.base_url, interface.base_url_variable, interface.locate) == (
        owner.base_url,
        owner.base_url_variable,
        owner.locate,
    )


def _guarded(vendor: Vendor, said: str) -> Vendor:
    """*vendor*, whose functions raise `PluginBrokenError` where they fail or return nonsense."""

    def called(what: str, function: Callable[..., Any], *given: object) -> Any:
        try:
            return function(*given)
        except InvalidRequestError:
            raise
        except (Exception, SystemExit) as error:
            raise PluginBrokenError(
                f"{said} fails in {what}: {type(error).__name__}: {error!s:.200}."
            ) from error

    def located(interface: Interface) -> Interface:
        if (locate := interface.locate) is None:
            return interface

        def address(endpoints: Endpoints) -> str:
            found = called("locate", locate, endpoints)
            if not isinstance(found, str) or origin(found) is None:
                raise PluginBrokenError(f"{said} fails in locate: that is no http(s) address.")
            return found

        return replace(interface, locate=address)

    def held(model: Model) -> Model:
        cost, check = model.cost, model.check

        def price(request: VideoRequest) -> int | None:
            found = called("cost", cost, request) if cost is not None else None
            is_price = type(found) is int and found >= 0
            if found is not None and not is_price:
                raise PluginBrokenError(f"{said} fails in cost: that is no whole number of micros.")
            return found if is_price else None

        def look(request: VideoRequest) -> None:
            if check is not None:
                called("check", check, request)

        return replace(
            model, cost=None if cost is None else price, check=None if check is None else look
        )

    def opened(name: str) -> Model | None:
        found = called("open_model", vendor.open_model, name) if vendor.open_model else None
        if found is None:
            return None
        alone = replace(vendor, models=(found,), default_models=(name,), open_model=None)
        faults = _faults_of_types(alone) or _faults_of_models(replace(alone, models=(found,)))
        if faults or found.name != name:
            raise PluginBrokenError(f"{said} fails in open_model: {'; '.join(faults) or 'a name'}.")
        return held(found)

    return replace(
        vendor,
        interfaces=tuple(map(located, vendor.interfaces)),
        models=tuple(map(held, vendor.models)),
        open_model=None if vendor.open_model is None else opened,
    )


def _faults_of_models(vendor: Vendor) -> list[str]:
    faults = []
    interfaces = {each.name for each in vendor.interfaces}
    for model in vendor.models:
        said = f"the model {model.name!r:.60}"
        if model.provider != vendor.name:
            faults.append(f"{said} is of the provider {model.provider!r:.60}")
        if model.api not in interfaces:
            faults.append(f"{said} is at {model.api!r:.60}, which is none of its interfaces")
        if model.default_seconds is not None and model.default_seconds not in model.seconds:
            faults.append(f"{said} makes no {model.default_seconds} seconds, which is its default")
    if not vendor.default_models:
        return [*faults, "it has no default model"]
    return faults + [
        f"the default model {name!r:.60} is none of its models"
        for name in vendor.default_models
        if vendor.model(name) is None
    ]
