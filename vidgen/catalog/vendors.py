"""Every provider there is: ours in the order of the documentation, then other packages'."""

from collections.abc import Collection, Mapping
from functools import cache

from vidgen.catalog import (
    fal,
    kling,
    luma,
    minimax,
    omni,
    replicate,
    runway,
    seedance,
    sora,
    veo,
    wan,
    xai,
)
from vidgen.catalog.plugins import Plugins, installed
from vidgen.catalog.vendor import Model, Vendor
from vidgen.errors import PluginBrokenError, UnknownProviderError

# One line for each, so that two who add one do not meet.
_BUILT_IN: Mapping[str, Vendor] = {
    each.VENDOR.name: each.VENDOR
    for each in (
        sora,
        veo,
        omni,
        runway,
        replicate,
        luma,
        fal,
        xai,
        kling,
        minimax,
        seedance,
        wan,
    )
}


@cache
def _plugins() -> Plugins:
    return installed(_BUILT_IN.values())


def names() -> tuple[str, ...]:
    """The name of every provider."""
    return tuple(each.name for each in vendors())


def vendors() -> tuple[Vendor, ...]:
    """Every provider: ours, then those of other packages."""
    return (*_BUILT_IN.values(), *_plugins().vendors.values())


def plugins() -> tuple[str, ...]:
    """The names of those of other packages."""
    return tuple(_plugins().vendors)


def broken_plugins() -> tuple[str, ...]:
    """Why providers of other packages cannot be used, a sentence for each."""
    return tuple(_plugins().broken.values())


def is_ours(name: str) -> bool:
    """Whether the provider *name* comes with vidgen itself."""
    return name in _BUILT_IN


def is_provider(name: str) -> bool:
    """Whether there is a provider *name*."""
    return name in _BUILT_IN or name in _plugins().vendors


def vendor(name: str) -> Vendor:
    """
    Look up one provider.

    Raises:
        UnknownProviderError: The message names the known ones.
        PluginBrokenError: Another package has it, but cannot be used; the message says why.
    """
    found = _BUILT_IN.get(name) or _plugins().vendors.get(name)
    if found is not None:
        return found
    if reason := _plugins().broken.get(name):
        raise PluginBrokenError(reason)
    raise UnknownProviderError(
        f"There is no provider {name!r:.60}; known are {', '.join(names())}."
    )


def key_variables(addresses: Collection[str]) -> tuple[str, ...]:
    """What opens the interfaces whose base URL is named by *addresses*; service accounts apart."""
    found = (
        variable
        for each in vendors()
        for interface in each.interfaces
        if interface.base_url_variable in addresses and interface.key_form != "service_account"
        for variable in interface.keys
    )
    return tuple(dict.fromkeys(found))


def models() -> tuple[Model, ...]:
    """Every listed model."""
    return tuple(model for each in vendors() for model in each.models)


def find(provider: str, name: str) -> Model | None:
    """Look up one model; None if the catalog does not list it."""
    return vendor(provider).find(name) if is_provider(provider) else None
