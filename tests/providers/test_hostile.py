"""
Whatever a provider answers, only errors of ours come out, and texts that PostgreSQL can store.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import orjson
import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.providers.formats.all import FORMATS
from tests.providers.test_http import listening
from vidgen import catalog
from vidgen.errors import ProviderError
from vidgen.job import Operation
from vidgen.providers.protocol import Submission
from vidgen.providers.registry import ListsVideos, Providers, ProvidersConfig, build
from vidgen.testing.provider_wire import KEY, PROMPT, Format

# What the formats know, so that strange values get to where they are read.
NAMES = (
    *("id", "task_id", "status", "progress", "prompt", "model", "seconds", "size"),
    *("created_at", "completed_at", "expires_at", "error", "usage", "cost", "unsigned_urls"),
    *("video_url", "polling_url", "data", "has_more", "code", "message", "msg", "type"),
    *("detail", "loc", "name", "done", "response", "generateVideoResponse", "generatedSamples"),
    *("videos", "video", "uri", "gcsUri", "mimeType", "bytesBase64Encoded"),
    *("raiMediaFilteredCount", "raiMediaFilteredReasons", "details", "reason", "violations"),
    *("quotaId", "retryDelay"),
    *("request_id", "status_url", "response_url", "cancel_url", "error_type", "url"),
    *("content_type", "respect_moderation", "duration", "cost_in_usd_ticks", "steps", "content"),
    *("errors", "mime_type", "output_tokens_by_modality", "modality", "tokens", "output"),
    *("failureCode", "failure", "credits", "issues", "path", "metrics", "predict_time", "input"),
    *("video_output_duration_seconds", "data_removed", "started_at", "results", "next", "title"),
    *("state", "assets", "failure_reason", "failure_code", "generations", "request"),
    *("task_status", "task_status_msg", "task_info", "external_task_id", "task_result"),
    *("final_unit_deduction", "updated_at", "base_resp", "status_code", "status_msg", "file_id"),
    *("file", "download_url", "task", "items", "video_url", "completion_tokens", "task_ids"),
    *("resolution", "total_seconds", "input_image_count", "SR"),
)
WORDS = (
    *("SUCCEEDED", "FAILED", "CANCELLED", "RUNNING", "SAFETY.INPUT.TEXT", "ASSET.INVALID"),
    *("succeeded", "canceled", "aborted", "E005", "http://127.0.0.1/a.mp4", "2026-11-26T04:00:00Z"),
    *("done", "COMPLETED", "IN_QUEUE", "model_output", "content_policy_violation", "v1_1"),
    *("queued", "completed", "failed", "cancelled", "expired", "deleted", "moderation_blocked"),
    *("succeed", "succeeded", "Success", "Fail", "SUCCEEDED", "FAILED", "UNKNOWN", "720p", "768P"),
    *("OutputVideoSensitiveContentDetected", "DataInspectionFailed", "no, dear (1026)", "file:1"),
    *("Support codes: 58061214, 61493863", "models/m/operations/o", "nan", "1e999999", "8", "31s"),
    *("projects/p/locations/l/publishers/google/models/m/operations/o", "gs://b/o", "http://["),
    *("a\0b", "\ud800", "\x1b[31m", PROMPT, KEY),
)
texts = st.sampled_from(WORDS) | st.text(st.characters(), max_size=40)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(NAMES) | texts, inner, max_size=8)
    ),
    max_leaves=20,
)
# Python's own encoder writes what no JSON should have: NaN, Infinity, halves of characters.
bodies = (st.dictionaries(st.sampled_from(NAMES), values, max_size=12) | values).map(
    lambda value: json.dumps(value).encode()
) | st.binary(max_size=50)
statuses = st.sampled_from((200, 200, 200, 200, 201, 302, 400, 401, 404, 422, 429, 500, 503))
header_texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=20)
headers = st.dictionaries(
    st.sampled_from(("x-request-id", "retry-after", "retry-after-ms", "openai-poll-after-ms")),
    header_texts | st.sampled_from(("nan", "inf", "-1", "1e999", "1e300")),
)
thoroughly = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

NOBODY = build(ProvidersConfig())
FINDING = [name for name, each in FORMATS.items() if NOBODY.finder(each.request.provider)]


@dataclass(slots=True, kw_only=True)
class Hostile:
    """A provider that answers everything alike, and ours that speak with it."""

    format: Format
    providers: Providers
    url: str
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def submission(self) -> Submission:
        return Submission(job_id=uuid4(), attempt=1, request=self.format.request)

    @property
    def model(self) -> str:
        assert self.format.request.model is not None
        return self.format.request.model

    @property
    def operation(self) -> Operation:
        return Operation(
            provider=self.format.request.provider,
            id=self.format.operation_id,
            endpoint=f"{self.url}/v1",
            model=self.model,
            credential_id="server",
            extra=self.format.operation_extra,
        )

    def page(self, videos: list[Any]) -> bytes:
        """A page of a list, in the words of every format that has one."""
        page = {
            **dict.fromkeys(("data", "results", "generations", "items"), videos),
            "has_more": True,
            "next": f"{self.url}/v1/more",
        }
        return json.dumps(page).encode()

    def will(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    async def outcome(self, call: Awaitable[object]) -> object:
        try:
            return await call
        except ProviderError as error:
            return error


def homes(url: str) -> dict[str, str]:
    """Every address of a provider that may be set: all of them *url*."""
    interfaces = [each for vendor in catalog.vendors() for each in vendor.interfaces]
    return {each.base_url_variable: f"{url}/v1" for each in interfaces}


@pytest.fixture(params=[name for name, each in FORMATS.items() if not each.twin])
async def hostile(
    request: pytest.FixtureRequest, account: dict[str, Any]
) -> AsyncIterator[Hostile]:
    found: Hostile

    async def handler(asked: web.Request) -> web.StreamResponse:
        if asked.path == "/token":
            body = {"access_token": "t", "expires_in": 3600, "token_type": "Bearer"}
            return web.json_response(body)
        return web.Response(status=found.status, headers=found.headers, body=found.body)

    async with listening(handler) as url:
        providers = build(
            ProvidersConfig.of(
                **homes(url),
                **dict.fromkeys(catalog.key_variables(homes(url)), KEY),
                GOOGLE_CLOUD_PROJECT_ID="p",
                GOOGLE_APPLICATION_CREDENTIALS=orjson.dumps(
                    account | {"token_uri": f"{url}/token"}
                ).decode(),
            )
        )
        found = Hostile(format=FORMATS[request.param], providers=providers, url=url)
        yield found
        await providers.aclose()


def told(value: object) -> Iterator[str]:
    """Every text in *value*, of whatever depth."""
    match value:
        case str():
            yield value
        case ProviderError():
            yield from told((value.message, value.code, value.provider_code, value.request_id))
        case Mapping():
            yield from told((*value.keys(), *value.values()))
        case tuple() | list():
            for each in value:
                yield from told(each)
        case _:
            names = fields(value) if is_dataclass(value) else ()
            yield from told([getattr(value, each.name) for each in names])


def check(outcome: object) -> None:
    for text in told(outcome):
        text.encode()  # raises at half a character
        assert "\0" not in text
        assert KEY not in text
        assert PROMPT not in text


@thoroughly
@given(status=statuses, head=headers, body=bodies)
async def test_whatever_answers_a_submit_is_a_receipt_or_an_error_of_ours(
    hostile: Hostile, status: int, head: dict[str, str], body: bytes
) -> None:
    hostile.will(status, head, body)
    submission = hostile.submission
    name, model = submission.request.provider, hostile.model
    credential = hostile.providers.credential(name, model)

    check(await hostile.outcome(hostile.providers.get(name).submit(submission, credential)))


@thoroughly
@given(status=statuses, head=headers, body=bodies)
async def test_whatever_answers_a_look_is_progress_or_an_error_of_ours(
    hostile: Hostile, status: int, head: dict[str, str], body: bytes
) -> None:
    hostile.will(status, head, body)
    operation = hostile.operation
    credential = hostile.providers.credential(operation.provider, operation.model)

    provider = hostile.providers.get(operation.provider)
    check(await hostile.outcome(provider.poll(operation, credential)))


@pytest.mark.parametrize("hostile", FINDING, indirect=True)
@thoroughly
@given(status=statuses, head=headers, body=bodies, videos=st.lists(values, max_size=3) | st.none())
async def test_whatever_answers_a_look_into_the_list_is_a_listing_or_an_error_of_ours(
    hostile: Hostile, status: int, head: dict[str, str], body: bytes, videos: list[Any] | None
) -> None:
    hostile.will(status, head, body if videos is None else hostile.page(videos))
    name = hostile.format.request.provider
    finder = hostile.providers.finder(name)
    assert finder is not None
    credential = hostile.providers.credential(name, hostile.model)
    since = datetime.now(UTC) - timedelta(minutes=1)

    submission = replace(hostile.submission, attempt=2)
    check(await hostile.outcome(finder.find_recent(submission, since, credential)))


@thoroughly
@pytest.mark.parametrize("hostile", ["sora", "kling", "seedance"], indirect=True)
@given(status=statuses, head=headers, body=bodies, videos=st.lists(values, max_size=3) | st.none())
async def test_whatever_answers_a_list_of_many_is_progress_or_an_error_of_ours(
    hostile: Hostile, status: int, head: dict[str, str], body: bytes, videos: list[Any] | None
) -> None:
    hostile.will(status, head, body if videos is None else hostile.page(videos))
    name = hostile.format.request.provider
    lister = hostile.providers.get(name)
    assert isinstance(lister, ListsVideos)
    credential = hostile.providers.credential(name, hostile.model)
    wanted = [replace(hostile.operation, id=name) for name in ("video_1", "1", "x")]

    check(await hostile.outcome(lister.look_through(wanted, credential, 2)))
