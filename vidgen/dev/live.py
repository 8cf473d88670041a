"""`--live`: which real providers the environment opens, what they would be asked, what it costs."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path

from vidgen import catalog
from vidgen.errors import InvalidRequestError, ModelRetiredError, SettingsError
from vidgen.job import VideoRequest
from vidgen.queue import endpoints_of
from vidgen.settings import Settings

# Taken from the environment beside the variables of providers; all else stays as the stack has it.
_OF_JOBS = (
    "allow_private_addresses",
    "allow_unknown_models",
    "poll_interval_s",
    "rate_limit_per_min",
    "max_attempts",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """
    What real providers would be asked.

    Attributes:
        settings: Who they are and what opens them.
        quotes: The shortest clip of each, with its estimated price.
    """

    settings: Settings
    quotes: tuple[catalog.Quote, ...]

    def over(self, settings: Settings) -> Settings:
        """*settings* of a stack, with the real providers instead of the simulated ones."""
        variables = {name for vendor in catalog.vendors() for name in vendor.variables}
        mine = Settings.of_variables(variables) + _OF_JOBS
        live = settings.model_copy(update={name: getattr(self.settings, name) for name in mine})
        of_plugins = [name for name in variables if not Settings.of_variables((name,))]
        return live.with_variables({name: self.settings.variable(name) for name in of_plugins})

    def address(self, quote: catalog.Quote) -> str:
        """Where this request would go."""
        assert quote.model is not None  # made from the catalog
        vendor, endpoints = catalog.vendor(quote.model.provider), endpoints_of(self.settings)
        return vendor.interface_of(quote.model.name, endpoints).address(endpoints)


def find(provider: str, *, today: date, env_file: Path | None = Path(".env")) -> Offer:
    """
    Look at what the environment opens.

    Raises:
        SettingsError: Nothing that works, and what to set; or the environment is wrong.
    """
    settings = Settings.load(needs=frozenset(), env_file=env_file)
    endpoints = endpoints_of(settings)
    quotes, retired = [], []
    for model in _candidates(endpoints):
        if provider not in {"all", model.provider}:
            continue
        seconds = min(model.seconds, default=None)
        request = VideoRequest(
            provider=model.provider, model=model.name, prompt="-", seconds=seconds
        )
        try:
            quotes.append(
                catalog.quote(request, today=today, endpoints=endpoints, allow_unknown_models=False)
            )
        except ModelRetiredError as error:
            retired.append(error.message)
        except InvalidRequestError:
            continue  # it makes no video from words alone
    if not quotes:
        raise SettingsError("\n\n".join([*retired, _nothing_usable(today, provider)]))
    return Offer(settings=settings, quotes=tuple(quotes))


def _candidates(endpoints: catalog.Endpoints) -> list[catalog.Model]:
    """One model of each interface that is offered."""
    found = []
    for vendor in catalog.vendors():
        wanted = vendor.demo_models or vendor.default_models
        for interface in vendor.interfaces:
            mine = [
                vendor.model(name)
                for name in wanted
                if vendor.interface_of(name, endpoints) is interface
            ]
            if mine and mine[0] is not None and interface.is_offered(endpoints):
                found.append(mine[0])
    return found


def _nothing_usable(today: date, provider: str) -> str:
    """What can be set, a line for each interface; where all is switched off, the server's name."""
    lines = []
    wanted_of = catalog.vendors() if provider == "all" else (catalog.vendor(provider),)
    for vendor in wanted_of:
        for interface in vendor.interfaces:
            models = [
                model for model in vendor.models if interface.name in (model.api, *model.also)
            ]
            is_over = all(model.retires_on and today >= model.retires_on for model in models)
            wanted = [*interface.needs, *(() if interface.keys_optional else interface.keys)]
            if is_over and models:
                wanted.insert(0, f"{interface.base_url_variable} (a compatible server)")
            way = f"{vendor.title} by {interface.title}" if vendor.interfaces[1:] else vendor.title
            lines.append(f"  {way:<32} {' and '.join(wanted)}")
    return "\n".join(
        [
            "--live found no provider it can use. Set one of these in the environment or in .env:"
            if lines[1:]
            else f"--live cannot use {provider}. Set this in the environment or in .env:",
            *lines,
            "Without --live everything runs on simulated providers and costs nothing.",
        ]
    )
