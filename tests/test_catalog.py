"""The catalog refuses what would fail after it was paid, and says what is allowed instead."""

from datetime import date
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from vidgen.catalog import Endpoints, Quote, find, models, quote, vendor, vendors
from vidgen.errors import (
    InvalidRequestError,
    ModelRetiredError,
    UnknownModelError,
    UnknownProviderError,
    VidgenError,
)
from vidgen.job import ImageRole, InputImage, VideoRequest
from vidgen.settings import Settings, describe

TODAY = date(2026, 11, 23)
KEYS = {"OPENAI_API_KEY": "k", "GEMINI_API_KEY": "k", "GOOGLE_CLOUD_PROJECT_ID": "p"}
VENDORS = Endpoints.of(KEYS)
COMPATIBLE = VENDORS.over(
    {"OPENAI_BASE_URL": "http://gateway/v1", "GEMINI_BASE_URL": "http://gateway/v1beta"}
)


def asked(
    provider: str = "veo",
    *,
    endpoints: Endpoints = COMPATIBLE,
    today: date = TODAY,
    unknown: bool = False,
    **fields: Any,
) -> Quote:
    request = VideoRequest(provider=provider, **({"prompt": "a kite"} | fields))
    return quote(request, today=today, endpoints=endpoints, allow_unknown_models=unknown)


def images(*roles: ImageRole) -> tuple[InputImage, ...]:
    return tuple(InputImage(role=role, key=f"in/{role}.png") for role in roles)


def a_png(width: int, height: int) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def test_sora_s_defaults_are_filled_in() -> None:
    found = asked("sora")

    assert found.request == VideoRequest(
        provider="sora", prompt="a kite", model="sora-2", seconds=4, size="720x1280"
    )
    assert found.cost_micros == 400_000


def test_veo_s_defaults_are_filled_in() -> None:
    found = asked("veo").request

    assert (found.model, found.seconds) == ("veo-3.1-generate-001", 8)
    assert (found.aspect_ratio, found.resolution, found.audio) == ("16:9", "720p", True)


def test_without_vertex_the_default_is_the_gemini_model() -> None:
    found = asked(endpoints=COMPATIBLE.over({"GOOGLE_CLOUD_PROJECT_ID": ""}))

    assert found.request.model == "veo-3.1-generate-preview"


@pytest.mark.parametrize(
    ("fields", "cost_micros"),
    [
        ({"provider": "sora", "model": "sora-2", "seconds": 20}, 2_000_000),
        ({"provider": "sora", "model": "sora-2-pro", "size": "1280x720"}, 1_200_000),
        ({"provider": "sora", "model": "sora-2-pro", "size": "1792x1024"}, 2_000_000),
        ({"provider": "sora", "model": "sora-2-pro", "size": "1920x1080"}, 2_800_000),
        ({"model": "veo-3.1-generate-001", "seconds": 4}, 1_600_000),
        ({"model": "veo-3.1-generate-001", "resolution": "1080p"}, 3_200_000),
        ({"model": "veo-3.1-generate-001", "resolution": "4k"}, 4_800_000),
        ({"model": "veo-3.1-fast-generate-001", "seconds": 6}, 600_000),
        ({"model": "veo-3.1-fast-generate-001", "resolution": "1080p"}, 960_000),
        ({"model": "veo-3.1-fast-generate-preview", "resolution": "4k"}, 2_400_000),
        ({"model": "veo-3.1-lite-generate-preview", "seconds": 4}, 200_000),
        ({"model": "veo-3.1-lite-generate-001", "resolution": "1080p"}, 640_000),
    ],
)
def test_the_price_is_exact(fields: dict[str, Any], cost_micros: int) -> None:
    assert asked(**fields).cost_micros == cost_micros


def test_veo_takes_pixels_as_a_convenience() -> None:
    found = asked(size="1080x1920").request

    assert (found.aspect_ratio, found.resolution, found.size) == ("9:16", "1080p", None)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"provider": "sora", "seconds": 5}, "4, 8, 12, 16, 20; 5 came"),
        ({"provider": "sora", "size": "1920x1080"}, "720x1280, 1280x720; '1920x1080' came"),
        ({"provider": "sora", "size": "big"}, "WIDTHxHEIGHT"),
        ({"provider": "sora", "aspect_ratio": "16:9"}, "allowed sizes are 720x1280"),
        ({"provider": "sora", "seed": 1}, "takes no seed; models that do: veo-3.1-generate-001"),
        ({"provider": "sora", "negative_prompt": "rain"}, "takes no negative_prompt"),
        ({"provider": "sora", "audio": False}, "always makes sound"),
        ({"provider": "sora", "prompt": "x" * 32_001}, "32001 characters; sora-2 takes at most"),
        ({"provider": "sora", "images": images("last_frame")}, "image as first_frame"),
        ({"provider": "sora", "images": images("first_frame", "first_frame")}, "at most 1"),
        ({"provider": "sora", "extra": {"seconds": "12"}}, "extra holds seconds"),
        ({"seconds": 5}, "4, 6, 8; 5 came"),
        ({"seconds": True}, "whole number"),
        ({"seconds": "8"}, "whole number"),
        ({"aspect_ratio": "1:1"}, "16:9, 9:16; '1:1' came"),
        ({"resolution": "480p"}, "720p, 1080p, 4k; '480p' came"),
        ({"resolution": "1080p", "seconds": 4}, "1080p only in 8 seconds"),
        ({"resolution": "4k", "seconds": 6}, "4k only in 8 seconds"),
        ({"model": "veo-3.1-lite-generate-001", "resolution": "4k"}, "720p, 1080p; '4k' came"),
        ({"size": "1280x720", "aspect_ratio": "16:9"}, "one or the other"),
        ({"size": "1000x1000"}, "takes size 1280x720"),
        ({"prompt": "x" * 4097}, "1024 tokens"),
        ({"prompt": ""}, "empty"),
        ({"prompt": " \n"}, "blank"),
        ({"prompt": "a\0b"}, "null character"),
        ({"prompt": "a\ud800b"}, "surrogate"),
        ({"prompt": 7}, "prompt is 7"),
        ({"negative_prompt": "a\0b"}, "null character"),
        ({"seed": -1}, "0 to 4294967295"),
        ({"seed": 2**32}, "0 to 4294967295"),
        ({"audio": "no"}, "true or false"),
        ({"images": images("last_frame")}, "first_frame image beside it"),
        ({"images": images("reference", "first_frame")}, "cannot be combined"),
        ({"images": 4 * images("reference")}, "at most 3 reference"),
        ({"images": images("reference"), "seconds": 4}, "only for 8 seconds"),
        ({"images": (InputImage(),)}, "exactly one of data, url and key"),
        ({"images": (InputImage(url="ftp://a/b"),)}, "http"),
        ({"images": (InputImage(url="http://user:pw@a/b"),)}, "http"),
        ({"images": (InputImage(data=b"GIF89a"),)}, "no PNG"),
        ({"extra": {"sampleCount": 4}}, "extra holds sampleCount"),
        ({"extra": {"duration_seconds": 4}}, "takes extra compressionQuality"),
        ({"extra": {"personGeneration": "a\0"}}, "null character"),
        ({"extra": {"labels": {"a": float("nan")}}}, "inf or nan"),
        ({"model": "veo-3.1-generate-preview", "seed": 1}, "takes no seed"),
        ({"model": "veo-3.1-generate-preview", "audio": False}, "always makes sound"),
    ],
)
def test_what_a_model_cannot_do_is_refused_with_what_it_can(
    fields: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        asked(**fields)

    assert sentence in caught.value.message


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 2**32 - 1, "negative_prompt": "rain", "audio": False},
        {"images": images("first_frame", "last_frame"), "seconds": 4},
        {"images": images("reference", "reference", "reference")},
        {"extra": {"personGeneration": "allow_adult", "labels": {"team": "film"}}},
        {"model": "veo-3.1-generate-preview", "negative_prompt": "rain", "audio": True},
        {"provider": "sora", "images": images("first_frame"), "extra": {"fps": 24}},
    ],
)
def test_what_a_model_can_do_passes(fields: dict[str, Any]) -> None:
    assert asked(**fields).cost_micros is not None


def test_sora_s_first_frame_must_have_the_size_of_the_video() -> None:
    fits = (InputImage(data=a_png(1280, 720)),)
    assert asked("sora", size="1280x720", images=fits).model is not None

    with pytest.raises(InvalidRequestError, match="1280x720 pixels; sora-2 wants exactly"):
        asked("sora", size="720x1280", images=fits)


def test_unknown_names_are_answered_by_the_known_ones() -> None:
    with pytest.raises(UnknownProviderError, match="'acme'; known are sora, veo"):
        asked("acme")
    with pytest.raises(UnknownModelError, match="known are sora-2, "):
        asked("sora", model="sora-3")


def test_an_unknown_model_passes_by_choice_without_a_price() -> None:
    found = asked("sora", model="wan-2.2", seconds=5, size="832x480", seed=7, unknown=True)

    assert (found.cost_micros, found.model, found.request.seconds) == (None, None, 5)


@pytest.mark.parametrize(
    "fields", [{"seconds": "5"}, {"size": "x"}, {"prompt": ""}, {"seed": -1}, {"audio": 1}]
)
def test_even_an_unknown_model_gets_no_nonsense(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError):
        asked("sora", model="wan-2.2", unknown=True, **fields)


def test_a_retired_model_is_refused_at_its_vendor_with_what_still_works() -> None:
    with pytest.raises(ModelRetiredError) as caught:
        asked("sora", endpoints=VENDORS)

    sentence = caught.value.message
    assert "2026-09-24" in sentence
    assert "veo/veo-3.1-generate-001" in sentence
    assert "OPENAI_BASE_URL" in sentence
    assert "veo-3.1-generate-preview" not in sentence


@pytest.mark.parametrize(
    ("provider", "model", "off_on"),
    [
        ("sora", "sora-2-pro", date(2026, 9, 24)),
        ("veo", "veo-3.1-fast-generate-preview", date(2026, 10, 22)),
    ],
)
def test_a_model_works_until_the_day_before_and_elsewhere_for_ever(
    provider: str, model: str, off_on: date
) -> None:
    day_before = off_on.replace(day=off_on.day - 1)

    assert asked(provider, model=model, endpoints=VENDORS, today=day_before).model is not None
    assert asked(provider, model=model, endpoints=COMPATIBLE).model is not None
    with pytest.raises(ModelRetiredError):
        asked(provider, model=model, endpoints=VENDORS, today=off_on)


def test_veo_on_vertex_has_no_last_day() -> None:
    assert asked(model="veo-3.1-generate-001", endpoints=VENDORS).model is not None


def test_whether_a_vendor_is_asked_is_read_off_the_address() -> None:
    (openai,), (vertex, gemini) = vendor("sora").interfaces, vendor("veo").interfaces
    found = Endpoints.of(
        {
            "OPENAI_BASE_URL": "https://API.openai.com:443/v1/",
            "GEMINI_BASE_URL": "http://localhost:9/v1beta",
        }
    )

    assert openai.is_vendor(found)
    assert not gemini.is_vendor(found)
    assert vertex.is_vendor(found)
    assert [each.is_offered(found) for each in (openai, gemini, vertex)] == [False, True, False]


def test_every_model_accepts_its_own_defaults_and_prices_them() -> None:
    for model in models():
        needed = tuple(
            InputImage(role=role, key=f"in/{role}.png")
            for role, (least, _) in model.images.items()
            for _ in range(least)
        )
        found = asked(model.provider, model=model.name, images=needed, today=date(2026, 1, 1))

        assert found.model is find(model.provider, model.name)
        assert found.cost_micros or not (model.prices or model.cost)


def test_a_second_is_told_with_sound_and_without_as_it_is_billed() -> None:
    for provider, name in (("fal", "fal-ai/veo3.1/fast"), ("kling", "kling-v3")):
        model = find(provider, name)
        assert model is not None
        for audio in (True, False):
            billed = asked(provider, model=name, audio=audio).cost_micros
            a_second = model.micros_per_second(silent=not audio)["720p"]
            assert model.default_seconds is not None
            assert billed == a_second * model.default_seconds


def test_every_provider_is_declared_whole() -> None:
    names = {setting.name for setting in describe()}
    settings = Settings()
    interfaces = [each for one in vendors() for each in one.interfaces]
    for one in vendors():
        assert set(one.variables) <= names
        assert all(one.model(name) is not None for name in one.default_models)
        for model in one.models:
            assert model.provider == one.name
            assert model.api in {each.name for each in one.interfaces}
            assert model.default_seconds is None or model.default_seconds in model.seconds
        for interface in one.interfaces:
            default = settings.variable(interface.base_url_variable)
            assert default == (interface.base_url or "")
            assert set(interface.owners) <= set(interface.variables)
    for word in ("account", "key_name"):
        assert len({getattr(each, word) for each in interfaces}) == len(interfaces)


def test_the_interface_of_a_veo_model_follows_from_its_name() -> None:
    veo, without = vendor("veo"), VENDORS.over({"GOOGLE_CLOUD_PROJECT_ID": ""})

    assert veo.interface_of("veo-3.1-generate-preview", VENDORS).name == "gemini"
    assert veo.interface_of("veo-3.1-generate-001", without).name == "vertex"
    assert veo.interface_of("veo-4", VENDORS).name == "vertex"
    assert veo.interface_of("veo-4", without).name == "gemini"


def test_a_refusal_shows_at_most_a_little_of_what_came() -> None:
    with pytest.raises(VidgenError) as caught:
        asked(aspect_ratio="x" * 10_000)

    assert len(caught.value.message) < 300
