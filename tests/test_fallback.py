"""What a fallback is asked for in place of the request: by rules, priced, or refused in words."""

from dataclasses import replace
from datetime import date

import pytest

from vidgen import catalog, fallback
from vidgen.catalog import Endpoints
from vidgen.errors import InvalidRequestError, ModelRetiredError, VidgenError
from vidgen.fallback import MAX_FALLBACKS, Option
from vidgen.job import REROUTES_BY_DEFAULT, Fallback, InputImage, VideoRequest

SORA = VideoRequest(provider="sora", prompt="a tram", seconds=8, size="1280x720")
VEO = Fallback(provider="veo", model="veo-3.1-fast-generate-001")
VERTEX = {"GOOGLE_CLOUD_PROJECT_ID": "p", "GEMINI_API_KEY": "k", "OPENAI_API_KEY": "k"}
AT_VENDORS = Endpoints.of(VERTEX)
ELSEWHERE = AT_VENDORS.over(
    {"OPENAI_BASE_URL": "https://a.test/v1", "GEMINI_BASE_URL": "https://b.test/v1beta"}
)
DEAR = 100_000_000


def options(
    request: VideoRequest,
    *fallbacks: Fallback,
    endpoints: Endpoints = ELSEWHERE,
    unknown_prices: bool = False,
) -> list[Option]:
    return fallback.options(
        request,
        fallbacks,
        today=date(2026, 11, 1),
        endpoints=endpoints,
        allow_unknown_models=False,
        allow_unknown_prices=unknown_prices,
    )


def second(request: VideoRequest, instead: Fallback = VEO) -> Option:
    return options(replace(request, max_cost_micros=DEAR), instead)[1]


@pytest.mark.parametrize(
    ("asked", "came", "told"),
    [
        ({}, ("16:9", "720p", 8), ()),
        ({"size": "720x1280"}, ("9:16", "720p", 8), ()),
        ({"seconds": 20}, ("16:9", "720p", 8), ("8 seconds instead of 20",)),
        (
            {"seconds": 12, "size": "1920x1080", "model": "sora-2-pro"},
            ("16:9", "1080p", 8),
            ("8 seconds instead of 12",),
        ),
        (  # 1080p exists at the whole length only
            {"seconds": 4, "size": "1920x1080", "model": "sora-2-pro"},
            ("16:9", "720p", 4),
            ("16:9 in 720p instead of 1920x1080",),
        ),
        (  # nearly the shape, and no larger
            {"size": "1024x1792", "model": "sora-2-pro"},
            ("9:16", "720p", 8),
            ("9:16 in 720p instead of 1024x1792",),
        ),
    ],
)
def test_a_fallback_is_asked_for_the_nearest_that_is_not_more(
    asked: dict[str, object], came: tuple[str, str, int], told: tuple[str, ...]
) -> None:
    option = second(replace(SORA, **asked))  # type: ignore[arg-type]  # whatever the row says

    request = option.quote.request
    assert (request.aspect_ratio, request.resolution, request.seconds) == came
    assert option.mapped == told


@pytest.mark.parametrize(
    "asked",
    [
        replace(SORA, seconds=12),
        replace(SORA, size="720x1280", seconds=4),
        VideoRequest(provider="veo", model=VEO.model, prompt="a tram", resolution="1080p"),
    ],
    ids=lambda asked: f"{asked.provider} {asked.seconds} {asked.size}",
)
def test_no_model_of_the_catalog_is_asked_for_more(asked: VideoRequest) -> None:
    first = options(asked)[0].quote.request
    made = 0

    for model in catalog.models():
        instead = Fallback(provider=model.provider, model=model.name)
        try:
            option = second(asked, instead)
        except InvalidRequestError:
            continue
        request = option.quote.request
        assert (request.seconds or 0) <= (first.seconds or 0), model.name
        assert fallback._shape_of(request)[1] <= fallback._shape_of(first)[1] or (
            not model.resolutions and not model.is_told_pixels
        ), model.name
        made += 1

    assert made > 5


def test_words_become_pixels_where_a_model_is_told_those() -> None:
    asked = VideoRequest(
        provider="veo", model=VEO.model, prompt="a tram", aspect_ratio="9:16", resolution="1080p"
    )

    option = second(asked, Fallback(provider="sora"))

    assert (option.quote.request.size, option.quote.request.aspect_ratio) == ("720x1280", None)
    assert option.mapped == ("720x1280 instead of 9:16 in 1080p",)


@pytest.mark.parametrize(
    ("instead", "came"),
    [
        (replace(VEO, seconds=8), ("16:9", "720p", 8)),
        (replace(VEO, seconds=8, resolution="1080p"), ("16:9", "1080p", 8)),
        (replace(VEO, aspect_ratio="9:16"), ("9:16", "720p", 4)),
        (replace(VEO, seconds=8, size="3840x2160"), ("16:9", "4k", 8)),
    ],
)
def test_who_names_it_in_the_fallback_allows_more(
    instead: Fallback, came: tuple[str, str, int]
) -> None:
    request = second(replace(SORA, seconds=4), instead).quote.request

    assert (request.aspect_ratio, request.resolution, request.seconds) == came


def test_what_a_model_takes_no_notice_of_is_left_out_and_told() -> None:
    asked = VideoRequest(
        provider="veo", model=VEO.model, prompt="a tram", seed=7, negative_prompt="rain",
        extra={"personGeneration": "allow_all"},
    )  # fmt: skip

    option = second(asked, Fallback(provider="sora"))

    request = option.quote.request
    assert (request.seed, request.negative_prompt, dict(request.extra)) == (None, None, {})
    assert option.mapped == ("seed is left out", "negative_prompt is left out", "extra is left out")


def test_extra_goes_along_to_the_same_interface() -> None:
    asked = VideoRequest(
        provider="veo", model=VEO.model, prompt="a tram", extra={"personGeneration": "allow_all"}
    )

    option = second(asked, Fallback(provider="veo", model="veo-3.1-lite-generate-001"))

    assert option.quote.request.extra == {"personGeneration": "allow_all"}


REFERENCES = (InputImage(role="reference", key="a.png"),)


@pytest.mark.parametrize(
    ("asked", "instead", "sentence"),
    [
        ({"provider": "veo", "size": None, "seconds": 6, "audio": False}, Fallback(provider="sora"),
         r"^fallbacks\[0\] \(sora\): sora-2 always makes sound, and audio=False was asked for"),
        ({"provider": "veo", "size": None, "images": REFERENCES}, Fallback(provider="sora"),
         "takes no reference image, and one was given"),
        ({"seconds": 4}, replace(VEO, seconds=5), "takes seconds 4, 6, 8; 5 came"),
        ({}, Fallback(provider="vimeo"), r"^fallbacks\[0\] \(vimeo\): There is no provider"),
        ({}, replace(VEO, model="veo-9"), "The catalog has no model 'veo-9'"),
        ({"prompt": "x" * 5000}, VEO, "The prompt has 5000 characters"),
    ],
)  # fmt: skip
def test_what_a_fallback_cannot_do_is_refused_with_its_place(
    asked: dict[str, object], instead: Fallback, sentence: str
) -> None:
    with pytest.raises(VidgenError, match=sentence):
        second(replace(SORA, **asked), instead)  # type: ignore[arg-type]  # whatever the row says


def test_a_dearer_fallback_needs_leave() -> None:
    dear = Fallback(provider="veo", model="veo-3.1-generate-001")

    with pytest.raises(InvalidRequestError, match=r"costs \$3\.20, more than the \$0\.80 of what"):
        options(SORA, dear)

    assert options(replace(SORA, max_cost_micros=3_200_000), dear)[1].quote.cost_micros == 3_200_000


APP = VideoRequest(provider="fal", model="somebody/app", prompt="a tram")


@pytest.mark.parametrize(
    ("asked", "instead", "sentence"),
    [
        (SORA, Fallback(provider="fal", model=APP.model), "it has no price in the catalog, so it"),
        (
            APP,
            replace(VEO, seconds=8),
            r"it costs \$0\.80, and what was asked for has no price in the catalog to compare",
        ),
        (APP, Fallback(provider="fal", model="somebody/other"), "it has no price in the catalog"),
    ],
    ids=["of the fallback", "of what was asked for", "of both"],
)
def test_a_price_that_nobody_knows_is_no_limit_and_under_none(
    asked: VideoRequest, instead: Fallback, sentence: str
) -> None:
    with pytest.raises(InvalidRequestError, match=rf"^fallbacks\[0\] .*: {sentence}"):
        options(asked, instead)

    assert len(options(asked, instead, unknown_prices=True)) == 2


def test_a_ceiling_that_nobody_is_under_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"allows \$0\.10; the cheapest .* costs \$0\.80"):
        options(replace(SORA, max_cost_micros=100_000), VEO)


def test_a_switched_off_model_is_left_to_those_behind_it() -> None:
    first, instead = options(SORA, VEO, endpoints=AT_VENDORS)

    assert (first.is_retired, instead.is_retired) == (True, False)


def test_switched_off_models_alone_are_refused() -> None:
    gone = Fallback(provider="veo", model="veo-3.1-fast-generate-preview")

    with pytest.raises(ModelRetiredError, match=r"All of sora/sora-2, veo/veo-3\.1-fast-generate"):
        options(SORA, gone, endpoints=AT_VENDORS)


def test_too_many_fallbacks_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="at most 8 fallbacks; 9 came"):
        options(SORA, *[VEO] * (MAX_FALLBACKS + 1))


@pytest.mark.parametrize("ceiling", [0, -1, 1.5, True, 10**15])
def test_a_ceiling_is_a_whole_number_of_micro_dollars(ceiling: object) -> None:
    with pytest.raises(InvalidRequestError, match="max_cost_micros must be a whole number"):
        options(replace(SORA, max_cost_micros=ceiling))  # type: ignore[arg-type]  # on purpose


def test_the_usual_reasons_leave_out_what_a_person_has_to_allow() -> None:
    assert not {"policy", "rejected", "charged", "ceiling"} & set(REROUTES_BY_DEFAULT)
    assert fallback.reasons(None) == REROUTES_BY_DEFAULT
    assert fallback.reasons(["policy", "refused"]) == ("refused", "policy")


@pytest.mark.parametrize("wanted", [["ceiling"], ["Refused"], "refused", [1]])
def test_reasons_that_are_none_are_refused(wanted: object) -> None:
    with pytest.raises(InvalidRequestError, match="reroute_on"):
        fallback.reasons(wanted)  # type: ignore[arg-type]  # on purpose


def test_to_pay_for_a_failure_again_needs_a_ceiling() -> None:
    with pytest.raises(InvalidRequestError, match="charged pays again for a video"):
        options(replace(SORA, reroute_on=["charged"]), VEO)
