"""Tokens and refusals that both of Google's interfaces share."""

import asyncio
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer

from vidgen.errors import (
    AuthError,
    ContentBlockedError,
    ModelRetiredError,
    QuotaExhaustedError,
    RateLimitedError,
    TransientError,
)
from vidgen.providers.answer import Answer
from vidgen.providers.google import GoogleTokens, family, refusal
from vidgen.providers.protocol import Credential
from vidgen.providers.registry import ProvidersConfig
from vidgen.simulator.control import Rule
from vidgen.simulator.server import SimulatorServer


@pytest.fixture
def credential(config: ProvidersConfig) -> Credential:
    return Credential(id="server", secret=config.endpoints.get("GOOGLE_APPLICATION_CREDENTIALS"))


def refused(status: int, message: str, *details: dict[str, Any]) -> Answer:
    body = {"error": {"code": status, "message": message, "status": "X", "details": details}}
    return Answer(status=status, headers={}, body=orjson.dumps(body))


async def test_a_token_serves_many_calls_and_is_fetched_once(
    simulators: SimulatorServer, credential: Credential
) -> None:
    tokens = GoogleTokens()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(tokens.token(credential)) for _ in range(20)]

    assert len({task.result() for task in tasks}) == 1
    assert simulators.veo.counts["token"] == 1


async def test_a_token_near_its_end_is_replaced(
    simulators: SimulatorServer, credential: Credential
) -> None:
    simulators.veo.token_lifetime_s = 200  # google-auth calls it stale 225 s before its end
    tokens = GoogleTokens()

    first = await tokens.token(credential)
    second = await tokens.token(credential)

    assert first != second


async def test_a_token_near_its_end_still_serves_while_no_other_can_be_had(
    simulators: SimulatorServer, credential: Credential
) -> None:
    simulators.veo.token_lifetime_s = 200
    tokens = GoogleTokens()
    first = await tokens.token(credential)
    simulators.veo.script(Rule(deed="token", outcome="disconnect"))

    assert await tokens.token(credential) == first


async def test_a_rejected_token_is_replaced_before_its_time(
    simulators: SimulatorServer, credential: Credential
) -> None:
    tokens = GoogleTokens()
    first = await tokens.token(credential)

    second = await tokens.token(credential, rejected=first)

    assert second != first
    assert await tokens.token(credential, rejected=first) == second


async def test_a_path_to_a_service_account_is_as_good_as_its_text(
    simulators: SimulatorServer, credential: Credential, tmp_path: Path
) -> None:
    path = tmp_path / "account.json"
    path.write_text(credential.secret)

    assert await GoogleTokens().token(Credential(id="server", secret=str(path)))


@pytest.mark.parametrize(
    "secret", ["/nowhere/account.json", "{", "{}", '{"type": "external_account"}', "\0"]
)
async def test_an_unusable_credential_is_an_error_that_does_not_repeat_it(secret: str) -> None:
    with pytest.raises(AuthError) as caught:
        await GoogleTokens().token(Credential(id="server", secret=secret))

    assert secret not in caught.value.message or secret == "{"


async def test_a_credential_google_refuses_is_an_auth_error(
    simulators: SimulatorServer, credential: Credential
) -> None:
    simulators.veo.script(Rule(deed="token", outcome="400"))

    with pytest.raises(AuthError):
        await GoogleTokens().token(credential)


async def test_a_token_service_out_of_reach_is_passing(credential: Credential) -> None:
    account = orjson.loads(credential.secret) | {"token_uri": "http://127.0.0.1:1/token"}

    with pytest.raises(TransientError):
        await GoogleTokens().token(Credential(id="server", secret=orjson.dumps(account).decode()))


async def test_no_proxy_or_password_of_the_environment_comes_between_us_and_the_token_service(
    credential: Credential, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[web.BaseRequest] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        seen.append(request)
        return web.json_response({"access_token": "t", "expires_in": 3600})

    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")  # where nobody listens
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with RawTestServer(answer) as server:
        account = orjson.loads(credential.secret) | {"token_uri": str(server.make_url("/token"))}
        own = replace(credential, secret=orjson.dumps(account).decode())
        assert await GoogleTokens().token(own) == "t"

    assert [request.headers.get("Authorization") for request in seen] == [None]


async def test_between_two_calls_the_token_is_remembered_and_the_credential_is_not(
    simulators: SimulatorServer, credential: Credential
) -> None:
    tokens = GoogleTokens()
    private_key = orjson.loads(credential.secret)["private_key"]

    token = await tokens.token(credential)

    remembered = reachable(tokens._entries)
    assert token in remembered
    assert private_key not in remembered
    assert credential.secret not in remembered


def reachable(value: object) -> str:
    """Everything that can be reached from *value*, as text."""
    seen: set[int] = set()
    found: list[str] = []

    def look(one: object) -> None:
        if id(one) in seen:
            return
        seen.add(id(one))
        found.append(str(one))
        if isinstance(one, dict):
            for name, item in one.items():
                look(name)
                look(item)
        elif isinstance(one, list | tuple | set):
            for item in one:
                look(item)
        elif hasattr(one, "__dict__") and not isinstance(one, type | ModuleType):
            look(vars(one))

    look(value)
    return "\n".join(found)


async def test_a_refused_account_of_a_user_does_not_point_to_the_server_s_settings(
    simulators: SimulatorServer, credential: Credential
) -> None:
    simulators.veo.script(Rule(deed="token", outcome="400"))

    with pytest.raises(AuthError) as caught:
        await GoogleTokens().token(Credential(id="id-1", secret=credential.secret))

    assert "GOOGLE_APPLICATION_CREDENTIALS" not in caught.value.message


def test_support_codes_are_told_by_their_family() -> None:
    assert family("Sorry. Support codes: 61493863, 90789179") == "violence, sexual content"
    assert family("Support code: 12345678") == "code 12345678"
    assert family("no code") is None


def test_a_minute_s_limit_passes_and_a_day_s_does_not() -> None:
    def quota(period: str) -> dict[str, Any]:
        return {"violations": [{"quotaId": f"RequestsPer{period}PerProject"}]}

    retry = {"retryDelay": "31s"}
    minute = refusal(refused(429, "check your plan and billing", quota("Minute"), retry), "submit")
    day = refusal(refused(429, "check your plan and billing", quota("Day"), retry), "submit")
    plain = refusal(refused(429, "check your plan and billing details"), "submit")
    spend = refusal(refused(429, "The spend limit of your tier is reached"), "submit")

    assert type(minute) is RateLimitedError
    assert minute.retry_after_s == 31
    assert type(day) is QuotaExhaustedError
    assert type(plain) is RateLimitedError
    assert type(spend) is QuotaExhaustedError


def test_a_retired_model_is_told_by_status_or_by_words() -> None:
    gone = refusal(refused(404, "Publisher Model was not found"), "submit")
    worded = refusal(refused(400, "The model is no longer available."), "submit")

    assert type(gone) is type(worded) is ModelRetiredError


def test_a_refused_prompt_with_a_support_code_is_blocked_content() -> None:
    error = refusal(refused(400, "It violates … Support codes: 58061214"), "submit")

    assert type(error) is ContentBlockedError
    assert "child" in error.message


def test_errors_in_a_list_or_without_any_shape_are_read_too() -> None:
    wrapped = b'[{"error": {"code": 403, "message": "no", "status": "PERMISSION_DENIED"}}]'

    assert type(refusal(Answer(status=403, headers={}, body=wrapped), "poll")) is AuthError
    assert type(refusal(Answer(status=503, headers={}, body=b"<html>"), "poll")) is TransientError
