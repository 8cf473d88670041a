"""
Providers that other packages bring: entry points of the group `vidgen.providers`.

    [project.entry-points."vidgen.providers"]
    acme = "acme_video.vendor:VENDOR"           # the name of the provider = its `Vendor`

Looked for once in a process, and only when a provider is asked for that is none of ours, or all
are listed. One that is broken is refused by itself, with a sentence, and stops no other.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from vidgen.catalog.vendor import Interface, Model, Vendor, origin

GROUP = "vidgen.providers"

_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}", re.ASCII)
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{2,60}", re.ASCII)
_OWN_PREFIX = "VIDGEN_"


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
        vendors[point.name] = vendor
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
        and (not _VARIABLE.fullmatch(variable) or variable.startswith(_OWN_PREFIX))
    ]
    return [
        f"the variable {variable!r:.60} is not in [A-Z0-9_], or begins with {_OWN_PREFIX}"
        for variable in strange
    ]


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
