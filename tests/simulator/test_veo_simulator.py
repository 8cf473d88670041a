"""The official google-genai SDK judges both Veo simulators, google-auth the tokens."""

import asyncio
import base64
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import aiohttp
import av
import pytest
from google import genai
from google.auth.exceptions import RefreshError
from google.auth.transport.requests import Request
from google.genai import errors, types
from google.oauth2 import service_account
from PIL import Image

from vidgen.simulator import Rule, SimulatorServer, service_account_file
from vidgen.simulator.clips import padded, render

GEMINI_MODEL = "veo-3.1-generate-preview"
VERTEX_MODEL = "veo-3.1-generate-001"
# google-genai 2.34 with aiohttp 3.14
pytestmark = pytest.mark.filterwarnings(
    "ignore:Inheritance class AiohttpClientSession:DeprecationWarning"
)
SCOPE = "https://www.googleapis.com/auth/cloud-platform"


@pytest.fixture
async def simulators() -> AsyncIterator[SimulatorServer]:
    async with SimulatorServer(generation_s=0) as server:
        server.veo.clip = render("test", seconds=1, width=320, height=180, audio=True)
        yield server


@pytest.fixture
async def gemini(simulators: SimulatorServer) -> AsyncIterator[genai.client.AsyncClient]:
    client = genai.Client(
        api_key="AIza-test",
        vertexai=False,
        http_options=types.HttpOptions(
            base_url=simulators.veo.origin, api_version="v1beta", timeout=5000
        ),
    )
    async with client.aio as asynchronous:
        yield asynchronous
    client.close()


@pytest.fixture
def credentials(simulators: SimulatorServer, tmp_path: Path) -> service_account.Credentials:
    path = service_account_file(tmp_path, simulators.veo.token_url)
    found: service_account.Credentials = service_account.Credentials.from_service_account_file(  # type: ignore[no-untyped-call]  # google-auth has no types here
        str(path), scopes=[SCOPE]
    )
    return found


@pytest.fixture
async def vertex(
    simulators: SimulatorServer, credentials: service_account.Credentials
) -> AsyncIterator[genai.client.AsyncClient]:
    client = genai.Client(
        vertexai=True,
        project="vidgen-simulator",
        location="us-central1",
        credentials=credentials,
        http_options=types.HttpOptions(
            base_url=simulators.veo.origin, api_version="v1", timeout=5000
        ),
    )
    async with client.aio as asynchronous:
        yield asynchronous
    client.close()


@pytest.fixture
async def http(
    simulators: SimulatorServer, credentials: service_account.Credentials
) -> AsyncIterator[aiohttp.ClientSession]:
    await refresh(credentials)
    headers = {"Authorization": f"Bearer {credentials.token}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        yield session


async def refresh(credentials: service_account.Credentials) -> None:
    await asyncio.to_thread(credentials.refresh, Request())


def a_picture() -> types.Image:
    buffer = BytesIO()
    Image.new("RGB", (64, 36), "navy").save(buffer, "PNG")
    return types.Image(image_bytes=buffer.getvalue(), mime_type="image/png")


async def make(
    client: genai.client.AsyncClient,
    model: str,
    prompt: str = "a teapot",
    image: types.Image | None = None,
    config: types.GenerateVideosConfig | None = None,
) -> types.GenerateVideosOperation:
    """Submit, and look until it is done."""
    source = types.GenerateVideosSource(prompt=prompt, image=image)
    operation = await client.models.generate_videos(model=model, source=source, config=config)
    async with asyncio.timeout(5):
        while not operation.done:
            operation = await client.operations.get(operation)
    return operation


def the_videos(operation: types.GenerateVideosOperation) -> list[types.Video]:
    assert operation.response is not None
    videos = [generated.video for generated in operation.response.generated_videos or []]
    return [video for video in videos if video is not None]


def file_name(video: types.Video) -> str:
    """`files/abc…` of a video: the SDK itself takes only https addresses apart."""
    assert video.uri is not None
    return "files/" + video.uri.rpartition("/")[2].partition(":")[0]


async def test_gemini_makes_a_playable_video_and_hands_it_out(
    simulators: SimulatorServer, gemini: genai.client.AsyncClient
) -> None:
    simulators.veo.clip = None
    config = types.GenerateVideosConfig(duration_seconds=4, aspect_ratio="9:16")

    operation = await make(gemini, GEMINI_MODEL, config=config)
    data = await gemini.files.download(file=file_name(the_videos(operation)[0]))

    with av.open(BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.frames) == (720, 1280, 96)
        assert len(container.streams.audio) == 1
    charge = simulators.veo.bill[0]
    assert (charge.operation_id, charge.cost_micros) == (operation.name, 1_600_000)


async def test_addresses_can_be_told_by_a_name_that_others_reach() -> None:
    async with SimulatorServer(origin="http://simulators:8787/") as server:
        urls = server.urls()

    assert urls["gemini_url"] == "http://simulators:8787/v1beta"
    assert urls["sora_url"] == "http://simulators:8787/v1"
    assert urls["token_url"] == "http://simulators:8787/token"


async def test_gemini_tells_a_running_operation_by_the_missing_done(
    simulators: SimulatorServer, gemini: genai.client.AsyncClient
) -> None:
    simulators.veo.generation_s = 60

    operation = await gemini.models.generate_videos(
        model=GEMINI_MODEL, source=types.GenerateVideosSource(prompt="a teapot")
    )
    operation = await gemini.operations.get(operation)

    assert not operation.done
    assert operation.error is None


async def test_gemini_takes_first_frame_last_frame_and_references(
    simulators: SimulatorServer, gemini: genai.client.AsyncClient
) -> None:
    reference = types.VideoGenerationReferenceImage(
        image=a_picture(), reference_type=types.VideoGenerationReferenceType.ASSET
    )
    config = types.GenerateVideosConfig(
        last_frame=a_picture(), reference_images=[reference], duration_seconds=8
    )

    operation = await make(gemini, GEMINI_MODEL, image=a_picture(), config=config)

    assert len(the_videos(operation)) == 1
    body = simulators.veo.of("submit")[0].body
    assert isinstance(body, dict)
    assert isinstance(body["instances"], list)
    assert isinstance(body["instances"][0], dict)
    assert body["instances"][0].keys() == {"prompt", "image", "lastFrame", "referenceImages"}


async def test_a_filtered_operation_is_done_without_videos(
    gemini: genai.client.AsyncClient, vertex: genai.client.AsyncClient
) -> None:
    prompt = "a teapot [[sim:filtered 64151117]]"

    for client, model in ((gemini, GEMINI_MODEL), (vertex, VERTEX_MODEL)):
        operation = await make(client, model, prompt)

        assert operation.response is not None
        assert not operation.response.generated_videos
        assert operation.response.rai_media_filtered_count == 1
        assert operation.response.rai_media_filtered_reasons is not None
        assert "Support codes: 64151117" in operation.response.rai_media_filtered_reasons[0]


@pytest.mark.parametrize("code", [3, 8, 13, 14])
async def test_a_failed_operation_carries_its_code(
    gemini: genai.client.AsyncClient, vertex: genai.client.AsyncClient, code: int
) -> None:
    for client, model in ((gemini, GEMINI_MODEL), (vertex, VERTEX_MODEL)):
        operation = await make(client, model, f"a teapot [[sim:error {code}]]")

        assert operation.error is not None
        assert operation.error["code"] == code
        assert operation.response is None


async def test_a_blocked_prompt_fails_with_a_support_code_in_its_text(
    vertex: genai.client.AsyncClient,
) -> None:
    operation = await make(vertex, VERTEX_MODEL, "a teapot [[sim:prompt-blocked]]")

    assert operation.error is not None
    assert operation.error["code"] == 3
    assert "Support codes: 89371032" in operation.error["message"]


async def test_an_operation_may_be_done_without_samples(
    gemini: genai.client.AsyncClient,
) -> None:
    operation = await make(gemini, GEMINI_MODEL, "a teapot [[sim:no-samples]]")

    assert operation.done
    assert the_videos(operation) == []


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"durationSeconds": 5}, "out of bound"),
        ({"durationSeconds": "8"}, "out of bound"),
        ({"durationSeconds": 4, "resolution": "1080p"}, "must be 8"),
        ({"resolution": "480p"}, "resolution"),
        ({"aspectRatio": "1:1"}, "aspectRatio"),
        ({"seed": 1}, "`seed` isn't supported"),
        ({"generateAudio": False}, "`generateAudio` isn't supported"),
        ({"duration_seconds": 4}, "`duration_seconds` isn't supported"),
    ],
)
async def test_gemini_refuses_parameters_it_does_not_know(
    simulators: SimulatorServer, parameters: dict[str, object], message: str
) -> None:
    url = f"{simulators.veo.gemini_url}/models/{GEMINI_MODEL}:predictLongRunning"
    body = {"instances": [{"prompt": "a teapot"}], "parameters": parameters}

    async with (
        aiohttp.ClientSession(headers={"x-goog-api-key": "AIza-test"}) as session,
        session.post(url, json=body) as response,
    ):
        error = (await response.json())["error"]

    assert (response.status, error["code"], error["status"]) == (400, 400, "INVALID_ARGUMENT")
    assert message in error["message"]
    assert simulators.veo.bill == []


async def test_gemini_refuses_inline_data(simulators: SimulatorServer) -> None:
    url = f"{simulators.veo.gemini_url}/models/{GEMINI_MODEL}:predictLongRunning"
    image = {"inlineData": {"data": "aGk=", "mimeType": "image/png"}}

    async with (
        aiohttp.ClientSession(headers={"x-goog-api-key": "AIza-test"}) as session,
        session.post(url, json={"instances": [{"prompt": "x", "image": image}]}) as response,
    ):
        assert response.status == 400
        assert "`inlineData` isn't supported" in (await response.json())["error"]["message"]


async def test_an_unknown_model_is_not_found(
    gemini: genai.client.AsyncClient, vertex: genai.client.AsyncClient
) -> None:
    for client in (gemini, vertex):
        with pytest.raises(errors.ClientError) as caught:
            await make(client, "veo-2.0-generate-001")
        assert (caught.value.code, caught.value.status) == (404, "NOT_FOUND")


async def test_gemini_refuses_wrong_keys_as_a_bad_request(simulators: SimulatorServer) -> None:
    client = genai.Client(
        api_key="wrong-key",
        vertexai=False,
        http_options=types.HttpOptions(base_url=simulators.veo.origin),
    )

    async with client.aio as asynchronous:
        with pytest.raises(errors.ClientError, match="API key not valid") as caught:
            await make(asynchronous, GEMINI_MODEL)
    client.close()

    assert caught.value.code == 400


async def test_gemini_hands_out_files_only_with_the_key_of_their_project(
    simulators: SimulatorServer, gemini: genai.client.AsyncClient
) -> None:
    operation = await make(gemini, GEMINI_MODEL)
    uri = the_videos(operation)[0].uri
    assert uri is not None
    statuses, paths = {}, set()

    async with aiohttp.ClientSession() as session:
        for key in ("", "AIza-test", "AIza-test@other"):
            async with session.get(uri, headers={"x-goog-api-key": key}) as response:
                statuses[key] = response.status
                paths.add(response.url.path)

    assert statuses == {"": 403, "AIza-test": 200, "AIza-test@other": 403}
    assert {path.partition("files/")[0] for path in paths} == {"/v1beta/", "/download/v1beta/"}
    assert len(simulators.veo.of("content")) == 1


async def test_a_rate_limit_says_when_to_come_back_and_which_limit_it_was(
    gemini: genai.client.AsyncClient,
) -> None:
    with pytest.raises(errors.ClientError) as soon:
        await make(gemini, GEMINI_MODEL, "a teapot [[sim:429-retry-info 31s]]")
    with pytest.raises(errors.ClientError) as daily:
        await make(gemini, GEMINI_MODEL, "a teapot [[sim:429-per-day]]")

    assert (soon.value.code, soon.value.status) == (429, "RESOURCE_EXHAUSTED")
    assert soon.value.details["error"]["details"][0]["retryDelay"] == "31s"
    violation = daily.value.details["error"]["details"][0]["violations"][0]
    assert "PerDay" in violation["quotaId"]


async def test_vertex_answers_with_the_whole_video_where_no_storage_is_named(
    simulators: SimulatorServer, vertex: genai.client.AsyncClient
) -> None:
    config = types.GenerateVideosConfig(number_of_videos=2, generate_audio=False, seed=7)

    operation = await make(vertex, VERTEX_MODEL, "a teapot [[sim:size 1000000]]", config=config)

    clip = simulators.veo.clip
    assert clip is not None
    videos = the_videos(operation)
    assert [video.video_bytes for video in videos] == [padded(clip, 1_000_000)] * 2
    assert simulators.veo.bill[0].cost_micros == 2 * 8 * 400_000


async def test_an_inline_answer_may_be_cut(
    simulators: SimulatorServer, http: aiohttp.ClientSession
) -> None:
    resource = f"{simulators.veo.vertex_url}/projects/p/locations/us-central1/publishers/google"
    model = f"{resource}/models/{VERTEX_MODEL}"
    body = {"instances": [{"prompt": "a teapot [[sim:truncated]]"}]}
    async with http.post(f"{model}:predictLongRunning", json=body) as created:
        name = (await created.json())["name"]

    with pytest.raises(aiohttp.ClientPayloadError):
        async with http.post(f"{model}:fetchPredictOperation", json={"operationName": name}) as r:
            await r.read()


@pytest.mark.parametrize(("outcome", "status"), [("content-500", 500), ("redirect", 200)])
async def test_an_inline_answer_may_be_refused_but_not_redirected(
    simulators: SimulatorServer, http: aiohttp.ClientSession, outcome: str, status: int
) -> None:
    resource = f"{simulators.veo.vertex_url}/projects/p/locations/us-central1/publishers/google"
    model = f"{resource}/models/{VERTEX_MODEL}"
    body = {"instances": [{"prompt": f"a teapot [[sim:{outcome}]]"}]}
    async with http.post(f"{model}:predictLongRunning", json=body) as created:
        name = (await created.json())["name"]

    async with http.post(f"{model}:fetchPredictOperation", json={"operationName": name}) as shown:
        assert shown.status == status
        assert "done" in await shown.json() or status != 200


async def test_vertex_without_audio_makes_a_silent_clip(
    simulators: SimulatorServer, vertex: genai.client.AsyncClient
) -> None:
    simulators.veo.clip = None
    config = types.GenerateVideosConfig(generate_audio=False, duration_seconds=4)

    operation = await make(vertex, VERTEX_MODEL, config=config)

    data = the_videos(operation)[0].video_bytes
    assert data is not None
    with av.open(BytesIO(data), "r") as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert container.streams.video[0].frames == 96


async def test_vertex_puts_videos_into_the_bucket_that_was_named(
    simulators: SimulatorServer, vertex: genai.client.AsyncClient, http: aiohttp.ClientSession
) -> None:
    config = types.GenerateVideosConfig(output_gcs_uri="gs://clips/of/today/")

    operation = await make(vertex, VERTEX_MODEL, image=a_picture(), config=config)

    uri = the_videos(operation)[0].uri
    assert uri is not None
    assert uri.startswith("gs://clips/of/today/")
    name = quote(uri.removeprefix("gs://clips/"), safe="")
    url = f"{simulators.veo.gcs_url}/storage/v1/b/clips/o/{name}"
    async with http.get(f"{url}?alt=media") as media, http.get(url) as described:
        assert (media.status, await media.read()) == (200, simulators.veo.clip)
        assert (await described.json())["size"] == str(media.content_length)
    async with http.get(f"{url}x?alt=media") as missing:
        assert missing.status == 404
    async with aiohttp.ClientSession() as anonymous, anonymous.get(f"{url}?alt=media") as refused:
        assert refused.status == 401


async def test_vertex_ignores_parameters_it_does_not_know(
    simulators: SimulatorServer, http: aiohttp.ClientSession
) -> None:
    resource = f"{simulators.veo.vertex_url}/projects/p/locations/us-central1/publishers/google"
    body = {"instances": [{"prompt": "a teapot"}], "parameters": {"duration_seconds": 4}}

    async with http.post(
        f"{resource}/models/{VERTEX_MODEL}:predictLongRunning", json=body
    ) as response:
        assert response.status == 200

    assert simulators.veo.bill[0].seconds == 8


async def test_an_access_token_ends_and_a_fresh_one_goes(
    simulators: SimulatorServer, credentials: service_account.Credentials
) -> None:
    url = f"{simulators.veo.gcs_url}/storage/v1/b/clips/o/none?alt=media"
    simulators.veo.script(Rule(deed="token", outcome="expires", argument="0s", times=1))
    statuses = []

    async with aiohttp.ClientSession() as session:
        for _ in range(2):
            await refresh(credentials)
            headers = {"Authorization": f"Bearer {credentials.token}"}
            async with session.get(url, headers=headers) as response:
                statuses.append(response.status)

    assert statuses == [401, 404]


@pytest.mark.parametrize("outcome", ["401", "403"])
async def test_the_token_endpoint_may_refuse(
    simulators: SimulatorServer, credentials: service_account.Credentials, outcome: str
) -> None:
    simulators.veo.script(Rule(deed="token", outcome=outcome))

    with pytest.raises(RefreshError):
        await refresh(credentials)


async def test_an_assertion_that_is_none_gets_no_token(simulators: SimulatorServer) -> None:
    grant = "urn:ietf:params:oauth:grant-type:jwt-bearer"
    header = base64.urlsafe_b64encode(b'{"alg": "none"}').decode()
    wrong = ["", "a.b.c", f"{header}.{header}.x"]
    answers = []

    async with aiohttp.ClientSession() as session:
        for assertion in wrong:
            form = {"grant_type": grant, "assertion": assertion}
            async with session.post(simulators.veo.token_url, data=form) as response:
                answers.append((response.status, (await response.json())["error"]))

    assert answers == [(400, "invalid_grant")] * 3


async def test_credentials_sent_abroad_are_seen_there(
    simulators: SimulatorServer, gemini: genai.client.AsyncClient
) -> None:
    operation = await make(gemini, GEMINI_MODEL, "a teapot [[sim:redirect-foreign]]")

    data = await gemini.files.download(file=file_name(the_videos(operation)[0]))

    assert data == simulators.veo.clip
    # google-genai takes its key along; vidgen must not (F.4)
    assert "x-goog-api-key" in simulators.foreign.received[0].headers


async def test_a_poll_may_be_refused_and_the_operation_goes_on(
    simulators: SimulatorServer, vertex: genai.client.AsyncClient
) -> None:
    simulators.veo.script(Rule(deed="poll", outcome="503", times=1))
    operation = await vertex.models.generate_videos(
        model=VERTEX_MODEL, source=types.GenerateVideosSource(prompt="a teapot")
    )

    with pytest.raises(errors.ServerError):
        await vertex.operations.get(operation)
    operation = await vertex.operations.get(operation)

    assert operation.done
    assert len(simulators.veo.bill) == 1
