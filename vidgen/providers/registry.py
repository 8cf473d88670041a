"""
What the settings open: each provider built when it is first asked for, closed at the end.

Which there are says the catalog; nothing here knows one by name.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Generic, Protocol, Self, TypeVar, runtime_checkable

from vidgen import catalog
from vidgen.catalog import Endpoints, Interface, Vendor
from vidgen.catalog.vendor import origin, resolved
from vidgen.errors import PluginBrokenError, ProviderNotConfiguredError, RequestError
from vidgen.job import SERVER_CREDENTIAL, Operation
from vidgen.providers.foreign import SUBMIT_MARGIN_S, Limits, foreign
from vidgen.providers.http import ProviderHttp, authority
from vidgen.providers.protocol import Credential, Listing, Overview, Provider, Submission

T = TypeVar("T")

# For fewer operations each is asked for by itself: a page would cost as much.
WORTH_A_PAGE = 3

# Of how many models it is remembered what the settings say of them; users may name any.
MAX_KNOWN_MODELS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvidersConfig:
    """
    The part of the settings that providers need.

    Attributes:
        endpoints: Their variables.
        allow_private_addresses: Whether what a provider points to may be in a private network.
        submit_timeout_s: How long the answer to a paid call is waited for.
    """

    endpoints: Endpoints = field(default_factory=lambda: Endpoints.of({}))
    allow_private_addresses: bool = False
    submit_timeout_s: float = 120

    @classmethod
    def of(cls, **values: str) -> Self:
        """With these variables of providers, and no other."""
        return cls(endpoints=Endpoints.of(values))

    def over(self, **values: str) -> "ProvidersConfig":
        """The same with other variables of providers."""
        return replace(self, endpoints=self.endpoints.over(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """
    What a provider is built from. It asks *endpoints* for its addresses and manners, never for a
    key: each call brings its own.
    """

    endpoints: Endpoints
    http: ProviderHttp

    def address(self, interface: Interface) -> str:
        """The base URL of *interface*."""
        return interface.address(self.endpoints)


@runtime_checkable
class FindsRecent(Protocol):
    """A provider that can list what was started, so that an ambiguous submit can be cleared up."""

    async def find_recent(
        self, submission: Submission, since: datetime, credential: Credential
    ) -> Listing:
        """
        What the server lists since *since*, our time, that may have come from *submission*.

        Raises:
            SubmitUnknownError: This server cannot list, so nothing is proven.
            TransientError, RateLimitedError, ProtocolError: Ask again later.
        """
        ...


@runtime_checkable
class ListsVideos(Protocol):
    """A provider whose list tells of many operations with one answer."""

    async def look_through(
        self, wanted: Sequence[Operation], credential: Credential, pages: int
    ) -> Overview:
        """
        What the newest videos of the list say about *wanted*.

        Args:
            pages: At most so many questions. The next one is not worth it for a few that are not
                found yet, see `WORTH_A_PAGE`.

        Raises:
            TransientError, RateLimitedError: Ask again later.
            ProviderError: This server's list is no use.
        """
        ...


class _Known(Generic[T]):
    """What the settings say of a model: asked for with each call, and the same until the end."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], T] = {}

    def of(self, name: str, model: str, find: Callable[[str, str], T]) -> T:
        found = self._found.get((name, model))
        if found is None:
            if len(self._found) >= MAX_KNOWN_MODELS:
                self._found.clear()
            found = self._found[name, model] = find(name, model)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Providers:
    """
    Every provider by its name, and the server's own credentials.

    Attributes:
        by_name: Those that were used; each is built when it is first asked for.
    """

    config: ProvidersConfig
    http: ProviderHttp
    by_name: dict[str, Provider] = field(default_factory=dict)
    _interfaces: _Known[Interface] = field(default_factory=_Known, init=False, repr=False)
    _credentials: _Known[Credential] = field(default_factory=_Known, init=False, repr=False)
    _accounts: _Known[str] = field(default_factory=_Known, init=False, repr=False)

    def get(self, name: str) -> Provider:
        """
        Look up one provider.

        Raises:
            UnknownProviderError: The message names the known ones.
            PluginBrokenError: Another package brings it, and it cannot be used.
            ProviderNotConfiguredError: A variable that leads to it holds no address.
        """
        found = self.by_name.get(name)
        if found is None:
            vendor = catalog.vendor(name)
            surroundings = Surroundings(endpoints=self.config.endpoints, http=self.http)
            _check_addresses(vendor, self.config.endpoints)
            found = self.by_name[name] = _wired(
                vendor,
                surroundings,
                Limits(submit_s=self.config.submit_timeout_s + SUBMIT_MARGIN_S),
            )
        return found

    def finder(self, name: str) -> FindsRecent | None:
        """The provider as one that can list, None if it cannot."""
        found = self.get(name)
        return found if isinstance(found, FindsRecent) else None

    def credential(self, name: str, model: str) -> Credential:
        """
        Get the server's own credential for *model* of provider *name*.

        Raises:
            UnknownProviderError: The message names the known ones.
            ProviderNotConfiguredError: The message says which variable to set.
        """
        return self._credentials.of(name, model, self._credential)

    def interface(self, name: str, model: str) -> Interface:
        """
        Which interface serves *model*: the one a key has to be for.

        Raises:
            UnknownProviderError: The message names the known ones.
        """
        return self._interfaces.of(name, model, self._interface)

    def api(self, name: str, model: str) -> str:
        """
        The word for that interface.

        Raises:
            UnknownProviderError: The message names the known ones.
        """
        return self.interface(name, model).name

    def account(self, name: str, model: str, credential: Credential | None = None) -> str:
        """
        Name whoever is asked and billed for *model*: interface, host and credential in one word.

        Limits and pauses belong to it. It is the same in every process with the same settings, and
        holds no secret: a stored key is named by its id. The server's own may change while their id
        stays, so they are told apart by the first 12 hexadecimal digits of a SHA-256.

        Args:
            credential: Of a user; None is the server's own.

        Raises:
            UnknownProviderError, ProviderNotConfiguredError: As `credential`.
        """
        if credential is None or credential.id == SERVER_CREDENTIAL:
            return self._accounts.of(name, model, self._account)
        interface = self.interface(name, model)
        return f"{self._place(interface)}:{credential.id}"

    async def aclose(self) -> None:
        """Close every provider and all connections."""
        for provider in self.by_name.values():
            await provider.aclose()
        await self.http.aclose()

    def _interface(self, name: str, model: str) -> Interface:
        return catalog.vendor(name).interface_of(model, self.config.endpoints)

    def _credential(self, name: str, model: str) -> Credential:
        interface, endpoints = self.interface(name, model), self.config.endpoints
        if not interface.is_offered(endpoints):
            missing = interface.missing.format(model=model)
            wanted = " and ".join((*interface.needs, *interface.keys))
            raise ProviderNotConfiguredError(
                missing or f"The provider {name} has no key: set {wanted}."
            )
        return Credential(id=SERVER_CREDENTIAL, secret=interface.secret(endpoints))

    def _account(self, name: str, model: str) -> str:
        interface, endpoints = self.interface(name, model), self.config.endpoints
        secret = self.credential(name, model).secret
        owner = "".join(f"{endpoints.get(variable)}\n" for variable in interface.owners)
        digest = hashlib.sha256(f"{owner}{secret}".encode()).hexdigest()
        return f"{self._place(interface)}:{digest[:12]}"

    def _place(self, interface: Interface) -> str:
        return f"{interface.account}:{authority(interface.address(self.config.endpoints))}"


def build(config: ProvidersConfig) -> Providers:
    """Make ready for every provider; nothing is connected yet."""
    return Providers(
        config=config,
        http=ProviderHttp(
            allow_private_addresses=config.allow_private_addresses,
            submit_timeout_s=config.submit_timeout_s,
        ),
    )


def _check_addresses(vendor: Vendor, endpoints: Endpoints) -> None:
    # Settings have looked at ours; those of plug-ins are checked before a key goes there.
    for interface in vendor.interfaces:
        named = endpoints.get(interface.base_url_variable)
        if named and origin(named) is None:
            raise ProviderNotConfiguredError(
                f"{interface.base_url_variable} holds no http(s) address of a server."
            )


def _wired(vendor: Vendor, surroundings: Surroundings, limits: Limits) -> Provider:
    """The provider of *vendor*, built by its own module, which is imported now."""
    try:
        wire = resolved(vendor.wire)
    # A stranger's module may do whatever it likes, here and below: it must stop no worker.
    except (Exception, SystemExit) as error:
        raise PluginBrokenError(
            f"The provider {vendor.name!r} names {vendor.wire}, which cannot be imported:"
            f" {type(error).__name__}: {error!s:.200}"
        ) from error
    is_ours = catalog.is_ours(vendor.name)
    if not is_ours:
        surroundings = replace(surroundings, endpoints=_own(vendor, surroundings.endpoints))
    try:
        provider: Provider = wire(surroundings)
    except RequestError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginBrokenError(
            f"The provider {vendor.name!r} cannot be built: {type(error).__name__}: {error!s:.200}"
        ) from error
    return provider if is_ours else foreign(provider, vendor.name, limits)


def _own(vendor: Vendor, endpoints: Endpoints) -> Endpoints:
    """*endpoints* without what *vendor* does not declare: a package reads no key of others."""
    mine = frozenset(vendor.variables)
    return Endpoints(lambda name: endpoints.read(name) if name in mine else None)
