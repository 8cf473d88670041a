"""
Every place that reads bytes of others, in a form that can be fuzzed.

A target takes bytes and feeds them to one reader. What may come of that is a value or one of its
`refusals`: no other error, no more memory than a multiple of what came, no work without end.
`tests/test_foreign_bytes.py` tries each a few hundred times, `python -m tests.bench.fuzz` for as
long as somebody likes. What once broke a reader is kept in `tests/corpus/TARGET/`, by its story.
"""

import json
import struct
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import aiohttp
import orjson
from aiohttp.test_utils import make_mocked_request
from botocore.exceptions import ClientError
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.parsers import ResponseParserError, create_parser
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.builders import NOON, a_job
from tests.providers.formats.all import FORMATS
from tests.providers.test_hostile import Hostile, bodies, check, homes
from vidgen import webhook
from vidgen.document import event_document, job_document, json_value
from vidgen.errors import (
    InvalidRequestError,
    ProviderError,
    RequestError,
    ResultInvalidError,
    SettingsError,
    StorageError,
    SubmitUnknownError,
    WebhookInvalidError,
)
from vidgen.image import recognise
from vidgen.job import EventType, JobEvent, JobStatus, Stage
from vidgen.mp4 import Mp4Inspector
from vidgen.providers import inline
from vidgen.providers.answer import Answer, Deed
from vidgen.providers.google import GoogleTokens
from vidgen.providers.http import MAX_ANSWER_BYTES, MAX_ERROR_BYTES, ProviderHttp
from vidgen.providers.omni import OmniProvider
from vidgen.providers.protocol import Asset, Credential, Provider, ResultStream, Succeeded
from vidgen.providers.registry import FindsRecent, Providers, ProvidersConfig
from vidgen.providers.veo import VeoProvider, endpoints_of
from vidgen.queue import VideoQueue, _check_wish, _Wish
from vidgen.server import stream
from vidgen.server.app import operations
from vidgen.server.jobs import NewVideo, wanted
from vidgen.server.operation import _checked, read_id, read_query
from vidgen.server.webhooks import _called_id, _gemini, _openai
from vidgen.settings import Settings, mask_url, tokens_of
from vidgen.storage import _refused

CORPUS = Path(__file__).parent / "corpus"
KEY = "sk-secret-of-the-test"
SECRET = webhook.secrets_of("whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")

# Whatever comes, so much work and memory is enough: some of it is the same for any input.
MAX_CPU_S = 10.0
BASE_BYTES = 6 * 1024 * 1024
BYTES_PER_BYTE = 80

Take = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """
    One reader of foreign bytes.

    Attributes:
        data: Draws bytes that get somewhere in it.
        refusals: What it may raise.
        examples: How many are tried in the suite.
        base_bytes: What it may hold whatever comes.
    """

    name: str
    take: Take
    data: SearchStrategy[bytes]
    refusals: tuple[type[Exception], ...]
    examples: int = 150
    base_bytes: int = BASE_BYTES

    async def tried(self, data: bytes) -> None:
        """Feed it *data*; whatever it does that it must not raises."""
        with suppress(*self.refusals):
            await self.take(data)

    async def measured(self, data: bytes) -> None:
        """The same, with so much memory and CPU time; a busy machine does not use that up."""
        tracemalloc.start()
        begun = time.process_time()
        try:
            await self.tried(data)
            spent_s = time.process_time() - begun
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert spent_s < MAX_CPU_S, f"{spent_s:.1f} s for {len(data)} bytes"
        assert peak < self.base_bytes + BYTES_PER_BYTE * len(data), f"{peak} bytes for {len(data)}"

    def corpus(self) -> list[Path]:
        """What broke it once."""
        return sorted((CORPUS / self.name).glob("*.bin"))


# --- providers ---

STATUSES = (200, 201, 202, 204, 302, 400, 401, 403, 404, 409, 410, 422, 429, 500, 503)
HINTS = ("x-request-id", "retry-after", "retry-after-ms", "openai-poll-after-ms", "date")


class Canned(ProviderHttp):
    """Answers everything alike, without a socket. A subclass: it stands where the real one does."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        status, _, rest = data.partition(b"\n")
        hint, _, self.body = rest.partition(b"\n")
        self.status = STATUSES[(status[0] if status else 0) % len(STATUSES)]
        text = hint.decode("utf-8", "surrogateescape").replace("\r", " ")
        self.headers = dict.fromkeys(HINTS, text)

    async def exchange(
        self,
        deed: Deed,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        json: bytes | None = None,
        form: aiohttp.FormData | None = None,
        not_after: float | None = None,
        elide: bool = False,
    ) -> Answer:
        cap = MAX_ANSWER_BYTES if self.status < 300 else MAX_ERROR_BYTES
        return Answer(status=self.status, headers=self.headers, body=self.body[:cap])

    @asynccontextmanager
    async def download(
        self,
        url: str,
        *,
        home: str,
        credential: Mapping[str, str],
        refusal: Callable[[Answer], Awaitable[ProviderError]],
        post: bytes | None = None,
        stay: bool = False,
    ) -> AsyncIterator[ResultStream]:
        if self.status != 200:
            raise await refusal(await self.exchange("download", "GET", url, headers={}))
        yield ResultStream(
            chunks=pieces(self.body, 1 + len(self.body) % 97),
            content_type=self.headers["date"] or None,
            size_bytes=len(self.body),
        )


class Tokens(GoogleTokens):
    """Always the same one."""

    async def token(self, credential: Credential, *, rejected: str | None = None) -> str:
        return "ya29.t"


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def provider_of(name: str, data: bytes) -> tuple[Provider, Hostile]:
    http = Canned(data)
    home = "https://h.example"
    config = ProvidersConfig.of(**homes(home), GOOGLE_CLOUD_PROJECT_ID="p", GCS_BASE_URL=home)
    providers = Providers(config=config, http=http)
    hostile = Hostile(format=FORMATS[name], providers=providers, url=home)
    match FORMATS[name].request.provider:
        case "veo":
            return VeoProvider(endpoints_of(config.endpoints), http, Tokens()), hostile
        case "omni":
            return OmniProvider(config.endpoints, http, Tokens()), hostile
        case other:
            return providers.get(other), hostile


CREDENTIAL = Credential(id="server", secret=KEY)


def submitting(name: str) -> Take:
    async def take(data: bytes) -> None:
        provider, hostile = provider_of(name, data)
        try:
            receipt = await provider.submit(hostile.submission, CREDENTIAL)
        except ProviderError as error:
            check(error)
            raise
        check(receipt)
        orjson.dumps(json_value(receipt.operation))  # the row has to hold it

    return take


def looking(name: str) -> Take:
    async def take(data: bytes) -> None:
        provider, hostile = provider_of(name, data)
        try:
            progress = await provider.poll(hostile.operation, CREDENTIAL)
        except ProviderError as error:
            check(error)
            raise
        check(progress)
        if isinstance(progress, Succeeded):
            await fetched(provider, hostile, progress.assets)

    return take


async def fetched(provider: Provider, hostile: Hostile, assets: tuple[Asset, ...]) -> None:
    for asset in assets:
        opened = provider.open_result(hostile.operation, asset, CREDENTIAL)
        try:
            async with opened as result:
                async for _ in result.chunks:
                    pass
        except ProviderError as error:
            check(error)


async def listed(data: bytes) -> None:
    provider, hostile = provider_of("sora", data)
    assert isinstance(provider, FindsRecent)
    since = datetime.now(UTC) - timedelta(minutes=1)
    check(await provider.find_recent(hostile.submission, since, CREDENTIAL))


hints = st.sampled_from(
    [b"", b"nan", b"1e999", b"-1", b"Thu, 01 Jan 1970 00:00:00 GMT", b"9" * 400, b"\xff\xfe\x00"]
) | st.binary(max_size=20).map(lambda text: text.replace(b"\n", b""))


@st.composite
def answers(draw: st.DrawFn, body: SearchStrategy[bytes] = bodies) -> bytes:
    status = draw(st.sampled_from([0, 0, 0, 0, *range(len(STATUSES))]))
    return bytes([status if status != 10 else 0]) + b"\n" + draw(hints) + b"\n" + draw(body)


lists = st.lists(bodies, max_size=3).map(
    lambda videos: b'{"has_more": true, "data": [' + b",".join(videos) + b"]}"
)
nested = st.sampled_from([b"[", b'{"a":', b'{"error":', b'{"data":[']).map(lambda each: each * 2000)
dots = st.tuples(st.sampled_from([".", " .", "…", "a "]), st.sampled_from(["x", ""])).map(
    lambda parts: json.dumps(
        {"has_more": False, "data": [{"id": "v", "prompt": parts[0] * 100_000 + parts[1]}]}
    ).encode()
)


async def scanned(data: bytes) -> None:
    size, body = 1 + (data[0] if data else 0), data[1:]
    await inline.shrink(pieces(body, size))
    async for _ in inline.decoded(pieces(body, size), len(data) % 3):
        pass


inline_words = st.lists(
    st.sampled_from(
        (
            *(
                b'"',
                b"\\",
                b'"bytesBase64Encoded"',
                b":",
                b"AAAA",
                b"=",
                b"\\u003d",
            ),
            *(
                b"\\u00",
                b"\\/",
                b"{",
                b"}",
                b",",
                b"[",
                b"]",
                b" ",
                b"\n",
                b"-_",
                b"\xff",
            ),
            *(b'"bytesBase64Encoded":"QUJD',),
        )
    )
    | st.binary(max_size=4),
    max_size=60,
).map(b"".join)


# --- webhooks in ---


async def verified(data: bytes) -> None:
    """Forged ones are refused; of signed ones the body is read."""
    head, _, body = data.partition(b"\n\n")
    texts = [text.decode("utf-8", "surrogateescape") for text in head.split(b"\n")]
    webhook_id, timestamp, signature = (*texts, "", "", "")[:3]
    with suppress(WebhookInvalidError):
        webhook.verify(
            SECRET,
            webhook_id=webhook_id,
            timestamp=timestamp,
            signature=signature,
            body=body,
            now=NOON,
        )
        raise AssertionError("a forged webhook was taken for a real one")
    for caller in (_openai(SETTINGS), _gemini(SETTINGS)):
        with suppress(WebhookInvalidError):
            called_id = _called_id(body, caller)
            if called_id is not None:
                for name in caller.names(called_id):
                    assert "\0" not in name
                    name.encode()


SETTINGS = Settings(openai_base_url="http://h.test/v1", allow_unknown_models=True)
event_words = st.sampled_from(["video.completed", "video.failed", "video.generated"])
hooks = st.builds(
    lambda head, body: b"\n".join(head) + b"\n\n" + body,
    st.lists(
        st.sampled_from([b"wh_1", b"1772366400", b"v1,AAAA", b"v1,AAAA v1,BBBB v1a,x", b"9" * 5000])
        | st.binary(max_size=20).map(lambda text: text.replace(b"\n", b"")),
        max_size=3,
    ),
    bodies
    | st.builds(
        lambda kind, called: json.dumps({"type": kind, "data": {"id": called}}).encode(),
        event_words,
        st.text(st.characters(), max_size=30) | st.integers() | st.none(),
    ),
)


# --- files ---


async def inspected(data: bytes) -> None:
    size, body = 1 + (data[0] if data else 0) ** 2, data[1:]
    inspector = Mp4Inspector()
    for at in range(0, len(body), size):
        inspector.feed(body[at : at + size])
    facts = inspector.finish()
    orjson.dumps(json_value(facts))


def a_box(kind: bytes, body: bytes, size: int | None) -> bytes:
    claimed = 8 + len(body) if size is None else size
    if claimed > 0xFFFF_FFFF:
        return struct.pack(">I4sQ", 1, kind, claimed & (2**64 - 1)) + body
    return struct.pack(">I4s", claimed, kind) + body


kinds = st.sampled_from(
    (
        *(
            b"moov",
            b"mvhd",
            b"trak",
            b"tkhd",
            b"mdia",
            b"mdhd",
            b"hdlr",
            b"mvex",
        ),
        *(
            b"trex",
            b"mehd",
            b"moof",
            b"traf",
            b"tfhd",
            b"trun",
            b"mdat",
            b"free",
        ),
        *(
            b"ftyp",
            b"\0\0\0\0",
        ),
    )
)
sizes = st.none() | st.none() | st.sampled_from([0, 1, 7, 8, 9, 2**31, 2**32 - 1, 2**32, 2**63])
numbers = st.lists(
    st.sampled_from([0, 1, 2, 8, 0x100, 0x1000000, 0x7FFF_FFFF, 0xFFFF_FFFF]), max_size=30
).map(lambda found: struct.pack(f">{len(found)}I", *found))
boxes: SearchStrategy[bytes] = st.recursive(
    st.builds(a_box, kinds, numbers | st.binary(max_size=100), sizes),
    lambda inner: st.builds(
        a_box, kinds, st.lists(inner, max_size=5).map(b"".join), st.none() | sizes
    ),
    max_leaves=15,
)
films = st.builds(
    lambda size, found: bytes([size]) + a_box(b"ftyp", b"isom", None) + b"".join(found),
    st.integers(0, 255),
    st.lists(boxes, max_size=6),
)


async def recognised(data: bytes) -> None:
    facts = recognise(data)
    assert facts.width * facts.height > 0


pictures = st.builds(
    lambda start, parts: start + b"".join(parts),
    st.sampled_from(
        (
            *(
                b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
                b"\xff\xd8\xff\xe0",
                b"\xff\xd8\xff\xc0",
            ),
            *(
                b"",
                b"RIFF\x20\0\0\0WEBPVP8 ",
                b"RIFF\x20\0\0\0WEBPVP8L",
            ),
            *(b"RIFF\xff\xff\xff\xffWEBPVP8X",),
        )
    ),
    st.lists(
        st.sampled_from([b"\xff", b"\xff\xc0", b"\xff\xd9", b"\0\0", b"\0\2", b"\xff\xff", b"IEND"])
        | st.binary(max_size=30),
        max_size=20,
    ),
)


# --- our own doors ---


async def loaded(data: bytes) -> None:
    """A `.env` of anything, and each text of it where secrets and addresses are read."""
    with TemporaryDirectory(prefix="vidgen-fuzz-") as folder:
        path = Path(folder) / ".env"
        path.write_bytes(data)
        text = data.decode("utf-8", "replace").partition("=")[2].strip()
        mask_url(text)
        for read in (tokens_of, webhook.secrets_of):
            with suppress(ValueError):  # of pydantic and ours, as their callers expect
                read(text)
        settings = Settings.load(env_file=path)
    assert settings.trusted_networks is not None
    assert isinstance(settings.prepared_statements, bool)


setting_names = st.sampled_from([str(f.validation_alias) for f in Settings.model_fields.values()])
setting_values = st.sampled_from(
    (
        *(
            "postgresql://u:p@h:1/n",
            "redis://h:1/0",
            "redis+sentinel://a,b/s/0",
        ),
        *(
            "rediss://[",
            "http://[",
            "http://h:99999",
            "http://h:٣",
            "9" * 5000,
        ),
        *(
            "1e400",
            "nan",
            "[",
            "{",
            "a:read:" + "t" * 16,
            "whsec_" + "A" * 32,
        ),
        *(
            "whsk_" + "A" * 43,
            "AAAA" * 11,
            "gs://b/ x",
            "10.0.0.0/8,::/0",
            "/0",
        ),
        *(
            "postgresql://h:6543/n?sslmode=x",
            "unix://",
            "a@b",
            "${VAR}",
            "'",
            '"',
        ),
        *(
            "\\",
            "$(x)",
            "٣",
        ),
    )
) | st.text(st.characters(codec="utf-8"), max_size=30)
env_files = (
    st.lists(st.tuples(setting_names, setting_values), max_size=6).map(
        lambda lines: "\n".join(f"{name}={value}" for name, value in lines).encode()
    )
    | st.binary(max_size=60)
    | st.tuples(setting_names, st.binary(max_size=30)).map(
        lambda line: line[0].encode() + b"=" + line[1]
    )
)


async def asked(data: bytes) -> None:
    """The first line is a Last-Event-ID, the second a path, the rest a query."""
    event_id, _, rest = data.partition(b"\n")
    path, _, query = rest.partition(b"\n")
    with suppress(InvalidRequestError):
        number = stream.number_of(event_id.decode("utf-8", "surrogateescape"))
        assert 0 <= number <= stream.MAX_SEQ
    with suppress(InvalidRequestError):
        named = {"id": path.decode("utf-8", "surrogateescape")}
        read_id(make_mocked_request("GET", "/", match_info=named))
    request = make_mocked_request("GET", "/x?" + query.decode("latin-1").replace("#", ""))
    for one in operations():
        if one.query is not None:
            with suppress(InvalidRequestError):
                told = read_query(request, one.query).model_dump_json()
                assert "\\u0000" not in told


query_words = st.sampled_from(
    ["before", "limit", "status", "after", "provider", "user_id", "days", "dry_run", "variant"]
)
queries = st.builds(
    lambda event_id, path, pairs: b"\n".join(
        [event_id, path, "&".join(f"{name}={value}" for name, value in pairs).encode()]
    ),
    st.sampled_from([b"", b"0", b"9" * 5000, b"-1", b"1.0", b" 1", "٣".encode(), b"\xb2", b"1_0"])
    | st.binary(max_size=20).map(lambda text: text.replace(b"\n", b"")),
    st.sampled_from([b"", b"{", b"urn:uuid:", b"0" * 32, b"0" * 5000])
    | st.binary(max_size=40).map(lambda text: text.replace(b"\n", b"")),
    st.lists(
        st.tuples(
            query_words,
            st.sampled_from(["%00", "%ff", "9" * 5000, "1e3", "nan", "٣", "+1", "true", "%"])
            | st.text(st.characters(codec="utf-8"), max_size=10),
        ),
        max_size=4,
    ),
)


async def wished(data: bytes) -> None:
    """A body of `POST /api/jobs`, up to the row that would be written; keys, metadata and all."""
    document = orjson.loads(data)
    wish = _checked(NewVideo, document, "body")
    video = wanted(wish)
    kept = _Wish(
        idempotency_key=wish.idempotency_key,
        priority=wish.priority,
        run_at=wish.run_at,
        webhook_url=wish.webhook_url,
        metadata=wish.metadata,
        scene_id=wish.scene_id,
        user_id=wish.user_id,
        deadline_s=wish.deadline_s,
    )
    _check_wish(kept)
    if wish.webhook_url is not None:
        webhook.refusal(wish.webhook_url, allow_private=False)
    new, _ = VideoQueue(SETTINGS)._prepare(video, kept, NOON)
    again, _ = VideoQueue(SETTINGS)._prepare(video, kept, NOON)
    assert new.fingerprint == again.fingerprint
    for text in (new.prompt, new.idempotency_key, new.scene_id, new.user_id, new.model):
        assert "\0" not in (text or "")
        (text or "").encode()
    told = a_job(metadata=new.metadata, parameters=new.parameters, prompt=new.prompt)
    orjson.dumps(job_document(told, private=True))
    event = JobEvent(
        job_id=uuid4(),
        seq=1,
        type=EventType.CREATED,
        at=NOON,
        status=JobStatus.PENDING,
        stage=Stage.QUEUED,
        attempt=0,
        progress=0,
        detail=dict(new.metadata),
    )
    orjson.dumps(event_document(event))


def _deep(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if depth % 2 else {"a": value}
    return value


wish_names = st.sampled_from(list(NewVideo.model_fields))
wish_values = st.sampled_from(
    (
        *(
            None,
            True,
            0,
            -1,
            2**63,
            1e308,
            "",
            "sora",
            "veo",
            "sora-2",
            "1280x720",
        ),
        *(
            "٣x٣",
            "a\0b",
            "²x²",
            "k" * 256,
            "2026-01-01T00:00:00Z",
        ),
        *(
            "9999-12-31T23:59:59-23:59",
            "0001-01-01T00:00:00+23:59",
            _deep(19),
        ),
        *(
            _deep(21),
            _deep(200),
            _deep(253),
            _deep(254),
            _deep(400),
            {"\0": "\0"},
        ),
        *(
            [[]],
            {"a": 2**63},
            {"a": 2**64},
            {"a": "\\u0000"},
            {"a" * 20_000: 1},
        ),
        *(
            "http://h/",
            "http://[::1]",
            [{"data": "AAAA"}],
            [{"url": "http://h/x"}],
        ),
        *(
            [{"key": "a\0"}],
            [{"data": "\u2603"}],
            [{}] * 17,
        ),
        *([{"url": "http://[", "role": "first_frame"}],),
        *([{"data": "iVBORw0KGgoAAAANSUhEUg=="}],),
    )
) | st.text(st.characters(codec="utf-8"), max_size=20)
wishes = st.dictionaries(wish_names, wish_values, max_size=8).map(
    lambda found: json.dumps({"provider": "sora", "prompt": "a tram", **found}).encode()
) | st.builds(
    lambda name, text: b'{"provider": "sora", "prompt": "a", "%s": %s}' % (name.encode(), text),
    wish_names,
    nested | st.sampled_from([b'"\\ud800"', b"1e999", b"-0", b"[" * 1500 + b"]" * 1500]),
)


# --- S3 ---


async def refused(data: bytes) -> None:
    """What botocore makes of an answer of S3, and we of that; retries and sockets left out."""
    status = STATUSES[(data[0] if data else 0) % len(STATUSES)]
    told = {"headers": {"etag": '"x"'}, "body": data[1:], "status_code": status}
    for operation in (S3.operation_model(name) for name in ("ListObjectsV2", "UploadPart")):
        shape = operation.output_shape
        assert shape is not None
        with suppress(ResponseParserError):  # which `Storage` maps
            parsed = PARSER.parse(told, shape)
            if status >= 300:
                error = _refused(ClientError(parsed, operation.name), "x", "k")
                assert isinstance(error, StorageError | InvalidRequestError)
                check(error)


S3 = ServiceModel(
    Loader(extra_search_paths=[Loader.BUILTIN_DATA_PATH]).load_service_model("s3", "service-2")
)
PARSER = create_parser("rest-xml")

LAUGHS = (
    b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "lol">'
    + b"".join(
        b'<!ENTITY %s "%s">' % (bytes([98 + n]), b"&%s;" % bytes([97 + n]) * 10) for n in range(9)
    )
    + b"]><Error><Code>&j;</Code></Error>"
)
tags = st.sampled_from(
    (
        *(
            b"<Error>",
            b"</Error>",
            b"<Code>",
            b"</Code>",
            b"NoSuchKey",
        ),
        *(
            b"NoSuchBucket",
            b"<Message>",
            b"</Message>",
            b"<ListBucketResult>",
        ),
        *(
            b"</ListBucketResult>",
            b"<Contents>",
            b"</Contents>",
            b"<Key>",
            b"</Key>",
        ),
        *(
            b"a",
            b"&#0;",
            b"<![CDATA[",
            b"]]>",
            b"<!--",
            b"\xff",
            b"<a/>",
            b"&x;",
        ),
        *(
            b"<?xml version='1.0' encoding='utf-7'?>",
            b"<LastModified>x</LastModified>",
        ),
        *(
            b"<Size>x</Size>",
            b"<IsTruncated>maybe</IsTruncated>",
        ),
        *(
            b"<Initiated>x</Initiated>",
            b"<Upload>",
            b"</Upload>",
        ),
        *(
            b"<ListMultipartUploadsResult>",
            b"</ListMultipartUploadsResult>",
        ),
    )
)
buckets = st.builds(
    lambda status, parts: bytes([status]) + b"".join(parts),
    st.integers(0, 14),
    st.lists(tags | st.binary(max_size=5), max_size=12)
    | st.sampled_from([[LAUGHS], [b"<a>" * 3000], [b"<Error><Code>" + b"x" * 10_000]]),
)


def _targets() -> Iterator[Target]:
    provider = (ProviderError,)
    for name in (name for name, each in FORMATS.items() if not each.twin):
        short = name.removesuffix("-inline")
        yield Target(
            name=f"{short}-submit",
            take=submitting(name),
            data=answers(bodies | nested),
            refusals=provider,
        )
        yield Target(
            name=f"{short}-look",
            take=looking(name),
            data=answers(bodies | nested | inline_words),
            refusals=provider,
        )
    yield Target(
        name="sora-list",
        take=listed,
        data=answers(lists | bodies | dots | nested),
        refusals=(*provider, SubmitUnknownError),
    )
    yield Target(
        name="veo-inline",
        take=scanned,
        data=st.builds(lambda size, body: bytes([size]) + body, st.integers(0, 255), inline_words),
        refusals=provider,
    )
    yield Target(name="webhook", take=verified, data=hooks, refusals=())
    yield Target(name="mp4", take=inspected, data=films, refusals=(ResultInvalidError,))
    yield Target(name="image", take=recognised, data=pictures, refusals=(InvalidRequestError,))
    yield Target(name="settings", take=loaded, data=env_files, refusals=(SettingsError,))
    yield Target(name="query", take=asked, data=queries, refusals=())
    yield Target(
        name="wish", take=wished, data=wishes, refusals=(RequestError, orjson.JSONDecodeError)
    )
    # Entities within entities: expat ends them after 8 MiB, which Python holds several times over.
    yield Target(
        name="bucket", take=refused, data=buckets, refusals=(), base_bytes=128 * 1024 * 1024
    )


TARGETS = {target.name: target for target in _targets()}
