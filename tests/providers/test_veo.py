"""Veo's own ways: two interfaces, one builder, one reader of operations."""

from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from tests.providers.formats.all import FORMATS
from vidgen.errors import (
    ContentBlockedError,
    GenerationFailedError,
    InputRejectedError,
    OperationLostError,
    ProviderError,
    SubmitUnknownError,
)
from vidgen.job import Operation, VideoRequest
from vidgen.providers.google_http import Api
from vidgen.providers.protocol import Credential, Failed, Running, Submission, Succeeded
from vidgen.providers.registry import ProvidersConfig, build
from vidgen.providers.veo import VeoEndpoints, build_body, parse_operation
from vidgen.simulator.control import Rule
from vidgen.simulator.server import SimulatorServer
from vidgen.testing.provider_wire import CLIP, Wire, an_image, finished_asset, opened

APIS: tuple[Api, ...] = ("gemini", "vertex")
REQUEST = VideoRequest(
    provider="veo",
    prompt="a kite",
    model="veo-3.1-generate-001",
    seconds=6,
    aspect_ratio="9:16",
    resolution="720p",
    negative_prompt="rain",
    seed=7,
    audio=False,
    extra={"personGeneration": "allow_adult", "labels": {"team": "film"}},
)
ENDPOINTS = VeoEndpoints(
    gemini_base_url="https://g.example/v1beta",
    vertex_project="p",
    vertex_location="us-central1",
    vertex_base_url=None,
    vertex_storage_uri=None,
    gcs_base_url="https://s.example",
)


def submission(*roles: Any, request: VideoRequest = REQUEST) -> Submission:
    images = tuple(an_image(role, (8, 8)) for role in roles)
    return Submission(job_id=uuid4(), attempt=1, request=request, images=images)


def failed(data: dict[str, Any], api: Api = "vertex") -> Failed:
    progress = parse_operation({"done": True, **data}, api)
    assert isinstance(progress, Failed)
    return progress


def test_each_interface_gets_only_what_it_takes() -> None:
    vertex = build_body(submission(), "vertex", "gs://b/p/")
    gemini = build_body(submission(request=replace(REQUEST, extra={})), "gemini", None)

    shared = {
        "sampleCount": 1,
        "durationSeconds": 6,
        "aspectRatio": "9:16",
        "resolution": "720p",
        "negativePrompt": "rain",
    }
    assert gemini == {"instances": [{"prompt": "a kite"}], "parameters": shared}
    assert vertex["labels"] == {"team": "film"}
    assert vertex["parameters"] == shared | {
        "seed": 7,
        "generateAudio": False,
        "storageUri": "gs://b/p/",
        "personGeneration": "allow_adult",
    }


def test_frames_and_references_have_their_places() -> None:
    frames: Any = build_body(submission("first_frame", "last_frame"), "vertex", None)
    references: Any = build_body(submission("reference", "reference"), "gemini", None)

    assert frames["instances"][0].keys() == {"prompt", "image", "lastFrame"}
    items = references["instances"][0]["referenceImages"]
    assert [item["referenceType"] for item in items] == ["asset", "asset"]
    assert items[0]["image"].keys() == {"bytesBase64Encoded", "mimeType"}


@pytest.mark.parametrize(
    ("location", "home"),
    [
        ("us-central1", "https://us-central1-aiplatform.googleapis.com/v1"),
        ("global", "https://aiplatform.googleapis.com/v1"),
        ("eu", "https://aiplatform.eu.rep.googleapis.com/v1"),
    ],
)
def test_vertex_lives_where_its_location_says(location: str, home: str) -> None:
    assert ENDPOINTS.vertex_home(location) == home
    assert replace(ENDPOINTS, vertex_base_url="http://x/v1/").vertex_home(location) == "http://x/v1"


@pytest.mark.parametrize("api", APIS)
def test_an_operation_runs_until_it_is_done(api: Api) -> None:
    assert parse_operation({}, api) == Running()
    assert parse_operation({"done": False, "metadata": {"state": "?"}}, api) == Running()


def test_an_error_goes_before_everything_else() -> None:
    videos = {"videos": [{"gcsUri": "gs://b/o"}]}

    found = failed({"error": {"code": 13, "message": "internal"}, "response": videos})

    assert type(found.error) is GenerationFailedError


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (13, "internal", GenerationFailedError),
        (14, "unavailable", GenerationFailedError),
        (8, "exhausted", GenerationFailedError),
        (3, "wrong size", InputRejectedError),
        (3, "No. Support codes: 58061214", ContentBlockedError),
        ("x", None, GenerationFailedError),
    ],
)
def test_each_error_in_an_operation_has_its_class(
    code: Any, message: Any, kind: type[ProviderError]
) -> None:
    found = failed({"error": {"code": code, "message": message}})

    assert type(found.error) is kind
    assert not found.charged


@pytest.mark.parametrize("code", [3, 13, "a kite", {"a kite": 1}, None, True])
def test_an_error_in_an_operation_is_told_by_its_code_and_not_in_its_words(code: Any) -> None:
    found = failed({"error": {"code": code, "message": "there is 'a kite' in it"}}).error

    assert "kite" not in f"{found.message}{found.provider_code}"
    if code == 13:
        assert found.message == "The generation failed at Google (code 13 INTERNAL)."


def test_a_cancelled_operation_counts_as_charged() -> None:
    assert failed({"error": {"code": 1}}).charged
    assert not failed({"error": {"code": 13}}).charged


def test_a_filtered_video_counts_as_charged_on_vertex_only() -> None:
    held = {"raiMediaFilteredCount": 1, "raiMediaFilteredReasons": ["Support codes: 61493863"]}

    vertex = failed({"response": held}, "vertex")
    gemini = failed({"response": {"generateVideoResponse": held}}, "gemini")

    assert type(vertex.error) is type(gemini.error) is ContentBlockedError
    assert "violence" in vertex.error.message
    assert (vertex.charged, gemini.charged) == (True, False)


@pytest.mark.parametrize("response", [{}, None, [], {"videos": []}, {"videos": [None, {}]}])
def test_done_without_a_video_is_a_failure(response: Any) -> None:
    assert type(failed({"response": response}).error) is GenerationFailedError


def test_some_filtered_and_one_made_is_a_success() -> None:
    response = {"raiMediaFilteredCount": 1, "videos": [{"gcsUri": "gs://b/o"}]}

    assert isinstance(parse_operation({"done": True, "response": response}, "vertex"), Succeeded)


@pytest.mark.parametrize("wire", ["veo-vertex-gcs", "veo-vertex-inline"], indirect=True)
async def test_a_token_that_ended_on_the_way_is_replaced_once(wire: Wire) -> None:
    wire.script(
        Rule(deed="submit", outcome="401", times=1), Rule(deed="poll", outcome="401", times=1)
    )

    operation, asset = await finished_asset(wire)
    wire.simulator.tokens.clear()

    assert await wire.download(operation, asset) == CLIP
    assert len(wire.simulator.bill) == 1


@pytest.mark.parametrize("wire", ["veo-vertex-inline"], indirect=True)
async def test_a_receipt_with_a_strange_name_is_unknown(wire: Wire) -> None:
    wire.script(Rule(deed="submit", outcome="missing-status"))

    with pytest.raises(SubmitUnknownError):
        await wire.submit()


@pytest.mark.parametrize("name", ["", "../../x", "projects/p/operations/1", "models/m/operations/"])
@pytest.mark.parametrize("api", APIS)
async def test_an_operation_that_cannot_be_is_lost(
    config: ProvidersConfig, name: str, api: Api
) -> None:
    providers = build(config)
    operation = Operation(
        provider="veo",
        id=name,
        endpoint=config.endpoints.get("GEMINI_BASE_URL"),
        model="veo-3.1-generate-001",
        credential_id="server",
        extra={"api": api},
    )
    credential = providers.credential("veo", "veo-3.1-generate-preview")

    with pytest.raises(OperationLostError):
        await providers.get("veo").poll(operation, credential)
    await providers.aclose()


async def test_a_user_s_own_project_is_billed_and_writes_to_no_bucket_of_ours(
    simulators: SimulatorServer, config: ProvidersConfig
) -> None:
    alice = Credential(
        id="id-1",
        secret=config.endpoints.get("GOOGLE_APPLICATION_CREDENTIALS"),
        project="alices-studio",
    )

    async with opened(FORMATS["veo-vertex-gcs"], simulators, config) as wire:
        receipt = await wire.provider.submit(wire.submission(), alice)

    assert receipt.operation.id.startswith("projects/alices-studio/")
    assert receipt.operation.credential_id == "id-1"
    assert "storageUri" not in simulators.veo.bill[0].parameters


@pytest.mark.parametrize("uri", ["inline:x", "inline:-1", f"inline:{'9' * 5000}", "inline:", " "])
@pytest.mark.parametrize("api", APIS)
def test_a_provider_cannot_say_our_own_word_for_a_video_inside(api: Api, uri: str) -> None:
    found = failed({"response": {"videos": [{"gcsUri": uri}]}}, api)

    assert isinstance(found.error, GenerationFailedError)
