"""What is configured, and what is missing and how to set it."""

import pytest

from vidgen.errors import ProviderNotConfiguredError, UnknownProviderError
from vidgen.providers.registry import ProvidersConfig, build

NOTHING = build(ProvidersConfig())


def test_an_unknown_provider_is_answered_by_the_known_ones() -> None:
    with pytest.raises(UnknownProviderError, match="known are sora, veo"):
        NOTHING.get("runway")


@pytest.mark.parametrize(
    ("provider", "model", "variable"),
    [
        ("sora", "sora-2", "OPENAI_API_KEY"),
        ("veo", "veo-3.1-generate-preview", "GEMINI_API_KEY"),
        ("veo", "veo-3.1-generate-001", "GOOGLE_CLOUD_PROJECT_ID"),
    ],
)
def test_a_missing_credential_names_its_variable(provider: str, model: str, variable: str) -> None:
    with pytest.raises(ProviderNotConfiguredError, match=variable):
        NOTHING.credential(provider, model)


def test_each_model_gets_the_credential_of_its_interface() -> None:
    providers = build(
        ProvidersConfig(
            openai_api_key="a", gemini_api_key="b", vertex_project="p", vertex_credentials="c"
        )
    )

    assert providers.credential("sora", "sora-2").secret == "a"
    assert providers.credential("veo", "veo-3.1-generate-preview").secret == "b"
    assert providers.credential("veo", "veo-3.1-generate-001").secret == "c"


def test_a_server_of_one_s_own_may_want_no_key() -> None:
    providers = build(ProvidersConfig(openai_base_url="http://localhost:8000/v1"))

    assert providers.credential("sora", "wan-2.2").secret == ""


def test_vertex_without_a_file_uses_the_application_s_own_credentials() -> None:
    assert build(ProvidersConfig(vertex_project="p")).credential("veo", "veo-4").secret == ""


def test_only_sora_can_list_what_was_started() -> None:
    assert NOTHING.finder("sora") is not None
    assert NOTHING.finder("veo") is None


def test_no_secret_is_shown() -> None:
    config = ProvidersConfig(openai_api_key="k1", gemini_api_key="k2", vertex_credentials="k3")

    shown = repr(build(config))

    assert not any(secret in shown for secret in ("k1", "k2", "k3"))
