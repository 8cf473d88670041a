"""What is configured, and what is missing and how to set it."""

import pytest

from vidgen.errors import ProviderNotConfiguredError, UnknownProviderError
from vidgen.providers.protocol import Credential
from vidgen.providers.registry import ProvidersConfig, build

NOTHING = build(ProvidersConfig())


def test_an_unknown_provider_is_answered_by_the_known_ones() -> None:
    with pytest.raises(UnknownProviderError, match="known are sora, veo"):
        NOTHING.get("acme")


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
        ProvidersConfig.of(
            OPENAI_API_KEY="a",
            GEMINI_API_KEY="b",
            GOOGLE_CLOUD_PROJECT_ID="p",
            GOOGLE_APPLICATION_CREDENTIALS="c",
        )
    )

    assert providers.credential("sora", "sora-2").secret == "a"
    assert providers.credential("veo", "veo-3.1-generate-preview").secret == "b"
    assert providers.credential("veo", "veo-3.1-generate-001").secret == "c"


def test_a_server_of_one_s_own_may_want_no_key() -> None:
    providers = build(ProvidersConfig.of(OPENAI_BASE_URL="http://localhost:8000/v1"))

    assert providers.credential("sora", "wan-2.2").secret == ""


def test_vertex_without_a_file_uses_the_application_s_own_credentials() -> None:
    assert (
        build(ProvidersConfig.of(GOOGLE_CLOUD_PROJECT_ID="p")).credential("veo", "veo-4").secret
        == ""
    )


def test_each_model_says_for_which_interface_a_key_has_to_be() -> None:
    assert [NOTHING.api(name, model) for name, model in ACCOUNTS] == ["openai", "gemini", "vertex"]


def test_only_sora_can_list_what_was_started() -> None:
    assert NOTHING.finder("sora") is not None
    assert NOTHING.finder("veo") is None


VEO_GEMINI, VEO_VERTEX = ("veo", "veo-3.1-generate-preview"), ("veo", "veo-3.1-generate-001")
ACCOUNTS = (("sora", "sora-2"), VEO_GEMINI, VEO_VERTEX)
CONFIG = ProvidersConfig.of(
    OPENAI_API_KEY="a",
    GEMINI_API_KEY="a",
    GOOGLE_CLOUD_PROJECT_ID="p",
    GOOGLE_APPLICATION_CREDENTIALS="a",
)


def accounts(config: ProvidersConfig) -> list[str]:
    return [build(config).account(name, model) for name, model in ACCOUNTS]


def test_an_account_is_named_by_interface_host_and_credential() -> None:
    sora, gemini, vertex = accounts(CONFIG)

    assert sora == "sora:api.openai.com:ca978112ca1b"
    assert gemini == "veo-gemini:generativelanguage.googleapis.com:ca978112ca1b"
    assert vertex.startswith("veo-vertex:us-central1-aiplatform.googleapis.com:")
    assert accounts(CONFIG) == [sora, gemini, vertex]


@pytest.mark.parametrize(
    ("changes", "other"),
    [
        ({"OPENAI_API_KEY": "b"}, {"sora"}),
        ({"OPENAI_BASE_URL": "http://gateway:8000/v1"}, {"sora"}),
        ({"GEMINI_API_KEY": "b"}, {"veo-gemini"}),
        ({"GOOGLE_APPLICATION_CREDENTIALS": "b"}, {"veo-vertex"}),
        ({"GOOGLE_CLOUD_PROJECT_ID": "q"}, {"veo-vertex"}),
        ({"GOOGLE_CLOUD_LOCATION": "europe-west4"}, {"veo-vertex"}),
        ({"VIDGEN_VEO_STORAGE_URI": "gs://b/"}, set()),
    ],
)
def test_two_accounts_never_share_a_name(changes: dict[str, str], other: set[str]) -> None:
    before, after = accounts(CONFIG), accounts(CONFIG.over(**changes))

    differing = {name for name, old in zip(after, before, strict=True) if name != old}
    assert {name.partition(":")[0] for name in differing} == other


@pytest.mark.parametrize(("name", "model"), ACCOUNTS)
def test_the_account_of_a_user_s_key_is_named_by_its_id_and_never_by_the_key(
    name: str, model: str
) -> None:
    alice, bob = (Credential(id=who, secret="sk-the-same") for who in ("id-1", "id-2"))

    accounts = {NOTHING.account(name, model, each) for each in (alice, bob)}

    assert {account.rpartition(":")[2] for account in accounts} == {"id-1", "id-2"}


def test_an_account_that_is_not_configured_is_told_like_its_credential() -> None:
    with pytest.raises(ProviderNotConfiguredError, match="OPENAI_API_KEY"):
        NOTHING.account("sora", "sora-2")


def test_no_secret_is_shown() -> None:
    config = ProvidersConfig.of(
        OPENAI_API_KEY="k1", GEMINI_API_KEY="k2", GOOGLE_APPLICATION_CREDENTIALS="k3"
    )

    shown = repr(build(config))

    assert not any(secret in shown for secret in ("k1", "k2", "k3"))
