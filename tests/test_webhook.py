"""Signatures that other libraries find right, and addresses that nothing is sent to."""

import json
import re
import subprocess
import sys
from base64 import b64decode, b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey
from openai import OpenAI
from standardwebhooks import Webhook, WebhookVerificationError

from vidgen.errors import SettingsError, WebhookInvalidError
from vidgen.settings import Settings, describe
from vidgen.webhook import is_public, public_key, refusal, secrets_of, sign, verify

README = (Path(__file__).parents[1] / "README.md").read_text()
KEY = bytes(range(32))
HMAC = f"whsec_{b64encode(KEY).decode()}"
OTHER = f"whsec_{b64encode(KEY[::-1]).decode()}"
ED25519 = f"whsk_{b64encode(KEY).decode()}"
ID = "0199a1b2-0000-7000-8000-000000000001"
BODY = json.dumps({"type": "video.completed", "data": {"id": "äöü 🎬"}}).encode()
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def headers(secrets: str, *, at: datetime | None = None, body: bytes = BODY) -> dict[str, str]:
    timestamp_s = int((at or datetime.now(UTC)).timestamp())
    return {
        "webhook-id": ID,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": sign(secrets_of(secrets), ID, timestamp_s, body),
    }


def check(secrets: str, sent: dict[str, str], body: bytes = BODY, now: datetime = NOW) -> None:
    verify(
        secrets_of(secrets),
        webhook_id=sent.get("webhook-id", ""),
        timestamp=sent.get("webhook-timestamp", ""),
        signature=sent.get("webhook-signature", ""),
        body=body,
        now=now,
    )


# --- signing ---


def test_the_official_library_finds_our_signature_right() -> None:
    assert Webhook(HMAC).verify(BODY, headers(HMAC)) == json.loads(BODY)


def test_so_does_the_one_of_openai() -> None:
    client = OpenAI(api_key="sk-x", webhook_secret=HMAC)

    client.webhooks.verify_signature(BODY, headers(HMAC))


def test_the_official_library_finds_a_changed_body_wrong() -> None:
    with pytest.raises(WebhookVerificationError):
        Webhook(HMAC).verify(BODY.replace(b"completed", b"cancelled"), headers(HMAC))


def test_every_secret_signs_so_that_receivers_change_theirs_when_they_like() -> None:
    sent = headers(f"{HMAC}, {ED25519},{OTHER}")

    Webhook(HMAC).verify(BODY, sent)
    Webhook(OTHER).verify(BODY, sent)
    assert [part.split(",")[0] for part in sent["webhook-signature"].split()] == ["v1", "v1a", "v1"]


def test_an_ed25519_signature_is_right_for_whoever_has_the_public_key_only() -> None:
    [secret] = secrets_of(ED25519)
    sent = headers(ED25519)
    signature = b64decode(sent["webhook-signature"].removeprefix("v1a,"))
    content = f"{ID}.{sent['webhook-timestamp']}.".encode() + BODY

    VerifyKey(public_key(secret)).verify(content, signature)
    with pytest.raises(BadSignatureError):
        VerifyKey(public_key(secret)).verify(content + b" ", signature)


def test_the_key_pair_of_the_specification_is_understood() -> None:
    # From its text on asymmetric signatures: the private key has the public one behind it.
    private = (
        "6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
    )

    [secret] = secrets_of(f"whsk_{private}")

    assert b64encode(public_key(secret)) == b"1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="


# --- secrets ---


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hunter2",
        "whsec_",
        "whsec_hunter2!",
        f"whsec_{b64encode(b'x' * 23).decode()}",
        f"whsec_{b64encode(b'x' * 65).decode()}",
        f"whsk_{b64encode(b'x' * 31).decode()}",
        f"whsk_{b64encode(KEY + KEY).decode()}",  # not its public key
        f"whpk_{b64encode(KEY).decode()}",
        f"{HMAC},",
        f"{HMAC};{OTHER}",
    ],
)
def test_what_is_no_secret_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError, match="whsec_ and base64 of 24 to 64 random bytes") as error:
        secrets_of(text)

    assert "hunter2" not in str(error.value)


def test_a_secret_may_lack_its_padding_and_never_shows() -> None:
    [secret] = secrets_of(HMAC.rstrip("="))

    assert secret.key == KEY
    assert "key" not in repr(secret)


def test_an_ed25519_key_may_bring_its_public_key() -> None:
    both = KEY + bytes(SigningKey(KEY).verify_key)

    assert secrets_of(f"whsk_{b64encode(both).decode()}") == secrets_of(ED25519)


# --- verifying ---


def test_what_the_official_library_signs_is_right() -> None:
    signature = Webhook(HMAC).sign(ID, NOW, BODY.decode())
    sent = {
        "webhook-id": ID,
        "webhook-timestamp": str(int(NOW.timestamp())),
        "webhook-signature": signature,
    }

    check(HMAC, sent)
    check(f"{OTHER},{HMAC}", sent)
    check(HMAC, {**sent, "webhook-signature": f"v1a,AAAA v2,x v1,{'A' * 43}= {signature}"})


@pytest.mark.parametrize("away", [timedelta(minutes=-5), timedelta(0), timedelta(minutes=5)])
def test_five_minutes_are_forgiven(away: timedelta) -> None:
    check(HMAC, headers(HMAC, at=NOW + away))


WRONG: dict[str, tuple[dict[str, str], str]] = {
    "no id": ({"webhook-id": ""}, "webhook-id"),
    "an endless id": ({"webhook-id": "x" * 257}, "webhook-id"),
    "an id with a line end": ({"webhook-id": "x\ny"}, "webhook-id"),
    "no timestamp": ({"webhook-timestamp": ""}, "unix time"),
    "a timestamp in words": ({"webhook-timestamp": "now"}, "unix time"),
    "a negative timestamp": ({"webhook-timestamp": "-1"}, "unix time"),
    "a fraction": ({"webhook-timestamp": "1.5"}, "unix time"),
    "not a number": ({"webhook-timestamp": "nan"}, "unix time"),
    "other digits": ({"webhook-timestamp": "١٧٠٠٠٠٠٠٠٠"}, "unix time"),
    "an endless timestamp": ({"webhook-timestamp": "9" * 13}, "unix time"),
    "the year 33658": ({"webhook-timestamp": "9" * 12}, "too old, or from the future"),
    "no signature": ({"webhook-signature": ""}, "no signature"),
    "a version alone": ({"webhook-signature": "v1"}, "no signature"),
    "a signature without its version": ({"webhook-signature": "AAAA"}, "no signature"),
    "no base64": ({"webhook-signature": "v1,üüü"}, "no signature"),
    "another version": ({"webhook-signature": "v2,AAAA"}, "no signature"),
    "somebody else's": (
        {"webhook-signature": headers(OTHER, at=NOW)["webhook-signature"]},
        "no signature",
    ),
    "of another id": ({"webhook-id": "another"}, "no signature"),
    "of another second": ({"webhook-timestamp": str(int(NOW.timestamp()) + 1)}, "no signature"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_right_is_refused_with_its_sentence(name: str) -> None:
    change, sentence = WRONG[name]

    with pytest.raises(WebhookInvalidError, match=sentence):
        check(HMAC, headers(HMAC, at=NOW) | change)


@pytest.mark.parametrize("away", [timedelta(minutes=-5, seconds=-1), timedelta(seconds=301)])
def test_a_stale_webhook_is_refused(away: timedelta) -> None:
    with pytest.raises(WebhookInvalidError, match="too old, or from the future"):
        check(HMAC, headers(HMAC, at=NOW + away))


def test_a_changed_body_is_refused() -> None:
    with pytest.raises(WebhookInvalidError, match="no signature"):
        check(HMAC, headers(HMAC, at=NOW), BODY + b" ")


# --- addresses ---


@pytest.mark.parametrize(
    "url",
    [
        "https://me.test/hook",
        "HTTPS://Me.Test:8443/hook?job=1&x=%20",
        "http://a-b.c_d.example./",
        "https://xn--bcher-kva.example",
        "https://8.8.8.8/hook",
        "https://[2606:4700::1111]:443/hook",
        "https://[64:ff9b::808:808]/",
    ],
)
def test_an_address_that_everybody_reaches_is_all_right(url: str) -> None:
    assert refusal(url, allow_private=False) is None


@pytest.mark.parametrize(
    "url",
    ["http://localhost:8000/hook", "http://127.0.0.1:1/hook", "http://[::1]/", "http://10.1.2.3/"],
)
def test_private_ones_need_a_setting(url: str) -> None:
    assert "VIDGEN_ALLOW_PRIVATE_ADDRESSES" in (refusal(url, allow_private=False) or "")
    assert refusal(url, allow_private=True) is None


@pytest.mark.parametrize(
    "url",
    [
        None,
        7,
        "",
        "hook",
        "//me.test/",
        "https://",
        "https://me.test/\r\nX: y",
        "ftp://me.test/",
        "http://me.test/#f",
    ],
)
def test_what_is_no_web_address_is_refused_whatever_is_allowed(url: object) -> None:
    assert "must be an http or https address" in (refusal(url, allow_private=True) or "")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("1.1.1.1", True),
        ("2606:4700::1111", True),
        ("::ffff:1.1.1.1", True),
        ("2002:101:101::", True),
        ("64:ff9b::101:101", True),
        ("0.0.0.0", False),
        ("127.255.255.254", False),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.0.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("192.0.0.192", False),
        ("168.63.129.16", False),
        ("198.18.0.1", False),
        ("203.0.113.1", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::127.0.0.1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:0:127.0.0.1", False),
        ("2002:7f00:1::", False),
        ("2001:0:7f00:1::", False),
        ("2001:db8::1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("64:ff9b:1::7f00:1", False),
        ("5f00::1", False),
        ("fc00::1", False),
        ("fd00:ec2::254", False),
        ("fe80::1", False),
        ("fe80::1%eth0", False),
        ("2606:4700::1111%eth0", False),
        ("fec0::1", False),
        ("ff02::1", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


# --- settings ---


def load(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for setting in describe():
        monkeypatch.delenv(setting.name, raising=False)
    given = {"DATABASE_URL": "postgresql://u@h/d", "REDIS_URL": "redis://h", **variables}
    for name, text in given.items():
        monkeypatch.setenv(name, text)
    return Settings.load(env_file=None)


def test_the_secrets_are_read_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, VIDGEN_WEBHOOK_SECRETS=f"{ED25519},{HMAC}")

    assert settings.webhook_signers == (*secrets_of(ED25519), *secrets_of(HMAC))
    assert load(monkeypatch).webhook_signers == ()
    assert b64encode(KEY).decode() not in repr(settings)


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("VIDGEN_WEBHOOK_SECRETS", "hunter2", "; or whsk_ and base64 of an ed25519 key"),
        ("OPENAI_WEBHOOK_SECRET", "hunter2", "whsec_ and base64 of 24 to 64 random bytes"),
        ("OPENAI_WEBHOOK_SECRET", ED25519, "whsec_ and base64 of 24 to 64 random bytes"),
        ("GEMINI_WEBHOOK_SECRET", f"{HMAC},hunter2", "whsec_ and base64"),
    ],
)
def test_a_wrong_secret_is_told_at_the_start_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, wanted: str
) -> None:
    with pytest.raises(SettingsError) as error:
        load(monkeypatch, **{name: text})

    assert f"{name}: came a secret of {len(text)} characters; wanted: " in error.value.message
    assert wanted in error.value.message
    assert text not in error.value.message


# --- the README ---


async def test_the_receiver_in_the_readme_works() -> None:
    section = README.partition("\n## Webhooks\n")[2].partition("\n## ")[0]
    [example] = re.findall(r"```py\n(.*?)```", section, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example, "README.md", "exec"), names)  # noqa: S102  our own words
    secret = re.findall(r"whsec_[^\"]{20,}", example)[0]
    body = json.dumps(
        {"type": "video.completed", "data": {"id": ID, "storage_key": "videos/1.mp4"}}
    ).encode()

    async with TestClient(TestServer(names["app"])) as client:
        right = await client.post("/videos", data=body, headers=headers(secret, body=body))
        wrong = await client.post("/videos", data=body, headers=headers(OTHER, body=body))

    assert (right.status, wrong.status) == (204, 400)
    assert names["seen"] == {ID}


def test_the_commands_in_the_readme_make_secrets() -> None:
    section = README.partition("\n## Webhooks\n")[2].partition("\n## ")[0]
    [block] = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)

    made = [
        subprocess.run(
            [sys.executable, "-c", line.partition("'")[2].rpartition("'")[0]],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for line in block.splitlines()
    ]

    [hmac_secret], [private, public] = made
    assert secrets_of(hmac_secret)[0].scheme == "v1"
    [ed25519] = secrets_of(private)
    assert public == f"whpk_{b64encode(public_key(ed25519)).decode()}"
