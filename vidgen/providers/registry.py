"""Which providers there are, and what opens them: built once from settings, closed at the end."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, assert_never, runtime_checkable

from vidgen import catalog
from vidgen.errors import ProviderNotConfiguredError, UnknownProviderError
from vidgen.job import SERVER_CREDENTIAL, Operation
from vidgen.providers.google import GoogleTokens
from vidgen.providers.http import ProviderHttp, authority
from vidgen.providers.protocol import Credential, Listing, Progress, Provider, Submission
from vidgen.providers.sora import AuthStyle, SoraProvider
from vidgen.providers.veo import VeoEndpoints, VeoProvider


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvidersConfig:
    """
    The part of the settings that providers need.

    Attributes:
        vertex_project: None means that Vertex AI is not configured.
        vertex_base_url: None means the vendor's own host of *vertex_location*.
        vertex_credentials: Path or JSON of a service account; None for application default ones.
        vertex_storage_uri: `gs://bucket/prefix/`; None means that videos come inside the answer.
        allow_private_addresses: Whether what a provider points to may be in a private network.
        submit_timeout_s: How long the answer to a paid call is waited for.
    """

    openai_base_url: str = f"{catalog.OPENAI_ORIGIN}/v1"
    openai_auth_style: AuthStyle = "bearer"
    openai_api_key: str | None = field(default=None, repr=False)
    gemini_base_url: str = f"{catalog.GEMINI_ORIGIN}/v1beta"
    gemini_api_key: str | None = field(default=None, repr=False)
    vertex_project: str | None = None
    vertex_location: str = "us-central1"
    vertex_base_url: str | None = None
    vertex_credentials: str | None = field(default=None, repr=False)
    vertex_storage_uri: str | None = None
    gcs_base_url: str = "https://storage.googleapis.com"
    allow_private_addresses: bool = False
    submit_timeout_s: float = 120

    @property
    def veo_endpoints(self) -> VeoEndpoints:
        """Where Google is."""
        return VeoEndpoints(
            gemini_base_url=self.gemini_base_url,
            vertex_project=self.vertex_project,
            vertex_location=self.vertex_location,
            vertex_base_url=self.vertex_base_url,
            vertex_storage_uri=self.vertex_storage_uri,
            gcs_base_url=self.gcs_base_url,
        )

    @property
    def endpoints(self) -> catalog.Endpoints:
        """What the catalog asks about it."""
        return catalog.Endpoints.of(
            openai_base_url=self.openai_base_url,
            gemini_base_url=self.gemini_base_url,
            gemini_configured=self.gemini_api_key is not None,
            vertex_configured=self.vertex_project is not None,
        )


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
    ) -> Mapping[str, Progress]:
        """
        What the newest videos of the list say about *wanted*, by operation id; others are not said.

        Args:
            pages: At most so many questions.

        Raises:
            TransientError, RateLimitedError: Ask again later.
            ProviderError: This server's list is no use.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Providers:
    """Every provider by its name, and the server's own credentials."""

    config: ProvidersConfig
    http: ProviderHttp
    by_name: Mapping[str, Provider]

    def get(self, name: str) -> Provider:
        """
        Look up one provider.

        Raises:
            UnknownProviderError: The message names the known ones.
        """
        found = self.by_name.get(name)
        if found is None:
            known = ", ".join(self.by_name)
            raise UnknownProviderError(f"There is no provider {name!r}; known are {known}.")
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
        self.get(name)
        config = self.config
        if name == "sora":
            at_vendor = config.endpoints.sora_is_vendor
            return _key(config.openai_api_key, "OPENAI_API_KEY", name, at_vendor)
        if self.api(name, model) == "gemini":
            at_vendor = config.endpoints.gemini_is_vendor
            return _key(config.gemini_api_key, "GEMINI_API_KEY", name, at_vendor)
        if config.vertex_project is None:
            raise ProviderNotConfiguredError(
                f"{model} is on Vertex AI; set GOOGLE_CLOUD_PROJECT_ID, and"
                " GOOGLE_APPLICATION_CREDENTIALS outside of Google Cloud."
            )
        return Credential(id=SERVER_CREDENTIAL, secret=config.vertex_credentials or "")

    def api(self, name: str, model: str) -> catalog.Api:
        """
        Which interface serves *model*: the one a key has to be for.

        Raises:
            UnknownProviderError: The message names the known ones.
        """
        self.get(name)
        if name == "sora":
            return "openai"
        return catalog.veo_api(model, vertex_configured=self.config.vertex_project is not None)

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
        config, api, owner = self.config, self.api(name, model), ""
        match api:
            case "openai":
                interface, url = name, config.openai_base_url
            case "gemini":
                interface, url = "veo-gemini", config.gemini_base_url
            case "vertex":
                # Google limits a project in a location, and credentials may be the machine's own.
                url = config.veo_endpoints.vertex_home(config.vertex_location)
                interface = "veo-vertex"
                owner = f"{config.vertex_project}\n{config.vertex_location}\n"
            case _:
                assert_never(api)
        if credential is not None and credential.id != SERVER_CREDENTIAL:
            return f"{interface}:{authority(url)}:{credential.id}"
        secret = self.credential(name, model).secret
        digest = hashlib.sha256(f"{owner}{secret}".encode()).hexdigest()
        return f"{interface}:{authority(url)}:{digest[:12]}"

    async def aclose(self) -> None:
        """Close every provider and all connections."""
        for provider in self.by_name.values():
            await provider.aclose()
        await self.http.aclose()


def build(config: ProvidersConfig) -> Providers:
    """Make every provider; nothing is connected yet."""
    http = ProviderHttp(
        allow_private_addresses=config.allow_private_addresses,
        submit_timeout_s=config.submit_timeout_s,
    )
    sora = SoraProvider(config.openai_base_url, config.openai_auth_style, http)
    veo = VeoProvider(config.veo_endpoints, http, GoogleTokens())
    return Providers(config=config, http=http, by_name={"sora": sora, "veo": veo})


def _key(key: str | None, variable: str, provider: str, at_vendor: bool) -> Credential:
    # A server of one's own may want no key; the vendor always does.
    if key is None and at_vendor:
        raise ProviderNotConfiguredError(f"The provider {provider} has no key: set {variable}.")
    return Credential(id=SERVER_CREDENTIAL, secret=key or "")
