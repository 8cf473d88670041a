"""Keys of the providers, asked by what costs nothing, and how long their models live."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta

from vidgen import catalog
from vidgen.catalog import Interface, Model, Vendor
from vidgen.doctor.finding import Finding, ok, problem, warning
from vidgen.errors import (
    AuthError,
    PluginBrokenError,
    ProviderError,
    ProviderNotConfiguredError,
)
from vidgen.providers.registry import Providers, build
from vidgen.resources import providers_config
from vidgen.settings import Settings

PLUGINS, MODELS = "plug-ins", "models"

MOST_NAMED = 3
ENDS_SOON = timedelta(days=60)


def interfaces() -> tuple[tuple[Vendor, Interface], ...]:
    """Every way in to a provider, each with a key of its own to look at."""
    return tuple((vendor, each) for vendor in catalog.vendors() for each in vendor.interfaces)


async def plugins(_: Settings) -> Finding:
    """Whether the providers that other packages bring can be used."""
    if broken := catalog.broken_plugins():
        return problem(
            PLUGINS, " ".join(broken), "mend or remove the package; everything else goes on"
        )
    found = catalog.plugins()
    return ok(PLUGINS, ", ".join(found) if found else "none is installed")


async def key(settings: Settings, vendor: Vendor, interface: Interface) -> Finding:
    """Whether the server of *interface* takes what is set to open it."""
    name, endpoints = interface.key_name, _endpoints(settings)
    if not interface.is_offered(endpoints):
        wanted = " and ".join(interface.needs or interface.keys)
        where = "" if len(vendor.interfaces) == 1 else f" on {interface.title}"
        return ok(name, f"not set: {vendor.name} is not offered{where} ({wanted})")
    return await _accepted(settings, name, vendor, interface)


async def models(settings: Settings, today: date | None = None) -> Finding:
    """Whether any model can be used, and until when; *today* is the day in UTC."""
    today = today or datetime.now(UTC).date()
    async with _providers(settings) as providers:
        keyed = [model for model in catalog.models() if _has_key(providers, model)]
    if not keyed:
        return problem(
            MODELS,
            "no provider has a key: every request will be refused",
            "set the key of one, e.g. FAL_KEY or GOOGLE_CLOUD_PROJECT_ID; the README has them all",
        )
    endpoints = _endpoints(settings)
    dead = [m for m in keyed if catalog.is_retired(m, today=today, endpoints=endpoints)]
    alive = [model for model in keyed if model not in dead]
    retired = "; ".join(f"{_named(group)} ended on {day}" for day, group in _by_day(dead).items())
    if not alive:
        return problem(
            MODELS,
            f"none can be used: {retired}",
            "set the key of another provider, e.g. GOOGLE_CLOUD_PROJECT_ID for Vertex AI, or"
            " OPENAI_BASE_URL or GEMINI_BASE_URL to a compatible server",
        )
    ending = [
        model
        for model in alive
        if model.retires_on is not None
        and today < model.retires_on <= today + ENDS_SOON
        and catalog.is_retired(model, today=model.retires_on, endpoints=endpoints)
    ]
    told = f"{_named(alive)} can be used" + (f"; {retired}" if retired else "")
    if ending:
        ends = "; ".join(f"{_named(group)} end on {day}" for day, group in _by_day(ending).items())
        return warning(MODELS, f"{told}; {ends}", "move to another model before that day")
    return ok(MODELS, told)


async def _accepted(settings: Settings, name: str, vendor: Vendor, interface: Interface) -> Finding:
    variable, address = " and ".join(interface.keys), interface.base_url_variable
    model = next(
        (model.name for model in vendor.models if model.api == interface.name),
        vendor.default_models[0],
    )
    async with _providers(settings) as providers:
        try:
            credential = providers.credential(vendor.name, model)
            told = await providers.get(vendor.name).accepts(model, credential)
        except AuthError as error:
            return problem(name, f"it is refused: {error.message}", f"correct {variable}")
        except ProviderNotConfiguredError as error:
            return problem(name, error.message, f"set {variable}")
        except PluginBrokenError as error:
            return problem(name, error.message, "mend or remove the package")
        except ProviderError as error:
            return warning(
                name,
                f"nobody can tell whether it is accepted: {error.message}",
                f"does {address} lead to the server from here, and is it up?",
            )
    if not told:
        return ok(name, "set; this server offers nothing free to try it with")
    return ok(name, "accepted")


@asynccontextmanager
async def _providers(settings: Settings) -> AsyncIterator[Providers]:
    providers = build(providers_config(settings))
    try:
        yield providers
    finally:
        await providers.aclose()


def _endpoints(settings: Settings) -> catalog.Endpoints:
    return providers_config(settings).endpoints


def _has_key(providers: Providers, model: Model) -> bool:
    try:
        providers.credential(model.provider, model.name)
    except (PluginBrokenError, ProviderNotConfiguredError):
        return False
    return True


def _by_day(found: list[Model]) -> dict[date, list[Model]]:
    groups: dict[date, list[Model]] = {}
    for model in found:
        if model.retires_on is not None:
            groups.setdefault(model.retires_on, []).append(model)
    return groups


def _named(found: list[Model]) -> str:
    names = [model.name for model in found]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
