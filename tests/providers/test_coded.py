"""What a vendor's code becomes: a class for the deed, a sentence without secrets, a sane sum."""

from datetime import UTC, datetime
from typing import Any

import pytest

from vidgen.errors import (
    InputRejectedError,
    ModelRetiredError,
    ProtocolError,
    QuotaExhaustedError,
    RateLimitedError,
    TransientError,
)
from vidgen.providers import coded
from vidgen.providers.answer import Answer, Deed
from vidgen.providers.plain import Vendor

VENDOR = Vendor(label="Acme", base_url="https://acme.test", variable="ACME_BASE_URL")


def refused(deed: Deed, status: int = 400, headers: Any = None, **changes: Any) -> Any:
    answer = Answer(status=status, headers=headers or {}, body=b"")
    hidden = {name: changes.pop(name, ()) for name in ("secrets", "private")}
    told: dict[str, Any] = {"code": "7", "words": "no", "kind": None} | changes
    return VENDOR.refusal(answer, deed, coded.said(deed, **told), **hidden)


def test_an_error_under_http_200_is_quoted_from_a_submit_only() -> None:
    submit = refused("submit", 200, words="no 'a secret kite'", private=("a secret kite",))
    look = refused("poll", 200, words="no 'a secret kite'")

    assert (type(submit), submit.message) == (
        InputRejectedError,
        "Acme refused the submit (200 7): no '…'",
    )
    assert (type(look), look.message) == (ProtocolError, "Acme refused the poll (200 7).")


def test_no_half_of_a_key_comes_back() -> None:
    error = refused(
        "submit", words="key ak-1 or sk-2 is bad", code="sk-2", secrets=("ak-1", "sk-2")
    )

    assert "ak-1" not in error.message
    assert "sk-2" not in error.message
    assert error.provider_code is None


def test_a_purse_that_is_empty_while_a_video_is_made_ends_no_look() -> None:
    assert type(refused("submit", kind=QuotaExhaustedError)) is QuotaExhaustedError
    assert type(refused("poll", kind=QuotaExhaustedError)) is TransientError


def test_a_wish_to_wait_is_passed_on_where_waiting_helps() -> None:
    header = {"retry-after": "7"}

    assert refused("poll", 429, header, kind=RateLimitedError).retry_after_s == 7
    assert refused("submit", 503, header).retry_after_s == 7
    assert refused("submit", 400, header, kind=InputRejectedError).retry_after_s is None


def test_a_model_that_is_gone_is_told_with_what_else_it_could_be() -> None:
    error = refused("submit", 400, words="It is no longer available.")

    assert type(error) is ModelRetiredError
    assert error.message.endswith("or ACME_BASE_URL is wrong.")


@pytest.mark.parametrize(
    ("query", "until"),
    [
        ("Expires=1790000000&Signature=x", datetime.fromtimestamp(1_790_000_000, UTC)),
        ("X-Amz-Date=20260101T000000Z&X-Amz-Expires=3600", datetime(2026, 1, 1, 1, tzinfo=UTC)),
        ("X-Tos-Date=20260101T000000Z&X-Tos-Expires=nan", None),
        ("X-Tos-Date=tomorrow&X-Tos-Expires=1", None),
        ("X-Tos-Date=20269901T000000Z&X-Tos-Expires=1", None),
        ("X-Tos-Date=20260101T000000Z&X-Tos-Expires=1e400", None),
        ("Expires=soon", None),
        ("", None),
    ],
)
def test_a_signed_address_says_until_when_it_holds(query: str, until: datetime | None) -> None:
    assert coded.signed_until(f"https://cdn.test/v.mp4?{query}") == until


def test_an_address_that_is_none_holds_for_no_time() -> None:
    assert coded.signed_until("http://[") is None


@pytest.mark.parametrize(
    ("count", "micros"),
    [(2, 280_000), ("2.5", 350_000), (-1, None), ("nan", None), (10**9, None), (None, None)],
)
def test_only_a_sane_sum_is_believed(count: Any, micros: int | None) -> None:
    assert coded.micros(count, 140_000) == micros
