"""The official openai SDK, which knows nothing of vidgen, judges the simulated Videos API."""

import asyncio
import sys
import warnings
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from io import BytesIO
from pathlib import Path

import aiohttp
import av
import openai
import orjson
import pytest
from openai import AsyncOpenAI
from PIL import Image

from vidgen.simulator import Rule, SimulatorServer, faults
from vidgen.simulator.clips import padded, render

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")


@pytest.fixture
async def simulators() -> AsyncIterator[SimulatorServer]:
    async with SimulatorServer(generation_s=0) as server:
        server.sora.clip = render("test", seconds=1, width=320, height=180, audio=True)
        yield server


@pytest.fixture
async def client(simulators: SimulatorServer) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        api_key="sk-test", base_url=simulators.sora.url, max_retries=0, timeout=5
    ) as client:
        yield client


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": "Bearer sk-test"}
    async with aiohttp.ClientSession(headers=headers, auto_decompress=False) as session:
        yield session


def a_picture(width: int, height: int) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (width, height), "navy").save(buffer, "PNG")
    return buffer.getvalue()


async def test_the_sdk_creates_polls_and_downloads_a_playable_video(
    simulators: SimulatorServer, client: AsyncOpenAI
) -> None:
    simulators.sora.clip = None
    simulators.sora.generation_s = 0.2
    simulators.sora.poll_after_ms = 50

    video = await client.videos.create_and_poll(
        prompt="a teapot", model="sora-2", seconds="4", size="720x1280"
    )
    content = await client.videos.download_content(video.id)

    assert (video.status, video.progress, video.error) == ("completed", 100, None)
    assert (video.seconds, video.size, video.prompt) == ("4", "720x1280", "a teapot")
    with av.open(BytesIO(content.content), "r") as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.frames) == (720, 1280, 96)
    charge = simulators.sora.bill[0]
    assert (charge.operation_id, charge.seconds, charge.cost_micros) == (video.id, 4, 400_000)


async def test_progress_grows_while_the_video_is_made(
    simulators: SimulatorServer, client: AsyncOpenAI
) -> None:
    simulators.sora.generation_s = 0.3

    seen = [await client.videos.create(prompt="a teapot")]
    async with asyncio.timeout(5):
        while seen[-1].status != "completed":
            seen.append(await client.videos.retrieve(seen[-1].id))

    progress = [video.progress for video in seen]
    assert progress == sorted(progress)
    assert {"queued", "in_progress", "completed"} == {video.status for video in seen}
    assert len(set(progress)) > 5


async def test_thumbnail_and_spritesheet_are_pictures(client: AsyncOpenAI) -> None:
    video = await client.videos.create(prompt="a teapot")

    thumbnail = await client.videos.download_content(video.id, variant="thumbnail")
    spritesheet = await client.videos.download_content(video.id, variant="spritesheet")

    assert thumbnail.response.headers["content-type"] == "image/webp"
    assert Image.open(BytesIO(thumbnail.content)).format == "WEBP"
    assert Image.open(BytesIO(spritesheet.content)).format == "JPEG"


async def test_the_list_pages_through_every_video_newest_first(client: AsyncOpenAI) -> None:
    created = [(await client.videos.create(prompt=f"number {n}")).id for n in range(5)]

    newest_first = [video.id async for video in client.videos.list(limit=2)]
    oldest_first = [video.id async for video in client.videos.list(limit=2, order="asc")]

    assert newest_first == created[::-1]
    assert oldest_first == created


async def test_a_deleted_video_is_gone_but_stays_on_the_bill(
    simulators: SimulatorServer, client: AsyncOpenAI
) -> None:
    video = await client.videos.create(prompt="a teapot")

    deleted = await client.videos.delete(video.id)

    assert (deleted.id, deleted.deleted, deleted.object) == (video.id, True, "video.deleted")
    with pytest.raises(openai.NotFoundError):
        await client.videos.retrieve(video.id)
    assert len(simulators.sora.bill) == 1


@pytest.mark.parametrize(
    ("model", "seconds", "size", "param"),
    [
        ("sora-2", "5", "720x1280", "seconds"),
        ("sora-2", "4", "1920x1080", "size"),
        ("sora-2-pro", "4", "640x360", "size"),
    ],
)
async def test_a_wrong_parameter_is_refused_and_not_billed(
    simulators: SimulatorServer,
    client: AsyncOpenAI,
    model: str,
    seconds: str,
    size: str,
    param: str,
) -> None:
    body = {"prompt": "a teapot", "model": model, "seconds": seconds, "size": size}

    with pytest.raises(openai.BadRequestError) as caught:
        await client.post("/videos", body=body, cast_to=object)

    assert (caught.value.param, caught.value.type) == (param, "invalid_request_error")
    assert simulators.sora.bill == []


async def test_an_unknown_model_is_not_found(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await client.videos.create(prompt="a teapot", model="sora-9")

    assert caught.value.code == "model_not_found"


async def test_a_wrong_key_is_refused_with_a_request_id(simulators: SimulatorServer) -> None:
    async with AsyncOpenAI(
        api_key="wrong-key", base_url=simulators.sora.url, max_retries=0
    ) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.videos.create(prompt="a teapot")

    assert caught.value.code == "invalid_api_key"
    assert caught.value.request_id is not None


async def test_videos_of_another_project_are_unknown(
    simulators: SimulatorServer, client: AsyncOpenAI
) -> None:
    video = await client.videos.create(prompt="a teapot")

    async with client.copy(api_key="sk-test@other") as stranger:
        with pytest.raises(openai.NotFoundError):
            await stranger.videos.retrieve(video.id)
        assert [other async for other in stranger.videos.list()] == []


async def test_azure_clients_may_send_the_key_as_api_key(
    simulators: SimulatorServer,
) -> None:
    simulators.sora.dialect = "azure"
    url = f"{simulators.sora.origin}/openai/v1/videos"

    async with (
        aiohttp.ClientSession(headers={"api-key": "sk-azure"}) as session,
        session.post(url, json={"prompt": "a teapot", "model": "my-deployment"}) as response,
    ):
        video = await response.json()

    assert (response.status, video["model"]) == (200, "my-deployment")


async def test_a_reference_image_must_have_the_size_of_the_video(
    simulators: SimulatorServer, client: AsyncOpenAI
) -> None:
    fitting, other = a_picture(720, 1280), a_picture(100, 100)

    await client.videos.create(
        prompt="a teapot", input_reference=("frame.png", fitting, "image/png")
    )
    with pytest.raises(openai.BadRequestError, match="Inpaint image"):
        await client.videos.create(
            prompt="a teapot", input_reference=("frame.png", other, "image/png")
        )

    received = simulators.sora.of("submit")[0].body
    assert isinstance(received, dict)
    assert isinstance(received["input_reference"], dict)
    assert received["input_reference"]["size_bytes"] == len(fitting)
    assert len(simulators.sora.bill) == 1


async def test_a_reference_may_be_an_address_in_json_and_in_a_form(
    simulators: SimulatorServer, http: aiohttp.ClientSession
) -> None:
    url, image = f"{simulators.sora.url}/videos", "https://example.com/teapot.png"
    as_json = {"prompt": "a teapot", "input_reference": {"image_url": image}}
    # openai-python's own flattening; the SDK itself refuses an object here before it sends anything
    as_form = {"prompt": "a teapot", "input_reference[image_url]": image}

    async with http.post(url, json=as_json) as first, http.post(url, data=as_form) as second:
        assert (first.status, second.status) == (200, 200)

    assert [charge.parameters["input_reference"] for charge in simulators.sora.bill] == [
        {"image_url": image},
        {"image_url": image},
    ]


async def test_a_blocked_prompt_fails_in_band(client: AsyncOpenAI) -> None:
    video = await client.videos.create_and_poll(prompt="a teapot [[sim:moderation]]")

    assert video.status == "failed"
    assert video.error is not None
    assert video.error.code == "moderation_blocked"


async def test_a_failure_scripted_once_spares_the_next_attempt(client: AsyncOpenAI) -> None:
    first = await client.videos.create_and_poll(prompt="a teapot [[sim:failed x1]]")
    second = await client.videos.create_and_poll(prompt="a teapot [[sim:failed x1]]")

    assert (first.status, second.status) == ("failed", "completed")


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        ("400", openai.BadRequestError),
        ("401", openai.AuthenticationError),
        ("403", openai.PermissionDeniedError),
        ("404-model", openai.NotFoundError),
        ("410", openai.APIStatusError),
        ("422", openai.UnprocessableEntityError),
        ("429-retry-after", openai.RateLimitError),
        ("429-insufficient-quota", openai.RateLimitError),
        ("500", openai.InternalServerError),
        ("502", openai.InternalServerError),
        ("503-overloaded", openai.InternalServerError),
        ("504", openai.InternalServerError),
        ("disconnect", openai.APIConnectionError),
    ],
)
async def test_a_refused_submit_raises_its_error_class_and_is_not_billed(
    simulators: SimulatorServer,
    client: AsyncOpenAI,
    outcome: str,
    error: type[openai.APIError],
) -> None:
    with pytest.raises(error):
        await client.videos.create(prompt=f"a teapot [[sim:submit-{outcome}]]")

    assert simulators.sora.bill == []


@pytest.mark.parametrize(
    "outcome",
    ["disconnect", "502", "504"],
)
async def test_an_accepted_submit_is_billed_though_its_answer_is_lost(
    simulators: SimulatorServer, client: AsyncOpenAI, outcome: str
) -> None:
    with pytest.raises(openai.APIError):
        await client.videos.create(prompt=f"a teapot [[sim:accept-then-{outcome}]]")

    assert [video.id async for video in client.videos.list()] == [
        charge.operation_id for charge in simulators.sora.bill
    ]


async def test_an_accepted_submit_may_hang_until_the_client_gives_up(
    simulators: SimulatorServer, client: AsyncOpenAI
) -> None:
    with pytest.raises(openai.APITimeoutError):
        await client.videos.create(prompt="a teapot [[sim:accept-then-hang]]", timeout=0.1)

    assert len(simulators.sora.bill) == 1


async def test_the_sdks_own_retries_pay_twice_and_the_bill_tells(
    simulators: SimulatorServer, client: AsyncOpenAI
) -> None:
    simulators.sora.script(Rule(deed="submit", outcome="accept-then-disconnect", times=1))

    await client.with_options(max_retries=1).videos.create(prompt="a teapot")

    assert simulators.sora.paid_twice() == ["a teapot"]


@pytest.mark.parametrize(
    ("outcome", "header", "value"),
    [
        ("429-retry-after", "retry-after", "2"),
        ("429-retry-after-ms", "retry-after-ms", "2"),
    ],
)
async def test_a_rate_limit_says_when_to_come_back(
    client: AsyncOpenAI, outcome: str, header: str, value: str
) -> None:
    with pytest.raises(openai.RateLimitError) as caught:
        await client.videos.create(prompt=f"a teapot [[sim:{outcome} 2]]")

    assert caught.value.response.headers[header] == value


@pytest.mark.parametrize(
    ("outcome", "length"),
    [
        ("not-json", 21),
        ("html", None),
        ("json-list", 9),
        ("missing-id", None),
        ("empty", 0),
        ("huge 1M", None),
    ],
)
async def test_a_malformed_answer_to_a_submit_is_billed(
    simulators: SimulatorServer, http: aiohttp.ClientSession, outcome: str, length: int | None
) -> None:
    body = {"prompt": f"a teapot [[sim:submit-{outcome}]]"}

    async with http.post(f"{simulators.sora.url}/videos", json=body) as response:
        answer = await response.read()

    assert response.status == 200
    assert b'"video_' not in answer or b"video_huge" in answer
    assert length is None or len(answer) == length
    assert len(simulators.sora.bill) == 1


async def test_a_poll_error_counts_for_each_video_alone_and_then_passes(
    client: AsyncOpenAI,
) -> None:
    prompt = "a teapot [[sim:poll-503 x2]]"
    videos = [await client.videos.create(prompt=prompt) for _ in range(2)]

    for video in videos:
        for _ in range(2):
            with pytest.raises(openai.InternalServerError):
                await client.videos.retrieve(video.id)
        assert (await client.videos.retrieve(video.id)).status == "completed"


async def test_a_status_may_be_a_word_nobody_knows(client: AsyncOpenAI) -> None:
    video = await client.videos.create(prompt="a teapot [[sim:status dreaming x1]]")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seen = await client.videos.retrieve(video.id)

    assert str(seen.status) == "dreaming"


@pytest.mark.parametrize("outcome", sorted(faults.VERDICTS))
async def test_every_verdict_is_final_but_never(
    simulators: SimulatorServer, http: aiohttp.ClientSession, outcome: str
) -> None:
    url = f"{simulators.sora.url}/videos"
    async with http.post(url, json={"prompt": f"a teapot [[sim:{outcome}]]"}) as created:
        video_id = (await created.json())["id"]

    async with http.get(f"{url}/{video_id}") as shown, http.get(f"{url}/{video_id}") as again:
        video = await shown.json()
        assert video == await again.json()

    expected = {"expired": "expired", "cancelled": "cancelled", "never": "in_progress"}
    assert video["status"] == expected.get(outcome, "failed")
    if outcome == "failed-message":
        assert video["error"].keys() == {"message"}


async def test_a_look_may_be_late_stuck_and_ask_for_patience(
    simulators: SimulatorServer, http: aiohttp.ClientSession, client: AsyncOpenAI
) -> None:
    simulators.sora.generation_s = 0.01
    directives = "[[sim:poll-late 100ms]] [[sim:stuck 40]] [[sim:poll-after-ms 2500]]"
    video = await client.videos.create(prompt=f"a teapot {directives}")
    loop = asyncio.get_running_loop()
    started_at = loop.time()

    async with http.get(f"{simulators.sora.url}/videos/{video.id}") as response:
        shown = await response.json()

    assert loop.time() - started_at >= 0.1
    assert shown["progress"] == 40
    assert response.headers["openai-poll-after-ms"] == "2500"


async def test_a_stalled_download_ends_only_with_the_clients_patience(
    simulators: SimulatorServer, http: aiohttp.ClientSession, client: AsyncOpenAI
) -> None:
    video = await client.videos.create(prompt="a teapot [[sim:stall]]")
    timeout = aiohttp.ClientTimeout(sock_read=0.1)
    url = f"{simulators.sora.url}/videos/{video.id}/content"

    async with http.get(url, timeout=timeout) as response:
        with pytest.raises(aiohttp.SocketTimeoutError):
            await response.read()


async def test_a_retry_date_lies_ahead(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.RateLimitError) as caught:
        await client.videos.create(prompt="a teapot [[sim:429-retry-date 30]]")

    date = parsedate_to_datetime(caught.value.response.headers["retry-after"])
    assert timedelta(seconds=25) < date - datetime.now(UTC) <= timedelta(seconds=30)


async def test_a_reset_forgets_the_script_the_record_and_the_bill(
    simulators: SimulatorServer, http: aiohttp.ClientSession, client: AsyncOpenAI
) -> None:
    simulators.sora.script(Rule(deed="poll", outcome="503"))
    await client.videos.create(prompt="a teapot")

    async with http.post(f"{simulators.sora.origin}/_simulator/reset", json={}) as response:
        assert response.status == 200

    async with http.get(f"{simulators.sora.origin}/_simulator/received") as response:
        assert (await response.json())["sora"] == []
    assert simulators.sora.bill == []
    video = await client.videos.create_and_poll(prompt="a teapot")
    assert video.status == "completed"


async def test_only_the_nth_request_is_met_by_a_rule_that_says_so(
    simulators: SimulatorServer, client: AsyncOpenAI
) -> None:
    simulators.sora.script(Rule(deed="submit", outcome="500", nth=2))

    await client.videos.create(prompt="first")
    with pytest.raises(openai.InternalServerError):
        await client.videos.create(prompt="second")
    await client.videos.create(prompt="third")

    assert [charge.prompt for charge in simulators.sora.bill] == ["first", "third"]


async def test_content_asked_for_too_early_is_not_ready(
    simulators: SimulatorServer, client: AsyncOpenAI
) -> None:
    simulators.sora.generation_s = 60
    video = await client.videos.create(prompt="a teapot")

    with pytest.raises(openai.NotFoundError) as caught:
        await client.videos.download_content(video.id)

    assert caught.value.code == "video_not_ready"


async def test_content_may_be_not_ready_for_a_while_after_completion(
    client: AsyncOpenAI,
) -> None:
    video = await client.videos.create(prompt="a teapot [[sim:not-ready 409 x1]]")

    with pytest.raises(openai.ConflictError):
        await client.videos.download_content(video.id)

    assert (await client.videos.download_content(video.id)).content[4:8] == b"ftyp"


@pytest.mark.parametrize("outcome", ["truncated", "truncated-chunked"])
async def test_a_cut_download_ends_in_an_error(
    simulators: SimulatorServer, http: aiohttp.ClientSession, client: AsyncOpenAI, outcome: str
) -> None:
    video = await client.videos.create(prompt=f"a teapot [[sim:{outcome}]] [[sim:size 1M]]")

    async with http.get(f"{simulators.sora.url}/videos/{video.id}/content") as response:
        first_half = await response.content.readexactly(512 * 1024)
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.read(1)

    assert first_half[4:8] == b"ftyp"
    assert response.headers.get("Content-Length") == (
        str(1024 * 1024) if outcome == "truncated" else None
    )


async def test_content_may_be_large_and_still_be_a_video(
    simulators: SimulatorServer, client: AsyncOpenAI
) -> None:
    clip = simulators.sora.clip
    assert clip is not None
    video = await client.videos.create(prompt="a teapot [[sim:size 5M]]")

    content = await client.videos.download_content(video.id)

    assert content.content == padded(clip, 5 * 1024 * 1024)


async def test_content_may_come_gzipped_and_without_a_length(
    simulators: SimulatorServer, client: AsyncOpenAI
) -> None:
    zipped = await client.videos.create(prompt="a teapot [[sim:gzip]]")
    unsized = await client.videos.create(prompt="a teapot [[sim:no-length]]")

    contents = [await client.videos.download_content(video.id) for video in (zipped, unsized)]

    assert contents[0].response.headers["content-encoding"] == "gzip"
    assert "content-length" not in contents[1].response.headers
    assert [content.content for content in contents] == [simulators.sora.clip] * 2


async def test_content_may_come_slowly(simulators: SimulatorServer, client: AsyncOpenAI) -> None:
    clip = simulators.sora.clip
    assert clip is not None
    speed = len(clip) * 4
    video = await client.videos.create(prompt=f"a teapot [[sim:slow {speed}]]")
    loop = asyncio.get_running_loop()
    started_at = loop.time()

    content = await client.videos.download_content(video.id)

    assert content.content == clip
    assert loop.time() - started_at >= 0.2


async def test_a_redirect_on_the_same_host_leads_to_the_video(
    simulators: SimulatorServer, client: AsyncOpenAI
) -> None:
    video = await client.videos.create(prompt="a teapot [[sim:redirect]]")

    content = await client.videos.download_content(video.id)

    assert content.content == simulators.sora.clip
    assert len(simulators.sora.of("content")) == 2


async def test_a_redirect_abroad_is_recorded_with_the_headers_that_arrived_there(
    simulators: SimulatorServer, http: aiohttp.ClientSession, client: AsyncOpenAI
) -> None:
    video = await client.videos.create(prompt="a teapot [[sim:redirect-foreign]]")
    url = f"{simulators.sora.url}/videos/{video.id}/content"

    async with http.get(url, headers={"api-key": "sk-leaked"}) as response:
        body = await response.read()

    assert body == simulators.sora.clip
    arrived = simulators.foreign.received[0].headers
    assert arrived.get("api-key") == "sk-leaked", "aiohttp guards `Authorization` only"
    assert "authorization" not in arrived


async def test_a_redirect_loop_never_ends(
    simulators: SimulatorServer, http: aiohttp.ClientSession, client: AsyncOpenAI
) -> None:
    video = await client.videos.create(prompt="a teapot [[sim:redirect-loop]]")

    with pytest.raises(aiohttp.TooManyRedirects):
        await http.get(f"{simulators.sora.url}/videos/{video.id}/content")


async def test_a_new_video_may_be_missing_in_the_list_for_a_while(client: AsyncOpenAI) -> None:
    await client.videos.create(prompt="a teapot [[sim:hidden 60s]]")

    assert [video.id async for video in client.videos.list()] == []


async def test_a_misspelt_directive_is_refused(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="no outcome 'moderatoin'"):
        await client.videos.create(prompt="a teapot [[sim:moderatoin]]")


def test_a_misspelt_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="no outcome '5003' for poll"):
        Rule(deed="poll", outcome="5003")


@pytest.mark.parametrize(
    ("dialect", "status", "expected"),
    [
        ("sglang", 200, {"seconds": 5, "status": "completed"}),
        ("vllm-omni", 200, {"seconds": "5", "media_type": "video/mp4"}),
        ("openrouter", 202, {"status": "completed", "usage": {"cost": 0.5}}),
        ("new-api", 202, {"object": "video.generation", "status": "completed"}),
    ],
)
async def test_other_servers_speak_their_dialect(
    simulators: SimulatorServer,
    http: aiohttp.ClientSession,
    dialect: str,
    status: int,
    expected: dict[str, object],
) -> None:
    simulators.sora.dialect = dialect
    form = {"prompt": "a teapot", "model": "wan-2.2", "seconds": "5", "size": "832x480"}

    async with http.post(f"{simulators.sora.url}/videos", data=form) as created:
        video_id = (await created.json())["id"]
    async with http.get(f"{simulators.sora.url}/videos/{video_id}") as shown:
        video = await shown.json()
    async with http.get(f"{simulators.sora.url}/videos/{video_id}/content") as content:
        body = await content.read()

    assert created.status == status
    assert expected.items() <= video.items()
    assert body == simulators.sora.clip
    assert len(simulators.foreign.received) == (1 if dialect == "new-api" else 0)


@pytest.mark.parametrize(
    ("dialect", "status", "body"),
    [
        ("sglang", 404, {"detail": "Video with id 'nobody' not found."}),
        ("new-api", 404, {"code": 404, "msg": "Video with id 'nobody' not found."}),
    ],
)
async def test_other_servers_write_errors_their_way(
    simulators: SimulatorServer,
    http: aiohttp.ClientSession,
    dialect: str,
    status: int,
    body: dict[str, object],
) -> None:
    simulators.sora.dialect = dialect

    async with http.get(f"{simulators.sora.url}/videos/nobody") as response:
        assert (response.status, await response.json()) == (status, body)


async def test_a_form_only_server_refuses_json(
    simulators: SimulatorServer, http: aiohttp.ClientSession
) -> None:
    simulators.sora.dialect = "vllm-omni"

    async with http.post(f"{simulators.sora.url}/videos", json={"prompt": "x"}) as response:
        assert response.status == 422


async def test_waiting_for_a_request_ends_when_it_arrives(
    simulators: SimulatorServer, client: AsyncOpenAI
) -> None:
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(simulators.sora.arrived("submit", 2))
        await client.videos.create(prompt="one")
        assert not waiting.done()
        await client.videos.create(prompt="two")

    assert waiting.done()


async def test_a_thousand_generations_need_no_task_each(
    simulators: SimulatorServer, http: aiohttp.ClientSession
) -> None:
    simulators.sora.generation_s = 60
    url = f"{simulators.sora.url}/videos"

    async def create(count: int) -> None:
        for _ in range(count):
            async with http.post(url, json={"prompt": "a teapot"}) as response:
                assert response.status == 200

    async with asyncio.TaskGroup() as tasks:
        for _ in range(20):
            tasks.create_task(create(50))

    assert len(simulators.sora.generations) == 1000
    assert len(asyncio.all_tasks()) < 100


async def test_a_process_of_its_own_is_scripted_by_http_and_remembers_after_a_kill(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    arguments = ["-m", "vidgen.simulator", "--generation-s", "0", "--state-file"]
    command = [sys.executable, *arguments, str(tmp_path / "state.jsonl")]

    async def start() -> tuple[asyncio.subprocess.Process, dict[str, str]]:
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        return process, orjson.loads(await process.stdout.readline())

    async with asyncio.timeout(30):
        first, urls = await start()
        rules = [{"deed": "submit", "outcome": "503", "times": 1}]
        script = {"simulator": "sora", "rules": rules}
        async with http.post(f"{urls['origin']}/_simulator/script", json=script) as scripted:
            assert scripted.status == 200
        async with http.post(f"{urls['sora_url']}/videos", json={"prompt": "one"}) as refused:
            assert refused.status == 503
        async with http.post(f"{urls['sora_url']}/videos", json={"prompt": "two"}) as created:
            video = await created.json()
        first.kill()
        await first.wait()

        second, urls = await start()
        async with http.get(f"{urls['sora_url']}/videos/{video['id']}") as shown:
            assert (await shown.json())["status"] == "completed"
        async with http.get(f"{urls['origin']}/_simulator/bill") as bill:
            charges = (await bill.json())["sora"]
        second.terminate()
        assert await second.wait() == 0

    assert [charge["prompt"] for charge in charges] == ["two"]
