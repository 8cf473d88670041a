"""Every provider there is, in the order of the documentation. Pure."""

from collections.abc import Collection, Mapping

from vidgen.catalog import fal, luma, omni, replicate, runway, sora, veo, xai
from vidgen.catalog.vendor import Model, Vendor
from vidgen.errors import UnknownProviderError

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
    )
}


def names() -> tuple[str, ...]:
    """The name of every provider."""
    return tuple(_BUILT_IN)


def vendors() -> tuple[Vendor, ...]:
    """Every provider."""
    return tuple(_BUILT_IN.values())


def is_provider(name: str) -> bool:
    """Whether there is a provider *name*."""
    return name in _BUILT_IN


def vendor(name: str) -> Vendor:
    """
    Look up one provider.

    Raises:
        UnknownProviderError: The message names the known ones.
    """
    found = _BUILT_IN.get(name)
    if found is None:
        known = ", ".join(names())
        raise UnknownProviderError(f"There is no provider {name!r:.60}; known are {known}.")
    return found


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
