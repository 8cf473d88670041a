"""`--live`: which real providers the environment opens, what they would be asked, what it costs."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

from vidgen import catalog
from vidgen.errors import ModelRetiredError, SettingsError
from vidgen.job import VideoRequest
from vidgen.queue import endpoints_of
from vidgen.settings import Settings

Choice = Literal["sora", "veo", "all"]

# Taken from the environment; all else stays as the stack has it.
_OF_PROVIDERS = (
    "openai_api_key",
    "openai_base_url",
    "openai_auth_style",
    "gemini_api_key",
    "gemini_base_url",
    "google_cloud_project_id",
    "google_cloud_location",
    "google_application_credentials",
    "vertex_base_url",
    "gcs_base_url",
    "veo_storage_uri",
    "allow_private_addresses",
    "allow_unknown_models",
    "poll_interval_s",
    "rate_limit_per_min",
    "max_attempts",
)

_NOTHING_USABLE = f"""\
--live found no provider it can use. Set one of these in the environment or in .env:
  Veo on Vertex AI     GOOGLE_CLOUD_PROJECT_ID, and GOOGLE_APPLICATION_CREDENTIALS outside of
                       Google Cloud
  Sora's protocol      OPENAI_BASE_URL (a gateway or compatible server) and OPENAI_API_KEY;
                       OpenAI itself switched Sora 2 off on {catalog.SORA_OFF_ON}
  Veo on Gemini's API  GEMINI_BASE_URL (a gateway) and GEMINI_API_KEY;
                       Google itself switched Veo 3.1 off there on {catalog.VEO_GEMINI_OFF_ON}
Without --live everything runs on simulated providers and costs nothing."""


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
        return settings.model_copy(
            update={name: getattr(self.settings, name) for name in _OF_PROVIDERS}
        )

    def address(self, quote: catalog.Quote) -> str:
        """Where this request would go."""
        settings = self.settings
        assert quote.model is not None  # made from the catalog
        match quote.model.api:
            case "openai":
                return settings.openai_base_url
            case "gemini":
                return settings.gemini_base_url
            case "vertex":
                return settings.vertex_base_url or f"Vertex AI, {settings.google_cloud_location}"


def find(provider: Choice, *, today: date, env_file: Path | None = Path(".env")) -> Offer:
    """
    Look at what the environment opens.

    Raises:
        SettingsError: Nothing that works, and what to set; or the environment is wrong.
    """
    settings = Settings.load(needs=frozenset(), env_file=env_file)
    endpoints = endpoints_of(settings)
    candidates = {
        "veo-3.1-fast-generate-001": bool(settings.google_cloud_project_id),
        "sora-2": settings.openai_api_key is not None or not endpoints.sora_is_vendor,
        "veo-3.1-fast-generate-preview": settings.gemini_api_key is not None
        or not endpoints.gemini_is_vendor,
    }
    quotes, retired = [], []
    for model, is_configured in candidates.items():
        name = model.partition("-")[0]
        if not is_configured or provider not in {"all", name}:
            continue
        request = VideoRequest(provider=name, model=model, prompt="-", seconds=4)
        try:
            quotes.append(
                catalog.quote(request, today=today, endpoints=endpoints, allow_unknown_models=False)
            )
        except ModelRetiredError as error:
            retired.append(error.message)
    if not quotes:
        raise SettingsError("\n\n".join([*retired, _NOTHING_USABLE]))
    return Offer(settings=settings, quotes=tuple(quotes))
