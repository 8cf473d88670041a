"""What `vidgen demo --live` would ask, by what is set."""

from datetime import date
from pathlib import Path

import pytest

from vidgen.catalog import vendors
from vidgen.dev import live
from vidgen.errors import SettingsError

TODAY = date(2026, 11, 26)


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a provider is set on this machine."""
    for vendor in vendors():
        for variable in vendor.variables:
            monkeypatch.delenv(variable, raising=False)


def offered(folder: Path, *lines: str, provider: str = "all") -> list[tuple[str, str]]:
    """The models that would be asked for, and where."""
    file = folder / "env"
    file.write_text("\n".join(lines))
    offer = live.find(provider, today=TODAY, env_file=file)
    return [(quote.request.model or "", offer.address(quote)) for quote in offer.quotes]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("FAL_KEY=k", ("fal-ai/veo3.1/fast", "https://queue.fal.run")),
        ("XAI_API_KEY=k", ("grok-imagine-video", "https://api.x.ai/v1")),
        (
            "GEMINI_API_KEY=k",
            ("gemini-omni-1.2-flash", "https://generativelanguage.googleapis.com/v1beta"),
        ),
    ],
)
def test_a_key_opens_its_provider(tmp_path: Path, line: str, found: tuple[str, str]) -> None:
    assert offered(tmp_path, line) == [found]


def test_a_model_on_two_interfaces_is_asked_for_once(tmp_path: Path) -> None:
    both = ("GEMINI_API_KEY=k", "GOOGLE_CLOUD_PROJECT_ID=p")

    assert offered(tmp_path, *both, provider="omni") == [
        ("gemini-omni-1.2-flash", "https://aiplatform.googleapis.com/v1beta1")
    ]


def test_without_any_key_each_way_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        offered(tmp_path)

    said = caught.value.message
    for vendor in vendors():
        assert vendor.title in said
    assert "GEMINI_BASE_URL (a compatible server) and GEMINI_API_KEY" in said  # for Veo
    assert "Gemini Omni by the Gemini API    GEMINI_API_KEY" in said


def test_a_key_of_another_provider_does_not_help(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot use fal.*\n  fal +FAL_KEY\nWithout"):
        offered(tmp_path, "XAI_API_KEY=k", provider="fal")
