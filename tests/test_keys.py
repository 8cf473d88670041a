"""What counts as a key that a user may bring, and what is told of it."""

from typing import Any

import orjson
import pytest

from vidgen import keys
from vidgen.errors import InvalidRequestError, UnknownProviderError

ACCOUNT = {
    "type": "service_account",
    "project_id": "alices-studio",
    "private_key_id": "0123456789abcdef",
    "private_key": "-----BEGIN PRIVATE KEY-----\nplanted\n-----END PRIVATE KEY-----\n",
    "client_email": "vidgen@alices-studio.iam.gserviceaccount.com",
    "client_id": "1",
    "token_uri": "https://oauth2.googleapis.com/token",
}


def account(**changes: Any) -> str:
    return orjson.dumps({**ACCOUNT, **changes}).decode()


@pytest.mark.parametrize(
    ("provider", "text", "api"),
    [
        ("sora", "sk-alice-0123456789", "openai"),
        ("veo", "AIzaSy-alice-0123456789", "gemini"),
        ("veo", account(), "vertex"),
        ("sora", "  sk-alice-0123456789\n", "openai"),
    ],
)
def test_the_text_tells_for_which_interface_a_key_is(provider: str, text: str, api: str) -> None:
    given = keys.check(provider, text)

    assert (given.provider, given.api) == (provider, api)


@pytest.mark.parametrize(
    ("text", "hint"),
    [("sk-alice-0123", "0123"), ("123456789012", "9012"), ("12345678901", ""), ("x", "")],
)
def test_a_hint_is_the_end_of_a_long_key_and_nothing_of_a_short_one(text: str, hint: str) -> None:
    assert keys.check("sora", text).hint == hint


def test_the_hint_of_a_service_account_is_of_its_name_and_not_of_its_key() -> None:
    assert keys.check("veo", account()).hint == "cdef"


@pytest.mark.parametrize(
    ("provider", "text"),
    [
        ("sora", ""),
        ("sora", "planted key"),
        ("sora", "planted\r\nX-Header: 1"),
        ("sora", "planted\0"),
        ("sora", "plantéd"),
        ("sora", "planted" * 1000),
        ("sora", account()),
        ("veo", "{planted"),
        ("veo", "{}"),
        ("veo", '{"type": "planted"}'),
        ("veo", account(type="external_account", credential_source={"executable": "planted"})),
        ("veo", account(private_key=7)),
        ("veo", account(private_key="planted")),
        ("veo", account(client_email="")),
        ("veo", account(project_id="../planted")),
        ("veo", account(private_key="PRIVATE KEY planted" * 2000)),
    ],
)
def test_what_is_no_key_is_refused_with_what_is_wanted_and_never_repeated(
    provider: str, text: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        keys.check(provider, text)

    assert "plant" not in f"{caught.value!r}{caught.value.__cause__!r}"


def test_a_provider_that_nobody_knows_is_answered_by_the_known_ones() -> None:
    with pytest.raises(UnknownProviderError, match="known are sora, veo"):
        keys.check("acme", "sk-alice")


@pytest.mark.parametrize(
    ("token_uri", "vertex_base_url"),
    [
        ("http://169.254.169.254/token", None),
        ("https://oauth2.googleapis.com.evil.test/token", None),
        ("https://evil.test/token", "https://vertex.test/v1"),
        ("https://vertex.test@evil.test/token", "https://vertex.test/v1"),
    ],
)
def test_a_service_account_cannot_send_the_worker_elsewhere_for_a_token(
    token_uri: str, vertex_base_url: str | None
) -> None:
    with pytest.raises(InvalidRequestError, match="token_uri is not Google's"):
        keys.check("veo", account(token_uri=token_uri), vertex_base_url=vertex_base_url)


def test_tokens_may_come_from_where_the_operator_says_that_vertex_is() -> None:
    text = account(token_uri="https://vertex.test/token")

    assert keys.check("veo", text, vertex_base_url="https://vertex.test/v1").api == "vertex"


def test_of_a_service_account_only_what_is_needed_is_kept() -> None:
    more = {"universe_domain": "evil.test", "auth_uri": "https://evil.test", "x": ["y"]}

    given = keys.check("veo", account(**more))

    assert orjson.loads(given.secret) == ACCOUNT
    assert keys.project_of(given.secret) == "alices-studio"


@pytest.mark.parametrize("user_id", ["", "x" * 501, "a\0b", "a\ud800"])
def test_a_user_that_no_job_can_have_is_refused(user_id: str) -> None:
    with pytest.raises(InvalidRequestError, match="1 to 500 characters"):
        keys.check_user(user_id)


def test_a_given_key_does_not_show_itself() -> None:
    assert "alice" not in repr(keys.check("sora", "sk-alice-0123456789"))
