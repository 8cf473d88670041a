"""What signs, seals and opens."""

import base64

from pydantic import SecretStr

from tests.by_hand import Hand
from tests.doctor.conftest import NOBODY, changed
from vidgen.doctor import secrets
from vidgen.doctor.finding import State
from vidgen.job import VideoRequest
from vidgen.queue import VideoQueue
from vidgen.settings import Settings


def sealed_by(*keys: bytes) -> SecretStr:
    return SecretStr(",".join(base64.b64encode(key).decode() for key in keys))


async def test_webhooks_without_a_secret_are_a_problem_once_one_waits(well: Settings) -> None:
    without = changed(well, webhook_secrets=None)
    quiet = await secrets.webhooks(without)
    async with VideoQueue(well) as queue:
        request = VideoRequest(provider="sora", prompt="a tram")
        await Hand(queue).carry(await queue.enqueue(request, webhook_url="http://127.0.0.1:1/"))

    waiting = await secrets.webhooks(without)
    unknown = await secrets.webhooks(
        changed(without, database_url=f"postgresql://vidgen@{NOBODY}/none")
    )
    signed = await secrets.webhooks(well)

    assert (quiet.state, unknown.state) == (State.WARNING, State.WARNING)
    assert waiting.state is State.PROBLEM
    assert waiting.sentence == "none is set, and webhooks wait for one: 1"
    assert (signed.state, signed.sentence) == (State.OK, "1 set (HMAC)")


async def test_keys_that_seal_are_random_and_each_there_once(well: Settings) -> None:
    random, other = bytes(range(32)), bytes(range(100, 132))

    def with_keys(*keys: bytes) -> Settings:
        return changed(well, encryption_key=None, encryption_keys=sealed_by(*keys))

    two = await secrets.sealing(with_keys(random, other))
    zeros = await secrets.sealing(with_keys(random, bytes(32)))
    twice = await secrets.sealing(with_keys(random, random))
    none = await secrets.sealing(changed(well, encryption_key=None))

    assert (two.state, two.sentence) == (State.OK, "2 well-formed; the first one seals")
    assert zeros.state is State.PROBLEM
    assert "openssl" in zeros.remedy
    assert twice.state is State.WARNING
    assert none.state is State.OK


async def test_a_server_that_everybody_here_may_use_is_a_warning(well: Settings) -> None:
    listening = changed(well, http_port=3000)
    more = SecretStr("grafana:read:a-token-that-only-reads")

    assert (await secrets.tokens(well)).sentence == "the HTTP server is off (VIDGEN_HTTP_PORT=0)"
    assert (await secrets.tokens(listening)).state is State.OK
    assert (await secrets.tokens(changed(listening, admin_tokens=more))).sentence == "2 set"
    assert (await secrets.tokens(changed(listening, admin_token=None))).state is State.WARNING
